// Package config gives a process live settings: typed, declared in code with a default, changed from outside while the
// process runs, and known to whoever changes them.
//
// A setting is a [Value] that [Int], [Duration], [JSON] and their siblings declare in a [Set]. Reading one is a
// single atomic load. Where the values come from is the set's business: [Static] keeps them in memory, for tests and for
// use alone; [Open] follows the config service, remembers the last known good values on disk, and tells the service
// which revision is in use and which values the process could not use.
//
//	set := config.Static(map[string]string{"search.limit": "50"})
//	limit := config.Int(set, "search.limit", 20, config.Spec{Doc: "Most hits on a page.", Min: "1", Max: "100"})
//	...
//	hits = hits[:min(len(hits), int(limit.Get()))]
//
// A value is never half-applied: text that does not fit the declaration is refused, the previous value stays in use, and
// the refusal is reported where the value came from.
//
// Settings that exist once per circuit, route or tenant are families: see [IntFamily].
package config

import (
	"cmp"
	"encoding/json"
	"fmt"
	"log/slog"
	"maps"
	"reflect"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	configv1 "bijou.dev/platform/api/config/v1"
	"bijou.dev/platform/errs"

	"google.golang.org/protobuf/proto"
)

// Spec describes a setting to the person who edits it. The zero Spec is a setting without bounds and without words.
type Spec struct {
	// Doc is one or two sentences: what it does, and when to change it.
	Doc string
	// Unit is "ms", "bytes", "percent" ...; empty for none. Durations carry theirs in the value.
	Unit string
	// Min and Max are inclusive bounds of numbers and durations in their text form: "1", "250ms". Empty: no bound.
	Min, Max string
}

// Set holds the settings of a process. [Static] and [Open] make one; all methods may be called from many goroutines.
type Set struct {
	identity *configv1.Identity
	remote   *remote // nil: static
	log      *slog.Logger

	mu         sync.Mutex
	declared   map[string]*declaration        // name or pattern -> declaration
	values     map[string]*configv1.Value     // name -> the value in use, or not looked at as nothing declares it
	rejections map[string]*configv1.Rejection // name -> why the newest value is not in use
	revision   int64
	connected  bool
	since      time.Time // of the last change of connected
	problem    error     // why not connected
	queue      []func()  // calls to watchers that are due
	calling    bool      // a goroutine is working on queue
}

// declaration is a property with the handles that read it.
type declaration struct {
	*Property
	typ     reflect.Type // of T
	accept  func(text string) error
	handles map[string]handle // the names a handle reads, joined by spaces -> handle
}

// handle is a Value of any type.
type handle interface{ refreshLocked() }

// Static returns a set with these values, by name, that no service feeds. The map may be nil and is not kept.
// [Set.Put] and [Set.Remove] change it. A value that does not fit its declaration shows as a problem in [Set.Entries].
func Static(values map[string]string) *Set {
	s := newSet(&configv1.Identity{}, slog.New(slog.DiscardHandler))
	for name, text := range values {
		s.values[name] = &configv1.Value{Name: name, Value: text}
	}
	return s
}

func newSet(identity *configv1.Identity, log *slog.Logger) *Set {
	return &Set{
		identity:   identity,
		log:        log,
		declared:   map[string]*declaration{},
		values:     map[string]*configv1.Value{},
		rejections: map[string]*configv1.Rejection{},
		since:      time.Now(),
	}
}

