// Package upstream finds the instances of origins that are not in the registry: a target of a route may be a URL.
//
// A [Set] watches any number of targets, connects to their instances and asks for their health:
//
//	target, err := upstream.Parse("https://api.example.org")
//	check, err := upstream.Check{Kind: upstream.CheckHTTP, Path: "/healthz"}.Complete()
//	watch := set.Watch(target, check, func(list []upstream.Instance) { ... })
//	defer watch.Stop()
//	conn, err := set.Dial(ctx, target, list[0].Addr, upstream.HTTP1)
//
// # Instances
//
// A target with an IP address or a unix socket has one instance, which is known at once. The instances of a DNS name
// are its IPv4 and IPv6 addresses. Those of an SRV name are the addresses of the hosts in the group with the lowest
// number of priority, with the ports of the records; weights are not used. If there are addresses of both families,
// those to which this machine has no route are left out.
//
// The resolver is that of the Go library, so resolv.conf, hosts, nsswitch.conf and search lists have their usual
// meaning. A name is looked up again when the least TTL of its records has ended, after 1 s at least and 5 min at most,
// and up to a tenth later. A name from the hosts file has no TTL and is looked up again after 30 s.
//
// A look-up that does not work changes nothing: the last known instances stay in use without a limit of time, also when
// the answer is that the name does not exist (NXDOMAIN, or no records). A name that was removed by mistake, or a DNS
// server that does not know its zone for a while, must not take a site away. If the instances are really gone, no
// connection to them can be made, and the balancer ejects them. The same holds for a part of an answer: if A can be
// looked up and AAAA cannot, the IPv6 addresses stay; if one host of an SRV name cannot be looked up, its addresses
// stay while the SRV records name it. After a failure the look-up is repeated after up to 1 s, and then after twice as
// long each time, up to 30 s. The first failure is logged, those that follow are not, and the end of the failures is
// logged.
//
// # Health
//
// With a [Check] each instance is asked at its own times: every 5 s, within 2 s. Three failures in a row make an
// instance unhealthy, then two successes make it healthy again.
//
// A new instance is used at once, until checks fail. If it first had to be found healthy, then nothing could be
// answered for some seconds after a start of the gateway or a deployment of the origin, and a check that is wrong would
// never let an instance in. A new instance that does not answer is ejected by the balancer after a few requests, which
// are sent to another instance.
//
// If all instances are unhealthy, all are used: more likely than all of them the check is broken, and it must not take
// the site away. This is logged once, until one is healthy again.
package upstream

import (
	"context"
	"crypto/tls"
	"errors"
	"log/slog"
	"net"
	"slices"
	"sync"
	"time"

	"bijou.dev/platform/pace"
	"bijou.dev/platform/text"

	"github.com/prometheus/client_golang/prometheus"
)

// Options make a Set.
type Options struct {
	// DialContext connects to instances. Nil: the real network.
	DialContext func(ctx context.Context, network, addr string) (net.Conn, error)
	// DialDNS connects to DNS servers. Nil: the real network.
	DialDNS func(ctx context.Context, network, addr string) (net.Conn, error)
	// TLS is for https targets. Server name and ALPN are set for each connection. Nil: the certificate authorities of
	// the system, and no client certificate.
	TLS *tls.Config
	// Metrics gets bijou_gateway_upstream_*. Nil: none.
	Metrics prometheus.Registerer
	// Log gets messages for operators. Nil: nothing is logged.
	Log *slog.Logger
}

