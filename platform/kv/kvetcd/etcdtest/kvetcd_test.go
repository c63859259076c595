package etcdtest_test

import (
	"cmp"
	"context"
	"errors"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"bijou.dev/platform/errs"
	"bijou.dev/platform/kv"
	"bijou.dev/platform/kv/kvetcd"
	"bijou.dev/platform/kv/kvetcd/etcdtest"
	"bijou.dev/platform/kv/kvtest"
)

// wire is the way to an etcd, which can be cut.
type wire struct {
	etcd *etcdtest.Server

	mu    sync.Mutex
	cut   bool
	conns []net.Conn
}

func (w *wire) dial(ctx context.Context, _ string) (net.Conn, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.cut {
		return nil, errors.New("the wire is cut")
	}
	c, err := new(net.Dialer).DialContext(ctx, "unix", w.etcd.Socket())
	if err == nil {
		w.conns = append(w.conns, c)
	}
	return c, err
}

func (w *wire) set(cut bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.cut = cut
	for _, c := range w.conns {
		c.Close()
	}
	w.conns = nil
}

func open(t *testing.T, opts kvetcd.Options) *kvetcd.Store {
	t.Helper()
	// Short, yet longer than a busy machine pauses: two dozen etcds share it. A watch that is taken for lost lists again,
	// and a test that counts updates then counts another number.
	opts.Heartbeat = cmp.Or(opts.Heartbeat, time.Second)
	opts.Timeout = cmp.Or(opts.Timeout, 10*time.Second)
	s, err := kvetcd.New(opts)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Errorf("Close: %v", err)
		}
	})
	return s
}

func start(t *testing.T, heartbeat time.Duration) (*etcdtest.Server, *wire, *kvetcd.Store) {
	t.Helper()
	etcd := etcdtest.Start(t)
	w := &wire{etcd: etcd}
	return etcd, w, open(t, kvetcd.Options{Endpoints: etcd.Endpoints(), DialContext: w.dial, Heartbeat: heartbeat})
}

func TestConformance(t *testing.T) {
	kvtest.Test(t, func(t *testing.T) kvtest.Env {
		etcd, w, s := start(t, 0)
		return kvtest.Env{
			TTL: 3 * time.Second, Store: s, Peer: open(t, kvetcd.Options{Endpoints: etcd.Endpoints()}), Close: s.Close,
			Cut: func() { w.set(true) }, Heal: func() { w.set(false) },
			Stop: etcd.Stop, Start: etcd.Restart, Compact: etcd.Compact,
			Expire: func(id kv.LeaseID) { etcd.Revoke(int64(id)) },
		}
	})
}

func put(t *testing.T, s kv.Store, key string) kv.Revision {
	t.Helper()
	rev, err := s.Txn(t.Context(), kv.Txn{Then: []kv.Op{kv.Put(key, []byte("1"))}})
	if err != nil {
		t.Fatalf("putting %s: %v", key, err)
	}
	return rev
}

func next(t *testing.T, w kv.Watch) kv.Update {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	u, err := w.Next(ctx)
	if err != nil {
		t.Fatalf("Next: %v (problem: %v)", err, w.Problem())
	}
	return u
}

func until(t *testing.T, what string, fn func() bool) {
	t.Helper()
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for end := time.Now().Add(30 * time.Second); !fn(); <-tick.C {
		if time.Now().After(end) {
			t.Fatalf("never: %s", what)
		}
	}
}

func TestOptions(t *testing.T) {
	for field, opts := range map[string]kvetcd.Options{
		"Endpoints": {},
		"Timeout":   {Endpoints: []string{"x:1"}, Timeout: -1},
		"Heartbeat": {Endpoints: []string{"x:1"}, Heartbeat: -1},
	} {
		if _, err := kvetcd.New(opts); !errors.Is(err, errs.Invalid) || !strings.Contains(err.Error(), field) {
			t.Errorf("New without a good %s: %v", field, err)
		}
	}
}

// One watch for a process and a prefix: many readers must not mean many watches, nor a list for each event.
func TestReadersShareOneWatch(t *testing.T) {
	t.Parallel()
	_, _, s := start(t, time.Minute)
	ctx, cancel := context.WithCancel(t.Context())
	var readers []kv.Watch
	for range 20 {
		w := s.Watch(ctx, "/instances/")
		next(t, w)
		readers = append(readers, w)
	}
	for range 10 {
		rev := put(t, s, "/instances/a")
		for _, w := range readers {
			if u := next(t, w); u.Revision != rev {
				t.Fatalf("update at %d, want %d", u.Revision, rev)
			}
		}
	}
	if got := s.Stats(); got.Watches != 1 || got.Lists != 1 || got.Updates != 10 || got.Calls != 11 {
		t.Errorf("20 readers and 10 writes cost %+v", got)
	}
	cancel()
	until(t, "the watch ends with its last reader", func() bool { return s.Stats().Watches == 0 })
	next(t, s.Watch(t.Context(), "/instances/"))
}

