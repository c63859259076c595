package e2e

import (
	"context"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// load is open-loop traffic through the edge: requests leave at a fixed rate whether or not answers come, so that a
// stall counts against everything it delays.
type load struct {
	cancel context.CancelFunc
	wg     sync.WaitGroup

	client *http.Client
	measured
	mu       sync.Mutex
	offered  int
	failures []string
	times    []time.Duration // from the intended start
}

// within is the time in which a good response must arrive on an idle machine.
const within = 2 * time.Second

// measured is what a platform can do on this machine just now: other programs may use the machine. The stories are
// about failures, not about capacity.
type measured struct {
	// requests per second to send: the platform's rate, or a quarter of what it serves if that is less
	rate int
	// in which a good response must arrive: within, or the time for 32 requests if that is more
	within time.Duration
	// requests per second that the platform serves. Zero: it was not measured.
	capacity float64
}

// measure sends requests from some clients for a second.
func measure(t testing.TB, rate int, urls ...string) measured {
	t.Helper()
	const period, clients = time.Second, 16
	var answered atomic.Int64
	begin := time.Now()
	var wg sync.WaitGroup
	for range clients {
		wg.Go(func() {
			for n := 0; time.Since(begin) < period; n++ {
				ctx, cancel := context.WithTimeout(t.Context(), 5*within)
				if _, err := get(ctx, urls[n%len(urls)]); err == nil {
					answered.Add(1)
				}
				cancel()
			}
		})
	}
	wg.Wait()
	capacity := max(1, float64(answered.Load())) / time.Since(begin).Seconds()
	m := measured{
		rate:   min(rate, max(1, int(capacity/4))),
		within: max(within, time.Duration(32/capacity*float64(time.Second))), capacity: capacity,
	}
	if m.rate < rate || m.within > within {
		t.Logf("the platform serves %.0f requests per second here and now, so the load is %d/s and not %d/s, and a response "+
			"may take %v", capacity, m.rate, rate, m.within.Round(time.Millisecond))
	}
	return m
}

// startLoad sends requests to the urls in turn until finish.
func startLoad(t testing.TB, p platform, urls ...string) *load {
	t.Helper()
	return startLoadBy(t, p, client, urls...)
}

func startLoadBy(t testing.TB, p platform, client *http.Client, urls ...string) *load {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	l := &load{cancel: cancel, client: client, measured: measure(t, p.rate(), urls...)}
	l.wg.Go(func() {
		tick := time.NewTicker(time.Second / time.Duration(l.rate))
		defer tick.Stop()
		for n := 0; ; n++ {
			select {
			case intended := <-tick.C:
				l.wg.Go(func() { l.one(urls[n%len(urls)], intended) })
			case <-ctx.Done():
				return
			}
		}
	})
	t.Cleanup(func() { l.cancel(); l.wg.Wait() })
	return l
}

func (l *load) one(url string, intended time.Time) {
	ctx, cancel := context.WithDeadline(context.Background(), intended.Add(l.within))
	defer cancel()
	a, err := getBy(ctx, l.client, url)
	l.mu.Lock()
	defer l.mu.Unlock()
	l.offered++
	l.times = append(l.times, time.Since(intended))
	switch {
	case err != nil:
		l.failures = append(l.failures, fmt.Sprintf("after %v: %v", time.Since(intended).Round(time.Millisecond), err))
	case a.status != 200:
		l.failures = append(l.failures, fmt.Sprintf("after %v: %d %.200s", time.Since(intended).Round(time.Millisecond),
			a.status, a.body))
	}
}

// finish ends the load and fails the story unless every request got status 200 in time.
func (l *load) finish(t testing.TB) {
	t.Helper()
	l.cancel()
	l.wg.Wait()
	slices.Sort(l.times)
	if l.offered == 0 {
		t.Fatal("the load sent no request")
	}
	t.Logf("offered %d, failed %d, p50 %v, p99 %v", l.offered, len(l.failures),
		l.times[len(l.times)/2].Round(time.Millisecond), l.times[len(l.times)*99/100].Round(time.Millisecond))
	if n := len(l.failures); n > 0 {
		t.Errorf("%d of %d requests failed:\n  %s", n, l.offered, strings.Join(l.failures[:min(5, n)], "\n  "))
	}
}

// failed returns the failures so far.
func (l *load) failed() []string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return slices.Clone(l.failures)
}

// during waits until the load has got as many responses as it sends requests in so many seconds.
func (l *load) during(t testing.TB, seconds int) {
	t.Helper()
	l.mu.Lock()
	target := l.offered + seconds*l.rate
	l.mu.Unlock()
	eventually(t, 60*time.Second, fmt.Sprintf("%d seconds of load", seconds), func(context.Context) error {
		l.mu.Lock()
		defer l.mu.Unlock()
		if l.offered < target {
			return fmt.Errorf("%d of %d requests answered", l.offered, target)
		}
		return nil
	})
}
