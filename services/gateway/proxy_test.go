package gateway_test

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"bijou.dev/platform/errs"
	"bijou.dev/platform/httpapi/httpapitest"
	"bijou.dev/services/gateway"
	"bijou.dev/services/gateway/routes"

	"github.com/google/go-cmp/cmp"
)

const toWeb = `[{"name":"web","match":{"prefix":"/"},"to":[{"service":"web"}]}]`

func TestRequestsAndResponsesPassUnchanged(t *testing.T) {
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
			res := w.do(c, http.MethodPut, "http://shop.example/a/%C3%A9/b?x=1&y=%20;z", strings.NewReader(body))
			if res.StatusCode != http.StatusTeapot || res.body != "PUT shop.example "+body {
				t.Fatalf("h2 %v: got %d %.60q", h2, res.StatusCode, res.body)
			}
			if got := res.Header.Get("X-Path") + "?" + res.Header.Get("X-Query"); got != "/a/%C3%A9/b?x=1&y=%20;z" {
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

// Hop-by-hop fields and fields of the platform are removed, and those of the edge are added.
func TestHeadersThatTheOriginGets(t *testing.T) {
	w := newWorld(t,
		`[{"name":"web","match":{"prefix":"/api"},"to":[{"service":"web"}],"rewrite":{"prefix":"/v2","host":"inner"}}]`)
	var got http.Header
	var path, host string
	w.origin("web", "web-1", "v1", http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		got, path, host = r.Header.Clone(), r.URL.Path, r.Host
		rw.Header().Set("Connection", "X-Private")
		rw.Header().Set("X-Private", "1")
		rw.Header().Set("X-Bijou-Fault", "gateway")
	}))
	res := w.get("http://shop/api/x",
		"Connection", "X-Secret, keep-alive", "X-Secret", "1", "Keep-Alive", "5", "Te", "gzip",
		"Proxy-Authorization", "x",
		"X-Forwarded-For", "1.2.3.4", "X-Forwarded-Proto", "https", "X-Forwarded-Host", "evil", "X-Forwarded-Port", "1",
		"Forwarded", "for=1.2.3.4", "X-Real-Ip", "1.2.3.4", "X-Bijou-Pin", "web=v2", "X-Bijou-Priority", "100",
		"Baggage", "a=b", "X-B3-Traceid", "463ac35c9f6413ad48485a3953bb6124", "X-B3-Spanid", "a2fb4a1d1a96d312",
		"X-B3-Sampled", "0",
		"Accept-Encoding", "br", "X-Own", "1", "X-Own", "2", "User-Agent", "")
	for _, h := range []string{"Traceparent", "X-Request-Id"} {
		if len(got[h]) != 1 {
			t.Errorf("%s is %q", h, got[h])
		}
		got.Del(h)
	}
	want := http.Header{
		"X-Forwarded-For": {"client"}, "X-Forwarded-Host": {"shop"}, "X-Forwarded-Proto": {"http"},
		"X-Own": {"1", "2"}, "Accept-Encoding": {"br"}, "Via": {"1.1 bijou"},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("what the origin saw (-want +got):\n%s", diff)
	}
	if path != "/v2/x" || host != "inner" {
		t.Errorf("the origin saw %s of %s", path, host)
	}
	if res.Header.Get("X-Private") != "" || res.Header.Get("X-Bijou-Fault") != "" {
		t.Errorf("the client saw %v", res.Header)
	}
}

func TestForwardedByTrustedHops(t *testing.T) {
	for _, c := range []struct{ hops, sent, want string }{
		{"0", "1.1.1.1", "client"},
		{"1", "1.1.1.1, 2.2.2.2", "2.2.2.2, client"},
		{"2", "1.1.1.1, 2.2.2.2", "1.1.1.1, 2.2.2.2, client"},
		{"2", "", "client"},
		{"3", "1.1.1.1, evil, 2.2.2.2", "2.2.2.2, client"},
	} {
		w := newWorld(t, toWeb, "gateway.trustedHops", c.hops)
		w.origin("web", "web-1", "", http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
			_, _ = fmt.Fprint(rw, r.Header.Get("X-Forwarded-For"), " ", r.Header.Get("X-Forwarded-Proto"))
		}))
		proto := " https"
		if c.hops == "0" {
			proto = " http"
		}
		got := w.get("http://x/", "X-Forwarded-For", c.sent, "X-Forwarded-Proto", "https").body
		if got != c.want+proto {
			t.Errorf("%s hops, %q: the origin saw %q, want %q", c.hops, c.sent, got, c.want+proto)
		}
	}
}

