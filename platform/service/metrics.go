package service

import (
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
)

// newMetrics returns a registry with the runtime's own metrics. It is the process's own: two processes in one test
// must not share counters.
func newMetrics(o Options) *prometheus.Registry {
	r := prometheus.NewRegistry()
	info := prometheus.NewGauge(prometheus.GaugeOpts{
		Name: "bijou_build_info", Help: "Always 1; the labels say what runs.",
		ConstLabels: prometheus.Labels{"service": o.Name, "instance": o.Instance, "version": o.Version, "zone": o.Zone},
	})
	info.Set(1)
	r.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}), info)
	return r
}

// newRefused counts connections that were closed because there were too many.
func newRefused(r prometheus.Registerer) *prometheus.CounterVec {
	c := prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "bijou_connections_refused_total",
		Help: "Connections closed at once because their listener had reached its limit.",
	}, []string{"listener"})
	r.MustRegister(c)
	return c
}

// observe exports the state of the parts as metrics.
func (p *Process) observe() {
	gauge := func(name, help string, fn func() float64) {
		p.metrics.MustRegister(prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: name, Help: help}, fn))
	}
	flag := func(b bool) float64 {
		if b {
			return 1
		}
		return 0
	}
	gauge("bijou_registered", "1 while the registry has this instance.", func() float64 {
		ok, _ := p.registry.registered()
		return flag(ok)
	})
	gauge("bijou_discovery_connected", "1 while connected to a registry; 0 while the last known instances are used.",
		func() float64 { return flag(p.discovery.Current() == nil) })
	gauge("bijou_discovery_known_instances", "Instances this process knows, of all services.", func() float64 {
		return float64(len(p.discovery.Instances("")))
	})
	gauge("bijou_config_revision", "The settings revision in use.",
		func() float64 { return float64(p.config.Revision()) })
	gauge("bijou_config_connected", "1 while settings are pushed; 0 while the last known ones are used.",
		func() float64 {
			ok, _ := p.config.Connected()
			return flag(ok)
		})
	counter := func(name, help string, fn func() uint64) {
		p.metrics.MustRegister(prometheus.NewCounterFunc(prometheus.CounterOpts{Name: name, Help: help},
			func() float64 { return float64(fn()) }))
	}
	counter("bijou_trace_spans_total",
		"Spans recorded. What is neither exported nor dropped is queued.", p.tracer.Ended)
	counter("bijou_trace_spans_exported_total", "Spans that the trace store has acknowledged.", p.tracer.Exported)
	for reason := range p.tracer.Drops() {
		p.metrics.MustRegister(prometheus.NewCounterFunc(prometheus.CounterOpts{
			Name: "bijou_trace_spans_dropped_total", Help: "Spans that were not delivered, by reason.",
			ConstLabels: prometheus.Labels{"reason": reason},
		}, func() float64 { return float64(p.tracer.Drops()[reason]) }))
	}
}
