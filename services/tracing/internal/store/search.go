package store

import (
	"cmp"
	"container/heap"
	"context"
	"errors"
	"math/bits"
	"slices"
	"strings"
	"time"

	"github.com/cockroachdb/pebble/v2"

	"bijou.dev/services/tracing/internal/span"
)

const (
	// maxTrace bounds the memory of one trace.
	maxTrace = 50_000
	// MaxAnswer bounds the memory of an answer of many traces, in spans.
	MaxAnswer = 100_000
	// maxExamined bounds the work of a search: traces read and tested.
	maxExamined = 20_000
	// slack is how much later than its trace a service may take part and still be found at the end of the range.
	slack = 5 * time.Minute
)

// Query selects traces. Zero values do not select. Names are compared without regard to case.
type Query struct {
	// From and To bound the beginning of a trace, in microseconds. Both count.
	From, To int64
	// Service took part. When set, the other conditions must hold for spans of this service.
	Service string
	// Remote is the other side of some span, Name is the name of some span.
	Remote, Name string
	// Tags must all be there, on any of the spans: key and value, or, when the value is empty, a tag or an annotation
	// named like the key.
	Tags map[string]string
	// MinDuration and MaxDuration bound the duration of some span, in microseconds.
	MinDuration, MaxDuration int64
	// Limit is the most traces to return, the newest. 0: none.
	Limit int
}

// Match reports whether a trace is selected. Conditions may hold on different spans.
func (q *Query) Match(spans []span.Span) bool {
	if at := span.Begin(spans); at < q.From || at > q.To || at == 0 {
		return false
	}
	service, remote, name := q.Service == "", q.Remote == "", q.Name == ""
	duration := q.MinDuration == 0 && q.MaxDuration == 0
	missing := len(q.Tags)
	var found map[string]bool
	if missing > 0 {
		found = make(map[string]bool, missing)
	}
	for i := range spans {
		s := &spans[i]
		if q.Service != "" && !strings.EqualFold(q.Service, s.Local.Service) {
			continue
		}
		service = true
		remote = remote || strings.EqualFold(q.Remote, s.Remote.Service)
		name = name || strings.EqualFold(q.Name, s.Name)
		duration = duration || s.Duration >= max(1, q.MinDuration) && (q.MaxDuration == 0 || s.Duration <= q.MaxDuration)
		for k, v := range q.Tags {
			if !found[k] && hasTag(s, k, v) {
				found[k] = true
				missing--
			}
		}
	}
	return service && remote && name && duration && missing == 0
}

func hasTag(s *span.Span, key, value string) bool {
	if v, ok := s.Tag(key); ok && (value == "" || v == value) {
		return true
	}
	return value == "" && slices.ContainsFunc(s.Annotations, func(a span.Annotation) bool { return a.Value == key })
}

// possible reports whether a trace with such an entry may match. It checks only one condition: others may hold in
// another entry of the same trace.
func (q *Query) possible(m summary) bool {
	_, failed := q.Tags["error"]
	switch {
	case failed:
		return m.failed
	case q.MinDuration > 0:
		return int(m.duration) >= bits.Len64(uint64(q.MinDuration))
	case q.Name != "":
		return m.names&nameBit(q.Name) != 0
	}
	return true
}

// Trace returns the spans of a trace, sorted by start. Unknown traces have none.
func (s *Store) Trace(ctx context.Context, id span.TraceID) ([]span.Span, error) {
	r, err := s.reader()
	if err != nil {
		return nil, err
	}
	defer r.close()
	spans, err := r.trace(ctx, id.Lo, s.allBuckets())
	if err != nil {
		return nil, err
	}
	spans = slices.DeleteFunc(spans, func(sp span.Span) bool { return !id.Joins(sp.Trace) })
	return span.Merge(spans), nil
}

