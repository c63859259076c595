// Package configtest starts real configuration services in memory, for tests of programs that follow settings. It works
// inside testing/synctest bubbles.
package configtest

import (
	"context"
	"sync"
	"testing"

	configv1 "bijou.dev/platform/api/config/v1"
	settings "bijou.dev/platform/config"
	"bijou.dev/platform/kv/kvmem"
	"bijou.dev/platform/memnet"
	"bijou.dev/platform/rpc"
	"bijou.dev/services/config"

	"google.golang.org/grpc"
)

// Options are the options of a test server. The zero value is one replica with a network and a store of its own.
type Options struct {
	// Config are the options of the service. Zero: a store in memory, which it also has
	// with neither EtcdEndpoints nor Store.
	Config config.Options
	// Net is the network to listen on. Nil: a new one.
	Net *memnet.Network
	// Addr is where to listen. Empty: a free port of host "config".
	Addr string
}

// Server is one running replica.
type Server struct {
	*config.Server
	// Net is the network that Addr is on.
	Net *memnet.Network
	// Addr is where it serves gRPC.
	Addr string

	grpc   *grpc.Server
	cancel context.CancelFunc
	done   sync.WaitGroup
}

// NewServer starts a replica. Nil options mean the zero value. It is stopped at the end of the test.
func NewServer(t testing.TB, o *Options) *Server {
	t.Helper()
	if o == nil {
		o = &Options{}
	}
	if o.Config.Store == nil && len(o.Config.EtcdEndpoints) == 0 {
		o.Config.Store = kvmem.New()
	}
	s := &Server{Net: o.Net, Addr: o.Addr, grpc: rpc.NewServer(rpc.ServerOptions{Log: o.Config.Log})}
	if s.Net == nil {
		s.Net = memnet.New()
	}
	if s.Addr == "" {
		s.Addr = "config:0"
	}
	l, err := s.Net.Listen("tcp", s.Addr)
	if err != nil {
		t.Fatalf("configtest: %v", err)
	}
	s.Addr = l.Addr().String()
	if s.Server, err = config.NewServer(o.Config); err != nil {
		t.Fatalf("configtest: %v", err)
	}
	configv1.RegisterConfigServer(s.grpc, s.Server)
	ctx, cancel := context.WithCancel(context.Background())
	s.cancel = cancel
	s.done.Go(func() { _ = s.Run(ctx) })      // it returns nil when ctx ends
	s.done.Go(func() { _ = s.grpc.Serve(l) }) // it returns when Stop is called
	t.Cleanup(s.Stop)
	return s
}

// Stop ends the replica at once, as a crash would for its clients. It may be called again.
func (s *Server) Stop() {
	s.grpc.Stop()
	s.cancel()
	s.done.Wait()
	_ = s.Close() // a store in memory closes without an error
}

// Conn returns a connection to the replica, closed at the end of the test.
func (s *Server) Conn(t testing.TB) *rpc.Conn {
	t.Helper()
	client := rpc.NewClient(rpc.ClientOptions{Service: "configtest", DialContext: s.Net.DialContext})
	conn, err := client.Dial("passthrough:///" + s.Addr)
	if err != nil {
		t.Fatalf("configtest: %v", err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	return conn
}

// Client returns a client of the replica.
func (s *Server) Client(t testing.TB) configv1.ConfigClient {
	return configv1.NewConfigClient(s.Conn(t))
}

// Follow returns a running set of settings that the replica feeds, for an instance of an app. It is stopped at the
// end of the test.
func (s *Server) Follow(t testing.TB, id *configv1.Identity) *settings.LiveSet {
	t.Helper()
	set, err := settings.Open(settings.Options{Identity: id, Conn: s.Conn(t)})
	if err != nil {
		t.Fatalf("configtest: %v", err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	var done sync.WaitGroup
	done.Go(func() { _ = set.Run(ctx) }) // it returns nil
	t.Cleanup(func() { cancel(); done.Wait() })
	return set
}
