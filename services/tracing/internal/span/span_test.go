package span_test

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"slices"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"
	collector "go.opentelemetry.io/proto/otlp/collector/trace/v1"
	common "go.opentelemetry.io/proto/otlp/common/v1"
	resource "go.opentelemetry.io/proto/otlp/resource/v1"
	otlp "go.opentelemetry.io/proto/otlp/trace/v1"
	"google.golang.org/protobuf/proto"

	"bijou.dev/services/tracing/internal/span"
)

func str(k, v string) *common.KeyValue {
	return &common.KeyValue{Key: k, Value: &common.AnyValue{Value: &common.AnyValue_StringValue{StringValue: v}}}
}

func num(k string, v int64) *common.KeyValue {
	return &common.KeyValue{Key: k, Value: &common.AnyValue{Value: &common.AnyValue_IntValue{IntValue: v}}}
}

func unhex(s string) []byte {
	b, err := hex.DecodeString(s)
	if err != nil {
		panic(err)
	}
	return b
}

const (
	tid  = "4bf92f3577b34da6a3ce929d0e0e4736"
	sid  = "00f067aa0ba902b7"
	psid = "b7ad6b7169203331"
)

func request(s *otlp.Span) *collector.ExportTraceServiceRequest {
	s.TraceId, s.SpanId = unhex(tid), unhex(sid)
	return &collector.ExportTraceServiceRequest{ResourceSpans: []*otlp.ResourceSpans{{
		Resource: &resource.Resource{Attributes: []*common.KeyValue{
			str("service.name", "catalog"),
			str("service.version", "v3"),
		}},
		ScopeSpans: []*otlp.ScopeSpans{{
			Scope: &common.InstrumentationScope{Name: "lib", Version: "1"},
			Spans: []*otlp.Span{s},
		}},
	}}}
}

func parse(t *testing.T, req *collector.ExportTraceServiceRequest) span.Span {
	t.Helper()
	b, err := proto.Marshal(req)
	if err != nil {
		t.Fatal(err)
	}
	return one(t)(span.ParseOTLP(b))
}

// one returns a function that expects that one valid span was parsed.
func one(t *testing.T) func(span.Parsed, error) span.Span {
	t.Helper()
	return func(p span.Parsed, err error) span.Span {
		t.Helper()
		if err != nil || p.Invalid != 0 || len(p.Spans) != 1 {
			t.Fatalf("parsed %d valid and %d invalid spans, want one valid span; error: %v", len(p.Spans), p.Invalid, err)
		}
		return p.Spans[0]
	}
}

