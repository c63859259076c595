package config_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	configv1 "bijou.dev/platform/api/config/v1"
	"bijou.dev/platform/discovery"
	"bijou.dev/platform/errs"

	"google.golang.org/protobuf/types/known/durationpb"
)

// registry is the discovery that replicas use.
type registry struct {
	mu      sync.Mutex
	list    []discovery.Instance
	problem error
}

func (r *registry) set(problem error, ids ...string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.list, r.problem = nil, problem
	for _, id := range ids {
		r.list = append(r.list, discovery.Instance{
			Service: "catalog", ID: id, Zone: "eu-1", Status: discovery.Up,
			Metadata: map[string]string{discovery.MetaSettings: discovery.SettingsWatched},
		})
	}
	// This one does not follow settings.
	r.list = append(r.list, discovery.Instance{Service: "catalog", ID: "old-client", Status: discovery.Up})
}

func (r *registry) registered() ([]discovery.Instance, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.list, r.problem
}

// watch opens a stream as an instance that acknowledges what it receives. cut ends the stream as a broken network does.
func watch(t *testing.T, c configv1.ConfigClient, instance string) (cut func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	stream, err := c.Watch(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if err := stream.Send(&configv1.WatchRequest{Identity: id(instance)}); err != nil {
		t.Fatal(err)
	}
	var done sync.WaitGroup
	done.Go(func() {
		for {
			m, err := stream.Recv()
			if err != nil {
				return
			}
			_ = stream.Send(&configv1.WatchRequest{AppliedRevision: m.GetRevision()}) // if it fails, Recv returns the error
		}
	})
	t.Cleanup(func() { cancel(); done.Wait() })
	return cancel
}

// counted returns a status as "1 of 2: catalog-1@7, catalog-2@6 cut off".
func counted(t *testing.T, c configv1.ConfigClient, req *configv1.StatusRequest) string {
	t.Helper()
	resp, err := c.Status(t.Context(), req)
	if err != nil {
		t.Fatal(err)
	}
	list := make([]string, 0, len(resp.GetInstances()))
	for _, in := range resp.GetInstances() {
		text := in.GetIdentity().GetInstance() + "@" + fmt.Sprint(in.GetRevision())
		if in.GetCutOff() {
			text += " cut off"
		}
		list = append(list, text)
	}
	return fmt.Sprintf("%d of %d: ", resp.GetCurrent(), resp.GetTotal()) + strings.Join(list, ", ")
}

// catalogs starts two replicas and a registry that has catalog-1 and catalog-2. catalog-1 watches the first replica.
func catalogs(t *testing.T) (known *registry, a, b configv1.ConfigClient) {
	t.Helper()
	known = &registry{}
	known.set(nil, "catalog-1", "catalog-2")
	servers, _ := replicasOf(t, 2, known.registered)
	a, b = servers[0].Client(t), servers[1].Client(t)
	declare(t, a)
	watch(t, a, "catalog-1")
	return known, a, b
}

func TestStatusCountsInstancesThatAreCutOff(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		known, a, b := catalogs(t)
		cut := watch(t, b, "catalog-2")
		synctest.Wait()
		check := func(when, want string) {
			t.Helper()
			synctest.Wait()
			for _, c := range []configv1.ConfigClient{a, b} {
				if got := counted(t, c, &configv1.StatusRequest{App: "catalog"}); got != want {
					t.Errorf("%s: %s, want %s", when, got, want)
				}
			}
		}
		publish(t, a, set("search.limit", "30"))
		check("all watch", "2 of 2: catalog-1@1, catalog-2@1")
		cut()
		check("cut off, with the newest settings", "2 of 2: catalog-1@1, catalog-2@1 cut off")
		publish(t, a, set("search.limit", "40"))
		check("cut off, with old settings", "1 of 2: catalog-1@2, catalog-2@1 cut off")
		known.set(nil, "catalog-1", "catalog-2", "catalog-3")
		check("one that never watched", "1 of 3: catalog-1@2, catalog-2@1 cut off, catalog-3@0 cut off")
		if got := counted(t, a, &configv1.StatusRequest{App: "web"}); got != "0 of 0: " {
			t.Errorf("of another app: %s", got)
		}
		known.set(nil, "catalog-1", "catalog-3")
		check("its lease has ended", "1 of 2: catalog-1@2, catalog-3@0 cut off")
		known.set(nil, "catalog-1", "catalog-2")
		check("back in the registry, without its last status", "1 of 2: catalog-1@2, catalog-2@0 cut off")
		watch(t, a, "catalog-2")
		check("connected again, to the other replica", "2 of 2: catalog-1@2, catalog-2@2")
		known.set(nil)
		check("the registry does not have the instances that watch", "2 of 2: catalog-1@2, catalog-2@2")
	})
}

