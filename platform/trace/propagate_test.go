package trace_test

import (
	"context"
	"fmt"
	"net/http"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"go.opentelemetry.io/otel/propagation"
	oteltrace "go.opentelemetry.io/otel/trace"

	"bijou.dev/platform/trace"
)

const (
	tid  = "4bf92f3577b34da6a3ce929d0e0e4736"
	sid  = "00f067aa0ba902b7"
	good = "00-" + tid + "-" + sid + "-01"
)

// pairs is a list of header lines, so that repeated headers can be written down.
type pairs []string

func (p pairs) http() propagation.TextMapCarrier {
	h := http.Header{}
	for i := 0; i < len(p); i += 2 {
		h.Add(p[i], p[i+1])
	}
	return propagation.HeaderCarrier(h)
}

func (p pairs) md() propagation.TextMapCarrier {
	m := trace.MD{}
	for i := 0; i < len(p); i += 2 {
		k := strings.ToLower(p[i])
		m[k] = append(m[k], p[i+1])
	}
	return m
}

// bare has neither Values nor a known type.
type bare struct{ propagation.MapCarrier }

func (b bare) Get(k string) string { return b.MapCarrier.Get(k) }

// extracted is what a test sees of a context: "trace span flags state", or "none".
func extracted(c propagation.TextMapCarrier) string {
	sc := oteltrace.SpanContextFromContext(trace.Discard().Propagator().Extract(context.Background(), c))
	if !sc.IsValid() {
		return "none"
	}
	return strings.TrimSpace(fmt.Sprintf("%s %s %s %s", sc.TraceID(), sc.SpanID(), sc.TraceFlags(), sc.TraceState()))
}

func members(n int, format string) string {
	list := make([]string, n)
	for i := range list {
		list[i] = fmt.Sprintf(format, i)
	}
	return strings.Join(list, ",")
}

