package config

import (
	"cmp"
	"context"
	"fmt"
	"log/slog"
	"maps"
	"net/url"
	"slices"
	"strings"
	"sync"
	"time"

	configv1 "bijou.dev/platform/api/config/v1"
	settings "bijou.dev/platform/config"
	"bijou.dev/platform/errs"
	"bijou.dev/platform/kv"

	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
)

// Keys in the store. Each replica has a copy in memory of what is under live. History is read when it is asked for.
//
//	/bijou/config/live/head                                   a Revision without its changes: the newest
//	/bijou/config/live/values/NAME/LAYER/APP/SELECTOR         a Candidate: the value, by whom and why
//	/bijou/config/live/apps/APP                               a DeclareRequest
//	/bijou/config/history/BUCKET/REVISION                     a Revision
//
// Each segment is escaped; an empty one is written as "*". Values are protobuf JSON.
const (
	livePrefix    = "/bijou/config/live/"
	headKey       = livePrefix + "head"
	valuePrefix   = livePrefix + "values/"
	appPrefix     = livePrefix + "apps/"
	historyPrefix = "/bijou/config/history/"
)

func valueKey(name string, scope *configv1.Scope) string {
	return fmt.Sprintf("%s%s/%d/%s/%s",
		valuePrefix, segment(name), scope.GetLayer(), segment(scope.GetApp()), segment(scope.GetSelector()))
}

func segment(s string) string {
	if s == "" {
		return "*" // no text is escaped as a star
	}
	return url.PathEscape(s)
}

func nameOfKey(key string) string {
	first, _, _ := strings.Cut(strings.TrimPrefix(key, valuePrefix), "/")
	name, _ := url.PathUnescape(first)
	return name
}

// state is the copy in memory of what is under live. Records are never modified: a change replaces them.
type state struct {
	log *slog.Logger

	mu      sync.RWMutex
	loaded  bool
	head    *configv1.Revision                        // the newest revision, without its changes
	headAt  kv.Revision                               // of the head in the store; 0: nothing was ever published
	values  map[string]map[string]*configv1.Candidate // name -> key -> record
	apps    map[string]*app                           // name of the app -> its declarations
	lost    error                                     // the store has lost data: the copy in memory is kept
	watch   kv.Watch                                  // updates of the store; nil before follow
	changed chan struct{}                             // closed and replaced after each change
	onNames func(names []string)                      // called with mu locked after values changed
}

// app is what one app declares.
type app struct {
	declared *configv1.DeclareRequest
	at       kv.Revision
	exact    map[string]*settings.Property
	patterns []*settings.Property // longest first
}

func newState(log *slog.Logger) *state {
	return &state{
		log: log, head: &configv1.Revision{}, values: map[string]map[string]*configv1.Candidate{},
		apps: map[string]*app{}, changed: make(chan struct{}), onNames: func([]string) {},
	}
}

// follow keeps the state equal to the store until ctx ends.
func (s *state) follow(ctx context.Context, store kv.Store) error {
	for ctx.Err() == nil {
		if err := s.followOnce(ctx, store); err != nil && ctx.Err() == nil {
			return err
		}
	}
	return nil
}

// followOnce returns nil when the state must be read again as a whole, because updates were not applied for a while.
func (s *state) followOnce(ctx context.Context, store kv.Store) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	w := store.Watch(ctx, livePrefix)
	s.mu.Lock()
	s.watch = w
	s.mu.Unlock()
	for {
		u, err := w.Next(ctx)
		if err != nil {
			return err
		}
		if complete := s.apply(u); !complete {
			return nil
		}
	}
}

// apply applies one update. It returns false if updates before this one were not applied and the store must be read
// again.
//
// If the head is lower than before, the store has lost data or was restored from an older copy. Applying that would
// remove settings of all processes at once. So the copy in memory is kept until the head is as high as before, or
// until an operator accepts the loss by restarting this replica.
func (s *state) apply(u kv.Update) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	head, seen := headOf(u)
	if s.loaded && seen && head < s.head.GetRevision() {
		s.lost = errs.Errorf(errs.Unavailable, "reading the store: it went back from revision %d to %d, so it lost data; "+
			"restore it, or restart this replica to accept what is there", s.head.GetRevision(), head).
			Because(reasonStore)
		s.log.Error("config: keeping the settings in memory", "error", s.lost)
		return true
	}
	if s.lost != nil && !u.Snapshot {
		return !seen // the head is as high as before
	}
	s.lost = nil
	names := map[string]bool{}
	if u.Snapshot {
		s.forgetLocked(u, names)
	}
	for _, key := range u.Deletes {
		s.deleteLocked(key, names)
	}
	for _, e := range u.Puts {
		s.putLocked(e, names)
	}
	s.loaded = true
	s.onNames(slices.Collect(maps.Keys(names)))
	close(s.changed)
	s.changed = make(chan struct{})
	return true
}

// headOf returns the revision of the head after an update, and whether the update has the head.
func headOf(u kv.Update) (revision int64, seen bool) {
	for _, e := range u.Puts {
		if e.Key == headKey {
			head := &configv1.Revision{}
			_ = decode(e.Value, head) // a head that cannot be read is revision 0
			return head.GetRevision(), true
		}
	}
	return 0, u.Snapshot || slices.Contains(u.Deletes, headKey)
}

