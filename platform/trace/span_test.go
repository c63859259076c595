package trace_test

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	rt "runtime/trace"
	"sync"
	"testing"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/propagation"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"
	oteltrace "go.opentelemetry.io/otel/trace"
	"google.golang.org/grpc"

	"bijou.dev/platform/trace"
)

// What spans have recorded is used again for other spans. A span that is used while it ends, and after it has ended,
// must not reach the record of another one.
func TestUseAfterTheEndDoesNotReachOtherSpans(t *testing.T) {
	r := &receiver{}
	p := newProvider(t, trace.Options{
		QueueSize: 1 << 16, BatchSize: 16, Conn: func() grpc.ClientConnInterface { return r },
	})
	var all sync.WaitGroup
	for i := range 8 {
		all.Go(func() {
			var before oteltrace.Span
			for j := range 200 {
				name := fmt.Sprint(i, " ", j)
				_, s := p.Tracer().Start(t.Context(), name)
				use := func(s oteltrace.Span, name string) {
					s.SetAttributes(attribute.String("name", name))
					s.AddEvent(name)
					s.AddLink(oteltrace.Link{Attributes: []attribute.KeyValue{attribute.String("name", name)}})
					s.RecordError(errors.New(name))
					s.SetStatus(codes.Error, name)
				}
				var both sync.WaitGroup
				both.Go(func() { use(s, name) })
				if before != nil {
					both.Go(func() { use(before, "of a span that has ended") })
				}
				both.Go(func() { s.End() })
				both.Wait()
				s.SetName("of a span that has ended")
				before = s
			}
		})
	}
	all.Wait()
	flush(t, p)
	n := 0
	for _, req := range r.take(t) {
		for _, s := range spansOf(req) {
			n++
			texts := []string{s.Status.Message}
			for _, a := range s.Attributes {
				texts = append(texts, a.Value.GetStringValue())
			}
			for _, e := range s.Events {
				if e.Name != "exception" {
					texts = append(texts, e.Name)
				}
			}
			for _, l := range s.Links {
				texts = append(texts, l.Attributes[0].Value.GetStringValue())
			}
			for _, text := range texts {
				if text != "" && text != s.Name {
					t.Fatalf("span %q has recorded %q", s.Name, text)
				}
			}
		}
	}
	if n != 8*200 {
		t.Errorf("%d spans came, want %d", n, 8*200)
	}
}

// The context of a span carries the span, what its parent context carries, and the end of that.
func TestContextOfASpan(t *testing.T) {
	for name, p := range map[string]*trace.Provider{
		"recorded":     newProvider(t, trace.Options{Conn: discard}),
		"not recorded": trace.Discard(),
	} {
		parent, cancel := context.WithCancelCause(context.WithValue(t.Context(), key{}, "value"))
		ctx, span := p.Tracer().Start(parent, "outer")
		child, stop := context.WithCancel(ctx)
		defer stop()
		for what, c := range map[string]context.Context{"of the span": ctx, "below that": child} {
			if got := oteltrace.SpanFromContext(c); got != span {
				t.Errorf("%s: the context %s has the span %v, want %v", name, what, got, span)
			}
			if got := c.Value(key{}); got != "value" {
				t.Errorf("%s: the context %s has the value %v", name, what, got)
			}
		}
		if got := span.TracerProvider(); got != p.TracerProvider() {
			t.Errorf("%s: the span has the provider %v", name, got)
		}
		cause := errors.New("enough")
		cancel(cause)
		<-child.Done()
		if !errors.Is(context.Cause(child), cause) || !errors.Is(ctx.Err(), context.Canceled) {
			t.Errorf("%s: the contexts end with %v and %v", name, context.Cause(child), ctx.Err())
		}
		var missing context.Context
		if ctx, _ := p.Tracer().Start(missing, "without a context"); ctx.Err() != nil {
			t.Errorf("%s: a span without a context has one that ends", name)
		}
	}
}

