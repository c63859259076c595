package gateway_test

import (
	"crypto/sha256"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"bijou.dev/platform/discovery"
)

// hashed starts an edge with a route that has this hash, and n instances of its service that answer with their names.
func hashed(t *testing.T, n int, hash string, settings ...string) *world {
	t.Helper()
	w := newWorld(t, `[{"name":"web","to":[{"service":"web"}],"hash":`+hash+`}]`, settings...)
	for i := range n {
		id := fmt.Sprint("web-", i)
		w.origin("web", id, "", responds(id))
	}
	return w
}

// keyOf is an API key of a caller for tests.
func keyOf(name string) string { return strings.Repeat(name, 40)[:40] }

// Requests that have in common what the route hashes go to one instance. Others are spread, also those that have no
// value.
func TestRequestsWithOneHashGoToOneInstance(t *testing.T) {
	const callers = "abcdefgh"
	var keys []string
	for _, c := range callers {
		sum := sha256.Sum256([]byte(keyOf(string(c))))
		keys = append(keys, fmt.Sprintf(`{"name":%q,"sha256":"%x"}`, string(c), sum))
	}
	for _, tt := range []struct {
		hash string
		// with returns URL and header of a request with the value v.
		with func(v string) (url string, header []string)
		// without is a request that has no value. Empty URL: each request has one.
		without string
	}{
		{`{"by":"client"}`, func(v string) (string, []string) {
			return "http://x/", []string{"X-Forwarded-For", fmt.Sprint("192.0.2.", v[0])}
		}, ""},
		{`{"by":"path"}`, func(v string) (string, []string) { return "http://x/" + v + "?any=" + rest(), nil }, ""},
		{`{"by":"header:x-user"}`, func(v string) (string, []string) {
			return "http://x/" + rest(), []string{"X-User", v}
		}, "http://x/"},
		{`{"by":"cookie:user"}`, func(v string) (string, []string) {
			return "http://x/" + rest(), []string{"Cookie", "a=b; user=" + v}
		}, "http://x/"},
		{`{"by":"query:user"}`, func(v string) (string, []string) {
			return "http://x/" + rest() + "?a=b&user=" + v, nil
		}, "http://x/"},
		{
			`{"by":"identity"},"auth":{"methods":[{"apiKey":{}}],"optional":true}`,
			func(v string) (string, []string) { return "http://x/" + rest(), []string{"X-Api-Key", keyOf(v)} }, "http://x/",
		},
	} {
		t.Run(tt.hash, func(t *testing.T) {
			// A second edge, which knows the instances in another order, sends the same requests to the same instances.
			var seen [2]map[string]string
			for replica := range seen {
				w := newWorld(t, `[{"name":"web","to":[{"service":"web"}],"hash":`+tt.hash+`}]`, "gateway.trustedHops", "1",
					"gateway.keys", "["+strings.Join(keys, ",")+"]")
				order := []int{0, 1, 2, 3, 4}
				if replica == 1 {
					slices.Reverse(order)
				}
				for _, i := range order {
					w.origin("web", fmt.Sprint("web-", i), "", responds(fmt.Sprint("web-", i)))
				}
				homes := map[string]string{}
				for range 5 {
					for _, v := range strings.Split(callers, "") {
						url, header := tt.with(v)
						got := w.get(url, header...).body
						if before, ok := homes[v]; ok && before != got {
							t.Fatalf("requests of %s went to %s and to %s", v, before, got)
						}
						homes[v] = got
					}
				}
				seen[replica] = homes
				if n := distinct(homes); n < 2 {
					t.Errorf("8 values went to %d instances, want more", n)
				}
				if tt.without == "" {
					continue
				}
				others := map[string]string{}
				for i := range 40 {
					others[fmt.Sprint(i)] = w.get(tt.without).body
				}
				if n := distinct(others); n < 3 {
					t.Errorf("40 requests without a value went to %d of 5 instances, want most", n)
				}
			}
			for v, home := range seen[0] {
				if seen[1][v] != home {
					t.Errorf("one edge sends requests of %s to %s, another one to %s", v, home, seen[1][v])
				}
			}
		})
	}
}

