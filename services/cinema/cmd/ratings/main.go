// Command ratings runs the ratings service of the cinema.
package main

import (
	"context"

	"bijou.dev/platform/service"
	"bijou.dev/services/cinema/ratings"
)

func main() {
	var o ratings.Options
	service.Main("ratings", func(f *service.Flags) {
		f.StringVar(&o.Dir, "data-dir", "", "folder of the data file (default: the state folder)")
	}, func(ctx context.Context, setup *service.Setup) error {
		return ratings.New(ctx, setup, o)
	})
}
