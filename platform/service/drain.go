package service

import (
	"context"
	"errors"
	"sync"
	"time"
)

// drain takes no more work without losing any: the callers are informed first, through the registry and the health
// service. Listeners close when all callers know, or after half of the drain time.
func (p *Process) drain(ctx context.Context) error {
	p.draining.Store(true)
	p.health.Shutdown()
	deadline := time.Now().Add(p.opts.Drain)
	p.announce(ctx, deadline.Add(-p.opts.Drain/2))

	left, cancel := context.WithDeadline(ctx, deadline)
	defer cancel()
	stopReleasing := p.release()
	err := p.stopServers(left, false)
	stopReleasing()
	p.leave(ctx)
	return errors.Join(err, p.stopServers(left, true))
}

// announce reports the instance as DRAINING and waits until all callers know it, or until the time is up.
func (p *Process) announce(ctx context.Context, until time.Time) {
	ctx, cancel := context.WithDeadline(ctx, until)
	defer cancel()
	if err := p.registry.drain(ctx); err != nil {
		p.log.Warn("draining, but not all callers may know it", "error", err.Error())
	}
}

// leave removes the instance from the registry.
func (p *Process) leave(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, min(2*time.Second, p.opts.Drain/4))
	defer cancel()
	if err := p.registry.leave(ctx); err != nil {
		p.log.Warn("leaving the registry; the lease will expire instead", "error", err.Error())
	}
}

// stopServers stops the admin server, or else all others. The admin server is stopped last, because it shows the drain.
// The others stop at the same time: an endless stream on one must not use up the time of the others.
func (p *Process) stopServers(ctx context.Context, admin bool) error {
	problems := make([]error, len(p.servers))
	var all sync.WaitGroup
	for i, s := range p.servers {
		if (s.listener == adminListener) == admin {
			all.Go(func() { problems[i] = s.shutdown(ctx) })
		}
	}
	all.Wait()
	return errors.Join(problems...)
}

// releaseEvery is how often streams are ended while the listeners close.
const releaseEvery = 200 * time.Millisecond

// release calls what OnDrain registered, now and at intervals, until the returned function is called.
func (p *Process) release() (stop func()) {
	done, ended := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(ended)
		tick := time.NewTicker(releaseEvery)
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