// Put changes one value of a static set, with the checks that the config service makes. When it returns nil the value is
// in use and watchers have been called, unless watchers are being called already, by another goroutine or because a
// watcher called Put: they then get their calls after those. An error means that nothing changed. A set that follows the config service refuses, with kind errs.Precondition.
func (s *Set) Put(name, text string) error {
	if s.remote != nil {
		return errs.Errorf(errs.Precondition, "setting %q: this set follows the config service; publish the value there", name)
	}
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

// Remove takes a value out of a static set, so that its default is in use again. In a set that follows the config
// service it does nothing.
func (s *Set) Remove(name string) {
	if s.remote != nil {
		return
	}
	s.mu.Lock()
	s.revision++
	s.removeLocked(name)
	s.refreshLocked()
	s.mu.Unlock()
	s.callWatchers()
}

// checkLocked is strict where a pushed value is not: JSON must fit the schema to the letter. A process accepts fields it
// does not know, because a newer version of it may have declared them.
func (s *Set) checkLocked(name, text string) error {
	d := s.findLocked(name)
	if d == nil {
		return nil
	}
	if err := d.Check(text); err != nil {
		return err
	}
	return d.accept(text)
}

// findLocked returns the declaration of a name: its own, else that of the longest pattern.
func (s *Set) findLocked(name string) *declaration {
	if d := s.declared[name]; d != nil {
		return d
	}
	var found *declaration
	for _, d := range s.declared {
		if d.Pattern() && d.Match(name) && (found == nil || longer(d.Name(), found.Name())) {
			found = d
		}
	}
	return found
}

func longer(a, b string) bool {
	return cmp.Or(cmp.Compare(len(a), len(b)), cmp.Compare(a, b)) > 0
}

// setLocked accepts a value or notes why not.
func (s *Set) setLocked(v *configv1.Value) {
	delete(s.rejections, v.GetName())
	if err := s.usableLocked(v); err != nil {
		s.rejections[v.GetName()] = &configv1.Rejection{Name: v.GetName(), Revision: v.GetRevision(), Problem: shorten(err.Error())}
		return
	}
	s.values[v.GetName()] = v
}

func (s *Set) usableLocked(v *configv1.Value) error {
	if d := s.findLocked(v.GetName()); d != nil {
		return d.accept(v.GetValue())
	}
	if len(v.GetValue()) > MaxText {
		return fmt.Errorf("must have at most %d bytes, has %d", MaxText, len(v.GetValue()))
	}
	return nil
}

func (s *Set) removeLocked(name string) {
	delete(s.values, name)
	delete(s.rejections, name)
}

// refreshLocked lets every handle look for a changed value. It looks at all of them, as a change is rare and a look cheap.
func (s *Set) refreshLocked() {
	for _, d := range s.declared {
		for _, h := range d.handles {
			h.refreshLocked()
		}
	}
}

// callWatchers works off the queue, in order. One goroutine does at a time, without a lock, so that a watcher may read,
// stop watching and change settings.
func (s *Set) callWatchers() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.calling {
		return
	}
	s.calling = true
	defer func() { s.calling = false }()
	for len(s.queue) > 0 {
		call := s.queue[0]
		s.queue = s.queue[1:]
		s.mu.Unlock()
		call()
		s.mu.Lock()
	}
	s.queue = nil
}

// Identity returns who the set asks settings for. Of a static set it is empty. It must not be modified.
func (s *Set) Identity() *configv1.Identity { return s.identity }

// Revision returns the revision in use: the service's, or of a static set the number of its changes.
func (s *Set) Revision() int64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.revision
}

// Connected reports whether the config service pushes changes to the set at the moment, and since when that is so. A
// static set always is.
func (s *Set) Connected() (ok bool, since time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.connected || s.remote == nil, s.since
}

// Problem says why the set is not connected, or nil.
func (s *Set) Problem() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.problem
}

// Entry is one setting as an operator sees it.
type Entry struct {
	Name string
	// Value is the text in use, Default the text that the code declares.
	Value, Default string
	// Layer is where the value is set: "default", "app", ... "override"; "static" in a static set.
	Layer string
	// Scope says for whom, as "catalog" or "catalog eu-1"; empty for a default.
	Scope string `json:",omitempty"`
	// Revision set the value; zero for a default.
	Revision int64 `json:",omitempty"`
	// Problem says why a newer value is not in use; empty: there is none.
	Problem string `json:",omitempty"`
	Doc     string
	Unit    string `json:",omitempty"`
	// Type is "string", "bool", "int", "float", "duration", "enum" or "json".
	Type string
}

// Entries returns all declared settings sorted by name: each with its value, families with their default and with one
// entry for each value that is set.
func (s *Set) Entries() []Entry {
	s.mu.Lock()
	defer s.mu.Unlock()
	entries := make([]Entry, 0, len(s.declared))
	for name, d := range s.declared {
		entries = append(entries, s.entryLocked(name, d))
	}
	names := maps.Clone(s.values)
	for name := range s.rejections {
		names[name] = nil
	}
	for name := range names {
		if d := s.findLocked(name); d != nil && d.Pattern() {
			entries = append(entries, s.entryLocked(name, d))
		}
	}
	slices.SortFunc(entries, func(a, b Entry) int { return cmp.Compare(a.Name, b.Name) })
	return entries
}

func (s *Set) entryLocked(name string, d *declaration) Entry {
	p := d.Proto()
	e := Entry{
		Name: name, Value: p.GetDefaultValue(), Default: p.GetDefaultValue(), Layer: "default",
		Problem: s.rejections[name].GetProblem(), Doc: p.GetDoc(), Unit: p.GetUnit(), Type: TypeName(p.GetType()),
	}
	if v := s.values[name]; v != nil {
		e.Value, e.Revision, e.Layer = v.GetValue(), v.GetRevision(), LayerName(v.GetLayer())
		e.Scope = strings.TrimSpace(v.GetScope().GetApp() + " " + v.GetScope().GetSelector())
		if s.remote == nil {
			e.Layer = "static"
		}
	}
	return e
}

