package trace_test

import (
	"context"
	"fmt"
	"net/http"

	"go.opentelemetry.io/otel/propagation"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"

	"bijou.dev/platform/trace"
)

// printer stands for any exporter, for example one that writes to a file.
type printer struct{}

func (printer) ExportSpans(_ context.Context, spans []sdktrace.ReadOnlySpan) error {
	for _, s := range spans {
		fmt.Println(s.Name(), "in trace", s.SpanContext().TraceID())
	}
	return nil
}

func (printer) Shutdown(context.Context) error { return nil }

// A process that uses tracing and nothing else of the platform. An old client calls it with B3 headers; its own call
// goes out with W3C ones.
func Example() {
	p, err := trace.New(trace.Options{Service: "films", Exporter: printer{}})
	if err != nil {
		fmt.Println(err)
		return
	}
	in := http.Header{"B3": {"463ac35c9f6413ad48485a3953bb6124-a2fb4a1d1a96d312-1"}}
	ctx := p.Propagator().Extract(context.Background(), propagation.HeaderCarrier(in))
	ctx, span := p.Tracer().Start(ctx, "list films")
	out := http.Header{}
	p.Propagator().Inject(ctx, propagation.HeaderCarrier(out))
	fmt.Println(out.Get("traceparent")[:36])
	span.End()
	if err := p.Shutdown(context.Background()); err != nil {
		fmt.Println(err)
	}
	fmt.Println("exported", p.Exported(), "dropped", p.Dropped())
	// Output:
	// 00-463ac35c9f6413ad48485a3953bb6124-
	// list films in trace 463ac35c9f6413ad48485a3953bb6124
	// exported 1 dropped 0
}
