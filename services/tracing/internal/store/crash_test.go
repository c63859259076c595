package store_test

import (
	"bytes"
	"context"
	"io"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/cockroachdb/pebble/v2/vfs/errorfs"

	"bijou.dev/services/tracing/internal/span"
	"bijou.dev/services/tracing/internal/spantest"
	"bijou.dev/services/tracing/internal/store"
)

// sized is a file system on a small volume, so that the store writes small files: it flushes and compacts often.
type sized struct{ vfs.FS }

func (sized) GetDiskUsage(string) (vfs.DiskUsage, error) {
	return vfs.DiskUsage{TotalBytes: 16 << 20, AvailBytes: 16 << 20}, nil
}

func openOn(t *testing.T, fs vfs.FS) *store.Store {
	t.Helper()
	return open(t, store.Options{Dir: "traces", FS: sized{fs}})
}

// acked is what a store acknowledged.
type acked struct {
	mu     sync.Mutex
	traces [][]span.Span
}

// ingest adds traces from several senders until ctx ends.
func (a *acked) ingest(ctx context.Context, s *store.Store, seed uint64) (wait func()) {
	var senders sync.WaitGroup
	for i := range uint64(4) {
		senders.Go(func() {
			for src := spantest.New(seed<<8 + i); ctx.Err() == nil; {
				tr := src.Trace(time.Now())
				if _, err := s.Add(context.WithoutCancel(ctx), append([]span.Span(nil), tr...)); err != nil {
					return
				}
				a.mu.Lock()
				a.traces = append(a.traces, tr)
				a.mu.Unlock()
			}
		})
	}
	return senders.Wait
}

func (a *acked) sofar() [][]span.Span {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.traces[:len(a.traces):len(a.traces)]
}

// The power fails before any one operation on files. Of what was not synced, some blocks and directory entries are on
// the disk and some are not. All traces that were acknowledged are stored whole, and the store works. Each round begins
// with the store that the round before left.
func TestPowerFailures(t *testing.T) {
	const failures = 20
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	rng := rand.New(rand.NewPCG(seed, 0))
	fs := vfs.NewCrashableMem()
	var all [][]span.Span
	for n := range failures {
		var a acked
		var before [][]span.Span
		after := make(chan *vfs.MemFS, 1)
		var operations atomic.Int64
		moment, cfg := rng.Int64N(600),
			vfs.CrashCloneCfg{UnsyncedDataPercent: rng.IntN(101), RNG: rand.New(rand.NewPCG(seed, uint64(n)))}
		s := openOn(t, errorfs.Wrap(fs, errorfs.InjectorFunc(func(errorfs.Op) error {
			if operations.Add(1) == moment+1 {
				before = a.sofar()
				after <- fs.CrashClone(cfg)
			}
			return nil
		})))
		ctx, stop := context.WithCancel(t.Context())
		wait := a.ingest(ctx, s, rng.Uint64())
		fs = <-after
		stop()
		wait()
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
		all = append(all, before...)
		s = openOn(t, fs)
		for i, tr := range all {
			if i < len(all)-len(before) && rng.IntN(20) > 0 {
				continue // of the older traces only some are read
			}
			if got := get(t, s, tr[0].Trace); len(got) != len(tr) {
				t.Fatalf("after failure %d, before operation %d, trace %d of %d has %d spans of %d", n, moment, i, len(all),
					len(got), len(tr))
			}
		}
		if len(before) > 0 {
			last := before[len(before)-1]
			same(t, last, get(t, s, last[0].Trace))
		}
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
	}
	t.Logf("%d traces through %d failures of power", len(all), failures)
}

// crashed returns the files of a store after a crash, and its n traces. They are in the log only.
func crashed(t *testing.T, n int) (fs *vfs.MemFS, traces [][]span.Span) {
	t.Helper()
	mem, src := vfs.NewCrashableMem(), spantest.New(1)
	s := openOn(t, mem)
	for range n {
		tr := src.Trace(time.Now())
		add(t, s, tr...)
		traces = append(traces, tr)
	}
	return mem.CrashClone(vfs.CrashCloneCfg{}), traces
}

// newest returns the path and the content of the last file whose name is suffix, or ends with it if it begins with a
// dot.
func newest(t *testing.T, fs vfs.FS, suffix string) (path string, text []byte) {
	t.Helper()
	names, err := fs.List("traces")
	if err != nil {
		t.Fatal(err)
	}
	slices.Sort(names)
	for _, name := range slices.Backward(names) {
		if path = fs.PathJoin("traces", name); name == suffix || suffix[0] == '.' && strings.HasSuffix(name, suffix) {
			f, err := fs.Open(path)
			if err != nil {
				t.Fatal(err)
			}
			defer f.Close()
			if text, err = io.ReadAll(f); err != nil {
				t.Fatal(err)
			}
			return path, text
		}
	}
	t.Fatalf("no *%s among %v", suffix, names)
	return "", nil
}

func rewrite(t *testing.T, fs vfs.FS, path string, text []byte) {
	t.Helper()
	f, err := fs.Create(path, vfs.WriteCategoryUnspecified)
	if err == nil {
		_, err = f.Write(slices.Clone(text)) // under the race detector it changes what it is given
	}
	if err == nil {
		err = f.Sync()
	}
	if err == nil {
		err = f.Close()
	}
	if err != nil {
		t.Fatal(err)
	}
}

