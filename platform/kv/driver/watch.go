package driver

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"bijou.dev/platform/kv"
)

// Limits of what a watch holds for a slow reader. Beyond either, its updates are merged into one.
const (
	maxQueued      = 256
	maxQueuedBytes = 4 << 20
)

// watch implements [kv.Watch]: one reader of a feed.
type watch struct {
	feed  *Feed
	done  <-chan struct{} // closed when the watch's own context ends
	cause func() error    // why done was closed
	ready chan struct{}   // holds one token after a change

	// Guarded by feed.mu.
	started bool              // the snapshot was taken
	first   *kv.Update        // the snapshot, until delivered
	want    kv.Revision       // the snapshot waits for this revision
	queue   []delta           // oldest first; empty when merged is not nil
	size    int               // bytes in queue
	merged  map[string]change // key -> what happened to it; nil: the reader is not far behind
	latest  kv.Revision       // of the last update in merged
	resync  bool              // an update in merged was a resync
}

// change is what happened to one key while its reader was behind.
type change struct {
	entry   kv.Entry
	deleted bool
	shown   bool // the reader has seen the key before
}

// Next implements kv.Watch.
func (w *watch) Next(ctx context.Context) (kv.Update, error) {
	for {
		select {
		case <-ctx.Done():
			return kv.Update{}, fmt.Errorf("watching %s: %w", w.feed.prefix, ctx.Err())
		case <-w.done:
			return kv.Update{}, fmt.Errorf("watching %s: %w", w.feed.prefix, w.cause())
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

// Problem implements kv.Watch.
func (w *watch) Problem() error {
	w.feed.mu.Lock()
	defer w.feed.mu.Unlock()
	if w.feed.closed != nil {
		return w.feed.closed
	}
	return w.feed.problem
}

func (w *watch) take() (kv.Update, bool, error) {
	f := w.feed
	f.mu.Lock()
	defer f.mu.Unlock()
	switch {
	case f.closed != nil:
		return kv.Update{}, false, f.closed
	case !w.started && !w.startLocked():
		return kv.Update{}, false, nil
	case w.first != nil:
		u := *w.first
		w.first = nil
		return u, true, nil
	case w.merged != nil:
		u := w.takeMergedLocked()
		return u, len(u.Puts)+len(u.Deletes) > 0, nil
	case len(w.queue) > 0:
		d := w.queue[0]
		w.queue[0] = delta{}
		w.queue = w.queue[1:]
		w.size -= d.size
		return d.Update, true, nil
	}
	return kv.Update{}, false, nil
}

// startLocked takes the snapshot, if the feed knows enough. feed.mu is held.
func (w *watch) startLocked() bool {
	f := w.feed
	if !f.synced || (f.rev < w.want && f.problem == nil) {
		return false
	}
	w.started = true
	w.first = &kv.Update{Snapshot: true, Revision: f.rev, Puts: f.entriesLocked()}
	return true
}

// pushLocked adds a delta for the reader. feed.mu is held.
func (w *watch) pushLocked(d delta) {
	if !w.started {
		return // the snapshot will have it
	}
	if w.merged != nil {
		w.mergeLocked(d)
		return
	}
	w.queue = append(w.queue, d)
	w.size += d.size
	if len(w.queue) <= maxQueued && w.size <= maxQueuedBytes {
		return
	}
	w.merged = map[string]change{}
	for _, d := range w.queue {
		w.mergeLocked(d)
	}
	w.queue, w.size = nil, 0
}

// mergeLocked adds d to the changes that the reader has not seen. A key that was created and deleted meanwhile is not
// mentioned.
func (w *watch) mergeLocked(d delta) {
	for i, e := range d.Puts {
		before, ok := w.merged[e.Key]
		w.merged[e.Key] = change{entry: e, shown: before.shown || (!ok && !d.created[i])}
	}
	for _, key := range d.Deletes {
		if before, ok := w.merged[key]; ok && !before.shown {
			delete(w.merged, key)
			continue
		}
		w.merged[key] = change{deleted: true, shown: true}
	}
	w.latest = d.Revision
	w.resync = w.resync || d.Resync
}

func (w *watch) takeMergedLocked() kv.Update {
	u := kv.Update{Revision: w.latest, Resync: w.resync}
	for key, c := range w.merged {
		if c.deleted {
			u.Deletes = append(u.Deletes, key)
		} else {
			u.Puts = append(u.Puts, c.entry)
		}
	}
	w.merged, w.resync = nil, false
	sortUpdate(&u)
	return u
}

func sortUpdate(u *kv.Update) {
	slices.SortFunc(u.Puts, func(a, b kv.Entry) int { return strings.Compare(a.Key, b.Key) })
	slices.Sort(u.Deletes)
}
