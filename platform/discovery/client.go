package discovery

import (
	"cmp"
	"context"
	"log/slog"
	"maps"
	"math/rand/v2"
	"net"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"bijou.dev/platform/errs"
)

// The times that hold unless an instance or a registry asks for others.
const (
	// HeartbeatDefault is how often an instance renews its registration.
	HeartbeatDefault = 3 * time.Second
	// LeaseDefault is how long an instance may be silent.
	LeaseDefault = 10 * time.Second
)

const (
	holdDefault = 30 * time.Second
	// silence is how long a watch stream may stay without a word; a registry speaks at least every 5 s.
	silence = 15 * time.Second
)

// Options say where the registry is. Only Seeds is required.
type Options struct {
	// Seeds are addresses (host:port) of registry replicas. One that answers is enough.
	Seeds []string
	// Services limits what is watched. Empty: all services.
	Services []string
	// Name tells people who watches: "gateway/gateway-1". Empty: "unknown".
	Name string
	// DialContext opens connections. Nil: the machine's network.
	DialContext func(ctx context.Context, network, addr string) (net.Conn, error)
	// Dir is where the last known instances are kept over restarts. Empty: nowhere.
	Dir string
	// Hold is how long a suspect is kept, see the package comment. Zero: 30 s.
	Hold time.Duration
	// Log receives what an operator wants to know. Nil: nothing is logged.
	Log *slog.Logger
}

func (o *Options) validate() error {
	if len(o.Seeds) == 0 {
		return errs.Errorf(errs.Invalid, "discovery options: no seeds").Field("seeds", "must name at least one registry as host:port")
	}
	for _, s := range o.Seeds {
		if _, port, err := net.SplitHostPort(s); err != nil || port == "" {
			return errs.Errorf(errs.Invalid, "discovery options: seed %q", s).Field("seeds", "must be host:port")
		}
	}
	if o.Hold < 0 {
		return errs.Errorf(errs.Invalid, "discovery options: hold %v", o.Hold).Field("hold", "must not be negative")
	}
	return nil
}

// Client knows the instances of services. It is safe for use by several goroutines. Make it with [New] or [Static].
type Client struct {
	opts  Options
	log   *slog.Logger
	seeds *seeds // nil: static
	now   atomic.Pointer[view]
	// saves wakes the housekeeping, which alone uses saved, the view in the file, and unsaved, whether the last write failed.
	saves   chan struct{}
	saved   *view
	unsaved bool

	mu       sync.Mutex
	guard    *guard
	watchers map[*watcher]struct{}
	stats    Stats
	problem  error
}

// view is what readers see. It is never changed, only replaced.
type view struct {
	services map[string][]Instance // sorted by id
	settled  bool                  // an answer came, or nobody can be asked
	problem  error                 // why no live snapshot was applied; nil once one was
}

// watcher is one function that wants to know.
type watcher struct {
	service string
	mu      sync.Mutex // held while fn runs
	seen    *view
	stopped atomic.Bool
	fn      func(*view)
}

// New makes a client and loads what Options.Dir holds. It does not touch the network: [Client.Run] does.
func New(opts Options) (*Client, error) {
	if err := opts.validate(); err != nil {
		return nil, err
	}
	opts.Hold = cmp.Or(opts.Hold, holdDefault)
	opts.Name = cmp.Or(opts.Name, "unknown")
	c := newClient(opts)
	c.seeds = newSeeds(opts)
	c.problem = errs.Errorf(errs.Unavailable, "no registry has answered yet (seeds %s)", strings.Join(opts.Seeds, ", "))
	c.load()
	return c, nil
}

// Static is a client that knows what it is given and asks nobody: for tests and for use alone. [Client.Put] changes
// it. It may be nil.
func Static(services map[string][]Instance) *Client {
	c := newClient(Options{})
	for service, list := range services {
		c.Put(service, list)
	}
	c.publish(nil)
	return c
}

func newClient(opts Options) *Client {
	if opts.Log == nil {
		opts.Log = slog.New(slog.DiscardHandler)
	}
	c := &Client{
		opts: opts, log: opts.Log, saves: make(chan struct{}, 1),
		guard: newGuard(opts.Hold), watchers: map[*watcher]struct{}{},
	}
	c.now.Store(&view{})
	return c
}

// Put replaces the instances of a service in a client made by [Static]; it panics on any other. An instance without
// a Service gets this one, one without a Status is UP.
func (c *Client) Put(service string, list []Instance) {
	if c.seeds != nil {
		panic("discovery: Put on a client that follows a registry")
	}
	c.mu.Lock()
	delete(c.guard.services, service)
	touched := map[string]bool{service: true}
	for _, in := range list {
		in.Service = service
		in.Status = cmp.Or(in.Status, Up)
		c.guard.set(entry{Instance: in}, touched)
	}
	c.mu.Unlock()
	c.publish(touched)
}

