package trace_test

import (
	"context"
	"net/http"
	"net/http/httptest"
	"testing"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/propagation"
	oteltrace "go.opentelemetry.io/otel/trace"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"

	"bijou.dev/platform/trace"
)

// discarding is a connection that encodes what it should send, as gRPC does.
type discarding struct{ grpc.ClientConnInterface }

func (discarding) Invoke(_ context.Context, _ string, args, _ any, _ ...grpc.CallOption) error {
	_, err := proto.Marshal(args.(proto.Message))
	return err
}

func discard() grpc.ClientConnInterface { return discarding{} }

// serverSpan is a list, because a list that is made for a call costs an allocation.
var serverSpan = []oteltrace.SpanStartOption{oteltrace.WithSpanKind(oteltrace.SpanKindServer)}

// serveSpan makes the span of a request as servers do, by the API alone.
func serveSpan(ctx context.Context, t oteltrace.Tracer) {
	_, s := t.Start(ctx, "GET /films/{id}", serverSpan...)
	s.SetAttributes(
		attribute.String("http.request.method", "GET"), attribute.String("url.path", "/films/7"),
		attribute.String("url.scheme", "http"), attribute.String("network.protocol.version", "1.1"),
		attribute.String("client.address", "10.0.0.1"), attribute.Int("http.response.status_code", 200))
	s.End()
}

// serveQuickly does the same by SetAttributes.
func serveQuickly(ctx context.Context, t oteltrace.Tracer) {
	_, s := t.Start(ctx, "GET /films/{id}", serverSpan...)
	trace.SetAttributes(s,
		attribute.String("http.request.method", "GET"), attribute.String("url.path", "/films/7"),
		attribute.String("url.scheme", "http"), attribute.String("network.protocol.version", "1.1"),
		attribute.String("client.address", "10.0.0.1"), attribute.Int("http.response.status_code", 200))
	s.End()
}

// The cost of 100 spans of six attributes, made, ended, encoded and given to gRPC, beside those of OpenTelemetry's SDK.
// The SDK's are encoded by the reference of the conformance test, which does what otlptrace does.
func BenchmarkHundredSpans(b *testing.B) {
	p, err := trace.New(trace.Options{Service: "b", Conn: discard, Revision: func() int64 { return 7 }})
	if err != nil {
		b.Fatal(err)
	}
	defer func() { _ = p.Shutdown(b.Context()) }()
	theirs, kept := sdkProvider("b")
	flush := func() { _ = p.Flush(b.Context()) }
	for _, c := range []struct {
		name   string
		tracer oteltrace.Tracer
		make   func(context.Context, oteltrace.Tracer)
		export func()
	}{
		{"own", p.Tracer(), serveSpan, flush},
		{"own/SetAttributes", p.Tracer(), serveQuickly, flush},
		{"sdk", theirs.Tracer("b"), serveSpan, func() {
			_, _ = proto.Marshal(reference(kept.spans))
			kept.spans = nil
		}},
	} {
		b.Run(c.name, func(b *testing.B) {
			ctx := b.Context()
			b.ReportAllocs()
			for b.Loop() {
				for range 100 {
					c.make(ctx, c.tracer)
				}
				c.export()
			}
		})
	}
}

// The cost of tracing on one side of a call: extract, span, inject.
func BenchmarkCall(b *testing.B) {
	for name, ratio := range map[string]share{"unsampled": 0, "sampled": 1} {
		b.Run(name, func(b *testing.B) {
			p, err := trace.New(trace.Options{Service: "b", Conn: discard, Sampling: ratio})
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
			p, err := trace.New(trace.Options{Service: "b", Conn: discard, Sampling: ratio})
			if err != nil {
				b.Fatal(err)
			}
			defer func() { _ = p.Shutdown(b.Context()) }()
			run(b, p.Middleware(next))
		})
	}
}
