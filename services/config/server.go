package config

import (
	"context"
	"log/slog"

	configv1 "bijou.dev/platform/api/config/v1"
	"bijou.dev/platform/kv"
	"bijou.dev/platform/kv/kvetcd"

	"golang.org/x/sync/errgroup"
)

// Server is one replica of the service. [New] adds one to a process; a Server can also be registered with
// [configv1.RegisterConfigServer] alone. The store keeps everything. A Server has a copy of it in memory.
type Server struct {
	configv1.UnimplementedConfigServer

	opts    Options
	log     *slog.Logger
	store   kv.Store
	close   func() error // closes what NewServer opened
	state   *state
	writing chan struct{} // holds a token while a publish of this replica is running
	audience
}

// NewServer returns a replica. [Server.Run] reads the store; until that is done, all methods of the contract return an
// error of kind errs.Unavailable.
func NewServer(o Options) (*Server, error) {
	o, err := o.complete()
	if err != nil {
		return nil, err
	}
	s := &Server{
		opts: o, log: o.Log, store: o.Store, close: func() error { return nil }, state: newState(o.Log),
		writing: make(chan struct{}, 1), audience: newAudience(),
	}
	s.state.onNames = s.notify
	if s.store == nil {
		etcd, err := kvetcd.New(kvetcd.Options{Endpoints: o.EtcdEndpoints, Log: o.Log})
		if err != nil {
			return nil, err
		}
		s.store, s.close = etcd, etcd.Close
	}
	return s, nil
}

// Run follows the store and removes expired overrides until ctx ends. Then it ends all watches, as [Server.Release]
// does, and returns nil.
func (s *Server) Run(ctx context.Context) error {
	defer s.Release()
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error { return s.state.follow(ctx, s.store) })
	group.Go(func() error { return s.expire(ctx) })
	return group.Wait()
}

// Release ends all watches of this replica, so that the instances watch another one. Later watches are not affected.
func (s *Server) Release() {
	s.amu.Lock()
	defer s.amu.Unlock()
	close(s.released)
	s.released = make(chan struct{})
}

// Close closes the store if NewServer opened it. Run must have returned before, and gRPC must have stopped.
func (s *Server) Close() error {
	s.Release()
	s.readers.Wait()
	return s.close()
}

// Loaded returns why the replica cannot serve yet, or nil. Once it is nil it stays nil: a replica that has read the
// store serves reads from memory, whatever happens to the store.
func (s *Server) Loaded() error {
	s.state.mu.RLock()
	defer s.state.mu.RUnlock()
	return s.state.readLocked()
}

// Problem returns why nothing can be published at the moment, with the cause, or nil. It is for operators of this
// service. Writers get a text without the cause.
func (s *Server) Problem() error {
	s.state.mu.RLock()
	defer s.state.mu.RUnlock()
	if err := s.state.readLocked(); err != nil {
		return err
	}
	return s.state.problemLocked()
}

var _ configv1.ConfigServer = (*Server)(nil)
