package gateway_test

import (
	"io"
	"net/http"
	"strings"
	"testing"
)

const toWeb = `[{"name":"web","match":{"prefix":"/"},"to":[{"service":"web"}]}]`

func TestPassesRequestsAndAnswers(t *testing.T) {
	w := newWorld(t, toWeb)
	w.origin("web", "web-1", "v1", http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if err != nil {
			t.Error(err)
		}
		rw.Header().Set("X-Path", r.URL.EscapedPath())
		rw.Header().Set("X-Query", r.URL.RawQuery)
		rw.Header().Add("Set-Cookie", "a=1")
		rw.Header().Add("Set-Cookie", "b=2")
		rw.WriteHeader(http.StatusTeapot)
		_, _ = io.WriteString(rw, r.Method+" "+r.Host+" "+string(body))
	}))
	for _, h2 := range []bool{false, true} {
		c := w.client(h2)
		for _, body := range []string{"", "small", strings.Repeat("large", 1<<18)} {
			res := w.do(c, http.MethodPut, "http://shop.example/a/%C3%A9/b?x=1&y=%20", strings.NewReader(body))
			if res.StatusCode != http.StatusTeapot || res.body != "PUT shop.example "+body {
				t.Fatalf("h2 %v: got %d %.60q", h2, res.StatusCode, res.body)
			}
			if got := res.Header.Get("X-Path") + "?" + res.Header.Get("X-Query"); got != "/a/%C3%A9/b?x=1&y=%20" {
				t.Errorf("h2 %v: the origin saw %s", h2, got)
			}
			if got := res.Header["Set-Cookie"]; len(got) != 2 {
				t.Errorf("h2 %v: cookies %q, want both", h2, got)
			}
			if res.Header.Get("X-Bijou-Fault") != "" {
				t.Errorf("h2 %v: a fault on an answer below 500", h2)
			}
		}
	}
}
