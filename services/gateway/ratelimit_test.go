package gateway_test

import (
	"bufio"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"bijou.dev/platform/discovery"
	"bijou.dev/services/gateway"
)

// limited is a route with limits that answers "ok" itself.
func limited(limits string) string {
	return `[{"name":"site","respond":{"body":"ok"},"limits":[` + limits + `]}]`
}

// ask sends a request of a client, an address, and returns the status and what the answer says about limits.
func (w *world) ask(client string, header ...string) string {
	w.t.Helper()
	res := w.get("http://x/", append(header, "X-Forwarded-For", client)...)
	return strings.TrimSpace(fmt.Sprint(res.StatusCode, " ", res.Header.Get("RateLimit")))
}

// expectAnswers sends a request of a client for each answer that is wanted.
func (w *world) expectAnswers(client string, want ...string) {
	w.t.Helper()
	for i, want := range want {
		if got := w.ask(client); got != want {
			w.t.Errorf("request %d of %s: %q, want %q", i, client, got, want)
		}
	}
}

func TestRateOfAClient(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, limited(`{"by":"client","rate":3,"per":"30s"}`), "gateway.trustedHops", "1")
		w.expectAnswers("192.0.2.1", `200 "client";r=2;t=20`, `200 "client";r=1;t=10`, `200 "client";r=0;t=10`,
			`429 "client";r=0;t=10`)
		w.expectAnswers("192.0.2.2", `200 "client";r=2;t=20`)
		w.expectAnswers("2001:db8::1", `200 "client";r=2;t=20`)
		w.expectAnswers("2001:db8::ffff", `200 "client";r=1;t=10`) // the same network of 64 bits
		w.expectAnswers("2001:db8:0:1::1", `200 "client";r=2;t=20`)
		time.Sleep(4 * time.Second)
		res := w.get("http://x/", "X-Forwarded-For", "192.0.2.1")
		for name, want := range map[string]string{
			"RateLimit-Policy": `"client";q=3;w=30`, "RateLimit": `"client";r=0;t=6`, "Retry-After": "6",
			"X-Bijou-Fault": "client", "Content-Type": "application/problem+json",
		} {
			if got := res.Header.Get(name); got != want {
				t.Errorf("an answer %d has %s: %q, want %q", res.StatusCode, name, got, want)
			}
		}
		if res.StatusCode != 429 || !strings.Contains(res.body, "the limit client of this route allows 3 requests in 30s") {
			t.Errorf("got %d %s, want 429 with the limit in words", res.StatusCode, res.body)
		}
		time.Sleep(6 * time.Second)
		w.expectAnswers("192.0.2.1", `200 "client";r=0;t=10`, `429 "client";r=0;t=10`)
		time.Sleep(time.Hour)
		w.expectAnswers("192.0.2.1", `200 "client";r=2;t=20`)
		if got := w.metric("bijou_gateway_limited_total"); got != 3 {
			t.Errorf("bijou_gateway_limited_total is %v, want 3: each refused request and no other", got)
		}
	})
}

func TestRateByHeader(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, limited(`{"by":"header:x-key","rate":1,"per":"1m","burst":2}`), "gateway.trustedHops", "1")
		for i, c := range []struct{ client, key, want string }{
			{"192.0.2.1", "a", `200 "header:X-Key";r=1;t=60`},
			{"192.0.2.2", "a", `200 "header:X-Key";r=0;t=60`},
			{"192.0.2.3", "a", `429 "header:X-Key";r=0;t=60`},
			{"192.0.2.1", "b", `200 "header:X-Key";r=1;t=60`},
			{"192.0.2.1", "", `200 "header:X-Key";r=1;t=60`}, // by client
			{"192.0.2.1", "", `200 "header:X-Key";r=0;t=60`},
			{"192.0.2.1", "", `429 "header:X-Key";r=0;t=60`},
			{"192.0.2.2", "", `200 "header:X-Key";r=1;t=60`},
		} {
			var header []string
			if c.key != "" {
				header = []string{"X-Key", c.key}
			}
			if got := w.ask(c.client, header...); got != c.want {
				t.Errorf("request %d, of %s with the key %q: %q, want %q", i, c.client, c.key, got, c.want)
			}
		}
	})
}

// All limits of a route must allow a request, and each is shown.
func TestSeveralLimitsOfARoute(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, limited(`{"by":"route","rate":3,"per":"1m"},{"by":"client","name":"second","rate":1},
			{"by":"client","name":"hour","rate":100,"per":"1h"}`), "gateway.trustedHops", "1")
		w.expectAnswers("192.0.2.1", `200 "route";r=2;t=40, "second";r=0;t=1, "hour";r=99;t=3564`,
			`429 "second";r=0;t=1`)
		res := w.get("http://x/", "X-Forwarded-For", "192.0.2.1")
		if got := res.Header.Get("Retry-After"); res.StatusCode != 429 || got != "20" {
			t.Errorf("the third request got %d with Retry-After %q, want 429 and 20: the route has none left for so long",
				res.StatusCode, got)
		}
		w.expectAnswers("192.0.2.3", `429 "route";r=0;t=20`)
		want := `"route";q=3;w=60, "second";q=1;w=1, "hour";q=100;w=3600`
		if got := w.get("http://x/").Header.Get("RateLimit-Policy"); got != want {
			t.Errorf("RateLimit-Policy: %s, want %s", got, want)
		}
	})
}

