package pace_test

import (
	"context"
	"math"
	"testing"
	"testing/synctest"
	"time"

	"bijou.dev/platform/pace"
)

func TestSleepWaitsForItsDuration(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		begin := time.Now()
		if !pace.Sleep(t.Context(), time.Hour) {
			t.Error("Sleep returned false although its context is running")
		}
		if got := time.Since(begin); got != time.Hour {
			t.Errorf("Sleep(1h) returned after %v", got)
		}
	})
}

func TestSleepEndsWithItsContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		begin := time.Now()
		if pace.Sleep(ctx, time.Hour) {
			t.Error("Sleep returned true although its context ended first")
		}
		if got := time.Since(begin); got != time.Second {
			t.Errorf("Sleep returned %v after its start, its context ended after 1s", got)
		}
	})
}

func TestSleepOfNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		begin := time.Now()
		ended, cancel := context.WithCancel(t.Context())
		cancel()
		for _, d := range []time.Duration{0, -time.Hour, math.MinInt64} {
			if !pace.Sleep(t.Context(), d) {
				t.Errorf("Sleep(%v) returned false although its context is running", d)
			}
			if pace.Sleep(ended, d) {
				t.Errorf("Sleep(%v) returned true although its context has ended", d)
			}
		}
		if got := time.Since(begin); got != 0 {
			t.Errorf("Sleep of zero and negative durations took %v", got)
		}
	})
}

func TestJitterIsSpreadOverItsWholeRange(t *testing.T) {
	assertSpread(t, 9*time.Second, 11*time.Second, func() time.Duration { return pace.Jitter(10*time.Second, 0.1) })
	assertSpread(t, 0, 2*time.Second, func() time.Duration { return pace.Jitter(time.Second, 1) })
	assertSpread(t, 0, 2*time.Second, func() time.Duration { return pace.Jitter(time.Second, 7) })
}

func TestJitterOfExtremes(t *testing.T) {
	for _, tt := range []struct {
		d         time.Duration
		share     float64
		low, high time.Duration
		why       string
	}{
		{0, 0.5, 0, 0, "zero stays zero"},
		{-time.Second, 0.5, -time.Second, -time.Second, "a negative duration is unchanged"},
		{time.Second, 0, time.Second, time.Second, "share 0 is no jitter"},
		{time.Second, -1, time.Second, time.Second, "a negative share is 0"},
		{time.Second, math.NaN(), time.Second, time.Second, "no number is 0"},
		{1, 1, 0, 2, "one nanosecond"},
		{math.MaxInt64, 1, 0, math.MaxInt64, "the longest duration does not overflow"},
		{math.MaxInt64 - 1, 0.999, 0, math.MaxInt64, "nearly the longest duration does not overflow"},
	} {
		for range 100 {
			if got := pace.Jitter(tt.d, tt.share); got < tt.low || got > tt.high {
				t.Fatalf("Jitter(%v, %v) = %v, want %v to %v: %s", tt.d, tt.share, got, tt.low, tt.high, tt.why)
			}
		}
	}
}

func TestBackoffDoublesUpToMaxAndIsSpread(t *testing.T) {
	b := pace.Backoff{First: 100 * time.Millisecond, Max: time.Second}
	for n, ms := range []int{100, 200, 400, 800, 1000, 1000} {
		high := time.Duration(ms) * time.Millisecond
		assertSpread(t, high/2, high, func() time.Duration { return b.At(n) })
	}
}

func TestBackoffNextGrowsUntilReset(t *testing.T) {
	b := pace.Backoff{First: time.Second, Max: 16 * time.Second}
	for range 2 {
		for n, seconds := range []int{1, 2, 4, 8, 16, 16, 16} {
			high := time.Duration(seconds) * time.Second
			if got := b.Next(); got < high/2 || got > high {
				t.Errorf("wait %d is %v, want %v to %v", n+1, got, high/2, high)
			}
		}
		b.Reset()
	}
}

func TestBackoffWaitSleeps(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := pace.Backoff{First: time.Minute, Max: time.Hour}
		begin := time.Now()
		for range 2 {
			if !b.Wait(t.Context()) {
				t.Error("Wait returned false although its context is running")
			}
		}
		if got := time.Since(begin); got < 90*time.Second || got > 3*time.Minute {
			t.Errorf("two waits took %v, want 30s to 1m and 1m to 2m", got)
		}
		ended, cancel := context.WithCancel(t.Context())
		cancel()
		if b.Wait(ended) {
			t.Error("Wait returned true although its context has ended")
		}
	})
}

// A loop without a wait would keep a processor busy, and an overflow is a negative wait.
func TestBackoffOfExtremesWaits(t *testing.T) {
	for _, b := range []pace.Backoff{
		{},
		{First: -1, Max: -1},
		{First: math.MaxInt64, Max: math.MaxInt64},
		{First: time.Hour, Max: time.Second},
		{First: 100 * time.Millisecond, Max: math.MaxInt64},
	} {
		longest := b.Max
		if longest <= 0 {
			longest = 10 * time.Second
		}
		for _, n := range []int{math.MinInt, -1, 0, 1, 36, 37, 62, 63, 64, math.MaxInt} {
			if got := b.At(n); got < 50*time.Millisecond || got > longest {
				t.Errorf("%+v.At(%d) = %v, want 50ms to %v", b, n, got, longest)
			}
		}
	}
}

// assertSpread checks that a random duration stays between low and high and comes from each quarter between them about
// equally often, which a fixed duration does not.
func assertSpread(t *testing.T, low, high time.Duration, random func() time.Duration) {
	t.Helper()
	const draws = 4000
	var quarters [4]int
	for range draws {
		d := random()
		if d < low || d > high {
			t.Fatalf("got %v, want %v to %v", d, low, high)
		}
		quarters[min(3, 4*(d-low)/(high-low))]++
	}
	for q, n := range quarters {
		if n < draws/8 {
			t.Errorf("%d of %d durations between %v and %v are in quarter %d of that range, want about %d",
				n, draws, low, high, q+1, draws/4)
		}
	}
}
