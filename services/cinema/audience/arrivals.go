package audience

import (
	"context"
	"time"
)

// rateRamp is a rate that changes linearly from one value to another.
type rateRamp struct {
	from, to float64
	since    time.Time
	over     time.Duration
}

func (s rateRamp) at(now time.Time) float64 {
	passed := now.Sub(s.since)
	if passed >= s.over {
		return s.to
	}
	return s.from + (s.to-s.from)*float64(passed)/float64(s.over)
}

// arrive calls start at the times of a Poisson process until ctx ends. The argument of start is the time at which the
// session is due. It may be in the past. start must not block.
//
// A changing rate is made by thinning: candidates arrive at the higher rate, and each is kept with the probability
// rate / higher rate. When the rate changes, the wait starts again: the time to the next arrival of a Poisson process
// does not depend on the time that has passed.
func (l *Load) arrive(ctx context.Context, start func(due time.Time)) {
	changed := make(chan struct{}, 1)
	defer l.rate.Watch(func(_, _ float64) {
		select {
		case changed <- struct{}{}:
		default:
		}
	})()
	due := time.Now()
	s := rateRamp{to: l.target(), since: due, over: l.rampTime()}
	for {
		high := max(s.from, s.to)
		if time.Since(s.since) >= s.over {
			high = s.to
		}
		wait := time.Hour // the rate is 0: wait until it changes
		if high > 0 {
			due = due.Add(l.gap(high))
			wait = time.Until(due)
		}
		select {
		case <-ctx.Done():
			return
		case <-changed:
			due = time.Now()
			s = rateRamp{from: s.at(due), to: l.target(), since: due, over: l.rampTime()}
		case <-time.After(wait):
			if high > 0 && l.random01() < s.at(due)/high {
				start(due)
			}
		}
	}
}

func (l *Load) target() float64 {
	if l.opts.Fixed {
		return l.opts.Rate
	}
	return l.rate.Get()
}

// rampTime is the time in which a new rate is reached.
func (l *Load) rampTime() time.Duration {
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

func (l *Load) random01() float64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.random.Float64()
}