// TypeName returns the short name of a type: "int" for TYPE_INT.
func TypeName(t configv1.Type) string {
	return strings.ToLower(strings.TrimPrefix(t.String(), "TYPE_"))
}

// LayerName returns the short name of a layer: "zone" for LAYER_ZONE.
func LayerName(l configv1.Layer) string {
	return strings.ToLower(strings.TrimPrefix(l.String(), "LAYER_"))
}

// declare returns the declaration of a property, made before or now. What a programmer got wrong panics, as a bad
// pattern does in regexp.MustCompile: it is wrong on every start.
func declare[T any](s *Set, p *configv1.Property, decode func(*Property, string) (T, error)) *declaration {
	prop, err := ParseProperty(p)
	if err != nil {
		panic(err.Error())
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if d := s.declared[p.GetName()]; d != nil {
		if d.typ != reflect.TypeFor[T]() || !proto.Equal(d.Proto(), p) {
			panic(fmt.Sprintf("declaring setting %q: it is declared already, and differently", p.GetName()))
		}
		return d
	}
	d := &declaration{
		Property: prop, typ: reflect.TypeFor[T](), handles: map[string]handle{},
		accept: func(text string) error { _, err := decode(prop, text); return err },
	}
	if _, err := decode(prop, p.GetDefaultValue()); err != nil {
		panic(fmt.Sprintf("declaring setting %q: its default %v", p.GetName(), err))
	}
	s.declared[p.GetName()] = d
	s.judgeLocked(d)
	s.remote.declarationsChanged()
	return d
}

// judgeLocked looks at values that came before their declaration.
func (s *Set) judgeLocked(d *declaration) {
	for name, v := range s.values {
		if s.findLocked(name) != d {
			continue
		}
		err := d.accept(v.GetValue())
		if err == nil && s.remote == nil {
			err = d.Check(v.GetValue())
		}
		if err != nil {
			delete(s.values, name)
			s.rejections[name] = &configv1.Rejection{Name: name, Revision: v.GetRevision(), Problem: shorten(err.Error())}
		}
	}
}

// Value is one setting of type T. It is made by a declaration and lives as long as its set. The zero Value is not usable.
type Value[T any] struct {
	current atomic.Pointer[T]

	set    *Set
	prop   *Property
	names  []string // the first that has a value wins
	def    T
	decode func(*Property, string) (T, error)

	// Guarded by set.mu.
	source   *configv1.Value // of current; nil: the default
	watchers map[*watcher[T]]struct{}
}

type watcher[T any] struct {
	call    func(old, now T)
	stopped atomic.Bool
}

// Get returns the value in use. It takes no lock and allocates nothing. What T refers to, if it does, is shared by all
// readers and must not be modified.
func (v *Value[T]) Get() T { return *v.current.Load() }

// Watch calls fn after each change from now on, with the value before and after; Get returns the new one by then. Calls
// of one set come one at a time and in order. fn should return soon and must not wait for a later change.
//
// The caller owns the subscription: after stop no new call begins, though one that has begun may still be running, and
// nothing refers to fn any more. stop may be called from fn, and twice.
func (v *Value[T]) Watch(fn func(old, now T)) (stop func()) {
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
	old, oldText := v.Get(), v.textLocked()
	now := v.def
	if source != nil {
		var err error
		if now, err = v.decode(v.prop, source.GetValue()); err != nil {
			return // the name belongs to another declaration; what was in use stays so
		}
	}
	v.source = source
	if v.textLocked() == oldText {
		return
	}
	v.current.Store(&now)
	v.queueLocked(old, now)
}

func (v *Value[T]) textLocked() string {
	if v.source == nil {
		return v.prop.Proto().GetDefaultValue()
	}
	return v.source.GetValue()
}

func (v *Value[T]) queueLocked(old, now T) {
	if len(v.watchers) == 0 {
		return
	}
	watchers := slices.Collect(maps.Keys(v.watchers))
	v.set.queue = append(v.set.queue, func() {
		for _, w := range watchers {
			if !w.stopped.Load() {
				w.call(old, now)
			}
		}
	})
}

// bind returns the handle of a declaration that reads these names.
func bind[T any](s *Set, d *declaration, names []string, def T, decode func(*Property, string) (T, error)) *Value[T] {
	s.mu.Lock()
	defer s.mu.Unlock()
	key := strings.Join(names, " ")
	if h, ok := d.handles[key]; ok {
		return h.(*Value[T])
	}
	v := &Value[T]{set: s, prop: d.Property, names: names, def: def, decode: decode, watchers: map[*watcher[T]]struct{}{}}
	v.current.Store(&def)
	v.refreshLocked()
	d.handles[key] = v
	return v
}

// String declares a text.
func String(s *Set, name, def string, spec Spec) *Value[string] {
	return value(s, property(configv1.Type_TYPE_STRING, name, def, spec), def, decode[string])
}

// Bool declares a switch. Its text is "true" or "false".
func Bool(s *Set, name string, def bool, spec Spec) *Value[bool] {
	return value(s, property(configv1.Type_TYPE_BOOL, name, fmt.Sprint(def), spec), def, decode[bool])
}

// Int declares a whole number.
func Int(s *Set, name string, def int64, spec Spec) *Value[int64] {
	return value(s, property(configv1.Type_TYPE_INT, name, fmt.Sprint(def), spec), def, decode[int64])
}

// Float declares a number. It is never infinite and never NaN.
func Float(s *Set, name string, def float64, spec Spec) *Value[float64] {
	return value(s, property(configv1.Type_TYPE_FLOAT, name, fmt.Sprint(def), spec), def, decode[float64])
}

// Duration declares a time span. Its text is that of Go: "250ms", "1m30s".
func Duration(s *Set, name string, def time.Duration, spec Spec) *Value[time.Duration] {
	return value(s, property(configv1.Type_TYPE_DURATION, name, def.String(), spec), def, decode[time.Duration])
}

// Enum declares a choice among options, of which def is one.
func Enum(s *Set, name, def string, options []string, spec Spec) *Value[string] {
	p := property(configv1.Type_TYPE_ENUM, name, def, spec)
	p.Options = slices.Clone(options)
	return value(s, p, def, decode[string])
}

// JSON declares a document that is read into a T by encoding/json. The service refuses what does not fit the JSON schema
// of T: unknown fields, wrong types, and missing fields unless they are marked omitempty or omitzero. If T has a method
// JSONSchema() string, that is the schema, which can say more: bounds, patterns, what goes together. If T or *T has a method
// Validate() error, a value that it refuses is not used either, but published all the same: the service cannot ask it.
// T must not be recursive.
func JSON[T any](s *Set, name string, def T, spec Spec) *Value[T] {
	text, err := json.Marshal(def)
	if err != nil {
		panic(fmt.Sprintf("declaring setting %q: %v", name, err))
	}
	p := property(configv1.Type_TYPE_JSON, name, string(text), spec)
	if own, ok := any(def).(interface{ JSONSchema() string }); ok {
		p.JsonSchema = own.JSONSchema()
	} else if p.JsonSchema, err = inferSchema[T](); err != nil {
		panic(fmt.Sprintf("declaring setting %q: %v", name, err))
	}
	return value(s, p, def, decodeJSON[T])
}

func property(t configv1.Type, name, def string, spec Spec) *configv1.Property {
	return &configv1.Property{Name: name, Type: t, DefaultValue: def, Doc: spec.Doc, Unit: spec.Unit, Min: spec.Min, Max: spec.Max}
}

func value[T any](s *Set, p *configv1.Property, def T, decode func(*Property, string) (T, error)) *Value[T] {
	if strings.Contains(p.GetName(), "*") {
		panic(fmt.Sprintf("declaring setting %q: a name with a star is a family", p.GetName()))
	}
	return bind(s, declare(s, p, decode), []string{p.GetName()}, def, decode)
}

// decode reads the text of a scalar, whose type parse agrees on with the handle.
func decode[T any](p *Property, text string) (T, error) {
	v, err := p.parse(text)
	if err != nil {
		var none T
		return none, err
	}
	return v.(T), nil
}

// decodeJSON runs code of T on text from outside, so a panic of it is a value that does not fit.
func decodeJSON[T any](_ *Property, text string) (v T, err error) {
	defer func() {
		if r := recover(); r != nil {
			err = fmt.Errorf("must be readable: %s panicked: %v", reflect.TypeFor[T](), r)
		}
	}()
	if len(text) > MaxText {
		return v, fmt.Errorf("must have at most %d bytes, has %d", MaxText, len(text))
	}
	if err := json.Unmarshal([]byte(text), &v); err != nil {
		return v, fmt.Errorf("must be JSON for %s: %w", reflect.TypeFor[T](), err)
	}
	if p := reflect.ValueOf(&v).Elem(); p.Kind() == reflect.Pointer && p.IsNil() {
		return v, fmt.Errorf("must not be null")
	}
	for _, value := range []any{&v, v} {
		if checker, ok := value.(interface{ Validate() error }); ok {
			return v, checker.Validate()
		}
	}
	return v, nil
}
