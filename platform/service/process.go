package service

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	configv1 "bijou.dev/platform/api/config/v1"
	"bijou.dev/platform/circuit"
	"bijou.dev/platform/config"
	"bijou.dev/platform/discovery"
	"bijou.dev/platform/errs"
	"bijou.dev/platform/overload"
	"bijou.dev/platform/rpc"
	"bijou.dev/platform/trace"

	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/grpc"
	"google.golang.org/grpc/health"
)

// Process is one member of the platform. [New] makes it, [Process.Run] serves until its context ends.
//
// Its parts are ready for use in Setup; nothing is connected yet then, and nothing ever needs to be: each part works
// with what it knows and catches up in the background.
type Process struct {
	opts      Options
	log       *slog.Logger
	metrics   *prometheus.Registry
	refused   *prometheus.CounterVec // connections, by listener
	listeners map[string]net.Listener
	claimed   map[string]bool // listeners that something serves

	tracer    *trace.Provider
	discovery *discovery.Client
	registrar *discovery.Registrar
	config    *config.LiveSet
	circuits  *circuit.Set
	overload  *overload.Set
	client    *rpc.Client
	plain     *rpc.Client // without circuits and spans, for the platform's own streams

	grpc    *grpc.Server
	onGRPC  net.Listener // nil: grpc is not served
	serves  bool         // something registered on grpc
	health  *health.Server
	admin   *http.ServeMux
	servers []*httpServer

	background []task
	checks     []check
	releases   []func()
	draining   atomic.Bool

	mu       sync.Mutex // guards what follows
	teardown []task     // in order of construction, undone in reverse
	stopped  bool
	conns    map[string]*grpc.ClientConn // target -> connection
}

// task is something with a name to run or to undo.
type task struct {
	name string
	fn   func(context.Context) error
}

// New binds the listeners, wires the parts and calls setup. On an error everything is undone. The process says
// nothing to anybody until Run.
func New(ctx context.Context, opts Options, setup Setup) (_ *Process, err error) {
	opts, err = opts.complete()
	if err != nil {
		return nil, err
	}
	p := &Process{
		opts:      opts,
		log:       opts.Log.With("instance", opts.Instance),
		metrics:   newMetrics(opts),
		listeners: map[string]net.Listener{},
		claimed:   map[string]bool{},
		conns:     map[string]*grpc.ClientConn{},
		health:    health.NewServer(),
		admin:     http.NewServeMux(),
	}
	p.refused = newRefused(p.metrics)
	defer func() {
		if err != nil {
			err = errors.Join(err, p.undo(ctx))
		}
	}()
	if err := p.bind(); err != nil {
		return nil, err
	}
	if err := p.wire(); err != nil {
		return nil, err
	}
	if err := setup(ctx, p); err != nil {
		return nil, fmt.Errorf("setting up %s: %w", opts.Name, err)
	}
	if err := p.finish(); err != nil {
		return nil, err
	}
	return p, nil
}

// bind opens every listener, so that an address in use is found before anything else happens and Addr is true.
func (p *Process) bind() error {
	for name, addr := range p.opts.Listen {
		l, err := p.opts.Net.Listen("tcp", addr)
		if err != nil {
			return fmt.Errorf("binding listener %s: %w; stop what holds it or choose another with -listen", name, err)
		}
		p.listeners[name] = l
		p.OnStop("listener "+name, func(context.Context) error {
			if err := l.Close(); err != nil && !errors.Is(err, net.ErrClosed) {
				return err
			}
			return nil
		})
	}
	return nil
}

// Name returns the service's name.
func (p *Process) Name() string { return p.opts.Name }

// Instance returns the id of this process.
func (p *Process) Instance() string { return p.opts.Instance }

// Zone returns the zone of this process.
func (p *Process) Zone() string { return p.opts.Zone }

// Identity returns who asks for settings.
func (p *Process) Identity() *configv1.Identity {
	return &configv1.Identity{
		App: p.opts.Name, Instance: p.opts.Instance, Environment: p.opts.Environment,
		Region: p.opts.Region, Zone: p.opts.Zone, Version: p.opts.Version,
	}
}

// Log returns the process's logger.
func (p *Process) Log() *slog.Logger { return p.log }

// Config returns the process's settings.
func (p *Process) Config() config.Set { return p.config }

// Discovery returns what the process knows of others.
func (p *Process) Discovery() *discovery.Client { return p.discovery }

// Circuits returns the circuits of the process's calls.
func (p *Process) Circuits() *circuit.Set { return p.circuits }

// Overload returns the limiters of the process's servers. That of its gRPC server is called "grpc".
func (p *Process) Overload() *overload.Set { return p.overload }

// Tracer returns the process's tracing.
func (p *Process) Tracer() *trace.Provider { return p.tracer }

// Metrics returns where to register metrics. Names clash across the process, so prefix them.
func (p *Process) Metrics() prometheus.Registerer { return p.metrics }

// StateDir returns the folder for state that a start may do without; empty: none.
func (p *Process) StateDir() string { return p.opts.StateDir }

// Admin returns the mux of the admin listener.
func (p *Process) Admin() *http.ServeMux { return p.admin }

