package overload_test

import (
	"testing"
	"testing/synctest"
	"time"

	"bijou.dev/platform/config"
	"bijou.dev/platform/overload"
)

// send makes n calls of one kind, one after the other.
func send(t *testing.T, l *overload.Limiter, n int, took time.Duration, o overload.Outcome) {
	t.Helper()
	for range n {
		p, ok := l.Acquire("x", overload.Critical)
		if !ok {
			t.Fatal("a request was shed although no other is in flight")
		}
		time.Sleep(took)
		p.Done(o)
	}
}

// A window has at least 20 requests, however long they take: fewer say too little about the load.
func TestFewRequestsDoNotChangeTheLimit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := overload.New(overload.Options{}).Limiter("x")
		before := l.Limit()
		send(t, l, 19, time.Second, overload.Dropped)
		if got := l.Limit(); got != before {
			t.Errorf("after 19 requests that missed their deadline the limit is %v, want %v as before", got, before)
		}
		send(t, l, 1, time.Second, overload.Dropped)
		if got := l.Limit(); got != before/2 {
			t.Errorf("after 20 requests that missed their deadline the limit is %v, want %v, the half", got, before/2)
		}
	})
}

// Ignored outcomes, such as errors, neither fill a window nor show load.
func TestIgnoredOutcomesDoNotChangeTheLimit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := overload.New(overload.Options{}).Limiter("x")
		before := l.Limit()
		send(t, l, 19, time.Second, overload.Dropped)
		send(t, l, 100, time.Second, overload.Ignored)
		if got := l.Limit(); got != before {
			t.Errorf("the limit is %v, want %v as before", got, before)
		}
		if got := l.State().InFlight; got != 0 {
			t.Errorf("%d requests are in flight, want 0", got)
		}
	})
}

func TestStateShowsSlowdownAndBaseline(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := overload.New(overload.Options{}).Limiter("x")
		if st := l.State(); st.Slowdown != 1 || len(st.BaselineMS) != 0 {
			t.Errorf("at first the slowdown is %v and baselines are %v, want 1 and none", st.Slowdown, st.BaselineMS)
		}
		send(t, l, 20, 100*time.Millisecond, overload.Success)
		if st := l.State(); st.Slowdown != 1 || st.BaselineMS["x"] != 100 {
			t.Errorf("after requests of 100 ms the slowdown is %v, the baseline %v ms, want 1 and 100",
				st.Slowdown, st.BaselineMS["x"])
		}
		send(t, l, 20, 150*time.Millisecond, overload.Success)
		if st := l.State(); st.Slowdown != 1.5 {
			t.Errorf("after requests of 150 ms the slowdown is %v, want 1.5", st.Slowdown)
		}
	})
}

// The mean of a kind of request counts as its baseline from five requests on.
func TestBaselineNeedsFiveRequests(t *testing.T) {
	for n, want := range map[int]float64{4: 0, 5: 100} {
		synctest.Test(t, func(t *testing.T) {
			l := overload.New(overload.Options{}).Limiter("x")
			send(t, l, n, 100*time.Millisecond, overload.Success)
			send(t, l, 20-n, 100*time.Millisecond, overload.Dropped)
			if got := l.State().BaselineMS["x"]; got != want {
				t.Errorf("after %d answers the baseline is %v ms, want %v", n, got, want)
			}
		})
	}
}

// A server that works on nothing takes every request: it would otherwise never learn that the overload is over.
func TestOneRequestIsNeverShed(t *testing.T) {
	settings := config.Static(map[string]string{"overload.limit.max": "1", "overload.limit.min": "1"})
	l := overload.New(overload.Options{Config: settings}).Limiter("x")
	for _, c := range all {
		for range 100 {
			p, ok := l.Acquire("x", c)
			if !ok {
				t.Fatalf("%s was shed although no other request is in flight", c)
			}
			if c >= overload.SheddablePlus {
				if _, ok := l.Acquire("x", c); ok {
					t.Fatalf("a second request of %s was taken, the limit is 1", c)
				}
			}
			p.Done(overload.Success)
		}
	}
}
