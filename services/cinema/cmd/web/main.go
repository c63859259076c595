// Command web runs the web service of the cinema: its pages and their JSON API.
package main

import (
	"context"

	"bijou.dev/platform/service"
	"bijou.dev/services/cinema/web"
)

func main() {
	service.Main("web", nil, func(ctx context.Context, setup *service.Setup) error {
		return web.New(ctx, setup, web.Options{})
	})
}
