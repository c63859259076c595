package discovery_test

import (
	"context"
	"errors"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	discoveryv1 "bijou.dev/platform/api/discovery/v1"
	"bijou.dev/platform/discovery"
	"bijou.dev/platform/errs"
	"bijou.dev/platform/kv"
	"bijou.dev/platform/kv/kvmem"
)

func TestReplicasAgree(t *testing.T) {
	inStack(t, func(t *testing.T, s *stack) {
		a, b := s.replica("discovery-1"), s.replica("discovery-2")
		settle()
		m := s.joinAll("catalog", 2, a.Addr)
		s.joinAll("viewing", 1, b.Addr)
		ca, cb := s.follow(a), s.follow(b)
		for _, c := range []*discovery.Client{ca, cb} {
			want(t, "catalog", c.Instances("catalog"), "1:UP 2:UP")
			want(t, "viewing", c.Instances("viewing"), "1:UP")
		}
		m[0].SetStatus(discovery.Down)
		if err := errors.Join(m[1].Drain(t.Context()), m[1].Leave(t.Context())); err != nil {
			t.Fatal(err)
		}
		settle()
		want(t, "at the owner", ca.Instances("catalog"), "1:DOWN")
		want(t, "at the other", cb.Instances("catalog"), "1:DOWN")
		for i, in := range s.state(b).GetInstances() {
			want := s.state(a).GetInstances()[i].GetStatusSince().AsTime()
			if got := in.GetStatusSince().AsTime(); !got.Equal(want) {
				t.Errorf("%s has its status since %v, want %v as at its owner", in.GetId(), got, want)
			}
		}

		after(time.Minute)
		m[0].SetStatus(discovery.Up)
		settle()
		m[0].crash()
		after(13 * time.Second)
		want(t, "evicted by the owner", b.list(), "1:UP")
	})
}

// list returns the instances of all services, as a replica lists them.
func (r *replica) list() []discovery.Instance {
	resp, err := r.List(context.Background(), &discoveryv1.ListRequest{})
	if err != nil {
		return nil
	}
	var out []discovery.Instance
	for _, p := range resp.GetInstances() {
		out = append(out, discovery.Instance{
			ID: p.GetId(), Status: discovery.Status(p.GetStatus()), Suspect: p.GetSuspect(),
		})
	}
	return out
}

func TestInstancesOfACrashedReplicaGetAFreshLease(t *testing.T) {
	inStack(t, func(t *testing.T, s *stack) {
		a, b := s.replica("discovery-1"), s.replica("discovery-2")
		settle()
		s.joinAll("catalog", 4, a.Addr, b.Addr)
		orphan := s.join(instance("viewing", "1"), discovery.RegistrarOptions{}, a.Addr)
		settle()
		c := s.follow(b)
		a.crash()
		for i := range 30 {
			after(time.Second)
			want(t, "catalog, whose instances go to the other replica", c.Instances("catalog"), "1:UP 2:UP 3:UP 4:UP")
			if n := len(b.list()); i == 15 && n != 5 {
				t.Errorf("%d instances 16 s after the crash, want 5: viewing/1 has not renewed, but its fresh lease "+
					"began when the replica's presence ended", n)
			}
		}
		if n := len(b.list()); n != 4 {
			t.Errorf("%d instances 30 s after the crash, want only the 4 that renew", n)
		}
		if ok, why := orphan.Registered(); ok || why == "" {
			t.Errorf("registered = %v, %q; want false and a reason: its only seed has crashed", ok, why)
		}
	})
}

func TestInstancesOfAStoppingReplicaStayRegistered(t *testing.T) {
	inStack(t, func(t *testing.T, s *stack) {
		a, b := s.replica("discovery-1"), s.replica("discovery-2")
		settle()
		m := s.joinAll("catalog", 3, a.Addr, b.Addr)
		c := s.follow(a, b.Addr)
		a.Stop()
		for range 40 {
			after(time.Second)
			want(t, "catalog", c.Instances("catalog"), "1:UP 2:UP 3:UP")
		}
		for _, m := range m {
			if ok, why := m.Registered(); !ok {
				t.Errorf("%s: %s", m.in.ID, why)
			}
		}
	})
}