func asJSON(t *testing.T, v any) string {
	t.Helper()
	b, err := json.MarshalIndent(v, "", " ")
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// The same span in three encodings is the same span.
func TestEncodingsAgree(t *testing.T) {
	fromProto := parse(t, request(&otlp.Span{
		ParentSpanId: unhex(psid), Name: "GetMovie", Kind: otlp.Span_SPAN_KIND_CLIENT,
		StartTimeUnixNano: 1_700_000_000_123_456_789, EndTimeUnixNano: 1_700_000_000_124_456_789,
		Attributes: []*common.KeyValue{str("peer.service", "db"), num("retries", 2)},
		Status:     &otlp.Status{Code: otlp.Status_STATUS_CODE_ERROR, Message: "no"},
		Events: []*otlp.Span_Event{{
			TimeUnixNano: 1_700_000_000_123_999_000, Name: "retry",
			Attributes: []*common.KeyValue{num("n", 1)},
		}},
	}))
	fromOTLPJSON := one(t)(span.ParseOTLPJSON([]byte(`{"resourceSpans":[{"resource":{"attributes":[
		{"key":"service.name","value":{"stringValue":"catalog"}},{"key":"service.version","value":{"stringValue":"v3"}}]},
		"scopeSpans":[{"scope":{"name":"lib","version":"1"},"spans":[
		{"traceId":"4BF92F3577B34DA6A3CE929D0E0E4736","spanId":"` + sid + `","parentSpanId":"` + psid + `",
		"name":"GetMovie","kind":3,"startTimeUnixNano":"1700000000123456789","endTimeUnixNano":1700000000124456789,
		"unknownField":{"a":[1]},
		"attributes":[{"key":"peer.service","value":{"stringValue":"db"}},{"key":"retries","value":{"intValue":"2"}}],
		"status":{"code":"STATUS_CODE_ERROR","message":"no"},
		"events":[{"timeUnixNano":"1700000000123999000","name":"retry",
		"attributes":[{"key":"n","value":{"intValue":1}}]}]}]}]}]}`)))
	zipkin := `{"traceId":"` + tid + `","parentId":"` + psid + `","id":"` + sid + `","kind":"CLIENT","name":"GetMovie",
		"timestamp":1700000000123456,"duration":1000,
		"localEndpoint":{"serviceName":"catalog"},"remoteEndpoint":{"serviceName":"db"},
		"annotations":[{"timestamp":1700000000123999,"value":"\"retry\": {\"n\":1}"}],
		"tags":{"service.version":"v3","otel.scope.name":"lib","otel.scope.version":"1","peer.service":"db",
		"retries":"2","otel.status_code":"ERROR","error":"no"}}`
	want := asJSON(t, one(t)(span.ParseZipkin([]byte("["+zipkin+"]"))))
	if diff := cmp.Diff(want, asJSON(t, fromProto)); diff != "" {
		t.Errorf("OTLP (-zipkin +otlp):\n%s", diff)
	}
	if diff := cmp.Diff(want, asJSON(t, fromOTLPJSON)); diff != "" {
		t.Errorf("OTLP JSON (-zipkin +otlp):\n%s", diff)
	}
	var again span.Span
	if err := json.Unmarshal([]byte(want), &again); err != nil || asJSON(t, again) != want {
		t.Errorf("Zipkin JSON does not survive a round trip: %v", err)
	}
}

func TestOTLPMapping(t *testing.T) {
	arr := func(vs ...*common.AnyValue) *common.AnyValue {
		return &common.AnyValue{Value: &common.AnyValue_ArrayValue{ArrayValue: &common.ArrayValue{Values: vs}}}
	}
	s := func(v string) *common.AnyValue {
		return &common.AnyValue{Value: &common.AnyValue_StringValue{StringValue: v}}
	}
	client, server := otlp.Span_SPAN_KIND_CLIENT, otlp.Span_SPAN_KIND_SERVER
	tests := []struct {
		name string
		in   *otlp.Span
		want string // Zipkin JSON without what all have
	}{
		{"internal has no kind", &otlp.Span{Kind: otlp.Span_SPAN_KIND_INTERNAL}, `{}`},
		{"an unknown kind counts as internal", &otlp.Span{Kind: 17}, `{}`},
		{"producer", &otlp.Span{Kind: otlp.Span_SPAN_KIND_PRODUCER}, `{"kind":"PRODUCER"}`},
		{"consumer", &otlp.Span{Kind: otlp.Span_SPAN_KIND_CONSUMER}, `{"kind":"CONSUMER"}`},
		{
			"a very short span lasts 1 us", &otlp.Span{StartTimeUnixNano: 5000, EndTimeUnixNano: 5001},
			`{"timestamp":5,"duration":1}`,
		},
		{"an end before the start is unknown", &otlp.Span{StartTimeUnixNano: 5000, EndTimeUnixNano: 4000}, `{"timestamp":5}`},
		{
			"status ok", &otlp.Span{Status: &otlp.Status{Code: otlp.Status_STATUS_CODE_OK, Message: "x"}},
			`{"tags":{"otel.status_code":"OK"}}`,
		},
		{
			"status error without words", &otlp.Span{Status: &otlp.Status{Code: otlp.Status_STATUS_CODE_ERROR}},
			`{"tags":{"otel.status_code":"ERROR","error":""}}`,
		},
		{"an attribute named error is no error", &otlp.Span{Attributes: []*common.KeyValue{str("error", "false")}}, `{}`},
		{"values", &otlp.Span{Attributes: []*common.KeyValue{
			{Key: "bool", Value: &common.AnyValue{Value: &common.AnyValue_BoolValue{BoolValue: true}}},
			{Key: "double", Value: &common.AnyValue{Value: &common.AnyValue_DoubleValue{DoubleValue: 1.5}}},
			{Key: "bytes", Value: &common.AnyValue{Value: &common.AnyValue_BytesValue{BytesValue: []byte{1, 2}}}},
			{Key: "list", Value: arr(s("a"), arr(s("b")))},
			{
				Key: "map",
				Value: &common.AnyValue{Value: &common.AnyValue_KvlistValue{
					KvlistValue: &common.KeyValueList{Values: []*common.KeyValue{num("x", -1)}},
				}},
			},
			{Key: "none"},
		}}, `{"tags":{"bool":"true","double":"1.5","bytes":"AQI=","list":"[\"a\",[\"b\"]]","map":"{\"x\":-1}","none":""}}`},
		{
			"a span's attribute wins over its resource's",
			&otlp.Span{Attributes: []*common.KeyValue{str("service.version", "v4")}}, `{"tags":{"service.version":"v4"}}`,
		},
		{
			"dropped parts", &otlp.Span{DroppedAttributesCount: 1, DroppedEventsCount: 2, DroppedLinksCount: 3},
			`{"tags":{"otel.dropped_attributes_count":"1","otel.dropped_events_count":"2","otel.dropped_links_count":"3"}}`,
		},
		{"trace state", &otlp.Span{TraceState: "a=1"}, `{"tags":{"w3c.tracestate":"a=1"}}`},
		{
			"peer by semantic convention",
			&otlp.Span{
				Kind: client,
				Attributes: []*common.KeyValue{
					str("server.address", "db.local"), num("server.port", 5432),
					str("service.peer.name", "films-db"),
				},
			},
			`{"kind":"CLIENT","remoteEndpoint":{"serviceName":"films-db","port":5432},
				"tags":{"server.address":"db.local","server.port":"5432","service.peer.name":"films-db"}}`,
		},
		{
			"server address and socket",
			&otlp.Span{
				Kind: client,
				Attributes: []*common.KeyValue{
					str("server.address", "db.local"), str("network.peer.address", "10.0.0.7"),
					num("network.peer.port", 7000),
				},
			},
			`{"kind":"CLIENT","remoteEndpoint":{"serviceName":"db.local","ipv4":"10.0.0.7","port":7000},
				"tags":{"server.address":"db.local","network.peer.address":"10.0.0.7","network.peer.port":"7000"}}`,
		},
		{
			"server address that is an address",
			&otlp.Span{Kind: client, Attributes: []*common.KeyValue{str("server.address", "2001:db8::1")}},
			`{"kind":"CLIENT","remoteEndpoint":{"ipv6":"2001:db8::1"},"tags":{"server.address":"2001:db8::1"}}`,
		},
		{
			"on a server the address is its own",
			&otlp.Span{Kind: server, Attributes: []*common.KeyValue{str("server.address", "me")}},
			`{"kind":"SERVER","tags":{"server.address":"me"}}`,
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got := map[string]any{}
			if err := json.Unmarshal([]byte(asJSON(t, parse(t, request(tt.in)))), &got); err != nil {
				t.Fatal(err)
			}
			want := map[string]any{}
			if err := json.Unmarshal([]byte(tt.want), &want); err != nil {
				t.Fatal(err)
			}
			tags := map[string]any{"service.version": "v3", "otel.scope.name": "lib", "otel.scope.version": "1"}
			if own, ok := want["tags"].(map[string]any); ok {
				for k, v := range own {
					tags[k] = v
				}
			}
			want["tags"], want["traceId"], want["id"], want["localEndpoint"] = tags, tid, sid,
				map[string]any{"serviceName": "catalog"}
			if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("span (-want +got):\n%s", diff)
			}
		})
	}
}

