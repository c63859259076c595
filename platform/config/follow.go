package config

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"sync"
	"time"

	configv1 "bijou.dev/platform/api/config/v1"
	"bijou.dev/platform/pace"

	"google.golang.org/grpc"
)

const (
	maxMessage    = 64 << 20 // bytes of one received message; a snapshot has all values
	minDelay      = 100 * time.Millisecond
	maxDelay      = 5 * time.Second
	maxRejections = 100 // in one acknowledgement
)

// follow opens a stream to the service, and another one whenever it breaks, until ctx ends.
func (s *LiveSet) follow(ctx context.Context) {
	backoff := pace.Backoff{First: minDelay, Max: maxDelay}
	for {
		err := s.receive(ctx)
		if ctx.Err() != nil {
			return
		}
		if s.disconnected(err) {
			backoff.Reset()
			s.log.WarnContext(ctx, "settings: disconnected from the config service, keeping the values in use",
				"revision", s.Revision(), "error", err)
		}
		s.dropExpired(time.Now())
		if !backoff.Wait(ctx) {
			return
		}
	}
}

// receive opens one stream and applies what it carries until it ends. It always returns an error.
func (s *LiveSet) receive(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	var acks sync.WaitGroup
	defer acks.Wait()
	defer cancel()
	stream, err := s.client.Watch(ctx, grpc.MaxCallRecvMsgSize(maxMessage))
	if err != nil {
		return err
	}
	hello := s.acknowledgement()
	hello.Identity = s.identity
	if err := stream.Send(hello); err != nil && !errors.Is(err, io.EOF) { // after io.EOF, Recv returns the reason
		return err
	}
	acks.Go(func() { s.acknowledge(ctx, stream) })
	for first := true; ; first = false {
		m, err := stream.Recv()
		if err != nil {
			return err
		}
		if first != m.GetSnapshot() {
			return fmt.Errorf("following settings: revision %d came as snapshot %t, want only the first to be one",
				m.GetRevision(), m.GetSnapshot())
		}
		s.apply(m)
		if first {
			s.log.InfoContext(ctx, "settings: following the config service",
				"revision", m.GetRevision(), "values", len(m.GetValues()))
		}
	}
}

// apply uses a message of the service. Each Value changes at once, though not all at the same instant. The message is
// acknowledged after all watchers have returned.
func (s *LiveSet) apply(m *configv1.WatchResponse) {
	s.mu.Lock()
	if m.GetSnapshot() {
		// A lower revision means that the service lost data, perhaps our declarations too. At revision 0 it may have.
		if len(s.declared) > 0 && (m.GetRevision() < s.revision || m.GetRevision() == 0) {
			signal(s.declare)
		}
		s.retainLocked(m.GetValues())
		s.connected, s.since, s.problem = true, time.Now(), nil
	}
	for _, name := range m.GetRemoved() {
		s.removeLocked(name)
	}
	for _, v := range m.GetValues() {
		s.setLocked(v)
		if r := s.rejections[v.GetName()]; r != nil {
			s.log.Warn("settings: refusing value, keeping the one in use",
				"name", r.GetName(), "revision", r.GetRevision(), "error", r.GetProblem())
		}
	}
	s.revision = m.GetRevision()
	s.refreshLocked()
	s.mu.Unlock()
	s.callWatchers()
	signal(s.ack)
	signal(s.save)
}

// retainLocked removes all names that a snapshot does not have.
func (s *LiveSet) retainLocked(snapshot []*configv1.Value) {
	keep := make(map[string]bool, len(snapshot))
	for _, v := range snapshot {
		keep[v.GetName()] = true
	}
	maps.DeleteFunc(s.values, func(name string, _ *configv1.Value) bool { return !keep[name] })
	maps.DeleteFunc(s.rejections, func(name string, _ *configv1.Rejection) bool { return !keep[name] })
}

// disconnected records why the stream ended, and reports whether the set was connected until now.
func (s *LiveSet) disconnected(err error) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	was := s.connected
	if was {
		s.connected, s.since = false, time.Now()
	}
	s.problem = fmt.Errorf("following settings: %w", err)
	return was
}

// acknowledge reports the revision in use after each change. Changes that come quickly share one report. If the stream
// breaks, receive gets the error.
func (s *LiveSet) acknowledge(ctx context.Context, stream configv1.Config_WatchClient) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-s.ack:
		}
		if connected, _ := s.Connected(); !connected {
			continue
		}
		if stream.Send(s.acknowledgement()) != nil {
			return
		}
	}
}

func (s *LiveSet) acknowledgement() *configv1.WatchRequest {
	s.mu.Lock()
	defer s.mu.Unlock()
	ack := &configv1.WatchRequest{AppliedRevision: s.revision}
	for _, name := range slices.Sorted(maps.Keys(s.rejections)) {
		if len(ack.Rejections) == maxRejections {
			break
		}
		ack.Rejections = append(ack.Rejections, s.rejections[name])
	}
	return ack
}

func (s *LiveSet) declarations() *configv1.DeclareRequest {
	s.mu.Lock()
	defer s.mu.Unlock()
	req := &configv1.DeclareRequest{App: s.identity.GetApp()}
	for _, name := range slices.Sorted(maps.Keys(s.declared)) {
		req.Properties = append(req.Properties, s.declared[name].Proto())
	}
	return req
}

// dropExpired removes overrides that have expired. It is called while the set is disconnected. A connected set leaves
// this to the service, which knows the value of the next layer. Without the service the default is used instead, as
// after a start without a file. The file needs no change: load ignores what has expired.
func (s *LiveSet) dropExpired(now time.Time) {
	s.mu.Lock()
	for name, v := range s.values {
		if Expired(v, now) {
			s.log.Warn("settings: an override expired while the config service is away, using the default",
				"name", name, "expires", v.GetExpires().AsTime())
			s.removeLocked(name)
		}
	}
	s.refreshLocked()
	s.mu.Unlock()
	s.callWatchers()
}
