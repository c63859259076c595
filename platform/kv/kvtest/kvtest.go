// Package kvtest is the conformance suite of package kv: what every store must do, faults included.
package kvtest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"bijou.dev/platform/errs"
	"bijou.dev/platform/kv"
)

// Env is a store under test and what can be done to it. Every field is required.
type Env struct {
	// Store is the client that faults affect.
	Store kv.Store
	// Peer is another client of the same data; Cut does not affect it.
	Peer kv.Store
	// Cut separates Store from its data until Heal: calls fail, watches get no updates.
	Cut, Heal func()
	// Stop makes the data unreachable for all clients, and Start undoes that. The data is unchanged.
	Stop, Start func()
	// Compact deletes all history.
	Compact func()
	// Expire ends a lease as if its owner had not been heard for its TTL.
	Expire func(kv.LeaseID)
	// Close closes Store.
	Close func() error
	// TTL is the time to live of a lease that a test waits for. Where leases are renewed in real time it must be longer
	// than a busy machine stops the test, else the lease expires although its owner renews it.
	TTL time.Duration
}

// Test runs the suite. open makes a new, empty store each time and cleans up after the test.
func Test(t *testing.T, open func(t *testing.T) Env) {
	cases := []struct {
		name string
		run  func(*testing.T, Env)
	}{
		{"get, put, delete", testGetPutDelete},
		{"rules", testRules},
		{"limits", testLimits},
		{"a transaction is all or nothing", testAtomic},
		{"compare-and-swap is linearizable", testSwap},
		{"a long list is complete", testLongList},
		{"a long list is read at one revision", testLongListOneRevision},
		{"prefix neighbours do not wake each other", testNeighbours},
		{"one transaction is one update, in order", testOrder},
		{"snapshot and deltas leave no gap", testNoGap},
		{"a new watch shows what was written before it", testOwnWrites},
		{"compaction while cut off gives the difference", testCompactedWhileCut},
		{"a lost watch catches up", testCutAndHeal},
		{"a watch that starts while the store is away", testWatchWhileAway},
		{"calls fail in bounded time while the store is away", testAway},
		{"a slow watcher gets one merged update", testSlow},
		{"big values are merged early", testSlowBig},
		{"the end of a watch", testEnd},
		{"a watch that has ended returns no update", testEndedWatchReturnsNothing},
		{"a lease is kept alive", testKept},
		{"an expired lease takes its keys at once", testExpired},
		{"a closed lease takes its keys", testLeaseClosed},
		{"a lease ends with its context", testLeaseContext},
		{"a lease lives as long as asked for", testTTLIsNotShortened},
		{"a lease is lost when the store stays away, and another can be granted", testLeaseAway},
		{"a key keeps its identity under a new lease", testNewLease},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			c.run(t, open(t))
		})
	}
}

// patience is how long a test waits for what must happen; only a broken store makes it wait that long.
const patience = 30 * time.Second

func do(t *testing.T, s kv.Store, ops ...kv.Op) kv.Revision {
	t.Helper()
	rev, err := s.Txn(t.Context(), kv.Txn{Then: ops})
	if err != nil {
		t.Fatalf("Txn: %v", err)
	}
	return rev
}

func put(key, value string) kv.Op { return kv.Put(key, []byte(value)) }

func wantKind(t *testing.T, err error, kind errs.Kind, parts ...string) {
	t.Helper()
	if !errors.Is(err, kind) && errs.KindOf(err) != kind {
		t.Fatalf("error %v, want kind %v", err, kind)
	}
	for _, part := range parts {
		if !strings.Contains(err.Error(), part) {
			t.Errorf("error %q does not name %q", err, part)
		}
	}
}

func testGetPutDelete(t *testing.T, env Env) {
	ctx, s := t.Context(), env.Store
	_, err := s.Get(ctx, "/a/b")
	wantKind(t, err, errs.NotFound, "/a/b")
	value := []byte("1")
	first := do(t, s, kv.Put("/a/b", value))
	value[0] = 'x'
	second := do(t, s, put("/other", ""))
	third := do(t, s, put("/a/b", "2"))
	if first >= second || second >= third {
		t.Errorf("revisions %d, %d, %d do not grow", first, second, third)
	}
	got, err := env.Peer.Get(ctx, "/a/b")
	want := kv.Entry{Key: "/a/b", Value: []byte("2"), Created: first, Modified: third}
	if err != nil || !cmp.Equal(got, want) {
		t.Errorf("Get = %+v, %v; want %+v", got, err, want)
	}
	if got, err := s.Get(ctx, "/other"); err != nil || len(got.Value) != 0 {
		t.Errorf("an empty value came back as %q, %v", got.Value, err)
	}
	do(t, s, kv.Delete("/a/b"))
	_, err = s.Get(ctx, "/a/b")
	wantKind(t, err, errs.NotFound)
	unchanged := do(t, s, kv.Delete("/a/b"), kv.Delete("/never"))
	again := do(t, s, put("/a/b", "3"))
	if again != unchanged+1 {
		t.Errorf("deleting nothing used a revision: %d then %d", unchanged, again)
	}
	if got, _ := s.Get(ctx, "/a/b"); got.Created != again {
		t.Errorf("a key that was created again has Created %d, want %d", got.Created, again)
	}
}

