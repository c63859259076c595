package service

import (
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"bijou.dev/platform/errs"
	"bijou.dev/platform/httpapi"
	"bijou.dev/platform/rpc"

	"google.golang.org/grpc"
	"google.golang.org/grpc/health"
)

// Process is the life of one member of the platform. [New] makes it, [Process.Run] serves until its context ends, and
// [Process.Stop] ends it at any time.
type Process struct {
	*Member
	plan

	grpc     *grpc.Server
	health   *health.Server
	draining atomic.Bool

	used   atomic.Bool   // Run or Stop was called
	halt   func()        // closes halted
	halted chan struct{} // closed when Stop was called
	broken chan error    // holds the first failure of a part
	done   chan struct{} // closed when the process has ended
	err    error         // why it ended; written before done is closed
}

// New binds the listeners, makes the parts of the platform and calls setup. If one of these fails, it undoes the
// others. The process serves and registers nothing until Run.
func New(ctx context.Context, opts Options, setup SetupFunc) (_ *Process, err error) {
	opts, err = opts.complete()
	if err != nil {
		return nil, err
	}
	if setup == nil {
		return nil, errs.Errorf(errs.Invalid, "making service %s: there is no setup function", opts.Name)
	}
	m := &Member{
		opts:      opts,
		log:       opts.Log.With("instance", opts.Instance),
		metrics:   newMetrics(opts),
		listeners: map[string]net.Listener{},
		conns:     map[string]*rpc.Conn{},
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, m.undo(ctx))
		}
	}()
	if err := m.bind(); err != nil {
		return nil, err
	}
	if err := m.wire(); err != nil {
		return nil, err
	}
	p := &Process{
		Member: m, grpc: m.newGRPC(), health: health.NewServer(),
		halted: make(chan struct{}), broken: make(chan error, 1), done: make(chan struct{}),
	}
	p.halt = sync.OnceFunc(func() { close(p.halted) })
	if err := p.setUp(ctx, setup); err != nil {
		return nil, err
	}
	return p, nil
}

// bind opens every listener before anything else is done, so that an address in use is found first and Addr is known.
func (m *Member) bind() error {
	for name, addr := range m.opts.Listen {
		l, err := m.opts.Net.Listen("tcp", addr)
		if err != nil {
			return fmt.Errorf("binding listener %s: %w; stop the process that has the address, or choose another with -listen",
				name, err)
		}
		m.listeners[name] = l
		m.onStop("listener "+name, func(context.Context) error {
			if err := l.Close(); err != nil && !errors.Is(err, net.ErrClosed) {
				return err
			}
			return nil
		})
	}
	return nil
}

// setUp registers the service's parts and the platform's own. It starts nothing.
func (p *Process) setUp(ctx context.Context, setup SetupFunc) error {
	s := &Setup{
		Member: p.Member, refused: newRefused(p.metrics), admin: new(httpapi.Mux), grpc: p.grpc, broken: p.broken,
		claimed: map[string]bool{},
	}
	ctx, cancel := context.WithCancel(ctx)
	err := setup(ctx, s)
	cancel()
	if err != nil {
		s.seal()
		return fmt.Errorf("setting up %s: %w", p.Name(), err)
	}
	if err := p.addOwn(s); err != nil {
		return err
	}
	p.plan = s.seal()
	if err := s.unserved(); err != nil {
		return err
	}
	p.observe()
	return nil
}

// Run serves until ctx ends, Stop is called or a part fails. Then it stops in the order that loses no request: inform
// the registry, wait until callers know, finish requests in progress, undo New. It returns nil if no part failed and
// everything stopped in time. Calling it again, or after Stop, is an error.
func (p *Process) Run(ctx context.Context) error {
	if p.used.Swap(true) {
		return errs.Errorf(errs.Precondition, "running %s: Run or Stop was called before; make a new process", p.Name())
	}
	// Background work outlives ctx and the failure of a part: an instance that drains still needs its settings, its
	// registration and its calls.
	work, end := context.WithCancel(context.WithoutCancel(ctx))
	defer end()
	running := &group{broken: p.broken}
	p.start(work, running)
	p.log.Info("started", "version", p.opts.Version, "zone", p.opts.Zone, "endpoints", p.endpoints())

	var err error
	select {
	case <-ctx.Done():
		p.log.Info("stopping", "reason", fmt.Sprint(context.Cause(ctx)))
	case <-p.halted:
		p.log.Info("stopping", "reason", "Stop was called")
	case err = <-p.broken:
		p.log.Error("stopping", "reason", err.Error())
	}
	err = errors.Join(err, p.drain(context.WithoutCancel(ctx)))
	end()
	return p.end(errors.Join(err, running.wait(stepTimeout), p.undo(ctx)))
}

// Stop ends the process and waits until it has ended, or until ctx ends. It returns the error with which Run ended, or
// that of undoing New if the process never ran. It may be called at any time and more than once.
func (p *Process) Stop(ctx context.Context) error {
	if !p.used.Swap(true) {
		return p.end(p.undo(ctx))
	}
	p.halt()
	select {
	case <-p.done:
		return p.err
	case <-ctx.Done():
		return fmt.Errorf("stopping %s: %w before it had stopped", p.Name(), context.Cause(ctx))
	}
}

// end records how the process ended.
func (p *Process) end(err error) error {
	if err != nil {
		p.log.Error("stopped", "error", err.Error())
	} else {
		p.log.Info("stopped")
	}
	p.err = err
	close(p.done)
	return err
}

// start starts everything that runs: listeners last, so that the first request finds the other parts running.
func (p *Process) start(work context.Context, running *group) {
	for _, t := range slices.Concat(p.registry.tasks(), []task{
		{"settings", p.config.Run},
		{"circuit reports", p.reportCircuits},
		{"readiness", p.watchReadiness},
	}, p.background) {
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
}

func (p *Process) reportCircuits(ctx context.Context) error {
	conn, err := p.plain.Dial("circuits")
	if err != nil {
		return err
	}
	defer conn.Close()
	return p.circuits.Report(ctx, conn)
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
			default: // the first failure is why the process stops
			}
		}
	})
}

// wait waits until all have ended and returns a failure that has not been read from broken.
func (g *group) wait(limit time.Duration) error {
	ended := make(chan struct{})
	go func() {
		g.Wait()
		close(ended)
	}()
	select {
	case <-ended:
	case <-time.After(limit):
		return fmt.Errorf("stopping background work: it did not end within %v", limit)
	}
	select {
	case err := <-g.broken:
		return err
	default:
		return nil
	}
}
