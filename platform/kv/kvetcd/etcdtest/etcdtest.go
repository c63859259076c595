// Package etcdtest runs a real etcd inside a test: the version the platform runs, on unix sockets, ready in well under
// a second, with no port to collide on.
package etcdtest

import (
	"context"
	"net/url"
	"os"
	"path/filepath"
	"testing"
	"time"

	"go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/server/v3/embed"
	"go.uber.org/zap"
	"google.golang.org/grpc"
)

// Server is one etcd. It cannot be used inside a testing/synctest bubble: its goroutines wait for real input.
type Server struct {
	t    testing.TB
	dir  string
	etcd *embed.Etcd  // nil while stopped
	grpc *grpc.Server // of etcd
}

// Start runs an empty etcd until the test ends.
func Start(t testing.TB) *Server {
	t.Helper()
	dir, err := os.MkdirTemp("", "etcd") // t.TempDir is too long for the path of a socket
	if err != nil {
		t.Fatal(err)
	}
	s := &Server{t: t, dir: dir}
	t.Cleanup(func() {
		s.Stop()
		_ = os.RemoveAll(dir)
	})
	s.Restart()
	return s
}

// Endpoints returns the addresses for clients. They stay the same over Stop and Restart.
func (s *Server) Endpoints() []string { return []string{"unix://" + s.Socket()} }

// Socket returns the path of the socket that clients connect to.
func (s *Server) Socket() string { return socket(s.dir) }

// Stop ends etcd and keeps its data. Stopping twice is fine.
func (s *Server) Stop() {
	if s.etcd == nil {
		return
	}
	s.grpc.Stop() // Close alone would wait five seconds for watches, which do not end
	s.etcd.Close()
	s.etcd = nil
}

// Wipe ends etcd and deletes its data: the next Restart is an empty etcd at the same address.
func (s *Server) Wipe() {
	s.t.Helper()
	s.Stop()
	if err := os.RemoveAll(filepath.Join(s.dir, "data")); err != nil {
		s.t.Fatal(err)
	}
}

// Restart stops etcd, if it runs, and starts it with its data. It returns when etcd serves.
func (s *Server) Restart() {
	s.t.Helper()
	s.Stop()
	cfg, serving := config(s.dir), make(chan *grpc.Server, 1)
	cfg.ServiceRegister = func(g *grpc.Server) { serving <- g }
	etcd, err := embed.StartEtcd(cfg)
	if err != nil {
		s.t.Fatalf("starting etcd: %v", err)
	}
	select {
	case s.grpc = <-serving: // it is ready, and has a listener
		s.etcd = etcd
	case err := <-etcd.Err():
		etcd.Close()
		s.t.Fatalf("starting etcd: %v", err)
	case <-time.After(30 * time.Second):
		etcd.Close()
		s.t.Fatal("starting etcd: not ready within 30s")
	}
}

// Compact deletes all history up to the current revision, and waits until it is deleted.
func (s *Server) Compact() {
	s.t.Helper()
	req := &etcdserverpb.CompactionRequest{Revision: s.etcd.Server.KV().Rev(), Physical: true}
	_, err := s.etcd.Server.Compact(s.t.Context(), req)
	if err != nil {
		s.t.Fatalf("compacting etcd: %v", err)
	}
}

// Revoke ends a lease, as if its owner had not been heard for a TTL.
func (s *Server) Revoke(lease int64) {
	s.t.Helper()
	_, err := s.etcd.Server.LeaseRevoke(context.Background(), &etcdserverpb.LeaseRevokeRequest{ID: lease})
	if err != nil {
		s.t.Fatalf("revoking etcd lease: %v", err)
	}
}

func config(dir string) *embed.Config {
	cfg := embed.NewConfig()
	cfg.Dir = filepath.Join(dir, "data")
	client := []url.URL{{Scheme: "unix", Path: socket(dir)}}
	peer := []url.URL{{Scheme: "unix", Path: filepath.Join(dir, "peer.sock")}}
	cfg.ListenClientUrls, cfg.AdvertiseClientUrls = client, client
	cfg.ListenPeerUrls, cfg.AdvertisePeerUrls = peer, peer
	cfg.InitialCluster = cfg.InitialClusterFromName(cfg.Name)
	cfg.TickMs, cfg.ElectionMs = 10, 100
	cfg.UnsafeNoFsync = true
	cfg.ZapLoggerBuilder = embed.NewZapLoggerBuilder(zap.NewNop())
	return cfg
}

func socket(dir string) string { return filepath.Join(dir, "client.sock") }
