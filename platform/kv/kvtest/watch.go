package kvtest

import (
	"bytes"
	"context"
	"fmt"
	"strconv"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"bijou.dev/platform/errs"
	"bijou.dev/platform/kv"
)

// replica is what a reader of a watch knows. It checks each update against the contract.
type replica struct {
	kv.Watch
	t       *testing.T
	prefix  string
	state   map[string]string
	rev     kv.Revision
	updates int
}

func watch(t *testing.T, s kv.Store, prefix string) *replica {
	return &replica{Watch: s.Watch(t.Context(), prefix), t: t, prefix: prefix}
}

func (r *replica) next() kv.Update {
	r.t.Helper()
	ctx, cancel := context.WithTimeout(r.t.Context(), patience)
	defer cancel()
	u, err := r.Next(ctx)
	if err != nil {
		r.t.Fatalf("Next: %v (problem: %v); knows %v", err, r.Problem(), r.state)
	}
	r.check(u)
	for _, e := range u.Puts {
		r.state[e.Key] = string(e.Value)
	}
	for _, key := range u.Deletes {
		delete(r.state, key)
	}
	r.rev = u.Revision
	r.updates++
	return u
}

func (r *replica) check(u kv.Update) {
	r.t.Helper()
	first := r.state == nil
	if u.Snapshot != first {
		r.t.Errorf("update %d has Snapshot %v", r.updates, u.Snapshot)
	}
	if first {
		r.state = map[string]string{}
		return
	}
	if u.Revision <= r.rev {
		r.t.Errorf("revision %d came after %d", u.Revision, r.rev)
	}
	if len(u.Puts)+len(u.Deletes) == 0 {
		r.t.Errorf("empty delta at revision %d", u.Revision)
	}
	for _, key := range u.Deletes {
		if _, ok := r.state[key]; !ok {
			r.t.Errorf("delete of %s, which was never shown", key)
		}
	}
}

// until reads until the replica is want.
func (r *replica) until(want map[string]string) {
	r.t.Helper()
	for !cmp.Equal(r.state, want) {
		r.next()
	}
}

// problem waits until the watch has a problem.
func (r *replica) problem() {
	r.t.Helper()
	for end := time.Now().Add(patience); r.Problem() == nil; {
		if time.Now().After(end) {
			r.t.Fatal("the watch is cut off but has no problem")
		}
		ctx, cancel := context.WithTimeout(r.t.Context(), 5*time.Millisecond)
		if u, err := r.Next(ctx); err == nil {
			r.t.Errorf("a watch that is cut off returned %+v", u)
		}
		cancel()
	}
}

func testNeighbours(t *testing.T, env Env) {
	s := env.Store
	user, admin := watch(t, s, "/apps/user/"), watch(t, s, "/apps/user-admin/")
	user.next()
	admin.next()
	do(t, s, put("/apps/user-admin/1", "admin"))
	do(t, s, put("/apps/user", "neither"))
	do(t, s, put("/apps/user/1", "user"), put("/apps/user-admin/2", "admin"))
	if u := user.next(); len(u.Puts) != 1 || u.Puts[0].Key != "/apps/user/1" {
		t.Errorf("user saw %+v first", u)
	}
	admin.until(map[string]string{"/apps/user-admin/1": "admin", "/apps/user-admin/2": "admin"})
	list, _, err := s.List(t.Context(), "/apps/user/")
	if err != nil || len(list) != 1 || list[0].Key != "/apps/user/1" {
		t.Errorf("List = %v, %v", list, err)
	}
	if list, _, _ := s.List(t.Context(), "/"); len(list) != 4 {
		t.Errorf("all keys: %v", list)
	}
}

func testOrder(t *testing.T, env Env) {
	do(t, env.Peer, put("/o/b", "0"), put("/o/d", "0"))
	r := watch(t, env.Store, "/o/")
	r.next()
	first := do(t, env.Peer, put("/o/c", "1"), kv.Delete("/o/b"), put("/p/x", "1"),
		put("/o/a", "1"), kv.Delete("/o/none"))
	second := do(t, env.Peer, put("/o/a", "2"))
	want := kv.Update{Revision: first, Deletes: []string{"/o/b"}, Puts: []kv.Entry{
		{Key: "/o/a", Value: []byte("1"), Created: first, Modified: first},
		{Key: "/o/c", Value: []byte("1"), Created: first, Modified: first},
	}}
	if diff := cmp.Diff(want, r.next()); diff != "" {
		t.Errorf("first update (-want +got):\n%s", diff)
	}
	want = kv.Update{Revision: second, Puts: []kv.Entry{
		{Key: "/o/a", Value: []byte("2"), Created: first, Modified: second},
	}}
	if diff := cmp.Diff(want, r.next()); diff != "" {
		t.Errorf("second update (-want +got):\n%s", diff)
	}
}

