package retry

import (
	"sync"
	"time"

	"bijou.dev/platform/config"
	"bijou.dev/platform/pace"
)

// Budget bounds the retries of this process to one callee, so that retries cannot make an outage much worse. Share one
// Budget between all calls to a callee. Make one with [NewBudget].
//
// The budget remembers calls and retries for the time of retry.budget.ttl. Within that time there may be
// retry.budget.ratio retries for each call, or retry.budget.floorPerSecond retries a second where that is more. A
// callee that fails suddenly can use what was saved before the failure and what comes after it, so the first ttl of an
// outage sees up to two ratios for each call: 1.2 attempts by default (see ADR 16).
//
// The settings are live:
//
//	retry.budget.ratio           0.1
//	retry.budget.floorPerSecond  1
//	retry.budget.ttl             10s
//	retry.maxAttempts            3     the first attempt included; 1: no retries
//	retry.backoff.base           20ms  the wait before the first retry, doubled for each further one
//	retry.backoff.max            1s
//
// A changed ttl keeps what was counted: it counts as of the moment of the change.
type Budget struct {
	ratio              *config.Value[float64]
	floor, maxAttempts *config.Value[int64]
	ttl, base, maxWait *config.Value[time.Duration]
	started            time.Time

	mu      sync.Mutex
	period  time.Duration // length of one bucket: a tenth of the ttl
	buckets [budgetBuckets]bucket
}

const budgetBuckets = 10

// bucket counts one period; epoch is the period's number since the budget was made.
type bucket struct{ epoch, calls, retries int64 }

// NewBudget returns a budget without calls and retries, with the settings of set. Nil: the defaults.
func NewBudget(set config.Set) *Budget {
	if set == nil {
		set = config.Static(nil)
	}
	return &Budget{
		ratio: config.Float(set, "retry.budget.ratio", 0.1, config.Spec{
			Doc: "How many retries there may be for each call.", Min: "0", Max: "1",
		}),
		floor: config.Int(set, "retry.budget.floorPerSecond", 1, config.Spec{
			Doc: "How many retries a second are always allowed. It matters to callers with few calls.",
			Min: "0", Max: "10000",
		}),
		ttl: config.Duration(set, "retry.budget.ttl", 10*time.Second, config.Spec{
			Doc: "How long calls and retries are remembered.", Min: "1s", Max: "10m",
		}),
		maxAttempts: config.Int(set, "retry.maxAttempts", 3, config.Spec{
			Doc: "How many attempts a call has at most, the first one included.", Min: "1", Max: "10",
		}),
		base: config.Duration(set, "retry.backoff.base", 20*time.Millisecond, config.Spec{
			Doc: "The wait before the first retry. It doubles for each further retry; half of each wait is random.",
			Min: "1ms", Max: "10s",
		}),
		maxWait: config.Duration(set, "retry.backoff.max", time.Second, config.Spec{
			Doc: "The longest wait before a retry. A wait that the callee asks for is added to it.",
			Min: "1ms", Max: "1m",
		}),
		started: time.Now(),
	}
}

// currentLocked returns the bucket for now, emptied if it held an older period.
func (b *Budget) currentLocked() *bucket {
	if period := b.ttl.Get() / budgetBuckets; period != b.period {
		b.changePeriodLocked(period)
	}
	epoch := b.epochLocked()
	current := &b.buckets[epoch%budgetBuckets]
	if current.epoch != epoch {
		*current = bucket{epoch: epoch}
	}
	return current
}

func (b *Budget) epochLocked() int64 { return int64(time.Since(b.started) / b.period) }

// changePeriodLocked moves the counts of all buckets into one bucket of the new length.
func (b *Budget) changePeriodLocked(period time.Duration) {
	var calls, retries int64
	if b.period > 0 {
		calls, retries = b.sumLocked(b.epochLocked())
	}
	b.period, b.buckets = period, [budgetBuckets]bucket{}
	epoch := b.epochLocked()
	b.buckets[epoch%budgetBuckets] = bucket{epoch, calls, retries}
}

// sumLocked adds up the buckets that are not older than the ttl in the period epoch.
func (b *Budget) sumLocked(epoch int64) (calls, retries int64) {
	for _, bucket := range b.buckets {
		if bucket.epoch > epoch-budgetBuckets {
			calls += bucket.calls
			retries += bucket.retries
		}
	}
	return calls, retries
}

// countCall makes one more call part of the budget.
func (b *Budget) countCall() {
	b.mu.Lock()
	b.currentLocked().calls++
	b.mu.Unlock()
}

// takeRetry counts a retry and returns true, or returns false if the budget is used up.
func (b *Budget) takeRetry() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	current := b.currentLocked()
	calls, retries := b.sumLocked(current.epoch)
	allowed := max(b.ratio.Get()*float64(calls), float64(b.floor.Get())*b.ttl.Get().Seconds())
	if float64(retries+1) > allowed {
		return false
	}
	current.retries++
	return true
}

// TakeRetry counts a retry that is made outside [Do], such as a hedge: a second attempt beside the first one. False:
// the budget is used up, and there must be no further attempt.
func (b *Budget) TakeRetry() bool { return b.takeRetry() }

// MaxAttempts is how many attempts a call has at most.
func (b *Budget) MaxAttempts() int { return int(b.maxAttempts.Get()) }

// backoff returns the wait before attempt n+1. Half of it is random, so that callers that failed together do not retry
// together.
func (b *Budget) backoff(n int) time.Duration {
	return pace.Backoff{First: b.base.Get(), Max: b.maxWait.Get()}.At(n - 1)
}
