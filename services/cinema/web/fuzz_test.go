package web_test

import (
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
)

// FuzzAPI checks that no request to the API gets a status of 500 or more, and that every JSON response is valid.
func FuzzAPI(f *testing.F) {
	srv := httptest.NewServer(open(f, nil).handler)
	f.Cleanup(srv.Close)
	f.Add("POST", "profiles", `{"id":"ann","name":"Ann","household":"h"}`)
	f.Add("PUT", "ratings", `{"key":"k","profile":"ingrid","title":"x","stars":99}`)
	f.Add("POST", "playback", `{"session":"s","profile":"ingrid","title":"?"}`)
	f.Add("POST", "playback/%2e/heartbeat", `{"position":-1}`)
	f.Add("GET", "search?q=%ff&limit=-1", "")
	f.Add("GET", "titles/..", "")
	f.Fuzz(func(t *testing.T, method, target, body string) {
		path, query, _ := strings.Cut(target, "?")
		r, err := http.NewRequestWithContext(t.Context(), method, srv.URL+"/api/", strings.NewReader(body))
		if err != nil || strings.ContainsAny(query, " #\x7f") {
			return
		}
		for _, c := range query {
			if c < ' ' {
				return // the client would not send it
			}
		}
		r.URL.Path, r.URL.RawQuery = "/api/"+path, query
		r.Header.Set("Content-Type", "application/json")
		resp, err := http.DefaultTransport.RoundTrip(r)
		if err != nil {
			return // the client would not send it
		}
		defer resp.Body.Close()
		text, _ := io.ReadAll(resp.Body)
		if resp.StatusCode >= 500 {
			t.Errorf("%s %s %q: %d %s", method, target, body, resp.StatusCode, text)
		}
		if strings.Contains(resp.Header.Get("Content-Type"), "json") && len(text) > 0 && !json.Valid(text) {
			t.Errorf("%s %s %q: the response is not JSON: %s", method, target, body, text)
		}
	})
}
