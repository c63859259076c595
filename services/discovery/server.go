package discovery

import (
	"context"
	"crypto/rand"
	"errors"
	"io"
	"log/slog"
	"sync"
	"time"

	discoveryv1 "bijou.dev/platform/api/discovery/v1"
	"bijou.dev/platform/errs"
	"bijou.dev/platform/kv"
	"bijou.dev/platform/kv/kvmem"
	"bijou.dev/platform/pace"
)

// Server is one replica of the registry: an implementation of discovery.v1.Discovery. Make it with [NewServer] and
// keep [Server.Run] running.
type Server struct {
	discoveryv1.UnimplementedDiscoveryServer

	opts       Options
	log        *slog.Logger
	store      kv.Store
	closeStore func() error // closes the store, if this server has made it
	reg        *registry
	watch      kv.Watch

	stop context.CancelFunc // ends the watch of the store
	once sync.Once

	mu       sync.Mutex
	released chan struct{} // closed, and replaced, to end the open streams
}

var _ discoveryv1.DiscoveryServer = (*Server)(nil)

// NewServer makes a replica over Options.Store, or over a store in memory; Options.EtcdEndpoints are used by [New]
// only. It does not wait for the store. An error has kind errs.Invalid and names the bad options.
func NewServer(opts Options) (*Server, error) {
	opts, err := opts.complete()
	if err != nil {
		return nil, err
	}
	s := &Server{
		opts: opts, log: opts.Log, store: opts.Store, closeStore: func() error { return nil },
		released: make(chan struct{}),
	}
	if s.store == nil {
		s.log.Warn("no store: the registry is in memory, run one replica only")
		mem := kvmem.New()
		s.store, s.closeStore = mem, mem.Close
	}
	s.reg = newRegistry(opts, opts.Name+"-"+rand.Text()[:8])
	ctx, stop := context.WithCancel(context.Background())
	s.stop, s.watch = stop, s.store.Watch(ctx, root)
	return s, nil
}

// Run follows the store, ends leases and writes changes to the store, until ctx ends; then it returns nil.
func (s *Server) Run(ctx context.Context) error {
	var wg sync.WaitGroup
	defer wg.Wait()
	wg.Go(func() { s.mirror(ctx) })
	wg.Go(func() { s.write(ctx) })
	wg.Go(func() { s.keepPresence(ctx) })
	for last := time.Now(); pace.Sleep(ctx, pace.Jitter(tickEvery, 0.1)); {
		now := time.Now()
		s.tick(ctx, now, last)
		last = now
	}
	return nil
}

// Release ends all open streams with an error, so that their clients use another replica. New streams are accepted.
func (s *Server) Release() {
	s.mu.Lock()
	defer s.mu.Unlock()
	close(s.released)
	s.released = make(chan struct{})
}

// untilReleased returns a channel that is closed by the next Release.
func (s *Server) untilReleased() <-chan struct{} {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.released
}

// Close ends all streams and stops to follow the store. Call it after Run has returned. It may be called again.
func (s *Server) Close() error {
	var err error
	s.once.Do(func() {
		s.Release()
		s.stop()
		err = s.closeStore()
	})
	return err
}

// Register implements discovery.v1.Discovery.
func (s *Server) Register(stream discoveryv1.Discovery_RegisterServer) error {
	sess, released := newSession(), s.untilReleased()
	defer s.reg.closed(sess)
	go func() { // it ends with the stream, which ends when this handler returns
		sess.end(s.receive(stream, sess))
	}()
	for {
		select {
		case <-released:
			return errStopping()
		case err := <-sess.ended:
			return err
		case <-sess.wake:
			if m := s.reg.answer(sess); m != nil {
				if err := stream.Send(m); err != nil {
					return err
				}
			}
		}
	}
}

// receive handles heartbeats until the stream ends or the instance leaves.
func (s *Server) receive(stream discoveryv1.Discovery_RegisterServer, sess *session) error {
	for {
		req, err := stream.Recv()
		if err != nil {
			return endOf(err)
		}
		if err := checkHeartbeat(req); err != nil {
			return err
		}
		req.Instance.StatusSince = nil // set by the registry only
		if err := s.reg.heartbeat(sess, req, time.Now()); err != nil {
			return err
		}
		if req.GetDeregister() {
			s.log.Info("left", "service", req.GetInstance().GetService(), "instance", req.GetInstance().GetId())
			return nil
		}
		wake(sess.wake)
	}
}

// Watch implements discovery.v1.Discovery.
func (s *Server) Watch(stream discoveryv1.Discovery_WatchServer) error {
	req, err := stream.Recv()
	if err != nil {
		return endOf(err)
	}
	if err := checkWatch(req); err != nil {
		return err
	}
	w, released := newWatcher(req), s.untilReleased()
	m, err := s.reg.follow(w, time.Now())
	if err != nil {
		return err
	}
	defer s.reg.unfollow(w)
	go func() { // it ends with the stream, which ends when this handler returns
		for {
			req, err := stream.Recv()
			if err == nil {
				err = s.reg.ack(w, req.GetAppliedVersion(), time.Now())
			}
			if err != nil {
				w.end(endOf(err))
				return
			}
		}
	}()
	refresh := time.NewTimer(pace.Jitter(refreshEvery, 0.1))
	defer refresh.Stop()
	for {
		if err := stream.Send(m); err != nil {
			return err
		}
		refresh.Reset(pace.Jitter(refreshEvery, 0.1))
		select {
		case <-released:
			return errStopping()
		case err := <-w.ended:
			return err
		case <-w.wake:
		case <-refresh.C:
		}
		m = s.reg.changes(w, time.Now())
	}
}

// List implements discovery.v1.Discovery.
func (s *Server) List(_ context.Context, req *discoveryv1.ListRequest) (*discoveryv1.ListResponse, error) {
	return &discoveryv1.ListResponse{
		Instances:        s.reg.list(req.GetService()),
		SelfPreservation: s.reg.preserving(),
		StoreProblem:     s.reg.storeProblem(),
	}, nil
}

// SetOverride implements discovery.v1.Discovery. It is refused while the store is down: an override must survive a
// restart.
func (s *Server) SetOverride(
	ctx context.Context, req *discoveryv1.SetOverrideRequest,
) (*discoveryv1.SetOverrideResponse, error) {
	if err := checkOverride(req); err != nil {
		return nil, err
	}
	k := key{req.GetService(), req.GetId()}
	clears := req.GetStatus() == discoveryv1.Status_STATUS_UNSPECIFIED
	if err := s.reg.checkOverridable(k, clears); err != nil {
		return nil, err
	}
	if err := s.saveOverride(ctx, k, override{req.GetStatus(), req.GetAuthor(), req.GetReason()}); err != nil {
		return nil, err
	}
	s.log.Info("override", "service", k.service, "instance", k.id, "status", req.GetStatus().String(),
		"author", req.GetAuthor(), "reason", req.GetReason())
	return &discoveryv1.SetOverrideResponse{Instance: s.reg.instance(k)}, nil
}

// endOf returns why a stream has ended; nil: the client has closed it.
func endOf(err error) error {
	if errors.Is(err, io.EOF) || errs.KindOf(err) == errs.Canceled {
		return nil
	}
	return err
}

func errStopping() error {
	return errs.Errorf(errs.Unavailable, "this registry replica is stopping: use another one").Because("STOPPING")
}
