package trace_test

import (
	"net/http"
	"net/http/httptest"
	"testing"

	"go.opentelemetry.io/otel/propagation"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"

	"bijou.dev/platform/trace"
)

// The cost of tracing on one side of a call: extract, span, inject.
func BenchmarkCall(b *testing.B) {
	for name, ratio := range map[string]share{"unsampled": 0, "sampled": 1} {
		b.Run(name, func(b *testing.B) {
			p, err := trace.New(trace.Options{Service: "b", Exporter: tracetest.NewNoopExporter(), Sampling: ratio})
			if err != nil {
				b.Fatal(err)
			}
			defer func() { _ = p.Shutdown(b.Context()) }()
			out := http.Header{}
			b.ReportAllocs()
			for b.Loop() {
				ctx, span := p.Tracer().Start(b.Context(), "catalog.v1.Catalog/GetMovie")
				p.Propagator().Inject(ctx, propagation.HeaderCarrier(out))
				span.End()
			}
		})
	}
}

func BenchmarkExtract(b *testing.B) {
	p := trace.Discard().Propagator()
	h := propagation.HeaderCarrier{"Traceparent": {good}}
	b.ReportAllocs()
	for b.Loop() {
		p.Extract(b.Context(), h)
	}
}

func BenchmarkMiddleware(b *testing.B) {
	next := http.HandlerFunc(func(http.ResponseWriter, *http.Request) {})
	run := func(b *testing.B, h http.Handler) {
		r, w := httptest.NewRequestWithContext(b.Context(), "GET", "/films/7", nil), httptest.NewRecorder()
		b.ReportAllocs()
		for b.Loop() {
			h.ServeHTTP(w, r)
		}
	}
	b.Run("floor", func(b *testing.B) { run(b, next) })
	for name, ratio := range map[string]share{"unsampled": 0, "sampled": 1} {
		b.Run(name, func(b *testing.B) {
			p, err := trace.New(trace.Options{Service: "b", Exporter: tracetest.NewNoopExporter(), Sampling: ratio})
			if err != nil {
				b.Fatal(err)
			}
			defer func() { _ = p.Shutdown(b.Context()) }()
			run(b, p.Middleware(next))
		})
	}
}

// The cost per batch of 100 spans of making text valid and bounded, when nothing is wrong with it.
func BenchmarkCleanSpans(b *testing.B) {
	ctx := b.Context()
	stub := tracetest.NewInMemoryExporter()
	p, err := trace.New(trace.Options{Service: "b", Exporter: stub})
	if err != nil {
		b.Fatal(err)
	}
	h := p.Middleware(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}))
	for range 100 {
		h.ServeHTTP(httptest.NewRecorder(), httptest.NewRequestWithContext(ctx, "GET", "/films/7", nil))
	}
	if err := p.Flush(ctx); err != nil {
		b.Fatal(err)
	}
	batch := trace.Transform(stub.GetSpans().Snapshots())
	b.ReportAllocs()
	for b.Loop() {
		trace.CleanSpans(batch)
	}
}
