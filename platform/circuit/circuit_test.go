package circuit_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"math/rand/v2"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	circuitsv1 "bijou.dev/platform/api/circuits/v1"
	"bijou.dev/platform/circuit"
	"bijou.dev/platform/config"
	"bijou.dev/platform/errs"
	"bijou.dev/platform/load"
	"github.com/google/go-cmp/cmp"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"
	"go.opentelemetry.io/otel/trace"
)

var (
	getMovie = circuit.Key{Group: "catalog", Method: "GetMovie"}
	errDown  = errs.Errorf(errs.Unavailable, "catalog is down")
)

func succeed(context.Context) error { return nil }
func fail(context.Context) error    { return errDown }

// hang returns when its context ends, as a client does.
func hang(ctx context.Context) error {
	<-ctx.Done()
	return ctx.Err()
}

func take(d time.Duration) func(context.Context) error {
	return func(context.Context) error { time.Sleep(d); return nil }
}

// calls makes n calls one after the other and ignores what they return.
func calls(t *testing.T, s *circuit.Set, n int, fn func(context.Context) error) {
	t.Helper()
	for range n {
		_ = s.Do(t.Context(), getMovie, fn)
	}
}

func snapshot(t *testing.T, s *circuit.Set) *circuitsv1.Snapshot {
	t.Helper()
	snaps := s.Snapshots()
	if len(snaps) != 1 {
		t.Fatalf("got %d circuits, want 1", len(snaps))
	}
	return snaps[0]
}

func wantState(t *testing.T, s *circuit.Set, want circuitsv1.State) {
	t.Helper()
	if got := snapshot(t, s); got.State != want {
		t.Fatalf("state is %v (%s), want %v", got.State, got.Reason, want)
	}
}

func wantEvents(t *testing.T, s *circuit.Set, want map[string]int64) {
	t.Helper()
	if diff := cmp.Diff(want, snapshot(t, s).Rolling); diff != "" {
		t.Errorf("events (-want +got):\n%s", diff)
	}
}

func set(t *testing.T, cfg *config.StaticSet, name, value string) {
	t.Helper()
	if err := cfg.Put("circuit."+name, value); err != nil {
		t.Fatal(err)
	}
}

const (
	closed       = circuitsv1.State_STATE_CLOSED
	open         = circuitsv1.State_STATE_OPEN
	halfOpen     = circuitsv1.State_STATE_HALF_OPEN
	forcedOpen   = circuitsv1.State_STATE_FORCED_OPEN
	forcedClosed = circuitsv1.State_STATE_FORCED_CLOSED
)

func TestLifeCycle(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := circuit.New(circuit.Options{})
		calls(t, s, 10, succeed)
		calls(t, s, 9, fail)
		wantState(t, s, closed) // 19 calls are fewer than the volume threshold
		calls(t, s, 1, fail)
		wantState(t, s, open)
		want := "10 of 20 calls failed within 10s (50 %, threshold 50 %); last: catalog is down"
		if got := snapshot(t, s).Reason; got != want {
			t.Errorf("reason is %q, want %q", got, want)
		}

		time.Sleep(2 * time.Second)
		err := s.Do(t.Context(), getMovie, func(context.Context) error { t.Error("called while open"); return nil })
		if !circuit.Rejected(err) || !errors.Is(err, errs.Unavailable) {
			t.Errorf("open circuit returned %v, want a rejection", err)
		}
		if got := errs.RetryAfter(err); got != 3*time.Second {
			t.Errorf("rejection says retry in %v, want the 3s until the trial", got)
		}
		for _, part := range []string{"catalog.GetMovie", "open", "10 of 20 calls failed"} {
			if !strings.Contains(err.Error(), part) {
				t.Errorf("rejection %q does not say %q", err, part)
			}
		}

		// Exactly one trial: others are refused while it runs.
		time.Sleep(3*time.Second + 1)
		wantState(t, s, halfOpen)
		release := make(chan error)
		var trial sync.WaitGroup
		trial.Go(func() {
			_ = s.Do(t.Context(), getMovie, func(context.Context) error { return <-release })
		})
		synctest.Wait()
		for range 50 {
			if err := s.Do(t.Context(), getMovie, succeed); !circuit.Rejected(err) {
				t.Fatalf("second call during the trial returned %v, want a rejection", err)
			}
		}
		release <- errDown
		trial.Wait()
		wantState(t, s, open)
		if got, want := snapshot(t, s).Reason, "the trial call failed; last: catalog is down"; got != want {
			t.Errorf("reason is %q, want %q", got, want)
		}

		time.Sleep(5*time.Second + 1)
		if err := s.Do(t.Context(), getMovie, succeed); err != nil {
			t.Fatalf("second trial: %v", err)
		}
		wantState(t, s, closed)
		if got := snapshot(t, s).Reason; got != "" {
			t.Errorf("closed circuit has reason %q", got)
		}
		if snap := snapshot(t, s); snap.Requests != 0 || snap.Rolling["SHORT_CIRCUITED"] == 0 {
			t.Errorf("the error rate of a circuit that just closed is over %d calls, want 0; events are %v",
				snap.Requests, snap.Rolling)
		}
		calls(t, s, 19, fail)
		wantState(t, s, closed) // the window was reset
		calls(t, s, 1, fail)
		wantState(t, s, open)
	})
}

