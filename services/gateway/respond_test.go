package gateway_test

import (
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
)

func TestRedirects(t *testing.T) {
	w := newWorld(t, `[
		{"name":"shop","match":{"host":"old.example"},"redirect":{"to":"https://shop.example{path}{query}"}},
		{"name":"docs","match":{"prefix":"/docs"},"redirect":{"to":"/manual{rest}","status":302}},
		{"name":"film","match":{"regexp":"/film/(?P<id>[0-9]+)/(.*)"},
			"redirect":{"to":"{scheme}://{host}/films/{id}?title={2}"}}]`)
	for _, c := range []struct {
		url, location string
		status        int
	}{
		{"http://old.example/a%20b?x=1&y", "https://shop.example/a%20b?x=1&y", 308},
		{"http://old.example/", "https://shop.example/", 308},
		{"http://x/docs/a/b?x=1", "/manual/a/b", 302},
		{"http://x/docs", "/manual/", 302},
		{"http://x:8080/film/42/the%20end", "http://x:8080/films/42?title=the%20end", 308},
	} {
		res := w.get(c.url)
		if res.StatusCode != c.status || res.Header.Get("Location") != c.location || res.body != "" {
			t.Errorf("%s: status %d, Location %q, body %q; want %d, %q and no body", c.url, res.StatusCode,
				res.Header.Get("Location"), res.body, c.status, c.location)
		}
	}
	if got := w.metric("bijou_gateway_requests_total"); got != 5 {
		t.Errorf("%v requests are counted, want 5", got)
	}
}

func TestFixedResponses(t *testing.T) {
	w := newWorld(t, `[
		{"name":"text","match":{"path":"/text"},"respond":{"body":"<b>hello</b>"}},
		{"name":"page","match":{"path":"/page"},"respond":{"status":503,"type":"text/html","body":"<b>soon</b>"}},
		{"name":"none","match":{"path":"/none"},"respond":{"status":204},
			"headers":{"response":{"set":{"Cache-Control":"no-store"}}}}]`)
	for _, c := range []struct {
		path, kind, body string
		status           int
	}{
		{"/text", "text/plain; charset=utf-8", "<b>hello</b>", 200},
		{"/page", "text/html", "<b>soon</b>", 503},
		{"/none", "", "", 204},
	} {
		for _, h2 := range []bool{false, true} {
			for _, method := range []string{http.MethodGet, http.MethodHead, http.MethodPost} {
				want := c.body
				if method == http.MethodHead {
					want = ""
				}
				res := w.do(w.client(h2), method, "http://x"+c.path, strings.NewReader(""))
				if res.StatusCode != c.status || res.Header.Get("Content-Type") != c.kind || res.body != want {
					t.Errorf("%s %s with HTTP/2 %t: %d %q %q; want %d %q %q", method, c.path, h2, res.StatusCode,
						res.Header.Get("Content-Type"), res.body, c.status, c.kind, want)
				}
				if res.Header.Get("X-Request-Id") == "" || res.Header.Get("X-Bijou-Fault") != "" {
					t.Errorf("%s: header %v; want a request id and no fault", c.path, res.Header)
				}
			}
		}
	}
	if got := w.get("http://x/none").Header.Get("Cache-Control"); got != "no-store" {
		t.Errorf("Cache-Control is %q, want no-store as the route says", got)
	}
}

