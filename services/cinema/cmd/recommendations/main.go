// Command recommendations runs the recommendations service of the cinema.
package main

import (
	"bijou.dev/platform/service"
	"bijou.dev/services/cinema/recommendations"
)

func main() {
	service.Main("recommendations", nil, recommendations.New)
}
