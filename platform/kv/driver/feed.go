package driver

import (
	"context"
	"strings"
	"sync"

	"bijou.dev/platform/kv"
)

// Feed is the state of the keys under one prefix and the watches that read it. A store keeps one per prefix and reports
// to it what it learns from its source. A feed does no input or output and starts no goroutine that outlives a watch's
// context.
type Feed struct {
	prefix string
	idle   func()

	mu      sync.Mutex
	synced  bool                // Reset was called
	state   map[string]kv.Entry // key -> entry, as of rev
	rev     kv.Revision         // every change up to here is in state
	expect  kv.Revision         // highest acknowledged write under prefix
	problem error               // why nothing can be learned now
	closed  error               // why no watch can go on
	watches map[*watch]bool
}

// delta is an update that is not a snapshot, with what merging needs.
type delta struct {
	kv.Update
	created []bool // Puts[i] did not exist before
	size    int    // bytes
}

// NewFeed returns a feed that knows nothing yet. idle, when not nil, is called each time the last watch has ended,
// without locks held. By then the feed may have a new watch: check [Feed.Idle].
func NewFeed(prefix string, idle func()) *Feed {
	return &Feed{prefix: prefix, idle: idle, state: map[string]kv.Entry{}, watches: map[*watch]bool{}}
}

// FailedWatch returns a watch whose Next returns err.
func FailedWatch(prefix string, err error) kv.Watch {
	f := NewFeed(prefix, nil)
	f.Close(err)
	return f.Watch(context.Background())
}

// Watch adds a reader, until ctx ends.
func (f *Feed) Watch(ctx context.Context) kv.Watch {
	f.mu.Lock()
	defer f.mu.Unlock()
	w := &watch{feed: f, done: ctx.Done(), cause: ctx.Err, ready: make(chan struct{}, 1), want: f.expect}
	f.watches[w] = true
	w.startLocked()
	if ctx.Done() != nil {
		context.AfterFunc(ctx, func() { f.remove(w) })
	}
	return w
}

func (f *Feed) remove(w *watch) {
	f.mu.Lock()
	delete(f.watches, w)
	w.first, w.queue, w.merged = nil, nil, nil
	last := len(f.watches) == 0
	f.mu.Unlock()
	if last && f.idle != nil {
		f.idle()
	}
}

// Idle reports whether there is no watch.
func (f *Feed) Idle() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return len(f.watches) == 0
}

// Revision returns the revision up to which the feed has every change, and false before the first Reset.
func (f *Feed) Revision() (kv.Revision, bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.rev, f.synced
}

// Reset sets all entries under the prefix, as of rev, and clears a problem. The first time readers get a snapshot,
// later the difference to what they know. rev may be lower than before: the store was restored from an older copy.
func (f *Feed) Reset(entries []kv.Entry, rev kv.Revision) {
	f.mu.Lock()
	defer f.mu.Unlock()
	defer f.wakeLocked()
	if rev < f.rev {
		f.expect = 0
		for w := range f.watches {
			w.want = 0
		}
	}
	f.rev, f.problem = rev, nil
	if f.synced {
		f.publishLocked(f.diffLocked(entries, rev))
		return
	}
	f.synced = true
	for _, e := range entries {
		f.state[e.Key] = e
	}
}

func (f *Feed) diffLocked(entries []kv.Entry, rev kv.Revision) kv.Update {
	u := kv.Update{Resync: true, Revision: rev}
	listed := make(map[string]bool, len(entries))
	for _, e := range entries {
		listed[e.Key] = true
		if old, ok := f.state[e.Key]; !ok || !same(old, e) {
			u.Puts = append(u.Puts, e)
		}
	}
	for key := range f.state {
		if !listed[key] {
			u.Deletes = append(u.Deletes, key)
		}
	}
	return u
}

func same(a, b kv.Entry) bool {
	return a.Modified == b.Modified && a.Created == b.Created && string(a.Value) == string(b.Value)
}

// Apply adds one transaction: its puts and deletes under the prefix. A transaction that the feed has already is
// ignored.
func (f *Feed) Apply(u kv.Update) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if !f.synced || u.Revision <= f.rev {
		return
	}
	f.rev, f.problem = u.Revision, nil
	f.publishLocked(u)
	f.wakeLocked()
}

// Advance reports that the feed has every change up to rev, and clears a problem.
func (f *Feed) Advance(rev kv.Revision) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if !f.synced {
		return
	}
	f.rev, f.problem = max(f.rev, rev), nil
	f.wakeLocked()
}

// Expect reports that a write under the prefix was acknowledged at rev: the snapshot of a watch that starts after this
// call waits for it.
func (f *Feed) Expect(rev kv.Revision) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.expect = max(f.expect, rev)
}

// SetProblem reports that the source cannot be reached, until Reset, Apply or Advance.
func (f *Feed) SetProblem(err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.problem = err
	f.wakeLocked()
}

// Close ends all watches with err.
func (f *Feed) Close(err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.closed = err
	f.wakeLocked()
}

func (f *Feed) publishLocked(u kv.Update) {
	sortUpdate(&u)
	d := delta{Update: u, created: make([]bool, len(u.Puts))}
	for i, e := range u.Puts {
		_, old := f.state[e.Key]
		d.created[i] = !old
		d.size += len(e.Key) + len(e.Value)
		f.state[e.Key] = e
	}
	for _, key := range u.Deletes {
		d.size += len(key)
		delete(f.state, key)
	}
	if len(u.Puts)+len(u.Deletes) == 0 {
		return
	}
	for w := range f.watches {
		w.pushLocked(d)
	}
}

func (f *Feed) wakeLocked() {
	for w := range f.watches {
		select {
		case w.ready <- struct{}{}:
		default:
		}
	}
}

func (f *Feed) entriesLocked() []kv.Entry {
	u := kv.Update{Puts: make([]kv.Entry, 0, len(f.state))}
	for _, e := range f.state {
		u.Puts = append(u.Puts, e)
	}
	sortUpdate(&u)
	return u.Puts
}

// Under returns the part of u that is under prefix. It has neither puts nor deletes when there is none.
func Under(prefix string, u kv.Update) kv.Update {
	part := kv.Update{Revision: u.Revision}
	for _, e := range u.Puts {
		if strings.HasPrefix(e.Key, prefix) {
			part.Puts = append(part.Puts, e)
		}
	}
	for _, key := range u.Deletes {
		if strings.HasPrefix(key, prefix) {
			part.Deletes = append(part.Deletes, key)
		}
	}
	return part
}
