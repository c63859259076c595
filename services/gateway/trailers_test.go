package gateway_test

import (
	"bufio"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/net/http/httpguts"
)

// forbidden are fields that must not pass in a trailer (RFC 9110, 6.5.1): a server that merges trailers into headers
// would obey them.
var forbidden = []string{
	"Authorization", "Cookie", "Set-Cookie", "Www-Authenticate", "Proxy-Authorization", "Proxy-Authenticate", // who it is
	"Connection", "Keep-Alive", "Upgrade", "Te", "X-Named", // the connection
	"Max-Forwards", "Via", "Forwarded", "X-Real-Ip", "X-Original-Url", "X-Http-Method-Override", // the way
	"Cache-Control", "Pragma", "Range", "If-Match", "Content-Type", "Content-Encoding", // what is done
	"Age", "Date", "Expires", "Location", "Retry-After", "Vary", "Warning", // the answer
	"X-Forwarded-For", "X-Bijou-Pin", "X-Bijou-Fault", "X-Request-Id", "Baggage", "Traceparent", "X_Forwarded_For",
}

// trailerLines returns fields of a trailer with all forbidden names and two others.
func trailerLines(names []string) string {
	var b strings.Builder
	for _, name := range append(names, "X-Sum", "x-last") {
		b.WriteString(name + ": v\r\n")
	}
	return b.String()
}

// Trailers of requests pass to origins of both protocols, less what must not be in a trailer. A client of HTTP/1 need
// not announce them.
func TestTrailersOfRequests(t *testing.T) {
	w := newWorld(t, toWebInBothWays)
	var mu sync.Mutex
	var trailer, header http.Header
	w.origin("web", "web-1", "", http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		text, err := io.ReadAll(r.Body)
		mu.Lock()
		defer mu.Unlock()
		trailer, header = r.Trailer, r.Header
		_, _ = fmt.Fprintf(rw, "%s %v", text, err)
	}))
	check := func(t *testing.T, want http.Header, status int, body string) {
		t.Helper()
		mu.Lock()
		defer mu.Unlock()
		if status != http.StatusOK || body != "abc <nil>" {
			t.Errorf("got %d %s, want 200 and that the origin read abc", status, body)
		}
		if diff := cmp.Diff(want, trailer); diff != "" {
			t.Errorf("the trailer that the origin got (-want +got):\n%s", diff)
		}
		for _, name := range append(forbidden, "X-Sum", "X-Last") {
			for _, line := range header[name] {
				if line == "v" {
					t.Errorf("the field %s of the trailer was in the header that the origin got", name)
				}
			}
		}
		trailer = nil
	}
	all := http.Header{"X-Sum": {"v"}, "X-Last": {"v"}}
	for _, path := range []string{"/h1", "/h2"} {
		for name, announce := range map[string]string{
			"announced": "Trailer: X-Sum, X-Last\r\n", "not announced": "", "one announced": "Trailer: x-last\r\n",
			"forbidden announced": "Trailer: Authorization, X-Forwarded-For, X-Named, X-Sum, X-Last\r\n",
		} {
			t.Run("HTTP/1 to "+path+", "+name, func(t *testing.T) {
				c := w.dial()
				_, _ = io.WriteString(c, "POST "+path+" HTTP/1.1\r\nHost: x\r\nConnection: close, X-Named\r\n"+announce+
					"Transfer-Encoding: chunked\r\n\r\n3;a=b\r\nabc\r\n0\r\n"+trailerLines(forbidden)+"\r\n")
				res, err := http.ReadResponse(bufio.NewReader(c), nil)
				if err != nil {
					t.Fatal(err)
				}
				body, _ := io.ReadAll(res.Body)
				want := all
				switch { // the server of the origin drops what was not announced by HTTP/2
				case path == "/h2" && announce == "":
					want = nil
				case path == "/h2" && name == "one announced":
					want = http.Header{"X-Last": {"v"}}
				}
				check(t, want, res.StatusCode, string(body))
			})
		}
		for _, length := range []int64{-1, 3} {
			t.Run(fmt.Sprintf("HTTP/2 to %s, length %d", path, length), func(t *testing.T) {
				req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, "http://x"+path, stream("abc"))
				if err != nil {
					t.Fatal(err)
				}
				req.ContentLength = length
				req.Trailer = http.Header{}
				for _, name := range append(forbidden, "X-Sum", "X-Last") {
					// net/http resets the stream for the others; HTTP/2 names no fields of the connection
					if httpguts.ValidTrailerHeader(name) && name != "X-Named" {
						req.Trailer[name] = []string{"v"}
					}
				}
				res, err := w.client(true).Do(req)
				if err != nil {
					t.Fatal(err)
				}
				defer res.Body.Close()
				body, _ := io.ReadAll(res.Body)
				check(t, all, res.StatusCode, string(body))
			})
		}
	}
}

