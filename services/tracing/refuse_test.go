package tracing_test

import (
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/mem"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"

	"bijou.dev/platform/errs"
	"bijou.dev/platform/memnet"
	"bijou.dev/services/tracing"
	"bijou.dev/services/tracing/internal/span"

	collector "go.opentelemetry.io/proto/otlp/collector/trace/v1"
)

const (
	asProto, asJSON = "application/x-protobuf", "application/json"
	otlpPath        = "/v1/traces"
	zipkinPath      = "/api/v2/spans"
)

// rawCodec sends bytes as they are.
type rawCodec struct{}

func (rawCodec) Name() string { return "proto" }

func (rawCodec) Marshal(v any) (mem.BufferSlice, error) {
	return mem.BufferSlice{mem.SliceBuffer(v.([]byte))}, nil
}

func (rawCodec) Unmarshal(data mem.BufferSlice, v any) error {
	*v.(*[]byte) = data.Materialize()
	return nil
}

// message returns what a refusal says: OTLP has google.rpc.Status in the encoding of the request, all others are
// problems.
func message(t *testing.T, resp *http.Response, body string) string {
	t.Helper()
	s := status.New(codes.OK, "").Proto()
	var err error
	switch kind := resp.Header.Get("Content-Type"); kind {
	case asProto:
		err = proto.Unmarshal([]byte(body), s)
	case asJSON:
		err = protojson.Unmarshal([]byte(body), s)
	case "application/problem+json":
		return problem(t, resp, body).Detail
	default:
		t.Errorf("the refusal has the content type %q: %q", kind, body)
	}
	if err != nil {
		t.Errorf("reading the refusal %q: %v", body, err)
	}
	return s.GetMessage()
}

// problem reads a problem.
func problem(t *testing.T, resp *http.Response, body string) (p errs.Problem) {
	t.Helper()
	if err := json.Unmarshal([]byte(body), &p); err != nil || p.Status != resp.StatusCode {
		t.Errorf("the answer %s %q is not a problem with the same status; error: %v", resp.Status, body, err)
	}
	return p
}

// spansInZipkin returns a request of n spans.
func spansInZipkin(n int) string {
	return "[" + strings.Repeat(`{"traceId":"1","id":"1"},`, n-1) + `{"traceId":"1","id":"1"}]`
}

// spansInOTLP returns a request of n spans.
func spansInOTLP(n int) *collector.ExportTraceServiceRequest {
	req := request("4bf92f3577b34da6a3ce929d0e0e4736", time.Now())
	list := &req.ResourceSpans[0].ScopeSpans[0].Spans
	for len(*list) < n {
		*list = append(*list, (*list)[0])
	}
	return req
}

