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

// fleet has every instance, as the registry and its own admin page report it.
type fleet struct {
	Instances []shownInstance `json:"instances"`
	// LastKnown: the registry does not answer, and these are the instances that it listed last.
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

// followRegistry asks the registry and the admin pages of all instances, at the same time: a killed instance is noticed
// because it does not answer, before its lease ends.
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
	ctx, cancel := context.WithTimeout(ctx, askLimit)
	defer cancel()
	list, err := c.registry.List(ctx, &discoveryv1.ListRequest{})
	if ctx.Err() != nil && errors.Is(ctx.Err(), context.Canceled) {
		return
	}
	if !c.report(partRegistry, err) {
		return
	}
	if err == nil {
		c.report(partRegistryStore, storeError(list.GetStoreProblem()))
	}
	c.seen.mu.Lock()
	defer c.seen.mu.Unlock()
	c.seen.list = list // nil after an error: then the last known instances are shown
}

// storeError returns the problem that a service has with its store as an error, nil for "".
func storeError(problem string) error {
	if problem == "" {
		return nil
	}
	return errs.Errorf(errs.Unavailable, "%s", problem)
}

// known returns the instances that the registry lists. While it does not answer, these are the ones that this process
// knew last, and live is false.
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
	f := fleet{
		LastKnown: !live, Instances: []shownInstance{},
		StoreProblem: sentenceOf(partNames[partRegistryStore], list.GetStoreProblem()),
	}
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
		return cmp.Or(strings.Compare(a.Service, b.Service), strings.Compare(a.ID, b.ID))
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
