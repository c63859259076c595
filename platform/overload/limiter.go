package overload

import (
	"fmt"
	"maps"
	"math"
	"sync"
	"sync/atomic"
	"time"
)

const (
	minSamples = 20   // a window has at least this many requests
	minKind    = 5    // the mean of a kind counts from this many requests on
	maxKinds   = 1000 // more kinds share one
	mostCut    = 0.5  // one window lowers the limit to this share at least
	probeDepth = 4    // a probe divides the places of sheddable requests by this
)

// Limiter bounds the requests that one server, or one origin, works on. Its methods may be called at the same time.
// Make one with [Set.Limiter].
type Limiter struct {
	name  string
	knobs *knobs
	base  time.Time // origin of all times below: time.Since takes half as long as time.Now

	limit    atomic.Uint64 // bits of a float64; written under mu
	inFlight atomic.Int64
	turn     atomic.Uint32 // see place
	probing  atomic.Bool
	kinds    atomic.Pointer[map[string]*kind]
	admitted [classes]atomic.Uint64
	shed     [classes]atomic.Uint64

	// Of the current window.
	closes  atomic.Int64 // when it may close
	samples atomic.Int64 // successes and drops
	dropped atomic.Int64
	refused atomic.Int64
	peak    atomic.Int64 // highest number in flight

	mu        sync.Mutex // guards what follows, and serialises closing windows
	episode   *episode   // nil: there is no slowdown
	slowdown  float64    // of the last window
	why       string     // reason of the last change of the limit
	nextProbe time.Duration
}

// kind is what was measured of one kind of request.
type kind struct {
	n, sum, clipped atomic.Int64 // of the current window; times in ns
	base            atomic.Int64 // mean time without a queue, ns; 0: not known yet
	clip            atomic.Int64 // a longer time counts as this one; 0: no bound yet
}

// episode is a slowdown from its start on. If the limit has been halved since and latency is no better, the cause is
// not a queue in this server.
type episode struct {
	limit    float64 // at the start
	slowdown float64 // at the start
	halved   int     // windows since the limit was halved
}

func newLimiter(name string, k *knobs) *Limiter {
	l := &Limiter{name: name, knobs: k, base: time.Now(), slowdown: 1, why: "initial"}
	l.limit.Store(math.Float64bits(float64(k.initial.Get())))
	l.kinds.Store(&map[string]*kind{})
	l.closes.Store(int64(k.window.Get()))
	return l
}

// Limit returns how many requests may be in flight now.
func (l *Limiter) Limit() float64 {
	limit := math.Float64frombits(l.limit.Load())
	lowest := float64(l.knobs.min.Get())
	return max(lowest, min(limit, float64(l.knobs.max.Get())))
}

// Free returns how many places of the limit are free; negative: critical requests hold more than the limit. Infinite if
// the limit is off.
func (l *Limiter) Free() float64 {
	if !l.knobs.enabled.Get() {
		return math.Inf(1)
	}
	return l.Limit() - float64(l.inFlight.Load())
}

// RetryAfter returns how long the caller of a shed request should wait. It differs each time, so that callers do not
// retry at the same moment.
func (l *Limiter) RetryAfter() time.Duration {
	d := l.knobs.retryAfter.Get()
	return d/2 + time.Duration(float64(d)*l.place())
}

// place returns a number in [0, 1) that differs each time and is evenly spread (a Weyl sequence by the golden ratio),
// so that exactly the wanted share of a class is shed.
func (l *Limiter) place() float64 {
	return float64(l.turn.Add(0x9E3779B9)) / (1 << 32)
}

// Permit is a place in the limit. Release it with Done, once. The zero Permit need not be released.
type Permit struct {
	l     *Limiter
	kind  *kind
	start time.Duration
}

