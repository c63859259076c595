package store_test

import (
	"flag"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"bijou.dev/services/tracing/internal/span"
	"bijou.dev/services/tracing/internal/store"
)

var update = flag.Bool("update", false, "write testdata/store.v1; only if the format may not be read any more")

// olderTraces are the spans in testdata/store.v1.
func olderTraces() []span.Span {
	at := time.Date(2026, 11, 29, 12, 0, 0, 0, time.UTC).UnixMicro()
	full := span.Span{
		Trace: span.TraceID{Hi: 1, Lo: 2}, ID: 3, Kind: span.Client, Name: "GET /films", Start: at, Duration: 1500,
		Local:       span.Endpoint{Service: "Web", IPv4: netip.MustParseAddr("10.0.0.1"), Port: 8080},
		Remote:      span.Endpoint{Service: "catalog", IPv6: netip.MustParseAddr("2001:db8::1"), Port: 7000},
		Annotations: []span.Annotation{{At: at + 7, Value: "retry"}},
		Tags:        []span.Tag{{Key: "error", Value: ""}, {Key: "zone", Value: "a"}},
		Debug:       true,
	}
	shared := span.Span{
		Trace: full.Trace, ID: 3, Kind: span.Server, Name: "list", Start: at + 100, Duration: 900,
		Local: span.Endpoint{Service: "catalog"}, Tags: []span.Tag{{Key: "zone", Value: "a"}}, Shared: true,
	}
	child := span.Span{
		Trace: full.Trace, ID: 4, Parent: 3, Name: "read", Start: at + 200, Duration: 10,
		Local: span.Endpoint{Service: "catalog"}, Tags: []span.Tag{{Key: "zone", Value: "a"}},
	}
	later := span.Span{
		Trace: span.TraceID{Lo: 9}, ID: 1, Kind: span.Consumer, Name: "mail", Start: at + time.Hour.Microseconds(),
		Local: span.Endpoint{Service: "mailer"},
	}
	return []span.Span{full, shared, child, later}
}

// A new release reads what an older one has stored: the formats on disk must not change.
func TestStoreOfAnOlderRelease(t *testing.T) {
	const old = "testdata/store.v1"
	dir := t.TempDir()
	opts := store.Options{
		Dir: dir, Autocomplete: []string{"zone"}, Retention: func() time.Duration { return 100 * 365 * 24 * time.Hour },
	}
	all := olderTraces()
	if *update {
		s := open(t, opts)
		add(t, s, all[:2]...)
		if err := s.Flush(); err != nil { // one part is in a file of the tree, the other in the log
			t.Fatal(err)
		}
		add(t, s, all[2:]...)
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
		if err := os.Remove(filepath.Join(dir, "BALLAST")); err != nil {
			t.Fatal(err)
		}
		if err := os.RemoveAll(old); err != nil {
			t.Fatal(err)
		}
		if err := os.CopyFS(old, os.DirFS(dir)); err != nil {
			t.Fatal(err)
		}
	} else if err := os.CopyFS(dir, os.DirFS(old)); err != nil {
		t.Fatal(err)
	}
	s := open(t, opts)
	same(t, all[:3], get(t, s, all[0].Trace))
	same(t, all[3:], get(t, s, all[3].Trace))
	begin, end := all[0].Start, all[3].Start
	for name, q := range map[string]store.Query{
		"service":  {Service: "WEB"},
		"name":     {Name: "LIST"},
		"error":    {Tags: map[string]string{"error": ""}},
		"duration": {MinDuration: 1500},
		"tag":      {Service: "catalog", Tags: map[string]string{"zone": "a"}},
	} {
		q.From, q.To, q.Limit = begin, end, 10
		got, _, err := s.Search(t.Context(), q)
		if err != nil || len(got) != 1 || got[0][0].Trace != all[0].Trace {
			t.Errorf("searching by %s finds %d traces, want the first; error: %v", name, len(got), err)
		}
	}
	for _, tt := range []struct {
		list  store.NameType
		owner string
		want  []string
	}{
		{store.Services, "", []string{"Web", "catalog", "mailer"}},
		{store.SpanNames, "web", []string{"GET /films"}},
		{store.RemoteServices, "web", []string{"catalog"}},
		{store.TagValues, "zone", []string{"a"}},
	} {
		got, err := s.Names(t.Context(), tt.list, tt.owner)
		if err != nil || !slices.Equal(got, tt.want) {
			t.Errorf("the names of type %c of %q are %q, want %q; error: %v", tt.list, tt.owner, got, tt.want, err)
		}
	}
	// What comes now is stored beside it, also under the same trace and bucket.
	more := span.Span{Trace: all[0].Trace, ID: 5, Parent: 4, Name: "late", Start: begin + 300, Local: all[2].Local}
	add(t, s, more)
	same(t, append(all[:3:3], more), get(t, s, all[0].Trace))
}
