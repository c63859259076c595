package circuit

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strconv"
	"time"

	circuitsv1 "bijou.dev/platform/api/circuits/v1"
	"bijou.dev/platform/errs"
	"github.com/sony/gobreaker/v2"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/trace"
	"google.golang.org/protobuf/types/known/timestamppb"
)

// errForced stands beside gobreaker's own refusals.
var errForced = errors.New("forced open")

// change is one change of state, for the log.
type change struct{ from, to, why string }

// newBreaker returns a breaker that is closed, or open from now on.
//
// Its callbacks run under its lock. They take the window's lock inside, so nothing may ask the breaker anything while
// holding that one.
func (c *circuit) newBreaker(sleep time.Duration, open bool) *gobreaker.TwoStepCircuitBreaker[struct{}] {
	var (
		trial   bool             // half-open: the call that ends is a trial
		tripped gobreaker.Counts // what made it open
	)
	b := gobreaker.NewTwoStepCircuitBreaker[struct{}](gobreaker.Settings{
		Name:         c.name,
		MaxRequests:  1,
		Interval:     countWindow,
		BucketPeriod: countPeriod,
		Timeout:      sleep,
		ReadyToTrip: func(n gobreaker.Counts) bool {
			tripped = n
			return open || c.tooMany(n)
		},
		OnStateChange: func(_ string, from, to gobreaker.State) {
			trial = to == gobreaker.StateHalfOpen
			if !open {
				c.onChange(from, to, tripped, sleep)
			}
		},
		IsExcluded: func(verdict error) bool {
			return verdict != nil && excluded(verdict, trial)
		},
		IsSuccessful: func(verdict error) bool { return verdict == nil || errors.Is(verdict, errBadRequest) },
	})
	if open {
		report, _ := b.Allow()
		report(errFailed)
		open = false
	}
	return b
}

// excluded says which verdicts the breaker does not see.
func excluded(verdict error, trial bool) bool {
	switch {
	case errors.Is(verdict, errBadRequest):
		return !trial
	}
	return errors.Is(verdict, errIgnored)
}

// tooMany says whether a closed circuit opens. Calls still running are not counted.
func (c *circuit) tooMany(n gobreaker.Counts) bool {
	l := c.limits.Load()
	ended := n.TotalSuccesses + n.TotalFailures
	return ended >= l.volume && uint64(n.TotalFailures)*100 >= uint64(ended)*uint64(l.errorPercent)
}

// onChange writes the record of why the circuit is in its new state.
func (c *circuit) onChange(from, to gobreaker.State, n gobreaker.Counts, sleep time.Duration) {
	w := &c.window
	w.mu.Lock()
	defer w.mu.Unlock()
	now := time.Since(c.base)
	switch {
	case to == gobreaker.StateClosed:
		w.why, w.healthFrom = "", int64(now/countPeriod)+1
	case to == gobreaker.StateHalfOpen:
		// Keeps the reason why it opened.
	case from == gobreaker.StateHalfOpen:
		w.why = "the trial call failed" + lastError(w.lastErr)
	default:
		w.why = whyOpen(w.sumLocked(now), n, c.limits.Load()) + lastError(w.lastErr)
	}
	if to == gobreaker.StateOpen {
		w.retryAt = now + sleep
	}
	w.since = time.Now()
	c.changed.Store(&change{from.String(), to.String(), w.why})
}

func whyOpen(s sums, n gobreaker.Counts, l *limits) string {
	ended := n.TotalSuccesses + n.TotalFailures
	why := fmt.Sprintf("%d of %d calls failed within %v (%d %%, threshold %d %%)",
		n.TotalFailures, ended, countWindow, n.TotalFailures*100/ended, l.errorPercent)
	for _, part := range []struct {
		n    int64
		what string
	}{
		{s.n[evTimeout], "timed out"},
		{s.n[evSlow], fmt.Sprintf("took longer than %v", l.slow)},
	} {
		if part.n > 0 {
			why += fmt.Sprintf(", %d %s", part.n, part.what)
		}
	}
	return why
}