func TestRequestsInProgressOfAClient(t *testing.T) {
	for _, h2 := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			w := newWorld(t, `[{"name":"web","to":[{"service":"web"}],"limits":[{"by":"client","concurrency":2}]}]`,
				"gateway.trustedHops", "1")
			w.origin("web", "web-1", "", http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
				_ = http.NewResponseController(rw).Flush() // a place is held until the end of the response
				select {
				case <-time.After(10 * time.Second):
				case <-r.Context().Done():
				}
			}))
			c := w.client(h2)
			ask := func(client string) answer {
				return w.do(c, http.MethodGet, "http://x/", nil, "X-Forwarded-For", client)
			}
			for range 2 {
				go ask("192.0.2.1")
			}
			time.Sleep(5 * time.Second)
			res := ask("192.0.2.1")
			if res.StatusCode != 429 || res.Header.Get("Retry-After") != "1" || res.Header.Get("RateLimit") != "" {
				t.Errorf("HTTP/2 %t: the third request at a time got %d with Retry-After %q, RateLimit %q; want 429, 1 and none",
					h2, res.StatusCode, res.Header.Get("Retry-After"), res.Header.Get("RateLimit"))
			}
			if res := ask("192.0.2.2"); res.StatusCode != 200 { // takes 10 s: the first two have ended
				t.Errorf("HTTP/2 %t: another client got %d, want 200", h2, res.StatusCode)
			}
			if res := ask("192.0.2.1"); res.StatusCode != 200 {
				t.Errorf("HTTP/2 %t: after the end of the first two: %d, want 200", h2, res.StatusCode)
			}
		})
	}
}

// A limit that is shared is divided by the number of gateways that are up.
func TestSharedLimits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, limited(`{"by":"client","rate":4,"per":"40s","shared":true},{"by":"route","rate":9}`),
			"gateway.trustedHops", "1")
		of := func(status ...discovery.Status) {
			var list []discovery.Instance
			for i, s := range status {
				list = append(list, discovery.Instance{Service: "gateway", ID: fmt.Sprint("gateway-", i), Status: s})
			}
			w.disc.Put("gateway", list)
			synctest.Wait()
		}
		w.expectAnswers("192.0.2.1", `200 "client";r=3;t=30, "route";r=8;t=1`)
		of(discovery.Up, discovery.Up, discovery.Draining)
		w.expectAnswers("192.0.2.2", `200 "client";r=1;t=20, "route";r=7;t=1`, `200 "client";r=0;t=20, "route";r=6;t=1`,
			`429 "client";r=0;t=20`)
		of(discovery.Up, discovery.Up, discovery.Up, discovery.Up, discovery.Up)
		w.expectAnswers("192.0.2.3", `200 "client";r=0;t=50, "route";r=5;t=1`)
	})
}

// Changing routes gives nobody a new burst.
func TestCountsOutliveAChangeOfRoutes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, limited(`{"by":"client","rate":2,"per":"20s"}`), "gateway.trustedHops", "1")
		w.expectAnswers("192.0.2.1", `200 "client";r=1;t=10`)
		w.put("gateway.routes", limited(`{"by":"route","rate":100},{"by":"client","rate":3,"per":"30s"}`))
		w.expectAnswers("192.0.2.1", `200 "route";r=99;t=1, "client";r=1;t=10`)
		w.put("gateway.routes", limited(`{"by":"client","rate":2,"per":"20s"}`))
		w.expectAnswers("192.0.2.1", `429 "client";r=0;t=10`)
	})
}

// The origin may have limits of its own.
func TestRateLimitOfTheOriginIsPassedOn(t *testing.T) {
	w := newWorld(t, `[{"name":"web","to":[{"service":"web"}],"limits":[{"by":"client","rate":2,"per":"1h"}]}]`)
	w.origin("web", "web-1", "", http.HandlerFunc(func(rw http.ResponseWriter, _ *http.Request) {
		rw.Header().Set("RateLimit", `"own";r=7;t=1`)
	}))
	res := w.get("http://x/")
	if got := strings.Join(res.Header.Values("RateLimit"), ", "); got != `"own";r=7;t=1, "client";r=1;t=1800` {
		t.Errorf("RateLimit: %s; want that of the origin and then that of the route", got)
	}
}