func TestOTLPCountsInvalidSpans(t *testing.T) {
	req := request(&otlp.Span{Name: "good"})
	sc := req.ResourceSpans[0].ScopeSpans[0]
	sc.Spans = append(sc.Spans, []*otlp.Span{
		{},
		{TraceId: make([]byte, 16), SpanId: unhex(sid)},
		{TraceId: unhex(tid), SpanId: make([]byte, 8)},
		{TraceId: unhex(tid)[:8], SpanId: unhex(sid)},
		{TraceId: unhex(tid), SpanId: unhex(sid), ParentSpanId: []byte{1}},
	}...)
	b, _ := proto.Marshal(req)
	p, err := span.ParseOTLP(b)
	if err != nil || len(p.Spans) != 1 || p.Spans[0].Name != "good" || p.Invalid != 5 {
		t.Errorf("parsed %d valid and %d invalid spans, want 1 and 5; error: %v", len(p.Spans), p.Invalid, err)
	}
	if p.Reason == nil || !strings.Contains(p.Reason.Error(), "trace id must have 16 bytes") {
		t.Errorf("the reason is %v", p.Reason)
	}
	// In JSON, ids in base64, as in other protobuf JSON, are invalid; they are not read as other ids.
	p, err = span.ParseOTLPJSON([]byte(`{"resourceSpans":[{"scopeSpans":[{"spans":[
		{"traceId":"S/kvNXezTaajzpKdDg5HNg==","spanId":"APBnqgupArc="}]}]}]}`))
	if err != nil || p.Invalid != 1 {
		t.Errorf("base64 ids: %d invalid spans, want 1; error: %v", p.Invalid, err)
	}
}

