package trace_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/sdk/resource"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"
	semconv "go.opentelemetry.io/otel/semconv/v1.43.0"
	oteltrace "go.opentelemetry.io/otel/trace"
	common "go.opentelemetry.io/proto/otlp/common/v1"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/encoding/prototext"
	"google.golang.org/protobuf/proto"

	"bijou.dev/platform/trace"
)

// receiver is a connection to a trace store that keeps the requests as they come over the network.
type receiver struct {
	grpc.ClientConnInterface
	mu       sync.Mutex
	requests []*request
	sizes    []int // of the requests in bytes
}

func (r *receiver) Invoke(_ context.Context, _ string, args, _ any, _ ...grpc.CallOption) error {
	data, err := proto.Marshal(args.(proto.Message))
	if err != nil {
		return err
	}
	req := &request{}
	if err := proto.Unmarshal(data, req); err != nil {
		return err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.requests, r.sizes = append(r.requests, req), append(r.sizes, len(data))
	return nil
}

// take returns the requests that came since the last call.
func (r *receiver) take(t testing.TB) []*request {
	t.Helper()
	r.mu.Lock()
	defer r.mu.Unlock()
	for i, req := range r.requests {
		if n := proto.Size(req); n != r.sizes[i] {
			t.Errorf("a request has %d bytes, protobuf encodes it in %d", r.sizes[i], n)
		}
	}
	list := r.requests
	r.requests, r.sizes = nil, nil
	return list
}

// sdkProcessor keeps the spans of the SDK and gives them the revision.
type sdkProcessor struct {
	revision int64
	spans    []sdktrace.ReadOnlySpan
}

func (p *sdkProcessor) OnStart(_ context.Context, s sdktrace.ReadWriteSpan) {
	s.SetAttributes(attribute.Int64("bijou.config.revision", p.revision))
}
func (p *sdkProcessor) OnEnd(s sdktrace.ReadOnlySpan)      { p.spans = append(p.spans, s) }
func (p *sdkProcessor) ForceFlush(_ context.Context) error { return nil }
func (p *sdkProcessor) Shutdown(_ context.Context) error   { return nil }

// sdkProvider returns a provider of OpenTelemetry's SDK with our options.
func sdkProvider(service string) (*sdktrace.TracerProvider, *sdkProcessor) {
	limits := sdktrace.NewSpanLimits()
	limits.AttributeValueLengthLimit = refText
	p := &sdkProcessor{revision: 7}
	return sdktrace.NewTracerProvider(
		sdktrace.WithSampler(sdktrace.ParentBased(sdktrace.AlwaysSample())), sdktrace.WithSpanProcessor(p),
		sdktrace.WithRawSpanLimits(limits),
		sdktrace.WithResource(resource.NewWithAttributes(semconv.SchemaURL, semconv.ServiceName(service),
			semconv.ServiceVersion("v3"), semconv.TelemetrySDKName("bijou"), semconv.TelemetrySDKLanguageGo,
			semconv.TelemetrySDKVersion("1"))),
	), p
}

// ownOptions returns options with the version and the revision of sdkProvider.
func ownOptions(o trace.Options) trace.Options {
	o.Version, o.Revision = "v3", func() int64 { return 7 }
	return o
}

// ownProvider returns a provider of this package that sends to r.
func ownProvider(t testing.TB, service string, r *receiver) *trace.Provider {
	t.Helper()
	p, err := trace.New(ownOptions(trace.Options{
		Service: service, Conn: func() grpc.ClientConnInterface { return r },
	}))
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// custom is an error with a name and a package.
type custom struct{ text string }

func (c custom) Error() string { return c.text }

func numbered(n int) (attrs []attribute.KeyValue) {
	for i := range n {
		attrs = append(attrs, attribute.Int(fmt.Sprintf("k%d", i), i))
	}
	return attrs
}

// nested returns a list in a list in a list, depth times.
func nested(depth int) attribute.Value {
	v := attribute.StringValue("inside")
	for range depth {
		v = attribute.SliceValue(v)
	}
	return v
}

// texts are values of all lengths and encodings.
func texts(key string) (attrs []attribute.KeyValue) {
	for i, s := range []string{
		"", invalid, strings.Repeat("x", 127), strings.Repeat("x", 128), strings.Repeat("x", 4096),
		strings.Repeat("x", 4097), strings.Repeat(cutChar, 2048), strings.Repeat(cutChar, 2049),
		strings.Repeat(cutChar, 5000), strings.Repeat("x\xff", 3000), strings.Repeat("\xff", 5000),
		strings.Repeat("x", 4095) + cutChar, strings.Repeat("\ufffd", 5000), strings.Repeat("x", 4096) + "\xff",
	} {
		attrs = append(attrs, attribute.String(fmt.Sprint(key, i), s),
			attribute.ByteSlice(fmt.Sprint(key, "b", i), []byte(s)),
			attribute.StringSlice(fmt.Sprint(key, "l", i), []string{"first", s}),
			attribute.Slice(fmt.Sprint(key, "n", i), attribute.StringValue(s), attribute.ByteSliceValue([]byte(s)),
				attribute.MapValue(attribute.String(invalid+s, s))))
	}
	return attrs
}

func ofAllTypes() []attribute.KeyValue {
	return []attribute.KeyValue{
		attribute.Bool("true", true), attribute.Bool("false", false), attribute.Int("zero", 0), attribute.Int("negative", -1),
		attribute.Int64("largest", math.MaxInt64), attribute.Float64("float", 0.1),
		attribute.Float64("infinite", math.Inf(-1)),
		attribute.String("empty", ""), attribute.String("text", "a"),
		{Key: "no value"},
		attribute.BoolSlice("bools", []bool{true, false}), attribute.IntSlice("ints", []int{0, -1, 1 << 40, 3, 4}),
		attribute.Float64Slice("floats", []float64{0, 1.5}),
		attribute.StringSlice("strings", []string{"", "b", "c", "d", "e"}),
		attribute.StringSlice("no strings", nil), attribute.ByteSlice("bytes", []byte{0, 0xff}),
		attribute.ByteSlice("no bytes", nil), attribute.Slice("no values"), attribute.Map("no pairs"),
		attribute.Slice("mixed", attribute.IntValue(1), attribute.StringValue("b"), attribute.Value{}, nested(3)),
		attribute.Map("map", attribute.Int("b", 1), attribute.Int("a", 2), attribute.Int("b", 3), attribute.Int("", 4)),
		attribute.Map("same keys", attribute.Int("a", 1), attribute.Int("a", 2), attribute.Int("a", 3)),
		attribute.Slice("maps", attribute.MapValue(attribute.Int("a", 1), attribute.Slice("a", attribute.MapValue(
			attribute.Int("c", 1), attribute.Int("c", 2))))),
		attribute.StringSlice("300 strings", make([]string, 300)), attribute.Map("300 pairs", numbered(300)...),
		{Key: "31 deep", Value: nested(31)},
		{Key: "32 deep", Value: nested(32)},
		{Key: "33 deep", Value: nested(33)},
		{Key: "70 deep", Value: nested(70)},
		attribute.String(strings.Repeat("k", 600), "a long key"),
	}
}

// sampledContext is that of a span in a trace that is recorded.
var sampledContext = oteltrace.NewSpanContext(oteltrace.SpanContextConfig{
	TraceID: [16]byte{1}, SpanID: [8]byte{2}, TraceFlags: oteltrace.FlagsSampled,
})

// operations are what users do with spans. Each may use several tracers and spans.
var operations = []struct {
	name string
	run  func(ctx context.Context, p oteltrace.TracerProvider)
}{
	{"a plain span", func(ctx context.Context, p oteltrace.TracerProvider) {
		_, s := p.Tracer("a").Start(ctx, "plain")
		time.Sleep(time.Second)
		s.End()
	}},
	{"names", func(ctx context.Context, p oteltrace.TracerProvider) {
		for _, name := range []string{"", invalid, strings.Repeat("x", 600), strings.Repeat(cutChar, 600)} {
			_, s := p.Tracer("a").Start(ctx, name)
			s.End()
			_, s = p.Tracer("a").Start(ctx, "before")
			s.SetName(name)
			s.End()
		}
	}},
	{"kinds", func(ctx context.Context, p oteltrace.TracerProvider) {
		for kind := range oteltrace.SpanKind(8) {
			_, s := p.Tracer("a").Start(ctx, "kind", oteltrace.WithSpanKind(kind-1))
			s.End()
		}
	}},
	{"attributes of all types", func(ctx context.Context, p oteltrace.TracerProvider) {
		_, s := p.Tracer("a").Start(ctx, "at start", oteltrace.WithAttributes(ofAllTypes()...))
		s.End()
		_, s = p.Tracer("a").Start(ctx, "later")
		s.SetAttributes(ofAllTypes()...)
		s.AddEvent("event", oteltrace.WithAttributes(ofAllTypes()...))
		s.AddLink(oteltrace.Link{Attributes: ofAllTypes()})
		s.End()
	}},
	{"text of all lengths", func(ctx context.Context, p oteltrace.TracerProvider) {
		_, s := p.Tracer("a").Start(ctx, "texts")
		s.SetAttributes(texts("a")...)
		s.AddEvent("event", oteltrace.WithAttributes(texts("e")...))
		s.AddLink(oteltrace.Link{Attributes: texts("l")})
		s.SetStatus(codes.Error, strings.Repeat("x", 5000))
		s.End()
	}},
	{"the last value of a key is kept in the place of the first", func(ctx context.Context, p oteltrace.TracerProvider) {
		_, s := p.Tracer("a").Start(ctx, "same keys", oteltrace.WithAttributes(attribute.Int("a", 1), attribute.Int("b", 1)))
		s.SetAttributes(attribute.Int("c", 1), attribute.String("a", "2"), attribute.Int("c", 2))
		s.SetAttributes(attribute.Int("a", 3), attribute.Int("bijou.config.revision", 8))
		s.SetAttributes()
		s.AddEvent("event", oteltrace.WithAttributes(attribute.Int("a", 1), attribute.Int("a", 2)))
		s.End()
	}},
	{"attributes without a key", func(ctx context.Context, p oteltrace.TracerProvider) {
		_, s := p.Tracer("a").Start(ctx, "no key", oteltrace.WithAttributes(attribute.Int("", 1), attribute.Int("a", 1)))
		s.SetAttributes(attribute.Int("", 1), attribute.Int("b", 1), attribute.KeyValue{})
		s.AddEvent("event", oteltrace.WithAttributes(attribute.Int("", 1)))
		s.End()
	}},
	{"too many attributes", func(ctx context.Context, p oteltrace.TracerProvider) {
		_, s := p.Tracer("a").Start(ctx, "at once")
		s.SetAttributes(append(append(numbered(140), numbered(3)...), attribute.Int("", 1), attribute.Int("k7", 70))...)
		s.End()
		_, s = p.Tracer("a").Start(ctx, "one by one")
		for _, a := range numbered(140) {
			s.SetAttributes(a)
		}
		s.SetAttributes(attribute.Int("k7", 70), attribute.Int("k139", 70))
		s.End()
		_, s = p.Tracer("a").Start(ctx, "many times the same")
		for range 100 {
			s.SetAttributes(numbered(3)...)
		}
		s.SetAttributes(numbered(125)...)
		s.End()
	}},
	{"too many events", func(ctx context.Context, p oteltrace.TracerProvider) {
		_, s := p.Tracer("a").Start(ctx, "events")
		for i := range 130 {
			s.AddEvent(fmt.Sprint("event ", i))
			time.Sleep(time.Millisecond)
		}
		s.AddEvent("many attributes", oteltrace.WithAttributes(numbered(130)...))
		s.End()
	}},
	{"times of events", func(ctx context.Context, p oteltrace.TracerProvider) {
		_, s := p.Tracer("a").Start(ctx, "events")
		s.AddEvent(invalid, oteltrace.WithTimestamp(time.Unix(1e9, 5)), oteltrace.WithAttributes(attribute.Int("a", 1)),
			oteltrace.WithAttributes(attribute.Int("b", 1)), oteltrace.WithStackTrace(true))
		s.AddEvent("in 1960", oteltrace.WithTimestamp(time.Unix(-3e8, 0)))
		s.End()
	}},
	{"links", func(ctx context.Context, p oteltrace.TracerProvider) {
		local := sampledContext
		state, err := oteltrace.ParseTraceState("a=1")
		if err != nil {
			panic(err)
		}
		_, s := p.Tracer("a").Start(ctx, "links", oteltrace.WithLinks(oteltrace.Link{SpanContext: local},
			oteltrace.Link{SpanContext: local.WithRemote(true).WithTraceState(state), Attributes: numbered(130)},
			oteltrace.Link{}))
		s.AddLink(oteltrace.Link{})
		s.AddLink(oteltrace.Link{SpanContext: oteltrace.SpanContext{}.WithTraceState(state)})
		s.AddLink(oteltrace.Link{SpanContext: local.WithSpanID([8]byte{}), Attributes: numbered(1)})
		s.AddLink(oteltrace.Link{SpanContext: local.WithSpanID([8]byte{})})
		s.End()
		_, s = p.Tracer("a").Start(ctx, "many")
		for i := range 130 {
			s.AddLink(oteltrace.Link{SpanContext: local, Attributes: []attribute.KeyValue{attribute.Int("a", i)}})
		}
		s.End()
	}},
	{"status", func(ctx context.Context, p oteltrace.TracerProvider) {
		all := []codes.Code{codes.Unset, codes.Error, codes.Ok, codes.Code(7)}
		for _, a := range all {
			for _, b := range all {
				_, s := p.Tracer("a").Start(ctx, "status")
				s.SetStatus(a, "first")
				s.SetStatus(b, "second")
				s.End()
			}
		}
	}},
	{"errors", func(ctx context.Context, p oteltrace.TracerProvider) {
		_, s := p.Tracer("a").Start(ctx, "errors")
		s.RecordError(nil)
		s.RecordError(errors.New(invalid))
		s.RecordError(custom{"own type"}, oteltrace.WithStackTrace(true), oteltrace.WithAttributes(attribute.Int("a", 1)))
		s.RecordError(&custom{strings.Repeat("x", 5000)}, oteltrace.WithTimestamp(time.Unix(1e9, 0)))
		s.RecordError(context.DeadlineExceeded)
		s.End()
	}},
	{"panics", func(ctx context.Context, p oteltrace.TracerProvider) {
		for _, cause := range []any{"text", errors.New("an error"), custom{"own type"}, 7} {
			for _, stack := range []bool{false, true} {
				func() {
					defer func() {
						if got := recover(); got != cause {
							panic(fmt.Sprintf("recovered %v, want %v", got, cause))
						}
					}()
					_, s := p.Tracer("a").Start(ctx, "panics")
					defer s.End(oteltrace.WithStackTrace(stack))
					panic(cause)
				}()
			}
		}
		_, s := p.Tracer("a").Start(ctx, "does not panic")
		s.End(oteltrace.WithStackTrace(true))
	}},
	{"times of spans", func(ctx context.Context, p oteltrace.TracerProvider) {
		_, s := p.Tracer("a").Start(ctx, "begins", oteltrace.WithTimestamp(time.Unix(5e8, 7)))
		time.Sleep(time.Second)
		s.End()
		_, s = p.Tracer("a").Start(ctx, "ends", oteltrace.WithTimestamp(time.Time{}))
		s.End(oteltrace.WithTimestamp(time.Unix(5e8, 7)))
		_, s = p.Tracer("a").Start(ctx, "long ago", oteltrace.WithTimestamp(time.Unix(-5e8, 7)))
		s.End(oteltrace.WithTimestamp(time.Unix(0, 0)))
		_, s = p.Tracer("a").Start(ctx, "no time")
		s.End(oteltrace.WithTimestamp(time.Time{}))
	}},
	{"use after the end", func(ctx context.Context, p oteltrace.TracerProvider) {
		inner, s := p.Tracer("a").Start(ctx, "ended")
		s.End()
		s.SetName("other")
		s.SetAttributes(attribute.Int("a", 1))
		s.AddEvent("event")
		s.AddLink(oteltrace.Link{Attributes: numbered(1)})
		s.RecordError(errors.New("error"))
		s.SetStatus(codes.Error, "error")
		s.End()
		_, child := p.Tracer("a").Start(inner, "child")
		child.SetAttributes(attribute.Bool("parent recording", s.IsRecording()))
		child.End()
	}},
	{"parents", func(ctx context.Context, p oteltrace.TracerProvider) {
		state, err := oteltrace.ParseTraceState("a=1,b=" + strings.Repeat("x", 200))
		if err != nil {
			panic(err)
		}
		remote := sampledContext.WithTraceState(state)
		for _, c := range []oteltrace.SpanContext{
			remote, remote.WithTraceFlags(3), remote.WithTraceFlags(0xff), remote.WithTraceFlags(0), remote.WithTraceFlags(2),
			remote.WithSpanID([8]byte{}), remote.WithTraceID([16]byte{}),
			{},
		} {
			for _, ctx := range []context.Context{
				oteltrace.ContextWithRemoteSpanContext(ctx, c), oteltrace.ContextWithSpanContext(ctx, c),
			} {
				ctx, s := p.Tracer("a").Start(ctx, "parent")
				inner, child := p.Tracer("a").Start(ctx, "child")
				_, grandchild := child.TracerProvider().Tracer("b").Start(context.WithValue(inner, key{}, 1), "grandchild")
				_, root := p.Tracer("a").Start(ctx, "root", oteltrace.WithNewRoot())
				for _, s := range []oteltrace.Span{grandchild, root, child, s} {
					s.End()
				}
			}
		}
	}},
	{"tracers", func(ctx context.Context, p oteltrace.TracerProvider) {
		for range 2 {
			for _, t := range []oteltrace.Tracer{
				p.Tracer(""), p.Tracer("a"), p.Tracer("a", oteltrace.WithInstrumentationVersion("1")), p.Tracer(invalid),
				p.Tracer("a", oteltrace.WithSchemaURL("http://schema")), p.Tracer("b"), p.Tracer(strings.Repeat("x", 600)),
				p.Tracer("a", oteltrace.WithInstrumentationAttributes(ofAllTypes()...)),
				p.Tracer("a", oteltrace.WithInstrumentationVersion(invalid), oteltrace.WithSchemaURL(invalid)),
			} {
				_, s := t.Start(ctx, "of a tracer")
				s.End()
			}
		}
	}},
}

type key struct{}

// Our spans are the same as those of OpenTelemetry's SDK, in each field of each message that a trace store gets, and in
// what an exporter of the SDK gets.
func TestSpansAreThoseOfTheSDK(t *testing.T) {
	for _, op := range operations {
		t.Run(op.name, func(t *testing.T) {
			var want, got, exported *request
			// In a bubble time is fake, and begins at the same moment.
			synctest.Test(t, func(t *testing.T) {
				p, kept := sdkProvider(invalid)
				op.run(t.Context(), p)
				want = reference(kept.spans)
			})
			synctest.Test(t, func(t *testing.T) {
				r := &receiver{}
				p := ownProvider(t, invalid, r)
				op.run(t.Context(), p.TracerProvider())
				if err := p.Shutdown(t.Context()); err != nil || p.Dropped() != 0 {
					t.Fatalf("%d spans were dropped, error %v", p.Dropped(), err)
				}
				requests := r.take(t)
				if len(requests) != 1 {
					t.Fatalf("%d requests came, want 1", len(requests))
				}
				got = requests[0]
			})
			synctest.Test(t, func(t *testing.T) {
				kept := tracetest.NewInMemoryExporter()
				p, err := trace.New(ownOptions(trace.Options{Service: invalid, Exporter: keep{kept}}))
				if err != nil {
					t.Fatal(err)
				}
				op.run(t.Context(), p.TracerProvider())
				if err := p.Shutdown(t.Context()); err != nil {
					t.Fatal(err)
				}
				exported = reference(kept.GetSpans().Snapshots())
			})
			for _, req := range []*request{want, got, exported} {
				rename(req)
			}
			assertSame(t, want, got)
			assertSame(t, want, exported)
		})
	}
}

// assertSame compares requests. It shows the lines that differ: to compare nested values with cmp.Diff takes twice as
// long for each level.
func assertSame(t *testing.T, want, got *request) {
	t.Helper()
	if !proto.Equal(want, got) {
		lines := func(m proto.Message) []string { return strings.Split(prototext.Format(m), "\n") }
		t.Errorf("request (-SDK +own):\n%s", cmp.Diff(lines(want), lines(got)))
	}
}

// rename replaces what differs in two runs of the same operation: ids, in the order in which they come, stack traces,
// and the flag of random ids, which the SDK does not set (as of v1.47).
func rename(req *request) {
	names := map[string]byte{}
	id := func(b []byte) {
		if bytes.Count(b, []byte{0}) == len(b)-1 || len(bytes.Trim(b, "\x00")) == 0 {
			return // chosen by the test
		}
		if _, ok := names[string(b)]; !ok {
			names[string(b)] = byte(len(names))
		}
		n := names[string(b)]
		clear(b)
		copy(b, []byte{0xff, n})
	}
	for _, s := range spansOf(req) {
		id(s.TraceId)
		id(s.SpanId)
		id(s.ParentSpanId)
		s.Flags &^= uint32(oteltrace.FlagsRandom)
		for _, e := range s.Events {
			for _, a := range e.Attributes {
				if a.Key == "exception.stacktrace" && strings.Contains(a.Value.GetStringValue(), "goroutine") {
					a.Value = &common.AnyValue{Value: &common.AnyValue_StringValue{StringValue: "a stack"}}
				}
			}
		}
	}
}

// noType is the first number that is no type of attributes.
const noType = attribute.MAP + 1

// A new type of attributes must be added to the encoder and to the script of FuzzEncode.
func TestAllTypesAreKnown(t *testing.T) {
	if name := noType.String(); name != fmt.Sprintf("Type(%d)", noType) {
		t.Errorf("OpenTelemetry has the type %s, which is not encoded", name)
	}
}

// script makes values and operations of bytes.
type script struct {
	bytes []byte
	texts []string
}

func (s *script) next() int {
	if len(s.bytes) == 0 {
		return 0
	}
	b := s.bytes[0]
	s.bytes = s.bytes[1:]
	return int(b)
}

func (s *script) text() string {
	n := s.next()
	return strings.Repeat(s.texts[n%len(s.texts)], 1+n/16)
}

func list[T any](s *script, element func() T) (list []T) {
	for range s.next() % 8 {
		list = append(list, element())
	}
	return list
}

func (s *script) value() attribute.Value {
	switch attribute.Type(s.next()) % noType {
	case attribute.BOOL:
		return attribute.BoolValue(s.next()%2 == 1)
	case attribute.INT64:
		return attribute.Int64Value(int64(s.next()-128) << (s.next() % 64))
	case attribute.FLOAT64:
		return attribute.Float64Value(math.Float64frombits(uint64(s.next()) << (s.next() % 64)))
	case attribute.STRING:
		return attribute.StringValue(s.text())
	case attribute.BOOLSLICE:
		return attribute.BoolSliceValue(list(s, func() bool { return s.next()%2 == 1 }))
	case attribute.INT64SLICE:
		return attribute.IntSliceValue(list(s, s.next))
	case attribute.FLOAT64SLICE:
		return attribute.Float64SliceValue(list(s, func() float64 { return float64(s.next()) / 3 }))
	case attribute.STRINGSLICE:
		return attribute.StringSliceValue(list(s, s.text))
	case attribute.BYTESLICE:
		return attribute.ByteSliceValue([]byte(s.text()))
	case attribute.SLICE:
		return attribute.SliceValue(list(s, s.value)...)
	case attribute.MAP:
		return attribute.MapValue(s.attributes()...)
	}
	return attribute.Value{}
}

func (s *script) attributes() []attribute.KeyValue {
	return list(s, func() attribute.KeyValue {
		return attribute.KeyValue{Key: attribute.Key(s.text()), Value: s.value()}
	})
}

// run does with a span what the bytes say.
func (s script) run(p oteltrace.TracerProvider) {
	at := oteltrace.WithTimestamp(time.Unix(1.7e9, 1))
	ctx := oteltrace.ContextWithRemoteSpanContext(context.Background(), sampledContext)
	_, span := p.Tracer(s.text(), oteltrace.WithInstrumentationAttributes(s.attributes()...)).Start(ctx, s.text(), at,
		oteltrace.WithSpanKind(oteltrace.SpanKind(s.next()%8)), oteltrace.WithAttributes(s.attributes()...))
	for len(s.bytes) > 0 {
		switch s.next() % 7 {
		case 0:
			span.SetAttributes(s.attributes()...)
		case 1:
			span.AddEvent(s.text(), at, oteltrace.WithAttributes(s.attributes()...))
		case 2:
			span.AddLink(oteltrace.Link{SpanContext: sampledContext, Attributes: s.attributes()})
		case 3:
			span.SetStatus(codes.Code(s.next()%4), s.text())
		case 4:
			span.SetName(s.text())
		case 5:
			span.RecordError(errors.New(s.text()), at)
		case 6:
			for i := range s.next() {
				span.SetAttributes(attribute.Int(s.texts[0]+fmt.Sprint(i), i))
			}
		}
	}
	span.End(at)
}

// FuzzEncode holds that any span is encoded as the SDK and protobuf do it.
func FuzzEncode(f *testing.F) {
	f.Add("name", "key", "value",
		[]byte{0, 0, 0, 1, 2, 1, 4, 2, 0, 3, 1, 2, 1, 2, 3, 2, 4, 5, 11, 2, 1, 4, 2, 2, 10, 3, 4, 5, 6})
	f.Add(invalid, strings.Repeat("x\xff", 100), strings.Repeat(cutChar, 400),
		[]byte{255, 0, 254, 1, 7, 255, 10, 7, 255, 9, 250})
	f.Add("", "a", "b", []byte{0, 0, 0, 0, 6, 200, 6, 127, 1, 6, 100, 4, 2, 5, 3, 3, 1, 2})
	theirs, kept := sdkProvider("fuzz")
	r := &receiver{}
	own := ownProvider(f, "fuzz", r)
	f.Cleanup(func() { _ = own.Shutdown(context.Background()) })
	f.Fuzz(func(t *testing.T, a, b, c string, program []byte) {
		s := script{program, []string{a, b, c}}
		s.run(theirs)
		want := reference(kept.spans)
		kept.spans = nil
		if proto.Size(want) > 4<<20 {
			t.Skip("too large to be sent")
		}
		s.run(own.TracerProvider())
		if err := own.Flush(t.Context()); err != nil {
			t.Fatal(err)
		}
		requests := r.take(t)
		if len(requests) != 1 {
			t.Fatalf("%d requests came, want 1; dropped: %v", len(requests), own.Drops())
		}
		got := requests[0]
		for _, req := range []*request{want, got} {
			for _, span := range spansOf(req) {
				span.SpanId = nil
			}
		}
		assertSame(t, want, got)
	})
}
