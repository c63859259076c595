package compress_test

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"testing"

	"bijou.dev/services/gateway/internal/compress"

	"github.com/andybalholm/brotli"
	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
)

var codings = []string{"zstd", "gzip", "br"}

func reader(t testing.TB, coding string, r io.Reader) io.Reader {
	t.Helper()
	var err error
	switch coding {
	case "gzip":
		r, err = gzip.NewReader(r)
	case "zstd":
		r, err = zstd.NewReader(r, zstd.WithDecoderConcurrency(1))
	case "br":
		r = brotli.NewReader(r)
	}
	if err != nil {
		t.Fatalf("%s: %v", coding, err)
	}
	return r
}

func decode(t testing.TB, coding string, r io.Reader) string {
	t.Helper()
	text, err := io.ReadAll(reader(t, coding, r))
	if err != nil {
		t.Fatalf("%s: after %d bytes: %v", coding, len(text), err)
	}
	return string(text)
}

// A writer that was used before, also for content that did not come to its end, gives the same bytes.
func TestWritersAreReused(t *testing.T) {
	limit := compress.NewLimit(0)
	for _, coding := range codings {
		for _, text := range []string{"first", "", "second"} {
			var out bytes.Buffer
			w := limit.Get(coding, &out, int64(len(text)), false)
			if _, err := io.WriteString(w, text); err != nil {
				t.Fatal(err)
			}
			if err := w.Close(); err != nil {
				t.Fatal(err)
			}
			w.Release()
			if got := decode(t, coding, &out); got != text {
				t.Errorf("%s: %q, want %q", coding, got, text)
			}
			broken := limit.Get(coding, io.Discard, 100, false)
			if _, err := io.WriteString(broken, "half of it"); err != nil {
				t.Fatal(err)
			}
			if err := broken.Close(); !errors.Is(err, compress.ErrShort) {
				t.Errorf("%s: closing after a part of the content: %v, want %v", coding, err, compress.ErrShort)
			}
			broken.Release()
		}
	}
}

// The memory limits how many answers are compressed; half of them may be streams.
func TestLimitOfWriters(t *testing.T) {
	for memory, want := range map[int64]int{0: 128, 216 << 20: 27, 16 << 20: 8} {
		l := compress.NewLimit(memory)
		count := func(stream bool) (all []*compress.Writer) {
			for {
				w := l.Get("gzip", io.Discard, -1, stream)
				if w == nil {
					return all
				}
				all = append(all, w)
			}
		}
		for range 2 {
			streams := count(true)
			others := count(false)
			if len(streams) != want/2 || len(streams)+len(others) != want {
				t.Errorf("with %d bytes of memory %d streams and %d others are compressed, want %d in all", memory,
					len(streams), len(others), want)
			}
			for _, w := range append(streams, others...) {
				w.Release()
			}
		}
	}
}

// FuzzWriter: whatever is written and flushed, the client gets it. What was flushed can be decoded without the rest.
func FuzzWriter(f *testing.F) {
	f.Add([]byte("data: 1\n\ndata: 2\n\n"), 9, byte(0))
	f.Add(bytes.Repeat([]byte("abcdefgh"), 20_000), 70_000, byte(1))
	f.Add([]byte{}, 1, byte(2))
	limit := compress.NewLimit(0)
	f.Fuzz(func(t *testing.T, text []byte, size int, n byte) {
		coding := codings[int(n)%len(codings)]
		if size <= 0 || len(text)/size > 1000 {
			return
		}
		var out bytes.Buffer
		w := limit.Get(coding, &out, int64(len(text)), false)
		defer w.Release()
		for p := text; len(p) > 0; p = p[min(size, len(p)):] {
			if _, err := w.Write(p[:min(size, len(p))]); err != nil {
				t.Fatal(err)
			}
			if err := w.Flush(); err != nil {
				t.Fatal(err)
			}
		}
		flushed := out.Len()
		if err := w.Close(); err != nil {
			t.Fatal(err)
		}
		part := make([]byte, len(text))
		if len(text) > 0 {
			r := reader(t, coding, bytes.NewReader(out.Bytes()[:flushed]))
			if _, err := io.ReadFull(r, part); err != nil {
				t.Errorf("%s: the content cannot be read from what was flushed: %v", coding, err)
			}
		}
		if got := decode(t, coding, &out); got != string(text) || !bytes.Equal(part, text) {
			t.Errorf("%s: %d bytes became %d", coding, len(text), len(got))
		}
	})
}

// BenchmarkWriters compresses a JSON document of 50 KB: the time, how many times smaller it becomes.
func BenchmarkWriters(b *testing.B) {
	var doc bytes.Buffer
	for i := 0; doc.Len() < 50_000; i++ {
		fmt.Fprintf(&doc, `{"id":%d,"title":"The %x story of %d","year":%d,"genres":["drama","comedy"],"rating":%d.%d,`+
			`"cast":[{"name":"Person %x","role":"lead"},{"name":"Person %x","role":"other"}]},`,
			i*7919, i*2654435761, i*31, 1900+i*37%120, i%10, i*7%10, i*40503, i*69069)
	}
	limit := compress.NewLimit(0)
	for _, coding := range codings {
		b.Run(coding, func(b *testing.B) {
			var out bytes.Buffer
			b.ReportAllocs()
			for b.Loop() {
				out.Reset()
				w := limit.Get(coding, &out, int64(doc.Len()), false)
				for p := doc.Bytes(); len(p) > 0; p = p[min(16<<10, len(p)):] {
					if _, err := w.Write(p[:min(16<<10, len(p))]); err != nil {
						b.Fatal(err)
					}
				}
				if err := w.Close(); err != nil {
					b.Fatal(err)
				}
				w.Release()
			}
			b.ReportMetric(float64(doc.Len())/float64(out.Len()), "ratio")
		})
	}
}
