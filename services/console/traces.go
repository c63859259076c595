package console

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"math/rand/v2"
	"net/http"
	"strings"

	"bijou.dev/platform/errs"
	"bijou.dev/platform/httpapi"
)

// maxTraces bounds an answer of the trace store, in bytes. The console holds it in memory.
const maxTraces = 16 << 20

// traceHeaders are the headers of the trace store that say that an answer is not complete.
var traceHeaders = []string{"Bijou-Peers-Missing", "Bijou-Incomplete"}

// traces passes queries to the trace store: /api/traces/trace/ID is /api/v2/trace/ID of Zipkin's API.
func (c *Console) traces(w http.ResponseWriter, r *http.Request) {
	ctx, cancel := context.WithTimeout(withoutTrace(r.Context()), actionTimeout)
	defer cancel()
	path := r.PathValue("path")
	query, _, _ := strings.Cut(path, "/")
	switch query {
	case "services", "spans", "remoteServices", "traces", "trace", "traceMany", "dependencies":
	default:
		errs.WriteProblem(w, r, errs.Errorf(errs.NotFound, "there is nothing at %.200s", r.URL.Path))
		return
	}
	answer, header, err := c.queryTraces(ctx, "/api/v2/"+path+"?"+r.URL.RawQuery)
	if err != nil {
		errs.WriteProblem(w, r, err)
		return
	}
	for _, name := range traceHeaders {
		if v := header.Get(name); v != "" {
			w.Header().Set(name, v)
		}
	}
	httpapi.Write(w, r, http.StatusOK, answer)
}

// queryTraces asks the instances of the trace store in random order until one answers.
func (c *Console) queryTraces(ctx context.Context, uri string) (json.RawMessage, http.Header, error) {
	problem := errs.Errorf(errs.Unavailable, "the trace store does not answer: no instance of tracing is registered")
	list, _ := c.currentInstances()
	for _, i := range rand.Perm(len(list.GetInstances())) {
		in := list.Instances[i]
		if in.Service != "tracing" || in.Endpoints["zipkin"] == "" {
			continue
		}
		answer, header, err := c.fetchTraces(ctx, in.Endpoints["zipkin"], uri)
		if err == nil {
			return answer, header, nil
		}
		if !errors.Is(err, errs.Unavailable) {
			return nil, nil, c.userError(in.Id, err)
		}
		c.log.Warn("asking the trace store", slog.String("instance", in.Id), slog.Any("error", err))
		problem = errs.Errorf(errs.Unavailable, "the trace store does not answer: %s", message(in.Id, err))
	}
	return nil, nil, problem
}

// fetchTraces asks one instance of the trace store.
func (c *Console) fetchTraces(ctx context.Context, addr, uri string) (json.RawMessage, http.Header, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+addr+uri, nil)
	if err != nil {
		return nil, nil, errs.Errorf(errs.Invalid, "asking the trace store: %w", err)
	}
	resp, err := c.http.Do(req)
	if err != nil {
		return nil, nil, errs.Errorf(errs.Unavailable, "%w", err)
	}
	defer resp.Body.Close()
	if err := errs.FromResponse(resp); err != nil {
		return nil, nil, err
	}
	body, err := io.ReadAll(io.LimitReader(resp.Body, maxTraces+1))
	switch {
	case err != nil:
		return nil, nil, errs.Errorf(errs.Unavailable, "%w", err)
	case len(body) > maxTraces:
		return nil, nil, errs.Errorf(errs.Invalid,
			"asking the trace store: the answer has more than %d MiB; ask for fewer traces", maxTraces>>20)
	case !json.Valid(body):
		return nil, nil, errs.Errorf(errs.Unavailable, "it answered with text that is not JSON")
	}
	return body, resp.Header, nil
}
