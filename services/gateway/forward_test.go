package gateway_test

import (
	"net/http"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// RFC 9110, 7.6.3: each request names the edge in Via, after those that it came through before.
func TestVia(t *testing.T) {
	w := newWorld(t, toWebInBothWays)
	var got []string
	w.origin("web", "web-1", "", http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		got = r.Header["Via"]
		rw.Header().Set("Via", "1.1 behind")
	}))
	for _, h2 := range []bool{false, true} {
		own := "1.1 bijou"
		if h2 {
			own = "2.0 bijou"
		}
		for _, way := range ways {
			res := w.do(w.client(h2), way.method, "http://x"+way.path, stream(way.body))
			if !cmp.Equal(got, []string{own}) {
				t.Errorf("%s, HTTP/2 %v: the origin saw Via %q, want %q", way.name, h2, got, own)
			}
			if !cmp.Equal(res.Header["Via"], []string{"1.1 behind"}) {
				t.Errorf("%s, HTTP/2 %v: the client saw Via %q, want that of the origin only", way.name, h2, res.Header["Via"])
			}
			w.do(w.client(h2), way.method, "http://x"+way.path, stream(way.body), "Via", "1.0 a, 2 b (c)", "Via", "1.1 d")
			if !cmp.Equal(got, []string{"1.0 a, 2 b (c)", "1.1 d", own}) {
				t.Errorf("%s, HTTP/2 %v: the origin saw Via %q, want the two lines that were sent and %s", way.name, h2, got,
					own)
			}
		}
	}
	w.raw("GET /h1 HTTP/1.0\r\nHost: x\r\n\r\n")
	if !cmp.Equal(got, []string{"1.0 bijou"}) {
		t.Errorf("from HTTP/1.0 the origin saw Via %q, want 1.0 bijou", got)
	}
	w.get("http://x/h1", "Via", "1.1 a", "Connection", "Via")
	if !cmp.Equal(got, []string{"1.1 bijou"}) {
		t.Errorf("with a Via that Connection names the origin saw %q, want 1.1 bijou", got)
	}
}

// RFC 9110, 7.6: a route that leads back to the edge ends. A few edges in a row are no loop.
func TestLoopsEnd(t *testing.T) {
	requests := 0
	w := newWorld(t, `[{"name":"loop","match":{"prefix":"/loop"},"to":[{"service":"edge"}]},
		{"name":"web","to":[{"service":"web"}]}]`, "gateway.maxConnectionsPerClient", "100")
	w.register("edge", "edge-1", "", "edge:80")
	w.origin("web", "web-1", "", http.HandlerFunc(func(http.ResponseWriter, *http.Request) { requests++ }))
	res := w.get("http://x/loop")
	if res.StatusCode != http.StatusLoopDetected || !strings.Contains(res.body, "leads back to the edge") {
		t.Errorf("a route that leads to the edge: status %d %s, want 508 that says so", res.StatusCode, res.body)
	}
	if n := w.metric("bijou_gateway_requests_total"); n != 9 {
		t.Errorf("the edge got the request %v times, want 9", n)
	}
	for n, want := range map[int]int{7: 200, 8: 508} {
		via := strings.TrimSuffix(strings.Repeat("1.1 bijou, ", n), ", ")
		for _, lines := range [][]string{{"Via", via}, {"Via", "1.1 other", "Via", via}} {
			if res := w.get("http://x/", lines...); res.StatusCode != want {
				t.Errorf("after %d edges: status %d, want %d", n, res.StatusCode, want)
			}
		}
	}
	if res := w.get("http://x/", "Via", strings.Repeat("1.1 other, ", 50)+"1.1 bijou.example.org"); res.StatusCode != 200 {
		t.Errorf("after 51 other servers: status %d, want 200", res.StatusCode)
	}
	if requests != 3 {
		t.Errorf("the origin got %d requests, want 3", requests)
	}
}

