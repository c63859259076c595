package circuit

import (
	"context"
	"errors"
	"math/rand/v2"
	"sync"
	"time"

	"bijou.dev/platform/config"
	"bijou.dev/platform/errs"
)

// Budget bounds the retries to one callee, so that an outage is not made worse by them: within the last ttl there may be
// ratio retries for each call, or floor retries a second where that is more. What was not used within the ttl is there for an
// instance that goes down with many calls in hand, so that an outage of one ttl or longer gets up to two ratios for each
// call, 1.2 attempts: see ADR 16. Share one Budget between all calls to a callee. Its settings are live:
//
//	retry.budget.ratio           0.1
//	retry.budget.floorPerSecond  1
//	retry.budget.ttl             10s
//	retry.maxAttempts            3     the first included; 1: no retries
//	retry.backoff.base           20ms  the wait before the first retry, doubled each time
//	retry.backoff.max            1s
//
// Make one with NewBudget.
type Budget struct {
	ratio              *config.Value[float64]
	floor, maxAttempts *config.Value[int64]
	ttl, base, maxWait *config.Value[time.Duration]
	started            time.Time
	mu                 sync.Mutex
	period             time.Duration // length of a bucket, a tenth of the ttl the counts were made under
	buckets            [budgetBuckets]budgetBucket
}

const budgetBuckets = 10

type budgetBucket struct{ epoch, calls, retries int64 }

// NewBudget returns a full budget with the settings of set. Nil: the defaults.
func NewBudget(set config.Set) *Budget {
	if set == nil {
		set = config.Static(nil)
	}
	return &Budget{
		ratio: config.Float(set, "retry.budget.ratio", 0.1, config.Spec{
			Doc: "How many retries there may be for each call.", Min: "0", Max: "1",
		}),
		floor: config.Int(set, "retry.budget.floorPerSecond", 1, config.Spec{
			Doc: "How many retries a second there may be in any case, for callers with few calls.", Min: "0", Max: "10000",
		}),
		ttl: config.Duration(set, "retry.budget.ttl", 10*time.Second, config.Spec{
			Doc: "For how long calls and retries are remembered.", Min: "1s", Max: "10m",
		}),
		maxAttempts: config.Int(set, "retry.maxAttempts", 3, config.Spec{
			Doc: "How often a call is tried at most, the first time included.", Min: "1", Max: "10",
		}),
		base: config.Duration(set, "retry.backoff.base", 20*time.Millisecond, config.Spec{
			Doc: "The wait before the first retry; it doubles each time, and half of it is random.", Min: "1ms", Max: "10s",
		}),
		maxWait: config.Duration(set, "retry.backoff.max", time.Second, config.Spec{
			Doc: "The longest wait before a retry that the callee did not ask for.", Min: "1ms", Max: "1m",
		}),
		started: time.Now(),
	}
}

// currentLocked returns the bucket for now. When the ttl has changed it forgets everything: the budget is full again.
func (b *Budget) currentLocked() *budgetBucket {
	if period := b.ttl.Get() / budgetBuckets; period != b.period {
		b.period, b.buckets = period, [budgetBuckets]budgetBucket{}
	}
	epoch := int64(time.Since(b.started) / b.period)
	bucket := &b.buckets[epoch%budgetBuckets]
	if bucket.epoch != epoch {
		*bucket = budgetBucket{epoch: epoch}
	}
	return bucket
}

func (b *Budget) deposit() {
	b.mu.Lock()
	b.currentLocked().calls++
	b.mu.Unlock()
}

// withdraw takes one retry out, if there is one.
func (b *Budget) withdraw() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	now := b.currentLocked()
	var calls, retries int64
	for _, bucket := range b.buckets {
		if bucket.epoch > now.epoch-budgetBuckets {
			calls += bucket.calls
			retries += bucket.retries
		}
	}
	allowed := max(b.ratio.Get()*float64(calls), float64(b.floor.Get())*b.ttl.Get().Seconds())
	if float64(retries+1) > allowed {
		return false
	}
	now.retries++
	return true
}

// backoff returns the wait before attempt n+1: exponential, half of it random.
func (b *Budget) backoff(n int) time.Duration {
	wait := min(b.base.Get()<<min(n-1, 16), b.maxWait.Get())
	return wait/2 + rand.N(wait/2+1)
}

// Policy says whether a call may be made again.
type Policy struct {
	// Budget pays for retries. Nil: there are none.
	Budget *Budget
	// Idempotent says that doing the call twice does no harm. If false, a call is made again only after an error with
	// ReasonNotSent, ReasonShed or ReasonMisdirected, which prove that the callee did not do it.
	Idempotent bool
}

// Retry calls attempt until it succeeds, its error is final, or policy, budget or deadline allow no other try. It returns
// the last error. N is 1 for the first attempt.
//
// Retried are errors of kind Unavailable, and of kind Exhausted if they say when to come back. The wait before a retry is
// the policy's back-off, part of which is random, after what the error asks for, so that callers who were asked for the same
// do not come back together; it is the back-off alone for ReasonShed. If the deadline of ctx would pass meanwhile, the error
// is returned at once. Rejections by a circuit are never retried. There is one layer of retries: an error that
// another Retry below gave up on is final.
func Retry(ctx context.Context, policy Policy, attempt func(ctx context.Context, n int) error) error {
	b := policy.Budget
	if b == nil {
		return attempt(ctx, 1)
	}
	b.deposit()
	for n := 1; ; n++ {
		err := attempt(ctx, n)
		if err == nil || !policy.mayRetry(err) {
			return err
		}
		wait := b.backoff(n)
		if errs.Reason(err) != ReasonShed { // that one is tried elsewhere
			wait += errs.RetryAfter(err)
		}
		if n >= int(b.maxAttempts.Get()) || !timeFor(ctx, wait) || !b.withdraw() || !sleep(ctx, wait) {
			return &givenUp{err}
		}
	}
}

func (p Policy) mayRetry(err error) bool {
	if Rejected(err) {
		return false
	}
	if GaveUp(err) {
		return false
	}
	reason := errs.Reason(err)
	if !p.Idempotent && reason != ReasonNotSent && reason != ReasonShed && reason != ReasonMisdirected {
		return false
	}
	switch errs.KindOf(err) {
	case errs.Unavailable:
		return true
	case errs.Exhausted:
		return reason == ReasonShed || errs.RetryAfter(err) > 0
	}
	return false
}

// Final returns err so that Retry does not try again after it, whatever its kind: the attempt knows that there is nothing
// left to try. Final(nil) is nil.
func Final(err error) error {
	if err == nil {
		return nil
	}
	return &givenUp{err}
}

// GaveUp reports whether err is one that Retry gave up on, so that the caller of whoever gets it need not try again either.
func GaveUp(err error) bool {
	_, ok := errors.AsType[*givenUp](err)
	return ok
}

// givenUp marks an error that was worth a retry and will not get another.
type givenUp struct{ error }

func (g *givenUp) Unwrap() error { return g.error }

// GivenUp is for errs.SetRetry.
func (g *givenUp) GivenUp() bool { return true }

func timeFor(ctx context.Context, wait time.Duration) bool {
	deadline, ok := ctx.Deadline()
	return ctx.Err() == nil && (!ok || time.Until(deadline) > wait)
}

// sleep reports whether it slept for all of d.
func sleep(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}
