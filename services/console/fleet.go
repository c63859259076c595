package console

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"slices"
	"strings"
	"sync"
	"time"

	discoveryv1 "bijou.dev/platform/api/discovery/v1"
	"bijou.dev/platform/discovery"
	"bijou.dev/platform/errs"

	"google.golang.org/protobuf/types/known/timestamppb"
)

// fleet is the topic fleet: all instances, as the registry and their own admin pages report them.
type fleet struct {
	Instances []shownInstance `json:"instances"`
	// LastKnown: the registry does not answer. Instances has those that the discovery client knows.
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
	Admin          *shownAdmin       `json:"admin,omitempty"` // nil: there is no admin page, or it was not read yet
	shownLoad
}

// followRegistry asks the registry, and at the same time the admin pages of all instances: the page shows a killed
// instance as soon as its admin page does not answer, before its lease expires.
func (c *Console) followRegistry(ctx context.Context) {
	c.poll(ctx, func(ctx context.Context) {
		var requests sync.WaitGroup
		requests.Go(func() { c.fetchInstances(ctx) })
		requests.Go(func() { c.probeInstances(ctx) })
		requests.Wait()
		c.hub.publish(topicFleet, c.fleet())
	})
}

// fetchInstances asks the registry for all instances.
func (c *Console) fetchInstances(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	list, err := c.registry.List(ctx, &discoveryv1.ListRequest{})
	if errors.Is(ctx.Err(), context.Canceled) || !c.setPart(partRegistry, err) {
		return
	}
	if err == nil {
		c.setPart(partRegistryStore, storeError(list.GetStoreProblem()))
	} else {
		c.setUnknown(partRegistryStore, "the registry does not answer")
	}
	c.answers.mu.Lock()
	defer c.answers.mu.Unlock()
	c.answers.list = list // nil after an error
}

// storeError returns the problem of a store as an error, nil for "".
func storeError(problem string) error {
	if problem == "" {
		return nil
	}
	return errs.Errorf(errs.Unavailable, "%s", problem)
}

// currentInstances returns the instances that the registry lists. While the registry does not answer, it returns those
// that the discovery client of this process knows, and live is false.
func (c *Console) currentInstances() (list *discoveryv1.ListResponse, live bool) {
	c.answers.mu.Lock()
	list = c.answers.list
	c.answers.mu.Unlock()
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
	list, live := c.currentInstances()
	f := fleet{
		LastKnown: !live, Instances: []shownInstance{},
		StoreProblem: messageOf(partNames[partRegistryStore], list.GetStoreProblem()),
	}
	if sp := list.GetSelfPreservation(); sp.GetActive() {
		f.SelfPreservation = protoJSON(sp)
	}
	c.answers.mu.Lock()
	defer c.answers.mu.Unlock()
	loads := c.answers.instanceLoadsLocked()
	for _, in := range list.GetInstances() {
		s := shownInstance{
			Service: in.Service, ID: in.Id, Zone: in.Zone, Version: in.Version, Region: in.Region,
			Environment: in.Environment, Endpoints: in.Endpoints, Suspect: in.Suspect,
			Status: status(in.Status), Reported: status(in.Reported), Override: status(in.Override),
			OverrideReason: in.OverrideReason, OverrideAuthor: in.OverrideAuthor,
			Started: timeOf(in.Started), StatusSince: timeOf(in.StatusSince),
			shownLoad: loads[instanceKey{in.Service, in.Id}],
		}
		if p := c.answers.probes[instanceKey{in.Service, in.Id}]; p != nil {
			s.Admin = p.shown()
		}
		f.Instances = append(f.Instances, s)
	}
	slices.SortFunc(f.Instances, func(a, b shownInstance) int {
		return cmp.Or(strings.Compare(a.Service, b.Service), strings.Compare(a.ID, b.ID))
	})
	return f
}

// status returns the name of a status without its prefix, such as "OUT_OF_SERVICE". It returns "" for no status.
func status(s discoveryv1.Status) string {
	if s == discoveryv1.Status_STATUS_UNSPECIFIED {
		return ""
	}
	return s.String()[len("STATUS_"):]
}

func timeOf(t *timestamppb.Timestamp) *time.Time {
	if t == nil {
		return nil
	}
	at := t.AsTime()
	return &at
}