func TestTooManySpans(t *testing.T) {
	req := request(&otlp.Span{})
	one := req.ResourceSpans[0].ScopeSpans[0].Spans[0]
	for range span.MaxSpans {
		req.ResourceSpans[0].ScopeSpans[0].Spans = append(req.ResourceSpans[0].ScopeSpans[0].Spans, one)
	}
	b, _ := proto.Marshal(req)
	if _, err := span.ParseOTLP(b); err == nil {
		t.Error("OTLP: accepted")
	}
	object := `{"traceId":"1","id":"1"}`
	if _, err := span.ParseZipkin([]byte("[" + strings.Repeat(object+",", span.MaxSpans) + object + "]")); err == nil {
		t.Error("Zipkin: accepted")
	}
	// Small on the wire, large in memory.
	if _, err := span.ParseOTLPJSON([]byte(`{"resourceSpans":[` + strings.Repeat(`{},`, 1<<20) + `{}]}`)); err == nil {
		t.Error("OTLP JSON of a million objects: accepted")
	}
	if _, err := span.ParseZipkin([]byte("[" + strings.Repeat("{},", 1<<20) + "{}]")); err == nil {
		t.Error("Zipkin JSON of a million objects: accepted")
	}
}

// Text that is not a request at all is an error, so that the sender learns of it.
func TestRequestsThatAreRefused(t *testing.T) {
	for _, in := range []string{``, `{}`, `1`, `[`, `[{"traceId":"1","id":"1"}`, `[{"traceId":"1","id":"1"}] x`, `[{]`} {
		if p, err := span.ParseZipkin([]byte(in)); err == nil {
			t.Errorf("Zipkin: %q is accepted as %d spans", in, len(p.Spans))
		}
	}
	for _, in := range []string{
		``, `[]`, `{"resourceSpans":[`, `{"resourceSpans":[1]}`,
		`{"resourceSpans":[{"resource":1}]}`,
	} {
		if p, err := span.ParseOTLPJSON([]byte(in)); err == nil {
			t.Errorf("OTLP JSON: %q is accepted as %d spans", in, len(p.Spans))
		}
	}
	for _, in := range []string{"\x0a\xff", "\x0a\x02\x0a\x7f", "\x0b", "\x00", "\x08", "\x09\x01", "x"} {
		if p, err := span.ParseOTLP([]byte(in)); err == nil {
			t.Errorf("OTLP: %q is accepted as %d spans", in, len(p.Spans))
		}
	}
}

