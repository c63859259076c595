package service

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"slices"
	"sync"
	"time"

	configv1 "bijou.dev/platform/api/config/v1"
	"bijou.dev/platform/circuit"
	"bijou.dev/platform/config"
	"bijou.dev/platform/discovery"
	"bijou.dev/platform/errs"
	"bijou.dev/platform/load"
	"bijou.dev/platform/overload"
	"bijou.dev/platform/rpc"
	"bijou.dev/platform/trace"

	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/grpc"
)

// Member is what code of a process may use at any time: the name of the process, its settings, its connections to other
// services. [Setup] and [Process] both have it.
//
// Nothing is connected before [Process.Run]. Each part works with what it knows and connects in the background.
type Member struct {
	opts      Options
	log       *slog.Logger
	metrics   *prometheus.Registry
	listeners map[string]net.Listener // name -> bound listener

	tracer    *trace.Provider
	discovery *discovery.Directory
	registry  *membership // nil: no registry
	config    *config.LiveSet
	circuits  *circuit.Set
	served    *load.Recorder
	overload  *overload.Set
	client    *rpc.Client
	plain     *rpc.Client // without circuits and spans, for the platform's own streams

	mu       sync.Mutex // guards what follows
	teardown []task     // in order of construction, run in reverse
	stopped  bool
	conns    map[string]*rpc.Conn // target -> connection
}

// task is something with a name to run or to undo.
type task struct {
	name string
	fn   func(context.Context) error
}

// Name returns the service's name.
func (m *Member) Name() string { return m.opts.Name }

// Instance returns the id of this process.
func (m *Member) Instance() string { return m.opts.Instance }

// Zone returns the zone of this process.
func (m *Member) Zone() string { return m.opts.Zone }

// Identity returns what the config service resolves this process's settings by.
func (m *Member) Identity() *configv1.Identity {
	return &configv1.Identity{
		App: m.opts.Name, Instance: m.opts.Instance, Environment: m.opts.Environment,
		Region: m.opts.Region, Zone: m.opts.Zone, Version: m.opts.Version,
	}
}

// Log returns the process's logger, never nil.
func (m *Member) Log() *slog.Logger { return m.log }

// Config returns the process's settings.
func (m *Member) Config() config.Set { return m.config }

// Discovery returns the instances that the process knows: from the registry, else those in Options.Known.
func (m *Member) Discovery() *discovery.Directory { return m.discovery }

// Circuits returns the circuits of the process's calls.
func (m *Member) Circuits() *circuit.Set { return m.circuits }

// Served returns the recorder of the calls that the process serves, whose load is reported with its circuits. The gRPC
// server records its unary calls there. A server of another protocol records its own.
func (m *Member) Served() *load.Recorder { return m.served }

// Overload returns the limiters of the process's servers. That of its gRPC server is called "grpc".
func (m *Member) Overload() *overload.Set { return m.overload }

// Tracer returns the process's tracing.
func (m *Member) Tracer() *trace.Provider { return m.tracer }

// Metrics returns where to register metrics. All parts of the process share it, so prefix the names.
func (m *Member) Metrics() prometheus.Registerer { return m.metrics }

// StateDir returns the folder for state that the next start can do without, or "" if there is none.
func (m *Member) StateDir() string { return m.opts.StateDir }

// DialContext connects over the process's network.
func (m *Member) DialContext(ctx context.Context, network, addr string) (net.Conn, error) {
	return m.opts.Net.DialContext(ctx, network, addr)
}

// Addr returns the address that a listener is bound to, or "" if there is no such listener.
func (m *Member) Addr(listener string) string {
	if l := m.listeners[listener]; l != nil {
		return l.Addr().String()
	}
	return ""
}

// Dial returns the connection to a service; all callers in the process share it. The target "catalog" is
// bijou:///catalog. The connection is made when it is first used: if there is no instance, the call fails, not Dial.
// The process closes it; after that Dial returns an error of kind Canceled.
func (m *Member) Dial(service string) (grpc.ClientConnInterface, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.stopped {
		return nil, errs.Errorf(errs.Canceled, "dialling %s: the process has stopped", service)
	}
	if c := m.conns[service]; c != nil {
		return c, nil
	}
	c, err := m.client.Dial(service)
	if err != nil {
		return nil, err
	}
	m.conns[service] = c
	m.teardown = append(m.teardown, task{"connection to " + service, func(context.Context) error { return c.Close() }})
	return c, nil
}

// onStop adds a step to the teardown.
func (m *Member) onStop(name string, fn func(context.Context) error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.teardown = append(m.teardown, task{name, fn})
}

// stepTimeout bounds each step of the teardown.
const stepTimeout = 5 * time.Second

// undo runs the teardown once, in reverse, and joins the errors of its steps under their names.
func (m *Member) undo(ctx context.Context) error {
	m.mu.Lock()
	steps := m.teardown
	m.teardown, m.stopped = nil, true
	m.mu.Unlock()
	var all error
	for _, t := range slices.Backward(steps) {
		if err := bounded(ctx, stepTimeout, t); err != nil {
			all = errors.Join(all, fmt.Errorf("stopping %s: %w", t.name, err))
		}
	}
	return all
}

// bounded runs a task and stops waiting for it at the limit, also if it ignores its context.
func bounded(ctx context.Context, limit time.Duration, t task) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), limit)
	defer cancel()
	done := make(chan error, 1)
	go func() { done <- t.fn(ctx) }()
	select {
	case err := <-done:
		return err
	case <-ctx.Done():
		return fmt.Errorf("it did not end within %v", limit)
	}
}
