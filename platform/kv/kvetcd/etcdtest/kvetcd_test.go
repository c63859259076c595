package etcdtest_test

import (
	"cmp"
	"context"
	"errors"
	"fmt"
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

// wire is the network to an etcd. It can be cut.
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
	// Short, but longer than a busy machine stops a test: two dozen etcds share it. A watch that counts as lost lists
	// again, and a test that counts updates then counts another number.
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

// A process has one etcd watch for each prefix. More readers must not make more watches or lists.
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

// A loop that reads from a closed channel never waits, and one that gives up never connects again.
func TestStoppedEtcdIsCalledSeldomAndFoundAgain(t *testing.T) {
	t.Parallel()
	etcd, _, s := start(t, 0)
	w := s.Watch(t.Context(), "/a/")
	next(t, w)
	etcd.Stop()
	until(t, "a few attempts", func() bool { return s.Stats().Lost >= 2 })
	began, calls := time.Now(), s.Stats().Calls
	until(t, "more attempts", func() bool { return s.Stats().Lost >= 4 })
	if rate := float64(s.Stats().Calls-calls) / time.Since(began).Seconds(); rate > 20 {
		t.Errorf("a stopped etcd is called %.0f times a second, want at most 20", rate)
	}
	etcd.Restart()
	until(t, "the watch is whole again", func() bool { return w.Problem() == nil })
	put(t, s, "/a/1")
	if u := next(t, w); len(u.Puts) != 1 || u.Puts[0].Key != "/a/1" {
		t.Errorf("after the restart came %+v", u)
	}
}

// gRPC's own prefix of an error is for programs and is in the kind. The text says what happened.
func TestErrorsHaveNoGRPCPrefix(t *testing.T) {
	t.Parallel()
	gone, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	gone.Close()
	s := open(t, kvetcd.Options{Endpoints: []string{gone.Addr().String()}, Timeout: time.Minute})
	_, err = s.Get(t.Context(), "/a")
	text := fmt.Sprint(err)
	if !errors.Is(err, errs.Unavailable) || strings.Contains(text, "rpc error") || !strings.Contains(text, "refused") {
		t.Errorf("Get of a store that is not there: %v", err)
	}
}

// The connection is accepted and stays open, but there is never an answer.
func TestServerThatNeverAnswers(t *testing.T) {
	t.Parallel()
	hole, err := net.Listen("tcp", "127.0.0.1:0") // the kernel accepts, and there is never an answer
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

// etcd was replaced by an empty one at the same address. A watch from the old revision would get nothing until the new
// etcd has as many revisions.
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

// The same, but the new etcd has got more revisions than the old one had before the watch can reach it. The changes up
// to the old revision would be lost.
func TestEtcdLostItsDataAndGotMore(t *testing.T) {
	t.Parallel()
	etcd, wire, s := start(t, 0)
	for range 5 {
		put(t, s, "/a/old")
	}
	w := s.Watch(t.Context(), "/a/")
	next(t, w)
	wire.set(true)
	etcd.Wipe()
	etcd.Restart()
	other := open(t, kvetcd.Options{Endpoints: etcd.Endpoints()})
	want := map[string]bool{}
	for i := range 20 {
		key := fmt.Sprintf("/a/new%d", i)
		put(t, other, key)
		want[key] = true
	}
	wire.set(false)
	for len(want) > 0 {
		for _, e := range next(t, w).Puts {
			delete(want, e.Key)
		}
	}
}

func TestNewDoesNotWaitForEtcd(t *testing.T) {
	t.Parallel()
	s := open(t, kvetcd.Options{Endpoints: []string{"unix:///nowhere/etcd.sock"}})
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute) // when this ends a call, the kind is errs.Timeout
	defer cancel()
	if _, err := s.Get(ctx, "/a"); !errors.Is(err, errs.Unavailable) {
		t.Errorf("Get of a store that cannot be reached: %v, want kind Unavailable", err)
	}
}

// Of three members one is off and one never answers: calls and watches use the third.
func TestMembersThatDoNotAnswerAreAvoided(t *testing.T) {
	t.Parallel()
	etcd := etcdtest.Start(t)
	hole, err := net.Listen("tcp", "127.0.0.1:0") // the kernel accepts, and there is never an answer
	if err != nil {
		t.Fatal(err)
	}
	defer hole.Close()
	dead := []string{hole.Addr().String(), "unix:///nowhere/etcd.sock"}
	s := open(t, kvetcd.Options{Endpoints: append(dead, etcd.Endpoints()...)})
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
