package gateway_test

import (
	"bytes"
	"context"
	"io"
	"net/http"
	"os"
	"strconv"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"bijou.dev/services/gateway"

	"github.com/andybalholm/brotli"
	"github.com/google/go-cmp/cmp"
	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
)

// decoder reads content with a coding.
func decoder(t *testing.T, coding string, r io.Reader) io.Reader {
	t.Helper()
	var err error
	switch coding {
	case "gzip":
		r, err = gzip.NewReader(r)
	case "zstd":
		r, err = zstd.NewReader(r, zstd.WithDecoderConcurrency(1), zstd.WithDecoderLowmem(true))
	case "br":
		r = brotli.NewReader(r)
	}
	if err != nil {
		t.Fatalf("reading %s: %v", coding, err)
	}
	return r
}

// decoded is the content of an answer without its coding.
func (a answer) decoded(t *testing.T) string {
	t.Helper()
	text, err := io.ReadAll(decoder(t, a.Header.Get("Content-Encoding"), strings.NewReader(a.body)))
	if err != nil {
		t.Fatalf("%s, after %d bytes: %v", a.Header.Get("Content-Encoding"), len(text), err)
	}
	return string(text)
}

const compressed = `"compress":{"types":["text/plain","application/json"]}`

// An answer is compressed by the coding that the client likes most, whatever its length and framing.
func TestAnswersAreCompressed(t *testing.T) {
	w := newWorld(t, `[{"name":"web","to":[{"service":"web"}],`+compressed+`}]`)
	w.origin("web", "web-1", "", http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		size, _ := strconv.Atoi(r.URL.Query().Get("size"))
		rw.Header().Set("Content-Type", "Application/json; charset=utf-8")
		if r.URL.Path == "/known" {
			rw.Header().Set("Content-Length", strconv.Itoa(size))
		}
		for size > 0 {
			n := min(size, 10_000)
			_, _ = io.WriteString(rw, strings.Repeat("0123456789", 1000)[:n])
			size -= n
		}
	}))
	for accept, want := range map[string]string{
		"gzip, deflate, br, zstd": "zstd", "gzip, deflate, br": "gzip", "br": "br", "br, gzip;q=0.9": "br",
		"identity, gzip;q=0.5": "", "": "", "deflate": "",
	} {
		for _, target := range []string{
			"/known?size=1024", "/known?size=50000", "/known?size=300000", "/chunks?size=200000",
		} {
			for _, h2 := range []bool{false, true} {
				res := w.do(w.client(h2), http.MethodGet, "http://x"+target, nil, "Accept-Encoding", accept)
				_, size, _ := strings.Cut(target, "=")
				length, _ := strconv.Atoi(size)
				text := res.decoded(t)
				if got := res.Header.Get("Content-Encoding"); got != want || len(text) != length || res.StatusCode != 200 {
					t.Errorf("%s for %q with HTTP/2 %t: status %d, coding %q, %d bytes; want 200, %q, %s", target, accept, h2,
						res.StatusCode, got, len(text), want, size)
				}
				if want != "" && len(res.body) > length/5 {
					t.Errorf("%s for %q: %d bytes were sent for %d", target, accept, len(res.body), length)
				}
				if diff := cmp.Diff([]string{"Accept-Encoding"}, res.Header["Vary"]); diff != "" {
					t.Errorf("%s for %q: Vary (-want +got):\n%s", target, accept, diff)
				}
			}
		}
	}
}

