package gateway

import (
	"net/http"

	"bijou.dev/services/gateway/internal/cors"
	"bijou.dev/services/gateway/routes"
)

// find returns the route of the request, and the path to send. The route of a preflight is that of the request that the
// preflight asks about, because only that one has the method to which a route may be limited; else it is the route of
// the preflight itself. If this route has no origins, the preflight is a request as any other.
func (x *exchange) find(t *table) (*routes.Rule, string, error) {
	if method, ok := cors.IsPreflight(x.r); ok {
		asked := *x.r
		for _, asked.Method = range []string{method, http.MethodOptions} {
			if found, path, err := t.Find(&asked, x.path, x.client()); err == nil && found != nil && found.Origins != nil {
				x.preflight = true
				return found, path, nil
			}
		}
	}
	return t.Find(x.r, x.path, x.client())
}

// setOrigins says which other origins may use the answer, if the route does.
func (x *exchange) setOrigins(h http.Header) {
	switch {
	case x.rule == nil || x.rule.Origins == nil:
	case x.preflight:
		x.rule.Origins.Preflight(h, x.r.Header)
	default:
		x.rule.Origins.Answer(h, x.r.Header)
	}
}