// lastError shortens the error: it is shown in tables and sent each second.
func lastError(err error) string {
	if err == nil {
		return ""
	}
	text := err.Error()
	if len(text) > 200 {
		text = text[:200] + "..."
	}
	return "; last: " + text
}

func whyForced(m mode) string {
	switch m {
	case modeForcedOpen:
		return "forced open by the setting circuitBreaker.forceOpen"
	case modeForcedClosed:
		return "forced closed by the setting circuitBreaker.forceClosed"
	}
	return ""
}

// apply puts changed settings in force.
func (c *circuit) apply() {
	c.mu.Lock()
	defer c.mu.Unlock()
	old, now := c.limits.Load(), c.handles.limits()
	if *old == *now {
		return
	}
	released := now.mode == modeBreaker && old.mode != modeBreaker
	if released || now.sleep != old.sleep {
		open := !released && c.breaker.Load().State() != gobreaker.StateClosed
		if open {
			c.window.setRetryAt(time.Since(c.base) + now.sleep)
		}
		c.breaker.Store(c.newBreaker(now.sleep, open))
	}
	c.limits.Store(now)
	if now.mode != old.mode {
		c.window.setWhy(whyForced(now.mode))
		c.changed.Store(&change{old.mode.String(), now.mode.String(), whyForced(now.mode)})
		c.logChange()
	}
}

func (w *window) setRetryAt(at time.Duration) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.retryAt = at
}

func (w *window) setWhy(why string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.why, w.since = why, time.Now()
}

func (m mode) String() string {
	return [...]string{"automatic", "forced open", "forced closed", "disabled"}[m]
}

// logChange writes the newest change of state, outside of all locks: a log that blocks must not stop the others.
func (c *circuit) logChange() {
	if c.changed.Load() == nil {
		return
	}
	ch := c.changed.Swap(nil)
	if ch == nil {
		return
	}
	level := slog.LevelInfo
	if ch.to == gobreaker.StateOpen.String() || ch.to == modeForcedOpen.String() {
		level = slog.LevelWarn
	}
	c.log.Log(context.Background(), level, "circuit changed", "circuit", c.name, "from", ch.from, "to", ch.to, "why", ch.why)
}

// failed keeps a failure as evidence and tells the Fallback above, or counts that there is none. Other events are none of
// its business.
func (c *circuit) failed(ctx context.Context, ev event, err error) {
	if ev == evSuccess || ev == evBadRequest || ev == evCanceled {
		return
	}
	if ev != evShortCircuited { // a refusal would hide what made the circuit open
		c.window.failed(err, trace.SpanContextFromContext(ctx).TraceID())
	}
	if rec := recordOf(ctx); rec != nil {
		rec.failed.Store(c)
		return
	}
	c.window.count(time.Since(c.base), evFallbackMissing)
}

func (c *circuit) timedOut(l *limits, err error) error {
	return errs.Errorf(errs.Timeout, "calling %s: no answer within %v: %w", c.name, l.timeout, err).
		Because(ReasonTimeout, "circuit", c.name, "timeout", l.timeout.String())
}

// refuse counts a call that an open circuit refuses and says when to come back.
func (c *circuit) refuse(ctx context.Context, l *limits, cause error) error {
	now := time.Since(c.base)
	c.window.count(now, evShortCircuited)
	c.window.mu.Lock()
	why, wait := c.window.why, c.window.retryAt-now
	c.window.mu.Unlock()

	state := "open"
	switch {
	case errors.Is(cause, errForced):
		state, wait = "forced open", 0
	case errors.Is(cause, gobreaker.ErrTooManyRequests):
		// The trial decides, and it ends at its time-out at the latest.
		state, wait = "half-open", l.timeout
	}
	err := errs.Errorf(errs.Unavailable, "calling %s: the circuit is %s: %s", c.name, state, why).
		Because(ReasonOpen, "circuit", c.name, "state", state)
	if wait > 0 {
		err = err.RetryIn(wait)
	}
	c.failed(ctx, evShortCircuited, err)
	c.logChange()
	return err
}

