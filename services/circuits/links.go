package circuits

import (
	"cmp"
	"context"
	"maps"
	"slices"

	circuitsv1 "bijou.dev/platform/api/circuits/v1"
	"bijou.dev/platform/load"
)

// Links implements the contract.
func (b *Board) Links(context.Context, *circuitsv1.LinksRequest) (*circuitsv1.LinksResponse, error) {
	return links(b.parts("", false)), nil
}

// link adds up all calls of one service to another.
type link struct {
	load      load.Load
	notClosed map[string]bool // names of circuits
}

type linkKey struct{ from, to string }

// links sums the parts by caller and callee.
func links(parts []*circuitsv1.ServiceCircuits) *circuitsv1.LinksResponse {
	byKey := map[linkKey]*link{}
	between := func(from, to string) *link {
		k := linkKey{from, to}
		if byKey[k] == nil {
			byKey[k] = &link{notClosed: map[string]bool{}}
		}
		return byKey[k]
	}
	resp := &circuitsv1.LinksResponse{}
	for _, p := range parts {
		for _, c := range p.Circuits {
			l := between(p.Service, c.Group)
			l.load.AddProto(c.Load)
			if c.State > circuitsv1.State_STATE_CLOSED {
				l.notClosed[c.Name] = true
			}
		}
		for _, s := range p.Served {
			var served load.Load
			served.AddProto(s.Load)
			resp.Instances = append(resp.Instances, &circuitsv1.InstanceLoad{
				Service: p.Service, Instance: s.Instance, Figures: served.Figures(),
			})
			if s.Internet {
				between(load.Internet, p.Service).load.Add(&served)
			}
		}
	}
	slices.SortFunc(resp.Instances, func(a, b *circuitsv1.InstanceLoad) int {
		return cmp.Or(cmp.Compare(a.Service, b.Service), cmp.Compare(a.Instance, b.Instance))
	})
	addLinks(resp, byKey)
	return resp
}

// addLinks adds the links and the sum of the links to each service.
func addLinks(resp *circuitsv1.LinksResponse, byKey map[linkKey]*link) {
	into := map[string]*load.Load{}
	for _, k := range slices.SortedFunc(maps.Keys(byKey), func(a, b linkKey) int {
		return cmp.Or(cmp.Compare(a.from, b.from), cmp.Compare(a.to, b.to))
	}) {
		l := byKey[k]
		resp.Links = append(resp.Links, &circuitsv1.Link{
			From: k.from, To: k.to, Figures: l.load.Figures(), NotClosed: slices.Sorted(maps.Keys(l.notClosed)),
		})
		if into[k.to] == nil {
			into[k.to] = &load.Load{}
		}
		into[k.to].Add(&l.load)
	}
	for _, service := range slices.Sorted(maps.Keys(into)) {
		resp.Services = append(resp.Services, &circuitsv1.ServiceLoad{
			Service: service, Figures: into[service].Figures(),
		})
	}
}
