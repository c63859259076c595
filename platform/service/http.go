package service

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"

	"bijou.dev/platform/overload"
)

// httpServer is an HTTP server on one listener.
type httpServer struct {
	name string
	l    net.Listener
	srv  *http.Server
}

// Handle serves h on a listener, HTTP/1.1 and HTTP/2 without TLS, with a span per request except on the admin
// listener, and the criticality that the caller gave it in the request's context. Connections, headers and bodies are
// bounded in number, size and time: a body has 8 MiB and 30 s at the most. Answers may stream for ever.
func (p *Process) Handle(listener string, h http.Handler) error {
	l, err := p.Listen(listener)
	if err != nil {
		return err
	}
	if listener != "admin" {
		h = overload.Middleware(p.tracer.Middleware(h)) // the span reads the pattern from the request it passed on
	}
	srv := &http.Server{
		Handler:           limitBodies(h),
		ReadHeaderTimeout: headerWithin,
		IdleTimeout:       idleFor,
		MaxHeaderBytes:    maxHeader,
		ErrorLog:          slog.NewLogLogger(p.log.Handler(), slog.LevelDebug),
		Protocols:         new(http.Protocols),
	}
	srv.Protocols.SetHTTP1(true)
	srv.Protocols.SetUnencryptedHTTP2(true)
	l = limitConns(l, maxHTTPConns, p.refused.WithLabelValues(listener))
	p.servers = append(p.servers, &httpServer{listener, l, srv})
	return nil
}

func (s *httpServer) serve() error {
	if err := s.srv.Serve(s.l); err != nil && !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("serving listener %s: %w", s.name, err)
	}
	return nil
}

// stop waits for requests in hand until ctx ends, then closes their connections: an open stream must not hold a
// process up for ever.
func (s *httpServer) stop(ctx context.Context) error {
	err := s.srv.Shutdown(ctx)
	if errors.Is(err, context.DeadlineExceeded) {
		return s.srv.Close()
	}
	return err
}
