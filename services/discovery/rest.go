package discovery

import (
	"encoding/json"
	"maps"
	"net/http"
	"slices"
	"time"

	discoveryv1 "bijou.dev/platform/api/discovery/v1"
	"bijou.dev/platform/discovery"
	"bijou.dev/platform/errs"
)

// maxBody is the size of the largest request body.
const maxBody = 64 << 10

// Handler serves the REST view. See docs/api/discovery.md.
func (s *Server) Handler() http.Handler {
	mux := http.NewServeMux()
	handle := func(pattern string, fn func(w http.ResponseWriter, r *http.Request) (any, error)) {
		mux.HandleFunc(pattern, func(w http.ResponseWriter, r *http.Request) { respond(w, r, fn) })
	}
	handle("GET /v1/instances", s.getInstances)
	handle("GET /v1/instances/{service}", s.getInstances)
	handle("GET /v1/instances/{service}/{id}", s.getInstance)
	handle("PUT /v1/instances/{service}/{id}/override", s.putOverride)
	handle("DELETE /v1/instances/{service}/{id}/override", s.putOverride)
	handle("GET /v1/status", s.getStatus)
	handle("/", func(_ http.ResponseWriter, r *http.Request) (any, error) {
		return nil, errs.Errorf(errs.NotFound, "no such resource: %s %s", r.Method, r.URL.Path)
	})
	return mux
}