func testNoGap(t *testing.T, env Env) {
	const writes, readers = 150, 5
	done := make(chan error, 1)
	start := make(chan struct{})
	go func() {
		for i := 1; i <= writes; i++ {
			txn := kv.Txn{Then: []kv.Op{put("/g/n", strconv.Itoa(i)), put(fmt.Sprintf("/g/%d", i), "")}}
			if _, err := env.Peer.Txn(context.Background(), txn); err != nil {
				done <- err
				return
			}
			if i == 10 {
				close(start)
			}
		}
		done <- nil
	}()
	<-start
	for range readers {
		r := watch(t, env.Store, "/g/")
		r.next()
		n, _ := strconv.Atoi(r.state["/g/n"])
		if len(r.state) != n+1 {
			t.Errorf("the snapshot mixes revisions: n is %d with %d keys", n, len(r.state))
		}
		for ; n < writes; n++ {
			r.next()
			if got := r.state["/g/n"]; got != strconv.Itoa(n+1) || len(r.state) != n+2 {
				t.Fatalf("after %d came %s with %d keys", n, got, len(r.state))
			}
		}
	}
	if err := <-done; err != nil {
		t.Fatal(err)
	}
}

func testOwnWrites(t *testing.T, env Env) {
	old := watch(t, env.Store, "/w/")
	old.next()
	for i := range 20 {
		rev := do(t, env.Store, put("/w/n", strconv.Itoa(i)), kv.Delete("/w/none"))
		r := watch(t, env.Store, "/w/")
		if u := r.next(); r.state["/w/n"] != strconv.Itoa(i) || u.Revision < rev {
			t.Fatalf("write %d at %d is not in the snapshot at %d: %v", i, rev, u.Revision, r.state)
		}
	}
	do(t, env.Store, kv.Delete("/w/none"))
	watch(t, env.Store, "/w/").next() // a write that changed nothing is not waited for
}

// etcd's own resolver fails here: after a compaction it never removes the old addresses.
func testCompactedWhileCut(t *testing.T, env Env) {
	do(t, env.Peer, put("/i/stays", "1"), put("/i/changes", "1"), put("/i/goes", "1"), put("/i/again", "1"))
	r := watch(t, env.Store, "/i/")
	r.next()
	env.Cut()
	r.problem()
	do(t, env.Peer, kv.Delete("/i/goes"), put("/i/changes", "2"), kv.Delete("/i/again"))
	do(t, env.Peer, put("/i/new", "2"), put("/i/again", "2"))
	do(t, env.Peer, put("/i/passing", "3"))
	last := do(t, env.Peer, kv.Delete("/i/passing"))
	env.Compact()
	env.Heal()
	u := r.next()
	want := map[string]string{"/i/stays": "1", "/i/changes": "2", "/i/again": "2", "/i/new": "2"}
	if !cmp.Equal(r.state, want) || !u.Resync || u.Revision < last || len(u.Puts) != 3 {
		t.Errorf("after compaction the update was %+v", u)
	}
	if err := r.Problem(); err != nil {
		t.Errorf("healed, but %v", err)
	}
	do(t, env.Peer, put("/i/stays", "4"))
	if u := r.next(); u.Resync || r.state["/i/stays"] != "4" {
		t.Errorf("the change after the difference was %+v", u)
	}
}

func testCutAndHeal(t *testing.T, env Env) {
	r := watch(t, env.Store, "/c/")
	r.next()
	want := map[string]string{}
	for i := range 3 {
		env.Cut()
		for j := range 5 {
			key := fmt.Sprintf("/c/%d", j)
			want[key] = strconv.Itoa(i)
			do(t, env.Peer, put(key, want[key]))
		}
		env.Heal()
		r.until(want)
	}
	for r.Problem() != nil { // ends at the latest with the next heartbeat
		do(t, env.Peer, put("/c/x", strconv.Itoa(r.updates)))
		r.next()
	}
}

func testWatchWhileAway(t *testing.T, env Env) {
	do(t, env.Store, put("/s/a", "1"))
	env.Stop()
	r := watch(t, env.Store, "/s/")
	r.problem()
	wantKind(t, r.Problem(), errs.Unavailable)
	env.Start()
	if u := r.next(); !u.Snapshot || r.state["/s/a"] != "1" {
		t.Errorf("the first update was %+v", u)
	}
}

func testAway(t *testing.T, env Env) {
	s := env.Store
	do(t, s, put("/a/1", "1"))
	r := watch(t, s, "/a/")
	r.next()
	env.Stop()
	ctx, cancel := context.WithTimeout(t.Context(), patience) // when this ends a call, the kind is errs.Timeout
	defer cancel()
	_, err := s.Get(ctx, "/a/1")
	wantKind(t, err, errs.Unavailable, "/a/1")
	_, _, err = s.List(ctx, "/a/")
	wantKind(t, err, errs.Unavailable, "/a/")
	_, err = s.Txn(ctx, kv.Txn{Then: []kv.Op{put("/a/2", "1")}})
	wantKind(t, err, errs.Unavailable)
	_, err = s.Grant(ctx, time.Second)
	wantKind(t, err, errs.Unavailable)
	r.problem()
	late := watch(t, s, "/a/") // a reader that starts now gets what is known
	if late.next(); late.state["/a/1"] != "1" {
		t.Errorf("while the store is away a new watch shows %v", late.state)
	}
	env.Start()
	retry(t, func() error {
		_, err := s.Txn(t.Context(), kv.Txn{Then: []kv.Op{put("/a/2", "2")}})
		return err
	})
	r.until(map[string]string{"/a/1": "1", "/a/2": "2"})
	late.until(r.state)
}