func marshal(t *testing.T, req proto.Message) string {
	t.Helper()
	b, err := proto.Marshal(req)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// A request that cannot be read is refused in the format of its sender, with what is wrong. It is counted, keeps no
// memory, and stores nothing.
func TestRequestsThatCannotBeRead(t *testing.T) {
	s := start(t, memnet.New(), "a", tracing.Options{})
	bomb := string(zip(make([]byte, 64<<20)))
	cut := string(zip([]byte(film("a1", time.Now(), false)))[:60])
	const tooMany = span.MaxSpans + 1
	good, many := marshal(t, spansInOTLP(3)), marshal(t, spansInOTLP(tooMany))
	large := strings.Repeat(" ", 5<<20)
	const shortID = `{"resourceSpans":[{"scopeSpans":[{"spans":[{"traceId":"4bf92f35","spanId":1}]}]}]}`
	for _, tt := range []struct {
		name, port, path, kind, encoding, body string
		status                                 int
		says                                   string
	}{
		{"OTLP that is text", "4318", otlpPath, asProto, "", "spans", 400, "not an ExportTraceServiceRequest"},
		{"OTLP that ends early", "4318", otlpPath, asProto, "", good[:len(good)-1], 400, "not an ExportTraceServiceRequest"},
		{"OTLP with a broken length", "4318", otlpPath, asProto, "", "\x0a\xff", 400, "not an ExportTraceServiceRequest"},
		{"OTLP of too many spans", "4318", otlpPath, asProto, "", many, 400, "more than 16384"},
		{"OTLP in gzip that is not gzip", "4318", otlpPath, asProto, "gzip", good, 400, "gzip"},
		{"OTLP in brotli", "4318", otlpPath, asProto, "br", good, 400, `"br" is unknown`},
		{"OTLP of 5 MiB", "4318", otlpPath, asProto, "", large, 413, "4 MiB"},
		{"OTLP of 5 MiB in gzip", "4318", otlpPath, asProto, "gzip", string(zip(make([]byte, 5<<20))), 413, "4 MiB"},
		{"OTLP JSON that ends early", "4318", otlpPath, asJSON, "", `{"resourceSpans":[`, 400, "reading OTLP JSON"},
		{"OTLP JSON that is a list", "4318", otlpPath, asJSON, "", `[]`, 400, "reading OTLP JSON"},
		{"OTLP JSON without a body", "4318", otlpPath, asJSON, "", ``, 400, "reading OTLP JSON"},
		{"OTLP JSON with a list of a wrong type", "4318", otlpPath, asJSON, "", `{"resourceSpans":[1]}`, 400, "OTLP JSON"},
		{"OTLP JSON of 64 MiB in gzip", "4318", otlpPath, asJSON, "gzip", bomb, 413, "4 MiB"},
		{"Zipkin that is not a list", "9411", zipkinPath, asJSON, "", `{"traceId":"1","id":"1"}`, 400, "a list of spans"},
		{"Zipkin without a body", "9411", zipkinPath, asJSON, "", ``, 400, "a list of spans"},
		{"Zipkin with a broken span", "9411", zipkinPath, asJSON, "", `[{]`, 400, "span 0"},
		{"Zipkin that does not end", "9411", zipkinPath, asJSON, "", `[{"traceId":"1","id":"1"}`, 400, "Zipkin v2 JSON"},
		{"Zipkin with text after the list", "9411", zipkinPath, asJSON, "", `[] x`, 400, "text after the list"},
		{"Zipkin of too many spans", "9411", zipkinPath, asJSON, "", spansInZipkin(tooMany), 400, "more than 16384"},
		{"Zipkin in gzip that is cut", "9411", zipkinPath, asJSON, "gzip", cut, 400, "reading the body"},
		{"Zipkin of 64 MiB in gzip", "9411", zipkinPath, asJSON, "gzip", bomb, 413, "4 MiB"},
		{"Zipkin of 5 MiB below /zipkin", "9411", "/zipkin" + zipkinPath, asJSON, "", large, 413, "4 MiB"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			const counter = `bijou_tracing_spans_dropped_total{reason="unparsed"}`
			before := s.metric(counter)
			resp, body := s.do("POST", tt.port, tt.path, tt.kind, tt.encoding, []byte(tt.body))
			if resp.StatusCode != tt.status {
				t.Fatalf("the answer is %s %.300q, want %d", resp.Status, body, tt.status)
			}
			if text := message(t, resp, body); !strings.Contains(text, tt.says) {
				t.Errorf("the refusal says %q, want it to contain %q", text, tt.says)
			}
			if tt.port == "4318" && resp.Header.Get("Content-Type") != tt.kind {
				t.Errorf("the refusal of OTLP is in %s, want the encoding of the request", resp.Header.Get("Content-Type"))
			}
			if retry := resp.Header.Get("Retry-After"); retry != "" {
				t.Errorf("the sender is told to retry in %s s what can never work", retry)
			}
			if n := s.metric(counter) - before; n != 1 {
				t.Errorf("the request is counted %v times as unparsed, want once", n)
			}
			if n := s.metric("bijou_tracing_in_flight_bytes"); n != 0 {
				t.Errorf("%v bytes are still in flight after the answer", n)
			}
		})
	}
	t.Run("a span whose ids are too short is only left out", func(t *testing.T) {
		resp, body := s.do("POST", "4318", otlpPath, asJSON, "", []byte(shortID))
		if resp.StatusCode != 200 || !strings.Contains(body, `"rejectedSpans":"1"`) {
			t.Errorf("the answer is %s %s, want 200 and one span refused", resp.Status, body)
		}
	})
	if n := s.metric("bijou_tracing_spans_stored_total"); n != 0 {
		t.Errorf("%v spans are stored, want none", n)
	}
	s.post(film("a2", time.Now(), false)) // it works as before
}

