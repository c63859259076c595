package rpc_test

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	configv1 "bijou.dev/platform/api/config/v1"
	"bijou.dev/platform/circuit"
	"bijou.dev/platform/errs"
	"bijou.dev/platform/rpc"
)

// storm is a chain of callers: the test calls three instances of front, which call three of back. Every process has its
// own circuits and its own budget of retries, as in life.
type storm struct {
	back, front *world
	ask         configv1.ConfigClient
	mood        atomic.Pointer[func(context.Context, int64) error] // what back does with its nth attempt

	attempts, working, most atomic.Int64 // at back
}

func newStorm(t *testing.T) *storm {
	s := &storm{back: newWorld(), front: newWorld()}
	s.is(well)
	for range 3 {
		s.back.start(t, rpc.ServerOptions{}, func(ctx context.Context) error {
			n := s.attempts.Add(1)
			if now := s.working.Add(1); now > s.most.Load() {
				s.most.Store(now)
			}
			defer s.working.Add(-1)
			return (*s.mood.Load())(ctx, n)
		})
	}
	for range 3 {
		behind := s.back.client(t, rpc.ClientOptions{Circuits: circuit.New(circuit.Options{})})
		s.front.start(t, rpc.ServerOptions{}, func(ctx context.Context) error {
			_, err := behind.Get(ctx, &configv1.GetRequest{})
			return err
		})
	}
	s.ask = s.front.client(t, rpc.ClientOptions{Circuits: circuit.New(circuit.Options{})})
	return s
}

func (s *storm) is(mood func(context.Context, int64) error) { s.mood.Store(&mood) }

func well(context.Context, int64) error {
	time.Sleep(5 * time.Millisecond)
	return nil
}

func dead(context.Context, int64) error {
	return errs.Errorf(errs.Unavailable, "reading settings: no store")
}

func half(_ context.Context, n int64) error {
	if time.Sleep(5 * time.Millisecond); n%2 == 0 {
		return errs.Errorf(errs.Unavailable, "reading settings: no store")
	}
	return nil
}

func slow(ctx context.Context, _ int64) error {
	select {
	case <-time.After(5 * time.Second):
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// span is what came of the calls of some seconds.
type span struct {
	offered, good, attempts, most int64
	bad                           []time.Duration // when calls that failed had begun
}

// rate is how many calls are offered in a second.
const rate = 50

// pass offers calls each with a second's deadline, whatever becomes of those before.
func (s *storm) pass(t *testing.T, d time.Duration) (r span) {
	s.attempts.Store(0)
	s.most.Store(0)
	var mu sync.Mutex
	var all sync.WaitGroup
	for begin := time.Now(); time.Since(begin) < d; time.Sleep(time.Second / rate) {
		at := time.Since(begin)
		all.Go(func() {
			ctx, cancel := context.WithTimeout(t.Context(), time.Second)
			defer cancel()
			_, err := s.ask.Get(ctx, &configv1.GetRequest{})
			mu.Lock()
			defer mu.Unlock()
			if r.offered++; err == nil {
				r.good++
			} else {
				r.bad = append(r.bad, at)
			}
		})
	}
	all.Wait()
	synctest.Wait()
	r.attempts, r.most = s.attempts.Load(), s.most.Load()
	return r
}

// A back end that is dead, half dead or slow is not asked more often than one layer of retries may, although there are
// two callers in a row. When it is well, everybody is served within 15 s, and it stays so.
func TestStorms(t *testing.T) {
	for _, tt := range []struct {
		name string
		mood func(context.Context, int64) error
		long time.Duration
	}{
		{"half of the calls fail", half, 10 * time.Second},
		{"all fail", dead, 20 * time.Second},
		{"all are slow", slow, 10 * time.Second},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := newStorm(t)
				if r := s.pass(t, 10*time.Second); r.good != r.offered || r.attempts != r.offered {
					t.Fatalf("before: %d of %d were served with %d attempts", r.good, r.offered, r.attempts)
				}
				s.is(tt.mood)
				hurt := s.pass(t, tt.long)
				if most := hurt.offered * 6 / 5; hurt.attempts > most {
					t.Errorf("%d calls made %d attempts, want at most %d", hurt.offered, hurt.attempts, most)
				}
				if hurt.most > 200 {
					t.Errorf("%d attempts were at work at a time", hurt.most)
				}
				s.is(well)
				back := s.pass(t, 15*time.Second)
				after := s.pass(t, 20*time.Second)
				if len(after.bad) > 0 {
					t.Errorf("%d calls failed more than 15 s after all was well, the last after another %v",
						len(after.bad), after.bad[len(after.bad)-1])
				}
				whole := time.Duration(0)
				if n := len(back.bad); n > 0 {
					whole = back.bad[n-1]
				}
				t.Logf("%d offered, %d served, %.3f attempts for each, at most %d at work; all served again after %v",
					hurt.offered, hurt.good, float64(hurt.attempts)/float64(hurt.offered), hurt.most, whole)
			})
		})
	}
}

// What a callee could not get from its own callees after all retries is not asked of another one: layers of retries
// would multiply.
func TestRetriesAreNotMultiplied(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newStorm(t)
		s.is(dead)
		if _, err := s.ask.Get(t.Context(), &configv1.GetRequest{}); !errors.Is(err, errs.Unavailable) {
			t.Errorf("got %v", err)
		}
		if n := s.attempts.Load(); n != 3 {
			t.Errorf("back was asked %d times, want 3", n)
		}
	})
}

// When a client gives up, by its deadline or by canceling, no server works for it any more.
func TestNobodyWorksForWhoHasLeft(t *testing.T) {
	for name, leave := range map[string]func(context.Context) (context.Context, context.CancelFunc){
		"by deadline": func(ctx context.Context) (context.Context, context.CancelFunc) {
			return context.WithTimeout(ctx, 50*time.Millisecond)
		},
		"by leaving": func(ctx context.Context) (context.Context, context.CancelFunc) {
			ctx, cancel := context.WithCancel(ctx)
			time.AfterFunc(50*time.Millisecond, cancel)
			return ctx, cancel
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := newStorm(t)
				var late atomic.Int64 // steps of work after the client had given up
				var begin time.Time
				s.is(func(ctx context.Context, _ int64) error { // half a second of work, in steps
					for range 50 {
						select {
						case <-time.After(10 * time.Millisecond):
							if time.Since(begin) > 50*time.Millisecond {
								late.Add(1)
							}
						case <-ctx.Done():
							return ctx.Err()
						}
					}
					return nil
				})
				for range 20 {
					ctx, cancel := leave(t.Context())
					begin = time.Now()
					_, err := s.ask.Get(ctx, &configv1.GetRequest{})
					if err == nil || time.Since(begin) != 50*time.Millisecond {
						t.Fatalf("got %v after %v", err, time.Since(begin))
					}
					cancel()
					synctest.Wait()
					if n := s.working.Load(); n != 0 {
						t.Fatalf("%d handlers still work after the client has given up", n)
					}
				}
				if n := late.Load(); n > 0 {
					t.Errorf("%d steps were done after the client had given up", n)
				}
			})
		})
	}
}
