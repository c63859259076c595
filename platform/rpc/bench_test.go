package rpc_test

import (
	"context"
	"io"
	"net"
	"testing"
	"time"

	configv1 "bijou.dev/platform/api/config/v1"
	"bijou.dev/platform/circuit"
	"bijou.dev/platform/config"
	"bijou.dev/platform/discovery"
	"bijou.dev/platform/memnet"
	"bijou.dev/platform/overload"
	"bijou.dev/platform/rpc"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
)

// closer is what both kinds of connections are.
type closer interface {
	grpc.ClientConnInterface
	io.Closer
}

// BenchmarkCall compares one call through the client stack with bare grpc-go, both with a deadline.
func BenchmarkCall(b *testing.B) {
	n := memnet.New()
	l, err := n.Listen("tcp", "config-1:7000")
	if err != nil {
		b.Fatal(err)
	}
	srv := grpc.NewServer()
	configv1.RegisterConfigServer(srv, &settings{get: ok})
	go srv.Serve(l)
	b.Cleanup(srv.Stop)
	found := discovery.NewStatic(map[string][]discovery.Instance{"config": {{
		Service: "config", ID: "config-1", Zone: "a", Status: discovery.Up,
		Endpoints: map[string]string{"grpc": "config-1:7000"},
	}}})
	set := config.Static(nil)
	for _, c := range []struct {
		name string
		dial func() (closer, error)
	}{
		{"grpc", func() (closer, error) {
			return grpc.NewClient("passthrough:///config-1:7000",
				grpc.WithTransportCredentials(insecure.NewCredentials()),
				grpc.WithContextDialer(func(ctx context.Context, addr string) (net.Conn, error) {
					return n.DialContext(ctx, "tcp",
						addr)
				}))
		}},
		{"stack", func() (closer, error) {
			return rpc.NewClient(rpc.ClientOptions{
				Service: "bench", Discovery: found.Directory, DialContext: n.DialContext, Config: set,
				Circuits: circuit.New(circuit.Options{Config: set}),
			}).Dial("config")
		}},
	} {
		b.Run(c.name, func(b *testing.B) {
			conn, err := c.dial()
			if err != nil {
				b.Fatal(err)
			}
			defer conn.Close()
			client := configv1.NewConfigClient(conn)
			b.ReportAllocs()
			for b.Loop() {
				ctx, cancel := context.WithTimeout(b.Context(), time.Second)
				if _, err := client.Get(ctx, &configv1.GetRequest{}); err != nil {
					b.Fatal(err)
				}
				cancel()
			}
		})
	}
}

// BenchmarkServe compares the server's steps, called as grpc-go calls them: without a limit, with one, and what it
// costs to shed a call.
func BenchmarkServe(b *testing.B) {
	n := memnet.New()
	for _, c := range []struct {
		name    string
		limiter *overload.Limiter
		taken   int
		failing bool
	}{{"no limit", nil, 0, false}, {"limit", limiter("1000"), 0, false}, {"shed", limiter("20"), 100, true}} {
		b.Run(c.name, func(b *testing.B) {
			l, err := n.Listen("tcp", c.name+":7000")
			if err != nil {
				b.Fatal(err)
			}
			srv := rpc.NewServer(rpc.ServerOptions{Limiter: c.limiter})
			configv1.RegisterConfigServer(srv, &settings{get: ok})
			go srv.Serve(l)
			defer srv.Stop()
			for range c.taken {
				c.limiter.Acquire("bench", overload.Critical)
			}
			conn, err := grpc.NewClient("passthrough:///"+c.name+":7000",
				grpc.WithTransportCredentials(insecure.NewCredentials()),
				grpc.WithContextDialer(func(ctx context.Context, addr string) (net.Conn, error) {
					return n.DialContext(ctx, "tcp",
						addr)
				}))
			if err != nil {
				b.Fatal(err)
			}
			defer conn.Close()
			client := configv1.NewConfigClient(conn)
			b.ReportAllocs()
			for b.Loop() {
				if _, err := client.Get(b.Context(), &configv1.GetRequest{}); (err != nil) != c.failing {
					b.Fatal(err)
				}
			}
		})
	}
}
