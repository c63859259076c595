package console_test

import (
	"net/http"
	"strings"
	"testing"
	"testing/fstest"
	"testing/synctest"

	"bijou.dev/services/console"
)

func TestPagesLoadNothingFromOtherSites(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, console.Options{Hosts: []string{"console.example.org"}})
		for _, path := range []string{
			"/", "/map", "/services/catalog/catalog-1.example.org", "/settings/web.home.row",
			"/traces/0af7651916cd43dd8448eb211c80319c",
		} {
			code, h, body := w.do(t, "GET", path, "", "Host", "console.example.org")
			if code != http.StatusOK || !strings.Contains(body, "/app.js") || strings.Contains(body, "://") {
				t.Errorf("GET %s: status %d, %.300s; want the page, without addresses of other sites", path, code, body)
			}
			policy := h.Get("Content-Security-Policy")
			if !strings.Contains(policy, "default-src 'none'") || !strings.Contains(policy, "frame-ancestors 'none'") ||
				strings.Contains(policy, "unsafe") {
				t.Errorf("GET %s: Content-Security-Policy is %q", path, policy)
			}
		}
	})
}

func TestFilesAreCompressedAndCached(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, console.Options{})
		code, h, gzipped := w.do(t, "GET", "/app.js", "", "Accept-Encoding", "gzip")
		if code != http.StatusOK || h.Get("Content-Encoding") != "gzip" || !strings.HasPrefix(gzipped, "\x1f\x8b") {
			t.Errorf("with gzip: status %d, header %v, %d bytes", code, h, len(gzipped))
		}
		code, h, script := w.do(t, "GET", "/app.js", "")
		if code != http.StatusOK || h.Get("Content-Encoding") != "" || script != `document.title = "Bijou"` {
			t.Errorf("without gzip: status %d, Content-Encoding %q, %s", code, h.Get("Content-Encoding"), script)
		}
		if kind := h.Get("Content-Type"); kind != "text/javascript; charset=utf-8" {
			t.Errorf("Content-Type is %q, want text/javascript; charset=utf-8", kind)
		}
		code, _, body := w.do(t, "GET", "/app.js", "", "If-None-Match", h.Get("ETag"))
		if code != http.StatusNotModified || body != "" {
			t.Errorf("with the ETag of the file: status %d, %d bytes; want 304 without a body", code, len(body))
		}
		if code, _, body = w.do(t, "GET", "/app.js", "", "If-None-Match", `"another"`); code != http.StatusOK {
			t.Errorf("with another ETag: status %d, %s; want 200", code, body)
		}
		if code, _, body = w.do(t, "HEAD", "/map", ""); code != http.StatusOK || body != "" {
			t.Errorf("HEAD /map: status %d, %d bytes; want 200 without a body", code, len(body))
		}
		if code, _, body = w.do(t, "GET", "/nothing.js", ""); code != http.StatusNotFound {
			t.Errorf("a file that does not exist: status %d, %s; want 404", code, body)
		}
	})
}

func TestWithoutAFrontEndThePageSaysHowToBuildIt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, console.Options{Files: fstest.MapFS{"dist/.gitignore": {Data: []byte("*")}}})
		code, _, body := w.do(t, "GET", "/map", "")
		if code != http.StatusOK || !strings.Contains(body, "npm run build") {
			t.Errorf("status %d, %s; want 200 and how to build the front end", code, body)
		}
		if code, _, body = w.do(t, "GET", "/.gitignore", ""); code != http.StatusNotFound {
			t.Errorf("GET /.gitignore: status %d, %s; want 404", code, body)
		}
		var first struct{ Built bool }
		if w.events(t)("hello", &first); first.Built {
			t.Error("the event hello says that the front end is built")
		}
	})
}

func TestOptionsNameTheWrongField(t *testing.T) {
	err := console.New(t.Context(), nil, console.Options{MaxPages: -1})
	if want := "options of console: MaxPages must not be negative, is -1"; err == nil || err.Error() != want {
		t.Errorf("New with MaxPages -1: %v, want %s", err, want)
	}
}
