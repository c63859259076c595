package trace_test

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"
	oteltrace "go.opentelemetry.io/otel/trace"

	"bijou.dev/platform/trace"
)

func TestMiddleware(t *testing.T) {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /films/{id}", func(http.ResponseWriter, *http.Request) {})
	mux.HandleFunc("POST example.com/films",
		func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusCreated) })
	mux.HandleFunc("/hints", func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(http.StatusEarlyHints)
		w.WriteHeader(http.StatusTeapot)
	})
	mux.HandleFunc("/lists/{id}/", func(http.ResponseWriter, *http.Request) {})
	mux.HandleFunc("/fail", func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusBadGateway) })
	mux.HandleFunc("/panic", func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) })
	base := func(extra map[string]string) map[string]string {
		m := map[string]string{"url.scheme": "http", "network.protocol.version": "1.1", "client.address": "192.0.2.1"}
		for k, v := range extra {
			m[k] = v
		}
		return m
	}
	tests := []struct {
		method, url, name string
		status            codes.Code
		want              map[string]string
	}{
		{"GET", "/films/7?token=secret", "GET /films/{id}", codes.Unset, base(map[string]string{
			"http.request.method": "GET", "url.path": "/films/7", "http.route": "/films/{id}",
			"http.response.status_code": "200",
		})},
		{"POST", "http://example.com/films", "POST /films", codes.Unset, base(map[string]string{
			"http.request.method": "POST", "url.path": "/films", "http.route": "/films",
			"http.response.status_code": "201",
		})},
		{"GET", "/nowhere", "GET", codes.Unset, base(map[string]string{
			"http.request.method": "GET", "url.path": "/nowhere", "http.response.status_code": "404",
		})},
		{"GET", "/hints", "GET /hints", codes.Unset, base(map[string]string{
			"http.request.method": "GET", "url.path": "/hints", "http.route": "/hints",
			"http.response.status_code": "418",
		})},
		{"BREW", "/hints", "HTTP /hints", codes.Unset, base(map[string]string{
			"http.request.method": "_OTHER", "http.request.method_original": "BREW", "url.path": "/hints",
			"http.route": "/hints", "http.response.status_code": "418",
		})},
		{"get", "/nowhere", "HTTP", codes.Unset, base(map[string]string{
			"http.request.method": "_OTHER", "http.request.method_original": "get", "url.path": "/nowhere",
			"http.response.status_code": "404",
		})},
		{strings.Repeat("M", 1000), "/hints", "HTTP /hints", codes.Unset, base(map[string]string{
			"http.request.method": "_OTHER", "http.request.method_original": strings.Repeat("M", 61) + "…",
			"url.path": "/hints", "http.route": "/hints", "http.response.status_code": "418",
		})},
		// For a redirect of CONNECT, net/http has the path of the client as the pattern (as of Go 1.26).
		{"CONNECT", "/lists/invented", "CONNECT", codes.Unset, base(map[string]string{
			"http.request.method": "CONNECT", "url.path": "/lists/invented", "http.response.status_code": "307",
		})},
		{"GET", "/lists/invented", "GET /lists/{id}/", codes.Unset, base(map[string]string{
			"http.request.method": "GET", "url.path": "/lists/invented", "http.route": "/lists/{id}/",
			"http.response.status_code": "307",
		})},
		{"GET", "/fail", "GET /fail", codes.Error, base(map[string]string{
			"http.request.method": "GET", "url.path": "/fail", "http.route": "/fail",
			"http.response.status_code": "502",
			"error.type":                "502",
		})},
		{"GET", "/panic", "GET /panic", codes.Error, base(map[string]string{
			"http.request.method": "GET", "url.path": "/panic", "http.route": "/panic",
			"http.response.status_code": "500",
			"error.type":                "500",
		})},
	}
	for _, tt := range tests {
		t.Run(fmt.Sprintf("%.10s %s", tt.method, tt.url), func(t *testing.T) {
			exporter := tracetest.NewInMemoryExporter()
			p := newProvider(t, trace.Options{Exporter: exporter})
			r := httptest.NewRequestWithContext(t.Context(), tt.method, tt.url, nil)
			r.Header.Set("traceparent", good)
			func() {
				defer func() { _ = recover() }()
				p.Middleware(mux).ServeHTTP(httptest.NewRecorder(), r)
			}()
			if err := p.Flush(t.Context()); err != nil {
				t.Fatal(err)
			}
			span := exporter.GetSpans()[0]
			got := map[string]string{}
			for _, a := range span.Attributes {
				got[string(a.Key)] = a.Value.String()
			}
			if diff := cmp.Diff(tt.want, got); diff != "" {
				t.Errorf("attributes (-want +got):\n%s", diff)
			}
			if span.DroppedAttributes != 0 {
				t.Errorf("%d attributes were dropped", span.DroppedAttributes)
			}
			if span.Name != tt.name || span.Status.Code != tt.status || span.SpanKind != oteltrace.SpanKindServer {
				t.Errorf("name %q, status %v, kind %v", span.Name, span.Status.Code, span.SpanKind)
			}
			if span.Parent.TraceID().String() != tid || span.Parent.SpanID().String() != sid {
				t.Errorf("parent %v, want the caller's span", span.Parent)
			}
		})
	}
}

