package gateway_test

import (
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"bijou.dev/services/gateway"
)

// logged is an edge whose lines of text are in a file. The origin answers with the status that the path has.
func logged(t *testing.T, routes string, settings ...string) (w *world, lines func() []string) {
	t.Helper()
	file := filepath.Join(t.TempDir(), "access.log")
	w = worldWith(t, gateway.EdgeOptions{Options: gateway.Options{AccessLog: file}}, routes, settings...)
	w.origin("web", "web-1", "", http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		if status, err := strconv.Atoi(filepath.Base(r.URL.Path)); err == nil {
			rw.WriteHeader(status)
		}
	}))
	return w, func() []string {
		t.Helper()
		if err := w.edge.Close(); err != nil { // each request has its line
			t.Fatal(err)
		}
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		return strings.Split(strings.TrimSuffix(string(text), "\n"), "\n")
	}
}

func TestAccessLogAsApacheWritesIt(t *testing.T) {
	w, lines := logged(t, toWeb, "gateway.accessLog.form", `{"template": "combined"}`, "gateway.trustedHops", "1")
	w.get("http://x/a?secret=1", "User-Agent", `a "b" é`, "Referer", "https://y/", "X-Forwarded-For", "198.51.100.7")
	w.get("http://x/404", "User-Agent", "")
	want := regexp.MustCompile(`^198\.51\.100\.7 - - \[\d\d/\w{3}/\d{4}:\d\d:\d\d:\d\d [+-]\d{4}\] "GET /a HTTP/1\.1" 200 0 ` +
		`"https://y/" "a \\"b\\" \\xc3\\xa9"\nclient - - \[.*\] "GET /404 HTTP/1\.1" 404 0 "-" "-"$`)
	if got := strings.Join(lines(), "\n"); !want.MatchString(got) {
		t.Errorf("the access log is\n%s\nwant it to match\n%s", got, want)
	}
	if strings.Contains(w.log.String(), `"msg":"request"`) {
		t.Error("the log has lines of requests, too")
	}
}

// Without a file, lines of text are in the log.
func TestAccessLogWithoutAFile(t *testing.T) {
	w := newWorld(t, toWeb, "gateway.accessLog.form", `{"template": "{method} {path} {trace_id}"}`)
	w.get("http://x/a")
	w.edge.Close()
	if want := regexp.MustCompile(`"msg":"request","line":"GET /a [0-9a-f]{32}"`); !want.MatchString(w.log.String()) {
		t.Errorf("the log is\n%s\nwant a line that matches %s", w.log, want)
	}
}

func TestAccessLogHasTheFieldsThatAreChosen(t *testing.T) {
	w := newWorld(t, toWeb, "gateway.accessLog.form",
		`{"fields": ["status", "path", "query", "protocol", "scheme", "header:User-Agent", "peer"]}`)
	w.origin("web", "web-1", "", responds("ok"))
	w.get("http://x/a?b=c", "User-Agent", "test")
	w.edge.Close()
	want := `"msg":"request","status":200,"path":"/a","query":"?b=c","protocol":"1.1","scheme":"http",` +
		`"header_user_agent":"test","peer":"client"`
	if !strings.Contains(w.log.String(), want) {
		t.Errorf("the log is\n%s\nwant %s", w.log, want)
	}
}

