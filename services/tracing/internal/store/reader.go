package store

import (
	"bytes"
	"cmp"
	"container/heap"
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/cockroachdb/pebble/v2"

	"bijou.dev/services/tracing/internal/span"
)

// reader reads through one view of the store.
type reader struct {
	store *Store
	snap  *pebble.Snapshot
	it    *pebble.Iterator // over everything
}

func (s *Store) reader() (*reader, error) {
	snap := s.db.NewSnapshot()
	it, err := snap.NewIter(nil)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("reading the trace store: %w", err), snap.Close())
	}
	return &reader{s, snap, it}, nil
}

func (r *reader) close() {
	_ = r.it.Close()
	_ = r.snap.Close()
}

// trace returns the spans of one trace in some buckets, at most maxTrace.
func (r *reader) trace(ctx context.Context, lo uint64, buckets []uint32) (spans []span.Span, err error) {
	var key [16]byte
	for _, b := range buckets {
		prefix := appendTrace(key[:0], b, lo)
		for ok := r.it.SeekPrefixGE(prefix); ok; ok = r.it.Next() {
			if spans, err = r.chunk(spans, b, r.it, false); err != nil {
				return nil, err
			}
			if len(spans) > maxTrace {
				return spans[:maxTrace], nil
			}
		}
		if err := cmp.Or(r.it.Error(), ctx.Err()); err != nil {
			return nil, fmt.Errorf("reading a trace: %w", err)
		}
	}
	return spans, nil
}

// chunk appends the spans of the chunk under it.
func (r *reader) chunk(spans []span.Span, bucket uint32, it *pebble.Iterator, bare bool) ([]span.Span, error) {
	st, err := r.store.states.get(bucket)
	if err != nil {
		return spans, err
	}
	id, base := chunkTrace(it.Key()), int64(bucket)*1e6
	d := decoder{b: it.Value(), strings: st.dictionary(), bare: bare}
	out, err := d.chunk(spans, id, base)
	if errors.Is(err, errUnknown) {
		// The dictionary was loaded before the commit that we see.
		if st, err = r.store.states.load(bucket); err != nil {
			return spans, err
		}
		d = decoder{b: it.Value(), strings: st.strings, bare: bare}
		out, err = d.chunk(spans, id, base)
	}
	return out, err
}

// entries opens the index of the services that q is about, positioned at the newest entry that can count.
func (r *reader) entries(bucket uint32, q *Query) (e entries, err error) {
	services := []string{strings.ToLower(q.Service)}
	if q.Service == "" {
		if services, err = r.services(bucket); err != nil {
			return nil, err
		}
	}
	base := int64(bucket) * 1e6
	from := uint32(max(0, (q.From-base)/1000))
	to := uint32(max(0, min((q.To+slack.Microseconds()-base)/1000+1, 1<<32-1)))
	for _, s := range services {
		it, err := r.snap.NewIter(&pebble.IterOptions{
			LowerBound: appendIndex(nil, bucket, s, from, 0),
			UpperBound: appendIndex(nil, bucket, s, to, 0),
		})
		if err != nil {
			e.close()
			return nil, fmt.Errorf("searching: %w", err)
		}
		if !it.Last() {
			if err := it.Close(); err != nil { // it is empty, or it cannot be read
				e.close()
				return nil, fmt.Errorf("searching: %w", err)
			}
			continue
		}
		offset, _ := indexTail(it.Key())
		e = append(e, entry{it, offset})
	}
	heap.Init(&e)
	return e, nil
}

// services returns the services in a bucket's index, by seeking from one to the next.
func (r *reader) services(bucket uint32) (list []string, err error) {
	prefix := appendKind(nil, bucket, kindIndex)
	for ok := r.it.SeekGE(prefix); ok && bytes.HasPrefix(r.it.Key(), prefix); {
		key := r.it.Key()
		name := string(key[len(prefix) : len(key)-13])
		list = append(list, name)
		ok = r.it.SeekGE(after(appendService(nil, bucket, name)))
	}
	return list, r.it.Error()
}
