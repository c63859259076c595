package route_test

import (
	"container/heap"
	"fmt"
	"math/rand/v2"
	"testing"
	"testing/synctest"
	"time"

	"bijou.dev/platform/route"
)

// The experiment: 11 servers, 1000 requests a second, evenly spaced, each given up after one second. Between 15 s and
// 45 s of one minute, server 0 is ill. All of it is one goroutine in virtual time, from seeds: it repeats exactly.
const (
	expServers = 11
	expGap     = time.Millisecond
	expTimeout = time.Second
	expLength  = time.Minute
	expFrom    = 15 * time.Second
	expTo      = 45 * time.Second
)

// illness is what server 0 does while it is ill: the latency of a healthy answer in, latency and outcome out.
type illness func(healthy time.Duration) (time.Duration, route.Outcome)

func slow(healthy time.Duration) (time.Duration, route.Outcome) {
	return answer(healthy + 2*time.Second)
}

func failsFast(time.Duration) (time.Duration, route.Outcome) {
	return time.Millisecond, route.Failure
}

func answer(latency time.Duration) (time.Duration, route.Outcome) {
	if latency >= expTimeout {
		return expTimeout, route.Unreachable
	}
	return latency, route.Success
}

// contender picks a server and is told the outcome.
type contender func() (server int, done func(route.Outcome))

type completion struct {
	at      time.Duration
	outcome route.Outcome
	done    func(route.Outcome)
}

type completions []completion

func (c completions) Len() int           { return len(c) }
func (c completions) Less(i, j int) bool { return c[i].at < c[j].at }
func (c completions) Swap(i, j int)      { c[i], c[j] = c[j], c[i] }
func (c *completions) Push(x any)        { *c = append(*c, x.(completion)) }
func (c *completions) Pop() any {
	last := (*c)[len(*c)-1]
	*c = (*c)[:len(*c)-1]
	return last
}

// experiment runs the contender and returns the share of successes. It must run in a bubble.
func experiment(pick contender, ill illness, seed uint64) float64 {
	rnd := rand.New(rand.NewPCG(seed, 1))
	begin := time.Now()
	var open completions
	good, all := 0, 0
	finish := func(until time.Duration) {
		for len(open) > 0 && open[0].at <= until {
			c := heap.Pop(&open).(completion)
			time.Sleep(c.at - time.Since(begin))
			c.done(c.outcome)
			if c.outcome == route.Success {
				good++
			}
		}
	}
	for at := time.Duration(0); at < expLength; at += expGap {
		finish(at)
		time.Sleep(at - time.Since(begin))
		server, done := pick()
		took := float64(5*time.Millisecond) + rnd.ExpFloat64()*float64(15*time.Millisecond)
		latency, outcome := answer(time.Duration(took))
		if server == 0 && at >= expFrom && at < expTo {
			latency, outcome = ill(latency)
		}
		heap.Push(&open, completion{at + latency, outcome, done})
		all++
	}
	finish(expLength + 2*expTimeout)
	return float64(good) / float64(all)
}

func roundRobin() contender {
	next := -1
	return func() (int, func(route.Outcome)) {
		next = (next + 1) % expServers
		return next, func(route.Outcome) {}
	}
}

// leastLoaded is power of two choices on the number of pending requests.
func leastLoaded(rnd *rand.Rand) contender {
	var pending [expServers]int
	return func() (int, func(route.Outcome)) {
		i, j := rnd.IntN(expServers), rnd.IntN(expServers-1)
		if j >= i {
			j++
		}
		if pending[j] < pending[i] {
			i = j
		}
		pending[i]++
		return i, func(route.Outcome) { pending[i]-- }
	}
}

func balanced(o route.Options, rnd *rand.Rand) contender {
	o.Rand = rnd.Uint64
	b := route.New(o)
	servers := make([]route.Endpoint, expServers)
	index := make(map[string]int)
	for i := range servers {
		servers[i].ID = fmt.Sprint("server-", i)
		index[servers[i].ID] = i
	}
	b.Update(servers)
	return func() (int, func(route.Outcome)) {
		p, err := b.Pick(route.PickInfo{})
		if err != nil {
			panic(err)
		}
		return index[p.Endpoint().ID], p.Done
	}
}

func TestExperiment(t *testing.T) {
	contenders := []struct {
		name string
		make func(*rand.Rand) contender
	}{
		{"round robin", func(*rand.Rand) contender { return roundRobin() }},
		{"P2C least loaded", leastLoaded},
		{"P2C peak EWMA, plain", func(r *rand.Rand) contender {
			return balanced(route.Options{Settings: plain(t)}, r)
		}},
		{"route", func(r *rand.Rand) contender { return balanced(route.Options{}, r) }},
	}
	type outcome struct{ slow, failsFast float64 }
	worst := make(map[string]outcome)
	const seeds = 3
	for seed := range uint64(seeds) {
		for _, c := range contenders {
			var got outcome
			synctest.Test(t, func(*testing.T) {
				got.slow = experiment(c.make(rand.New(rand.NewPCG(seed, 2))), slow, seed)
			})
			synctest.Test(t, func(*testing.T) {
				got.failsFast = experiment(c.make(rand.New(rand.NewPCG(seed, 2))), failsFast, seed)
			})
			if seed > 0 {
				got.slow = min(got.slow, worst[c.name].slow)
				got.failsFast = min(got.failsFast, worst[c.name].failsFast)
			}
			worst[c.name] = got
		}
	}
	t.Logf("success, worst of %d seeds%18s%12s", seeds, "one slow", "fails fast")
	for _, c := range contenders {
		t.Logf("%-32s%15.2f %%%10.2f %%", c.name, 100*worst[c.name].slow, 100*worst[c.name].failsFast)
	}

	ours, rr, plain := worst["route"], worst["round robin"], worst["P2C peak EWMA, plain"]
	if ours.slow < 0.999 || ours.failsFast < 0.999 {
		t.Errorf("route: %.4f with a slow server, %.4f with one that fails fast; want at least 0.999", ours.slow,
			ours.failsFast)
	}
	if rr.slow > 0.97 || rr.failsFast > 0.97 {
		t.Errorf("round robin does well (%+v): the experiment proves nothing", rr)
	}
	if plain.failsFast > rr.failsFast {
		t.Errorf("plain peak EWMA does not suffer from a server that fails fast (%+v): the experiment proves nothing", plain)
	}
}
