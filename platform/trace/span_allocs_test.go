//go:build !race

// The race detector lets sync.Pool forget what it holds.

package trace_test

import (
	"context"
	"net/http"
	"testing"

	"go.opentelemetry.io/otel/propagation"

	"bijou.dev/platform/trace"
)

// A span is one allocation, recorded or not. An export takes some more for its request and its time-out.
func TestSpanIsOneAllocation(t *testing.T) {
	const batch, most = 100, 120
	for name, tt := range map[string]struct {
		share share
		make  func(context.Context, *trace.Provider)
	}{
		"not recorded": {0, func(ctx context.Context, p *trace.Provider) { serveQuickly(ctx, p.Tracer()) }},
		"recorded":     {1, func(ctx context.Context, p *trace.Provider) { serveQuickly(ctx, p.Tracer()) }},
		"recorded, as a server makes them": {1, func(ctx context.Context, p *trace.Provider) {
			_, span := p.StartServer(ctx, trace.Incoming{
				Header: incoming, Method: "GET", Scheme: "http", Path: "/films/7", Version: "1.1", Client: "10.0.0.1",
			})
			trace.FinishServer(span, "GET", "", 200)
			span.End()
		}},
	} {
		t.Run(name, func(t *testing.T) {
			p := newProvider(t, trace.Options{Conn: discard, Sampling: tt.share})
			n := testing.AllocsPerRun(50, func() {
				for range batch {
					tt.make(t.Context(), p)
				}
				flush(t, p)
			})
			t.Logf("%v allocations", n)
			if n > most {
				t.Errorf("%d spans take %v allocations, want at most %v", batch, n, most)
			}
		})
	}
}

var incoming propagation.TextMapCarrier = propagation.HeaderCarrier(http.Header{"Traceparent": {good}})
