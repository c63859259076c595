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
	"bijou.dev/platform/load"
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

// Options configures a Set. The zero value is ready, with default settings and no log.
type Options struct {
	// Config holds the live settings. Nil: the defaults.
	Config config.Set
	// Log gets one line for each change of state. Nil: nothing is logged.
	Log *slog.Logger
	// Service and Instance are the names under which Report reports. Empty: allowed if Report is not used.
	Service, Instance string
	// Served has the load that the calling process serves; Report sends it, too. Nil: none.
	Served *load.Recorder
}

// maxCircuits bounds the circuits of a Set, see Limits in the package comment.
const maxCircuits = 1000

// Set holds the circuits of one process. Its methods may be called from many goroutines. Make one with [New].
type Set struct {
	opts     Options
	log      *slog.Logger
	settings settings
	base     time.Time // when the Set was made
	// circuits is replaced as a whole, so that a call finds its circuit without a lock.
	circuits atomic.Pointer[map[Key]*circuit]
	mu       sync.Mutex // held while circuits is replaced
	streams  atomic.Int64
}

// New returns an empty Set and declares its settings.
func New(opts Options) *Set {
	if opts.Config == nil {
		opts.Config = config.Static(nil)
	}
	s := &Set{
		opts: opts, log: cmp.Or(opts.Log, slog.New(slog.DiscardHandler)),
		settings: newSettings(opts.Config), base: time.Now(),
	}
	s.circuits.Store(&map[Key]*circuit{})
	return s
}

// Do calls fn if the circuit of key allows it. The context of fn ends after the circuit's time-out or at the deadline
// of ctx, whichever is earlier. Fn must return when its context ends.
//
// Do returns nil, the error of fn, or one of its own: if fn was not called, an error that [Rejected] recognises; if the
// circuit's time-out passed, an error of kind errs.Timeout that wraps fn's error. A panic of fn counts as a failure and
// continues.
func (s *Set) Do(ctx context.Context, key Key, fn func(context.Context) error) error {
	return s.circuit(key).do(ctx, fn)
}

// Start is for calls that outlive the function that makes them: streams, and answers whose body is still being read.
// If it returns no error, the caller must call done as soon as it is known whether the callee answers, with its error
// or nil. Only the first call of done counts. Until then the call is one of those that run, and a half-open circuit
// waits for it. The latency is the time until done. There is no time-out: the caller sets its own.
func (s *Set) Start(ctx context.Context, key Key) (done func(error), err error) {
	return s.circuit(key).start(ctx)
}

// Free returns how many more calls the circuit of key lets run at once. It says nothing about whether it is open.
func (s *Set) Free(key Key) int64 {
	c := s.circuit(key)
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.limits.Load().maxConcurrent - c.running
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

// circuit returns the circuit of key, or the shared one that key uses when there are too many.
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
	if old[key] == nil && len(old) >= maxCircuits {
		key = Key{key.Group, "*"}
	}
	if old[key] == nil && len(old) >= 2*maxCircuits {
		key = Key{"*", "*"}
	}
	if old[key] != nil {
		return old[key]
	}
	next := maps.Clone(old)
	next[key] = newCircuit(key, s)
	s.circuits.Store(&next)
	return next[key]
}

// circuit is one breaker with its settings and counts.
type circuit struct {
	key  Key
	name string
	log  *slog.Logger
	// base is the origin of all times below: reading the time since it costs half of time.Now.
	base    time.Time
	handles handles
	// limits are the settings in force. They are replaced under mu and read without it.
	limits    atomic.Pointer[limits]
	fallbacks atomic.Int64 // fallbacks that run

	mu      sync.Mutex // guards what follows; the lock of the breaker is only taken under it
	breaker *gobreaker.TwoStepCircuitBreaker[struct{}]
	// state is that of the breaker. Asking the breaker would change it, see newBreaker.
	state gobreaker.State
	// generation counts the changes of state. Calls that began before healthFrom do not count for the breaker.
	generation, healthFrom uint64
	openedAt               time.Duration
	// why says why the state is not closed, since is when the state or the mode changed last.
	why     string
	since   time.Time
	running int64
	window  window
	changes []change // not logged yet
}

func newCircuit(key Key, s *Set) *circuit {
	c := &circuit{
		key: key, name: key.String(), log: s.log, base: s.base, handles: s.settings.handles(key), since: time.Now(),
	}
	c.limits.Store(c.handles.limits())
	c.breaker = c.newBreaker()
	c.handles.watch(c.apply)
	c.apply() // settings that changed before the watches were set
	return c
}

