package gateway_test

import (
	"bufio"
	"io"
	"net"
	"net/http"
	"slices"
	"strings"
	"testing"

	"bijou.dev/services/gateway"

	"github.com/google/go-cmp/cmp"
)

// Answers of an origin of HTTP/1 that are not well formed.
func TestAnswersOfOrigins(t *testing.T) {
	for _, c := range []struct {
		name, in string
		status   int
		field    string // of the answer; empty: none
		want     []string
		body     string
	}{
		{"folded line", "200 OK\r\nContent-Length: 2\r\nA: b\r\n \tc\r\n\r\nok", 200, "A", []string{"b c"}, "ok"},
		{"white space before the colon", "200 OK\r\nContent-Length: 2\r\nA : b\r\n\r\nok", 200, "A", nil, "ok"},
		{"CR in a value", "200 OK\r\nContent-Length: 2\r\nA: b\rc\r\n\r\nok", 502, "", nil, ""},
		{"NUL in a value", "200 OK\r\nContent-Length: 2\r\nA: b\x00c\r\n\r\nok", 502, "", nil, ""},
		{"bytes above ASCII", "200 OK\r\nContent-Length: 2\r\nA: \xe9\xff\r\n\r\nok", 200, "A", []string{"\xe9\xff"}, "ok"},
		{"no reason", "200\r\nContent-Length: 2\r\n\r\nok", 200, "", nil, "ok"},
		{"unknown status", "299 Odd\r\nContent-Length: 2\r\n\r\nok", 299, "", nil, "ok"},
		{"status above 599", "799 Odd\r\nContent-Length: 2\r\n\r\nok", 799, "X-Bijou-Fault", []string{"origin_error"}, "ok"},
		{
			"length and chunks", "200 OK\r\nContent-Length: 9\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n", 200,
			"Content-Length", nil, "ok",
		},
		{
			"chunk with an extension", "200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2;a=b\r\nok\r\n0\r\n\r\n", 200, "",
			nil, "ok",
		},
		{"two lengths", "200 OK\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\nok", 502, "", nil, ""},
		{
			"same length twice", "200 OK\r\nContent-Length: 2\r\nContent-Length: 2\r\n\r\nok", 200, "Content-Length",
			[]string{"2"},
			"ok",
		},
		{"length that is none", "200 OK\r\nContent-Length: x\r\n\r\nok", 502, "", nil, ""},
		{"negative length", "200 OK\r\nContent-Length: -2\r\n\r\nok", 502, "", nil, ""},
		{"huge length", "200 OK\r\nContent-Length: 99999999999999999999\r\n\r\nok", 502, "", nil, ""},
		{"other coding", "200 OK\r\nTransfer-Encoding: gzip\r\n\r\nok", 502, "", nil, ""},
		{"chunk that is none", "200 OK\r\nTransfer-Encoding: chunked\r\n\r\nx\r\n", 200, "", nil, "cut"},
		{"no colon", "200 OK\r\nA\r\n\r\n", 502, "", nil, ""},
		{"204 with a length", "204 No Content\r\nContent-Length: 2\r\n\r\n", 204, "Content-Length", nil, ""},
		{"304 with a length", "304 Not Modified\r\nContent-Length: 2\r\n\r\n", 304, "Content-Length", nil, ""},
		{"no Date", "200 OK\r\nContent-Length: 0\r\n\r\n", 200, "Content-Length", []string{"0"}, ""},
	} {
		for _, method := range []string{http.MethodGet, http.MethodPost} {
			t.Run(c.name+"/"+method, func(t *testing.T) {
				w := newWorld(t, toWeb)
				w.script("web", "web-1", "HTTP/1.1 "+c.in)
				conn := w.dial()
				_, _ = io.WriteString(conn, method+" / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
				res, err := http.ReadResponse(bufio.NewReader(conn), nil)
				var body []byte
				if err == nil {
					body, err = io.ReadAll(res.Body)
				}
				if c.body == "cut" {
					if err == nil {
						t.Errorf("the body of the answer is %q and whole, want it to be cut", body)
					}
					return
				}
				if res == nil {
					t.Fatal(err)
				}
				if res.StatusCode != c.status || err != nil || c.status < 500 && string(body) != c.body || res.ProtoMinor != 1 {
					t.Errorf("the client got %s %d %q, %v, want HTTP/1.1 %d %q", res.Proto, res.StatusCode, body, err, c.status,
						c.body)
				}
				if c.field != "" && !cmp.Equal(res.Header[c.field], c.want) {
					t.Errorf("%s is %q, want %q", c.field, res.Header[c.field], c.want)
				}
				if res.Header.Get("Date") == "" {
					t.Error("the answer has no Date")
				}
			})
		}
	}
}

// Fields that are for the ends of the chain pass as they are, in both directions and in their order.
func TestFieldsOfTheEndsPass(t *testing.T) {
	request := []string{
		"Authorization: Basic x", "Cookie: a=1; b=2", "Referer: http://a/b", "From: a@b", "If-None-Match: \"a\", W/\"b\"",
		"If-Modified-Since: never", "If-Range: x", "Range: bytes=0-1,5-", "Cache-Control: no-transform, a", "Pragma: x",
		"Accept: text/html;q=0.5", "Accept-Encoding: br", "Content-Location: /a", "Content-Range: bytes 0-1/2",
		"Unknown: 1", "Unknown: 2", "Unknown: 0", "X.dot: a", "Empty: ",
	}
	answer := []string{
		"Allow: GET, ODD", "Www-Authenticate: Basic realm=\"a\", Digest b=c", "Vary: A, b", "Etag: W/\"a\"",
		"Location: //a#b",
		"Last-Modified: never", "Content-Encoding: br", "Content-Range: odd 1-2/3", "Content-Location: /a", "Age: -1",
		"Accept-Ranges: odd", "Warning: 199 - \"a\"", "Cache-Control: no-transform", "Retry-After: soon", "Server: a/1",
		"Content-Language: de, en", "Unknown: 1", "Unknown: 2", "Unknown: 0", "Date: yesterday",
	}
	w := newWorld(t, toWebInBothWays)
	var got http.Header
	w.origin("web", "web-1", "", http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		got = r.Header.Clone()
		for _, line := range answer {
			name, value, _ := strings.Cut(line, ": ")
			rw.Header()[name] = append(rw.Header()[name], value)
		}
	}))
	check := func(t *testing.T, who string, want []string, got http.Header) {
		t.Helper()
		var all []string
		for name, lines := range got {
			for _, line := range lines {
				all = append(all, name+": "+line)
			}
		}
		for _, line := range want {
			if !slices.Contains(all, line) {
				t.Errorf("%s did not get %q but %q", who, line, all)
			}
		}
		if lines := got["Unknown"]; !cmp.Equal(lines, []string{"1", "2", "0"}) {
			t.Errorf("%s got the lines of Unknown as %q, want 1, 2, 0", who, lines)
		}
	}
	for _, h2 := range []bool{false, true} {
		for _, way := range ways {
			var header []string
			for _, line := range request {
				name, value, _ := strings.Cut(line, ": ")
				header = append(header, name, value)
			}
			res := w.do(w.client(h2), way.method, "http://x"+way.path, stream(way.body), header...)
			check(t, way.name+": the origin", request, got)
			check(t, way.name+": the client", answer, res.Header)
		}
	}
}

