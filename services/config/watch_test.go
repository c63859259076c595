package config_test

import (
	"errors"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	configv1 "bijou.dev/platform/api/config/v1"
	settings "bijou.dev/platform/config"
	"bijou.dev/platform/errs"
	"bijou.dev/platform/kv"
	"bijou.dev/platform/kv/kvmem"

	"google.golang.org/protobuf/types/known/durationpb"
)

func storeRevision(t *testing.T, store *kvmem.Store) kv.Revision {
	t.Helper()
	_, rev, err := store.List(t.Context(), "/")
	if err != nil {
		t.Fatal(err)
	}
	return rev
}

func TestPublishReachesInstancesOfAllReplicas(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		servers, _ := replicas(t, 2)
		a, b := servers[0].Client(t), servers[1].Client(t)
		sets := []*settings.LiveSet{servers[0].Follow(t, id("catalog-1")), servers[1].Follow(t, id("catalog-2"))}
		var limits []*settings.Value[int64]
		for _, s := range sets {
			limits = append(limits, settings.Int(s, "search.limit", 20, settings.Spec{Min: "1", Max: "100"}))
		}
		time.Sleep(time.Second) // declarations are sent a moment after they are made
		synctest.Wait()

		rev := publish(t, a, set("search.limit", "30"))
		resp, err := b.Status(
			t.Context(), &configv1.StatusRequest{App: "catalog", Revision: rev, Wait: durationpb.New(time.Minute)},
		)
		if err != nil {
			t.Fatal(err)
		}
		if resp.GetCurrent() != 2 || resp.GetTotal() != 2 || len(resp.GetUnreachable()) != 0 {
			t.Errorf(
				"status is %d of %d, unreachable %v, want 2 of 2", resp.GetCurrent(), resp.GetTotal(), resp.GetUnreachable(),
			)
		}
		for i, l := range limits {
			if l.Get() != 30 {
				t.Errorf("instance %d uses %d", i, l.Get())
			}
		}

		servers[0].Stop()
		synctest.Wait()
		resp, err = b.Status(t.Context(), &configv1.StatusRequest{})
		if err != nil {
			t.Fatal(err)
		}
		if resp.GetTotal() != 1 || len(resp.GetUnreachable()) != 1 || resp.GetUnreachable()[0] != "a" {
			t.Errorf("without replica a status is %v", resp)
		}
	})
}

// A writer may publish through one replica and ask another one, which sees the revision a little later.
func TestStatusOfARevisionThatThisReplicaHasNotSeen(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		servers, stores := replicas(t, 2)
		a, b := servers[0].Client(t), servers[1].Client(t)
		declare(t, a)
		synctest.Wait()
		stores[1].Cut()
		rev := publish(t, a, set("search.limit", "30"))
		time.AfterFunc(500*time.Millisecond, stores[1].Heal)
		resp, err := b.Status(t.Context(), &configv1.StatusRequest{Revision: rev})
		if err != nil || resp.GetRevision() != rev {
			t.Errorf("asking for revision %d: got %v, %v", rev, resp, err)
		}
		_, err = b.Status(t.Context(), &configv1.StatusRequest{Revision: rev + 1})
		wantInvalid(t, err)
		stores[1].Cut()
		_, err = b.Status(t.Context(), &configv1.StatusRequest{Revision: publish(t, a, set("search.limit", "40"))})
		wantKind(t, err, errs.Unavailable)
	})
}