// What is not a request for spans at all is refused with a problem, as everywhere in the platform.
func TestRequestsOfOtherKinds(t *testing.T) {
	s := start(t, memnet.New(), "a", tracing.Options{})
	for _, tt := range []struct {
		name, method, port, path, kind string
		status                         int
		says, allow                    string
	}{
		{"OTLP by GET", "GET", "4318", otlpPath, "", 405, "method", "POST"},
		{"OTLP without a content type", "POST", "4318", otlpPath, "", 415, "application/x-protobuf or application/json", ""},
		{"OTLP as text", "POST", "4318", otlpPath, "text/plain", 415, "application/x-protobuf or application/json", ""},
		{"OTLP metrics", "POST", "4318", "/v1/metrics", asProto, 404, "/v1/metrics", ""},
		{"Zipkin in protobuf", "POST", "9411", zipkinPath, asProto, 415, "Zipkin v2 JSON", ""},
		{"Zipkin of a form", "POST", "9411", zipkinPath, "application/x-www-form-urlencoded", 415, "Zipkin v2 JSON", ""},
		{"Zipkin by PUT", "PUT", "9411", zipkinPath, asJSON, 405, "method", "GET, HEAD, POST"},
		{"Zipkin v1", "POST", "9411", "/api/v1/spans", asJSON, 404, "/api/v1/spans", ""},
		{"Zipkin v1 below /zipkin", "POST", "9411", "/zipkin/api/v1/spans", asJSON, 404, "/api/v1/spans", ""},
		{"a query by POST", "POST", "9411", "/api/v2/traces", asJSON, 405, "method", "GET, HEAD"},
		{"OTLP on Zipkin's port", "POST", "9411", otlpPath, asProto, 404, otlpPath, ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			resp, body := s.do(tt.method, tt.port, tt.path, tt.kind, "", []byte("[]"))
			if resp.StatusCode != tt.status || resp.Header.Get("Content-Type") != "application/problem+json" {
				t.Fatalf("the answer is %s %s %q, want %d and a problem",
					resp.Status, resp.Header.Get("Content-Type"), body, tt.status)
			}
			if text := message(t, resp, body); !strings.Contains(text, tt.says) {
				t.Errorf("the refusal says %q, want it to contain %q", text, tt.says)
			}
			if allow := resp.Header.Get("Allow"); allow != tt.allow {
				t.Errorf("Allow is %q, want %q", allow, tt.allow)
			}
		})
	}
}

