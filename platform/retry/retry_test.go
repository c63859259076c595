package retry_test

import (
	"context"
	"errors"
	"fmt"
	"net/http/httptest"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	circuitsv1 "bijou.dev/platform/api/circuits/v1"
	"bijou.dev/platform/circuit"
	"bijou.dev/platform/config"
	"bijou.dev/platform/errs"
	"bijou.dev/platform/retry"
)

var errDown = errs.Errorf(errs.Unavailable, "catalog is down")

func fail(context.Context, int) error { return errDown }

// idempotent returns the policy of calls that may be repeated, with a new budget. Settings are name, value pairs.
func idempotent(settings ...string) retry.Policy {
	values := map[string]string{}
	for pair := range slices.Chunk(settings, 2) {
		values[pair[0]] = pair[1]
	}
	return retry.Policy{Budget: retry.NewBudget(config.Static(values)), Idempotent: true}
}

func TestRetriesOnlyWhatIsSafeAndMayHelp(t *testing.T) {
	down := errs.Errorf(errs.Unavailable, "down")
	unavailable := func(reason string) error { return errs.Errorf(errs.Unavailable, "down").Because(reason) }
	received := errs.FromRPC(errs.ToStatus(t.Context(), unavailable(circuit.ReasonOpen)).Err())
	tests := []struct {
		name         string
		err          error
		onceOnly     bool // the call is not idempotent
		wantAttempts int
	}{
		{name: "unavailable", err: down, wantAttempts: 3},
		{name: "unavailable, not idempotent", err: down, onceOnly: true, wantAttempts: 1},
		{name: "not sent, not idempotent", err: unavailable(retry.ReasonNotSent), onceOnly: true, wantAttempts: 3},
		{
			name: "misdirected, not idempotent", err: unavailable(retry.ReasonMisdirected),
			onceOnly: true, wantAttempts: 3,
		},
		{
			name: "shed, not idempotent", onceOnly: true, wantAttempts: 3,
			err: errs.Errorf(errs.Exhausted, "shed").Because(circuit.ReasonShed),
		},
		{name: "exhausted", err: errs.Errorf(errs.Exhausted, "quota used up"), wantAttempts: 1},
		{
			name: "exhausted with a wait", wantAttempts: 3,
			err: errs.Errorf(errs.Exhausted, "quota used up").RetryIn(time.Second),
		},
		{name: "internal", err: errs.Errorf(errs.Internal, "bug"), wantAttempts: 1},
		{name: "timeout", err: context.DeadlineExceeded, wantAttempts: 1},
		{name: "not found", err: errs.NotFound, wantAttempts: 1},
		{name: "canceled", err: context.Canceled, wantAttempts: 1},
		{name: "without a kind", err: errors.New("what"), wantAttempts: 1},
		{name: "marked final", err: retry.Final(errDown), wantAttempts: 1},
		{name: "rejected by a circuit of this process", err: unavailable(circuit.ReasonOpen), wantAttempts: 1},
		{name: "rejected by a circuit of the callee", err: received, wantAttempts: 3},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				policy := idempotent()
				policy.Idempotent = !tt.onceOnly
				attempts := 0
				err := retry.Do(t.Context(), policy, func(_ context.Context, n int) error {
					attempts++
					if n != attempts {
						t.Errorf("attempt %d got the number %d", attempts, n)
					}
					return tt.err
				})
				if attempts != tt.wantAttempts {
					t.Errorf("made %d attempts, want %d", attempts, tt.wantAttempts)
				}
				if !errors.Is(err, tt.err) {
					t.Errorf("returned %v, want the error of the attempt", err)
				}
			})
		})
	}
}

func TestSuccessEndsRetries(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		attempts := 0
		err := retry.Do(t.Context(), idempotent(), func(_ context.Context, n int) error {
			attempts++
			if n < 2 {
				return errDown
			}
			return nil
		})
		if err != nil || attempts != 2 {
			t.Errorf("made %d attempts and returned %v, want 2 attempts and no error", attempts, err)
		}
	})
}