func TestWatchSendsSnapshotThenDeltas(t *testing.T) {
	c, _ := declared(t)
	publish(t, c, set("greeting", "one"), set("ratio", "1"))
	stream, err := c.Watch(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if err := stream.Send(&configv1.WatchRequest{Identity: id("catalog-1"), AppliedRevision: 1}); err != nil {
		t.Fatal(err)
	}
	next := func() *configv1.WatchResponse {
		t.Helper()
		m, err := stream.Recv()
		if err != nil {
			t.Fatal(err)
		}
		return m
	}
	if m := next(); !m.GetSnapshot() || m.GetRevision() != 1 || len(m.GetValues()) != 2 {
		t.Errorf("the first message is %v", m)
	}
	publish(t, c, set("greeting", "two"))
	if m := next(); m.GetSnapshot() || m.GetRevision() != 2 ||
		len(m.GetValues()) != 1 || m.GetValues()[0].GetValue() != "two" {
		t.Errorf("a change is sent as %v", m)
	}
	publish(
		t, c,
		&configv1.Change{Name: "greeting", Scope: at(configv1.Layer_LAYER_ZONE, "catalog", "elsewhere"), Value: "three"},
	)
	if m := next(); m.GetRevision() != 3 || len(m.GetValues())+len(m.GetRemoved()) != 0 {
		t.Errorf("a change that does not concern the instance is sent as %v, want only the revision", m)
	}
	publish(t, c, remove("greeting"))
	if m := next(); m.GetRevision() != 4 || len(m.GetRemoved()) != 1 || m.GetRemoved()[0] != "greeting" {
		t.Errorf("a removal is sent as %v", m)
	}

	behind := status(t, c, 0)
	if behind.GetCurrent() != 0 || behind.GetTotal() != 1 || behind.GetInstances()[0].GetRevision() != 1 {
		t.Errorf("an instance that acknowledged nothing since revision 1 has status %v", behind)
	}
	ack := &configv1.WatchRequest{
		AppliedRevision: 4, Rejections: []*configv1.Rejection{{Name: "ratio", Revision: 1, Problem: "too big"}},
	}
	if err := stream.Send(ack); err != nil {
		t.Fatal(err)
	}
	now := status(t, c, 10*time.Second)
	if now.GetCurrent() != 1 || now.GetInstances()[0].GetRejections()[0].GetProblem() != "too big" {
		t.Errorf("after the acknowledgement status is %v", now)
	}
	if err := stream.CloseSend(); err != nil {
		t.Fatal(err)
	}
	eventually(t, func() error {
		if n := status(t, c, 0).GetTotal(); n != 0 {
			return errors.New("the instance that disconnected is still counted")
		}
		return nil
	})
}

func status(t *testing.T, c configv1.ConfigClient, wait time.Duration) *configv1.StatusResponse {
	t.Helper()
	resp, err := c.Status(t.Context(), &configv1.StatusRequest{App: "catalog", Wait: durationpb.New(wait)})
	if err != nil {
		t.Fatal(err)
	}
	return resp
}

func TestWatchRefusesIncompleteIdentities(t *testing.T) {
	c, _ := declared(t)
	for name, hello := range map[string]*configv1.WatchRequest{
		"nothing": {}, "no instance": {Identity: &configv1.Identity{App: "catalog"}}, "bad app": {
			Identity: &configv1.Identity{App: "a b", Instance: "1"},
		},
		"long zone": {Identity: &configv1.Identity{App: "a", Instance: "1", Zone: strings.Repeat("z", 200)}},
	} {
		stream, err := c.Watch(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		_ = stream.Send(hello)
		if _, err = stream.Recv(); errs.KindOf(err) != errs.Invalid {
			t.Errorf("%s: got %v", name, err)
		}
	}
}

func TestInstanceReportsValuesItCannotUse(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		servers, _ := replicas(t, 1)
		c := servers[0].Client(t)
		declare(t, c)
		old := servers[0].Follow(t, id("catalog-1"))
		publish(t, c, set("search.limit", "30"))
		synctest.Wait()
		limit := settings.Int(old, "search.limit", 20, settings.Spec{Min: "1", Max: "40"}) // narrower than what is published
		time.Sleep(time.Second)
		declare(t, c) // a newer process of the app replaces the declaration
		rev := publish(t, c, set("search.limit", "90"))
		synctest.Wait()
		if limit.Get() != 30 {
			t.Errorf("the instance uses %d, want what it could use before", limit.Get())
		}
		resp := status(t, c, time.Second)
		in := resp.GetInstances()[0]
		if in.GetRevision() != rev || len(in.GetRejections()) != 1 ||
			!strings.Contains(in.GetRejections()[0].GetProblem(), "at most 40") {
			t.Errorf("status is %v", in)
		}
		publish(t, c, set("search.limit", "35"))
		synctest.Wait()
		if in := status(t, c, time.Second).GetInstances()[0]; len(in.GetRejections()) != 0 || limit.Get() != 35 {
			t.Errorf("after a usable value: %v, value %d", in, limit.Get())
		}
	})
}