func TestExtract(t *testing.T) {
	on, off := tid+" "+sid+" 01", tid+" "+sid+" 00"
	b3id, short := "463ac35c9f6413ad48485a3953bb6124", "48485a3953bb6124"
	b3on, b3off := b3id+" a2fb4a1d1a96d312 01", b3id+" a2fb4a1d1a96d312 00"
	tests := []struct {
		name string
		in   pairs
		want string
	}{
		{"nothing", nil, "none"},
		{"sampled", pairs{"traceparent", good}, on},
		{"unsampled", pairs{"traceparent", "00-" + tid + "-" + sid + "-00"}, off},
		{"surrounding blanks", pairs{"traceparent", " \t" + good + " "}, on},
		{"random flag is kept", pairs{"traceparent", "00-" + tid + "-" + sid + "-03"}, tid + " " + sid + " 03"},
		{"unknown flags are cleared", pairs{"traceparent", "00-" + tid + "-" + sid + "-ff"}, tid + " " + sid + " 03"},
		{"two headers count as none", pairs{"traceparent", good, "traceparent", good}, "none"},
		{"two headers joined by a comma", pairs{"traceparent", good + "," + good}, "none"},
		{"later version", pairs{"traceparent", "cc-" + tid + "-" + sid + "-01"}, on},
		{
			"later version with more fields",
			pairs{"traceparent", "cc-" + tid + "-" + sid + "-01-what-the-future-brings"},
			on,
		},
		{"later version glued", pairs{"traceparent", "cc-" + tid + "-" + sid + "-01.more"}, "none"},
		{"version 00 with more fields", pairs{"traceparent", good + "-more"}, "none"},
		{"version 00 with a trailing dash", pairs{"traceparent", good + "-"}, "none"},
		{"version ff", pairs{"traceparent", "ff-" + tid + "-" + sid + "-01"}, "none"},
		{"version not hex", pairs{"traceparent", ".0-" + tid + "-" + sid + "-01"}, "none"},
		{"upper case", pairs{"traceparent", strings.ToUpper(good)}, "none"},
		{"trace id all zero", pairs{"traceparent", "00-" + strings.Repeat("0", 32) + "-" + sid + "-01"}, "none"},
		{"span id all zero", pairs{"traceparent", "00-" + tid + "-0000000000000000-01"}, "none"},
		{"trace id not hex", pairs{"traceparent", "00-." + tid[1:] + "-" + sid + "-01"}, "none"},
		{"flags not hex", pairs{"traceparent", "00-" + tid + "-" + sid + "-.0"}, "none"},
		{"too short", pairs{"traceparent", good[:54]}, "none"},
		{"wrong dashes", pairs{"traceparent", strings.ReplaceAll(good, "-", "_")}, "none"},

		{"state", pairs{"traceparent", good, "tracestate", "foo=1,bar=2"}, on + " foo=1,bar=2"},
		{"state without parent", pairs{"tracestate", "foo=1"}, "none"},
		{"state of an invalid parent", pairs{"traceparent", "00-x", "tracestate", "foo=1"}, "none"},
		{
			"state in several headers",
			pairs{"traceparent", good, "tracestate", "foo=1", "tracestate", "bar=2,baz=3"},
			on + " foo=1,bar=2,baz=3",
		},
		{
			"state with an empty header",
			pairs{"traceparent", good, "tracestate", "", "tracestate", "bar=2"},
			on + " bar=2",
		},
		{
			"blank members are skipped",
			pairs{"traceparent", good, "tracestate", "foo=1, \t ,,bar=2 \t"},
			on + " foo=1,bar=2",
		},
		{
			"the first of equal keys is kept",
			pairs{"traceparent", good, "tracestate", "foo=1,bar=2,foo=3"},
			on + " foo=1,bar=2",
		},
		{
			"equal keys in two headers",
			pairs{"traceparent", good, "tracestate", "foo=1", "tracestate", "foo=1"},
			on + " foo=1",
		},
		{"32 members", pairs{"traceparent", good, "tracestate", members(32, "k%d=1")}, on + " " + members(32, "k%d=1")},
		{"33 members", pairs{"traceparent", good, "tracestate", members(33, "k%d=1")}, on},
		{
			"33 members in two headers",
			pairs{"traceparent", good, "tracestate", members(20, "a%d=1"), "tracestate", members(13, "b%d=1")},
			on,
		},
		{"one malformed member discards all", pairs{"traceparent", good, "tracestate", "foo=1,Bar=2"}, on},
		{"member without a value", pairs{"traceparent", good, "tracestate", "foo"}, on},
		{"value with an equals sign", pairs{"traceparent", good, "tracestate", "foo=bar=baz"}, on},
		{"key of 257 characters", pairs{"traceparent", good, "tracestate", strings.Repeat("z", 257) + "=1"}, on},
		{"multi-tenant key", pairs{"traceparent", good, "tracestate", "fw529a3039@dt=1"}, on + " fw529a3039@dt=1"},

		{"b3 sampled", pairs{"b3", b3id + "-a2fb4a1d1a96d312-1"}, b3on},
		{"b3 denied", pairs{"b3", b3id + "-a2fb4a1d1a96d312-0"}, b3off},
		{"b3 debug", pairs{"b3", b3id + "-a2fb4a1d1a96d312-d"}, b3on},
		{"b3 deferred", pairs{"b3", b3id + "-a2fb4a1d1a96d312"}, b3off},
		{"b3 with a parent", pairs{"b3", b3id + "-a2fb4a1d1a96d312-1-0020000000000001"}, b3on},
		{
			"b3 with a 64-bit trace id",
			pairs{"b3", short + "-a2fb4a1d1a96d312-1"},
			"0000000000000000" + short + " a2fb4a1d1a96d312 01",
		},
		{"b3 state alone", pairs{"b3", "0"}, "none"},
		{"b3 with too many fields", pairs{"b3", b3id + "-a2fb4a1d1a96d312-1-0020000000000001-1"}, "none"},
		{"b3 with an unknown state", pairs{"b3", b3id + "-a2fb4a1d1a96d312-x"}, "none"},
		{"b3 with a short span id", pairs{"b3", b3id + "-a2fb-1"}, "none"},
		{"b3 with zero ids", pairs{"b3", "0000000000000000-0000000000000000-1"}, "none"},
		{
			"b3 headers",
			pairs{
				"X-B3-TraceId", b3id, "X-B3-SpanId", "a2fb4a1d1a96d312", "X-B3-ParentSpanId", "0020000000000001",
				"X-B3-Sampled", "1",
			},
			b3on,
		},
		{
			"b3 headers with the old spelling",
			pairs{"X-B3-TraceId", b3id, "X-B3-SpanId", "a2fb4a1d1a96d312", "X-B3-Sampled", "true"},
			b3on,
		},
		{
			"b3 headers, flags mean debug",
			pairs{"X-B3-TraceId", b3id, "X-B3-SpanId", "a2fb4a1d1a96d312", "X-B3-Flags", "1"},
			b3on,
		},
		{"b3 headers with half of the ids", pairs{"X-B3-TraceId", b3id, "X-B3-Sampled", "1"}, "none"},
		{
			"b3 headers twice",
			pairs{"X-B3-TraceId", b3id, "X-B3-TraceId", b3id, "X-B3-SpanId", "a2fb4a1d1a96d312"},
			"none",
		},
		{
			"single b3 wins over several",
			pairs{"b3", b3id + "-a2fb4a1d1a96d312-1", "X-B3-TraceId", tid, "X-B3-SpanId", sid, "X-B3-Sampled", "0"},
			b3on,
		},
		{"w3c wins over b3", pairs{"traceparent", good, "b3", b3id + "-a2fb4a1d1a96d312-0"}, on},
		{
			"b3 where the trace id of w3c is zero",
			pairs{
				"traceparent", "00-" + strings.Repeat("0", 32) + "-" + sid + "-01",
				"b3", b3id + "-a2fb4a1d1a96d312-1",
			},
			b3on,
		},
		{
			"b3 headers where the single header is invalid",
			pairs{"b3", "a-b-c-d-e", "X-B3-TraceId", b3id, "X-B3-SpanId", "a2fb4a1d1a96d312", "X-B3-Sampled", "1"},
			b3on,
		},
		{"b3 where w3c is invalid", pairs{"traceparent", "00-x", "b3", b3id + "-a2fb4a1d1a96d312-1"}, b3on},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if diff := cmp.Diff(tt.want, extracted(tt.in.http())); diff != "" {
				t.Errorf("HTTP headers (-want +got):\n%s", diff)
			}
			if diff := cmp.Diff(tt.want, extracted(tt.in.md())); diff != "" {
				t.Errorf("gRPC metadata (-want +got):\n%s", diff)
			}
		})
	}
	t.Run("any carrier", func(t *testing.T) {
		c := bare{propagation.MapCarrier{"traceparent": good, "tracestate": "a=1,a=2"}}
		if got := extracted(c); got != on+" a=1" {
			t.Errorf("extracted %q", got)
		}
	})
}

