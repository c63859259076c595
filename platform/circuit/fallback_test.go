package circuit_test

import (
	"context"
	"errors"
	"strings"
	"sync"
	"testing"
	"testing/synctest"

	"bijou.dev/platform/circuit"
	"bijou.dev/platform/config"
	"bijou.dev/platform/errs"
)

func popular(context.Context, error) (string, error) { return "popular", nil }

// through returns a call that runs under s.
func through(s *circuit.Set, key circuit.Key, fn func(context.Context) error) func(context.Context) (string, error) {
	return func(ctx context.Context) (string, error) { return "fresh", s.Do(ctx, key, fn) }
}

func TestFallback(t *testing.T) {
	noFallback := func(context.Context, error) (string, error) { return "", errors.New("no cache") }
	notFound := func(context.Context) error { return errs.NotFound }
	tests := []struct {
		name     string
		call     func(context.Context) error
		fallback func(context.Context, error) (string, error)
		setting  string // set to 0 or false
		want     string
		wantErr  error
		events   map[string]int64
	}{
		{name: "not needed", call: succeed, fallback: popular, want: "fresh", events: map[string]int64{"SUCCESS": 1}},
		{
			name: "used", call: fail, fallback: popular, want: "popular",
			events: map[string]int64{"FAILURE": 1, "FALLBACK_SUCCESS": 1},
		},
		{
			name: "fails too", call: fail, fallback: noFallback, wantErr: errs.Unavailable,
			events: map[string]int64{"FAILURE": 1, "FALLBACK_FAILURE": 1, "EXCEPTION_THROWN": 1},
		},
		{
			name: "missing", call: fail, want: "fresh", wantErr: errs.Unavailable,
			events: map[string]int64{"FAILURE": 1, "FALLBACK_MISSING": 1, "EXCEPTION_THROWN": 1},
		},
		{
			name: "not for bad requests", call: notFound, fallback: popular, want: "fresh", wantErr: errs.NotFound,
			events: map[string]int64{"BAD_REQUEST": 1, "EXCEPTION_THROWN": 1},
		},
		{
			name: "too many are running", call: fail, fallback: popular, want: "fresh", wantErr: errs.Unavailable,
			setting: "maxFallbacks=0",
			events:  map[string]int64{"FAILURE": 1, "FALLBACK_REJECTION": 1, "EXCEPTION_THROWN": 1},
		},
		{
			name: "disabled", call: fail, fallback: popular, want: "fresh", wantErr: errs.Unavailable,
			setting: "fallbackEnabled=false",
			events:  map[string]int64{"FAILURE": 1, "FALLBACK_DISABLED": 1, "EXCEPTION_THROWN": 1},
		},
		{
			name: "for a full bulkhead", call: succeed, fallback: popular, want: "popular",
			setting: "maxConcurrent=0",
			events:  map[string]int64{"SEMAPHORE_REJECTED": 1, "FALLBACK_SUCCESS": 1},
		},
		{
			name: "for an open circuit", call: succeed, fallback: popular, want: "popular",
			setting: "forceOpen=true",
			events:  map[string]int64{"SHORT_CIRCUITED": 1, "FALLBACK_SUCCESS": 1},
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			cfg := config.Static(nil)
			if name, value, ok := strings.Cut(tt.setting, "="); ok {
				set(t, cfg, "catalog."+name, value)
			}
			s := circuit.New(circuit.Options{Config: cfg})
			got, err := circuit.Fallback(t.Context(), through(s, getMovie, tt.call), tt.fallback)
			if got != tt.want || !errors.Is(err, tt.wantErr) {
				t.Errorf("returned %q and %v, want %q and %v", got, err, tt.want, tt.wantErr)
			}
			if err != nil && !errors.Is(errs.KindOf(err), tt.wantErr) {
				t.Errorf("kind is %v, want that of the call, %v", errs.KindOf(err), tt.wantErr)
			}
			wantEvents(t, s, tt.events)
		})
	}
}

func TestFallbacksAreLimited(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		cfg := config.Static(map[string]string{"circuit.default.maxFallbacks": "1"})
		s := circuit.New(circuit.Options{Config: cfg})
		release := make(chan struct{})
		var first sync.WaitGroup
		first.Go(func() {
			wait := func(context.Context, error) (string, error) {
				<-release
				return "", nil
			}
			_, _ = circuit.Fallback(t.Context(), through(s, getMovie, fail), wait)
		})
		synctest.Wait()
		if _, err := circuit.Fallback(t.Context(), through(s, getMovie, fail), popular); !errors.Is(err, errDown) {
			t.Errorf("second fallback at once: %v, want the error of the call", err)
		}
		close(release)
		first.Wait()
		if _, err := circuit.Fallback(t.Context(), through(s, getMovie, fail), popular); err != nil {
			t.Errorf("after the first ended: %v", err)
		}
	})
}

func TestFallbackCountsOnTheCircuitThatFailedLast(t *testing.T) {
	s := circuit.New(circuit.Options{})
	getViews := circuit.Key{Group: "viewing", Method: "GetViews"}
	var cause error
	_, err := circuit.Fallback(t.Context(), func(ctx context.Context) (string, error) {
		_ = s.Do(ctx, getMovie, fail)
		_ = s.Do(ctx, getViews, fail)
		return "", s.Do(ctx, circuit.Key{Group: "ratings", Method: "Get"}, succeed)
	}, popular)
	if err != nil {
		t.Fatal(err)
	}
	v, err := circuit.Fallback(t.Context(), func(ctx context.Context) (string, error) {
		_ = s.Do(ctx, getMovie, fail)
		return "", s.Do(ctx, getViews, fail)
	}, func(_ context.Context, err error) (string, error) { cause = err; return "popular", nil })
	if v != "popular" || err != nil || !errors.Is(cause, errDown) {
		t.Errorf("got %q, %v for %v", v, err, cause)
	}
	for _, snap := range s.Snapshots() {
		want := map[string]int64{"viewing.GetViews": 1}[snap.Name]
		if got := snap.Rolling["FALLBACK_SUCCESS"]; got != want {
			t.Errorf("%s has %d FALLBACK_SUCCESS, want %d", snap.Name, got, want)
		}
	}
}

func TestNestedFallbacks(t *testing.T) {
	s := circuit.New(circuit.Options{})
	inner := func(ctx context.Context) (string, error) {
		return circuit.Fallback(ctx, through(s, getMovie, fail), func(context.Context, error) (string, error) {
			return "", errors.New("no cache")
		})
	}
	if v, err := circuit.Fallback(t.Context(), inner, popular); v != "popular" || err != nil {
		t.Errorf("got %q, %v", v, err)
	}
	wantEvents(t, s, map[string]int64{
		"FAILURE": 1, "FALLBACK_FAILURE": 1, "FALLBACK_SUCCESS": 1, "EXCEPTION_THROWN": 1,
	})
}

// The fallback of a call without a circuit runs and is not counted.
func TestFallbackWithoutCircuit(t *testing.T) {
	call := func(context.Context) (string, error) { return "", errDown }
	if v, err := circuit.Fallback(t.Context(), call, popular); v != "popular" || err != nil {
		t.Errorf("got %q, %v", v, err)
	}
	if _, err := circuit.Fallback[string](t.Context(), call, nil); !errors.Is(err, errDown) {
		t.Errorf("got %v", err)
	}
}
