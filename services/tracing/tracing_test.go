package tracing_test

import (
	"bytes"
	"compress/gzip"
	"context"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	collector "go.opentelemetry.io/proto/otlp/collector/trace/v1"
	common "go.opentelemetry.io/proto/otlp/common/v1"
	resource "go.opentelemetry.io/proto/otlp/resource/v1"
	otlp "go.opentelemetry.io/proto/otlp/trace/v1"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	encgzip "google.golang.org/grpc/encoding/gzip"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"bijou.dev/platform/discovery"
	"bijou.dev/platform/errs"
	"bijou.dev/platform/memnet"
	"bijou.dev/platform/service"
	"bijou.dev/platform/trace"
	"bijou.dev/services/tracing"
)

// server is a replica of the service on an in-memory network.
type server struct {
	*service.Process
	known  *discovery.Static // the replicas that it knows
	t      testing.TB
	net    *memnet.Network
	host   string
	client *http.Client
	stop   func() // waits until it has ended; more calls do nothing
}

func start(t testing.TB, n *memnet.Network, host string, opts tracing.Options) *server {
	t.Helper()
	return startWithLog(t, n, host, opts, nil)
}

func startWithLog(t testing.TB, n *memnet.Network, host string, opts tracing.Options, log *slog.Logger) *server {
	t.Helper()
	if opts.Dir == "" {
		opts.Dir = t.TempDir()
	}
	known := discovery.NewStatic(nil)
	p, err := service.New(t.Context(), service.Options{
		Name: "tracing", Instance: host, Drain: 20 * time.Millisecond,
		Listen: map[string]string{
			"otlp": host + ":4317", "otlphttp": host + ":4318", "zipkin": host + ":9411",
			"admin": host + ":9090",
		},
		Net:   service.Net{Listen: n.Listen, DialContext: n.DialContext},
		Known: known,
		Log:   log,
	}, func(ctx context.Context, setup *service.Setup) error { return tracing.New(ctx, setup, opts) })
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- p.Run(ctx) }()
	stop := sync.OnceFunc(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("running %s: %v", host, err)
		}
	})
	t.Cleanup(stop)
	return &server{p, known, t, n, host, memoryClient(n), stop}
}

func memoryClient(n *memnet.Network) *http.Client {
	return &http.Client{Transport: &http.Transport{DialContext: n.DialContext}}
}

// do sends a request and returns the answer with its body read.
func (s *server) do(method, port, path, contentType, encoding string, body []byte) (*http.Response, string) {
	s.t.Helper()
	req, err := http.NewRequestWithContext(s.t.Context(), method, "http://"+s.host+":"+port+path, bytes.NewReader(body))
	if err != nil {
		s.t.Fatal(err)
	}
	if contentType != "" {
		req.Header.Set("Content-Type", contentType)
	}
	if encoding != "" {
		req.Header.Set("Content-Encoding", encoding)
	}
	resp, err := s.client.Do(req)
	if err != nil {
		s.t.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		s.t.Fatal(err)
	}
	return resp, string(b)
}

// get asks the query API and decodes the answer.
func (s *server) get(path string, into any) *http.Response {
	s.t.Helper()
	resp, body := s.do("GET", "9411", path, "", "", nil)
	if resp.StatusCode != 200 {
		s.t.Fatalf("GET %s: %s: %s", path, resp.Status, body)
	}
	if err := json.Unmarshal([]byte(body), into); err != nil {
		s.t.Fatalf("GET %s: %v: %s", path, err, body)
	}
	return resp
}

func (s *server) post(spans string) {
	s.t.Helper()
	if resp, body := s.do("POST", "9411", "/api/v2/spans", "application/json", "", []byte(spans)); resp.StatusCode != 202 {
		s.t.Fatalf("posting spans: %s: %s", resp.Status, body)
	}
}

func (s *server) otlp(opts ...grpc.DialOption) collector.TraceServiceClient {
	s.t.Helper()
	return collector.NewTraceServiceClient(s.dial(opts...))
}