func TestValidRequestIDsAreKept(t *testing.T) {
	w := newWorld(t, toWeb)
	w.origin("web", "web-1", "", http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		_, _ = io.WriteString(rw, r.Header.Get("X-Request-Id"))
	}))
	for _, sent := range []string{"abc-123", "", "a b", strings.Repeat("x", 129), "<script>"} {
		res := w.get("http://x/", "X-Request-Id", sent)
		got := res.Header.Get("X-Request-Id")
		if got == "" || got != res.body || (got == sent) != (sent == "abc-123") {
			t.Errorf("sent %q, the origin saw %q, the answer has %q", sent, res.body, got)
		}
	}
}

// An event reaches the client before the next one is sent.
func TestEventsAreNotBuffered(t *testing.T) {
	for _, h2 := range []bool{false, true} {
		w := newWorld(t, `[{"name":"web","to":[{"service":"web"}],"timeout":{"total":"30s"}}]`)
		next := make(chan string)
		w.origin("web", "web-1", "", http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
			rw.Header().Set("Content-Type", "text/event-stream")
			rc := http.NewResponseController(rw)
			_ = rc.Flush()
			for e := range next {
				_, _ = fmt.Fprintf(rw, "data: %s\n\n", e)
				_ = rc.Flush()
			}
		}))
		req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://x/", nil)
		if err != nil {
			t.Fatal(err)
		}
		res, err := w.client(h2).Do(req) // returns although there is no event yet
		if err != nil {
			t.Fatal(err)
		}
		r := bufio.NewReader(res.Body)
		for _, e := range []string{"a", "b"} {
			next <- e
			if line, err := r.ReadString('\n'); err != nil || line != "data: "+e+"\n" {
				t.Fatalf("got %q, %v", line, err)
			}
			_, _ = r.ReadString('\n')
		}
		close(next)
		if _, err := r.ReadByte(); !errors.Is(err, io.EOF) {
			t.Errorf("the end is %v", err)
		}
		res.Body.Close()
	}
}

// Connecting succeeds although the first packet was lost: the kernel sends it again after a second (RFC 6298).
func TestConnectingWaitsForARetransmission(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var w *world
		late := func(ctx context.Context, kind, addr string) (net.Conn, error) {
			select {
			case <-time.After(time.Second + 50*time.Millisecond):
				return w.net.DialContext(ctx, kind, addr)
			case <-ctx.Done():
				return nil, &net.OpError{Op: "dial", Net: kind, Err: ctx.Err()}
			}
		}
		w = worldWith(t, gateway.EdgeOptions{DialContext: late}, toWeb)
		w.origin("web", "web-1", "", responds("hello"))
		if res := w.get("http://x/"); res.StatusCode != http.StatusOK {
			t.Errorf("got %d %s", res.StatusCode, res.body)
		}
	})
}

