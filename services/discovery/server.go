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
	"google.golang.org/grpc"
)

// Server is one replica of the registry: an implementation of discovery.v1.Discovery. Make it with [NewServer] and
// keep [Server.Run] running.
type Server struct {
	discoveryv1.UnimplementedDiscoveryServer

	opts  Options
	log   *slog.Logger
	store kv.Store
	free  func() error // closes a store of our own
	reg   *registry
	watch kv.Watch

	stop context.CancelFunc // ends the watch of the store
	once sync.Once

	mu       sync.Mutex
	released chan struct{} // closed to end the streams of now
}

var _ discoveryv1.DiscoveryServer = (*Server)(nil)

// NewServer makes a replica over Options.Store, or over memory. It does not wait for the store.
func NewServer(opts Options) (*Server, error) {
	opts = opts.complete()
	if err := opts.validate(); err != nil {
		return nil, err
	}
	s := &Server{opts: opts, log: opts.Log, store: opts.Store, free: func() error { return nil }, released: make(chan struct{})}
	if s.store == nil {
		s.log.Warn("no store: keeping the registry in memory, for one replica only")
		mem := kvmem.New()
		s.store, s.free = mem, mem.Close
	}
	s.reg = newRegistry(opts, opts.Name+"-"+rand.Text()[:8])
	ctx, stop := context.WithCancel(context.Background())
	s.stop, s.watch = stop, s.store.Watch(ctx, root)
	return s, nil
}

// Run follows the store, ends leases and keeps the store up to date, until ctx ends; then it returns nil.
func (s *Server) Run(ctx context.Context) error {
	var wg sync.WaitGroup
	defer wg.Wait()
	wg.Go(func() { s.mirror(ctx) })
	wg.Go(func() { s.write(ctx) })
	wg.Go(func() { s.attend(ctx) })
	for last := time.Now(); pace.Sleep(ctx, pace.Jitter(tickEvery, 0.1)); {
		now := time.Now()
		s.look(ctx, now, last)
		last = now
	}
	return nil
}

// Release ends all streams of now with an error that sends their clients to another replica. New ones are accepted.
func (s *Server) Release() {
	s.mu.Lock()
	defer s.mu.Unlock()
	close(s.released)
	s.released = make(chan struct{})
}

// untilReleased is closed by the next Release.
func (s *Server) untilReleased() <-chan struct{} {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.released
}

// Close ends all streams and lets go of the store. Call it after Run has returned. It may be called again.
func (s *Server) Close() error {
	var err error
	s.once.Do(func() {
		s.Release()
		s.stop()
		err = s.free()
	})
	return err
}

// Register implements discovery.v1.Discovery.
func (s *Server) Register(stream grpc.BidiStreamingServer[discoveryv1.RegisterRequest, discoveryv1.RegisterResponse]) error {
	sess, released := newSession(), s.untilReleased()
	defer s.reg.closed(sess)
	go func() { // it ends with the stream, which ends when this handler returns
		sess.end(s.receive(stream, sess))
	}()
	for {
		select {
		case <-released:
			return errStopping()
		case err := <-sess.over:
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

// receive takes heartbeats until the stream ends or the instance leaves.
func (s *Server) receive(stream grpc.BidiStreamingServer[discoveryv1.RegisterRequest, discoveryv1.RegisterResponse], sess *session) error {
	for {
		req, err := stream.Recv()
		if err != nil {
			return endOf(err)
		}
		if err := checkHeartbeat(req); err != nil {
			return err
		}
		req.Instance.StatusSince = nil // ours to say
		if err := s.reg.heartbeat(sess, req, time.Now()); err != nil {
			return err
		}
		if req.GetDeregister() {
			s.log.Info("left", "service", req.GetInstance().GetService(), "id", req.GetInstance().GetId())
			return nil
		}
		wake(sess.wake)
	}
}

// Watch implements discovery.v1.Discovery.
func (s *Server) Watch(stream grpc.BidiStreamingServer[discoveryv1.WatchRequest, discoveryv1.WatchResponse]) error {
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
	speak := time.NewTimer(pace.Jitter(speakEvery, 0.1))
	defer speak.Stop()
	for {
		if err := stream.Send(m); err != nil {
			return err
		}
		speak.Reset(pace.Jitter(speakEvery, 0.1))
		select {
		case <-released:
			return errStopping()
		case err := <-w.over:
			return err
		case <-w.wake:
		case <-speak.C:
		}
		m = s.reg.news(w, time.Now())
	}
}

// List implements discovery.v1.Discovery.
func (s *Server) List(_ context.Context, req *discoveryv1.ListRequest) (*discoveryv1.ListResponse, error) {
	return &discoveryv1.ListResponse{
		Instances: s.reg.list(req.GetService()), SelfPreservation: s.reg.preserving(), StoreProblem: s.reg.storeProblem(),
	}, nil
}

// SetOverride implements discovery.v1.Discovery. It is refused while the store is away: an override must last.
func (s *Server) SetOverride(ctx context.Context, req *discoveryv1.SetOverrideRequest) (*discoveryv1.SetOverrideResponse, error) {
	if err := checkOverride(req); err != nil {
		return nil, err
	}
	k := key{req.GetService(), req.GetId()}
	clears := req.GetStatus() == discoveryv1.Status_STATUS_UNSPECIFIED
	if err := s.reg.mayOverride(k, clears); err != nil {
		return nil, err
	}
	if err := s.saveOverride(ctx, k, override{req.GetStatus(), req.GetAuthor(), req.GetReason()}); err != nil {
		return nil, err
	}
	s.log.Info("override", "service", k.service, "id", k.id, "status", req.GetStatus().String(), "author", req.GetAuthor(), "reason", req.GetReason())
	return &discoveryv1.SetOverrideResponse{Instance: s.reg.instance(k)}, nil
}

func endOf(err error) error {
	if errors.Is(err, io.EOF) || errs.KindOf(err) == errs.Canceled {
		return nil
	}
	return err
}

func errStopping() error {
	return errs.Errorf(errs.Unavailable, "this registry replica is stopping: use another one").Because("STOPPING")
}
