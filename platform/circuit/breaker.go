package circuit

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strconv"
	"time"

	"bijou.dev/platform/errs"
	"bijou.dev/platform/load"

	"github.com/sony/gobreaker/v2"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/trace"
)

// change is one change of state, for the log.
type change struct{ from, to, why string }

// Verdicts are what the breaker gets to know about a call. Nil is a success.
var (
	errFailed    = errors.New("failed")
	errNoVerdict = errors.New("says nothing about the callee")
)

// newBreaker returns the state machine. It counts nothing that matters: whether a closed circuit opens, it asks our
// window. Its own time-out is as short as possible, so that it becomes half-open as soon as it is asked when it is
// open. It is asked when the time of the live setting has passed, see stateLocked.
//
// The breaker is only used under c.mu, also by its callbacks.
func (c *circuit) newBreaker() *gobreaker.TwoStepCircuitBreaker[struct{}] {
	return gobreaker.NewTwoStepCircuitBreaker[struct{}](gobreaker.Settings{
		Name:          c.name,
		MaxRequests:   1,
		Timeout:       1,
		ReadyToTrip:   func(gobreaker.Counts) bool { return c.mustOpenLocked() },
		OnStateChange: func(_ string, from, to gobreaker.State) { c.changeStateLocked(from, to) },
		IsExcluded:    func(verdict error) bool { return errors.Is(verdict, errNoVerdict) },
	})
}

// stateLocked returns the state, which becomes half-open here when an open circuit has waited long enough.
func (c *circuit) stateLocked(l *limits, now time.Duration) gobreaker.State {
	if c.state == gobreaker.StateOpen && now >= c.openedAt+l.openFor {
		c.breaker.State() // makes it half-open
	}
	return c.state
}

// failLocked gives a failure in a closed circuit to the breaker, which opens if mustOpenLocked says so. Successes need
// not be given: they cannot open it.
func (c *circuit) failLocked() {
	if report, err := c.breaker.Allow(); err == nil {
		report(errFailed)
	}
}

// mustOpenLocked reports whether the calls of the window open a closed circuit.
func (c *circuit) mustOpenLocked() bool {
	l, h := c.limits.Load(), c.window.health(time.Since(c.base))
	return h.calls >= l.minCalls && h.failed*100 >= h.calls*l.errorPercent
}

// changeStateLocked follows the breaker and records why it is in its new state.
func (c *circuit) changeStateLocked(from, to gobreaker.State) {
	now := time.Since(c.base)
	c.state = to
	c.generation++
	switch {
	case to == gobreaker.StateClosed:
		c.why = ""
		c.healthFrom = c.generation
		c.window.resetHealth()
	case to == gobreaker.StateHalfOpen: // the reason is still why it opened
	case from == gobreaker.StateHalfOpen:
		c.openedAt, c.why = now, "the trial call failed"+lastError(c.window.lastErr)
	default:
		c.openedAt, c.why = now, c.whyOpenLocked(now)+lastError(c.window.lastErr)
	}
	c.changedLocked(from.String(), to.String(), c.why)
}

func (c *circuit) changedLocked(from, to, why string) {
	c.since = time.Now()
	c.changes = append(c.changes, change{from, to, why})
}

func (c *circuit) whyOpenLocked(now time.Duration) string {
	l, h := c.limits.Load(), c.window.health(now)
	why := fmt.Sprintf("%d of %d calls failed within %v (%d %%, threshold %d %%)",
		h.failed, h.calls, load.Window, h.percent(), l.errorPercent)
	if h.timedOut > 0 {
		why += fmt.Sprintf(", %d timed out", h.timedOut)
	}
	if h.slow > 0 {
		why += fmt.Sprintf(", %d took longer than %v", h.slow, l.slowCall)
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

// apply puts changed settings in force. State and counts stay as they are.
func (c *circuit) apply() {
	c.mu.Lock()
	defer c.unlock()
	old, now := c.limits.Load(), c.handles.limits()
	if *old == *now {
		return
	}
	c.limits.Store(now)
	if from, to := old.mode(), now.mode(); from != to {
		c.changedLocked(from.String(), to.String(), to.reason())
	}
}

func (c *circuit) logChange(ch change) {
	level := slog.LevelInfo
	if ch.to == gobreaker.StateOpen.String() || ch.to == modeForcedOpen.String() {
		level = slog.LevelWarn
	}
	c.log.Log(context.Background(), level, "circuit changed",
		"circuit", c.name, "from", ch.from, "to", ch.to, "reason", ch.why)
}

// failed records why a call without a result failed, and lets the Fallback around it know, or counts that there is
// none. Answers that are the caller's fault and canceled calls need no fallback.
func (c *circuit) failed(ctx context.Context, ev event, err error) {
	if ev == evBadRequest || ev == evCanceled {
		return
	}
	rec := recordOf(ctx)
	if rec != nil {
		rec.failed.Store(c)
	}
	example := trace.SpanContextFromContext(ctx).TraceID()

	c.mu.Lock()
	defer c.unlock()
	if rec == nil {
		c.window.count(time.Since(c.base), evFallbackMissing)
	}
	if ev == evShortCircuited {
		return // it would hide the failures that opened the circuit
	}
	c.window.exampleOf(example)
	if ev != evSemaphoreRejected && err != nil {
		c.window.lastErr = err
	}
}

func (c *circuit) timedOut(l *limits, err error) error {
	return errs.Errorf(errs.Timeout, "calling %s: no answer within %v: %w", c.name, l.timeout, err).
		Because(ReasonTimeout, "circuit", c.name, "timeout", l.timeout.String())
}

// rejection returns the error of a call that was not let through.
func (c *circuit) rejection(l *limits, r *rejected) error {
	if r.event == evSemaphoreRejected {
		err := errs.Errorf(errs.Exhausted, "calling %s: %d calls are running, which is the limit",
			c.name, l.maxConcurrent)
		return err.Because(ReasonFull, "circuit", c.name, "limit", strconv.FormatInt(l.maxConcurrent, 10))
	}
	err := errs.Errorf(errs.Unavailable, "calling %s: the circuit is %s: %s", c.name, r.state, r.why).
		Because(ReasonOpen, "circuit", c.name, "state", r.state)
	if r.wait > 0 {
		err = err.RetryIn(r.wait)
	}
	return err
}

// explain adds the state that a call met to its span. Where no span is recorded it costs one look-up.
func (c *circuit) explain(ctx context.Context, l *limits) {
	span := trace.SpanFromContext(ctx)
	if !span.IsRecording() {
		return
	}
	c.mu.Lock()
	state, why, running := l.mode().String(), l.mode().reason(), c.running
	if l.mode() == modeAutomatic {
		state, why = c.state.String(), c.why
	}
	c.unlock()
	attrs := append(make([]attribute.KeyValue, 0, 5),
		attribute.String("bijou.circuit.name", c.name),
		attribute.String("bijou.circuit.state", state),
		attribute.Int64("bijou.circuit.concurrent", running),
		attribute.Int64("bijou.circuit.limit", l.maxConcurrent),
	)
	if why != "" {
		attrs = append(attrs, attribute.String("bijou.circuit.reason", why))
	}
	span.SetAttributes(attrs...)
}
