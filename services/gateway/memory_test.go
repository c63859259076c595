package gateway_test

import (
	"bufio"
	"fmt"
	"net/http"
	"runtime"
	rtmetrics "runtime/metrics"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"bijou.dev/services/gateway"
)

// Connections cost memory. There are never more than the memory limit has room for, whatever the setting says.
func TestConnectionsFollowTheMemoryLimit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		runtime.GC() // the memory of other tests must not count
		w := worldWith(t, gateway.EdgeOptions{MemoryLimit: 96 << 20}, toWeb)
		w.origin("web", "web-1", "", responds("ok"))
		const offered, room = 1500, 1228
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
		if !strings.Contains(w.log.String(), "the memory limit allows fewer connections") {
			t.Error("the log does not say that the memory limit allows fewer connections than the setting")
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