func TestStatusWaitsForInstancesThatAreCutOff(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		_, a, b := catalogs(t)
		synctest.Wait()
		publish(t, a, set("search.limit", "30"))
		req := &configv1.StatusRequest{App: "catalog", Wait: durationpb.New(10 * time.Second)}
		start := time.Now()
		want := "1 of 2: catalog-1@1, catalog-2@0 cut off"
		if got := counted(t, b, req); got != want || time.Since(start) != 10*time.Second {
			t.Errorf("it does not come back: %s after %v", got, time.Since(start))
		}
		time.AfterFunc(3*time.Second, func() { watch(t, b, "catalog-2") })
		start = time.Now()
		if got := counted(t, a, req); got != "2 of 2: catalog-1@1, catalog-2@1" || time.Since(start) > 4*time.Second {
			t.Errorf("it comes back after 3s: %s after %v", got, time.Since(start))
		}
	})
}

func TestStatusSaysThatTheRegistryIsUnavailable(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		known := &registry{}
		known.set(errors.New("no registry has answered yet"))
		servers, _ := replicasOf(t, 1, known.registered)
		c := servers[0].Client(t)
		declare(t, c)
		watch(t, c, "catalog-1")
		synctest.Wait()
		resp, err := c.Status(t.Context(), &configv1.StatusRequest{})
		if err != nil || resp.GetTotal() != 1 || resp.GetRegistryProblem() != "no registry has answered yet" {
			t.Errorf("got %v, %v", resp, err)
		}
	})
}

func TestStatusRefusals(t *testing.T) {
	c, _ := declared(t)
	publish(t, c, set("greeting", "hi"))
	for name, test := range map[string]struct {
		req  *configv1.StatusRequest
		text string
	}{
		"a future revision":   {&configv1.StatusRequest{Revision: 2}, "revision must be 0 to the newest, 1, is 2"},
		"a negative revision": {&configv1.StatusRequest{Revision: -1}, "revision must be 0 to the newest, 1, is -1"},
		"a negative wait": {
			&configv1.StatusRequest{Wait: durationpb.New(-time.Second)}, "wait must be 0s to 5m0s, is -1s",
		},
		"a long wait": {
			&configv1.StatusRequest{Wait: durationpb.New(5*time.Minute + 1)}, "wait must be 0s to 5m0s",
		},
	} {
		_, err := c.Status(t.Context(), test.req)
		if errs.KindOf(err) != errs.Invalid || !strings.Contains(err.Error(), test.text) {
			t.Errorf("%s: error %v, want kind invalid and ...%s...", name, err, test.text)
		}
	}
}

// A status of one instance does not grow without bound.
func TestStatusKeeps100RejectionsOfAnInstance(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		servers, _ := replicas(t, 1)
		c := servers[0].Client(t)
		declare(t, c)
		stream, err := c.Watch(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		hello := &configv1.WatchRequest{Identity: id("catalog-1")}
		for i := range 101 {
			hello.Rejections = append(hello.Rejections, &configv1.Rejection{Name: fmt.Sprint(i), Problem: "bad"})
		}
		if err := stream.Send(hello); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		if n := len(status(t, c, 0).GetInstances()[0].GetRejections()); n != 100 {
			t.Errorf("the status has %d rejections, want 100", n)
		}
	})
}

// Status waits no longer than it was asked to, and returns as soon as all instances run the revision.
func TestStatusWaitsForWatchers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		servers, _ := replicas(t, 2)
		a, b := servers[0].Client(t), servers[1].Client(t)
		declare(t, a)
		stream, err := b.Watch(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if err := stream.Send(&configv1.WatchRequest{Identity: id("catalog-1")}); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		rev := publish(t, a, set("greeting", "hi"))
		req := &configv1.StatusRequest{App: "catalog", Revision: rev, Wait: durationpb.New(10 * time.Second)}
		start := time.Now()
		if got, want := counted(t, a, req), "0 of 1: catalog-1@0"; got != want || time.Since(start) != 10*time.Second {
			t.Errorf("an instance that does not acknowledge: %s after %v, want %s after 10s", got, time.Since(start), want)
		}
		time.AfterFunc(3*time.Second, func() { _ = stream.Send(&configv1.WatchRequest{AppliedRevision: rev}) })
		start = time.Now()
		if got, want := counted(t, a, req), "1 of 1: catalog-1@1"; got != want || time.Since(start) != 3*time.Second {
			t.Errorf("one that acknowledges after 3s: %s after %v, want %s after 3s", got, time.Since(start), want)
		}
	})
}