func TestRetriesUseAnotherInstance(t *testing.T) {
	reset := http.HandlerFunc(func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) })
	outOfRetries := http.HandlerFunc(func(rw http.ResponseWriter, _ *http.Request) {
		rw.Header().Set(errs.Pushback, "-1")
		rw.WriteHeader(http.StatusServiceUnavailable)
	})
	for name, c := range map[string]struct {
		method, body, header string
		bad                  http.Handler // nil: refuses connections
		want                 []int        // any of these
		attempts             int
	}{
		"503":                 {"GET", "", "", respondsStatus(503), []int{200}, 2},
		"503 after retries":   {"GET", "", "", outOfRetries, []int{503}, 1},
		"reset":               {"GET", "", "", reset, []int{200}, 2},
		"refused":             {"GET", "", "", nil, []int{200}, 2},
		"put with body":       {"PUT", "abc", "", respondsStatus(503), []int{200}, 2},
		"500 is not retried":  {"GET", "", "", respondsStatus(500), []int{500}, 1},
		"post is not safe":    {"POST", "abc", "", respondsStatus(503), []int{503}, 1},
		"post was not sent":   {"POST", "abc", "", nil, []int{200}, 2},
		"post with key":       {"POST", "abc", "Idempotency-Key", reset, []int{200}, 2},
		"large put":           {"PUT", strings.Repeat("x", 100<<10), "", respondsStatus(503), []int{503}, 1},
		"large put, not sent": {"PUT", strings.Repeat("x", 100<<10), "", nil, []int{200}, 2},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, toWeb, "gateway.debug", "true", "retry.backoff.base", "1ms")
			good := http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
				if body, err := io.ReadAll(r.Body); err != nil || string(body) != c.body {
					t.Errorf("the second instance read %d bytes, %v", len(body), err)
				}
				_, _ = io.WriteString(rw, "good")
			})
			if c.bad == nil {
				w.register("web", "bad", "", "bad:80")
			} else {
				w.origin("web", "bad", "", c.bad)
			}
			w.origin("web", "good", "", good)
			// The first instance is random. Repeat until it was the bad one.
			for range 50 {
				var h []string
				if c.header != "" {
					h = []string{c.header, "1"}
				}
				res := w.do(w.client(false), c.method, "http://x/", strings.NewReader(c.body), h...)
				attempts := res.Header.Get("X-Bijou-Attempts")
				if !strings.HasPrefix(attempts, "bad ") {
					continue
				}
				if n := strings.Count(attempts, ";") + 1; n != c.attempts || res.StatusCode != c.want[0] {
					t.Errorf("got %d after %s, want %d after %d attempts", res.StatusCode, attempts, c.want[0],
						c.attempts)
				}
				return
			}
			t.Error("the bad instance was never tried first")
		})
	}
}

func TestRequestsAreSplitByWeight(t *testing.T) {
	w := newWorld(t, `[{"name":"web","sticky":"session","to":[
		{"service":"web","version":"v1","weight":90},{"service":"web","version":"v2","weight":10}]}]`)
	w.origin("web", "web-1", "v1", responds("v1"))
	w.origin("web", "web-2", "v2", responds("v2"))
	c := w.client(false)
	count := func(n int, header ...string) (v2 int) {
		for range n {
			if w.do(c, "GET", "http://x/", nil, header...).body == "v2" {
				v2++
			}
		}
		return v2
	}
	if v2 := count(2000); v2 < 120 || v2 > 290 { // 200 expected, with a standard deviation of 13
		t.Errorf("v2 got %d of 2000 requests at 10 %%", v2)
	}
	for i := range 20 {
		if v2 := count(5, "Cookie", fmt.Sprintf("session=%d", i)); v2 != 0 && v2 != 5 {
			t.Errorf("session %d changed its version", i)
		}
	}
	w.disc.Put("web", w.instances["web"][:1]) // the canary has no instance
	if v2 := count(100); v2 != 0 {
		t.Error("v2 has responded without an instance")
	}
}

func TestPinChoosesAVersionWhenAllowed(t *testing.T) {
	w := newWorld(t, toWeb)
	saw := func(v string) http.Handler {
		return http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
			_, _ = io.WriteString(rw, v+r.Header.Get("X-Bijou-Pin"))
		})
	}
	w.origin("web", "web-1", "v1", saw("v1"))
	w.origin("web", "web-2", "v2", saw("v2"))
	v1 := 0
	for range 100 {
		if w.get("http://x/", "X-Bijou-Pin", "web=v2").body == "v1" {
			v1++
		}
	}
	if v1 == 0 {
		t.Error("a pin was used although pins are not allowed")
	}
	w.put("gateway.pin.allowed", "true")
	for range 50 {
		if got := w.get("http://x/", "X-Bijou-Pin", "other=v1, web=v2").body; got != "v2" {
			t.Fatalf("pinned v2 answered %s", got)
		}
	}
	if res := w.get("http://x/", "X-Bijou-Pin", "web=v3"); res.StatusCode != 503 ||
		res.Header.Get("X-Bijou-Fault") != "origin_unreachable" {
		t.Errorf("a pinned version without an instance: status %d, want 503 origin_unreachable", res.StatusCode)
	}
}