// What the origin server says about its bytes does not hold for the compressed ones.
func TestHeaderOfACompressedAnswer(t *testing.T) {
	w := newWorld(t, `[{"name":"web","to":[{"service":"web"}],`+compressed+`}]`)
	text := strings.Repeat("x", 2000)
	w.origin("web", "web-1", "", http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		h := rw.Header()
		for name, value := range map[string]string{
			"Content-Type": "text/plain", "Content-Length": "2000", "Etag": `"a"`, "Accept-Ranges": "bytes", "Vary": "Accept",
			"Content-Digest": "sha-256=:a:", "Repr-Digest": "sha-256=:a:", "Digest": "sha-256=a", "Content-Md5": "a",
			"Cache-Control": "max-age=1",
		} {
			h.Set(name, value)
		}
		switch r.URL.Path {
		case "/not-modified":
			h.Del("Content-Type")
			h.Del("Content-Length")
			rw.WriteHeader(http.StatusNotModified)
			return
		case "/trailer":
			h.Del("Content-Length")
			h.Set("Trailer", "Content-Digest, Repr-Digest, X-Other")
		}
		_, _ = io.WriteString(rw, text)
		h.Set("X-Other", "a")
	}))
	about := func(h http.Header) map[string]string {
		got := map[string]string{}
		for _, name := range []string{
			"Content-Encoding", "Content-Length", "Etag", "Accept-Ranges", "Content-Digest", "Repr-Digest", "Digest",
			"Content-Md5", "Cache-Control",
		} {
			if value := h.Get(name); value != "" {
				got[name] = value
			}
		}
		got["Vary"] = strings.Join(h["Vary"], ", ")
		return got
	}
	plain := map[string]string{
		"Content-Length": "2000", "Etag": `"a"`, "Accept-Ranges": "bytes", "Vary": "Accept, Accept-Encoding",
		"Content-Digest": "sha-256=:a:", "Repr-Digest": "sha-256=:a:", "Digest": "sha-256=a", "Content-Md5": "a",
		"Cache-Control": "max-age=1",
	}
	small := map[string]string{
		"Content-Encoding": "gzip", "Etag": `W/"a"`, "Vary": "Accept, Accept-Encoding", "Cache-Control": "max-age=1",
	}
	for _, h2 := range []bool{false, true} {
		for _, c := range []struct {
			method, accept string
			want           map[string]string
		}{
			{http.MethodGet, "gzip", small},
			{http.MethodHead, "gzip", small}, // as GET
			{http.MethodGet, "identity", plain},
			{http.MethodHead, "identity", plain},
		} {
			res := w.do(w.client(h2), c.method, "http://x/", nil, "Accept-Encoding", c.accept)
			got := about(res.Header)
			if c.method == http.MethodGet && c.accept == "gzip" {
				delete(got, "Content-Length") // that of the bytes, which the server adds to short answers
			}
			if diff := cmp.Diff(c.want, got); diff != "" {
				t.Errorf("%s for %s with HTTP/2 %t (-want +got):\n%s", c.method, c.accept, h2, diff)
			}
			if c.method == http.MethodGet && res.decoded(t) != text {
				t.Errorf("%s for %s: the content is %q", c.method, c.accept, res.decoded(t))
			}
		}
	}
	for match, want := range map[string]string{`W/"a"`: `W/"a"`, `W/"b", W/"a"`: `W/"a"`, `"a"`: `"a"`, "*": `"a"`} {
		res := w.get("http://x/not-modified", "Accept-Encoding", "gzip", "If-None-Match", match)
		if got := res.Header.Get("Etag"); res.StatusCode != 304 || got != want ||
			strings.Join(res.Header["Vary"], ", ") != "Accept, Accept-Encoding" {
			t.Errorf("304 for If-None-Match %s: status %d, ETag %s, Vary %q; want ETag %s", match, res.StatusCode, got,
				res.Header["Vary"], want)
		}
	}
	res := w.get("http://x/trailer", "Accept-Encoding", "gzip")
	if diff := cmp.Diff(http.Header{"X-Other": {"a"}}, res.Trailer); diff != "" || res.decoded(t) != text {
		t.Errorf("trailer of a compressed answer (-want +got):\n%s", diff)
	}
}

