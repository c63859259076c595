package e2e

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// containersVariable enables the stories over containers. With it they run or fail; they are never skipped.
const containersVariable = "BIJOU_TEST_CONTAINERS"

// containers runs compose.yaml by `docker compose`. Ports that are not published are reached by the addresses of the
// containers, which works on a Linux host.
type containers struct {
	project string
	files   []string // of compose

	mu    sync.Mutex
	known map[string]container // by instance, until it is stopped or started
}

// container has the fields of `docker inspect` that the tests need.
type container struct {
	Name  string
	State struct {
		Pid    int
		Health struct{ Status string }
	}
	RestartCount int
	HostConfig   struct {
		Memory, PidsLimit int64
		RestartPolicy     struct{ Name string }
		LogConfig         struct{ Config map[string]string }
	}
	Config struct {
		Env []string
	}
	Mounts          []mount
	NetworkSettings struct {
		Ports    map[string][]struct{ HostIp, HostPort string }
		Networks map[string]struct{ IPAddress string }
	}
}

type mount struct{ Type, Name string }

// startContainers builds the images and runs the stack on free ports until every container is healthy. The containers
// start in a random order, as after a boot, and as with hosts that ignore depends_on.
func startContainers(t testing.TB) *containers {
	t.Helper()
	c := &containers{
		project: fmt.Sprintf("bijou-test-%d", os.Getpid()), files: []string{"compose.yaml"},
		known: map[string]container{},
	}
	t.Cleanup(func() {
		if t.Failed() {
			c.dump(t)
		}
		if out, err := c.compose(context.Background(), "down", "--volumes",
			"--timeout", "20").CombinedOutput(); err != nil {
			t.Errorf("stopping the stack: %v\n%s", err, out)
		}
		// Compose does not remove volumes that no service uses any more.
		removeVolumes(context.Background(), t, "label=com.docker.compose.project="+c.project)
	})
	ctx, cancel := context.WithTimeout(t.Context(), 25*time.Minute)
	defer cancel()
	if out, err := c.compose(ctx, "up", "--build", "--no-start").CombinedOutput(); err != nil {
		t.Fatalf("docker compose up: %v\n%s", err, out[max(0, len(out)-8000):])
	}
	c.startShuffled(t, rand.Uint64())
	return c
}

