package discovery

import (
	"cmp"
	"context"
	"fmt"
	"log/slog"
	"net"
	"strings"
	"sync"
	"time"

	"bijou.dev/platform/errs"
)

// The times of an instance that does not ask for others.
const (
	// HeartbeatDefault is how often an instance renews its registration.
	HeartbeatDefault = 3 * time.Second
	// LeaseDefault is how long an instance may be silent.
	LeaseDefault = 10 * time.Second
)

const (
	holdDefault = 30 * time.Second
	// watchTimeout is how long a watch stream may stay without a message; a registry sends one at least every 6 s.
	watchTimeout = 15 * time.Second
)

// Options of a [Client].
type Options struct {
	// Seeds are addresses (host:port) of registry replicas. One that answers is enough. Required.
	Seeds []string
	// Services limits what is watched. Empty: all services.
	Services []string
	// Name is shown by the registry as the name of this watcher: "gateway/gateway-1". Empty: "unknown".
	Name string
	// DialContext opens connections. Nil: that of net.Dialer.
	DialContext func(ctx context.Context, network, addr string) (net.Conn, error)
	// Dir is the folder where the last known instances are kept for the next start. Empty: they are not kept.
	Dir string
	// Hold is how long a suspect is kept, see the package comment. Zero: 30 s.
	Hold time.Duration
	// Log is the logger. Nil: nothing is logged.
	Log *slog.Logger
}

// complete returns a copy with all defaults, or an error of kind errs.Invalid that names each bad field.
func (o Options) complete() (Options, error) {
	var bad errs.Violations
	if len(o.Seeds) == 0 {
		bad.Add("Seeds", "must name at least one registry as host:port")
	}
	for i, seed := range o.Seeds {
		if _, port, err := net.SplitHostPort(seed); err != nil || port == "" {
			bad.Addf(fmt.Sprintf("Seeds[%d]", i), "must be host:port, is %q", seed)
		}
	}
	if o.Hold < 0 {
		bad.Addf("Hold", "must not be negative, is %v", o.Hold)
	}
	o.Hold = cmp.Or(o.Hold, holdDefault)
	o.Name = cmp.Or(o.Name, "unknown")
	o.Log = cmp.Or(o.Log, slog.New(slog.DiscardHandler))
	return o, bad.Err("discovery options")
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
// does. An error has kind errs.Invalid and names the bad options.
func New(opts Options) (*Client, error) {
	opts, err := opts.complete()
	if err != nil {
		return nil, err
	}
	unanswered := errs.Errorf(errs.Unavailable, "no registry has answered yet (seeds %s)",
		strings.Join(opts.Seeds, ", "))
	s := state{synced: unanswered, current: unanswered}
	c := &Client{
		Directory: newDirectory(opts.Services, s), opts: opts, log: opts.Log, seeds: newSeeds(opts),
		file: newFile(opts.Dir),
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
	// Seed is the address of the registry that is followed. Empty: none is followed, and [Directory.Current] says why.
	Seed string
	// Since is when the client began to follow Seed, or when it lost the last registry.
	Since time.Time
	// Version is the newest applied version of the stream. Versions of different streams cannot be compared.
	Version int64
	// Services and Instances are how many are known. Suspects counts the instances that only this client keeps.
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
