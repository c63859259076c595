// Command web runs the web service of the cinema: its pages and their JSON API.
package main

import (
	"bijou.dev/platform/service"
	"bijou.dev/services/cinema/web"
)

func main() {
	service.Main("web", nil, web.New)
}
