package gateway_test

import (
	"fmt"
	"net/http"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// others sends requests for ordinary pages by ordinary clients, ten a second, until stop is closed, and returns how
// many of them failed.
func (w *world) others(stop <-chan struct{}) (sent, failed int, last string) {
	c := w.client(false)
	for ; ; sent++ {
		select {
		case <-stop:
			return sent, failed, last
		case <-time.After(100 * time.Millisecond):
		}
		path := []string{"/", "/films", "/films/42", "/about"}[sent%4]
		res := w.do(c, http.MethodGet, "http://x"+path, nil, "X-Forwarded-For", fmt.Sprintf("10.1.0.%d", sent%50))
		if res.StatusCode != http.StatusOK {
			failed++
			last = fmt.Sprintf("%s: %d %s", path, res.StatusCode, res.body)
		}
	}
}

func (w *world) originThatHangs(id string, hang time.Duration) {
	w.origin("web", id, "", http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/report/hangs" {
			select {
			case <-r.Context().Done():
			case <-time.After(hang):
			}
			return
		}
		time.Sleep(20 * time.Millisecond)
	}))
}

// One URL that hangs, however often it is requested, takes its share of the places and no more.
func TestOneHangingURLLeavesPlacesToOthers(t *testing.T) {
	for name, hang := range map[string]time.Duration{"late response": 10 * time.Second, "no response": time.Hour} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t, toWeb, "gateway.trustedHops", "1", "retry.maxAttempts", "1")
				w.originThatHangs("web-1", hang)
				w.originThatHangs("web-2", hang)
				stop, c := make(chan struct{}), w.client(false)
				var busy sync.WaitGroup
				var refused atomic.Int64
				for i := range 60 * 50 { // for a minute, 50 a second, each by another client
					busy.Go(func() {
						time.Sleep(time.Duration(i) * 20 * time.Millisecond)
						res := w.do(c, http.MethodGet, "http://x/report/hangs", nil,
							"X-Forwarded-For", fmt.Sprintf("10.2.%d.%d", i/200, i%200))
						if res.Header.Get("X-Bijou-Fault") == "overload" {
							refused.Add(1)
						}
					})
				}
				time.AfterFunc(time.Minute, func() { close(stop) })
				sent, failed, last := w.others(stop)
				busy.Wait()
				if sent < 400 || failed*100 > sent {
					t.Errorf("%d of %d other requests failed, want at most 1 %%; the last was %s", failed, sent, last)
				}
				if hang == 10*time.Second && refused.Load() == 0 {
					t.Error("no request for the hanging URL was refused, want those over its share refused")
				}
			})
		})
	}
}

// One client with many connections takes its share of the places and no more.
func TestAGreedyClientLeavesPlacesToOthers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, toWeb, "gateway.trustedHops", "1")
		w.origin("web", "web-1", "", http.HandlerFunc(func(http.ResponseWriter, *http.Request) {
			time.Sleep(100 * time.Millisecond)
		}))
		stop := make(chan struct{})
		var greedy sync.WaitGroup
		var refused atomic.Int64
		for range 500 {
			greedy.Go(func() {
				c := w.client(false)
				for i := 0; ; i++ {
					select {
					case <-stop:
						return
					default:
					}
					res := w.do(c, http.MethodGet, "http://x/films", nil, "X-Forwarded-For", "10.9.9.9")
					if res.StatusCode == http.StatusTooManyRequests {
						refused.Add(1)
					}
					if res.StatusCode != http.StatusOK {
						time.Sleep(200 * time.Millisecond)
					}
				}
			})
		}
		time.AfterFunc(20*time.Second, func() { close(stop) })
		sent, failed, last := w.others(stop)
		greedy.Wait()
		if failed*100 > sent {
			t.Errorf("%d of %d requests of other clients failed, want at most 1 %%; the last was %s", failed, sent, last)
		}
		if refused.Load() == 0 {
			t.Error("no request of the greedy client was refused, want those over its share refused")
		}
	})
}

// A service of which nobody gets a response is one that cannot be reached: the circuit opens although each URL fails.
func TestAServiceThatNeverRespondsOpensTheCircuit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, toWeb, "gateway.timeout.header", "1s", "route.ejection.consecutiveFailures", "0")
		var down atomic.Bool
		w.origin("web", "web-1", "", http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
			if down.Load() {
				<-r.Context().Done()
			}
		}))
		var opened atomic.Bool
		all := func() {
			var clients sync.WaitGroup
			for i := range 30 {
				clients.Go(func() {
					res := w.get(fmt.Sprintf("http://x/%c", 'a'+i%10))
					if !down.Load() && res.StatusCode != http.StatusOK {
						t.Errorf("before the failure: status %d %s, want 200", res.StatusCode, res.body)
					}
					if res.Header.Get("X-Bijou-Fault") == "circuit" {
						opened.Store(true)
					}
				})
			}
			clients.Wait()
		}
		all()
		down.Store(true)
		for range 3 {
			all()
		}
		if opened.Load() {
			return
		}
		t.Error("after 90 time-outs of all URLs the circuit is closed, want it open")
	})
}
