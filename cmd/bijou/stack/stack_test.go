package stack_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"bijou.dev/cmd/bijou/stack"
	"github.com/google/go-cmp/cmp"
)

// TestMain lets the test binary be every service of the stacks below.
func TestMain(m *testing.M) {
	if os.Getenv("LISTEN") == "" {
		os.Exit(m.Run())
	}
	os.Exit(service(os.Args[1:]))
}

// service answers with its instance, start time and peers until SIGTERM; its health check asks it.
func service(args []string) int {
	listen := os.Getenv("LISTEN")
	if code, err := strconv.Atoi(os.Getenv("EXIT")); err == nil {
		fmt.Println("ending with", code)
		return code
	}
	if len(args) > 0 && args[0] == "sick" {
		fmt.Println("the store is away")
		return 1
	}
	if len(args) > 0 && args[0] == "healthcheck" {
		if _, err := get(context.Background(), listen); err != nil {
			fmt.Println(err)
			return 1
		}
		return 0
	}
	ctx := context.Background()
	if os.Getenv("HANG") != "" {
		signal.Ignore(syscall.SIGTERM)
	} else {
		var stop context.CancelFunc
		ctx, stop = signal.NotifyContext(ctx, syscall.SIGTERM) //nolint:forbidigo // this is the child's main
		defer stop()
	}
	answer := fmt.Sprint(os.Getenv("BIJOU_INSTANCE"), " ", os.Getpid(), " ", os.Getenv("PEERS"))
	server := &http.Server{Addr: listen, Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/environ" {
			fmt.Fprint(w, strings.Join(os.Environ(), "\n"))
			return
		}
		fmt.Fprint(w, answer)
	})}
	go func() {
		<-ctx.Done()
		fmt.Println("leaving")
		_ = server.Close()
	}()
	fmt.Println("listening on", listen)
	if err := server.ListenAndServe(); !errors.Is(err, http.ErrServerClosed) {
		fmt.Println(err)
		return 1
	}
	return 0
}

func get(ctx context.Context, addr string) (string, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+addr, nil)
	if err != nil {
		return "", err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	return string(body), err
}

const twoServices = `
x-all: &all
  restart: always
  build: {args: {SERVICE: demo/cmd/demo}}
  healthcheck: {test: [CMD, /service, healthcheck], interval: 1s}
services:
  back: {<<: *all, deploy: {replicas: 2}, environment: {LISTEN: ":80", GORACE: atexit_sleep_ms=0}}
  front:
    <<: *all
    depends_on: [back]
    environment: {LISTEN: ":80", PEERS: "back:80", GORACE: atexit_sleep_ms=0}
    ports: [{target: 80, published: "${EDGE:-80}", name: shop, app_protocol: http}]
`

// options for a stack of the file whose only binary is this test.
func options(t *testing.T, file string) stack.Options {
	t.Helper()
	root, err := os.MkdirTemp("", "stack") // short: the name of a socket has a limit
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(root) })
	bin := filepath.Join(root, "bin")
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	for _, do := range []error{
		os.WriteFile(filepath.Join(root, "compose.yaml"), []byte(file), 0o600),
		os.MkdirAll(filepath.Join(bin, "demo"), 0o700),
		os.Symlink(self, filepath.Join(bin, "demo", "demo")),
	} {
		if do != nil {
			t.Fatal(do)
		}
	}
	return stack.Options{File: filepath.Join(root, "compose.yaml"), Bin: bin, RandomPorts: true}
}

func start(t *testing.T, opts stack.Options) *stack.Stack {
	t.Helper()
	s, err := stack.Start(t.Context(), opts)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		now, cancel := context.WithCancel(context.Background())
		cancel()
		_ = s.Stop(now)
	})
	if err := s.Wait(t.Context()); err != nil {
		t.Fatal(err)
	}
	return s
}

// mustGet asks an instance for "<instance> <pid> <peers>".
func mustGet(t *testing.T, s *stack.Stack, instance string) []string {
	t.Helper()
	text, err := get(t.Context(), s.Addr(instance, 80))
	if err != nil {
		t.Fatal(err)
	}
	return strings.Split(text, " ")
}

