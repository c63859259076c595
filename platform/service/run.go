package service

import (
	"context"
	"errors"
	"fmt"
	"net"
	"sync"
	"time"

	"bijou.dev/platform/discovery"

	"google.golang.org/grpc"
	healthv1 "google.golang.org/grpc/health/grpc_health_v1"
)

// Run serves until ctx ends or a part fails, then leaves in the order that loses no request: tell the registry, wait
// until callers know, finish what is in hand, undo New. It returns nil when ctx ended it and everything stopped in
// time. It can be called once.
func (p *Process) Run(ctx context.Context) error {
	// Background work outlives ctx and the failure of a part: an instance that drains still needs its settings, its
	// registration and its calls.
	work, end := context.WithCancel(context.WithoutCancel(ctx))
	defer end()
	running := &group{broken: make(chan error, 1)}
	p.start(work, running)
	p.log.Info("started", "version", p.opts.Version, "zone", p.opts.Zone, "endpoints", p.endpoints())

	var err error
	select {
	case <-ctx.Done():
		p.log.Info("stopping", "cause", fmt.Sprint(context.Cause(ctx)))
	case err = <-running.broken:
		p.log.Error("stopping", "cause", err.Error())
	}
	err = errors.Join(err, p.drain(context.WithoutCancel(ctx)))
	end()
	err = errors.Join(err, running.wait(5*time.Second), p.undo(ctx))
	if err != nil {
		p.log.Error("stopped", "problem", err.Error())
	} else {
		p.log.Info("stopped")
	}
	return err
}

// group is everything that runs.
type group struct {
	sync.WaitGroup

	broken chan error // holds the first failure
}

func (g *group) start(fn func() error) {
	g.Go(func() {
		if err := fn(); err != nil {
			select {
			case g.broken <- err:
			default: // what failed first is why the process stops
			}
		}
	})
}

// wait waits for the end of all and returns a failure that nobody has seen.
func (g *group) wait(limit time.Duration) error {
	ended := make(chan struct{})
	go func() {
		g.Wait()
		close(ended)
	}()
	select {
	case <-ended:
	case <-time.After(limit):
		return fmt.Errorf("stopping background work: no end after %v", limit)
	}
	select {
	case err := <-g.broken:
		return err
	default:
		return nil
	}
}

// start starts everything that runs: listeners last, so that the first request finds the parts at work.
func (p *Process) start(work context.Context, running *group) {
	for _, t := range append([]task{
		{"discovery", p.discovery.Run},
		{"settings", p.config.Run},
		{"registration", p.registrar.Run},
		{"circuit reports", p.reportCircuits},
		{"readiness", p.watchReadiness},
	}, p.background...) {
		running.start(func() error {
			if err := t.fn(work); err != nil && work.Err() == nil {
				return fmt.Errorf("running %s: %w", t.name, err)
			}
			return nil
		})
	}
	for _, s := range p.servers {
		running.start(s.serve)
	}
	if p.onGRPC != nil {
		running.start(func() error {
			if err := p.grpc.Serve(p.onGRPC); err != nil && !errors.Is(err, net.ErrClosed) && !errors.Is(err, grpc.ErrServerStopped) {
				return fmt.Errorf("serving gRPC: %w", err)
			}
			return nil
		})
	}
}

func (p *Process) reportCircuits(ctx context.Context) error {
	conn, err := p.plain.Dial("circuits")
	if err != nil {
		return err
	}
	defer conn.Close()
	return p.circuits.Report(ctx, conn)
}

// drain stops taking work without dropping any: callers are told first, through the registry and the health service,
// and listeners close only when they know or the time is up.
func (p *Process) drain(ctx context.Context) (err error) {
	p.draining.Store(true)
	p.health.Shutdown()
	deadline := time.Now().Add(p.opts.Drain)
	told, cancel := context.WithDeadline(ctx, deadline.Add(-p.opts.Drain/2))
	if e := p.registrar.Drain(told); e != nil {
		p.log.Warn("draining without knowing that all callers know", "problem", e.Error())
	}
	cancel()
	left, cancel := context.WithDeadline(ctx, deadline)
	defer cancel()
	closed := p.release()
	err = p.stopServers(left)
	closed()
	leave, cancel := context.WithTimeout(ctx, min(2*time.Second, p.opts.Drain/4))
	defer cancel()
	if e := p.registrar.Leave(leave); e != nil {
		p.log.Warn("leaving the registry; the lease will run out instead", "problem", e.Error())
	}
	for _, s := range p.servers {
		_ = s.stop(left)
	}
	return err
}

// stopServers stops all listeners side by side: an endless stream on one must not take the time of the others. The admin
// page stays, to show the drain to the end.
func (p *Process) stopServers(ctx context.Context) error {
	problems := make([]error, len(p.servers))
	var all sync.WaitGroup
	all.Go(func() { p.stopGRPC(ctx) })
	for i, s := range p.servers {
		if s.name == "admin" {
			continue
		}
		all.Go(func() {
			if err := s.stop(ctx); err != nil {
				problems[i] = fmt.Errorf("stopping listener %s: %w", s.name, err)
			}
		})
	}
	all.Wait()
	return errors.Join(problems...)
}

// release calls what OnDrain registered, now and then, until the returned function is called.
func (p *Process) release() (stop func()) {
	done, ended := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(ended)
		tick := time.NewTicker(200 * time.Millisecond)
		defer tick.Stop()
		for {
			for _, fn := range p.releases {
				fn()
			}
			select {
			case <-tick.C:
			case <-done:
				return
			}
		}
	}()
	return func() {
		close(done)
		<-ended
	}
}

// stopGRPC sends GOAWAY and waits for calls in hand. GracefulStop alone never ends while a stream is open
// (grpc-go #4282 and its many followers), so the deadline turns it into a hard stop.
func (p *Process) stopGRPC(ctx context.Context) {
	done := make(chan struct{})
	go func() {
		p.grpc.GracefulStop()
		close(done)
	}()
	select {
	case <-done:
	case <-ctx.Done():
		p.grpc.Stop()
		<-done
	}
}

// watchReadiness turns the checks into the status that callers see.
func (p *Process) watchReadiness(ctx context.Context) error {
	tick := time.NewTicker(250 * time.Millisecond)
	defer tick.Stop()
	up := false
	for {
		problem := p.notReady()
		switch {
		case p.draining.Load():
			return nil
		case problem == nil && !up:
			up = true
			p.registrar.SetStatus(discovery.Up)
			p.health.SetServingStatus("", healthv1.HealthCheckResponse_SERVING)
			p.log.Info("ready")
		case problem != nil && up:
			up = false
			p.registrar.SetStatus(discovery.Down)
			p.health.SetServingStatus("", healthv1.HealthCheckResponse_NOT_SERVING)
			p.log.Warn("not ready", "problem", problem.Error())
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return nil
		}
	}
}
