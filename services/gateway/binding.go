package gateway

import (
	"slices"

	"bijou.dev/services/gateway/internal/origin"
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
	targets []*origin.Target // in the order of To
	seconds prometheus.Observer
	limits  []*limiter   // in the order of Limits
	mirror  *mirrored    // nil: no copies are sent
	auth    []authMethod // in the order of Auth.Methods
	// policies is what RateLimit-Policy says about limits. Empty: there is no rate.
	policies string
}

// targets are the targets of all routes.
func (t *table) targets() (all []*origin.Target) {
	for _, u := range t.rules {
		all = append(all, u.all()...)
	}
	return all
}

// all are the targets of the route, that of copies last.
func (u *rule) all() []*origin.Target {
	if u.mirror == nil {
		return u.targets
	}
	return append(slices.Clip(u.targets), u.mirror.target)
}

// bind joins a compiled table with the metrics and the origins of the edge.
func (e *Edge) bind(compiled *routes.Table) *table {
	t := &table{Table: compiled}
	for _, r := range compiled.Rules {
		u := &rule{Rule: r, seconds: e.metrics.seconds.WithLabelValues(r.Name), mirror: newMirrored(r)}
		for _, to := range r.To {
			u.targets = append(u.targets, &origin.Target{Target: to, Name: to.CalledName()})
		}
		t.rules = append(t.rules, u)
	}
	e.origins.Bind(t.targets())
	e.bindLimits(t)
	e.bindAuth(t)
	return t
}

// pick draws a target by weight. A URL whose instances are unhealthy or cannot be reached is replaced by the next
// target.
func (u *rule) pick(sticky string) *origin.Target {
	first := u.Pick(sticky)
	for i := range u.targets {
		if t := u.targets[(first+i)%len(u.targets)]; (i == 0 || t.Weight > 0) && t.Usable() {
			return t
		}
	}
	return u.targets[first]
}