func TestStack(t *testing.T) {
	var mu sync.Mutex
	var order []string
	opts := options(t, twoServices)
	opts.Output = func(l stack.Line) {
		mu.Lock()
		defer mu.Unlock()
		if l.Text == "leaving" {
			order = append(order, l.Instance)
		}
	}
	s := start(t, opts)

	front := mustGet(t, s, "front")
	peers := []string{s.Addr("back-1", 80), s.Addr("back-2", 80)}
	if front[0] != "front-1" || front[2] != strings.Join(peers, ",") {
		t.Errorf("front answers %v, its peers are %v", front, peers)
	}
	if got := s.Addr("unknown", 80) + s.Addr("front", 81); got != "" {
		t.Errorf("addresses of an unknown service and port: %q", got)
	}

	// A killed instance comes back on its address.
	before := mustGet(t, s, "back-2")
	if err := s.Kill("back-2"); err != nil {
		t.Fatal(err)
	}
	waitFor(t, s, "back-2", func(i stack.Instance) bool { return i.Restarts == 1 && i.Phase == "healthy" })
	if after := mustGet(t, s, "back-2"); after[0] != before[0] || after[1] == before[1] {
		t.Errorf("before %v, after %v", before, after)
	}

	if err := s.Stop(t.Context()); err != nil {
		t.Errorf("Stop = %v", err)
	}
	mu.Lock()
	defer mu.Unlock()
	if len(order) != 3 || order[0] != "front-1" {
		t.Errorf("they left in the order %v", order)
	}
	if _, err := stack.Attach(stack.DefaultDir(opts.File)); !errors.Is(err, stack.ErrNotRunning) {
		t.Errorf("Attach after Stop = %v", err)
	}
}

// waitFor polls an instance until it is as wanted.
func waitFor(t *testing.T, s *stack.Stack, name string, ok func(stack.Instance) bool) stack.Instance {
	t.Helper()
	for {
		all := s.Instances()
		i := all[slices.IndexFunc(all, func(i stack.Instance) bool { return i.Name == name })]
		if ok(i) {
			return i
		}
		select {
		case <-t.Context().Done():
			t.Fatalf("%s is %+v", name, i)
		case <-time.After(5 * time.Millisecond):
		}
	}
}

func TestRemote(t *testing.T) {
	opts := options(t, twoServices)
	s := start(t, opts)
	dir := stack.DefaultDir(opts.File)
	if _, err := stack.Start(t.Context(), opts); !errors.Is(err, stack.ErrRunning) {
		t.Errorf("a second stack in the folder: %v", err)
	}
	remote, err := stack.Attach(dir)
	if err != nil {
		t.Fatal(err)
	}
	run, err := remote.Run(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]string{s.Addr("back-1", 80), s.Addr("back-2", 80)}, run.Addrs("back", 80)); diff != "" {
		t.Errorf("addresses (-want +got):\n%s", diff)
	}
	if run.PID != os.Getpid() || len(run.Instances) != 3 || run.Instances[0].Memory < 1<<20 || run.Instances[0].PID == 0 {
		t.Errorf("run = %+v", run)
	}

	if err := remote.Hold(t.Context(), "back-1"); err != nil {
		t.Fatal(err)
	}
	waitFor(t, s, "back-1", func(i stack.Instance) bool { return i.Phase == "held" })
	short, cancel := context.WithTimeout(t.Context(), time.Millisecond)
	defer cancel()
	if err := s.Wait(short); err == nil || !strings.Contains(err.Error(), "back-1 (held") {
		t.Errorf("Wait with one held down = %v", err)
	}
	if err := remote.Kill(t.Context(), "back-1"); err == nil || !strings.Contains(err.Error(), "not running") {
		t.Errorf("killing what is down: %v", err)
	}
	if err := remote.Restart(t.Context(), "back-1"); err != nil {
		t.Fatal(err)
	}
	if err := s.Wait(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := remote.Kill(t.Context(), "back-9"); !errors.Is(err, stack.ErrNoInstance) ||
		!strings.Contains(err.Error(), "back-9") {
		t.Errorf("killing an unknown instance: %v", err)
	}

	down := make(chan error, 1)
	go func() { down <- remote.Down(t.Context()) }()
	<-s.Down()
	if err := s.Stop(t.Context()); err != nil {
		t.Errorf("Stop = %v", err)
	}
	if err := <-down; err != nil {
		t.Errorf("Down = %v", err)
	}
}

func TestLogs(t *testing.T) {
	opts := options(t, twoServices)
	s := start(t, opts)
	lines, err := s.Logs("front-1", 0)
	if err != nil || len(lines) != 1 || lines[0].Text != "listening on "+s.Addr("front", 80) || lines[0].Note {
		t.Errorf("log of front-1: %+v, %v", lines, err)
	}
	dir := stack.DefaultDir(opts.File)
	if lines, err = stack.ReadLogs(dir, 1, "back"); err != nil || len(lines) != 1 ||
		!strings.HasPrefix(lines[0].Instance, "back-") {
		t.Errorf("the last line of back: %+v, %v", lines, err)
	}
	if _, err := stack.ReadLogs(dir, 0, "unknown"); !errors.Is(err, stack.ErrNoInstance) {
		t.Errorf("the log of an unknown instance: %v", err)
	}

	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var texts []string
	followed := make(chan error, 1)
	go func() {
		followed <- stack.FollowLogs(ctx, dir, 0, func(l stack.Line) {
			if texts = append(texts, l.Text); l.Text == "leaving" {
				cancel()
			}
		}, "back-1")
	}()
	if err := s.Restart(t.Context(), "back-1"); err != nil {
		t.Fatal(err)
	}
	if err := <-followed; err != nil || texts[0] != "listening on "+s.Addr("back-1", 80) {
		t.Errorf("followed %q, %v", texts, err)
	}
}