// explain puts into the span of ctx what the circuit is to the call that comes. It costs a look-up where nothing is recorded.
func (c *circuit) explain(ctx context.Context, l *limits) {
	span := trace.SpanFromContext(ctx)
	if !span.IsRecording() {
		return
	}
	state := l.mode.String()
	if l.mode == modeBreaker {
		state = c.breaker.Load().State().String()
	}
	span.SetAttributes(
		attribute.String("bijou.circuit.name", c.name),
		attribute.String("bijou.circuit.state", state),
		attribute.Int64("bijou.circuit.concurrent", c.concurrent.Load()),
		attribute.Int64("bijou.circuit.limit", l.concurrent),
	)
	c.window.mu.Lock()
	why := c.window.why
	c.window.mu.Unlock()
	if why != "" {
		span.SetAttributes(attribute.String("bijou.circuit.reason", why))
	}
}

// full counts a call that the bulkhead refuses.
func (c *circuit) full(ctx context.Context, l *limits) error {
	c.window.count(time.Since(c.base), evSemaphoreRejected)
	err := errs.Errorf(errs.Exhausted, "calling %s: %d calls are running, which is the limit", c.name, l.concurrent).
		Because(ReasonFull, "circuit", c.name, "limit", strconv.FormatInt(l.concurrent, 10))
	c.failed(ctx, evSemaphoreRejected, err)
	return err
}

// state asks the breaker, so it must not be called under the window's lock.
func (c *circuit) state(l *limits) circuitsv1.State {
	switch l.mode {
	case modeForcedOpen:
		return circuitsv1.State_STATE_FORCED_OPEN
	case modeForcedClosed:
		return circuitsv1.State_STATE_FORCED_CLOSED
	case modeDisabled:
		return circuitsv1.State_STATE_CLOSED
	}
	switch c.breaker.Load().State() {
	case gobreaker.StateOpen:
		return circuitsv1.State_STATE_OPEN
	case gobreaker.StateHalfOpen:
		return circuitsv1.State_STATE_HALF_OPEN
	}
	return circuitsv1.State_STATE_CLOSED
}

// percentiles are those of hystrix.stream.
var percentiles = map[string]float64{
	"0": 0, "25": 25, "50": 50, "75": 75, "90": 90, "95": 95, "99": 99, "99.5": 99.5, "100": 100,
}

func (c *circuit) snapshot() *circuitsv1.Snapshot {
	l := c.limits.Load()
	state := c.state(l)
	c.logChange()

	w := &c.window
	w.mu.Lock()
	defer w.mu.Unlock()
	now := time.Since(c.base)
	s, lat := w.sumLocked(now), w.latenciesLocked(now)
	running := c.concurrent.Load()
	snap := &circuitsv1.Snapshot{
		Name: c.name, Group: c.key.Group, State: state, Reason: w.why, Since: timestamppb.New(w.since),
		Rolling:  map[string]int64{},
		Requests: s.requests, Errors: s.errors,
		Concurrent: int32(running), MaxConcurrent: int32(max(running, s.maxConcurrent)),
		LatencyMeanMs: milliseconds(lat.mean()), LatencyMs: map[string]float64{},
		Properties: c.handles.properties(), ReportingHosts: 1,
	}
	if s.requests > 0 {
		snap.ErrorPercentage = int32(s.errors * 100 / s.requests)
	}
	for ev, n := range s.n {
		if n > 0 {
			snap.Rolling[eventNames[ev]] = n
		}
	}
	if thrown := s.n[evBadRequest] + s.n[evFallbackFailure] + s.n[evFallbackRejection] + s.n[evFallbackMissing] + s.n[evFallbackDisabled]; thrown > 0 {
		snap.Rolling["EXCEPTION_THROWN"] = thrown
	}
	for name, p := range percentiles {
		snap.LatencyMs[name] = milliseconds(lat.percentile(p))
	}
	for i := range min(w.failures, maxExamples) {
		snap.ExampleTraces = append(snap.ExampleTraces, w.examples[i].String())
	}
	return snap
}

func milliseconds(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }
