package service_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"bijou.dev/platform/errs"
	"bijou.dev/platform/memnet"
	"bijou.dev/platform/service"

	"google.golang.org/grpc"
)

// assertError checks that err is not nil and that its text has want in it.
func assertError(t *testing.T, what string, err error, want string) {
	t.Helper()
	if err == nil || !strings.Contains(err.Error(), want) {
		t.Errorf("%s: got error %v, want one with %q", what, err, want)
	}
}

// A registration after setup would have no effect, so it ends the process with an error that names it.
func TestRegistrationAfterSetupEndsTheProcess(t *testing.T) {
	nothing := func(context.Context) error { return nil }
	for want, register := range map[string]func(*service.Setup){
		`Go("index")`:     func(s *service.Setup) { s.Go("index", nothing) },
		`OnStop("store")`: func(s *service.Setup) { s.OnStop("store", nothing) },
		`Ready("films")`:  func(s *service.Setup) { s.Ready("films", func() error { return nil }) },
		`Note("store")`:   func(s *service.Setup) { s.Note("store", func() error { return nil }) },
		`OnDrain`:         func(s *service.Setup) { s.OnDrain(func() {}) },
		`GRPC to register bijou.test.Late`: func(s *service.Setup) {
			s.GRPC().RegisterService(&grpc.ServiceDesc{
				ServiceName: "bijou.test.Late", HandlerType: (*any)(nil),
			}, struct{}{})
		},
	} {
		for _, when := range []string{"before Run", "while it runs"} {
			t.Run(want+" "+when, func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					var kept *service.Setup
					p, err := service.New(t.Context(), standalone(memnet.New(), "hello-1"),
						func(ctx context.Context, s *service.Setup) error {
							kept = s
							return greet(ctx, s)
						})
					if err != nil {
						t.Fatal(err)
					}
					if when == "before Run" {
						register(kept)
					} else {
						time.AfterFunc(time.Minute, func() { register(kept) })
					}
					assertError(t, "Run", p.Run(t.Context()), "calling "+want+" of hello: setup has ended")
				})
			})
		}
	}
}

// stubServer is a Server that only counts.
type stubServer struct{}

func (stubServer) Serve(net.Listener) error       { return nil }
func (stubServer) Shutdown(context.Context) error { return nil }

// Handle, Serve and ServeGRPC return an error, so they refuse without ending the process.
func TestServingAfterSetupIsRefused(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var kept *service.Setup
		p, err := service.New(t.Context(), standalone(memnet.New(), "hello-1"),
			func(ctx context.Context, s *service.Setup) error {
				kept = s
				return greet(ctx, s)
			})
		if err != nil {
			t.Fatal(err)
		}
		const want = `serving hello on listener "http": setup has ended`
		assertError(t, "Handle", kept.Handle("http", http.NotFoundHandler()), want)
		assertError(t, "Serve", kept.Serve("http", stubServer{}), want)
		assertError(t, "ServeGRPC", kept.ServeGRPC("http", grpc.NewServer()), want)
		if err := p.Stop(t.Context()); err != nil {
			t.Errorf("Stop: %v", err)
		}
	})
}

func TestAListenerIsServedOnce(t *testing.T) {
	_, err := service.New(t.Context(), standalone(memnet.New(), "hello-1"),
		func(ctx context.Context, s *service.Setup) error {
			return errors.Join(greet(ctx, s), s.Handle("http", http.NotFoundHandler()))
		})
	assertError(t, "New", err, `serving hello on listener "http": it is already served`)
}

func TestGRPCNeedsItsListener(t *testing.T) {
	o := standalone(memnet.New(), "hello-1")
	delete(o.Listen, "grpc")
	_, err := service.New(t.Context(), o, func(ctx context.Context, s *service.Setup) error {
		s.GRPC().RegisterService(&grpc.ServiceDesc{
			ServiceName: "bijou.test.Late", HandlerType: (*any)(nil),
		}, struct{}{})
		return greet(ctx, s)
	})
	assertError(t, "New", err, `no listener "grpc" is free for it`)
}

// A goroutine or AfterFunc that waits for this context cannot be used in place of OnDrain and OnStop.
func TestTheContextOfSetupEndsWithIt(t *testing.T) {
	var ended <-chan struct{}
	p, err := service.New(t.Context(), standalone(memnet.New(), "hello-1"),
		func(ctx context.Context, s *service.Setup) error {
			ended = ctx.Done()
			if err := ctx.Err(); err != nil {
				t.Errorf("during setup its context had ended: %v", err)
			}
			return greet(ctx, s)
		})
	if err != nil {
		t.Fatal(err)
	}
	select {
	case <-ended:
	default:
		t.Error("after setup its context has not ended")
	}
	if err := p.Stop(t.Context()); err != nil {
		t.Error(err)
	}
}

func TestANilSetupIsRefused(t *testing.T) {
	_, err := service.New(t.Context(), standalone(memnet.New(), "hello-1"), nil)
	assertError(t, "New", err, "making service hello: there is no setup function")
	if !errors.Is(err, errs.Invalid) {
		t.Errorf("New: got kind %v, want Invalid", errs.KindOf(err))
	}
}

func TestRunWorksOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p, stop := run(t, standalone(memnet.New(), "hello-1"), greet)
		synctest.Wait()
		assertError(t, "a second Run beside the first", p.Run(t.Context()),
			"running hello: Run or Stop was called before")
		if err := stop(); err != nil {
			t.Errorf("the first Run: %v", err)
		}
		assertError(t, "a second Run after the first", p.Run(t.Context()),
			"running hello: Run or Stop was called before")
	})
}

func TestRunAfterStopIsRefused(t *testing.T) {
	p, err := service.New(t.Context(), standalone(memnet.New(), "hello-1"), greet)
	if err != nil {
		t.Fatal(err)
	}
	if err := p.Stop(t.Context()); err != nil {
		t.Errorf("Stop: %v", err)
	}
	assertError(t, "Run after Stop", p.Run(t.Context()), "running hello: Run or Stop was called before")
}

func TestStopEndsARunningProcess(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		undone := false
		p, err := service.New(t.Context(), standalone(memnet.New(), "hello-1"),
			func(ctx context.Context, s *service.Setup) error {
				s.OnStop("store", func(context.Context) error { undone = true; return nil })
				return greet(ctx, s)
			})
		if err != nil {
			t.Fatal(err)
		}
		ran := make(chan error, 1)
		go func() { ran <- p.Run(t.Context()) }()
		time.Sleep(time.Second)
		if err := p.Stop(t.Context()); err != nil || !undone {
			t.Errorf("Stop: %v; the store was closed: %v, want true", err, undone)
		}
		if err := <-ran; err != nil {
			t.Errorf("Run: %v", err)
		}
	})
}

// Stop says how the process ended, however it ended and however often it is asked.
func TestStopReturnsTheErrorOfTheEnd(t *testing.T) {
	broken := func(_ context.Context, s *service.Setup) error {
		s.OnStop("store", func(context.Context) error { return errors.New("disk full") })
		return s.Handle("http", http.NotFoundHandler())
	}
	for name, end := range map[string]func(context.Context, *service.Process) error{
		"never ran": func(context.Context, *service.Process) error { return nil },
		"ran":       func(ctx context.Context, p *service.Process) error { return p.Run(ctx) },
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				p, err := service.New(t.Context(), standalone(memnet.New(), "hello-1"), broken)
				if err != nil {
					t.Fatal(err)
				}
				ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
				defer cancel()
				_ = end(ctx, p)
				for i := range 2 {
					assertError(t, fmt.Sprintf("Stop %d", i+1), p.Stop(t.Context()), "stopping store: disk full")
				}
			})
		})
	}
}

func TestStopGivesUpWithItsContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p, err := service.New(t.Context(), standalone(memnet.New(), "hello-1"),
			func(_ context.Context, s *service.Setup) error {
				s.OnStop("store", func(ctx context.Context) error { <-ctx.Done(); return ctx.Err() })
				return s.Handle("http", http.NotFoundHandler())
			})
		if err != nil {
			t.Fatal(err)
		}
		ran := make(chan error, 1)
		go func() { ran <- p.Run(t.Context()) }()
		synctest.Wait()
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		begin := time.Now()
		err = p.Stop(ctx)
		if took := time.Since(begin); took != time.Second || !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("Stop with a second: got %v after %v, want a time-out after 1s", err, took)
		}
		if err := <-ran; err == nil {
			t.Error("Run: got nil, want the error of the store")
		}
	})
}