func TestTakenPort(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	taken := l.Addr().(*net.TCPAddr).Port
	opts := options(t, twoServices)
	opts.RandomPorts, opts.Variables = false, []string{"EDGE=" + strconv.Itoa(taken)}
	s := start(t, opts)
	got := s.Published()[0]
	if got.Name != "shop" || got.Wanted != taken || got.Port == taken || got.URL != "http://"+s.Addr("front", 80) {
		t.Errorf("published = %+v", got)
	}
	if !strings.Contains(got.Holder, "(pid "+strconv.Itoa(os.Getpid())+")") {
		t.Errorf("holder = %q, but it is pid %d", got.Holder, os.Getpid())
	}
}

func TestShuffleAndFreshFolders(t *testing.T) {
	opts := options(t, strings.ReplaceAll(twoServices, "restart: always",
		"restart: always\n  tmpfs: [/tmp]\n  volumes: [/keep]"))
	opts.Shuffle = rand.New(rand.NewPCG(1, 2))
	s := start(t, opts)
	volumes := filepath.Join(stack.DefaultDir(opts.File), "volumes", "back-1")
	for _, name := range []string{"tmp", "keep"} {
		if err := os.WriteFile(filepath.Join(volumes, name, "file"), nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.Restart(t.Context(), "back-1"); err != nil {
		t.Fatal(err)
	}
	waitFor(t, s, "back-1", func(i stack.Instance) bool { return i.Phase == "healthy" && i.Restarts == 1 })
	_, tmp := os.Stat(filepath.Join(volumes, "tmp", "file"))
	_, keep := os.Stat(filepath.Join(volumes, "keep", "file"))
	if !errors.Is(tmp, os.ErrNotExist) || keep != nil {
		t.Errorf("after a restart: tmpfs %v, volume %v", tmp, keep)
	}
}

func TestBuild(t *testing.T) {
	opts := options(t, "services: {demo: {build: {args: {SERVICE: demo/cmd/demo}}}, old: {image: x}}")
	opts.Bin = filepath.Join(t.TempDir(), "bin")
	module := filepath.Join(filepath.Dir(opts.File), "services", "demo")
	write := func(name, text string) {
		t.Helper()
		if err := errors.Join(os.MkdirAll(filepath.Dir(filepath.Join(module, name)), 0o700),
			os.WriteFile(filepath.Join(module, name), []byte(text), 0o600)); err != nil {
			t.Fatal(err)
		}
	}
	write("go.mod", "module demo\ngo 1.26\n")
	write("cmd/demo/main.go", "package main\nfunc main() { println(1) }\n")
	var steps []stack.Step
	if err := stack.Build(t.Context(), opts.File, opts.Bin, func(s stack.Step) { steps = append(steps, s) }); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]stack.Step{{"building demo", 0, 1}, {"built demo", 1, 1}}, steps); diff != "" {
		t.Errorf("steps (-want +got):\n%s", diff)
	}
	if _, err := os.Stat(filepath.Join(opts.Bin, "demo", "demo")); err != nil {
		t.Error(err)
	}
	write("cmd/demo/main.go", "package main\nfunc main() { wrong() }\n")
	if err := stack.Build(t.Context(), opts.File, opts.Bin, nil); err == nil ||
		!strings.Contains(err.Error(), "undefined: wrong") {
		t.Errorf("building a mistake: %v", err)
	}
}

func TestBadOptions(t *testing.T) {
	if _, err := stack.Start(t.Context(), stack.Options{}); err == nil ||
		!strings.Contains(err.Error(), "stack.Options.File") {
		t.Errorf("no file: %v", err)
	}
	opts := options(t, "services: {a: {image: x}}")
	if _, err := stack.Start(t.Context(), opts); err == nil || !strings.Contains(err.Error(), "build.args.SERVICE") {
		t.Errorf("an image: %v", err)
	}
	// A start that failed leaves the folder to the next.
	if _, err := stack.Start(t.Context(), opts); errors.Is(err, stack.ErrRunning) {
		t.Error("the folder is still locked")
	}
}
