package discovery

import (
	"maps"
	"net/http"
	"slices"
	"time"

	discoveryv1 "bijou.dev/platform/api/discovery/v1"
	"bijou.dev/platform/discovery"
	"bijou.dev/platform/errs"
	"bijou.dev/platform/httpapi"
)

// Handler serves the REST API. See docs/api/discovery.md.
func (s *Server) Handler() http.Handler {
	mux := new(httpapi.Mux)
	mux.Handle("/v1/instances", httpapi.Get(s.getInstances))
	mux.Handle("/v1/instances/{service}", httpapi.Get(s.getInstances))
	mux.Handle("/v1/instances/{service}/{id}", httpapi.Get(s.getInstance))
	mux.Handle("PUT /v1/instances/{service}/{id}/override", httpapi.Body(s.putOverride))
	mux.Handle("DELETE /v1/instances/{service}/{id}/override", httpapi.Answer(s.deleteOverride))
	mux.Handle("/v1/status", httpapi.Get(s.getStatus))
	return mux
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
		Suspect: in.GetSuspect(), Endpoints: in.GetEndpoints(), Environment: in.GetEnvironment(),
		Region: in.GetRegion(), Zone: in.GetZone(), Version: in.GetVersion(), Metadata: in.GetMetadata(),
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

func (s *Server) getInstances(r *http.Request) (shownList, error) {
	service := r.PathValue("service")
	out := shownList{Instances: []shown{}}
	for _, in := range s.reg.list(service) {
		out.Instances = append(out.Instances, show(in))
	}
	if service != "" && len(out.Instances) == 0 {
		return shownList{}, errs.Errorf(errs.NotFound, "service %q has no instances", service)
	}
	return out, nil
}

func (s *Server) getInstance(r *http.Request) (shown, error) {
	k := key{r.PathValue("service"), r.PathValue("id")}
	in := s.reg.instance(k)
	if in.GetReported() == discoveryv1.Status_STATUS_UNSPECIFIED {
		return shown{}, errs.Errorf(errs.NotFound, "instance %q of service %q is not registered", k.id, k.service)
	}
	return show(in), nil
}

// putOverride sets the override in the body.
func (s *Server) putOverride(r *http.Request, body *shownOverride) (shown, error) {
	status, err := discovery.ParseStatus(body.Status)
	if err != nil {
		return shown{}, errs.Errorf(errs.Invalid, "overriding %s/%s", r.PathValue("service"), r.PathValue("id")).
			Field("status", "must be UP, DRAINING, OUT_OF_SERVICE or DOWN")
	}
	return s.override(r, &discoveryv1.SetOverrideRequest{
		Status: discoveryv1.Status(status), Author: body.Author, Reason: body.Reason,
	})
}

// deleteOverride clears the override.
func (s *Server) deleteOverride(r *http.Request) (shown, error) {
	return s.override(r, &discoveryv1.SetOverrideRequest{})
}

func (s *Server) override(r *http.Request, req *discoveryv1.SetOverrideRequest) (shown, error) {
	req.Service, req.Id = r.PathValue("service"), r.PathValue("id")
	resp, err := s.SetOverride(r.Context(), req)
	if err != nil {
		return shown{}, err
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

func (s *Server) getStatus(*http.Request) (shownStatus, error) {
	r := s.reg
	problem := r.storeProblem()
	r.mu.Lock()
	defer r.mu.Unlock()
	out := shownStatus{
		Replica: r.self, Services: len(r.instances.services), Instances: r.instances.count,
		Suspects: r.instances.suspects(), Watchers: []string{},
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