func TestNilBudgetMeansNoRetries(t *testing.T) {
	attempts := 0
	err := retry.Do(t.Context(), retry.Policy{Idempotent: true}, func(context.Context, int) error {
		attempts++
		return errDown
	})
	if attempts != 1 || !errors.Is(err, errDown) {
		t.Errorf("made %d attempts and returned %v, want one attempt and its error", attempts, err)
	}
}

func TestFinalOfNilIsNil(t *testing.T) {
	if err := retry.Final(nil); err != nil {
		t.Errorf("Final(nil) is %v", err)
	}
}

func TestBackoffDoublesUpToItsMaximum(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var starts []time.Time
		policy := idempotent("retry.maxAttempts", "5", "retry.backoff.base", "100ms", "retry.backoff.max", "300ms")
		_ = retry.Do(t.Context(), policy, func(_ context.Context, n int) error {
			starts = append(starts, time.Now())
			if n == 4 {
				return errs.Errorf(errs.Unavailable, "draining").RetryIn(7 * time.Second)
			}
			return errDown
		})
		if len(starts) != 5 {
			t.Fatalf("made %d attempts, want 5", len(starts))
		}
		for i, want := range []struct{ min, max time.Duration }{
			{50 * time.Millisecond, 100 * time.Millisecond},
			{100 * time.Millisecond, 200 * time.Millisecond},
			{150 * time.Millisecond, 300 * time.Millisecond},
			// The callee asked for 7s. The back-off comes on top, because it asked other callers for the same.
			{7150 * time.Millisecond, 7300 * time.Millisecond},
		} {
			if wait := starts[i+1].Sub(starts[i]); wait < want.min || wait > want.max {
				t.Errorf("wait before attempt %d was %v, want %v to %v", i+2, wait, want.min, want.max)
			}
		}
	})
}

// Callers that failed at the same moment must not retry at the same moment.
func TestBackoffIsSpread(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const callers = 200
		for name, failure := range map[string]error{
			"down":               errDown,
			"asked for the same": errs.Errorf(errs.Unavailable, "draining").RetryIn(time.Second),
			"shed":               errs.Errorf(errs.Exhausted, "shed").Because(circuit.ReasonShed).RetryIn(time.Second),
		} {
			policy := idempotent("retry.maxAttempts", "2", "retry.backoff.base", "100ms",
				"retry.budget.floorPerSecond", "1000")
			waits := make([]time.Duration, callers)
			var all sync.WaitGroup
			for i := range callers {
				all.Go(func() {
					begin := time.Now()
					_ = retry.Do(t.Context(), policy, func(_ context.Context, n int) error {
						waits[i] = time.Since(begin)
						return failure
					})
				})
			}
			all.Wait()
			// The waits are uniform over 50ms. That 200 of them miss a fifth of it has a chance of 1 in 10^19.
			slices.Sort(waits)
			if spread := waits[callers-1] - waits[0]; spread < 30*time.Millisecond {
				t.Errorf("%s: all of %d callers retried within %v, want their retries spread over about 50ms",
					name, callers, spread)
			}
			tenth := waits[callers*9/10] - waits[callers/10]
			if tenth < 25*time.Millisecond {
				t.Errorf("%s: most callers retried within %v, want them spread evenly over about 50ms", name, tenth)
			}
		}
	})
}

// Another instance is asked after a refusal for overload, so the time that the first one asked for does not matter.
func TestShedCallDoesNotWaitForItsInstance(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		begin := time.Now()
		_ = retry.Do(t.Context(), idempotent("retry.maxAttempts", "2"), func(context.Context, int) error {
			return errs.Errorf(errs.Exhausted, "shed").Because(circuit.ReasonShed).RetryIn(time.Minute)
		})
		if took := time.Since(begin); took > time.Second {
			t.Errorf("the retry came after %v, want the back-off only", took)
		}
	})
}

func TestWaitBeyondTheDeadlineReturnsAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		begin, attempts := time.Now(), 0
		err := retry.Do(ctx, idempotent(), func(context.Context, int) error {
			attempts++
			return errs.Errorf(errs.Unavailable, "down").RetryIn(2 * time.Second)
		})
		if attempts != 1 || time.Since(begin) != 0 {
			t.Errorf("made %d attempts in %v, want one and no wait", attempts, time.Since(begin))
		}
		if !errors.Is(err, errs.Unavailable) {
			t.Errorf("returned %v, want the error of the attempt", err)
		}
	})
}

