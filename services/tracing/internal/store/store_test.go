package store_test

import (
	"bufio"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	gocmp "github.com/google/go-cmp/cmp"

	"bijou.dev/platform/errs"
	"bijou.dev/services/tracing/internal/span"
	"bijou.dev/services/tracing/internal/spantest"
	"bijou.dev/services/tracing/internal/store"
)

func open(t testing.TB, o store.Options) *store.Store {
	t.Helper()
	if o.Dir == "" {
		o.Dir = t.TempDir()
	}
	s, err := store.Open(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return s
}

func add(t testing.TB, s *store.Store, spans ...span.Span) {
	t.Helper()
	if expired, err := s.Add(context.Background(), slices.Clone(spans)); err != nil || expired != 0 {
		t.Fatalf("adding: %d expired, %v", expired, err)
	}
}

func asJSON(v any) string {
	b, err := json.MarshalIndent(v, "", " ")
	if err != nil {
		panic(err)
	}
	return string(b)
}

// same compares a trace by its JSON, sorted by id.
func same(t *testing.T, want, got []span.Span) {
	t.Helper()
	byID := func(a, b span.Span) int { return cmp.Compare(a.ID, b.ID) }
	want, got = slices.Clone(want), slices.Clone(got)
	slices.SortFunc(want, byID)
	slices.SortFunc(got, byID)
	if diff := gocmp.Diff(asJSON(want), asJSON(got)); diff != "" {
		t.Errorf("spans (-want +got):\n%s", diff)
	}
}

func get(t *testing.T, s *store.Store, id span.TraceID) []span.Span {
	t.Helper()
	spans, err := s.Trace(context.Background(), id)
	if err != nil {
		t.Fatal(err)
	}
	return spans
}

// A span with all fields is read as it was stored, also after a restart.
func TestSpansAreReadAsTheyWereStored(t *testing.T) {
	now := time.Now().UnixMicro()
	parsed, err := span.ParseZipkin(fmt.Appendf(nil, `[
		{"traceId":"4bf92f3577b34da6a3ce929d0e0e4736","id":"1","kind":"SERVER","name":"get /",
		 "timestamp":%d,"duration":1500,"debug":true,
		 "localEndpoint":{"serviceName":"web","ipv4":"10.0.0.1","ipv6":"2001:db8::1","port":8080},
		 "remoteEndpoint":{"ipv4":"10.0.0.2","port":1234},
		 "annotations":[{"timestamp":%d,"value":"before"},{"timestamp":%d,"value":"late"}],"tags":{"a":"b","empty":"","ü":"☃"}},
		{"traceId":"4bf92f3577b34da6a3ce929d0e0e4736","id":"2","parentId":"1","kind":"CLIENT"},
		{"traceId":"4bf92f3577b34da6a3ce929d0e0e4736","id":"2","parentId":"1","kind":"SERVER","shared":true,"timestamp":%d},
		{"traceId":"4bf92f3577b34da6a3ce929d0e0e4736","id":"3","parentId":"77"}]`, now, now-5, now+99, now+10))
	if err != nil || parsed.Invalid > 0 {
		t.Fatal(err, parsed.Reason)
	}
	full := parsed.Spans
	dir := t.TempDir()
	s := open(t, store.Options{Dir: dir})
	add(t, s, full...)
	same(t, full, get(t, s, full[0].Trace))
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	s = open(t, store.Options{Dir: dir})
	same(t, full, get(t, s, full[0].Trace))
	// Numbers of strings and commits that were used before the restart are not used again.
	more := spantest.New(1).Trace(time.Now())
	add(t, s, more...)
	same(t, more, get(t, s, more[0].Trace))
	same(t, full, get(t, s, full[0].Trace))
	if got := get(t, s, span.TraceID{Lo: 1}); len(got) != 0 {
		t.Errorf("an unknown trace has %d spans", len(got))
	}
}

func TestManyTracesOverManyBuckets(t *testing.T) {
	dir := t.TempDir()
	s := open(t, store.Options{Dir: dir})
	src, at := spantest.New(2), time.Now().Add(-60*time.Hour)
	var all [][]span.Span
	for range 400 { // nine minutes apart: more buckets than dictionaries in memory
		at = at.Add(9 * time.Minute)
		all = append(all, src.Trace(at))
	}
	for i := range all { // out of order, so that dictionaries are evicted and loaded again
		tr := all[i*171%len(all)]
		add(t, s, tr[:5]...)
	}
	for i := range all { // the rest comes late
		add(t, s, all[i*37%len(all)][5:]...)
	}
	for range 2 {
		for _, tr := range all {
			same(t, tr, get(t, s, tr[0].Trace))
		}
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
		s = open(t, store.Options{Dir: dir})
	}
}

// Spans with the 64-bit and the 128-bit id of one trace join. Traces whose ids differ in the upper half do not.
func TestIDsOf64And128BitsJoin(t *testing.T) {
	s := open(t, store.Options{})
	now := time.Now().UnixMicro()
	long, other, short := span.TraceID{Hi: 1, Lo: 5}, span.TraceID{Hi: 2, Lo: 5}, span.TraceID{Lo: 5}
	add(t, s, span.Span{Trace: long, ID: 1, Start: now}, span.Span{Trace: short, ID: 2, Parent: 1, Start: now + 1})
	for _, id := range []span.TraceID{long, short} {
		got := get(t, s, id)
		if len(got) != 2 || got[0].Trace != long || got[1].Trace != long {
			t.Errorf("trace %v has %v", id, got)
		}
	}
	add(t, s, span.Span{Trace: other, ID: 3, Start: now})
	if got := get(t, s, long); len(got) != 2 {
		t.Errorf("trace %v has %d spans, want 2", long, len(got))
	}
	if got := get(t, s, other); len(got) != 2 { // its own and the one whose upper half of the id is unknown
		t.Errorf("trace %v has %d spans, want 2", other, len(got))
	}
}

func TestSearch(t *testing.T) {
	s := open(t, store.Options{})
	now := time.Now().Add(-time.Hour).Truncate(time.Second)
	at := func(m int) int64 { return now.Add(time.Duration(m) * time.Minute).UnixMicro() }
	sp := func(trace uint64, id, parent span.ID, service, name string, start, dur int64, more ...string) span.Span {
		sp := span.Span{
			Trace: span.TraceID{Hi: 1, Lo: trace}, ID: id, Parent: parent, Kind: span.Server, Name: name, Start: start,
			Duration: dur,
			Local:    span.Endpoint{Service: service},
		}
		for _, m := range more {
			k, v, ok := strings.Cut(m, "=")
			switch {
			case k == "remote":
				sp.Remote.Service = v
			case ok:
				sp.Tags = append(sp.Tags, span.Tag{Key: k, Value: v})
			default:
				sp.Annotations = append(sp.Annotations, span.Annotation{At: start, Value: k})
			}
		}
		return sp
	}
	add(t, s,
		sp(1, 1, 0, "Web", "GET /", at(0), 1000, "http.method=GET", "remote=phone"),
		sp(1, 2, 1, "catalog", "list", at(0)+10, 500, "error=boom"),
		sp(2, 1, 0, "web", "POST /", at(10), 90_000, "http.method=POST", "cache miss"),
		sp(2, 2, 1, "catalog", "get", at(10)+10, 80_000),
		sp(3, 1, 0, "catalog", "list", at(20), 10, "http.method=GET"),
		sp(4, 1, 0, "web", "GET /", at(30), 3000, "http.method=GET", "error=", "remote=tv"),
	)
	add(t, s, sp(4, 2, 1, "ratings", "get", at(30)+5, 1)) // comes in a commit of its own
	tests := []struct {
		name string
		q    store.Query
		want []uint64
	}{
		{"everything, the newest first", store.Query{}, []uint64{4, 3, 2, 1}},
		{"limit", store.Query{Limit: 2}, []uint64{4, 3}},
		{"time", store.Query{From: at(5), To: at(20)}, []uint64{3, 2}},
		{"a service, in any case", store.Query{Service: "WEB"}, []uint64{4, 2, 1}},
		{"another service", store.Query{Service: "ratings"}, []uint64{4}},
		{"unknown service", store.Query{Service: "unknown"}, nil},
		{"the beginning of a name is not the name", store.Query{Service: "we"}, nil},
		{"span name", store.Query{Name: "list"}, []uint64{3, 1}},
		{"span name of a service", store.Query{Service: "web", Name: "get /"}, []uint64{4, 1}},
		{"the name belongs to another service", store.Query{Service: "web", Name: "list"}, nil},
		{"remote service", store.Query{Remote: "TV"}, []uint64{4}},
		{"remote service of another service", store.Query{Service: "catalog", Remote: "tv"}, nil},
		{"tag with a value", store.Query{Tags: map[string]string{"http.method": "GET"}}, []uint64{4, 3, 1}},
		{"tag with another value", store.Query{Tags: map[string]string{"http.method": "PUT"}}, nil},
		{"tag with any value", store.Query{Tags: map[string]string{"http.method": ""}}, []uint64{4, 3, 2, 1}},
		{"annotation", store.Query{Tags: map[string]string{"cache miss": ""}}, []uint64{2}},
		{"error", store.Query{Tags: map[string]string{"error": ""}}, []uint64{4, 1}},
		{"error of a service", store.Query{Service: "web", Tags: map[string]string{"error": ""}}, []uint64{4}},
		{"error with a value", store.Query{Tags: map[string]string{"error": "boom"}}, []uint64{1}},
		{
			"error and a tag of another span",
			store.Query{Tags: map[string]string{"error": "boom", "http.method": "GET"}},
			[]uint64{1},
		},
		{
			"both conditions on one service",
			store.Query{Service: "catalog", Tags: map[string]string{"error": "boom", "http.method": "GET"}},
			nil,
		},
		{"at least so long", store.Query{MinDuration: 3000}, []uint64{4, 2}},
		{"at most so long", store.Query{MaxDuration: 10}, []uint64{4, 3}},
		{"between", store.Query{MinDuration: 400, MaxDuration: 600}, []uint64{1}},
		{"so long in a service", store.Query{Service: "catalog", MinDuration: 501}, []uint64{2}},
		{
			"all at once",
			store.Query{
				Service: "web", Name: "GET /", Remote: "phone", MinDuration: 900, MaxDuration: 1000,
				Tags: map[string]string{"http.method": "GET"},
			},
			[]uint64{1},
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			tt.q.Limit = cmp.Or(tt.q.Limit, 10)
			tt.q.To = cmp.Or(tt.q.To, at(60))
			got, incomplete, err := s.Search(t.Context(), tt.q)
			if err != nil || incomplete {
				t.Fatal(incomplete, err)
			}
			var ids []uint64
			for _, tr := range got {
				ids = append(ids, tr[0].Trace.Lo)
			}
			if diff := gocmp.Diff(tt.want, ids); diff != "" {
				t.Errorf("traces (-want +got):\n%s", diff)
			}
			if len(got) > 0 && got[0][0].Trace.Lo == 4 && len(got[0]) != 2 {
				t.Errorf("trace 4 has %d spans, want both of its commits", len(got[0]))
			}
		})
	}
}

