package httpapi_test

import (
	"context"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	circuitsv1 "bijou.dev/platform/api/circuits/v1"
	"bijou.dev/platform/errs"
	"bijou.dev/platform/httpapi"
)

type question struct {
	Name string `json:"name"`
}

func handlers() map[string]http.Handler {
	return map[string]http.Handler{
		"struct": httpapi.Post(func(_ context.Context, q *question) (question, error) {
			if q.Name == "missing" {
				return question{}, errs.Errorf(errs.NotFound, "reading %s", q.Name)
			}
			return *q, nil
		}),
		"proto": httpapi.Post(func(_ context.Context, q *circuitsv1.ForceRequest) (*circuitsv1.ForceRequest, error) {
			if q.Name == "missing" {
				return nil, errs.Errorf(errs.NotFound, "reading %s", q.Name)
			}
			return q, nil
		}),
	}
}

func TestRequests(t *testing.T) {
	for _, c := range []struct {
		name, method, kind, body string
		status                   int
		says                     string
	}{
		{"good", "POST", "application/json", `{"name":"a"}`, 200, `"name":`},
		{"charset", "POST", "application/json; charset=utf-8", `{"name":"a"}`, 200, `"name":`},
		{"error of the function", "POST", "application/json", `{"name":"missing"}`, 404, "reading missing"},
		{"wrong method", "GET", "", "", 405, "POST"},
		{"wrong type", "POST", "text/plain", `{"name":"a"}`, 415, "application/json"},
		{"no type", "POST", "", `{"name":"a"}`, 415, "application/json"},
		{"too large", "POST", "application/json", `{"name":"` + strings.Repeat("a", httpapi.MaxBody) + `"}`, 413, "1048576"},
		{"unknown field", "POST", "application/json", `{"nome":"a"}`, 400, "nome"},
		{"duplicate field", "POST", "application/json", `{"name":"a","name":"b"}`, 400, "name"},
		{"trailing data", "POST", "application/json", `{"name":"a"} {}`, 400, "nothing behind it"},
		{"no JSON", "POST", "application/json", `{"name"`, 400, "reading the request"},
		{"no body", "POST", "application/json", ``, 400, "reading the request"},
	} {
		for kind, h := range handlers() {
			t.Run(c.name+"/"+kind, func(t *testing.T) {
				r := httptest.NewRequest(c.method, "/x", strings.NewReader(c.body))
				r.Header.Set("Content-Type", c.kind)
				w := httptest.NewRecorder()
				h.ServeHTTP(w, r)
				if w.Code != c.status || !strings.Contains(w.Body.String(), c.says) {
					t.Errorf("got %d %s, want %d with %q", w.Code, w.Body, c.status, c.says)
				}
				if c.status != 200 {
					assertProblem(t, w)
				}
				if allow := w.Header().Get("Allow"); (allow == "POST") != (c.status == 405) {
					t.Errorf("Allow is %q with status %d", allow, w.Code)
				}
			})
		}
	}
}

func assertProblem(t *testing.T, w *httptest.ResponseRecorder) {
	t.Helper()
	var p errs.Problem
	if err := json.Unmarshal(w.Body.Bytes(), &p); err != nil || w.Header().Get("Content-Type") != "application/problem+json" {
		t.Fatalf("%s %s is not a problem: %v", w.Header().Get("Content-Type"), w.Body, err)
	}
	if p.Status != w.Code || p.Title != http.StatusText(w.Code) || p.Instance != "/x" {
		t.Errorf("the problem has status %d, title %q and instance %q", p.Status, p.Title, p.Instance)
	}
}

func TestGet(t *testing.T) {
	h := httpapi.Get(func(*http.Request) (question, error) { return question{"a"}, nil })
	for method, want := range map[string]int{"GET": 200, "HEAD": 200, "POST": 405} {
		w := httptest.NewRecorder()
		h.ServeHTTP(w, httptest.NewRequest(method, "/x", nil))
		if w.Code != want {
			t.Errorf("%s: status %d, want %d", method, w.Code, want)
		}
	}
}

func TestCheckKeys(t *testing.T) {
	for text, want := range map[string]string{
		`{"a":1,"b":{"a":1},"c":[{"a":1},{"a":1}]}`: "",
		`7`:                             "",
		`{"a":1,"a":1}`:                 `"a"`,
		`{"a":[0,{"b":{"c":1,"c":2}}]}`: `"a[1].b.c"`,
		`{"a":1,"\u0061":2}`:            `"a"`,
		`{"a":1} 2`:                     "nothing behind it",
		`{"a":`:                         "EOF",
		``:                              "EOF",
		`[1,]`:                          "invalid",
	} {
		err := httpapi.CheckKeys([]byte(text))
		switch {
		case err == nil && want != "":
			t.Errorf("%s: no error, want %q", text, want)
		case err != nil && (want == "" || !strings.Contains(err.Error(), want)):
			t.Errorf("%s: %q, want %q", text, err, want)
		}
	}
}

func TestDeepValuesAreRefused(t *testing.T) {
	if err := httpapi.CheckKeys([]byte(strings.Repeat("[", 1<<20))); err == nil || !strings.Contains(err.Error(), "deep") {
		t.Errorf("got %v", err)
	}
}

func FuzzCheckKeys(f *testing.F) {
	f.Add([]byte(`{"a":[{"b":1,"b":2}]}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		if httpapi.CheckKeys(data) == nil && !json.Valid(data) {
			t.Errorf("%q is not JSON", data)
		}
	})
}
