package audience

import (
	"cmp"
	"context"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/http"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"bijou.dev/platform/config"
)

const (
	maxRate = 10_000
	maxRamp = 24 * time.Hour
	every   = 10 * time.Second // between lines in the log
	linger  = 30 * time.Second // for sessions that have begun when the load ends
)

// LoadOptions say what a load is made of. Target is required.
type LoadOptions struct {
	// Target is the address of the cinema, without a path.
	Target string
	// Rate is the default of the live setting audience.rate, in sessions a second. Zero: 1.
	Rate float64
	// Ramp is the default of the live setting audience.ramp. Zero: none.
	Ramp time.Duration
	// Fixed keeps Rate and Ramp whatever the settings say.
	Fixed bool
	// Seed makes two loads alike. Zero: a seed of its own.
	Seed uint64
	// DialContext connects. Nil: the real network.
	DialContext func(ctx context.Context, network, addr string) (net.Conn, error)
	// Settings hold audience.*. Nil: the defaults.
	Settings config.Set
	// Metrics gets cinema_audience_*. Nil: none.
	Metrics prometheus.Registerer
	// Log gets a line every ten seconds. Nil: none.
	Log *slog.Logger
}

// Load drives sessions at a target. Make one with NewLoad.
type Load struct {
	opts    LoadOptions
	client  *http.Client
	log     *slog.Logger
	rate    *config.Value[float64]
	ramp    *config.Value[time.Duration]
	most    *config.Value[int64]
	think   *config.Value[time.Duration]
	patient *config.Value[time.Duration]
	stats   *stats
	slots   slots
	joined  sync.Map // profile id -> true: created by this load

	mu     sync.Mutex // guards random
	random *rand.Rand
}

// NewLoad returns a load that has not begun.
func NewLoad(o LoadOptions) (*Load, error) {
	set := cmp.Or[config.Set](o.Settings, config.Static(nil))
	l := &Load{
		opts: o, log: cmp.Or(o.Log, slog.New(slog.DiscardHandler)),
		rate: config.Float(set, "audience.rate", cmp.Or(o.Rate, 1), config.Spec{
			Doc: "Sessions that begin in a second, on average.", Unit: "1/s", Min: "0", Max: "10000",
		}),
		ramp: config.Duration(set, "audience.ramp", o.Ramp, config.Spec{
			Doc: "Time over which a new rate is reached, in a straight line.", Min: "0s", Max: "24h",
		}),
		most: config.Int(set, "audience.sessions.max", 500, config.Spec{
			Doc: "Sessions at once. More are counted as dropped.", Min: "1", Max: "100000",
		}),
		think: config.Duration(set, "audience.think", time.Second, config.Spec{
			Doc: "Time between two steps of a session, on average.", Min: "0s", Max: "10m",
		}),
		patient: config.Duration(set, "audience.timeout", 5*time.Second, config.Spec{
			Doc: "Time after which a subscriber gives a request up.", Min: "10ms", Max: "5m",
		}),
		random: rand.New(rand.NewPCG(cmp.Or(o.Seed, rand.Uint64()), 1)), //nolint:gosec // load, not secrets
	}
	l.client = &http.Client{Transport: &http.Transport{
		DialContext: o.DialContext, MaxIdleConnsPerHost: 256, IdleConnTimeout: 30 * time.Second,
	}}
	var err error
	l.stats, err = newStats(o.Metrics)
	return l, err
}

// Run begins sessions until ctx ends, then waits for those that have begun, at most half a minute. It reports every
// ten seconds.
func (l *Load) Run(ctx context.Context) error {
	sessions, giveUp := context.WithCancel(context.WithoutCancel(ctx))
	defer giveUp()
	defer l.client.CloseIdleConnections()
	var wg sync.WaitGroup
	reporting, stopReporting := context.WithCancel(sessions)
	wg.Go(func() { l.report(reporting) })
	l.arrive(ctx, func(due time.Time) {
		if !l.slots.take(l.most.Get()) {
			l.stats.session("dropped")
			return
		}
		l.stats.session("started")
		seed := l.next()
		wg.Go(func() {
			defer l.slots.give()
			l.session(sessions, due, seed)
		})
	})
	stopReporting()
	timer := time.AfterFunc(linger, giveUp)
	defer timer.Stop()
	wg.Wait()
	return nil
}

// next returns a number for a session's own randomness: sessions run at the same time and must not share a source.
func (l *Load) next() uint64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.random.Uint64()
}

// report logs what happened since the last line.
func (l *Load) report(ctx context.Context) {
	tick := time.NewTicker(every)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
			s := l.stats.turn()
			l.log.Info("audience", "sessions", s.Started, "dropped", s.Dropped, "active", l.slots.taken(), "requests", s.All.Requests,
				"ok_percent", fmt.Sprintf("%.3f", 100*s.Success()), "p50", short(s.All.P50).String(), "p95", short(s.All.P95).String(),
				"p99", short(s.All.P99).String(), "max", short(s.All.Max).String())
		}
	}
}

// Summary returns what happened since the load began.
func (l *Load) Summary() Summary { return l.stats.total() }

// slots bounds sessions at once.
type slots struct {
	mu sync.Mutex
	n  int64
}

func (s *slots) take(most int64) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.n >= most {
		return false
	}
	s.n++
	return true
}

func (s *slots) give() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.n--
}

func (s *slots) taken() int64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.n
}
