package upstream

import (
	"strconv"

	"github.com/prometheus/client_golang/prometheus"
)

var instancesDesc = prometheus.NewDesc("bijou_gateway_upstream_instances",
	"Instances of targets that are URLs, by target and health.", []string{"target", "healthy"}, nil)

func newLookups() *prometheus.CounterVec {
	return prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "bijou_gateway_upstream_lookups_total",
		Help: "Look-ups of targets by result: found, partial, not_found or failed.",
	}, []string{"result"})
}

// collector counts the instances when it is asked, so nothing is left of a target that is not watched any more. The
// labels come from the configuration: addresses, which DNS servers decide, are not among them.
type collector struct{ set *Set }

// Describe sends the only description.
func (c collector) Describe(descs chan<- *prometheus.Desc) { descs <- instancesDesc }

// Collect sends two numbers for each target. Watches of one target with different checks are added up.
func (c collector) Collect(metrics chan<- prometheus.Metric) {
	counts := map[string]*[2]int{} // target -> instances that are unhealthy and healthy
	c.set.mu.Lock()
	for w := range c.set.watches {
		target := w.target.String()
		n := counts[target]
		if n == nil {
			n = new([2]int)
			counts[target] = n
		}
		w.mu.Lock()
		for _, in := range w.instances {
			if in.Healthy {
				n[1]++
			} else {
				n[0]++
			}
		}
		w.mu.Unlock()
	}
	c.set.mu.Unlock()
	for target, n := range counts {
		for i, healthy := range []bool{false, true} {
			metrics <- prometheus.MustNewConstMetric(instancesDesc, prometheus.GaugeValue, float64(n[i]), target,
				strconv.FormatBool(healthy))
		}
	}
}
