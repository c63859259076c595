package service

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"sync"

	"bijou.dev/platform/errs"
	"bijou.dev/platform/httpapi"
	"bijou.dev/platform/overload"

	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/grpc"
)

// SetupFunc builds a service: it registers servers, handlers, checks, background work and teardown on s, and returns
// before anything is served. s can be used until the function returns, and ctx ends then.
type SetupFunc func(ctx context.Context, s *Setup) error

// Setup registers the parts of a service on its process. It can be used only until its [SetupFunc] returns: after
// that [Setup.Handle], [Setup.Serve] and [Setup.ServeGRPC] return an error, and any other registration ends the
// process with an error, because it would have no effect.
type Setup struct {
	*Member

	refused *prometheus.CounterVec // connections, by listener
	admin   *httpapi.Mux
	grpc    *grpc.Server
	broken  chan<- error // ends the process

	mu      sync.Mutex // guards what follows
	sealed  bool
	claimed map[string]bool // listeners that something serves
	grpcs   int             // services registered on grpc
	plan    plan
}

// plan is what a process runs.
type plan struct {
	servers    []server
	background []task
	checks     []check
	releases   []func()
}

// errSealed says why a registration was refused.
var errSealed = errors.New("setup has ended; register everything before the setup function returns")

// add changes the plan, or ends the process if setup is over.
func (s *Setup) add(what string, change func(*plan)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.sealed {
		change(&s.plan)
		return
	}
	err := errs.Errorf(errs.Internal, "calling %s of %s: %w", what, s.Name(), errSealed)
	s.log.Error("misusing Setup", "error", err.Error())
	select {
	case s.broken <- err:
	default: // the process ends already
	}
}

// Go runs fn for as long as the process runs. An error ends the process. fn returns nil when its context ends, which
// is after the listeners have drained.
func (s *Setup) Go(name string, fn func(context.Context) error) {
	s.add(fmt.Sprintf("Go(%q)", name), func(p *plan) { p.background = append(p.background, task{name, fn}) })
}

// OnStop registers a step of the teardown. Steps run last in, first out, after the listeners have drained and the
// background work has ended. Each has 5 s.
func (s *Setup) OnStop(name string, fn func(context.Context) error) {
	s.add(fmt.Sprintf("OnStop(%q)", name), func(*plan) { s.onStop(name, fn) })
}

// OnDrain registers a function that ends long-lived streams. It is called when all callers know that the process is
// leaving, and again a few times a second until the listeners are closed, because a client may come back before that.
// Without it an open stream delays the stop until the drain time is over.
func (s *Setup) OnDrain(fn func()) {
	s.add("OnDrain", func(p *plan) { p.releases = append(p.releases, fn) })
}

// Ready adds a readiness check. While fn returns an error, the process is DOWN in the registry and /readyz shows the
// error.
func (s *Setup) Ready(name string, fn func() error) {
	s.add(fmt.Sprintf("Ready(%q)", name), func(p *plan) {
		p.checks = append(p.checks, check{name: name, needed: true, fn: fn})
	})
}

// Note adds a check that /readyz shows but that does not make the process unready. Use it for what makes the service
// work worse, where sending the requests to another instance would not help.
func (s *Setup) Note(name string, fn func() error) {
	s.add(fmt.Sprintf("Note(%q)", name), func(p *plan) {
		p.checks = append(p.checks, check{name: name, fn: fn})
	})
}

// Admin returns the mux of the listener "admin". The paths of the platform's own pages are taken.
func (s *Setup) Admin() *httpapi.Mux { return s.admin }

// GRPC returns where to register gRPC services. They are served on the listener "grpc".
func (s *Setup) GRPC() grpc.ServiceRegistrar { return registrar{s} }

// registrar registers on the process's gRPC server until setup ends. After that grpc-go would exit the process.
type registrar struct{ s *Setup }

// RegisterService implements grpc.ServiceRegistrar.
func (r registrar) RegisterService(desc *grpc.ServiceDesc, impl any) {
	r.s.add(fmt.Sprintf("GRPC to register %s", desc.ServiceName), func(*plan) {
		r.s.grpcs++
		r.s.grpc.RegisterService(desc, impl)
	})
}

// Handle serves h on a listener, HTTP/1.1 and HTTP/2 without TLS. Each request has a span, except on the listener
// "admin", and the criticality that its caller gave it in its context. Connections, headers and bodies are bounded in
// number, size and time: a body has at most 8 MiB and 30 s. Responses may stream without an end.
func (s *Setup) Handle(listener string, h http.Handler) error {
	if listener != adminListener {
		h = overload.Middleware(s.tracer.Middleware(h)) // the span reads the pattern from the request it passed on
	}
	srv := &http.Server{
		Handler:           limitBodies(h),
		BaseContext:       func(net.Listener) context.Context { return errs.WithLog(context.Background(), s.log) },
		ReadHeaderTimeout: headerWithin,
		IdleTimeout:       idleFor,
		MaxHeaderBytes:    maxHeader,
		ErrorLog:          slog.NewLogLogger(s.log.Handler(), slog.LevelDebug),
		Protocols:         new(http.Protocols),
	}
	srv.Protocols.SetHTTP1(true)
	srv.Protocols.SetUnencryptedHTTP2(true)
	return s.serve(listener, maxHTTPConns, httpServer{srv})
}

// ServeGRPC serves a gRPC server of the service's own on a listener. Most services need only [Setup.GRPC].
func (s *Setup) ServeGRPC(listener string, srv *grpc.Server) error {
	return s.serve(listener, maxGRPCConns, grpcServer{srv})
}

// Serve serves any other server on a listener. Limits of connections, headers and bodies are up to srv.
func (s *Setup) Serve(listener string, srv Server) error { return s.serve(listener, 0, srv) }

// serve claims a listener for srv, with at most limit connections at a time; 0: any number.
func (s *Setup) serve(listener string, limit int64, srv Server) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	l := s.listeners[listener]
	var why error
	switch {
	case s.sealed:
		why = errSealed
	case l == nil:
		why = fmt.Errorf("there is no such listener; add %s=:port to -listen", listener)
	case s.claimed[listener]:
		why = errors.New("it is already served")
	}
	if why != nil {
		return fmt.Errorf("serving %s on listener %q: %w", s.Name(), listener, why)
	}
	s.claimed[listener] = true
	if limit > 0 {
		l = limitConns(l, limit, s.refused.WithLabelValues(listener))
	}
	s.plan.servers = append(s.plan.servers, server{listener, l, srv})
	return nil
}

// seal ends the setup and returns what was registered.
func (s *Setup) seal() plan {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.sealed = true
	return s.plan
}

// unserved returns an error if a listener was bound that nothing serves.
func (s *Setup) unserved() error {
	for name := range s.listeners {
		if !s.claimed[name] {
			return fmt.Errorf("listening on %q: %s serves nothing there; remove it from -listen", name, s.Name())
		}
	}
	return nil
}

// Server accepts and serves the connections of one listener. *http.Server is an example.
type Server interface {
	// Serve serves until Shutdown. Then it returns nil, net.ErrClosed, http.ErrServerClosed or grpc.ErrServerStopped.
	// Any other error ends the process.
	Serve(l net.Listener) error
	// Shutdown accepts no more connections and waits for requests in progress until ctx ends.
	Shutdown(ctx context.Context) error
}
