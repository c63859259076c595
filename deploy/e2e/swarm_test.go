package e2e

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"
)

// swarmVariable enables the test over Docker Swarm. That test makes the engine a swarm of one node while it runs, so it
// is separate from the stories over containers. It needs the images that they build.
const swarmVariable = "BIJOU_TEST_SWARM"

// swarm is the stack of deploy/swarm/stack.yaml. Only the address of its edge is known.
type swarm struct {
	platform // nil: the other methods must not be called
	edge     string
}

func (s swarm) addr(string, int) string { return s.edge }
func (swarm) rate() int                 { return 20 }

func docker(ctx context.Context, args ...string) (string, error) {
	out, err := exec.CommandContext(ctx, "docker", args...).CombinedOutput()
	if err != nil {
		err = fmt.Errorf("docker %s: %w: %s", strings.Join(args, " "), err, out)
	}
	return strings.TrimSpace(string(out)), err
}

// TestSwarm runs the stack as `docker stack deploy` does, and replaces a service under load.
func TestSwarm(t *testing.T) {
	if os.Getenv(swarmVariable) == "" {
		t.Skipf("this makes the engine a swarm while it runs; set %s to run it", swarmVariable)
	}
	b, err := os.ReadFile(filepath.Join(root, "deploy", "swarm", "stack.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "stack.yaml")
	free := regexp.MustCompile(`(?m)^( +)published: \d+$`).ReplaceAll(b, []byte("${1}published: 0"))
	if err := os.WriteFile(file, free, 0o600); err != nil {
		t.Fatal(err)
	}
	state, err := docker(t.Context(), "info", "--format", "{{.Swarm.LocalNodeState}}")
	if err != nil {
		t.Fatal(err)
	}
	if state != "active" {
		if _, err := docker(t.Context(), "swarm", "init", "--advertise-addr", "127.0.0.1"); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			if _, err := docker(context.Background(), "swarm", "leave", "--force"); err != nil {
				t.Error(err)
			}
		})
	}
	name := fmt.Sprintf("bijou-test-%d", os.Getpid())
	mine := "label=com.docker.stack.namespace=" + name
	t.Cleanup(func() { removeStack(t, name, mine) })
	if _, err := docker(t.Context(), "stack", "deploy", "--detach=true", "--resolve-image", "never", "-c", file,
		name); err != nil {
		t.Fatal(err)
	}

	s := swarm{}
	eventually(t, 3*time.Minute, "every replica to be up", func(ctx context.Context) error {
		services, err := docker(ctx, "service", "ls", "--filter", mine, "--format", "{{.Name}} {{.Replicas}}")
		if err != nil {
			return err
		}
		for line := range strings.Lines(services) {
			f := strings.Fields(line)
			if is, wanted, _ := strings.Cut(f[1], "/"); is != wanted {
				return errors.New(line)
			}
		}
		id, err := docker(ctx, "ps", "--quiet", "--filter", "label=com.docker.swarm.service.name="+name+"_gateway")
		if err != nil {
			return err
		}
		s.edge, err = docker(ctx, "port", id, "8080/tcp")
		return err
	})
	s.edge = "127.0.0.1:" + s.edge[strings.LastIndexByte(s.edge, ':')+1:]
	url := waitForHome(t, s)
	l := startLoad(t, s, url, edge(s)+"/", edge(s)+"/browse")
	l.during(t, 1)
	for _, service := range []string{"catalog-a", "web"} {
		if _, err := docker(t.Context(), "service", "update", "--force", name+"_"+service); err != nil {
			t.Error(err)
		}
		l.during(t, 1)
	}
	l.finish(t)
	waitForHome(t, s)
}

// removeStack removes a stack and its volumes. Swarm itself does not remove the volumes.
func removeStack(t *testing.T, name, mine string) {
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	if t.Failed() {
		tasks, _ := docker(ctx, "stack", "ps", "--no-trunc", name)
		t.Log(tasks)
	}
	if _, err := docker(ctx, "stack", "rm", name); err != nil {
		t.Error(err)
	}
	tick := time.NewTicker(500 * time.Millisecond)
	defer tick.Stop()
	for {
		left, err := docker(ctx, "ps", "--all", "--quiet", "--filter", mine)
		if err == nil && left == "" {
			break
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			t.Errorf("removing the stack: these containers are left after two minutes: %s, error %v", left, err)
			return
		}
	}
	removeVolumes(ctx, t, mine)
}

// removeVolumes removes the volumes that match a filter of the engine.
func removeVolumes(ctx context.Context, t testing.TB, filter string) {
	volumes, err := docker(ctx, "volume", "ls", "--quiet", "--filter", filter)
	if err == nil && volumes != "" {
		_, err = docker(ctx, append([]string{"volume", "rm"}, strings.Fields(volumes)...)...)
	}
	if err != nil {
		t.Error(err)
	}
}
