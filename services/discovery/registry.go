package discovery

import (
	"slices"
	"strings"
	"sync"
	"time"

	discoveryv1 "bijou.dev/platform/api/discovery/v1"
	"bijou.dev/platform/errs"
	"bijou.dev/platform/kv"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"
)

// key names an instance.
type key struct{ service, id string }

// record is an instance with what the registry knows about its renewal.
type record struct {
	// inst is what callers see. It is replaced, never changed.
	inst             *discoveryv1.Instance
	heartbeat, lease time.Duration
	// owner is the replica that has (or last had) the stream. Empty: nobody claims the instance any more.
	owner string
	// sess is the stream, when it is here.
	sess *session
	// renewed is the last sign of life, or when this replica became responsible. Its monotonic part counts.
	renewed time.Time
	// version is the registry's version of the last change of inst.
	version int64
	// spread: all watchers know inst.
	spread bool
	// doubted: inst is a suspect because its owner seems dead, not by its owner's word.
	doubted bool
}

// stored is what the store has of a key, as far as is known.
type stored struct {
	rev   kv.Revision
	owner string
}

// registry is the memory of one replica. Every field is guarded by mu; methods that end in Locked want it held.
type registry struct {
	opts Options
	self string // this replica, unique for each start

	mu       sync.Mutex
	version  int64
	services map[string]map[string]*record
	count    int

	// The store's side.
	stored    map[key]stored
	dirty     map[key]bool // the store has to learn about them
	writing   map[key]bool // a write is under way
	leaving   map[key]bool // deregistered here, to be deleted
	overrides map[key]override
	decided   map[key]kv.Revision // revision of the newest word on a key's override, its removal included
	replicas  map[string]presence // live replicas, this one included
	loaded    bool                // the store was read once
	warmUntil time.Time
	problem   error // why the store is not in use
	grace     time.Time
	badKeys   uint64

	// The watchers' side.
	watchers map[*watcher]struct{}
	draining map[*session]struct{} // sessions that wait for their status to spread
	marks    []mark                // store revisions that not all watchers have acknowledged, oldest first
	acked    kv.Revision           // newest store revision that they all have
	folded   kv.Revision           // newest store revision with an instance in it

	lost preservation

	// toStore wakes the writer, toPeers the presence.
	toStore, toPeers chan struct{}
}

func newRegistry(opts Options, self string) *registry {
	return &registry{
		opts: opts, self: self,
		services: map[string]map[string]*record{},
		stored:   map[key]stored{}, dirty: map[key]bool{}, writing: map[key]bool{}, leaving: map[key]bool{},
		overrides: map[key]override{}, decided: map[key]kv.Revision{}, replicas: map[string]presence{},
		watchers: map[*watcher]struct{}{}, draining: map[*session]struct{}{},
		toStore: make(chan struct{}, 1), toPeers: make(chan struct{}, 1),
		problem: errs.Errorf(errs.Unavailable, "the store has not answered yet"),
	}
}

