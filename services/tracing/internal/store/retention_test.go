package store_test

import (
	"context"
	"errors"
	"testing"
	"time"

	"bijou.dev/services/tracing/internal/span"
	"bijou.dev/services/tracing/internal/spantest"
	"bijou.dev/services/tracing/internal/store"
)

const bucket = 15 * time.Minute

// assertExpires calls Expire and compares the number of buckets that it dropped.
func assertExpires(t *testing.T, s *store.Store, now time.Time, want int) {
	t.Helper()
	if n, err := s.Expire(t.Context(), now); n != want || err != nil {
		t.Fatalf("Expire dropped %d buckets, want %d; error: %v", n, want, err)
	}
}

func assertStored(t *testing.T, s *store.Store, what string, trace span.TraceID, want bool) {
	t.Helper()
	if got := len(get(t, s, trace)) > 0; got != want {
		t.Errorf("%s is stored: %v, want %v", what, got, want)
	}
}

// fill adds n buckets of spans, the newest of which is the current one, and returns one trace of each, oldest first.
func fill(t *testing.T, s *store.Store, n, traces int) (ids []span.TraceID) {
	t.Helper()
	src := spantest.New(6)
	for i := range n {
		at := time.Now().Add(-time.Duration(n-1-i) * bucket)
		var spans []span.Span
		for range traces {
			spans = append(spans, src.Trace(at)...)
		}
		add(t, s, spans...)
		ids = append(ids, spans[0].Trace)
	}
	if err := s.Flush(); err != nil {
		t.Fatal(err)
	}
	return ids
}

func TestRetentionByAge(t *testing.T) {
	retention := 10 * time.Hour
	s := open(t, store.Options{Retention: func() time.Duration { return retention }})
	now, src := time.Now(), spantest.New(5)
	old, recent := src.Trace(now.Add(-9*time.Hour)), src.Trace(now.Add(-time.Minute))
	add(t, s, old...)
	add(t, s, recent...)
	assertExpires(t, s, now, 0)
	assertExpires(t, s, now.Add(2*time.Hour), 1)
	assertStored(t, s, "the old trace", old[0].Trace, false)
	same(t, recent, get(t, s, recent[0].Trace))
	retention = time.Hour // it may change at any time
	if expired, err := s.Add(t.Context(), src.Trace(now.Add(-2*time.Hour))); expired != 9 || err != nil {
		t.Errorf("%d spans are refused as too old, want 9; error: %v", expired, err)
	}
	if names, _ := s.Names(t.Context(), store.Services, ""); len(names) != 5 {
		t.Errorf("the services are %v, want 5", names)
	}
}

// A bucket is dropped when its last span is past retention, and not earlier.
func TestBucketIsDroppedWhenAllOfItIsOld(t *testing.T) {
	const retention = 10 * time.Hour
	s := open(t, store.Options{Retention: func() time.Duration { return retention }})
	begin := time.Now().Add(-2 * time.Hour).Truncate(bucket)
	tr := spantest.New(5).Trace(begin)
	add(t, s, tr...)
	if stats := s.Stats(); stats.Buckets != 1 || !stats.Oldest.Equal(begin) {
		t.Errorf("the store has %d buckets, the oldest of %v; want one of %v", stats.Buckets, stats.Oldest, begin)
	}
	end := begin.Add(bucket)
	assertExpires(t, s, end.Add(retention-time.Second), 0)
	assertStored(t, s, "a trace whose bucket is not past retention", tr[0].Trace, true)
	assertExpires(t, s, end.Add(retention), 1)
	assertStored(t, s, "a trace whose bucket is past retention", tr[0].Trace, false)
	if stats := s.Stats(); stats.Buckets != 0 || !stats.Oldest.IsZero() {
		t.Errorf("an empty store has %d buckets, the oldest of %v", stats.Buckets, stats.Oldest)
	}
}

// Spans without a time, or with one that is far ahead, are kept as if they began when they came.
func TestSpansWithoutAUsableTimeExpire(t *testing.T) {
	s := open(t, store.Options{Retention: func() time.Duration { return time.Hour }})
	now := time.Now()
	none, ahead := span.TraceID{Lo: 1}, span.TraceID{Lo: 2}
	add(t, s, span.Span{Trace: none, ID: 1})
	add(t, s, span.Span{Trace: ahead, ID: 1, Start: now.AddDate(50, 0, 0).UnixMicro()})
	assertStored(t, s, "a span without a time", none, true)
	assertStored(t, s, "a span of the next century", ahead, true)
	assertExpires(t, s, now.Add(time.Hour+bucket+time.Second), 1)
	assertStored(t, s, "a span without a time", none, false)
	assertStored(t, s, "a span of the next century", ahead, false)
}