var (
	restMu sync.Mutex
	restN  int
)

// rest is another text each time.
func rest() string {
	restMu.Lock()
	defer restMu.Unlock()
	restN++
	return fmt.Sprint("rest", restN)
}

func distinct(m map[string]string) int {
	seen := map[string]bool{}
	for _, v := range m {
		seen[v] = true
	}
	return len(seen)
}

// An IPv6 network of 64 bits is one client, as it is for limits.
func TestHashByClientTakesANetworkAsOne(t *testing.T) {
	w := hashed(t, 8, `{"by":"client"}`, "gateway.trustedHops", "1")
	first := w.get("http://x/", "X-Forwarded-For", "2001:db8::1").body
	for i := range 20 {
		if got := w.get("http://x/", "X-Forwarded-For", fmt.Sprintf("2001:db8::%x", i+2)).body; got != first {
			t.Fatalf("addresses of one network went to %s and to %s", first, got)
		}
	}
}

// A session stays at its instance from the first request on, although only the response to it brings the cookie.
func TestTheEdgeGivesACookieForTheHash(t *testing.T) {
	w := newWorld(t, `[{"name":"web","to":[{"service":"web"}],"hash":{"by":"cookie:node","set":true}}]`,
		"gateway.trustedHops", "1")
	for i := range 5 {
		id := fmt.Sprint("web-", i)
		w.origin("web", id, "", http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
			http.SetCookie(rw, &http.Cookie{Name: "own", Value: "1"})
			_, _ = io.WriteString(rw, id+" "+r.Header.Get("Cookie")) // a client that left fails the test itself
		}))
	}
	values := map[string]bool{}
	for i := range 10 {
		scheme := []string{"http", "https"}[i%2]
		res := w.get("http://x/", "X-Forwarded-Proto", scheme, "X-Forwarded-For", "192.0.2.1")
		home := strings.TrimSpace(res.body)
		cookies := res.Cookies()
		if len(cookies) != 2 || cookies[0].Name != "own" || cookies[1].Name != "node" {
			t.Fatalf("the response has the cookies %v, want own of the origin and node of the edge", cookies)
		}
		c := cookies[1]
		if c.Path != "/" || !c.HttpOnly || c.SameSite != http.SameSiteLaxMode || c.Secure != (scheme == "https") ||
			c.Domain != "" || c.MaxAge != 0 || len(c.Value) < 20 || values[c.Value] {
			t.Errorf("by %s the cookie is %q, want a new random value for the whole host", scheme, c.Raw)
		}
		values[c.Value] = true
		if strings.Contains(home, " ") {
			t.Errorf("the origin got a cookie that the client has not sent: %q", home)
		}
		for range 5 {
			res := w.get("http://x/a", "Cookie", "node="+c.Value)
			if want := home + " node=" + c.Value; res.body != want {
				t.Fatalf("a later request got %q, want %q", res.body, want)
			}
			if n := len(res.Cookies()); n != 1 {
				t.Errorf("a client that has the cookie got %v", res.Cookies())
			}
		}
	}
	if res := w.get("http://x/", "Cookie", "node="); len(res.Cookies()) != 2 {
		t.Errorf("a client with an empty cookie got %v, want a value", res.Cookies())
	}
}

// With sticky by the same cookie the first request is already at the target of the later ones.
func TestStickyAndHashByOneCookie(t *testing.T) {
	w := newWorld(t, `[{"name":"web","to":[{"service":"a","weight":1},{"service":"b","weight":1}],"sticky":"node",
		"hash":{"by":"cookie:node","set":true}}]`)
	for _, id := range []string{"a-1", "a-2", "a-3", "b-1", "b-2", "b-3"} {
		w.origin(id[:1], id, "", responds(id))
	}
	services := map[string]string{}
	for range 20 {
		res := w.get("http://x/")
		services[res.body] = res.body[:1]
		for range 3 {
			if again := w.get("http://x/", "Cookie", "node="+res.Cookies()[0].Value); again.body != res.body {
				t.Fatalf("the first request went to %s, a later one to %s", res.body, again.body)
			}
		}
	}
	if distinct(services) != 2 {
		t.Errorf("20 sessions are at %v, want both targets", services)
	}
}

