// Command recommendations runs the recommendations service of the cinema.
package main

import (
	"context"

	"bijou.dev/platform/service"
	"bijou.dev/services/cinema/recommendations"
)

func main() {
	service.Main("recommendations", nil, func(ctx context.Context, setup *service.Setup) error {
		return recommendations.New(ctx, setup, recommendations.Options{})
	})
}
