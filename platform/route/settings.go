package route

import (
	"math"
	"sync/atomic"
	"time"
)

// Settings are the live settings of balancers. One Settings serves a whole process. Make one with [NewSettings].
type Settings struct {
	current atomic.Pointer[tuning]
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