// forgetLocked removes what a snapshot does not have, and adds the names of removed values to names. There is something
// to remove if the store lost data and was restored, or if changes were missed.
func (s *state) forgetLocked(u kv.Update, names map[string]bool) {
	there := make(map[string]bool, len(u.Puts))
	for _, e := range u.Puts {
		there[e.Key] = true
	}
	for _, records := range s.values {
		for key := range records {
			if !there[key] {
				s.deleteLocked(key, names)
			}
		}
	}
	maps.DeleteFunc(s.apps, func(name string, _ *app) bool { return !there[appPrefix+segment(name)] })
}

func (s *state) deleteLocked(key string, names map[string]bool) {
	if strings.HasPrefix(key, valuePrefix) {
		name := nameOfKey(key)
		delete(s.values[name], key)
		if len(s.values[name]) == 0 {
			delete(s.values, name)
		}
		names[name] = true
	}
}

func (s *state) putLocked(e kv.Entry, names map[string]bool) {
	var err error
	switch {
	case e.Key == headKey:
		head := &configv1.Revision{}
		if err = decode(e.Value, head); err == nil {
			s.head, s.headAt = head, e.Modified
		}
	case strings.HasPrefix(e.Key, valuePrefix):
		c := &configv1.Candidate{}
		if err = decode(e.Value, c); err == nil {
			name := nameOfKey(e.Key)
			if s.values[name] == nil {
				s.values[name] = map[string]*configv1.Candidate{}
			}
			s.values[name][e.Key] = c
			names[name] = true
		}
	case strings.HasPrefix(e.Key, appPrefix):
		err = s.putAppLocked(e)
	}
	if err != nil {
		s.log.Error("config: ignoring an entry of the store that cannot be read", "key", e.Key, "error", err)
	}
}

func (s *state) putAppLocked(e kv.Entry) error {
	d := &configv1.DeclareRequest{}
	if err := decode(e.Value, d); err != nil {
		return err
	}
	a := &app{declared: d, at: e.Modified, exact: map[string]*settings.Property{}}
	for _, p := range d.GetProperties() {
		prop, err := settings.ParseProperty(p)
		switch {
		case err != nil: // written by another version of this service; the other settings of the app still work
			s.log.Error("config: ignoring a declaration", "app", d.GetApp(), "error", err)
		case prop.Pattern():
			a.patterns = append(a.patterns, prop)
		default:
			a.exact[prop.Name()] = prop
		}
	}
	slices.SortFunc(a.patterns, settings.LongestFirst)
	s.apps[d.GetApp()] = a
	return nil
}

// property returns the app's declaration of a setting, or nil.
func (a *app) property(name string) *settings.Property {
	if a == nil {
		return nil
	}
	if p := a.exact[name]; p != nil {
		return p
	}
	for _, p := range a.patterns {
		if p.Match(name) {
			return p
		}
	}
	return nil
}

// all returns the app's properties.
func (a *app) all() []*settings.Property {
	if a == nil {
		return nil
	}
	return append(slices.Collect(maps.Values(a.exact)), a.patterns...)
}

func (s *state) appNamesLocked() []string { return slices.Sorted(maps.Keys(s.apps)) }

// candidatesLocked returns the values of a setting that an instance sees, the winner first.
func (s *state) candidatesLocked(name string, id *configv1.Identity) []*configv1.Candidate {
	now := time.Now()
	var found []*configv1.Candidate
	for _, c := range s.values[name] {
		if settings.Applies(c.GetValue().GetScope(), id) && !settings.Expired(c.GetValue(), now) {
			found = append(found, c)
		}
	}
	slices.SortFunc(found, func(a, b *configv1.Candidate) int {
		return cmp.Compare(rank(b.GetValue().GetScope()), rank(a.GetValue().GetScope()))
	})
	return found
}

// winnerLocked returns the value of a setting that an instance uses, or nil.
func (s *state) winnerLocked(name string, id *configv1.Identity) *configv1.Value {
	now := time.Now()
	var best *configv1.Value
	for _, c := range s.values[name] {
		v := c.GetValue()
		if !settings.Applies(v.GetScope(), id) || settings.Expired(v, now) {
			continue
		}
		if best == nil || rank(v.GetScope()) > rank(best.GetScope()) {
			best = v
		}
	}
	return best
}

// rank orders scopes: the value with the highest rank wins. A later layer wins, and within a layer a scope for one app
// wins over one for every app. No two scopes that apply to one instance have the same rank.
func rank(scope *configv1.Scope) int {
	r := 2 * int(scope.GetLayer())
	if scope.GetApp() != "" {
		r++
	}
	return r
}

// await waits until done returns true, or returns the error of ctx. done is called with mu locked for reading.
func (s *state) await(ctx context.Context, done func() bool) error {
	for {
		s.mu.RLock()
		ok, changed := done(), s.changed
		s.mu.RUnlock()
		if ok {
			return nil
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-changed:
		}
	}
}

// readLocked returns why nothing can be read yet, or nil.
func (s *state) readLocked() error {
	if !s.loaded {
		return errs.Errorf(errs.Unavailable,
			"reading settings: this replica has not read the store yet; ask another replica, or try again").
			Because(reasonStore)
	}
	return nil
}

// problemLocked returns why the copy may be out of date, or nil.
func (s *state) problemLocked() error {
	if s.lost != nil || s.watch == nil {
		return s.lost
	}
	return s.watch.Problem()
}

func decode(data []byte, m proto.Message) error {
	return protojson.UnmarshalOptions{DiscardUnknown: true}.Unmarshal(data, m)
}

func encode(m proto.Message) ([]byte, error) {
	data, err := protojson.Marshal(m)
	if err != nil {
		return nil, errs.Errorf(errs.Internal, "writing %s: %w", m.ProtoReflect().Descriptor().Name(), err)
	}
	return data, nil
}
