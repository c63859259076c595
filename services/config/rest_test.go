package config_test

import (
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	configv1 "bijou.dev/platform/api/config/v1"
	"bijou.dev/platform/httpapi/httpapitest"
	"bijou.dev/platform/kv/kvmem"
	"bijou.dev/services/config"
)

// rest returns a loaded replica's REST face with the catalog declared.
func rest(t testing.TB) http.Handler {
	t.Helper()
	s, err := config.NewServer(config.Options{Store: kvmem.New()})
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	ctx := t.Context()
	go func() { done <- s.Run(ctx) }()
	t.Cleanup(func() { <-done }) // ctx ends before cleanups run
	for s.Loaded() != nil {
		select {
		case <-ctx.Done():
			t.Fatal("not loaded")
		default:
		}
	}
	if _, err := s.Declare(ctx, catalog()); err != nil {
		t.Fatal(err)
	}
	return s.Handler()
}

func ask(h http.Handler, method, target, body string) *httptest.ResponseRecorder {
	r := httptest.NewRequest(method, target, strings.NewReader(body))
	if method == http.MethodPost {
		r.Header.Set("Content-Type", "application/json; charset=utf-8")
	}
	w := httptest.NewRecorder()
	h.ServeHTTP(w, r)
	return w
}

func TestREST(t *testing.T) {
	h := rest(t)
	app := func(value string) string {
		return `{"changes":[{"name":"search.limit","scope":{"layer":"LAYER_APP","app":"catalog"},"value":"` + value + `"}],`
	}
	for i, step := range []struct {
		method, target, body string
		code                 int
		want                 string // a part of the answer, without spaces
	}{
		{
			"POST", "/v1/publish", app("30") + `"author":"ann","reason":"more"}`, 200,
			`"revision":"1","applied":[{"name":"search.limit"`,
		},
		{
			"POST", "/v1/publish", `{"changes":[{"name":"search.limit","value":"40",` +
				`"scope":{"layer":"LAYER_ZONE","app":"catalog","selector":"eu-1"}}],` +
				`"author":"ann","reason":"zone","expectedRevision":1}`, 200, `"revision":"2"`,
		},
		{"POST", "/v1/publish", app("31") + `"author":"bob","reason":"late","expectedRevision":"1"}`, 409, `STALE_REVISION`},
		{"POST", "/v1/publish", app("500") + `"author":"bob","reason":"big"}`, 400, `"changes[0].value"`},
		{
			"GET", "/v1/values?app=catalog&zone=eu-1&names=search.limit&names=greeting", "", 200,
			`"value":"40","layer":"LAYER_ZONE"`,
		},
		{"GET", "/v1/values?app=catalog&names=search.limit", "", 200, `"value":"30"`},
		{"GET", "/v1/values?app=a&app=b", "", 400, `mustbegivenonce`},
		{"GET", "/v1/values?colour=red", "", 400, `colour`},
		{"GET", "/v1/values?identity=x", "", 400, `identity`},
		{"GET", "/v1/values?app=%zz", "", 400, `readingquery`},
		{"GET", "/v1/explain/search.limit?app=catalog&zone=eu-1", "", 200, `"author":"ann","reason":"zone"`},
		{"GET", "/v1/explain/search.limits?app=catalog", "", 404, `didyoumeansearch.limit?`},
		{"GET", "/v1/properties?prefix=search.l", "", 200, `"apps":["catalog"]`},
		{"GET", "/v1/properties?prefix=nothing", "", 200, `"properties":[]`},
		{"GET", "/v1/history?limit=1", "", 200, `"revisions":[{"revision":"2"`},
		{"GET", "/v1/history?limit=many", "", 400, `limit`},
		{"GET", "/v1/diff?from=1&to=2", "", 200, `"after":"40"`},
		{"POST", "/v1/rollback", `{"to":1,"author":"ann","reason":"back"}`, 200, `"revision":"3"`},
		{"GET", "/v1/status?app=catalog&wait=1s", "", 200, `"revision":"3","current":0,"total":0`},
		{"GET", "/v1/status?revision=9", "", 400, `revision`},
		{
			"POST", "/v1/declare", `{"app":"other","properties":[{"name":"x","type":"TYPE_INT","defaultValue":"1"}]}`, 200,
			`{}`,
		},
		{"GET", "/v1/publish", "", 405, `POST`},
		{"GET", "/", "", 404, `thereisnothingat/`},
	} {
		w := ask(h, step.method, step.target, step.body)
		body := strings.Join(strings.Fields(w.Body.String()), "")
		if w.Code != step.code || !strings.Contains(body, step.want) {
			t.Errorf("step %d: %s %s: got %d %.500s, want %d ...%s...", i, step.method, step.target, w.Code, body, step.code,
				step.want)
		}
		if want := map[bool]string{
			true:  "application/json",
			false: "application/problem+json",
		}[step.code == 200]; w.Header().Get("Content-Type") != want {
			t.Errorf("step %d: content type %q, want %q", i, w.Header().Get("Content-Type"), want)
		}
	}
}

