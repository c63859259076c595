package console

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"math/rand/v2"
	"net/http"
	"strings"

	"bijou.dev/platform/errs"
)

// traces passes questions on to the trace store, by Zipkin's API: /api/traces/trace/ID is its /api/v2/trace/ID.
func (c *Console) traces(w http.ResponseWriter, r *http.Request) {
	ctx, cancel := context.WithTimeout(unsampled(r.Context()), actionLimit)
	defer cancel()
	path := r.PathValue("path")
	name, _, _ := strings.Cut(path, "/")
	switch name {
	case "services", "spans", "remoteServices", "traces", "trace", "traceMany", "dependencies":
	default:
		notFound(w, r)
		return
	}
	problem := errs.Errorf(errs.Unavailable, "the trace store is away: no instance of tracing is registered")
	list, _ := c.known()
	for _, i := range rand.Perm(len(list.GetInstances())) {
		in := list.Instances[i]
		if in.Service != "tracing" || in.Endpoints["zipkin"] == "" {
			continue
		}
		err := c.askTraces(ctx, w, in.Endpoints["zipkin"], "/api/v2/"+path+"?"+r.URL.RawQuery)
		if err == nil {
			return
		}
		if !errors.Is(err, errs.Unavailable) {
			errs.WriteProblem(w, r, c.explain(in.Id, err))
			return
		}
		c.log.Warn("asking the trace store", slog.String("instance", in.Id), slog.Any("error", err))
		problem = errs.Errorf(errs.Unavailable, "the trace store is away: %s", sentence(in.Id, err))
	}
	errs.WriteProblem(w, r, problem)
}

// askTraces passes an answer on. An error means that nothing was written.
func (c *Console) askTraces(ctx context.Context, w http.ResponseWriter, addr, uri string) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+addr+uri, nil)
	if err != nil {
		return errs.Errorf(errs.Invalid, "asking the trace store: %w", err)
	}
	resp, err := c.http.Do(req)
	if err != nil {
		return errs.Errorf(errs.Unavailable, "%w", err)
	}
	defer resp.Body.Close()
	if err := errs.FromResponse(resp); err != nil {
		return err
	}
	for _, name := range []string{"Bijou-Peers-Missing", "Bijou-Incomplete"} {
		if v := resp.Header.Get(name); v != "" {
			w.Header().Set(name, v)
		}
	}
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Cache-Control", "no-store")
	_, _ = io.Copy(w, io.LimitReader(resp.Body, 64<<20)) // the client may have closed the connection
	return nil
}
