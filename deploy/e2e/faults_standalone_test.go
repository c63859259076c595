package e2e

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"bijou.dev/cmd/bijou/stack"
	configv1 "bijou.dev/platform/api/config/v1"
	discoveryv1 "bijou.dev/platform/api/discovery/v1"
	settings "bijou.dev/platform/config"
	members "bijou.dev/platform/discovery"
	"bijou.dev/platform/kv/kvetcd"
	"bijou.dev/platform/kv/kvetcd/etcdtest"
	"bijou.dev/services/config"
	"bijou.dev/services/config/configtest"
	"bijou.dev/services/discovery"
	"bijou.dev/services/discovery/discoverytest"
)

// standaloneFaults start the processes or servers that they need.
var standaloneFaults = []fault{
	{row: "6, 10", name: "the store's history compacted while watchers are cut off", short: true, run: faultCompaction},
	{
		row: "37", name: "the clock of a process two days back, with every service down (fake time)", short: true,
		run: faultClockSetBack,
	},
	{row: "40", name: "the whole stack started in random orders", run: faultStartsInRandomOrder},
}

// faultCompaction disconnects a replica of config and one of discovery from etcd, changes settings and instances, and
// compacts the history of etcd. When they are connected again, the replicas and their watchers must have the present
// settings and instances.
func faultCompaction(t *testing.T, _ platform, _ uint64) (f figures) {
	etcd := etcdtest.Start(t)
	network := startProxy(t)
	network.to(etcd.Socket())
	open := func(endpoints ...string) *kvetcd.Store {
		s, err := kvetcd.New(kvetcd.Options{Endpoints: endpoints})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = s.Close() })
		return s
	}
	near, far := open(etcd.Endpoints()...), open("http://"+network.addr())
	config1 := configtest.NewServer(t, &configtest.Options{Config: config.Options{Store: near}})
	config2 := configtest.NewServer(t, &configtest.Options{Config: config.Options{Store: far}})
	registry1 := discoverytest.NewServer(t, &discoverytest.Options{Registry: discovery.Options{
		Store: near,
		Name:  "discovery-1",
	}})
	registry2 := discoverytest.NewServer(t, &discoverytest.Options{Registry: discovery.Options{
		Store: far,
		Name:  "discovery-2",
	}})

	nearConfig, farConfig := config1.Client(t), config2.Client(t)
	follower := config2.Follow(t, &configv1.Identity{App: "shop", Instance: "shop-1"})
	watcher := registry2.Client(t, "watcher")
	eventually(t, 20*time.Second, "declared settings", func(ctx context.Context) error {
		var all []*configv1.Property
		for _, n := range []string{"kept", "changed", "removed", "new"} {
			all = append(all, &configv1.Property{Name: n, Type: configv1.Type_TYPE_STRING, DefaultValue: "default"})
		}
		_, err := nearConfig.Declare(ctx, &configv1.DeclareRequest{App: "shop", Properties: all})
		return err
	})
	change := func(name, value string) *configv1.Change {
		return &configv1.Change{
			Name: name, Value: value, Remove: value == "",
			Scope: &configv1.Scope{Layer: configv1.Layer_LAYER_APP, App: "shop"},
		}
	}
	publish := func(changes ...*configv1.Change) {
		t.Helper()
		if _, err := nearConfig.Publish(t.Context(), &configv1.PublishRequest{
			Changes: changes, Author: "e2e",
			Reason: "compaction",
		}); err != nil {
			t.Fatal(err)
		}
	}
	publish(change("kept", "1"), change("changed", "1"), change("removed", "1"))
	leave := map[string]func(){}
	join := func(id string) {
		ctx, cancel := context.WithCancel(context.Background())
		c, err := members.New(members.Options{
			Seeds: []string{registry1.Addr}, Name: id,
			DialContext: registry1.Net.DialContext,
		})
		if err != nil {
			t.Fatal(err)
		}
		r, err := members.NewRegistrar(c, members.Instance{
			Service: "shop", ID: id, Status: members.Up, Endpoints: map[string]string{"grpc": id + ":7000"},
		}, members.RegistrarOptions{})
		if err != nil {
			t.Fatal(err)
		}
		var done sync.WaitGroup
		done.Go(func() { _ = r.Run(ctx) }) // Run returns nil
		leave[id] = func() {
			leaving, stop := context.WithTimeout(context.Background(), 10*time.Second)
			defer stop()
			if err := r.Leave(leaving); err != nil {
				t.Errorf("%s leaves: %v", id, err)
			}
			cancel()
			done.Wait()
		}
		t.Cleanup(func() { cancel(); done.Wait() })
	}
	same := func(want string) func(context.Context) error {
		return func(ctx context.Context) error {
			settingsAt := func(c configv1.ConfigClient) string {
				resp, err := c.Get(ctx, &configv1.GetRequest{Identity: &configv1.Identity{App: "shop"}})
				return fmt.Sprintf("%v %v", resp, err)
			}
			if a, b := settingsAt(nearConfig), settingsAt(farConfig); a != b {
				return fmt.Errorf("one replica of config has %s, the other %s", a, b)
			}
			var got []string
			for _, n := range []string{"kept", "changed", "removed", "new"} {
				for _, e := range follower.Entries() {
					if e.Name == n {
						got = append(got, e.Value)
					}
				}
			}
			for _, r := range []*discoverytest.Server{registry1, registry2} {
				resp, err := r.List(ctx, &discoveryv1.ListRequest{Service: "shop"})
				if err != nil {
					return err
				}
				ids := []string{}
				for _, in := range resp.GetInstances() {
					ids = append(ids, in.GetId())
				}
				slices.Sort(ids)
				got = append(got, strings.Join(ids, "+"))
			}
			var ids []string
			for _, in := range watcher.Instances("shop") {
				ids = append(ids, in.ID)
			}
			slices.Sort(ids)
			if got := strings.Join(append(got, strings.Join(ids, "+")), " "); got != want {
				return fmt.Errorf("settings kept, changed, removed, new, then the instances in registry 1, registry "+
					"2 and the watcher are %q, want %q", got, want)
			}
			return nil
		}
	}
	for _, e := range []string{"kept", "changed", "removed", "new"} {
		settings.String(follower, e, "default", settings.Spec{})
	}
	join("shop-1")
	join("shop-2")
	eventually(t, 20*time.Second, "all replicas and watchers to have the first settings and instances",
		same("1 1 1 default shop-1+shop-2 shop-1+shop-2 shop-1+shop-2"))

	network.set(0, true)
	publish(change("changed", "2"), change("removed", ""), change("new", "2"))
	join("shop-3")
	eventually(t, 20*time.Second, "the third instance", func(ctx context.Context) error {
		resp, err := registry1.List(ctx, &discoveryv1.ListRequest{Service: "shop"})
		if len(resp.GetInstances()) != 3 {
			return fmt.Errorf("%v %v", resp, err)
		}
		return nil
	})
	leave["shop-1"]()
	etcd.Compact()
	if got := watcher.Instances("shop"); len(got) != 2 {
		t.Errorf("the disconnected watcher has the instances %v, want the two of before", got)
	}
	network.reset()
	network.set(0, false)
	healed := time.Now()
	eventually(t, 30*time.Second, "all replicas and watchers to have the present settings and instances",
		same("1 2 default 2 shop-2+shop-3 shop-2+shop-3 shop-2+shop-3"))
	took := time.Since(healed)
	lost := far.Stats().Lost
	if lost == 0 {
		t.Errorf("no watch was lost while the network was cut: %+v", far.Stats())
	}
	return figures{note: fmt.Sprintf("settings and instances were those of the other replicas %v after the network "+
		"was repaired, by a new list and its difference (%d watches were lost)", took.Round(10*time.Millisecond), lost)}
}

