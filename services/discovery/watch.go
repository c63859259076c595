package discovery

import (
	"math"
	"time"

	discoveryv1 "bijou.dev/platform/api/discovery/v1"
	"bijou.dev/platform/errs"
	"bijou.dev/platform/kv"
)

const (
	// refreshEvery is how often, without changes, an empty delta is sent, which the watcher acknowledges.
	refreshEvery = 5 * time.Second
	// ackTimeout is after what time a watcher that acknowledges nothing is disconnected, so that no drain waits for it.
	ackTimeout = 3 * refreshEvery
)

// watcher is one watch stream. Its fields are guarded by the registry's mu.
type watcher struct {
	services map[string]bool // nil: all
	name     string
	pending  map[key]bool // changed since the last send
	sent     int64        // version of the last send
	acked    int64
	ackedAt  time.Time // the last acknowledgement, or the start of the stream
	warming  bool      // the last value that was sent
	wake     chan struct{}
	ended    chan error // one slot: why the stream must end
}

func newWatcher(req *discoveryv1.WatchRequest) *watcher {
	w := &watcher{
		name: req.GetWatcher(), pending: map[key]bool{}, wake: make(chan struct{}, 1), ended: make(chan error, 1),
	}
	for _, s := range req.GetServices() {
		if w.services == nil {
			w.services = map[string]bool{}
		}
		w.services[s] = true
	}
	return w
}

func (w *watcher) wants(service string) bool { return w.services == nil || w.services[service] }

// complete is the version up to which the watcher has acknowledged all changes of its services.
func (w *watcher) complete() int64 {
	if len(w.pending) == 0 && w.acked == w.sent {
		return math.MaxInt64
	}
	return w.acked
}

func (w *watcher) end(err error) {
	select {
	case w.ended <- err:
	default:
	}
}

// watchers are the watch streams of this replica, and what they have acknowledged. The registry's lock guards them.
type watchers struct {
	all   map[*watcher]struct{}
	marks []mark      // store revisions that not all watchers have acknowledged, oldest first
	acked kv.Revision // newest store revision that all watchers have acknowledged
}

// mark pairs a version with the newest store revision whose changes it contains.
type mark struct {
	version int64
	rev     kv.Revision
}

// maxMarks bounds the marks that wait for slow watchers. When there are more, the newest ones are merged.
const maxMarks = 1024

// notify records a change of an instance for all watchers that follow its service.
func (ws *watchers) notify(k key) {
	for w := range ws.all {
		if w.wants(k.service) {
			w.pending[k] = true
			wake(w.wake)
		}
	}
}

// complete is the version up to which all watchers have acknowledged all changes.
func (ws *watchers) complete() int64 {
	version := int64(math.MaxInt64)
	for w := range ws.all {
		version = min(version, w.complete())
	}
	return version
}

// mark records that version contains the store up to rev.
func (ws *watchers) mark(version int64, rev kv.Revision) {
	if len(ws.marks) >= maxMarks {
		ws.marks[len(ws.marks)-1] = mark{version, rev}
		return
	}
	ws.marks = append(ws.marks, mark{version, rev})
}

// updateAcked updates acked from the acknowledgements, and reports whether it has changed.
func (ws *watchers) updateAcked() bool {
	if len(ws.marks) == 0 {
		return false
	}
	complete, before := ws.complete(), ws.acked
	for len(ws.marks) > 0 && ws.marks[0].version <= complete {
		ws.acked = ws.marks[0].rev
		ws.marks = ws.marks[1:]
	}
	return ws.acked != before
}

// follow adds a watcher and returns its snapshot, which has to be acknowledged too.
func (r *registry) follow(w *watcher, now time.Time) (*discoveryv1.WatchResponse, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.watchers.all) >= r.opts.MaxWatchers {
		return nil, errs.Errorf(errs.Exhausted, "watching: this replica has %d watchers, which is its limit",
			len(r.watchers.all)).RetryIn(r.opts.Lease)
	}
	r.watchers.all[w] = struct{}{}
	// Version 0 means that nothing was applied, so the first version that is sent is at least 1.
	r.version = max(r.version, 1)
	w.sent, w.ackedAt, w.warming = r.version, now, r.store.warming(now)
	m := &discoveryv1.WatchResponse{Version: w.sent, Snapshot: true, WarmingUp: w.warming}
	for k, rec := range r.instances.all() {
		if w.wants(k.service) {
			m.Instances = append(m.Instances, rec.inst)
		}
	}
	return m, nil
}

// changes returns the changes that were not sent to w yet, if any.
func (r *registry) changes(w *watcher, now time.Time) *discoveryv1.WatchResponse {
	r.mu.Lock()
	defer r.mu.Unlock()
	w.sent, w.warming = r.version, r.store.warming(now)
	m := &discoveryv1.WatchResponse{Version: w.sent, WarmingUp: w.warming}
	for k := range w.pending {
		if rec := r.instances.find(k); rec != nil {
			m.Instances = append(m.Instances, rec.inst)
		} else {
			m.Removed = append(m.Removed, &discoveryv1.InstanceRef{Service: k.service, Id: k.id})
		}
	}
	clear(w.pending)
	return m
}

func (r *registry) ack(w *watcher, version int64, now time.Time) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if version > w.sent {
		return errs.Errorf(errs.Invalid, "acknowledging").Field("applied_version", "must be a version that was sent")
	}
	w.acked, w.ackedAt = max(w.acked, version), now
	r.ackedLocked()
	return nil
}

func (r *registry) unfollow(w *watcher) {
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.watchers.all, w)
	r.ackedLocked()
}

// checkWatchersLocked disconnects watchers that do not acknowledge, and informs the others when the registry begins or
// ends to warm up.
func (r *registry) checkWatchersLocked(now time.Time) {
	warming := r.store.warming(now)
	for w := range r.watchers.all {
		if w.warming != warming {
			wake(w.wake)
		}
		if now.Sub(w.ackedAt) > ackTimeout {
			w.end(errs.Errorf(errs.Unavailable, "watching: nothing was acknowledged for %v", ackTimeout))
			delete(r.watchers.all, w)
			r.ackedLocked()
		}
	}
}

// ackedLocked is called when watchers here or at other replicas may have acknowledged more than before. It informs the
// other replicas, and the instances that drain.
func (r *registry) ackedLocked() {
	if r.watchers.updateAcked() {
		wake(r.toPeers)
	}
	for sess := range r.draining {
		if rec := r.instances.find(sess.key); rec == nil || r.propagatedLocked(sess.key, rec) {
			delete(r.draining, sess)
			wake(sess.wake)
		}
	}
}

// propagatedLocked reports whether all watchers of all replicas have acknowledged the newest change of an instance. The
// presence of another replica has the store revision that its watchers have acknowledged, so the record must have been
// written.
func (r *registry) propagatedLocked(k key, rec *record) bool {
	if rec.propagated {
		return true
	}
	if !r.store.loaded || rec.version > r.watchers.complete() {
		return false
	}
	for id, p := range r.leases.replicas {
		if id == r.self {
			continue
		}
		if rev, ok := r.store.has(k, r.self); !ok || p.Acked < rev {
			return false
		}
	}
	rec.propagated = true
	return true
}