func TestRefusalsOverGRPC(t *testing.T) {
	s := start(t, memnet.New(), "a", tracing.Options{})
	large := grpc.WithDefaultCallOptions(grpc.MaxCallSendMsgSize(64 << 20))
	huge := spansInOTLP(1)
	huge.ResourceSpans[0].ScopeSpans[0].Spans[0].Name = strings.Repeat("x", 20<<20)
	raw := s.dial(grpc.WithDefaultCallOptions(grpc.ForceCodecV2(rawCodec{})))
	invoke := func(method, body string) error {
		return raw.Invoke(t.Context(), "/opentelemetry.proto.collector."+method, []byte(body), new([]byte))
	}
	for _, tt := range []struct {
		name string
		send func() error
		code codes.Code
		says string
	}{
		{"20 MiB", func() error {
			_, err := s.otlp(large).Export(t.Context(), huge)
			return err
		}, codes.ResourceExhausted, "larger than max"},
		{"too many spans", func() error {
			_, err := s.otlp(large).Export(t.Context(), spansInOTLP(span.MaxSpans+1))
			return err
		}, codes.InvalidArgument, "more than 16384"},
		{"not a request", func() error {
			return invoke("trace.v1.TraceService/Export", "spans")
		}, codes.InvalidArgument, "not an ExportTraceServiceRequest"},
		{"another method", func() error {
			return invoke("trace.v1.TraceService/Import", "")
		}, codes.Unimplemented, "Import"},
		{"another service", func() error {
			return invoke("metrics.v1.MetricsService/Export", "")
		}, codes.Unimplemented, "MetricsService"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			err := tt.send()
			if status.Code(err) != tt.code || !strings.Contains(fmt.Sprint(err), tt.says) {
				t.Errorf("the answer is %v, want %v with %q", err, tt.code, tt.says)
			}
			if n := s.metric("bijou_tracing_in_flight_bytes"); n != 0 {
				t.Errorf("%v bytes are still in flight after the answer", n)
			}
		})
	}
	if n := s.metric(`bijou_tracing_spans_dropped_total{reason="unparsed"}`); n != 2 {
		t.Errorf("%v requests are counted as unparsed, want 2: gRPC refuses the others itself", n)
	}
}

// The largest number of spans in a request is accepted in each format. TestRequestsThatCannotBeRead sends one more.
func TestMostSpansOfARequest(t *testing.T) {
	s := start(t, memnet.New(), "a", tracing.Options{})
	body := spansInZipkin(span.MaxSpans)
	if resp, text := s.do("POST", "9411", zipkinPath, asJSON, "", []byte(body)); resp.StatusCode != 202 {
		t.Errorf("Zipkin: %s %s, want 202", resp.Status, text)
	}
	body = marshal(t, spansInOTLP(span.MaxSpans))
	if resp, text := s.do("POST", "4318", otlpPath, asProto, "", []byte(body)); resp.StatusCode != 200 || text != "" {
		t.Errorf("OTLP: %s %q, want 200 and no span refused", resp.Status, text)
	}
	if n := s.metric("bijou_tracing_spans_stored_total"); n != 2*span.MaxSpans {
		t.Errorf("%v spans are stored, want %d", n, 2*span.MaxSpans)
	}
}

// A sender that closes its connection in the middle of a body gives back the memory that is held for it.
func TestSenderThatClosesItsConnection(t *testing.T) {
	for port, head := range map[string]string{
		"9411": "POST /api/v2/spans HTTP/1.1\r\nContent-Type: application/json\r\n",
		"4318": "POST /v1/traces HTTP/1.1\r\nContent-Type: application/json\r\n",
	} {
		synctest.Test(t, func(t *testing.T) {
			s := start(t, memnet.New(), "a", tracing.Options{})
			conn, err := s.net.DialContext(t.Context(), "tcp", "a:"+port)
			if err != nil {
				t.Fatal(err)
			}
			fmt.Fprintf(conn, "%sHost: a\r\nContent-Length: 100000\r\n\r\n[", head)
			synctest.Wait()
			if n := s.metric("bijou_tracing_in_flight_bytes"); n != 64<<10 {
				t.Errorf("port %s: %v bytes are held while the body is read, want %d", port, n, 64<<10)
			}
			_ = conn.Close()
			synctest.Wait()
			if n := s.metric("bijou_tracing_in_flight_bytes"); n != 0 {
				t.Errorf("port %s: %v bytes are still held after the sender has left", port, n)
			}
			if n := s.metric(`bijou_tracing_spans_dropped_total{reason="unparsed"}`); n != 1 {
				t.Errorf("port %s: the request is counted %v times as unparsed, want once", port, n)
			}
		})
	}
}
