package gateway_test

import (
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"

	"github.com/google/go-cmp/cmp"
)

const byHost = `[{"name":"a","match":{"host":"a.example"},"to":[{"service":"web"}]},
	{"name":"b","match":{"host":"*.b.example"},"to":[{"service":"web"}]},
	{"name":"rewritten","match":{"prefix":"/rewritten"},"to":[{"service":"web"}],"rewrite":{"host":"inner"}},
	{"name":"h2","match":{"prefix":"/h2"},"to":[{"service":"web","endpoint":"grpc"}]},
	{"name":"any","to":[{"service":"web"}]}]`

// RFC 9112, 3.2.2: the host of a target in absolute form counts, and the Host beside it does not. Every part of the
// edge and the origin must go by the same one.
func TestHostOfTheAbsoluteForm(t *testing.T) {
	for _, c := range []struct{ name, in, route, host string }{
		{"another Host", "GET http://a.example/ HTTP/1.1\r\nHost: c.b.example\r\n", "a", "a.example"},
		{"the same Host", "GET http://a.example/ HTTP/1.1\r\nHost: a.example\r\n", "a", "a.example"},
		{"another port", "GET http://a.example:81/ HTTP/1.1\r\nHost: a.example\r\n", "a", "a.example:81"},
		{"https", "GET https://c.b.example/ HTTP/1.1\r\nHost: a.example\r\n", "b", "c.b.example"},
		{"POST", "POST http://a.example/ HTTP/1.1\r\nHost: c.b.example\r\nContent-Length: 0\r\n", "a", "a.example"},
		{"to HTTP/2", "GET http://x/h2 HTTP/1.1\r\nHost: a.example\r\n", "h2", "x"},
		{"HTTP/1.0", "GET http://a.example/ HTTP/1.0\r\nHost: x\r\n", "a", "a.example"},
		{"HTTP/1.0 without Host", "GET http://a.example/ HTTP/1.0\r\n", "a", "a.example"},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t, byHost)
				var host string
				var forwarded []string
				w.origin("web", "web-1", "", http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
					host, forwarded = r.Host, r.Header["X-Forwarded-Host"]
				}))
				if got, _ := w.raw(c.in + "Connection: close\r\n\r\n"); !cmp.Equal(got, []int{200}) {
					t.Fatalf("statuses %v, want 200", got)
				}
				if host != c.host || !cmp.Equal(forwarded, []string{c.host}) {
					t.Errorf("the origin saw Host %q and X-Forwarded-Host %q, want %s in both", host, forwarded, c.host)
				}
				synctest.Wait()
				if route, logged := w.lastRequest(); route != c.route || logged != c.host {
					t.Errorf("the log has route %q and host %q, want %s and %s", route, logged, c.route, c.host)
				}
			})
		})
	}
}

// lastRequest returns route and host of the newest line in the access log.
func (w *world) lastRequest() (route, host string) {
	w.t.Helper()
	for text := range strings.Lines(w.log.String()) {
		var line struct{ Msg, Route, Host string }
		if json.Unmarshal([]byte(text), &line) == nil && line.Msg == "request" {
			route, host = line.Route, line.Host
		}
	}
	return route, host
}

// RFC 9112, 3.2: an invalid or second Host is refused, also beside the absolute form, which replaces a valid one.
func TestInvalidHostsAreRefused(t *testing.T) {
	w := newWorld(t, byHost)
	for _, in := range []string{
		"GET http://a.example/ HTTP/1.1\r\n", "GET / HTTP/1.1\r\n",
		"GET http://a.example/ HTTP/1.1\r\nHost: a.example\r\nHost: a.example\r\n",
		"GET http://a.example/ HTTP/1.0\r\nHost: a.example\r\nHost: b.example\r\n",
		"GET http://a.example/ HTTP/1.1\r\nHost: u@a.example\r\n", "GET http://a.example/ HTTP/1.1\r\nHost:\r\n",
		"GET http://a.example/ HTTP/1.1\r\nHost: a b\r\n", "GET http:///a HTTP/1.0\r\n", "GET http://:80/ HTTP/1.0\r\n",
		"GET / HTTP/1.0\r\nHost:\r\n", "GET / HTTP/1.0\r\nHost: a/b\r\n",
	} {
		if got, _ := w.raw(in + "\r\n"); !cmp.Equal(got, []int{400}) {
			t.Errorf("%q: statuses %v, want 400", in, got)
		}
	}
}

