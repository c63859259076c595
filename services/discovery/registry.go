package discovery

import (
	"sync"
	"time"

	discoveryv1 "bijou.dev/platform/api/discovery/v1"
	"bijou.dev/platform/errs"
	"bijou.dev/platform/kv"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"
)

// registry is the memory of one replica. Its parts have no locks of their own: mu guards all of them, because one
// heartbeat or one update of the store changes several parts at once. Methods whose names end in Locked, and all
// methods of the parts, are called with mu held.
//
// The parts: instances.go has the instances, lease.go the leases, preserve.go self-preservation, override.go the
// overrides, sync.go and write.go the exchange with the store, watch.go the watchers.
type registry struct {
	opts Options
	self string // the id of this replica, unique for each start

	mu        sync.Mutex
	version   int64 // grows with each change that watchers see
	instances instances
	leases    leases
	losses    preservation
	overrides overrides
	store     storeState
	watchers  watchers
	draining  map[*session]struct{} // sessions whose DRAINING status not all watchers have acknowledged

	// toStore wakes the writer, toPeers the presence.
	toStore, toPeers chan struct{}
}

func newRegistry(opts Options, self string) *registry {
	return &registry{
		opts: opts, self: self,
		instances: instances{services: map[string]map[string]*record{}},
		leases:    leases{self: self, replicas: map[string]presence{}},
		losses:    preservation{opts: opts},
		overrides: overrides{current: map[key]override{}, decided: map[key]kv.Revision{}},
		store:     newStoreState(),
		watchers:  watchers{all: map[*watcher]struct{}{}},
		draining:  map[*session]struct{}{},
		toStore:   make(chan struct{}, 1), toPeers: make(chan struct{}, 1),
	}
}

