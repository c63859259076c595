package proc_test

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"bijou.dev/cmd/bijou/internal/proc"
	"github.com/google/go-cmp/cmp"
)

// TestMain lets the test binary be the child, too.
func TestMain(m *testing.M) {
	if os.Getenv("CHILD") == "" {
		os.Exit(m.Run())
	}
	os.Exit(child(os.Args[1:]))
}

func child(args []string) int {
	switch args[0] {
	case "serve": // until SIGTERM
		terminated := make(chan os.Signal, 1)
		signal.Notify(terminated, syscall.SIGTERM) //nolint:forbidigo // this is the child's main
		fmt.Println("serving")
		<-terminated
		fmt.Fprintln(os.Stderr, "leaving")
		return 0
	case "stubborn":
		signal.Ignore(syscall.SIGTERM)
		fmt.Println("serving")
		<-time.After(time.Hour)
	case "exit":
		code, _ := strconv.Atoi(args[1])
		return code
	case "exists": // a health check
		if _, err := os.Stat(args[1]); err != nil {
			fmt.Println("not there yet\nmore")
			return 1
		}
		return 0
	}
	return 99
}

// run starts a child, whose states come through the channel, and stops it when the test ends.
func run(t *testing.T, spec proc.Spec) (*proc.Process, *states, *output) {
	t.Helper()
	st, out := &states{t: t, all: make(chan proc.State, 1000)}, &output{}
	spec.Name, spec.Path, spec.Env, spec.Output = "child", os.Args[0], []string{"CHILD=1", "GORACE=atexit_sleep_ms=0"}, out
	spec.Changed = func(s proc.State) { st.all <- s }
	p := proc.Start(spec)
	t.Cleanup(func() {
		now, cancel := context.WithCancel(context.Background())
		cancel()
		_ = p.Stop(now)
	})
	return p, st, out
}

type states struct {
	t   *testing.T
	all chan proc.State
}

// await returns the next state in a phase.
func (s *states) await(phase proc.Phase) proc.State {
	s.t.Helper()
	for {
		select {
		case state := <-s.all:
			if state.Phase == phase {
				return state
			}
		case <-s.t.Context().Done():
			s.t.Fatalf("never %s", phase)
		case <-time.After(time.Minute):
			s.t.Fatalf("not %s within a minute", phase)
		}
	}
}

type output struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (o *output) Write(b []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.buf.Write(b)
}

func (o *output) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.buf.String()
}

// serving waits until the child has said so n times: only then does it handle signals.
func (o *output) serving(t *testing.T, n int) {
	t.Helper()
	for strings.Count(o.String(), "serving") < n {
		select {
		case <-t.Context().Done():
			t.Fatal("the child never served")
		case <-time.After(time.Millisecond):
		}
	}
}

func TestStopWithinGrace(t *testing.T) {
	p, st, out := run(t, proc.Spec{Args: []string{"serve"}, RestartAlways: true})
	st.await(proc.Healthy)
	out.serving(t, 1)
	if err := p.Stop(t.Context()); err != nil {
		t.Errorf("Stop = %v", err)
	}
	st.await(proc.Stopped)
	if want := "serving\nleaving\n"; out.String() != want {
		t.Errorf("output %q, want %q", out, want)
	}
	if err := p.Kill(); err == nil || !strings.Contains(err.Error(), "not running (stopped)") {
		t.Errorf("Kill after the end = %v", err)
	}
	if err := p.Restart(t.Context()); err == nil {
		t.Error("Restart after the end succeeds")
	}
}

func TestStubbornChildIsKilled(t *testing.T) {
	p, _, out := run(t, proc.Spec{Args: []string{"stubborn"}, Grace: 50 * time.Millisecond})
	out.serving(t, 1)
	if err := p.Stop(t.Context()); err == nil || !strings.Contains(err.Error(), "killed after its grace period of 50ms") {
		t.Errorf("Stop = %v", err)
	}
}

