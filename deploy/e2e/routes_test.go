package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"bijou.dev/services/gateway/routes"

	"github.com/compose-spec/compose-go/v2/cli"
	"go.yaml.in/yaml/v4"
)

// composeRoutes returns the routes that compose.yaml gives the gateway.
func composeRoutes() routes.Routes {
	var file struct {
		Services struct {
			Gateway struct{ Environment map[string]string }
		}
	}
	b, err := os.ReadFile(filepath.Join(root, "compose.yaml"))
	if err == nil {
		err = yaml.Unmarshal(b, &file)
	}
	var list routes.Routes
	if err == nil {
		err = list.Set(file.Services.Gateway.Environment["BIJOU_ROUTES"])
	}
	if err != nil {
		panic(fmt.Errorf("reading the routes of compose.yaml: %w", err))
	}
	return list
}

func TestShippedConfigurationLoads(t *testing.T) {
	list := composeRoutes()
	if err := list.Validate(); err != nil || len(list) == 0 {
		t.Errorf("the %d routes of compose.yaml: %v", len(list), err)
	}
	for _, files := range [][]string{{"compose.yaml"}, {"compose.yaml", "compose.ha.yaml"}} {
		var paths []string
		for _, f := range files {
			paths = append(paths, filepath.Join(root, f))
		}
		options, err := cli.NewProjectOptions(paths, cli.WithInterpolation(true))
		if err != nil {
			t.Fatal(err)
		}
		project, err := options.LoadProject(t.Context())
		if err != nil {
			t.Errorf("loading %v: %v", files, err)
			continue
		}
		for name, s := range project.Services {
			main := filepath.Join(root, "services", *s.Build.Args["SERVICE"], "main.go")
			if _, err := os.Stat(main); err != nil {
				t.Errorf("%v: service %s is built from %s, but there is no such file", files, name, main)
			}
		}
	}
}
