package config

import (
	"errors"
	"io"
	"maps"
	"slices"
	"sync"

	configv1 "bijou.dev/platform/api/config/v1"
	"bijou.dev/platform/errs"
	"bijou.dev/platform/names"

	"google.golang.org/protobuf/types/known/timestamppb"
)

// audience is the set of instances that watch this replica.
type audience struct {
	readers sync.WaitGroup // of the goroutines that receive acknowledgements

	amu      sync.Mutex // locked after state.mu if both are
	watchers map[*watcher]struct{}
	left     map[member]*configv1.InstanceStatus // the last status of instances that no longer watch
	acked    chan struct{}                       // closed and replaced when a status changes
	released chan struct{}                       // closed and replaced by Release
}

func newAudience() audience {
	return audience{
		watchers: map[*watcher]struct{}{},
		left:     map[member]*configv1.InstanceStatus{},
		acked:    make(chan struct{}),
		released: make(chan struct{}),
	}
}

// watcher is one stream.
type watcher struct {
	id   *configv1.Identity
	wake chan struct{}              // holds a token while there is something to send
	sent map[string]*configv1.Value // name -> value that was sent last; owned by the goroutine of the stream

	// Written with state.mu locked, read by the goroutine of the stream with state.mu locked for reading.
	dirty map[string]bool // names that may have changed

	released <-chan struct{}          // closed when the instance must watch another replica
	status   *configv1.InstanceStatus // guarded by audience.amu; replaced, not modified
}

// notify records for each watcher which names may have changed. Its stream sends them when it can, with all later
// ones in the same message. So a slow instance needs no more memory than there are names.
func (s *Server) notify(names []string) {
	s.amu.Lock()
	defer s.amu.Unlock()
	for w := range s.watchers {
		for _, name := range names {
			w.dirty[name] = true
		}
		select {
		case w.wake <- struct{}{}:
		default:
		}
	}
}

// Watch implements the contract.
func (s *Server) Watch(stream configv1.Config_WatchServer) error {
	hello, err := stream.Recv()
	if err != nil {
		return ended(err)
	}
	if err := checkIdentity(hello.GetIdentity()); err != nil {
		return err
	}
	w, snapshot, err := s.join(hello)
	if err != nil {
		return err
	}
	defer s.leave(w)
	if err := stream.Send(snapshot); err != nil {
		return err
	}
	received := make(chan error, 1)
	s.readers.Go(func() { received <- s.receive(stream, w) }) // ends with the stream, which ends with this function
	sent := snapshot.GetRevision()
	for {
		select {
		case <-w.wake:
		case err := <-received:
			return ended(err)
		case <-stream.Context().Done():
			return nil
		case <-w.released:
			return errs.Errorf(errs.Unavailable, "watching settings: this replica is stopping; watch another")
		}
		m := s.delta(w)
		if m.GetRevision() == sent && len(m.GetValues())+len(m.GetRemoved()) == 0 {
			continue
		}
		if err := stream.Send(m); err != nil {
			return err
		}
		sent = m.GetRevision()
	}
}

// ended returns the error of a stream whose last Recv failed: none if the client closed its side.
func ended(err error) error {
	if errors.Is(err, io.EOF) {
		return nil
	}
	return err
}

func checkIdentity(id *configv1.Identity) error {
	var bad errs.Violations
	at := bad.At("identity")
	if err := names.Service.Check(id.GetApp()); err != nil {
		at.Add("app", err.Error())
	}
	if err := names.ID.Check(id.GetInstance()); err != nil {
		at.Add("instance", err.Error())
	}
	for _, f := range [][2]string{
		{"environment", id.GetEnvironment()},
		{"region", id.GetRegion()},
		{"zone", id.GetZone()},
		{"version", id.GetVersion()},
	} {
		if f[1] == "" {
			continue
		}
		if err := names.ID.Check(f[1]); err != nil {
			at.Add(f[0], err.Error())
		}
	}
	return bad.Err("watching settings")
}

// join adds a watcher and returns the snapshot for it. Both happen at one moment, so that no change is missed.
func (s *Server) join(hello *configv1.WatchRequest) (*watcher, *configv1.WatchResponse, error) {
	s.state.mu.RLock()
	defer s.state.mu.RUnlock()
	if err := s.state.readLocked(); err != nil {
		return nil, nil, err
	}
	w := &watcher{
		id: hello.GetIdentity(), wake: make(chan struct{}, 1), sent: map[string]*configv1.Value{}, dirty: map[string]bool{},
	}
	m := &configv1.WatchResponse{Revision: s.state.head.GetRevision(), Snapshot: true}
	for _, name := range slices.Sorted(maps.Keys(s.state.values)) {
		if v := s.state.winnerLocked(name, w.id); v != nil {
			w.sent[name] = v
			m.Values = append(m.Values, v)
		}
	}
	s.amu.Lock()
	defer s.amu.Unlock()
	w.released = s.released
	s.watchers[w] = struct{}{}
	s.setStatusLocked(w, hello)
	return w, m, nil
}

// leave removes a watcher and keeps its last status.
func (s *Server) leave(w *watcher) {
	s.amu.Lock()
	defer s.amu.Unlock()
	delete(s.watchers, w)
	s.leftLocked(w)
	s.statusChangedLocked()
}

// delta returns what changed for the watcher since the last call. There may be no values in it, only a new revision.
func (s *Server) delta(w *watcher) *configv1.WatchResponse {
	s.state.mu.RLock()
	defer s.state.mu.RUnlock()
	m := &configv1.WatchResponse{Revision: s.state.head.GetRevision()}
	for _, name := range slices.Sorted(maps.Keys(w.dirty)) {
		v := s.state.winnerLocked(name, w.id)
		switch v {
		case w.sent[name]:
		case nil:
			delete(w.sent, name)
			m.Removed = append(m.Removed, name)
		default:
			w.sent[name] = v
			m.Values = append(m.Values, v)
		}
	}
	clear(w.dirty)
	return m
}

// receive reads acknowledgements until the stream ends.
func (s *Server) receive(stream configv1.Config_WatchServer, w *watcher) error {
	for {
		ack, err := stream.Recv()
		if err != nil {
			return err
		}
		for _, r := range ack.GetRejections() {
			s.log.Warn("config: an instance could not use a value", "app", w.id.GetApp(), "instance", w.id.GetInstance(),
				"name", shorten(r.GetName()), "revision", r.GetRevision(), "error", shorten(r.GetProblem()))
		}
		s.amu.Lock()
		s.setStatusLocked(w, ack)
		s.amu.Unlock()
	}
}

// maxRejections is how many refused values of one instance are kept for Status.
const maxRejections = 100

func (s *Server) setStatusLocked(w *watcher, ack *configv1.WatchRequest) {
	w.status = &configv1.InstanceStatus{
		Identity: w.id, Revision: ack.GetAppliedRevision(), Acknowledged: timestamppb.Now(),
		Rejections: ack.GetRejections()[:min(len(ack.GetRejections()), maxRejections)],
	}
	s.statusChangedLocked()
}

func (s *Server) statusChangedLocked() {
	close(s.acked)
	s.acked = make(chan struct{})
}