// Acquire takes a place for a request of the kind name. False: the request must be shed. Kinds are methods or routes:
// their number must be bounded.
func (l *Limiter) Acquire(name string, c Criticality) (Permit, bool) {
	n := l.inFlight.Add(1)
	if l.sheds(n, c) {
		l.inFlight.Add(-1)
		l.shed[c].Add(1)
		l.refused.Add(1)
		return Permit{}, false
	}
	l.admitted[c].Add(1)
	for {
		peak := l.peak.Load()
		if n <= peak || l.peak.CompareAndSwap(peak, n) {
			break
		}
	}
	return Permit{l, l.kind(name), time.Since(l.base)}, true
}

// sheds decides about the n-th request in flight.
func (l *Limiter) sheds(n int64, c Criticality) bool {
	limit := l.Limit()
	u := float64(n) / limit
	switch {
	case u <= l.knobs.shedFrom.Get()/probeDepth || n == 1 || !l.knobs.enabled.Get():
		return false
	case c == Critical:
		return float64(n) > limit+math.Sqrt(limit)
	case c == CriticalPlus:
		return float64(n) > limit+2*math.Sqrt(limit)
	}
	if l.probing.Load() {
		u *= probeDepth
	}
	from, to := l.knobs.shedFrom.Get(), l.knobs.shedAll.Get()
	if u <= from {
		return false
	}
	order := l.place() / 2 // of requests that can be shed, from 0 for those that are shed last
	if c == Sheddable {
		order += 0.5
	}
	x := (u - from) / max(to-from, 0.01)
	return order >= 1-x*x*x
}

// Outcome is how a request ended, as far as it says something about load.
type Outcome uint8

// The outcomes.
const (
	// Success is an answer: its time shows how busy the server is.
	Success Outcome = iota
	// Dropped is a request whose deadline passed before it was answered.
	Dropped
	// Ignored is a request whose time does not show load: an error, which may be faster or slower than an answer, or a
	// caller that disconnected.
	Ignored
)

// Done releases the place.
func (p Permit) Done(o Outcome) {
	l := p.l
	if l == nil {
		return
	}
	l.inFlight.Add(-1)
	if o == Ignored {
		return
	}
	now := time.Since(l.base)
	if o == Dropped {
		l.dropped.Add(1)
	} else {
		p.kind.add(now - p.start)
	}
	if l.samples.Add(1) >= minSamples && int64(now) >= l.closes.Load() && l.mu.TryLock() {
		defer l.mu.Unlock()
		if int64(now) >= l.closes.Load() {
			l.closeLocked(now)
		}
	}
}

func (k *kind) add(took time.Duration) {
	k.n.Add(1)
	k.sum.Add(int64(took))
	clipped := int64(took)
	if clip := k.clip.Load(); clip > 0 {
		clipped = min(clipped, clip)
	}
	k.clipped.Add(clipped)
}

// kind returns the kind called name, or the shared one if there are too many kinds.
func (l *Limiter) kind(name string) *kind {
	if k := (*l.kinds.Load())[name]; k != nil {
		return k
	}
	for {
		old := l.kinds.Load()
		if len(*old) >= maxKinds {
			name = "*"
		}
		if k := (*old)[name]; k != nil {
			return k
		}
		next := maps.Clone(*old)
		next[name] = new(kind)
		if l.kinds.CompareAndSwap(old, &next) {
			return next[name]
		}
	}
}

// closeLocked ends a window: it measures, sets the limit, updates the baselines, and starts the next window.
func (l *Limiter) closeLocked(now time.Duration) {
	w := l.measureLocked()
	probed := l.probing.Load()
	if !probed { // during a probe the load is not the real one
		l.adjustLocked(&w)
	}
	for _, k := range w.kinds {
		k.learn(w.busy && !w.rebase, w.rebase)
		k.clip.Store(int64(2 * l.knobs.tolerance.Get() * max(float64(k.base.Load()), w.floor)))
	}
	l.slowdown = w.slowdown
	l.scheduleProbeLocked(now, w.refused > 0 && !probed)
	// A window is at least twice as long as a request. A shorter one would measure an earlier limit.
	l.closes.Store(int64(now + max(l.knobs.window.Get(), time.Duration(2*w.mean))))
}

