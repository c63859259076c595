// Command console runs the console.
package main

import (
	"context"

	"bijou.dev/platform/service"
	"bijou.dev/services/console"
)

func main() {
	var o console.Options
	service.Main("console", func(f *service.Flags) {
		f.BoolVar(&o.ReadOnly, "read-only", false, "show everything, refuse every action")
		f.List(&o.Hosts, "hosts", "names by which browsers may reach the console, besides localhost and IP addresses")
		f.IntVar(&o.MaxPages, "max-pages", 100, "how many pages may be open at the same time")
	}, func(ctx context.Context, setup *service.Setup) error { return console.New(ctx, setup, o) })
}