// wake puts a token into a channel with one slot, unless there is one already.
func wake(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// session is one registration stream.
type session struct {
	key    key           // zero until the first heartbeat
	wake   chan struct{} // an answer has to be sent
	ended  chan error    // one slot: why the stream must end; nil when the instance has left
	closed bool          // the stream has ended; guarded by the registry's mu
}

func newSession() *session {
	return &session{wake: make(chan struct{}, 1), ended: make(chan error, 1)}
}

func (s *session) end(err error) {
	select {
	case s.ended <- err:
	default:
	}
}

// heartbeat applies a checked heartbeat of a session.
func (r *registry) heartbeat(sess *session, req *discoveryv1.RegisterRequest, now time.Time) error {
	in := req.GetInstance()
	k := key{in.GetService(), in.GetId()}
	r.mu.Lock()
	defer r.mu.Unlock()
	if sess.closed { // the last message may be handled after the handler of the stream has returned
		return errs.Errorf(errs.Canceled, "registering %s/%s: the stream has ended", k.service, k.id)
	}
	if sess.key != (key{}) && sess.key != k {
		return errs.Errorf(errs.Invalid, "this stream has registered %s/%s", sess.key.service, sess.key.id).
			Field("instance.id", "must stay the same on one stream")
	}
	rec := r.instances.find(k)
	if err := r.admitLocked(k, rec, in, now); err != nil {
		return err
	}
	if req.GetDeregister() {
		r.deregisterLocked(k, rec)
		return nil
	}
	if rec == nil {
		rec = &record{}
		r.instances.put(k, rec)
	}
	if rec.sess != nil && rec.sess != sess {
		rec.sess.end(errs.Errorf(errs.Conflict, "registering %s/%s: it has opened another stream", k.service, k.id))
	}
	sess.key, rec.sess, rec.lease.renewed = k, sess, now
	beat, length := r.opts.timesOf(req)
	moved := rec.lease.owner != r.self || beat != rec.lease.heartbeat || length != rec.lease.length
	rec.lease.owner, rec.lease.heartbeat, rec.lease.length = r.self, beat, length
	delete(r.store.leaving, k)
	if r.reviseLocked(k, rec, in, false) || moved {
		r.writeLocked(k)
	}
	if in.GetReported() == discoveryv1.Status_STATUS_DRAINING && !rec.propagated {
		r.draining[sess] = struct{}{}
	}
	return nil
}

// admitLocked refuses a heartbeat of an older process of the same id, and new instances beyond the limits.
func (r *registry) admitLocked(k key, rec *record, in *discoveryv1.Instance, now time.Time) error {
	if rec == nil {
		n := len(r.instances.services[k.service])
		if n >= r.opts.MaxPerService || r.instances.count >= r.opts.MaxInstances {
			return errs.Errorf(errs.Exhausted,
				"registering %s/%s: the registry holds %d of at most %d instances, %d of at most %d of this service",
				k.service, k.id, r.instances.count, r.opts.MaxInstances, n, r.opts.MaxPerService).RetryIn(r.opts.Lease)
		}
		return nil
	}
	newer := rec.inst.GetStarted().AsTime().After(in.GetStarted().AsTime())
	live := !r.leases.mine(&rec.lease) || r.leases.silence(&rec.lease, now) < rec.lease.length
	if newer && live {
		return errs.Errorf(errs.Conflict,
			"registering %s/%s: a process of this id that started later, at %s, is registered; "+
				"give each process an id of its own",
			k.service, k.id, rec.inst.GetStarted().AsTime().Format(time.RFC3339)).Because("NEWER_PROCESS")
	}
	return nil
}

// reviseLocked replaces the instance that callers see, if the reported one is different, and reports whether it was.
func (r *registry) reviseLocked(k key, rec *record, reported *discoveryv1.Instance, suspect bool) bool {
	next := proto.CloneOf(reported)
	next.Suspect = suspect
	r.overrides.apply(k, next)
	before := rec.inst.GetStatusSince()
	switch {
	case rec.inst != nil && rec.inst.GetStatus() == next.GetStatus():
		next.StatusSince = before
	case next.GetStatusSince() == nil || proto.Equal(next.GetStatusSince(), before):
		next.StatusSince = timestamppb.Now()
	}
	if rec.inst != nil && proto.Equal(rec.inst, next) {
		return false
	}
	rec.inst = next
	r.changedLocked(k, rec)
	return true
}

// suspectLocked marks an instance as kept by self-preservation only.
func (r *registry) suspectLocked(k key, rec *record) {
	if rec.inst.GetSuspect() {
		return
	}
	next := proto.CloneOf(rec.inst)
	next.Suspect = true
	rec.inst = next
	r.changedLocked(k, rec)
	if rec.lease.owner == r.self {
		r.writeLocked(k)
	} else {
		rec.lease.ownerLost = true
	}
}

// changedLocked gives a change of an instance a version, and informs all watchers.
func (r *registry) changedLocked(k key, rec *record) {
	r.version++
	rec.version, rec.propagated = r.version, false
	r.watchers.notify(k)
}

// removeLocked removes an instance and informs all watchers.
func (r *registry) removeLocked(k key) {
	if r.instances.remove(k) {
		r.version++
		r.watchers.notify(k)
	}
}

func (r *registry) deregisterLocked(k key, rec *record) {
	if rec == nil {
		return
	}
	if rec.sess != nil {
		rec.sess.end(nil)
	}
	r.removeLocked(k)
	r.store.leaving[k] = true
	r.writeLocked(k)
}

// writeLocked marks an instance for the writer, which makes its record in the store equal to the memory.
func (r *registry) writeLocked(k key) {
	r.store.dirty[k] = true
	wake(r.toStore)
}

// closed records the end of a stream. The lease continues.
func (r *registry) closed(sess *session) {
	r.mu.Lock()
	defer r.mu.Unlock()
	sess.closed = true
	delete(r.draining, sess)
	if rec := r.instances.find(sess.key); rec != nil && rec.sess == sess {
		rec.sess = nil
	}
}

// answer returns the answer to a session's instance, or nil when it is not registered.
func (r *registry) answer(sess *session) *discoveryv1.RegisterResponse {
	r.mu.Lock()
	defer r.mu.Unlock()
	rec := r.instances.find(sess.key)
	if rec == nil {
		return nil
	}
	return &discoveryv1.RegisterResponse{
		Instance: rec.inst, Heartbeat: durationpb.New(rec.lease.heartbeat), Lease: durationpb.New(rec.lease.length),
		Propagated: r.propagatedLocked(sess.key, rec),
	}
}

// list returns the instances of a service, or of all if service is empty, sorted by service and id.
func (r *registry) list(service string) []*discoveryv1.Instance {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.instances.list(service)
}

// instance returns an instance as callers see it. When it is not registered, the result has only its name.
func (r *registry) instance(k key) *discoveryv1.Instance {
	r.mu.Lock()
	defer r.mu.Unlock()
	if rec := r.instances.find(k); rec != nil {
		return rec.inst
	}
	return &discoveryv1.Instance{Service: k.service, Id: k.id}
}
