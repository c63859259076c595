package kvetcd

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/grpc/connectivity"

	"bijou.dev/platform/errs"
	"bijou.dev/platform/kv"
	"bijou.dev/platform/kv/driver"
	"bijou.dev/platform/pace"
)

// follower is the one watch on a prefix.
type follower struct {
	prefix string
	feed   *driver.Feed
	stop   context.CancelFunc
}

func (f *follower) covers(key string) bool { return strings.HasPrefix(key, f.prefix) }

// Why a watch was lost.
var (
	errCanceled = errors.New("etcd ended the watch")
	errSilent   = errors.New("etcd sends nothing")
	errRewound  = errors.New("etcd has older data than before")
)

// Watch implements kv.Store.
func (s *Store) Watch(ctx context.Context, prefix string) kv.Watch {
	if err := kv.ValidatePrefix(prefix); err != nil {
		return driver.FailedWatch(prefix, err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.ctx.Err() != nil {
		return driver.FailedWatch(prefix, kv.ErrClosed)
	}
	f := s.feeds[prefix]
	if f == nil {
		follow, stop := context.WithCancel(s.ctx)
		f = &follower{prefix: prefix, stop: stop}
		f.feed = driver.NewFeed(prefix, func() { s.forget(f) })
		s.feeds[prefix] = f
		s.wg.Go(func() { s.follow(follow, f) })
	}
	return f.feed.Watch(ctx)
}

// forget ends the watch on a prefix that has no readers any more.
func (s *Store) forget(f *follower) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.feeds[f.prefix] == f && f.feed.Idle() {
		delete(s.feeds, f.prefix)
		f.stop()
	}
}

// follow lists and watches until ctx ends. Between attempts it waits: when etcd comes back, every client lists.
func (s *Store) follow(ctx context.Context, f *follower) {
	backoff := pace.Backoff{First: 100 * time.Millisecond, Max: 3 * time.Second}
	for {
		listed, err := s.tail(ctx, f)
		if ctx.Err() != nil {
			return
		}
		if listed {
			backoff.Reset()
		}
		s.lost(f, err)
		if !backoff.Wait(ctx) {
			return
		}
	}
}

func (s *Store) lost(f *follower, err error) {
	c := &s.count
	c.lost.Add(1)
	switch {
	case errors.Is(err, rpctypes.ErrCompacted):
		c.compacted.Add(1)
	case errors.Is(err, errCanceled):
		c.canceled.Add(1)
	case errors.Is(err, errSilent):
		c.silent.Add(1)
	case errors.Is(err, errRewound):
		c.rewound.Add(1)
	}
	f.feed.SetProblem(errs.Errorf(errs.Unavailable, "watching %s: %w", f.prefix, err))
	s.opts.Log.Debug("etcd watch lost, listing again", "prefix", f.prefix, "error", err)
}

// tail lists the prefix and then passes on its changes until the watch is lost; err says why. listed reports whether
// the list succeeded.
func (s *Store) tail(ctx context.Context, f *follower) (listed bool, err error) {
	ctx, cancel := context.WithCancel(clientv3.WithRequireLeader(ctx))
	defer cancel()
	connected := s.whileConnected(ctx, cancel)
	entries, rev, err := s.List(ctx, f.prefix)
	if err == nil && !connected {
		err = errCanceled // the connection came just now
	}
	if err != nil {
		return false, err
	}
	s.count.lists.Add(1)
	f.feed.Reset(entries, rev)
	beat := s.opts.Heartbeat
	giveUp := time.AfterFunc(2*beat, cancel) // Watch returns only when etcd has confirmed it
	changes := s.client.Watch(ctx, f.prefix, clientv3.WithPrefix(), clientv3.WithRev(int64(rev)+1),
		clientv3.WithProgressNotify(), clientv3.WithFragment(), clientv3.WithCreatedNotify())
	if !giveUp.Stop() {
		return true, fmt.Errorf("%w: no watch within %v", errSilent, 2*beat)
	}
	last := time.Now() // when etcd was heard
	tick := time.NewTimer(0)
	defer tick.Stop()
	for {
		select {
		case resp, ok := <-changes:
			if !ok {
				return true, errCanceled
			}
			last = time.Now()
			if err := s.apply(f.feed, resp); err != nil {
				return true, err
			}
		case <-tick.C:
			if quiet := time.Since(last); quiet > 2*beat {
				return true, fmt.Errorf("%w: nothing for %v", errSilent, quiet.Round(time.Millisecond))
			}
			s.askProgress(ctx)
			tick.Reset(pace.Jitter(beat*7/8, 0.1))
		}
	}
}

// whileConnected calls lost when there is no connection to etcd any more. False: there is none. etcd's client would go
// on with the watch by itself, from the revision after the last one. If etcd was restored from an older copy meanwhile
// and has got as many revisions as before, its changes up to that revision would never be seen here, and there would be
// no error.
func (s *Store) whileConnected(ctx context.Context, lost func()) bool {
	conn := s.client.ActiveConnection()
	bounded, cancel := context.WithTimeout(ctx, s.opts.Timeout)
	defer cancel()
	state := conn.GetState()
	for ; state == connectivity.Idle || state == connectivity.Connecting; state = conn.GetState() {
		conn.Connect()
		if !conn.WaitForStateChange(bounded, state) {
			return false
		}
	}
	if state != connectivity.Ready {
		return false
	}
	s.wg.Go(func() {
		if conn.WaitForStateChange(ctx, connectivity.Ready) {
			lost()
		}
	})
	return true
}

// askProgress asks etcd for a progress notification. It comes by the watch itself, so an error of the call does not
// matter: without a notification the watch counts as lost.
func (s *Store) askProgress(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, s.opts.Heartbeat/4+time.Millisecond)
	defer cancel()
	_ = s.client.RequestProgress(ctx)
}

// apply adds one response to the feed: all events of a revision as one update.
func (s *Store) apply(feed *driver.Feed, resp clientv3.WatchResponse) error {
	if err := resp.Err(); err != nil {
		if errors.Is(err, rpctypes.ErrCompacted) {
			return err
		}
		return fmt.Errorf("%w: %w", errCanceled, err)
	}
	rev := kv.Revision(resp.Header.Revision)
	if known, _ := feed.Revision(); rev < known {
		return fmt.Errorf("%w: at revision %d after %d", errRewound, rev, known)
	}
	if resp.IsProgressNotify() {
		feed.Advance(rev)
		return nil
	}
	for events := resp.Events; len(events) > 0; {
		n := 1
		for n < len(events) && events[n].Kv.ModRevision == events[0].Kv.ModRevision {
			n++
		}
		feed.Apply(update(events[:n]))
		s.count.updates.Add(1)
		events = events[n:]
	}
	return nil
}

func update(events []*clientv3.Event) kv.Update {
	u := kv.Update{Revision: kv.Revision(events[0].Kv.ModRevision)}
	for _, ev := range events {
		if ev.Type == clientv3.EventTypeDelete {
			u.Deletes = append(u.Deletes, string(ev.Kv.Key))
		} else {
			u.Puts = append(u.Puts, entry(ev.Kv))
		}
	}
	return u
}
