// Package discovery is the registry: a service that has the list of all live instances, and sends each change to its
// watchers.
//
// It stays available when the store is down. Each replica serves from memory; through the store (etcd) the replicas
// exchange their records, and the records survive restarts. While the store is down, a replica still registers, renews
// and informs watchers, but evicts no instance; it reconciles when the store is back.
//
// # The owner of an instance
//
// An instance renews on one stream to one replica, its owner. The owner writes the instance's record when it changes,
// not when it is renewed. When the stream breaks, the lease continues: a registration ends only when no heartbeat came
// for a whole lease, or when the instance leaves. Each replica has a presence key in the store that is deleted when the
// replica ends. Then every other replica gives the instances of that replica one fresh lease from its own clock. The
// replica that sees a lease end deletes the record on the condition that it was not written since. So an instance that
// has registered at another replica stays.
//
// # Self-preservation
//
// When many instances become silent at the same time, a fault of the network is more likely than a crash of all of
// them. So when at least [Options.PreserveAtLeast] instances and more than 1 - [Options.PreserveBelow] of all have
// missed heartbeats or were evicted within one lease, evictions stop, and the silent instances are marked as suspects.
// Self-preservation ends when enough of them have renewed or left. It also ends when for [Options.PreserveFor] no
// instance became silent or came back; then the silent ones are evicted. An instance that deregisters does not count as
// lost, and lowers the number of expected instances.
//
// Handlers of other protocols (Eureka, xDS, DNS) belong beside rest.go and use the same Server.
package discovery

import (
	"cmp"
	"log/slog"
	"time"

	"bijou.dev/platform/discovery"
	"bijou.dev/platform/errs"
	"bijou.dev/platform/kv"
)

// Options of a registry replica. All fields may be left zero.
type Options struct {
	// EtcdEndpoints are the addresses of the store. Empty, and Store is nil: the store is in memory. Then there must be
	// only one replica, and overrides are lost when it ends.
	EtcdEndpoints []string
	// Store is used instead of EtcdEndpoints. The caller closes it. Nil: EtcdEndpoints are used.
	Store kv.Store
	// Name is the name of this replica in logs and in the status: "discovery-1". Empty: "discovery".
	Name string
	// Heartbeat and Lease are used for instances that do not ask for others. Zero: 3 s and 10 s.
	Heartbeat, Lease time.Duration
	// PreserveBelow is the share of instances that must renew, so that evictions continue. Zero: 0.85.
	PreserveBelow float64
	// PreserveAtLeast is the smallest number of lost instances that starts self-preservation: in a small stack one
	// crash is already a large share. Zero: 3.
	PreserveAtLeast int
	// PreserveFor is how long self-preservation lasts while no instance becomes silent or comes back. Zero: 5 min.
	PreserveFor time.Duration
	// MaxWatchers limits the watch streams of this replica. Zero: 10,000.
	MaxWatchers int
	// MaxPerService and MaxInstances limit the instances of one service, and of all. Zero: 5,000 and 20,000.
	MaxPerService, MaxInstances int
	// Log is the logger. Nil: nothing is logged.
	Log *slog.Logger
}

// complete returns a copy with all defaults, or an error of kind errs.Invalid that names each bad field.
func (o Options) complete() (Options, error) {
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
	return o, o.validate()
}

// validate checks options that have all defaults.
func (o *Options) validate() error {
	var bad errs.Violations
	if o.Heartbeat < 0 {
		bad.Addf("Heartbeat", "must not be negative, is %v", o.Heartbeat)
	}
	if o.Lease < 2*o.Heartbeat || o.Lease < 0 {
		bad.Addf("Lease", "must be at least two heartbeats of %v, is %v", o.Heartbeat, o.Lease)
	}
	if o.PreserveBelow < 0 || o.PreserveBelow > 1 {
		bad.Addf("PreserveBelow", "must be between 0 and 1, is %v", o.PreserveBelow)
	}
	if o.PreserveFor < 0 {
		bad.Addf("PreserveFor", "must not be negative, is %v", o.PreserveFor)
	}
	for _, count := range []struct {
		field string
		value int
	}{
		{"PreserveAtLeast", o.PreserveAtLeast},
		{"MaxWatchers", o.MaxWatchers},
		{"MaxPerService", o.MaxPerService},
		{"MaxInstances", o.MaxInstances},
	} {
		if count.value < 0 {
			bad.Addf(count.field, "must not be negative, is %d", count.value)
		}
	}
	return bad.Err("discovery options")
}