// retry calls fn until it does not fail because the store is away.
func retry(t *testing.T, fn func() error) {
	t.Helper()
	for end := time.Now().Add(patience); ; {
		err := fn()
		if err == nil {
			return
		}
		if errs.KindOf(err) != errs.Unavailable || time.Now().After(end) {
			t.Fatalf("the store is back, but: %v", err)
		}
	}
}

func testSlow(t *testing.T, env Env) {
	const writes = 700
	do(t, env.Peer, put("/l/gone", "0"), put("/l/flips", "0"))
	fast, slow := watch(t, env.Store, "/l/"), watch(t, env.Store, "/l/")
	fast.next()
	slow.next()
	for i := range writes {
		n, passing := strconv.Itoa(i), fmt.Sprintf("/l/passing-%d", i)
		do(t, env.Peer, put("/l/n", n), put(passing, ""), put("/l/flips", n))
		do(t, env.Peer, kv.Delete(passing), kv.Delete("/l/flips"))
		if fast.state["/l/n"] != strconv.Itoa(i) {
			fast.next()
			fast.next()
		}
	}
	do(t, env.Peer, kv.Delete("/l/gone"))
	want := map[string]string{"/l/n": strconv.Itoa(writes - 1)}
	fast.until(want)
	if fast.updates < writes {
		t.Errorf("the fast watcher got only %d updates", fast.updates)
	}
	slow.until(want)
	if slow.updates > 4 {
		t.Errorf("the slow watcher got %d updates, want at most 4: the rest is merged", slow.updates)
	}
}

func testSlowBig(t *testing.T, env Env) {
	slow := watch(t, env.Store, "/big/")
	fast := watch(t, env.Store, "/big/")
	slow.next()
	fast.next()
	const writes = 12
	for i := range writes {
		do(t, env.Peer, kv.Put("/big/x", bytes.Repeat([]byte{byte('a' + i)}, kv.MaxValue)))
		fast.next()
	}
	slow.until(fast.state)
	if slow.updates > 8 {
		t.Errorf("the slow watcher got %d updates of a MiB, want at most 8: the rest is merged", slow.updates)
	}
}

func testEnd(t *testing.T, env Env) {
	ctx, cancel := context.WithCancel(t.Context())
	w := env.Store.Watch(ctx, "/e/")
	if _, err := w.Next(t.Context()); err != nil {
		t.Fatal(err)
	}
	short, stop := context.WithTimeout(t.Context(), time.Millisecond)
	defer stop()
	_, err := w.Next(short)
	wantKind(t, err, errs.Timeout, "/e/")
	do(t, env.Store, put("/e/1", "1"))
	if u, err := w.Next(t.Context()); err != nil || len(u.Puts) != 1 {
		t.Errorf("after a Next that timed out the next one returned %+v, %v; want one put", u, err)
	}
	cancel()
	_, err = w.Next(t.Context())
	wantKind(t, err, errs.Canceled, "/e/")

	other := watch(t, env.Store, "/e/")
	other.next()
	if err := env.Close(); err != nil {
		t.Errorf("Close: %v", err)
	}
	for _, w := range []kv.Watch{other.Watch, env.Store.Watch(t.Context(), "/e/")} {
		_, err = w.Next(t.Context())
		wantKind(t, err, errs.Unavailable, "closed")
	}
	_, err = env.Store.Get(t.Context(), "/e/1")
	wantKind(t, err, errs.Unavailable, "closed")
}

// A reader that has ended its watch must not get what was waiting for it.
func testEndedWatchReturnsNothing(t *testing.T, env Env) {
	for i := range 20 { // the watch ends at the same time as Next is called
		ctx, end := context.WithCancel(t.Context())
		w, other := env.Store.Watch(ctx, "/ew/"), watch(t, env.Store, "/ew/")
		if _, err := w.Next(t.Context()); err != nil {
			t.Fatal(err)
		}
		other.next()
		do(t, env.Store, put("/ew/1", strconv.Itoa(i)))
		other.next() // by now the update waits for w too
		end()
		for range 2 {
			u, err := w.Next(t.Context())
			if err == nil {
				t.Fatalf("a watch that has ended returned %+v", u)
			}
			wantKind(t, err, errs.Canceled, "/ew/")
		}
	}
}