// An origin that speaks HTTP/1.1 gets the announcement, and the trailer behind the last chunk.
func TestTrailersAreAnnouncedToTheOrigin(t *testing.T) {
	w := newWorld(t, toWeb)
	seen := w.script("web", "web-1", "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
	_, _ = w.raw("POST / HTTP/1.1\r\nHost: x\r\nConnection: close\r\nTrailer: X-Sum, Authorization\r\n" +
		"Transfer-Encoding: chunked\r\n\r\n3;a=b\r\nabc\r\n0;c\r\nX-Sum:  1 \r\nAuthorization: 2\r\n\r\n")
	if got := seen.String(); !strings.Contains(got, "\r\nTransfer-Encoding: chunked\r\nTrailer: X-Sum\r\n\r\n") ||
		!strings.HasSuffix(got, "\r\n\r\n3\r\nabc\r\n0\r\nX-Sum: 1\r\n\r\n") {
		t.Errorf("the origin got\n%s\nwant Trailer: X-Sum, the chunk without its extension, and the trailer X-Sum: 1", got)
	}
}

// The limits of a header hold for header and trailer together.
func TestTrailersOfRequestsAreBounded(t *testing.T) {
	w := newWorld(t, toWeb)
	w.origin("web", "web-1", "", http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
	}))
	for name, c := range map[string]struct {
		trailer string
		want    int
	}{
		"97 fields":       {strings.Repeat("A: b\r\n", 97), 200}, // and three in the header
		"98 fields":       {strings.Repeat("A: b\r\n", 98), 400},
		"3 KiB":           {"A: " + strings.Repeat("b", 3<<10) + "\r\n", 200},
		"9 KiB":           {"A: " + strings.Repeat("b", 9<<10) + "\r\n", 400},
		"9 KiB in fields": {strings.Repeat("A: "+strings.Repeat("b", 1<<10)+"\r\n", 9), 400},
	} {
		got, _ := w.raw("POST / HTTP/1.1\r\nHost: x\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n\r\n" +
			"3\r\nabc\r\n0\r\n" + c.trailer + "\r\n")
		if !cmp.Equal(got, []int{c.want}) {
			t.Errorf("HTTP/1, %s: statuses %v, want %d", name, got, c.want)
		}
	}
	for n, want := range map[int]int{100: 200, 101: 431} {
		req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, "http://x/", stream("abc"))
		if err != nil {
			t.Fatal(err)
		}
		req.Trailer = http.Header{"A": make([]string, n)}
		res, err := w.client(true).Do(req)
		if err != nil {
			t.Fatal(err)
		}
		res.Body.Close()
		if res.StatusCode != want {
			t.Errorf("HTTP/2, %d fields: status %d, want %d", n, res.StatusCode, want)
		}
	}
}

// Trailers of answers pass to clients of both protocols, less what must not be in a trailer.
func TestTrailersOfAnswers(t *testing.T) {
	w := newWorld(t, toWebInBothWays)
	w.origin("web", "web-1", "", http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		prefix := http.TrailerPrefix
		if announced := r.URL.Query().Get("announced") != ""; announced {
			prefix = ""
			rw.Header()["Trailer"] = append(append([]string{}, forbidden...), "X-Sum", "Grpc-Status")
		}
		if r.ProtoMajor == 1 {
			rw.Header().Set("Connection", "X-Named")
		}
		_, _ = io.WriteString(rw, "abc")
		_ = http.NewResponseController(rw).Flush()
		for _, name := range forbidden {
			rw.Header()[prefix+name] = []string{"v"}
		}
		rw.Header()[prefix+"X-Sum"] = []string{"v", "w"}
		rw.Header()[prefix+"Grpc-Status"] = []string{"0"}
	}))
	want := http.Header{"X-Sum": {"v", "w"}, "Grpc-Status": {"0"}}
	for _, h2 := range []bool{false, true} {
		for _, way := range ways {
			for _, query := range []string{"", "?announced=1"} {
				res := w.do(w.client(h2), way.method, "http://x"+way.path+query, stream(way.body))
				if way.path == "/h2" {
					delete(res.Trailer, "X-Named") // HTTP/2 names no fields of the connection
				}
				if diff := cmp.Diff(want, res.Trailer); diff != "" || res.body != "abc" {
					t.Errorf("%s %q, client of HTTP/2 %v: body %q, trailer (-want +got):\n%s", way.name, query, h2, res.body, diff)
				}
				for _, name := range append(forbidden, "X-Sum") {
					if lines := res.Header[name]; len(lines) > 0 && lines[0] == "v" {
						t.Errorf("%s %q, client of HTTP/2 %v: the field %s of the trailer was in the header", way.name, query, h2, name)
					}
				}
			}
		}
	}
}
