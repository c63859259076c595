package e2e

import (
	"fmt"
	"os"
	"path/filepath"

	"bijou.dev/services/gateway"

	"go.yaml.in/yaml/v4"
)

// composeRoutes returns the routes that compose.yaml gives the gateway.
func composeRoutes() gateway.Routes {
	var file struct {
		Services struct {
			Gateway struct{ Environment map[string]string }
		}
	}
	b, err := os.ReadFile(filepath.Join(root, "compose.yaml"))
	if err == nil {
		err = yaml.Unmarshal(b, &file)
	}
	var routes gateway.Routes
	if err == nil {
		err = routes.Set(file.Services.Gateway.Environment["BIJOU_ROUTES"])
	}
	if err != nil {
		panic(fmt.Errorf("reading the routes of compose.yaml: %w", err))
	}
	return routes
}
