package audience

import (
	"cmp"
	"context"
	"time"
)

// slope is a rate that moves in a straight line.
type slope struct {
	from, to float64
	since    time.Time
	over     time.Duration
}

func (s slope) at(now time.Time) float64 {
	gone := now.Sub(s.since)
	if gone >= s.over {
		return s.to
	}
	return s.from + (s.to-s.from)*float64(gone)/float64(s.over)
}

// arrive calls begin at the moments of a Poisson process until ctx ends. begin is told when it was due, and must not
// block: a late call of it is what an open loop is about.
//
// A rate that moves is made by thinning: candidates come at the higher rate and are kept with the chance that the rate
// of their moment has. When the rate changes, waiting begins anew; a Poisson process has no memory.
func (l *Load) arrive(ctx context.Context, begin func(due time.Time)) {
	changed := make(chan struct{}, 1)
	defer l.rate.Watch(func(_, _ float64) {
		select {
		case changed <- struct{}{}:
		default:
		}
	})()
	due := time.Now()
	s := slope{to: l.target(), since: due, over: l.rise()}
	for {
		high := max(s.from, s.to)
		if time.Since(s.since) >= s.over {
			high = s.to
		}
		wait := time.Hour // nobody comes: look again when the rate changes
		if high > 0 {
			due = due.Add(l.gap(high))
			wait = time.Until(due)
		}
		select {
		case <-ctx.Done():
			return
		case <-changed:
			due = time.Now()
			s = slope{from: s.at(due), to: l.target(), since: due, over: l.rise()}
		case <-time.After(wait):
			if high > 0 && l.chance() < s.at(due)/high {
				begin(due)
			}
		}
	}
}

func (l *Load) target() float64 {
	if l.opts.Fixed {
		return cmp.Or(l.opts.Rate, 1)
	}
	return l.rate.Get()
}

// rise is how long a new rate takes.
func (l *Load) rise() time.Duration {
	if l.opts.Fixed {
		return l.opts.Ramp
	}
	return l.ramp.Get()
}

// gap returns the time to the next arrival of a Poisson process.
func (l *Load) gap(rate float64) time.Duration {
	l.mu.Lock()
	defer l.mu.Unlock()
	return time.Duration(l.random.ExpFloat64() / rate * float64(time.Second))
}

func (l *Load) chance() float64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.random.Float64()
}
