package discovery_test

import (
	"context"
	"fmt"
	"net"

	"bijou.dev/platform/discovery"
	"bijou.dev/platform/memnet"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
)

// dialer makes gRPC use a network in memory.
func dialer(n *memnet.Network) func(context.Context, string) (net.Conn, error) {
	return func(ctx context.Context, addr string) (net.Conn, error) { return n.DialContext(ctx, "tcp", addr) }
}

// Without a registry, a Static gives instances to plain gRPC and to other code.
func Example() {
	c := discovery.NewStatic(map[string][]discovery.Instance{
		"catalog": {{ID: "catalog-1", Endpoints: map[string]string{"grpc": "10.0.0.1:7000"}}},
	})
	stop := c.Watch("catalog", func(list []discovery.Instance) {
		for _, in := range list {
			fmt.Println(in.ID, in.Status, in.Endpoints["grpc"])
		}
		fmt.Println(len(list), "known")
	})
	defer stop()
	c.Put("catalog", []discovery.Instance{
		{ID: "catalog-1", Status: discovery.Draining, Endpoints: map[string]string{"grpc": "10.0.0.1:7000"}},
		{ID: "catalog-2", Endpoints: map[string]string{"grpc": "10.0.0.2:7000"}},
	})

	// The connection calls catalog-2 only, and follows every change from now on.
	conn, err := grpc.NewClient("bijou:///catalog", grpc.WithResolvers(c.Builder()),
		grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		fmt.Println(err)
		return
	}
	defer conn.Close()
	// Output:
	// catalog-1 UP 10.0.0.1:7000
	// 1 known
	// catalog-1 DRAINING 10.0.0.1:7000
	// catalog-2 UP 10.0.0.2:7000
	// 2 known
}
