package tracing

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"bijou.dev/platform/errs"
	"bijou.dev/platform/httpapi"
	"bijou.dev/platform/service"
	"bijou.dev/services/tracing/internal/span"
	"bijou.dev/services/tracing/internal/store"
)

const (
	defaultLimit    = 10
	maxLimit        = 1000
	defaultLookback = 24 * time.Hour
	queryTimeout    = 10 * time.Second
	maxLinkSpans    = 5_000_000 // read for one dependency graph
)

// queries answers in Zipkin's v2 API.
type queries struct {
	store        *store.Store
	metrics      *metrics
	peers        *peers
	autocomplete []string
	log          *slog.Logger
}

func (q *queries) register(mux *httpapi.Mux) {
	for path, h := range map[string]func(*http.Request, *answer) (any, error){
		"/api/v2/services":           q.services,
		"/api/v2/spans":              q.spanNames,
		"/api/v2/remoteServices":     q.remoteServices,
		"/api/v2/traces":             q.traces,
		"/api/v2/trace/{id}":         q.trace,
		"/api/v2/traceMany":          q.traceMany,
		"/api/v2/dependencies":       q.dependencies,
		"/api/v2/autocompleteKeys":   q.autocompleteKeys,
		"/api/v2/autocompleteValues": q.autocompleteValues,
		"/config.json":               q.config,
		"/health":                    q.health,
		"/info":                      q.info,
	} {
		mux.HandleFunc("GET "+path, q.serve(path, h))
	}
	mux.HandleFunc("GET /internal/walk", q.walk)
}

// answer is what a response has besides its body.
type answer struct {
	missing    missing
	incomplete bool
	status     int // 0 means 200
}

// serve is the adapter of all queries: it bounds the time, runs the query, measures it and writes the response.
func (q *queries) serve(path string, h func(*http.Request, *answer) (any, error)) http.HandlerFunc {
	seconds := q.metrics.queries.WithLabelValues(path)
	return func(w http.ResponseWriter, r *http.Request) {
		start := time.Now()
		defer func() { seconds.Observe(time.Since(start).Seconds()) }()
		ctx, cancel := context.WithTimeout(r.Context(), queryTimeout)
		defer cancel()
		var a answer
		body, err := h(r.WithContext(ctx), &a)
		if len(a.missing.ids) > 0 {
			slices.Sort(a.missing.ids)
			w.Header().Set(missingHeader, strings.Join(a.missing.ids, ","))
		}
		if a.incomplete {
			w.Header().Set(incompleteHeader, "true")
		}
		if err != nil {
			errs.WriteProblem(w, r, err)
			return
		}
		w.Header().Set("Content-Type", "application/json")
		if a.status != 0 {
			w.WriteHeader(a.status)
		}
		if err := json.NewEncoder(w).Encode(body); err != nil {
			q.log.DebugContext(ctx, "writing an answer", "path", path, "error", err)
		}
	}
}

// Lists of names.

func (q *queries) names(r *http.Request, a *answer, t store.NameType, owner string) (any, error) {
	own, err := q.store.Names(r.Context(), t, owner)
	if err != nil {
		return nil, err
	}
	for _, part := range gather[[]string](r.Context(), q.peers, q.peers.others(r), r.URL.RequestURI(), &a.missing) {
		own = append(own, part...)
	}
	slices.Sort(own)
	return slices.Compact(own), nil
}

func (q *queries) services(r *http.Request, a *answer) (any, error) {
	return q.names(r, a, store.Services, "")
}

func (q *queries) spanNames(r *http.Request, a *answer) (any, error) {
	return q.namesOf(r, a, store.SpanNames, "serviceName")
}

func (q *queries) remoteServices(r *http.Request, a *answer) (any, error) {
	return q.namesOf(r, a, store.RemoteServices, "serviceName")
}

func (q *queries) autocompleteKeys(*http.Request, *answer) (any, error) { return q.autocomplete, nil }

func (q *queries) autocompleteValues(r *http.Request, a *answer) (any, error) {
	return q.namesOf(r, a, store.TagValues, "key")
}

func (q *queries) namesOf(r *http.Request, a *answer, t store.NameType, param string) (any, error) {
	owner := r.URL.Query().Get(param)
	if owner == "" {
		return nil, errs.Errorf(errs.Invalid, "listing names").Field(param, "is required")
	}
	return q.names(r, a, t, owner)
}

// Traces.

func (q *queries) traces(r *http.Request, a *answer) (any, error) {
	query, err := parseQuery(r.URL.Query(), time.Now())
	if err != nil {
		return nil, err
	}
	traces, incomplete, err := q.store.Search(r.Context(), query)
	if err != nil {
		return nil, err
	}
	a.incomplete = incomplete
	others := q.peers.others(r)
	if len(others) == 0 {
		return nonNil(traces), nil
	}
	for _, part := range gather[[][]span.Span](r.Context(), q.peers, others, r.URL.RequestURI(), &a.missing) {
		traces = append(traces, part...)
	}
	traces = joinTraces(traces)
	return q.complete(r, a, traces[:min(len(traces), query.Limit)])
}

// complete adds the spans that all replicas have of the given traces: a search finds only the spans of one replica, and
// the spans of a trace may be on several.
func (q *queries) complete(r *http.Request, a *answer, traces [][]span.Span) (any, error) {
	ids := make([]span.TraceID, len(traces))
	for i, t := range traces {
		ids[i] = t[0].Trace
	}
	rest, err := q.byID(r, a, ids)
	if err != nil {
		return nil, err
	}
	return nonNil(joinTraces(append(traces, rest...))), nil
}

