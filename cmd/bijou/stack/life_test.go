package stack_test

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"bijou.dev/cmd/bijou/internal/compose"
	"bijou.dev/cmd/bijou/stack"
	"github.com/google/go-cmp/cmp"
)

// oneService is a compose file with the service "one", whose program is this test. more are further lines of it.
func oneService(environment string, more ...string) string {
	file := "services:\n  one:\n    build: {args: {SERVICE: demo/cmd/demo}}\n" +
		"    environment: {LISTEN: ':80', GORACE: atexit_sleep_ms=0" + environment + "}\n"
	for _, line := range more {
		file += "    " + line + "\n"
	}
	return file
}

// begin starts a stack without waiting until its instances are healthy.
func begin(t *testing.T, opts stack.Options) *stack.Stack {
	t.Helper()
	s, err := stack.Start(t.Context(), opts)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Stop(ended()) })
	return s
}

// ended returns a context that has ended: Stop then kills at once.
func ended() context.Context {
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	return ctx
}

func TestAProcessThatEndsAtStartIsNamedWithItsExitCode(t *testing.T) {
	for name, test := range map[string]struct {
		restart  string
		restarts int
	}{
		"no restart policy":   {`restart: "no"`, 0},
		"on-failure, 2 times": {"restart: on-failure:2", 2},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := begin(t, options(t, oneService(", EXIT: '3'", test.restart)))
			got := waitFor(t, s, "one-1", func(i stack.Instance) bool { return i.Phase == "exited" })
			if got.Restarts != test.restarts || got.Problem != "exit status 3" || got.PID != 0 || got.IsGood() {
				t.Errorf("the instance is %+v, want %d restarts and exit status 3", got, test.restarts)
			}
			if err := s.Wait(ended()); err == nil || !strings.Contains(err.Error(), "one-1 (exited, exit status 3)") {
				t.Errorf("Wait = %v, want the instance with its exit code", err)
			}
			lines, err := s.Logs("one-1", 1)
			if err != nil || len(lines) != 1 || lines[0].Text != "ended (exit status 3)" || !lines[0].Note {
				t.Errorf("the last line of its log is %+v (%v), want a note with the exit code", lines, err)
			}
			if err := s.Restart(t.Context(), "one-1"); err == nil || !strings.Contains(err.Error(), "it has ended for good") {
				t.Errorf("Restart = %v, want that it has ended for good", err)
			}
		})
	}
}

func TestAProcessThatEndsWithSuccessNeedNotBeHealthy(t *testing.T) {
	s := begin(t, options(t, oneService(", EXIT: '0'", `restart: "no"`)))
	got := waitFor(t, s, "one-1", func(i stack.Instance) bool { return i.Phase == "exited" })
	if !got.IsGood() || got.Problem != "exit status 0" {
		t.Errorf("the instance is %+v, want that it is good", got)
	}
	if err := s.Wait(t.Context()); err != nil {
		t.Errorf("Wait = %v, want that nothing is missing", err)
	}
}

func TestAProcessThatAlwaysFailsIsStartedAgain(t *testing.T) {
	var mu sync.Mutex
	var notes []string
	opts := options(t, oneService(", EXIT: '1'", "restart: always"))
	opts.Output = func(l stack.Line) {
		mu.Lock()
		defer mu.Unlock()
		if l.Note {
			notes = append(notes, l.Text)
		}
	}
	s := begin(t, opts)
	waitFor(t, s, "one-1", func(i stack.Instance) bool { return i.Restarts == 2 })
	if err := s.Stop(t.Context()); err != nil {
		t.Errorf("Stop = %v", err)
	}
	mu.Lock()
	defer mu.Unlock()
	if len(notes) < 2 || notes[0] != "ended (exit status 1), restarting" {
		t.Errorf("the notes are %q, want one for each end", notes)
	}
}