func TestWindowRolls(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := circuit.New(circuit.Options{})
		calls(t, s, 19, fail)
		time.Sleep(11 * time.Second)
		wantEvents(t, s, map[string]int64{})
		calls(t, s, 19, fail)
		wantState(t, s, closed)
		wantEvents(t, s, map[string]int64{"FAILURE": 19, "FALLBACK_MISSING": 19, "EXCEPTION_THROWN": 19})
	})
}

func TestTrialWithoutFailure(t *testing.T) {
	tests := []struct {
		name  string
		trial func(context.Context) error
		want  circuitsv1.State
	}{
		{"canceled", func(context.Context) error { return context.Canceled }, halfOpen},
		{"bad request", func(context.Context) error { return errs.Errorf(errs.NotFound, "no such movie") }, closed},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := circuit.New(circuit.Options{})
				calls(t, s, 20, fail)
				time.Sleep(5*time.Second + 1)
				calls(t, s, 1, tt.trial)
				wantState(t, s, tt.want)
				if err := s.Do(t.Context(), getMovie, succeed); err != nil {
					t.Errorf("next call: %v", err)
				}
				wantState(t, s, closed)
			})
		})
	}
}

func TestKinds(t *testing.T) {
	event := map[errs.Kind]string{
		errs.Internal: "FAILURE", errs.Unavailable: "FAILURE", errs.Exhausted: "FAILURE", errs.Unimplemented: "FAILURE",
		errs.Timeout: "TIMEOUT", errs.Canceled: "CANCELLED",
		errs.Invalid: "BAD_REQUEST", errs.NotFound: "BAD_REQUEST", errs.Exists: "BAD_REQUEST",
		errs.Conflict: "BAD_REQUEST", errs.Precondition: "BAD_REQUEST", errs.Unauthenticated: "BAD_REQUEST",
		errs.Denied: "BAD_REQUEST",
	}
	for _, kind := range errs.Kinds() {
		t.Run(kind.String(), func(t *testing.T) {
			if event[kind] == "" {
				t.Fatal("no event for this kind")
			}
			s := circuit.New(circuit.Options{})
			calls(t, s, 100, func(context.Context) error { return errs.Errorf(kind, "an error") })
			snap := snapshot(t, s)
			counts := event[kind] == "FAILURE" || event[kind] == "TIMEOUT"
			if got := snap.State == open; got != counts {
				t.Errorf("100 errors leave the circuit %v", snap.State)
			}
			want := int64(100)
			if counts {
				want = 20
			}
			if got := snap.Rolling[event[kind]]; got != want {
				t.Errorf("%s is %d, want %d: %v", event[kind], got, want, snap.Rolling)
			}
		})
	}
}

func TestSlowCallsCount(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		cfg := config.Static(nil)
		s := circuit.New(circuit.Options{Config: cfg})
		calls(t, s, 20, take(300*time.Millisecond))
		wantState(t, s, closed) // off by default
		time.Sleep(11 * time.Second)
		set(t, cfg, "catalog.slowCall", "250ms")
		calls(t, s, 20, take(300*time.Millisecond))
		wantState(t, s, open)
		snap := snapshot(t, s)
		if snap.Rolling["SUCCESS"] != 20 || snap.Rolling["SLOW"] != 20 || snap.ErrorPercentage != 100 {
			t.Errorf("events are %v, %d %% errors", snap.Rolling, snap.ErrorPercentage)
		}
		if !strings.Contains(snap.Reason, "20 took longer than 250ms") {
			t.Errorf("reason is %q", snap.Reason)
		}
	})
}

func TestTimeoutCancels(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		cfg := config.Static(map[string]string{"circuit.catalog.GetMovie.timeout": "250ms"})
		s := circuit.New(circuit.Options{Config: cfg})
		var work sync.WaitGroup
		start := time.Now()
		err := s.Do(t.Context(), getMovie, func(ctx context.Context) error {
			stopped := make(chan struct{})
			work.Go(func() { <-ctx.Done(); close(stopped) }) // work that the call started
			<-stopped
			return ctx.Err()
		})
		work.Wait()
		if got := time.Since(start); got != 250*time.Millisecond {
			t.Errorf("call ended after %v, want 250ms", got)
		}
		if !errors.Is(err, errs.Timeout) || !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("error is %v, want one of kind Timeout that wraps the error of the call", err)
		}
		if circuit.Rejected(err) || errs.Reason(err) != circuit.ReasonTimeout {
			t.Errorf("the reason is %q and Rejected is %t, want %s and false",
				errs.Reason(err), circuit.Rejected(err), circuit.ReasonTimeout)
		}
		wantEvents(t, s, map[string]int64{"TIMEOUT": 1, "FALLBACK_MISSING": 1, "EXCEPTION_THROWN": 1})

		set(t, cfg, "catalog.GetMovie.timeout", "0s")
		if err := s.Do(t.Context(), getMovie, func(ctx context.Context) error {
			if _, ok := ctx.Deadline(); ok {
				t.Error("the context has a deadline although time-outs are off")
			}
			return take(time.Hour)(ctx)
		}); err != nil {
			t.Error(err)
		}
	})
}