func (s *server) dial(opts ...grpc.DialOption) *grpc.ClientConn {
	s.t.Helper()
	opts = append(opts, grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithContextDialer(func(ctx context.Context, addr string) (net.Conn, error) {
			return s.net.DialContext(ctx, "tcp", addr)
		}))
	conn, err := grpc.NewClient("passthrough:///"+s.host+":4317", opts...)
	if err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(func() { _ = conn.Close() })
	return conn
}

// metric returns a value of the admin page.
func (s *server) metric(name string) float64 {
	s.t.Helper()
	_, body := s.do("GET", "9090", "/metrics", "", "", nil)
	for line := range strings.SplitSeq(body, "\n") {
		if rest, ok := strings.CutPrefix(line, name+" "); ok {
			v, err := strconv.ParseFloat(rest, 64)
			if err != nil {
				s.t.Fatal(err)
			}
			return v
		}
	}
	return 0
}

func zip(b []byte) []byte {
	var buf bytes.Buffer
	z := gzip.NewWriter(&buf)
	_, _ = z.Write(b)
	_ = z.Close()
	return buf.Bytes()
}

func id(hexa string) []byte {
	b, err := hex.DecodeString(hexa)
	if err != nil {
		panic(err)
	}
	return b
}

func request(traceID string, start time.Time) *collector.ExportTraceServiceRequest {
	attr := func(k, v string) *common.KeyValue {
		return &common.KeyValue{Key: k, Value: &common.AnyValue{Value: &common.AnyValue_StringValue{StringValue: v}}}
	}
	return &collector.ExportTraceServiceRequest{ResourceSpans: []*otlp.ResourceSpans{{
		Resource: &resource.Resource{Attributes: []*common.KeyValue{attr("service.name", "catalog")}},
		ScopeSpans: []*otlp.ScopeSpans{{Spans: []*otlp.Span{{
			TraceId: id(traceID), SpanId: id("00f067aa0ba902b7"), ParentSpanId: id("00f067aa0ba90200"), Name: "GetMovie",
			Kind:              otlp.Span_SPAN_KIND_CLIENT,
			StartTimeUnixNano: uint64(start.UnixNano()), EndTimeUnixNano: uint64(start.Add(time.Millisecond).UnixNano()),
			Attributes: []*common.KeyValue{attr("peer.service", "db")},
		}}}},
	}}}
}

// A span is stored alike in whichever format and encoding it was sent.
func TestFormatsAreStoredAlike(t *testing.T) {
	s := start(t, memnet.New(), "a", tracing.Options{})
	at := time.Now().Add(-time.Minute).Truncate(time.Millisecond)
	zipkin := func(tid string) []byte {
		return fmt.Appendf(nil, `[{"traceId":%q,"id":"00f067aa0ba902b7","parentId":"00f067aa0ba90200",
			"name":"GetMovie","kind":"CLIENT","timestamp":%d,"duration":1000,
			"localEndpoint":{"serviceName":"catalog"},"remoteEndpoint":{"serviceName":"db"},"tags":{"peer.service":"db"}}]`, tid, at.UnixMicro())
	}
	protobuf := func(tid string) []byte {
		b, err := proto.Marshal(request(tid, at))
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	post := func(port, path, contentType, encoding string, status int, body []byte) {
		t.Helper()
		if encoding == "gzip" {
			body = zip(body)
		}
		if resp, b := s.do("POST", port, path, contentType, encoding, body); resp.StatusCode != status {
			t.Fatalf("%s %s %s: %s: %s", path, contentType, encoding, resp.Status, b)
		}
	}
	export := func(tid string, opts ...grpc.CallOption) {
		t.Helper()
		resp, err := s.otlp().Export(t.Context(), request(tid, at), opts...)
		if err != nil || resp.GetPartialSuccess() != nil {
			t.Fatal(resp, err)
		}
	}
	tid := func(n int) string { return fmt.Sprintf("4bf92f3577b34da6a3ce929d0e0e47%02x", n) }
	export(tid(1))
	export(tid(2), grpc.UseCompressor(encgzip.Name))
	post("4318", "/v1/traces", "application/x-protobuf", "", 200, protobuf(tid(3)))
	post("4318", "/v1/traces", "application/x-protobuf", "gzip", 200, protobuf(tid(4)))
	post("4318", "/v1/traces", "application/json", "", 200, []byte(otlpJSON(tid(5), at)))
	post("4318", "/v1/traces", "application/json; charset=utf-8", "gzip", 200, []byte(otlpJSON(tid(6), at)))
	post("9411", "/api/v2/spans", "application/json", "", 202, zipkin(tid(7)))
	post("9411", "/api/v2/spans", "application/json", "gzip", 202, zipkin(tid(8)))
	post("9411", "/zipkin/api/v2/spans", "", "", 202, zipkin(tid(9)))

	var want []any
	if err := json.Unmarshal(zipkin(tid(7)), &want); err != nil {
		t.Fatal(err)
	}
	for n := range 9 {
		want[0].(map[string]any)["traceId"] = tid(n + 1)
		var got []any
		s.get("/api/v2/trace/"+tid(n+1), &got)
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("trace %d (-want +got):\n%s", n+1, diff)
		}
	}
	if got := s.metric("bijou_tracing_spans_stored_total"); got != 9 {
		t.Errorf("%v spans stored, want 9", got)
	}
}

