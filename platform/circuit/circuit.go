package circuit

import (
	"cmp"
	"context"
	"errors"
	"log/slog"
	"maps"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	circuitsv1 "bijou.dev/platform/api/circuits/v1"
	"bijou.dev/platform/config"
	"github.com/sony/gobreaker/v2"
)

// Key names a circuit: a callee and one of its methods.
type Key struct {
	// Group is the callee: "catalog".
	Group string
	// Method is the callee's method: "GetMovie".
	Method string
}

// String returns the command key: "catalog.GetMovie".
func (k Key) String() string { return k.Group + "." + k.Method }

// Options configures a Set. The zero value works alone, with default settings and no log.
type Options struct {
	// Config holds the live settings. Nil: the defaults.
	Config config.Set
	// Log gets one line for each change of state. Nil: none.
	Log *slog.Logger
	// Service and Instance are the calling process, as Report names it. Empty is allowed when Report is not used.
	Service  string
	Instance string
	// MaxCircuits bounds the number of circuits, see Limits in the package comment. Zero: 1000.
	MaxCircuits int
}

// Set holds the circuits of one process. Its methods may be called at the same time. Make one with New.
type Set struct {
	opts     Options
	log      *slog.Logger
	settings settings
	// circuits is replaced as a whole, so that a call finds its circuit without a lock.
	circuits atomic.Pointer[map[Key]*circuit]
	mu       sync.Mutex // serialises replacing circuits
	streams  atomic.Int64
}

// New returns an empty Set and declares its settings.
func New(opts Options) *Set {
	if opts.Config == nil {
		opts.Config = config.Static(nil)
	}
	if opts.MaxCircuits <= 0 {
		opts.MaxCircuits = 1000
	}
	s := &Set{opts: opts, log: cmp.Or(opts.Log, slog.New(slog.DiscardHandler)), settings: newSettings(opts.Config)}
	s.circuits.Store(&map[Key]*circuit{})
	return s
}

// Do calls fn if the circuit of key allows it, under a context that ends after the circuit's time-out or at the deadline
// of ctx, whichever is sooner. Fn must return when its context ends.
//
// Do returns nil, the error of fn, or one of its own: an error that Rejected recognises when fn was not called, or an
// errs.Timeout that wraps fn's error when the circuit's time-out passed. A panic of fn counts as a failure and goes on.
func (s *Set) Do(ctx context.Context, key Key, fn func(context.Context) error) error {
	return s.circuit(key).do(ctx, fn)
}

// Start asks whether a call may be made now, for calls that outlive the function that makes them: streams, and answers
// whose body is still being read. If it returns no error, the caller must call done exactly once, as soon as it is known
// whether the callee answers, with its error or nil. Until then the call takes one of the circuit's places, and a half-open
// circuit waits for it. The latency is the time until done. There is no time-out: the caller sets its own.
func (s *Set) Start(ctx context.Context, key Key) (done func(error), err error) {
	return s.circuit(key).start(ctx)
}

// Snapshots returns the state of all circuits, sorted by name.
func (s *Set) Snapshots() []*circuitsv1.Snapshot {
	all := *s.circuits.Load()
	keys := slices.SortedFunc(maps.Keys(all), func(a, b Key) int {
		return cmp.Or(cmp.Compare(a.Group, b.Group), cmp.Compare(a.Method, b.Method))
	})
	snaps := make([]*circuitsv1.Snapshot, 0, len(keys))
	for _, k := range keys {
		snaps = append(snaps, all[k].snapshot())
	}
	return snaps
}

// circuit returns the circuit of key, or the overflow circuit that stands in for it.
func (s *Set) circuit(key Key) *circuit {
	if c := (*s.circuits.Load())[key]; c != nil {
		return c
	}
	return s.create(key)
}

func (s *Set) create(key Key) *circuit {
	s.mu.Lock()
	defer s.mu.Unlock()
	old := *s.circuits.Load()
	switch n := len(old); {
	case old[key] != nil:
		return old[key]
	case n >= 2*s.opts.MaxCircuits:
		key = Key{"*", "*"}
	case n >= s.opts.MaxCircuits:
		key = Key{key.Group, "*"}
	}
	if old[key] != nil {
		return old[key]
	}
	next := maps.Clone(old)
	next[key] = newCircuit(key, s)
	s.circuits.Store(&next)
	return next[key]
}