// The earlier of the two deadlines applies.
func TestTimeoutBeforeTheCallersDeadline(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := circuit.New(circuit.Options{})
		ctx, cancel := context.WithTimeout(t.Context(), 1100*time.Millisecond)
		defer cancel()
		start := time.Now()
		err := s.Do(ctx, getMovie, hang)
		if got := time.Since(start); got != time.Second || errs.Reason(err) != circuit.ReasonTimeout {
			t.Errorf("call ended after %v with %v, want the circuit's 1s", got, err)
		}
	})
}

func TestCallersDeadlineAndCancel(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := circuit.New(circuit.Options{})
		start := time.Now()
		ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
		defer cancel()
		if err := s.Do(ctx, getMovie, hang); !errors.Is(err, context.DeadlineExceeded) || errs.Reason(err) != "" {
			t.Errorf("error is %v, want the caller's own deadline", err)
		}
		if got := time.Since(start); got != 100*time.Millisecond {
			t.Errorf("call ended after %v, want the caller's 100ms", got)
		}

		ctx, cancel = context.WithCancel(t.Context())
		time.AfterFunc(time.Millisecond, cancel)
		err := s.Do(ctx, getMovie, func(ctx context.Context) error { <-ctx.Done(); return errDown })
		if !errors.Is(err, errDown) {
			t.Errorf("error is %v, want that of the call", err)
		}
		wantEvents(t, s, map[string]int64{"TIMEOUT": 1, "CANCELLED": 1, "FALLBACK_MISSING": 1, "EXCEPTION_THROWN": 1})
	})
}

func TestForced(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		cfg := config.Static(nil)
		s := circuit.New(circuit.Options{Config: cfg})
		calls(t, s, 1, succeed)
		set(t, cfg, "catalog.forceOpen", "true")
		wantState(t, s, forcedOpen)
		err := s.Do(t.Context(), getMovie, succeed)
		if !circuit.Rejected(err) || !strings.Contains(err.Error(), "forced open") {
			t.Errorf("forced open circuit returned %v", err)
		}
		if _, err := s.Start(t.Context(), getMovie); !circuit.Rejected(err) {
			t.Errorf("Start on a forced open circuit returned %v", err)
		}
		set(t, cfg, "catalog.GetMovie.forceOpen", "false") // the command's own value wins over its group's
		wantState(t, s, closed)

		set(t, cfg, "catalog.GetMovie.forceClosed", "true")
		calls(t, s, 100, fail)
		wantState(t, s, forcedClosed)
		if err := s.Do(t.Context(), getMovie, succeed); err != nil {
			t.Errorf("forced closed circuit returned %v", err)
		}
		set(t, cfg, "catalog.GetMovie.forceOpen", "true")
		wantState(t, s, forcedOpen) // open wins

		cfg.Remove("circuit.catalog.forceOpen")
		cfg.Remove("circuit.catalog.GetMovie.forceOpen")
		cfg.Remove("circuit.catalog.GetMovie.forceClosed")
		wantState(t, s, closed)
		calls(t, s, 20, fail)
		wantState(t, s, open)

		set(t, cfg, "default.breakerEnabled", "false")
		calls(t, s, 100, fail)
		wantState(t, s, closed)
		if err := s.Do(t.Context(), getMovie, succeed); err != nil {
			t.Errorf("disabled circuit returned %v", err)
		}
	})
}

func TestSettingsAreLive(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		cfg := config.Static(nil)
		s := circuit.New(circuit.Options{Config: cfg})
		set(t, cfg, "default.minCalls", "3")
		set(t, cfg, "catalog.minCalls", "5")
		calls(t, s, 4, fail)
		wantState(t, s, closed) // the group's value wins over the default's
		set(t, cfg, "catalog.errorPercent", "90")
		calls(t, s, 1, succeed)
		calls(t, s, 1, fail)
		wantState(t, s, closed) // 5 of 6 are 83 %
		set(t, cfg, "catalog.GetMovie.errorPercent", "80")
		calls(t, s, 1, fail)
		wantState(t, s, open)

		set(t, cfg, "default.openFor", "60s")
		time.Sleep(59 * time.Second)
		wantState(t, s, open)
		if got := errs.RetryAfter(s.Do(t.Context(), getMovie, succeed)); got != time.Second {
			t.Errorf("rejection says retry in %v, want 1s", got)
		}
		time.Sleep(time.Second + 1)
		wantState(t, s, halfOpen)
	})
}

func TestBulkhead(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		cfg := config.Static(map[string]string{"circuit.catalog.maxConcurrent": "2"})
		s := circuit.New(circuit.Options{Config: cfg})
		var running sync.WaitGroup
		for range 2 {
			running.Go(func() { _ = s.Do(t.Context(), getMovie, hang) })
		}
		synctest.Wait()
		err := s.Do(t.Context(), getMovie, succeed)
		if !circuit.Rejected(err) || !errors.Is(err, errs.Exhausted) {
			t.Errorf("third call returned %v, want a rejection of kind Exhausted", err)
		}
		if !strings.Contains(err.Error(), "2 calls are running") {
			t.Errorf("rejection %q does not say how many calls are running", err)
		}
		if snap := snapshot(t, s); snap.Concurrent != 2 || snap.MaxConcurrent != 2 {
			t.Errorf("concurrent is %d, at most %d, want 2 and 2", snap.Concurrent, snap.MaxConcurrent)
		}
		set(t, cfg, "catalog.GetMovie.maxConcurrent", "3")
		if err := s.Do(t.Context(), getMovie, succeed); err != nil {
			t.Errorf("third call after the limit was raised: %v", err)
		}
		running.Wait()
		wantEvents(t, s, map[string]int64{
			"TIMEOUT": 2, "SEMAPHORE_REJECTED": 1, "SUCCESS": 1, "FALLBACK_MISSING": 3, "EXCEPTION_THROWN": 3,
		})
		if snap := snapshot(t, s); snap.Concurrent != 0 || snap.Requests != 3 || snap.Errors != 2 {
			t.Errorf("after all: %d running, %d errors of %d", snap.Concurrent, snap.Errors, snap.Requests)
		}
	})
}