// Search returns the newest traces that q selects. incomplete is set when it stopped early: after too many traces that
// did not match, after MaxAnswer spans, or because ctx ended.
func (s *Store) Search(ctx context.Context, q Query) (traces [][]span.Span, incomplete bool, err error) {
	r, err := s.reader()
	if err != nil {
		return nil, false, err
	}
	defer r.close()
	f := &finder{q: q, r: r, buckets: s.buckets(q.From/1e6, (q.To+slack.Microseconds())/1e6), seen: make(map[uint64]bool)}
	for i := len(f.buckets) - 1; i >= 0 && len(f.found) < q.Limit && err == nil; i-- {
		err = f.bucket(ctx, i)
	}
	if errors.Is(err, errEnough) {
		incomplete, err = true, nil
	}
	if err != nil {
		return nil, false, err
	}
	held := 0
	for _, lo := range f.found {
		if held >= MaxAnswer {
			incomplete = true
			break
		}
		spans, err := r.trace(context.WithoutCancel(ctx), lo, s.allBuckets())
		if err != nil {
			return nil, false, err
		}
		held += len(spans)
		for _, t := range span.Split(spans) {
			if t = span.Merge(t); q.Match(t) {
				traces = append(traces, t)
			}
		}
	}
	slices.SortStableFunc(traces, func(a, b []span.Span) int { return cmp.Compare(span.Begin(b), span.Begin(a)) })
	return traces[:min(len(traces), q.Limit)], incomplete, nil
}

var errEnough = errors.New("searching: enough")

// finder is the state of a search.
type finder struct {
	q       Query
	r       *reader
	buckets []uint32
	seen    map[uint64]bool // trace -> tested
	found   []uint64
}

// bucket walks the index of one bucket from new to old.
func (f *finder) bucket(ctx context.Context, i int) error {
	entries, err := f.r.entries(f.buckets[i], &f.q)
	if err != nil {
		return err
	}
	defer entries.close()
	for len(entries) > 0 && len(f.found) < f.q.Limit {
		it := entries[0].it
		_, lo := indexTail(it.Key())
		if !f.seen[lo] && f.q.possible(parseSummary(it.Value())) {
			f.seen[lo] = true
			if err := f.test(ctx, lo, i); err != nil {
				return err
			}
		}
		if err := entries.next(); err != nil {
			return err
		}
	}
	return nil
}

// test reads a trace in this bucket and the adjacent ones, where most of its spans are.
func (f *finder) test(ctx context.Context, lo uint64, i int) error {
	if ctx.Err() != nil || len(f.seen) > maxExamined {
		return errEnough
	}
	spans, err := f.r.trace(ctx, lo, f.buckets[max(0, i-1):min(len(f.buckets), i+2)])
	if err != nil {
		return err
	}
	if slices.ContainsFunc(span.Split(spans), f.q.Match) {
		f.found = append(f.found, lo)
	}
	return nil
}

// entries is a heap of index iterators, one per service, the newest entry on top.
type entries []entry

type entry struct {
	it     *pebble.Iterator
	offset uint32
}

// Len implements heap.Interface.
func (e entries) Len() int { return len(e) }

// Less implements heap.Interface.
func (e entries) Less(i, j int) bool { return e[i].offset > e[j].offset }

// Swap implements heap.Interface.
func (e entries) Swap(i, j int) { e[i], e[j] = e[j], e[i] }

// Push implements heap.Interface.
func (e *entries) Push(x any) { *e = append(*e, x.(entry)) }

// Pop implements heap.Interface.
func (e *entries) Pop() any {
	last := (*e)[len(*e)-1]
	*e = (*e)[:len(*e)-1]
	return last
}

// next moves the top on.
func (e *entries) next() error {
	top := &(*e)[0]
	if top.it.Prev() {
		top.offset, _ = indexTail(top.it.Key())
		heap.Fix(e, 0)
		return nil
	}
	err := top.it.Error()
	_ = top.it.Close()
	heap.Pop(e)
	return err
}

func (e *entries) close() {
	for _, x := range *e {
		_ = x.it.Close()
	}
}
