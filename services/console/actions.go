package console

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"mime"
	"net/http"
	"strconv"
	"strings"
	"time"

	circuitsv1 "bijou.dev/platform/api/circuits/v1"
	configv1 "bijou.dev/platform/api/config/v1"
	discoveryv1 "bijou.dev/platform/api/discovery/v1"
	"bijou.dev/platform/errs"

	"google.golang.org/grpc"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
)

const (
	// maxBody is more than the largest value of a setting.
	maxBody = 1 << 20
	// actionLimit bounds one action or question of a page.
	actionLimit = 15 * time.Second
	// maxRequests is how many requests one probe of the edge may send.
	maxRequests = 200
)

// registerActions adds the API that pages act by. Questions and actions are the messages of the owning service's contract as
// JSON; the address is that of the method.
func (c *Console) registerActions(mux *http.ServeMux) {
	for _, m := range []struct {
		path   string
		handle http.HandlerFunc
	}{
		{"config/List", call(c, c.config.List)},
		{"config/Get", call(c, c.config.Get)},
		{"config/Explain", call(c, c.config.Explain)},
		{"config/History", call(c, c.config.History)},
		{"config/Diff", call(c, c.config.Diff)},
		{"config/Publish", call(c, c.config.Publish)},
		{"config/Rollback", call(c, c.config.Rollback)},
		{"circuits/Force", call(c, c.circuits.Force)},
		{"discovery/SetOverride", call(c, c.registry.SetOverride)},
	} {
		mux.HandleFunc("POST /api/"+m.path, m.handle)
	}
	mux.HandleFunc("POST /api/kill", act(c, c.kill))
	mux.HandleFunc("POST /api/requests", act(c, c.requests))
}

// call is the adapter of all methods: read, check, ask, note, answer.
func call[Q any, PQ interface {
	*Q
	proto.Message
}, A proto.Message](c *Console, method func(context.Context, PQ, ...grpc.CallOption) (A, error),
) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		body, err := readBody(w, r)
		if err != nil {
			errs.WriteProblem(w, r, err)
			return
		}
		q := PQ(new(Q))
		if err := protojson.Unmarshal(body, q); err != nil {
			errs.WriteProblem(w, r, errs.Errorf(errs.Invalid, "reading the request: %w", err))
			return
		}
		deed := deedOf(q)
		if err := c.allow(deed); err != nil {
			errs.WriteProblem(w, r, err)
			return
		}
		ctx, cancel := context.WithTimeout(r.Context(), actionLimit)
		defer cancel()
		answer, err := method(ctx, q)
		c.audit(deed, err)
		if err != nil {
			errs.WriteProblem(w, r, errs.FromRPC(err))
			return
		}
		writeJSON(w, protoJSON(answer))
	}
}

// act is the adapter of the console's own two actions.
func act[Q interface{ deed() deed }, A any](c *Console, do func(context.Context, Q) (A, error)) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		body, err := readBody(w, r)
		if err != nil {
			errs.WriteProblem(w, r, err)
			return
		}
		var q Q
		if err := json.Unmarshal(body, &q); err != nil {
			errs.WriteProblem(w, r, errs.Errorf(errs.Invalid, "reading the request: %w", err))
			return
		}
		if err := c.allow(q.deed()); err != nil {
			errs.WriteProblem(w, r, err)
			return
		}
		ctx, cancel := context.WithTimeout(r.Context(), actionLimit)
		defer cancel()
		answer, err := do(ctx, q)
		c.audit(q.deed(), err)
		if err != nil {
			errs.WriteProblem(w, r, err)
			return
		}
		data, err := json.Marshal(answer)
		if err != nil {
			errs.WriteProblem(w, r, err)
			return
		}
		writeJSON(w, data)
	}
}

// readBody asks for JSON by its type: a form of another site cannot send that.
func readBody(w http.ResponseWriter, r *http.Request) ([]byte, error) {
	if kind, _, _ := mime.ParseMediaType(r.Header.Get("Content-Type")); kind != "application/json" {
		return nil, errs.Errorf(errs.Invalid, "reading the request: send application/json")
	}
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxBody))
	if err != nil {
		return nil, errs.Errorf(errs.Invalid, "reading the request of at most %d bytes: %w", maxBody, err)
	}
	return body, nil
}

// deed is what there is to allow and to note. The zero deed changes nothing.
type deed struct{ what, target, actor, reason string }

// deedOf says what a message would change.
func deedOf(q proto.Message) deed {
	switch q := q.(type) {
	case *configv1.PublishRequest:
		if q.DryRun {
			return deed{}
		}
		var names []string
		for _, ch := range q.Changes {
			names = append(names, ch.GetName())
		}
		return deed{"publish settings", strings.Join(names, " "), q.Author, q.Reason}
	case *configv1.RollbackRequest:
		if q.DryRun {
			return deed{}
		}
		return deed{"roll settings back", strconv.FormatInt(q.To, 10), q.Author, q.Reason}
	case *circuitsv1.ForceRequest:
		return deed{"force a circuit", q.Service + " " + q.Name + " " + q.State.String(), q.Author, q.Reason}
	case *discoveryv1.SetOverrideRequest:
		return deed{"set a status", q.Service + "/" + q.Id + " " + q.Status.String(), q.Author, q.Reason}
	default:
		return deed{}
	}
}

// allow refuses deeds of nobody, without a reason, or where one may only look.
func (c *Console) allow(d deed) error {
	switch {
	case d.what == "":
		return nil
	case c.opts.ReadOnly:
		return errs.Errorf(errs.Denied, "this console is read-only: it runs with -read-only")
	case strings.TrimSpace(d.actor) == "" || len(d.actor) > 256:
		return errs.Errorf(errs.Invalid, "asking to %s", d.what).Field("author", "must say who does this, in at most 256 bytes")
	case strings.TrimSpace(d.reason) == "" || len(d.reason) > 4096:
		return errs.Errorf(errs.Invalid, "asking to %s", d.what).Field("reason", "must say why, in at most 4096 bytes")
	default:
		return nil
	}
}