// Instances returns what is known of a service in any status, sorted by id; of all services if service is empty.
// The slice is the caller's, the maps in it are shared and must not be changed.
func (c *Client) Instances(service string) []Instance { return c.now.Load().list(service) }

func (v *view) list(service string) []Instance {
	if service != "" {
		return slices.Clone(v.services[service])
	}
	var all []Instance
	for _, name := range slices.Sorted(maps.Keys(v.services)) {
		all = append(all, v.services[name]...)
	}
	return all
}

// Watch calls fn at once with what is known of a service (empty: of all), and then on each change, until stop is
// called. Calls of one fn are never concurrent. fn should be quick, must not call Put, and may call stop. A call that
// is under way when stop is called still ends.
func (c *Client) Watch(service string, fn func([]Instance)) (stop func()) {
	first := true
	var last []Instance
	return c.watch(service, func(v *view) {
		list := v.list(service)
		if !first && slices.EqualFunc(last, list, Instance.Equal) {
			return
		}
		first, last = false, list
		fn(slices.Clone(list))
	})
}

// watch calls fn with each view in which the service, or settled, may differ from the one before.
func (c *Client) watch(service string, fn func(*view)) (stop func()) {
	w := &watcher{service: service, fn: fn}
	c.mu.Lock()
	c.watchers[w] = struct{}{}
	c.mu.Unlock()
	w.deliver(&c.now)
	return func() {
		w.stopped.Store(true)
		c.mu.Lock()
		delete(c.watchers, w)
		c.mu.Unlock()
	}
}

// deliver hands over the newest view, so that callers that overlap never deliver an older one last.
func (w *watcher) deliver(now *atomic.Pointer[view]) {
	w.mu.Lock()
	defer w.mu.Unlock()
	v := now.Load()
	if v == w.seen || w.stopped.Load() {
		return
	}
	w.seen = v
	w.fn(v)
}

// publish makes the guard's state visible to readers and tells the watchers of the touched services. With nil,
// everybody is told.
func (c *Client) publish(touched map[string]bool) {
	c.mu.Lock()
	old := c.now.Load()
	next := &view{services: maps.Clone(old.services), problem: c.problem}
	next.settled = old.settled || touched == nil
	if next.services == nil {
		next.services = map[string][]Instance{}
	}
	changed := map[string]bool{}
	for service := range touched {
		list := c.guard.list(service)
		if slices.EqualFunc(next.services[service], list, Instance.Equal) {
			continue
		}
		changed[service] = true
		if list == nil {
			delete(next.services, service)
		} else {
			next.services[service] = list
		}
	}
	c.now.Store(next)
	var tell []*watcher
	for w := range c.watchers {
		if next.settled != old.settled || changed[w.service] || (w.service == "" && len(changed) > 0) {
			tell = append(tell, w)
		}
	}
	c.mu.Unlock()
	for _, w := range tell {
		w.deliver(&c.now)
	}
	if len(changed) > 0 {
		c.wake()
	}
}

// wake has the housekeeping look at what is to save and to drop.
func (c *Client) wake() {
	select {
	case c.saves <- struct{}{}:
	default:
	}
}

// Synced is nil once a snapshot of a live registry was applied, and for ever after; else it says why there was none.
// The lists may be good all the same, from disk.
func (c *Client) Synced() error { return c.now.Load().problem }

// Stats count what the client saw since it was made.
type Stats struct {
	// Connected: a registry is being followed now; Seed is its address. When not, Problem says why.
	Connected bool
	Seed      string
	Problem   string
	// Since is when Connected last changed.
	Since time.Time
	// Version is the newest applied version of the stream, which means nothing to other streams.
	Version int64
	// Services and Instances are what is known now. Suspects are those that only this client keeps.
	Services, Instances, Suspects int
	// Streams, Snapshots and Deltas count what came from registries.
	Streams, Snapshots, Deltas uint64
	// Kept counts instances that became suspects, Dropped those that were given up.
	Kept, Dropped uint64
	// BadFiles counts files of last known instances that were unreadable and therefore ignored, Unsaved the writes
	// of such files that went wrong.
	BadFiles, Unsaved uint64
}

// Stats returns the counts.
func (c *Client) Stats() Stats {
	c.mu.Lock()
	defer c.mu.Unlock()
	s := c.stats
	s.Suspects, _ = c.guard.suspects()
	s.Kept, s.Dropped = c.guard.kept, c.guard.dropped
	for _, list := range c.now.Load().services {
		s.Services++
		s.Instances += len(list)
	}
	return s
}

// pause is how long to wait before a try: 250 ms, doubled after each round of all seeds up to 10 s, and of that
// between a half and the whole, so that many clients do not come back at once.
func pause(try, seeds int) time.Duration {
	d := min(10*time.Second, 250*time.Millisecond<<min(try/max(seeds, 1), 6))
	return d/2 + rand.N(d/2)
}

// sleep waits for d and reports whether ctx still runs.
func sleep(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
	case <-ctx.Done():
	}
	return ctx.Err() == nil
}