// complete returns the options with all defaults.
func (o Options) complete() Options {
	if o.DialContext == nil {
		o.DialContext = (&net.Dialer{}).DialContext
	}
	if o.DialDNS == nil {
		o.DialDNS = (&net.Dialer{}).DialContext
	}
	if o.TLS == nil {
		o.TLS = &tls.Config{}
	}
	o.TLS = o.TLS.Clone()
	if o.TLS.ClientSessionCache == nil {
		o.TLS.ClientSessionCache = tls.NewLRUClientSessionCache(0) // a new connection costs less; checks always use one
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	return o
}

// Set watches targets and connects to their instances. It is safe for use by several goroutines. It needs no closing:
// its watches are stopped one by one.
type Set struct {
	opts    Options
	lookups *prometheus.CounterVec

	mu      sync.Mutex
	watches map[*Watch]struct{}
}

// New returns a Set that watches nothing yet.
func New(opts Options) *Set {
	s := &Set{opts: opts.complete(), watches: map[*Watch]struct{}{}}
	s.lookups = newLookups()
	if opts.Metrics != nil {
		opts.Metrics.MustRegister(s.lookups, collector{s})
	}
	return s
}

// Instance is one address of a target.
type Instance struct {
	// Addr is the host:port for [Set.Dial], or the path of the socket. It is unique in its target and stays the same
	// while the instance is known, so it serves as the id too.
	Addr string
	// Healthy is false if the checks say that the instance is unhealthy, and it is used because all are.
	Healthy bool
}

// Watch follows the instances of one target.
type Watch struct {
	set    *Set
	target Target
	check  checker
	fn     func([]Instance)
	ctx    context.Context // ends with Stop
	cancel context.CancelFunc
	ready  chan struct{}

	delivering  sync.Mutex // held while fn runs
	delivered   bool
	last        []Instance // what fn was last called with
	noneHealthy bool       // last has instances, and none is healthy

	mu        sync.Mutex
	instances []*instance  // in the order of the look-up
	lookup    *LookupState // nil: the target needs no look-ups
}

// instance is what is known of an Instance. Its Watch guards it.
type instance struct {
	Instance
	since   time.Time // when Healthy changed; at first, when it was found
	streak  int       // checks in a row whose outcome is not the one that Healthy has
	problem string    // of the last check; empty: it succeeded, or there was none
	cancel  context.CancelFunc
}

// Watch calls fn at once with the instances of a target that are to be used, and then after each change, until Stop is
// called. At first a name that must be looked up has no instances, see [Watch.Ready]. These are the healthy instances,
// or all if none is healthy. check comes from [Check.Complete].
//
// Calls of one fn are never concurrent. fn should be quick, and may call Stop. A call of fn that has begun when Stop is
// called still ends.
func (s *Set) Watch(t Target, check Check, fn func([]Instance)) *Watch {
	w := &Watch{set: s, target: t, check: checker{s, t, check.withDefaults()}, fn: fn, ready: make(chan struct{})}
	w.ctx, w.cancel = context.WithCancel(context.Background())
	s.mu.Lock()
	s.watches[w] = struct{}{}
	s.mu.Unlock()
	addr, fixed := t.fixed()
	if fixed {
		w.setAddrs([]string{addr})
		close(w.ready)
	} else {
		w.lookup = &LookupState{}
		go w.follow()
	}
	w.deliver()
	return w
}

// Stop ends the watch. It does not wait: look-ups and checks under way are given up.
func (w *Watch) Stop() {
	w.cancel()
	w.set.mu.Lock()
	defer w.set.mu.Unlock()
	delete(w.set.watches, w)
}

// Ready is closed when the first look-up has ended, whatever its outcome, and fn was called with what it found. It is
// closed soon after Stop, too.
func (w *Watch) Ready() <-chan struct{} { return w.ready }

// follow looks up the name again and again.
func (w *Watch) follow() {
	l := &lookup{set: w.set, target: w.target}
	backoff := pace.Backoff{First: time.Second, Max: 30 * time.Second}
	ready := sync.OnceFunc(func() { close(w.ready) })
	defer ready()
	for {
		r := l.run(w.ctx)
		if w.ctx.Err() != nil {
			return
		}
		var wait time.Duration
		if len(r.addrs) > 0 {
			backoff.Reset()
			wait = r.ttl + pace.Jitter(r.ttl/20, 1)
			addrs := make([]string, len(r.addrs))
			for i, a := range r.addrs {
				addrs[i] = a.String()
			}
			w.setAddrs(addrs)
		} else {
			wait = backoff.Next()
		}
		w.note(r, wait)
		w.deliver()
		ready()
		if !pace.Sleep(w.ctx, wait) {
			return
		}
	}
}

// note keeps, counts and logs the outcome of a look-up.
func (w *Watch) note(r result, wait time.Duration) {
	outcome, problem := "found", ""
	if r.err != nil {
		problem = text.Bound(r.err.Error(), maxProblem)
		var dns *net.DNSError
		switch {
		case len(r.addrs) > 0:
			outcome = "partial"
		case errors.As(r.err, &dns) && dns.IsNotFound:
			outcome = "not_found"
		default:
			outcome = "failed"
		}
	}
	w.set.lookups.WithLabelValues(outcome).Inc()
	now := time.Now()
	w.mu.Lock()
	known, l := len(w.instances), w.lookup
	changed := (problem != "") != (l.Error != "")
	if changed {
		l.Since = now
	}
	l.Next, l.Error = now.Add(wait), problem
	w.mu.Unlock()
	switch {
	case !changed:
	case problem != "":
		w.set.opts.Log.Warn("looking up the instances of a target does not work; the last known ones stay in use", "target",
			w.target.String(), "count", known, "error", problem)
	default:
		w.set.opts.Log.Info("looking up the instances of a target works again", "target", w.target.String(), "count", known)
	}
}

// setAddrs replaces the instances. Those that were known keep their state.
func (w *Watch) setAddrs(addrs []string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	known := map[string]*instance{}
	for _, in := range w.instances {
		known[in.Addr] = in
	}
	w.instances = nil
	for _, addr := range addrs {
		in := known[addr]
		delete(known, addr)
		if in == nil {
			in = w.begin(addr)
		}
		w.instances = append(w.instances, in)
	}
	for _, in := range known {
		in.cancel()
	}
}

// begin makes a new instance and starts its checks.
func (w *Watch) begin(addr string) *instance {
	ctx, cancel := context.WithCancel(w.ctx)
	in := &instance{Instance: Instance{addr, true}, since: time.Now(), cancel: cancel}
	if w.check.Kind != "" {
		go w.check.run(ctx, addr, func(err error) { w.checked(in, err) })
	}
	return in
}

// checked takes the outcome of a check.
func (w *Watch) checked(in *instance, err error) {
	problem := ""
	if err != nil {
		problem = text.Bound(err.Error(), maxProblem)
	}
	w.mu.Lock()
	in.problem = problem
	threshold := w.check.Healthy
	if in.Healthy {
		threshold = w.check.Unhealthy
	}
	if in.streak++; in.Healthy == (err == nil) {
		in.streak = 0
	}
	changed := in.streak >= threshold
	if changed {
		in.Healthy, in.since, in.streak = !in.Healthy, time.Now(), 0
	}
	w.mu.Unlock()
	switch log := w.set.opts.Log; {
	case !changed:
		return
	case err != nil:
		log.Warn("an instance is unhealthy", "target", w.target.String(), "instance", in.Addr, "error", problem)
	default:
		log.Info("an instance is healthy again", "target", w.target.String(), "instance", in.Addr)
	}
	w.deliver()
}

// deliver calls fn if the instances to use have changed. It reads them with delivering held, so that of two deliveries
// at the same time the later one never has the older list.
func (w *Watch) deliver() {
	w.delivering.Lock()
	defer w.delivering.Unlock()
	list := w.inUse()
	if w.ctx.Err() != nil || w.delivered && slices.Equal(list, w.last) {
		return
	}
	w.delivered, w.last = true, list
	none := len(list) > 0 && !list[0].Healthy
	switch log := w.set.opts.Log; {
	case none && !w.noneHealthy:
		log.Warn("all instances of a target are unhealthy; all are used", "target", w.target.String(), "count", len(list))
	case !none && w.noneHealthy:
		log.Info("a target has healthy instances again", "target", w.target.String(), "count", len(list))
	}
	w.noneHealthy = none
	w.fn(slices.Clone(list))
}

// inUse returns the healthy instances, or all if none is healthy.
func (w *Watch) inUse() []Instance {
	w.mu.Lock()
	defer w.mu.Unlock()
	all, healthy := []Instance{}, []Instance{}
	for _, in := range w.instances {
		all = append(all, in.Instance)
		if in.Healthy {
			healthy = append(healthy, in.Instance)
		}
	}
	if len(healthy) == 0 {
		return all
	}
	return healthy
}

// State is a snapshot of a watch, for operators.
type State struct {
	Target string `json:"target"`
	// Lookup is nil if the target needs no look-ups.
	Lookup    *LookupState    `json:"lookup,omitempty"`
	Instances []InstanceState `json:"instances"`
}

// LookupState is what is known of the look-ups of a name.
type LookupState struct {
	// Next is when the name is looked up again. Zero: the first look-up has not ended.
	Next time.Time `json:"next,omitzero"`
	// Error is what the last look-up did not find out. Empty: it found all.
	Error string `json:"error,omitempty"`
	// Since is when look-ups began to fail or to work again. Zero: they have always worked.
	Since time.Time `json:"since,omitzero"`
}

// InstanceState is what is known of an instance.
type InstanceState struct {
	Addr    string `json:"addr"`
	Healthy bool   `json:"healthy"`
	// Since is when Healthy last changed; if it never did, when the instance was found.
	Since time.Time `json:"since"`
	// Error is what the last check said. Empty: it succeeded, or there was none.
	Error string `json:"error,omitempty"`
}

// State returns all instances, also those that are not used.
func (w *Watch) State() State {
	w.mu.Lock()
	defer w.mu.Unlock()
	s := State{Target: w.target.String(), Instances: make([]InstanceState, 0, len(w.instances))}
	if w.lookup != nil {
		l := *w.lookup
		s.Lookup = &l
	}
	for _, in := range w.instances {
		s.Instances = append(s.Instances, InstanceState{in.Addr, in.Healthy, in.since, in.problem})
	}
	return s
}
