// Hosts writes what other container hosts than Docker Compose need to run the platform, from compose.yaml:
// deploy/swarm for Docker Swarm, deploy/kubernetes for `kubectl apply -k`.
//
//	make generate
//
// It returns an error for what it cannot translate, so that nothing of compose.yaml is lost silently; see [omitted] for
// what is left out on purpose. A test fails if the written files do not match compose.yaml.
package main

import (
	"bytes"
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"

	"github.com/compose-spec/compose-go/v2/cli"
	"github.com/compose-spec/compose-go/v2/types"
	"sigs.k8s.io/yaml"
)

func main() {
	if err := run(context.Background(), os.Args[1:], os.Stderr); err != nil {
		fmt.Fprintln(os.Stderr, "hosts:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, args []string, problems io.Writer) error {
	f := flag.NewFlagSet("hosts", flag.ContinueOnError)
	f.SetOutput(problems)
	file := f.String("file", "../../compose.yaml", "the compose `file`")
	dir := f.String("dir", "../../deploy", "the `folder` to write to")
	if err := f.Parse(args); err != nil {
		return err
	}
	all, err := files(ctx, *file)
	if err != nil {
		return err
	}
	for name, content := range all {
		path := filepath.Join(*dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			return fmt.Errorf("writing %s: %w", path, err)
		}
		if err := os.WriteFile(path, content, 0o644); err != nil { //nolint:gosec // readable by all users on purpose
			return fmt.Errorf("writing %s: %w", path, err)
		}
	}
	return nil
}

// files returns all files, by their path below deploy.
func files(ctx context.Context, file string) (map[string][]byte, error) {
	project, err := load(ctx, file)
	if err != nil {
		return nil, err
	}
	for name, service := range project.Services {
		if err := checkKnown(service); err != nil {
			return nil, fmt.Errorf("reading %s: service %s: %w", file, name, err)
		}
	}
	all, err := kubernetes(project)
	if err != nil {
		return nil, fmt.Errorf("translating %s for Kubernetes: %w", file, err)
	}
	if all["swarm/stack.yaml"], err = swarm(project); err != nil {
		return nil, fmt.Errorf("translating %s for Swarm: %w", file, err)
	}
	return all, nil
}

// load reads a compose file without variables of the environment, so that the result is the same on every machine.
func load(ctx context.Context, file string) (*types.Project, error) {
	options, err := cli.NewProjectOptions([]string{file}, cli.WithWorkingDirectory(filepath.Dir(file)),
		cli.WithDefaultProfiles())
	if err == nil {
		var project *types.Project
		if project, err = options.LoadProject(ctx); err == nil {
			return project, nil
		}
	}
	return nil, fmt.Errorf("reading %s: %w", file, err)
}

// omitted maps a key of a service in compose.yaml to the reason why a host does not get it. Empty: both hosts get it.
var omitted = map[string]string{
	"cap_drop": "", "deploy": "", "environment": "", "healthcheck": "", "image": "", "mem_limit": "", "networks": "",
	"ports": "", "read_only": "", "restart": "", "stop_grace_period": "", "user": "", "volumes": "",

	"build":         "images are built before; other hosts take them from a registry",
	"command":       "null: the image's own",
	"entrypoint":    "null: the image's own",
	"depends_on":    "a start order, which is not needed",
	"develop":       "for the developer's machine",
	"memswap_limit": "equal to mem_limit, which is the default of both hosts",
	"logging":       "Kubernetes: the node's own rotation",
	"pids_limit":    "Kubernetes: the node's own limit (podPidsLimit)",
	"security_opt":  "Swarm: `docker stack` cannot set no-new-privileges",
}

// checkKnown returns an error for a key that is not in omitted.
func checkKnown(service types.ServiceConfig) error {
	b, err := json.Marshal(service)
	if err != nil {
		return err
	}
	var keys map[string]json.RawMessage
	if err := json.Unmarshal(b, &keys); err != nil {
		return err
	}
	for key := range keys {
		if _, ok := omitted[key]; !ok {
			return fmt.Errorf("%s: other hosts would not get it; translate it in tools/hosts, or add it to omitted "+
				"with a reason", key)
		}
	}
	return nil
}

const header = "# Written from compose.yaml by `make generate`. Change that, and run it again.\n"

// document is one file: YAML documents with a comment on top.
func document(comment string, objects ...any) ([]byte, error) {
	out := bytes.NewBufferString(header + comment)
	for i, o := range objects {
		if i > 0 {
			out.WriteString("---\n")
		}
		b, err := yaml.Marshal(o)
		if err != nil {
			return nil, err
		}
		out.Write(b)
	}
	return out.Bytes(), nil
}

// named reports the volume's name, and false for one without.
func named(v types.ServiceVolumeConfig) (string, bool) { return v.Source, v.Source != "" }

func hasState(s types.ServiceConfig) bool {
	return slices.ContainsFunc(s.Volumes, func(v types.ServiceVolumeConfig) bool { _, ok := named(v); return ok })
}

// ownAlias returns the name by which each instance of s finds its own address, on a network where all have that name.
func ownAlias(s types.ServiceConfig) string {
	for _, n := range s.Networks {
		if n != nil && len(n.Aliases) > 0 {
			return n.Aliases[0]
		}
	}
	return ""
}
