package driver_test

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"bijou.dev/platform/errs"
	"bijou.dev/platform/kv"
	"bijou.dev/platform/kv/driver"
)

func entry(key, value string, rev kv.Revision) kv.Entry {
	return kv.Entry{Key: key, Value: []byte(value), Created: rev, Modified: rev}
}

func put(rev kv.Revision, keys ...string) kv.Update {
	u := kv.Update{Revision: rev}
	for _, key := range keys {
		u.Puts = append(u.Puts, entry(key, "v", rev))
	}
	return u
}

// next returns the update that waits for w. In a synctest bubble it fails at once if there is none.
func next(t *testing.T, w kv.Watch) kv.Update {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	u, err := w.Next(ctx)
	if err != nil {
		t.Fatalf("Next: %v, want an update", err)
	}
	return u
}

func assertNothing(t *testing.T, w kv.Watch) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	if u, err := w.Next(ctx); !errors.Is(err, context.DeadlineExceeded) {
		t.Fatalf("Next = %+v, %v; want nothing", u, err)
	}
}

func TestEndedWatchIsForgotten(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		idle := 0
		f := driver.NewFeed("/a/", func() { idle++ })
		f.Reset(nil, 1)
		ctx, end := context.WithCancel(t.Context())
		first, second := f.Watch(ctx), f.Watch(ctx)
		next(t, first)
		next(t, second)
		if f.Idle() || idle != 0 {
			t.Errorf("with two watches: Idle %t, idle was called %d times", f.Idle(), idle)
		}
		f.Apply(put(2, "/a/1"))
		end()
		for _, w := range []kv.Watch{first, second} {
			if u, err := w.Next(t.Context()); !errors.Is(err, context.Canceled) {
				t.Errorf("Next of an ended watch = %+v, %v; want the end of its context", u, err)
			}
		}
		synctest.Wait()
		if !f.Idle() || idle != 1 {
			t.Errorf("after the last watch: Idle %t, idle was called %d times, want once", f.Idle(), idle)
		}
		f.Apply(put(3, "/a/2"))
		f.SetProblem(errors.New("cable"))
		f.Close(kv.ErrClosed)
		if u, err := first.Next(t.Context()); !errors.Is(err, context.Canceled) {
			t.Errorf("Next of an ended watch = %+v, %v after more changes; want the end of its context", u, err)
		}
	})
}

func TestClosedFeedEndsItsWatches(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := driver.NewFeed("/a/", nil)
		f.Reset(nil, 1)
		waiting := f.Watch(t.Context())
		next(t, waiting)
		result := make(chan error, 1)
		go func() {
			_, err := waiting.Next(t.Context())
			result <- err
		}()
		behind := f.Watch(t.Context())
		next(t, behind)
		synctest.Wait()
		f.Close(kv.ErrClosed)
		if err := <-result; !errors.Is(err, kv.ErrClosed) {
			t.Errorf("Next that was waiting returned %v, want %v", err, kv.ErrClosed)
		}
		f.Apply(put(2, "/a/1"))
		for range 2 {
			if u, err := behind.Next(t.Context()); !errors.Is(err, kv.ErrClosed) {
				t.Errorf("Next after Close = %+v, %v; want %v", u, err, kv.ErrClosed)
			}
		}
		if err := behind.Problem(); !errors.Is(err, kv.ErrClosed) {
			t.Errorf("Problem after Close is %v, want %v", err, kv.ErrClosed)
		}
	})
}

func TestKnownTransactionIsIgnored(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := driver.NewFeed("/a/", nil)
		f.Apply(put(5, "/a/early")) // before the first Reset nothing is known
		f.Reset([]kv.Entry{entry("/a/1", "v", 4)}, 7)
		w := f.Watch(t.Context())
		want := kv.Update{Snapshot: true, Revision: 7, Puts: []kv.Entry{entry("/a/1", "v", 4)}}
		if diff := cmp.Diff(want, next(t, w)); diff != "" {
			t.Errorf("snapshot (-want +got):\n%s", diff)
		}
		f.Apply(put(7, "/a/old"))
		f.Advance(6)
		assertNothing(t, w)
		if rev, ok := f.Revision(); rev != 7 || !ok {
			t.Errorf("Revision = %d, %t; want 7, true", rev, ok)
		}
		f.Apply(put(8, "/a/2"))
		if got := next(t, w); got.Revision != 8 {
			t.Errorf("the update is of revision %d, want 8", got.Revision)
		}
	})
}