func TestAFailingHealthCheckSaysWhy(t *testing.T) {
	s := begin(t, options(t, oneService("", "healthcheck: {test: [CMD, /service, sick], interval: 10ms, retries: 2}")))
	got := waitFor(t, s, "one-1", func(i stack.Instance) bool { return i.Phase == "unhealthy" })
	if got.Problem != "health check: the store is away" || got.PID == 0 {
		t.Errorf("the instance is %+v, want that it runs and what its check printed", got)
	}
	if err := s.Wait(ended()); err == nil ||
		!strings.Contains(err.Error(), "waiting for one-1 (unhealthy, health check: the store is away)") {
		t.Errorf("Wait = %v, want what the check printed", err)
	}
}

func TestAProgramThatIsMissingIsNamed(t *testing.T) {
	opts := options(t, oneService("", `restart: "no"`))
	if err := os.Remove(filepath.Join(opts.Bin, "demo", "demo")); err != nil {
		t.Fatal(err)
	}
	s := begin(t, opts)
	got := waitFor(t, s, "one-1", func(i stack.Instance) bool { return i.Phase == "exited" })
	if !strings.Contains(got.Problem, "demo/demo: no such file or directory") {
		t.Errorf("the problem is %q, want the path of the program", got.Problem)
	}
}

func TestAProcessThatIgnoresTheSignalIsKilledAfterItsGracePeriod(t *testing.T) {
	file := oneService(", HANG: '1'", "stop_grace_period: 50ms", "depends_on: [two]") +
		"  two:\n    build: {args: {SERVICE: demo/cmd/demo}}\n" +
		"    environment: {LISTEN: ':80', GORACE: atexit_sleep_ms=0}\n"
	opts := options(t, file)
	s := start(t, opts)
	for _, instance := range []string{"one-1", "two-1"} {
		awaitLine(t, opts, instance, "listening on")
	}
	err := s.Stop(t.Context())
	if err == nil || err.Error() != "stopping one-1: killed after its grace period of 50ms" {
		t.Errorf("Stop = %v, want that one-1 had to be killed, and nothing of two-1", err)
	}
	for _, i := range s.Instances() {
		if i.Phase != "stopped" || i.PID != 0 {
			t.Errorf("after Stop %s is %s with pid %d", i.Name, i.Phase, i.PID)
		}
	}
	if _, err := stack.Attach(stack.DefaultDir(opts.File)); !errors.Is(err, stack.ErrNotRunning) {
		t.Errorf("Attach after Stop = %v, want ErrNotRunning", err)
	}
}

// awaitLine waits until an instance has written a line that starts with text.
func awaitLine(t *testing.T, opts stack.Options, instance, text string) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	err := stack.FollowLogs(ctx, stack.DefaultDir(opts.File), 0, func(l stack.Line) {
		if l.Instance == instance && strings.HasPrefix(l.Text, text) {
			cancel()
		}
	})
	if err != nil {
		t.Fatal(err)
	}
}

func TestTheSecondSignalKillsAtOnce(t *testing.T) {
	opts := options(t, oneService(", HANG: '1'", "stop_grace_period: 1h"))
	s := start(t, opts)
	awaitLine(t, opts, "one-1", "listening on")
	if err := s.Stop(ended()); err == nil || !strings.Contains(err.Error(), "stopping one-1: killed: context canceled") {
		t.Errorf("Stop = %v, want that one-1 was killed", err)
	}
}

func TestAProcessGetsOnlyTheEnvironmentOfItsService(t *testing.T) {
	opts := options(t, oneService(", FROM_FILE: '${FROM_SHELL}'"))
	opts.Variables = []string{"PATH=/bin", "HOME=/home/ann", "FROM_SHELL=x", "SECRET=y"}
	opts.Env = map[string]string{"EXTRA": "z"}
	s := start(t, opts)
	awaitLine(t, opts, "one-1", "listening on")
	text, err := get(t.Context(), s.Addr("one", 80)+"/environ")
	if err != nil {
		t.Fatal(err)
	}
	want := []string{
		"BIJOU_ADVERTISE=127.0.0.1", "BIJOU_INSTANCE=one-1", "EXTRA=z", "FROM_FILE=x", "GORACE=atexit_sleep_ms=0",
		"HOME=/home/ann", "LISTEN=" + s.Addr("one", 80), "PATH=/bin",
	}
	if diff := cmp.Diff(want, slices.Sorted(slices.Values(strings.Split(text, "\n")))); diff != "" {
		t.Errorf("the environment of the process (-want +got):\n%s", diff)
	}
}

