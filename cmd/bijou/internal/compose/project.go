// Package compose turns a compose file into a plan for running it as processes of this machine.
//
// A compose file names the services, their replicas, their ports and the addresses by which they find each other.
// Containers resolve these names in their network. Processes get a [Plan] instead: in it, each port of each instance is
// a loopback port, and the names in the settings are replaced by addresses. [NewPlan] only translates: it writes no
// file and starts no process.
package compose

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"bijou.dev/platform/errs"
	"github.com/compose-spec/compose-go/v2/cli"
	"github.com/compose-spec/compose-go/v2/types"
)

// FileName is the name of the file that describes the platform, at the root of the repository.
const FileName = "compose.yaml"

// Find returns the path of the nearest compose file in dir or a folder above it.
func Find(dir string) (string, error) {
	start := dir
	for {
		file := filepath.Join(dir, FileName)
		if _, err := os.Stat(file); err == nil {
			return file, nil
		} else if !errors.Is(err, fs.ErrNotExist) {
			return "", fmt.Errorf("looking for %s: %w", FileName, err)
		}
		parent := filepath.Dir(dir)
		if parent == dir {
			return "", errs.Errorf(errs.NotFound, "no %s in %s or above: run inside the repository or pass --file: %w",
				FileName, start, fs.ErrNotExist)
		}
		dir = parent
	}
}

// Load reads a compose file as `docker compose` does, with the variables of env (KEY=value) and of a .env file beside
// it. With services it keeps only these and what they depend on, and enables their profiles; without, all that the
// active profiles enable. A dependency on a service whose profile is off becomes optional; [NewPlan] warns of it.
func Load(ctx context.Context, file string, env []string, services ...string) (*types.Project, error) {
	if _, err := os.Stat(file); errors.Is(err, fs.ErrNotExist) {
		return nil, errs.Errorf(errs.NotFound, "reading %s: there is no such file", file)
	}
	options, err := cli.NewProjectOptions([]string{file},
		cli.WithWorkingDirectory(filepath.Dir(file)),
		cli.WithEnv(env),
		cli.WithEnvFiles(), // names .env; without it, WithDotEnv reads nothing
		cli.WithDotEnv,
		cli.WithDefaultProfiles(),
	)
	if err != nil {
		return nil, fmt.Errorf("reading %s: %w", file, err)
	}
	active := activeProfiles(options.Environment)
	// With all profiles enabled, the loader checks the whole file, and accepts a dependency on a service that is
	// disabled.
	if err := cli.WithProfiles([]string{"*"})(options); err != nil {
		return nil, fmt.Errorf("reading %s: %w", file, err)
	}
	project, err := options.LoadProject(ctx)
	if err != nil {
		return nil, fmt.Errorf("reading %s: %w", file, err)
	}
	for _, name := range services {
		service, ok := project.Services[name]
		if !ok {
			return nil, errs.Errorf(errs.NotFound, "%s has no service %q, only %v", file, name, project.ServiceNames())
		}
		active = append(active, service.Profiles...)
	}
	if project, err = enable(project, active); err != nil {
		return nil, fmt.Errorf("reading %s: %w", file, err)
	}
	if len(services) == 0 {
		return project, nil
	}
	project, err = project.WithSelectedServices(services)
	if err != nil {
		return nil, fmt.Errorf("selecting services %v: %w", services, err)
	}
	return project, nil
}

// activeProfiles reads COMPOSE_PROFILES: "a,b", or "*" for all.
func activeProfiles(env types.Mapping) []string {
	var active []string
	for name := range strings.SplitSeq(env["COMPOSE_PROFILES"], ",") {
		if name = strings.TrimSpace(name); name != "" {
			active = append(active, name)
		}
	}
	return active
}

// enable turns off the services whose profiles are not active, and makes dependencies on them optional.
func enable(project *types.Project, active []string) (*types.Project, error) {
	project, err := project.WithProfiles(active)
	if err != nil {
		return nil, err
	}
	for _, service := range project.Services {
		for name, dependency := range service.DependsOn {
			if _, off := project.DisabledServices[name]; off {
				dependency.Required = false
				service.DependsOn[name] = dependency
			}
		}
	}
	return project, nil
}
