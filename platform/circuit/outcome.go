package circuit

import (
	"context"
	"errors"

	"bijou.dev/platform/errs"
)

// Reasons of the errors that circuits make. Their metadata has "circuit" and "state".
const (
	// ReasonOpen marks a call refused by an open, half-open or forced open circuit. Its kind is Unavailable.
	ReasonOpen = "CIRCUIT_OPEN"
	// ReasonFull marks a call refused because too many run already. Its kind is Exhausted.
	ReasonFull = "CIRCUIT_FULL"
	// ReasonTimeout marks a call that the circuit canceled after its time-out. Its kind is Timeout.
	ReasonTimeout = "CIRCUIT_TIMEOUT"
	// ReasonShed marks a call that the callee refused unread because it has too much to do. Its kind is Exhausted. Another
	// instance may have less to do, and trying it is safe for every call. It is no sign of a callee that is broken: if it
	// opened the circuit, the important calls would be refused with the unimportant ones.
	ReasonShed = "SHED"
)

// Rejected reports whether a circuit of this process refused the call, so that it was not made. Time-outs are not
// rejections, nor are rejections that happened in a callee.
func Rejected(err error) bool {
	if err == nil || errs.Wire(err) {
		return false
	}
	reason := errs.Reason(err)
	return reason == ReasonOpen || reason == ReasonFull
}

// events says what each kind of error counts as.
var events = map[errs.Kind]event{
	errs.Internal:        evFailure,
	errs.Unavailable:     evFailure,
	errs.Exhausted:       evFailure,
	errs.Unimplemented:   evFailure, // not the caller's input, and a fallback helps while a new method is being rolled out
	errs.Timeout:         evTimeout,
	errs.Canceled:        evCanceled,
	errs.Invalid:         evBadRequest,
	errs.NotFound:        evBadRequest,
	errs.Exists:          evBadRequest,
	errs.Conflict:        evBadRequest,
	errs.Precondition:    evBadRequest,
	errs.Unauthenticated: evBadRequest,
	errs.Denied:          evBadRequest,
}

// eventOf classifies what a call returned under the caller's context.
func eventOf(caller context.Context, err error) event {
	if err == nil {
		return evSuccess
	}
	switch end := caller.Err(); {
	case errors.Is(end, context.Canceled):
		return evCanceled // whatever the call says, it was stopped before it could be judged
	case errors.Is(end, context.DeadlineExceeded):
		return evTimeout
	}
	if errs.Reason(err) == ReasonShed {
		return evShed
	}
	return events[errs.KindOf(err)]
}

// badRequest reports whether err is the caller's own doing, for which there is no fallback and no other try.
func badRequest(err error) bool {
	ev := events[errs.KindOf(err)]
	return ev == evBadRequest || ev == evCanceled
}

// verdictOf returns what the breaker gets to know about a call. A request that is the caller's fault is a success: the
// callee answered.
func verdictOf(ev event, slow bool) error {
	switch {
	case ev == evFailure, ev == evTimeout, slow:
		return errFailed
	case ev == evCanceled, ev == evShed:
		return errNoVerdict
	}
	return nil
}