func TestZipkinSpansThatAreInvalid(t *testing.T) {
	good := `{"traceId":"7","id":"7"}`
	for _, bad := range []string{
		`1`, `null`, `"x"`, `{}`, `{"traceId":"1"}`, `{"traceId":"0","id":"1"}`, `{"traceId":"1","id":"0"}`,
		`{"traceId":"xyz","id":"1"}`, `{"traceId":"+1","id":"1"}`, `{"traceId":"1","id":"1","kind":"BOTH"}`,
		`{"traceId":"` + strings.Repeat("1", 33) + `","id":"1"}`, `{"traceId":"1","id":"11111111111111111"}`,
		`{"traceId":"1","id":"1","timestamp":-1}`, `{"traceId":"1","id":"1","duration":-1}`,
		`{"traceId":"1","id":"1","tags":{"a":1}}`, `{"traceId":"1","id":"1","parentId":"x"}`,
	} {
		p, err := span.ParseZipkin([]byte("[" + good + "," + bad + "," + good + "]"))
		if err != nil || p.Invalid != 1 || p.Reason == nil || len(p.Spans) != 2 {
			t.Errorf("%s between two good spans: %d valid and %d invalid, reason %v, error %v",
				bad, len(p.Spans), p.Invalid, p.Reason, err)
		}
	}
}

// One bad span does not refuse the others of its request.
func TestOTLPJSONSpansThatAreInvalid(t *testing.T) {
	good := `{"traceId":"` + tid + `","spanId":"` + sid + `","name":"good"}`
	for _, bad := range []string{
		`1`, `"x"`, `{"traceId":1}`, `{"traceId":"` + tid + `","spanId":"` + sid + `","startTimeUnixNano":"soon"}`,
		`{"traceId":"` + tid + `","spanId":"` + sid + `","kind":1.5}`, `{"spanId":"` + sid + `"}`,
	} {
		p, err := span.ParseOTLPJSON([]byte(`{"resourceSpans":[{"resource":{"attributes":[
			{"key":"service.name","value":{"stringValue":"web"}}]},
			"scopeSpans":[{"spans":[` + good + "," + bad + "," + good + `]}]}]}`))
		if err != nil || p.Invalid != 1 || p.Reason == nil || len(p.Spans) != 2 {
			t.Errorf("%s between two good spans: %d valid and %d invalid, reason %v, error %v",
				bad, len(p.Spans), p.Invalid, p.Reason, err)
			continue
		}
		if s := p.Spans[1]; s.Name != "good" || s.Local.Service != "web" {
			t.Errorf("%s: the span after it is %+v", bad, s)
		}
	}
}

func TestOTLPSpansThatAreNotProtobuf(t *testing.T) {
	req := request(&otlp.Span{Name: "good"})
	whole, _ := proto.Marshal(req)
	bad, _ := proto.Marshal(request(&otlp.Span{Name: "bad"}))
	bad = bytes.Replace(bad, []byte("\x2a\x03bad"), []byte("\x2a\x09bad"), 1) // the name is longer than the span
	p, err := span.ParseOTLP(slices.Concat(whole, bad, whole))
	if err != nil || p.Invalid != 1 || len(p.Spans) != 2 {
		t.Errorf("parsed %d valid and %d invalid spans, want 2 and 1; error: %v", len(p.Spans), p.Invalid, err)
	}
}

