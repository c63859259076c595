package gateway_test

import (
	"bufio"
	"fmt"
	"io"
	"net/http"
	"runtime"
	rtmetrics "runtime/metrics"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"bijou.dev/services/gateway"
	"bijou.dev/services/gateway/gatewaytest"

	"golang.org/x/net/http2"
)

// Connections cost memory. There are never more than the memory limit has room for, whatever the setting says.
func TestConnectionsFollowTheMemoryLimit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		runtime.GC() // the memory of other tests must not count
		w := worldWith(t, gateway.EdgeOptions{MemoryLimit: 96 << 20}, toWeb)
		w.origin("web", "web-1", "", responds("ok"))
		const offered, room = 2000, 1701
		for range offered {
			w.dial()
		}
		synctest.Wait()
		open := w.metric("bijou_gateway_connections_open")
		refused := w.metric("bijou_gateway_connections_refused_total", "limit=memory")
		if open != room || refused != offered-room {
			t.Errorf("of %d idle connections %v are open and %v were refused, want %d and %d", offered, open, refused, room,
				offered-room)
		}
		time.Sleep(2 * time.Second)
		if res := w.get("http://x/"); res.StatusCode != http.StatusOK {
			t.Errorf("a new client while all connections are idle: status %d %s, want 200", res.StatusCode, res.body)
		}
		if n := w.metric("bijou_gateway_connections_idle_closed_total"); n != 1 {
			t.Errorf("%v idle connections were closed to make room for one client, want 1", n)
		}
		if !strings.Contains(w.log.String(), "the memory limit allows fewer connections") {
			t.Error("the log does not say that the memory limit allows fewer connections than the setting")
		}
	})
}

// A connection of HTTP/2 is counted with more memory as soon as its client speaks HTTP/2.
func TestConnectionsOfHTTP2FollowTheMemoryLimit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		runtime.GC() // the memory of other tests must not count
		w := worldWith(t, gateway.EdgeOptions{MemoryLimit: 96 << 20}, toWeb)
		const offered, room = 1300, 1228
		for range offered {
			c := w.dial()
			go func() { _, _ = io.WriteString(c, http2.ClientPreface+"\x00\x00\x00\x04\x00\x00\x00\x00\x00") }() // SETTINGS
			go func() { _, _ = io.Copy(io.Discard, c) }()
			synctest.Wait() // else some connections could have memory for HTTP/1 that others then lack for HTTP/2
		}
		open := w.metric("bijou_gateway_connections_open")
		refused := w.metric("bijou_gateway_connections_refused_total", "limit=memory")
		if open != room || refused != offered-room {
			t.Errorf("of %d connections of HTTP/2 %v are open and %v were refused, want %d and %d", offered, open, refused,
				room, offered-room)
		}
	})
}

// When memory is short, new connections and requests are refused, and when there is enough they are taken again.
func TestShortMemoryRefusesConnectionsAndRequests(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		runtime.GC()
		used := []rtmetrics.Sample{{Name: "/gc/heap/live:bytes"}, {Name: "/memory/classes/heap/stacks:bytes"}}
		rtmetrics.Read(used)
		base := int64(used[0].Value.Uint64() + used[1].Value.Uint64() + 8<<20)
		w := worldWith(t, gateway.EdgeOptions{MemoryLimit: 2 * base}, toWeb)
		w.origin("web", "web-1", "", responds("ok"))
		c := w.dial()
		answers := bufio.NewReader(c)
		ask := func() int {
			time.Sleep(time.Second) // the edge looks at its memory again
			_, err := fmt.Fprint(c, "GET / HTTP/1.1\r\nHost: x\r\n\r\n")
			if err != nil {
				t.Fatal(err)
			}
			res, err := http.ReadResponse(answers, nil)
			if err != nil {
				t.Fatal(err)
			}
			_ = res.Body.Close()
			return res.StatusCode
		}
		if status := ask(); status != http.StatusOK {
			t.Fatalf("with enough memory: status %d, want 200", status)
		}
		time.Sleep(time.Second)
		waste := make([]byte, 2*base)
		runtime.GC()
		if status := ask(); status != http.StatusServiceUnavailable {
			t.Errorf("a request on an open connection while memory is short: status %d, want 503", status)
		}
		if _, err := w.dial().Read(make([]byte, 1)); err == nil {
			t.Error("a new connection was taken while memory is short")
		}
		runtime.KeepAlive(waste)
		runtime.GC()
		time.Sleep(time.Second)
		if res := w.get("http://x/"); res.StatusCode != http.StatusOK {
			t.Errorf("when there is enough memory again: status %d %s, want 200", res.StatusCode, res.body)
		}
		for _, want := range []string{"memory is short", "memory is enough again"} {
			if !strings.Contains(w.log.String(), want) {
				t.Errorf("the log does not say %q", want)
			}
		}
	})
}

