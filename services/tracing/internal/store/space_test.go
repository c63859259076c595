package store_test

import (
	"encoding/hex"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"

	"bijou.dev/platform/errs"
	"bijou.dev/services/tracing/internal/span"
	"bijou.dev/services/tracing/internal/spantest"
	"bijou.dev/services/tracing/internal/store"
)

// text returns random text that cannot be compressed well.
func text(rng *rand.Rand, size int) string {
	b := make([]byte, size/2)
	for i := range b {
		b[i] = byte(rng.Uint32())
	}
	return hex.EncodeToString(b)
}

// addLarge adds a trace of about size bytes.
func addLarge(t *testing.T, s *store.Store, rng *rand.Rand, trace uint64, at time.Time, size int) {
	t.Helper()
	sp := root(trace, at, "web", "a")
	for i := range size / 4096 {
		sp.Tags = append(sp.Tags, span.Tag{Key: fmt.Sprint(i), Value: text(rng, 4096)})
	}
	add(t, s, sp)
}

// When the disk is nearly full, each Expire drops the oldest bucket, and one only, because the space comes back later.
// It keeps a quarter of the volume, because dropping spans is no use when something else fills the disk.
func TestRetentionBySpaceOnDisk(t *testing.T) {
	disk, rng := &ballasted{FS: vfs.NewMem()}, rand.New(rand.NewPCG(1, 2))
	disk.free.Store(16 << 20)
	s := open(t, store.Options{Dir: "traces", FS: disk})
	const n = 6
	for i := range n {
		addLarge(t, s, rng, uint64(i+1), time.Now().Add(-time.Duration(n-1-i)*bucket), 1<<20)
	}
	if err := s.Flush(); err != nil {
		t.Fatal(err)
	}
	assertExpires(t, s, time.Now(), 0)
	disk.free.Store(2<<20 - 1) // buckets are dropped below twice the reserve of 1 MiB
	for dropped := 1; s.Stats().Bytes > 4<<20; dropped++ {
		assertExpires(t, s, time.Now(), 1)
		for i := range n {
			what := fmt.Sprintf("with %d buckets dropped, trace %d", dropped, i+1)
			assertStored(t, s, what, span.TraceID{Lo: uint64(i + 1)}, i >= dropped)
		}
		if err := s.Flush(); err != nil {
			t.Fatal(err)
		}
	}
	assertExpires(t, s, time.Now(), 0)
	if left := s.Stats().Bytes; left < 3<<20 {
		t.Errorf("%d bytes are left of a volume of 16 MiB, want a quarter of it or one bucket less", left)
	}
}

// Values that repeat are stored once in a bucket, also after many values that did not repeat.
func TestRepeatedValuesAreStoredOnce(t *testing.T) {
	rng, at := rand.New(rand.NewPCG(1, 2)), time.Now()
	s := open(t, store.Options{})
	once := root(1, at, "web", "a")
	for range 20_000 {
		once.Tags = append(once.Tags, span.Tag{Key: "once", Value: text(rng, 16)})
	}
	add(t, s, once)
	if err := s.Flush(); err != nil {
		t.Fatal(err)
	}
	before := s.Stats().Bytes
	repeated := make([]span.Tag, 100)
	for i := range repeated {
		repeated[i] = span.Tag{Key: fmt.Sprint(i), Value: text(rng, 250)}
	}
	for i := range uint64(100) {
		sp := root(i+2, at, "web", "a")
		sp.Tags = repeated
		add(t, s, sp)
	}
	if err := s.Flush(); err != nil {
		t.Fatal(err)
	}
	// 100 values in 100 traces are more than 1 MB, compressed. Each is written out at its first occurrence.
	if took := s.Stats().Bytes - before; took > 300_000 {
		t.Errorf("100 values of 250 bytes in 100 traces take %d bytes, want at most 300,000", took)
	}
	same(t, []span.Span{once}, get(t, s, once.Trace))
}

// ballasted is a volume in memory that counts how often the ballast file is written.
type ballasted struct {
	vfs.FS
	free    atomic.Uint64
	written atomic.Int64
}

func (b *ballasted) GetDiskUsage(string) (vfs.DiskUsage, error) {
	return vfs.DiskUsage{TotalBytes: 16 << 20, AvailBytes: b.free.Load()}, nil
}

