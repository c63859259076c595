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
	"bijou.dev/platform/errs"
)

const (
	maxRate     = 10_000
	maxRamp     = 24 * time.Hour
	reportEvery = 10 * time.Second // between lines in the log

	// For the running sessions when the load ends, and when the process stops, which takes at most 5 s.
	finishWithin, stopWithin = 30 * time.Second, 2 * time.Second
)

// LoadOptions configures a Load.
type LoadOptions struct {
	// Target is the base URL of the cinema, http or https. Required.
	Target string
	// Rate is the default of the live setting audience.rate, in sessions per second, at most 10,000. Zero: 1.
	Rate float64
	// Ramp is the default of the live setting audience.ramp, the time in which a new rate is reached, at most 24 h.
	// Zero: the rate is reached at once.
	Ramp time.Duration
	// Fixed uses Rate and Ramp and not the settings. False: Rate and Ramp are only the defaults of the settings.
	Fixed bool
	// Finish is how long the running sessions may take when the load ends; then they are canceled. Zero: 30 s.
	Finish time.Duration
	// Seed makes the random choices repeatable. Zero: a random seed.
	Seed uint64
	// DialContext connects to the cinema. Nil: as package net does.
	DialContext func(ctx context.Context, network, addr string) (net.Conn, error)
	// Settings has the live settings audience.*. Nil: their defaults.
	Settings config.Set
	// Metrics gets cinema_audience_*. Nil: there are no metrics.
	Metrics prometheus.Registerer
	// Log gets a line every ten seconds. Nil: nothing is logged.
	Log *slog.Logger
}

// complete returns a copy with all defaults, or an error that names the fields that are wrong.
func (o LoadOptions) complete() (LoadOptions, error) {
	o.Rate = cmp.Or(o.Rate, 1)
	o.Finish = cmp.Or(o.Finish, finishWithin)
	o.Seed = cmp.Or(o.Seed, rand.Uint64()) //nolint:gosec // not for secrets
	o.Settings = cmp.Or[config.Set](o.Settings, config.Static(nil))
	o.Log = cmp.Or(o.Log, slog.New(slog.DiscardHandler))
	var bad errs.Violations
	checkLoad(&bad, o.Target, o.Rate, o.Ramp)
	return o, bad.Err("options of the load")
}

// Load runs sessions against a target. Make one with NewLoad.
type Load struct {
	opts        LoadOptions
	client      *http.Client
	log         *slog.Logger
	rate        *config.Value[float64]
	ramp        *config.Value[time.Duration]
	maxSessions *config.Value[int64]
	think       *config.Value[time.Duration]
	timeout     *config.Value[time.Duration]
	stats       *stats
	slots       slots
	created     sync.Map // id of a profile that this load has created -> true

	mu     sync.Mutex // guards random
	random *rand.Rand
}

// NewLoad returns a load. Its Run starts it.
func NewLoad(o LoadOptions) (*Load, error) {
	o, err := o.complete()
	if err != nil {
		return nil, err
	}
	set := o.Settings
	l := &Load{
		opts: o, log: o.Log,
		rate: config.Float(set, "audience.rate", o.Rate, config.Spec{
			Doc: "Sessions that begin per second, on average.", Unit: "1/s", Min: "0", Max: "10000",
		}),
		ramp: config.Duration(set, "audience.ramp", o.Ramp, config.Spec{
			Doc: "Time in which a new rate is reached, linearly.", Min: "0s", Max: "24h",
		}),
		maxSessions: config.Int(set, "audience.sessions.max", 500, config.Spec{
			Doc: "Concurrent sessions. More are counted as dropped.", Min: "1", Max: "100000",
		}),
		think: config.Duration(set, "audience.think", time.Second, config.Spec{
			Doc: "Time between two steps of a session, on average.", Min: "0s", Max: "10m",
		}),
		timeout: config.Duration(set, "audience.timeout", 5*time.Second, config.Spec{
			Doc: "Timeout of a request.", Min: "10ms", Max: "5m",
		}),
		random: rand.New(rand.NewPCG(o.Seed, 1)), //nolint:gosec // not for secrets
	}
	l.client = &http.Client{Transport: &http.Transport{
		DialContext: o.DialContext, MaxIdleConnsPerHost: 256, IdleConnTimeout: 30 * time.Second,
	}}
	l.stats, err = newStats(o.Metrics)
	return l, err
}

// Run starts sessions until ctx ends, then waits up to LoadOptions.Finish for the running ones. It logs a line every
// 10 s. Call it once.
func (l *Load) Run(ctx context.Context) error {
	sessions, cancelSessions := context.WithCancel(context.WithoutCancel(ctx))
	defer cancelSessions()
	defer l.client.CloseIdleConnections()
	var wg sync.WaitGroup
	reporting, stopReporting := context.WithCancel(sessions)
	wg.Go(func() { l.report(reporting) })
	l.arrive(ctx, func(due time.Time) {
		if !l.slots.acquire(l.maxSessions.Get()) {
			l.stats.session("dropped")
			return
		}
		l.stats.session("started")
		seed := l.nextSeed()
		wg.Go(func() {
			defer l.slots.release()
			l.session(sessions, due, seed)
		})
	})
	stopReporting()
	timer := time.AfterFunc(l.opts.Finish, cancelSessions)
	defer timer.Stop()
	wg.Wait()
	return nil
}

// nextSeed returns the random seed of a session. Each session has its own source, because sessions run concurrently.
func (l *Load) nextSeed() uint64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.random.Uint64()
}

// report logs the numbers since the last line.
func (l *Load) report(ctx context.Context) {
	tick := time.NewTicker(reportEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
			s := l.stats.nextInterval()
			l.log.Info("audience", "sessions", s.Started, "dropped", s.Dropped, "active", l.slots.inUse(),
				"requests", s.All.Requests, "ok_percent", fmt.Sprintf("%.3f", 100*s.Success()),
				"p50", short(s.All.P50).String(), "p95", short(s.All.P95).String(),
				"p99", short(s.All.P99).String(), "max", short(s.All.Max).String())
		}
	}
}

// Summary returns the numbers since the load started.
func (l *Load) Summary() Summary { return l.stats.total() }

// slots limits the number of concurrent sessions.
type slots struct {
	mu sync.Mutex
	n  int64 // in use
}

func (s *slots) acquire(most int64) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.n >= most {
		return false
	}
	s.n++
	return true
}

func (s *slots) release() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.n--
}

func (s *slots) inUse() int64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.n
}