// Text that is not UTF-8 is repaired, in each format. A half of a surrogate pair cannot be written in UTF-8.
func TestInvalidTextIsRepaired(t *testing.T) {
	wire, err := proto.Marshal(request(&otlp.Span{Name: "a##b", Attributes: []*common.KeyValue{str("##", "##")}}))
	if err != nil {
		t.Fatal(err)
	}
	otlpJSON := func(rest string) span.Span {
		return one(t)(span.ParseOTLPJSON([]byte(`{"resourceSpans":[{"scopeSpans":[{"spans":[
			{"traceId":"` + tid + `","spanId":"` + sid + `",` + rest + `}]}]}]}`)))
	}
	zipkin := func(rest string) span.Span {
		return one(t)(span.ParseZipkin([]byte(`[{"traceId":"1","id":"1",` + rest + `}]`)))
	}
	for name, parsed := range map[string]span.Span{
		"OTLP": one(t)(span.ParseOTLP(bytes.ReplaceAll(wire, []byte("##"), []byte("\xff\xfe")))),
		"OTLP JSON": otlpJSON(
			"\"name\":\"a\xff\xfeb\",\"attributes\":[{\"key\":\"\xff\",\"value\":{\"stringValue\":\"\xff\"}}]",
		),
		"OTLP JSON with half of a pair": otlpJSON(
			`"name":"a\ud800b","attributes":[{"key":"\udfff","value":{"stringValue":"\ud800"}}]`,
		),
		"Zipkin":                     zipkin("\"name\":\"a\xffb\",\"tags\":{\"\xff\":\"\xff\"}"),
		"Zipkin with half of a pair": zipkin(`"name":"a\ud800b","tags":{"\ud800":"\ud800"}`),
	} {
		parsed.Clean()
		if parsed.Name != "a\uFFFDb" {
			t.Errorf("%s: the name is %q, want %q", name, parsed.Name, "a\uFFFDb")
		}
		if v, _ := parsed.Tag("\uFFFD"); v != "\uFFFD" {
			t.Errorf("%s: the tags are %q", name, parsed.Tags)
		}
	}
}

func TestCleanCutsToTheLimits(t *testing.T) {
	s := span.Span{
		Name: strings.Repeat("é", span.MaxName), Tags: make([]span.Tag, span.MaxTags+3),
		Local:       span.Endpoint{Service: strings.Repeat("l", span.MaxName+1)},
		Remote:      span.Endpoint{Service: strings.Repeat("r", span.MaxName+1)},
		Annotations: make([]span.Annotation, span.MaxNotes+2),
	}
	s.Tags[0] = span.Tag{Key: strings.Repeat("k", span.MaxName+1), Value: strings.Repeat("x", span.MaxValue+1)}
	s.Annotations[0].Value = strings.Repeat("y", span.MaxValue+1)
	if n := s.Clean(); n != 6+3+2 {
		t.Errorf("Clean returns %d, want 11: 6 texts, 3 tags, 2 annotations", n)
	}
	if len(s.Tags) != span.MaxTags || len(s.Annotations) != span.MaxNotes {
		t.Errorf("%d tags and %d annotations are left, want %d and %d",
			len(s.Tags), len(s.Annotations), span.MaxTags, span.MaxNotes)
	}
	for what, text := range map[string]struct {
		s     string
		limit int
	}{
		"name": {s.Name, span.MaxName}, "service": {s.Local.Service, span.MaxName},
		"remote service": {s.Remote.Service, span.MaxName}, "key": {s.Tags[0].Key, span.MaxName},
		"value": {s.Tags[0].Value, span.MaxValue}, "annotation": {s.Annotations[0].Value, span.MaxValue},
	} {
		if len(text.s) > text.limit || len(text.s) < text.limit-4 || !utf8.ValidString(text.s) {
			t.Errorf("the %s has %d bytes, want at most %d of valid UTF-8", what, len(text.s), text.limit)
		}
	}
	if n := s.Clean(); n != 0 {
		t.Errorf("a second Clean returns %d, want 0", n)
	}
}

