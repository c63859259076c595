package circuit

import (
	"context"
	"errors"

	"bijou.dev/platform/errs"
)

// Reasons of the errors that circuits make. Their metadata has "circuit" and "state".
const (
	// ReasonOpen marks a call rejected by an open, half-open or forced open circuit. Its kind is Unavailable.
	ReasonOpen = "CIRCUIT_OPEN"
	// ReasonFull marks a call rejected because too many are running. Its kind is Exhausted.
	ReasonFull = "CIRCUIT_FULL"
	// ReasonTimeout marks a call that the circuit canceled after its time-out. Its kind is Timeout.
	ReasonTimeout = "CIRCUIT_TIMEOUT"
	// ReasonShed marks a call that an overloaded callee refused unread. Its kind is Exhausted. Calling another
	// instance is safe for every call and may succeed. It does not count as a failure: an open circuit would reject
	// the important calls with the unimportant ones.
	ReasonShed = "SHED"
	// ReasonIsolated marks a failure that the callee answered with, and that says nothing about its other answers: one
	// URL of a site that fails. It is a failure in the load and the streams, and a success for the breaker.
	ReasonIsolated = "ISOLATED"
)

// Rejected reports whether a circuit of this process rejected the call, so that it was not made. A time-out is not a
// rejection, nor is an error that says that a circuit of the callee rejected a call.
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
	errs.Unimplemented:   evFailure, // the callee may be an older version; a fallback helps until it is replaced
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
		return evCanceled // the call was stopped, so its own error says nothing about the callee
	case errors.Is(end, context.DeadlineExceeded):
		return evTimeout
	}
	switch errs.Reason(err) {
	case ReasonShed:
		return evShed
	case ReasonIsolated:
		return evIsolatedFailure
	}
	return events[errs.KindOf(err)]
}

// badRequest reports whether err is the caller's fault, so that a fallback would be wrong.
func badRequest(err error) bool {
	ev := events[errs.KindOf(err)]
	return ev == evBadRequest || ev == evCanceled
}

// verdictOf returns what the breaker gets to know about a call. A request that is the caller's fault is a success, and
// so is a failure of one request alone: the callee answered.
func verdictOf(ev event, slow bool) error {
	switch {
	case ev == evFailure, ev == evTimeout, slow:
		return errFailed
	case ev == evCanceled, ev == evShed:
		return errNoVerdict
	}
	return nil
}
