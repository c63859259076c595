package kvtest

import (
	"context"
	"testing"
	"time"

	"bijou.dev/platform/errs"
	"bijou.dev/platform/kv"
)

func grant(t *testing.T, s kv.Store, ttl time.Duration) kv.Lease {
	t.Helper()
	l, err := s.Grant(t.Context(), ttl)
	if err != nil {
		t.Fatalf("Grant: %v", err)
	}
	if l.TTL() < ttl || l.ID() == 0 {
		t.Errorf("lease %d has a ttl of %v, want at least %v", l.ID(), l.TTL(), ttl)
	}
	return l
}

func isLost(l kv.Lease) bool {
	select {
	case <-l.Lost():
		return true
	default:
		return false
	}
}

func waitLost(t *testing.T, l kv.Lease) {
	t.Helper()
	select {
	case <-l.Lost():
	case <-time.After(patience):
		t.Fatal("the loss of the lease was never reported")
	}
}

func leased(key string, l kv.Lease) kv.Op { return kv.PutLeased(key, []byte("1"), l.ID()) }

// The store itself measures the time of this test: a lease of twice the length, which is not kept, expires meanwhile. A
// machine that stops the test for longer than the ttl makes a good store lose the lease too, so a loss counts only if
// it also happens with a ttl that is longer than any such stop.
func testKept(t *testing.T, env Env) {
	ttl := env.TTL
	for !isKept(t, env, ttl) {
		t.Logf("a lease of %v that is kept was lost, trying twice the ttl", ttl)
		if ttl *= 2; ttl > patience {
			t.Fatal("a lease that is kept was lost, whatever its ttl")
		}
	}
}

func isKept(t *testing.T, env Env, ttl time.Duration) bool {
	t.Helper()
	kept := grant(t, env.Store, ttl)
	ctx, abandon := context.WithCancel(t.Context())
	defer abandon()
	other, err := env.Store.Grant(ctx, 2*kept.TTL())
	if err != nil {
		t.Fatal(err)
	}
	abandon()
	marker := "/k/" + ttl.String()
	if _, err := env.Store.Txn(t.Context(), kv.Txn{Then: []kv.Op{leased(marker, other)}}); err != nil {
		return false // it has expired already
	}
	r := watch(t, env.Peer, "/k/")
	for r.next(); r.state[marker] != ""; {
		r.next()
	}
	return !isLost(kept)
}

func testTTLIsNotShortened(t *testing.T, env Env) {
	for _, ttl := range []time.Duration{
		kv.MinTTL, kv.MinTTL + 1, kv.MinTTL + time.Millisecond, 1500 * time.Millisecond, 1999 * time.Millisecond,
		time.Minute + time.Nanosecond,
	} {
		grant(t, env.Store, ttl) // checks the ttl
	}
}

func testExpired(t *testing.T, env Env) {
	r := watch(t, env.Peer, "/x/")
	r.next()
	l := grant(t, env.Store, time.Minute)
	do(t, env.Store, leased("/x/a", l), leased("/x/b", l), leased("/x/stays", l))
	do(t, env.Store, put("/x/stays", "untied"))
	r.until(map[string]string{"/x/a": "1", "/x/b": "1", "/x/stays": "untied"})
	env.Expire(l.ID())
	if u := r.next(); len(u.Deletes) != 2 || len(r.state) != 1 {
		t.Errorf("the update for the end of the lease is %+v, want two deletes and one key left", u)
	}
	waitLost(t, l)
	_, err := env.Store.Txn(t.Context(), kv.Txn{Then: []kv.Op{put("/x/c", ""), leased("/x/a", l)}})
	wantKind(t, err, errs.Precondition, "lease")
	if err := l.Close(t.Context()); err != nil {
		t.Errorf("closing a lease that has ended: %v", err)
	}
}

func testLeaseClosed(t *testing.T, env Env) {
	l := grant(t, env.Store, time.Minute)
	do(t, env.Store, leased("/lc/a", l))
	for range 2 {
		if err := l.Close(t.Context()); err != nil {
			t.Fatalf("Close: %v", err)
		}
	}
	if !isLost(l) {
		t.Error("a closed lease is not lost")
	}
	_, err := env.Peer.Get(t.Context(), "/lc/a")
	wantKind(t, err, errs.NotFound)
}

func testLeaseContext(t *testing.T, env Env) {
	ctx, cancel := context.WithCancel(t.Context())
	l, err := env.Store.Grant(ctx, env.TTL)
	if err != nil {
		t.Fatal(err)
	}
	r := watch(t, env.Peer, "/lx/")
	do(t, env.Store, leased("/lx/a", l))
	r.until(map[string]string{"/lx/a": "1"})
	cancel()
	waitLost(t, l)
	r.until(map[string]string{})
}

// What a registry must survive: the store cannot be reached for longer than a ttl, then it can.
func testLeaseAway(t *testing.T, env Env) {
	r := watch(t, env.Peer, "/la/")
	l := grant(t, env.Store, env.TTL)
	do(t, env.Store, leased("/la/a", l))
	r.until(map[string]string{"/la/a": "1"})
	env.Cut()
	waitLost(t, l)
	r.until(map[string]string{})
	env.Heal()
	var again kv.Lease
	retry(t, func() (err error) {
		again, err = env.Store.Grant(t.Context(), env.TTL)
		return err
	})
	do(t, env.Store, leased("/la/a", again))
	r.until(map[string]string{"/la/a": "1"})
}

// A key that is put again with a new lease is changed, not deleted and created: readers keep their connections.
func testNewLease(t *testing.T, env Env) {
	r := watch(t, env.Peer, "/nl/")
	old := grant(t, env.Store, time.Minute)
	do(t, env.Store, leased("/nl/a", old))
	r.until(map[string]string{"/nl/a": "1"})
	do(t, env.Store, leased("/nl/a", grant(t, env.Store, time.Minute)))
	if err := old.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	do(t, env.Store, put("/nl/end", ""))
	if u := r.next(); len(u.Puts) != 1 || len(u.Deletes) != 0 {
		t.Errorf("the update for the new lease is %+v, want one put", u)
	}
	if u := r.next(); len(u.Puts) != 1 || u.Puts[0].Key != "/nl/end" {
		t.Errorf("the next update is %+v, want only /nl/end: the old lease has no keys", u)
	}
}
