// Command search runs the search service of the cinema.
package main

import (
	"bijou.dev/platform/service"
	"bijou.dev/services/cinema/search"
)

func main() {
	service.Main("search", nil, search.New)
}