func TestReplicaWithoutTheStoreKeepsItsInstances(t *testing.T) {
	inStack(t, func(t *testing.T, s *stack) {
		a, b := s.replica("discovery-1"), s.replica("discovery-2")
		settle()
		s.joinAll("catalog", 5, a.Addr)
		s.joinAll("viewing", 5, b.Addr)
		ca, cb := s.follow(a), s.follow(b)
		all := "1:UP 2:UP 3:UP 4:UP 5:UP"
		a.store.Fail(nil)
		late := s.join(instance("late", "1"), discovery.RegistrarOptions{}, a.Addr)
		settle()
		if ok, why := late.Registered(); !ok {
			t.Errorf("a replica without a store refuses a registration: %s", why)
		}
		for range 120 {
			after(time.Second)
			want(t, "own instances", ca.Instances("catalog"), all)
			want(t, "the other's instances", ca.Instances("viewing"), all)
			if n := len(cb.Instances("catalog")); n != 5 {
				t.Fatalf("the other replica has evicted %d of 5 live instances, self-preservation must keep them", 5-n)
			}
		}
		a.store.Heal()
		after(5 * time.Second)
		for _, c := range []*discovery.Client{ca, cb} {
			want(t, "healed", c.Instances("catalog"), all)
			want(t, "healed", c.Instances("viewing"), all)
			want(t, "healed", c.Instances("late"), "1:UP")
		}
	})
}

func TestNothingIsEvictedWhileTheStoreIsDown(t *testing.T) {
	inStack(t, func(t *testing.T, s *stack) {
		r := s.replica("discovery-1")
		m := s.joinAll("catalog", 4)
		r.store.Fail(nil)
		after(time.Second)
		crashed := m[0]
		crashed.crash()
		if err := m[1].Leave(t.Context()); err != nil {
			t.Error("leaving while the store is down:", err)
		}
		c := s.follow(r) // a client that starts meanwhile
		for range 10 * 60 {
			after(time.Second)
			got := show(c.Instances("catalog"))
			if !strings.HasPrefix(got, "1:UP") || !strings.HasSuffix(got, " 3:UP 4:UP") {
				t.Fatalf("while the store is down: %q; want no instance evicted", got)
			}
		}
		want(t, "the crashed one is a suspect", c.Instances("catalog"), "1:UP? 3:UP 4:UP")
		if problem := s.state(r).GetStoreProblem(); problem == "" {
			t.Error("the status has no store problem")
		}
		s.join(instance("catalog", "5"), discovery.RegistrarOptions{})
		_, err := r.SetOverride(t.Context(), &discoveryv1.SetOverrideRequest{
			Service: "catalog", Id: "3",
			Status: discoveryv1.Status_STATUS_DOWN,
		})
		if errs.KindOf(err) != errs.Unavailable {
			t.Errorf("an override that cannot be saved: error %v, want unavailable", err)
		}
		settle()
		want(t, "a new one", c.Instances("catalog"), "1:UP? 3:UP 4:UP 5:UP")

		r.store.Heal()
		after(20 * time.Second)
		want(t, "after the store is back", c.Instances("catalog"), "3:UP 4:UP 5:UP")
		other := s.replica("discovery-2")
		settle()
		want(t, "at a replica that has read the store", other.list(), "3:UP 4:UP 5:UP")
		if problem := s.state(r).GetStoreProblem(); problem != "" {
			t.Error("store problem after it is back:", problem)
		}
	})
}

// An instance that went to another replica while the store was down must not be evicted by its old owner, which
// reconnects to the store first.
func TestMoveWhileTheStoreIsDown(t *testing.T) {
	inStack(t, func(t *testing.T, s *stack) {
		a, b := s.replica("discovery-1"), s.replica("discovery-2")
		settle()
		m := s.joinAll("catalog", 2, a.Addr)
		c := s.follow(a)
		a.store.Fail(nil)
		b.store.Fail(nil)
		after(2 * time.Second)
		m[0].crash()
		s.join(m[0].in, discovery.RegistrarOptions{}, b.Addr)
		after(time.Minute)
		want(t, "at the old owner", c.Instances("catalog"), "1:UP? 2:UP")
		a.store.Heal()
		for i := range 20 {
			if i == 3 {
				b.store.Heal()
			}
			after(time.Second)
			if n := len(c.Instances("catalog")); n != 2 {
				t.Fatalf("%d s after the store is back, %d instances are left", i+1, n)
			}
		}
		want(t, "in the end", c.Instances("catalog"), "1:UP 2:UP")
	})
}

// The registry and its store have lost all data. Clients keep their list, and it is complete again within a lease.
func TestClientsKeepInstancesWhenTheRegistryComesBackEmpty(t *testing.T) {
	inStack(t, func(t *testing.T, s *stack) {
		r := s.replica("discovery-1")
		s.joinAll("catalog", 6)
		c := s.follow(r)
		var least atomic.Int64
		least.Store(6)
		defer c.Watch("catalog", func(list []discovery.Instance) { least.Store(min(least.Load(), int64(len(list)))) })()
		r.crash()
		after(20 * time.Second)
		_ = s.store.Close()
		s.store = kvmem.New()
		s.replica("discovery-1")
		after(12 * time.Second)
		want(t, "after a lease", c.Instances("catalog"), "1:UP 2:UP 3:UP 4:UP 5:UP 6:UP")
		after(time.Minute)
		want(t, "later", c.Instances("catalog"), "1:UP 2:UP 3:UP 4:UP 5:UP 6:UP")
		if n := least.Load(); n != 6 {
			t.Errorf("the client had a list of %d instances, want 6 all the time", n)
		}
	})
}

