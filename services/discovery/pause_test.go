package discovery_test

import (
	"context"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	discoveryv1 "bijou.dev/platform/api/discovery/v1"
	"bijou.dev/platform/discovery"
	"bijou.dev/platform/kv"
	registry "bijou.dev/services/discovery"
)

// pausable is a store whose watch can block the check of the leases, as if the process were stopped.
type pausable struct {
	kv.Store
	pause *atomic.Int64 // nanoseconds of the next pause
}

func (p pausable) Watch(ctx context.Context, prefix string) kv.Watch {
	return pausableWatch{p.Store.Watch(ctx, prefix), p.pause}
}

type pausableWatch struct {
	kv.Watch
	pause *atomic.Int64
}

func (w pausableWatch) Problem() error {
	<-time.After(time.Duration(w.pause.Swap(0)))
	return w.Watch.Problem()
}

// A registry that was stopped (SIGSTOP, a paused machine) got no heartbeats meanwhile. All leases have ended by its
// clock, but the instances may be live: it evicts none, and gives each a fresh lease.
func TestPausedRegistryEvictsNothing(t *testing.T) {
	inStack(t, func(t *testing.T, s *stack) {
		var pause atomic.Int64
		r := s.replica("discovery-1", func(o *registry.Options) { o.Store = pausable{o.Store, &pause} })
		m := s.joinAll("catalog", 2) // too few for self-preservation
		s.net.Cut("discovery-1")
		pause.Store(int64(15 * time.Second))
		after(17400 * time.Millisecond) // the pause, and the check after it
		want(t, "after the pause", r.list(), "1:UP 2:UP")
		s.net.Heal("discovery-1")
		m[1].crash()
		after(20 * time.Second)
		want(t, "a lease after the pause", r.list(), "1:UP")
	})
}

// The limits are for new instances. One that is registered stays, also as a new process of the same id.
func TestRegisteredInstanceIsAcceptedAtTheLimit(t *testing.T) {
	inStack(t, func(t *testing.T, s *stack) {
		r := s.replica("discovery-1", func(o *registry.Options) { o.MaxPerService, o.MaxInstances = 2, 2 })
		m := s.joinAll("catalog", 2)
		after(time.Minute)
		want(t, "renewed at the limit", r.list(), "1:UP 2:UP")
		m[0].crash()
		restarted := instance("catalog", "1")
		restarted.Version = "2"
		back := s.join(restarted, discovery.RegistrarOptions{})
		after(time.Second)
		if ok, why := back.Registered(); !ok {
			t.Errorf("a new process of a registered instance is refused at the limit: %s", why)
		}
		if got := s.state(r).GetInstances()[0].GetVersion(); got != "2" {
			t.Errorf("the version of the instance is %q, want that of the new process, 2", got)
		}
		if err := m[1].Leave(t.Context()); err != nil {
			t.Fatal(err)
		}
		third := s.join(instance("catalog", "3"), discovery.RegistrarOptions{})
		after(time.Second)
		if ok, why := third.Registered(); !ok {
			t.Errorf("after one instance has left, another one is still refused: %s", why)
		}
	})
}

// A watcher that has ended does not count.
func TestWatcherLimitCountsOpenStreams(t *testing.T) {
	inStack(t, func(t *testing.T, s *stack) {
		r := s.replica("discovery-1", func(o *registry.Options) { o.MaxWatchers = 1 })
		settle()
		watch := func() (discoveryv1.Discovery_WatchClient, context.CancelFunc, error) {
			ctx, cancel := context.WithCancel(t.Context())
			stream, err := s.rpc(r).Watch(ctx)
			if err != nil {
				t.Fatal(err)
			}
			if err := stream.Send(&discoveryv1.WatchRequest{}); err != nil {
				t.Fatal(err)
			}
			_, err = stream.Recv()
			return stream, cancel, err
		}
		_, end, err := watch()
		if err != nil {
			t.Fatalf("the first watcher: %v", err)
		}
		if _, _, err := watch(); err == nil || !strings.Contains(err.Error(), "limit") {
			t.Errorf("a second watcher: %v, want that the limit is reached", err)
		}
		end()
		settle()
		if _, _, err := watch(); err != nil {
			t.Errorf("a watcher after the first has ended: %v", err)
		}
	})
}

// An older process of an id is refused while the newer one renews, and accepted when the newer one's lease has ended
// but self-preservation keeps its record.
func TestOlderProcessComesBackAfterTheLeaseOfTheNewer(t *testing.T) {
	inStack(t, func(t *testing.T, s *stack) {
		s.replica("discovery-1")
		older := instance("catalog", "1")
		after(time.Second)
		members := s.joinAll("catalog", 3) // later, so newer
		back := s.join(older, discovery.RegistrarOptions{})
		after(time.Second)
		if ok, why := back.Registered(); ok || !strings.Contains(why, "started later") {
			t.Fatalf("while the newer process renews: registered %v, %q; want the reason of the refusal", ok, why)
		}
		for _, m := range members {
			m.crash()
		}
		after(25 * time.Second)
		if ok, why := back.Registered(); !ok {
			t.Errorf("after the lease of the newer process: not registered: %s", why)
		}
	})
}
