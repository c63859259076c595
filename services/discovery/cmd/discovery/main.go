// Command discovery runs a replica of the registry.
package main

import (
	"context"

	"bijou.dev/platform/service"
	"bijou.dev/services/discovery"
)

func main() {
	var o discovery.Options
	service.Main("discovery", func(f *service.Flags) {
		f.List(&o.EtcdEndpoints, "etcd-endpoints", "addresses of the store; none keeps everything in memory")
		f.DurationVar(&o.Heartbeat, "heartbeat", 0, "heartbeat of instances that ask for none; 0 is 3s")
		f.DurationVar(&o.Lease, "lease", 0, "lease of instances that ask for none; 0 is 10s")
		f.DurationVar(&o.PreserveFor, "preserve-for", 0, "how long self-preservation lasts without changes; 0 is 5m")
	}, func(ctx context.Context, setup *service.Setup) error { return discovery.New(ctx, setup, o) })
}