// Each kind of failure has its status and fault, in the response and in the access log.
func TestFaults(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, `[
			{"name":"web","match":{"prefix":"/web"},"to":[{"service":"web"}],
				"timeout":{"header":"2s","total":"10s"},"retry":{"attempts":1}},
			{"name":"empty","match":{"prefix":"/empty"},"to":[{"service":"empty"}]},
			{"name":"refusing","match":{"prefix":"/refusing"},"to":[{"service":"refusing"}]},
			{"name":"open","match":{"prefix":"/open"},"to":[{"service":"web"}]}
		]`, "circuit.web.open.forceOpen", "true", "circuit.default.breakerEnabled", "false", "gateway.maxBody", "10")
		w.register("refusing", "refusing-1", "", "refusing-1:80")
		w.origin("web", "web-1", "v1", http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
			switch r.URL.Path {
			case "/web/slow":
				<-r.Context().Done()
			case "/web/drip": // a header, and then nothing
				rw.WriteHeader(200)
				_ = http.NewResponseController(rw).Flush()
				<-r.Context().Done()
			case "/web/cut":
				rw.Header().Set("Content-Length", "100000")
				_, _ = rw.Write(make([]byte, 50000))
				_ = http.NewResponseController(rw).Flush()
				panic(http.ErrAbortHandler)
			case "/web/reset":
				panic(http.ErrAbortHandler)
			case "/web/invalid":
				conn, _, _ := http.NewResponseController(rw).Hijack()
				_, _ = io.WriteString(conn, "what?\r\n\r\n")
				conn.Close()
			case "/web/switch":
				conn, _, _ := http.NewResponseController(rw).Hijack()
				_, _ = io.WriteString(conn, "HTTP/1.1 101 Switching Protocols\r\n\r\n")
				conn.Close()
			default:
				code, _ := strconv.Atoi(strings.TrimPrefix(r.URL.Path, "/web/"))
				rw.WriteHeader(code)
				_, _ = io.WriteString(rw, "the origin's own")
			}
		}))
		c := w.client(false)
		for _, x := range []struct {
			path, fault string
			status      int
			cut         bool
		}{
			{"/web/404", "", 404, false},
			{"/web/500", "origin_error", 500, false},
			{"/web/503", "origin_error", 503, false},
			{"/web/slow", "origin_timeout", 504, false},
			{"/web/drip", "origin_timeout", 200, true},
			{"/web/cut", "origin_error", 200, true},
			{"/web/reset", "origin_error", 502, false},
			{"/web/invalid", "origin_error", 502, false},
			{"/web/switch", "origin_error", 502, false},
			{"/empty", "origin_unreachable", 503, false},
			{"/refusing", "origin_unreachable", 502, false},
			{"/open", "circuit", 503, false},
			{"/nothing", "no_route", 404, false},
			{"/web/../x", "client", 400, false},
		} {
			req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://x"+x.path, nil)
			if err != nil {
				t.Fatal(err)
			}
			res, err := c.Do(req)
			if err != nil {
				t.Errorf("%s: %v", x.path, err)
				continue
			}
			body, err := io.ReadAll(res.Body)
			res.Body.Close()
			if res.StatusCode != x.status || (err != nil) != x.cut {
				t.Errorf("%s: status %d, body %v; want %d", x.path, res.StatusCode, err, x.status)
			}
			if got := res.Header.Get("X-Bijou-Fault"); got != x.fault && !x.cut {
				t.Errorf("%s: fault %q, want %q", x.path, got, x.fault)
			}
			own := string(body) == "the origin's own"
			var problem struct {
				Status int
				Code   string
				Meta   map[string]string
			}
			if json.Unmarshal(body, &problem); !own && !x.cut && (problem.Status != x.status ||
				problem.Code != strings.ToUpper(x.fault) ||
				problem.Meta["requestId"] == "" || problem.Meta["requestId"] != res.Header.Get("X-Request-Id")) {
				t.Errorf("%s: body %s", x.path, body)
			}
			if own != strings.HasPrefix(x.path, "/web/4") && own != strings.HasPrefix(x.path, "/web/50") {
				t.Errorf("%s: body %s", x.path, body)
			}
			w.checkLog(x.path, x.status, x.fault)
		}
		if res := w.do(c, "POST", "http://x/web/200", strings.NewReader("more than ten")); res.StatusCode != 413 ||
			res.Header.Get("X-Bijou-Fault") != "client" {
			t.Errorf("a body that is too large: %d", res.StatusCode)
		}
		res := w.get("http://x/open", "Accept", "text/html,*/*;q=0.8")
		if !strings.Contains(res.body, "<!doctype html>") || res.Header.Get("Retry-After") == "" {
			t.Errorf("a browser got %v %s", res.Header, res.body)
		}
	})
}

