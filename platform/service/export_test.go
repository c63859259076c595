package service

import (
	"net/http"

	"bijou.dev/platform/httpapi"
)

// AdminPages returns what p serves on the listener "admin", except the pages of the service itself.
func AdminPages(p *Process) http.Handler { return p.adminHandler(new(httpapi.Mux)) }
