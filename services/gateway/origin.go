package gateway

import (
	"cmp"
	"context"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"bijou.dev/platform/discovery"
	"bijou.dev/platform/overload"
	"bijou.dev/platform/pace"
	"bijou.dev/platform/retry"
	"bijou.dev/platform/route"
	"bijou.dev/services/gateway/internal/upstream"
	"bijou.dev/services/gateway/routes"
)

// originKey names a listener of a service, or what a URL leads to.
type originKey struct {
	service, endpoint string
	url               upstream.Target // the zero value: a service
	check             upstream.Check
}

// keyOf returns the key of a target that was checked.
func keyOf(t *routes.Target) originKey {
	if t.URL == "" {
		return originKey{service: t.Service, endpoint: t.Endpoint}
	}
	url, check, _ := t.Upstream() // it was checked when the routes were compiled
	return originKey{url: url, check: check}
}

// String names the origin's limiter.
func (k originKey) String() string {
	if k.url != (upstream.Target{}) {
		return k.url.String()
	}
	return k.service + "/" + k.endpoint
}

// origin is a set of instances that give the same answers: those behind one listener of a service, or those of a URL.
// Discovery, or a watch of the URL, updates its balancer.
type origin struct {
	originKey
	client
	watch    *upstream.Watch // nil: a service
	allIll   atomic.Bool     // health checks say that no instance is healthy
	outage   outage
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
			key := keyOf(&to.Target)
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
		originKey: key, client: o.edge.client,
		balancer: route.New(route.Options{
			Service: cmp.Or(key.service, key.url.Name()), Zone: o.edge.opts.Zone,
			Settings: o.edge.settings.route,
		}),
		budget:  retry.NewBudget(o.edge.opts.Config),
		limiter: o.edge.opts.Overload.Limiter(key.String()),
		shares:  shares{base: time.Now()},
	}
	or.versions.Store(&[]string{})
	unwatch := func() {}
	if key.service != "" {
		unwatch = o.edge.opts.Discovery.Watch(key.service, or.update)
	} else {
		or.client = o.edge.clientOf(key.url)
		or.watch = o.edge.upstreams.Watch(key.url, key.check, or.updateURL)
	}
	or.stop = func() {
		unwatch()
		if or.watch != nil {
			or.watch.Stop()
			or.client.close()
		}
		o.edge.opts.Overload.Remove(key.String())
	}
	return or
}

// updateURL takes the instances of a URL.
func (o *origin) updateURL(list []upstream.Instance) {
	endpoints := make([]route.Endpoint, 0, len(list))
	healthy := len(list) == 0
	for _, in := range list {
		endpoints = append(endpoints, route.Endpoint{ID: in.Addr, Addr: in.Addr})
		healthy = healthy || in.Healthy
	}
	o.balancer.Update(endpoints)
	o.allIll.Store(!healthy)
	versions := []string{}
	if len(list) > 0 {
		versions = append(versions, "")
	}
	o.versions.Store(&versions)
}

// outage is the time in which a URL gets no requests if its route has other targets, because no instance could be
// reached. A balancer does not eject its only instance, and each attempt at it would use up the budget of retries.
type outage struct {
	until atomic.Int64 // Unix nanoseconds; 0: there is none
	n     atomic.Int64 // outages since the last success
}

var outages = pace.Backoff{First: time.Second, Max: 30 * time.Second}

// begin starts an outage, or a longer one.
func (o *outage) begin() {
	now := time.Now()
	if o.until.Load() > now.UnixNano() {
		return
	}
	o.until.Store(now.Add(outages.At(int(o.n.Add(1) - 1))).UnixNano())
}

// end is called after each success.
func (o *outage) end() {
	if o.n.Load() > 0 {
		o.n.Store(0)
		o.until.Store(0)
	}
}

// usable reports whether requests should go to the origin although there are other targets.
func (o *origin) usable() bool {
	until := o.outage.until.Load()
	return !o.allIll.Load() && (until == 0 || until <= time.Now().UnixNano())
}

// awaitFirst waits until the name of the URL was looked up for the first time, and reports whether it had to wait.
func (o *origin) awaitFirst(ctx context.Context) bool {
	if o.watch == nil {
		return false
	}
	select {
	case <-o.watch.Ready():
		return false
	default:
	}
	ctx, cancel := context.WithTimeout(ctx, dialTime)
	defer cancel()
	select {
	case <-o.watch.Ready():
	case <-ctx.Done():
	}
	return true
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