func TestInject(t *testing.T) {
	p := trace.Discard().Propagator()
	in := pairs{"traceparent", "00-" + tid + "-" + sid + "-03", "tracestate", "a=1,a=2,b=3"}
	ctx := p.Extract(t.Context(), in.http())
	for _, out := range []propagation.TextMapCarrier{
		propagation.HeaderCarrier{}, trace.MD{}, bare{propagation.MapCarrier{}},
	} {
		p.Inject(ctx, out)
		if got, want := out.Get("traceparent"), "00-"+tid+"-"+sid+"-03"; got != want {
			t.Errorf("%T: traceparent %q, want %q", out, got, want)
		}
		if got := out.Get("tracestate"); got != "a=1,b=3" {
			t.Errorf("%T: tracestate %q", out, got)
		}
		if got := len(out.Keys()); got != 2 {
			t.Errorf("%T has keys %v, want two", out, out.Keys())
		}
	}
}

// OpenTelemetry's TraceState refuses keys that level 2 allows: those must get through all the same, over gRPC too.
func TestStateOfLevel2(t *testing.T) {
	p := trace.Discard()
	in := pairs{"traceparent", good, "tracestate", "foo@=1,bar=2", "tracestate", "7=3,a@b@c=4"}
	ctx := p.Propagator().Extract(t.Context(), in.md())
	assertState := func(what string, ctx context.Context, want string) {
		t.Helper()
		out := trace.MD{}
		p.Propagator().Inject(ctx, out)
		if got := out.Get("tracestate"); got != want {
			t.Errorf("tracestate of %s is %q, want %q", what, got, want)
		}
	}
	ctx, span := p.Tracer().Start(ctx, "work")
	assertState("a span of the trace", ctx, "foo@=1,bar=2,7=3,a@b@c=4")
	if got := span.SpanContext().TraceState().String(); got != "bar=2" {
		t.Errorf("the TraceState is %q, want what fits into it: %q", got, "bar=2")
	}
	added, err := span.SpanContext().TraceState().Insert("new", "5")
	if err != nil {
		t.Fatal(err)
	}
	changed := oteltrace.ContextWithSpanContext(ctx, span.SpanContext().WithTraceState(added))
	assertState("a span whose TraceState was changed", changed, "new=5,bar=2")
	other, _ := p.Tracer().Start(ctx, "other", oteltrace.WithNewRoot())
	assertState("another trace", other, "")
}

