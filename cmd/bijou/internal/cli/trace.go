package cli

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"bijou.dev/cmd/bijou/internal/term"
	"bijou.dev/platform/errs"
)

// zipkinPort is where the trace store answers Zipkin's queries.
const zipkinPort = 9411

type traceCmd struct {
	ID      string        `arg:"" optional:"" help:"A trace id: draw this trace."`
	With    string        `placeholder:"ID" help:"Compare the trace with this one, operation by operation."`
	Why     bool          `help:"Show the decisions of each call: pick, attempts, circuit, settings revision."`
	Deps    bool          `help:"Show which service called which, from the traces since --since."`
	Service string        `short:"s" help:"Only traces with a span of this service."`
	Span    string        `help:"Only traces with a span of this name."`
	Query   string        `short:"q" help:"Only traces with these annotations or tags, in Zipkin's form: \"error and http.method=GET\"."`
	Errors  bool          `short:"e" help:"Only traces with an error."`
	Min     time.Duration `help:"Only traces that took at least this long."`
	Max     time.Duration `help:"Only traces that took at most this long."`
	Since   time.Duration `default:"15m" help:"How far to look back."`
	Limit   int           `short:"n" default:"20" help:"At most this many."`
}

// Help is what `bijou trace --help` prints before the flags.
func (traceCmd) Help() string {
	return `For example:

    bijou trace                           the newest traces
    bijou trace -s web --min 100ms        slow ones through web
    bijou trace -e                        those with an error
    bijou trace 0af7651916cd43dd8448eb211c80319c --why
    bijou trace 0af7651916cd43dd8448eb211c80319c --with 4bf92f3577b34da6a3ce929d0e0e4736
    bijou trace --deps --since 1h         which service called which`
}

// Run is `bijou trace`.
func (c *traceCmd) Run(ctx context.Context, e *env) error {
	for _, id := range []string{c.ID, c.With} {
		if strings.Trim(strings.ToLower(id), "0123456789abcdef") != "" || len(id) > 32 {
			return usagef("a trace id has up to 32 hexadecimal digits, not %q", id)
		}
	}
	switch {
	case c.ID != "" && c.With != "":
		return c.compare(ctx, e)
	case c.ID != "":
		return c.draw(ctx, e)
	case c.With != "":
		return usagef("--with needs a trace to compare with: bijou trace ID --with ID")
	case c.Deps:
		return c.dependencies(ctx, e)
	}
	return c.search(ctx, e)
}

func (c *traceCmd) draw(ctx context.Context, e *env) error {
	spans, raw, err := e.trace(ctx, c.ID)
	if err != nil || e.program.JSON {
		return writeRaw(e.Stdout, raw, err)
	}
	return term.Waterfall(e.Stdout, e.style, e.columns, spans, c.Why)
}

// trace asks for the spans of one trace, and returns the answer as it came, too.
func (e *env) trace(ctx context.Context, id string) (spans []term.Span, raw []byte, err error) {
	raw, err = e.zipkin(ctx, "/api/v2/trace/"+strings.ToLower(id), nil, &spans)
	if err == nil && len(spans) == 0 {
		err = errNoTrace
	}
	if err != nil {
		return nil, nil, fmt.Errorf("trace %s: %w", id, err)
	}
	return spans, raw, nil
}

// operation is the number and the total duration of the spans of one operation in two traces.
type operation struct {
	Name   string `json:"name"`
	SpansA int    `json:"spansA"`
	SpansB int    `json:"spansB"`
	TookA  int64  `json:"tookA"` // us
	TookB  int64  `json:"tookB"`
}

func (o operation) difference() int64 { return o.TookB - o.TookA }

// compare shows the operations of two traces, the largest differences first.
func (c *traceCmd) compare(ctx context.Context, e *env) error {
	byName := map[string]*operation{}
	add := func(id string, count func(*operation, term.Span)) error {
		spans, _, err := e.trace(ctx, id)
		if err != nil {
			return err
		}
		for _, s := range spans {
			name := s.ServiceName() + " " + s.Title() + " " + strings.ToLower(s.Kind)
			if byName[name] == nil {
				byName[name] = &operation{Name: name}
			}
			count(byName[name], s)
		}
		return nil
	}
	inA := func(o *operation, s term.Span) { o.SpansA, o.TookA = o.SpansA+1, o.TookA+s.Duration }
	if err := add(c.ID, inA); err != nil {
		return err
	}
	inB := func(o *operation, s term.Span) { o.SpansB, o.TookB = o.SpansB+1, o.TookB+s.Duration }
	if err := add(c.With, inB); err != nil {
		return err
	}
	size := func(o *operation) int64 { return max(o.difference(), -o.difference()) }
	all := slices.SortedFunc(maps.Values(byName), func(a, b *operation) int {
		return cmp.Or(cmp.Compare(size(b), size(a)), cmp.Compare(a.Name, b.Name))
	})
	if e.program.JSON {
		return e.printJSON(all)
	}
	t := term.Table{Header: []string{"OPERATION", "SPANS A", "SPANS B", "TIME A", "TIME B", "DIFFERENCE"}}
	took := func(us int64) string {
		return (time.Duration(us) * time.Microsecond).Round(10 * time.Microsecond).String()
	}
	for _, o := range all {
		t.Add(o.Name, strconv.Itoa(o.SpansA), strconv.Itoa(o.SpansB), took(o.TookA), took(o.TookB),
			took(o.difference()))
	}
	return e.table(&t)
}