func TestRecordsAreWrittenAgainWhenTheStoreLosesData(t *testing.T) {
	inStack(t, func(t *testing.T, s *stack) {
		a, b := s.replica("discovery-1"), s.replica("discovery-2")
		settle()
		s.joinAll("catalog", 6, a.Addr)
		c := s.follow(b)
		b.store.Cut()
		entries, _, err := s.store.List(t.Context(), "/bijou/discovery/instances/")
		if err != nil || len(entries) != 6 {
			t.Fatalf("the store has %d records, %v; want 6", len(entries), err)
		}
		a.store.Cut()
		var wipe kv.Txn
		for _, e := range entries {
			wipe.Then = append(wipe.Then, kv.Delete(e.Key))
		}
		if _, err := s.store.Txn(t.Context(), wipe); err != nil {
			t.Fatal(err)
		}
		s.store.Compact()
		b.store.Heal()
		after(2 * time.Second)
		want(t, "a store without records", c.Instances("catalog"), "1:UP 2:UP 3:UP 4:UP 5:UP 6:UP")
		a.store.Heal()
		after(time.Minute)
		want(t, "written again", c.Instances("catalog"), "1:UP 2:UP 3:UP 4:UP 5:UP 6:UP")
		if entries, _, _ = s.store.List(t.Context(), "/bijou/discovery/instances/"); len(entries) != 6 {
			t.Errorf("the store has %d records, want 6", len(entries))
		}
	})
}

func TestDrainWaitsForWatchersOfAllReplicas(t *testing.T) {
	for name, where := range map[string][]string{
		"at the owner": {"owner"}, "at the other": {"other"},
		"at both": {"owner", "other"},
	} {
		t.Run(name, func(t *testing.T) {
			inStack(t, func(t *testing.T, s *stack) { testDrain(t, s, where) })
		})
	}
}

func testDrain(t *testing.T, s *stack, where []string) {
	replicas := map[string]*replica{"owner": s.replica("discovery-1"), "other": s.replica("discovery-2")}
	settle()
	m := s.joinAll("catalog", 2, replicas["owner"].Addr)
	var seen sync.Map // where -> the list that its watcher got last
	for _, at := range where {
		c := s.follow(replicas[at])
		defer c.Watch("catalog", func(list []discovery.Instance) {
			<-time.After(200 * time.Millisecond) // the watcher acknowledges after this
			seen.Store(at, show(list))
		})()
	}
	settle()
	began := time.Now()
	if err := m[0].Drain(t.Context()); err != nil {
		t.Fatal(err)
	}
	for _, at := range where {
		if got, _ := seen.Load(at); got != "1:DRAINING 2:UP" {
			t.Errorf("after the drain the watcher at the %s has %q, want 1:DRAINING 2:UP", at, got)
		}
	}
	if took := time.Since(began); took < 200*time.Millisecond || took > time.Second {
		t.Errorf("draining took %v, want between 200 ms, the time of the watchers, and 1 s", took)
	}
}