// first returns the number n for which the first n traces are stored. No span of the later ones may be stored.
func first(t *testing.T, s *store.Store, traces [][]span.Span) (n int) {
	t.Helper()
	for i, tr := range traces {
		switch got := get(t, s, tr[0].Trace); {
		case len(got) == len(tr) && n == i:
			if n++; n%16 == 1 {
				same(t, tr, got)
			}
		case len(got) != 0:
			t.Fatalf("trace %d has %d spans of %d, but of those before it only %d are there", i, len(got), len(tr), n)
		}
	}
	return n
}

// assertWorks adds a trace and reads it.
func assertWorks(t *testing.T, s *store.Store) {
	t.Helper()
	tr := spantest.New(2).Trace(time.Now())
	add(t, s, tr...)
	same(t, tr, get(t, s, tr[0].Trace))
}

// The log may end at any byte. The traces that are whole before that are stored, no others are, and the store works.
func TestIncompleteLog(t *testing.T) {
	fs, traces := crashed(t, 30)
	_, text := newest(t, fs, ".log")
	text = bytes.TrimRight(text, "\x00")
	last := len(traces)
	for cut := len(text); cut > 0; cut -= 523 {
		damaged := fs.CrashClone(vfs.CrashCloneCfg{})
		path, _ := newest(t, damaged, ".log")
		rewrite(t, damaged, path, text[:cut])
		s := openOn(t, damaged)
		there := first(t, s, traces)
		if there > last {
			t.Errorf("the log is cut at %d: %d traces are stored, more than with a longer log", cut, there)
		}
		last = there
		assertWorks(t, s)
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
	}
	if last > 2 {
		t.Errorf("with an empty log %d traces are stored", last)
	}
}

// A bit flips in the part of the log that was synced. The traces before it are stored, and the store works. Its stats
// have the number of lost bytes, unless the flip looks like the incomplete end of a log.
func TestDamagedLog(t *testing.T) {
	mem, src := vfs.NewCrashableMem(), spantest.New(1)
	s := openOn(t, mem)
	var traces [][]span.Span
	var ends []int // of the log, after each trace
	for range 150 {
		tr := src.Trace(time.Now())
		add(t, s, tr...)
		traces = append(traces, tr)
		_, text := newest(t, mem, ".log")
		ends = append(ends, len(text))
	}
	fs := mem.CrashClone(vfs.CrashCloneCfg{})
	_, text := newest(t, fs, ".log")
	reported := 0
	for at := 5; at < len(text); at += len(text)/16 + 1 {
		damaged := fs.CrashClone(vfs.CrashCloneCfg{})
		path, _ := newest(t, damaged, ".log")
		bad := slices.Clone(text)
		bad[at] ^= 1 << (at % 8)
		rewrite(t, damaged, path, bad)
		s := openOn(t, damaged)
		there, want := first(t, s, traces), 0
		for want < len(ends) && ends[want] <= at {
			want++
		}
		if there < want {
			t.Errorf("damaged at %d of %d: %d traces are stored, but %d were written before that", at, len(text), there, want)
		}
		if lost := s.Stats().Lost; lost > 0 {
			reported++
			if _, aside := newest(t, damaged, ".log.damaged"); !bytes.Equal(aside, bad) || lost < int64(len(text)-at) {
				t.Errorf("damaged at %d of %d: %d bytes are reported as lost, and the copy has %d", at, len(text), lost, len(aside))
			}
		} else if at < len(text)-64<<10 {
			t.Errorf("damaged at %d of %d, but no loss is reported", at, len(text))
		}
		assertWorks(t, s)
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
	}
	if reported == 0 {
		t.Errorf("a log of %d bytes is too short for this test", len(text))
	}
}

// A bit flips in any other file. The store does not start and returns why, or it starts and never returns a wrong span.
func TestDamagedFiles(t *testing.T) {
	mem, src := vfs.NewCrashableMem(), spantest.New(1)
	s := openOn(t, mem)
	var traces [][]span.Span
	for range 150 {
		tr := src.Trace(time.Now())
		add(t, s, tr...)
		traces = append(traces, tr)
	}
	if err := s.Flush(); err != nil {
		t.Fatal(err)
	}
	fs := mem.CrashClone(vfs.CrashCloneCfg{})
	names, err := fs.List("traces")
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range names {
		if name == "BALLAST" || name == "LOCK" || strings.HasSuffix(name, ".log") {
			continue
		}
		_, text := newest(t, fs, name)
		refused, failed := 0, 0
		for at := 3; at < len(text); at += len(text)/8 + 1 {
			damaged := fs.CrashClone(vfs.CrashCloneCfg{})
			path, _ := newest(t, damaged, name)
			bad := slices.Clone(text)
			bad[at] ^= 1 << (at % 8)
			rewrite(t, damaged, path, bad)
			s, err := store.Open(store.Options{Dir: "traces", FS: sized{damaged}})
			if err != nil {
				refused++
				continue
			}
			known := traces[:30:30]
			more := src.Trace(time.Now())
			// Adding fails if the strings of the current bucket cannot be read.
			if _, err := s.Add(t.Context(), slices.Clone(more)); err == nil {
				known = append(known, more)
			}
			for _, tr := range known {
				got, err := s.Trace(t.Context(), tr[0].Trace)
				if err != nil {
					failed++
					break // the database looks long for the bit that flipped
				}
				same(t, tr, got)
			}
			if err := s.Close(); err != nil {
				t.Error(err)
			}
		}
		t.Logf("%s: %d starts refused, %d queries failed", name, refused, failed)
		if strings.HasSuffix(name, ".sst") && refused+failed < 6 {
			t.Errorf("%s: %d of 8 damages were noticed", name, refused+failed)
		}
	}
}
