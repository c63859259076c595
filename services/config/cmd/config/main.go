// Command config runs a replica of the configuration service.
package main

import (
	"context"

	"bijou.dev/platform/service"
	"bijou.dev/services/config"
)

func main() {
	var o config.Options
	service.Main("config", func(f *service.Flags) {
		f.List(&o.EtcdEndpoints, "etcd-endpoints", "addresses of etcd, `host:port,...`")
		f.IntVar(&o.MaxValueBytes, "max-value-bytes", 0, "largest value; 0 means 256 KiB")
		f.IntVar(&o.MaxChanges, "max-changes", 0, "most changes in one publish; 0 means 100")
	}, func(ctx context.Context, setup *service.Setup) error {
		return config.New(ctx, setup, o)
	})
}
