package discovery

import (
	"cmp"

	"bijou.dev/platform/errs"
)

// Static is a [Directory] without a registry: it has the instances that the program gives it. It is for tests, and for
// programs that do not use a registry. Make it with [NewStatic].
type Static struct {
	*Directory
}

// NewStatic returns a Static with these instances, by service, as if each list was given to [Static.Put]. The map may
// be nil.
func NewStatic(services map[string][]Instance) *Static {
	s := &Static{newDirectory(nil, staticState())}
	for service, list := range services {
		s.Put(service, list)
	}
	return s
}

func staticState() state {
	return state{settled: true, current: errs.Errorf(errs.Unavailable, "this process uses no registry")}
}

// Put replaces the instances of a service; an empty list removes the service. Their field Service is set, an instance
// without a Status is UP, and of two instances with the same id the later one counts. Put returns after all functions
// given to [Directory.Watch] have returned.
func (s *Static) Put(service string, list []Instance) {
	byID := make(map[string]Instance, len(list))
	for _, in := range list {
		in.Service, in.Status = service, cmp.Or(in.Status, Up)
		byID[in.ID] = in
	}
	_, deliver := s.replace(map[string][]Instance{service: sortByID(byID)}, staticState())
	deliver()
}