// measured is the measurement of a window.
type measured struct {
	kinds         []kindMean
	floor         float64
	slowdown, raw float64 // with clipped samples, and with the samples as they were
	mean          float64 // ns
	drops         float64 // share of requests whose deadline passed
	refused       int64
	limit, peak   float64
	busy          bool // at least half of the limit was in use
	rebase        bool // the slowdown has another cause than a queue here: the baseline moves to it
}

type kindMean struct {
	*kind

	n    int64
	mean int64
}

func (l *Limiter) measureLocked() measured {
	w := measured{floor: float64(l.knobs.floor.Get()), limit: l.Limit(), slowdown: 1, raw: 1}
	var n int64
	var sum, known, clipped, expected float64
	for _, k := range *l.kinds.Load() {
		kn, ks, kc := k.n.Swap(0), k.sum.Swap(0), k.clipped.Swap(0)
		if kn == 0 {
			continue
		}
		n += kn
		sum += float64(ks)
		w.kinds = append(w.kinds, kindMean{k, kn, ks / kn})
		if base := k.base.Load(); base > 0 {
			known += float64(ks)
			clipped += float64(kc)
			expected += float64(kn) * max(float64(base), w.floor)
		}
	}
	if expected > 0 {
		w.slowdown, w.raw = clipped/expected, known/expected
	}
	if n > 0 {
		w.mean = sum / float64(n)
	}
	dropped := l.dropped.Swap(0)
	l.samples.Store(0)
	w.drops = float64(dropped) / max(1, float64(dropped+n))
	w.refused = l.refused.Swap(0)
	w.peak = float64(l.peak.Swap(l.inFlight.Load()))
	w.busy = w.peak >= w.limit/2 || w.refused > 0
	return w
}

// adjustLocked sets the limit by the measurement of a window.
func (l *Limiter) adjustLocked(w *measured) {
	slow := l.knobs.tolerance.Get() / w.slowdown
	gradient := max(mostCut, min(1, slow, 1-w.drops))
	switch {
	case gradient == 1:
		l.episode = nil
		if w.busy {
			l.setLocked(w.limit+math.Sqrt(w.limit), "no slowdown, %.0f in flight", w.peak)
		}
	case slow < 1 && l.halvingDidNotHelp(w):
		w.rebase, l.episode = true, nil
	default:
		if l.episode == nil {
			l.episode = &episode{limit: w.limit, slowdown: w.raw}
		}
		l.setLocked(w.limit*gradient,
			"requests took %.1f times their time, %.0f %% missed their deadline", w.raw, 100*w.drops)
	}
}

// halvingDidNotHelp reports whether the limit was halved two windows ago or earlier and latency is as bad as before.
func (l *Limiter) halvingDidNotHelp(w *measured) bool {
	e := l.episode
	if e == nil || w.limit > max(float64(l.knobs.min.Get()), e.limit/2) {
		return false
	}
	e.halved++
	return e.halved >= 2 && w.raw >= 0.8*e.slowdown
}

func (l *Limiter) setLocked(limit float64, why string, args ...any) {
	limit = max(float64(l.knobs.min.Get()), min(limit, float64(l.knobs.max.Get())))
	if math.Float64bits(limit) == l.limit.Load() {
		return
	}
	l.limit.Store(math.Float64bits(limit))
	l.why = fmt.Sprintf(why, args...)
}

// learn moves the baseline.
func (k kindMean) learn(busy, rebase bool) {
	if k.n < minKind {
		return
	}
	base := k.base.Load()
	switch {
	case base == 0 || k.mean < base || rebase:
		base = k.mean
	case !busy:
		base += (k.mean - base) / 10
	}
	k.base.Store(max(base, 1))
}

// scheduleProbeLocked starts and ends probes.
func (l *Limiter) scheduleProbeLocked(now time.Duration, overloaded bool) {
	every := l.knobs.probe.Get()
	switch {
	case every <= 0 || !overloaded:
		l.probing.Store(false)
	case now >= l.nextProbe:
		l.probing.Store(l.nextProbe != 0) // the first probe comes one period after the start of the overload
		l.nextProbe = now + time.Duration(float64(every)*(0.75+0.5*l.place()))
	}
}
