package circuit_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	circuitsv1 "bijou.dev/platform/api/circuits/v1"
	"bijou.dev/platform/circuit"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"
	"google.golang.org/grpc/test/bufconn"
)

// board is a circuits service that records when reports arrive. It can fail, and it can stop reading.
type board struct {
	circuitsv1.UnimplementedCircuitsServer
	failing, notReading atomic.Bool

	mu       sync.Mutex
	streams  int
	arrivals []time.Time
	last     *circuitsv1.ReportRequest
}

func (b *board) Report(stream grpc.ClientStreamingServer[circuitsv1.ReportRequest, circuitsv1.ReportResponse]) error {
	b.mu.Lock()
	b.streams++
	b.mu.Unlock()
	for {
		if b.failing.Load() {
			return status.Error(codes.Unavailable, "broken")
		}
		if b.notReading.Load() {
			<-stream.Context().Done()
			return nil
		}
		req, err := stream.Recv()
		if err != nil {
			return stream.SendAndClose(&circuitsv1.ReportResponse{})
		}
		b.mu.Lock()
		b.arrivals, b.last = append(b.arrivals, time.Now()), req
		b.mu.Unlock()
	}
}

// take returns what arrived since the last call.
func (b *board) take() (arrivals []time.Time, last *circuitsv1.ReportRequest, streams int) {
	b.mu.Lock()
	defer b.mu.Unlock()
	arrivals, last, streams = b.arrivals, b.last, b.streams
	b.arrivals, b.streams = nil, 0
	return arrivals, last, streams
}

// report runs test while s reports to a board over an in-memory connection, in fake time.
func report(t *testing.T, opts circuit.Options, test func(t *testing.T, s *circuit.Set, b *board)) {
	synctest.Test(t, func(t *testing.T) {
		b := &board{}
		l := bufconn.Listen(1 << 16)
		srv := grpc.NewServer()
		circuitsv1.RegisterCircuitsServer(srv, b)
		go func() { _ = srv.Serve(l) }()
		defer srv.Stop()
		conn, err := grpc.NewClient("passthrough:board", grpc.WithTransportCredentials(insecure.NewCredentials()),
			grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) { return l.DialContext(ctx) }))
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()

		s := circuit.New(opts)
		calls(t, s, 1, succeed)
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error, 1)
		go func() { ended <- s.Report(ctx, conn) }()
		test(t, s, b)
		cancel()
		if err := <-ended; !errors.Is(err, context.Canceled) {
			t.Errorf("Report returned %v, want the error of its context", err)
		}
	})
}

// assertSteady fails if the reports that arrived are not a second apart, with 5 % of jitter.
func assertSteady(t *testing.T, arrivals []time.Time) {
	t.Helper()
	if len(arrivals) < 2 {
		t.Fatalf("%d reports arrived, want one each second", len(arrivals))
	}
	for i, at := range arrivals[1:] {
		if gap := at.Sub(arrivals[i]); gap < 950*time.Millisecond || gap > 1050*time.Millisecond {
			t.Errorf("report %d came %v after the one before, want 950ms to 1.05s", i+2, gap)
		}
	}
}

func TestReportsEachSecond(t *testing.T) {
	report(t, circuit.Options{Service: "web", Instance: "web-1"}, func(t *testing.T, _ *circuit.Set, b *board) {
		begin := time.Now()
		time.Sleep(time.Minute)
		arrivals, last, _ := b.take()
		assertSteady(t, arrivals)
		if first := arrivals[0].Sub(begin); first != 0 {
			t.Errorf("the first report came after %v, want it at once", first)
		}
		if last.Service != "web" || last.Instance != "web-1" {
			t.Errorf("the report is from %q of %q, want web-1 of web", last.Instance, last.Service)
		}
		if len(last.Circuits) != 1 || last.Circuits[0].Name != "catalog.GetMovie" {
			t.Errorf("the report has the circuits %v, want catalog.GetMovie", last.Circuits)
		}
	})
}

// A new stream finds replicas of the circuits service that started later.
func TestReportStreamsAreRenewedWithoutAGap(t *testing.T) {
	report(t, circuit.Options{}, func(t *testing.T, _ *circuit.Set, b *board) {
		time.Sleep(21 * time.Minute)
		arrivals, _, streams := b.take()
		if streams != 4 && streams != 5 {
			t.Errorf("%d streams were opened in 21 minutes, want one each 5 minutes", streams)
		}
		assertSteady(t, arrivals)
	})
}

func TestReportResumesAfterFailures(t *testing.T) {
	var log bytes.Buffer
	opts := circuit.Options{Log: slog.New(slog.NewTextHandler(&log, nil))}
	report(t, opts, func(t *testing.T, _ *circuit.Set, b *board) {
		time.Sleep(10 * time.Second)
		b.failing.Store(true)
		time.Sleep(time.Minute)
		_, _, streams := b.take()
		if streams < 5 || streams > 20 {
			t.Errorf("%d streams were opened in a minute of failures, want a growing wait between them of up to 10s", streams)
		}
		b.failing.Store(false)
		time.Sleep(12 * time.Second) // the longest wait, and a second report
		arrivals, _, _ := b.take()
		assertSteady(t, arrivals)
	})
	for _, line := range []string{"circuits are not reported", "circuits are reported again"} {
		if got := strings.Count(log.String(), line); got != 1 {
			t.Errorf("the log says %q %d times, want once:\n%s", line, got, &log)
		}
	}
	if reason := "Unavailable desc = broken"; !strings.Contains(log.String(), reason) {
		t.Errorf("the log does not have the reason of the circuits service, %q:\n%s", reason, &log)
	}
}

// Reports that fill the window of the connection make Send wait. After 5s the stream is given up for another one.
func TestReportGivesUpAStreamThatIsNotRead(t *testing.T) {
	report(t, circuit.Options{}, func(t *testing.T, s *circuit.Set, b *board) {
		for i := range 200 {
			_ = s.Do(t.Context(), circuit.Key{Group: "g", Method: fmt.Sprint("m", i)}, succeed)
		}
		b.notReading.Store(true)
		time.Sleep(time.Minute)
		if _, _, streams := b.take(); streams < 3 {
			t.Errorf("%d streams were opened in a minute to a board that does not read, want several", streams)
		}
		b.notReading.Store(false)
		time.Sleep(17 * time.Second) // 5s for a stream that still waits, 10s for the longest wait, 2 reports
		arrivals, _, _ := b.take()
		assertSteady(t, arrivals)
	})
}
