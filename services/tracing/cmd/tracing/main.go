// Command tracing runs the trace store.
package main

import (
	"context"

	"bijou.dev/platform/service"
	"bijou.dev/services/tracing"
)

func main() {
	var o tracing.Options
	service.Main("tracing", func(f *service.Flags) {
		f.StringVar(&o.Dir, "dir", "", "folder of the trace store, on a volume; required")
		f.DurationVar(&o.Retention, "retention", 0, "how long spans are kept, unless tracing.retention is set (default 72h)")
		f.Int64Var(&o.MaxBytes, "max-bytes", 0, "size of the store in bytes, unless tracing.maxBytes is set (default 2 GiB)")
		f.Int64Var(&o.Cache, "cache", 0, "memory for blocks of the store's files in bytes (default 32 MiB)")
		f.Int64Var(&o.InFlight, "in-flight", 0, "most bytes of spans that are not on disk yet (default 64 MiB)")
		f.List(&o.Autocomplete, "autocomplete", "tags whose values can be listed (default environment, zone, version)")
	}, func(ctx context.Context, setup *service.Setup) error { return tracing.New(ctx, setup, o) })
}
