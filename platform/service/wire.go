package service

import (
	"context"
	"fmt"
	"path/filepath"
	"time"

	"bijou.dev/platform/circuit"
	"bijou.dev/platform/config"
	"bijou.dev/platform/discovery"
	"bijou.dev/platform/load"
	"bijou.dev/platform/overload"
	"bijou.dev/platform/rpc"
	"bijou.dev/platform/trace"

	"google.golang.org/grpc"
	healthv1 "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/reflection"
)

// dir returns a folder of the state directory, or "" when there is none.
func (m *Member) dir(name string) string {
	if m.opts.StateDir == "" {
		return ""
	}
	return filepath.Join(m.opts.StateDir, name)
}

// wire makes the parts. It is one straight list because each part needs those above it: discovery needs only its seeds;
// the config service is found by discovery; circuits, balancing and tracing have settings; calls use all of them.
func (m *Member) wire() (err error) {
	o := m.opts
	if o.Known != nil {
		m.discovery = o.Known.Directory
	} else {
		client, err := discovery.New(discovery.Options{
			Seeds: o.Discovery, DialContext: o.Net.DialContext, Dir: m.dir("discovery"),
			Name: o.Name + "/" + o.Instance, Log: m.log,
		})
		if err != nil {
			return fmt.Errorf("opening discovery: %w", err)
		}
		m.discovery, m.registry = client.Directory, &membership{client: client}
	}
	m.plain = rpc.NewClient(rpc.ClientOptions{
		Service: o.Name, Zone: o.Zone, Discovery: m.discovery, DialContext: o.Net.DialContext,
	})
	settings, err := m.plain.Dial("config")
	if err != nil {
		return err
	}
	m.onStop("connection for settings", func(context.Context) error { return settings.Close() })
	m.config, err = config.Open(config.Options{
		Identity: m.Identity(), Conn: settings, Dir: m.dir("config"), Log: m.log,
	})
	if err != nil {
		return fmt.Errorf("opening settings: %w", err)
	}
	spans, err := m.plain.Dial("tracing?endpoint=otlp")
	if err != nil {
		return err
	}
	m.onStop("connection for spans", func(context.Context) error { return spans.Close() })
	m.tracer, err = trace.New(trace.Options{
		Service: o.Name, Instance: o.Instance, Version: o.Version, Environment: o.Environment,
		Region: o.Region, Zone: o.Zone,
		Conn: func() grpc.ClientConnInterface { return spans }, Log: m.log, Revision: m.config.Revision,
		Sampling: config.Float(m.config, "trace.sampling", 1, config.Spec{
			Doc: "Share of new traces that are recorded. A trace that a caller has begun keeps its caller's decision.",
			Min: "0", Max: "1",
		}),
	})
	if err != nil {
		return fmt.Errorf("opening tracing: %w", err)
	}
	m.onStop("tracing", m.flushSpans)
	m.served = load.NewRecorder()
	m.circuits = circuit.New(circuit.Options{
		Config: m.config, Log: m.log, Service: o.Name, Instance: o.Instance, Served: m.served,
	})
	m.client = rpc.NewClient(rpc.ClientOptions{
		Service: o.Name, Zone: o.Zone, Discovery: m.discovery, DialContext: o.Net.DialContext,
		Config: m.config, Circuits: m.circuits, Trace: m.tracer, Metrics: m.metrics,
	})
	m.overload = overload.New(overload.Options{Config: m.config, Metrics: m.metrics})
	return nil
}

// newGRPC returns the server of the listener "grpc".
func (m *Member) newGRPC() *grpc.Server {
	return rpc.NewServer(rpc.ServerOptions{
		Service: m.opts.Name, Trace: m.tracer, Log: m.log, Metrics: m.metrics, Config: m.config,
		Limiter: m.overload.Limiter(grpcListener), Served: m.served,
	})
}

// flushSpans exports the last spans within a second. If the trace store is down, they are dropped and counted, and the
// stop neither waits nor fails.
func (m *Member) flushSpans(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	if err := m.tracer.Shutdown(ctx); err != nil {
		m.log.Info("stopping tracing", "dropped", m.tracer.Dropped(), "error", err.Error())
	}
	return nil
}

// addOwn registers the parts that every process has.
func (p *Process) addOwn(s *Setup) error {
	_, bound := p.listeners[grpcListener]
	switch {
	case bound && !s.claimed[grpcListener]:
		healthv1.RegisterHealthServer(p.grpc, p.health)
		p.health.SetServingStatus("", healthv1.HealthCheckResponse_NOT_SERVING)
		reflection.Register(p.grpc)
		if err := s.ServeGRPC(grpcListener, p.grpc); err != nil {
			return err
		}
	case s.grpcs > 0:
		return fmt.Errorf("serving gRPC of %s: no listener \"grpc\" is free for it; add grpc=:7000 to -listen",
			p.opts.Name)
	}
	if _, ok := p.listeners[adminListener]; ok {
		if err := s.Handle(adminListener, p.adminHandler(s.admin)); err != nil {
			return err
		}
	}
	if p.registry != nil {
		registrar, err := discovery.NewRegistrar(p.registry.client, discovery.Instance{
			Service: p.opts.Name, ID: p.opts.Instance, Endpoints: p.endpoints(),
			Environment: p.opts.Environment, Region: p.opts.Region, Zone: p.opts.Zone, Version: p.opts.Version,
			Metadata: map[string]string{discovery.MetaSettings: discovery.SettingsWatched},
			Status:   discovery.Starting,
		}, discovery.RegistrarOptions{Log: p.log})
		if err != nil {
			return err
		}
		p.registry.registrar = registrar
	}
	return nil
}
