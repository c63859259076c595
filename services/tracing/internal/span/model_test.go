package span_test

import (
	"encoding/json"
	"fmt"
	"math"
	"net/netip"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	common "go.opentelemetry.io/proto/otlp/common/v1"
	otlp "go.opentelemetry.io/proto/otlp/trace/v1"
	"google.golang.org/protobuf/proto"

	"bijou.dev/services/tracing/internal/span"
)

func TestBegin(t *testing.T) {
	root := span.Span{ID: 1, Start: 50}
	early := span.Span{ID: 2, Parent: 1, Start: 40}
	late := span.Span{ID: 3, Parent: 1, Start: 60}
	shared := span.Span{ID: 1, Start: 55, Shared: true}
	unknown := span.Span{ID: 4}
	for _, tt := range []struct {
		name  string
		spans []span.Span
		want  int64
	}{
		{"no spans", nil, 0},
		{"the root, though another span is earlier", []span.Span{early, root, late}, 50},
		{"the earliest span when there is no root", []span.Span{late, early}, 40},
		{"the server's part of a shared span is no root", []span.Span{late, shared}, 55},
		{"a root whose start is unknown does not count", []span.Span{unknown, late}, 60},
		{"no span has a start", []span.Span{unknown}, 0},
	} {
		if got := span.Begin(tt.spans); got != tt.want {
			t.Errorf("%s: the trace begins at %d, want %d", tt.name, got, tt.want)
		}
	}
}

// Two reports of one span are joined: each field has the value of the report that has one.
func TestMergeCompletesASpan(t *testing.T) {
	remote := span.Endpoint{Service: "db", IPv4: netip.MustParseAddr("10.0.0.1")}
	first := span.Span{
		Trace: span.TraceID{Lo: 7}, ID: 2, Kind: span.Client, Duration: 3,
		Tags: []span.Tag{{Key: "a", Value: "1"}}, Annotations: []span.Annotation{{At: 1, Value: "x"}},
	}
	second := span.Span{
		Trace: span.TraceID{Lo: 7}, ID: 2, Parent: 1, Kind: span.Client, Name: "get", Start: 10, Duration: 2,
		Remote: remote, Debug: true,
		Tags:        []span.Tag{{Key: "a", Value: "2"}, {Key: "b", Value: "3"}},
		Annotations: []span.Annotation{{At: 1, Value: "x"}, {At: 2, Value: "y"}},
	}
	want := []span.Span{{
		Trace: span.TraceID{Lo: 7}, ID: 2, Parent: 1, Kind: span.Client, Name: "get", Start: 10, Duration: 3,
		Remote: remote, Debug: true,
		Tags:        []span.Tag{{Key: "a", Value: "1"}, {Key: "b", Value: "3"}},
		Annotations: []span.Annotation{{At: 1, Value: "x"}, {At: 2, Value: "y"}},
	}}
	if diff := cmp.Diff(asJSON(t, want), asJSON(t, span.Merge([]span.Span{first, second}))); diff != "" {
		t.Errorf("joined span (-want +got):\n%s", diff)
	}
}

func TestSplit(t *testing.T) {
	a, b, short := span.TraceID{Hi: 1, Lo: 7}, span.TraceID{Hi: 2, Lo: 7}, span.TraceID{Lo: 7}
	got := span.Split([]span.Span{{Trace: short, ID: 1}, {Trace: a, ID: 2}, {Trace: b, ID: 3}, {Trace: a, ID: 4}})
	var ids [][]span.ID
	for _, tr := range got {
		var list []span.ID
		for _, s := range tr {
			list = append(list, s.ID)
		}
		ids = append(ids, list)
	}
	if diff := cmp.Diff([][]span.ID{{1, 2, 4}, {3}}, ids); diff != "" {
		t.Errorf("traces (-want +got):\n%s", diff)
	}
	if got := span.Split([]span.Span{{Trace: short}, {Trace: a}}); len(got) != 1 {
		t.Errorf("one trace with a short id is split into %d", len(got))
	}
}