func TestSnapshotWaitsForWhatWasWritten(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := driver.NewFeed("/a/", nil)
		f.Reset(nil, 1)
		f.Expect(3)
		f.Expect(2) // reported later, but of an earlier write
		w := f.Watch(t.Context())
		assertNothing(t, w)
		f.Apply(put(2, "/a/1"))
		assertNothing(t, w)
		f.Apply(put(3, "/a/2"))
		if got := next(t, w); !got.Snapshot || got.Revision != 3 || len(got.Puts) != 2 {
			t.Errorf("the first update is %+v, want a snapshot of two keys at revision 3", got)
		}

		f.Expect(9)
		f.SetProblem(errors.New("cable"))
		if got := next(t, f.Watch(t.Context())); !got.Snapshot || got.Revision != 3 {
			t.Errorf("while the source is away the first update is %+v, want the known state", got)
		}
		f.Advance(9)
		if err := w.Problem(); err != nil {
			t.Errorf("after Advance the problem is still %v", err)
		}
		f.Expect(20)
		f.Reset(nil, 2) // an older copy: revision 20 may never come
		if got := next(t, f.Watch(t.Context())); !got.Snapshot || got.Revision != 2 {
			t.Errorf("after a restore the first update is %+v, want a snapshot at revision 2", got)
		}
	})
}

// After a restore from an older copy, or an empty one, an acknowledged write may never come. The snapshots of watches
// do not wait for it.
func TestSnapshotDoesNotWaitForWhatARestoreLost(t *testing.T) {
	for _, restored := range []kv.Revision{0, 1, 4} {
		synctest.Test(t, func(t *testing.T) {
			f := driver.NewFeed("/a/", nil)
			f.Reset(nil, 5)
			f.Expect(9)
			before := f.Watch(t.Context())
			assertNothing(t, before)
			f.Reset(nil, restored)
			after := f.Watch(t.Context())
			for name, w := range map[string]kv.Watch{"before": before, "after": after} {
				if u := next(t, w); !u.Snapshot || u.Revision != restored {
					t.Errorf("restored at %d: a watch that began %s it gets %+v, want a snapshot at that revision",
						restored, name, u)
				}
			}
		})
	}
}

func TestResetGivesTheDifference(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := driver.NewFeed("/a/", nil)
		kept := entry("/a/kept", "v", 1)
		f.Reset([]kv.Entry{
			kept, entry("/a/changed", "v", 1), entry("/a/deleted", "v", 1), entry("/a/again", "v", 1),
		}, 1)
		w := f.Watch(t.Context())
		next(t, w)
		changed := kv.Entry{Key: "/a/changed", Value: []byte("w"), Created: 1, Modified: 4}
		f.Reset([]kv.Entry{kept, changed, entry("/a/again", "v", 3), entry("/a/new", "v", 5)}, 5)
		want := kv.Update{
			Resync: true, Revision: 5, Deletes: []string{"/a/deleted"},
			Puts: []kv.Entry{entry("/a/again", "v", 3), changed, entry("/a/new", "v", 5)},
		}
		if diff := cmp.Diff(want, next(t, w)); diff != "" {
			t.Errorf("difference (-want +got):\n%s", diff)
		}
		f.Reset([]kv.Entry{kept, changed, entry("/a/again", "v", 3), entry("/a/new", "v", 5)}, 6)
		assertNothing(t, w) // nothing has changed, and no update is empty
	})
}

func TestUpdatesOfASlowReaderAreMerged(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := driver.NewFeed("/a/", nil)
		f.Reset([]kv.Entry{entry("/a/shown", "v", 1), entry("/a/flips", "v", 1)}, 1)
		w := f.Watch(t.Context())
		next(t, w)
		rev := kv.Revision(1)
		for i := range 300 {
			rev++
			f.Apply(put(rev, "/a/n", fmt.Sprintf("/a/passing-%d", i)))
			rev++
			f.Apply(kv.Update{Revision: rev, Deletes: []string{fmt.Sprintf("/a/passing-%d", i), "/a/flips"}})
			rev++
			f.Apply(put(rev, "/a/flips"))
		}
		rev++
		f.Apply(kv.Update{Revision: rev, Deletes: []string{"/a/shown", "/a/flips"}})
		got := next(t, w)
		want := kv.Update{
			Revision: rev, Puts: []kv.Entry{entry("/a/n", "v", rev-3)}, Deletes: []string{"/a/flips", "/a/shown"},
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("merged update (-want +got):\n%s", diff)
		}
		assertNothing(t, w)
		f.Apply(put(rev+1, "/a/n"))
		if got := next(t, w); got.Revision != rev+1 || got.Resync {
			t.Errorf("after the merged update comes %+v, want revision %d", got, rev+1)
		}
	})
}