func (c *Console) audit(d deed, err error) {
	if d.what == "" {
		return
	}
	outcome := "done"
	if err != nil {
		outcome = "refused: " + errs.FromRPC(err).Error()
	}
	c.log.Info("audit", slog.String("actor", d.actor), slog.String("action", d.what), slog.String("target", d.target),
		slog.String("reason", d.reason), slog.String("outcome", outcome))
}

// killRequest ends one process, or several of a service, by the admin page of each.
type killRequest struct {
	Service string `json:"service"`
	// ID is the instance. Empty: every instance of the service.
	ID     string `json:"id"`
	For    string `json:"for"`
	Actor  string `json:"author"`
	Reason string `json:"reason"`
}

func (q killRequest) deed() deed {
	return deed{"kill", q.Service + "/" + q.ID, q.Actor, q.Reason}
}

type killAnswer struct {
	Killed []string `json:"killed"`
}

func (c *Console) kill(ctx context.Context, q killRequest) (killAnswer, error) {
	var answer killAnswer
	body, err := json.Marshal(map[string]string{"for": q.For, "actor": q.Actor, "reason": q.Reason})
	if err != nil {
		return answer, err
	}
	list, _ := c.known()
	for _, in := range list.GetInstances() {
		if in.Service != q.Service || q.ID != "" && in.Id != q.ID || in.Endpoints["admin"] == "" {
			continue
		}
		if err := c.killOne(ctx, in.Endpoints["admin"], body); err != nil {
			return answer, errs.Errorf(errs.KindOf(err), "killing %s: %w", in.Id, err)
		}
		answer.Killed = append(answer.Killed, in.Id)
	}
	if len(answer.Killed) == 0 {
		return answer, errs.Errorf(errs.NotFound, "killing %s/%s: there is no such instance with an admin page", q.Service, q.ID)
	}
	return answer, nil
}

func (c *Console) killOne(ctx context.Context, addr string, body []byte) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://"+addr+"/kill", bytes.NewReader(body))
	if err != nil {
		return err
	}
	req.Header.Set("Content-Type", "application/json")
	resp, err := c.http.Do(req)
	if err != nil {
		return errs.Errorf(errs.Unavailable, "%w", err)
	}
	defer resp.Body.Close()
	if resp.StatusCode == http.StatusNotFound || resp.StatusCode == http.StatusMethodNotAllowed {
		return errs.Errorf(errs.Precondition, "it does not allow it; it must run with -allow-kill")
	}
	return errs.FromResponse(resp)
}

// requestsRequest sends requests through the edge and counts the answers: the traffic one needs to see a split.
type requestsRequest struct {
	Path   string `json:"path"`
	Count  int    `json:"count"`
	Actor  string `json:"author"`
	Reason string `json:"reason"`
}

func (q requestsRequest) deed() deed {
	return deed{"send requests", fmt.Sprintf("%d x GET %s", q.Count, q.Path), q.Actor, q.Reason}
}

func (q requestsRequest) validate() error {
	var bad errs.Violations
	if !strings.HasPrefix(q.Path, "/") || strings.HasPrefix(q.Path, "//") {
		bad.Add("path", "must begin with one /")
	}
	if q.Count < 1 || q.Count > maxRequests {
		bad.Addf("count", "must be 1 to %d", maxRequests)
	}
	return bad.Err("sending requests")
}

type requestsAnswer struct {
	// Statuses counts by status, or by "no answer".
	Statuses map[string]int `json:"statuses"`
	// Texts counts short answers by their text.
	Texts map[string]int `json:"texts"`
}

func (c *Console) requests(ctx context.Context, q requestsRequest) (requestsAnswer, error) {
	answer := requestsAnswer{map[string]int{}, map[string]int{}}
	if err := q.validate(); err != nil {
		return answer, err
	}
	var edges []string
	list, _ := c.known()
	for _, in := range list.GetInstances() {
		if addr := in.Endpoints["http"]; in.Service == "gateway" && addr != "" {
			edges = append(edges, addr)
		}
	}
	if len(edges) == 0 {
		return answer, errs.Errorf(errs.Unavailable, "sending requests: no gateway is registered")
	}
	for n := 0; n < q.Count && ctx.Err() == nil; n++ {
		status, text := c.request(ctx, edges[rand.N(len(edges))], q.Path)
		answer.Statuses[status]++
		if text != "" && (len(answer.Texts) < 20 || answer.Texts[text] > 0) {
			answer.Texts[text]++
		}
	}
	return answer, nil
}

func (c *Console) request(ctx context.Context, edge, path string) (status, text string) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+edge+path, nil)
	if err != nil {
		return "no answer", ""
	}
	resp, err := c.http.Do(req)
	if err != nil {
		return "no answer", ""
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(io.LimitReader(resp.Body, 1<<20))
	if err == nil && len(body) < 200 && strings.HasPrefix(resp.Header.Get("Content-Type"), "text/plain") {
		text = strings.TrimSpace(string(body))
	}
	return strconv.Itoa(resp.StatusCode), text
}

// traces passes questions on to the trace store, in Zipkin's own words: /api/traces/trace/ID is its /api/v2/trace/ID.
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
			errs.WriteProblem(w, r, err)
			return
		}
		problem = errs.Errorf(errs.Unavailable, "the trace store is away: %s: %s", in.Id, silence(err))
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
	_, _ = io.Copy(w, io.LimitReader(resp.Body, 64<<20)) // the client may be gone
	return nil
}