func TestTraceIDsThatAreRefused(t *testing.T) {
	for _, in := range []string{
		"", "0", strings.Repeat("0", 32), "x", "-1", "+1", "1_0", strings.Repeat("1", 33), "0" + strings.Repeat("1", 32),
		"x" + strings.Repeat("1", 16), strings.Repeat("1", 16) + "x" + strings.Repeat("1", 15),
	} {
		if id, err := span.ParseTraceID(in); err == nil || id != (span.TraceID{}) {
			t.Errorf("%q is read as %v", in, id)
		}
	}
	long := strings.Repeat("z", 1000)
	if _, err := span.ParseTraceID(long); err == nil || len(err.Error()) > 200 {
		t.Errorf("the error for an id of 1000 bytes has %d", len(fmt.Sprint(err)))
	}
}

func TestOTLPNumbers(t *testing.T) {
	double := func(f float64) *common.AnyValue {
		return &common.AnyValue{Value: &common.AnyValue_DoubleValue{DoubleValue: f}}
	}
	list := func(vs ...*common.AnyValue) *common.AnyValue {
		return &common.AnyValue{Value: &common.AnyValue_ArrayValue{ArrayValue: &common.ArrayValue{Values: vs}}}
	}
	s := parse(t, request(&otlp.Span{Attributes: []*common.KeyValue{
		{
			Key: "nan", Value: double(math.NaN()),
		},
		{Key: "inf", Value: double(math.Inf(-1))},
		{
			Key:   "small",
			Value: double(1e-9),
		},
		{Key: "list", Value: list(double(math.NaN()), double(math.Inf(1)), double(0.5))},
		{Key: "min", Value: &common.AnyValue{Value: &common.AnyValue_IntValue{IntValue: math.MinInt64}}},
		{Key: "", Value: double(1)},
	}}))
	for key, want := range map[string]string{
		"nan": "NaN", "inf": "-Inf", "small": "1e-09", "list": `["NaN","+Inf",0.5]`, "min": "-9223372036854775808", "": "1",
	} {
		if got, _ := s.Tag(key); got != want {
			t.Errorf("the attribute %q is stored as %q, want %q", key, got, want)
		}
	}
}

// Values are nested only so far, and lists have only so many elements, whatever a sender sends.
func TestOTLPNestedValuesAreBounded(t *testing.T) {
	v := &common.AnyValue{Value: &common.AnyValue_StringValue{StringValue: "deep"}}
	for range 200 {
		list := &common.ArrayValue{Values: []*common.AnyValue{v}}
		v = &common.AnyValue{Value: &common.AnyValue_ArrayValue{ArrayValue: list}}
	}
	var many []*common.AnyValue
	var members []*common.KeyValue
	for i := range 1000 {
		many = append(many, &common.AnyValue{Value: &common.AnyValue_IntValue{IntValue: 1}})
		members = append(members, num(fmt.Sprint(i), 1))
	}
	s := parse(t, request(&otlp.Span{Attributes: []*common.KeyValue{
		{Key: "deep", Value: v},
		{
			Key:   "list",
			Value: &common.AnyValue{Value: &common.AnyValue_ArrayValue{ArrayValue: &common.ArrayValue{Values: many}}},
		},
		{
			Key:   "map",
			Value: &common.AnyValue{Value: &common.AnyValue_KvlistValue{KvlistValue: &common.KeyValueList{Values: members}}},
		},
	}}))
	if deep, _ := s.Tag("deep"); strings.Contains(deep, "deep") || !strings.Contains(deep, "...") {
		t.Errorf("a value in 200 lists is stored as %q", deep)
	}
	for key, size := range map[string]int{"list": 256, "map": 256} {
		text, _ := s.Tag(key)
		var list []int
		var set map[string]int
		err := json.Unmarshal([]byte(text), map[string]any{"list": &list, "map": &set}[key])
		if err != nil || len(list)+len(set) != size {
			t.Errorf("the %s is stored with %d elements, want %d; error: %v", key, len(list)+len(set), size, err)
		}
	}
}

