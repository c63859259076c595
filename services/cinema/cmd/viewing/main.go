// Command viewing runs the viewing service of the cinema.
package main

import (
	"context"

	"bijou.dev/platform/service"
	"bijou.dev/services/cinema/viewing"
)

func main() {
	var o viewing.Options
	service.Main("viewing", func(f *service.Flags) {
		f.StringVar(&o.Dir, "data-dir", "", "folder of the data file (default: the state folder)")
	}, func(ctx context.Context, setup *service.Setup) error {
		return viewing.New(ctx, setup, o)
	})
}
