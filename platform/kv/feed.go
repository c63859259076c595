package kv

import (
	"context"
	"strings"
	"sync"
)

// Feed is the state of the keys under one prefix and the watches that read it. Implementations of [Store] keep one per
// prefix and tell it what they learn; readers only see [Watch]. It does no input or output and starts no goroutine that
// outlives a watch's context.
type Feed struct {
	prefix string
	idle   func()

	mu      sync.Mutex
	synced  bool             // Reset was called
	state   map[string]Entry // key -> entry, as of rev
	rev     Revision         // every change up to here is in state
	expect  Revision         // highest write under prefix that was acknowledged
	problem error            // why nothing can be learned now
	closed  error            // why no watch can go on
	watches map[*Watch]bool
}

// delta is an update that is not a snapshot, with what folding needs to know.
type delta struct {
	Update
	born []bool // Puts[i] was not there before
	size int    // bytes
}

// NewFeed returns a feed that knows nothing yet. idle, when not nil, is called each time the last watch has ended, without
// locks held; the feed may have a new one by then: see [Feed.Idle].
func NewFeed(prefix string, idle func()) *Feed {
	return &Feed{prefix: prefix, idle: idle, state: map[string]Entry{}, watches: map[*Watch]bool{}}
}

// BadWatch returns a watch that is over: its Next returns err.
func BadWatch(prefix string, err error) *Watch {
	f := NewFeed(prefix, nil)
	f.Close(err)
	return f.Watch(context.Background())
}

// Watch adds a reader, until ctx ends.
func (f *Feed) Watch(ctx context.Context) *Watch {
	f.mu.Lock()
	defer f.mu.Unlock()
	w := &Watch{feed: f, done: ctx.Done(), cause: ctx.Err, ready: make(chan struct{}, 1), want: f.expect}
	f.watches[w] = true
	w.startLocked()
	if ctx.Done() != nil {
		context.AfterFunc(ctx, func() { f.remove(w) })
	}
	return w
}

func (f *Feed) remove(w *Watch) {
	f.mu.Lock()
	delete(f.watches, w)
	w.first, w.queue, w.folded = nil, nil, nil
	last := len(f.watches) == 0
	f.mu.Unlock()
	if last && f.idle != nil {
		f.idle()
	}
}

// Idle says that nobody watches.
func (f *Feed) Idle() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return len(f.watches) == 0
}

// Revision is the last one that the feed has everything of; false before the first Reset.
func (f *Feed) Revision() (Revision, bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.rev, f.synced
}

// Reset tells the feed all entries under its prefix at rev, and ends a problem. The first time readers get a snapshot,
// later the difference to what they know. rev may be lower than before: a store that was restored from an old copy.
func (f *Feed) Reset(entries []Entry, rev Revision) {
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

func (f *Feed) diffLocked(entries []Entry, rev Revision) Update {
	u := Update{Resync: true, Revision: rev}
	there := make(map[string]bool, len(entries))
	for _, e := range entries {
		there[e.Key] = true
		if old, ok := f.state[e.Key]; !ok || old.Modified != e.Modified || old.Created != e.Created || string(old.Value) != string(e.Value) {
			u.Puts = append(u.Puts, e)
		}
	}
	for key := range f.state {
		if !there[key] {
			u.Deletes = append(u.Deletes, key)
		}
	}
	return u
}

// Apply tells the feed one transaction, puts and deletes under its prefix. One that it knows already is ignored.
func (f *Feed) Apply(u Update) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if !f.synced || u.Revision <= f.rev {
		return
	}
	f.rev, f.problem = u.Revision, nil
	f.publishLocked(u)
	f.wakeLocked()
}

// Advance tells the feed that it has everything up to rev, and ends a problem.
func (f *Feed) Advance(rev Revision) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if !f.synced {
		return
	}
	f.rev, f.problem = max(f.rev, rev), nil
	f.wakeLocked()
}

// Expect tells the feed that a write under its prefix was acknowledged at rev: the snapshot of a watch that starts from now
// on will have it.
func (f *Feed) Expect(rev Revision) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.expect = max(f.expect, rev)
}

// Break tells the feed that its source is cut off, until Reset, Apply or Advance.
func (f *Feed) Break(err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.problem = err
	f.wakeLocked()
}

// Close ends all watches with err.
func (f *Feed) Close(err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.closed, f.problem = err, err
	f.wakeLocked()
}

func (f *Feed) publishLocked(u Update) {
	u.sort()
	d := delta{Update: u, born: make([]bool, len(u.Puts))}
	for i, e := range u.Puts {
		_, old := f.state[e.Key]
		d.born[i] = !old
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

func (f *Feed) entries() []Entry {
	u := Update{Puts: make([]Entry, 0, len(f.state))}
	for _, e := range f.state {
		u.Puts = append(u.Puts, e)
	}
	u.sort()
	return u.Puts
}

// Under returns the part of u that is under prefix; with neither puts nor deletes when there is none.
func (u Update) Under(prefix string) Update {
	part := Update{Revision: u.Revision}
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