// checkLog looks for the request's line in the access log.
func (w *world) checkLog(path string, status int, fault string) {
	w.t.Helper()
	synctest.Wait()
	lines := strings.Split(strings.TrimSpace(w.log.String()), "\n")
	for i := len(lines) - 1; i >= 0; i-- {
		var line struct {
			Msg, Path, Fault string
			Status           int
		}
		if json.Unmarshal([]byte(lines[i]), &line) == nil && line.Msg == "request" {
			if line.Path != path || line.Status != status || line.Fault != fault {
				w.t.Errorf("%s: the access log has %s", path, lines[i])
			}
			return
		}
	}
	w.t.Errorf("%s: no line in the access log", path)
}

func TestOriginIsCanceledWhenTheClientLeaves(t *testing.T) {
	for _, h2 := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			w := newWorld(t, toWeb)
			var canceled atomic.Bool
			w.origin("web", "web-1", "", http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
				<-r.Context().Done()
				canceled.Store(true)
			}))
			ctx, cancel := context.WithCancel(t.Context())
			req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://x/", nil)
			if err != nil {
				t.Fatal(err)
			}
			go func() {
				synctest.Wait()
				cancel()
			}()
			if _, err := w.client(h2).Do(req); err == nil {
				t.Error("the canceled request got a response")
			}
			time.Sleep(time.Second)
			if !canceled.Load() {
				t.Errorf("h2 %v: the request to the origin was not canceled", h2)
			}
			w.checkLog("/", 499, "client_gone")
		})
	}
}

func TestSizesAreLimited(t *testing.T) {
	w := newWorld(t, toWeb)
	w.origin("web", "web-1", "", http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
	}))
	for name, c := range map[string]struct {
		in   string
		want int
	}{
		"fields": {
			"GET / HTTP/1.1\r\nHost: x\r\n" + strings.Repeat("A: b\r\n", 99) + "Connection: close\r\n\r\n",
			431,
		},
		"most fields": {
			"GET / HTTP/1.1\r\nHost: x\r\n" + strings.Repeat("A: b\r\n", 98) + "Connection: close\r\n\r\n",
			200,
		},
		"header": {"GET / HTTP/1.1\r\nHost: x\r\nA: " + strings.Repeat("b", 32<<10) + "\r\n\r\n", 431},
		"most header": {"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\nA: " + strings.Repeat("b", 32<<10-55) +
			"\r\n\r\n", 200},
		"endless": {"GET / HTTP/1.1\r\nHost: x\r\nA: " + strings.Repeat("b", 100<<10), 431},
		"URL":     {"GET /" + strings.Repeat("a", 8<<10) + " HTTP/1.1\r\nHost: x\r\n\r\n", 414},
		"most URL": {
			"GET /" + strings.Repeat("a", 8<<10-1) + " HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n",
			200,
		},
		"endless URL": {"GET /" + strings.Repeat("a", 100<<10), 414},
		"body":        {"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 10485761\r\n\r\n", 413},
		"chunks": {"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n" +
			strings.Repeat("100000\r\n"+strings.Repeat("x", 1<<20)+"\r\n", 11), 413},
	} {
		if got, _ := w.raw(c.in); len(got) != 1 || got[0] != c.want {
			t.Errorf("%s: statuses %v, want %d", name, got, c.want)
		}
	}
	c := w.client(true)
	var many []string
	for i := range 101 {
		many = append(many, fmt.Sprintf("A-%d", i), "b")
	}
	if res := w.do(c, "GET", "http://x/", nil, many...); res.StatusCode != 431 {
		t.Errorf("fields by HTTP/2: %d", res.StatusCode)
	}
	if res := w.do(c, "GET", "http://x/"+strings.Repeat("a", 8<<10), nil); res.StatusCode != 414 {
		t.Errorf("URL by HTTP/2: %d", res.StatusCode)
	}
}

