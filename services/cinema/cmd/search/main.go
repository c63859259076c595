// Command search runs the search service of the cinema.
package main

import (
	"context"

	"bijou.dev/platform/service"
	"bijou.dev/services/cinema/search"
)

func main() {
	service.Main("search", nil, func(ctx context.Context, setup *service.Setup) error {
		return search.New(ctx, setup, search.Options{})
	})
}
