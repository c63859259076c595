package tracing_test

import (
	"context"
	"net"
	"net/http"
	"net/http/httptest"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	"bijou.dev/platform/memnet"
	"bijou.dev/platform/trace"
	"bijou.dev/services/tracing"
)

// volume is a file system of 16 MiB in memory. The test sets how much of it is free.
type volume struct {
	vfs.FS
	free atomic.Uint64
}

func (v *volume) GetDiskUsage(string) (vfs.DiskUsage, error) {
	free := v.free.Load()
	return vfs.DiskUsage{TotalBytes: 16 << 20, AvailBytes: free, UsedBytes: 16<<20 - free}, nil
}

// While the trace store is down, silent or full, requests of a traced service take no longer, its memory for spans is
// bounded, and every span that is not stored is counted. When the store works again no more spans are dropped.
func TestRequestsDoNotWaitForTheTraceStore(t *testing.T) {
	const second, minute, queue = 20, 60, 256 // 20 requests a second, of two spans each, for a minute in each state
	tests := []struct {
		name         string
		fail, repair func(t *testing.T, w *tracedService)
		unsure       bool // a store that does not answer may have stored spans that its sender counts as dropped
	}{
		{
			"down from the start", func(*testing.T, *tracedService) {},
			func(t *testing.T, w *tracedService) { w.start(t) }, false,
		},
		{"silent", func(t *testing.T, w *tracedService) {
			w.start(t)
			w.requests(t, 100)
			w.net.Cut("tracing")
		}, func(_ *testing.T, w *tracedService) { w.net.Heal("tracing") }, true},
		{"without space", func(t *testing.T, w *tracedService) {
			w.start(t)
			w.requests(t, 100)
			w.disk.free.Store(0)
		}, func(_ *testing.T, w *tracedService) { w.disk.free.Store(16 << 20) }, false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newTracedService(t, queue)
				tt.fail(t, w)
				w.requests(t, second*minute)
				if lost := w.spans.Dropped(); lost < 1000 {
					t.Errorf("only %d spans were dropped in a minute", lost)
				}
				tt.repair(t, w)
				w.requests(t, second*30) // the sender's back-off
				if err := w.spans.Flush(t.Context()); err != nil {
					t.Fatal(err)
				}
				lost, there := w.spans.Dropped(), w.spans.Exported()
				w.requests(t, second*minute)
				if err := w.spans.Flush(t.Context()); err != nil {
					t.Fatal(err)
				}
				if n := w.spans.Dropped(); n != lost {
					t.Errorf("%d spans were dropped after the store worked again", n-lost)
				}
				sent, exported, dropped := 2*uint64(w.n), w.spans.Exported(), w.spans.Dropped()
				if exported+dropped != sent || w.spans.Ended() != sent || exported != there+2*second*minute {
					t.Errorf("of %d spans %d were exported and %d dropped", sent, exported, dropped)
				}
				stored := uint64(w.store.metric("bijou_tracing_spans_stored_total"))
				if stored != exported && !tt.unsure || stored < exported || stored > sent {
					t.Errorf("%d spans were exported and %d stored, of %d", exported, stored, sent)
				}
				t.Logf("of %d spans %d are stored, %d were dropped", sent, stored, dropped)
			})
		})
	}
}

// tracedService is a service whose requests are traced, and the store.
type tracedService struct {
	net   *memnet.Network
	disk  *volume
	store *server
	spans *trace.Provider
	serve http.Handler
	n     int // requests so far
}

func newTracedService(t *testing.T, queue int) *tracedService {
	w := &tracedService{net: memnet.New(), disk: &volume{FS: vfs.NewMem()}}
	w.disk.free.Store(16 << 20)
	conn, err := grpc.NewClient("passthrough:///tracing:4317", grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithContextDialer(func(ctx context.Context, addr string) (net.Conn,
			error,
		) {
			return w.net.DialContext(ctx, "tcp", addr)
		}))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	w.spans, err = trace.New(trace.Options{
		Service: "films", QueueSize: queue, BatchSize: 64,
		Conn: func() grpc.ClientConnInterface { return conn },
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = w.spans.Shutdown(context.Background()) })
	w.serve = w.spans.Middleware(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		_, span := w.spans.Tracer().Start(r.Context(), "reading films")
		span.End()
	}))
	return w
}

func (w *tracedService) start(t *testing.T) {
	w.store = start(t, w.net, "tracing", tracing.WithFS(tracing.Options{Dir: "traces"}, w.disk))
}

// requests serves n requests, 50 ms apart.
func (w *tracedService) requests(t *testing.T, n int) {
	t.Helper()
	for range n {
		begin := time.Now()
		w.serve.ServeHTTP(httptest.NewRecorder(), httptest.NewRequest("GET", "/", nil))
		if took := time.Since(begin); took != 0 {
			t.Fatalf("request %d waited %v for the trace store", w.n, took)
		}
		w.n++
		time.Sleep(50 * time.Millisecond)
	}
}