// circuit is one breaker with its limits and counts.
type circuit struct {
	key  Key
	name string
	log  *slog.Logger
	// base is the origin of all times below: reading the time since it is half the price of time.Now.
	base    time.Time
	handles handles
	limits  atomic.Pointer[limits]
	// breaker is replaced when a setting that it cannot change, the sleep window, changes.
	breaker atomic.Pointer[gobreaker.TwoStepCircuitBreaker[struct{}]]
	mu      sync.Mutex // serialises applying settings

	concurrent, fallbacks atomic.Int64
	// changed is a change of state that is not in the log yet.
	changed atomic.Pointer[change]
	window  window
}

func newCircuit(key Key, s *Set) *circuit {
	c := &circuit{key: key, name: key.String(), log: s.log, base: time.Now(), handles: s.settings.handles(key)}
	c.limits.Store(c.handles.limits())
	c.breaker.Store(c.newBreaker(c.limits.Load().sleep, false))
	c.window.since = c.base
	c.window.why = whyForced(c.limits.Load().mode)
	c.handles.watch(c.apply)
	c.apply() // what changed before the watches stood
	return c
}

// do is Set.Do.
func (c *circuit) do(ctx context.Context, fn func(context.Context) error) (err error) {
	l := c.limits.Load()
	n, report, err := c.admit(ctx, l)
	if err != nil {
		return err
	}
	start := time.Since(c.base)
	callCtx, cancel := c.withTimeout(ctx, l, start)
	ev, slow, ended := evFailure, false, false
	defer func() { // also when fn panics
		cancel()
		c.concurrent.Add(-1)
		if !ended {
			now := time.Since(c.base)
			c.window.ran(now, ev, slow, n, now-start)
		}
		report(verdict(ev, slow))
		c.logChange()
	}()
	err = fn(callCtx)
	now := time.Since(c.base)
	if err != nil {
		if callCtx != ctx && errors.Is(callCtx.Err(), context.DeadlineExceeded) && ctx.Err() == nil {
			err = c.timedOut(l, err)
		}
		ev = eventOf(ctx, err)
		c.failed(ctx, ev, err)
	} else {
		ev = evSuccess
	}
	slow = l.tooSlow(ev, now-start)
	c.window.ran(now, ev, slow, n, now-start)
	ended = true
	return err
}

// withTimeout returns ctx itself when its own deadline is sooner, because a new context is the dearest part of a call.
func (c *circuit) withTimeout(ctx context.Context, l *limits, start time.Duration) (context.Context, context.CancelFunc) {
	if l.timeout <= 0 {
		return ctx, func() {}
	}
	if deadline, ok := ctx.Deadline(); ok && deadline.Sub(c.base) <= start+l.timeout {
		return ctx, func() {}
	}
	return context.WithDeadline(ctx, c.base.Add(start+l.timeout))
}

// start is Set.Start.
func (c *circuit) start(ctx context.Context) (func(error), error) {
	l := c.limits.Load()
	n, report, err := c.admit(ctx, l)
	if err != nil {
		return nil, err
	}
	start := time.Since(c.base)
	return func(err error) {
		now := time.Since(c.base)
		ev := eventOf(ctx, err)
		slow := l.tooSlow(ev, now-start)
		c.concurrent.Add(-1)
		c.window.ran(now, ev, slow, n, now-start)
		c.failed(ctx, ev, err)
		report(verdict(ev, slow))
		c.logChange()
	}, nil
}

// admit takes one of the circuit's places and returns how many are taken now, and how to tell the breaker the verdict.
func (c *circuit) admit(ctx context.Context, l *limits) (taken int64, report func(error), err error) {
	report = unreported
	c.explain(ctx, l)
	switch l.mode {
	case modeForcedOpen:
		return 0, nil, c.refuse(ctx, l, errForced)
	case modeBreaker:
		var refused error
		if report, refused = c.breaker.Load().Allow(); refused != nil {
			return 0, nil, c.refuse(ctx, l, refused)
		}
	}
	if taken = c.concurrent.Add(1); taken > l.concurrent {
		c.concurrent.Add(-1)
		report(errIgnored)
		err := c.full(ctx, l)
		c.logChange()
		return 0, nil, err
	}
	return taken, report, nil
}

func unreported(error) {}