// One bad span does not refuse the others of its request. Text that is not UTF-8 is no reason to refuse a span.
func TestOneBadSpanDoesNotRefuseTheOthers(t *testing.T) {
	s := start(t, memnet.New(), "a", tracing.Options{})
	at := time.Now().Add(-time.Minute)
	const good, odd, other = "4bf92f3577b34da6a3ce929d0e0e4701", "4bf92f3577b34da6a3ce929d0e0e4702",
		"4bf92f3577b34da6a3ce929d0e0e4703"
	protobuf := func() []byte {
		req, list := request(good, at), []string{odd, other}
		for _, id := range list {
			req.ResourceSpans = append(req.ResourceSpans, request(id, at).ResourceSpans...)
		}
		req.ResourceSpans[1].ScopeSpans[0].Spans[0].Name = "##"
		req.ResourceSpans[1].ScopeSpans[0].Spans = append(req.ResourceSpans[1].ScopeSpans[0].Spans,
			&otlp.Span{Name: "no ids"})
		b, err := proto.Marshal(req)
		if err != nil {
			t.Fatal(err)
		}
		return bytes.ReplaceAll(b, []byte("##"), []byte("\xff\xfe"))
	}
	otlpJSON := func() []byte {
		one := func(id, name, start string) string {
			return fmt.Sprintf(`{"traceId":%q,"spanId":"00f067aa0ba902b7","name":%s,"startTimeUnixNano":%s}`, id, name, start)
		}
		now := fmt.Sprint(at.UnixNano())
		return fmt.Appendf(nil, `{"resourceSpans":[{"scopeSpans":[{"spans":[%s,%s,%s,%s]}]}]}`,
			one(good, `"GetMovie"`, now), one(odd, "\"\xff\xfe\"", now), one(good, `"bad"`, `"soon"`),
			one(other, `"GetMovie"`, now))
	}
	zipkin := func() []byte {
		one := func(id, name, kind string) string {
			return fmt.Sprintf(`{"traceId":%q,"id":"00f067aa0ba902b7","name":%s,"kind":%q,"timestamp":%d}`, id, name, kind,
				at.UnixMicro())
		}
		return fmt.Appendf(nil, `[%s,%s,%s,%s]`, one(good, `"GetMovie"`, "CLIENT"), one(odd, "\"\xff\"", "CLIENT"),
			one(good, `"bad"`, "NONE"), one(other, `"GetMovie"`, "CLIENT"))
	}
	for i, tt := range []struct {
		name, port, path, contentType string
		status                        int
		body                          []byte
	}{
		{"OTLP", "4318", "/v1/traces", "application/x-protobuf", 200, protobuf()},
		{"OTLP JSON", "4318", "/v1/traces", "application/json", 200, otlpJSON()},
		{"Zipkin", "9411", "/api/v2/spans", "application/json", 202, zipkin()},
	} {
		t.Run(tt.name, func(t *testing.T) {
			resp, body := s.do("POST", tt.port, tt.path, tt.contentType, "", tt.body)
			if resp.StatusCode != tt.status {
				t.Fatalf("%s: %s, want %d", resp.Status, body, tt.status)
			}
			stored, invalid := s.metric("bijou_tracing_spans_stored_total"),
				s.metric(`bijou_tracing_spans_dropped_total{reason="invalid"}`)
			if n := float64(i + 1); stored != 3*n || invalid != n {
				t.Errorf("%v spans are stored and %v invalid, want %v and %v", stored, invalid, 3*n, n)
			}
			var spans []struct{ Name string }
			s.get("/api/v2/trace/"+odd, &spans)
			for _, span := range spans {
				if strings.Trim(span.Name, "\uFFFD") != "" {
					t.Errorf("the name that was not UTF-8 is stored as %q", span.Name)
				}
			}
		})
	}
	if resp, body := s.do("POST", "9411", "/api/v2/spans", "application/json", "",
		[]byte(`[{"traceId":"1"}]`)); resp.StatusCode != 400 ||
		!strings.Contains(body, "id:") {
		t.Errorf("a request without a valid span: %s %q, want 400 and the reason", resp.Status, body)
	}
}

