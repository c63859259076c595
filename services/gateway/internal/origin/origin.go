// Package origin has what requests can be sent to: sets of instances that give the same answers, with the connections
// to them, their balancer, and the limits of how many requests they get.
package origin

import (
	"cmp"
	"context"
	"net"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"bijou.dev/platform/config"
	"bijou.dev/platform/discovery"
	"bijou.dev/platform/overload"
	"bijou.dev/platform/pace"
	"bijou.dev/platform/retry"
	"bijou.dev/platform/route"
	"bijou.dev/services/gateway/internal/http1"
	"bijou.dev/services/gateway/internal/http2"
	"bijou.dev/services/gateway/internal/upstream"
	"bijou.dev/services/gateway/routes"
)

// dialTime is how long connecting to an instance may take: a first packet that was lost is sent again after a second.
const dialTime = 1500 * time.Millisecond

// Target is a target of a route with its origin.
type Target struct {
	routes.Target
	Name string // of what is called: the service, or the host of the URL
	*Origin
}

// HTTP2 reports whether all requests go over HTTP/2.
func (t *Target) HTTP2() bool { return t.Endpoint == "grpc" || t.Origin.URL.H2C() }

// Key names a listener of a service, or what a URL leads to.
type Key struct {
	Service, Endpoint string
	URL               upstream.Target // the zero value: a service
	Check             upstream.Check
}

// keyOf returns the key of a target that was checked.
func keyOf(t *routes.Target) Key {
	if t.URL == "" {
		return Key{Service: t.Service, Endpoint: t.Endpoint}
	}
	url, check, _ := t.Upstream() // it was checked when the routes were compiled
	return Key{URL: url, Check: check}
}

// String names the origin's limiter.
func (k Key) String() string {
	if k.URL != (upstream.Target{}) {
		return k.URL.String()
	}
	return k.Service + "/" + k.Endpoint
}

// Origin is a set of instances: those behind one listener of a service, or those of a URL. Discovery, or a watch of the
// URL, updates its balancer.
type Origin struct {
	Key
	Balancer *route.Balancer
	Budget   *retry.Budget
	Limiter  *overload.Limiter
	Shares   Shares
	H1       *http1.Client
	H2       *http2.Client
	Watch    *upstream.Watch // nil: a service

	allIll   atomic.Bool // health checks say that no instance is healthy
	outage   outage
	versions atomic.Pointer[[]string] // of the instances that can be called, each once
	stop     func()                   // ends the watch, removes the limiter, and closes connections of its own
}

// Options are what all origins share.
type Options struct {
	// Zone is where the edge runs; instances in it are preferred. Empty: no preference.
	Zone string
	// Config has the settings of retries. Required.
	Config config.Set
	// Route has the settings of the balancers. Required.
	Route *route.Settings
	// Discovery has the instances of services. Required.
	Discovery *discovery.Directory
	// Overload makes the limiters. Required.
	Overload *overload.Set
	// Upstreams has what is behind URLs. Required.
	Upstreams *upstream.Set
	// DialContext connects to instances of services. Required.
	DialContext func(ctx context.Context, network, addr string) (net.Conn, error)
	// Seed decides which paths and which clients share places. It should differ in each process, so that nobody can choose
	// a URL that shares its places with a given other one. Zero: as any other number.
	Seed uint32
}

// Set is the origins of the table in use.
type Set struct {
	opts Options
	h1   *http1.Client // of all services
	h2   *http2.Client

	mu     sync.Mutex
	all    map[Key]*Origin
	closed bool
}

// NewSet returns a set without origins.
func NewSet(opts Options) *Set {
	s := &Set{opts: opts}
	s.h1, s.h2 = newClients(opts.DialContext, opts.DialContext)
	return s
}

type dialFunc = func(ctx context.Context, network, addr string) (net.Conn, error)

// newClients returns clients that connect for HTTP/1.1 and for HTTP/2 by these functions.
func newClients(dial1, dial2 dialFunc) (*http1.Client, *http2.Client) {
	return &http1.Client{Dial: boundDial(dial1)}, &http2.Client{Dial: boundDial(dial2)}
}

func boundDial(dial dialFunc) dialFunc {
	return func(ctx context.Context, network, addr string) (net.Conn, error) {
		ctx, cancel := context.WithTimeout(ctx, dialTime)
		defer cancel()
		return dial(ctx, network, addr)
	}
}

