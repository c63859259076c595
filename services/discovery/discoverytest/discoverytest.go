// Package discoverytest starts real registries in memory, for tests of code that needs one. It works inside
// testing/synctest bubbles.
package discoverytest

import (
	"context"
	"sync"
	"testing"

	discoveryv1 "bijou.dev/platform/api/discovery/v1"
	client "bijou.dev/platform/discovery"
	"bijou.dev/platform/memnet"
	"bijou.dev/platform/rpc"
	"bijou.dev/services/discovery"
	"google.golang.org/grpc"
)

// Options of a test server. All fields may be left zero.
type Options struct {
	// Registry are the options of the registry. Zero: the defaults, and a new store in memory.
	Registry discovery.Options
	// Net is the network to listen on. Nil: a new one.
	Net *memnet.Network
	// Addr is the address to listen on. Empty: a free port of host "discovery".
	Addr string
}

// Server is one running replica.
type Server struct {
	*discovery.Server
	// Net is the network that Addr is on.
	Net *memnet.Network
	// Addr is its address, for use as a seed.
	Addr string

	grpc   *grpc.Server
	cancel context.CancelFunc
	done   sync.WaitGroup
}

// NewServer starts a replica, with zero options if o is nil. It is stopped at the end of the test.
func NewServer(t testing.TB, o *Options) *Server {
	t.Helper()
	if o == nil {
		o = &Options{}
	}
	s := &Server{Net: o.Net, Addr: o.Addr, grpc: rpc.NewServer(rpc.ServerOptions{Log: o.Registry.Log})}
	if s.Net == nil {
		s.Net = memnet.New()
	}
	if s.Addr == "" {
		s.Addr = "discovery:0"
	}
	l, err := s.Net.Listen("tcp", s.Addr)
	if err != nil {
		t.Fatalf("discoverytest: %v", err)
	}
	s.Addr = l.Addr().String()
	if s.Server, err = discovery.NewServer(o.Registry); err != nil {
		t.Fatalf("discoverytest: %v", err)
	}
	discoveryv1.RegisterDiscoveryServer(s.grpc, s.Server)
	ctx, cancel := context.WithCancel(context.Background())
	s.cancel = cancel
	s.done.Go(func() { _ = s.Run(ctx) })      // it returns nil
	s.done.Go(func() { _ = s.grpc.Serve(l) }) // it returns when Stop is called
	t.Cleanup(s.Stop)
	return s
}

// Stop ends the replica at once. For its clients this is like a crash, but its presence is removed from the store, if
// the store can be reached. It may be called again.
func (s *Server) Stop() {
	s.grpc.Stop()
	s.cancel()
	s.done.Wait()
	_ = s.Close() // a store in memory closes without an error
}

// Client returns a running client of this replica (and of more seeds), stopped at the end of the test.
func (s *Server) Client(t testing.TB, name string, more ...string) *client.Client {
	t.Helper()
	c, err := client.New(client.Options{
		Seeds: append([]string{s.Addr}, more...), Name: name, DialContext: s.Net.DialContext,
	})
	if err != nil {
		t.Fatalf("discoverytest: %v", err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	var done sync.WaitGroup
	done.Go(func() { _ = c.Run(ctx) }) // it returns nil
	t.Cleanup(func() { cancel(); done.Wait() })
	return c
}
