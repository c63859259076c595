package kv

import (
	"context"
	"fmt"
	"slices"
	"strings"
)

// Update is what changed under a prefix.
type Update struct {
	// Snapshot marks the first update of a watch: Puts is everything there is, Deletes is empty.
	Snapshot bool
	// Resync marks a difference that was found by listing again after the watch was cut off. Puts and Deletes are exact, but
	// stand for any number of transactions. A reader that fears a store that lost its data looks twice at one that
	// deletes a lot.
	Resync bool
	// Revision is the state of the store that the update leads to.
	Revision Revision
	// Puts are the keys that were created or changed, sorted by key.
	Puts []Entry
	// Deletes are the keys that are gone, sorted.
	Deletes []string
}

// What a watch holds for a reader that does not come: beyond either, updates are folded into one.
const (
	maxQueued      = 256
	maxQueuedBytes = 4 << 20
)

// Watch is one reader's view of the keys under a prefix, for one goroutine at a time.
//
// The first update is a snapshot. It holds every write that this store acknowledged before Watch was called, as long as
// the store can be reached; when it is cut off, the snapshot is the last known state. Then come deltas, in order of
// revision, one per transaction, with nothing missed and nothing twice. When the store had to be listed again the delta
// is the difference: a watch never starts over and never blanks what it has shown. A reader that falls far behind
// gets what it missed folded into one delta, so its memory is bounded by what it knew and what there is. No delta is empty.
type Watch struct {
	feed  *Feed
	done  <-chan struct{} // closed when the watch's own context ends
	cause func() error    // why done was closed
	ready chan struct{}   // holds one token after a change

	// Guarded by feed.mu.
	started bool // the snapshot was taken; it is first, until delivered
	first   *Update
	want    Revision         // the snapshot waits for this revision
	queue   []delta          // oldest first; empty when folded is not nil
	size    int              // bytes in queue
	folded  map[string]folds // key -> what became of it, when the reader lags
	latest  Revision         // of the last update folded
	resync  bool             // one of the folded updates was a resync
}

// folds is what happened to one key while its reader lagged.
type folds struct {
	entry   Entry
	deleted bool
	known   bool // the reader has been shown the key
}

// Next waits for the next update. It returns an error only when ctx or the watch's own context ends, the store is closed, or
// the prefix was invalid; the watch is then over, except after the end of ctx.
func (w *Watch) Next(ctx context.Context) (Update, error) {
	for {
		select {
		case <-ctx.Done():
			return Update{}, fmt.Errorf("watching %s: %w", w.feed.prefix, ctx.Err())
		case <-w.done:
			return Update{}, fmt.Errorf("watching %s: %w", w.feed.prefix, w.cause())
		default:
		}
		if u, ok, err := w.take(); ok || err != nil {
			return u, err
		}
		select {
		case <-ctx.Done():
		case <-w.done:
		case <-w.ready:
		}
	}
}

// Problem says why the watch is cut off from its store, or nil. While it is not nil the reader's view may be out of date.
func (w *Watch) Problem() error {
	w.feed.mu.Lock()
	defer w.feed.mu.Unlock()
	return w.feed.problem
}

func (w *Watch) take() (Update, bool, error) {
	f := w.feed
	f.mu.Lock()
	defer f.mu.Unlock()
	switch {
	case f.closed != nil:
		return Update{}, false, f.closed
	case !w.started && !w.startLocked():
		return Update{}, false, nil
	case w.first != nil:
		u := *w.first
		w.first = nil
		return u, true, nil
	case w.folded != nil:
		u := w.unfold()
		return u, len(u.Puts)+len(u.Deletes) > 0, nil
	case len(w.queue) > 0:
		d := w.queue[0]
		w.queue[0] = delta{}
		w.queue = w.queue[1:]
		w.size -= d.size
		return d.Update, true, nil
	}
	return Update{}, false, nil
}

// startLocked takes the snapshot, if the feed knows enough. feed.mu is held.
func (w *Watch) startLocked() bool {
	f := w.feed
	if !f.synced || (f.rev < w.want && f.problem == nil) {
		return false
	}
	w.started = true
	w.first = &Update{Snapshot: true, Revision: f.rev, Puts: f.entries()}
	return true
}

// pushLocked adds a delta for the reader. feed.mu is held.
func (w *Watch) pushLocked(d delta) {
	if !w.started {
		return // the snapshot will hold it
	}
	if w.folded != nil {
		w.fold(d)
		return
	}
	w.queue = append(w.queue, d)
	w.size += d.size
	if len(w.queue) <= maxQueued && w.size <= maxQueuedBytes {
		return
	}
	w.folded = map[string]folds{}
	for _, d := range w.queue {
		w.fold(d)
	}
	w.queue, w.size = nil, 0
}

// fold merges d into what the reader has to be told. A key that came and went unseen leaves nothing behind.
func (w *Watch) fold(d delta) {
	for i, e := range d.Puts {
		before, ok := w.folded[e.Key]
		w.folded[e.Key] = folds{entry: e, known: before.known || (!ok && !d.born[i])}
	}
	for _, key := range d.Deletes {
		if before, ok := w.folded[key]; ok && !before.known {
			delete(w.folded, key)
			continue
		}
		w.folded[key] = folds{deleted: true, known: true}
	}
	w.latest = d.Revision
	w.resync = w.resync || d.Resync
}

func (w *Watch) unfold() Update {
	u := Update{Revision: w.latest, Resync: w.resync}
	for key, f := range w.folded {
		if f.deleted {
			u.Deletes = append(u.Deletes, key)
		} else {
			u.Puts = append(u.Puts, f.entry)
		}
	}
	w.folded, w.resync = nil, false
	u.sort()
	return u
}

func (u *Update) sort() {
	slices.SortFunc(u.Puts, func(a, b Entry) int { return strings.Compare(a.Key, b.Key) })
	slices.Sort(u.Deletes)
}
