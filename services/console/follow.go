package console

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"maps"
	"math/rand/v2"
	"net/http"
	"slices"
	"sync"
	"time"

	circuitsv1 "bijou.dev/platform/api/circuits/v1"
	configv1 "bijou.dev/platform/api/config/v1"
	discoveryv1 "bijou.dev/platform/api/discovery/v1"
	"bijou.dev/platform/discovery"
	"bijou.dev/platform/errs"

	"bijou.dev/platform/pace"
	oteltrace "go.opentelemetry.io/otel/trace"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"
)

const (
	// period is how often the others are asked, and so how old a picture may be.
	period = time.Second
	// patience bounds one question.
	patience = 1500 * time.Millisecond
)

// The back ends, as the page names them.
const (
	partRegistry = "registry"
	partCircuits = "circuits"
	partSettings = "settings"
	partEdge     = "edge"
)

// seen is the last that each back end said. It is what the topics are made of, and nothing else is kept.
type seen struct {
	mu       sync.Mutex
	parts    map[string]part
	late     map[string]time.Time // back end -> when its one late answer was asked for
	list     *discoveryv1.ListResponse
	probes   map[instanceKey]*probe
	circuits *circuitsv1.WatchResponse
	tables   map[string]json.RawMessage // gateway's instance -> its table
}

type instanceKey struct{ service, id string }

// part says whether a back end answers.
type part struct {
	OK      bool      `json:"ok"`
	Problem string    `json:"problem,omitempty"`
	Since   time.Time `json:"since"` // when OK last changed
}

func newSeen() *seen {
	s := &seen{}
	s.forget()
	return s
}

// forget is called when nobody has looked for a while: what was seen then says nothing of now.
func (s *seen) forget() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.parts, s.late, s.probes, s.tables = map[string]part{}, map[string]time.Time{}, map[instanceKey]*probe{}, map[string]json.RawMessage{}
	s.list, s.circuits = nil, nil
}

// report notes whether a back end answered, and reports false when that cannot be told yet. One late answer is a busy
// machine, above all the first: it waits for connections while every instance is asked at once. A second in a row is not,
// and any other error says by itself that nobody is there.
func (c *Console) report(name string, err error) (told bool) {
	now := part{OK: err == nil, Since: time.Now().UTC()}
	if err != nil {
		now.Problem = errs.FromRPC(err).Error()
	}
	c.seen.mu.Lock()
	since, wasLate := c.seen.late[name]
	delete(c.seen.late, name)
	if err != nil && isLate(err) {
		if old, known := c.seen.parts[name]; !wasLate && (!known || old.OK) {
			c.seen.late[name] = now.Since
			c.seen.mu.Unlock()
			return false
		}
		if wasLate {
			now.Since = since
		}
	}
	old, known := c.seen.parts[name]
	if known && old.OK == now.OK {
		now.Since = old.Since
	}
	c.seen.parts[name] = now
	all := maps.Clone(c.seen.parts)
	c.seen.mu.Unlock()
	c.hub.publish(topicParts, all)
	return true
}

func isLate(err error) bool {
	return isTimeout(err) || errors.Is(errs.FromRPC(err), errs.Timeout)
}

// every calls fn each period while somebody looks.
func (c *Console) every(ctx context.Context, fn func(context.Context)) {
	for c.hub.interest(ctx) {
		begin := time.Now()
		fn(unsampled(ctx))
		pace.Sleep(ctx, max(period-time.Since(begin), 10*time.Millisecond))
	}
}

// unsampled keeps what the console asks every second out of the trace store.
func unsampled(ctx context.Context) context.Context {
	var c oteltrace.SpanContextConfig
	for i := range c.TraceID {
		c.TraceID[i] = byte(rand.N(255) + 1) //nolint:gosec // an id, not a secret
	}
	copy(c.SpanID[:], c.TraceID[:])
	return oteltrace.ContextWithRemoteSpanContext(ctx, oteltrace.NewSpanContext(c))
}

// fleet is every instance, as the registry and its own admin page have it.
type fleet struct {
	Instances []shownInstance `json:"instances"`
	// LastKnown says that the registry does not answer, and that these are those known last.
	LastKnown        bool            `json:"lastKnown,omitempty"`
	SelfPreservation json.RawMessage `json:"selfPreservation,omitempty"`
	StoreProblem     string          `json:"storeProblem,omitempty"`
}

type shownInstance struct {
	Service        string            `json:"service"`
	ID             string            `json:"id"`
	Zone           string            `json:"zone"`
	Version        string            `json:"version"`
	Region         string            `json:"region,omitempty"`
	Environment    string            `json:"environment,omitempty"`
	Status         string            `json:"status"`
	Reported       string            `json:"reported"`
	Override       string            `json:"override,omitempty"`
	OverrideReason string            `json:"overrideReason,omitempty"`
	OverrideAuthor string            `json:"overrideAuthor,omitempty"`
	Started        *time.Time        `json:"started,omitempty"`
	StatusSince    *time.Time        `json:"statusSince,omitempty"`
	Suspect        bool              `json:"suspect,omitempty"`
	Endpoints      map[string]string `json:"endpoints"`
	Admin          *shownAdmin       `json:"admin,omitempty"` // nil: it has no admin page, or was not asked yet
	shownLoad
}