// RFC 9110, 5.6.1.2: empty elements of a list are ignored.
func TestEmptyElementsOfConnection(t *testing.T) {
	w := newWorld(t, toWeb)
	var got http.Header
	w.origin("web", "web-1", "", http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { got = r.Header.Clone() }))
	w.raw("GET / HTTP/1.1\r\nHost: x\r\nConnection: , X-A ,,\t, close,X-B,\r\nX-A: 1\r\nX-B: 1\r\nX-C: 1\r\n\r\n")
	if got.Get("X-A") != "" || got.Get("X-B") != "" || got.Get("X-C") != "1" {
		t.Errorf("the origin got %v, want X-C without X-A and X-B, which Connection names", got)
	}
}

// RFC 9110, 7.8 and 10.1.1: HTTP/1.0 has no Upgrade and no Expect.
func TestUpgradeAndExpectOfHTTP10AreIgnored(t *testing.T) {
	w := newWorld(t, toWeb)
	w.origin("web", "web-1", "", http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		if r.Header.Get("Upgrade") != "" || r.Header.Get("Expect") != "" {
			t.Errorf("the origin got %v, want neither Upgrade nor Expect", r.Header)
		}
	}))
	for _, in := range []string{
		"GET / HTTP/1.0\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n",
		"GET / HTTP/1.0\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: odd\r\n\r\n",
		"POST / HTTP/1.0\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: 3\r\n\r\nabc",
		"POST / HTTP/1.0\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: 70000\r\n\r\n" + strings.Repeat("x", 70000),
	} {
		if got, _ := w.raw(in); !cmp.Equal(got, []int{200}) {
			t.Errorf("%.70q: statuses %v, want 200", in, got)
		}
	}
}

