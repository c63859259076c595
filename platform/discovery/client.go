package discovery

import (
	"cmp"
	"context"
	"log/slog"
	"net"
	"strings"
	"sync"
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

// Client is a [Directory] that follows a registry. Make it with [New], and keep [Client.Run] running.
type Client struct {
	*Directory

	opts  Options
	log   *slog.Logger
	seeds *seeds
	file  file          // used by New, and then only by the cleanup loop
	wake  chan struct{} // wakes the cleanup loop

	mu    sync.Mutex // held while the directory's view is replaced, so that the newest view stays
	guard *guard
	state state
	stats Stats
}

// New makes a client and loads the last known instances from Options.Dir. It does not use the network: [Client.Run]
// does. An error has kind errs.Invalid and names the option.
func New(opts Options) (*Client, error) {
	if err := opts.validate(); err != nil {
		return nil, err
	}
	opts.Hold = cmp.Or(opts.Hold, holdDefault)
	opts.Name = cmp.Or(opts.Name, "unknown")
	opts.Log = cmp.Or(opts.Log, slog.New(slog.DiscardHandler))
	unanswered := errs.Errorf(errs.Unavailable, "no registry has answered yet (seeds %s)", strings.Join(opts.Seeds, ", "))
	s := state{synced: unanswered, current: unanswered}
	c := &Client{
		Directory: newDirectory(opts.Services, s), opts: opts, log: opts.Log, seeds: newSeeds(opts), file: newFile(opts.Dir),
		wake: make(chan struct{}, 1), guard: newGuard(opts.Hold), state: s,
	}
	c.load()
	return c, nil
}

// publish makes the guard's lists of the touched services, and the state, visible to readers. It returns after all
// watchers of what changed have returned.
func (c *Client) publish(touched map[string]bool) {
	c.mu.Lock()
	lists := make(map[string][]Instance, len(touched))
	for service := range touched {
		lists[service] = c.guard.list(service)
	}
	changed, deliver := c.replace(lists, c.state)
	c.mu.Unlock()
	deliver()
	if changed {
		c.cleanUpSoon()
	}
}

// cleanUpSoon wakes the cleanup loop.
func (c *Client) cleanUpSoon() {
	select {
	case c.wake <- struct{}{}:
	default:
	}
}

// Stats count what the client saw since it was made.
type Stats struct {
	// Seed is the address of the registry that is followed. Empty: none is, and [Directory.Current] says why.
	Seed string
	// Since is when the client began to follow Seed, or when it lost the last registry.
	Since time.Time
	// Version is the newest applied version of the stream. Versions of different streams cannot be compared.
	Version int64
	// Services and Instances are how many are known. Suspects are the instances that only this client keeps.
	Services, Instances, Suspects int
	// Streams, Snapshots and Deltas count what came from registries.
	Streams, Snapshots, Deltas uint64
	// Kept counts the instances that became suspects, Dropped the suspects that were dropped.
	Kept, Dropped uint64
	// BadFiles counts the unreadable files in Options.Dir, which are ignored. Unsaved counts the failed writes.
	BadFiles, Unsaved uint64
}

// Stats returns the counts.
func (c *Client) Stats() Stats {
	c.mu.Lock()
	defer c.mu.Unlock()
	s := c.stats
	s.Suspects, _ = c.guard.suspects()
	s.Kept, s.Dropped = c.guard.kept, c.guard.dropped
	for _, list := range c.view.Load().services {
		s.Services++
		s.Instances += len(list)
	}
	return s
}
