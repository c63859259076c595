// Package discovery is the registry: a service that knows which instances are alive, and tells everybody who watches.
//
// It is an available registry. Each replica serves from memory; the store (etcd) is how replicas agree and what
// survives them. While the store is away a replica goes on registering, renewing and telling, evicts nobody, and
// reconciles afterwards.
//
// # Who is responsible for an instance
//
// An instance renews on one stream to one replica, its owner. The owner writes the instance's record when it changes,
// not when it is renewed. When the stream breaks, the lease runs on: only silence for a whole lease, or a request to
// leave, ends a registration. Each replica has a presence key that lives as long as the replica; when it goes, every
// other replica gives the orphaned instances one fresh lease from its own clock. Whoever finds a lease at its end deletes the
// record on the condition that nobody has written it since, so an instance that renews elsewhere wins.
//
// # Self-preservation
//
// When many instances fall silent at once, the network of the registry is a likelier cause than their death. So when
// at least [Options.PreserveAtLeast] instances and more than 1 - [Options.PreserveBelow] of all have missed heartbeats or were
// evicted within one lease, evictions stop, and the silent ones are marked as suspects. It ends when enough of them have
// renewed or left, or when for [Options.PreserveFor] nothing was lost or found: then the losses are believed.
// An instance that leaves in order is no loss, and lowers the number that is expected.
//
// Further faces of the same registry (the Eureka protocol, xDS, DNS) belong beside rest.go, over the same Server.
package discovery

import (
	"cmp"
	"log/slog"
	"time"

	"bijou.dev/platform/discovery"
	"bijou.dev/platform/errs"
	"bijou.dev/platform/kv"
)

// Options of a registry replica. All may be left zero.
type Options struct {
	// EtcdEndpoints are the addresses of the store. Empty, with no Store: memory. Then there must be one replica only, and
	// overrides do not survive it.
	EtcdEndpoints []string
	// Store is used instead of EtcdEndpoints. The caller closes it.
	Store kv.Store
	// Name is this replica for people: "discovery-1". Empty: "discovery".
	Name string
	// Heartbeat and Lease hold for instances that do not ask for others. Zero: 3 s and 10 s.
	Heartbeat, Lease time.Duration
	// PreserveBelow is the share of instances that must renew for evictions to go on. Zero: 0.85.
	PreserveBelow float64
	// PreserveAtLeast is how many instances must be lost before their share counts: fewer are believed at once, so that
	// a crash in a small stack is a crash. Zero: 3.
	PreserveAtLeast int
	// PreserveFor is how long self-preservation lasts when nothing changes any more. Zero: 5 min.
	PreserveFor time.Duration
	// MaxWatchers limits the watch streams of this replica. Zero: 10,000.
	MaxWatchers int
	// MaxPerService and MaxInstances limit the instances of a service, and of all. Zero: 5,000 and 20,000.
	MaxPerService, MaxInstances int
	// Log receives what an operator wants to know. Nil: nothing is logged.
	Log *slog.Logger
}

func (o Options) complete() Options {
	o.Name = cmp.Or(o.Name, "discovery")
	o.Heartbeat = cmp.Or(o.Heartbeat, discovery.HeartbeatDefault)
	o.Lease = cmp.Or(o.Lease, discovery.LeaseDefault)
	o.PreserveBelow = cmp.Or(o.PreserveBelow, 0.85)
	o.PreserveAtLeast = cmp.Or(o.PreserveAtLeast, 3)
	o.PreserveFor = cmp.Or(o.PreserveFor, 5*time.Minute)
	o.MaxWatchers = cmp.Or(o.MaxWatchers, 10_000)
	o.MaxPerService = cmp.Or(o.MaxPerService, 5_000)
	o.MaxInstances = cmp.Or(o.MaxInstances, 20_000)
	o.Log = cmp.Or(o.Log, slog.New(slog.DiscardHandler))
	return o
}

func (o Options) validate() error {
	bad := func(field, problem string) error {
		return errs.Errorf(errs.Invalid, "discovery options").Field(field, problem)
	}
	switch {
	case o.Lease < 2*o.Heartbeat || o.Heartbeat < 0:
		return bad("lease", "must be at least two heartbeats")
	case o.PreserveBelow < 0 || o.PreserveBelow > 1:
		return bad("preserve_below", "must be between 0 and 1")
	case o.PreserveAtLeast < 1:
		return bad("preserve_at_least", "must be at least 1")
	case o.PreserveFor < 0:
		return bad("preserve_for", "must not be negative")
	case o.MaxWatchers < 1 || o.MaxPerService < 1 || o.MaxInstances < 1:
		return bad("max_watchers, max_per_service, max_instances", "must be at least 1")
	}
	return nil
}
