package store_test

import (
	"context"
	"fmt"
	"sync"
	"testing"
	"time"

	"bijou.dev/services/tracing/internal/span"
	"bijou.dev/services/tracing/internal/spantest"
	"bijou.dev/services/tracing/internal/store"
)

// BenchmarkAdd stores batches of 512 spans from four senders at once, synced, and reports CPU-free wall time per span
// and bytes per span on disk once compacted.
func BenchmarkAdd(b *testing.B) {
	s := open(b, store.Options{})
	src := spantest.New(1)
	const senders, batch = 4, 57 // traces
	work := make(chan []span.Span, 8)
	var wg sync.WaitGroup
	for range senders {
		wg.Go(func() {
			for spans := range work {
				if _, err := s.Add(context.Background(), spans); err != nil {
					b.Error(err)
				}
			}
		})
	}
	n, at := 0, time.Now().Add(-time.Hour)
	made := time.Duration(0)
	b.ReportAllocs()
	for b.Loop() {
		t0 := time.Now()
		var spans []span.Span
		for range batch {
			at = at.Add(2 * time.Millisecond)
			spans = append(spans, src.Trace(at)...)
		}
		n += len(spans)
		made += time.Since(t0)
		work <- spans
	}
	close(work)
	wg.Wait()
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(n), "ns/span")
	b.ReportMetric(float64(made.Nanoseconds())/float64(n), "ns/span-making")
	if err := s.Flush(); err != nil {
		b.Fatal(err)
	}
	b.ReportMetric(float64(s.Stats().Bytes)/float64(n), "B/span")
}

// BenchmarkTrace reads one trace of nine among many.
func BenchmarkTrace(b *testing.B) {
	for _, traces := range []int{1000, 110_000} {
		b.Run(fmt.Sprintf("spans=%d", traces*9), func(b *testing.B) {
			s := open(b, store.Options{})
			src, at := spantest.New(1), time.Now().Add(-70*time.Hour)
			step := 70 * time.Hour / time.Duration(traces+1)
			var ids []span.TraceID
			var spans []span.Span
			for i := range traces {
				at = at.Add(step)
				t := src.Trace(at)
				ids = append(ids, t[0].Trace)
				if spans = append(spans, t...); len(spans) > 8000 || i == traces-1 {
					if _, err := s.Add(b.Context(), spans); err != nil {
						b.Fatal(err)
					}
					spans = nil
				}
			}
			i := 0
			for b.Loop() {
				i += 7919
				got, err := s.Trace(b.Context(), ids[i%len(ids)])
				if err != nil || len(got) != 9 {
					b.Fatal(len(got), err)
				}
			}
		})
	}
}