// A search finds exactly what testing every trace finds.
func TestSearchAgreesWithMatch(t *testing.T) {
	s := open(t, store.Options{})
	src, at := spantest.New(3), time.Now().Add(-5*time.Hour)
	var all [][]span.Span
	for range 600 {
		at = at.Add(20 * time.Second)
		tr := src.Trace(at)
		all = append(all, tr)
		add(t, s, tr[:4]...)
		add(t, s, tr[4:]...)
	}
	first, last := span.Begin(all[0]), span.Begin(all[len(all)-1])
	for _, q := range []store.Query{
		{},
		{Service: "ratings", Tags: map[string]string{"error": ""}},
		{Tags: map[string]string{"error": "deadline exceeded"}, MinDuration: 40_000},
		{MinDuration: 60_000},
		{Service: "catalog", MinDuration: 20_000, MaxDuration: 30_000},
		{Name: "catalog.v1.service/get"},
		{Service: "web", Remote: "ratings", Tags: map[string]string{"bijou.pick": "ratings-2"}},
		{Service: "gateway", Tags: map[string]string{"film.id": "3"}},
	} {
		q.From, q.To, q.Limit = first+(last-first)/4, last-(last-first)/4, 1000
		got, incomplete, err := s.Search(t.Context(), q)
		if err != nil || incomplete {
			t.Fatal(incomplete, err)
		}
		var want []string
		for _, tr := range slices.Backward(all) {
			if q.Match(tr) {
				want = append(want, tr[0].Trace.String())
			}
		}
		var ids []string
		for _, tr := range got {
			ids = append(ids, tr[0].Trace.String())
		}
		if diff := gocmp.Diff(want, ids); diff != "" {
			t.Errorf("%+v: %d traces, want %d\n%s", q, len(ids), len(want), diff)
		}
	}
}