func TestStoreIsUnavailable(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		servers, stores := replicas(t, 1)
		c := servers[0].Client(t)
		declare(t, c)
		publish(t, c, set("greeting", "hi"))
		instance := servers[0].Follow(t, id("catalog-1"))
		synctest.Wait()

		stores[0].Fail(nil)
		start := time.Now()
		_, err := c.Publish(t.Context(), change(set("greeting", "ho")))
		wantKind(t, err, errs.Unavailable)
		if took := time.Since(start); took > time.Second {
			t.Errorf("a publish hung for %v", took)
		}
		if servers[0].Problem() == nil || servers[0].Loaded() != nil {
			t.Errorf(
				"the replica says problem %v, loaded %v; want a problem, and loaded", servers[0].Problem(), servers[0].Loaded(),
			)
		}
		if got := valueOf(t, c, id("1"), "greeting"); got != "hi" {
			t.Errorf("reads give %q", got)
		}
		late := servers[0].Follow(t, id("catalog-2"))
		synctest.Wait()
		if ok, _ := late.Connected(); !ok || late.Revision() != 1 || instance.Revision() != 1 {
			t.Errorf("instances cannot watch while the store is away")
		}

		stores[0].Heal()
		synctest.Wait()
		if rev := publish(t, c, set("greeting", "ho")); rev != 2 {
			t.Errorf("after the store is back the publish made revision %d", rev)
		}
		synctest.Wait()
		if late.Revision() != 2 {
			t.Errorf("the instance has revision %d", late.Revision())
		}
	})
}

func TestSettingsAreKeptWhenTheStoreLosesData(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		servers, stores := replicas(t, 1)
		c := servers[0].Client(t)
		declare(t, c)
		publish(t, c, set("greeting", "hi"))
		publish(t, c, set("greeting", "ho"))
		instance := servers[0].Follow(t, id("catalog-1"))
		greeting := settings.String(instance, "greeting", "hello", settings.Spec{})
		synctest.Wait()

		all, _, err := stores[0].List(t.Context(), "/bijou/config/live/")
		if err != nil {
			t.Fatal(err)
		}
		var wipe, restore kv.Txn
		for _, e := range all {
			wipe.Then = append(wipe.Then, kv.Delete(e.Key))
			restore.Then = append(restore.Then, kv.Put(e.Key, e.Value))
		}
		if _, err := stores[0].Txn(t.Context(), wipe); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		if greeting.Get() != "ho" || valueOf(t, c, id("1"), "greeting") != "ho" {
			t.Errorf("the loss was passed on: the instance uses %q", greeting.Get())
		}
		_, err = c.Publish(t.Context(), change(set("greeting", "x")))
		if got := wantKind(t, err, errs.Unavailable); !strings.Contains(got, "lost data") {
			t.Errorf("text is %q, want ...lost data...", got)
		}
		if _, err := stores[0].Txn(t.Context(), restore); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		publish(t, c, set("greeting", "back"))
		synctest.Wait()
		if greeting.Get() != "back" {
			t.Errorf("after the restore the instance uses %q", greeting.Get())
		}
	})
}

func TestReleasedInstancesWatchAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		servers, _ := replicas(t, 1)
		declare(t, servers[0].Client(t))
		instance := servers[0].Follow(t, id("catalog-1"))
		synctest.Wait()
		if ok, _ := instance.Connected(); !ok {
			t.Fatal("not connected")
		}
		servers[0].Release()
		synctest.Wait()
		if ok, _ := instance.Connected(); ok || !strings.Contains(instance.Problem().Error(), "stopping") {
			t.Errorf("connected %t, problem %v", ok, instance.Problem())
		}
		time.Sleep(time.Second)
		if ok, _ := instance.Connected(); !ok {
			t.Errorf("not back: %v", instance.Problem())
		}
	})
}
