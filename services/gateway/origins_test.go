package gateway_test

import (
	"net/http"
	"os"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// corsFields returns the fields of an answer that say what a browser may do with it.
func corsFields(h http.Header) map[string][]string {
	got := map[string][]string{}
	for name, lines := range h {
		if strings.HasPrefix(name, "Access-Control-") || name == "Vary" {
			got[strings.TrimPrefix(name, "Access-Control-")] = lines
		}
	}
	return got
}

const withOrigins = `[
	{"name":"site","match":{"prefix":"/site"},"to":[{"service":"web"}],"cors":{
		"origins":["https://app.example.org","HTTPS://*.Example.net:443"],"methods":["PUT","DELETE"],"headers":["X-A","X-B"],
		"expose":["X-Request-Id"],"credentials":true,"maxAge":"10m"}},
	{"name":"open","match":{"prefix":"/open"},"to":[{"service":"web"}],"cors":{
		"origins":["*"],"methods":["*"],"headers":["*"],"expose":["*"]}},
	{"name":"put","match":{"prefix":"/site","methods":["PATCH"]},"to":[{"service":"web"}],"cors":{
		"origins":["https://app.example.org"],"methods":["PATCH"]}},
	{"name":"web","to":[{"service":"web"}]}]`

// The edge answers a preflight with 204, and no origin server gets it. What is not allowed is not named in the answer.
func TestPreflights(t *testing.T) {
	w := newWorld(t, withOrigins)
	w.origin("web", "web-1", "", http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		t.Errorf("the origin server got %s %s", r.Method, r.URL)
	}))
	app := map[string][]string{
		"Allow-Origin": {"https://app.example.org"}, "Allow-Credentials": {"true"}, "Allow-Methods": {"PUT, DELETE"},
		"Allow-Headers": {"X-A, X-B"}, "Max-Age": {"600"}, "Vary": {"Origin"},
	}
	refused := map[string][]string{"Vary": {"Origin"}}
	for _, c := range []struct {
		path, origin, method, headers string
		want                          map[string][]string
	}{
		{"/site", "https://app.example.org", "PUT", "x-a", app},
		{"/site", "https://app.example.org", "POST", "x-other", app}, // the browser compares
		{"/site", "https://app.example.org", "PATCH", "", map[string][]string{
			"Allow-Origin": {"https://app.example.org"}, "Allow-Methods": {"PATCH"}, "Vary": {"Origin"},
		}},
		{"/site", "https://a.example.net", "PUT", "", with(app, "https://a.example.net")},
		{"/site", "https://b.a.example.net", "PUT", "", with(app, "https://b.a.example.net")},
		{"/site", "https://example.net", "PUT", "", refused},
		{"/site", "https://evil.org", "PUT", "", refused},
		{"/site", "null", "PUT", "", refused},
		{"/open", "https://evil.org", "PUT", "authorization,x-a", map[string][]string{
			"Allow-Origin": {"*"}, "Allow-Methods": {"PUT"}, "Allow-Headers": {"authorization,x-a"},
			"Vary": {"Origin", "Access-Control-Request-Method", "Access-Control-Request-Headers"},
		}},
	} {
		header := []string{"Origin", c.origin, "Access-Control-Request-Method", c.method}
		if c.headers != "" {
			header = append(header, "Access-Control-Request-Headers", c.headers)
		}
		for _, h2 := range []bool{false, true} {
			res := w.do(w.client(h2), http.MethodOptions, "http://x"+c.path, nil, header...)
			if diff := cmp.Diff(c.want, corsFields(res.Header)); diff != "" || res.StatusCode != 204 {
				t.Errorf("%s %q with HTTP/2 %t: status %d, want 204; fields (-want +got):\n%s", c.path, header, h2,
					res.StatusCode, diff)
			}
		}
	}
	if got := w.metric("bijou_gateway_requests_total", "class=2xx", "route=site", "fault="); got == 0 {
		t.Error("preflights are not counted as requests of their route")
	}
}

// with returns fields with another origin.
func with(fields map[string][]string, origin string) map[string][]string {
	next := map[string][]string{}
	for name, lines := range fields {
		next[name] = lines
	}
	next["Allow-Origin"] = []string{origin}
	return next
}