// Answers that stay as they are, although the client accepts gzip.
func TestAnswersThatAreNotCompressed(t *testing.T) {
	w := newWorld(t, `[{"name":"plain","match":{"prefix":"/plain"},"to":[{"service":"web"}]},
		{"name":"web","to":[{"service":"web"}],`+compressed+`}]`)
	type response struct {
		status int
		header map[string]string
		size   int
	}
	answers := map[string]response{
		"/plain":        {200, nil, 2000},
		"/short":        {200, nil, 1023},
		"/type":         {200, map[string]string{"Content-Type": "text/html"}, 2000},
		"/no-type":      {200, map[string]string{"Content-Type": ""}, 2000},
		"/encoded":      {200, map[string]string{"Content-Encoding": "br"}, 2000},
		"/no-transform": {200, map[string]string{"Cache-Control": "private, no-transform"}, 2000},
		"/events":       {200, map[string]string{"Content-Type": "text/event-stream"}, 2000},
		"/part":         {206, map[string]string{"Content-Range": "bytes 0-1999/9999"}, 2000},
		"/none":         {204, nil, 0},
		"/reset":        {205, nil, 0},
	}
	w.origin("web", "web-1", "", http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		a := answers[r.URL.Path]
		h := rw.Header()
		h.Set("Content-Type", "text/plain")
		h.Set("Etag", `"a"`)
		if a.size > 0 {
			h.Set("Content-Length", strconv.Itoa(a.size))
		}
		for name, value := range a.header {
			h[name] = []string{value}
			if value == "" {
				h[name] = nil
			}
		}
		rw.WriteHeader(a.status)
		_, _ = io.WriteString(rw, strings.Repeat("x", a.size))
	}))
	for path, a := range answers {
		for _, h2 := range []bool{false, true} {
			res := w.do(w.client(h2), http.MethodGet, "http://x"+path, nil, "Accept-Encoding", "gzip")
			if got := res.Header.Get("Content-Encoding"); res.StatusCode != a.status || got != a.header["Content-Encoding"] ||
				len(res.body) != a.size || res.Header.Get("Etag") != `"a"` || res.Header["Vary"] != nil {
				t.Errorf("%s with HTTP/2 %t: status %d, %d bytes, header %v; want %d, %d bytes and nothing changed", path, h2,
					res.StatusCode, len(res.body), res.Header, a.status, a.size)
			}
		}
	}
	answers["/ok"] = response{200, nil, 2000}
	res := w.get("http://x/ok", "Accept-Encoding", "gzip", "Cache-Control", "no-transform")
	if res.Header.Get("Content-Encoding") != "" || res.Header.Get("Vary") != "Accept-Encoding" {
		t.Errorf("a client that asks for no-transform gets the header %v", res.Header)
	}
}