// A loop that reads from a closed channel spins; one that gives up never comes back.
func TestDeadEtcdIsNotHammeredNorForgotten(t *testing.T) {
	t.Parallel()
	etcd, _, s := start(t, 0)
	w := s.Watch(t.Context(), "/a/")
	next(t, w)
	etcd.Stop()
	until(t, "a few attempts", func() bool { return s.Stats().Lost >= 2 })
	began, calls := time.Now(), s.Stats().Calls
	until(t, "more attempts", func() bool { return s.Stats().Lost >= 4 })
	if rate := float64(s.Stats().Calls-calls) / time.Since(began).Seconds(); rate > 20 {
		t.Errorf("a dead etcd is called %.0f times a second", rate)
	}
	etcd.Restart()
	until(t, "the watch is whole again", func() bool { return w.Problem() == nil })
	put(t, s, "/a/1")
	if u := next(t, w); len(u.Puts) != 1 || u.Puts[0].Key != "/a/1" {
		t.Errorf("after the restart came %+v", u)
	}
}

// What gRPC says of itself is for programs: the kind carries it, people read what happened.
func TestErrorsAreForPeople(t *testing.T) {
	t.Parallel()
	gone, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	gone.Close()
	s := open(t, kvetcd.Options{Endpoints: []string{gone.Addr().String()}, Timeout: time.Minute})
	_, err = s.Get(t.Context(), "/a")
	if !errors.Is(err, errs.Unavailable) || strings.Contains(err.Error(), "rpc error") || !strings.Contains(err.Error(), "refused") {
		t.Errorf("Get of a store that is not there: %v", err)
	}
}

// A wire that is up but dead: nothing closes, nothing is refused, nobody answers.
func TestSilence(t *testing.T) {
	t.Parallel()
	hole, err := net.Listen("tcp", "127.0.0.1:0") // accepts in the kernel, and never says a word
	if err != nil {
		t.Fatal(err)
	}
	defer hole.Close()
	s := open(t, kvetcd.Options{Endpoints: []string{hole.Addr().String()}, Timeout: 100 * time.Millisecond})
	if _, err := s.Get(t.Context(), "/a"); !errors.Is(err, errs.Unavailable) {
		t.Errorf("Get: %v", err)
	}
	short, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
	defer cancel()
	if _, err := s.Get(short, "/a"); !errors.Is(err, errs.Timeout) {
		t.Errorf("Get with a deadline of its own: %v", err)
	}
	w := s.Watch(t.Context(), "/")
	until(t, "the watch has a problem", func() bool { return errors.Is(w.Problem(), errs.Unavailable) })
}

// etcd came back empty at the same address: a watch from an old revision would wait until the numbers have caught up.
func TestEtcdLostItsData(t *testing.T) {
	t.Parallel()
	etcd, _, s := start(t, 0)
	for range 5 {
		put(t, s, "/a/old")
	}
	w := s.Watch(t.Context(), "/a/")
	before := next(t, w)
	etcd.Wipe()
	etcd.Restart()
	u := next(t, w)
	if !u.Resync || u.Revision >= before.Revision || len(u.Deletes) != 1 {
		t.Errorf("the update after the loss is %+v", u)
	}
	put(t, s, "/a/new")
	if u := next(t, w); len(u.Puts) != 1 || u.Puts[0].Key != "/a/new" {
		t.Errorf("the next is %+v", u)
	}
}

func TestNewDoesNotWait(t *testing.T) {
	t.Parallel()
	s := open(t, kvetcd.Options{Endpoints: []string{"unix:///nowhere/etcd.sock"}})
	began := time.Now()
	_, err := s.Get(t.Context(), "/a")
	if !errors.Is(err, errs.Unavailable) || time.Since(began) > 4*time.Second {
		t.Errorf("after %v: %v", time.Since(began), err)
	}
}

// Of three members one is off and one swallows everything: calls go to the one that works, and the watch follows it.
func TestDeadMembersAreAvoided(t *testing.T) {
	t.Parallel()
	etcd := etcdtest.Start(t)
	hole, err := net.Listen("tcp", "127.0.0.1:0") // accepts in the kernel, and never says a word
	if err != nil {
		t.Fatal(err)
	}
	defer hole.Close()
	s := open(t, kvetcd.Options{Endpoints: append([]string{hole.Addr().String(), "unix:///nowhere/etcd.sock"}, etcd.Endpoints()...)})
	for range 20 {
		put(t, s, "/a/1")
		if _, err := s.Get(t.Context(), "/a/1"); err != nil {
			t.Fatal(err)
		}
	}
	w := s.Watch(t.Context(), "/a/")
	next(t, w)
	rev := put(t, s, "/a/2")
	if u := next(t, w); u.Revision != rev || len(u.Puts) != 1 {
		t.Errorf("got %+v, want the put at %d", u, rev)
	}
	l, err := s.Grant(t.Context(), time.Second)
	if err != nil {
		t.Fatal(err)
	}
	if err := l.Close(t.Context()); err != nil {
		t.Error(err)
	}
}
