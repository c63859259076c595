package gateway_test

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"

	"bijou.dev/platform/circuit"
	"bijou.dev/platform/trace"
	"bijou.dev/services/gateway"
)

const toSites = `[{"name":"site","match":{"host":"site"},"to":[{"service":"web"}],"sticky":"session"},
	{"name":"calls","match":{"host":"rpc"},"to":[{"service":"calls","endpoint":"grpc"}]}]`

// sendInvented sends requests that have word wherever a client can invent text: method, path, query, host, names and
// values of fields, service and method of gRPC, and requests that are not valid.
func (w *world) sendInvented(word string) {
	fields := []string{
		"X-" + word, word, "User-Agent", word, "X-Request-Id", word, "Baggage", word + "=" + word,
		"Cookie", "session=" + word,
		"Traceparent", "00-463ac35c9f6413ad48485a3953bb6124-a2fb4a1d1a96d312-01", "Tracestate", word + "=" + word,
		"X-Bijou-Pin", "web=" + word, "X-Forwarded-For", word, "X-Forwarded-Host", word, "X-Forwarded-Proto", word,
		"X-Http-Method-Override", strings.ToUpper(word), "Referer", word, "Origin", word, "Accept", word, "Te", word,
		"Grpc-Timeout", word, "Authorization", word, "Idempotency-Key", word,
	}
	for _, h2 := range []bool{false, true} {
		c := w.client(h2)
		w.do(c, strings.ToUpper(word), "http://site/", nil)
		w.do(c, "GET", "http://site/"+word+"/"+word+"?token="+word, nil)
		if len(word) <= 1000 { // else the header is too large for HTTP/2
			w.do(c, "GET", "http://site/", nil, fields...)
		}
		w.do(c, "GET", "http://site/", nil, "B3", word, "X-B3-TraceId", word, "X-B3-Sampled", word)
		w.do(c, "GET", "http://"+word+".example/", nil)
		w.do(c, strings.ToUpper(word), "http://"+word+".example/"+word, nil)
	}
	grpc := []string{"Content-Type", "application/grpc+" + word, "Te", "trailers"}
	w.do(w.client(true), "POST", "http://rpc/"+word+".v1."+word+"/"+word, nil, grpc...)
	w.do(w.client(true), "POST", "http://"+word+".example/"+word+".v1."+word+"/"+word, nil, grpc...)
	for _, head := range []string{
		"GET /" + word + "?token=" + word + " HTTP/1.1\r\nHost: " + word + "\r\nHost: site\r\n",
		word + "(" + word + ") / HTTP/1.1\r\nHost: site\r\n",
		"GET / HTTP/1.1\r\nHost: " + word + "/" + word + "\r\n",
		"GET / HTTP/1.1\r\nHost: site\r\nUpgrade: " + word + "\r\nConnection: upgrade\r\n",
		"GET / HTTP/1.1\r\nHost: site\r\nTransfer-Encoding: " + word + "\r\n",
		"GET / HTTP/1.1\r\nHost: site\r\n" + word + "_length: " + word + "\r\n",
		"GET / " + word + "/1.1\r\nHost: site\r\n",
		"GET http://site:" + word + "/ HTTP/1.1\r\nHost: site\r\n",
	} {
		w.raw(head + "Connection: close\r\n\r\n")
	}
}

// names returns what the edge has names for: spans, attributes of spans, series of metrics, circuits and fields of the
// log.
func (w *world) names(spans tracetest.SpanStubs, circuits *circuit.Set) (names []string) {
	w.t.Helper()
	seen := map[string]bool{}
	add := func(format string, args ...any) { seen[fmt.Sprintf(format, args...)] = true }
	for _, s := range spans {
		add("span %s", s.Name)
		for _, a := range s.Attributes {
			add("attribute %s", a.Key)
		}
		for _, e := range s.Events {
			add("event %s", e.Name)
		}
	}
	families, err := w.metrics.Gather()
	if err != nil {
		w.t.Fatal(err)
	}
	for _, f := range families {
		for _, m := range f.GetMetric() {
			add("series %s%v", f.GetName(), m.GetLabel())
		}
	}
	for _, s := range circuits.Snapshots() {
		add("circuit %s %s", s.GetGroup(), s.GetName())
	}
	for line := range strings.Lines(w.log.String()) {
		var entry map[string]any
		if err := json.Unmarshal([]byte(line), &entry); err != nil {
			w.t.Fatalf("the line %q of the log is not JSON: %v", line, err)
		}
		for key := range entry {
			add("field %s", key)
		}
	}
	return slices.Sorted(maps.Keys(seen))
}