// wake puts a token into a channel of one.
func wake(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// session is one registration stream.
type session struct {
	key  key // zero until the first heartbeat
	wake chan struct{}
	over chan error // one slot: why the stream must end; nil for an end in order
	gone bool       // the stream has ended; guarded by the registry's mu
}

func newSession() *session {
	return &session{wake: make(chan struct{}, 1), over: make(chan error, 1)}
}

func (s *session) end(err error) {
	select {
	case s.over <- err:
	default:
	}
}

func (r *registry) findLocked(k key) *record { return r.services[k.service][k.id] }

// heartbeat takes a checked heartbeat of a session.
func (r *registry) heartbeat(sess *session, req *discoveryv1.RegisterRequest, now time.Time) error {
	in := req.GetInstance()
	k := key{in.GetService(), in.GetId()}
	r.mu.Lock()
	defer r.mu.Unlock()
	if sess.gone { // what was received last may come here after the handler has returned
		return errs.Errorf(errs.Canceled, "registering %s/%s: the stream has ended", k.service, k.id)
	}
	if sess.key != (key{}) && sess.key != k {
		return errs.Errorf(errs.Invalid, "this stream has registered %s/%s", sess.key.service, sess.key.id).Field("instance.id", "must stay the same on one stream")
	}
	rec := r.findLocked(k)
	if err := r.admitLocked(k, rec, in, now); err != nil {
		return err
	}
	if req.GetDeregister() {
		r.deregisterLocked(k, rec)
		return nil
	}
	if rec == nil {
		rec = &record{}
		r.putLocked(k, rec)
	}
	if rec.sess != nil && rec.sess != sess {
		rec.sess.end(errs.Errorf(errs.Conflict, "registering %s/%s: it has opened another stream", k.service, k.id))
	}
	sess.key, rec.sess, rec.renewed = k, sess, now
	beat, lease := r.timesOf(req)
	moved := rec.owner != r.self || beat != rec.heartbeat || lease != rec.lease
	rec.owner, rec.heartbeat, rec.lease = r.self, beat, lease
	delete(r.leaving, k)
	if r.reviseLocked(k, rec, in, false) || moved {
		r.storeLocked(k)
	}
	if in.GetReported() == discoveryv1.Status_STATUS_DRAINING && !rec.spread {
		r.draining[sess] = struct{}{}
	}
	return nil
}

// admitLocked refuses a heartbeat of an older process of the same id, and new instances beyond the limits.
func (r *registry) admitLocked(k key, rec *record, in *discoveryv1.Instance, now time.Time) error {
	if rec == nil {
		if n := len(r.services[k.service]); n >= r.opts.MaxPerService || r.count >= r.opts.MaxInstances {
			return errs.Errorf(errs.Exhausted, "registering %s/%s: the registry holds %d of at most %d instances, %d of at most %d of this service",
				k.service, k.id, r.count, r.opts.MaxInstances, n, r.opts.MaxPerService).RetryIn(r.opts.Lease)
		}
		return nil
	}
	newer := rec.inst.GetStarted().AsTime().After(in.GetStarted().AsTime())
	if alive := !r.mineLocked(rec) || r.silenceLocked(rec, now) < rec.lease; newer && alive {
		return errs.Errorf(errs.Conflict, "registering %s/%s: a process of this id that started later, at %s, is registered; give each process an id of its own",
			k.service, k.id, rec.inst.GetStarted().AsTime().Format(time.RFC3339)).Because("NEWER_PROCESS")
	}
	return nil
}

// timesOf fills in what an instance did not ask for. The result keeps the bounds that other replicas insist on when they read
// the record.
func (r *registry) timesOf(req *discoveryv1.RegisterRequest) (beat, lease time.Duration) {
	beat, lease = req.GetHeartbeat().AsDuration(), req.GetLease().AsDuration()
	if beat == 0 && lease == 0 {
		return r.opts.Heartbeat, r.opts.Lease
	}
	if beat == 0 {
		beat = min(r.opts.Heartbeat, max(lease/3, MinHeartbeat))
	}
	if lease == 0 {
		lease = min(max(r.opts.Lease, 3*beat), MaxLease)
	}
	return beat, lease
}

func (r *registry) putLocked(k key, rec *record) {
	m := r.services[k.service]
	if m == nil {
		m = map[string]*record{}
		r.services[k.service] = m
	}
	if m[k.id] == nil {
		r.count++
	}
	m[k.id] = rec
}

// reviseLocked makes callers see a reported instance, if it is different, and reports whether it was.
func (r *registry) reviseLocked(k key, rec *record, reported *discoveryv1.Instance, suspect bool) bool {
	next := proto.CloneOf(reported)
	next.Suspect = suspect
	r.judgeLocked(k, next)
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

// judgeLocked sets the effective status: the override's, but who is leaving is never forced UP.
func (r *registry) judgeLocked(k key, in *discoveryv1.Instance) {
	o := r.overrides[k]
	in.Override, in.OverrideReason, in.OverrideAuthor = o.Status, o.Reason, o.Author
	in.Status = in.GetReported()
	leaving := in.GetReported() == discoveryv1.Status_STATUS_DRAINING && o.Status == discoveryv1.Status_STATUS_UP
	if o.Status != discoveryv1.Status_STATUS_UNSPECIFIED && !leaving {
		in.Status = o.Status
	}
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
	if rec.owner == r.self {
		r.storeLocked(k)
	} else {
		rec.doubted = true
	}
}

// changedLocked tells all watchers.
func (r *registry) changedLocked(k key, rec *record) {
	r.version++
	rec.version, rec.spread = r.version, false
	r.tellLocked(k)
}

// removeLocked forgets an instance and tells all watchers.
func (r *registry) removeLocked(k key) {
	if r.findLocked(k) == nil {
		return
	}
	delete(r.services[k.service], k.id)
	if len(r.services[k.service]) == 0 {
		delete(r.services, k.service)
	}
	r.count--
	r.version++
	r.tellLocked(k)
}

func (r *registry) deregisterLocked(k key, rec *record) {
	if rec == nil {
		return
	}
	if rec.sess != nil {
		rec.sess.end(nil)
	}
	r.removeLocked(k)
	r.leaving[k] = true
	r.storeLocked(k)
}

// storeLocked has the writer bring the store to what is in memory.
func (r *registry) storeLocked(k key) {
	r.dirty[k] = true
	wake(r.toStore)
}

// closed notes the end of a stream. The lease runs on.
func (r *registry) closed(sess *session) {
	r.mu.Lock()
	defer r.mu.Unlock()
	sess.gone = true
	delete(r.draining, sess)
	if rec := r.findLocked(sess.key); rec != nil && rec.sess == sess {
		rec.sess = nil
	}
}

// answer is what a session's instance is told, or nil when it is not registered (any more).
func (r *registry) answer(sess *session) *discoveryv1.RegisterResponse {
	r.mu.Lock()
	defer r.mu.Unlock()
	rec := r.findLocked(sess.key)
	if rec == nil {
		return nil
	}
	return &discoveryv1.RegisterResponse{
		Instance: rec.inst, Heartbeat: durationpb.New(rec.heartbeat), Lease: durationpb.New(rec.lease),
		Propagated: r.spreadLocked(sess.key, rec),
	}
}

// list returns the instances of a service, or of all, sorted.
func (r *registry) list(service string) []*discoveryv1.Instance {
	r.mu.Lock()
	defer r.mu.Unlock()
	var out []*discoveryv1.Instance
	for name, m := range r.services {
		if service != "" && name != service {
			continue
		}
		for _, rec := range m {
			out = append(out, rec.inst)
		}
	}
	slices.SortFunc(out, func(a, b *discoveryv1.Instance) int {
		if c := strings.Compare(a.GetService(), b.GetService()); c != 0 {
			return c
		}
		return strings.Compare(a.GetId(), b.GetId())
	})
	return out
}

// warmingLocked: the registry may not know everybody.
func (r *registry) warmingLocked(now time.Time) bool { return !r.loaded || now.Before(r.warmUntil) }

// storeProblem says why the store is not in use, or nothing.
func (r *registry) storeProblem() string {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.problem == nil {
		return ""
	}
	return r.problem.Error()
}
