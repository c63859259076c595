// Package retry makes a failed call again where that is safe and where it helps.
//
//	budget := retry.NewBudget(settings) // one for each callee
//	err := retry.Do(ctx, retry.Policy{Budget: budget, Idempotent: true}, func(ctx context.Context, n int) error {
//		return get(ctx)
//	})
//
// A retry helps against a failure of one instance. It harms when a callee is overloaded, because it adds load. So a
// [Budget] bounds the retries to each callee, and there is one layer of retries: an error that a retry below gave up on
// is not retried above, in this process or in one that receives it (see [GaveUp]).
package retry

import (
	"context"
	"errors"
	"time"

	"bijou.dev/platform/circuit"
	"bijou.dev/platform/errs"
	"bijou.dev/platform/pace"
)

// Reasons of errors after which even a call that is not idempotent may be made again, because the callee did not do it.
// [circuit.ReasonShed] is another one.
const (
	// ReasonNotSent marks a failure that proves that the callee never got the request. The sender sets it, such as
	// platform/rpc.
	ReasonNotSent = "NOT_SENT"
	// ReasonMisdirected marks a call that an instance of another service refused unread, because it now has an address
	// that was the callee's. The kind of the error is Unavailable.
	ReasonMisdirected = "MISDIRECTED"
)

// Policy says whether a call may be made again.
type Policy struct {
	// Budget bounds the retries. Nil: there are none.
	Budget *Budget
	// Idempotent says that doing the call twice does no harm. If false, a call is made again only after an error with
	// ReasonNotSent, ReasonMisdirected or circuit.ReasonShed.
	Idempotent bool
}

// Do calls attempt until it succeeds, or its error is final, or policy, budget or the deadline of ctx allow no further
// attempt. It returns nil or the last error. The number of the attempt, n, is 1 for the first one.
//
// Errors of kind Unavailable are retried, and those of kind Exhausted if they say how long to wait or are shed. A call
// that a circuit of this process rejected is not. Before each retry Do waits for the time that the error asks for plus
// the back-off of the budget; after circuit.ReasonShed for the back-off only, because another instance is tried. If
// the deadline would pass during the wait, Do returns the error at once.
func Do(ctx context.Context, policy Policy, attempt func(ctx context.Context, n int) error) error {
	b := policy.Budget
	if b == nil {
		return attempt(ctx, 1)
	}
	b.countCall()
	for n := 1; ; n++ {
		err := attempt(ctx, n)
		if err == nil || !policy.mayRetry(err) {
			return err
		}
		wait := b.backoff(n)
		if errs.Reason(err) != circuit.ReasonShed {
			wait += errs.RetryAfter(err)
		}
		if n >= b.MaxAttempts() || !timeFor(ctx, wait) || !b.takeRetry() || !pace.Sleep(ctx, wait) {
			return &givenUp{err}
		}
	}
}

// mayRetry reports whether another attempt after err is safe and may help.
func (p Policy) mayRetry(err error) bool {
	if circuit.Rejected(err) || GaveUp(err) {
		return false
	}
	reason := errs.Reason(err)
	switch reason {
	case ReasonNotSent, ReasonMisdirected, circuit.ReasonShed: // safe for every call
	default:
		if !p.Idempotent {
			return false
		}
	}
	switch errs.KindOf(err) {
	case errs.Unavailable:
		return true
	case errs.Exhausted:
		return reason == circuit.ReasonShed || errs.RetryAfter(err) > 0
	}
	return false
}

// Final marks err so that Do makes no further attempt after it, whatever its kind. An attempt returns it when it knows
// that no other attempt can help. Final(nil) is nil.
func Final(err error) error {
	if err == nil {
		return nil
	}
	return &givenUp{err}
}

// GaveUp reports whether Do returned err although it was worth a retry, or Final marked it. A caller that gets such an
// error should not retry either.
func GaveUp(err error) bool {
	_, ok := errors.AsType[*givenUp](err)
	return ok
}

// givenUp marks an error that gets no further attempt.
type givenUp struct{ error }

func (g *givenUp) Unwrap() error { return g.error }

// GivenUp makes errs.SetRetry send the mark to the caller.
func (g *givenUp) GivenUp() bool { return true }

// timeFor reports whether ctx lasts longer than wait.
func timeFor(ctx context.Context, wait time.Duration) bool {
	deadline, ok := ctx.Deadline()
	return ctx.Err() == nil && (!ok || time.Until(deadline) > wait)
}