func TestStopNow(t *testing.T) {
	p, _, out := run(t, proc.Spec{Args: []string{"stubborn"}, Grace: time.Hour})
	out.serving(t, 1)
	ctx, cancel := context.WithCancelCause(t.Context())
	cancel(fmt.Errorf("second Ctrl-C"))
	if err := p.Stop(ctx); err == nil || !strings.Contains(err.Error(), "second Ctrl-C") {
		t.Errorf("Stop = %v", err)
	}
}

func TestKilledChildComesBack(t *testing.T) {
	p, st, out := run(t, proc.Spec{Args: []string{"serve"}, RestartAlways: true})
	first := st.await(proc.Healthy)
	out.serving(t, 1)
	if err := p.Kill(); err != nil {
		t.Fatal(err)
	}
	if down := st.await(proc.Restarting); down.Problem != "signal: killed" || down.PID != 0 {
		t.Errorf("while down: %+v", down)
	}
	second := st.await(proc.Healthy)
	if second.PID == first.PID || second.Restarts != 1 {
		t.Errorf("first %+v, second %+v", first, second)
	}
}

func TestRestartPolicies(t *testing.T) {
	for _, test := range []struct {
		name     string
		spec     proc.Spec
		restarts int
		problem  string
	}{
		{"never", proc.Spec{Args: []string{"exit", "3"}}, 0, "exit status 3"},
		{"on failure, well", proc.Spec{Args: []string{"exit", "0"}, RestartOnFailure: true}, 0, "exit status 0"},
		{
			"on failure, twice",
			proc.Spec{Args: []string{"exit", "3"}, RestartOnFailure: true, RestartMax: 2},
			2,
			"exit status 3",
		},
		{"always, twice", proc.Spec{Args: []string{"exit", "0"}, RestartAlways: true, RestartMax: 2}, 2, "exit status 0"},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			p, st, _ := run(t, test.spec)
			got := st.await(proc.Exited)
			<-p.Done()
			if got.Restarts != test.restarts || got.Problem != test.problem {
				t.Errorf("%d restarts, %q; want %d, %q", got.Restarts, got.Problem, test.restarts, test.problem)
			}
		})
	}
}

func TestBackoffGrows(t *testing.T) {
	var starts []time.Time
	spec := proc.Spec{Args: []string{"exit", "1"}, RestartAlways: true, RestartMax: 3}
	spec.Prepare = func() error {
		starts = append(starts, time.Now())
		return nil
	}
	p, _, _ := run(t, spec)
	<-p.Done()
	// The pauses are 100, 200 and 400 ms, each give or take a half; the child itself takes a moment, too.
	for i, least := range []int64{50, 100, 200} {
		if got := starts[i+1].Sub(starts[i]).Milliseconds(); got < least {
			t.Errorf("pause %d is %d ms, want at least %d", i, got, least)
		}
	}
}

func TestHold(t *testing.T) {
	p, st, out := run(t, proc.Spec{Args: []string{"serve"}, RestartAlways: true})
	out.serving(t, 1)
	if err := p.Hold(t.Context()); err != nil {
		t.Fatal(err)
	}
	st.await(proc.Held)
	if err := p.Restart(t.Context()); err != nil {
		t.Fatal(err)
	}
	if got := st.await(proc.Healthy); got.PID == 0 {
		t.Errorf("after Restart: %+v", got)
	}
	out.serving(t, 2)
}

func TestHeldChildCanBeStopped(t *testing.T) {
	p, st, out := run(t, proc.Spec{Args: []string{"serve"}})
	out.serving(t, 1)
	if err := p.Hold(t.Context()); err != nil {
		t.Fatal(err)
	}
	st.await(proc.Held)
	if err := p.Stop(t.Context()); err != nil {
		t.Error(err)
	}
	st.await(proc.Stopped)
}

func TestRestartIsOrderly(t *testing.T) {
	p, st, out := run(t, proc.Spec{Args: []string{"serve"}}) // also without a restart policy
	st.await(proc.Healthy)
	out.serving(t, 1)
	if err := p.Restart(t.Context()); err != nil {
		t.Fatal(err)
	}
	st.await(proc.Stopping)
	st.await(proc.Healthy)
	out.serving(t, 2)
	if want := "serving\nleaving\nserving\n"; out.String() != want {
		t.Errorf("output %q, want %q", out, want)
	}
}

