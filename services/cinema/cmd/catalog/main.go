// Command catalog runs the catalog service of the cinema.
package main

import (
	"context"

	"bijou.dev/platform/service"
	"bijou.dev/services/cinema/catalog"
)

func main() {
	service.Main("catalog", nil, func(ctx context.Context, setup *service.Setup) error {
		return catalog.New(ctx, setup, catalog.Options{})
	})
}