func TestFiles(t *testing.T) {
	dir := t.TempDir()
	for name, text := range map[string]string{
		"site/index.html": "<h1>home</h1>", "site/a b.txt": "0123456789", "site/app.js": "let a", "site/app.js.br": "BR",
		"site/old.js": "let b", "site/old.js.br": "OLD",
		"site/.env": "secret", "site/sub/index.html": "sub", "site/empty/x.bin": "\x00", "outside.txt": "secret",
	} {
		file := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for name, age := range map[string]time.Duration{"site/app.js": time.Hour, "site/old.js.br": time.Hour} {
		at := time.Now().Add(-age)
		if err := os.Chtimes(filepath.Join(dir, name), at, at); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Symlink("../outside.txt", filepath.Join(dir, "site/link.txt")); err != nil {
		t.Fatal(err)
	}
	w := newWorld(t, `[
		{"name":"site","match":{"prefix":"/site"},"files":{"dir":"`+dir+`/site","precompressed":true}},
		{"name":"app","match":{"prefix":"/"},"path":"normalize","files":{"dir":"`+dir+`/site","fallback":"index.html"}},
		{"name":"gone","match":{"prefix":"/gone"},"files":{"dir":"`+dir+`/missing"}}]`)
	for _, c := range []struct {
		path, want string
		status     int
		header     []string // of the request
	}{
		{"/site/", "<h1>home</h1>", 200, nil},
		{"/site/sub/", "sub", 200, nil},
		{"/site/sub?x=1", "", 308, nil},
		{"/site/a%20b.txt", "0123456789", 200, nil},
		{"/site/a%20b.txt", "234", 206, []string{"Range", "bytes=2-4"}},
		{"/site/a%20b.txt", "", 416, []string{"Range", "bytes=20-"}},
		{"/site/app.js", "let a", 200, nil},
		{"/site/app.js", "BR", 200, []string{"Accept-Encoding", "gzip, br"}},
		{"/site/app.js", "let a", 200, []string{"Accept-Encoding", "br;q=0, gzip"}},
		{"/site/old.js", "let b", 200, []string{"Accept-Encoding", "br"}}, // the compressed file is older
		{"/site/.env", "", 404, nil},
		{"/site/link.txt", "", 404, nil},
		{"/site/empty/", "", 404, nil},
		{"/site/a%20b.txt/", "", 404, nil},
		{"/site/missing", "", 404, nil},
		{"/site/" + strings.Repeat("x", 300), "", 404, nil},
		{"/any/where", "<h1>home</h1>", 200, nil},
		{"/.env", "<h1>home</h1>", 200, nil},
		{"/sub//../app.js", "let a", 200, nil},
		{"/gone/x", "", 500, nil},
	} {
		res := w.get("http://x"+c.path, c.header...)
		if res.StatusCode != c.status || c.status < 300 && res.body != c.want {
			t.Errorf("%s %q: %d %q, want %d %q", c.path, c.header, res.StatusCode, res.body, c.status, c.want)
		}
		if res.StatusCode < 300 && (res.Header.Get("Etag") == "" || res.Header.Get("X-Content-Type-Options") != "nosniff") {
			t.Errorf("%s: header %v, want an ETag and nosniff", c.path, res.Header)
		}
		if strings.Contains(res.body, "secret") || strings.Contains(res.body, dir) {
			t.Errorf("%s: %q has what strangers must not know", c.path, res.body)
		}
	}

	plain := w.get("http://x/site/app.js").Header
	small := w.get("http://x/site/app.js", "Accept-Encoding", "br").Header
	if small.Get("Content-Encoding") != "br" || small.Get("Content-Type") != plain.Get("Content-Type") ||
		small.Get("Vary") != "Accept-Encoding" || plain.Get("Vary") != "Accept-Encoding" ||
		small.Get("Etag") == plain.Get("Etag") {
		t.Errorf("compressed %v, plain %v; want br, the same type, Vary and another ETag", small, plain)
	}
	if res := w.get("http://x/site/app.js", "If-None-Match", plain.Get("Etag")); res.StatusCode != 304 {
		t.Errorf("with the ETag of before: %d, want 304", res.StatusCode)
	}
	if res := w.get("http://x/site/sub?x=1"); res.Header.Get("Location") != "./sub/?x=1" {
		t.Errorf("a folder without slash: Location %q, want ./sub/?x=1", res.Header.Get("Location"))
	}
	if res := w.do(w.client(false), http.MethodPost, "http://x/site/", strings.NewReader("")); res.StatusCode != 405 ||
		res.Header.Get("Allow") != "GET, HEAD" {
		t.Errorf("POST: %d, Allow %q; want 405 and GET, HEAD", res.StatusCode, res.Header.Get("Allow"))
	}
	if err := os.Rename(filepath.Join(dir, "site/sub"), filepath.Join(dir, "missing")); err != nil {
		t.Fatal(err)
	}
	if res := w.get("http://x/gone/"); res.StatusCode != 200 || res.body != "sub" {
		t.Errorf("a folder that came later: %d %q, want 200 sub", res.StatusCode, res.body)
	}
}

// A client that announces a body and does not send it gets the answer of the edge, and does not hold the connection.
func TestAnswersDoNotWaitForABody(t *testing.T) {
	dir := t.TempDir()
	large := strings.Repeat("x", 100<<10)
	if err := os.WriteFile(filepath.Join(dir, "large.txt"), []byte(large), 0o600); err != nil {
		t.Fatal(err)
	}
	for path, routes := range map[string]string{
		"/large.txt": `[{"name":"files","files":{"dir":"` + dir + `"}}]`,
		"/body":      `[{"name":"text","respond":{"body":"` + large[:32<<10] + `"}}]`,
		"/to":        `[{"name":"to","redirect":{"to":"/other"}}]`,
	} {
		synctest.Test(t, func(t *testing.T) {
			w := newWorld(t, routes)
			begin := time.Now()
			status, _ := w.raw("GET " + path + " HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\n")
			if took := time.Since(begin); len(status) != 1 || took > 2*time.Second {
				t.Errorf("%s: statuses %v and the end of the connection after %v, want one within 2 s", path, status, took)
			}
		})
	}
}

func TestHeadersAreChangedByTheRoute(t *testing.T) {
	w := newWorld(t, `[{"name":"web","match":{"regexp":"/user/(.*)"},"to":[{"service":"web"}],"headers":{
		"request":{"remove":["X-Secret"],"set":{"x-user":"{1}","X-Client":"{client}"},"add":{"X-Own":"edge"}},
		"response":{"remove":["Server"],"set":{"Strict-Transport-Security":"max-age=1"},"add":{"Set-Cookie":"b=2"}}}}]`)
	var got http.Header
	w.origin("web", "web-1", "", http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		got = r.Header.Clone()
		rw.Header().Set("Server", "web/1.0")
		rw.Header().Set("Set-Cookie", "a=1")
	}))
	res := w.get("http://x/user/é%20x", "X-Secret", "1", "X-User", "root", "X-Own", "client")
	want := map[string][]string{
		"X-Secret": nil, "X-User": {"é x"}, "X-Client": {"client"}, "X-Own": {"client", "edge"},
	}
	for name, lines := range want {
		if diff := cmp.Diff(lines, got[name]); diff != "" {
			t.Errorf("the origin got %s (-want +got):\n%s", name, diff)
		}
	}
	want = map[string][]string{
		"Server": nil, "Strict-Transport-Security": {"max-age=1"}, "Set-Cookie": {"a=1", "b=2"},
	}
	for name, lines := range want {
		if diff := cmp.Diff(lines, res.Header[name]); diff != "" {
			t.Errorf("the client got %s (-want +got):\n%s", name, diff)
		}
	}
}

