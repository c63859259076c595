package cli

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"io"
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
	Service string        `short:"s" help:"Only traces with a span of this service."`
	Span    string        `help:"Only traces with a span of this name."`
	Query   string        `short:"q" help:"Only traces with these annotations or tags, as Zipkin writes it: \"error\", \"http.method=GET and http.route=/\"."`
	Errors  bool          `short:"e" help:"Only traces with an error."`
	Min     time.Duration `help:"Only traces that took at least this long."`
	Max     time.Duration `help:"Only traces that took at most this long."`
	Since   time.Duration `default:"15m" help:"Look back so far."`
	Limit   int           `short:"n" default:"20" help:"At most this many."`
}

// Help is what `bijou trace --help` says beyond the flags.
func (traceCmd) Help() string {
	return `    bijou trace                           the newest traces
    bijou trace -s web --min 100ms        slow ones through web
    bijou trace -e                        those with an error
    bijou trace 0af7651916cd43dd8448eb211c80319c`
}

// Run is `bijou trace`.
func (c *traceCmd) Run(ctx context.Context, e *env) error {
	if c.ID != "" {
		return c.draw(ctx, e)
	}
	return c.search(ctx, e)
}

func (c *traceCmd) draw(ctx context.Context, e *env) error {
	if strings.Trim(strings.ToLower(c.ID), "0123456789abcdef") != "" || len(c.ID) > 32 {
		return usagef("a trace id has up to 32 hexadecimal digits, not %q", c.ID)
	}
	var spans []term.Span
	if raw, err := e.zipkin(ctx, "/api/v2/trace/"+c.ID, nil, &spans); err != nil || e.program.JSON {
		return writeRaw(e.Stdout, raw, err)
	}
	if len(spans) == 0 {
		return errs.Errorf(errs.NotFound, "there is no trace %s", c.ID)
	}
	return term.Waterfall(e.Stdout, e.style, e.columns, spans)
}

func (c *traceCmd) search(ctx context.Context, e *env) error {
	var traces [][]term.Span
	if raw, err := e.zipkin(ctx, "/api/v2/traces", c.filters(), &traces); err != nil || e.program.JSON {
		return writeRaw(e.Stdout, raw, err)
	}
	slices.SortFunc(traces, func(a, b []term.Span) int { return cmp.Compare(root(b).Start, root(a).Start) })
	t := term.Table{Header: []string{"TRACE", "STARTED", "TOOK", "SPANS", "SERVICES", "ROOT", "ERROR"}}
	for _, spans := range traces {
		if len(spans) > 0 {
			t.Add(e.traceRow(spans)...)
		}
	}
	if len(t.Rows) == 0 {
		fmt.Fprintln(e.Stderr, "no traces match; --since looks further back")
	}
	return t.Write(e.Stdout, e.style)
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

// root is the span that the others hang from, as far as it is known: one without a parent, else the first to start.
func root(spans []term.Span) term.Span {
	return slices.MinFunc(spans, func(a, b term.Span) int {
		return cmp.Or(cmp.Compare(len(a.ParentID), len(b.ParentID)), cmp.Compare(a.Start, b.Start))
	})
}

func (e *env) traceRow(spans []term.Span) []string {
	top, services, problem := root(spans), map[string]bool{}, ""
	for _, s := range spans {
		services[s.ServiceName()] = true
		if text, failed := s.Failed(); failed && problem == "" {
			problem = s.ServiceName() + ": " + cmp.Or(text, "yes")
		}
	}
	return []string{
		top.TraceID, time.UnixMicro(top.Start).Local().Format(time.TimeOnly),
		top.Took(),
		strconv.Itoa(len(spans)), strconv.Itoa(len(services)),
		e.style.Name(top.ServiceName(), top.ServiceName()) + " " + top.Title(), e.style.Red(term.Cut(problem, 60)),
	}
}

// zipkin asks the trace store and returns its answer as it came, too.
func (e *env) zipkin(ctx context.Context, path string, query url.Values, answer any) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, patience)
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
		return nil, fmt.Errorf("asking for traces: %w", err)
	case resp.StatusCode == http.StatusNotFound:
		return nil, errs.Errorf(errs.NotFound, "the trace store does not have it")
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