// The origin gets one Host, whatever the client sent.
func TestOriginGetsOneHost(t *testing.T) {
	for _, c := range []struct{ in, want string }{
		{"GET http://a.example/ HTTP/1.1\r\nHost: b.example\r\n", "a.example"},
		{"POST http://a.example/ HTTP/1.1\r\nHost: b.example\r\n", "a.example"},
		{"POST http://a.example/ HTTP/1.1\r\nHost: b.example\r\nTransfer-Encoding: chunked\r\n", "a.example"},
		{"GET / HTTP/1.0\r\n", "web"},
		{"POST / HTTP/1.0\r\n", "web"},
		{"GET /rewritten HTTP/1.0\r\n", "inner"},
	} {
		w := newWorld(t, byHost)
		seen := w.script("web", "web-1", "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
		if got, _ := w.raw(c.in + "Connection: close\r\n\r\n0\r\n\r\n"); len(got) == 0 || got[0] != 200 {
			t.Errorf("%q: statuses %v, want 200", c.in, got)
		}
		hosts := 0
		for line := range strings.SplitSeq(seen.String(), "\r\n") {
			if strings.HasPrefix(strings.ToLower(line), "host:") {
				hosts++
			}
		}
		if hosts != 1 || !strings.Contains(seen.String(), "\r\nHost: "+c.want+"\r\n") {
			t.Errorf("%q: the origin got\n%s\nwant one Host, %s", c.in, seen, c.want)
		}
	}
}

// A health check by HTTP/1.0 without Host matches the routes that are for any host.
func TestRequestsOfHTTP10WithoutHost(t *testing.T) {
	w := newWorld(t, byHost)
	w.origin("web", "web-1", "", http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		rw.Header().Set("Saw", fmt.Sprint(r.Host, r.Header["X-Forwarded-Host"]))
	}))
	for _, c := range []struct{ in, want string }{
		{"GET / HTTP/1.0\r\n", "web[]"},
		{"HEAD / HTTP/1.0\r\n", "web[]"},
		{"GET /rewritten HTTP/1.0\r\n", "inner[]"},
		{"GET /h2 HTTP/1.0\r\n", "web[]"},
		{"POST / HTTP/1.0\r\n", "web[]"},
		{"POST / HTTP/1.0\r\nContent-Length: 70000\r\n\r\n" + strings.Repeat("x", 70000), "web[]"},
	} {
		in := c.in
		if !strings.Contains(in, "\r\n\r\n") {
			in += "\r\n"
		}
		got, headers := w.raw(in)
		if !cmp.Equal(got, []int{200}) || headers[0].Get("Saw") != c.want {
			t.Errorf("%.60q: statuses %v, headers %v, want 200 and %s", c.in, got, headers, c.want)
		}
	}
	w.put("gateway.routes", `[{"name":"a","match":{"host":"a.example"},"to":[{"service":"web"}]}]`)
	if got, _ := w.raw("GET / HTTP/1.0\r\n\r\n"); !cmp.Equal(got, []int{404}) {
		t.Errorf("without a route for any host: statuses %v, want 404", got)
	}
}

// HTTP/1.0 keeps a connection only when it asks for that.
func TestKeepAliveOfHTTP10(t *testing.T) {
	w := newWorld(t, toWeb)
	w.origin("web", "web-1", "", responds("hello"))
	got, headers := w.raw("GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\nGET / HTTP/1.0\r\n\r\n" +
		"GET / HTTP/1.0\r\n\r\n")
	if !cmp.Equal(got, []int{200, 200}) || headers[0].Get("Connection") != "keep-alive" {
		t.Errorf("statuses %v, first header %v, want 200 with keep-alive and a last 200", got, headers[0])
	}
}
