package service

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"time"

	"bijou.dev/platform/overload"
)

// httpServer is an HTTP server on one listener.
type httpServer struct {
	name string
	l    net.Listener
	srv  *http.Server
}

// Handle serves h on a listener, HTTP/1.1 and HTTP/2 without TLS, with a span per request except on the admin
// listener, and the criticality that the caller gave it in the request's context. Time-outs are set against clients that send slowly; answers may stream for ever.
func (p *Process) Handle(listener string, h http.Handler) error {
	l, err := p.Listen(listener)
	if err != nil {
		return err
	}
	if listener != "admin" {
		h = overload.Middleware(p.tracer.Middleware(h)) // the span reads the pattern from the request it passed on
	}
	srv := &http.Server{
		Handler:           h,
		ReadHeaderTimeout: 10 * time.Second, // slow loris
		IdleTimeout:       2 * time.Minute,  // longer than a caller's pool, so that callers close first
		MaxHeaderBytes:    32 << 10,
		ErrorLog:          slog.NewLogLogger(p.log.Handler(), slog.LevelDebug),
		Protocols:         new(http.Protocols),
	}
	srv.Protocols.SetHTTP1(true)
	srv.Protocols.SetUnencryptedHTTP2(true)
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
