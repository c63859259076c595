package route

import (
	"fmt"
	"math"
	"time"
)

// judge learns from one outcome. timed says that the time since the pick is a latency.
func (p *Picked) judge(o Outcome, timed bool) {
	now, t := p.b.now(), p.b.settings.now()
	elapsed := now - p.start
	switch o {
	case Success:
		p.m.failures.Store(0)
		p.m.failedAt.Store(0)
		p.m.good.Add(1)
		switch {
		case p.again || p.probe: // measurements from the time of its failures no longer count
			if !timed {
				elapsed = int64(time.Millisecond)
			}
			p.m.ewma.set(float64(max(elapsed, 1)), now)
		case timed:
			p.m.ewma.observe(elapsed, now, t.decay)
		}
		if p.probe {
			p.b.admit(p.m, now)
		}
	case Failure, Unreachable:
		cost := int64(t.penalty)
		if timed {
			cost = max(cost, elapsed)
		}
		p.m.ewma.observe(cost, now, t.decay)
		p.m.failedAt.Store(max(now, 1))
		p.m.bad.Add(1)
		p.fail(o, now, t)
	default:
		if timed && float64(elapsed) > p.m.ewma.at(now, t.decay) {
			p.m.ewma.observe(elapsed, now, t.decay)
		}
	}
	if p.probe {
		p.m.probed.Store(0)
	}
}

// fail ejects the endpoint if this failure is one too many.
func (p *Picked) fail(o Outcome, now int64, t *tuning) {
	if p.probe {
		p.b.eject(p.m, now, "the probe after ejection failed", true)
		return
	}
	if o != Unreachable || t.consecutive == 0 {
		return
	}
	n := p.m.failures.Add(1)
	if int64(n) >= t.consecutive && p.m.phase.Load() == admitted {
		p.m.failures.Store(0)
		p.b.eject(p.m, now, fmt.Sprintf("%d requests in a row got no answer", n), false)
	}
}

// admit ends an ejection: the probe succeeded. Slow start is caution enough.
func (b *Balancer) admit(m *member, now int64) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if m.phase.Load() != probation {
		return
	}
	m.phase.Store(admitted)
	m.failures.Store(0)
	m.born.Store(now)
	b.rebuildLocked(now)
}

func (b *Balancer) eject(m *member, now int64, reason string, again bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.ejectLocked(m, now, reason, again) {
		b.rebuildLocked(now)
	}
}

// ejectLocked takes m out, unless too many are out already. again says that m is out and stays out.
func (b *Balancer) ejectLocked(m *member, now int64, reason string, again bool) bool {
	t := b.settings.now()
	if out := m.phase.Load() != admitted; out != again || !again && !b.mayEjectLocked(t) {
		return false
	}
	m.ejections++
	m.reason = reason
	m.until = now + int64(t.ejection(m.ejections, b.float()))
	m.phase.Store(ejected)
	return true
}

// mayEjectLocked reports whether one more endpoint may be ejected: up to the share set, one at least, never the only
// one.
func (b *Balancer) mayEjectLocked(t *tuning) bool {
	ready, out := 0, 0
	for _, m := range b.members {
		if !m.ready {
			continue
		}
		ready++
		if m.phase.Load() != admitted {
			out++
		}
	}
	return ready > 1 && out < max(1, int(t.ejectShare*float64(ready)))
}

// sweepLocked compares success rates, in the way of Envoy: an endpoint is an outlier when it is more than a number of
// standard deviations below the mean of those with enough requests. It also forgets what is long past.
func (b *Balancer) sweepLocked(now int64) {
	t := b.settings.now()
	b.nextSweep = now + int64(t.jittered(t.interval, b.float()))
	b.forgetLocked(now)
	rates := make(map[*member]float64)
	for _, m := range b.members {
		good, bad := m.good.Swap(0), m.bad.Swap(0)
		if m.ready && m.phase.Load() == admitted {
			if m.ejections > 0 && bad == 0 {
				m.ejections--
			}
			if total := int64(good) + int64(bad); total > 0 && total >= t.rateRequests {
				rates[m] = float64(good) / float64(total)
			}
		}
	}
	if t.rateEndpoints == 0 || int64(len(rates)) < t.rateEndpoints {
		return
	}
	mean, stdev := spread(rates)
	limit := mean - t.rateStdev*stdev
	for _, m := range b.members {
		if rate, ok := rates[m]; ok && rate < limit {
			b.ejectLocked(m, now,
				fmt.Sprintf("%.1f %% of its answers were good, below the limit of %.1f %% (mean %.1f %%)",
					100*rate, 100*limit, 100*mean), false)
		}
	}
}

func spread(rates map[*member]float64) (mean, stdev float64) {
	n := float64(len(rates))
	for _, r := range rates {
		mean += r / n
	}
	for _, r := range rates {
		stdev += (r - mean) * (r - mean) / n
	}
	return mean, math.Sqrt(stdev)
}

// forgetLocked drops the history of endpoints that have been away for too long.
func (b *Balancer) forgetLocked(now int64) {
	for id, d := range b.removed {
		if now-d.at > int64(memory) {
			delete(b.removed, id)
		}
	}
}

// ejection is how long the n-th ejection lasts; random is in [0, 1).
func (t *tuning) ejection(n uint32, random float64) time.Duration {
	return t.jittered(min(t.ejectBase*time.Duration(n), t.ejectMax), random)
}

// jittered is d less up to a fifth.
func (t *tuning) jittered(d time.Duration, random float64) time.Duration {
	return d - time.Duration(float64(d)*random/5)
}
