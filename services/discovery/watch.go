package discovery

import (
	"math"
	"time"

	discoveryv1 "bijou.dev/platform/api/discovery/v1"
	"bijou.dev/platform/errs"
	"bijou.dev/platform/kv"
)

const (
	// speakEvery is the longest silence on a watch stream: without changes an empty delta is sent, and acknowledged.
	speakEvery = 5 * time.Second
	// deafAfter is when a watcher that acknowledges nothing is disconnected, so that no drain waits for it.
	deafAfter = 3 * speakEvery
)

// watcher is one watch stream. Its fields are guarded by the registry's mu.
type watcher struct {
	services map[string]bool // nil: all
	name     string
	pending  map[key]bool // changed since the last send
	sent     int64        // version of the last send
	acked    int64
	heard    time.Time // last acknowledgement, or the start
	warming  bool      // what was last sent
	wake     chan struct{}
	over     chan error // one slot
}

func newWatcher(req *discoveryv1.WatchRequest) *watcher {
	w := &watcher{
		name: req.GetWatcher(), pending: map[key]bool{}, wake: make(chan struct{}, 1), over: make(chan error, 1),
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

// knows is the version up to which the watcher has acknowledged everything that concerns it.
func (w *watcher) knows() int64 {
	if len(w.pending) == 0 && w.acked == w.sent {
		return math.MaxInt64
	}
	return w.acked
}

func (w *watcher) end(err error) {
	select {
	case w.over <- err:
	default:
	}
}

// watchers are the watch streams of this replica, and what they have acknowledged. The registry's lock guards them.
type watchers struct {
	all   map[*watcher]struct{}
	marks []mark      // store revisions that not all watchers have acknowledged, oldest first
	acked kv.Revision // newest store revision that all watchers have acknowledged
}

// mark says that a watcher that has acknowledged version knows all instances of other replicas up to a store
// revision.
type mark struct {
	version int64
	rev     kv.Revision
}

// maxMarks bounds the marks that wait for slow watchers; beyond, the newest ones are merged.
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

// known is the version that all watchers have acknowledged.
func (ws *watchers) known() int64 {
	known := int64(math.MaxInt64)
	for w := range ws.all {
		known = min(known, w.knows())
	}
	return known
}

// mark records that version contains the store up to rev.
func (ws *watchers) mark(version int64, rev kv.Revision) {
	if len(ws.marks) >= maxMarks {
		ws.marks[len(ws.marks)-1] = mark{version, rev}
		return
	}
	ws.marks = append(ws.marks, mark{version, rev})
}

// settle reports whether acked has grown.
func (ws *watchers) settle() bool {
	if len(ws.marks) == 0 {
		return false
	}
	known, before := ws.known(), ws.acked
	for len(ws.marks) > 0 && ws.marks[0].version <= known {
		ws.acked = ws.marks[0].rev
		ws.marks = ws.marks[1:]
	}
	return ws.acked != before
}

// follow adds a watcher and returns its snapshot. The acknowledgement of the snapshot is awaited like any other.
func (r *registry) follow(w *watcher, now time.Time) (*discoveryv1.WatchResponse, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.watchers.all) >= r.opts.MaxWatchers {
		return nil, errs.Errorf(errs.Exhausted, "watching: this replica has %d watchers, which is its limit",
			len(r.watchers.all)).RetryIn(r.opts.Lease)
	}
	r.watchers.all[w] = struct{}{}
	// Version 0 means nothing applied, so the first version sent must be another one.
	r.version = max(r.version, 1)
	w.sent, w.heard, w.warming = r.version, now, r.store.warming(now)
	m := &discoveryv1.WatchResponse{Version: w.sent, Snapshot: true, WarmingUp: w.warming}
	for k, rec := range r.instances.all() {
		if w.wants(k.service) {
			m.Instances = append(m.Instances, rec.inst)
		}
	}
	return m, nil
}

// news returns the changes that w has not got yet, which may be none.
func (r *registry) news(w *watcher, now time.Time) *discoveryv1.WatchResponse {
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
	w.acked, w.heard = max(w.acked, version), now
	r.settleLocked()
	return nil
}

func (r *registry) unfollow(w *watcher) {
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.watchers.all, w)
	r.settleLocked()
}

// checkWatchersLocked disconnects watchers that do not acknowledge, and informs the others when warming up has ended.
func (r *registry) checkWatchersLocked(now time.Time) {
	warming := r.store.warming(now)
	for w := range r.watchers.all {
		if w.warming != warming {
			wake(w.wake)
		}
		if now.Sub(w.heard) > deafAfter {
			w.end(errs.Errorf(errs.Unavailable, "watching: nothing was acknowledged for %v", deafAfter))
			delete(r.watchers.all, w)
			r.settleLocked()
		}
	}
}

// settleLocked is called when watchers, or other replicas, may know more than before. It informs the other replicas, and
// the instances that drain.
func (r *registry) settleLocked() {
	if r.watchers.settle() {
		wake(r.toPeers)
	}
	for sess := range r.draining {
		if rec := r.instances.find(sess.key); rec == nil || r.spreadLocked(sess.key, rec) {
			delete(r.draining, sess)
			wake(sess.wake)
		}
	}
}

// spreadLocked reports whether all watchers of all replicas know what an instance is now. The presence of each other
// replica has the store revision up to which its watchers know everything, so the record must have been written.
func (r *registry) spreadLocked(k key, rec *record) bool {
	if rec.spread {
		return true
	}
	if !r.store.loaded || rec.version > r.watchers.known() {
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
	rec.spread = true
	return true
}