// Answers that the edge makes itself are compressed as those of origin servers.
func TestOwnAnswersAreCompressed(t *testing.T) {
	dir := t.TempDir()
	text := strings.Repeat("0123456789", 500)
	for _, f := range []struct{ name, text string }{
		{"a.txt", text},
		{"b.txt", text},
		{"b.txt.gz", "GZ"}, // after b.txt: an older one would not be used
		{"c.png", text},
	} {
		if err := os.WriteFile(dir+"/"+f.name, []byte(f.text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	w := newWorld(t, `[
		{"name":"files","match":{"prefix":"/files"},"files":{"dir":"`+dir+`","precompressed":true},`+compressed+`},
		{"name":"text","match":{"prefix":"/text"},"respond":{"body":"`+text+`"},`+compressed+`},
		{"name":"moved","match":{"prefix":"/moved"},"redirect":{"to":"/"},`+compressed+`}]`)
	for _, h2 := range []bool{false, true} {
		for _, c := range []struct {
			method, path, coding, body string
			status                     int
			header                     []string
		}{
			{"GET", "/text", "gzip", text, 200, nil},
			{"HEAD", "/text", "gzip", "", 200, nil},
			{"GET", "/files/a.txt", "gzip", text, 200, nil},
			{"HEAD", "/files/a.txt", "gzip", "", 200, nil},
			{"GET", "/files/a.txt", "", text[:10], 206, []string{"Range", "bytes=0-9"}},
			{"GET", "/files/c.png", "", text, 200, nil},
			{"GET", "/files/x.txt", "", "", 404, nil},
			{"GET", "/moved", "", "", 308, nil},
		} {
			header := append([]string{"Accept-Encoding", "gzip"}, c.header...)
			res := w.do(w.client(h2), c.method, "http://x"+c.path, nil, header...)
			if got := res.Header.Get("Content-Encoding"); res.StatusCode != c.status || got != c.coding {
				t.Errorf("%s %s with HTTP/2 %t: status %d, coding %q; want %d, %q", c.method, c.path, h2, res.StatusCode, got,
					c.status, c.coding)
				continue
			}
			if c.status < 300 && c.method == "GET" && res.decoded(t) != c.body {
				t.Errorf("%s %s: the content is %q, want %q", c.method, c.path, res.decoded(t), c.body)
			}
			if c.coding != "" && (res.Header.Get("Accept-Ranges") != "" || strings.HasPrefix(res.Header.Get("Etag"), `"`)) {
				t.Errorf("%s %s: header %v has ranges or a strong ETag", c.method, c.path, res.Header)
			}
		}
	}
	if res := w.get("http://x/files/b.txt", "Accept-Encoding", "gzip"); res.body != "GZ" || len(res.Header["Vary"]) != 1 {
		t.Errorf("a file with a compressed form: %q, Vary %q; want GZ and one line", res.body, res.Header["Vary"])
	}
	tag := w.get("http://x/files/a.txt", "Accept-Encoding", "gzip").Header.Get("Etag")
	res := w.get("http://x/files/a.txt", "Accept-Encoding", "gzip", "If-None-Match", tag)
	if res.StatusCode != 304 || res.Header.Get("Etag") != tag {
		t.Errorf("with the ETag %s of before: status %d, ETag %s; want 304 and the same", tag, res.StatusCode,
			res.Header.Get("Etag"))
	}
}

// What an origin server sends before it pauses can be decoded within a millisecond, whatever the framing.
func TestCompressedPiecesGoOutWithinAMillisecond(t *testing.T) {
	for _, coding := range []string{"zstd", "gzip", "br"} {
		for _, h2 := range []bool{false, true} {
			for _, length := range []int{0, 50} {
				synctest.Test(t, func(t *testing.T) {
					w := newWorld(t, `[{"name":"web","to":[{"service":"web"}],
						"compress":{"types":["text/event-stream"],"minBytes":1}}]`)
					w.origin("web", "web-1", "", http.HandlerFunc(func(rw http.ResponseWriter, _ *http.Request) {
						rw.Header().Set("Content-Type", "text/event-stream")
						if length > 0 {
							rw.Header().Set("Content-Length", strconv.Itoa(length))
						}
						for i := range 5 {
							if i > 0 {
								time.Sleep(time.Minute / 2)
							}
							_, _ = io.WriteString(rw, "data: ")
							_ = http.NewResponseController(rw).Flush()
							_, _ = io.WriteString(rw, "12\n\n")
							_ = http.NewResponseController(rw).Flush()
						}
					}))
					req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://x/", nil)
					if err != nil {
						t.Fatal(err)
					}
					req.Header.Set("Accept-Encoding", coding)
					begin := time.Now()
					res, err := w.client(h2).Do(req)
					if err != nil {
						t.Fatal(err)
					}
					defer res.Body.Close()
					r := decoder(t, res.Header.Get("Content-Encoding"), res.Body)
					for i := range 5 {
						read(t, r, "data: 12\n\n")
						if late := time.Since(begin) - time.Duration(i)*time.Minute/2; late > time.Millisecond {
							t.Errorf("%s, HTTP/2 %t, length %d: event %d came after %v, want 1 ms", coding, h2,
								length, i, late)
						}
					}
					if rest, err := io.ReadAll(r); err != nil || len(rest) > 0 || res.Header.Get("Content-Encoding") != coding {
						t.Errorf("%s, HTTP/2 %t, length %d: at the end %q, %v, header %v", coding, h2, length, rest, err, res.Header)
					}
				})
			}
		}
	}
}

// A stop of the edge ends a compressed event stream with the end of its coding.
func TestStopEndsACompressedEventStream(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, `[{"name":"web","to":[{"service":"web"}],"compress":{"types":["text/event-stream"]}}]`)
		w.origin("web", "web-1", "", http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
			rw.Header().Set("Content-Type", "text/event-stream")
			_, _ = io.WriteString(rw, "data: a\n\n")
			_ = http.NewResponseController(rw).Flush()
			<-r.Context().Done()
		}))
		req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://x/", nil)
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Accept-Encoding", "gzip")
		res, err := w.client(false).Do(req)
		if err != nil {
			t.Fatal(err)
		}
		defer res.Body.Close()
		r := decoder(t, "gzip", res.Body)
		read(t, r, "data: a\n\n")
		stopped := make(chan error, 1)
		go func() {
			ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
			defer cancel()
			stopped <- w.edge.Shutdown(ctx)
		}()
		if rest, err := io.ReadAll(r); err != nil || len(rest) > 0 {
			t.Errorf("the stream ended with %q, %v; want a complete end of the coding", rest, err)
		}
		if err := <-stopped; err != nil {
			t.Error(err)
		}
	})
}