// A slow client is disconnected within its time limit.
func TestSlowClientsAreDisconnected(t *testing.T) {
	for name, c := range map[string]struct {
		start, drip string
		want        []int
		within      time.Duration
	}{
		"nothing": {"", "", nil, 11 * time.Second},
		"header":  {"GET / HTTP/1.1\r\n", "a: b\r\n", nil, 11 * time.Second},
		"body":    {"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 100000\r\n\r\n", "x", []int{408}, 11 * time.Second},
		"put":     {"PUT / HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\n", "x", []int{408}, 11 * time.Second},
		"chunks": {
			"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n", "1\r\nx\r\n",
			[]int{408},
			11 * time.Second,
		},
		"idle": {ok, "", []int{200}, 61 * time.Second},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t, toWeb)
				w.origin("web", "web-1", "", http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
					_, _ = io.Copy(io.Discard, r.Body)
				}))
				conn := w.dial()
				begin := time.Now()
				var dripping sync.WaitGroup
				dripping.Go(func() {
					_, err := io.WriteString(conn, c.start)
					for c.drip != "" && err == nil {
						time.Sleep(time.Second)
						_, err = io.WriteString(conn, c.drip)
					}
				})
				defer dripping.Wait()
				defer conn.Close()
				var got []int
				r := bufio.NewReader(conn)
				for {
					res, err := http.ReadResponse(r, nil)
					if err != nil {
						break
					}
					_, _ = io.Copy(io.Discard, res.Body)
					got = append(got, res.StatusCode)
				}
				if took := time.Since(begin); took > c.within {
					t.Errorf("the connection was open for %v, want at most %v", took, c.within)
				}
				if diff := cmp.Diff(c.want, got); diff != "" {
					t.Errorf("statuses (-want +got):\n%s", diff)
				}
			})
		})
	}
}

// A client that does not read is disconnected, and its request to the origin ends.
func TestClientsThatDoNotReadAreDisconnected(t *testing.T) {
	for _, h2 := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			w := newWorld(t, `[{"name":"web","to":[{"service":"web"}],"timeout":{"total":"0s"}}]`)
			freed := make(chan struct{})
			w.origin("web", "web-1", "", http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
				defer close(freed)
				for r.Context().Err() == nil {
					if _, err := rw.Write(make([]byte, 64<<10)); err != nil {
						return
					}
				}
			}))
			begin := time.Now()
			if h2 {
				res, err := w.client(true).Do(mustRequest(t))
				if err != nil {
					t.Fatal(err)
				}
				defer res.Body.Close() // never read
			} else {
				_, _ = io.WriteString(w.dial(), ok)
			}
			<-freed
			if took := time.Since(begin); took > 15*time.Second {
				t.Errorf("h2 %v: the request to the origin took %v, want at most 15 s", h2, took)
			}
		})
	}
}

func mustRequest(t *testing.T) *http.Request {
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://x/", nil)
	if err != nil {
		t.Fatal(err)
	}
	return req
}

func TestConnectionsOfOneClientAreLimited(t *testing.T) {
	w := newWorld(t, toWeb, "gateway.maxConnectionsPerClient", "2")
	w.origin("web", "web-1", "", responds("ok"))
	first, second := w.dial(), w.dial()
	for _, c := range []net.Conn{first, second} {
		_, _ = io.WriteString(c, ok)
		if res, err := http.ReadResponse(bufio.NewReader(c), nil); err != nil || res.StatusCode != 200 {
			t.Fatalf("within the limit: %v", err)
		}
	}
	if _, err := w.dial().Read(make([]byte, 1)); err == nil {
		t.Error("a third connection was accepted")
	}
	w.put("gateway.maxConnectionsPerClient", "3")
	if got, _ := w.raw("GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"); len(got) != 1 || got[0] != 200 {
		t.Errorf("after the limit was raised: %v", got)
	}
}

