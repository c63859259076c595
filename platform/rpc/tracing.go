package rpc

import (
	"context"

	"bijou.dev/platform/route"
	"bijou.dev/platform/trace"

	"go.opentelemetry.io/otel/attribute"
	otelcodes "go.opentelemetry.io/otel/codes"
	oteltrace "go.opentelemetry.io/otel/trace"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
)

// Spans are made here and not by otelgrpc: its stats handlers cost 6 to 10 us a side even when nothing is sampled,
// and they see attempts, not calls.

// The options are made once, because options made for each call cost allocations, also when it is not sampled.
var (
	serverKind = []oteltrace.SpanStartOption{oteltrace.WithSpanKind(oteltrace.SpanKindServer)}
	clientKind = []oteltrace.SpanStartOption{oteltrace.WithSpanKind(oteltrace.SpanKindClient)}
)

// noSpan is the span of a process without tracing.
var noSpan = oteltrace.SpanFromContext(context.Background())

func startServer(ctx context.Context, p *trace.Provider, m *method) (context.Context, oteltrace.Span) {
	if p == nil {
		return ctx, noSpan
	}
	return p.StartRemote(ctx, trace.MD(incoming(ctx)), m.full, serverKind...)
}

// startStream begins the span of a stream that is part of a trace. Other streams get no span: they stay open as long as
// both processes run, and would be the slowest "requests" of all.
func startStream(ctx context.Context, p *trace.Provider, m *method) (context.Context, oteltrace.Span) {
	if p == nil {
		return ctx, noSpan
	}
	ctx = p.Propagator().Extract(ctx, trace.MD(incoming(ctx)))
	if !oteltrace.SpanContextFromContext(ctx).IsValid() {
		return ctx, noSpan
	}
	return p.Tracer().Start(ctx, m.full, serverKind...)
}

func endServer(span oteltrace.Span, err error) {
	if span.IsRecording() {
		c := code(err)
		trace.SetAttributes(span,
			attribute.String("rpc.system.name", "grpc"),
			attribute.String("rpc.response.status_code", c.String()),
		)
		if serverFault(err) {
			span.SetStatus(otelcodes.Error, err.Error())
		}
	}
	span.End()
}

// startClient begins the span of a call and puts its context into the metadata to send.
func startClient(ctx context.Context, p *trace.Provider, m *method, callee string) (context.Context, oteltrace.Span) {
	if p == nil {
		return ctx, noSpan
	}
	ctx, span := p.Tracer().Start(ctx, m.full, clientKind...)
	md, ok := metadata.FromOutgoingContext(ctx)
	if !ok {
		md = metadata.MD{}
	}
	p.Propagator().Inject(ctx, trace.MD(md))
	if span.IsRecording() {
		trace.SetAttributes(span, attribute.String("rpc.system.name", "grpc"), attribute.String("peer.service", callee))
	}
	return metadata.NewOutgoingContext(ctx, md), span
}

func endClient(span oteltrace.Span, err error) {
	if span.IsRecording() {
		trace.SetAttributes(span, attribute.String("rpc.response.status_code", code(err).String()))
		if !answered(err) {
			span.SetStatus(otelcodes.Error, err.Error())
		}
	}
	span.End()
}

// answered reports whether a call got an answer, also one like "not found". OpenTelemetry's conventions count every
// code but OK as an error of the client, but then a look-up that finds nothing would mark the trace as failed.
func answered(err error) bool {
	switch code(err) {
	case codes.OK, codes.NotFound, codes.AlreadyExists, codes.InvalidArgument, codes.FailedPrecondition, codes.Aborted:
		return true
	default:
		return false
	}
}

// serverFault reports whether the code is an error of the server, as OpenTelemetry's conventions for RPC spans define
// it: "unavailable" is one, "not found" is not.
func serverFault(err error) bool {
	switch code(err) {
	case codes.Unknown, codes.DeadlineExceeded, codes.Unimplemented, codes.Internal, codes.Unavailable, codes.DataLoss:
		return true
	default:
		return false
	}
}

// explain adds to the span one attempt and why its instance was picked.
func explain(span oteltrace.Span, n int, call *route.Call, err error) {
	if !span.IsRecording() {
		return
	}
	var known [16]attribute.KeyValue
	trace.SetAttributes(span, append(call.Why().AppendAttributes(known[:0]), attribute.Int("bijou.attempts", n))...)
	if n > 1 || err != nil {
		picked, _ := call.Endpoint()
		span.AddEvent("attempt", oteltrace.WithAttributes(
			attribute.Int("rpc.attempt", n),
			attribute.String("bijou.instance", picked.ID),
			attribute.String("rpc.response.status_code", code(err).String()),
		))
	}
}
