package gateway_test

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"unicode"
	"unicode/utf8"

	collector "go.opentelemetry.io/proto/otlp/collector/trace/v1"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"

	"bijou.dev/platform/trace"
	"bijou.dev/services/gateway"
)

// encoding is a connection to a trace store that encodes requests and decodes them again, as gRPC does, and accepts
// what can be decoded.
type encoding struct{ grpc.ClientConnInterface }

func (encoding) Invoke(_ context.Context, _ string, args, _ any, _ ...grpc.CallOption) error {
	data, err := proto.Marshal(args.(proto.Message))
	if err != nil {
		return err
	}
	return proto.Unmarshal(data, &collector.ExportTraceServiceRequest{})
}

// A request whose path is not UTF-8 is answered, has a line in the log, and does not lose the spans of other requests.
func TestPathThatIsNotUTF8(t *testing.T) {
	p, err := trace.New(trace.Options{Service: "gateway", Conn: func() grpc.ClientConnInterface { return encoding{} }})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = p.Shutdown(context.WithoutCancel(t.Context())) }()
	w := worldWith(t, gateway.EdgeOptions{Trace: p}, toWeb, "gateway.accessLog", "all")
	w.origin("web", "web-1", "v1", http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.WriteString(w, r.URL.Path)
	}))
	for _, path := range []string{"/good", "/bad%ff%fe", "/good"} {
		w.get("http://x" + path)
	}
	if err := p.Flush(t.Context()); err != nil {
		t.Fatal(err)
	}
	if p.Exported() != 6 || p.Dropped() != 0 {
		t.Errorf("of 6 spans %d are exported and %d dropped", p.Exported(), p.Dropped())
	}
	if !strings.Contains(w.log.String(), `"path":"/bad`) {
		t.Errorf("the log has no line for the path:\n%s", w.log)
	}
}

// Bytes that are no UTF-8 and control characters in a request do not reach the access log or a metric's label.
func TestRawBytesStayOutOfLogAndMetrics(t *testing.T) {
	w := newWorld(t, toWeb, "gateway.accessLog", "all")
	w.origin("web", "web-1", "v1", responds("ok"))
	for _, head := range []string{
		"GET /raw\xff\xfe HTTP/1.1\r\nHost: x\r\n",
		"GET /tab HTTP/1.1\r\nHost: x\r\nX-Request-Id: a\tb\xff\r\nX-Forwarded-For: a\xff\tb\r\nUser-Agent: \xff\r\n",
		"GET /control HTTP/1.1\r\nHost: x\r\nX-Request-Id: a\x1b[31m\r\n",
		"G\xffT /method HTTP/1.1\r\nHost: x\r\n",
		"GET /host HTTP/1.1\r\nHost: \xff\r\n",
	} {
		if got, _ := w.raw(head + "Connection: close\r\n\r\n"); len(got) != 1 {
			t.Errorf("request %q has the responses %v, want one", head, got)
		}
	}
	if err := w.edge.Close(); err != nil { // waits until all lines are written
		t.Fatal(err)
	}
	log := w.log.String()
	assertPrintable(t, "the log", log)
	if n := strings.Count(log, `"msg":"request"`); n != 5 {
		t.Errorf("the access log has %d lines for 5 requests:\n%s", n, log)
	}
	for line := range strings.SplitSeq(strings.TrimSpace(log), "\n") {
		var entry map[string]any
		if err := json.Unmarshal([]byte(line), &entry); err != nil {
			t.Errorf("the line %q is not JSON: %v", line, err)
		}
		for key, value := range entry {
			assertPrintable(t, "the field "+key, fmt.Sprint(value))
		}
	}
	families, err := w.metrics.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range families {
		for _, m := range f.GetMetric() {
			for _, l := range m.GetLabel() {
				assertPrintable(t, "label "+l.GetName()+" of "+f.GetName(), l.GetValue())
			}
		}
	}
}

// assertPrintable holds that s is UTF-8 without control characters other than the line end.
func assertPrintable(t *testing.T, what, s string) {
	t.Helper()
	control := func(r rune) bool { return r != '\n' && unicode.IsControl(r) }
	if !utf8.ValidString(s) || strings.ContainsFunc(s, control) {
		t.Errorf("%s is %q, want printable UTF-8", what, s)
	}
}