// Routes can be changed while requests run: none fails, and each gets a response of a service in one of the tables.
func TestRoutesChangeUnderLoad(t *testing.T) {
	w := newWorld(t, toWeb)
	w.origin("web", "web-1", "", responds("web"))
	w.origin("shop", "shop-1", "", responds("shop"))
	ctx, stop := context.WithCancel(t.Context())
	var done sync.WaitGroup
	answered := make(chan struct{})
	for range 4 {
		c := w.client(false)
		done.Go(func() {
			for ctx.Err() == nil {
				if res := w.do(c, "GET", "http://x/", nil); res.StatusCode != 200 || res.body != "web" &&
					res.body != "shop" {
					t.Errorf("got %d %s", res.StatusCode, res.body)
					return
				}
				select {
				case answered <- struct{}{}:
				case <-ctx.Done():
				}
			}
		})
	}
	for i := range 200 {
		w.put("gateway.routes",
			strings.ReplaceAll(toWeb, `"service":"web"`, `"service":"`+[]string{"shop", "web"}[i%2]+`"`))
		for range 4 {
			<-answered
		}
	}
	if err := w.set.Put("gateway.routes", `[{"name":"bad","to":[]}]`); err == nil {
		t.Error("an invalid table was accepted")
	}
	stop()
	done.Wait()
	if got := w.get("http://x/").body; got != "web" {
		t.Errorf("after a table was refused: %s", got)
	}
}

func TestStopWaitsForRequests(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, toWeb)
		release := make(chan struct{})
		w.origin("web", "web-1", "", http.HandlerFunc(func(rw http.ResponseWriter, _ *http.Request) {
			<-release
			_, _ = io.WriteString(rw, "whole")
		}))
		_ = w.dial() // an unused connection must not delay the stop
		results := make(chan answer, 2)
		for _, h2 := range []bool{false, true} {
			c := w.client(h2)
			go func() { results <- w.do(c, "GET", "http://x/", nil) }()
		}
		synctest.Wait()
		stopped := make(chan error, 1)
		begin := time.Now()
		go func() {
			ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
			defer cancel()
			stopped <- w.edge.Shutdown(ctx)
		}()
		time.Sleep(time.Second)
		if _, err := w.net.DialContext(t.Context(), "tcp", "edge:80"); err == nil {
			t.Error("a stopping edge accepts connections")
		}
		close(release)
		for range 2 {
			if res := <-results; res.body != "whole" || res.ProtoMajor == 1 && !res.Close {
				t.Errorf("got %q, close %v", res.body, res.Close)
			}
		}
		if err := <-stopped; err != nil {
			t.Error(err)
		}
		if took := time.Since(begin); took > 3*time.Second {
			t.Errorf("the stop took %v", took)
		}
	})
}

// The check of routes refuses what cannot be used, and changes nothing.
func TestRoutesAreChecked(t *testing.T) {
	w := newWorld(t, toWeb)
	for body, want := range map[string]string{
		`{"routes":[{"name":"a","respond":{}}]}`:                           "{}",
		`{"routes":[{"name":"a"}]}`:                                        "routes[0].to",
		`{"routes":[{"name":"a","respond":{}},{"name":"b","respond":{}}]}`: `is the same as that of route \"a\"`,
		`{"route":[]}`: "route",
	} {
		r := httptest.NewRequest(http.MethodPost, "/routes/check", strings.NewReader(body))
		r.Header.Set("Content-Type", "application/json")
		rec := httptest.NewRecorder()
		w.edge.CheckHandler().ServeHTTP(rec, r)
		if ok := want == "{}"; (rec.Code == http.StatusOK) != ok || !strings.Contains(rec.Body.String(), want) {
			t.Errorf("%s: status %d, %s; want %s", body, rec.Code, rec.Body.String(), want)
		}
	}
	httpapitest.Check(t, w.edge.CheckHandler(), "POST", "/routes/check", `{"routes":[]}`)
	if res := w.get("http://x/"); res.StatusCode != http.StatusServiceUnavailable {
		t.Errorf("after the checks: status %d, want 503 of the route that was in use before", res.StatusCode)
	}
}

