package gateway

import (
	"net/http"

	"bijou.dev/platform/httpapi"
	"bijou.dev/platform/route"
	"bijou.dev/services/gateway/routes"
)

// shownTable is the table in use in JSON.
type shownTable struct {
	Revision int64        `json:"revision"`
	Routes   []shownRoute `json:"routes"` // in the order in which they are tried
	Origins  []shownGroup `json:"origins"`
}

type shownRoute struct {
	routes.Route
	Header  string `json:"headerTimeout"`
	Total   string `json:"totalTimeout"` // 0s: no limit
	MaxBody int64  `json:"bodyLimit"`    // -1: no limit
}

type shownGroup struct {
	Service   string                `json:"service"`
	Endpoint  string                `json:"endpoint"`
	Instances []route.EndpointState `json:"instances"`
}

// RoutesHandler serves the table in use as JSON: its revision, the routes in the order in which they are tried, and the
// instances behind them as the balancer sees them.
func (e *Edge) RoutesHandler() http.Handler {
	return httpapi.Get(func(*http.Request) (shownTable, error) { return e.shown(), nil })
}

func (e *Edge) shown() shownTable {
	t := shownTable{Revision: e.opts.Config.Revision(), Routes: []shownRoute{}, Origins: []shownGroup{}}
	seen := map[*origin]bool{}
	for _, u := range e.table.Load().rules {
		r := shownRoute{
			Route: u.Route, Header: e.settings.header.Get().String(), Total: e.settings.total.Get().String(),
			MaxBody: u.MaxBody,
		}
		if u.HeaderTimeout >= 0 {
			r.Header = u.HeaderTimeout.String()
		}
		if u.TotalTimeout >= 0 {
			r.Total = u.TotalTimeout.String()
		}
		if r.MaxBody == 0 {
			r.MaxBody = e.settings.maxBody.Get()
		}
		t.Routes = append(t.Routes, r)
		for _, to := range u.targets {
			if !seen[to.origin] {
				seen[to.origin] = true
				t.Origins = append(t.Origins, shownGroup{to.Service, to.Endpoint, to.origin.balancer.State()})
			}
		}
	}
	return t
}