// Bind gives every target its origin, and drops those origins that no target needs any more. Requests in progress keep
// the origin that they have.
func (s *Set) Bind(targets []*Target) {
	s.mu.Lock()
	defer s.mu.Unlock()
	needed := map[Key]*Origin{}
	for _, t := range targets {
		key := keyOf(&t.Target)
		if needed[key] == nil {
			needed[key] = s.getLocked(key)
		}
		t.Origin = needed[key]
	}
	if s.closed {
		for _, o := range needed {
			o.stop()
		}
	}
	for key, o := range s.all {
		if needed[key] == nil {
			o.stop()
		}
	}
	s.all = needed
}

func (s *Set) getLocked(key Key) *Origin {
	if o := s.all[key]; o != nil {
		return o
	}
	o := &Origin{
		Key: key, H1: s.h1, H2: s.h2,
		Balancer: route.New(route.Options{
			Service: cmp.Or(key.Service, key.URL.Name()), Zone: s.opts.Zone, Settings: s.opts.Route,
		}),
		Budget:  retry.NewBudget(s.opts.Config),
		Limiter: s.opts.Overload.Limiter(key.String()),
		Shares:  Shares{base: time.Now(), seed: s.opts.Seed},
	}
	o.versions.Store(&[]string{})
	unwatch := func() {}
	if key.Service != "" {
		unwatch = s.opts.Discovery.Watch(key.Service, o.update)
	} else {
		by := func(protocol string) dialFunc {
			return func(ctx context.Context, _, addr string) (net.Conn, error) {
				return s.opts.Upstreams.Dial(ctx, key.URL, key.URL.Instance(addr), protocol)
			}
		}
		o.H1, o.H2 = newClients(by(upstream.HTTP1), by(upstream.HTTP2))
		o.Watch = s.opts.Upstreams.Watch(key.URL, key.Check, o.updateURL)
	}
	o.stop = func() {
		unwatch()
		if o.Watch != nil {
			o.Watch.Stop()
			o.H1.Close()
			o.H2.Close()
		}
		s.opts.Overload.Remove(key.String())
	}
	return o
}

// Close ends all watches, and closes connections when their requests end.
func (s *Set) Close() {
	s.h1.Close()
	s.h2.Close()
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, o := range s.all {
		o.stop()
	}
	s.all, s.closed = nil, true
}

// updateURL takes the instances of a URL.
func (o *Origin) updateURL(list []upstream.Instance) {
	endpoints := make([]route.Endpoint, 0, len(list))
	healthy := len(list) == 0
	for _, in := range list {
		endpoints = append(endpoints, route.Endpoint{ID: in.Addr, Addr: in.Addr})
		healthy = healthy || in.Healthy
	}
	o.Balancer.Update(endpoints)
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

// Fails takes note that no instance of a URL could be reached, although its route has other targets.
func (o *Origin) Fails() {
	if o.Watch != nil {
		o.outage.begin()
	}
}

// Answers takes note that an instance has answered.
func (o *Origin) Answers() { o.outage.end() }

// Usable reports whether requests should go to the origin although there are other targets.
func (o *Origin) Usable() bool {
	until := o.outage.until.Load()
	return !o.allIll.Load() && (until == 0 || until <= time.Now().UnixNano())
}

// AwaitFirst waits until the name of the URL was looked up for the first time, and reports whether it had to wait.
func (o *Origin) AwaitFirst(ctx context.Context) bool {
	if o.Watch == nil {
		return false
	}
	select {
	case <-o.Watch.Ready():
		return false
	default:
	}
	ctx, cancel := context.WithTimeout(ctx, dialTime)
	defer cancel()
	select {
	case <-o.Watch.Ready():
	case <-ctx.Done():
	}
	return true
}

// update takes the instances that can be called: those that are up and have the listener.
func (o *Origin) update(list []discovery.Instance) {
	endpoints := make([]route.Endpoint, 0, len(list))
	versions := []string{}
	for _, in := range list {
		addr := in.Endpoints[o.Endpoint]
		if in.Status != discovery.Up || addr == "" {
			continue
		}
		endpoints = append(endpoints, route.Endpoint{ID: in.ID, Addr: addr, Zone: in.Zone, Version: in.Version})
		if !slices.Contains(versions, in.Version) {
			versions = append(versions, in.Version)
		}
	}
	o.Balancer.Update(endpoints)
	o.versions.Store(&versions)
}

// Has reports whether there is an instance of a version; empty: of any.
func (o *Origin) Has(version string) bool {
	versions := *o.versions.Load()
	return len(versions) > 0 && (version == "" || slices.Contains(versions, version))
}
