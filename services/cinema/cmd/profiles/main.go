// Command profiles runs the profiles service of the cinema.
package main

import (
	"context"

	"bijou.dev/platform/service"
	"bijou.dev/services/cinema/profiles"
)

func main() {
	var o profiles.Options
	service.Main("profiles", func(f *service.Flags) {
		f.StringVar(&o.Dir, "data-dir", "", "folder of the data file (default: the state folder)")
	}, func(ctx context.Context, setup *service.Setup) error {
		return profiles.New(ctx, setup, o)
	})
}