func TestRoutesPageShowsTheTableInUse(t *testing.T) {
	w := newWorld(t, toWeb)
	w.origin("web", "web-1", "v1", responds("ok"))
	rec := newRecorder()
	w.edge.RoutesHandler().ServeHTTP(rec, mustRequest(t))
	httpapitest.Check(t, w.edge.RoutesHandler(), "GET", "/routes", "")
	var page struct {
		Routes  []routes.Route
		Origins []struct {
			Service   string
			Instances []struct{ ID, Version string }
		}
	}
	if err := json.Unmarshal(rec.body.Bytes(), &page); err != nil {
		t.Fatal(err)
	}
	if len(page.Routes) != 1 || page.Routes[0].Name != "web" || len(page.Origins) != 1 ||
		len(page.Origins[0].Instances) != 1 || page.Origins[0].Instances[0].Version != "v1" {
		t.Errorf("the page is %s", rec.body.String())
	}
}

// One of three instances stops with all of its connections while requests run, and discovery still lists it. No request
// fails.
func TestNoRequestFailsWhenAnInstanceStops(t *testing.T) {
	w := newWorld(t, toWeb, "retry.backoff.base", "1ms", "gateway.accessLog", "errors")
	warm := make(chan struct{})
	var served atomic.Int64
	var servers []*http.Server
	for i := range 3 {
		servers = append(servers, w.origin("web", fmt.Sprintf("web-%d", i), "",
			http.HandlerFunc(func(rw http.ResponseWriter, _ *http.Request) {
				if i == 0 && served.Add(1) == 100 {
					close(warm)
				}
				_, _ = io.WriteString(rw, "ok")
			})))
	}
	var done sync.WaitGroup
	for range 8 {
		c := w.client(false)
		done.Go(func() {
			for range 500 {
				if res := w.do(c, "GET", "http://x/", nil); res.StatusCode != 200 || res.body != "ok" {
					t.Errorf("got %d %s", res.StatusCode, res.body)
					return
				}
			}
		})
	}
	<-warm
	if err := servers[0].Close(); err != nil {
		t.Error(err)
	}
	done.Wait()
	if w.metric("bijou_gateway_retries_total") == 0 {
		t.Error("no request was retried")
	}
}

// Connections to an origin are reused, also after responses without a body and after 1xx responses. No request fails
// because the origin has closed an idle connection.
func TestOriginConnectionsAreReused(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, `[{"name":"web","to":[{"service":"web"}]}]`)
		var opened atomic.Int64
		origin := &http.Server{IdleTimeout: 20 * time.Second, Handler: http.HandlerFunc(func(rw http.ResponseWriter,
			r *http.Request,
		) {
			if body, err := io.ReadAll(r.Body); err != nil || r.Method == "PUT" && string(body) != "body" {
				t.Errorf("the origin read %q, %v", body, err)
			}
			switch r.URL.Path {
			case "/hints":
				rw.WriteHeader(http.StatusEarlyHints)
			case "/304":
				rw.WriteHeader(http.StatusNotModified)
				return
			case "/chunks":
				_ = http.NewResponseController(rw).Flush()
			case "/header":
				rw.Header().Set("Large", strings.Repeat("x", 70<<10))
			}
			_, _ = io.WriteString(rw, "ok")
		})}
		origin.ConnState = func(_ net.Conn, s http.ConnState) {
			if s == http.StateNew {
				opened.Add(1)
			}
		}
		w.originWith("web", "web-1", "", origin)
		c := w.client(false)
		for _, method := range []string{"GET", "HEAD", "PUT", "GET"} {
			for _, path := range []string{"/", "/hints", "/304", "/chunks"} {
				var body io.Reader
				if method == "PUT" {
					body = strings.NewReader("body")
				}
				res := w.do(c, method, "http://x"+path, body)
				if want := "ok"; res.StatusCode >= 500 || res.body != want && method != "HEAD" && path != "/304" {
					t.Errorf("%s %s: %d %q", method, path, res.StatusCode, res.body)
				}
				if n := opened.Load(); n != 1 {
					t.Fatalf("%s %s opened connection %d", method, path, n)
				}
			}
		}
		time.Sleep(25 * time.Second) // the origin has closed the idle connection
		if res := w.do(c, "GET", "http://x/", nil); res.body != "ok" {
			t.Errorf("after the origin closed the connection: %d", res.StatusCode)
		}
		if res := w.do(c, "GET", "http://x/header", nil); res.StatusCode != 502 {
			t.Errorf("a header of the origin that is too large: %d, want 502", res.StatusCode)
		}
	})
}
