package config_test

import (
	"fmt"
	"testing"

	configv1 "bijou.dev/platform/api/config/v1"
	"bijou.dev/platform/errs"
	"bijou.dev/platform/kv/kvetcd/etcdtest"
	"bijou.dev/services/config"
	"bijou.dev/services/config/configtest"
)

// TestNothingAcknowledgedIsLost publishes and reads through two replicas while etcd is stopped and started, and then
// checks whether one configuration could have given the results.
func TestNothingAcknowledgedIsLost(t *testing.T) {
	etcd := etcdtest.Start(t)
	var clients []configv1.ConfigClient
	var servers []*configtest.Server
	for range 2 {
		s := configtest.NewServer(t, &configtest.Options{Config: config.Options{EtcdEndpoints: etcd.Endpoints()}})
		servers = append(servers, s)
		clients = append(clients, s.Client(t))
	}
	instance := servers[1].Follow(t, id("catalog-1"))
	r := configtest.Record(t, 1, clients...)
	waitFor(t, r, 50, 0)
	etcd.Stop()
	waitFor(t, r, 0, 1)
	if _, err := clients[0].Get(t.Context(), &configv1.GetRequest{}); err != nil {
		t.Errorf("reading while etcd is away: %v", err)
	}
	etcd.Restart()
	waitFor(t, r, 50, 0)
	t.Logf("%+v", r.Check())

	hist, err := clients[0].History(t.Context(), &configv1.HistoryRequest{Limit: 1})
	if err != nil {
		t.Fatal(err)
	}
	newest := hist.GetRevisions()[0].GetRevision()
	eventually(t, func() error {
		if got := instance.Revision(); got < newest {
			return fmt.Errorf("the instance has revision %d of %d", got, newest)
		}
		return nil
	})
}

// TestNothingAcknowledgedIsLostWhenProcessesAreKilled is the same with SIGKILL: etcd is killed while it works, and so
// is one of the replicas each time.
func TestNothingAcknowledgedIsLostWhenProcessesAreKilled(t *testing.T) {
	etcdtest.Child()
	etcd := etcdtest.StartProcess(t)
	start := func(o configtest.Options) *configtest.Server {
		o.Config.EtcdEndpoints = etcd.Endpoints()
		return configtest.NewServer(t, &o)
	}
	var clients []configv1.ConfigClient
	var servers []*configtest.Server
	for range 2 {
		s := start(configtest.Options{})
		servers = append(servers, s)
		clients = append(clients, s.Client(t))
	}
	r := configtest.Record(t, 1, clients...)
	for round := range 3 {
		waitFor(t, r, 50, 0)
		etcd.Kill()
		waitFor(t, r, 0, 1)
		etcd.Restart()
		waitFor(t, r, 50, 0)
		victim := servers[round%2]
		victim.Stop()
		servers[round%2] = start(configtest.Options{Net: victim.Net, Addr: victim.Addr})
	}
	waitFor(t, r, 50, 0)
	t.Logf("%+v", r.Check())
}

// waitFor waits for more acknowledged publishes, and for more of which the result is unknown.
func waitFor(t *testing.T, r *configtest.Recorder, acknowledged, unknown int) {
	t.Helper()
	before := r.Summary()
	eventually(t, func() error {
		now := r.Summary()
		if now.Acknowledged < before.Acknowledged+acknowledged || now.Unknown < before.Unknown+unknown {
			return fmt.Errorf("%+v after %+v, want %d more acknowledged and %d unknown", now, before, acknowledged, unknown)
		}
		return nil
	})
}

func TestReplicaStartsBeforeItsStore(t *testing.T) {
	etcd := etcdtest.Start(t)
	etcd.Stop()
	s := configtest.NewServer(t, &configtest.Options{Config: config.Options{EtcdEndpoints: etcd.Endpoints()}})
	c := s.Client(t)
	if _, err := c.Get(t.Context(), &configv1.GetRequest{}); errs.KindOf(err) != errs.Unavailable {
		t.Errorf("reading before the store was reached: %v", err)
	}
	if _, err := c.Publish(t.Context(), change(set("greeting", "x"))); errs.KindOf(err) != errs.Unavailable {
		t.Errorf("publishing before the store was reached: %v", err)
	}
	if s.Loaded() == nil {
		t.Error("the replica says it is loaded")
	}
	etcd.Restart()
	declare(t, c)
	publish(t, c, set("greeting", "x"))
}
