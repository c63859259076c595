package e2e

import (
	"cmp"
	"context"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"bijou.dev/cmd/bijou/stack"
)

// build fills bin with every program of compose.yaml, once.
var build = sync.OnceValue(func() error {
	return stack.Build(context.Background(), filepath.Join(root, "compose.yaml"), bin, nil)
})

// program builds the command line, once, and returns its path.
func program(t testing.TB) string {
	t.Helper()
	if err := buildCLI(); err != nil {
		t.Fatal(err)
	}
	return filepath.Join(bin, "bijou-cli")
}

var buildCLI = sync.OnceValue(func() error {
	cmd := exec.Command("go", "build", "-o", filepath.Join(bin, "bijou-cli"), ".")
	cmd.Dir = filepath.Join(root, "cmd", "bijou")
	out, err := cmd.CombinedOutput()
	if err != nil {
		return &exec.Error{Name: "go build ./cmd/bijou: " + string(out), Err: err}
	}
	return nil
})

// processes runs compose.yaml as processes.
type processes struct {
	*stack.Stack
	dir string // has the volumes, the logs and run.json
}

// startProcesses runs the stack and waits until every instance is healthy.
func startProcesses(t testing.TB, o stack.Options) processes {
	t.Helper()
	return startProcessesBehind(t, o, nil)
}

// startProcessesBehind is startProcesses. It calls started, if not nil, when the addresses of the instances are known.
func startProcessesBehind(t testing.TB, o stack.Options, started func(*stack.Stack)) processes {
	t.Helper()
	if err := build(); err != nil {
		t.Fatal(err)
	}
	o.File, o.Dir, o.Bin, o.RandomPorts = cmp.Or(o.File, filepath.Join(root, "compose.yaml")), cmp.Or(o.Dir,
		t.TempDir()), bin, true
	s, err := stack.Start(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	if started != nil {
		started(s)
	}
	p := processes{s, o.Dir}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		defer cancel()
		if err := s.Stop(ctx); err != nil {
			t.Errorf("stopping the stack: %v", err)
		}
		if t.Failed() {
			p.dump(t)
		}
	})
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	if err := s.Wait(ctx); err != nil {
		t.Fatalf("waiting for the stack: %v", err)
	}
	return p
}

// dump prints the last warnings and errors of each instance, for a story that failed.
func (p processes) dump(t testing.TB) {
	for _, i := range p.Instances() {
		var notable []string
		lines, _ := p.Logs(i.Name, 400)
		for _, l := range lines {
			if l.Note || strings.Contains(l.Text, `"level":"WARN"`) || strings.Contains(l.Text, `"level":"ERROR"`) {
				notable = append(notable, l.Text)
			}
		}
		t.Logf("%s %s\n  %s", i.Name, i.Phase, strings.Join(notable[max(0, len(notable)-15):], "\n  "))
	}
}

func (p processes) addr(instance string, port int) string { return p.Addr(instance, port) }

func (p processes) hold(t testing.TB, instance string) {
	t.Helper()
	if err := p.Hold(t.Context(), instance); err != nil {
		t.Fatal(err)
	}
}

func (p processes) kill(t testing.TB, instance string) {
	t.Helper()
	if err := p.Kill(instance); err != nil {
		t.Fatal(err)
	}
}

func (p processes) start(t testing.TB, instance string) {
	t.Helper()
	if err := p.Restart(t.Context(), instance); err != nil {
		t.Fatal(err)
	}
}

func (p processes) restart(t testing.TB, instance string) {
	t.Helper()
	if err := p.Restart(t.Context(), instance); err != nil {
		t.Fatal(err)
	}
}

func (p processes) logs(instance string) string {
	lines, err := p.Logs(instance, 200)
	if err != nil {
		return err.Error()
	}
	var b strings.Builder
	for _, l := range lines {
		b.WriteString(l.Text + "\n")
	}
	return b.String()
}

func (p processes) rate() int { return 40 }

func TestProcesses(t *testing.T) {
	p := startProcesses(t, stack.Options{})
	runStories(t, p)
	runShortFaults(t, p, processesOf)
}