// A span is a task of the execution trace, if one is running.
func TestSpanIsATask(t *testing.T) {
	p := newProvider(t, trace.Options{Conn: discard})
	if err := rt.Start(io.Discard); err != nil {
		t.Skip("another execution trace is running:", err)
	}
	defer rt.Stop()
	ctx, span := p.Tracer().Start(t.Context(), "task")
	if got := oteltrace.SpanFromContext(ctx); got != span {
		t.Errorf("the context has the span %v, want %v", got, span)
	}
	span.End()
}

// SetAttributes works with any span.
func TestSetAttributesOfOtherSpans(t *testing.T) {
	theirs, kept := sdkProvider("x")
	_, span := theirs.Tracer("x").Start(t.Context(), "of the SDK")
	attrs := []attribute.KeyValue{attribute.Int("a", 1)}
	trace.SetAttributes(span, attrs...)
	attrs[0] = attribute.Int("b", 2)
	span.End()
	trace.SetAttributes(span, attrs...)
	trace.SetAttributes(oteltrace.SpanFromContext(context.Background()), attrs...)
	if got := kept.spans[0].Attributes()[1]; got != attribute.Int("a", 1) {
		t.Errorf("the span has the attribute %v", got)
	}
}

// StartRemote begins the same span as Extract and Start.
func TestStartRemote(t *testing.T) {
	const b3ids = "463ac35c9f6413ad48485a3953bb6124-a2fb4a1d1a96d312"
	kept := tracetest.NewInMemoryExporter()
	p := newProvider(t, trace.Options{Exporter: keep{kept}})
	local, outer := p.Tracer().Start(t.Context(), "local")
	names := map[string]string{tid: "W3C", b3ids[:32]: "B3", outer.SpanContext().TraceID().String(): "local"}
	describe := func(ctx context.Context) string {
		sent := propagation.MapCarrier{}
		p.Propagator().Inject(ctx, sent)
		sc := oteltrace.SpanContextFromContext(ctx)
		name := cmp.Or(names[sc.TraceID().String()], "new")
		oteltrace.SpanFromContext(ctx).End()
		flush(t, p)
		for _, s := range kept.GetSpans() {
			name += fmt.Sprintf(" below %s, remote %v", s.Parent.SpanID(), s.Parent.IsRemote())
		}
		kept.Reset()
		return fmt.Sprintf("trace %s, flags %v, state %q", name, sc.TraceFlags(), sent["tracestate"])
	}
	for name, tt := range map[string]struct {
		in   pairs
		opts []oteltrace.SpanStartOption
	}{
		"traceparent":         {in: pairs{"traceparent", good, "tracestate", "a=1,7=2"}},
		"not sampled":         {in: pairs{"traceparent", good[:53] + "00"}},
		"b3":                  {in: pairs{"b3", b3ids}},
		"b3 deny without ids": {in: pairs{"b3", "0"}},
		"nothing":             {},
		"a new root":          {in: pairs{"traceparent", good}, opts: []oteltrace.SpanStartOption{oteltrace.WithNewRoot()}},
	} {
		for _, ctx := range []context.Context{t.Context(), local} {
			want, _ := p.Tracer().Start(p.Propagator().Extract(ctx, tt.in.http()), "x", tt.opts...)
			got, _ := p.StartRemote(ctx, tt.in.http(), "x", tt.opts...)
			if want, got := describe(want), describe(got); got != want {
				t.Errorf("%s: the span is\n%s\nwant\n%s", name, got, want)
			}
		}
	}
}

// Each byte of the ids of new traces and spans is random.
func TestIDsAreRandom(t *testing.T) {
	var traces [16]map[byte]bool
	var spans [8]map[byte]bool
	tracer := trace.Discard().Tracer()
	for range 100 {
		_, s := tracer.Start(t.Context(), "new")
		for i, b := range s.SpanContext().TraceID() {
			if traces[i] == nil {
				traces[i] = map[byte]bool{}
			}
			traces[i][b] = true
		}
		for i, b := range s.SpanContext().SpanID() {
			if spans[i] == nil {
				spans[i] = map[byte]bool{}
			}
			spans[i][b] = true
		}
	}
	for i, values := range append(traces[:], spans[:]...) {
		if len(values) < 50 { // of 256; of 100 random ones about 83 differ
			t.Errorf("byte %d of trace id and span id has %d values in 100 spans", i, len(values))
		}
	}
}
