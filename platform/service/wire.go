package service

import (
	"context"
	"fmt"
	"path/filepath"
	"time"

	"bijou.dev/platform/circuit"
	"bijou.dev/platform/config"
	"bijou.dev/platform/discovery"
	"bijou.dev/platform/overload"
	"bijou.dev/platform/rpc"
	"bijou.dev/platform/trace"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"google.golang.org/grpc"
	healthv1 "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/reflection"
)

// dir returns a folder of the state directory, or "" when there is none.
func (p *Process) dir(name string) string {
	if p.opts.StateDir == "" {
		return ""
	}
	return filepath.Join(p.opts.StateDir, name)
}

// wire builds the parts bottom up. It is one straight list because each line needs the one above it: discovery needs
// only its seeds; settings are found through discovery; circuits, balancing and tracing are steered by settings; calls
// go through all of them.
func (p *Process) wire() (err error) {
	o := p.opts
	p.discovery = discovery.Static(nil)
	if len(o.Discovery) > 0 {
		p.discovery, err = discovery.New(discovery.Options{
			Seeds: o.Discovery, DialContext: o.Net.DialContext, Dir: p.dir("discovery"),
			Name: o.Name + "/" + o.Instance, Log: p.log,
		})
		if err != nil {
			return fmt.Errorf("opening discovery: %w", err)
		}
	}
	p.plain = rpc.NewClient(rpc.ClientOptions{Service: o.Name, Zone: o.Zone, Discovery: p.discovery, DialContext: o.Net.DialContext})
	settings, err := p.plain.Dial("config")
	if err != nil {
		return err
	}
	p.OnStop("connection for settings", func(context.Context) error { return settings.Close() })
	p.config, err = config.Open(config.Options{Identity: p.Identity(), Conn: settings, Dir: p.dir("config"), Log: p.log})
	if err != nil {
		return fmt.Errorf("opening settings: %w", err)
	}
	spans, err := p.plain.Dial("tracing?endpoint=otlp")
	if err != nil {
		return err
	}
	p.OnStop("connection for spans", func(context.Context) error { return spans.Close() })
	p.tracer, err = trace.New(trace.Options{
		Service: o.Name, Instance: o.Instance, Version: o.Version, Environment: o.Environment, Region: o.Region, Zone: o.Zone,
		Conn: func() grpc.ClientConnInterface { return spans }, Log: p.log, Revision: p.config.Revision,
		Sampling: config.Float(p.config, "trace.sampling", 1, config.Spec{
			Doc: "Share of new traces that are recorded. A trace that a caller has begun keeps its caller's decision.",
			Min: "0", Max: "1",
		}),
	})
	if err != nil {
		return fmt.Errorf("opening tracing: %w", err)
	}
	p.OnStop("tracing", p.flushSpans)
	p.circuits = circuit.New(circuit.Options{Config: p.config, Log: p.log, Service: o.Name, Instance: o.Instance})
	p.client = rpc.NewClient(rpc.ClientOptions{
		Service: o.Name, Zone: o.Zone, Discovery: p.discovery, DialContext: o.Net.DialContext,
		Config: p.config, Circuits: p.circuits, Trace: p.tracer, Metrics: p.metrics,
	})
	p.overload = overload.New(overload.Options{Config: p.config, Metrics: p.metrics})
	p.grpc = rpc.NewServer(rpc.ServerOptions{Service: o.Name, Trace: p.tracer, Log: p.log, Metrics: p.metrics, Limiter: p.overload.Limiter("grpc"), Config: p.config})
	healthv1.RegisterHealthServer(p.grpc, p.health)
	p.health.SetServingStatus("", healthv1.HealthCheckResponse_NOT_SERVING)
	return nil
}

// flushSpans gives the last spans a moment. That a trace store is away is no reason for a stop to be slow or to fail:
// the spans are dropped and counted.
func (p *Process) flushSpans(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	if err := p.tracer.Shutdown(ctx); err != nil {
		p.log.Info("stopping tracing", "dropped", p.tracer.Dropped(), "problem", err.Error())
	}
	return nil
}

// finish completes what setup began: it starts nothing, but after it nothing can be added.
func (p *Process) finish() error {
	if _, ok := p.listeners["grpc"]; ok && !p.claimed["grpc"] {
		reflection.Register(p.grpc)
		l, err := p.Listen("grpc")
		if err != nil {
			return err
		}
		p.onGRPC = limitConns(l, maxGRPCConns, p.refused.WithLabelValues("grpc"))
	} else if p.serves {
		return fmt.Errorf("serving gRPC of %s: no listener \"grpc\" is free for it; add grpc=:7000 to -listen", p.opts.Name)
	}
	if _, ok := p.listeners["admin"]; ok {
		if err := p.Handle("admin", p.adminHandler()); err != nil {
			return err
		}
	}
	for name := range p.listeners {
		if !p.claimed[name] {
			return fmt.Errorf("listening on %q: %s serves nothing there; take it out of -listen", name, p.opts.Name)
		}
	}
	p.registrar = discovery.NewRegistrar(p.discovery, discovery.Instance{
		Service: p.opts.Name, ID: p.opts.Instance, Endpoints: p.endpoints(),
		Environment: p.opts.Environment, Region: p.opts.Region, Zone: p.opts.Zone, Version: p.opts.Version,
		Metadata: map[string]string{discovery.MetaSettings: discovery.SettingsWatched},
		Status:   discovery.Starting,
	}, discovery.RegistrarOptions{Log: p.log})
	p.observe()
	return nil
}

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
		Name: "bijou_connections_refused_total", Help: "Connections closed at once because their listener had as many as it may.",
	}, []string{"listener"})
	r.MustRegister(c)
	return c
}

// observe exports what the parts say of themselves.
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
		ok, _ := p.registrar.Registered()
		return flag(ok)
	})
	gauge("bijou_discovery_connected", "1 while a registry is followed; 0 while the last known instances are used.", func() float64 {
		return flag(p.discovery.Stats().Connected)
	})
	gauge("bijou_discovery_known_instances", "Instances this process knows, of all services.", func() float64 {
		return float64(p.discovery.Stats().Instances)
	})
	gauge("bijou_config_revision", "The settings revision in use.", func() float64 { return float64(p.config.Revision()) })
	gauge("bijou_config_connected", "1 while settings are pushed; 0 while the last known ones are used.", func() float64 {
		ok, _ := p.config.Connected()
		return flag(ok)
	})
	counter := func(name, help string, fn func() uint64) {
		p.metrics.MustRegister(prometheus.NewCounterFunc(prometheus.CounterOpts{Name: name, Help: help}, func() float64 { return float64(fn()) }))
	}
	counter("bijou_trace_spans_total", "Spans recorded. What is neither exported nor dropped is queued.", p.tracer.Ended)
	counter("bijou_trace_spans_exported_total", "Spans that the trace store has acknowledged.", p.tracer.Exported)
	counter("bijou_trace_spans_dropped_total", "Spans lost because the queue was full or the export failed.", p.tracer.Dropped)
}
