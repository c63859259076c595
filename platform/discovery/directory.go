package discovery

import (
	"maps"
	"slices"
	"sync"
	"sync/atomic"
)

// Directory has the instances of services that a process knows. Code that only reads instances takes a Directory.
// A [Client] fills it from a registry and a [Static] with what the program gives it. It is safe for use by several
// goroutines. Reading never waits for the network.
type Directory struct {
	only []string // the services that are followed; empty: all
	view atomic.Pointer[view]

	mu       sync.Mutex // guards watchers, and the replacing of view
	watchers map[*watcher]struct{}
}

// view is what readers see. It is never changed, only replaced.
type view struct {
	services map[string][]Instance // service -> its instances, sorted by id
	changes  uint64                // counts the views in which services differs from the view before
	state
}

// state is what is known about the source of the instances.
type state struct {
	settled bool  // a registry has answered, or each seed was tried, or there is no registry
	synced  error // why no snapshot of a registry was applied yet; nil once one was
	current error // why no registry is followed; nil while one is
}

// watcher is one function that is called with new views.
type watcher struct {
	service string
	fn      func(*view)
	stopped atomic.Bool

	mu   sync.Mutex // held while fn runs
	seen *view      // the view that fn was last called with
}

func newDirectory(only []string, s state) *Directory {
	d := &Directory{only: only, watchers: map[*watcher]struct{}{}}
	d.view.Store(&view{state: s})
	return d
}

// Instances returns the known instances of a service in any status, sorted by id; of all services if service is empty.
// The caller may change the slice, but not the maps in it.
func (d *Directory) Instances(service string) []Instance { return d.view.Load().list(service) }

// Synced is nil as soon as a snapshot of a registry was applied, also after that registry is lost. Before, it says why
// there is no snapshot yet; there may be instances nevertheless, from disk. For a [Static] it is nil.
func (d *Directory) Synced() error { return d.view.Load().synced }

// Current is nil while a registry is followed. Otherwise it says why none is, so that the instances may be out of date.
func (d *Directory) Current() error { return d.view.Load().current }

// Watch calls fn at once with the known instances of a service (of all services if service is empty), and then after
// each change, until stop is called. Calls of one fn are never concurrent. fn should be quick, must not call
// [Static.Put], and may call stop. A call of fn that has begun when stop is called still ends.
func (d *Directory) Watch(service string, fn func([]Instance)) (stop func()) {
	first := true
	var last []Instance
	return d.watch(service, func(v *view) {
		list := v.list(service)
		if !first && slices.EqualFunc(last, list, Instance.Equal) {
			return
		}
		first, last = false, list
		fn(slices.Clone(list))
	})
}

func (v *view) list(service string) []Instance {
	if service != "" {
		return slices.Clone(v.services[service])
	}
	var all []Instance
	for _, name := range slices.Sorted(maps.Keys(v.services)) {
		all = append(all, v.services[name]...)
	}
	return all
}

// watch calls fn with each view whose settled, or whose list of the service, may differ from the view before.
func (d *Directory) watch(service string, fn func(*view)) (stop func()) {
	w := &watcher{service: service, fn: fn}
	d.mu.Lock()
	d.watchers[w] = struct{}{}
	d.mu.Unlock()
	w.deliver(&d.view)
	return func() {
		w.stopped.Store(true)
		d.mu.Lock()
		delete(d.watchers, w)
		d.mu.Unlock()
	}
}

// deliver calls fn with the newest view. It loads the view under the lock, so that of two deliveries at the same time
// the later one never has the older view.
func (w *watcher) deliver(newest *atomic.Pointer[view]) {
	w.mu.Lock()
	defer w.mu.Unlock()
	v := newest.Load()
	if v == w.seen || w.stopped.Load() {
		return
	}
	w.seen = v
	w.fn(v)
}

// replace makes the next view: lists has the new instances of some services, sorted by id; an empty list removes the
// service. It reports whether any list changed, and returns a function that calls the watchers of what changed.
func (d *Directory) replace(lists map[string][]Instance, s state) (changed bool, deliver func()) {
	d.mu.Lock()
	defer d.mu.Unlock()
	old := d.view.Load()
	services := make(map[string][]Instance, len(old.services)+len(lists))
	maps.Copy(services, old.services)
	touched := map[string]bool{}
	for service, list := range lists {
		if slices.EqualFunc(services[service], list, Instance.Equal) {
			continue
		}
		touched[service] = true
		if services[service] = list; len(list) == 0 {
			delete(services, service)
		}
	}
	next := &view{services: services, changes: old.changes, state: s}
	if changed = len(touched) > 0; changed {
		next.changes++
	}
	d.view.Store(next)
	var affected []*watcher
	for w := range d.watchers {
		if s.settled != old.settled || touched[w.service] || (w.service == "" && changed) {
			affected = append(affected, w)
		}
	}
	return changed, func() {
		for _, w := range affected {
			w.deliver(&d.view)
		}
	}
}
