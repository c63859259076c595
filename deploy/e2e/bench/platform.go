package main

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net"
	"sync/atomic"
	"testing"
	"time"

	configv1 "bijou.dev/platform/api/config/v1"
	"bijou.dev/platform/circuit"
	"bijou.dev/platform/config"
	"bijou.dev/platform/discovery"
	"bijou.dev/platform/memnet"
	"bijou.dev/platform/rpc"
	"bijou.dev/platform/trace"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
)

func benchSettings(ctx context.Context, r *report) error {
	var floor atomic.Int64
	setting := config.Int(config.Static(nil), "bench.value", 1, config.Spec{Doc: "A value to read."})
	var sink int64
	return r.compare(
		ctx,
		contender{"atomic load", func(b *testing.B) error {
			for b.Loop() {
				sink += floor.Load()
			}
			return nil
		}},
		contender{"setting", func(b *testing.B) error {
			for b.Loop() {
				sink += setting.Get()
			}
			return nil
		}},
	)
}

// echo answers Get.
type echo struct {
	configv1.UnimplementedConfigServer
}

func (echo) Get(context.Context, *configv1.GetRequest) (*configv1.GetResponse, error) {
	return &configv1.GetResponse{Revision: 1}, nil
}

// loop returns an in-memory network with three instances of "config", each a server that register makes.
func loop(register func() *grpc.Server) (*memnet.Network, *discovery.Directory, func(), error) {
	n := memnet.New()
	var instances []discovery.Instance
	var servers []*grpc.Server
	for _, id := range []string{"config-1", "config-2", "config-3"} {
		l, err := n.Listen("tcp", id+":7000")
		if err != nil {
			return nil, nil, nil, err
		}
		s := register()
		servers = append(servers, s)
		configv1.RegisterConfigServer(s, echo{})
		go func() { _ = s.Serve(l) }()
		instances = append(instances, discovery.Instance{
			Service: "config", ID: id, Zone: "a", Status: discovery.Up,
			Endpoints: map[string]string{"grpc": id + ":7000"},
		})
	}
	stop := func() {
		for _, s := range servers {
			s.Stop()
		}
	}
	return n, discovery.NewStatic(map[string][]discovery.Instance{"config": instances}).Directory, stop, nil
}

// call returns a benchmark of sequential calls on a connection.
func call(conn grpc.ClientConnInterface) func(b *testing.B) error {
	return callWith(conn, context.Background)
}

// callWith is call with the contexts that parent returns.
func callWith(conn grpc.ClientConnInterface, parent func() context.Context) func(b *testing.B) error {
	client := configv1.NewConfigClient(conn)
	return func(b *testing.B) error {
		req := &configv1.GetRequest{}
		for b.Loop() {
			ctx, cancel := context.WithTimeout(parent(), time.Second)
			_, err := client.Get(ctx, req)
			cancel()
			if err != nil {
				return err
			}
		}
		return nil
	}
}

// warm waits until a call succeeds, so that connecting is not measured.
func warm(ctx context.Context, conn grpc.ClientConnInterface) error {
	return until(ctx, 5*time.Millisecond, "the first answer", func(ctx context.Context) error {
		_, err := configv1.NewConfigClient(conn).Get(ctx, &configv1.GetRequest{})
		return err
	})
}

func bare(n *memnet.Network) (*grpc.ClientConn, error) {
	return grpc.NewClient("passthrough:///config-1:7000", grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithContextDialer(func(ctx context.Context, addr string) (net.Conn, error) {
			return n.DialContext(ctx, "tcp",
				addr)
		}))
}

func benchCalls(ctx context.Context, r *report) error {
	n, found, stop, err := loop(func() *grpc.Server { return grpc.NewServer() })
	if err != nil {
		return err
	}
	defer stop()
	floor, err := bare(n)
	if err != nil {
		return err
	}
	defer floor.Close()
	set := config.Static(nil)
	steps := []struct {
		name string
		opts rpc.ClientOptions
	}{
		{"errors, deadline, balancer", rpc.ClientOptions{}},
		{"and circuit, retry", rpc.ClientOptions{Circuits: circuit.New(circuit.Options{Config: set}), Config: set}},
	}
	contenders := []contender{{"grpc-go", call(floor)}}
	for _, s := range steps {
		s.opts.Service, s.opts.Discovery, s.opts.DialContext = "bench", found, n.DialContext
		conn, err := rpc.NewClient(s.opts).Dial("config")
		if err != nil {
			return err
		}
		defer conn.Close()
		if err := warm(ctx, conn); err != nil {
			return err
		}
		contenders = append(contenders, contender{s.name, call(conn)})
	}
	return r.compare(ctx, contenders...)
}

// drop is a connection to a trace store that drops spans: the section measures how they are made and encoded.
type drop struct{ grpc.ClientConnInterface }

func (drop) Invoke(context.Context, string, any, any, ...grpc.CallOption) error { return nil }

func benchTracing(ctx context.Context, r *report) error {
	var contenders []contender
	for _, share := range []float64{-1, 0, 1} {
		var p *trace.Provider
		name := "no tracing"
		if share >= 0 {
			name = map[float64]string{0: "nothing sampled", 1: "all sampled"}[share]
			var err error
			p, err = trace.New(trace.Options{
				Service: "bench", Conn: func() grpc.ClientConnInterface { return drop{} }, QueueSize: 1 << 16,
				Sampling: config.Float(config.Static(nil), "bench.sampling", share, config.Spec{Doc: "Share."}),
			})
			if err != nil {
				return err
			}
			defer func() { _ = p.Shutdown(context.Background()) }()
		}
		n, found, stop, err := loop(func() *grpc.Server { return rpc.NewServer(rpc.ServerOptions{Trace: p}) })
		if err != nil {
			return err
		}
		defer stop()
		conn, err := rpc.NewClient(rpc.ClientOptions{
			Service: "bench", Discovery: found, DialContext: n.DialContext,
			Trace: p,
		}).Dial("config")
		if err != nil {
			return err
		}
		defer conn.Close()
		if err := warm(ctx, conn); err != nil {
			return err
		}
		contenders = append(contenders, contender{name, call(conn)})
		if p == nil {
			contenders = append(contenders, contender{"no tracing, a header as long", callWith(conn, withHeader)})
		}
	}
	return r.compare(ctx, contenders...)
}

// withHeader returns a context whose calls send a header as long as traceparent, with a new value each time. It
// measures what gRPC needs for any such header.
func withHeader() context.Context {
	value := fmt.Sprintf("%055d", rand.Uint64())
	return metadata.AppendToOutgoingContext(context.Background(), "bench-header", value)
}
