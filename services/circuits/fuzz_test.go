package circuits_test

import (
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	configv1 "bijou.dev/platform/api/config/v1"
	"bijou.dev/services/circuits"
)

// FuzzREST checks that no request makes the board answer with an internal error, and that every response is JSON.
func FuzzREST(f *testing.F) {
	w := newWorld(f)
	b := circuits.NewBoard(circuits.BoardOptions{
		Instance: "circuits-1", Config: configv1.NewConfigClient(w.dial(f, "config:7000")),
		DialContext: w.net.DialContext,
	})
	f.Cleanup(b.Close)
	h := b.Handler()
	f.Add("POST", "/v1/force",
		`{"circuit":"catalog.getMovie","mode":"MODE_OPEN","author":"ann","reason":"test","expires":"60s"}`)
	f.Add("POST", "/v1/force", `{"circuit":"*"}`)
	f.Add("POST", "/v1/force", `{"circuit":1e999,"circuit":{}}`)
	f.Add("GET", "/v1/circuits?service=%FF", "")
	f.Fuzz(func(t *testing.T, method, target, body string) {
		r, err := http.NewRequestWithContext(t.Context(), method, "http://circuits/", strings.NewReader(body))
		if err != nil || strings.Contains(target, "turbine") { // which does not end
			return
		}
		path, query, _ := strings.Cut(target, "?")
		r.URL.Path, r.URL.RawQuery = "/"+strings.TrimPrefix(path, "/"), query
		r.Header.Set("Content-Type", "application/json")
		rec := httptest.NewRecorder()
		h.ServeHTTP(rec, r)
		if rec.Code >= 500 && rec.Code != http.StatusServiceUnavailable {
			t.Errorf("%s %s %q: %d %s", method, target, body, rec.Code, rec.Body)
		}
		isJSON := strings.Contains(rec.Header().Get("Content-Type"), "json")
		if isJSON && rec.Body.Len() > 0 && !json.Valid(rec.Body.Bytes()) {
			t.Errorf("%s %s %q: answer is not JSON: %s", method, target, body, rec.Body)
		}
	})
}