func testRules(t *testing.T, env Env) {
	ctx, s := t.Context(), env.Store
	for _, key := range []string{"", "a", "/", "/a/", "//a", "/a//b", "/" + strings.Repeat("k", kv.MaxKey)} {
		_, err := s.Get(ctx, key)
		wantKind(t, err, errs.Invalid, "key")
		for _, txn := range []kv.Txn{
			{If: []kv.Cond{kv.Absent(key)}}, {Then: []kv.Op{put(key, "")}}, {Then: []kv.Op{kv.Delete(key)}},
		} {
			_, err = s.Txn(ctx, txn)
			wantKind(t, err, errs.Invalid, "key")
		}
	}
	for _, prefix := range []string{"", "a", "/a", "a/", "//", "/a//"} {
		_, _, err := s.List(ctx, prefix)
		wantKind(t, err, errs.Invalid)
		_, err = s.Watch(ctx, prefix).Next(ctx)
		wantKind(t, err, errs.Invalid)
	}
	_, err := s.Txn(ctx, kv.Txn{Then: []kv.Op{put("/a", "1"), kv.Delete("/a")}})
	wantKind(t, err, errs.Invalid, "/a")
	_, err = s.Txn(ctx, kv.Txn{If: []kv.Cond{kv.At("/a", -1)}})
	wantKind(t, err, errs.Invalid, "/a")
	_, err = s.Grant(ctx, kv.MinTTL-1)
	wantKind(t, err, errs.Invalid, "ttl")
	if list, _, err := s.List(ctx, "/"); err != nil || len(list) != 0 {
		t.Errorf("refused transactions left %v, %v", list, err)
	}
	ended, cancel := context.WithCancel(ctx)
	cancel()
	_, err = s.Get(ended, "/a")
	wantKind(t, err, errs.Canceled)
}

func testLimits(t *testing.T, env Env) {
	ctx, s := t.Context(), env.Store
	big := bytes.Repeat([]byte{0xff}, kv.MaxValue)
	do(t, s, kv.Put("/big", big))
	if got, err := s.Get(ctx, "/big"); err != nil || !bytes.Equal(got.Value, big) {
		t.Errorf("the largest value came back with %d bytes, %v", len(got.Value), err)
	}
	_, err := s.Txn(ctx, kv.Txn{Then: []kv.Op{put("/small", ""), kv.Put("/big", append(big, 0))}})
	wantKind(t, err, errs.Exhausted, "/big")
	_, err = s.Txn(ctx, kv.Txn{Then: []kv.Op{kv.Put("/b1", big), kv.Put("/b2", big)}})
	wantKind(t, err, errs.Exhausted, "/b1")

	var txn kv.Txn
	for i := range kv.MaxOps {
		key := fmt.Sprintf("/n/%d", i)
		txn.If, txn.Then = append(txn.If, kv.Absent(key)), append(txn.Then, kv.Put(key, nil))
	}
	if _, err := s.Txn(ctx, txn); err != nil {
		t.Errorf("the largest transaction: %v", err)
	}
	_, err = s.Txn(ctx, kv.Txn{Then: append(txn.Then, put("/n/more", ""))})
	wantKind(t, err, errs.Invalid)
	_, err = s.Txn(ctx, kv.Txn{If: append(txn.If, kv.Absent("/n/more"))})
	wantKind(t, err, errs.Invalid)
}