// Only idle connections make room for new ones, never those with requests in progress.
func TestConnectionsWithRequestsAreKept(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, toWeb, "gateway.maxConnections", "3")
		w.origin("web", "web-1", "", http.HandlerFunc(func(http.ResponseWriter, *http.Request) {
			time.Sleep(5 * time.Second)
		}))
		var busy sync.WaitGroup
		for _, h2 := range []bool{false, true} {
			busy.Go(func() {
				if res := w.do(w.client(h2), http.MethodGet, "http://x/", nil); res.StatusCode != http.StatusOK {
					t.Errorf("http/2 %v: a request in progress while others connect: status %d %s, want 200", h2, res.StatusCode,
						res.body)
				}
			})
		}
		time.Sleep(time.Second)
		for range 10 { // one of three takes the place of the one before
			w.dial()
			time.Sleep(50 * time.Millisecond)
		}
		busy.Wait()
		time.Sleep(2 * time.Second) // all are idle now
		for range 3 {
			w.dial()
			synctest.Wait()
		}
		if n := w.metric("bijou_gateway_connections_refused_total"); n != 6 {
			t.Errorf("%v of 10 connections were refused, want 6: there was one idle for 100 ms only for every third", n)
		}
		if n := w.metric("bijou_gateway_connections_idle_closed_total"); n != 6 {
			t.Errorf("%v idle connections were closed, want 6: every third meanwhile, and three at the end", n)
		}
	})
}

// Clients of HTTP/2 send bodies that the origin does not read. What the edge has received of them is bounded by the
// memory limit: whoever has sent the most is disconnected, and others are served.
func TestUnreadBodiesAreBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		runtime.GC()
		used := []rtmetrics.Sample{{Name: "/gc/heap/live:bytes"}, {Name: "/memory/classes/heap/stacks:bytes"}}
		rtmetrics.Read(used)
		// What other tests have left must not make memory short.
		limit := int64(256<<20 + 5*(used[0].Value.Uint64()+used[1].Value.Uint64())/2)
		room, attackers := float64(limit/4), int(2*(limit/4)/(960<<10))
		w := worldWith(t, gateway.EdgeOptions{MemoryLimit: limit}, `[
			{"name":"slow","match":{"path":"/slow"},"timeout":{"header":"1h","total":"0s"},
			"to":[{"service":"slow"}]},{"name":"web","to":[{"service":"web"}]}]`)
		release := make(chan struct{})
		end := sync.OnceFunc(func() { close(release) })
		defer end()
		read := func(rw http.ResponseWriter, r *http.Request) {
			n, _ := io.Copy(io.Discard, r.Body) // fails for those that are disconnected
			fmt.Fprint(rw, n)
		}
		w.origin("web", "web-1", "", http.HandlerFunc(read))
		w.origin("slow", "slow-1", "", http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
			<-release
			read(rw, r)
		}))
		var ended atomic.Int64
		data := make([]byte, 16<<10)
		for range attackers {
			c := gatewaytest.NewClient(w.dial())
			go func() {
				for range 4 { // less than 256 KiB on each stream, and 1 MiB on the connection: what their windows allow
					id := c.Open(http.MethodPost, "/slow", false)
					for range 15 {
						if c.WriteData(id, false, data) != nil {
							break // it was disconnected
						}
					}
				}
			}()
			go func() {
				<-c.Done()
				ended.Add(1)
			}()
		}
		time.Sleep(time.Second)
		synctest.Wait()
		runtime.GC()
		cut := w.metric("bijou_gateway_http2_errors_total", "kind=unread_bodies")
		unread := w.metric("bijou_gateway_http2_unread_bytes")
		if cut == 0 || cut == float64(attackers) || ended.Load() != int64(cut) || unread > room || unread < room/2 {
			t.Errorf("of %d clients with 960 KiB each %v were disconnected, %d saw that, and %v bytes are unread; want some, "+
				"and at most %v bytes", attackers, cut, ended.Load(), unread, room)
		}
		for _, size := range []int{0, 40 << 10} {
			res := w.do(w.client(true), http.MethodPost, "http://x/", strings.NewReader(strings.Repeat("x", size)))
			if res.StatusCode != http.StatusOK || res.body != strconv.Itoa(size) {
				t.Errorf("meanwhile a request with %d bytes: %d %s, want 200", size, res.StatusCode, res.body)
			}
		}
		end()
		time.Sleep(time.Minute)
		runtime.GC()
		if unread := w.metric("bijou_gateway_http2_unread_bytes"); unread != 0 {
			t.Errorf("%v bytes are unread when all requests have ended", unread)
		}
		for range 3 {
			res := w.do(w.client(true), http.MethodPost, "http://x/", strings.NewReader(strings.Repeat("x", 4<<20)))
			if res.StatusCode != http.StatusOK {
				t.Errorf("afterwards a request with 4 MiB: %d %s, want 200", res.StatusCode, res.body)
			}
		}
	})
}