// A proxy injects into a copy of the request's headers.
func TestInjectReplacesWhatAProxyCopied(t *testing.T) {
	p := trace.Discard().Propagator()
	ctx := p.Extract(t.Context(), pairs{"traceparent", good}.http())
	for _, out := range []propagation.TextMapCarrier{
		pairs{"traceparent", "00-old", "traceparent", "00-older", "tracestate", "stale=1"}.http(),
		pairs{"traceparent", "00-old", "traceparent", "00-older", "tracestate", "stale=1"}.md(),
	} {
		p.Inject(ctx, out)
		if got := out.(propagation.ValuesGetter).Values("traceparent"); len(got) != 1 || got[0] != good {
			t.Errorf("%T: traceparent %q", out, got)
		}
		if got := out.Get("tracestate"); got != "" {
			t.Errorf("%T: tracestate %q, want none", out, got)
		}
	}
}

func TestInjectWithoutSpan(t *testing.T) {
	h := propagation.HeaderCarrier{}
	trace.Discard().Propagator().Inject(t.Context(), h)
	if len(h) != 0 {
		t.Errorf("injected %v from a context without a span", h)
	}
}

func FuzzExtract(f *testing.F) {
	f.Add(good, "a=1,b=2", "", "")
	f.Add("cc-"+tid+"-"+sid+"-01-x", "a=1,,a=2", "463ac35c9f6413ad-a2fb4a1d1a96d312-1", "1")
	f.Add("", "", tid+"-"+sid+"-d", "true")
	f.Add("", "", "0", "")
	f.Add(good, "foo@= 1 ,7=2,bar=3", "", "")
	p := trace.Discard().Propagator()
	f.Fuzz(func(t *testing.T, parent, state, b3, sampled string) {
		in := pairs{
			"traceparent", parent, "tracestate", state, "tracestate", state, "b3", b3, "x-b3-traceid", b3,
			"x-b3-sampled", sampled,
		}
		ctx := p.Extract(context.Background(), in.http())
		sc := oteltrace.SpanContextFromContext(ctx)
		if !sc.IsValid() {
			return
		}
		if sc.TraceState().Len() > 32 {
			t.Fatalf("kept %d members of tracestate", sc.TraceState().Len())
		}
		// What we accept, we pass on in a form that we accept again, unchanged.
		out := propagation.HeaderCarrier{}
		p.Inject(ctx, out)
		again := oteltrace.SpanContextFromContext(p.Extract(context.Background(), out))
		if !again.Equal(sc) {
			t.Fatalf("%v came back as %v through %v", sc, again, out)
		}
		second := propagation.HeaderCarrier{}
		p.Inject(p.Extract(context.Background(), out), second)
		if diff := cmp.Diff(out, second); diff != "" {
			t.Fatalf("what was sent is sent on in another form (-first +second):\n%s", diff)
		}
	})
}