// When an instance leaves, only its requests move, and they return with it.
func TestOnlyRequestsOfALostInstanceMove(t *testing.T) {
	w := hashed(t, 4, `{"by":"query:user"}`)
	ask := func() []string {
		homes := make([]string, 60)
		for i := range homes {
			homes[i] = w.get(fmt.Sprint("http://x/?user=", i)).body
		}
		return homes
	}
	before := ask()
	if !slices.Contains(before, "web-0") {
		t.Fatal("no request of 60 went to web-0")
	}
	all := w.instances["web"]
	w.disc.Put("web", all[1:])
	for i, home := range ask() {
		if home == "web-0" || before[i] != "web-0" && home != before[i] {
			t.Errorf("a request of %s went to %s when web-0 had left", before[i], home)
		}
	}
	w.disc.Put("web", slices.Concat(all[1:], []discovery.Instance{all[0]}))
	if got := ask(); !slices.Equal(got, before) {
		t.Errorf("after the return of web-0 requests are at\n%v, before they were at\n%v", got, before)
	}
}

// A retry goes to another instance, always to the same one.
func TestRetriesOfAHash(t *testing.T) {
	w := newWorld(t, `[{"name":"web","to":[{"service":"web"}],"hash":{"by":"query:user"}}]`,
		"gateway.debug", "true", "route.ejection.consecutiveFailures", "0", "retry.budget.floorPerSecond", "1000")
	for i := range 4 {
		id := fmt.Sprint("web-", i)
		w.origin("web", id, "", http.HandlerFunc(func(rw http.ResponseWriter, _ *http.Request) {
			if id == "web-0" {
				rw.WriteHeader(http.StatusServiceUnavailable)
			}
			_, _ = io.WriteString(rw, id) // a client that left fails the test itself
		}))
	}
	moved := 0
	for i := range 40 {
		var first string
		for range 3 {
			res := w.get(fmt.Sprint("http://x/?user=", i))
			attempts := res.Header.Get("X-Bijou-Attempts")
			if first == "" {
				first = res.body
			}
			if res.StatusCode != 200 || res.body == "web-0" || res.body != first {
				t.Fatalf("user %d got %d from %s (%s), want 200 from %s", i, res.StatusCode, res.body, attempts, first)
			}
			if strings.HasPrefix(attempts, "web-0 503") {
				moved++
			}
		}
	}
	if moved < 6 {
		t.Errorf("%d of 120 requests were tried at web-0 first, want about 30", moved)
	}
}

// One hot value does not overload its instance: what is beyond 1.25 times the mean goes to the next ones.
func TestAHotValueIsSpread(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, `[{"name":"web","to":[{"service":"web"}],"hash":{"by":"query:user"}}]`)
		var mu sync.Mutex
		got := map[string]int{}
		for i := range 4 {
			id := fmt.Sprint("web-", i)
			w.origin("web", id, "", http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
				mu.Lock()
				got[id]++
				mu.Unlock()
				time.Sleep(time.Second)
				_, _ = io.WriteString(rw, id) // a client that left fails the test itself
			}))
		}
		var all sync.WaitGroup
		for range 40 {
			all.Go(func() { w.get("http://x/?user=hot") })
			synctest.Wait() // one after the other
		}
		all.Wait()
		for id, n := range got {
			if n > 13 { // 1.25 x 40 / 4, rounded up
				t.Errorf("%s got %d of 40 requests at a time, want at most 13; all: %v", id, n, got)
			}
		}
		if len(got) != 4 {
			t.Errorf("requests went to %v", got)
		}
	})
}