func TestPartialSuccess(t *testing.T) {
	s := start(t, memnet.New(), "a", tracing.Options{})
	req := request("4bf92f3577b34da6a3ce929d0e0e4736", time.Now())
	sc := req.ResourceSpans[0].ScopeSpans[0]
	old := proto.Clone(sc.Spans[0]).(*otlp.Span)
	old.StartTimeUnixNano = uint64(time.Now().Add(-100 * time.Hour).UnixNano())
	sc.Spans = append(sc.Spans, &otlp.Span{Name: "no ids"}, old)
	assertPartly := func(over string, resp *collector.ExportTraceServiceResponse, err error) {
		t.Helper()
		p := resp.GetPartialSuccess()
		if err != nil || p.GetRejectedSpans() != 2 {
			t.Errorf("%s: %d spans are refused, want 2; error: %v", over, p.GetRejectedSpans(), err)
		}
		for _, reason := range []string{
			"1 spans are not valid", "trace id must have 16 bytes",
			"1 spans are older than retention",
		} {
			if !strings.Contains(p.GetErrorMessage(), reason) {
				t.Errorf("%s: the message %q does not say %q", over, p.GetErrorMessage(), reason)
			}
		}
	}
	resp, err := s.otlp().Export(t.Context(), req)
	assertPartly("gRPC", resp, err)
	b, _ := proto.Marshal(req)
	_, body := s.do("POST", "4318", "/v1/traces", "application/x-protobuf", "", b)
	resp = new(collector.ExportTraceServiceResponse)
	assertPartly("HTTP", resp, proto.Unmarshal([]byte(body), resp))
	if got := s.metric(`bijou_tracing_spans_dropped_total{reason="expired"}`); got != 2 {
		t.Errorf("%v spans are counted as expired, want 2", got)
	}
}

