package discovery

import (
	"math"
	"time"

	discoveryv1 "bijou.dev/platform/api/discovery/v1"
	"bijou.dev/platform/errs"
	"bijou.dev/platform/kv"
)

const (
	// speakEvery is the longest silence on a watch stream: without news an empty delta is sent, and acknowledged.
	speakEvery = 5 * time.Second
	// deafAfter is when a watcher that acknowledges nothing is cut off: nobody should wait for it to drain.
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
	warming  bool      // what it was told last
	wake     chan struct{}
	over     chan error // one slot
}

func newWatcher(req *discoveryv1.WatchRequest) *watcher {
	w := &watcher{name: req.GetWatcher(), pending: map[key]bool{}, wake: make(chan struct{}, 1), over: make(chan error, 1)}
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

// follow adds a watcher and returns its snapshot. The acknowledgement of the snapshot is awaited like any other.
func (r *registry) follow(w *watcher, now time.Time) (*discoveryv1.WatchResponse, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.watchers) >= r.opts.MaxWatchers {
		return nil, errs.Errorf(errs.Exhausted, "watching: this replica has %d watchers, which is its limit", len(r.watchers)).RetryIn(r.opts.Lease)
	}
	r.watchers[w] = struct{}{}
	// Version 0 means nothing applied, so the first version sent must be another one.
	r.version = max(r.version, 1)
	w.sent, w.heard, w.warming = r.version, now, r.warmingLocked(now)
	m := &discoveryv1.WatchResponse{Version: w.sent, Snapshot: true, WarmingUp: w.warming}
	for service, recs := range r.services {
		if !w.wants(service) {
			continue
		}
		for _, rec := range recs {
			m.Instances = append(m.Instances, rec.inst)
		}
	}
	return m, nil
}

// news returns what w has to learn, which may be nothing.
func (r *registry) news(w *watcher, now time.Time) *discoveryv1.WatchResponse {
	r.mu.Lock()
	defer r.mu.Unlock()
	w.sent, w.warming = r.version, r.warmingLocked(now)
	m := &discoveryv1.WatchResponse{Version: w.sent, WarmingUp: w.warming}
	for k := range w.pending {
		if rec := r.findLocked(k); rec != nil {
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
	delete(r.watchers, w)
	r.settleLocked()
}

// tellLocked notes a change for all watchers that want it.
func (r *registry) tellLocked(k key) {
	for w := range r.watchers {
		if w.wants(k.service) {
			w.pending[k] = true
			wake(w.wake)
		}
	}
}

// attendLocked cuts off deaf watchers and tells the others when warming up has ended.
func (r *registry) attendLocked(now time.Time) {
	warming := r.warmingLocked(now)
	for w := range r.watchers {
		if w.warming != warming {
			wake(w.wake)
		}
		if now.Sub(w.heard) > deafAfter {
			w.end(errs.Errorf(errs.Unavailable, "watching: nothing was acknowledged for %v", deafAfter))
			delete(r.watchers, w)
			r.settleLocked()
		}
	}
}

// mark says that who knows version knows everything of other replicas up to a revision of the store.
type mark struct {
	version int64
	rev     kv.Revision
}

// maxMarks bounds the marks that wait for slow watchers; beyond, the newest ones are merged.
const maxMarks = 1024

func (r *registry) markLocked(rev kv.Revision) {
	r.folded = rev
	if len(r.marks) >= maxMarks {
		r.marks[len(r.marks)-1] = mark{r.version, rev}
		return
	}
	r.marks = append(r.marks, mark{r.version, rev})
}

// settleLocked draws the conclusions when watchers, or other replicas, know more than before.
func (r *registry) settleLocked() {
	if len(r.marks) > 0 {
		known, before := r.knownLocked(), r.acked
		for len(r.marks) > 0 && r.marks[0].version <= known {
			r.acked = r.marks[0].rev
			r.marks = r.marks[1:]
		}
		if r.acked != before {
			wake(r.toPeers)
		}
	}
	for sess := range r.draining {
		if rec := r.findLocked(sess.key); rec == nil || r.spreadLocked(sess.key, rec) {
			delete(r.draining, sess)
			wake(sess.wake)
		}
	}
}

// knownLocked is the version that every watcher here has acknowledged.
func (r *registry) knownLocked() int64 {
	known := int64(math.MaxInt64)
	for w := range r.watchers {
		known = min(known, w.knows())
	}
	return known
}

// spreadLocked reports whether all watchers of all replicas know what an instance is now. The other replicas say in
// their presence up to which revision of the store their watchers know everything, so the record must have been written.
func (r *registry) spreadLocked(k key, rec *record) bool {
	if rec.spread {
		return true
	}
	if !r.loaded || rec.version > r.knownLocked() {
		return false
	}
	for id, p := range r.replicas {
		if id == r.self {
			continue
		}
		st := r.stored[k]
		if r.dirty[k] || r.writing[k] || st.owner != r.self || p.Acked < st.rev {
			return false
		}
	}
	rec.spread = true
	return true
}
