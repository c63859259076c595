// Command playback runs the playback service of the cinema.
package main

import (
	"context"

	"bijou.dev/platform/service"
	"bijou.dev/services/cinema/playback"
)

func main() {
	var o playback.Options
	service.Main("playback", func(f *service.Flags) {
		f.StringVar(&o.Dir, "data-dir", "", "folder of the data file (default: the state folder)")
	}, func(ctx context.Context, setup *service.Setup) error {
		return playback.New(ctx, setup, o)
	})
}