// RFC 9112, 6.3 and 9.2: what an origin sends after its answer is not the answer to the next request.
func TestBytesAfterAnAnswerAreNotTheNext(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	more := make(chan struct{})
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				r := bufio.NewReader(c)
				for {
					req, err := http.ReadRequest(r)
					if err != nil {
						return
					}
					_, _ = io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
					if req.URL.Path == "/more" {
						<-more // the edge has the answer
						_, _ = io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nstale")
						more <- struct{}{}
					}
				}
			}()
		}
	}()
	w := worldWith(t, gateway.EdgeOptions{DialContext: (&net.Dialer{}).DialContext}, toWeb)
	w.register("web", "web-1", "", l.Addr().String())
	w.get("http://x/more")
	more <- struct{}{}
	<-more
	for range 3 {
		if res := w.get("http://x/"); res.body != "ok" {
			t.Errorf("the next answer is %q, want ok", res.body)
		}
	}
}

// RFC 9112, 6.1 and 9.6: after an answer of HTTP/1.0, which may have had chunks, and after one with close the
// connection is not used again.
func TestConnectionsOfHTTP10OriginsAreNotReused(t *testing.T) {
	for _, answer := range []string{
		"HTTP/1.0 200 OK\r\nConnection: keep-alive\r\nContent-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\nok",
		"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nok",
	} {
		w := newWorld(t, toWeb)
		seen := w.script("web", "web-1", answer)
		for range 2 {
			if res := w.get("http://x/"); res.body != "ok" {
				t.Errorf("after %.8s: got %d %q, want ok", answer, res.StatusCode, res.body)
			}
		}
		if n := strings.Count(seen.String(), newConnection); n != 2 {
			t.Errorf("after %.8s: the edge opened %d connections for two requests, want 2", answer, n)
		}
	}
}

// RFC 9112, 3.2.1: whatever form the client used, the origin gets path and query.
func TestOriginGetsPathAndQuery(t *testing.T) {
	for target, want := range map[string]string{
		"http://x": "/", "http://x?a=b": "/?a=b", "http://x/a?": "/a?", "https://x:1/%41/": "/%41/", "/a": "/a",
	} {
		for _, method := range []string{"GET", "POST"} {
			w := newWorld(t, toWeb)
			seen := w.script("web", "web-1", "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
			w.raw(method + " " + target + " HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
			if !strings.HasPrefix(seen.String(), newConnection+method+" "+want+" HTTP/1.1\r\n") {
				t.Errorf("%s %s: the origin got %q, want the target %s", method, target, seen, want)
			}
		}
	}
}

// RFC 9110, 10.1.4: TE is for the connection, so Connection names it. HTTP/2 has TE without Connection.
func TestTEIsNamedInConnection(t *testing.T) {
	w := newWorld(t, toWebInBothWays)
	var got http.Header
	w.origin("web", "web-1", "", http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		got = r.Header.Clone()
	}))
	for _, h2 := range []bool{false, true} {
		for _, way := range ways {
			for _, te := range []string{"trailers", "gzip, trailers", ""} {
				if h2 && strings.HasPrefix(te, "gzip") {
					continue // which HTTP/2 forbids
				}
				header := []string{"Te", te}
				if te == "" {
					header = nil
				}
				w.do(w.client(h2), way.method, "http://x"+way.path, stream(way.body), header...)
				wantTE, wantConnection := "trailers", "TE"
				if way.path == "/h2" {
					wantConnection = ""
				}
				if te == "" {
					wantTE, wantConnection = "", ""
				}
				if got.Get("Te") != wantTE || got.Get("Connection") != wantConnection {
					t.Errorf("%s, client of HTTP/2 %v, TE %q: the origin got TE %q and Connection %q, want %q and %q", way.name, h2,
						te, got.Get("Te"), got.Get("Connection"), wantTE, wantConnection)
				}
			}
		}
	}
}