func TestMerge(t *testing.T) {
	short, long := span.TraceID{Lo: 7}, span.TraceID{Hi: 9, Lo: 7}
	got := span.Merge([]span.Span{
		{Trace: short, ID: 2, Start: 20, Kind: span.Client, Tags: []span.Tag{{Key: "a", Value: "1"}}},
		{Trace: long, ID: 1, Start: 10},
		{
			Trace: short, ID: 2, Start: 20, Kind: span.Client, Duration: 5,
			Tags: []span.Tag{{Key: "a", Value: "1"}, {Key: "b", Value: "2"}},
		},
		{Trace: short, ID: 2, Start: 21, Kind: span.Server, Shared: true},
	})
	want := []span.Span{
		{Trace: long, ID: 1, Start: 10},
		{
			Trace: long, ID: 2, Start: 20, Kind: span.Client, Duration: 5,
			Tags: []span.Tag{{Key: "a", Value: "1"}, {Key: "b", Value: "2"}},
		},
		{Trace: long, ID: 2, Start: 21, Kind: span.Server, Shared: true},
	}
	if a, b := asJSON(t, want), asJSON(t, got); a != b {
		t.Error(cmp.Diff(a, b))
	}
}

func TestTraceID(t *testing.T) {
	for in, want := range map[string]string{
		"1": "0000000000000001", tid: tid, tid[16:]: tid[16:], "0" + tid[1:]: "0" + tid[1:],
		"0000000000000000" + tid[16:]: tid[16:], "4BF92F3577B34DA6A3CE929D0E0E4736": tid,
	} {
		if id, err := span.ParseTraceID(in); err != nil || id.String() != want {
			t.Errorf("%s is read as %s: %v", in, id, err)
		}
	}
	full, _ := span.ParseTraceID(tid)
	half, _ := span.ParseTraceID(tid[16:])
	other, _ := span.ParseTraceID("1" + tid[1:])
	if !full.Joins(half) || !half.Joins(full) || full.Joins(other) {
		t.Error("ids join wrongly")
	}
}

func FuzzOTLP(f *testing.F) {
	b, _ := proto.Marshal(request(&otlp.Span{
		Name: "x", Attributes: []*common.KeyValue{num("a", 1)},
		Events: []*otlp.Span_Event{{Name: "e", Attributes: []*common.KeyValue{str("k", "v")}}},
	}))
	f.Add(b)
	f.Add([]byte{0x0a, 0x02, 0x12, 0x00})
	f.Fuzz(func(t *testing.T, b []byte) {
		p, _ := span.ParseOTLP(b)
		check(t, p.Spans)
	})
}

func FuzzOTLPJSON(f *testing.F) {
	f.Add([]byte(`{"resourceSpans":[{"scopeSpans":[{"spans":[{"traceId":"` + tid + `","spanId":"` + sid + `",
		"attributes":[{"key":"a","value":{"arrayValue":{"values":[{"doubleValue":"NaN"}]}}}]}]}]}]}`))
	f.Add([]byte(`{"resourceSpans":null}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		p, _ := span.ParseOTLPJSON(b)
		check(t, p.Spans)
	})
}

func FuzzZipkin(f *testing.F) {
	f.Add([]byte(`[{"traceId":"` + tid + `","id":"` + sid + `","kind":"SERVER","shared":true,
		"localEndpoint":{"ipv4":"1.2.3.4","ipv6":"::1","port":80},"tags":{"a":"b"},
		"annotations":[{"timestamp":1,"value":"x"}]}]`))
	f.Fuzz(func(t *testing.T, b []byte) {
		p, _ := span.ParseZipkin(b)
		check(t, p.Spans)
	})
}

// check asserts what the rest of the service relies on, and that spans can be written out and read again.
func check(t *testing.T, spans []span.Span) {
	if len(spans) > span.MaxSpans {
		t.Fatalf("%d spans", len(spans))
	}
	for _, s := range spans {
		s.Clean()
		if !utf8.ValidString(s.Name) {
			t.Fatalf("the name %q is not UTF-8", s.Name)
		}
		if s.ID == 0 || s.Trace == (span.TraceID{}) || s.Kind > span.Consumer || len(s.Tags) > span.MaxTags {
			t.Fatalf("bad span %+v", s)
		}
		b, err := json.Marshal(s)
		if err != nil {
			t.Fatal(err)
		}
		var again span.Span
		if err := json.Unmarshal(b, &again); err != nil && s.Start >= 0 && s.Duration >= 0 {
			t.Fatalf("reading %s: %v", b, err)
		}
	}
	span.Merge(spans)
}