func TestHeaderLimitOfARoute(t *testing.T) {
	w := newWorld(t, `[{"name":"small","match":{"prefix":"/small"},"maxHeader":300,"respond":{}},
		{"name":"all","respond":{}}]`)
	for _, h2 := range []bool{false, true} {
		for _, c := range []struct {
			path   string
			length int
			want   int
		}{{"/small", 100, 200}, {"/small", 300, 431}, {"/small?" + strings.Repeat("a", 300), 0, 431}, {"/", 300, 200}} {
			res := w.do(w.client(h2), http.MethodGet, "http://x"+c.path, nil, "X-A", strings.Repeat("a", c.length))
			if res.StatusCode != c.want {
				t.Errorf("HTTP/2 %t: %.20s with a field of %d bytes: %d, want %d", h2, c.path, c.length, res.StatusCode, c.want)
			}
		}
	}
	if got := w.metric("bijou_gateway_limited_total"); got != 4 {
		t.Errorf("bijou_gateway_limited_total is %v, want 4", got)
	}
}

// costs are tables in which a request for http://x/ goes to the plain route, and one for http://x/limited to one with
// limits.
var costs = []struct{ name, path, routes, banned string }{
	{"plain", "/", `[{"name":"plain","respond":{}}]`, "[]"},
	{"plain-beside-limits", "/", `[{"name":"plain","respond":{}},{"name":"limited","match":{"prefix":"/limited"},
		"respond":{},"maxHeader":1000,"limits":[{"by":"client","rate":1000000,"concurrency":9}]}]`, "[]"},
	{"banned-others", "/", `[{"name":"plain","respond":{}}]`, `["192.0.2.9"]`},
	{"limited", "/limited", `[{"name":"limited","respond":{},"maxHeader":1000,
		"limits":[{"by":"client","rate":1000000,"concurrency":9}]}]`, "[]"},
}

// handling returns a function that handles one request.
func handling(t testing.TB, path, routes, banned string) func() {
	w := newWorld(t, routes, "gateway.banned", banned, "gateway.accessLog", "off")
	return gateway.Handler(w.edge, path)
}

func TestARouteWithoutLimitsPaysNothingForThem(t *testing.T) {
	var plain float64
	for i, c := range costs[:3] {
		n := testing.AllocsPerRun(200, handling(t, c.path, c.routes, c.banned))
		if i == 0 {
			plain = n
		}
		if n != plain {
			t.Errorf("%s: %v allocations for a request, want %v as without limits and bans", c.name, n, plain)
		}
	}
}

// A browser asks before some requests whether they are allowed: the limit is for the requests.
func TestPreflightsAreNotLimited(t *testing.T) {
	w := newWorld(t, `[{"name":"api","respond":{},"cors":{"origins":["https://a.example"],"methods":["PUT"]},
		"limits":[{"by":"client","rate":1,"per":"1h"}]}]`)
	ask := func(method string) int {
		return w.do(w.client(false), method, "http://x/", nil, "Origin", "https://a.example",
			"Access-Control-Request-Method", "PUT").StatusCode
	}
	for i, c := range []struct {
		method string
		want   int
	}{{"OPTIONS", 204}, {"OPTIONS", 204}, {"PUT", 200}, {"PUT", 429}, {"OPTIONS", 204}} {
		if got := ask(c.method); got != c.want {
			t.Errorf("request %d, %s: %d, want %d", i, c.method, got, c.want)
		}
	}
}

// A WebSocket is in progress until it ends.
func TestWebSocketsOfAClientAreLimited(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, `[{"name":"web","to":[{"service":"web"}],
			"limits":[{"by":"client","rate":100,"per":"1m","concurrency":1}]}]`)
		w.origin("web", "web-1", "", websocket(nil))
		first, _ := w.upgrade()
		if got, _ := w.raw(upgrade); len(got) != 1 || got[0] != 429 {
			t.Errorf("the second WebSocket of a client: %v, want 429", got)
		}
		first.Close()
		time.Sleep(10 * time.Second)
		conn := w.dial()
		_, _ = io.WriteString(conn, upgrade)
		res, err := http.ReadResponse(bufio.NewReader(conn), nil)
		if err != nil || res.StatusCode != 101 || res.Header.Get("RateLimit") != `"client";r=99;t=60` {
			t.Errorf("after the end of the first: %v, %v; want 101 with RateLimit", res, err)
		}
	})
}

// gRPC clients read a status and when to come back.
func TestRateOfGRPCCalls(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, limited(`{"by":"client","rate":1,"per":"1m"}`), "gateway.trustedHops", "1")
		w.grpc("192.0.2.1")
		res := w.grpc("192.0.2.1")
		if got := res.Header.Get("Grpc-Status"); got != "8" || res.Header.Get("Grpc-Status-Details-Bin") == "" {
			t.Errorf("a call over the limit has the header %v, want RESOURCE_EXHAUSTED (8) with RetryInfo", res.Header)
		}
	})
}