// DialContext connects over the process's network.
func (p *Process) DialContext(ctx context.Context, network, addr string) (net.Conn, error) {
	return p.opts.Net.DialContext(ctx, network, addr)
}

// GRPC returns where to register gRPC services. They are served on the listener "grpc".
func (p *Process) GRPC() grpc.ServiceRegistrar {
	p.serves = true
	return p.grpc
}

// Dial returns the connection to a service, shared by all callers in the process: "catalog" is bijou:///catalog. It
// connects when first used, and nobody being there is an error of a call, not of Dial. The process closes it.
func (p *Process) Dial(service string) (*grpc.ClientConn, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.stopped {
		return nil, errs.Errorf(errs.Canceled, "dialling %s: the process has stopped", service)
	}
	if c := p.conns[service]; c != nil {
		return c, nil
	}
	c, err := p.client.Dial(service)
	if err != nil {
		return nil, err
	}
	p.conns[service] = c
	p.teardown = append(p.teardown, task{"connection to " + service, func(context.Context) error { return c.Close() }})
	return c, nil
}

// Addr returns the address that a listener is bound to, or "" if there is no such listener.
func (p *Process) Addr(listener string) string {
	if l := p.listeners[listener]; l != nil {
		return l.Addr().String()
	}
	return ""
}

// Listen returns a listener to serve by other means than [Process.Handle]. The caller owns closing it before its
// OnStop returns.
func (p *Process) Listen(listener string) (net.Listener, error) {
	l := p.listeners[listener]
	switch {
	case l == nil:
		return nil, fmt.Errorf("serving %s on listener %q: no such listener; add %s=:port to -listen", p.opts.Name, listener, listener)
	case p.claimed[listener]:
		return nil, fmt.Errorf("serving %s on listener %q: it is already served", p.opts.Name, listener)
	}
	p.claimed[listener] = true
	return l, nil
}

// Go runs fn for as long as the process runs. An error ends the process; fn returns nil when its context ends.
func (p *Process) Go(name string, fn func(context.Context) error) {
	p.background = append(p.background, task{name, fn})
}

// OnStop registers teardown. It runs last in, first out, after the listeners have drained, each bounded.
func (p *Process) OnStop(name string, fn func(context.Context) error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.teardown = append(p.teardown, task{name, fn})
}

// Ready adds a readiness check. While one returns an error the process tells the registry that it is down and
// /readyz says why.
func (p *Process) Ready(name string, fn func() error) {
	p.checks = append(p.checks, check{name: name, needed: true, fn: fn})
}

// Note adds a check that /readyz shows but that does not make the process unready: it works worse, or only in part, and
// taking it out of rotation would not help.
func (p *Process) Note(name string, fn func() error) {
	p.checks = append(p.checks, check{name: name, fn: fn})
}

// OnDrain registers what sends long-lived streams away. It is called when all callers know that the process is leaving,
// and again a few times a second until the listeners are closed, because a client may come back before that. Without
// it a stream holds the stop up until the drain time is over.
func (p *Process) OnDrain(fn func()) { p.releases = append(p.releases, fn) }

// Stop undoes New for a process that was never run. After Run it does nothing.
func (p *Process) Stop(ctx context.Context) error { return p.undo(ctx) }

// undo runs the teardown once, in reverse, each step bounded, and joins what went wrong under its name.
func (p *Process) undo(ctx context.Context) error {
	p.mu.Lock()
	if p.stopped {
		p.mu.Unlock()
		return nil
	}
	p.stopped = true
	tasks := p.teardown
	p.mu.Unlock()
	var all error
	for _, t := range slices.Backward(tasks) {
		if err := bounded(ctx, 5*time.Second, t); err != nil {
			all = errors.Join(all, fmt.Errorf("stopping %s: %w", t.name, err))
		}
	}
	return all
}

// bounded runs a task and gives up waiting for it at the limit.
func bounded(ctx context.Context, limit time.Duration, t task) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), limit)
	defer cancel()
	done := make(chan error, 1)
	go func() { done <- t.fn(ctx) }()
	select {
	case err := <-done:
		return err
	case <-ctx.Done():
		return fmt.Errorf("no end after %v", limit)
	}
}

// endpoints returns the addresses to register: every listener under the advertised host.
func (p *Process) endpoints() map[string]string {
	eps := make(map[string]string, len(p.listeners))
	advertise := p.opts.Net.ownAddress(p.opts.Advertise)
	for name, l := range p.listeners {
		host, port, err := net.SplitHostPort(l.Addr().String())
		if err != nil {
			continue
		}
		if ip := net.ParseIP(host); advertise != "" {
			host = advertise
		} else if ip != nil && ip.IsUnspecified() {
			host = outboundHost()
		}
		eps[name] = net.JoinHostPort(host, port)
	}
	return eps
}

// outboundHost returns the first address of this machine that another one can reach, else the loopback.
func outboundHost() string {
	addrs, err := net.InterfaceAddrs()
	if err != nil {
		return "127.0.0.1"
	}
	for _, a := range addrs {
		if n, ok := a.(*net.IPNet); ok && n.IP.IsGlobalUnicast() && !strings.Contains(n.IP.String(), ":") {
			return n.IP.String()
		}
	}
	return "127.0.0.1"
}