// startShuffled starts all containers in a random order of a seed and waits until they are healthy.
func (c *containers) startShuffled(t testing.TB, seed uint64) {
	t.Helper()
	names, err := c.names(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	slices.Sort(names)
	rand.New(rand.NewPCG(seed, 0)).Shuffle(len(names), func(i, j int) { names[i], names[j] = names[j], names[i] })
	t.Logf("the start order is that of seed %d", seed)
	if out, err := exec.CommandContext(t.Context(), "docker",
		append([]string{"start"}, names...)...).CombinedOutput(); err != nil {
		t.Fatalf("docker start: %v\n%s", err, out)
	}
	c.forget()
	c.healthy(t)
}

// healthy waits until the engine reports every container as healthy.
func (c *containers) healthy(t testing.TB) {
	t.Helper()
	eventually(t, 3*time.Minute, "every container to be healthy", func(ctx context.Context) error {
		names, err := c.names(ctx)
		if err != nil {
			return err
		}
		all, err := inspect(ctx, names...)
		if err != nil {
			return err
		}
		for _, one := range all {
			if one.State.Health.Status != "healthy" {
				return fmt.Errorf("%s is %s", one.Name, one.State.Health.Status)
			}
		}
		return nil
	})
}

// forget clears the cache of containers: a start changes addresses and process ids.
func (c *containers) forget() {
	c.mu.Lock()
	defer c.mu.Unlock()
	clear(c.known)
}

func (c *containers) compose(ctx context.Context, args ...string) *exec.Cmd {
	all := []string{"compose", "--progress", "plain", "--project-name", c.project}
	for _, file := range c.files {
		all = append(all, "--file", filepath.Join(root, file))
	}
	cmd := exec.CommandContext(ctx, "docker", append(all, args...)...)
	cmd.Env = append(os.Environ(), "BIJOU_EDGE_PORT=0", "BIJOU_CONSOLE_PORT=0", "BIJOU_ZIPKIN_PORT=0",
		"BIJOU_OTLP_PORT=0", "BIJOU_OTLP_HTTP_PORT=0")
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

// inspect runs `docker inspect` for some containers.
func inspect(ctx context.Context, names ...string) ([]container, error) {
	out, err := exec.CommandContext(ctx, "docker", append([]string{"inspect", "--type", "container"},
		names...)...).Output()
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

// hold kills an instance through the engine, which then does not restart it.
func (c *containers) hold(t testing.TB, instance string) {
	t.Helper()
	c.docker(t, instance, "kill")
}

// kill kills the process without the engine, which restarts it.
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

// names returns the containers of the project, or those of some of its services.
func (c *containers) names(ctx context.Context, services ...string) ([]string, error) {
	out, err := c.compose(ctx, append([]string{"ps", "--all", "--format", "{{.Name}}"}, services...)...).Output()
	if err != nil {
		return nil, fmt.Errorf("listing the containers: %w", err)
	}
	return strings.Fields(string(out)), nil
}

// instances returns the instances of a service, without the name of the project.
func (c *containers) instances(t testing.TB, service string) []string {
	t.Helper()
	names, err := c.names(t.Context(), service)
	if err != nil || len(names) == 0 {
		t.Fatalf("%s has the containers %v, %v", service, names, err)
	}
	slices.Sort(names)
	for i, name := range names {
		names[i] = strings.TrimPrefix(name, c.project+"-")
	}
	return names
}

// ready waits until the health check of an instance succeeds. It runs the check, which the engine does only every ten
// seconds.
func (c *containers) ready(t testing.TB, instance string) {
	t.Helper()
	eventually(t, time.Minute, instance+" to be ready", func(ctx context.Context) error {
		found, err := inspect(ctx, c.project+"-"+instance)
		if err != nil {
			return err
		}
		if found[0].State.Pid == 0 {
			return errors.New("it does not run")
		}
		out, err := exec.CommandContext(ctx, "docker", "exec", c.project+"-"+instance, "/service",
			"healthcheck").CombinedOutput()
		if err != nil {
			return fmt.Errorf("%w: %s", err, out)
		}
		return nil
	})
	c.forget()
}

// dump prints the last warnings and errors of each container, for a story that failed.
func (c *containers) dump(t testing.TB) {
	out, _ := c.compose(context.Background(), "ps", "--all").CombinedOutput()
	t.Logf("%s", out)
	logs, _ := c.compose(context.Background(), "logs", "--no-color", "--tail", "400").CombinedOutput()
	notable := map[string][]string{}
	for line := range strings.Lines(string(logs)) {
		name, text, _ := strings.Cut(line, "|")
		if !strings.Contains(text, `"level":"INFO"`) && !strings.Contains(text, `"level":"info"`) {
			notable[name] = append(notable[name], text)
		}
	}
	for name, lines := range notable {
		t.Logf("%s\n %s", name, strings.Join(lines[max(0, len(lines)-15):], " "))
	}
}

func TestContainers(t *testing.T) {
	if os.Getenv(containersVariable) == "" {
		t.Skipf("containers need an engine and take minutes: run make test-containers, or set %s", containersVariable)
	}
	c := startContainers(t)
	t.Run("Restrictions", func(t *testing.T) { assertContainersAreRestricted(t, c) })
	t.Run("Images", func(t *testing.T) { assertImages(t, c) })
	t.Run("The console's image has its pages", func(t *testing.T) {
		for path, want := range map[string]string{"/": "/app.js", "/app.js": "function"} {
			a, err := get(t.Context(), "http://"+c.addr("console-1", 8080)+path)
			if err != nil || a.status != http.StatusOK || !strings.Contains(a.body, want) {
				t.Errorf("%s answers %d without %q, %v", path, a.status, want, err)
			}
		}
	})
	runStories(t, c)
	for _, s := range []struct {
		name string
		run  func(*testing.T, *containers)
	}{
		{"an instance hangs under load", storyInstanceHangs},
		{"an instance loses its network under load", storyInstanceLosesNetwork},
		{"an instance crashes and is restarted", storyInstanceCrashes},
		{"an instance exceeds its memory limit", storyInstanceRunsOutOfMemory},
		{"every service is restarted under load", storyEveryServiceRestarts},
		{"everything is killed and starts in any order", storyEverythingIsKilled},
		{"volumes are lost and put back from a backup", storyVolumesAreRestored},
		{"three stores, each of which is lost in turn", storyStoreIsLost},
	} {
		t.Run("Story/"+s.name, func(t *testing.T) { s.run(t, c) })
	}
}

// assertContainersAreRestricted checks in /proc and with the engine what each container may do.
func assertContainersAreRestricted(t *testing.T, c *containers) {
	names, err := c.names(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	all, err := inspect(t.Context(), names...)
	if err != nil {
		t.Fatal(err)
	}
	if len(all) < 15 {
		t.Errorf("%d containers run, want at least 15", len(all))
	}
	for _, one := range all {
		t.Run(one.Name, func(t *testing.T) {
			status := procStatus(t, one.State.Pid)
			for field, want := range map[string]string{
				"Uid": "65532 65532 65532 65532", "Gid": "65532 65532 65532 65532", "NoNewPrivs": "1", "Seccomp": "2",
				"CapInh": noCapabilities, "CapPrm": noCapabilities, "CapEff": noCapabilities, "CapBnd": noCapabilities,
				"CapAmb": noCapabilities,
			} {
				if status[field] != want {
					t.Errorf("%s is %q, want %q", field, status[field], want)
				}
			}
			if one.HostConfig.Memory == 0 || !slices.Contains(one.Config.Env, goMemoryLimit(one.HostConfig.Memory)) {
				t.Errorf("its memory is limited to %d; want a limit, and %s", one.HostConfig.Memory,
					goMemoryLimit(one.HostConfig.Memory))
			}
			if one.HostConfig.PidsLimit <= 0 {
				t.Error("the number of threads has no limit")
			}
			if one.HostConfig.RestartPolicy.Name != "unless-stopped" ||
				one.HostConfig.LogConfig.Config["max-size"] == "" {
				t.Errorf("its restart policy is %q and its log is kept %v; want a restart, and a bound",
					one.HostConfig.RestartPolicy.Name, one.HostConfig.LogConfig.Config)
			}
			if slices.ContainsFunc(one.Mounts, func(m mount) bool { return m.Type != "volume" }) {
				t.Errorf("the container has mounts other than volumes: %+v", one.Mounts)
			}
			for port, at := range one.NetworkSettings.Ports {
				for _, to := range at {
					if to.HostIp != "127.0.0.1" {
						t.Errorf("port %s is open on %s, want 127.0.0.1 only", port, to.HostIp)
					}
				}
			}
			if options := rootMount(t, one.State.Pid); !slices.Contains(options, "ro") {
				t.Errorf("the root file system is mounted %v, want read-only", options)
			}
		})
	}
}

// image has the fields of `docker image inspect` that the tests need.
type image struct {
	Size         int64
	Architecture string
	Config       struct{ Labels map[string]string }
	RootFS       struct{ Layers []string }
}

func (c *containers) image(t *testing.T, name string) (one image) {
	t.Helper()
	out, err := exec.CommandContext(t.Context(), "docker", "image", "inspect", "--format", "{{json .}}", name).Output()
	if err == nil {
		err = json.Unmarshal(out, &one)
	}
	if err != nil {
		t.Fatalf("docker image inspect %s: %v", name, err)
	}
	return one
}

// build builds an image of a program from a source tree, and returns it and the output of the build.
func (c *containers) build(t *testing.T, tree, program string, args ...string) (image, string) {
	t.Helper()
	name := c.project + "/built"
	cmd := exec.CommandContext(t.Context(), "docker", append([]string{
		"build", "--progress", "plain",
		"--file", "deploy/Dockerfile", "--tag", name, "--build-arg", "SERVICE=" + program,
	}, append(args, ".")...)...)
	cmd.Dir = tree
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("docker build of %s: %v\n%s", program, err, out)
	}
	defer exec.Command("docker", "image", "rm", name).Run()
	return c.image(t, name), string(out)
}

// assertImages checks size and labels of the images, and what is built again after a change.
func assertImages(t *testing.T, c *containers) {
	names, err := c.compose(t.Context(), "config", "--images").Output()
	if err != nil {
		t.Fatalf("docker compose config: %v", err)
	}
	for _, name := range strings.Fields(string(names)) {
		one := c.image(t, name)
		if one.Size > 25_000_000 {
			t.Errorf("%s has %d bytes, want at most 25 MB", name, one.Size)
		}
		for _, label := range []string{"title", "source", "licenses", "version", "revision", "created"} {
			if one.Config.Labels["org.opencontainers.image."+label] == "" {
				t.Errorf("%s has no label %s", name, label)
			}
		}
	}

	const hello, web = "hello/cmd/hello", "cinema/cmd/web"
	first := c.image(t, "bijou/hello").RootFS.Layers
	// Another argument, so that it is compiled again; the modules are in the cache.
	if again, _ := c.build(t, root, hello, "--build-arg", "GOPROXY=off"); !slices.Equal(first, again.RootFS.Layers) {
		t.Errorf("built again from the same source, the layers are %v; they were %v", again.RootFS.Layers, first)
	}

	// A change to one service gives it a new image. Nothing is compiled for the others.
	tree := t.TempDir()
	for _, folder := range []string{"deploy", "platform", "services"} {
		if err := os.CopyFS(filepath.Join(tree, folder), os.DirFS(filepath.Join(root, folder))); err != nil {
			t.Fatal(err)
		}
	}
	ignored, err := os.ReadFile(filepath.Join(root, ".dockerignore"))
	if err := errors.Join(err, os.WriteFile(filepath.Join(tree, ".dockerignore"), ignored, 0o644),
		os.WriteFile(filepath.Join(tree, "services/hello/changed.go"),
			[]byte("package hello\n\nfunc init() { println(\"changed\") }\n"), 0o644)); err != nil {
		t.Fatal(err)
	}
	if changed, _ := c.build(t, tree, hello, "--build-arg", "GOPROXY"); slices.Equal(first, changed.RootFS.Layers) {
		t.Error("hello was changed, but its image has the same layers")
	}
	compiled := regexp.MustCompile(`(?m)^#(\d+) \[build .* RUN `)
	_, out := c.build(t, tree, web, "--build-arg", "GOPROXY")
	if step := compiled.FindStringSubmatch(out); step == nil || !strings.Contains(out, "\n#"+step[1]+" CACHED") {
		t.Errorf("hello was changed, and web was compiled again; its build must be cached:\n%s", out)
	}

	if arm, _ := c.build(t, root, hello, "--build-arg", "GOPROXY",
		"--platform", "linux/arm64"); arm.Architecture != "arm64" {
		t.Errorf("built for arm64, the image is for %s", arm.Architecture)
	}
}

// goMemoryLimit returns the setting of the garbage collector for the memory limit of a container: 85 % of it, in whole
// MiB, rounded down to an even number.
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

// rootMount returns the mount options of the root file system of a process: the sixth field of the line for "/".
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
	t.Fatalf("/proc/%d/mountinfo has no line for /", pid)
	return nil
}

// storyInstanceHangs pauses an instance: its connections stay open and it does not answer.
func storyInstanceHangs(t *testing.T, c *containers) {
	assertSilentInstanceIsEjected(t, c, "catalog-a-1", func() { c.docker(t, "catalog-a-1", "pause") },
		func() { c.docker(t, "catalog-a-1", "unpause") })
}

// storyInstanceLosesNetwork disconnects an instance from its network. After that it may have another address.
func storyInstanceLosesNetwork(t *testing.T, c *containers) {
	network := c.project + "_data"
	assertSilentInstanceIsEjected(t, c, "catalog-a-2",
		func() { c.docker(t, "catalog-a-2", "network", "disconnect", network) },
		func() {
			c.docker(t, "catalog-a-2", "network", "connect", "--alias", "self", "--alias", "catalog-a", network)
		})
}

// assertSilentInstanceIsEjected makes an instance silent without a reset, so that callers notice only by timeouts.
// Requests that it had accepted may fail. Then its callers must eject it, and only their trial requests may fail. After
// restore it must be called again.
func assertSilentInstanceIsEjected(t *testing.T, c *containers, instance string, silence, restore func()) {
	url := waitForHome(t, c)
	l := startLoad(t, c, url, edge(c)+"/", edge(c)+"/browse")
	l.during(t, 2)
	silence()
	restoreOnce := sync.OnceFunc(restore)
	defer restoreOnce()
	l.during(t, 5)
	l.cancel()
	l.wg.Wait()
	// It gets a third of the calls, and a call may take a second.
	if limit := c.rate() / 3; len(l.failures) > limit {
		t.Errorf("%d of %d requests failed, want at most %d:\n%s", len(l.failures), l.offered, limit, l.failures[0])
	}
	t.Logf("%d of %d requests failed before the instance was ejected", len(l.failures), l.offered)
	l = startLoad(t, c, url, edge(c)+"/", edge(c)+"/browse")
	l.during(t, 4)
	l.cancel()
	l.wg.Wait()
	// Each of its three callers sends it one trial request every five seconds (route.ejection.base), until its lease
	// ends.
	if len(l.failures) > 3 {
		t.Errorf("%d of %d requests failed after it had been ejected, want at most one for each caller:\n%s",
			len(l.failures), l.offered, l.failures[0])
	}
	t.Logf("%d of %d requests failed while it was ejected", len(l.failures), l.offered)
	restoreOnce()
	c.ready(t, instance)
	l = startLoad(t, c, url, edge(c)+"/", edge(c)+"/browse")
	before := c.served(t, instance) // after the requests by which startLoad measures
	eventually(t, 90*time.Second, instance+" to be called again", func(context.Context) error {
		if after := c.served(t, instance); after < before+10 {
			return fmt.Errorf("it has served %v calls, want 10 more than the %v of before", after, before)
		}
		return nil
	})
	l.finish(t)
	waitForHome(t, c)
}

// served returns how many calls an instance has answered, from its metrics.
func (c *containers) served(t testing.TB, instance string) float64 {
	t.Helper()
	a, err := get(t.Context(), "http://"+c.addr(instance, 9090)+"/metrics")
	if err != nil {
		t.Fatal(err)
	}
	sum := 0.0
	for line := range strings.Lines(a.body) {
		if strings.HasPrefix(line, "bijou_rpc_server_seconds_count{") {
			n, err := strconv.ParseFloat(line[strings.LastIndexByte(line, ' ')+1:len(line)-1], 64)
			if err != nil {
				t.Fatalf("reading %q: %v", line, err)
			}
			sum += n
		}
	}
	return sum
}

// storyInstanceCrashes kills the process of an instance. The engine must restart it.
func storyInstanceCrashes(t *testing.T, c *containers) {
	url := waitForHome(t, c)
	before, err := c.find("search-1")
	if err != nil {
		t.Fatal(err)
	}
	l := startLoad(t, c, url, edge(c)+"/browse")
	c.kill(t, "search-1")
	eventually(t, 30*time.Second, "search-1 to be restarted", func(ctx context.Context) error {
		all, err := inspect(ctx, c.project+"-search-1")
		if err != nil {
			return err
		}
		if pid := all[0].State.Pid; pid == 0 || pid == before.State.Pid {
			return fmt.Errorf("its process id is %d, and was %d before", pid, before.State.Pid)
		}
		return getJSON(ctx, "http://"+c.addr("search-1", 9090)+"/version", new(any))
	})
	l.finish(t)
	waitForHome(t, c)
}

// storyInstanceRunsOutOfMemory lowers the memory limit of an instance until the kernel kills it. No other container may
// be killed, no request may fail, and the instance must be restarted.
func storyInstanceRunsOutOfMemory(t *testing.T, c *containers) {
	const victim = "search-1"
	url := waitForHome(t, c)
	before, err := c.find(victim)
	if err != nil {
		t.Fatal(err)
	}
	began := time.Now()
	l := startLoad(t, c, url, edge(c)+"/browse")
	l.during(t, 1)
	limit := func(bytes int64) error { // fails while the kernel cannot free enough memory
		n := fmt.Sprint(bytes)
		return exec.CommandContext(t.Context(), "docker", "update", "--memory", n, "--memory-swap", n,
			c.project+"-"+victim).Run()
	}
	bytes := before.HostConfig.Memory
	eventually(t, 90*time.Second, "the kernel to kill "+victim, func(ctx context.Context) error {
		if killed := c.outOfMemory(t, began); len(killed) > 0 {
			return nil
		}
		if next := bytes * 97 / 100; limit(next) == nil {
			bytes = next
		}
		// A profile of its heap needs memory.
		_, _ = get(ctx, "http://"+c.addr(victim, 9090)+"/debug/pprof/heap")
		return fmt.Errorf("it still runs with a limit of %d bytes", bytes)
	})
	t.Logf("%s was killed with a limit of %d bytes", victim, bytes)
	eventually(t, 30*time.Second, "the old memory limit to be set",
		func(context.Context) error { return limit(before.HostConfig.Memory) })
	if all, err := inspect(t.Context(), c.project+"-"+victim); err != nil || all[0].State.Pid == 0 {
		c.start(t, victim) // the engine does not restart a container that is killed while it starts
	}
	c.ready(t, victim)
	l.finish(t)
	if killed := c.outOfMemory(t, began); !slices.Equal(killed, []string{victim}) {
		t.Errorf("the kernel killed %v, want only %s", killed, victim)
	}
	waitForHome(t, c)
}

// outOfMemory returns the containers of the project in which the kernel killed for memory since then, each once.
func (c *containers) outOfMemory(t testing.TB, since time.Time) []string {
	t.Helper()
	out, err := exec.CommandContext(t.Context(), "docker", "events", "--since", fmt.Sprint(since.Unix()),
		"--until", fmt.Sprint(time.Now().Unix()),
		"--filter", "event=oom", "--filter", "label=com.docker.compose.project="+c.project,
		"--format", "{{.Actor.Attributes.name}}").Output()
	if err != nil {
		t.Fatalf("docker events: %v", err)
	}
	names := strings.Fields(string(out))
	slices.Sort(names)
	names = slices.Compact(names)
	for i, name := range names {
		names[i] = strings.TrimPrefix(name, c.project+"-")
	}
	return names
}

// storyEveryServiceRestarts restarts every instance of every service in turn, as an upgrade does. A service without a
// volume gets one more instance first.
func storyEveryServiceRestarts(t *testing.T, c *containers) {
	url := waitForHome(t, c)
	out, err := c.compose(t.Context(), "config", "--services").Output()
	if err != nil {
		t.Fatalf("docker compose config: %v", err)
	}
	services := strings.Fields(string(out))
	if len(services) < 15 {
		t.Fatalf("compose has the services %v, want at least 15", services)
	}
	slices.Sort(services)
	front := &rotation{}
	front.set(c.addr("gateway-1", 8080))
	l := startLoadBy(t, c, front.client(), url, edge(c)+"/", edge(c)+"/browse")
	l.during(t, 1)
	for _, service := range services {
		old := c.instances(t, service)
		single := c.hasState(t, old[0])
		if !single {
			n := fmt.Sprint(service, "=", len(old)+1)
			if out, err := c.compose(t.Context(), "up", "--detach", "--no-build", "--no-deps",
				"--no-recreate", "--scale", n, service).CombinedOutput(); err != nil {
				t.Fatalf("scaling %s: %v\n%s", n, err, out)
			}
			c.forget()
			for _, instance := range c.instances(t, service) {
				c.ready(t, instance)
			}
			if service == "gateway" {
				front.set(c.addr("gateway-2", 8080))
			}
			l.during(t, 1)
		}
		for _, instance := range old {
			c.restart(t, instance)
			c.ready(t, instance)
		}
		l.during(t, 1)
		if !single {
			if service == "gateway" {
				front.set(c.addr("gateway-1", 8080))
			}
			for _, instance := range c.instances(t, service) {
				if !slices.Contains(old, instance) {
					c.docker(t, instance, "stop")
					c.docker(t, instance, "rm", "--volumes")
				}
			}
		}
		if n := len(l.failed()); n > 0 {
			t.Errorf("%d requests failed by the time %s was replaced", n, service)
		}
	}
	l.during(t, 2)
	l.finish(t)
	waitForHome(t, c)
}

// hasState reports whether an instance has a named volume.
func (c *containers) hasState(t testing.TB, instance string) bool {
	t.Helper()
	found, err := c.find(instance)
	if err != nil {
		t.Fatal(err)
	}
	return slices.ContainsFunc(found.Mounts, func(m mount) bool { return strings.HasPrefix(m.Name, c.project) })
}

// rotation is the load balancer in front of the instances of the edge: it has the address for new connections. It must
// be set before an instance stops, because the engine accepts connections to the published port of a stopping
// container.
type rotation struct{ addr atomic.Value }

func (r *rotation) set(addr string) { r.addr.Store(addr) }

func (r *rotation) client() *http.Client {
	var d net.Dialer
	return &http.Client{Timeout: client.Timeout, Transport: &http.Transport{
		MaxIdleConnsPerHost: 64, IdleConnTimeout: time.Minute,
		DialContext: func(ctx context.Context, network, _ string) (net.Conn, error) {
			return d.DialContext(ctx, network, r.addr.Load().(string))
		},
	}}
}

// storyEverythingIsKilled simulates a power cut: all containers are killed at once and started in a random order.
func storyEverythingIsKilled(t *testing.T, c *containers) {
	names, err := c.names(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if out, err := exec.CommandContext(t.Context(), "docker",
		append([]string{"kill"}, names...)...).CombinedOutput(); err != nil {
		t.Fatalf("docker kill: %v\n%s", err, out)
	}
	c.startShuffled(t, rand.Uint64())
	waitForHome(t, c)
}

// storyVolumesAreRestored removes the volumes of etcd and profiles and restores them from a backup, with the commands
// of docs/operations.md.
func storyVolumesAreRestored(t *testing.T, c *containers) {
	waitForHome(t, c)
	waitDeclared(t, c)
	profile := func(id string) (answer, error) {
		return post(t.Context(), edge(c)+"/api/profiles",
			fmt.Sprintf(`{"id":%q,"name":%q,"household":"backup"}`, id, id))
	}
	must(t, c, "config", "set", "web.home.row", "6", "--app", "web", "--reason", "before the backup", "--wait", "20s")
	if a, err := profile("before-backup"); err != nil || a.status != http.StatusOK {
		t.Fatalf("creating a profile: %+v, %v", a, err)
	}
	run := func(stdin []byte, args ...string) []byte {
		t.Helper()
		cmd := c.compose(t.Context(), args...)
		cmd.Stdin = bytes.NewReader(stdin)
		var problems bytes.Buffer
		cmd.Stderr = &problems
		out, err := cmd.Output()
		if err != nil {
			t.Fatalf("docker compose %s: %v\n%s", strings.Join(args, " "), err, problems.Bytes())
		}
		return out
	}
	backup := map[string][]byte{}
	for _, service := range []string{"etcd", "profiles"} {
		run(nil, "stop", service)
		backup[service] = run(nil, "cp", service+":/data/.", "-")
		run(nil, "start", service)
		c.ready(t, service+"-1")
	}
	waitForHome(t, c)
	eventually(t, 30*time.Second, "a profile to be created after the backup", func(context.Context) error {
		if a, err := profile("after-backup"); err != nil || a.status != http.StatusOK {
			return fmt.Errorf("%+v, %w", a, err)
		}
		return nil
	})
	for service, data := range backup {
		run(nil, "rm", "-sfv", service)
		if out, err := exec.CommandContext(t.Context(), "docker", "volume", "rm",
			c.project+"_"+service).CombinedOutput(); err != nil {
			t.Fatalf("docker volume rm: %v\n%s", err, out)
		}
		run(nil, "create", service)
		run(data, "cp", "-", service+":/data")
		run(nil, "start", service)
		c.ready(t, service+"-1")
	}
	run(nil, "restart", "config")
	c.ready(t, "config-1")
	c.ready(t, "config-2")
	waitForHome(t, c)
	if history := must(t, c, "config", "history", "--json"); !strings.Contains(history, "before the backup") {
		t.Errorf("the history lacks the publish of before the backup:\n%s", history)
	}
	unset(t, c, "web.home.row", "web")
	all, err := get(t.Context(), edge(c)+"/api/profiles?household=backup")
	if err != nil || !strings.Contains(all.body, "before-backup") || strings.Contains(all.body, "after-backup") {
		t.Errorf("profiles are %+v, %v; want those of the backup", all, err)
	}
}

// storyStoreIsLost adds compose.ha.yaml to the running stack, and kills each of the three members of etcd in turn, so
// also the leader. It must be possible to publish settings all the time.
func storyStoreIsLost(t *testing.T, c *containers) {
	c.files = append(c.files, "compose.ha.yaml")
	if out, err := c.compose(t.Context(), "up", "--detach", "--no-build").CombinedOutput(); err != nil {
		t.Fatalf("docker compose up: %v\n%s", err, out)
	}
	c.forget()
	c.healthy(t)
	if boards := c.instances(t, "circuits"); len(boards) != 2 {
		t.Errorf("the instances of circuits are %v, want two", boards)
	}
	url := waitForHome(t, c)
	waitDeclared(t, c)
	l := startLoad(t, c, url, edge(c)+"/browse")
	var published []string
	for _, store := range []string{"etcd-1", "etcd-2-1", "etcd-3-1"} {
		l.during(t, 1)
		c.hold(t, store)
		reason := "without " + store
		eventually(t, 30*time.Second, "a publish "+reason+" to succeed", func(context.Context) error {
			if code, out := bijou(t, c, "config", "set", "web.home.row", fmt.Sprint(6+len(published)), "--app", "web",
				"--reason", reason, "--wait", "20s"); code != 0 {
				return fmt.Errorf("exit %d: %s", code, out)
			}
			return nil
		})
		published = append(published, reason)
		c.start(t, store)
		c.ready(t, store)
	}
	l.finish(t)
	history := must(t, c, "config", "history", "--json")
	for _, reason := range published {
		if !strings.Contains(history, reason) {
			t.Errorf("the acknowledged publish %q is not in the history:\n%s", reason, history)
		}
	}
	unset(t, c, "web.home.row", "web")
}

func (c *containers) rate() int { return 20 }
