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

// TestBrowser shows the console to a real Chromium, over the stack as processes: every view, the tour, axe, and a picture of
// each view in artifacts/console. BIJOU_TEST_BROWSER=1 tells all its stories, "screenshots" makes
// only the pictures of the documents, anything else is a pattern of the stories to tell. It needs Node.js 20 and Chromium; CHROMIUM
// says where, if not /usr/bin/chromium.
func TestBrowser(t *testing.T) {
	mode := os.Getenv("BIJOU_TEST_BROWSER")
	if mode == "" {
		t.Skip("set BIJOU_TEST_BROWSER=1: it needs Node.js and Chromium")
	}
	inUI(t, 4*time.Minute, nil, "npm", "ci", "--no-audit", "--no-fund")
	inUI(t, 2*time.Minute, nil, "npm", "run", "check")
	inUI(t, time.Minute, nil, "npm", "run", "build") // the program holds it
	p := startProcesses(t, stack.Options{})
	waitForHome(t, p)
	env := []string{
		"CONSOLE_URL=http://" + p.addr("console", 8080),
		"CONSOLE_ARTEFACTS=" + filepath.Join(root, "artifacts", "console"),
	}
	must(t, p, "services", "kill", "hello-1", "--reason", "what the tour does, the command line does")
	eventually(t, time.Minute, "hello-1 to be back", func(context.Context) error {
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
	inUI(t, 12*time.Minute, env, "node", "--test", "--test-reporter=spec", "--test-name-pattern="+pattern, "test/console.test.mjs")
}

// inUI runs a step of the front end, shows what it writes as it writes it, and ends it with all that it started when its
// time is over.
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
	cmd.WaitDelay = 5 * time.Second // a browser that was left behind holds the pipe
	if err := cmd.Run(); err != nil {
		t.Fatalf("%s %v, within %v: %v (%v)", name, args, limit, err, context.Cause(ctx))
	}
	t.Logf("%s %v: %v", name, args, time.Since(began).Round(time.Second/10))
}

// readOnlyConsole runs a second console, which only shows, beside the stack's own, and returns its address.
func readOnlyConsole(t *testing.T, p processes) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	addr := l.Addr().String()
	l.Close() // nobody else takes it within a moment: the kernel hands out the others first
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
		_ = cmd.Cancel() // it may have ended
		_ = cmd.Wait()
	})
	eventually(t, time.Minute, "the read-only console", func(ctx context.Context) error {
		a, err := get(ctx, "http://"+addr+"/api/state/fleet")
		if err == nil && a.status != 200 {
			err = fmt.Errorf("it answers %d: %s", a.status, a.body)
		}
		return err
	})
	return addr
}