// With a share, failures have a line in any case. A route can have its own rule.
func TestAccessLogOfAShareAndOfRoutes(t *testing.T) {
	const routes = `[{"name":"web","to":[{"service":"web"}]},
		{"name":"all","match":{"prefix":"/all"},"to":[{"service":"web"}],"accessLog":{"mode":"all","share":1}},
		{"name":"errors","match":{"prefix":"/errors"},"to":[{"service":"web"}],"accessLog":{"mode":"errors"}},
		{"name":"off","match":{"prefix":"/off"},"to":[{"service":"web"}],"accessLog":{"mode":"off"}},
		{"name":"rare","match":{"prefix":"/rare"},"to":[{"service":"web"}],"accessLog":{"mode":"all","share":1e-12}}]`
	for _, c := range []struct{ mode, form, want string }{
		{"all", "", "/200 /500 /all/200 /all/500 /errors/500 /rare/500"},
		{"all", `, "share": 1e-12`, "/500 /all/200 /all/500 /errors/500 /rare/500"},
		{"errors", "", "/500 /all/200 /all/500 /errors/500 /rare/500"},
		{"off", "", "/all/200 /all/500 /errors/500 /rare/500"},
	} {
		w, lines := logged(t, routes, "gateway.accessLog", c.mode, "gateway.accessLog.form",
			`{"template": "{path}"`+c.form+`}`)
		client := w.client(false)
		for _, prefix := range []string{"", "/all", "/errors", "/off", "/rare"} {
			for _, status := range []string{"/200", "/500"} {
				w.do(client, http.MethodGet, "http://x"+prefix+status, nil)
			}
		}
		if got := strings.Join(lines(), " "); got != c.want {
			t.Errorf("%s%s: the access log has %s, want %s", c.mode, c.form, got, c.want)
		}
	}
}

// A line says for how many requests it stands.
func TestAccessLogHasTheShare(t *testing.T) {
	w, lines := logged(t, `[{"name":"web","to":[{"service":"web"}],"accessLog":{"share":0.9999999999}}]`, "gateway.accessLog.form",
		`{"template": "{path} {share}", "share": 1e-12}`)
	client := w.client(false)
	for _, path := range []string{"/200", "/500"} {
		w.do(client, http.MethodGet, "http://x"+path, nil)
	}
	if got, want := strings.Join(lines(), ", "), "/200 0.9999999999, /500 1"; got != want {
		t.Errorf("the access log has %s, want %s: each failure has a line", got, want)
	}
}

// No value of a client looks like another part of a line, also in requests that are refused.
func TestAccessLogCannotBeForged(t *testing.T) {
	w, lines := logged(t, toWeb, "gateway.accessLog.form", `{"template": "{client} \"{method} {host} {path}\" {status}"}`)
	w.raw("GET /\x22\x20200 HTTP/1.1\r\nHost: x\r\n\r\n")
	w.raw("GET /a%0a\" HTTP/1.1\r\nHost: x\" 200\r\n\r\n")
	w.raw("G\"T /a HTTP/1.1\r\nHost: x\r\n\r\n")
	w.raw("GET /\xc2\x85\xe2\x80\xa8 HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
	for _, line := range lines() {
		bare := strings.NewReplacer(`\\`, "", `\"`, "").Replace(line)
		if strings.Count(bare, `"`) != 2 || strings.Count(bare, " ") != 4 ||
			strings.ContainsFunc(line, func(c rune) bool { return c < ' ' || c > '~' }) {
			t.Errorf("the access log has the line %q, want five fields of printable ASCII", line)
		}
	}
}

func TestAccessLogIsLive(t *testing.T) {
	w, lines := logged(t, toWeb, "gateway.accessLog", "off")
	w.get("http://x/1")
	w.put("gateway.accessLog", "all")
	w.put("gateway.accessLog.form", `{"template": "{path}"}`)
	w.get("http://x/200")
	if err := w.set.Put("gateway.accessLog.form", `{"template": "{colour}"}`); err == nil ||
		!strings.Contains(err.Error(), "template") {
		t.Errorf("an unknown field: error %v, want one that names template", err)
	}
	if got := strings.Join(lines(), " "); got != "/200" {
		t.Errorf("the access log has %s, want /200", got)
	}
	if _, err := gateway.NewEdge(gateway.EdgeOptions{
		Options: gateway.Options{AccessLog: t.TempDir()}, Discovery: w.disc.Directory,
	}); err == nil {
		t.Error("a folder as the file of the access log: no error")
	}
}