// Of 2000 calls at once those above the limit are rejected, and the others are made.
func TestBulkheadRejectionsDoNotOpenTheCircuit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := circuit.New(circuit.Options{})
		var served, full atomic.Int64
		var all sync.WaitGroup
		for range 2000 {
			all.Go(func() {
				for {
					err := s.Do(t.Context(), getMovie,
						func(context.Context) error { time.Sleep(10 * time.Millisecond); return nil })
					switch {
					case err == nil:
						served.Add(1)
						return
					case errs.Reason(err) != circuit.ReasonFull:
						t.Errorf("got %v", err)
						return
					}
					full.Add(1)
					time.Sleep(100 * time.Millisecond)
				}
			})
		}
		all.Wait()
		if served.Load() != 2000 || full.Load() == 0 {
			t.Errorf("%d were served, %d refused on the way", served.Load(), full.Load())
		}
		wantState(t, s, closed)
	})
}

// A changed setting changes when the circuit acts, never what it has counted or which state it is in.
func TestChangedSettingsKeepStateAndCounts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		cfg := config.Static(nil)
		s := circuit.New(circuit.Options{Config: cfg})
		calls(t, s, 10, succeed)
		calls(t, s, 9, fail)
		before := snapshot(t, s).Rolling
		set(t, cfg, "default.openFor", "10s")
		wantEvents(t, s, before)
		calls(t, s, 1, fail)
		wantState(t, s, open) // the 20th call, of which half failed

		before = snapshot(t, s).Rolling
		time.Sleep(8 * time.Second)
		set(t, cfg, "default.openFor", "9s")
		wantState(t, s, open)
		wantEvents(t, s, before)
		if got := errs.RetryAfter(s.Do(t.Context(), getMovie, succeed)); got != time.Second {
			t.Errorf("8s after it opened, a circuit that stays open for 9s says retry in %v, want 1s", got)
		}
		set(t, cfg, "default.openFor", "7s")
		wantState(t, s, halfOpen) // it has waited long enough
		calls(t, s, 1, fail)
		wantState(t, s, open)
		set(t, cfg, "default.openFor", "1s")
		time.Sleep(time.Second)
		calls(t, s, 1, succeed)
		wantState(t, s, closed)
	})
}

// What a circuit was before it was forced or disabled, it is afterwards, and the calls made meanwhile count.
func TestReleasedCircuitKeepsStateAndCounts(t *testing.T) {
	for _, setting := range []string{"forceOpen=true", "forceClosed=true", "breakerEnabled=false"} {
		t.Run(setting, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				cfg := config.Static(nil)
				s := circuit.New(circuit.Options{Config: cfg})
				name, value, _ := strings.Cut(setting, "=")
				force := func() { set(t, cfg, "catalog."+name, value) }
				release := func() { cfg.Remove("circuit.catalog." + name) }

				calls(t, s, 20, fail)
				force()
				release()
				wantState(t, s, open)
				force()
				time.Sleep(time.Minute)
				release()
				wantState(t, s, halfOpen)
				calls(t, s, 1, succeed)
				wantState(t, s, closed)

				calls(t, s, 19, fail)
				force()
				calls(t, s, 5, fail)
				release()
				wantState(t, s, closed) // no call has shown since the release that the callee still fails
				calls(t, s, 1, fail)
				wantState(t, s, open)
			})
		})
	}
}

func TestSinceIsTheTimeOfTheLastChange(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		cfg := config.Static(map[string]string{"circuit.default.openFor": "1h"}) // it stays open
		s := circuit.New(circuit.Options{Config: cfg})
		for _, change := range []struct {
			name string
			make func()
		}{
			{"is made", func() { calls(t, s, 1, succeed) }},
			{"opens", func() { calls(t, s, 20, fail) }},
			{"is forced", func() { set(t, cfg, "catalog.forceClosed", "true") }},
			{"is released", func() { set(t, cfg, "catalog.forceClosed", "false") }},
		} {
			time.Sleep(time.Second)
			change.make()
			want := time.Now()
			time.Sleep(time.Second)
			if got := snapshot(t, s).Since.AsTime(); !got.Equal(want) {
				t.Errorf("a second after the circuit %s, it says since %v, want %v", change.name, got, want)
			}
		}
	})
}