func testAtomic(t *testing.T, env Env) {
	ctx, s := t.Context(), env.Store
	rev := do(t, s, put("/x/a", "1"), put("/x/b", "1"))
	for name, txn := range map[string]kv.Txn{
		"/x/b": {If: []kv.Cond{kv.At("/x/a", rev), kv.At("/x/b", rev+1)}},
		"/x/a": {If: []kv.Cond{kv.Absent("/x/a")}},
		"/x/c": {If: []kv.Cond{kv.At("/x/c", rev)}},
	} {
		txn.Then = []kv.Op{put("/x/a", "2"), kv.Delete("/x/b"), put("/x/c", "2")}
		_, err := s.Txn(ctx, txn)
		wantKind(t, err, errs.Conflict, name)
	}
	want := []kv.Entry{
		{Key: "/x/a", Value: []byte("1"), Created: rev, Modified: rev},
		{Key: "/x/b", Value: []byte("1"), Created: rev, Modified: rev},
	}
	got, at, err := env.Peer.List(ctx, "/x/")
	if err != nil || at != rev || !cmp.Equal(got, want) {
		t.Errorf("after conflicts: revision %d (want %d), %v\n%s", at, rev, err, cmp.Diff(want, got))
	}
	if at, err := s.Txn(ctx, kv.Txn{If: []kv.Cond{kv.At("/x/a", rev), kv.Absent("/x/c")}}); err != nil || at != rev {
		t.Errorf("a transaction that only checks = %d, %v; want %d", at, err, rev)
	}
}

func testSwap(t *testing.T, env Env) {
	ctx := t.Context()
	const workers, each = 6, 20
	do(t, env.Store, put("/count", "0"))
	var mu sync.Mutex
	seen := map[string]bool{} // value -> a swap has written it
	swap := func(s kv.Store) error {
		for {
			e, err := s.Get(ctx, "/count")
			if err != nil {
				return err
			}
			n, _ := strconv.Atoi(string(e.Value))
			next := strconv.Itoa(n + 1)
			_, err = s.Txn(ctx, kv.Txn{If: []kv.Cond{kv.At("/count", e.Modified)}, Then: []kv.Op{put("/count", next)}})
			if errors.Is(err, errs.Conflict) {
				continue
			}
			mu.Lock()
			defer mu.Unlock()
			if seen[next] {
				t.Errorf("two swaps wrote %s", next)
			}
			seen[next] = true
			return err
		}
	}
	var wg sync.WaitGroup
	for i := range workers {
		s := []kv.Store{env.Store, env.Peer}[i%2]
		wg.Go(func() {
			for range each {
				if err := swap(s); err != nil {
					t.Errorf("swapping: %v", err)
					return
				}
			}
		})
	}
	wg.Wait()
	if e, _ := env.Peer.Get(ctx, "/count"); string(e.Value) != strconv.Itoa(workers*each) {
		t.Errorf("after %d swaps the value is %s", workers*each, e.Value)
	}
}

// longList is more keys than a store reads at once.
const longList = 1201

func longKey(i int) string { return fmt.Sprintf("/long/%05d", i) }

func putLongList(t *testing.T, s kv.Store) {
	t.Helper()
	var ops []kv.Op
	for i := range longList {
		if ops = append(ops, put(longKey(i), strconv.Itoa(i))); len(ops) == kv.MaxOps || i == longList-1 {
			do(t, s, ops...)
			ops = nil
		}
	}
}

// The first and the last key always change together, so a list that shows two values has read two revisions.
func testLongListOneRevision(t *testing.T, env Env) {
	putLongList(t, env.Store)
	do(t, env.Peer, put(longKey(0), "0"), put(longKey(longList-1), "0"))
	ctx, stop := context.WithCancel(t.Context())
	var writer sync.WaitGroup
	defer writer.Wait()
	defer stop()
	writer.Go(func() {
		for i := 1; ctx.Err() == nil; i++ {
			n := strconv.Itoa(i)
			_, err := env.Peer.Txn(ctx, kv.Txn{Then: []kv.Op{put(longKey(0), n), put(longKey(longList-1), n)}})
			if err != nil && ctx.Err() == nil {
				t.Errorf("writing: %v", err)
				return
			}
		}
	})
	for range 20 {
		list, rev, err := env.Store.List(t.Context(), "/long/")
		if err != nil || len(list) != longList {
			t.Fatalf("List = %d entries, %v; want %d", len(list), err, longList)
		}
		first, last := list[0], list[len(list)-1]
		if first.Modified != last.Modified || string(first.Value) != string(last.Value) || first.Modified > rev {
			t.Fatalf("one list at revision %d has %s = %s of revision %d and %s = %s of revision %d, which change together",
				rev, first.Key, first.Value, first.Modified, last.Key, last.Value, last.Modified)
		}
	}
}

func testLongList(t *testing.T, env Env) {
	const n = longList
	putLongList(t, env.Store)
	last := do(t, env.Store, put("/longer", ""))
	list, rev, err := env.Store.List(t.Context(), "/long/")
	if err != nil || len(list) != n || rev != last {
		t.Fatalf("List = %d entries at %d, %v; want %d at %d", len(list), rev, err, n, last)
	}
	for i, e := range list {
		if e.Key != longKey(i) || string(e.Value) != strconv.Itoa(i) {
			t.Fatalf("entry %d is %s = %s", i, e.Key, e.Value)
		}
	}
}
