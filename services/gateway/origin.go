package gateway

import (
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"bijou.dev/platform/discovery"
	"bijou.dev/platform/overload"
	"bijou.dev/platform/retry"
	"bijou.dev/platform/route"
)

// originKey names a listener of a service.
type originKey struct{ service, endpoint string }

// String names the origin's limiter.
func (k originKey) String() string { return k.service + "/" + k.endpoint }

// origin is the set of instances behind one listener of a service. Discovery updates its balancer.
type origin struct {
	originKey
	balancer *route.Balancer
	budget   *retry.Budget
	limiter  *overload.Limiter
	shares   shares
	versions atomic.Pointer[[]string] // of the instances that can be called, each once
	stop     func()                   // ends the watch of discovery and removes the limiter
}

// origins are the origins of the table in use.
type origins struct {
	edge   *Edge
	mu     sync.Mutex
	all    map[originKey]*origin
	closed bool
}

// bind gives every target of a table its origin and drops those that no target needs any more. Requests under way keep
// the origin that they have.
func (o *origins) bind(t *table) {
	o.mu.Lock()
	defer o.mu.Unlock()
	needed := map[originKey]*origin{}
	for _, u := range t.rules {
		for _, to := range u.targets {
			key := originKey{to.Service, to.Endpoint}
			if needed[key] == nil {
				needed[key] = o.getLocked(key)
			}
			to.origin = needed[key]
		}
	}
	if o.closed {
		for _, or := range needed {
			or.stop()
		}
	}
	for key, or := range o.all {
		if needed[key] == nil {
			or.stop()
		}
	}
	o.all = needed
}

func (o *origins) getLocked(key originKey) *origin {
	if or := o.all[key]; or != nil {
		return or
	}
	or := &origin{
		originKey: key,
		balancer: route.New(route.Options{
			Service: key.service, Zone: o.edge.opts.Zone,
			Settings: o.edge.settings.route,
		}),
		budget:  retry.NewBudget(o.edge.opts.Config),
		limiter: o.edge.opts.Overload.Limiter(key.String()),
		shares:  shares{base: time.Now()},
	}
	or.versions.Store(&[]string{})
	unwatch := o.edge.opts.Discovery.Watch(key.service, or.update)
	or.stop = func() {
		unwatch()
		o.edge.opts.Overload.Remove(key.String())
	}
	return or
}

// close stops following discovery.
func (o *origins) close() {
	o.mu.Lock()
	defer o.mu.Unlock()
	for _, or := range o.all {
		or.stop()
	}
	o.all, o.closed = nil, true
}

// update takes the instances that can be called: those that are up and have the listener.
func (o *origin) update(list []discovery.Instance) {
	endpoints := make([]route.Endpoint, 0, len(list))
	versions := []string{}
	for _, in := range list {
		addr := in.Endpoints[o.endpoint]
		if in.Status != discovery.Up || addr == "" {
			continue
		}
		endpoints = append(endpoints, route.Endpoint{ID: in.ID, Addr: addr, Zone: in.Zone, Version: in.Version})
		if !slices.Contains(versions, in.Version) {
			versions = append(versions, in.Version)
		}
	}
	o.balancer.Update(endpoints)
	o.versions.Store(&versions)
}

// has reports whether there is an instance of a version; empty: of any.
func (o *origin) has(version string) bool {
	versions := *o.versions.Load()
	return len(versions) > 0 && (version == "" || slices.Contains(versions, version))
}