// Otherwise Stop, and with it `bijou down`, would wait for a child that was started again.
func TestAProcessThatIsBeingStoppedCannotBeRestartedOrHeld(t *testing.T) {
	p, st, out := run(t, proc.Spec{Args: []string{"stubborn"}, Grace: time.Hour})
	out.serving(t, 1)
	ctx, cancel := context.WithCancel(t.Context())
	stopped := make(chan error, 1)
	go func() { stopped <- p.Stop(ctx) }()
	st.await(proc.Stopping)
	now, already := context.WithCancel(t.Context())
	already()
	for what, err := range map[string]error{"restarting": p.Restart(now), "holding": p.Hold(now)} {
		if err == nil || err.Error() != what+" child: it is being stopped" {
			t.Errorf("%s = %v, want that it is being stopped", what, err)
		}
	}
	cancel()
	if err := <-stopped; err == nil {
		t.Error("Stop does not say that the child was killed")
	}
	for what, err := range map[string]error{"restarting": p.Restart(now), "holding": p.Hold(now)} {
		if err == nil || err.Error() != what+" child: it has ended for good" {
			t.Errorf("%s after the end = %v, want that it has ended for good", what, err)
		}
	}
}

func TestHealth(t *testing.T) {
	file := filepath.Join(t.TempDir(), "well")
	_, st, _ := run(t, proc.Spec{Args: []string{"serve"}, Health: &proc.Health{
		Args: []string{"exists", file}, Interval: 20 * time.Millisecond, Retries: 2, Gate: make(chan struct{}, 1),
	}})
	if got := st.await(proc.Starting); got.PID == 0 {
		t.Errorf("first state: %+v", got)
	}
	if got := st.await(proc.Unhealthy); got.Problem != "health check: not there yet" {
		t.Errorf("problem = %q", got.Problem)
	}
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if got := st.await(proc.Healthy); got.Problem != "" {
		t.Errorf("problem when healthy = %q", got.Problem)
	}
	if err := os.Remove(file); err != nil {
		t.Fatal(err)
	}
	st.await(proc.Unhealthy)
}

func TestStartPeriodForgives(t *testing.T) {
	file := filepath.Join(t.TempDir(), "well")
	p, st, out := run(t, proc.Spec{Args: []string{"serve"}, Health: &proc.Health{
		Args: []string{"exists", file}, Interval: time.Millisecond, Retries: 1, StartPeriod: time.Hour,
	}})
	for st.await(proc.Starting).Problem == "" { // until a check has failed
	}
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	st.await(proc.Healthy)
	out.serving(t, 1)
	if err := p.Stop(t.Context()); err != nil {
		t.Error(err)
	}
}

func TestMissingProgram(t *testing.T) {
	problems := make(chan proc.State, 10)
	p := proc.Start(proc.Spec{Name: "none", Path: "/no/such/program", Changed: func(s proc.State) { problems <- s }})
	<-p.Done()
	if got := <-problems; got.Phase != proc.Exited || !strings.Contains(got.Problem, "no such file") {
		t.Errorf("state = %+v", got)
	}
}

func TestLines(t *testing.T) {
	var got []string
	lines := proc.Lines{Line: func(b []byte) { got = append(got, string(b)) }}
	for _, part := range []string{"a", "b\nc\r\n\n", "d", strings.Repeat("x", 70000), "\nend"} {
		if n, err := lines.Write([]byte(part)); n != len(part) || err != nil {
			t.Fatalf("Write = %d, %v", n, err)
		}
	}
	lines.Flush()
	if diff := cmp.Diff([]string{"ab", "c", "d" + strings.Repeat("x", 70000), "end"}, got); diff != "" {
		t.Errorf("lines (-want +got):\n%.300s", diff)
	}
}