// newRecorded starts an edge that records each request, with origins for toSites.
func newRecorded(t *testing.T) (*world, *tracetest.InMemoryExporter, *trace.Provider, *circuit.Set) {
	t.Helper()
	exporter, circuits := tracetest.NewInMemoryExporter(), circuit.New(circuit.Options{})
	p, err := trace.New(trace.Options{Service: "gateway", Exporter: exporter, QueueSize: 1 << 16})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = p.Shutdown(context.Background()) })
	w := worldWith(t, gateway.EdgeOptions{Trace: p, Circuits: circuits}, toSites, "gateway.accessLog", "all",
		"gateway.pin.allowed", "true", "gateway.debug", "true", "gateway.trustedHops", "1")
	w.origin("web", "web-1", "v1", responds("ok"))
	w.grpcOrigin("calls", "calls-1")
	return w, exporter, p, circuits
}

// Whatever clients invent, the edge gets no new names from it: those would fill the memory of the process, of the trace
// store and of Prometheus.
func TestClientsCannotInventNames(t *testing.T) {
	w, exporter, p, circuits := newRecorded(t)
	names := func() []string {
		t.Helper()
		if err := p.Flush(t.Context()); err != nil {
			t.Fatal(err)
		}
		return w.names(exporter.GetSpans(), circuits)
	}
	w.sendInvented("first")
	before := names()
	for i := range 200 {
		w.sendInvented(fmt.Sprintf("invented%d", i))
	}
	after := names()
	if p.Dropped() > 0 {
		t.Fatalf("%d spans were dropped, want none", p.Dropped())
	}
	if diff := cmp.Diff(before, after); diff != "" {
		t.Errorf("200 times as many requests led to other names (-before +after):\n%s", diff)
	}
	var spans []string
	for _, name := range after {
		if strings.Contains(name, "invented") || strings.Contains(name, "first") {
			t.Errorf("a client invented the name %q", name)
		}
		if span, ok := strings.CutPrefix(name, "span "); ok {
			spans = append(spans, span)
		}
	}
	want := []string{"GET", "GET /", "GET web", "HTTP", "HTTP /", "HTTP web", "POST", "POST /", "POST calls"}
	if diff := cmp.Diff(want, spans); diff != "" {
		t.Errorf("names of spans (-want +got):\n%s", diff)
	}
	if log := w.log.String(); strings.Contains(log, "token=") {
		t.Error("the log has the query of a request, which may have secrets")
	}
}

// A request that is refused before it is parsed is replaced by one with a secret method. Whoever can read traces must
// not learn it: the edge takes what a request with this method says for its own.
func TestSpansDoNotHaveTheSecretMethod(t *testing.T) {
	w, exporter, p, _ := newRecorded(t)
	w.raw("GET / HTTP/1.1\r\nHost: site\r\nHost: site\r\nConnection: close\r\n\r\n")
	if err := p.Flush(t.Context()); err != nil {
		t.Fatal(err)
	}
	spans := exporter.GetSpans()
	if len(spans) != 1 || spans[0].Name != "HTTP" {
		t.Fatalf("the spans are %v, want one with the name HTTP", spans)
	}
	for _, a := range spans[0].Attributes {
		if a.Key == "http.request.method_original" && a.Value.AsString() != "" {
			t.Errorf("the span has the method %q", a.Value.AsString())
		}
	}
}

// Text of clients that is long is short in spans and in the log.
func TestFieldsOfClientsAreBounded(t *testing.T) {
	w, exporter, p, _ := newRecorded(t)
	for _, n := range []int{100, 240, 1000, 5000} {
		w.sendInvented(strings.Repeat("long", n/4))
	}
	if err := p.Flush(t.Context()); err != nil {
		t.Fatal(err)
	}
	limits := map[attribute.Key]int{"url.path": 4 << 10, "http.request.method_original": 64, "bijou.request_id": 128}
	seen := map[attribute.Key]bool{}
	for _, s := range exporter.GetSpans() {
		for _, a := range s.Attributes {
			seen[a.Key] = true
			limit := 255
			if l, ok := limits[a.Key]; ok {
				limit = l
			}
			if text := a.Value.String(); len(text) > limit || strings.Contains(text, "token=") {
				t.Errorf("span %s has %s of %d bytes, want at most %d without a query: %.100s", s.Name, a.Key, len(text),
					limit, text)
			}
		}
		if len(s.Status.Description) > 255 {
			t.Errorf("span %s has a status of %d bytes: %.100s", s.Name, len(s.Status.Description), s.Status.Description)
		}
	}
	for key := range limits {
		if !seen[key] {
			t.Errorf("no span has the attribute %s", key)
		}
	}
	if err := w.edge.Close(); err != nil { // waits until all lines are written
		t.Fatal(err)
	}
	fields := map[string]int{"path": 8 << 10, "method": 64, "request_id": 128}
	for line := range strings.Lines(w.log.String()) {
		var entry map[string]any
		if err := json.Unmarshal([]byte(line), &entry); err != nil {
			t.Fatalf("the line %q of the log is not JSON: %v", line, err)
		}
		for key, value := range entry {
			limit := 255
			if l, ok := fields[key]; ok {
				limit = l
			}
			if text := fmt.Sprint(value); len(text) > limit {
				t.Errorf("a line of the log has %s of %d bytes, want at most %d: %.100s", key, len(text), limit, text)
			}
		}
	}
}
