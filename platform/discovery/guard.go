package discovery

import (
	"maps"
	"slices"
	"strings"
	"time"
)

// entry is an instance as this process knows it.
type entry struct {
	Instance
	// held is when a suspect of ours is dropped. Zero: the registry knows the instance.
	held time.Time
	// unconfirmed is true until a live registry has named the instance: it comes from disk.
	unconfirmed bool
}

// removal remembers an instance that was removed while UP.
type removal struct {
	entry
	at time.Time
}

// guard applies the registry's answers to what is known, by the rules in the package comment. It has no clock and
// no lock of its own.
type guard struct {
	hold, lease time.Duration
	// services: service -> id -> entry.
	services map[string]map[string]entry
	// removed: service -> removals of the last lease, oldest first.
	removed map[string][]removal
	// live: a registry answers. warming: it says that it may not know everybody.
	live, warming bool
	// kept and dropped count suspects since the start.
	kept, dropped uint64
}

func newGuard(hold time.Duration) *guard {
	return &guard{
		hold: hold, lease: LeaseDefault,
		services: map[string]map[string]entry{}, removed: map[string][]removal{},
	}
}

// set puts an entry and notes its service as touched.
func (g *guard) set(e entry, touched map[string]bool) {
	m := g.services[e.Service]
	if m == nil {
		m = map[string]entry{}
		g.services[e.Service] = m
	}
	m[e.ID] = e
	touched[e.Service] = true
}

func (g *guard) drop(service, id string, touched map[string]bool) {
	m := g.services[service]
	delete(m, id)
	if len(m) == 0 {
		delete(g.services, service)
	}
	touched[service] = true
}

// keep makes an entry a suspect until the hold is over.
func (g *guard) keep(e entry, now time.Time, touched map[string]bool) {
	if e.held.IsZero() {
		g.kept++
	}
	e.held, e.Suspect = now.Add(g.hold), true
	g.set(e, touched)
}

// snapshot replaces everything and returns the services whose list may have changed.
func (g *guard) snapshot(all []Instance, warming bool, now time.Time) map[string]bool {
	touched := map[string]bool{}
	g.live, g.warming = true, warming
	present := make(map[key]bool, len(all))
	fresh := map[string]int{} // service -> UP instances in the snapshot
	for _, in := range all {
		present[in.key()] = true
		if in.Status == Up {
			fresh[in.Service]++
		}
	}
	for service, known := range g.services {
		g.missing(service, known, present, fresh[service], now, touched)
	}
	for _, in := range all {
		g.set(entry{Instance: in}, touched)
	}
	return touched
}

// missing decides about the known instances of a service that a snapshot lacks: rules 2, 3 and 4.
func (g *guard) missing(service string, known map[string]entry, present map[key]bool, fresh int, now time.Time, touched map[string]bool) {
	up, lost := 0, 0
	for id, e := range known {
		if e.Status == Up {
			up++
			if !present[key{service, id}] {
				lost++
			}
		}
	}
	for id, e := range known {
		if present[key{service, id}] {
			continue
		}
		doubt := g.warming || fresh == 0 || (!e.unconfirmed && 2*lost > up)
		if e.Status == Up && doubt {
			g.keep(e, now, touched)
		} else {
			g.drop(service, id, touched)
		}
	}
}

// delta applies changes and removals and returns the services whose list may have changed.
func (g *guard) delta(changed []Instance, gone []key, warming bool, now time.Time) map[string]bool {
	touched := map[string]bool{}
	g.warm(warming, now)
	for _, in := range changed {
		g.set(entry{Instance: in}, touched)
	}
	left := map[string]bool{}
	for _, k := range gone {
		e, ok := g.services[k.service][k.id]
		if !ok {
			continue
		}
		if e.Status == Up {
			g.removed[k.service] = append(g.removed[k.service], removal{e, now})
		}
		g.drop(k.service, k.id, touched)
		left[k.service] = true
	}
	for service := range left {
		g.vanished(service, now, touched)
	}
	return touched
}

// vanished brings back what was removed lately from a service that has nothing UP any more: rule 5.
func (g *guard) vanished(service string, now time.Time, touched map[string]bool) {
	recent := slices.DeleteFunc(g.removed[service], func(r removal) bool { return now.Sub(r.at) > g.lease })
	g.removed[service] = recent
	for _, e := range g.services[service] {
		if e.Status == Up && e.held.IsZero() {
			return
		}
	}
	delete(g.removed, service)
	for _, r := range recent {
		if _, known := g.services[service][r.ID]; !known {
			g.keep(r.entry, now, touched)
		}
	}
}

// warm notes what the registry says of itself. While it is warming up, no suspect's time runs.
func (g *guard) warm(warming bool, now time.Time) {
	if g.warming || warming {
		for _, m := range g.services {
			for id, e := range m {
				if !e.held.IsZero() {
					e.held = now.Add(g.hold)
					m[id] = e
				}
			}
		}
	}
	g.warming = warming
}

// expire drops suspects whose time is over, forgets old removals, and returns the services that changed.
func (g *guard) expire(now time.Time) map[string]bool {
	touched := map[string]bool{}
	if !g.live || g.warming {
		return touched
	}
	for service, m := range g.services {
		for id, e := range m {
			if !e.held.IsZero() && !now.Before(e.held) {
				g.dropped++
				g.drop(service, id, touched)
			}
		}
	}
	for service, rs := range g.removed {
		if rs = slices.DeleteFunc(rs, func(r removal) bool { return now.Sub(r.at) > g.lease }); len(rs) == 0 {
			delete(g.removed, service)
		} else {
			g.removed[service] = rs
		}
	}
	return touched
}

// suspects counts the instances that only this client keeps, and says when the next of them is dropped (zero: never).
func (g *guard) suspects() (n int, next time.Time) {
	for _, m := range g.services {
		for _, e := range m {
			if e.held.IsZero() {
				continue
			}
			n++
			if next.IsZero() || e.held.Before(next) {
				next = e.held
			}
		}
	}
	if !g.live || g.warming {
		next = time.Time{}
	}
	return n, next
}

// list returns the instances of a service, sorted by id.
func (g *guard) list(service string) []Instance {
	byID := make(map[string]Instance, len(g.services[service]))
	for id, e := range g.services[service] {
		byID[id] = e.Instance
	}
	return sortByID(byID)
}

func sortByID(byID map[string]Instance) []Instance {
	return slices.SortedFunc(maps.Values(byID), func(a, b Instance) int { return strings.Compare(a.ID, b.ID) })
}
