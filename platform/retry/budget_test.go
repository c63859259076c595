package retry_test

import (
	"context"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"bijou.dev/platform/config"
	"bijou.dev/platform/retry"
)

// callAll starts rate failing calls a second for some seconds and returns how many attempts they made together.
func callAll(ctx context.Context, policy retry.Policy, rate, seconds int) int {
	var attempts atomic.Int64
	var all sync.WaitGroup
	for range rate * seconds {
		time.Sleep(time.Second / time.Duration(rate))
		all.Go(func() {
			_ = retry.Do(ctx, policy, func(context.Context, int) error { attempts.Add(1); return errDown })
		})
	}
	all.Wait()
	return int(attempts.Load())
}

// Every call of a minute fails. The retries stay within the budget, and use it.
func TestBudgetBoundsRetriesInAnOutage(t *testing.T) {
	const rate, seconds, calls = 200, 60, 200 * 60
	tests := []struct {
		name         string
		settings     []string
		wantAttempts float64 // at most
	}{
		{"default", nil, calls * 1.1},
		{"twice the ratio", []string{"retry.budget.ratio", "0.2"}, calls * 1.2},
		{"a high floor", []string{"retry.budget.floorPerSecond", "100"}, calls + 100*(seconds+1)},
		{"off", []string{"retry.budget.ratio", "0", "retry.budget.floorPerSecond", "0"}, calls},
		{"one attempt", []string{"retry.maxAttempts", "1"}, calls},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				got := float64(callAll(t.Context(), idempotent(tt.settings...), rate, seconds))
				if got > tt.wantAttempts || got < tt.wantAttempts*0.95 {
					t.Errorf("%d calls made %.0f attempts, want at most %.0f and at least 95 %% of that",
						calls, got, tt.wantAttempts)
				}
			})
		})
	}
}

// A caller with a call now and then has its retry, although a tenth of one call is none.
func TestFloorIsForCallersWithFewCalls(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		policy := idempotent("retry.maxAttempts", "2")
		for range 5 {
			if got := callAll(t.Context(), policy, 1, 1); got != 2 {
				t.Fatalf("a lone call made %d attempts, want 2", got)
			}
			time.Sleep(time.Second)
		}
	})
}

// Changing how long the budget remembers does not forget the retries that were made.
func TestChangedTTLKeepsTheCounts(t *testing.T) {
	for ttl, wantRetries := range map[string]int{
		"5s":  0,   // 50 retries may be made within 5s, and 100 were
		"20s": 100, // 200 retries may be made within 20s
	} {
		t.Run(ttl, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				cfg := config.Static(map[string]string{
					"retry.budget.ratio": "0", "retry.budget.floorPerSecond": "10", "retry.maxAttempts": "2",
				})
				policy := retry.Policy{Budget: retry.NewBudget(cfg), Idempotent: true}
				if got := callAll(t.Context(), policy, 1000, 1) - 1000; got != 100 {
					t.Fatalf("made %d retries, want the 100 that 10s allow", got)
				}
				if err := cfg.Put("retry.budget.ttl", ttl); err != nil {
					t.Fatal(err)
				}
				if got := callAll(t.Context(), policy, 1000, 1) - 1000; got != wantRetries {
					t.Errorf("made %d more retries after the change, want %d", got, wantRetries)
				}
			})
		})
	}
}

// What is taken outside Do leaves less for Do, and the other way round.
func TestRetriesOutsideDoTakeFromTheBudget(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		policy := idempotent("retry.budget.ratio", "0", "retry.budget.floorPerSecond", "1", "retry.budget.ttl", "3s",
			"retry.maxAttempts", "2")
		if got := policy.Budget.MaxAttempts(); got != 2 {
			t.Errorf("MaxAttempts is %d, want 2", got)
		}
		attempts := 0
		call := func() {
			_ = retry.Do(t.Context(), policy, func(context.Context, int) error { attempts++; return errDown })
		}
		first, second := policy.Budget.TakeRetry(), policy.Budget.TakeRetry()
		call()
		if !first || !second || attempts != 2 {
			t.Errorf("took %t, %t and made %d attempts, want both and a retry", first, second, attempts)
		}
		if call(); policy.Budget.TakeRetry() || attempts != 3 {
			t.Errorf("after 3 retries in 3s there was another one, or %d attempts, want 3", attempts)
		}
		time.Sleep(4 * time.Second)
		if !policy.Budget.TakeRetry() {
			t.Error("after the time of the budget nothing could be taken")
		}
	})
}
