package gateway

import (
	"context"
	"net/http"

	"bijou.dev/platform/httpapi"
	"bijou.dev/platform/route"
	"bijou.dev/services/gateway/internal/auth/jwks"
	"bijou.dev/services/gateway/internal/origin"
	"bijou.dev/services/gateway/internal/upstream"
	"bijou.dev/services/gateway/routes"
)

// shownTable is the table in use in JSON.
type shownTable struct {
	Revision int64        `json:"revision"`
	Routes   []shownRoute `json:"routes"` // in the order in which they are tried
	Origins  []shownGroup `json:"origins"`
	// Providers are those whose tokens routes take.
	Providers []jwks.State `json:"providers,omitempty"`
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
	// Upstream is what is known of a URL: look-ups and health checks. Nil: the origin is a service.
	Upstream *upstream.State `json:"upstream,omitempty"`
}

// RoutesHandler serves the table in use as JSON: its revision, the routes in the order in which they are tried, and the
// instances behind them as the balancer sees them.
func (e *Edge) RoutesHandler() http.Handler {
	return httpapi.Get(func(*http.Request) (shownTable, error) { return e.shown(), nil })
}

// CheckHandler says whether the edge would use a list of routes, and changes nothing. It answers a POST of
// {"routes": [...]} with {}, or with a problem that names the route and the field.
func (e *Edge) CheckHandler() http.Handler {
	type question struct {
		Routes routes.Routes `json:"routes"`
	}
	type answer struct{}
	return httpapi.Post(func(_ context.Context, q *question) (answer, error) { return answer{}, q.Routes.Validate() })
}

func (e *Edge) shown() shownTable {
	t := shownTable{
		Revision: e.opts.Config.Revision(), Routes: []shownRoute{}, Origins: []shownGroup{}, Providers: e.providers.State(),
	}
	seen := map[*origin.Origin]bool{}
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
		for _, to := range u.all() {
			if !seen[to.Origin] {
				seen[to.Origin] = true
				g := shownGroup{Service: to.Name, Endpoint: to.Endpoint, Instances: to.Balancer.State()}
				if w := to.Watch; w != nil {
					state := w.State()
					g.Upstream = &state
				}
				t.Origins = append(t.Origins, g)
			}
		}
	}
	return t
}
