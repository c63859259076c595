package trace

import (
	"context"

	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/trace"
	"go.opentelemetry.io/otel/trace/embedded"
)

// newTrace is the parent of the first span of a trace. It has no ids, and the flag that the trace id is random (Trace
// Context Level 2, 3.2.2.5.2): the ids of the SDK are random, but the SDK does not set the flag (as of v1.47). It takes
// the flags from the parent, also if that is not valid.
var newTrace = trace.SpanFromContext(trace.ContextWithSpanContext(context.Background(),
	trace.NewSpanContext(trace.SpanContextConfig{TraceFlags: trace.FlagsRandom})))

// tracerProvider is the provider of the SDK, with the random flag on new traces.
type tracerProvider struct {
	embedded.TracerProvider
	sdk *sdktrace.TracerProvider
}

// Tracer implements trace.TracerProvider.
func (p tracerProvider) Tracer(name string, opts ...trace.TracerOption) trace.Tracer {
	return tracer{sdk: p.sdk.Tracer(name, opts...)}
}

type tracer struct {
	embedded.Tracer
	sdk trace.Tracer
}

// Start implements trace.Tracer.
func (t tracer) Start(ctx context.Context, name string, opts ...trace.SpanStartOption) (context.Context, trace.Span) {
	if !trace.SpanContextFromContext(ctx).HasTraceID() {
		ctx = trace.ContextWithSpan(ctx, newTrace)
	}
	return t.sdk.Start(ctx, name, opts...)
}
