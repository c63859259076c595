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
	// dropAt is when this suspect is dropped. Zero: it is not a suspect of this client.
	dropAt time.Time
	// unconfirmed is true for an instance from disk, until a registry has sent it.
	unconfirmed bool
}

// removal remembers an instance that was removed while UP.
type removal struct {
	entry
	at time.Time
}

// guard applies the messages of the registry to the known instances, by the rules in the package comment. It has no
// clock and no lock of its own.
type guard struct {
	hold, lease time.Duration
	// services: service -> id -> entry.
	services map[string]map[string]entry
	// removed: service -> removals of the last lease, oldest first.
	removed map[string][]removal
	// live: a registry is followed. warming: it says that it may not have all instances yet.
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

// set stores an entry and adds its service to touched.
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

// keep makes an entry a suspect for the time of hold.
func (g *guard) keep(e entry, now time.Time, touched map[string]bool) {
	if e.dropAt.IsZero() {
		g.kept++
	}
	e.dropAt, e.Suspect = now.Add(g.hold), true
	g.set(e, touched)
}

// snapshot applies a message with all instances, and returns the services whose list may have changed.
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

// missing drops or keeps the known instances of a service that a snapshot does not contain: rules 2, 3 and 4. fresh
// is the number of its UP instances in the snapshot.
func (g *guard) missing(
	service string, known map[string]entry, present map[key]bool, fresh int, now time.Time, touched map[string]bool,
) {
	up, lost := 0, 0 // the known UP instances, and how many of them the snapshot does not contain
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
func (g *guard) delta(changed []Instance, removed []key, warming bool, now time.Time) map[string]bool {
	touched := map[string]bool{}
	g.warm(warming, now)
	for _, in := range changed {
		g.set(entry{Instance: in}, touched)
	}
	reduced := map[string]bool{} // services that have lost an instance
	for _, k := range removed {
		e, ok := g.services[k.service][k.id]
		if !ok {
			continue
		}
		if e.Status == Up {
			g.removed[k.service] = append(g.removed[k.service], removal{e, now})
		}
		g.drop(k.service, k.id, touched)
		reduced[k.service] = true
	}
	for service := range reduced {
		g.restore(service, now, touched)
	}
	return touched
}

// restore brings back the instances that were removed within the last lease, if the service has no UP instance any
// more: rule 5.
func (g *guard) restore(service string, now time.Time, touched map[string]bool) {
	recent := slices.DeleteFunc(g.removed[service], func(r removal) bool { return now.Sub(r.at) > g.lease })
	g.removed[service] = recent
	for _, e := range g.services[service] {
		if e.Status == Up && e.dropAt.IsZero() {
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

// warm records whether the registry is warming up. While it is, no suspect is dropped.
func (g *guard) warm(warming bool, now time.Time) {
	if g.warming || warming {
		for _, m := range g.services {
			for id, e := range m {
				if !e.dropAt.IsZero() {
					e.dropAt = now.Add(g.hold)
					m[id] = e
				}
			}
		}
	}
	g.warming = warming
}

// expire drops the suspects whose time is over, deletes old removals, and returns the services that changed.
func (g *guard) expire(now time.Time) map[string]bool {
	touched := map[string]bool{}
	if !g.live || g.warming {
		return touched
	}
	for service, m := range g.services {
		for id, e := range m {
			if !e.dropAt.IsZero() && !now.Before(e.dropAt) {
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

// suspects counts the instances that only this client keeps, and returns when the next one is dropped. Zero: no time
// is set, because there are no suspects or time does not count (rule 6).
func (g *guard) suspects() (n int, next time.Time) {
	for _, m := range g.services {
		for _, e := range m {
			if e.dropAt.IsZero() {
				continue
			}
			n++
			if next.IsZero() || e.dropAt.Before(next) {
				next = e.dropAt
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
