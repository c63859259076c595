package store_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"bijou.dev/services/tracing/internal/span"
	"bijou.dev/services/tracing/internal/store"
)

// root returns the root span of a trace.
func root(trace uint64, at time.Time, service, name string) span.Span {
	return span.Span{
		Trace: span.TraceID{Lo: trace}, ID: 1, Kind: span.Server, Name: name, Start: at.UnixMicro(), Duration: 10,
		Local: span.Endpoint{Service: service},
	}
}

// assertFinds compares the traces that a search returns, by the lower half of their ids.
func assertFinds(t *testing.T, s *store.Store, q store.Query, want ...uint64) {
	t.Helper()
	traces, incomplete, err := s.Search(t.Context(), q)
	if err != nil || incomplete {
		t.Fatalf("Search of %+v: incomplete %v, error %v", q, incomplete, err)
	}
	var got []uint64
	for _, tr := range traces {
		got = append(got, tr[0].Trace.Lo)
	}
	if !slices.Equal(got, want) {
		t.Errorf("Search of %+v finds the traces %v, want %v", q, got, want)
	}
}

func TestSearchIncludesBothEndsOfItsTime(t *testing.T) {
	s := open(t, store.Options{})
	at := time.Now().Add(-time.Hour).Truncate(bucket) // at the border of two buckets
	before := root(1, at.Add(-time.Microsecond), "web", "a")
	border := root(2, at, "web", "b")
	after := root(3, at.Add(time.Microsecond), "web", "c")
	add(t, s, before, border, after)
	window := func(from, to span.Span) store.Query { return store.Query{From: from.Start, To: to.Start, Limit: 10} }
	assertFinds(t, s, window(before, after), 3, 2, 1)
	assertFinds(t, s, window(border, border), 2)
	assertFinds(t, s, window(before, before), 1)
	assertFinds(t, s, window(border, after), 3, 2)
	assertFinds(t, s, store.Query{From: after.Start + 1, To: after.Start + 1e6, Limit: 10})
}

// A service may take part minutes after its trace began, in another bucket and in another commit.
func TestSearchByALateService(t *testing.T) {
	s := open(t, store.Options{})
	at := time.Now().Add(-time.Hour).Truncate(bucket).Add(-time.Minute)
	late := root(1, at.Add(3*time.Minute), "mailer", "send")
	late.ID, late.Parent = 2, 1
	add(t, s, root(1, at, "web", "GET /"))
	add(t, s, late)
	q := store.Query{From: at.UnixMicro(), To: at.UnixMicro(), Service: "mailer", Limit: 10}
	assertFinds(t, s, q, 1)
	q.Name = "send"
	assertFinds(t, s, q, 1)
	q.Name = "GET /"
	assertFinds(t, s, q) // that is the name of a span of another service
}

// Spans without a start belong to their trace, and a trace in which no span has one is not found by time.
func TestSearchOfSpansWithoutAStart(t *testing.T) {
	s := open(t, store.Options{})
	now := time.Now()
	part := span.Span{Trace: span.TraceID{Lo: 1}, ID: 2, Parent: 1, Local: span.Endpoint{Service: "web"}}
	alone := span.Span{Trace: span.TraceID{Lo: 2}, ID: 1, Local: span.Endpoint{Service: "web"}}
	add(t, s, root(1, now, "web", "a"), part, alone)
	assertFinds(t, s, store.Query{From: 0, To: now.Add(time.Minute).UnixMicro(), Service: "web", Limit: 10}, 1)
	if got := get(t, s, part.Trace); len(got) != 2 {
		t.Errorf("the trace has %d spans, want 2", len(got))
	}
	if got := get(t, s, alone.Trace); len(got) != 1 {
		t.Errorf("the trace without a time has %d spans, want 1", len(got))
	}
}

func TestSearchStopsAtItsDeadline(t *testing.T) {
	s := open(t, store.Options{})
	add(t, s, root(1, time.Now(), "web", "a"))
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	traces, incomplete, err := s.Search(ctx, store.Query{To: time.Now().Add(time.Hour).UnixMicro(), Limit: 10})
	if err != nil || !incomplete || len(traces) != 0 {
		t.Errorf("Search returns %d traces, incomplete %v, error %v; want none, incomplete", len(traces), incomplete, err)
	}
	if _, err := s.Trace(ctx, span.TraceID{Lo: 1}); !errors.Is(err, context.Canceled) {
		t.Errorf("Trace returns the error %v, want %v", err, context.Canceled)
	}
	if _, err := s.Names(ctx, store.Services, ""); !errors.Is(err, context.Canceled) {
		t.Errorf("Names returns the error %v, want %v", err, context.Canceled)
	}
	if err := s.Walk(ctx, 0, time.Now().UnixMicro(), func([]span.Span) bool { return true }); !errors.Is(err,
		context.Canceled) {
		t.Errorf("Walk returns the error %v, want %v", err, context.Canceled)
	}
}

