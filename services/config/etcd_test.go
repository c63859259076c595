package config_test

import (
	"context"
	"fmt"
	"sync"
	"testing"
	"time"

	configv1 "bijou.dev/platform/api/config/v1"
	"bijou.dev/platform/errs"
	"bijou.dev/platform/kv/kvetcd/etcdtest"
	"bijou.dev/services/config"
	"bijou.dev/services/config/configtest"
)

// ledger is what writers tried and what they were told.
type ledger struct {
	mu      sync.Mutex
	tried   map[string]bool
	acked   map[string]int64 // value -> revision
	refused int
}

// TestNothingAcknowledgedIsLost publishes from several writers over two replicas while etcd is stopped and started, and
// then holds the history against what the writers were told.
func TestNothingAcknowledgedIsLost(t *testing.T) {
	etcd := etcdtest.Start(t)
	var clients []configv1.ConfigClient
	var servers []*configtest.Server
	for range 2 {
		s := configtest.NewServer(t, &configtest.Options{Config: config.Options{EtcdEndpoints: etcd.Endpoints()}})
		servers = append(servers, s)
		clients = append(clients, s.Client(t))
	}
	declare(t, clients[0])
	declare(t, clients[1])
	instance := servers[1].Follow(t, id("catalog-1"))

	l := &ledger{tried: map[string]bool{}, acked: map[string]int64{}}
	ctx, stop := context.WithCancel(t.Context())
	var writers sync.WaitGroup
	for w := range 6 {
		writers.Go(func() { l.write(ctx, clients[w%2], w) })
	}
	eventually(t, func() error { return l.beyond(50, 0) })
	etcd.Stop()
	eventually(t, func() error { return l.beyond(0, 1) })
	if _, err := clients[0].Get(t.Context(), &configv1.GetRequest{}); err != nil {
		t.Errorf("reading while etcd is away: %v", err)
	}
	etcd.Restart()
	acked, _ := l.counts()
	eventually(t, func() error { return l.beyond(acked+50, 0) })
	stop()
	writers.Wait()

	l.check(t, clients[0])
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

// TestNothingAcknowledgedIsLostWhenProcessesAreKilled is the same with violence: etcd dies by SIGKILL in the middle of its
// work, and so does one of the replicas each time.
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
		declare(t, clients[len(clients)-1])
	}
	l := &ledger{tried: map[string]bool{}, acked: map[string]int64{}}
	ctx, stop := context.WithCancel(t.Context())
	var writers sync.WaitGroup
	for w := range 6 {
		writers.Go(func() { l.write(ctx, clients[w%2], w) })
	}
	for round := range 3 {
		acked, refused := l.counts()
		eventually(t, func() error { return l.beyond(acked+50, 0) })
		etcd.Kill()
		eventually(t, func() error { return l.beyond(0, refused+1) })
		etcd.Restart()
		acked, _ = l.counts()
		eventually(t, func() error { return l.beyond(acked+50, 0) })
		victim := servers[round%2]
		victim.Stop()
		servers[round%2] = start(configtest.Options{Net: victim.Net, Addr: victim.Addr})
	}
	acked, _ := l.counts()
	eventually(t, func() error { return l.beyond(acked+50, 0) })
	stop()
	writers.Wait()
	l.check(t, clients[0])
}

func (l *ledger) write(ctx context.Context, c configv1.ConfigClient, writer int) {
	for i := 0; ctx.Err() == nil; i++ {
		value := fmt.Sprintf("%d/%d", writer, i)
		l.mu.Lock()
		l.tried[value] = true
		l.mu.Unlock()
		resp, err := c.Publish(context.WithoutCancel(ctx), &configv1.PublishRequest{
			Changes: []*configv1.Change{set("greeting", value)}, Author: "w", Reason: "durability",
		})
		l.mu.Lock()
		if err == nil {
			l.acked[value] = resp.GetRevision()
		} else {
			l.refused++
		}
		l.mu.Unlock()
		if err != nil {
			select { // do not spin while the store is away
			case <-ctx.Done():
			case <-time.After(5 * time.Millisecond):
			}
		}
	}
}

func (l *ledger) counts() (acked, refused int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.acked), l.refused
}

func (l *ledger) beyond(acked, refused int) error {
	if a, r := l.counts(); a < acked || r < refused {
		return fmt.Errorf("%d acknowledged, %d refused, want %d and %d", a, r, acked, refused)
	}
	return nil
}

// check wants the history to be every acknowledged publish at its revision, once, with no gap; beside them only
// publishes that were tried and whose writer was told that it does not know.
func (l *ledger) check(t *testing.T, c configv1.ConfigClient) {
	t.Helper()
	found := map[string]int64{}
	var before, last int64
	for {
		var hist *configv1.HistoryResponse
		eventually(t, func() (err error) { // this replica may be the later one to find that etcd is back
			hist, err = c.History(t.Context(), &configv1.HistoryRequest{Before: before, Limit: 500})
			return err
		})
		if len(hist.GetRevisions()) == 0 {
			break
		}
		for _, r := range hist.GetRevisions() {
			value := r.GetChanges()[0].GetAfter()
			if found[value] != 0 || !l.tried[value] {
				t.Errorf("revision %d has %q, which is in revision %d too or was never published", r.GetRevision(), value, found[value])
			}
			if last != 0 && r.GetRevision() != last-1 {
				t.Errorf("revision %d comes before %d", r.GetRevision(), last)
			}
			found[value], last = r.GetRevision(), r.GetRevision()
		}
		before = last
	}
	if last != 1 {
		t.Errorf("the oldest revision is %d", last)
	}
	for value, revision := range l.acked {
		if found[value] != revision {
			t.Errorf("%q was acknowledged as revision %d, the history has it at %d", value, revision, found[value])
		}
	}
	t.Logf("%d acknowledged, %d in the history, %d refused", len(l.acked), len(found), l.refused)
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