// Other OPTIONS requests, and preflights for routes without origins, are for the origin server.
func TestRequestsThatAreNoPreflights(t *testing.T) {
	w := newWorld(t, withOrigins)
	w.origin("web", "web-1", "", respondsStatus(http.StatusTeapot))
	for _, c := range []struct {
		path   string
		header []string
	}{
		{"/site", nil},
		{"/site", []string{"Origin", "https://app.example.org"}},
		{"/site", []string{"Access-Control-Request-Method", "PUT"}},
		{"/site", []string{"Origin", "https://app.example.org", "Access-Control-Request-Method", "not a method"}},
		{"/other", []string{"Origin", "https://app.example.org", "Access-Control-Request-Method", "PUT"}},
	} {
		if res := w.do(w.client(false), http.MethodOptions, "http://x"+c.path, nil, c.header...); res.StatusCode != 418 {
			t.Errorf("OPTIONS %s %q: status %d, want 418, which the origin server sends", c.path, c.header, res.StatusCode)
		}
	}
}

// Answers of origin servers, of the edge itself and failures have the fields of the route, each with one value.
func TestAnswersToOtherOrigins(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(dir+"/a.txt", []byte("a"), 0o600); err != nil {
		t.Fatal(err)
	}
	const named = `"cors":{"origins":["https://app.example.org"],"expose":["X-A","X-B"],"credentials":true}`
	w := newWorld(t, `[
		{"name":"web","match":{"prefix":"/web"},"to":[{"service":"web"}],`+named+`},
		{"name":"gone","match":{"prefix":"/gone"},"to":[{"service":"gone"}],`+named+`},
		{"name":"respond","match":{"prefix":"/respond"},"respond":{"body":"x"},`+named+`},
		{"name":"redirect","match":{"prefix":"/redirect"},"redirect":{"to":"/"},`+named+`},
		{"name":"files","match":{"prefix":"/files"},"files":{"dir":"`+dir+`"},`+named+`},
		{"name":"open","match":{"prefix":"/open"},"to":[{"service":"web"}],"cors":{"origins":["*"],"expose":["*"]}},
		{"name":"plain","to":[{"service":"web"}]}]`)
	own := map[string][]string{
		"Allow-Origin": {"https://own.example.org", "*"}, "Allow-Credentials": {"true"}, "Expose-Headers": {"X-Own"},
		"Max-Age": {"1"}, "Vary": {"Accept"},
	}
	w.origin("web", "web-1", "", http.HandlerFunc(func(rw http.ResponseWriter, _ *http.Request) {
		for name, lines := range own {
			if name != "Vary" {
				name = "Access-Control-" + name
			}
			rw.Header()[name] = lines
		}
	}))
	app := map[string][]string{
		"Allow-Origin": {"https://app.example.org"}, "Allow-Credentials": {"true"}, "Expose-Headers": {"X-A, X-B"},
		"Vary": {"Origin"},
	}
	appBehind := with(app, "https://app.example.org")
	appBehind["Vary"] = []string{"Accept", "Origin"}
	open := map[string][]string{"Allow-Origin": {"*"}, "Expose-Headers": {"*"}, "Vary": {"Accept"}}
	for _, c := range []struct {
		path, origin string
		status       int
		want         map[string][]string
	}{
		{"/web", "https://app.example.org", 200, appBehind},
		{"/web", "https://evil.org", 200, map[string][]string{"Vary": {"Accept", "Origin"}}},
		{"/web", "", 200, map[string][]string{"Vary": {"Accept", "Origin"}}},
		{"/gone", "https://app.example.org", 503, app},
		{"/respond", "https://app.example.org", 200, app},
		{"/redirect", "https://app.example.org", 308, app},
		{"/files/a.txt", "https://app.example.org", 200, app},
		{"/files/b.txt", "https://app.example.org", 404, app},
		{"/open", "https://evil.org", 200, open},
		{"/open", "", 200, open}, // a cache may give it to anybody
		{"/plain", "https://app.example.org", 200, own},
	} {
		var header []string
		if c.origin != "" {
			header = []string{"Origin", c.origin}
		}
		res := w.get("http://x"+c.path, header...)
		if diff := cmp.Diff(c.want, corsFields(res.Header)); diff != "" || res.StatusCode != c.status {
			t.Errorf("%s for the origin %q: status %d, want %d; fields (-want +got):\n%s", c.path, c.origin, res.StatusCode,
				c.status, diff)
		}
	}
}