// If the origin server breaks off, the client notices: what it has is not complete.
func TestCompressedAnswerOfAnOriginThatBreaksOff(t *testing.T) {
	w := newWorld(t, `[{"name":"web","to":[{"service":"web"}],`+compressed+`}]`)
	w.origin("web", "web-1", "", http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		rw.Header().Set("Content-Type", "text/plain")
		if r.URL.Path == "/known" {
			rw.Header().Set("Content-Length", "9999")
		}
		_, _ = io.WriteString(rw, strings.Repeat("x", 5000))
		_ = http.NewResponseController(rw).Flush()
		panic(http.ErrAbortHandler)
	}))
	for _, path := range []string{"/known", "/chunks"} {
		for _, h2 := range []bool{false, true} {
			req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://x"+path, nil)
			if err != nil {
				t.Fatal(err)
			}
			req.Header.Set("Accept-Encoding", "gzip")
			res, err := w.client(h2).Do(req)
			if err != nil {
				continue // nothing had been sent
			}
			if text, err := io.ReadAll(res.Body); err == nil {
				t.Errorf("%s with HTTP/2 %t: %d bytes and no error", path, h2, len(text))
			}
			res.Body.Close()
		}
	}
}

// When too many answers are being compressed, further ones are sent as they are.
func TestTooManyCompressedAnswers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := worldWith(t, gateway.EdgeOptions{MemoryLimit: 256 << 20},
			`[{"name":"web","to":[{"service":"web"}],"compress":{"types":["text/event-stream","text/plain"]}}]`)
		w.origin("web", "web-1", "", http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
			rw.Header().Set("Content-Type", "text"+r.URL.Path)
			_, _ = io.WriteString(rw, strings.Repeat("x", 2000))
			_ = http.NewResponseController(rw).Flush()
			<-r.Context().Done()
		}))
		counts := map[string]int{}
		open := func(path string) {
			req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://x"+path, nil)
			if err != nil {
				t.Fatal(err)
			}
			req.Header.Set("Accept-Encoding", "gzip")
			res, err := w.client(false).Do(req)
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { res.Body.Close() })
			first := make([]byte, 1)
			if _, err := io.ReadFull(res.Body, first); err != nil || bytes.Equal(first, []byte("x")) !=
				(res.Header.Get("Content-Encoding") == "") {
				t.Errorf("the content begins with %q, %v, although the header is %v", first, err, res.Header)
			}
			counts[path+" "+res.Header.Get("Content-Encoding")]++
		}
		for range 20 {
			open("/event-stream")
			open("/plain")
		}
		want := map[string]int{"/event-stream gzip": 16, "/event-stream ": 4, "/plain gzip": 16, "/plain ": 4}
		if diff := cmp.Diff(want, counts); diff != "" {
			t.Errorf("answers by coding (-want +got):\n%s", diff)
		}
	})
}