// byID returns what all replicas have of some traces, not joined.
func (q *queries) byID(r *http.Request, a *answer, ids []span.TraceID) ([][]span.Span, error) {
	if len(ids) == 0 {
		return nil, nil
	}
	var parts [][]span.Span
	names := make([]string, len(ids))
	held := 0
	for i, id := range ids {
		names[i] = id.String()
		if held >= store.MaxAnswer {
			a.incomplete = true
			continue
		}
		t, err := q.store.Trace(r.Context(), id)
		if err != nil {
			return nil, err
		}
		held += len(t)
		parts = append(parts, t)
	}
	path := "/api/v2/traceMany?traceIds=" + strings.Join(names, ",")
	for _, part := range gather[[][]span.Span](r.Context(), q.peers, q.peers.others(r), path, &a.missing) {
		parts = append(parts, part...)
	}
	return parts, nil
}

func (q *queries) trace(r *http.Request, a *answer) (any, error) {
	id, err := span.ParseTraceID(r.PathValue("id"))
	if err != nil {
		return nil, errs.Errorf(errs.Invalid, "reading a trace: %w", err)
	}
	parts, err := q.byID(r, a, []span.TraceID{id})
	if err != nil {
		return nil, err
	}
	for _, t := range joinTraces(parts) {
		if id.Joins(t[0].Trace) {
			return t, nil
		}
	}
	return nil, errs.Errorf(errs.NotFound,
		"trace %s is not here: it was never stored, is past retention, or was not sampled", id)
}

func (q *queries) traceMany(r *http.Request, a *answer) (any, error) {
	list := r.URL.Query().Get("traceIds")
	if list == "" {
		return nil, errs.Errorf(errs.Invalid, "reading traces").Field("traceIds", "is required: ids separated by commas")
	}
	var ids []span.TraceID
	for s := range strings.SplitSeq(list, ",") {
		id, err := span.ParseTraceID(strings.TrimSpace(s))
		if err != nil {
			return nil, errs.Errorf(errs.Invalid, "reading traces").Field("traceIds", err.Error())
		}
		if !slices.Contains(ids, id) {
			ids = append(ids, id)
		}
	}
	if len(ids) > maxLimit {
		return nil, errs.Errorf(errs.Invalid, "reading traces").Field("traceIds", fmt.Sprintf("must be at most %d", maxLimit))
	}
	parts, err := q.byID(r, a, ids)
	if err != nil {
		return nil, err
	}
	return nonNil(joinTraces(parts)), nil
}

// nonNil makes an empty list [] in JSON.
func nonNil[T any](list []T) []T {
	if list == nil {
		return []T{}
	}
	return list
}

// parseQuery reads the parameters of a search.
func parseQuery(v url.Values, now time.Time) (store.Query, error) {
	var bad errs.Violations
	number := func(name string, def, least, most int64) int64 {
		s := v.Get(name)
		if s == "" {
			return def
		}
		n, err := strconv.ParseInt(s, 10, 64)
		if err != nil || n < least || n > most {
			bad.Addf(name, "must be a number from %d to %d", least, most)
			return def
		}
		return n
	}
	const maxMillis = 1 << 50 // some 35,000 years
	end := number("endTs", now.UnixMilli(), 0, maxMillis)
	lookback := number("lookback", defaultLookback.Milliseconds(), 0, maxMillis)
	q := store.Query{
		From:    max(0, end-lookback) * 1000,
		To:      end*1000 + 999,
		Service: v.Get("serviceName"), Remote: v.Get("remoteServiceName"), Name: v.Get("spanName"),
		MinDuration: number("minDuration", 0, 1, 1<<60),
		MaxDuration: number("maxDuration", 0, 1, 1<<60),
		Limit:       int(number("limit", defaultLimit, 1, maxLimit)),
		Tags:        parseAnnotations(v.Get("annotationQuery")),
	}
	// Old pages send "all" for no choice.
	if q.Service == "all" {
		q.Service = ""
	}
	if q.Name == "all" {
		q.Name = ""
	}
	if q.MaxDuration != 0 && q.MaxDuration < q.MinDuration {
		bad.Add("maxDuration", "must not be less than minDuration")
	}
	return q, bad.Err("searching traces")
}

// parseAnnotations reads "error and http.method=GET".
func parseAnnotations(s string) map[string]string {
	tags := make(map[string]string)
	for part := range strings.SplitSeq(s, " and ") {
		if k, v, _ := strings.Cut(strings.TrimSpace(part), "="); k != "" {
			tags[k] = v
		}
	}
	return tags
}

// About the server.

func (q *queries) config(*http.Request, *answer) (any, error) {
	return map[string]any{
		"environment": "", "queryLimit": defaultLimit, "defaultLookback": 15 * time.Minute.Milliseconds(),
		"searchEnabled": true, "dependency": map[string]any{"enabled": true},
	}, nil
}

func (q *queries) health(_ *http.Request, a *answer) (any, error) {
	select {
	case <-q.store.Failed():
		a.status = http.StatusServiceUnavailable
		return map[string]string{"status": "DOWN", "reason": "the disk failed; the log has the reason"}, nil
	default:
		return map[string]string{"status": "UP"}, nil
	}
}

func (q *queries) info(*http.Request, *answer) (any, error) {
	return map[string]any{"zipkin": map[string]string{
		"version":        service.Version(),
		"implementation": "bijou tracing",
	}}, nil
}
