package discovery

import (
	"cmp"
	"iter"
	"slices"

	discoveryv1 "bijou.dev/platform/api/discovery/v1"
)

// key names an instance.
type key struct{ service, id string }

// record is a registered instance with its lease and its stream.
type record struct {
	// inst is the instance as callers see it. It is replaced, never changed.
	inst *discoveryv1.Instance
	// lease has the length of the lease and the time of the last heartbeat.
	lease lease
	// sess is the registration stream, if it is at this replica.
	sess *session
	// version is the registry's version of the last change of inst.
	version int64
	// propagated: all watchers have acknowledged inst.
	propagated bool
}

// instances are all registered instances. The registry's lock guards them.
type instances struct {
	services map[string]map[string]*record // service -> id -> record; no service is empty
	count    int                           // records of all services
}

// find returns nil when there is no such instance.
func (in *instances) find(k key) *record { return in.services[k.service][k.id] }

func (in *instances) put(k key, rec *record) {
	m := in.services[k.service]
	if m == nil {
		m = map[string]*record{}
		in.services[k.service] = m
	}
	if m[k.id] == nil {
		in.count++
	}
	m[k.id] = rec
}

// remove reports whether there was such an instance.
func (in *instances) remove(k key) bool {
	m := in.services[k.service]
	if m[k.id] == nil {
		return false
	}
	if delete(m, k.id); len(m) == 0 {
		delete(in.services, k.service)
	}
	in.count--
	return true
}

func (in *instances) all() iter.Seq2[key, *record] {
	return func(yield func(key, *record) bool) {
		for service, m := range in.services {
			for id, rec := range m {
				if !yield(key{service, id}, rec) {
					return
				}
			}
		}
	}
}

// list returns the instances of a service, or of all if service is empty, sorted by service and id.
func (in *instances) list(service string) []*discoveryv1.Instance {
	var out []*discoveryv1.Instance
	for k, rec := range in.all() {
		if service == "" || k.service == service {
			out = append(out, rec.inst)
		}
	}
	slices.SortFunc(out, func(a, b *discoveryv1.Instance) int {
		return cmp.Or(cmp.Compare(a.GetService(), b.GetService()), cmp.Compare(a.GetId(), b.GetId()))
	})
	return out
}

// suspects counts the instances that only self-preservation keeps.
func (in *instances) suspects() (n int) {
	for _, rec := range in.all() {
		if rec.inst.GetSuspect() {
			n++
		}
	}
	return n
}
