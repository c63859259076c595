// Package httpapitest checks that a handler refuses requests as package httpapi does. The tests of every service with
// an HTTP API call it for each of their paths.
package httpapitest

import (
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"regexp"
	"strings"
	"testing"

	"bijou.dev/platform/errs"
	"bijou.dev/platform/httpapi"

	"go.opentelemetry.io/otel/trace"
)

// Check sends wrong requests for a path of h and reports each that is not refused with the right status and a problem
// that has a trace id. The method is the right one. The body is a valid one: a JSON object with a field of lower case.
// Empty: the path takes no body, and only a wrong method is sent.
func Check(t *testing.T, h http.Handler, method, path, body string) {
	t.Helper()
	refused(t, h, request{"wrong method", "PATCH", path, "application/json", body}, http.StatusMethodNotAllowed, method)
	if body == "" {
		return
	}
	field := regexp.MustCompile(`"([^"]+)":`).FindStringSubmatch(body)
	if field == nil || !json.Valid([]byte(body)) || body[0] != '{' {
		t.Fatalf("%q is not a JSON object with a field", body)
	}
	name, rest := field[1], body[1:]
	tooLarge := body + strings.Repeat(" ", httpapi.MaxBody)
	for _, c := range []struct {
		name, kind, body string
		status           int
		says             string
	}{
		{"no content type", "", body, http.StatusUnsupportedMediaType, "application/json"},
		{"wrong content type", "text/plain", body, http.StatusUnsupportedMediaType, "application/json"},
		{"too large", "application/json", tooLarge, http.StatusRequestEntityTooLarge, "bytes"},
		{"unknown field", "application/json", `{"unheardOf":1,` + rest, http.StatusBadRequest, "unheardOf"},
		{"duplicate field", "application/json", `{"` + name + `":null,` + rest, http.StatusBadRequest, name},
		{
			"field in another case", "application/json", `{"` + strings.ToUpper(name) + `":null,` + rest,
			http.StatusBadRequest, strings.ToUpper(name),
		},
		{"trailing data", "application/json", body + " {}", http.StatusBadRequest, "nothing behind it"},
		{"no JSON", "application/json", "{", http.StatusBadRequest, "reading the request"},
		{"no body", "application/json", "", http.StatusBadRequest, "reading the request"},
	} {
		refused(t, h, request{c.name, method, path, c.kind, c.body}, c.status, c.says)
	}
}

type request struct{ name, method, path, kind, body string }

// refused sends a request and expects a problem with a status. The detail must contain says.
func refused(t *testing.T, h http.Handler, q request, status int, says string) {
	t.Helper()
	span := trace.NewSpanContext(trace.SpanContextConfig{TraceID: trace.TraceID{1}, SpanID: trace.SpanID{1}})
	r := httptest.NewRequest(q.method, q.path, strings.NewReader(q.body))
	r = r.WithContext(trace.ContextWithSpanContext(r.Context(), span))
	r.Header.Set("Content-Type", q.kind)
	w := httptest.NewRecorder()
	h.ServeHTTP(w, r)
	if w.Code != status {
		t.Errorf("%s: %s %s: status %d, want %d: %.500s", q.name, q.method, q.path, w.Code, status, w.Body)
		return
	}
	var p errs.Problem
	err := json.Unmarshal(w.Body.Bytes(), &p)
	if kind := w.Header().Get("Content-Type"); err != nil || kind != "application/problem+json" {
		t.Errorf("%s: %s %s: got %s %.500s, want a problem (%v)", q.name, q.method, q.path, kind, w.Body, err)
		return
	}
	if !strings.Contains(p.Detail, says) {
		t.Errorf("%s: %s %s: the problem says %q, want it to contain %q", q.name, q.method, q.path, p.Detail, says)
	}
	if p.Status != status || p.Title != http.StatusText(status) || p.Instance != r.URL.Path ||
		p.TraceID != span.TraceID().String() {
		t.Errorf("%s: %s %s: the problem has status %d, title %q, instance %q and trace %q",
			q.name, q.method, q.path, p.Status, p.Title, p.Instance, p.TraceID)
	}
	want := ""
	if status == http.StatusMethodNotAllowed {
		want = says
	}
	if allow := w.Header().Get("Allow"); !strings.Contains(allow, want) || want == "" && allow != "" {
		t.Errorf("%s: %s %s: Allow is %q, want %q", q.name, q.method, q.path, allow, want)
	}
}
