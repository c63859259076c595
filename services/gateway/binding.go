package gateway

import (
	"bijou.dev/services/gateway/routes"

	"github.com/prometheus/client_golang/prometheus"
)

// table is a routing table with the origins of its targets. It is never changed once requests can see it.
type table struct {
	*routes.Table
	rules []*rule // in the order of Table.Rules
}

// rule is a route with its targets.
type rule struct {
	*routes.Rule
	targets []*target // in the order of To
	seconds prometheus.Observer
	limits  []*limiter // in the order of Limits
	// policies is what RateLimit-Policy says about limits. Empty: there is no rate.
	policies string
}

// target is a target with its origin.
type target struct {
	routes.Target
	name   string // of what is called: the service, or the host of the URL
	origin *origin
}

// http2 reports whether all requests go over HTTP/2.
func (t *target) http2() bool { return t.Endpoint == "grpc" || t.origin.url.H2C() }

// bind joins a compiled table with the metrics and the origins of the edge.
func (e *Edge) bind(compiled *routes.Table) *table {
	t := &table{Table: compiled}
	for _, r := range compiled.Rules {
		u := &rule{Rule: r, seconds: e.metrics.seconds.WithLabelValues(r.Name)}
		for _, to := range r.To {
			u.targets = append(u.targets, &target{Target: to, name: to.CalledName()})
		}
		t.rules = append(t.rules, u)
	}
	e.origins.bind(t)
	e.bindLimits(t)
	return t
}

// pick draws a target by weight. A URL whose instances are unhealthy or cannot be reached is replaced by the next
// target.
func (u *rule) pick(sticky string) *target {
	first := u.Pick(sticky)
	for i := range u.targets {
		if t := u.targets[(first+i)%len(u.targets)]; (i == 0 || t.Weight > 0) && t.origin.usable() {
			return t
		}
	}
	return u.targets[first]
}