// followRegistry asks the registry and the admin pages of all instances, at the same time: a killed instance is found by its
// own silence, before its lease runs out.
func (c *Console) followRegistry(ctx context.Context) {
	c.every(ctx, func(ctx context.Context) {
		var asking sync.WaitGroup
		asking.Go(func() { c.askRegistry(ctx) })
		asking.Go(func() { c.askInstances(ctx) })
		asking.Wait()
		c.hub.publish(topicFleet, c.fleet())
	})
}

func (c *Console) askRegistry(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	list, err := c.registry.List(ctx, &discoveryv1.ListRequest{})
	if ctx.Err() != nil && errors.Is(ctx.Err(), context.Canceled) {
		return
	}
	if !c.report(partRegistry, err) {
		return
	}
	c.seen.mu.Lock()
	defer c.seen.mu.Unlock()
	c.seen.list = list // nil after an error: then those known last are shown
}

// known returns the instances of the registry, or those known last.
func (c *Console) known() (list *discoveryv1.ListResponse, live bool) {
	c.seen.mu.Lock()
	list = c.seen.list
	c.seen.mu.Unlock()
	if list != nil {
		return list, true
	}
	list = &discoveryv1.ListResponse{}
	for _, in := range c.instances("") {
		list.Instances = append(list.Instances, lastKnown(in))
	}
	return list, false
}

func lastKnown(in discovery.Instance) *discoveryv1.Instance {
	p := &discoveryv1.Instance{
		Service: in.Service, Id: in.ID, Endpoints: in.Endpoints, Environment: in.Environment, Region: in.Region,
		Zone: in.Zone, Version: in.Version, Suspect: in.Suspect,
		Status: discoveryv1.Status(in.Status), Reported: discoveryv1.Status(in.Status),
	}
	if !in.Started.IsZero() {
		p.Started = timestamppb.New(in.Started)
	}
	return p
}

func (c *Console) fleet() fleet {
	list, live := c.known()
	f := fleet{LastKnown: !live, StoreProblem: list.GetStoreProblem(), Instances: []shownInstance{}}
	if sp := list.GetSelfPreservation(); sp.GetActive() {
		f.SelfPreservation = protoJSON(sp)
	}
	c.seen.mu.Lock()
	defer c.seen.mu.Unlock()
	loads := c.seen.instanceLoads()
	for _, in := range list.GetInstances() {
		s := shownInstance{
			Service: in.Service, ID: in.Id, Zone: in.Zone, Version: in.Version, Region: in.Region, Environment: in.Environment,
			Status: status(in.Status), Reported: status(in.Reported), Override: status(in.Override),
			OverrideReason: in.OverrideReason, OverrideAuthor: in.OverrideAuthor, Suspect: in.Suspect, Endpoints: in.Endpoints,
			Started: moment(in.Started), StatusSince: moment(in.StatusSince),
			shownLoad: loads[instanceKey{in.Service, in.Id}],
		}
		if p := c.seen.probes[instanceKey{in.Service, in.Id}]; p != nil {
			s.Admin = p.shown()
		}
		f.Instances = append(f.Instances, s)
	}
	slices.SortFunc(f.Instances, func(a, b shownInstance) int {
		return cmpStrings(a.Service, b.Service, a.ID, b.ID)
	})
	return f
}

// status returns a status as people write it, "OUT_OF_SERVICE", and "" for none.
func status(s discoveryv1.Status) string {
	if s == discoveryv1.Status_STATUS_UNSPECIFIED {
		return ""
	}
	return s.String()[len("STATUS_"):]
}

func moment(t *timestamppb.Timestamp) *time.Time {
	if t == nil {
		return nil
	}
	at := t.AsTime()
	return &at
}

// cmpStrings compares pairs, the first that differ decide.
func cmpStrings(pairs ...string) int {
	for i := 0; i+1 < len(pairs); i += 2 {
		switch {
		case pairs[i] < pairs[i+1]:
			return -1
		case pairs[i] > pairs[i+1]:
			return 1
		}
	}
	return 0
}

// followCircuits keeps a watch open while somebody looks.
func (c *Console) followCircuits(ctx context.Context) {
	for c.hub.interest(ctx) {
		err := c.watchCircuits(ctx)
		if ctx.Err() == nil && err != nil {
			c.report(partCircuits, err)
			c.seen.mu.Lock()
			c.seen.circuits = nil
			c.seen.mu.Unlock()
		}
		pace.Sleep(ctx, period)
	}
}

