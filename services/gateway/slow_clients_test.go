//go:build !race

// Without the race detector: a thousand goroutines that reset timers in one bubble of testing/synctest make its runtime
// crash now and then (Go 1.26.8, time.go, timer.modify). `make test` runs these tests apart.

package gateway_test

import (
	"bufio"
	"fmt"
	"io"
	"net/http"
	"runtime"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"bijou.dev/services/gateway/gatewaytest"
)

// slowMemory is the most memory of each in KiB, with the network of the test, its origin and its clients.
var slowMemory = map[string]int64{
	"headers": 64, "small bodies": 64, "large bodies": 96, "chunks": 96, "readers": 256,
	"HTTP/2": 96,
}

const slowClients = 1000

// A thousand slow clients are disconnected within their time limit, use little memory, and do not delay other clients.
func TestManySlowClients(t *testing.T) {
	for name, c := range gatewaytest.SlowClients {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t,
					`[{"name":"web","to":[{"service":"web"}]},
						{"name":"large","match":{"prefix":"/large"},"to":[{"service":"web"}]}]`,
					"circuit.web.large.maxConcurrent", "2000", "overload.enabled", "false")
				w.origin("web", "web-1", "", gatewaytest.Origin)
				before := inUse()
				begin := time.Now()
				var clients sync.WaitGroup
				var mu sync.Mutex
				var longest time.Duration
				for range slowClients {
					conn := w.dial()
					clients.Go(func() {
						_, err := io.WriteString(conn, c.Start)
						for c.Drip != "" && err == nil {
							time.Sleep(2 * time.Second)
							_, err = io.WriteString(conn, c.Drip)
						}
					})
					clients.Go(func() {
						if !c.Takes {
							time.Sleep(10500 * time.Millisecond)
						}
						_, _ = io.Copy(io.Discard, conn) // until the edge closes it
						mu.Lock()
						defer mu.Unlock()
						longest = max(longest, time.Since(begin))
					})
				}
				time.Sleep(50 * time.Millisecond)
				victim := w.client(false)
				var took int64
				for time.Since(begin) < 12*time.Second {
					if took == 0 && time.Since(begin) > 5*time.Second {
						took = (inUse() - before) / slowClients >> 10
						t.Logf("each uses %d KiB", took)
					}
					if res := w.do(victim, "GET", "http://x/ok", nil); res.StatusCode != 200 || time.Since(begin) == 0 {
						t.Fatalf("after %v another client got %d %s", time.Since(begin), res.StatusCode, res.body)
					}
					time.Sleep(500 * time.Millisecond)
				}
				clients.Wait()
				if longest > 11*time.Second {
					t.Errorf("the last connection was held for %v", longest)
				}
				if took > slowMemory[name] {
					t.Errorf("each used %d KiB, want at most %d", took, slowMemory[name])
				}
				if n := w.metric("bijou_gateway_requests_in_flight"); n != 0 {
					t.Errorf("%v requests are in progress, want none", n)
				}
			})
		})
	}
}

// Small bodies are buffered to be sent again, but a thousand bodies of slow clients are more than the buffers may hold:
// the rest is passed on as it comes, and none is lost.
func TestManySlowClientsWithSmallBodies(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, toWeb, "circuit.web.web.maxConcurrent", "2000", "overload.enabled", "false")
		w.origin("web", "web-1", "", http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
			n, err := io.Copy(io.Discard, r.Body)
			_, _ = fmt.Fprint(rw, n, err)
		}))
		before := inUse()
		most := "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 60000\r\n\r\n" + strings.Repeat("x", 59999)
		var clients sync.WaitGroup
		for range slowClients {
			conn := w.dial()
			clients.Go(func() {
				_, _ = io.WriteString(conn, most)
				time.Sleep(9 * time.Second)
				_, _ = io.WriteString(conn, "x")
				res, err := http.ReadResponse(bufio.NewReader(conn), nil)
				if err != nil {
					t.Error(err)
					return
				}
				defer res.Body.Close()
				if text, err := io.ReadAll(res.Body); err != nil || string(text) != "60000 <nil>" {
					t.Errorf("%d %s %v", res.StatusCode, text, err)
				}
			})
		}
		time.Sleep(5 * time.Second)
		if took := (inUse() - before) / slowClients >> 10; took > 96 {
			t.Errorf("each uses %d KiB, want at most 96", took)
		} else {
			t.Logf("each uses %d KiB", took)
		}
		clients.Wait()
	})
}

func inUse() int64 {
	m := afterCollection()
	return int64(m.HeapAlloc + m.StackInuse)
}

func heapInUse() int64 {
	return int64(afterCollection().HeapAlloc)
}

func afterCollection() (m runtime.MemStats) {
	for range 3 { // until the pools are empty
		runtime.GC()
	}
	runtime.ReadMemStats(&m)
	return m
}