// faultClockSetBack stops a process and starts it with a clock that is two days behind and no service to connect to.
// The process must use the settings and instances that it saved on disk, although they were saved in its future. Fake
// time begins at the same moment in each bubble.
func faultClockSetBack(t *testing.T, _ platform, _ uint64) figures {
	dir := t.TempDir()
	identity := &configv1.Identity{App: "shop", Instance: "shop-1"}
	assertKnown := func(t *testing.T, c *members.Client, limit *settings.Value[string]) {
		t.Helper()
		if got := limit.Get(); got != "published" {
			t.Errorf("the setting limit is %q, want the published value", got)
		}
		if all := c.Instances("shop"); len(all) != 1 || all[0].Status != members.Up {
			t.Errorf("the instances of shop are %v, want one that is up", all)
		}
	}
	start := func(t *testing.T, conn *configtest.Server, registry *discoverytest.Server) (*members.Client,
		*settings.Value[string], func(),
	) {
		set, err := settings.Open(settings.Options{Identity: identity, Conn: conn.Conn(t), Dir: dir})
		if err != nil {
			t.Fatal(err)
		}
		limit := settings.String(set, "limit", "default", settings.Spec{})
		c, err := members.New(members.Options{
			Seeds: []string{registry.Addr}, Name: "shop-1",
			DialContext: registry.Net.DialContext, Dir: dir,
		})
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(context.Background())
		var done sync.WaitGroup
		done.Go(func() { _ = set.Run(ctx) })
		done.Go(func() { _ = c.Run(ctx) })
		return c, limit, func() { cancel(); done.Wait() }
	}
	synctest.Test(t, func(t *testing.T) {
		time.Sleep(48 * time.Hour) // of fake time
		conn, registry := configtest.NewServer(t, nil), discoverytest.NewServer(t, nil)
		c, limit, stop := start(t, conn, registry)
		defer stop()
		time.Sleep(time.Minute)
		_, err := conn.Client(t).Publish(t.Context(), &configv1.PublishRequest{
			Author: "e2e", Reason: "clock",
			Changes: []*configv1.Change{
				{
					Name: "limit", Value: "published",
					Scope: &configv1.Scope{Layer: configv1.Layer_LAYER_APP, App: "shop"},
				},
			},
		})
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		var done sync.WaitGroup
		r, err := members.NewRegistrar(c, members.Instance{
			Service: "shop", ID: "shop-1", Status: members.Up, Endpoints: map[string]string{"grpc": "shop:7000"},
		}, members.RegistrarOptions{})
		if err != nil {
			t.Fatal(err)
		}
		done.Go(func() { _ = r.Run(ctx) }) // it returns nil
		time.Sleep(time.Minute)
		assertKnown(t, c, limit)
		cancel()
		done.Wait()
	})
	synctest.Test(t, func(t *testing.T) {
		conn, registry := configtest.NewServer(t, nil), discoverytest.NewServer(t, nil)
		conn.Stop()
		registry.Stop()
		c, limit, stop := start(t, conn, registry)
		defer stop()
		assertKnown(t, c, limit)
		time.Sleep(10 * time.Minute)
		assertKnown(t, c, limit)
	})
	return figures{note: "settings and instances are those on its disk, for as long as no service answers"}
}

// faultStartsInRandomOrder starts the stack in random orders until it serves. go test does that twenty times per
// runner.
func faultStartsInRandomOrder(t *testing.T, _ platform, seed uint64) figures {
	var took []string
	var longest time.Duration
	for n := range uint64(3) {
		t.Run(fmt.Sprint("order ", n), func(t *testing.T) {
			if err := build(); err != nil {
				t.Fatal(err)
			}
			begun := time.Now()
			waitForHome(t, startProcesses(t, stack.Options{Shuffle: rand.New(rand.NewPCG(seed, n))}))
			longest = max(longest, time.Since(begun))
			took = append(took, time.Since(begun).Round(100*time.Millisecond).String())
		})
	}
	f := figures{note: fmt.Sprintf("a home page without fallbacks after %s", strings.Join(took, ", "))}
	if longest > 30*time.Second {
		f.missed = append(f.missed, "one took longer than 30 s")
	}
	return f
}
