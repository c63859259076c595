// Command catalog runs the catalog service of the cinema.
package main

import (
	"context"

	"bijou.dev/platform/service"
	"bijou.dev/services/cinema/catalog"
)

func main() {
	service.Main("catalog", nil, func(ctx context.Context, p *service.Process) error {
		return catalog.New(ctx, p, catalog.Options{})
	})
}