// dependencies shows which service called which.
func (c *traceCmd) dependencies(ctx context.Context, e *env) error {
	var links []struct {
		Parent, Child         string
		CallCount, ErrorCount int64
	}
	query := url.Values{
		"endTs":    {strconv.FormatInt(time.Now().UnixMilli(), 10)},
		"lookback": {strconv.FormatInt(c.Since.Milliseconds(), 10)},
	}
	if raw, err := e.zipkin(ctx, "/api/v2/dependencies", query, &links); err != nil || e.program.JSON {
		return writeRaw(e.Stdout, raw, err)
	}
	t := term.Table{Header: []string{"CALLER", "CALLEE", "CALLS", "ERRORS"}}
	for _, l := range links {
		failed := term.Sprintf("%d", l.ErrorCount)
		if l.ErrorCount > 0 {
			failed = e.style.Red(string(failed))
		}
		t.Add(e.style.Name(l.Parent, l.Parent), e.style.Name(l.Child, l.Child), strconv.FormatInt(l.CallCount, 10),
			failed)
	}
	return e.table(&t)
}

func (c *traceCmd) search(ctx context.Context, e *env) error {
	var traces [][]term.Span
	if raw, err := e.zipkin(ctx, "/api/v2/traces", c.filters(), &traces); err != nil || e.program.JSON {
		return writeRaw(e.Stdout, raw, err)
	}
	traces = slices.DeleteFunc(traces, func(spans []term.Span) bool { return len(spans) == 0 })
	slices.SortFunc(traces, func(a, b []term.Span) int { return cmp.Compare(root(b).Start, root(a).Start) })
	t := term.Table{Header: []string{"TRACE", "STARTED", "TOOK", "SPANS", "SERVICES", "ROOT", "ERROR"}}
	for _, spans := range traces {
		t.Add(e.traceRow(spans)...)
	}
	if len(t.Rows) == 0 {
		e.notef("%s\n", "no traces match; --since looks further back")
	}
	return e.table(&t)
}

func (c *traceCmd) filters() url.Values {
	query := c.Query
	if c.Errors {
		query = strings.TrimPrefix(query+" and error", " and ")
	}
	v := url.Values{"limit": {strconv.Itoa(c.Limit)}, "lookback": {strconv.FormatInt(c.Since.Milliseconds(), 10)}}
	set := func(name, value string) {
		if value != "" && value != "0" {
			v.Set(name, value)
		}
	}
	set("serviceName", c.Service)
	set("spanName", c.Span)
	set("annotationQuery", query)
	set("minDuration", strconv.FormatInt(c.Min.Microseconds(), 10))
	set("maxDuration", strconv.FormatInt(c.Max.Microseconds(), 10))
	return v
}

// root returns the root span of a trace: a span without a parent, else the span that started first.
func root(spans []term.Span) term.Span {
	return slices.MinFunc(spans, func(a, b term.Span) int {
		return cmp.Or(cmp.Compare(len(a.ParentID), len(b.ParentID)), cmp.Compare(a.Start, b.Start))
	})
}

func (e *env) traceRow(spans []term.Span) []any {
	top, services, problem := root(spans), map[string]bool{}, ""
	for _, s := range spans {
		services[s.ServiceName()] = true
		if text, failed := s.Failed(); failed && problem == "" {
			problem = s.ServiceName() + ": " + cmp.Or(text, "yes")
		}
	}
	return []any{
		top.TraceID, time.UnixMicro(top.Start).Local().Format(time.TimeOnly),
		top.Took(),
		strconv.Itoa(len(spans)), strconv.Itoa(len(services)),
		term.Sprintf("%s %s", e.style.Name(top.ServiceName(), top.ServiceName()), top.Title()), e.style.Red(problem),
	}
}

var errNoTrace = errs.Errorf(errs.NotFound, "the trace store does not have it; spans arrive a second or two late, and "+
	"`bijou trace` lists the newest traces")

// zipkin asks the trace store and returns its answer as it came, too.
func (e *env) zipkin(ctx context.Context, path string, query url.Values, answer any) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	addrs, err := e.addresses(ctx, "tracing", "zipkin", zipkinPort)
	if err != nil {
		return nil, err
	}
	address := url.URL{Scheme: "http", Host: addrs[0], Path: path, RawQuery: query.Encode()}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, address.String(), nil)
	if err != nil {
		return nil, fmt.Errorf("asking for traces: %w", err)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return nil, errs.Errorf(errs.Unavailable, "asking for traces: %w", err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	switch {
	case err != nil:
		return nil, errs.Errorf(errs.Unavailable, "asking for traces: %w", err)
	case resp.StatusCode == http.StatusNotFound:
		return nil, errNoTrace
	case resp.StatusCode == http.StatusBadRequest:
		return nil, errs.Errorf(errs.Invalid, "asking for traces: %s", strings.TrimSpace(string(body)))
	case resp.StatusCode != http.StatusOK:
		return nil, fmt.Errorf("asking for traces: %s: %s", resp.Status, strings.TrimSpace(string(body)))
	}
	if err := json.Unmarshal(body, answer); err != nil {
		return nil, fmt.Errorf("reading traces: %w", err)
	}
	return body, nil
}

func writeRaw(w io.Writer, raw []byte, err error) error {
	if err != nil {
		return err
	}
	_, err = fmt.Fprintln(w, strings.TrimSpace(string(raw)))
	return err
}
