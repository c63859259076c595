package service

import (
	"context"
	"errors"
	"fmt"
	"net"
	"time"

	"bijou.dev/platform/discovery"

	"golang.org/x/sync/errgroup"
	healthv1 "google.golang.org/grpc/health/grpc_health_v1"
)

// Run serves until ctx ends or a part fails, then leaves in the order that loses no request: tell the registry, wait
// until callers know, finish what is in hand, undo New. It returns nil when ctx ended it and everything stopped in
// time. It can be called once.
func (p *Process) Run(ctx context.Context) error {
	// Background work outlives ctx: an instance that drains still needs its settings, its registration and its calls.
	work, end := context.WithCancelCause(context.WithoutCancel(ctx))
	defer end(nil)
	group, work := errgroup.WithContext(work)
	p.start(work, group)
	p.log.Info("started", "version", p.opts.Version, "zone", p.opts.Zone, "endpoints", p.endpoints())

	select {
	case <-ctx.Done():
		p.log.Info("stopping", "cause", fmt.Sprint(context.Cause(ctx)))
	case <-work.Done():
	}
	err := p.drain(context.WithoutCancel(ctx))
	end(errStopped)
	stopped := make(chan error, 1)
	go func() { stopped <- group.Wait() }()
	select {
	case e := <-stopped:
		if e != nil && !errors.Is(e, errStopped) && !errors.Is(e, context.Canceled) {
			err = errors.Join(err, e)
		}
	case <-time.After(5 * time.Second):
		err = errors.Join(err, errors.New("stopping background work: no end after 5s"))
	}
	err = errors.Join(err, p.undo(ctx))
	p.log.Info("stopped", "problem", fmt.Sprint(err))
	return err
}

var errStopped = errors.New("the process stopped")

// start starts everything that runs: listeners last, so that the first request finds the parts at work.
func (p *Process) start(work context.Context, group *errgroup.Group) {
	for _, t := range append([]task{
		{"discovery", p.discovery.Run},
		{"settings", p.config.Run},
		{"registration", p.registrar.Run},
		{"circuit reports", p.reportCircuits},
		{"readiness", p.watchReadiness},
	}, p.background...) {
		group.Go(func() error {
			if err := t.fn(work); err != nil && work.Err() == nil {
				return fmt.Errorf("running %s: %w", t.name, err)
			}
			return nil
		})
	}
	for _, s := range p.servers {
		group.Go(func() error { return s.serve() })
	}
	if l := p.listeners["grpc"]; l != nil {
		group.Go(func() error {
			if err := p.grpc.Serve(l); err != nil && !errors.Is(err, net.ErrClosed) {
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
	for _, s := range p.servers {
		if s.name == "admin" {
			continue // the admin page shows the drain to the end
		}
		if e := s.stop(left); e != nil {
			err = errors.Join(err, fmt.Errorf("stopping listener %s: %w", s.name, e))
		}
	}
	p.stopGRPC(left)
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