// The memory that a request holds is given back at its end, whether its spans are stored or refused.
func TestMemoryIsGivenBack(t *testing.T) {
	const limit = 1 << 20
	s := start(t, memnet.New(), "a", tracing.Options{InFlight: limit})
	protobuf := func(req *collector.ExportTraceServiceRequest) []byte {
		b, err := proto.Marshal(req)
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	named := func(n int) *collector.ExportTraceServiceRequest {
		req := request("4bf92f3577b34da6a3ce929d0e0e4736", time.Now())
		req.ResourceSpans[0].ScopeSpans[0].Spans[0].Name = strings.Repeat("x", n)
		return req
	}
	// Many spans share one name in the request; in memory each is larger than on the wire.
	many := request("4bf92f3577b34da6a3ce929d0e0e4736", time.Now())
	for range 4000 {
		many.ResourceSpans[0].ScopeSpans[0].Spans = append(many.ResourceSpans[0].ScopeSpans[0].Spans,
			many.ResourceSpans[0].ScopeSpans[0].Spans[0])
	}
	old := request("4bf92f3577b34da6a3ce929d0e0e4736", time.Now().Add(-1000*time.Hour))
	zipkin := func(n int) []byte {
		return []byte(`[{"traceId":"1","id":"1","name":"` + strings.Repeat("x", n) + `"}]`)
	}
	export := func(req *collector.ExportTraceServiceRequest, want codes.Code) func(*testing.T) {
		return func(t *testing.T) {
			if _, err := s.otlp().Export(t.Context(), req); status.Code(err) != want {
				t.Errorf("exporting: %v, want %v", err, want)
			}
		}
	}
	post := func(port, contentType, encoding string, body []byte, want int) func(*testing.T) {
		path := map[string]string{"4318": "/v1/traces", "9411": "/api/v2/spans"}[port]
		return func(t *testing.T) {
			if resp, text := s.do("POST", port, path, contentType, encoding, body); resp.StatusCode != want {
				t.Errorf("posting: %s %s, want %d", resp.Status, text, want)
			}
		}
	}
	for name, send := range map[string]func(*testing.T){
		"gRPC, stored":                         export(named(100), codes.OK),
		"gRPC, too large a request":            export(named(2*limit), codes.ResourceExhausted),
		"gRPC, too much memory for its spans":  export(many, codes.ResourceExhausted),
		"gRPC, all spans expired":              export(old, codes.OK),
		"HTTP, stored":                         post("4318", asProto, "", protobuf(named(100)), 200),
		"HTTP, grows over the limit":           post("4318", asProto, "gzip", zip(protobuf(named(2*limit))), 429),
		"HTTP, larger than a request may be":   post("4318", asProto, "gzip", zip(protobuf(named(5<<20))), 429),
		"HTTP, too much memory for its spans":  post("4318", asProto, "", protobuf(many), 429),
		"HTTP, no protobuf":                    post("4318", asProto, "", []byte(strings.Repeat("\x07", limit/4)), 400),
		"OTLP JSON, stored":                    post("4318", asJSON, "", []byte(`{"resourceSpans":[]}`), 200),
		"OTLP JSON, too large to be read":      post("4318", asJSON, "", []byte(strings.Repeat(" ", limit/2)), 429),
		"OTLP JSON, no JSON":                   post("4318", asJSON, "", []byte(strings.Repeat("x", limit/8)), 400),
		"Zipkin, stored":                       post("9411", asJSON, "", zipkin(100), 202),
		"Zipkin, too large to be read":         post("9411", asJSON, "", zipkin(limit/2), 429),
		"Zipkin, not valid":                    post("9411", asJSON, "", []byte(`[{"traceId":"1"}]`), 400),
		"Zipkin, broken in the middle of gzip": post("9411", asJSON, "gzip", zip(zipkin(limit / 4))[:200], 400),
	} {
		t.Run(name, func(t *testing.T) {
			send(t)
			if n := s.metric("bijou_tracing_in_flight_bytes"); n != 0 {
				t.Errorf("%v bytes are still in flight after the answer", n)
			}
		})
	}
}

// When too much memory is in flight, a sender is refused in its own protocol, with the time after which it may retry.
func TestBackPressure(t *testing.T) {
	s := start(t, memnet.New(), "a", tracing.Options{InFlight: 1 << 10})
	_, err := s.otlp().Export(t.Context(), big())
	if err = errs.FromRPC(err); errs.KindOf(err) != errs.Exhausted || errs.RetryAfter(err) == 0 {
		t.Errorf("over gRPC: %v, retry after %v", err, errs.RetryAfter(err))
	}
	b, _ := proto.Marshal(big())
	if resp, _ := s.do("POST", "4318", "/v1/traces", "application/x-protobuf", "", b); resp.StatusCode != 429 ||
		resp.Header.Get("Retry-After") == "" {
		t.Errorf("over HTTP: %s, retry after %q", resp.Status, resp.Header.Get("Retry-After"))
	}
	if resp, _ := s.do("POST", "9411", "/api/v2/spans", "application/json", "",
		[]byte(`[{"traceId":"1","id":"1"}]`)); resp.StatusCode != 429 || resp.Header.Get("Retry-After") == "" {
		t.Errorf("Zipkin: %s, retry after %q", resp.Status, resp.Header.Get("Retry-After"))
	}
	if s.metric(`bijou_tracing_spans_dropped_total{reason="busy"}`) == 0 {
		t.Error("refusals are not counted")
	}
}

func big() *collector.ExportTraceServiceRequest {
	req := request("4bf92f3577b34da6a3ce929d0e0e4736", time.Now())
	req.ResourceSpans[0].ScopeSpans[0].Spans[0].Name = strings.Repeat("x", 4<<10)
	return req
}

// film posts a trace of a call from web to catalog, which fails or not.
func film(trace string, at time.Time, failed bool) string {
	tag := ""
	if failed {
		tag = `,"error":""`
	}
	us := at.UnixMicro()
	return fmt.Sprintf(`[
		{"traceId":%[1]q,"id":"1","kind":"SERVER","name":"GET /","timestamp":%[2]d,"duration":5000,
		"localEndpoint":{"serviceName":"web"},"tags":{"http.method":"GET","cloud.availability_zone":"a"}},
		{"traceId":%[1]q,"id":"2","parentId":"1","kind":"CLIENT","name":"get","timestamp":%[3]d,"duration":3000,
		"localEndpoint":{"serviceName":"web"},"remoteEndpoint":{"serviceName":"catalog"}},
		{"traceId":%[1]q,"id":"3","parentId":"2","kind":"SERVER","name":"get","timestamp":%[4]d,"duration":2000,
		"localEndpoint":{"serviceName":"catalog"},"tags":{"k":"v"%[5]s}}]`,
		trace, us, us+100, us+200, tag)
}

func TestQueries(t *testing.T) {
	s := start(t, memnet.New(), "a", tracing.Options{})
	at := time.Now().Add(-time.Hour)
	s.post(film("a1", at, false))
	s.post(film("a2", at.Add(time.Minute), true))
	s.post(film("a3", at.Add(2*time.Minute), false))
	end := at.Add(10 * time.Minute).UnixMilli()
	window := fmt.Sprintf("endTs=%d&lookback=%d", end, time.Hour.Milliseconds())

	names := func(path string, want ...string) {
		t.Helper()
		var got []string
		s.get(path, &got)
		if !slices.Equal(got, want) {
			t.Errorf("%s: %v, want %v", path, got, want)
		}
	}
	names("/api/v2/services", "catalog", "web")
	names("/api/v2/spans?serviceName=web", "GET /", "get")
	names("/api/v2/remoteServices?serviceName=web", "catalog")
	names("/api/v2/remoteServices?serviceName=unknown")
	names("/api/v2/autocompleteKeys", "deployment.environment.name", "cloud.availability_zone", "service.version")
	names("/api/v2/autocompleteValues?key=cloud.availability_zone", "a")

	for _, tt := range []struct {
		query string
		want  string
	}{
		{"", "a3 a2 a1"},
		{"&limit=1", "a3"},
		{"&serviceName=catalog&annotationQuery=" + url.QueryEscape("error and k=v"), "a2"},
		{"&serviceName=web&annotationQuery=error", ""},
		{"&serviceName=web&spanName=get&remoteServiceName=catalog", "a3 a2 a1"},
		{"&serviceName=all&spanName=all", "a3 a2 a1"},
		{"&annotationQuery=" + url.QueryEscape("http.method=POST"), ""},
		{"&minDuration=5000&maxDuration=5000", "a3 a2 a1"},
		{"&minDuration=5001", ""},
		{fmt.Sprintf("&endTs=%d", at.Add(90*time.Second).UnixMilli()), "a2 a1"},
		{fmt.Sprintf("&lookback=%d", (9 * time.Minute).Milliseconds()), "a3 a2"},
	} {
		q := window + tt.query
		if strings.Contains(tt.query, "endTs") || strings.Contains(tt.query, "lookback") {
			q = tt.query[1:] + "&" + window // the first counts
		}
		var got [][]struct{ TraceID string }
		s.get("/api/v2/traces?"+q, &got)
		var ids []string
		for _, tr := range got {
			ids = append(ids, strings.TrimLeft(tr[0].TraceID, "0"))
			if len(tr) != 3 {
				t.Errorf("%s: trace of %d spans", tt.query, len(tr))
			}
		}
		if got := strings.Join(ids, " "); got != tt.want {
			t.Errorf("%s: traces %q, want %q", tt.query, got, tt.want)
		}
	}

	var tr []any
	s.get("/zipkin/api/v2/trace/00000000000000a1", &tr)
	s.get("/api/v2/trace/463ac35c9f6413ad00000000000000a1", &tr) // asked with 128 bits, stored with 64
	var many [][]any
	s.get("/api/v2/traceMany?traceIds=a1,a3,ffff", &many)
	if len(tr) != 3 || len(many) != 2 {
		t.Errorf("a trace of %d spans and %d of many", len(tr), len(many))
	}
	var deps []map[string]any
	s.get("/api/v2/dependencies?"+window, &deps)
	want := []map[string]any{{"parent": "web", "child": "catalog", "callCount": 3.0, "errorCount": 1.0}}
	if diff := cmp.Diff(want, deps); diff != "" {
		t.Errorf("dependencies (-want +got):\n%s", diff)
	}
	s.get(fmt.Sprintf("/api/v2/dependencies?endTs=%d", at.Add(-time.Minute).UnixMilli()), &deps)
	if len(deps) != 0 {
		t.Errorf("dependencies of another time: %v", deps)
	}
	var page map[string]any
	for _, path := range []string{"/health", "/info", "/config.json", "/zipkin/config.json"} {
		s.get(path, &page)
	}
	for path, status := range map[string]int{
		"/api/v2/trace/ffff": 404, "/api/v2/trace/xyz": 400, "/api/v2/trace/0": 400, "/api/v2/spans": 400,
		"/api/v2/remoteServices":     400,
		"/api/v2/autocompleteValues": 400, "/api/v2/traceMany": 400, "/api/v2/traceMany?traceIds=a,b,zz": 400,
		"/api/v2/dependencies":   400,
		"/api/v2/traces?limit=0": 400, "/api/v2/traces?limit=x": 400, "/api/v2/traces?endTs=-1": 400,
		"/api/v2/traces?minDuration=9&maxDuration=8": 400,
	} {
		if resp, body := s.do("GET", "9411", path, "", "", nil); resp.StatusCode != status ||
			!strings.Contains(resp.Header.Get("Content-Type"), "problem+json") {
			t.Errorf("%s: %s %s, want %d and a problem", path, resp.Status, body, status)
		}
	}
}

// meet lets replicas know each other.
func meet(replicas ...*server) {
	var list []discovery.Instance
	for _, s := range replicas {
		list = append(list, discovery.Instance{
			Service: "tracing", ID: s.host, Status: discovery.Up,
			Endpoints: map[string]string{"zipkin": s.host + ":9411"},
		})
	}
	for _, s := range replicas {
		s.known.Put("tracing", list)
	}
}

// Each of two replicas answers for both. When one cannot be reached, the answer names it.
func TestEachReplicaAnswersForBoth(t *testing.T) {
	n := memnet.New()
	a := start(t, n, "a", tracing.Options{})
	b := start(t, n, "b", tracing.Options{})
	meet(a, b)
	at := time.Now().Add(-time.Minute)
	var spans []json.RawMessage
	if err := json.Unmarshal([]byte(film("a1", at, true)), &spans); err != nil {
		t.Fatal(err)
	}
	// The senders of one trace chose different replicas.
	a.post(fmt.Sprintf("[%s,%s]", spans[0], spans[1]))
	b.post(fmt.Sprintf("[%s]", spans[2]))
	b.post(film("a2", at, false))
	for _, s := range []*server{a, b} {
		var names []string
		s.get("/api/v2/services", &names)
		var traces [][]any
		s.get("/api/v2/traces?serviceName=catalog", &traces)
		var one []any
		resp := s.get("/api/v2/trace/a1", &one)
		var deps []map[string]any
		s.get(fmt.Sprintf("/api/v2/dependencies?endTs=%d", time.Now().UnixMilli()), &deps)
		if len(names) != 2 || len(traces) != 2 || len(traces[0]) != 3 || len(traces[1]) != 3 || len(one) != 3 ||
			resp.Header.Get("Bijou-Peers-Missing") != "" {
			t.Errorf("%s: services %v, %d traces, trace of %d spans", s.host, names, len(traces), len(one))
		}
		want := []map[string]any{{"parent": "web", "child": "catalog", "callCount": 2.0, "errorCount": 1.0}}
		if diff := cmp.Diff(want, deps); diff != "" {
			t.Errorf("%s: dependencies (-want +got):\n%s", s.host, diff)
		}
	}
	n.Cut("b")
	for _, path := range []string{
		"/api/v2/services", "/api/v2/traces", "/api/v2/trace/a1",
		fmt.Sprintf("/api/v2/dependencies?endTs=%d", time.Now().UnixMilli()),
	} {
		var body []any
		if resp := a.get(path, &body); resp.Header.Get("Bijou-Peers-Missing") != "b" || len(body) == 0 {
			t.Errorf("%s without b: missing %q, %d parts", path, resp.Header.Get("Bijou-Peers-Missing"), len(body))
		}
	}
	n.Heal("b")
}

// Spans of the platform's own provider are stored with its service and zone.
func TestSpansOfThePlatform(t *testing.T) {
	s := start(t, memnet.New(), "a", tracing.Options{})
	conn := s.dial()
	p, err := trace.New(trace.Options{
		Service: "films", Instance: "films-1", Zone: "b",
		Conn: func() grpc.ClientConnInterface { return conn },
	})
	if err != nil {
		t.Fatal(err)
	}
	ctx, parent := p.Tracer().Start(t.Context(), "outer")
	_, child := p.Tracer().Start(ctx, "inner")
	child.End()
	parent.End()
	if err := p.Shutdown(t.Context()); err != nil || p.Exported() != 2 {
		t.Fatalf("exported %d: %v", p.Exported(), err)
	}
	var got []struct {
		Name          string
		LocalEndpoint struct{ ServiceName string }
		Tags          map[string]string
	}
	s.get("/api/v2/trace/"+parent.SpanContext().TraceID().String(), &got)
	if len(got) != 2 || got[0].Name != "outer" || got[0].LocalEndpoint.ServiceName != "films" ||
		got[0].Tags["cloud.availability_zone"] != "b" {
		t.Errorf("stored %+v", got)
	}
}

func TestOptions(t *testing.T) {
	for name, o := range map[string]tracing.Options{
		"no folder": {}, "short": {Dir: "x", Retention: time.Minute}, "long": {Dir: "x", Retention: 1e6 * time.Hour},
		"small": {Dir: "x", MaxBytes: 1}, "negative": {Dir: "x", Cache: -1},
	} {
		_, err := service.New(t.Context(),
			service.Options{Name: "tracing", Instance: "a", Net: service.Net{Listen: memnet.New().Listen}},
			func(ctx context.Context, setup *service.Setup) error { return tracing.New(ctx, setup, o) })
		if err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}

func FuzzQuery(f *testing.F) {
	f.Add("serviceName=web&annotationQuery=error+and+http.method%3DGET&minDuration=1&" +
		"maxDuration=2&endTs=1700000000000&lookback=1000&limit=10")
	f.Add("endTs=99999999999999999999&lookback=-1")
	f.Fuzz(func(t *testing.T, raw string) {
		v, err := url.ParseQuery(raw)
		if err != nil {
			return
		}
		q, err := tracing.ParseQuery(v)
		if err != nil {
			if errs.KindOf(err) != errs.Invalid {
				t.Fatalf("%q: %v", raw, err)
			}
			return
		}
		if q.Limit < 1 || q.Limit > 1000 || q.From < 0 || q.To < q.From || q.MinDuration < 0 || q.MaxDuration < 0 {
			t.Fatalf("%q is read as %+v", raw, q)
		}
		q.Match(nil)
	})
}