// call is one call that was admitted.
type call struct {
	started    time.Duration
	concurrent int64 // calls that ran when it began, itself included
	generation uint64
	// report gives the result of a trial to the breaker. Nil: the call is no trial.
	report func(error)
}

// do is Set.Do.
func (c *circuit) do(ctx context.Context, fn func(context.Context) error) (err error) {
	l := c.limits.Load()
	admitted, err := c.admit(ctx, l)
	if err != nil {
		return err
	}
	callCtx, cancel := c.withTimeout(ctx, l, admitted.started)
	ev := evFailure
	defer func() { // also when fn panics
		c.end(ctx, &admitted, ev, err)
		cancel()
	}()
	err = fn(callCtx)
	if err != nil && callCtx != ctx && errors.Is(callCtx.Err(), context.DeadlineExceeded) && ctx.Err() == nil {
		err = c.timedOut(l, err)
	}
	ev = eventOf(ctx, err)
	return err
}

// withTimeout returns ctx itself if its own deadline is earlier, because making a context is the most expensive step of
// a call (see BenchmarkDo).
func (c *circuit) withTimeout(
	ctx context.Context, l *limits, start time.Duration,
) (context.Context, context.CancelFunc) {
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
	admitted, err := c.admit(ctx, c.limits.Load())
	if err != nil {
		return nil, err
	}
	var done atomic.Bool
	return func(err error) {
		if !done.Swap(true) {
			c.end(ctx, &admitted, eventOf(ctx, err), err)
		}
	}, nil
}

// admit starts a call, or returns the error that rejects it.
func (c *circuit) admit(ctx context.Context, l *limits) (call, error) {
	c.mu.Lock()
	admitted, rejected := c.admitLocked(l, time.Since(c.base))
	c.unlock()
	c.explain(ctx, l)
	if rejected == nil {
		return admitted, nil
	}
	err := c.rejection(l, rejected)
	c.failed(ctx, rejected.event, err)
	return call{}, err
}

// rejected is a call that was not let through, and why.
type rejected struct {
	event      event
	state, why string
	wait       time.Duration // until a call may be let through; 0: unknown
}

func (c *circuit) admitLocked(l *limits, now time.Duration) (call, *rejected) {
	var report func(error)
	switch mode := l.mode(); {
	case mode == modeForcedOpen:
		return c.rejectLocked(now, rejected{evShortCircuited, mode.String(), mode.reason(), 0})
	case mode != modeAutomatic:
	case c.stateLocked(l, now) == gobreaker.StateOpen:
		wait := c.openedAt + l.openFor - now
		return c.rejectLocked(now, rejected{evShortCircuited, c.state.String(), c.why, wait})
	case c.state == gobreaker.StateHalfOpen:
		var err error
		if report, err = c.breaker.Allow(); err != nil {
			// The running trial decides, and it ends at its time-out at the latest.
			return c.rejectLocked(now, rejected{evShortCircuited, c.state.String(), c.why, l.timeout})
		}
	}
	if c.running >= l.maxConcurrent {
		if report != nil {
			report(errNoVerdict)
		}
		return c.rejectLocked(now, rejected{event: evSemaphoreRejected})
	}
	c.running++
	return call{now, c.running, c.generation, report}, nil
}

func (c *circuit) rejectLocked(now time.Duration, r rejected) (call, *rejected) {
	c.window.count(now, r.event)
	return call{}, &r
}

// end counts a call that ran and lets the breaker know where it matters.
func (c *circuit) end(ctx context.Context, ended *call, ev event, err error) {
	l, now := c.limits.Load(), time.Since(c.base)
	took := now - ended.started
	slow := l.tooSlow(ev, took)

	if ev != evSuccess {
		c.failed(ctx, ev, err)
	}
	c.mu.Lock()
	defer c.unlock()
	c.running--
	c.window.ended(now, ev, slow, took, ended.concurrent, ended.generation >= c.healthFrom)
	switch verdict := verdictOf(ev, slow); {
	case ended.report != nil:
		ended.report(verdict)
	case l.mode() == modeAutomatic && c.state == gobreaker.StateClosed && ended.generation == c.generation &&
		errors.Is(verdict, errFailed):
		c.failLocked()
	}
}

// unlock releases mu, then logs what changed under it: a log that blocks must not stop other calls.
func (c *circuit) unlock() {
	changes := c.changes
	c.changes = nil
	c.mu.Unlock()
	for _, ch := range changes {
		c.logChange(ch)
	}
}
