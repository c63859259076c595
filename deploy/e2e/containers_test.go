package e2e

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
)

// containersVariable asks for the stories over containers. Who asks gets them or a failure, never a skip.
const containersVariable = "BIJOU_TEST_CONTAINERS"

// containers is compose.yaml run by `docker compose`. The tests reach what is not published by the containers' own
// addresses, as a Linux host can.
type containers struct {
	project string

	mu    sync.Mutex
	known map[string]container // by instance, until it is stopped or started
}

// container is what the tests need of `docker inspect`.
type container struct {
	Name  string
	State struct {
		Pid int
	}
	HostConfig struct {
		Memory, PidsLimit int64
	}
	Config struct {
		Env []string
	}
	NetworkSettings struct {
		Ports    map[string][]struct{ HostIp, HostPort string }
		Networks map[string]struct{ IPAddress string }
	}
}

// startContainers builds the images, runs the stack on free ports and waits until every container is healthy.
func startContainers(t testing.TB) *containers {
	t.Helper()
	c := &containers{project: fmt.Sprintf("bijou-test-%d", os.Getpid()), known: map[string]container{}}
	t.Cleanup(func() {
		if t.Failed() {
			c.dump(t)
		}
		if out, err := c.compose(context.Background(), "down", "--volumes", "--timeout", "20").CombinedOutput(); err != nil {
			t.Errorf("stopping the stack: %v\n%s", err, out)
		}
	})
	ctx, cancel := context.WithTimeout(t.Context(), 15*time.Minute)
	defer cancel()
	if out, err := c.compose(ctx, "up", "--build", "--detach", "--wait", "--wait-timeout", "180").CombinedOutput(); err != nil {
		t.Fatalf("docker compose up: %v\n%s", err, out[max(0, len(out)-8000):])
	}
	return c
}

func (c *containers) compose(ctx context.Context, args ...string) *exec.Cmd {
	file := filepath.Join(root, "compose.yaml")
	cmd := exec.CommandContext(ctx, "docker", append([]string{"compose", "--progress", "plain", "--file", file, "--project-name", c.project}, args...)...)
	cmd.Env = append(os.Environ(), "BIJOU_EDGE_PORT=0", "BIJOU_ZIPKIN_PORT=0", "BIJOU_OTLP_PORT=0", "BIJOU_OTLP_HTTP_PORT=0")
	return cmd
}

// docker runs a command of the engine on an instance.
func (c *containers) docker(t testing.TB, instance string, args ...string) {
	t.Helper()
	out, err := exec.CommandContext(t.Context(), "docker", append(args, c.project+"-"+instance)...).CombinedOutput()
	if err != nil {
		t.Fatalf("docker %s %s: %v\n%s", strings.Join(args, " "), instance, err, out)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.known, instance)
}

// inspect asks the engine about containers by name.
func inspect(ctx context.Context, names ...string) ([]container, error) {
	out, err := exec.CommandContext(ctx, "docker", append([]string{"inspect", "--type", "container"}, names...)...).Output()
	if err != nil {
		return nil, fmt.Errorf("inspecting %v: %w", names, err)
	}
	var all []container
	return all, json.Unmarshal(out, &all)
}

func (c *containers) find(instance string) (container, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if found, ok := c.known[instance]; ok {
		return found, nil
	}
	all, err := inspect(context.Background(), c.project+"-"+instance)
	if err != nil {
		return container{}, err
	}
	c.known[instance] = all[0]
	return all[0], nil
}

func (c *containers) addr(instance string, port int) string {
	found, err := c.find(instance)
	if err != nil {
		if found, err = c.find(instance + "-1"); err != nil {
			return ""
		}
	}
	if at := found.NetworkSettings.Ports[fmt.Sprintf("%d/tcp", port)]; len(at) > 0 {
		return at[0].HostIp + ":" + at[0].HostPort
	}
	for _, network := range []string{"data", "control"} {
		if at, ok := found.NetworkSettings.Networks[c.project+"_"+network]; ok {
			return fmt.Sprintf("%s:%d", at.IPAddress, port)
		}
	}
	return ""
}

// hold kills; the engine does not restart what was killed through it.
func (c *containers) hold(t testing.TB, instance string) {
	t.Helper()
	c.docker(t, instance, "kill")
}

// kill kills the process behind the engine's back.
func (c *containers) kill(t testing.TB, instance string) {
	t.Helper()
	found, err := c.find(instance)
	if err != nil {
		t.Fatal(err)
	}
	p, err := os.FindProcess(found.State.Pid)
	if err == nil {
		err = p.Kill()
	}
	if err != nil {
		t.Fatalf("killing %s: %v", instance, err)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.known, instance)
}

func (c *containers) start(t testing.TB, instance string) {
	t.Helper()
	c.docker(t, instance, "start")
}

func (c *containers) restart(t testing.TB, instance string) {
	t.Helper()
	c.docker(t, instance, "restart")
}

func (c *containers) logs(instance string) string {
	out, err := exec.Command("docker", "logs", "--tail", "200", c.project+"-"+instance).CombinedOutput()
	if err != nil {
		return err.Error()
	}
	return string(out)
}

// names are the containers of the project.
func (c *containers) names(ctx context.Context) ([]string, error) {
	out, err := c.compose(ctx, "ps", "--all", "--quiet").Output()
	if err != nil {
		return nil, fmt.Errorf("listing the containers: %w", err)
	}
	return strings.Fields(string(out)), nil
}