func TestPathIsRewrittenByATemplate(t *testing.T) {
	w := newWorld(t, `[
		{"name":"film","match":{"regexp":"/film-([0-9]+)(/.*)?"},"rewrite":{"path":"/v2/films/{1}{2}"},
			"to":[{"service":"web"}]},
		{"name":"any","match":{"prefix":"/any"},"rewrite":{"path":"/x{rest}"},"to":[{"service":"web"}]},
		{"name":"bad","match":{"regexp":"/bad(.*)"},"rewrite":{"path":"/{1}"},"to":[{"service":"web"}]}]`)
	var got string
	w.origin("web", "web-1", "", http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { got = r.RequestURI }))
	for _, c := range []struct{ path, want string }{
		{"/film-42", "/v2/films/42"},
		{"/film-42/a%20b?x=%2F", "/v2/films/42/a%20b?x=%2F"},
		{"/any/a%C3%A9", "/x/a%C3%A9"},
		{"/any", "/x/"},
		{"/bad/x", ""}, // would be //x
		{"/bad%2525x", "/%2525x"},
	} {
		got = ""
		if res := w.get("http://x" + c.path); got != c.want || c.want == "" && res.StatusCode != 400 {
			t.Errorf("%s: status %d, the origin got %q; want %q", c.path, res.StatusCode, got, c.want)
		}
	}
}

func TestRoutesByClientAddress(t *testing.T) {
	w := newWorld(t, `[
		{"name":"inside","match":{"clients":["10.0.0.0/8","2001:db8::/32"]},"respond":{"body":"inside"}},
		{"name":"all","respond":{"body":"outside"}}]`, "gateway.trustedHops", "1")
	for addr, want := range map[string]string{
		"10.1.2.3": "inside", "::ffff:10.1.2.3": "inside", "2001:db8::1": "inside", "11.0.0.1": "outside", "evil": "outside",
		"10.1.2.3, 11.0.0.1": "outside", "11.0.0.1, 10.1.2.3": "inside",
	} {
		if res := w.get("http://x/", "X-Forwarded-For", addr); res.body != want {
			t.Errorf("X-Forwarded-For %s: %q, want %q", addr, res.body, want)
		}
	}
}
