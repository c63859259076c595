package route

import (
	"math"
	"sync"
	"sync/atomic"
	"time"

	"bijou.dev/platform/config"
)

// Settings are the live settings of balancers. One Settings serves a whole process. Make one with [NewSettings].
type Settings struct {
	current atomic.Pointer[tuning]
	mu      sync.Mutex // held while current is replaced
}

// NewSettings declares the settings of balancers in set, all named "route.", and follows their changes. Balancers
// obey a change with the next pick. A nil set gives the defaults for good.
func NewSettings(set config.Set) *Settings {
	s := defaultSettings()
	if set == nil {
		return s
	}
	d := defaults()
	bind(s, config.Duration(set, "route.ewma.decay", d.decay, config.Spec{
		Doc: "How long an endpoint's peak latency takes to fade to a third. Shorter forgets faster and tries again sooner.",
		Min: "100ms", Max: "10m",
	}), func(t *tuning, v time.Duration) { t.decay = v })
	bind(s, config.Duration(set, "route.failurePenalty", d.penalty, config.Spec{
		Doc: "A failed answer counts as at least this latency, so that failing fast attracts no traffic. 0 turns it off.",
		Min: "0s", Max: "1m",
	}), func(t *tuning, v time.Duration) { t.penalty = v })
	s.declareSlowStart(set, d)
	s.declareZone(set, d)
	s.declareEjection(set, d)
	s.declareSuccessRate(set, d)
	return s
}

func (s *Settings) declareSlowStart(set config.Set, d tuning) {
	bind(s, config.Duration(set, "route.slowStart.window", d.slowStart, config.Spec{
		Doc: "A new endpoint takes a growing share of its turn for this long. 0 turns slow start off.",
		Min: "0s", Max: "15m",
	}), func(t *tuning, v time.Duration) { t.slowStart = v })
	bind(s, config.Float(set, "route.slowStart.aggression", d.aggression, config.Spec{
		Doc: "The share is (age/window)^(1/aggression): 1 grows evenly, more grows fast at first, less grows late.",
		Min: "0.1", Max: "10",
	}), func(t *tuning, v float64) { t.aggression = v })
	bind(s, config.Float(set, "route.slowStart.minShare", d.minShare, config.Spec{
		Doc: "The share of its turn that a new endpoint takes at least.",
		Min: "0.01", Max: "1",
	}), func(t *tuning, v float64) { t.minShare = v })
}

func (s *Settings) declareZone(set config.Set, d tuning) {
	bind(s, config.Bool(set, "route.zone.prefer", d.preferZone, config.Spec{
		Doc: "Prefer endpoints in the caller's zone.",
	}), func(t *tuning, v bool) { t.preferZone = v })
	bind(s, config.Float(set, "route.zone.overprovision", d.overprovision, config.Spec{
		Doc: "How much more than its fair share a zone can carry. Traffic beyond that goes to other zones.",
		Min: "0", Max: "100",
	}), func(t *tuning, v float64) { t.overprovision = v })
	bind(s, config.Int(set, "route.zone.minEndpoints", int64(d.zoneMin), config.Spec{
		Doc: "With fewer healthy endpoints in the caller's zone than this, zones play no part: one alone leaves no choice.",
		Min: "1", Max: "1000",
	}), func(t *tuning, v int64) { t.zoneMin = int(v) })
}

func (s *Settings) declareEjection(set config.Set, d tuning) {
	bind(s, config.Int(set, "route.ejection.consecutiveFailures", d.consecutive, config.Spec{
		Doc: "An endpoint is ejected after so many requests in a row without an answer (refused, lost, timed out). 0 turns it off.",
		Min: "0", Max: "1000",
	}), func(t *tuning, v int64) { t.consecutive = v })
	bind(s, config.Duration(set, "route.ejection.base", d.ejectBase, config.Spec{
		Doc: "The first ejection lasts this long, the n-th n times as long, less up to a fifth at random.",
		Min: "100ms", Max: "10m",
	}), func(t *tuning, v time.Duration) { t.ejectBase = v })
	bind(s, config.Duration(set, "route.ejection.max", d.ejectMax, config.Spec{
		Doc: "No ejection lasts longer. It bounds how late a recovered endpoint is noticed; the price is one probe request each time.",
		Min: "100ms", Max: "1h",
	}), func(t *tuning, v time.Duration) { t.ejectMax = v })
	bind(s, config.Float(set, "route.ejection.maxShare", d.ejectShare, config.Spec{
		Doc: "At most this part of the endpoints is ejected; one always may be, the only one never. 0 turns ejection off but for one.",
		Min: "0", Max: "1",
	}), func(t *tuning, v float64) { t.ejectShare = v })
	bind(s, config.Float(set, "route.panicThreshold", d.panicThreshold, config.Spec{
		Doc: "When more than this part of the endpoints is ejected, ejections are ignored. 1 turns panic off.",
		Min: "0", Max: "1",
	}), func(t *tuning, v float64) { t.panicThreshold = v })
}