func TestWatcherThatDoesNotAcknowledgeIsDisconnected(t *testing.T) {
	inStack(t, func(t *testing.T, s *stack) {
		r := s.replica("discovery-1")
		m := s.joinAll("catalog", 1)
		stream, err := s.rpc(r).Watch(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if err := stream.Send(&discoveryv1.WatchRequest{Watcher: "silent"}); err != nil {
			t.Fatal(err)
		}
		settle()
		ctx, cancel := context.WithTimeout(t.Context(), 3*time.Second)
		defer cancel()
		if err := m[0].Drain(ctx); errs.KindOf(err) != errs.Timeout {
			t.Errorf("draining with a watcher that does not acknowledge: %v, want a time-out", err)
		}
		began := time.Now()
		if err := m[0].Drain(t.Context()); err != nil || time.Since(began) > 15*time.Second {
			t.Errorf("draining took %v, error %v; want at most 15 s, until the watcher is disconnected",
				time.Since(began), err)
		}
		for err == nil {
			_, err = stream.Recv()
		}
		if errs.KindOf(err) != errs.Unavailable || !strings.Contains(err.Error(), "acknowledged") {
			t.Errorf("the stream of the watcher ended with %v, want Unavailable and the reason", err)
		}
	})
}

func TestOverrideTakesPrecedenceUntilItIsCleared(t *testing.T) {
	inStack(t, func(t *testing.T, s *stack) {
		a, b := s.replica("discovery-1"), s.replica("discovery-2")
		settle()
		m := s.joinAll("catalog", 2, a.Addr, b.Addr)
		ca, cb := s.follow(a), s.follow(b)
		set := func(r *replica, id string, status discoveryv1.Status) error {
			_, err := r.SetOverride(t.Context(), &discoveryv1.SetOverrideRequest{
				Service: "catalog", Id: id, Status: status,
				Author: "ann", Reason: "disk",
			})
			settle()
			return err
		}
		if err := set(b, "1", discoveryv1.Status_STATUS_OUT_OF_SERVICE); err != nil {
			t.Fatal(err)
		}
		for _, c := range []*discovery.Client{ca, cb} {
			want(t, "overridden", c.Instances("catalog"), "1:OUT_OF_SERVICE 2:UP")
		}
		m[0].SetStatus(discovery.Down)
		settle()
		want(t, "reported DOWN", ca.Instances("catalog"), "1:OUT_OF_SERVICE 2:UP")
		m[0].SetStatus(discovery.Up)
		m[0].crash()
		after(20 * time.Second)
		want(t, "evicted", ca.Instances("catalog"), "2:UP")
		a.Stop()
		a = s.replica("discovery-1")
		settle()
		s.join(m[0].in, discovery.RegistrarOptions{}, a.Addr)
		settle()
		want(t, "registered again, after a restart of the replica", a.list(), "1:OUT_OF_SERVICE 2:UP")

		if err := set(a, "1", discoveryv1.Status_STATUS_UP); err != nil {
			t.Fatal(err)
		}
		want(t, "forced up", a.list(), "1:UP 2:UP")
		if err := set(a, "1", discoveryv1.Status_STATUS_UNSPECIFIED); err != nil {
			t.Fatal(err)
		}
		want(t, "cleared", b.list(), "1:UP 2:UP")
		if err := set(a, "9", discoveryv1.Status_STATUS_DOWN); errs.KindOf(err) != errs.NotFound {
			t.Errorf("overriding an unknown instance: %v, want not found", err)
		}
		if err := set(a, "1", discoveryv1.Status_STATUS_STARTING); errs.KindOf(err) != errs.Invalid {
			t.Errorf("overriding with STARTING: %v, want invalid", err)
		}
	})
}

func TestOverrideUPDoesNotApplyToDraining(t *testing.T) {
	inStack(t, func(t *testing.T, s *stack) {
		r := s.replica("discovery-1")
		m := s.joinAll("catalog", 1)
		_, err := r.SetOverride(t.Context(), &discoveryv1.SetOverrideRequest{
			Service: "catalog", Id: "1",
			Status: discoveryv1.Status_STATUS_UP,
		})
		if err != nil {
			t.Fatal(err)
		}
		if err := m[0].Drain(t.Context()); err != nil {
			t.Fatal(err)
		}
		want(t, "draining", r.list(), "1:DRAINING")
	})
}

func TestNewerProcessOfAnIDIsKept(t *testing.T) {
	inStack(t, func(t *testing.T, s *stack) {
		a, b := s.replica("discovery-1"), s.replica("discovery-2")
		settle()
		older := instance("catalog", "1")
		after(time.Second)
		newer := instance("catalog", "1")
		newer.Version = "2"
		first := s.join(older, discovery.RegistrarOptions{}, a.Addr)
		settle()
		s.join(newer, discovery.RegistrarOptions{}, b.Addr)
		after(20 * time.Second)
		for _, r := range []*replica{a, b} {
			resp := s.state(r)
			if n := len(resp.GetInstances()); n != 1 || resp.GetInstances()[0].GetVersion() != "2" {
				t.Errorf("%s: %v, want the newer process", r.Addr, resp.GetInstances())
			}
		}
		if ok, why := first.Registered(); ok || !strings.Contains(why, "started later") {
			t.Errorf("the older process: registered %v, %q; want false and the reason", ok, why)
		}
	})
}

func TestCutShorterThanALeaseEvictsNothing(t *testing.T) {
	inStack(t, func(t *testing.T, s *stack) {
		r := s.replica("discovery-1")
		m := s.joinAll("catalog", 2)
		s.net.Cut("discovery-1")
		after(6 * time.Second)
		s.net.Heal("discovery-1")
		after(10 * time.Second)
		want(t, "after a short cut", r.list(), "1:UP 2:UP")
		for _, m := range m {
			if ok, why := m.Registered(); !ok {
				t.Error(why)
			}
		}
	})
}