// Handlers use optional interfaces of the ResponseWriter: streams flush, WebSockets take over the connection.
func TestMiddlewareKeepsOptionalInterfaces(t *testing.T) {
	p := newProvider(t, trace.Options{Exporter: tracetest.NewNoopExporter()})
	mux := http.NewServeMux()
	mux.HandleFunc("/stream", func(w http.ResponseWriter, _ *http.Request) {
		_, _ = io.WriteString(w, "first")
		w.(http.Flusher).Flush()
		_, _ = w.(io.ReaderFrom).ReadFrom(strings.NewReader(" second"))
	})
	mux.HandleFunc("/upgrade", func(w http.ResponseWriter, _ *http.Request) {
		conn, rw, err := w.(http.Hijacker).Hijack()
		if err != nil {
			t.Error(err)
			return
		}
		_, _ = rw.WriteString("HTTP/1.1 101 Switching Protocols\r\nUpgrade: test\r\nConnection: Upgrade\r\n\r\nhello\n")
		_ = rw.Flush()
		_ = conn.Close()
	})
	server := httptest.NewServer(p.Middleware(mux))
	defer server.Close()
	resp, err := http.Get(server.URL + "/stream")
	if err != nil {
		t.Fatal(err)
	}
	body, _ := io.ReadAll(resp.Body)
	_ = resp.Body.Close()
	if string(body) != "first second" || resp.ContentLength != -1 {
		t.Errorf("body %q of length %d, want a stream", body, resp.ContentLength)
	}
	conn, err := net.Dial("tcp", server.Listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	_, _ = io.WriteString(conn, "GET /upgrade HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: test\r\n\r\n")
	all, _ := io.ReadAll(bufio.NewReader(conn))
	if !strings.HasSuffix(string(all), "hello\n") {
		t.Errorf("upgraded connection said %q", all)
	}
}

// A request that is not sampled costs as little as possible.
func TestMiddlewareUnsampled(t *testing.T) {
	p := newProvider(t, trace.Options{Exporter: tracetest.NewNoopExporter(), Sampling: share(0)})
	w := httptest.NewRecorder()
	var ctxID oteltrace.TraceID
	h := p.Middleware(http.HandlerFunc(func(got http.ResponseWriter, r *http.Request) {
		if got != http.ResponseWriter(w) {
			t.Errorf("ResponseWriter is wrapped in %T", got)
		}
		ctxID = oteltrace.SpanContextFromContext(r.Context()).TraceID()
	}))
	h.ServeHTTP(w, httptest.NewRequestWithContext(t.Context(), "GET", "/", nil))
	if !ctxID.IsValid() {
		t.Error("no trace id in the handler's context")
	}
}