// The reason has only calls that count: those from before the circuit closed do not.
func TestReasonCountsTheCallsThatOpenedTheCircuit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := circuit.New(circuit.Options{})
		timeOut := func(context.Context) error { return errs.Timeout }
		calls(t, s, 20, timeOut)
		time.Sleep(5 * time.Second)
		calls(t, s, 1, succeed)
		wantState(t, s, closed)
		calls(t, s, 18, fail)
		calls(t, s, 2, timeOut)
		want := "20 of 20 calls failed within 10s (100 %, threshold 50 %), 2 timed out; last: timeout"
		if got := snapshot(t, s).Reason; got != want {
			t.Errorf("the reason is %q, want %q", got, want)
		}
	})
}

// Calls from before an outage may end long after it. That they fail says nothing about the callee now.
func TestCallsFromBeforeTheCircuitClosedDoNotOpenIt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := circuit.New(circuit.Options{})
		var old []func(error)
		for range 50 {
			done, err := s.Start(t.Context(), getMovie)
			if err != nil {
				t.Fatal(err)
			}
			old = append(old, done)
		}
		calls(t, s, 20, fail)
		time.Sleep(5 * time.Second)
		calls(t, s, 1, succeed)
		wantState(t, s, closed)
		for _, done := range old {
			done(errDown)
		}
		wantState(t, s, closed)
		calls(t, s, 1, fail)
		wantState(t, s, closed)
		snap := snapshot(t, s)
		if snap.Requests != 1 || snap.Errors != 1 {
			t.Errorf("the error rate is %d of %d calls, want that of the one call that began after the circuit closed",
				snap.Errors, snap.Requests)
		}
		if got := snap.Rolling["FAILURE"]; got != 71 {
			t.Errorf("FAILURE is %d, want all 71", got)
		}
	})
}

func TestCallsFromBeforeTheCircuitOpenedDoNotEndItsWait(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := circuit.New(circuit.Options{})
		done, err := s.Start(t.Context(), getMovie)
		if err != nil {
			t.Fatal(err)
		}
		calls(t, s, 20, fail)
		time.Sleep(time.Second)
		done(nil)
		wantState(t, s, open)
		if got := errs.RetryAfter(s.Do(t.Context(), getMovie, succeed)); got != 4*time.Second {
			t.Errorf("rejection says retry in %v, want the 4s until the trial", got)
		}
	})
}

func TestLogHasOneLineForEachChange(t *testing.T) {
	var lines bytes.Buffer
	synctest.Test(t, func(t *testing.T) {
		cfg := config.Static(nil)
		log := slog.New(slog.NewTextHandler(&lines, &slog.HandlerOptions{
			ReplaceAttr: func(_ []string, a slog.Attr) slog.Attr {
				if a.Key == slog.LevelKey || a.Key == "from" || a.Key == "to" {
					return a
				}
				return slog.Attr{}
			},
		}))
		s := circuit.New(circuit.Options{Config: cfg, Log: log})
		calls(t, s, 20, fail)
		time.Sleep(5 * time.Second)
		calls(t, s, 1, fail) // the trial: two changes by one call
		time.Sleep(5 * time.Second)
		calls(t, s, 1, succeed)
		set(t, cfg, "catalog.forceOpen", "true")
		set(t, cfg, "catalog.forceOpen", "false")
	})
	want := `level=WARN from=closed to=open
level=INFO from=open to=half-open
level=WARN from=half-open to=open
level=INFO from=open to=half-open
level=INFO from=half-open to=closed
level=WARN from=automatic to="forced open"
level=INFO from="forced open" to=automatic
`
	if diff := cmp.Diff(want, lines.String()); diff != "" {
		t.Errorf("log (-want +got):\n%s", diff)
	}
}

// A trial that the bulkhead rejects lets the next call be the trial.
func TestTrialFindsBulkheadFull(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		cfg := config.Static(nil)
		s := circuit.New(circuit.Options{Config: cfg})
		done, err := s.Start(t.Context(), getMovie)
		if err != nil {
			t.Fatal(err)
		}
		calls(t, s, 20, fail)
		set(t, cfg, "default.maxConcurrent", "1")
		time.Sleep(5*time.Second + 1)
		if err := s.Do(t.Context(), getMovie, succeed); errs.Reason(err) != circuit.ReasonFull {
			t.Errorf("the trial returned %v, want a rejection because a call is running", err)
		}
		wantState(t, s, halfOpen)
		done(nil)
		if err := s.Do(t.Context(), getMovie, succeed); err != nil {
			t.Errorf("next trial: %v", err)
		}
		wantState(t, s, closed)
	})
}

func TestPanicCountsAsFailureAndEndsTheCall(t *testing.T) {
	s := circuit.New(circuit.Options{})
	func() {
		defer func() {
			if recover() != "boom" {
				t.Error("the panic did not continue")
			}
		}()
		_ = s.Do(t.Context(), getMovie, func(context.Context) error { panic("boom") })
	}()
	if snap := snapshot(t, s); snap.Rolling["FAILURE"] != 1 || snap.Concurrent != 0 {
		t.Errorf("events are %v, %d running", snap.Rolling, snap.Concurrent)
	}
}

