package circuit_test

import (
	"context"
	"errors"
	"fmt"
	"net/http/httptest"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"bijou.dev/platform/circuit"
	"bijou.dev/platform/config"
	"bijou.dev/platform/errs"
)

func TestRetryOnlyWhereSafe(t *testing.T) {
	notSent := errs.Errorf(errs.Unavailable, "connection refused").Because(circuit.ReasonNotSent)
	tests := []struct {
		name       string
		err        error
		idempotent bool
		want       int32 // attempts
	}{
		{"unavailable", errDown, true, 3},
		{"unavailable, not idempotent", errDown, false, 1},
		{"not sent, not idempotent", notSent, false, 3},
		{"exhausted", errs.Errorf(errs.Exhausted, "shed"), true, 1},
		{"exhausted that says when", errs.Errorf(errs.Exhausted, "shed").RetryIn(time.Second), true, 3},
		{"internal", errs.Errorf(errs.Internal, "bug"), true, 1},
		{"timeout", context.DeadlineExceeded, true, 1},
		{"not found", errs.NotFound, true, 1},
		{"canceled", context.Canceled, true, 1},
		{"no kind", errors.New("what"), true, 1},
		{"said to be final", circuit.Final(errDown), true, 1},
		{"an open circuit below", errs.Errorf(errs.Unavailable, "open").Because(circuit.ReasonOpen), true, 1},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				attempts := int32(0)
				err := circuit.Retry(t.Context(), circuit.Policy{Budget: circuit.NewBudget(nil), Idempotent: tt.idempotent},
					func(_ context.Context, n int) error {
						attempts++
						if n != int(attempts) {
							t.Errorf("attempt %d is numbered %d", attempts, n)
						}
						return tt.err
					})
				if attempts != tt.want || !errors.Is(err, tt.err) {
					t.Errorf("%d attempts, want %d; error %v", attempts, tt.want, err)
				}
			})
		})
	}
}

func TestRetryStopsWhenItWorks(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		err := circuit.Retry(t.Context(), circuit.Policy{Budget: circuit.NewBudget(nil), Idempotent: true},
			func(_ context.Context, n int) error {
				if n < 2 {
					return errDown
				}
				return nil
			})
		if err != nil {
			t.Error(err)
		}
	})
}

func TestRetryWaits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var starts []time.Duration
		begin := time.Now()
		policy := circuit.Policy{Idempotent: true, Budget: circuit.NewBudget(config.Static(map[string]string{
			"retry.maxAttempts": "5", "retry.backoff.base": "100ms", "retry.backoff.max": "300ms",
		}))}
		_ = circuit.Retry(t.Context(), policy, func(_ context.Context, n int) error {
			starts = append(starts, time.Since(begin))
			if n == 4 {
				return errs.Errorf(errs.Unavailable, "draining").RetryIn(7 * time.Second)
			}
			return errDown
		})
		for i, bound := range []struct{ min, max time.Duration }{
			{50 * time.Millisecond, 100 * time.Millisecond},
			{100 * time.Millisecond, 200 * time.Millisecond},
			{150 * time.Millisecond, 300 * time.Millisecond}, // the longest wait
			// What the callee asked for, and not to the moment: it has asked others for the same.
			{7150 * time.Millisecond, 7300 * time.Millisecond},
		} {
			if wait := starts[i+1] - starts[i]; wait < bound.min || wait > bound.max {
				t.Errorf("wait before attempt %d was %v, want %v to %v", i+2, wait, bound.min, bound.max)
			}
		}
	})
}

func TestRetryKeepsTheDeadline(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		begin, attempts := time.Now(), 0
		err := circuit.Retry(ctx, circuit.Policy{Budget: circuit.NewBudget(nil), Idempotent: true},
			func(context.Context, int) error {
				attempts++
				return errs.Errorf(errs.Unavailable, "down").RetryIn(2 * time.Second)
			})
		if attempts != 1 || time.Since(begin) != 0 || !errors.Is(err, errs.Unavailable) {
			t.Errorf("%d attempts in %v, %v; want one and its error at once", attempts, time.Since(begin), err)
		}

		ctx, cancel = context.WithCancel(t.Context())
		time.AfterFunc(time.Second, cancel)
		begin = time.Now()
		err = circuit.Retry(ctx, circuit.Policy{Budget: circuit.NewBudget(nil), Idempotent: true},
			func(context.Context, int) error { return errs.Errorf(errs.Unavailable, "down").RetryIn(time.Hour) })
		if time.Since(begin) != time.Second || !errors.Is(err, errs.Unavailable) {
			t.Errorf("canceled wait ended after %v with %v", time.Since(begin), err)
		}
	})
}