// A search that finds a few enormous traces must not need memory for all of them.
func TestSearchOfEnormousTraces(t *testing.T) {
	s := open(t, store.Options{})
	now := time.Now().UnixMicro()
	const each = 40_000
	for trace := range uint64(4) {
		spans := make([]span.Span, each)
		for i := range spans {
			spans[i] = span.Span{
				Trace: span.TraceID{Lo: trace + 1}, ID: span.ID(i + 1), Name: "tick", Start: now,
				Local: span.Endpoint{Service: "loop"},
			}
		}
		add(t, s, spans...)
	}
	traces, incomplete, err := s.Search(t.Context(), store.Query{From: now - 1e6, To: now + 1e6, Limit: 10})
	if err != nil || len(traces) != 3 || !incomplete || len(traces[0]) != each {
		t.Errorf("got %d traces, incomplete %t, %v; want 3 and a note that there are more", len(traces), incomplete, err)
	}
}

func TestNames(t *testing.T) {
	s := open(t, store.Options{Autocomplete: []string{"cloud.availability_zone"}})
	add(t, s, spantest.New(1).Trace(time.Now())...)
	add(t, s, spantest.New(1).Trace(time.Now().Add(-3*time.Hour))...)
	for _, tt := range []struct {
		t     store.NameType
		owner string
		want  []string
	}{
		{store.Services, "", []string{"catalog", "gateway", "ratings", "recommendations", "web"}},
		{store.SpanNames, "Gateway", []string{"GET /films/{id}", "web.v1.Web/Page"}},
		{store.RemoteServices, "web", []string{"catalog", "ratings", "recommendations"}},
		{store.RemoteServices, "ratings", []string{}},
		{store.TagValues, "cloud.availability_zone", []string{"a"}},
		{store.TagValues, "film.id", []string{}},
	} {
		got, err := s.Names(t.Context(), tt.t, tt.owner)
		if err != nil {
			t.Fatal(err)
		}
		if diff := gocmp.Diff(tt.want, got); diff != "" {
			t.Errorf("%c of %q (-want +got):\n%s", tt.t, tt.owner, diff)
		}
	}
}

