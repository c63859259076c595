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
		t.Errorf("lease %d lives %v, want at least %v", l.ID(), l.TTL(), ttl)
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

func testKept(t *testing.T, env Env) {
	r := watch(t, env.Peer, "/k/")
	r.next()
	kept := grant(t, env.Store, time.Second)
	ctx, abandon := context.WithCancel(t.Context())
	other, err := env.Store.Grant(ctx, 2*kept.TTL())
	if err != nil {
		t.Fatal(err)
	}
	do(t, env.Store, leased("/k/kept", kept), leased("/k/other", other))
	abandon()
	// The clock of this test is the store's own: a lease of twice the length runs out meanwhile.
	r.until(map[string]string{"/k/kept": "1", "/k/other": "1"})
	r.until(map[string]string{"/k/kept": "1"})
	if isLost(kept) {
		t.Error("a lease that is kept was lost")
	}
}

func testExpired(t *testing.T, env Env) {
	r := watch(t, env.Peer, "/x/")
	r.next()
	l := grant(t, env.Store, time.Second)
	do(t, env.Store, leased("/x/a", l), leased("/x/b", l), leased("/x/stays", l))
	do(t, env.Store, put("/x/stays", "untied"))
	r.until(map[string]string{"/x/a": "1", "/x/b": "1", "/x/stays": "untied"})
	env.Expire(l.ID())
	if u := r.next(); len(u.Deletes) != 2 || len(r.state) != 1 {
		t.Errorf("the end of the lease was %+v", u)
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
	l, err := env.Store.Grant(ctx, time.Second)
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

// What a registry must survive: the store is away for longer than a lease lives, then comes back.
func testLeaseAway(t *testing.T, env Env) {
	r := watch(t, env.Peer, "/la/")
	l := grant(t, env.Store, time.Second)
	do(t, env.Store, leased("/la/a", l))
	r.until(map[string]string{"/la/a": "1"})
	env.Cut()
	waitLost(t, l)
	r.until(map[string]string{})
	env.Heal()
	var again kv.Lease
	retry(t, func() (err error) {
		again, err = env.Store.Grant(t.Context(), time.Second)
		return err
	})
	do(t, env.Store, leased("/la/a", again))
	r.until(map[string]string{"/la/a": "1"})
}

// A key that is put again with a new lease is changed, not deleted and made: readers keep their connections.
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
		t.Errorf("the new lease was %+v", u)
	}
	if u := r.next(); len(u.Puts) != 1 || u.Puts[0].Key != "/nl/end" {
		t.Errorf("the end of the old lease was %+v", u)
	}
}