func TestOneLayerOfRetries(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		policy := circuit.Policy{Budget: circuit.NewBudget(nil), Idempotent: true}
		attempts := 0
		err := circuit.Retry(t.Context(), policy, func(ctx context.Context, _ int) error {
			inner := circuit.Retry(ctx, policy, func(context.Context, int) error { attempts++; return errDown })
			return fmt.Errorf("loading the page: %w", inner)
		})
		if attempts != 3 || !errors.Is(err, errs.Unavailable) {
			t.Errorf("%d attempts, want 3; %v", attempts, err)
		}
	})
}

// A callee over HTTP says that its own retries are used up, as one over gRPC does.
func TestOneLayerOfRetriesOverHTTP(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		err := circuit.Retry(t.Context(), circuit.Policy{Budget: circuit.NewBudget(nil), Idempotent: true},
			func(context.Context, int) error { return errDown })
		for want, err := range map[string]error{"-1": fmt.Errorf("showing films: %w", err), "": errDown} {
			w := httptest.NewRecorder()
			errs.WriteProblem(w, httptest.NewRequest("GET", "/browse", nil), err)
			if got := w.Header().Get(errs.Pushback); got != want || w.Code != 503 {
				t.Errorf("%v: %s is %q, want %q; status %d", err, errs.Pushback, got, want, w.Code)
			}
		}
	})
}

func TestRetryWithoutBudget(t *testing.T) {
	attempts := 0
	if err := circuit.Retry(t.Context(), circuit.Policy{Idempotent: true}, func(context.Context, int) error {
		attempts++
		return errDown
	}); attempts != 1 || !errors.Is(err, errDown) {
		t.Errorf("%d attempts, %v", attempts, err)
	}
}

// TestRetryStorm is a total outage of a minute at 500 calls a second: retries stay within the budget.
func TestRetryStorm(t *testing.T) {
	const rate, seconds = 500, 60
	tests := []struct {
		name string
		set  map[string]string
		max  float64 // attempts
	}{
		{"default", nil, rate * seconds * 1.1},
		{"more", map[string]string{"retry.budget.ratio": "0.2"}, rate * seconds * 1.2},
		{"a high floor", map[string]string{"retry.budget.floorPerSecond": "100"}, rate*seconds + 100*(seconds+1)},
		{"off", map[string]string{"retry.budget.ratio": "0", "retry.budget.floorPerSecond": "0"}, rate * seconds},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				policy := circuit.Policy{Budget: circuit.NewBudget(config.Static(tt.set)), Idempotent: true}
				var attempts atomic.Int64
				var all sync.WaitGroup
				for range rate * seconds {
					time.Sleep(time.Second / rate)
					all.Go(func() {
						_ = circuit.Retry(t.Context(), policy, func(context.Context, int) error { attempts.Add(1); return errDown })
					})
				}
				all.Wait()
				got := float64(attempts.Load())
				if got > tt.max || got < tt.max*0.95 {
					t.Errorf("%.0f attempts for %d calls, want at most %.0f and not far fewer", got, rate*seconds, tt.max)
				}
			})
		})
	}
}

// TestOutageAndRecovery puts retries under a circuit, as platform/rpc does, and breaks the callee for a minute.
func TestOutageAndRecovery(t *testing.T) {
	const rate = 200
	synctest.Test(t, func(t *testing.T) {
		s := circuit.New(circuit.Options{})
		policy := circuit.Policy{Budget: circuit.NewBudget(nil), Idempotent: true}
		var down atomic.Bool
		var attempts, good atomic.Int64
		run := func(seconds int) (tried, succeeded int64) {
			attempts.Store(0)
			good.Store(0)
			var all sync.WaitGroup
			for range rate * seconds {
				time.Sleep(time.Second / rate)
				all.Go(func() {
					err := s.Do(t.Context(), getMovie, func(ctx context.Context) error {
						return circuit.Retry(ctx, policy, func(context.Context, int) error {
							attempts.Add(1)
							time.Sleep(5 * time.Millisecond)
							if down.Load() {
								return errDown
							}
							return nil
						})
					})
					if err == nil {
						good.Add(1)
					}
				})
			}
			all.Wait()
			return attempts.Load(), good.Load()
		}
		run(10)
		down.Store(true)
		run(10) // the circuit opens within the window
		wantState(t, s, open)
		if tried, _ := run(50); tried > 50/5*3+3 {
			t.Errorf("an open circuit let %d attempts through in 50 s, want one trial of 3 attempts each 5 s", tried)
		}
		down.Store(false)
		if _, ok := run(10); ok < rate*10/2 {
			t.Errorf("%d good calls in the 10 s after the outage, want at least half", ok)
		}
		if _, ok := run(5); ok != rate*5 {
			t.Errorf("%d good calls of %d after that, want all", ok, rate*5)
		}
	})
}