// dump prints what went wrong in each container, for a story that did not end well.
func (c *containers) dump(t testing.TB) {
	out, _ := c.compose(context.Background(), "ps", "--all").CombinedOutput()
	t.Logf("%s", out)
	logs, _ := c.compose(context.Background(), "logs", "--no-color", "--tail", "400").CombinedOutput()
	odd := map[string][]string{}
	for line := range strings.Lines(string(logs)) {
		name, text, _ := strings.Cut(line, "|")
		if !strings.Contains(text, `"level":"INFO"`) && !strings.Contains(text, `"level":"info"`) {
			odd[name] = append(odd[name], text)
		}
	}
	for name, lines := range odd {
		t.Logf("%s\n %s", name, strings.Join(lines[max(0, len(lines)-15):], " "))
	}
}

func TestContainers(t *testing.T) {
	if os.Getenv(containersVariable) == "" {
		t.Skipf("containers take an engine and minutes: make test-containers, or set %s", containersVariable)
	}
	c := startContainers(t)
	t.Run("Locked down", func(t *testing.T) { tellLockedDown(t, c) })
	tellAll(t, c)
	t.Run("Story/an instance hangs under load", func(t *testing.T) { tellPaused(t, c) })
	t.Run("Story/an instance crashes and comes back", func(t *testing.T) { tellCrashed(t, c) })
}

// tellLockedDown asks the kernel what each container may do.
func tellLockedDown(t *testing.T, c *containers) {
	names, err := c.names(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	all, err := inspect(t.Context(), names...)
	if err != nil {
		t.Fatal(err)
	}
	if len(all) < 15 {
		t.Errorf("only %d containers run", len(all))
	}
	for _, one := range all {
		t.Run(one.Name, func(t *testing.T) {
			status := procStatus(t, one.State.Pid)
			for field, want := range map[string]string{
				"Uid": "65532 65532 65532 65532", "Gid": "65532 65532 65532 65532", "NoNewPrivs": "1", "Seccomp": "2",
				"CapInh": noCapabilities, "CapPrm": noCapabilities, "CapEff": noCapabilities, "CapBnd": noCapabilities, "CapAmb": noCapabilities,
			} {
				if status[field] != want {
					t.Errorf("%s is %q, want %q", field, status[field], want)
				}
			}
			if one.HostConfig.Memory == 0 || !slices.Contains(one.Config.Env, goMemoryLimit(one.HostConfig.Memory)) {
				t.Errorf("its memory is limited to %d; want a limit, and %s", one.HostConfig.Memory, goMemoryLimit(one.HostConfig.Memory))
			}
			if one.HostConfig.PidsLimit <= 0 {
				t.Error("the number of its threads has no limit")
			}
			if options := rootMount(t, one.State.Pid); !slices.Contains(options, "ro") {
				t.Errorf("its root is mounted %v, want read-only", options)
			}
		})
	}
}

// goMemoryLimit is what the garbage collector must be told about a container's limit: 85 % of it, in whole MiB, rounded
// down to an even number.
func goMemoryLimit(limit int64) string { return fmt.Sprintf("GOMEMLIMIT=%dMiB", limit*85/100>>21<<1) }

const noCapabilities = "0000000000000000"

// procStatus reads /proc/PID/status.
func procStatus(t *testing.T, pid int) map[string]string {
	t.Helper()
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		t.Fatal(err)
	}
	fields := map[string]string{}
	for line := range strings.Lines(string(b)) {
		name, value, _ := strings.Cut(line, ":")
		fields[name] = strings.Join(strings.Fields(value), " ")
	}
	return fields
}

// rootMount returns the options with which a process sees its root: the sixth field of the line that says "/".
func rootMount(t *testing.T, pid int) []string {
	t.Helper()
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/mountinfo", pid))
	if err != nil {
		t.Fatal(err)
	}
	for line := range bytes.Lines(b) {
		if f := strings.Fields(string(line)); len(f) > 5 && f[4] == "/" {
			return strings.Split(f[5], ",")
		}
	}
	t.Fatalf("process %d has no root", pid)
	return nil
}

// tellPaused freezes an instance: its connections stay open and nothing answers, so only time-outs can tell. What it had
// accepted is lost; the callers must learn from that, and from then on nothing may fail.
func tellPaused(t *testing.T, c *containers) {
	url := wholeHome(t, c)
	l := startLoad(t, c, url, edge(c)+"/", edge(c)+"/browse")
	l.during(t, 2)
	c.docker(t, "catalog-a-1", "pause")
	l.during(t, 5)
	l.cancel()
	l.wg.Wait()
	// It has a third of the calls, and a call may take a second.
	if limit := c.rate() / 3; len(l.failures) > limit {
		t.Errorf("%d of %d requests failed, want at most %d:\n%s", len(l.failures), l.offered, limit, l.failures[0])
	}
	t.Logf("%d of %d requests failed before the instance was ejected", len(l.failures), l.offered)
	l = startLoad(t, c, url, edge(c)+"/", edge(c)+"/browse")
	l.during(t, 4)
	l.finish(t)
	c.docker(t, "catalog-a-1", "unpause")
	wholeHome(t, c)
}

// tellCrashed has the engine bring an instance back.
func tellCrashed(t *testing.T, c *containers) {
	url := wholeHome(t, c)
	before, err := c.find("search-1")
	if err != nil {
		t.Fatal(err)
	}
	l := startLoad(t, c, url, edge(c)+"/browse")
	c.kill(t, "search-1")
	eventually(t, 30*time.Second, "search to come back", func(ctx context.Context) error {
		all, err := inspect(ctx, c.project+"-search-1")
		if err != nil {
			return err
		}
		if pid := all[0].State.Pid; pid == 0 || pid == before.State.Pid {
			return fmt.Errorf("its process is %d, and was %d", pid, before.State.Pid)
		}
		return getJSON(ctx, "http://"+c.addr("search-1", 9090)+"/version", new(any))
	})
	l.finish(t)
	wholeHome(t, c)
}

func (c *containers) rate() int { return 40 }
