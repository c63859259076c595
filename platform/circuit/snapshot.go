package circuit

import (
	"time"

	circuitsv1 "bijou.dev/platform/api/circuits/v1"
	"bijou.dev/platform/load"

	"github.com/sony/gobreaker/v2"
	"google.golang.org/protobuf/types/known/timestamppb"
)

// snapshot returns the circuit as it is at one moment: state, counts and latencies are read under one lock.
func (c *circuit) snapshot() *circuitsv1.Snapshot {
	snap := &circuitsv1.Snapshot{
		Name: c.name, Group: c.key.Group, ReportingHosts: 1,
		Rolling: map[string]int64{},
	}
	l, events, measured := c.fill(snap)
	snap.Properties = l.properties()
	snap.Load = measured.Proto()
	for ev, n := range events {
		if n > 0 {
			snap.Rolling[eventNames[ev]] = int64(n)
		}
	}
	thrown := events[evBadRequest] + events[evFallbackFailure] + events[evFallbackRejection] +
		events[evFallbackMissing] + events[evFallbackDisabled]
	if thrown > 0 {
		snap.Rolling["EXCEPTION_THROWN"] = int64(thrown)
	}
	return snap
}

// fill is the part of snapshot that needs the lock.
func (c *circuit) fill(snap *circuitsv1.Snapshot) (l *limits, events [numEvents]uint64, measured load.Load) {
	c.mu.Lock()
	defer c.unlock()
	l = c.limits.Load()
	now := time.Since(c.base)
	snap.State, snap.Reason = c.shownLocked(l, now)
	snap.Since = timestamppb.New(c.since)
	h := c.window.health(now)
	snap.Requests, snap.Errors, snap.ErrorPercentage = h.calls, h.failed, int32(h.percent())
	events, maxConcurrent := c.window.rolling(now)
	snap.Concurrent, snap.MaxConcurrent = int32(c.running), int32(max(c.running, maxConcurrent))
	for i := range min(c.window.failures, maxExamples) {
		snap.ExampleTraces = append(snap.ExampleTraces, c.window.examples[i].String())
	}
	return l, events, c.window.load(now)
}

// shownLocked returns the state that operators see, and why it is not closed.
func (c *circuit) shownLocked(l *limits, now time.Duration) (circuitsv1.State, string) {
	switch mode := l.mode(); mode {
	case modeForcedOpen:
		return circuitsv1.State_STATE_FORCED_OPEN, mode.reason()
	case modeForcedClosed:
		return circuitsv1.State_STATE_FORCED_CLOSED, mode.reason()
	case modeDisabled:
		return circuitsv1.State_STATE_CLOSED, ""
	}
	switch c.stateLocked(l, now) {
	case gobreaker.StateOpen:
		return circuitsv1.State_STATE_OPEN, c.why
	case gobreaker.StateHalfOpen:
		return circuitsv1.State_STATE_HALF_OPEN, c.why
	}
	return circuitsv1.State_STATE_CLOSED, ""
}