func TestRetentionBySize(t *testing.T) {
	limit := int64(1 << 30)
	s := open(t, store.Options{MaxBytes: func() int64 { return limit }})
	ids := fill(t, s, 40, 100)
	size := s.Stats().Bytes
	limit = size / 2
	n, err := s.Expire(t.Context(), time.Now())
	if err != nil || n < 10 || n > 30 {
		t.Fatalf("Expire dropped %d of 40 buckets to halve %d bytes; error: %v", n, size, err)
	}
	if got := s.Stats().Bytes; got > limit {
		t.Errorf("%d bytes are left, want at most %d", got, limit)
	}
	for i, id := range ids {
		assertStored(t, s, "a trace by its age", id, i >= n)
	}
}

// The newest bucket is never dropped for its size, however small the limit is: a store that drops what it has just
// acknowledged would be of no use.
func TestNewestBucketIsNeverDroppedForSize(t *testing.T) {
	limit := int64(1 << 30)
	s := open(t, store.Options{MaxBytes: func() int64 { return limit }})
	ids := fill(t, s, 3, 10)
	limit = 1
	assertExpires(t, s, time.Now(), 2)
	for range 3 {
		assertExpires(t, s, time.Now(), 0)
	}
	assertStored(t, s, "the oldest trace", ids[0], false)
	assertStored(t, s, "the newest trace", ids[2], true)
	tr := spantest.New(99).Trace(time.Now())
	add(t, s, tr...)
	assertStored(t, s, "a trace that comes then", tr[0].Trace, true)
}

// Late spans may come into a bucket that was dropped. They must not refer to strings that were dropped with it.
func TestDroppedBucketIsFilledAgain(t *testing.T) {
	dir := t.TempDir()
	limit := int64(1 << 30)
	opts := store.Options{Dir: dir, MaxBytes: func() int64 { return limit }}
	s := open(t, opts)
	src, at := spantest.New(6), time.Now().Add(-2*time.Hour)
	add(t, s, src.Trace(at)...)
	add(t, s, src.Trace(time.Now())...)
	limit = 1
	assertExpires(t, s, time.Now(), 1)
	limit = 1 << 30
	late := src.Trace(at)
	add(t, s, late...)
	same(t, late, get(t, s, late[0].Trace))
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	s = open(t, opts)
	same(t, late, get(t, s, late[0].Trace))
	if names, err := s.Names(t.Context(), store.Services, ""); err != nil || len(names) != 5 {
		t.Errorf("the services are %q, want 5; error: %v", names, err)
	}
}

func TestExpireEndsWithItsContext(t *testing.T) {
	s := open(t, store.Options{
		Retention: func() time.Duration { return time.Minute },
		MaxBytes:  func() int64 { return 1 },
	})
	add(t, s, spantest.New(1).Trace(time.Now())...)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if n, err := s.Expire(ctx, time.Now().Add(time.Hour)); n != 0 || !errors.Is(err, context.Canceled) {
		t.Errorf("Expire dropped %d buckets and returned %v, want none and %v", n, err, context.Canceled)
	}
}

// What was dropped is not there after a restart either.
func TestDroppedBucketsStayDropped(t *testing.T) {
	dir := t.TempDir()
	retention := 10 * time.Hour
	opts := store.Options{Dir: dir, Retention: func() time.Duration { return retention }}
	s := open(t, opts)
	ids := fill(t, s, 4, 3)
	retention = 20 * time.Minute
	n, err := s.Expire(t.Context(), time.Now())
	if err != nil || n == 0 {
		t.Fatalf("Expire dropped %d buckets; error: %v", n, err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	s = open(t, opts)
	if got := s.Stats().Buckets; got != 4-n {
		t.Errorf("%d buckets are there after a restart, want %d", got, 4-n)
	}
	for i, id := range ids {
		assertStored(t, s, "a trace by its age", id, i >= n)
	}
}

// A burst within one bucket is cut into several, so that the size limit never drops everything at once.
func TestBurstIsCutIntoBuckets(t *testing.T) {
	s := open(t, store.Options{MaxBytes: func() int64 { return 1 << 20 }})
	src := spantest.New(7)
	for i := 0; s.Stats().Buckets < 3; i++ {
		if i > 3000 {
			t.Fatalf("%d buckets after %d batches", s.Stats().Buckets, i)
		}
		var spans []span.Span
		for range 50 {
			spans = append(spans, src.Trace(time.Now())...)
		}
		add(t, s, spans...)
	}
}