func TestStart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := circuit.New(circuit.Options{})
		for range 20 {
			done, err := s.Start(t.Context(), getMovie)
			if err != nil {
				t.Fatal(err)
			}
			time.Sleep(4 * time.Millisecond)
			done(errDown)
		}
		wantState(t, s, open)
		time.Sleep(5*time.Second + 1)
		done, err := s.Start(t.Context(), getMovie)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := s.Start(t.Context(), getMovie); !circuit.Rejected(err) {
			t.Errorf("second stream during the trial returned %v", err)
		}
		if got := snapshot(t, s).Concurrent; got != 1 {
			t.Errorf("%d running, want 1", got)
		}
		done(nil)
		wantState(t, s, closed)
		if got := snapshot(t, s).Concurrent; got != 0 {
			t.Errorf("%d running, want 0", got)
		}
		time.Sleep(time.Second) // the running second is not part of the load
		l := loadOf(t, s)
		if got := l.Latency.Percentile(100); got != 4*time.Millisecond {
			t.Errorf("the longest latency is %v, want 4ms", got)
		}
	})
}

func TestOnlyTheFirstCallOfDoneCounts(t *testing.T) {
	s := circuit.New(circuit.Options{})
	done, err := s.Start(t.Context(), getMovie)
	if err != nil {
		t.Fatal(err)
	}
	done(nil)
	done(errDown)
	if got := snapshot(t, s).Concurrent; got != 0 {
		t.Errorf("%d calls run, want 0", got)
	}
	wantEvents(t, s, map[string]int64{"SUCCESS": 1})
}

// A rejection that a circuit of another process made is a failure of the callee: here the call was made.
func TestRejectedIsOnlyForCircuitsOfThisProcess(t *testing.T) {
	s := circuit.New(circuit.Options{})
	calls(t, s, 20, fail)
	own := s.Do(t.Context(), getMovie, succeed)
	if !circuit.Rejected(own) || !circuit.Rejected(fmt.Errorf("loading the page: %w", own)) {
		t.Errorf("Rejected is false for %v", own)
	}
	received := errs.FromRPC(errs.ToStatus(t.Context(), own).Err())
	if circuit.Rejected(received) {
		t.Errorf("Rejected is true for a rejection that was received: %v", received)
	}
	if got := errs.Reason(received); got != circuit.ReasonOpen {
		t.Errorf("the reason of the received rejection is %q, want %s", got, circuit.ReasonOpen)
	}
	home := circuit.Key{Group: "web", Method: "Home"}
	_ = s.Do(t.Context(), home, func(context.Context) error { return received })
	for _, snap := range s.Snapshots() {
		if snap.Name == home.String() && snap.Rolling["FAILURE"] != 1 {
			t.Errorf("a received rejection counts as %v, want a FAILURE", snap.Rolling)
		}
	}
	for _, err := range []error{nil, errDown, errs.Errorf(errs.Timeout, "late").Because(circuit.ReasonTimeout)} {
		if circuit.Rejected(err) {
			t.Errorf("Rejected is true for %v", err)
		}
	}
}

// traced returns a context with a span of a trace that is not recorded.
func traced(ctx context.Context, id trace.TraceID) context.Context {
	return trace.ContextWithSpanContext(ctx, trace.NewSpanContext(trace.SpanContextConfig{
		TraceID: id, SpanID: trace.SpanID{1},
	}))
}

func TestExampleTraces(t *testing.T) {
	s := circuit.New(circuit.Options{})
	var want []string
	for i := range byte(5) {
		id := trace.TraceID{15: i + 1}
		ctx := traced(t.Context(), id)
		_ = s.Do(ctx, getMovie, fail)
		want = append(want, id.String())
	}
	want = []string{want[3], want[4], want[2]} // the newest three
	if diff := cmp.Diff(want, snapshot(t, s).ExampleTraces); diff != "" {
		t.Errorf("example traces (-want +got):\n%s", diff)
	}
}

func TestNumberOfCircuitsIsBounded(t *testing.T) {
	s := circuit.New(circuit.Options{})
	call := func(group, method string) {
		if err := s.Do(t.Context(), circuit.Key{Group: group, Method: method}, succeed); err != nil {
			t.Fatal(err)
		}
	}
	for i := range 1000 {
		call("catalog", fmt.Sprint("method", i))
	}
	for i := range 1500 {
		call(fmt.Sprint("group", i), "first")
		call(fmt.Sprint("group", i), "second")
	}
	var own, shared, rest, total int64
	for _, snap := range s.Snapshots() {
		n := snap.Rolling["SUCCESS"]
		total += n
		switch {
		case snap.Name == "*.*":
			rest = n
		case strings.HasSuffix(snap.Name, ".*"):
			shared++
		default:
			own++
		}
	}
	if own != 1000 || shared != 1000 {
		t.Errorf("there are %d circuits for one method and %d for one group, want 1000 of each", own, shared)
	}
	if rest != 1000 || total != 4000 {
		t.Errorf("the circuit for all others counted %d calls and all circuits %d, want 1000 and 4000", rest, total)
	}
}

// streamed returns the event of the only circuit as hystrix.stream has it.
func streamed(t *testing.T, s *circuit.Set) map[string]any {
	t.Helper()
	var buf bytes.Buffer
	if err := circuit.WriteEvents(&buf, s.Snapshots(), time.Now()); err != nil {
		t.Fatal(err)
	}
	return events(t, buf.String())[0]
}

