package discovery_test

import (
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	registry "bijou.dev/services/discovery"
)

// FuzzREST checks that no request makes the REST API fail, and that every answer is JSON.
func FuzzREST(f *testing.F) {
	s, err := registry.NewServer(registry.Options{Name: "discovery-1"})
	if err != nil {
		f.Fatal(err)
	}
	h := s.Handler()
	f.Add("GET", "/v1/instances", "")
	f.Add("GET", "/v1/instances/a%2Fb/1", "")
	f.Add("PUT", "/v1/instances/catalog/1/override", `{"status":"out_of_service","author":"ann","reason":"disk"}`)
	f.Add("PUT", "/v1/instances/catalog/1/override", `{"status":7,"more":{}}`)
	f.Add("DELETE", "/v1/instances/catalog/1/override", "")
	f.Add("GET", "/v1/status?x=%FF", "")
	f.Fuzz(func(t *testing.T, method, target, body string) {
		r, err := http.NewRequestWithContext(t.Context(), method, "http://discovery/", strings.NewReader(body))
		if err != nil {
			return
		}
		path, query, _ := strings.Cut(target, "?")
		r.URL.Path, r.URL.RawQuery = "/"+strings.TrimPrefix(path, "/"), query
		r.Header.Set("Content-Type", "application/json")
		rec := httptest.NewRecorder()
		h.ServeHTTP(rec, r)
		switch {
		case rec.Code >= 300 && rec.Code < 400: // the mux cleans paths
		case rec.Code >= 500 && rec.Code != http.StatusServiceUnavailable:
			t.Errorf("%s %s %q: %d %s", method, target, body, rec.Code, rec.Body)
		case rec.Body.Len() > 0 && !json.Valid(rec.Body.Bytes()) && method != http.MethodConnect:
			t.Errorf("%s %s %q: answer is not JSON: %s", method, target, body, rec.Body)
		}
	})
}
