package service

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"

	"google.golang.org/grpc"
)

// Names of the listeners that the platform itself serves.
const (
	adminListener = "admin" // its pages
	grpcListener  = "grpc"  // what Setup.GRPC registers, unless the service serves something else there
)

// server is a Server on its listener.
type server struct {
	listener string
	l        net.Listener
	srv      Server
}

func (s server) serve() error {
	err := s.srv.Serve(s.l)
	for _, ended := range []error{nil, net.ErrClosed, http.ErrServerClosed, grpc.ErrServerStopped} {
		if errors.Is(err, ended) {
			return nil
		}
	}
	return fmt.Errorf("serving listener %s: %w", s.listener, err)
}

func (s server) shutdown(ctx context.Context) error {
	if err := s.srv.Shutdown(ctx); err != nil {
		return fmt.Errorf("stopping listener %s: %w", s.listener, err)
	}
	return nil
}

// httpServer is an HTTP server that closes the connections that are still in use when Shutdown runs out of time: an
// open stream must not keep a process from stopping.
type httpServer struct{ *http.Server }

// Shutdown implements Server.
func (s httpServer) Shutdown(ctx context.Context) error {
	err := s.Server.Shutdown(ctx)
	if errors.Is(err, context.DeadlineExceeded) {
		return s.Close()
	}
	return err
}

// grpcServer is a gRPC server that sends GOAWAY and waits for calls in progress. GracefulStop alone never ends while
// a stream is open (grpc-go #4282 and many later reports), so Shutdown ends streams when it runs out of time.
type grpcServer struct{ *grpc.Server }

// Shutdown implements Server.
func (s grpcServer) Shutdown(ctx context.Context) error {
	done := make(chan struct{})
	go func() {
		s.GracefulStop()
		close(done)
	}()
	select {
	case <-done:
	case <-ctx.Done():
		s.Stop()
		<-done
	}
	return nil
}