func TestABrokenComposeFileStartsNothing(t *testing.T) {
	for name, test := range map[string]struct{ file, want string }{
		"not YAML":           {"services: [", "compose.yaml"},
		"unknown key":        {"services: {a: {imagee: x}}", "imagee"},
		"no services":        {"services: {}", "no services to run"},
		"missing variable":   {"services: {a: {image: '${IMAGE:?set IMAGE to a name}'}}", "set IMAGE to a name"},
		"circle":             {"services: {a: {image: x, depends_on: [b]}, b: {image: x, depends_on: [a]}}", "cycle"},
		"unknown dependency": {"services: {a: {image: x, depends_on: [b]}}", `"b"`},
		"an image":           {"services: {a: {image: x}}", "service a: no build.args.SERVICE"},
		"address of nothing": {
			oneService(", PEER: 'one:81'"), "service one: PEER refers to one:81, but one listens only on [80]",
		},
		"port out of range": {oneService("", "ports: ['70000:80']"), "70000"},
		"missing env_file":  {oneService("", "env_file: [none.env]"), "none.env"},
	} {
		t.Run(name, func(t *testing.T) {
			opts := options(t, test.file)
			for range 2 { // the second time it finds the folder free
				s, err := stack.Start(t.Context(), opts)
				if err == nil {
					t.Fatalf("it starts %+v, want an error", s.Instances())
				}
				if !strings.Contains(err.Error(), test.want) || errors.Is(err, stack.ErrRunning) {
					t.Errorf("Start = %v, want %q in it", err, test.want)
				}
			}
			if _, err := stack.Attach(stack.DefaultDir(opts.File)); !errors.Is(err, stack.ErrNotRunning) {
				t.Errorf("Attach = %v, want ErrNotRunning", err)
			}
		})
	}
}

func TestAFolderWithALongNameTakesOrders(t *testing.T) {
	opts := options(t, oneService(""))
	opts.Dir = filepath.Join(filepath.Dir(opts.File), strings.Repeat("long-", 40))
	s := start(t, opts)
	remote, err := stack.Attach(opts.Dir)
	if err != nil {
		t.Fatal(err)
	}
	run, err := remote.Run(t.Context())
	if err != nil || len(run.Instances) != 1 || run.File != opts.File {
		t.Errorf("Run = %+v, %v", run, err)
	}
	if err := s.Stop(t.Context()); err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(run.Socket); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("after Stop the socket %s is still there (%v)", run.Socket, err)
	}
}

func TestBuildSaysWhatIsMissing(t *testing.T) {
	opts := options(t, "services: {one: {build: {args: {SERVICE: demo/cmd/demo}}}}")
	opts.Bin = ""
	_, err := stack.Start(t.Context(), opts)
	if err == nil || !strings.Contains(err.Error(), "building demo/cmd/demo: ") ||
		!strings.Contains(err.Error(), "services/demo") {
		t.Errorf("without the folder services/demo: %v, want that it names the folder", err)
	}
	if err := os.MkdirAll(filepath.Join(filepath.Dir(opts.File), "services", "demo"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := stack.Build(ended(), opts.File, t.TempDir(), nil); !errors.Is(err, context.Canceled) {
		t.Errorf("a build that is interrupted: %v, want context.Canceled", err)
	}
	t.Setenv("PATH", t.TempDir())
	if _, err := stack.Start(t.Context(), opts); err == nil ||
		!strings.Contains(err.Error(), "building services: install Go from https://go.dev/dl first") {
		t.Errorf("without a go command: %v, want that Go is to be installed", err)
	}
	if err := stack.Build(t.Context(), filepath.Join(t.TempDir(), compose.FileName), t.TempDir(), nil); err == nil ||
		!strings.Contains(err.Error(), "there is no such file") {
		t.Errorf("without a compose file: %v", err)
	}
}