const publish30 = `{"changes":[{"name":"search.limit","scope":{"layer":"LAYER_APP","app":"catalog"},"value":"30"}],` +
	`"author":"ann","reason":"more"}`

func TestRESTRefusals(t *testing.T) {
	h := rest(t)
	httpapitest.Check(t, h, "POST", "/v1/publish", `{"author":"ann","reason":"more"}`)
	httpapitest.Check(t, h, "POST", "/v1/rollback", `{"to":1,"author":"ann"}`)
	httpapitest.Check(t, h, "POST", "/v1/declare", `{"app":"other"}`)
	for _, path := range []string{"values", "explain/a", "properties", "history", "diff", "status"} {
		httpapitest.Check(t, h, "GET", "/v1/"+path, "")
	}
}

// TestRESTKeepsItsShape holds an answer against the one that earlier versions gave: programs read it.
func TestRESTKeepsItsShape(t *testing.T) {
	h := rest(t)
	ask(h, "POST", "/v1/publish", publish30)
	got := ask(h, "GET", "/v1/properties?app=catalog&prefix=search.", "").Body.Bytes()
	want, err := os.ReadFile(filepath.Join("testdata", "properties.json"))
	if err != nil {
		t.Fatal(err)
	}
	if a, b := canonical(t, got), canonical(t, want); a != b {
		t.Errorf("got\n%s\nwant\n%s", a, b)
	}
}

func canonical(t *testing.T, data []byte) string {
	t.Helper()
	var v any
	if err := json.Unmarshal(data, &v); err != nil {
		t.Fatal(err)
	}
	out, err := json.MarshalIndent(v, "", "  ")
	if err != nil {
		t.Fatal(err)
	}
	return string(out)
}

func FuzzREST(f *testing.F) {
	h := rest(f)
	f.Add("POST", "/v1/publish", publish30)
	f.Add("POST", "/v1/declare", `{"app":"other","properties":[{"name":"x.*","type":"TYPE_JSON",`+
		`"defaultValue":"1","jsonSchema":"{\"type\":\"integer\"}"}]}`)
	f.Add("POST", "/v1/rollback", `{"to":"1","author":"a","reason":"b","dryRun":true}`)
	f.Add("GET", "/v1/values?app=catalog&names=search.limit&zone=%FF", "")
	f.Add("GET", "/v1/explain/a%2Fb?app=x", "")
	f.Add("GET", "/v1/history?limit=-1&before=99999999999999999999", "")
	f.Add("GET", "/v1/status?wait=1h&revision=1", "")
	f.Fuzz(func(t *testing.T, method, target, body string) {
		r, err := http.NewRequest(method, "http://config/", strings.NewReader(body))
		if err != nil {
			return
		}
		path, query, _ := strings.Cut(target, "?")
		if strings.Contains(query, "wait") {
			return // it may wait
		}
		r.URL.Path, r.URL.RawQuery, r.RequestURI = "/"+strings.TrimPrefix(path, "/"), query, target
		r.Header.Set("Content-Type", "application/json")
		w := httptest.NewRecorder()
		h.ServeHTTP(w, r)
		data, _ := io.ReadAll(w.Result().Body)
		switch {
		case w.Code >= 300 && w.Code < 400: // the mux cleans paths
		case w.Code >= 500:
			t.Errorf("%s %s %q: %d %s", method, target, body, w.Code, data)
		case len(data) > 0 && !json.Valid(data) && method != http.MethodConnect:
			t.Errorf("%s %s %q: answer is not JSON: %s", method, target, body, data)
		}
	})
}

var _ configv1.ConfigServer = (*config.Server)(nil)