func TestMergedUpdateIsAResyncIfAPartOfItIs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := driver.NewFeed("/a/", nil)
		f.Reset(nil, 1)
		w := f.Watch(t.Context())
		next(t, w)
		rev := kv.Revision(1)
		fallBehind := func() {
			for range 300 {
				rev++
				f.Apply(put(rev, "/a/n"))
			}
		}
		fallBehind()
		rev++
		f.Reset([]kv.Entry{entry("/a/m", "v", rev)}, rev)
		fallBehind()
		if got := next(t, w); !got.Resync || got.Revision != rev {
			t.Errorf("Resync %t at revision %d, want a resync at %d", got.Resync, got.Revision, rev)
		}
		fallBehind()
		if got := next(t, w); got.Resync || got.Revision != rev {
			t.Errorf("the next merged update: Resync %t at revision %d, want no resync at %d",
				got.Resync, got.Revision, rev)
		}
	})
}

func TestReaderThatKeepsUpGetsEveryUpdate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := driver.NewFeed("/a/", nil)
		f.Reset(nil, 1)
		w := f.Watch(t.Context())
		next(t, w)
		big := func(rev kv.Revision) {
			f.Apply(kv.Update{
				Revision: rev,
				Puts:     []kv.Entry{{Key: "/a/n", Value: make([]byte, 1<<20), Modified: rev}},
			})
		}
		for rev := kv.Revision(2); rev < 19; rev++ {
			big(rev)
			next(t, w)
		}
		for rev := kv.Revision(19); rev < 22; rev++ {
			big(rev)
		}
		for rev := kv.Revision(19); rev < 22; rev++ {
			if got := next(t, w); got.Revision != rev {
				t.Errorf("got revision %d, want %d: three updates of 1 MiB are not too much to keep", got.Revision, rev)
			}
		}
	})
}

func TestFailedWatch(t *testing.T) {
	w := driver.FailedWatch("/a/", kv.ErrClosed)
	for range 2 {
		if _, err := w.Next(t.Context()); !errors.Is(err, kv.ErrClosed) {
			t.Errorf("Next = %v, want %v", err, kv.ErrClosed)
		}
	}
	if err := w.Problem(); !errors.Is(err, kv.ErrClosed) {
		t.Errorf("Problem = %v, want %v", err, kv.ErrClosed)
	}
}

func TestUnderKeepsWhatIsUnderThePrefix(t *testing.T) {
	u := put(3, "/a/1", "/ab/1", "/b/1")
	u.Deletes = []string{"/a/2", "/ab/2"}
	want := kv.Update{Revision: 3, Puts: []kv.Entry{entry("/a/1", "v", 3)}, Deletes: []string{"/a/2"}}
	if diff := cmp.Diff(want, driver.Under("/a/", u)); diff != "" {
		t.Errorf("Under (-want +got):\n%s", diff)
	}
}

func TestWholeSecondsRoundsUp(t *testing.T) {
	for ttl, want := range map[time.Duration]int64{
		time.Second: 1, time.Second + 1: 2, 1500 * time.Millisecond: 2, 2 * time.Second: 2, time.Minute + 1: 61,
	} {
		if got := driver.WholeSeconds(ttl); got != want {
			t.Errorf("WholeSeconds(%v) = %d, want %d", ttl, got, want)
		}
	}
}

func TestLease(t *testing.T) {
	revoked := 0
	l := driver.NewLease(7, time.Minute, func(context.Context) error { revoked++; return nil })
	if l.ID() != 7 || l.TTL() != time.Minute {
		t.Errorf("ID %d and TTL %v, want 7 and 1m", l.ID(), l.TTL())
	}
	select {
	case <-l.Lost():
		t.Error("a new lease is lost")
	default:
	}
	l.SetLost()
	l.SetLost()
	<-l.Lost()
	if err := l.Close(t.Context()); err != nil || revoked != 1 {
		t.Errorf("Close = %v, revoked %d times; want nil, once", err, revoked)
	}
}

func TestConflictNamesKeyAndRevisions(t *testing.T) {
	for _, tt := range []struct {
		cond kv.Cond
		at   kv.Revision
		want string
	}{
		{kv.Absent("/a"), 4, "writing: /a exists, at revision 4"},
		{kv.At("/a", 3), 0, "writing: /a does not exist, expected it at revision 3"},
		{kv.At("/a", 3), 4, "writing: /a is at revision 4, expected 3"},
	} {
		err := driver.Conflict(tt.cond, tt.at)
		if !errors.Is(err, errs.Conflict) || err.Error() != tt.want {
			t.Errorf("Conflict(%+v, %d) = %v, want %s", tt.cond, tt.at, err, tt.want)
		}
	}
}
