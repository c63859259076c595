package store

import (
	"container/heap"
	"context"
	"fmt"

	"github.com/cockroachdb/pebble/v2"

	"bijou.dev/services/tracing/internal/span"
)

// Walk calls fn with each trace of the buckets in a time range in microseconds, in the order of the lower half of
// their ids, until it returns false. Spans have no annotations and no tags but error. It needs memory for one trace
// at a time.
func (s *Store) Walk(ctx context.Context, from, to int64, fn func(spans []span.Span) bool) error {
	r, err := s.reader()
	if err != nil {
		return err
	}
	defer r.close()
	var w walk
	defer w.close()
	for _, b := range s.buckets(from/1e6, to/1e6) {
		prefix := appendKind(nil, b, kindChunk)
		it, err := r.snap.NewIter(&pebble.IterOptions{LowerBound: prefix, UpperBound: after(prefix)})
		if err != nil {
			return fmt.Errorf("reading traces: %w", err)
		}
		if it.First() {
			w = append(w, walker{it, b, chunkTrace(it.Key()).Lo})
		} else if err := it.Close(); err != nil { // it is empty, or it cannot be read
			return fmt.Errorf("reading traces: %w", err)
		}
	}
	heap.Init(&w)
	var spans []span.Span
	for len(w) > 0 && ctx.Err() == nil {
		lo := w[0].lo
		spans = spans[:0]
		for len(w) > 0 && w[0].lo == lo {
			if len(spans) < maxTrace {
				if spans, err = r.chunk(spans, w[0].bucket, w[0].it, true); err != nil {
					return err
				}
			}
			if err := w.next(); err != nil {
				return err
			}
		}
		if !fn(spans) {
			return nil
		}
	}
	return ctx.Err()
}

// walk is a heap of chunk iterators, one per bucket, the smallest trace on top.
type walk []walker

type walker struct {
	it     *pebble.Iterator
	bucket uint32
	lo     uint64
}

// Len implements heap.Interface.
func (w walk) Len() int { return len(w) }

// Less implements heap.Interface.
func (w walk) Less(i, j int) bool { return w[i].lo < w[j].lo }

// Swap implements heap.Interface.
func (w walk) Swap(i, j int) { w[i], w[j] = w[j], w[i] }

// Push implements heap.Interface.
func (w *walk) Push(x any) { *w = append(*w, x.(walker)) }

// Pop implements heap.Interface.
func (w *walk) Pop() any {
	last := (*w)[len(*w)-1]
	*w = (*w)[:len(*w)-1]
	return last
}

func (w *walk) next() error {
	top := &(*w)[0]
	if top.it.Next() {
		top.lo = chunkTrace(top.it.Key()).Lo
		heap.Fix(w, 0)
		return nil
	}
	err := top.it.Error()
	_ = top.it.Close()
	heap.Pop(w)
	return err
}

func (w *walk) close() {
	for _, x := range *w {
		_ = x.it.Close()
	}
}