// RFC 9113, 8.2.2 and 10.3: what is about a connection of HTTP/1 does not get into HTTP/2, nor the other way.
func TestConnectionFieldsAreRemoved(t *testing.T) {
	w := newWorld(t, toWebInBothWays)
	var got http.Header
	w.origin("web", "web-1", "", http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		got = r.Header.Clone()
		rw.Header().Set("Keep-Alive", "5")
		rw.Header().Set("Proxy-Connection", "x")
		rw.Header().Set("Proxy-Authenticate", "x")
		if r.ProtoMajor == 1 {
			rw.Header().Set("Connection", "X-Named")
			rw.Header().Set("Upgrade", "h2c")
			rw.Header().Set("X-Named", "1")
		}
	}))
	for _, h2 := range []bool{false, true} {
		for _, way := range ways {
			header := []string{"Proxy-Authorization", "x", "Http2-Settings", "x"}
			if !h2 {
				header = append(header, "Keep-Alive", "5", "Proxy-Connection", "x", "Upgrade", "h2c", "X-Named", "1",
					"Connection", "X-Named, Upgrade, HTTP2-Settings")
			}
			res := w.do(w.client(h2), way.method, "http://x"+way.path, stream(way.body), header...)
			for _, name := range []string{
				"Connection", "Keep-Alive", "Proxy-Connection", "Upgrade", "Http2-Settings", "X-Named", "Proxy-Authorization",
				"Proxy-Authenticate",
			} {
				if got[name] != nil || res.Header[name] != nil {
					t.Errorf("%s, client of HTTP/2 %v: the origin got %s %q, the client %q, want it removed", way.name, h2, name,
						got[name], res.Header[name])
				}
			}
		}
	}
}

// RFC 9113, 8.2.3: cookies may come in pieces by HTTP/2.
func TestCookiesOfHTTP2AreJoined(t *testing.T) {
	w := newWorld(t, toWeb)
	var got []string
	w.origin("web", "web-1", "", http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		got = r.Header["Cookie"]
	}))
	c := w.h2()
	defer c.Conn.Close()
	if status := c.Outcome(c.Open("GET", "/", true, "cookie", "a=1", "cookie", "b=2", "cookie", "c=3")); status != "200" ||
		!cmp.Equal(got, []string{"a=1; b=2; c=3"}) {
		t.Errorf("status %s, the origin got the cookies %q, want one line a=1; b=2; c=3", status, got)
	}
}

// RFC 9112, 6.1: HTTP/1.0 knows no chunks, so the end of the connection is that of the answer.
func TestNoChunksToHTTP10(t *testing.T) {
	w := newWorld(t, toWeb)
	w.origin("web", "web-1", "", http.HandlerFunc(func(rw http.ResponseWriter, _ *http.Request) {
		_, _ = io.WriteString(rw, "a")
		_ = http.NewResponseController(rw).Flush()
		_, _ = io.WriteString(rw, "b")
	}))
	c := w.dial()
	_, _ = io.WriteString(c, "GET / HTTP/1.0\r\nHost: x\r\nConnection: keep-alive\r\n\r\n")
	all, err := io.ReadAll(c)
	if head, body, _ := strings.Cut(string(all), "\r\n\r\n"); err != nil || body != "ab" ||
		!strings.HasPrefix(head, "HTTP/1.1 200 ") || // RFC 9110, 6.2
		strings.Contains(strings.ToLower(head), "transfer-encoding") || strings.Contains(head, "keep-alive") {
		t.Errorf("the client got %q, %v, want the body ab as it is and the end of the connection", all, err)
	}
}

// RFC 9112, 2.3: each side gets the version of the edge, not that of the other side.
func TestTheEdgeSendsItsOwnVersion(t *testing.T) {
	w := newWorld(t, toWeb)
	seen := w.script("web", "web-1", "HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nok")
	if res := w.get("http://x/"); res.Proto != "HTTP/1.1" {
		t.Errorf("the client of HTTP/1.1 got %s from an origin of HTTP/1.0, want HTTP/1.1", res.Proto)
	}
	w.raw("GET /old HTTP/1.0\r\nHost: x\r\n\r\n")
	if !strings.Contains(seen.String(), "GET /old HTTP/1.1\r\n") {
		t.Errorf("the origin got %q, want HTTP/1.1 for a request of HTTP/1.0", seen)
	}
}

// RFC 9110, 7.8: names of protocols are compared without regard to case.
func TestUpgradeIgnoresCase(t *testing.T) {
	w := newWorld(t, toWeb)
	w.origin("web", "web-1", "", websocket(nil))
	c := w.dial()
	_, _ = io.WriteString(c, strings.Replace(upgrade, "Upgrade: websocket", "Upgrade: WebSocket", 1))
	if res, err := http.ReadResponse(bufio.NewReader(c), nil); err != nil || res.StatusCode != 101 {
		t.Errorf("got %v, %v, want 101", res, err)
	}
}