// watchCircuits returns nil when nobody looks any more.
func (c *Console) watchCircuits(ctx context.Context) error {
	ctx, cancel := context.WithCancel(unsampled(ctx))
	defer cancel()
	silent := time.AfterFunc(5*time.Second, cancel) // a replica sends each second; a dead one says nothing
	defer silent.Stop()
	stream, err := c.circuits.Watch(ctx, &circuitsv1.WatchRequest{})
	if err != nil {
		return err
	}
	for {
		board, err := stream.Recv()
		switch {
		case errors.Is(err, io.EOF):
			return errs.Errorf(errs.Unavailable, "the board ended the watch")
		case err != nil && ctx.Err() != nil:
			return errs.Errorf(errs.Unavailable, "the board has said nothing for 5 s")
		case err != nil:
			return err
		}
		silent.Reset(5 * time.Second)
		c.report(partCircuits, nil)
		c.seen.mu.Lock()
		c.seen.circuits = board
		c.seen.mu.Unlock()
		// The links are in the topic traffic.
		c.hub.publish(topicCircuits, protoJSON(&circuitsv1.WatchResponse{Services: board.Services}))
		if !c.hub.busy() {
			return nil
		}
	}
}

// busy reports whether somebody looks.
func (h *hub) busy() bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return len(h.pages) > 0 || time.Since(h.asked) <= linger
}

// settingsState is who runs what, and the newest revision.
type settingsState struct {
	Status json.RawMessage `json:"status"`
	Newest json.RawMessage `json:"newest,omitempty"`
}

func (c *Console) followSettings(ctx context.Context) {
	var newest *configv1.Revision
	c.every(ctx, func(ctx context.Context) {
		ctx, cancel := context.WithTimeout(ctx, 2*patience)
		defer cancel()
		status, err := c.config.Status(ctx, &configv1.StatusRequest{})
		if err == nil && newest.GetRevision() != status.Revision && status.Revision > 0 {
			var h *configv1.HistoryResponse
			if h, err = c.config.History(ctx, &configv1.HistoryRequest{Limit: 1}); err == nil && len(h.Revisions) > 0 {
				newest = h.Revisions[0]
			}
		}
		if errors.Is(ctx.Err(), context.Canceled) {
			return
		}
		c.report(partSettings, err)
		if err != nil {
			return
		}
		state := settingsState{Status: protoJSON(status)}
		if newest != nil {
			state.Newest = protoJSON(newest)
		}
		c.hub.publish(topicSettings, state)
	})
}

// followRoutes asks every gateway for its table: they may differ while a change is on its way.
func (c *Console) followRoutes(ctx context.Context) {
	c.every(ctx, func(ctx context.Context) {
		ctx, cancel := context.WithTimeout(ctx, patience)
		defer cancel()
		tables := map[string]json.RawMessage{}
		var err error = errs.Errorf(errs.Unavailable, "no gateway is registered")
		list, _ := c.known()
		for _, in := range list.GetInstances() {
			if in.Service != "gateway" || in.Endpoints["admin"] == "" {
				continue
			}
			table, problem := c.getAdmin(ctx, in.Endpoints["admin"], "/routes")
			if problem == nil && json.Valid(table) {
				tables[in.Id], err = table, nil
			} else if len(tables) == 0 {
				err = problem
			}
		}
		if errors.Is(ctx.Err(), context.Canceled) {
			return
		}
		c.report(partEdge, err)
		if err != nil {
			return
		}
		c.seen.mu.Lock()
		c.seen.tables = tables
		c.seen.mu.Unlock()
		c.hub.publish(topicRoutes, tables)
	})
}

// getAdmin reads an admin page, up to 4 MiB of it.
func (c *Console) getAdmin(ctx context.Context, addr, path string) ([]byte, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+addr+path, nil)
	if err != nil {
		return nil, err
	}
	resp, err := c.http.Do(req)
	if err != nil {
		return nil, errs.Errorf(errs.Unavailable, "%w", err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(io.LimitReader(resp.Body, 4<<20))
	// A process that is not ready says so with 503, and why.
	if err == nil && resp.StatusCode != http.StatusOK && resp.StatusCode != http.StatusServiceUnavailable {
		err = errs.Errorf(errs.Unavailable, "%s answered %s", path, resp.Status)
	}
	return body, err
}

func protoJSON(m proto.Message) json.RawMessage {
	text, err := protojson.MarshalOptions{EmitDefaultValues: true}.Marshal(m)
	if err != nil {
		return json.RawMessage("null") // cannot be: our own messages have no invalid text
	}
	// protojson varies its spaces on purpose; equal states must be equal texts.
	var b []byte
	if b, err = json.Marshal(json.RawMessage(text)); err != nil {
		return json.RawMessage("null")
	}
	return b
}
