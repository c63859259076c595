package discovery

import (
	"cmp"
	"context"
	"fmt"

	discoveryv1 "bijou.dev/platform/api/discovery/v1"
	"bijou.dev/platform/kv/kvetcd"
	"bijou.dev/platform/service"
	"github.com/prometheus/client_golang/prometheus"
)

// New makes the process a replica of the registry: gRPC on listener "grpc", REST on "http". It does not wait for the
// store. The seeds of the process may be the other replicas, or itself.
func New(_ context.Context, setup *service.Setup, opts Options) error {
	opts.Name = cmp.Or(opts.Name, setup.Instance())
	opts.Log = cmp.Or(opts.Log, setup.Log())
	if opts.Store == nil && len(opts.EtcdEndpoints) > 0 {
		store, err := kvetcd.New(kvetcd.Options{Endpoints: opts.EtcdEndpoints, Log: opts.Log})
		if err != nil {
			return fmt.Errorf("opening the registry's store: %w", err)
		}
		setup.OnStop("store", func(context.Context) error { return store.Close() })
		opts.Store = store
	}
	s, err := NewServer(opts)
	if err != nil {
		return err
	}
	setup.OnStop("registry", func(context.Context) error { return s.Close() })
	discoveryv1.RegisterDiscoveryServer(setup.GRPC(), s)
	setup.Go("registry", s.Run)
	setup.OnDrain(s.Release)
	if err := setup.Metrics().Register(&metrics{s.reg}); err != nil {
		return fmt.Errorf("exporting the registry's metrics: %w", err)
	}
	return setup.Handle("http", s.Handler())
}

// metrics exports the registry's state.
type metrics struct{ reg *registry }

var (
	descInstances = prometheus.NewDesc("bijou_discovery_instances", "Instances, by service and status.",
		[]string{"service", "status"}, nil)
	descSuspects = prometheus.NewDesc("bijou_discovery_suspects", "Instances kept by self-preservation only.",
		nil, nil)
	descWatchers  = prometheus.NewDesc("bijou_discovery_watchers", "Watch streams of this replica.", nil, nil)
	descReplicas  = prometheus.NewDesc("bijou_discovery_replicas", "Replicas that are present in the store.", nil, nil)
	descUnwritten = prometheus.NewDesc("bijou_discovery_unwritten",
		"Instances whose last change is not in the store yet.", nil, nil)
	descPreserve = prometheus.NewDesc("bijou_discovery_self_preservation", "1 while evictions are stopped.", nil, nil)
	descStore    = prometheus.NewDesc("bijou_discovery_store_up", "1 while the store is in use.", nil, nil)
	descEvicted  = prometheus.NewDesc("bijou_discovery_evicted_total", "Instances whose lease this replica has ended.",
		nil, nil)
)

// Describe implements prometheus.Collector.
func (m *metrics) Describe(c chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{
		descInstances, descSuspects, descWatchers, descReplicas, descUnwritten, descPreserve, descStore, descEvicted,
	} {
		c <- d
	}
}

// Collect implements prometheus.Collector.
func (m *metrics) Collect(c chan<- prometheus.Metric) {
	r := m.reg
	r.mu.Lock()
	defer r.mu.Unlock()
	gauge := func(d *prometheus.Desc, v float64, labels ...string) {
		c <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, v, labels...)
	}
	flag := map[bool]float64{true: 1}
	for service, recs := range r.instances.services {
		n := map[discoveryv1.Status]float64{}
		for _, rec := range recs {
			n[rec.inst.GetStatus()]++
		}
		for status, v := range n {
			gauge(descInstances, v, service, nameOf(status))
		}
	}
	gauge(descSuspects, float64(r.instances.suspects()))
	gauge(descWatchers, float64(len(r.watchers.all)))
	gauge(descReplicas, float64(len(r.leases.replicas)))
	gauge(descUnwritten, float64(len(r.store.dirty)))
	gauge(descPreserve, flag[r.losses.active])
	gauge(descStore, flag[r.store.problem == nil])
	c <- prometheus.MustNewConstMetric(descEvicted, prometheus.CounterValue, float64(r.losses.total))
}