func (b *ballasted) Create(name string, c vfs.DiskWriteCategory) (vfs.File, error) {
	if strings.HasSuffix(name, "BALLAST") {
		b.written.Add(1)
	}
	return b.FS.Create(name, c)
}

// The ballast file is a sixteenth of the volume. It is written once, when more than four times its size is free.
func TestBallast(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const size = 1 << 20
		disk := &ballasted{FS: vfs.NewMem()}
		disk.free.Store(4 * size)
		opts := store.Options{Dir: "traces", FS: disk}
		s := open(t, opts)
		src := spantest.New(1)
		assertWritten := func(when string, want int64) {
			t.Helper()
			for range 3 {
				time.Sleep(time.Second) // space is measured every 200 ms
				add(t, s, src.Trace(time.Now())...)
			}
			if got := disk.written.Load(); got != want {
				t.Errorf("%s the ballast file was written %d times, want %d", when, got, want)
			}
		}
		assertWritten("with too little space", 0)
		disk.free.Store(4*size + 1)
		assertWritten("with enough space", 1)
		if info, err := disk.Stat("traces/BALLAST"); err != nil || info.Size() != size {
			t.Errorf("the ballast file has %v, want %d bytes; error: %v", info, size, err)
		}
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
		s = open(t, opts)
		assertWritten("after a restart", 1)
	})
}

// Spans are refused while less than a sixteenth of the volume is free, and not a byte earlier.
func TestReserve(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const reserve = 1 << 20
		disk := &ballasted{FS: vfs.NewMem()}
		disk.free.Store(reserve)
		s := open(t, store.Options{Dir: "traces", FS: disk})
		src := spantest.New(1)
		add(t, s, src.Trace(time.Now())...)
		disk.free.Store(reserve - 1)
		time.Sleep(200 * time.Millisecond)
		_, err := s.Add(t.Context(), src.Trace(time.Now()))
		if errs.KindOf(err) != errs.Exhausted || errs.Reason(err) != "DISK_FULL" || errs.RetryAfter(err) != 2*time.Second {
			t.Errorf("with a byte less: %v, reason %q, retry after %v; want exhausted, DISK_FULL and 2 s",
				err, errs.Reason(err), errs.RetryAfter(err))
		}
		if !s.Stats().Full {
			t.Error("with a byte less the stats do not say that the disk is full")
		}
		disk.free.Store(reserve)
		time.Sleep(200 * time.Millisecond)
		add(t, s, src.Trace(time.Now())...)
	})
}

// Every way to read returns an error when the file of the spans cannot be read, and not an empty answer. When it can be
// read again, so can the spans.
func TestUnreadableFileIsAnError(t *testing.T) {
	disk := &spantest.Unreadable{FS: sized{vfs.NewMem()}}
	s := open(t, store.Options{Dir: "traces", FS: disk, Cache: 1, Autocomplete: []string{"zone"}})
	at := time.Now()
	sp := root(1, at, "web", "a")
	sp.Tags = []span.Tag{{Key: "zone", Value: "a"}}
	add(t, s, sp)
	if err := s.Flush(); err != nil {
		t.Fatal(err)
	}
	q := store.Query{From: at.Add(-time.Minute).UnixMicro(), To: at.Add(time.Minute).UnixMicro(), Limit: 10}
	byService := q
	byService.Service = "web"
	reads := map[string]func() (n int, err error){
		"Trace": func() (int, error) {
			spans, err := s.Trace(t.Context(), sp.Trace)
			return len(spans), err
		},
		"Search": func() (int, error) {
			traces, _, err := s.Search(t.Context(), q)
			return len(traces), err
		},
		"Search of a service": func() (int, error) {
			traces, _, err := s.Search(t.Context(), byService)
			return len(traces), err
		},
		"Names": func() (int, error) {
			names, err := s.Names(t.Context(), store.Services, "")
			return len(names), err
		},
		"Walk": func() (n int, err error) {
			err = s.Walk(t.Context(), q.From, q.To, func([]span.Span) bool {
				n++
				return true
			})
			return n, err
		},
	}
	for name, read := range reads {
		disk.Broken.Store(true)
		if n, err := read(); !errors.Is(err, syscall.EIO) {
			t.Errorf("%s returns %d and the error %v, want %v", name, n, err, syscall.EIO)
		}
		disk.Broken.Store(false)
		if n, err := read(); n != 1 || err != nil {
			t.Errorf("%s returns %d when the file can be read again, want 1; error: %v", name, n, err)
		}
	}
}
