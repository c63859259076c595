package tracing

import (
	"context"
	"encoding/json"
	"errors"
	"iter"
	"net/http"
	"net/url"
	"slices"
	"time"

	"bijou.dev/platform/discovery"
	"bijou.dev/platform/errs"
	"bijou.dev/services/tracing/internal/links"
	"bijou.dev/services/tracing/internal/span"
)

// timeRange reads endTs and lookback, in microseconds.
func timeRange(r *http.Request) (from, to int64, err error) {
	v := r.URL.Query()
	if v.Get("endTs") == "" {
		return 0, 0, errs.Errorf(errs.Invalid, "reading dependencies").Field("endTs", "is required: milliseconds since 1970")
	}
	q, err := parseQuery(url.Values{"endTs": v["endTs"], "lookback": v["lookback"]}, time.Now())
	return q.From, q.To, err
}

// dependencies computes links from the spans of all replicas in the time range: a link can only be found in a whole
// trace.
func (q *queries) dependencies(r *http.Request, a *answer) (any, error) {
	from, to, err := timeRange(r)
	if err != nil {
		return nil, err
	}
	sources := []*source{newSource("", q.local(r.Context(), from, to))}
	for _, p := range q.peers.others(r) {
		sources = append(sources, newSource(p.ID, q.peers.walk(r.Context(), p, r.URL.RawQuery)))
	}
	defer func() {
		for _, s := range sources {
			s.stop()
		}
	}()
	var g links.Graph
	n := 0
	for {
		spans, ok := nextTrace(sources)
		if !ok {
			break
		}
		if n += len(spans); n > maxLinkSpans {
			a.incomplete = true
			break
		}
		for _, t := range span.Split(spans) {
			if at := span.Begin(t); at >= from && at <= to {
				g.Add(span.Merge(t))
			}
		}
	}
	for _, s := range sources {
		switch {
		case s.err == nil:
		case s.id != "":
			a.missing.add(s.id)
		case errors.Is(s.err, context.DeadlineExceeded):
			a.incomplete = true
		default:
			return nil, s.err
		}
	}
	return g.Links(), nil
}

// source is a stream of traces in the order of the lower half of their ids.
type source struct {
	id   string // of the replica; empty: this one
	next func() ([]span.Span, error, bool)
	stop func()
	head []span.Span // nil: the end
	err  error
}

func newSource(id string, seq iter.Seq2[[]span.Span, error]) *source {
	s := &source{id: id}
	s.next, s.stop = iter.Pull2(seq)
	s.advance()
	return s
}

func (s *source) advance() {
	spans, err, ok := s.next()
	if s.head = spans; !ok || err != nil || len(spans) == 0 {
		s.head, s.err = nil, err
	}
}

// nextTrace joins the trace that comes first.
func nextTrace(sources []*source) (spans []span.Span, ok bool) {
	var lo uint64
	for _, s := range sources {
		if s.head != nil && (!ok || s.head[0].Trace.Lo < lo) {
			lo, ok = s.head[0].Trace.Lo, true
		}
	}
	for _, s := range sources {
		if s.head != nil && s.head[0].Trace.Lo == lo {
			spans = append(spans, s.head...)
			s.advance()
		}
	}
	return spans, ok
}

// local streams the traces of this replica.
func (q *queries) local(ctx context.Context, from, to int64) iter.Seq2[[]span.Span, error] {
	return func(yield func([]span.Span, error) bool) {
		err := q.store.Walk(ctx, from, to, func(spans []span.Span) bool { return yield(slices.Clone(spans), nil) })
		if err != nil {
			yield(nil, err)
		}
	}
}

// walk streams the traces of another replica.
func (p *peers) walk(ctx context.Context, to discovery.Peer, query string) iter.Seq2[[]span.Span, error] {
	return func(yield func([]span.Span, error) bool) {
		body, err := p.open(ctx, to, "/internal/walk?"+query)
		if err != nil {
			yield(nil, err)
			return
		}
		defer body.Close()
		for d := json.NewDecoder(body); ; {
			var spans []span.Span
			if err := d.Decode(&spans); err != nil {
				yield(nil, err)
				return
			}
			if len(spans) == 0 || !yield(spans, nil) {
				return // an empty trace ends the stream; a stream without it is incomplete
			}
		}
	}
}

// walk sends the traces of this replica to another one: one JSON list of spans a line, without details, and an empty
// list at the end.
func (q *queries) walk(w http.ResponseWriter, r *http.Request) {
	from, to, err := timeRange(r)
	if err != nil {
		errs.WriteProblem(w, r, err)
		return
	}
	ctx, cancel := context.WithTimeout(r.Context(), queryTimeout)
	defer cancel()
	w.Header().Set("Content-Type", "application/x-ndjson")
	_ = http.NewResponseController(w).Flush() // the other side waits for the header only briefly
	e := json.NewEncoder(w)
	for spans, err := range q.local(ctx, from, to) {
		if err != nil || e.Encode(spans) != nil {
			return
		}
	}
	_ = e.Encode([]span.Span{})
}
