// Package pace waits: for a duration that ends with a context, for a period that differs a little in each process, and
// between attempts that fail.
//
// Many processes that do the same work at the same period, or that lose the same server at the same moment, must not
// work in step. So each period goes through [Jitter] and each loop of attempts has a [Backoff].
//
// Why not github.com/cenkalti/backoff/v5: its ExponentialBackOff can exceed its MaxInterval by half and overflows to a
// negative wait near the longest duration, its zero value never waits, and it does not give the wait before the n-th
// attempt, which retries with settings that change need. The rest of it runs a function again until it succeeds; our
// loops run streams that end after hours, and jitter of plain periods is not in it.
package pace

import (
	"context"
	"math"
	"math/rand/v2"
	"time"
)

// What a [Backoff] without values uses.
const (
	defaultFirst = 100 * time.Millisecond
	defaultMax   = 10 * time.Second
)

// Sleep waits for d and reports whether ctx is still running. It returns early, with false, when ctx ends.
// If d is zero or negative it does not wait.
func Sleep(ctx context.Context, d time.Duration) bool {
	if d <= 0 {
		return ctx.Err() == nil
	}
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
	case <-ctx.Done():
	}
	return ctx.Err() == nil
}

// Jitter returns a random duration between d minus share and d plus share: for 10 s and 0.1, between 9 s and 11 s.
// share is between 0 and 1; what is outside is treated as the nearer end. If d is zero or negative, Jitter returns it
// unchanged.
func Jitter(d time.Duration, share float64) time.Duration {
	if d <= 0 || !(share > 0) {
		return d
	}
	span := d
	if share < 1 {
		span = time.Duration(share * float64(d))
	}
	return between(d-span, d+min(span, math.MaxInt64-d))
}

// between returns a random duration of low to high, both included. 0 <= low <= high.
func between(low, high time.Duration) time.Duration {
	return low + time.Duration(rand.N(uint64(high-low)+1)) //nolint:gosec // spreads load; both ends fit
}

// Backoff gives the waits between attempts that fail. Each is random between half and all of an interval, which begins
// with First and doubles up to Max. The zero value is ready. It is for one goroutine.
type Backoff struct {
	// First is the longest first wait. Zero or less: 100 ms.
	First time.Duration
	// Max is the longest wait. Zero or less: 10 s. If it is less than First, all waits are between half and all of Max.
	Max time.Duration

	failed int
}

// Wait waits for [Backoff.Next] and reports whether ctx is still running.
func (b *Backoff) Wait(ctx context.Context) bool { return Sleep(ctx, b.Next()) }

// Next returns how long to wait before the next attempt, and counts it: the wait after that is about twice as long, up
// to Max.
func (b *Backoff) Next() time.Duration {
	d := b.At(b.failed)
	b.failed++
	return d
}

// Reset is called after a success: the next wait is the first one again.
func (b *Backoff) Reset() { b.failed = 0 }

// At returns the wait after n waits, without counting it: At(0) is the first. It is for callers that count by
// themselves.
func (b Backoff) At(n int) time.Duration {
	first, longest := b.First, b.Max
	if first <= 0 {
		first = defaultFirst
	}
	if longest <= 0 {
		longest = defaultMax
	}
	d := longest
	if n = max(n, 0); first <= longest>>min(n, 63) {
		d = first << n
	}
	return between(d-d/2, d)
}