// RFC 9110, 7.6.2 and 9.3.7.
func TestMaxForwards(t *testing.T) {
	for _, c := range []struct {
		name, method string
		sent         []string
		status       int
		want         string // what the origin sees; "none": it gets no request
	}{
		{"zero", "OPTIONS", []string{"0"}, 200, "none"},
		{"zeros", "OPTIONS", []string{"00"}, 200, "none"},
		{"one", "OPTIONS", []string{"1"}, 200, "0"},
		{"ten", "OPTIONS", []string{"10"}, 200, "9"},
		{"more than the edge can count", "OPTIONS", []string{"99999999999999999999"}, 200, "2147483646"},
		{"absent", "OPTIONS", nil, 200, ""},
		{"not a number", "OPTIONS", []string{"x"}, 400, "none"},
		{"negative", "OPTIONS", []string{"-1"}, 400, "none"},
		{"empty", "OPTIONS", []string{""}, 400, "none"},
		{"twice", "OPTIONS", []string{"5", "5"}, 400, "none"},
		{"another method", "GET", []string{"0"}, 200, "0"},
	} {
		for _, h2 := range []bool{false, true} {
			got := "none"
			w := newWorld(t, toWeb)
			w.origin("web", "web-1", "", http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
				got = strings.Join(r.Header["Max-Forwards"], "; ")
			}))
			var header []string
			for _, line := range c.sent {
				header = append(header, "Max-Forwards", line)
			}
			res := w.do(w.client(h2), c.method, "http://x/", nil, header...)
			if res.StatusCode != c.status || got != c.want {
				t.Errorf("%s, HTTP/2 %v: status %d, the origin saw %q; want %d and %q", c.name, h2, res.StatusCode, got,
					c.status, c.want)
			}
			if own := c.status == 200 && c.want == "none"; own && (res.Header.Get("Allow") == "" || res.ContentLength != 0 ||
				res.Header.Get("X-Bijou-Fault") != "" || res.Header.Get("X-Request-Id") == "") {
				t.Errorf("%s, HTTP/2 %v: the edge's own answer has the header %v, want Allow, Content-Length 0 and no fault",
					c.name, h2, res.Header)
			}
		}
	}
}

// RFC 9110, 9.3.7: OPTIONS of the server as a whole is answered by the edge.
func TestOptionsOfTheServer(t *testing.T) {
	w := newWorld(t, toWeb)
	w.origin("web", "web-1", "", http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		t.Errorf("the origin got %s %s", r.Method, r.RequestURI)
	}))
	for _, target := range []string{"*", "http://x"} {
		got, headers := w.raw("OPTIONS " + target + " HTTP/1.1\r\nHost: x\r\n\r\nOPTIONS * HTTP/1.1\r\nHost: x\r\n" +
			"Connection: close\r\n\r\n")
		if !cmp.Equal(got, []int{200, 200}) || headers[0].Get("Allow") == "" || headers[0].Get("Content-Length") != "0" {
			t.Errorf("OPTIONS %s: statuses %v, header %v, want 200 twice, with Allow and Content-Length 0", target, got,
				headers)
		}
	}
	c := w.h2()
	defer c.Conn.Close()
	if got := c.Outcome(c.Open("OPTIONS", "*", true)); got != "200" {
		t.Errorf("OPTIONS * by HTTP/2: status %s, want 200", got)
	}
}

// RFC 9110, 15.5.6: a method that is refused comes with the list of those that are not.
func TestRefusedMethodsHaveAllow(t *testing.T) {
	w := newWorld(t, toWeb)
	for _, line := range []string{"TRACE / HTTP/1.1\r\nHost: x", "CONNECT x:80 HTTP/1.1\r\nHost: x:80"} {
		got, headers := w.raw(line + "\r\n\r\n")
		if !cmp.Equal(got, []int{405}) || !strings.Contains(headers[0].Get("Allow"), "GET") {
			t.Errorf("%.5s: statuses %v, header %v, want 405 with Allow", line, got, headers)
		}
	}
	w.put("gateway.routes", `[{"name":"files","files":{"dir":"testdata/site"}}]`)
	res := w.do(w.client(false), http.MethodPost, "http://x/index.html", nil)
	if res.StatusCode != http.StatusMethodNotAllowed || res.Header.Get("Allow") != "GET, HEAD" {
		t.Errorf("POST of a file: status %d, Allow %q, want 405 with GET, HEAD", res.StatusCode, res.Header.Get("Allow"))
	}
}
