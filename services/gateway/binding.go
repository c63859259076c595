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
}

// target is a target with its origin.
type target struct {
	routes.Target
	origin *origin
}

// bind joins a compiled table with the metrics and the origins of the edge.
func (e *Edge) bind(compiled *routes.Table) *table {
	t := &table{Table: compiled}
	for _, r := range compiled.Rules {
		u := &rule{Rule: r, seconds: e.metrics.seconds.WithLabelValues(r.Name)}
		for _, to := range r.To {
			u.targets = append(u.targets, &target{Target: to})
		}
		t.rules = append(t.rules, u)
	}
	e.origins.bind(t)
	return t
}
