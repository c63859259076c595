package config

import (
	configv1 "bijou.dev/platform/api/config/v1"
	"bijou.dev/platform/errs"
)

// StaticSet is a [Set] in memory whose values the program changes. Make one with [Static].
type StaticSet struct{ *core }

// Static returns a set with these values, by name. The map may be nil and is not kept. A value that does not fit its
// declaration is not used and shows as a problem in [StaticSet.Entries].
func Static(values map[string]string) *StaticSet {
	s := &StaticSet{newCore(checkStrictly, func() {})}
	for name, text := range values {
		s.values[name] = &configv1.Value{Name: name, Value: text}
	}
	return s
}

// checkStrictly makes the checks that the config service makes when a value is published: a document must not have
// fields that its schema does not know. A live set accepts them, because a newer version of its app may declare them.
func checkStrictly(d *declaration, text string) error {
	if err := d.Check(text); err != nil {
		return err
	}
	return d.accept(text)
}

// Put changes one value. An error, of kind errs.Invalid, means that the value does not fit and that nothing changed.
//
// When Put returns nil, the value is in use and its watchers have been called. There is one exception: while calls of
// watchers are being made, because a watcher called Put or another goroutine did, the new calls are made after those.
func (s *StaticSet) Put(name, text string) error {
	s.mu.Lock()
	if err := s.checkLocked(name, text); err != nil {
		s.mu.Unlock()
		return errs.Errorf(errs.Invalid, "setting %q", name).Field("value", err.Error())
	}
	s.revision++
	s.setLocked(&configv1.Value{Name: name, Value: text, Revision: s.revision})
	s.refreshLocked()
	s.mu.Unlock()
	s.callWatchers()
	return nil
}

// Remove removes a value, so that the default is in use again. Watchers are called as by [StaticSet.Put].
func (s *StaticSet) Remove(name string) {
	s.mu.Lock()
	s.revision++
	s.removeLocked(name)
	s.refreshLocked()
	s.mu.Unlock()
	s.callWatchers()
}

// Entries implements [Set].
func (s *StaticSet) Entries() []Entry {
	return s.entries(func(*configv1.Value) string { return "static" })
}
