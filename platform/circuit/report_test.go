package circuit_test

import (
	"context"
	"errors"
	"net"
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

// board is a circuits service that can be broken and stuck.
type board struct {
	circuitsv1.UnimplementedCircuitsServer
	got    chan *circuitsv1.ReportRequest
	broken atomic.Bool
	stuck  atomic.Bool
}

func (b *board) Report(stream grpc.ClientStreamingServer[circuitsv1.ReportRequest, circuitsv1.ReportResponse]) error {
	for {
		if b.broken.Load() {
			return status.Error(codes.Unavailable, "broken")
		}
		if b.stuck.Load() {
			<-stream.Context().Done()
			return nil
		}
		req, err := stream.Recv()
		if err != nil {
			return nil //nolint:nilerr // a stream that its client ended has ended well
		}
		select {
		case b.got <- req:
		default:
		}
	}
}

func TestReport(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := &board{got: make(chan *circuitsv1.ReportRequest, 1)}
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

		s := circuit.New(circuit.Options{Service: "web", Instance: "web-1"})
		calls(t, s, 1, succeed)
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error, 1)
		go func() { ended <- s.Report(ctx, conn) }()

		receive := func(within time.Duration) {
			t.Helper()
			select { // drop what came before
			case <-b.got:
			default:
			}
			select {
			case req := <-b.got:
				if req.Service != "web" || req.Instance != "web-1" || len(req.Circuits) == 0 || req.Circuits[0].Name != "catalog.GetMovie" {
					t.Errorf("report is %v", req)
				}
			case <-time.After(within):
				t.Errorf("no report within %v", within)
			}
		}
		receive(time.Second)
		receive(1100 * time.Millisecond)

		b.broken.Store(true)
		time.Sleep(10 * time.Second)
		b.broken.Store(false)
		receive(11 * time.Second)

		time.Sleep(20 * time.Minute) // streams are renewed meanwhile
		receive(1100 * time.Millisecond)

		// A replica that stops reading is left after a while: reports that fill its window make Send wait.
		for i := range 200 {
			_ = s.Do(t.Context(), circuit.Key{Group: "g", Method: string(rune('a' + i))}, succeed)
		}
		b.stuck.Store(true)
		time.Sleep(20 * time.Second)
		b.stuck.Store(false)
		receive(16 * time.Second)

		cancel()
		if err := <-ended; !errors.Is(err, context.Canceled) {
			t.Errorf("Report returned %v, want the context's error", err)
		}
	})
}