func TestOTLPEvents(t *testing.T) {
	events := []*otlp.Span_Event{
		{TimeUnixNano: 5000, Name: "plain"},
		{TimeUnixNano: 6000, Name: `with "quotes"`, Attributes: []*common.KeyValue{str("k", "v")}},
	}
	s := parse(t, request(&otlp.Span{Events: events}))
	want := []span.Annotation{{At: 5, Value: "plain"}, {At: 6, Value: `"with \"quotes\"": {"k":"v"}`}}
	if diff := cmp.Diff(want, s.Annotations); diff != "" {
		t.Errorf("annotations (-want +got):\n%s", diff)
	}
	for range 2 * span.MaxNotes {
		events = append(events, events[0])
	}
	if s = parse(t, request(&otlp.Span{Events: events})); len(s.Annotations) != span.MaxNotes+1 {
		t.Errorf("%d annotations are read, want one more than the limit, so that Clean counts the cut", len(s.Annotations))
	}
}

func TestZipkinEndpoints(t *testing.T) {
	for in, want := range map[string]span.Endpoint{
		`{}`:                                  {},
		`{"serviceName":"a","port":1}`:        {Service: "a", Port: 1},
		`{"port":65535}`:                      {Port: 65535},
		`{"port":65536}`:                      {},
		`{"port":-1}`:                         {},
		`{"port":0}`:                          {},
		`{"ipv4":"10.0.0.1"}`:                 {IPv4: netip.MustParseAddr("10.0.0.1")},
		`{"ipv4":"x","ipv6":"y"}`:             {},
		`{"ipv6":"::ffff:10.0.0.1"}`:          {IPv4: netip.MustParseAddr("10.0.0.1")},
		`{"ipv6":"fe80::1%eth0","port":4317}`: {IPv6: netip.MustParseAddr("fe80::1"), Port: 4317},
	} {
		s := one(t)(span.ParseZipkin([]byte(`[{"traceId":"1","id":"1","remoteEndpoint":` + in + `}]`)))
		if s.Remote != want {
			t.Errorf("%s is read as %+v, want %+v", in, s.Remote, want)
		}
	}
}

// Scopes share the attributes of their resource, but each span has only the name of its own scope.
func TestOTLPScopesAreKeptApart(t *testing.T) {
	req := request(&otlp.Span{Name: "first"})
	r := req.ResourceSpans[0]
	for i, name := range []string{"second", ""} {
		sp := &otlp.Span{TraceId: unhex(tid), SpanId: unhex(sid)}
		r.ScopeSpans = append(r.ScopeSpans, &otlp.ScopeSpans{
			Scope: &common.InstrumentationScope{Name: name}, Spans: []*otlp.Span{sp, sp}[:1+i],
		})
	}
	b, err := proto.Marshal(req)
	if err != nil {
		t.Fatal(err)
	}
	p, err := span.ParseOTLP(b)
	if err != nil || len(p.Spans) != 4 {
		t.Fatalf("parsed %d spans, want 4; error: %v", len(p.Spans), err)
	}
	for i, want := range []string{"lib", "second", "", ""} {
		s := &p.Spans[i]
		if got, _ := s.Tag("otel.scope.name"); got != want || s.Local.Service != "catalog" {
			t.Errorf("span %d is of the scope %q and the service %q, want %q and catalog", i, got, s.Local.Service, want)
		}
		if v, _ := s.Tag("service.version"); v != "v3" {
			t.Errorf("span %d has the tags %v, want service.version v3 of its resource", i, s.Tags)
		}
	}
}

// The size of a span, by which its memory is bounded, grows with each of its texts, tags and annotations.
func TestSizeCountsEachPart(t *testing.T) {
	empty := new(span.Span).Size()
	long := strings.Repeat("x", 1000)
	for name, s := range map[string]span.Span{
		"name":           {Name: long},
		"service":        {Local: span.Endpoint{Service: long}},
		"remote service": {Remote: span.Endpoint{Service: long}},
		"key":            {Tags: []span.Tag{{Key: long}}},
		"value":          {Tags: []span.Tag{{Value: long}}},
		"annotation":     {Annotations: []span.Annotation{{Value: long}}},
		"tags":           {Tags: make([]span.Tag, 1000)},
		"annotations":    {Annotations: make([]span.Annotation, 1000)},
	} {
		if grown := s.Size() - empty; grown < 1000 || grown > 40_000 {
			t.Errorf("a span with a long %s is %d bytes larger than an empty one, want at least 1000", name, grown)
		}
	}
	if empty < 100 {
		t.Errorf("an empty span counts as %d bytes, want at least what its struct takes", empty)
	}
}
