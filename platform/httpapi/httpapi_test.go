package httpapi_test

import (
	"context"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	circuitsv1 "bijou.dev/platform/api/circuits/v1"
	"bijou.dev/platform/errs"
	"bijou.dev/platform/httpapi"
	"bijou.dev/platform/httpapi/httpapitest"
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

func TestGoodRequests(t *testing.T) {
	for name, h := range handlers() {
		for _, kind := range []string{"application/json", "application/json; charset=utf-8"} {
			w := send(h, "POST", "/x", kind, `{"name":"a"}`)
			if w.Code != 200 || !strings.Contains(w.Body.String(), `"name": "a"`) {
				t.Errorf("%s: %s: got %d %s", name, kind, w.Code, w.Body)
			}
		}
	}
}

func TestErrorOfTheFunctionIsAProblem(t *testing.T) {
	for name, h := range handlers() {
		w := send(h, "POST", "/x", "application/json", `{"name":"missing"}`)
		if w.Code != 404 || !strings.Contains(w.Body.String(), "reading missing") {
			t.Errorf("%s: got %d %s", name, w.Code, w.Body)
		}
	}
}

func TestRefusals(t *testing.T) {
	for name, h := range handlers() {
		t.Run(name, func(t *testing.T) { httpapitest.Check(t, h, "POST", "/x", `{"name":"a"}`) })
	}
	var mux httpapi.Mux
	mux.Handle("PUT /x/{id}", httpapi.Body(func(*http.Request, *question) (question, error) { return question{}, nil }))
	mux.Handle("DELETE /x/{id}", httpapi.Answer(func(*http.Request) (question, error) { return question{}, nil }))
	httpapitest.Check(t, &mux, "PUT", "/x/1", `{"name":"a"}`)
	httpapitest.Check(t, &mux, "DELETE", "/x/1", "")
	if w := send(&mux, "GET", "/y", "", ""); w.Code != 404 ||
		w.Header().Get("Content-Type") != "application/problem+json" {
		t.Errorf("an unknown path: got %d %s", w.Code, w.Body)
	}
}

func TestMuxGivesPathValues(t *testing.T) {
	var mux httpapi.Mux
	mux.Handle("PUT /x/{id}", httpapi.Body(func(r *http.Request, q *question) (string, error) {
		return r.PathValue("id") + q.Name, nil
	}))
	if w := send(&mux, "PUT", "/x/1", "application/json", `{"name":"a"}`); w.Body.String() != "\"1a\"\n" {
		t.Errorf("got %d %s", w.Code, w.Body)
	}
}

func TestNamesMatchExactly(t *testing.T) {
	type part struct {
		A any `json:"a"`
		B int `json:"-"`
		C int
	}
	type whole struct {
		part
		Parts []part           `json:"parts"`
		ByKey map[string]*part `json:"byKey"`
		At    time.Time        `json:"at"`
	}
	h := httpapi.Post(func(_ context.Context, _ *whole) (int, error) { return 1, nil })
	for body, want := range map[string]string{
		`{"a":{"Any":1},"C":1,"parts":[{"a":1}],"byKey":{"K":{"a":1},"k":null},"at":"2026-01-01T00:00:00Z"}`: "1\n",
		`{"A":1}`:                 `\"A\" is unknown`,
		`{"a":1,"A":1}`:           `\"A\" is unknown`,
		`{"c":1}`:                 `\"c\" is unknown`,
		`{"B":1}`:                 `\"B\" is unknown`,
		`{"-":1}`:                 `\"-\" is unknown`,
		`{"part":{}}`:             `\"part\" is unknown`,
		`{"parts":[{},{"A":1}]}`:  `\"parts[1].A\" is unknown`,
		`{"byKey":{"x":{"A":1}}}`: `\"byKey.x.A\" is unknown`,
		`{"parts":{}}`:            "cannot unmarshal",
		`{"at":{}}`:               "reading the request",
		`[]`:                      "cannot unmarshal",
	} {
		if w := send(h, "POST", "/x", "application/json", body); !strings.Contains(w.Body.String(), want) {
			t.Errorf("%s: got %d %s, want %s", body, w.Code, w.Body, want)
		}
	}
}

func send(h http.Handler, method, path, kind, body string) *httptest.ResponseRecorder {
	r := httptest.NewRequest(method, path, strings.NewReader(body))
	r.Header.Set("Content-Type", kind)
	w := httptest.NewRecorder()
	h.ServeHTTP(w, r)
	return w
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