func TestPercentiles(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := circuit.New(circuit.Options{})
		for _, i := range rand.New(rand.NewPCG(1, 2)).Perm(100) {
			_ = s.Do(t.Context(), getMovie, take(time.Duration(i+1)*time.Millisecond)) // 1 to 100 ms, 5 s in all
		}
		time.Sleep(time.Second) // the running second is not part of the load
		event := streamed(t, s)
		shown := event["latencyExecute"].(map[string]any)
		for name, want := range map[string]float64{
			"0": 1, "25": 25, "50": 50, "75": 75, "90": 90, "95": 95, "99": 99, "99.5": 100, "100": 100,
		} {
			// The stream has whole milliseconds.
			if got := shown[name].(float64); math.Abs(got-want) > max(1, want*load.MaxError) {
				t.Errorf("percentile %s is %.2f ms, want %.2f within %v of it", name, got, want, load.MaxError)
			}
		}
		if got := event["latencyExecute_mean"]; got != 51.0 {
			t.Errorf("mean is %v ms, want 51, which is 50.5 rounded", got)
		}
		time.Sleep(load.Window)
		if got := streamed(t, s)["latencyExecute"].(map[string]any)["100"]; got != 0.0 {
			t.Errorf("when the calls are older than the window the maximum is still %v ms, want 0", got)
		}
	})
}

// The load of a circuit has every call that ended in the last ten complete seconds, by the definitions of package load.
func TestSnapshotHasTheLoad(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		cfg := config.Static(nil)
		s := circuit.New(circuit.Options{Config: cfg})
		shed := errs.Errorf(errs.Exhausted, "too much to do").Because(circuit.ReasonShed)
		for _, outcome := range []error{nil, nil, errs.NotFound, errDown, errs.Timeout, context.Canceled, shed} {
			calls(t, s, 1, func(context.Context) error { time.Sleep(10 * time.Millisecond); return outcome })
		}
		_, _ = circuit.Fallback(t.Context(), through(s, getMovie, fail), popular)
		set(t, cfg, "catalog.maxConcurrent", "0")
		calls(t, s, 3, succeed) // rejected by the bulkhead
		set(t, cfg, "catalog.forceOpen", "true")
		calls(t, s, 4, succeed) // rejected by the breaker

		got := loadOf(t, s)
		if got.Calls != 0 || got.Known() {
			t.Errorf("in the first second the load has %d calls and is known: %t; want 0 and measuring",
				got.Calls, got.Known())
		}
		time.Sleep(load.Window)
		got = loadOf(t, s)
		if !got.Known() {
			t.Error("after ten seconds the load is still measuring")
		}
		for name, figure := range map[string]struct{ got, want uint64 }{
			"calls":                {got.Calls, 14}, // all but the canceled one
			"failures":             {got.Failures, 3},
			"rejected":             {got.Rejected, 8},
			"fallbacks":            {got.Fallbacks, 1},
			"calls with a latency": {got.Latency.Count(), 6},
		} {
			if figure.got != figure.want {
				t.Errorf("the load has %d %s, want %d", figure.got, name, figure.want)
			}
		}
		time.Sleep(time.Second)
		if got := loadOf(t, s); got.Calls != 0 || !got.Known() {
			t.Errorf("a second later the load has %d calls and is known: %t; want 0 and known", got.Calls, got.Known())
		}
	})
}

// A circuit of a process that runs for long has a known load from its first call on: it had no calls before.
func TestLoadOfANewCircuitIsKnown(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := circuit.New(circuit.Options{})
		time.Sleep(time.Hour)
		calls(t, s, 1, succeed)
		if got := loadOf(t, s); !got.Known() {
			t.Error("the load of a circuit is measuring although its Set was made an hour ago")
		}
	})
}

func loadOf(t *testing.T, s *circuit.Set) load.Load {
	t.Helper()
	reported := snapshot(t, s).Load
	if err := load.Validate(reported); err != nil {
		t.Fatalf("the load of the snapshot is not valid: %v", err)
	}
	var l load.Load
	l.AddProto(reported)
	return l
}

// All counts of a snapshot are those of one moment: they add up while calls end.
func TestSnapshotIsOfOneMoment(t *testing.T) {
	s := circuit.New(circuit.Options{Config: config.Static(map[string]string{
		"circuit.default.breakerEnabled": "false",
	})})
	calls(t, s, 1, succeed)
	var callers sync.WaitGroup
	for range 4 {
		callers.Go(func() {
			for range 5000 {
				_ = s.Do(t.Context(), getMovie, succeed)
				_ = s.Do(t.Context(), getMovie, fail)
			}
		})
	}
	done := make(chan struct{})
	go func() { callers.Wait(); close(done) }()
	for running := true; running; {
		select {
		case <-done:
			running = false
		default:
		}
		snap := snapshot(t, s)
		if ended := snap.Rolling["SUCCESS"] + snap.Rolling["FAILURE"]; snap.Requests != ended {
			t.Fatalf("the snapshot has %d requests but %d events of calls that ended", snap.Requests, ended)
		}
	}
}

