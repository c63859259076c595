package trace

import (
	"context"
	"encoding/binary"
	"math/rand/v2"
	rt "runtime/trace"
	"sync"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/sdk/instrumentation"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/trace"
	"go.opentelemetry.io/otel/trace/embedded"
)

// unnamed is the name of a tracer that was made without one, as in OpenTelemetry's SDK.
const unnamed = "go.opentelemetry.io/otel/sdk/tracer"

// tracerProvider makes tracers whose spans go into one queue.
type tracerProvider struct {
	embedded.TracerProvider
	queue    *queue // nil: nothing is recorded
	sampler  sampler
	limits   sdktrace.SpanLimits
	revision func() int64 // nil: no attribute

	mu      sync.Mutex
	tracers map[instrumentation.Scope]*tracer
}

// Tracer implements trace.TracerProvider. It returns the same tracer for the same name and options.
func (p *tracerProvider) Tracer(name string, opts ...trace.TracerOption) trace.Tracer {
	return p.tracer(name, opts...)
}

func (p *tracerProvider) tracer(name string, opts ...trace.TracerOption) *tracer {
	c := trace.NewTracerConfig(opts...)
	s := instrumentation.Scope{
		Name: name, Version: c.InstrumentationVersion(), SchemaURL: c.SchemaURL(),
		Attributes: normalSet(c.InstrumentationAttributes()),
	}
	if s.Name == "" {
		s.Name = unnamed
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	t := p.tracers[s]
	if t == nil {
		t = &tracer{provider: p, scope: s, encoded: encodeScope(s)}
		if p.tracers == nil {
			p.tracers = map[instrumentation.Scope]*tracer{}
		}
		p.tracers[s] = t
	}
	return t
}

// tracer makes the spans of one scope.
type tracer struct {
	embedded.Tracer
	provider *tracerProvider
	scope    instrumentation.Scope
	encoded  []byte // the scope and its schema URL as fields of ScopeSpans
}

// Start implements trace.Tracer.
func (t *tracer) Start(ctx context.Context, name string, opts ...trace.SpanStartOption) (context.Context, trace.Span) {
	if ctx == nil {
		ctx = context.Background()
	}
	var c trace.SpanConfig
	if len(opts) > 0 {
		c = trace.NewSpanStartConfig(opts...)
	}
	var parent trace.SpanContext
	if !c.NewRoot() {
		parent = trace.SpanContextFromContext(ctx)
	}
	return t.start(ctx, parent, name, &c)
}

// start begins a span. The parent may be one that is not in ctx.
func (t *tracer) start(
	ctx context.Context, parent trace.SpanContext, name string, c *trace.SpanConfig,
) (context.Context, trace.Span) {
	p := t.provider
	ids := trace.SpanContextConfig{
		TraceID: parent.TraceID(), SpanID: newSpanID(), TraceFlags: parent.TraceFlags(), TraceState: parent.TraceState(),
	}
	if !ids.TraceID.IsValid() {
		// Our ids are random, and the flag says so (Trace Context Level 2, 3.2.2.5.2).
		ids.TraceID, ids.TraceFlags = newTraceID(), ids.TraceFlags|trace.FlagsRandom
	}
	sampled := p.queue != nil && p.sampler.sample(ctx, parent, ids.TraceID)
	ids.TraceFlags = ids.TraceFlags.WithSampled(sampled)
	s := &span{context: trace.NewSpanContext(ids), provider: p}
	s.within = spanContext{ctx, s}
	if !sampled {
		return &s.within, s
	}
	r := records.Get().(*record)
	r.tracer, r.context, r.parent, r.name = t, s.context, parent, name
	r.kind, r.start = trace.ValidateSpanKind(c.SpanKind()), c.Timestamp()
	if r.start.IsZero() {
		r.start = time.Now()
	}
	for _, l := range c.Links() {
		r.addLink(l)
	}
	r.set(c.Attributes())
	if p.revision != nil {
		r.set([]attribute.KeyValue{attribute.Int64("bijou.config.revision", p.revision())})
	}
	s.rec.Store(r)
	if !rt.IsEnabled() {
		return &s.within, s
	}
	// The execution trace shows the span as a task, as with OpenTelemetry's SDK.
	ctx, r.task = rt.NewTask(&s.within, name)
	return ctx, s
}

func newTraceID() (id trace.TraceID) {
	for !id.IsValid() {
		binary.NativeEndian.PutUint64(id[:8], rand.Uint64())
		binary.NativeEndian.PutUint64(id[8:], rand.Uint64())
	}
	return id
}

func newSpanID() (id trace.SpanID) {
	for !id.IsValid() {
		binary.NativeEndian.PutUint64(id[:], rand.Uint64())
	}
	return id
}

// spanContext is the context of a span: what trace.ContextWithSpan returns, but it is part of the span, which saves an
// allocation for each span.
type spanContext struct {
	context.Context
	span *span
}

// Value implements context.Context.
func (c *spanContext) Value(key any) any {
	if key == spanKey {
		return c.span
	}
	return c.Context.Value(key)
}

// spanKey is the key under which trace.SpanFromContext looks for a span. OpenTelemetry does not export it.
var spanKey = func() any {
	var asked keyRecorder
	trace.SpanFromContext(&asked)
	return asked.key
}()

// keyRecorder is a context that keeps the key that it was last asked for.
type keyRecorder struct {
	context.Context
	key any
}

// Value implements context.Context.
func (r *keyRecorder) Value(key any) any {
	r.key = key
	return nil
}
