package config

import (
	"maps"
	"slices"
	"strings"
	"sync/atomic"

	configv1 "bijou.dev/platform/api/config/v1"
)

// Value is one setting of type T. A declaration makes it, and it is usable as long as its set. The zero Value is not
// usable.
type Value[T any] struct {
	current atomic.Pointer[T]

	set    *core
	prop   *Property
	names  []string // the first that has a value wins
	def    T
	decode func(*Property, string) (T, error)

	// Guarded by set.mu.
	source   *configv1.Value // what current was decoded from; nil: the default
	watchers map[*watcher[T]]struct{}
}

type watcher[T any] struct {
	call    func(before, after T)
	stopped atomic.Bool
}

// Get returns the value in use. It takes no lock and allocates nothing. If T contains pointers, maps or slices, all
// readers share what they refer to and must not modify it.
func (v *Value[T]) Get() T { return *v.current.Load() }

// Watch calls fn after each later change, with the value before and after it. Get already returns the new value then.
// The calls of one set are made one at a time and in order. fn should return soon and must not wait for a later change.
//
// The caller must call stop when it no longer needs the calls. After stop returns no new call begins, but one that has
// begun may still be running, and the set no longer refers to fn. fn may call stop, and stop may be called twice.
func (v *Value[T]) Watch(fn func(before, after T)) (stop func()) {
	w := &watcher[T]{call: fn}
	v.set.mu.Lock()
	defer v.set.mu.Unlock()
	v.watchers[w] = struct{}{}
	return func() {
		w.stopped.Store(true)
		v.set.mu.Lock()
		defer v.set.mu.Unlock()
		delete(v.watchers, w)
	}
}

// refreshLocked implements handle.
func (v *Value[T]) refreshLocked() {
	var source *configv1.Value
	for _, name := range v.names {
		if source = v.set.values[name]; source != nil {
			break
		}
	}
	if source == v.source {
		return
	}
	before, textBefore := v.Get(), v.textLocked()
	after := v.def
	if source != nil {
		var err error
		if after, err = v.decode(v.prop, source.GetValue()); err != nil {
			return // another declaration has this name, and the text fits only that one: keep the value in use
		}
	}
	v.source = source
	if v.textLocked() == textBefore {
		return
	}
	v.current.Store(&after)
	v.addCallLocked(before, after)
}

func (v *Value[T]) textLocked() string {
	if v.source == nil {
		return v.prop.Proto().GetDefaultValue()
	}
	return v.source.GetValue()
}

func (v *Value[T]) addCallLocked(before, after T) {
	if len(v.watchers) == 0 {
		return
	}
	watchers := slices.Collect(maps.Keys(v.watchers))
	v.set.calls = append(v.set.calls, func() {
		for _, w := range watchers {
			if !w.stopped.Load() {
				w.call(before, after)
			}
		}
	})
}

// bind returns the Value of a declaration that reads these names, and makes it if there is none yet.
func bind[T any](
	c *core, d *declaration, names []string, def T, decode func(*Property, string) (T, error),
) *Value[T] {
	c.mu.Lock()
	defer c.mu.Unlock()
	key := strings.Join(names, " ")
	if h, ok := d.handles[key]; ok {
		return h.(*Value[T])
	}
	v := &Value[T]{
		set: c, prop: d.Property, names: names, def: def, decode: decode, watchers: map[*watcher[T]]struct{}{},
	}
	v.current.Store(&def)
	v.refreshLocked()
	d.handles[key] = v
	return v
}