// Walk yields each trace once and whole, though its parts lie in different buckets.
func TestWalk(t *testing.T) {
	s := open(t, store.Options{})
	src, begin := spantest.New(4), time.Now().Add(-2*time.Hour)
	want := map[uint64]int{}
	for i := range 100 {
		tr := src.Trace(begin.Add(time.Duration(i) * time.Minute))
		tr[8].Start += (20 * time.Minute).Microseconds()
		add(t, s, tr[:8]...)
		add(t, s, tr[8])
		want[tr[0].Trace.Lo] = 9
	}
	got := map[uint64]int{}
	last := uint64(0)
	err := s.Walk(t.Context(), begin.UnixMicro(), time.Now().UnixMicro(), func(spans []span.Span) bool {
		lo := spans[0].Trace.Lo
		if lo <= last {
			t.Errorf("trace %x comes behind %x", lo, last)
		}
		last = lo
		got[lo] += len(spans)
		for _, sp := range spans {
			if len(sp.Tags) > 1 || len(sp.Tags) == 1 && sp.Tags[0].Key != "error" {
				t.Errorf("span has tags %v", sp.Tags)
			}
		}
		return true
	})
	if err != nil {
		t.Fatal(err)
	}
	if diff := gocmp.Diff(want, got); diff != "" {
		t.Errorf("spans per trace (-want +got):\n%s", diff)
	}
}

// A span can be read when it is acknowledged, also when many senders send at once.
func TestConcurrentAdds(t *testing.T) {
	s := open(t, store.Options{})
	var wg sync.WaitGroup
	for i := range 16 {
		wg.Go(func() {
			src := spantest.New(uint64(i))
			for range 20 {
				tr := src.Trace(time.Now())
				add(t, s, tr...)
				same(t, tr, get(t, s, tr[0].Trace)) // acknowledged means readable
			}
		})
	}
	wg.Wait()
}

func TestClosedStoreRefuses(t *testing.T) {
	s := open(t, store.Options{})
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Add(t.Context(), spantest.New(1).Trace(time.Now())); !errors.Is(err, errs.Unavailable) {
		t.Errorf("adding to a closed store: %v", err)
	}
}

