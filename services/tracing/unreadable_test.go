package tracing_test

import (
	"bytes"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"google.golang.org/protobuf/proto"

	"bijou.dev/platform/memnet"
	"bijou.dev/services/tracing"
	"bijou.dev/services/tracing/internal/spantest"
)

// lines is a log that a test reads.
type lines struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (l *lines) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.Write(b)
}

// count returns how many lines contain all parts.
func (l *lines) count(parts ...string) (n int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for line := range strings.SplitSeq(l.buf.String(), "\n") {
		if !slices.ContainsFunc(parts, func(part string) bool { return !strings.Contains(line, part) }) {
			n++
		}
	}
	return n
}

// When a file of the store cannot be read, senders and callers get an error and the log has the reason. No answer has
// the text of the database, which names files.
func TestTextOfTheDatabaseIsNotSent(t *testing.T) {
	space := &volume{FS: vfs.NewMem()}
	space.free.Store(16 << 20)
	disk := &spantest.Unreadable{FS: space}
	opts := tracing.WithFS(tracing.Options{Dir: "traces", Cache: 1}, disk) // no block is read from memory
	n, at := memnet.New(), time.Now().Add(-time.Minute)
	s := start(t, n, "a", opts)
	s.post(film("a1", at, false))
	s.stop()
	var log lines
	s = startWithLog(t, n, "a", opts, slog.New(slog.NewTextHandler(&log, nil))) // moves the spans from the log into a file
	disk.Broken.Store(true)

	assertNoText := func(what, body string) {
		t.Helper()
		for _, text := range []string{"sst", "pebble", "input/output", "traces/0"} {
			if strings.Contains(strings.ToLower(body), text) {
				t.Errorf("%s: the answer %q contains %q, which is text of the database", what, body, text)
			}
		}
	}
	req := request("4bf92f3577b34da6a3ce929d0e0e4736", at)
	protobuf, err := proto.Marshal(req)
	if err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct{ name, port, path, contentType, body string }{
		{"Zipkin", "9411", "/api/v2/spans", "application/json", film("a2", at, false)},
		{"OTLP over HTTP", "4318", "/v1/traces", "application/x-protobuf", string(protobuf)},
		{"OTLP JSON", "4318", "/v1/traces", "application/json", otlpJSON("4bf92f3577b34da6a3ce929d0e0e4736", at)},
	} {
		resp, body := s.do("POST", tt.port, tt.path, tt.contentType, "", []byte(tt.body))
		if resp.StatusCode != 503 || resp.Header.Get("Retry-After") == "" || !strings.Contains(body, "storing spans") {
			t.Errorf("%s: %s, retry after %q: %q; want 503, a time to retry and what did not work",
				tt.name, resp.Status, resp.Header.Get("Retry-After"), body)
		}
		assertNoText(tt.name, body)
	}
	if _, err := s.otlp().Export(t.Context(), req); err == nil {
		t.Error("OTLP over gRPC: the spans are accepted, want an error")
	} else {
		assertNoText("OTLP over gRPC", err.Error())
	}
	if n := log.count("storing spans", "sst"); n != 1 {
		t.Errorf("%d lines of the log have the reason of four consecutive failures, want 1", n)
	}
	end := fmt.Sprintf("endTs=%d", time.Now().UnixMilli())
	queries := []string{
		"/api/v2/trace/a1", "/api/v2/traces", "/api/v2/traces?serviceName=web", "/api/v2/services",
		"/api/v2/traceMany?traceIds=a1",
		"/api/v2/dependencies?" + end,
	}
	for _, path := range queries {
		resp, body := s.do("GET", "9411", path, "", "", nil)
		if resp.StatusCode != 500 || !strings.Contains(body, "internal error") {
			t.Errorf("GET %s: %s %s, want 500 and the text of every internal error", path, resp.Status, body)
		}
		assertNoText("GET "+path, body)
	}
	if n := log.count("answering a request", "level=ERROR", "sst"); n != len(queries) {
		t.Errorf("%d lines of the log have the reason of %d failed queries", n, len(queries))
	}
}

// otlpJSON is the request of the function request in OTLP's JSON.
func otlpJSON(traceID string, at time.Time) string {
	return fmt.Sprintf(`{"resourceSpans":[{"resource":{"attributes":[
		{"key":"service.name","value":{"stringValue":"catalog"}}]},"scopeSpans":[{"spans":[
		{"traceId":%q,"spanId":"00f067aa0ba902b7","parentSpanId":"00f067aa0ba90200",
		"name":"GetMovie","kind":3,"startTimeUnixNano":"%d","endTimeUnixNano":"%d",
		"attributes":[{"key":"peer.service","value":{"stringValue":"db"}}]}]}]}]}`,
		traceID, at.UnixNano(), at.Add(time.Millisecond).UnixNano())
}