func TestCancelEndsTheWait(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		time.AfterFunc(time.Second, cancel)
		begin := time.Now()
		err := retry.Do(ctx, idempotent(), func(context.Context, int) error {
			return errs.Errorf(errs.Unavailable, "down").RetryIn(time.Hour)
		})
		if took := time.Since(begin); took != time.Second {
			t.Errorf("returned after %v, want 1s", took)
		}
		if !errors.Is(err, errs.Unavailable) {
			t.Errorf("returned %v, want the error of the attempt", err)
		}
	})
}

func TestOneLayerOfRetries(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		policy, attempts := idempotent(), 0
		err := retry.Do(t.Context(), policy, func(ctx context.Context, _ int) error {
			inner := retry.Do(ctx, policy, func(context.Context, int) error { attempts++; return errDown })
			return fmt.Errorf("loading the page: %w", inner)
		})
		if attempts != 3 {
			t.Errorf("made %d attempts, want the 3 of the inner layer", attempts)
		}
		if !errors.Is(err, errs.Unavailable) || !retry.GaveUp(err) {
			t.Errorf("returned %v, want the error of the attempt, given up", err)
		}
	})
}

// An HTTP answer says whether the retries are used up, as a gRPC trailer does, so that the caller does not retry.
func TestUsedUpRetriesAreSentOverHTTP(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		usedUp := fmt.Errorf("showing films: %w", retry.Do(t.Context(), idempotent(), fail))
		for want, err := range map[string]error{"-1": usedUp, "": errDown} {
			w := httptest.NewRecorder()
			errs.WriteProblem(w, httptest.NewRequest("GET", "/browse", nil), err)
			if got := w.Header().Get(errs.Pushback); got != want || w.Code != 503 {
				t.Errorf("%v: header %s is %q and status %d, want %q and 503", err, errs.Pushback, got, w.Code, want)
			}
		}
	})
}

// TestOutageAndRecovery puts retries inside a circuit, as platform/rpc does, and breaks the callee for a minute.
func TestOutageAndRecovery(t *testing.T) {
	const rate = 200
	synctest.Test(t, func(t *testing.T) {
		set, policy := circuit.New(circuit.Options{}), idempotent()
		var down atomic.Bool
		var attempts, succeeded atomic.Int64
		attempt := func(context.Context, int) error {
			attempts.Add(1)
			time.Sleep(5 * time.Millisecond)
			if down.Load() {
				return errDown
			}
			return nil
		}
		call := func() {
			key := circuit.Key{Group: "catalog", Method: "GetMovie"}
			err := set.Do(t.Context(), key, func(ctx context.Context) error {
				return retry.Do(ctx, policy, attempt)
			})
			if err == nil {
				succeeded.Add(1)
			}
		}
		callFor := func(seconds int) {
			attempts.Store(0)
			succeeded.Store(0)
			var all sync.WaitGroup
			for range rate * seconds {
				time.Sleep(time.Second / rate)
				all.Go(call)
			}
			all.Wait()
		}
		callFor(10)
		down.Store(true)
		callFor(10)
		if got := set.Snapshots()[0].State; got != circuitsv1.State_STATE_OPEN {
			t.Fatalf("after 10s of failures the circuit is %v, want it open", got)
		}
		callFor(50)
		if got := attempts.Load(); got > 50/5*3+3 {
			t.Errorf("the open circuit let %d attempts through in 50s, want one trial of 3 attempts each 5s", got)
		}
		down.Store(false)
		callFor(10)
		if got := succeeded.Load(); got < rate*10/2 {
			t.Errorf("%d of %d calls succeeded in the 10s after the outage, want at least half", got, rate*10)
		}
		callFor(5)
		if got := succeeded.Load(); got != rate*5 {
			t.Errorf("%d of %d calls succeeded after that, want all", got, rate*5)
		}
	})
}
