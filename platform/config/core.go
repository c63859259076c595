package config

import (
	"cmp"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strings"
	"sync"

	configv1 "bijou.dev/platform/api/config/v1"

	"google.golang.org/protobuf/proto"
)

// core holds the declarations and values of a set. Both kinds of set have one.
type core struct {
	// check says why a text must not be used for a declared setting.
	check func(d *declaration, text string) error
	// declarationsChanged is called after a new declaration, with mu locked.
	declarationsChanged func()

	mu         sync.Mutex
	declared   map[string]*declaration        // name or pattern -> declaration
	patterns   []*declaration                 // those of declared that have a pattern, the longest first
	values     map[string]*configv1.Value     // name -> value in use, or not checked yet because nothing declares it
	rejections map[string]*configv1.Rejection // name -> why the newest value is not in use
	revision   int64
	calls      []func() // pending calls of watchers
	calling    bool     // a goroutine is making calls
}

// declaration is a property with the values that read it.
type declaration struct {
	*Property
	typ     reflect.Type // of T
	accept  func(text string) error
	handles map[string]handle // the names that a handle reads, joined by spaces -> handle
}

// handle is a Value of any type.
type handle interface{ refreshLocked() }

func newCore(check func(d *declaration, text string) error, declarationsChanged func()) *core {
	return &core{
		check:               check,
		declarationsChanged: declarationsChanged,
		declared:            map[string]*declaration{},
		values:              map[string]*configv1.Value{},
		rejections:          map[string]*configv1.Rejection{},
	}
}

func (c *core) base() *core { return c }

// Revision implements [Set].
func (c *core) Revision() int64 {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.revision
}

// findLocked returns the declaration of a setting: the one with its name, else the longest pattern that matches.
func (c *core) findLocked(name string) *declaration {
	if d := c.declared[name]; d != nil {
		return d
	}
	for _, d := range c.patterns {
		if d.Match(name) {
			return d
		}
	}
	return nil
}

// setLocked uses a value, or keeps the previous one and records why.
func (c *core) setLocked(v *configv1.Value) {
	delete(c.rejections, v.GetName())
	if err := c.checkLocked(v.GetName(), v.GetValue()); err != nil {
		c.rejectLocked(v, err)
		return
	}
	c.values[v.GetName()] = v
}

func (c *core) checkLocked(name, text string) error {
	if d := c.findLocked(name); d != nil {
		return c.check(d, text)
	}
	return checkLength(text)
}

func (c *core) rejectLocked(v *configv1.Value, err error) {
	c.rejections[v.GetName()] = &configv1.Rejection{
		Name: v.GetName(), Revision: v.GetRevision(), Problem: shorten(err.Error()),
	}
}

func (c *core) removeLocked(name string) {
	delete(c.values, name)
	delete(c.rejections, name)
}

// refreshLocked makes every handle compare its value with the one in the set.
func (c *core) refreshLocked() {
	for _, d := range c.declared {
		for _, h := range d.handles {
			h.refreshLocked()
		}
	}
}

// callWatchers makes the pending calls, in order. Only one goroutine does so at a time, and mu is not locked during a
// call, so that a watcher may read, stop watching and change settings.
func (c *core) callWatchers() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.calling {
		return
	}
	c.calling = true
	defer func() { c.calling = false }()
	for len(c.calls) > 0 {
		call := c.calls[0]
		c.calls = c.calls[1:]
		c.mu.Unlock()
		call()
		c.mu.Lock()
	}
	c.calls = nil
}

// entries implements [Set.Entries]. layer returns the name of the layer that a value comes from.
func (c *core) entries(layer func(*configv1.Value) string) []Entry {
	c.mu.Lock()
	defer c.mu.Unlock()
	list := make([]Entry, 0, len(c.declared))
	for name, d := range c.declared {
		list = append(list, c.entryLocked(name, d, layer))
	}
	names := maps.Clone(c.values)
	for name := range c.rejections {
		names[name] = nil
	}
	for name := range names {
		if d := c.findLocked(name); d != nil && d.Pattern() {
			list = append(list, c.entryLocked(name, d, layer))
		}
	}
	slices.SortFunc(list, func(a, b Entry) int { return cmp.Compare(a.Name, b.Name) })
	return list
}

func (c *core) entryLocked(name string, d *declaration, layer func(*configv1.Value) string) Entry {
	p := d.Proto()
	e := Entry{
		Name: name, Value: p.GetDefaultValue(), Default: p.GetDefaultValue(), Layer: "default",
		Problem: c.rejections[name].GetProblem(), Doc: p.GetDoc(), Unit: p.GetUnit(), Type: TypeName(p.GetType()),
	}
	if v := c.values[name]; v != nil {
		e.Value, e.Revision, e.Layer = v.GetValue(), v.GetRevision(), layer(v)
		e.Scope = strings.TrimSpace(v.GetScope().GetApp() + " " + v.GetScope().GetSelector())
	}
	return e
}

// declare returns the declaration of a property, and makes it if there is none yet. A wrong declaration is a defect of
// the program, so it panics, like a wrong pattern in regexp.MustCompile.
func declare[T any](s Set, p *configv1.Property, decode func(*Property, string) (T, error)) *declaration {
	prop, err := ParseProperty(p)
	if err != nil {
		panic(err.Error())
	}
	if _, err := decode(prop, p.GetDefaultValue()); err != nil {
		panic(fmt.Sprintf("declaring setting %q: its default %v", p.GetName(), err))
	}
	c := s.base()
	c.mu.Lock()
	defer c.mu.Unlock()
	if d := c.declared[p.GetName()]; d != nil {
		if d.typ != reflect.TypeFor[T]() || !proto.Equal(d.Proto(), p) {
			panic(fmt.Sprintf("declaring setting %q: it is declared already, and differently", p.GetName()))
		}
		return d
	}
	d := &declaration{
		Property: prop, typ: reflect.TypeFor[T](), handles: map[string]handle{},
		accept: func(text string) error { _, err := decode(prop, text); return err },
	}
	c.addLocked(d)
	return d
}

func (c *core) addLocked(d *declaration) {
	c.declared[d.Name()] = d
	if d.Pattern() {
		c.patterns = append(c.patterns, d)
		slices.SortFunc(c.patterns, func(a, b *declaration) int { return LongestFirst(a.Property, b.Property) })
	}
	for name, v := range c.values { // values that came before their declaration
		if c.findLocked(name) != d {
			continue
		}
		if err := c.check(d, v.GetValue()); err != nil {
			delete(c.values, name)
			c.rejectLocked(v, err)
		}
	}
	c.declarationsChanged()
}
