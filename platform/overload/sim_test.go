package overload_test

import (
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"bijou.dev/platform/config"
	"bijou.dev/platform/overload"
)

// station is a server in virtual time: so many requests are worked on, the others wait in line.
type station struct {
	limiter *overload.Limiter
	workers chan struct{}
	extra   atomic.Int64 // ns that each answer takes without holding a worker, as a slow dependency does
	busy    atomic.Int64 // ns of work done
	late    atomic.Int64 // ns of work done for nobody
}

func newStation(workers int, settings map[string]string) *station {
	limiter := overload.New(overload.Options{Config: config.Static(settings)}).Limiter("test")
	return &station{limiter: limiter, workers: make(chan struct{}, workers)}
}

// tally is what became of the requests of one stream.
type tally struct{ offered, good, shed, late atomic.Int64 }

func (t *tally) share() float64 { return float64(t.good.Load()) / float64(max(1, t.offered.Load())) }

const patience = time.Second

// serve works on one request; it is late when its patience is over before the answer.
func (s *station) serve(c overload.Criticality, work time.Duration, t *tally) {
	t.offered.Add(1)
	start := time.Now()
	permit, ok := s.limiter.Acquire("work", c)
	if !ok {
		t.shed.Add(1)
		return
	}
	select {
	case s.workers <- struct{}{}:
		time.Sleep(work)
		<-s.workers
		s.busy.Add(int64(work))
	case <-time.After(patience):
	}
	time.Sleep(time.Duration(s.extra.Load()))
	if time.Since(start) > patience {
		permit.Done(overload.Dropped)
		s.late.Add(int64(work))
		t.late.Add(1)
		return
	}
	permit.Done(overload.Success)
	t.good.Add(1)
}

// arrive sends a Poisson stream of requests for a while.
func (s *station) arrive(rng *rand.Rand, c overload.Criticality, rate float64, work, during time.Duration) *tally {
	t := new(tally)
	var wg sync.WaitGroup
	for end := time.Now().Add(during); time.Now().Before(end); {
		time.Sleep(time.Duration(rng.ExpFloat64() / rate * float64(time.Second)))
		w := time.Duration(rng.ExpFloat64() * float64(work))
		wg.Go(func() { s.serve(c, w, t) })
	}
	wg.Wait()
	return t
}

// stream is the requests of one criticality.
type stream struct {
	c    overload.Criticality
	rate float64
}

func (s *station) storm(seed uint64, work, during time.Duration, streams ...stream) []*tally {
	tallies := make([]*tally, len(streams))
	var wg sync.WaitGroup
	for i, st := range streams {
		wg.Go(func() {
			tallies[i] = s.arrive(rand.New(rand.NewPCG(seed, uint64(i))), st.c, st.rate, work, during)
		})
	}
	wg.Wait()
	return tallies
}

// warm teaches the limiter what requests take without a queue.
func (s *station) warm(work time.Duration) {
	s.storm(0, work, 10*time.Second, stream{overload.Critical, .5 * float64(cap(s.workers)) / work.Seconds()})
}

// Three times the capacity, of which critical requests are six tenths of the capacity.
func TestCriticalRequestsSurviveThreeTimesTheLoad(t *testing.T) {
	for _, c := range []struct {
		name    string
		workers int
		work    time.Duration
		cold    bool
	}{
		{"fast", 8, 10 * time.Millisecond, false},
		{"slow back end", 40, 100 * time.Millisecond, false},
		{"two workers", 2, 5 * time.Millisecond, false},
		{"started under overload", 8, 50 * time.Millisecond, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			for seed := range uint64(1) {
				synctest.Test(t, func(t *testing.T) {
					s := newStation(c.workers, nil)
					capacity := float64(c.workers) / c.work.Seconds()
					if !c.cold {
						s.warm(c.work)
					}
					before, start := s.busy.Load(), time.Now()
					ts := s.storm(seed, c.work, 40*time.Second,
						stream{overload.Critical, .6 * capacity}, stream{overload.SheddablePlus, .8 * capacity},
						stream{overload.Sheddable, 1.6 * capacity})
					used := float64(s.busy.Load()-before) / (float64(c.workers) * float64(time.Since(start)))
					st := s.limiter.State()
					t.Logf("seed %d: critical %.2f %%, sheddable plus %.1f %%, sheddable %.1f %%; %.0f %% of the capacity used; "+
						"limit %.0f, baseline %.0f ms, slowdown %.1f", seed, 100*ts[0].share(), 100*ts[1].share(),
						100*ts[2].share(), 100*used, st.Limit, st.BaselineMS["work"], st.Slowdown)
					if ts[0].share() < .994 {
						t.Errorf("%.2f %% of critical requests were served, %d shed, %d late",
							100*ts[0].share(), ts[0].shed.Load(), ts[0].late.Load())
					}
					if used < .85 {
						t.Errorf("%.0f %% of the capacity was used", 100*used)
					}
					if ts[1].share() < ts[2].share() {
						t.Error("more of SHEDDABLE than of SHEDDABLE_PLUS was served")
					}
					after := s.storm(seed, c.work, 20*time.Second, stream{overload.Sheddable, .4 * capacity})
					if after[0].share() < .99 {
						t.Errorf("after the storm %.1f %% of requests are served", 100*after[0].share())
					}
				})
			}
		})
	}
}

// A slow dependency delays requests, but this server is not overloaded: after a short time no request is shed, however
// many are in flight.
func TestASlowDependencyIsNotOverload(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newStation(100, nil)
		const work = 10 * time.Millisecond
		s.storm(1, work, 10*time.Second, stream{overload.Critical, 400})
		s.extra.Store(int64(300 * time.Millisecond))
		s.storm(2, work, 10*time.Second, stream{overload.Critical, 400}) // finds out
		ts := s.storm(3, work, time.Minute, stream{overload.Critical, 400})
		if ts[0].share() < 1 {
			t.Errorf("%.2f %% were served: %+v", 100*ts[0].share(), s.limiter.State())
		}
	})
}

// Under a slowdown below the tolerance the limit of Gradient2 rises without end; this one must stay near what is in
// use.
func TestTheLimitDoesNotDriftUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newStation(10, nil)
		const work = 50 * time.Millisecond
		s.warm(work)
		s.storm(1, work, 10*time.Minute, stream{overload.Critical, 170}) // 85 % of the capacity
		if limit := s.limiter.Limit(); limit > 110 {
			t.Errorf("after ten minutes the limit is %.0f", limit)
		}
	})
}

// A server that answers nothing in time has no latencies to measure (concurrency-limits #137 and #176: the limit
// rises).
func TestTimeoutsLowerTheLimit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newStation(10, nil)
		const work = 10 * time.Millisecond
		s.warm(work)
		s.extra.Store(int64(2 * patience))
		s.storm(1, work, 30*time.Second, stream{overload.Critical, 300})
		if limit := s.limiter.Limit(); limit > 55 {
			t.Errorf("while nothing is answered in time the limit is %.0f", limit)
		}
		s.extra.Store(0)
		s.storm(2, work, 10*time.Second, stream{overload.Critical, 300})
		if ts := s.storm(3, work, 20*time.Second, stream{overload.Critical, 300}); ts[0].share() < .999 {
			t.Errorf("after it healed %.2f %% are served: %+v", 100*ts[0].share(), s.limiter.State())
		}
	})
}
