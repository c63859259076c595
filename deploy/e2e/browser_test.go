package e2e

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"bijou.dev/cmd/bijou/stack"
)

// TestBrowser opens the console in Chromium, with the stack as processes: every view, the tour, the accessibility
// checks of axe, and a screenshot of each view in artifacts/console. BIJOU_TEST_BROWSER=1 runs all its tests,
// "screenshots" makes only the screenshots of the documents, any other value is a pattern of the tests to run. It needs
// Node.js 20 and Chromium. CHROMIUM is the path of Chromium; the default is /usr/bin/chromium.
func TestBrowser(t *testing.T) {
	mode := os.Getenv("BIJOU_TEST_BROWSER")
	if mode == "" {
		t.Skip("set BIJOU_TEST_BROWSER=1: it needs Node.js and Chromium")
	}
	inUI(t, 4*time.Minute, nil, "npm", "ci", "--no-audit", "--no-fund")
	inUI(t, 2*time.Minute, nil, "npm", "run", "check")
	inUI(t, time.Minute, nil, "npm", "run", "build") // the console embeds the pages
	p := startProcesses(t, stack.Options{})
	waitForHome(t, p)
	env := []string{
		"CONSOLE_URL=http://" + p.addr("console", 8080),
		"CONSOLE_ARTEFACTS=" + filepath.Join(root, "artifacts", "console"),
	}
	must(t, p, "services", "kill", "hello-1", "--reason", "the tour kills this instance")
	eventually(t, time.Minute, "hello-1 to be up again", func(context.Context) error {
		if code, out := bijou(t, p, "services", "show", "hello-1"); code != 0 || !strings.Contains(out, "UP") {
			return errors.New(out)
		}
		return nil
	})
	pattern := mode
	switch mode {
	case "1":
		pattern = "."
	case "screenshots":
		pattern, env = "^view (map|circuits|trace|try):", append(env, "CONSOLE_DOCS=1")
	}
	if mode != "screenshots" {
		env = append(env, "CONSOLE_READONLY_URL=http://"+readOnlyConsole(t, p))
	}
	inUI(t, 12*time.Minute, env, "node", "--test", "--test-reporter=spec", "--test-name-pattern="+pattern,
		"test/console.test.mjs")
}

// inUI runs a command in the folder of the console's pages and copies its output to the test's. After limit it kills
// the command and the processes that it started.
func inUI(t *testing.T, limit time.Duration, env []string, name string, args ...string) {
	t.Helper()
	began := time.Now()
	ctx, cancel := context.WithTimeout(t.Context(), limit)
	defer cancel()
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Dir = filepath.Join(root, "services", "console", "ui")
	cmd.Env = append(os.Environ(), env...)
	cmd.Stdout, cmd.Stderr = t.Output(), t.Output()
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	cmd.WaitDelay = 5 * time.Second // a browser process that is left keeps the pipe open
	if err := cmd.Run(); err != nil {
		t.Fatalf("%s %v, within %v: %v (%v)", name, args, limit, err, context.Cause(ctx))
	}
	t.Logf("%s %v: %v", name, args, time.Since(began).Round(time.Second/10))
}

// readOnlyConsole runs a second console, with -read-only, beside that of the stack, and returns its address.
func readOnlyConsole(t *testing.T, p processes) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	addr := l.Addr().String()
	l.Close() // it stays free for a moment: the kernel gives out other ports first
	cmd := exec.CommandContext(t.Context(), filepath.Join(bin, "console", "console"), "-read-only")
	cmd.Env = []string{
		"BIJOU_DISCOVERY=" + p.addr("discovery", 7000), "BIJOU_INSTANCE=console-look",
		"BIJOU_LISTEN=grpc=127.0.0.1:0,admin=127.0.0.1:0,http=" + addr,
	}
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
	cmd.WaitDelay = 10 * time.Second
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Cancel() // fails only if the process has ended
		_ = cmd.Wait()
	})
	eventually(t, time.Minute, "the read-only console", func(ctx context.Context) error {
		a, err := get(ctx, "http://"+addr+"/api/state/fleet")
		if err == nil && a.status != 200 {
			err = fmt.Errorf("GET /api/state/fleet: status %d, want 200: %s", a.status, a.body)
		}
		return err
	})
	return addr
}
