package kvmem_test

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"bijou.dev/platform/errs"
	"bijou.dev/platform/kv"
	"bijou.dev/platform/kv/kvmem"
	"bijou.dev/platform/kv/kvtest"
)

func TestConformance(t *testing.T) {
	kvtest.Test(t, func(t *testing.T) kvtest.Env {
		s := kvmem.New()
		peer := s.Peer()
		t.Cleanup(func() {
			s.Close()
			peer.Close()
		})
		return kvtest.Env{
			TTL: time.Second, Store: s, Peer: peer, Close: s.Close, Compact: s.Compact, Expire: s.ExpireLease,
			Cut: func() { s.Fail(nil) }, Heal: s.Heal,
			Stop:  func() { s.Fail(nil); peer.Fail(nil) },
			Start: func() { s.Heal(); peer.Heal() },
		}
	})
}

func TestLeasesInFakeTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx := t.Context()
		s := kvmem.New()
		l, err := s.Grant(ctx, time.Hour)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := s.Txn(ctx, kv.Txn{Then: []kv.Op{kv.PutLeased("/a", nil, l.ID())}}); err != nil {
			t.Fatal(err)
		}
		time.Sleep(1000 * time.Hour)
		there := func(want bool) {
			t.Helper()
			if _, err := s.Peer().Get(ctx, "/a"); (err == nil) != want {
				t.Errorf("after %v: %v, want the key there: %v", time.Now(), err, want)
			}
		}
		there(true)

		s.Fail(errors.New("cable"))
		time.Sleep(59 * time.Minute)
		there(true)
		s.Heal()
		time.Sleep(2 * time.Hour)
		there(true) // came back in time

		s.Fail(errors.New("cable"))
		if _, err := s.Get(ctx, "/a"); !errors.Is(err, errs.Unavailable) {
			t.Errorf("Get while away: %v", err)
		}
		start := time.Now()
		<-l.Lost()
		if away := time.Since(start); away != time.Hour {
			t.Errorf("lost after %v, want 1h", away)
		}
		there(false)
	})
}

func TestCutLeavesCallsAndLeases(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx := t.Context()
		s := kvmem.New()
		l, _ := s.Grant(ctx, time.Second)
		w := s.Watch(ctx, "/")
		first, _ := w.Next(ctx)
		s.Cut()
		for _, key := range []string{"/a", "/b"} {
			if _, err := s.Txn(ctx, kv.Txn{Then: []kv.Op{kv.PutLeased(key, nil, l.ID())}}); err != nil {
				t.Fatal(err)
			}
		}
		time.Sleep(time.Hour)
		if w.Problem() == nil {
			t.Error("a cut watch has no problem")
		}
		s.Heal()
		for _, want := range []kv.Revision{first.Revision + 1, first.Revision + 2} {
			if u, err := w.Next(ctx); err != nil || u.Revision != want || u.Resync {
				t.Errorf("Next = %+v, %v; want revision %d", u, err, want)
			}
		}
		s.DropWatches()
		short, cancel := contextFor(t, time.Minute)
		defer cancel()
		if u, err := w.Next(short); err == nil {
			t.Errorf("a dropped watch that missed nothing said %+v", u)
		}
	})
}

func contextFor(t *testing.T, d time.Duration) (context.Context, context.CancelFunc) {
	return context.WithTimeout(t.Context(), d)
}