func TestOpenSaysWhy(t *testing.T) {
	if _, err := store.Open(store.Options{}); err == nil || !strings.Contains(err.Error(), "Dir") {
		t.Errorf("without a folder: %v", err)
	}
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := store.Open(store.Options{Dir: file}); err == nil || !strings.Contains(err.Error(), file) {
		t.Errorf("on a file: %v", err)
	}
	dir := t.TempDir()
	open(t, store.Options{Dir: dir})
	if _, err := store.Open(store.Options{Dir: dir}); err == nil || !strings.Contains(err.Error(), dir) {
		t.Errorf("opened twice: %v", err)
	}
}

// After kill -9 at any moment, everything that was acknowledged is stored.
func TestKill(t *testing.T) {
	if dir := os.Getenv("BIJOU_TEST_STORE"); dir != "" {
		ingestUntilKilled(dir)
	}
	dir, seed := t.TempDir(), time.Now().UnixNano()
	t.Logf("seed %d", seed)
	rng := rand.New(rand.NewPCG(uint64(seed), 0))
	var acked []span.TraceID
	for round := range 5 {
		cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^TestKill$")
		cmd.Env = append(os.Environ(), "BIJOU_TEST_STORE="+dir, fmt.Sprint("BIJOU_TEST_SEED=", rng.Int32()))
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		before, moment := len(acked), 1+rng.IntN(400)
		lines := bufio.NewScanner(out)
		for lines.Scan() {
			id, err := span.ParseTraceID(lines.Text())
			if err != nil {
				t.Fatalf("the child printed %q", lines.Text())
			}
			if acked = append(acked, id); len(acked) == before+moment {
				if err := cmd.Process.Signal(syscall.SIGKILL); err != nil {
					t.Fatal(err)
				}
			}
		}
		if err := cmd.Wait(); err == nil {
			t.Fatal("the child ended by itself")
		}
		s := open(t, store.Options{Dir: dir, FS: sized{vfs.Default}})
		for _, id := range acked {
			if got := get(t, s, id); len(got) != 9 {
				t.Fatalf("round %d: trace %v has %d spans of 9", round, id, len(got))
			}
		}
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
	}
}

// ingestUntilKilled prints the id of each trace once it is acknowledged.
func ingestUntilKilled(dir string) {
	s, err := store.Open(store.Options{Dir: dir, FS: sized{vfs.Default}})
	if err != nil {
		panic(err)
	}
	seed, err := strconv.ParseUint(os.Getenv("BIJOU_TEST_SEED"), 10, 64)
	if err != nil {
		panic(err)
	}
	var out sync.Mutex
	for i := range 8 {
		go func() {
			src := spantest.New(seed<<8 + uint64(i))
			for {
				tr := src.Trace(time.Now())
				if _, err := s.Add(context.Background(), tr); err != nil {
					panic(err)
				}
				out.Lock()
				fmt.Println(tr[0].Trace)
				out.Unlock()
			}
		}()
	}
	select {}
}

// brokenDisk fails to sync when broken is set.
type brokenDisk struct {
	vfs.FS
	broken atomic.Bool
}

func (d *brokenDisk) Create(name string, c vfs.DiskWriteCategory) (vfs.File, error) {
	f, err := d.FS.Create(name, c)
	return &brokenFile{f, d}, err
}

func (d *brokenDisk) ReuseForWrite(from, to string, c vfs.DiskWriteCategory) (vfs.File, error) {
	f, err := d.FS.ReuseForWrite(from, to, c)
	return &brokenFile{f, d}, err
}

type brokenFile struct {
	vfs.File
	disk *brokenDisk
}

func (f *brokenFile) SyncData() error { return f.sync(f.File.SyncData) }

func (f *brokenFile) Sync() error { return f.sync(f.File.Sync) }

func (f *brokenFile) SyncTo(n int64) (bool, error) {
	full := false
	err := f.sync(func() (err error) {
		full, err = f.File.SyncTo(n)
		return err
	})
	return full, err
}

func (f *brokenFile) sync(do func() error) error {
	if f.disk.broken.Load() {
		return &os.PathError{Op: "sync", Path: "disk", Err: syscall.EIO}
	}
	return do()
}

// A disk that does not sync stops the store: nothing more is acknowledged, and Err has the reason.
func TestDiskThatDoesNotSync(t *testing.T) {
	disk := &brokenDisk{FS: vfs.Default}
	s, err := store.Open(store.Options{Dir: t.TempDir(), FS: disk})
	if err != nil {
		t.Fatal(err)
	}
	src := spantest.New(9)
	add(t, s, src.Trace(time.Now())...)
	disk.broken.Store(true)
	for range 3 {
		if _, err := s.Add(t.Context(), src.Trace(time.Now())); !errors.Is(err, errs.Unavailable) {
			t.Errorf("adding: %v", err)
		}
	}
	<-s.Failed()
	if err := s.Err(); err == nil || !strings.Contains(err.Error(), "input/output error") {
		t.Errorf("the reason is %v", err)
	}
	if err := s.Close(); err != nil {
		t.Error(err)
	}
}