// respond writes what fn returns, or its error.
func respond(w http.ResponseWriter, r *http.Request, fn func(w http.ResponseWriter, r *http.Request) (any, error)) {
	v, err := fn(w, r)
	var b []byte
	if err == nil {
		b, err = json.MarshalIndent(v, "", "  ")
	}
	if err != nil {
		errs.WriteProblem(w, r, err)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Cache-Control", "no-store")
	_, _ = w.Write(append(b, '\n')) // the client has gone: nobody is left to tell
}

// shown is an instance in JSON.
type shown struct {
	Service     string            `json:"service"`
	ID          string            `json:"id"`
	Status      string            `json:"status"`
	Reported    string            `json:"reported"`
	Override    *shownOverride    `json:"override,omitempty"`
	Suspect     bool              `json:"suspect,omitempty"`
	Endpoints   map[string]string `json:"endpoints,omitempty"`
	Environment string            `json:"environment,omitempty"`
	Region      string            `json:"region,omitempty"`
	Zone        string            `json:"zone,omitempty"`
	Version     string            `json:"version,omitempty"`
	Metadata    map[string]string `json:"metadata,omitempty"`
	Started     *time.Time        `json:"started,omitempty"`
	StatusSince *time.Time        `json:"statusSince,omitempty"`
}

type shownOverride struct {
	Status string `json:"status"`
	Author string `json:"author,omitempty"`
	Reason string `json:"reason,omitempty"`
}

func show(in *discoveryv1.Instance) shown {
	s := shown{
		Service: in.GetService(), ID: in.GetId(), Status: nameOf(in.GetStatus()), Reported: nameOf(in.GetReported()),
		Suspect: in.GetSuspect(), Endpoints: in.GetEndpoints(), Environment: in.GetEnvironment(), Region: in.GetRegion(),
		Zone: in.GetZone(), Version: in.GetVersion(), Metadata: in.GetMetadata(),
	}
	if in.GetStarted() != nil {
		t := in.GetStarted().AsTime()
		s.Started = &t
	}
	if in.GetStatusSince() != nil {
		t := in.GetStatusSince().AsTime()
		s.StatusSince = &t
	}
	if in.GetOverride() != discoveryv1.Status_STATUS_UNSPECIFIED {
		s.Override = &shownOverride{nameOf(in.GetOverride()), in.GetOverrideAuthor(), in.GetOverrideReason()}
	}
	return s
}

// nameOf is the short name of a status: "UP".
func nameOf(s discoveryv1.Status) string { return discovery.Status(s).String() } //nolint:gosec // an enum

type shownList struct {
	Instances []shown `json:"instances"`
}

func (s *Server) getInstances(_ http.ResponseWriter, r *http.Request) (any, error) {
	service := r.PathValue("service")
	out := shownList{Instances: []shown{}}
	for _, in := range s.reg.list(service) {
		out.Instances = append(out.Instances, show(in))
	}
	if service != "" && len(out.Instances) == 0 {
		return nil, errs.Errorf(errs.NotFound, "service %q has no instances", service)
	}
	return out, nil
}

func (s *Server) getInstance(_ http.ResponseWriter, r *http.Request) (any, error) {
	k := key{r.PathValue("service"), r.PathValue("id")}
	in := s.reg.instance(k)
	if in.GetReported() == discoveryv1.Status_STATUS_UNSPECIFIED {
		return nil, errs.Errorf(errs.NotFound, "instance %q of service %q is not registered", k.id, k.service)
	}
	return show(in), nil
}

// putOverride sets the override in the body; a DELETE clears it.
func (s *Server) putOverride(w http.ResponseWriter, r *http.Request) (any, error) {
	req := &discoveryv1.SetOverrideRequest{Service: r.PathValue("service"), Id: r.PathValue("id")}
	if r.Method == http.MethodPut {
		var body shownOverride
		d := json.NewDecoder(http.MaxBytesReader(w, r.Body, maxBody))
		d.DisallowUnknownFields()
		if err := d.Decode(&body); err != nil {
			return nil, errs.Errorf(errs.Invalid, "reading the body: %w; want {\"status\":..., \"author\":..., \"reason\":...}", err)
		}
		status, err := discovery.ParseStatus(body.Status)
		if err != nil {
			return nil, errs.Errorf(errs.Invalid, "overriding %s/%s", req.GetService(), req.GetId()).Field("status", "must be UP, DRAINING, OUT_OF_SERVICE or DOWN")
		}
		req.Status, req.Author, req.Reason = discoveryv1.Status(status), body.Author, body.Reason
	}
	resp, err := s.SetOverride(r.Context(), req)
	if err != nil {
		return nil, err
	}
	return show(resp.GetInstance()), nil
}

// shownStatus is the state of the registry in JSON.
type shownStatus struct {
	Replica          string            `json:"replica"`
	Services         int               `json:"services"`
	Instances        int               `json:"instances"`
	Suspects         int               `json:"suspects"`
	Watchers         []string          `json:"watchers"`
	WarmingUp        bool              `json:"warmingUp"`
	SelfPreservation shownPreservation `json:"selfPreservation"`
	StoreProblem     string            `json:"storeProblem,omitempty"`
	UnreadableKeys   uint64            `json:"unreadableKeys,omitempty"`
	Replicas         []string          `json:"replicas"`
}

type shownPreservation struct {
	Active bool       `json:"active"`
	Reason string     `json:"reason,omitempty"`
	Since  *time.Time `json:"since,omitempty"`
}

func (s *Server) getStatus(http.ResponseWriter, *http.Request) (any, error) {
	r := s.reg
	problem := r.storeProblem()
	r.mu.Lock()
	defer r.mu.Unlock()
	out := shownStatus{
		Replica: r.self, Services: len(r.instances.services), Instances: r.instances.count, Suspects: r.instances.suspects(), Watchers: []string{},
		WarmingUp: r.store.warming(time.Now()), StoreProblem: problem, UnreadableKeys: r.store.badKeys,
		Replicas: slices.Sorted(maps.Keys(r.leases.replicas)),
	}
	out.SelfPreservation.Active, out.SelfPreservation.Reason = r.losses.active, r.losses.reason
	if since := r.losses.since; r.losses.active {
		out.SelfPreservation.Since = &since
	}
	for w := range r.watchers.all {
		out.Watchers = append(out.Watchers, w.name)
	}
	slices.Sort(out.Watchers)
	return out, nil
}