// TestCountsMatchCalls runs random outcomes at the same time and compares the counts with what the callers saw.
func TestCountsMatchCalls(t *testing.T) {
	cfg := config.Static(map[string]string{
		"circuit.default.maxConcurrent": "4",
		"circuit.default.timeout":       "20ms",
		"circuit.default.openFor":       "50ms",
	})
	synctest.Test(t, func(t *testing.T) {
		s := circuit.New(circuit.Options{Config: cfg})
		var mu sync.Mutex
		want := map[string]int64{}
		var workers sync.WaitGroup
		for w := range 16 {
			rng := rand.New(rand.NewPCG(uint64(w), 7))
			workers.Go(func() {
				for range 200 {
					what := []string{"SUCCESS", "SUCCESS", "SUCCESS", "FAILURE", "BAD_REQUEST", "TIMEOUT"}[rng.IntN(6)]
					time.Sleep(time.Duration(rng.IntN(20_000)) * time.Microsecond)
					err := s.Do(t.Context(), getMovie, func(ctx context.Context) error {
						time.Sleep(time.Duration(rng.IntN(1000)) * time.Microsecond)
						switch what {
						case "FAILURE":
							return errDown
						case "BAD_REQUEST":
							return errs.NotFound
						case "TIMEOUT":
							return hang(ctx)
						}
						return nil
					})
					switch {
					case errs.Reason(err) == circuit.ReasonOpen:
						what = "SHORT_CIRCUITED"
					case errs.Reason(err) == circuit.ReasonFull:
						what = "SEMAPHORE_REJECTED"
					}
					mu.Lock()
					want[what]++
					if what != "SUCCESS" {
						want["EXCEPTION_THROWN"]++
						if what != "BAD_REQUEST" {
							want["FALLBACK_MISSING"]++
						}
					}
					mu.Unlock()
				}
			})
		}
		workers.Wait()
		wantEvents(t, s, want)
		if len(want) < 7 {
			t.Errorf("the run had only %v", want)
		}
		if got := snapshot(t, s).Concurrent; got != 0 {
			t.Errorf("%d calls are running after all ended", got)
		}
	})
}

// TestSuccessDoesNotAllocate guards the path that every call takes; a context for the time-out comes on top.
func TestSuccessDoesNotAllocate(t *testing.T) {
	s := circuit.New(circuit.Options{})
	ctx, cancel := context.WithTimeout(t.Context(), 500*time.Millisecond)
	defer cancel()
	if got := testing.AllocsPerRun(100, func() { _ = s.Do(ctx, getMovie, succeed) }); got > 0 {
		t.Errorf("a call allocates %v times, want never", got)
	}
}

func TestSpanHasTheStateOfTheCircuit(t *testing.T) {
	rec := tracetest.NewSpanRecorder()
	tracer := sdktrace.NewTracerProvider(sdktrace.WithSpanProcessor(rec)).Tracer("test")
	synctest.Test(t, func(t *testing.T) {
		s := circuit.New(circuit.Options{})
		calls(t, s, 20, fail)
		ctx, span := tracer.Start(t.Context(), "home page")
		_, err := circuit.Fallback(ctx, func(ctx context.Context) (string, error) {
			return "", s.Do(ctx, getMovie, succeed)
		}, func(context.Context, error) (string, error) { return "popular", nil })
		if err != nil {
			t.Fatal(err)
		}
		span.End()
	})
	span := rec.Ended()[0]
	got := map[string]string{}
	for _, kv := range span.Attributes() {
		got[string(kv.Key)] = fmt.Sprint(kv.Value.AsInterface())
	}
	for name, want := range map[string]string{
		"bijou.circuit.name": "catalog.GetMovie", "bijou.circuit.state": "open",
		"bijou.circuit.reason": "20 of 20 calls failed", "bijou.circuit.limit": "100",
	} {
		if !strings.Contains(got[name], want) {
			t.Errorf("the span says %s %q, want %q", name, got[name], want)
		}
	}
	if events := span.Events(); len(events) != 1 || events[0].Name != "fallback" {
		t.Errorf("events: %+v, want one: fallback", events)
	}
}

func TestUnrecordedSpanCostsNoAllocation(t *testing.T) {
	s := circuit.New(circuit.Options{})
	deadline, cancel := context.WithTimeout(t.Context(), time.Millisecond)
	defer cancel()
	unsampled := traced(deadline, trace.TraceID{1})
	allocs := func(ctx context.Context) float64 {
		return testing.AllocsPerRun(100, func() { _ = s.Do(ctx, getMovie, succeed) })
	}
	if with, without := allocs(unsampled), allocs(deadline); with > without {
		t.Errorf("%v allocations under a span that is not recorded, %v without a span", with, without)
	}
}

// One URL that fails says nothing about the others, so the breaker takes its failures for answers; the load counts
// them.
func TestIsolatedFailuresDoNotOpenTheCircuit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := circuit.New(circuit.Options{})
		key := circuit.Key{Group: "web", Method: "shop"}
		failed := errs.Errorf(errs.Internal, "status 500").Because(circuit.ReasonIsolated)
		for range 100 {
			if err := s.Do(t.Context(), key, func(context.Context) error { return failed }); !errors.Is(err, failed) {
				t.Fatalf("a call that is answered with a failure returned %v, want that failure", err)
			}
		}
		snap := s.Snapshots()[0]
		if n := snap.GetRolling()["ISOLATED_FAILURE"]; n != 100 || snap.GetErrorPercentage() != 0 ||
			snap.GetState() != circuitsv1.State_STATE_CLOSED {
			t.Errorf("%d ISOLATED_FAILURE, error percentage %d, state %v; want 100, 0 and closed", n,
				snap.GetErrorPercentage(), snap.GetState())
		}
	})
}