func FuzzChunk(f *testing.F) {
	f.Add(store.EncodeChunk(spantest.New(1).Trace(time.Unix(1_800_000_000, 0))), false)
	f.Add([]byte{1, 0x80, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0}, true)
	f.Fuzz(func(t *testing.T, b []byte, bare bool) {
		spans, err := store.DecodeChunk(b, []string{"web", "error"}, bare)
		if err != nil || bare {
			return
		}
		again, err := store.DecodeChunk(store.EncodeChunk(spans), nil, false)
		if err != nil {
			t.Fatal(err)
		}
		same(t, spans, again)
	})
}

// smallDisk is a file system of a given size.
type smallDisk struct {
	vfs.FS
	size uint64
	used atomic.Int64 // by others
	dir  string
}

func (d *smallDisk) taken() (n uint64) {
	names, _ := d.FS.List(d.dir)
	for _, name := range names {
		if fi, err := d.FS.Stat(d.FS.PathJoin(d.dir, name)); err == nil {
			n += uint64(fi.Size())
		}
	}
	return n + uint64(d.used.Load())
}

func (d *smallDisk) GetDiskUsage(string) (vfs.DiskUsage, error) {
	taken := min(d.size, d.taken())
	return vfs.DiskUsage{TotalBytes: d.size, UsedBytes: taken, AvailBytes: d.size - taken}, nil
}

func (d *smallDisk) Create(name string, c vfs.DiskWriteCategory) (vfs.File, error) {
	f, err := d.FS.Create(name, c)
	return &smallFile{f, d}, err
}

func (d *smallDisk) ReuseForWrite(from, to string, c vfs.DiskWriteCategory) (vfs.File, error) {
	f, err := d.FS.ReuseForWrite(from, to, c)
	return &smallFile{f, d}, err
}

type smallFile struct {
	vfs.File
	disk *smallDisk
}

func (f *smallFile) Write(b []byte) (int, error) {
	if f.disk.taken()+uint64(len(b)) > f.disk.size {
		return 0, &os.PathError{Op: "write", Path: "disk", Err: syscall.ENOSPC}
	}
	return f.File.Write(b)
}

// Preallocate does nothing: it would have to count the space, too.
func (f *smallFile) Preallocate(int64, int64) error { return nil }

// While the disk is full spans are refused and queries work. Spans are accepted when there is space.
func TestFullDisk(t *testing.T) {
	dir := t.TempDir()
	disk := &smallDisk{FS: vfs.Default, size: 32 << 20, dir: dir}
	s := open(t, store.Options{Dir: dir, FS: disk})
	src := spantest.New(8)
	kept := src.Trace(time.Now())
	add(t, s, kept...)
	for _, free := range []int64{3 << 20, 100 << 10, 0, 0} {
		// Others take the disk, slowly at first and then all of it at once, between two looks.
		disk.used.Store(0)
		disk.used.Store(int64(disk.size) - int64(disk.taken()) - free)
		deadline := time.Now().Add(20 * time.Second)
		var err error
		for err == nil && time.Now().Before(deadline) {
			var spans []span.Span
			for range 100 { // a reserve of 2 MiB is written within milliseconds
				spans = append(spans, src.Trace(time.Now())...)
			}
			_, err = s.Add(t.Context(), spans)
		}
		if !errors.Is(err, errs.Exhausted) || errs.RetryAfter(err) == 0 {
			t.Fatalf("with %d bytes free: %v, want a refusal that says when to retry", free, err)
		}
		same(t, kept, get(t, s, kept[0].Trace))
		disk.used.Store(0)
		again := src.Trace(time.Now())
		for {
			if _, err = s.Add(t.Context(), slices.Clone(again)); err == nil {
				break
			}
			if !errors.Is(err, errs.Exhausted) || time.Now().After(deadline) {
				t.Fatalf("with space again: %v", err)
			}
		}
		same(t, again, get(t, s, again[0].Trace))
	}
	if err := s.Err(); err != nil {
		t.Error(err)
	}
}
