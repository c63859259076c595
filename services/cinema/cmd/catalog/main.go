// Command catalog runs the catalog service of the cinema.
package main

import (
	"bijou.dev/platform/service"
	"bijou.dev/services/cinema/catalog"
)

func main() {
	service.Main("catalog", nil, catalog.New)
}