func (s *Settings) declareSuccessRate(set config.Set, d tuning) {
	bind(s, config.Duration(set, "route.ejection.interval", d.interval, config.Spec{
		Doc: "How often success rates are compared, less up to a fifth at random.",
		Min: "100ms", Max: "10m",
	}), func(t *tuning, v time.Duration) { t.interval = v })
	bind(s, config.Int(set, "route.ejection.successRate.minEndpoints", d.rateEndpoints, config.Spec{
		Doc: "Success rates are compared only when so many endpoints had enough requests. 0 turns it off.",
		Min: "0", Max: "1000",
	}), func(t *tuning, v int64) { t.rateEndpoints = v })
	bind(s, config.Int(set, "route.ejection.successRate.minRequests", d.rateRequests, config.Spec{
		Doc: "An endpoint's success rate counts only with so many requests in the interval.",
		Min: "1", Max: "1000000",
	}), func(t *tuning, v int64) { t.rateRequests = v })
	bind(s, config.Float(set, "route.ejection.successRate.stdevFactor", d.rateStdev, config.Spec{
		Doc: "An endpoint is ejected when its success rate is this many standard deviations below the mean.",
		Min: "0.1", Max: "10",
	}), func(t *tuning, v float64) { t.rateStdev = v })
}

// bind keeps one field of the tuning equal to a setting.
func bind[T any](s *Settings, v *config.Value[T], assign func(*tuning, T)) {
	follow := func(_, _ T) {
		s.mu.Lock()
		defer s.mu.Unlock()
		t := *s.current.Load()
		assign(&t, v.Get()) // not the callback's value: a later change may have been here already
		s.current.Store(&t)
	}
	v.Watch(follow)
	var zero T
	follow(zero, zero)
}

func (s *Settings) now() *tuning { return s.current.Load() }

// tuning is one consistent reading of all settings.
type tuning struct {
	decay   time.Duration
	penalty time.Duration

	slowStart  time.Duration
	aggression float64
	minShare   float64

	preferZone    bool
	overprovision float64
	zoneMin       int

	consecutive    int64
	ejectBase      time.Duration
	ejectMax       time.Duration
	ejectShare     float64
	panicThreshold float64

	interval      time.Duration
	rateEndpoints int64
	rateRequests  int64
	rateStdev     float64
}

// share is the part of its turn that an endpoint of this age takes.
func (t *tuning) share(age int64) float64 {
	if t.slowStart <= 0 || age >= int64(t.slowStart) {
		return 1
	}
	progress := float64(age) / float64(t.slowStart)
	if t.aggression != 1 {
		progress = math.Pow(progress, 1/t.aggression)
	}
	return max(t.minShare, progress)
}

// defaults are the documented defaults of all settings.
func defaults() tuning {
	return tuning{
		decay:          10 * time.Second,
		penalty:        5 * time.Second,
		slowStart:      10 * time.Second,
		aggression:     1,
		minShare:       0.1,
		preferZone:     true,
		overprovision:  1.4,
		zoneMin:        2,
		consecutive:    5,
		ejectBase:      5 * time.Second,
		ejectMax:       10 * time.Second,
		ejectShare:     0.5,
		panicThreshold: 0.5,
		interval:       10 * time.Second,
		rateEndpoints:  5,
		rateRequests:   100,
		rateStdev:      1.9,
	}
}

func defaultSettings() *Settings {
	s, t := new(Settings), defaults()
	s.current.Store(&t)
	return s
}