// Very long names are not listed, but their spans are stored whole and found.
func TestLongNamesAreFound(t *testing.T) {
	s := open(t, store.Options{Autocomplete: []string{"zone"}})
	now, long := time.Now(), strings.Repeat("x", span.MaxName)
	sp := root(1, now, long, long)
	sp.Tags = []span.Tag{{Key: "zone", Value: long}}
	add(t, s, sp)
	same(t, []span.Span{sp}, get(t, s, sp.Trace))
	window := store.Query{From: sp.Start, To: sp.Start, Limit: 10}
	for what, q := range map[string]store.Query{
		"service": {Service: long}, "name": {Name: long}, "tag": {Tags: map[string]string{"zone": long}},
	} {
		t.Run(what, func(t *testing.T) {
			q.From, q.To, q.Limit = window.From, window.To, window.Limit
			assertFinds(t, s, q, 1)
		})
	}
	for _, list := range []store.NameType{store.Services, store.TagValues} {
		if names, err := s.Names(t.Context(), list, ""); err != nil || len(names) != 0 {
			t.Errorf("names of type %c: %d, want none; error: %v", list, len(names), err)
		}
	}
}

// Lists of names do not depend on how often and in which commit a name was seen, and survive a restart.
func TestNamesAreListedOnce(t *testing.T) {
	dir := t.TempDir()
	s := open(t, store.Options{Dir: dir})
	now := time.Now()
	for i := range uint64(20) {
		add(t, s, root(i+1, now, "web", fmt.Sprintf("GET /%d", i%3)))
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	s = open(t, store.Options{Dir: dir})
	add(t, s, root(99, now, "web", "GET /0"))
	got, err := s.Names(t.Context(), store.SpanNames, "web")
	if want := []string{"GET /0", "GET /1", "GET /2"}; err != nil || !slices.Equal(got, want) {
		t.Errorf("the span names are %q, want %q; error: %v", got, want, err)
	}
	if got, _ := s.Names(t.Context(), store.SpanNames, "we"); len(got) != 0 {
		t.Errorf("the span names of another service are %q, want none", got)
	}
}

// A value that occurs often, one that occurs once and one that is long are all read as they were written.
func TestValuesOfAllKinds(t *testing.T) {
	dir := t.TempDir()
	s := open(t, store.Options{Dir: dir})
	now := time.Now()
	var all []span.Span
	for i := range uint64(50) {
		sp := root(i+1, now, "web", "GET /")
		sp.Tags = []span.Tag{
			{Key: "often", Value: "a"},
			{Key: "once", Value: fmt.Sprint("only in ", i)},
			{Key: "long", Value: strings.Repeat("y", 300)},
			{Key: "empty", Value: ""},
		}
		sp.Annotations = []span.Annotation{
			{At: sp.Start + 1, Value: "often"},
			{At: sp.Start + 2, Value: fmt.Sprint("note ", i)},
		}
		all = append(all, sp)
		add(t, s, sp)
	}
	for range 2 {
		for _, sp := range all {
			same(t, []span.Span{sp}, get(t, s, sp.Trace))
		}
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
		s = open(t, store.Options{Dir: dir})
	}
}

func TestWalkKeepsToItsTimeAndStops(t *testing.T) {
	s := open(t, store.Options{})
	at := time.Now().Add(-5 * time.Hour).Truncate(bucket)
	for i := range uint64(8) {
		add(t, s, root(i+1, at.Add(time.Duration(i)*bucket), "web", "a"))
	}
	walk := func(from, to time.Time, most int) (got []uint64) {
		t.Helper()
		err := s.Walk(t.Context(), from.UnixMicro(), to.UnixMicro(), func(spans []span.Span) bool {
			got = append(got, spans[0].Trace.Lo)
			return len(got) < most
		})
		if err != nil {
			t.Fatal(err)
		}
		return got
	}
	if got := walk(at, at.Add(8*bucket), 100); len(got) != 8 {
		t.Errorf("a walk over all buckets yields the traces %v, want 8", got)
	}
	if got := walk(at.Add(2*bucket), at.Add(3*bucket), 100); !slices.Equal(got, []uint64{3, 4}) {
		t.Errorf("a walk over two buckets yields the traces %v, want 3 and 4", got)
	}
	if got := walk(at, at.Add(8*bucket), 3); len(got) != 3 {
		t.Errorf("a walk that is stopped after 3 traces yields %d", len(got))
	}
}
