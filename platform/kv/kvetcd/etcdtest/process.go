package etcdtest

import (
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"go.etcd.io/etcd/server/v3/embed"
)

// childDir is the environment variable that makes a copy of the test's program run etcd. Its value is the folder.
const childDir = "BIJOU_ETCDTEST_DIR"

// Process is an etcd in a process of its own, which syncs its data to disk as in production, and which can be killed.
type Process struct {
	t     testing.TB
	dir   string
	cmd   *exec.Cmd      // nil while it does not run
	alive io.WriteCloser // the child ends when this is closed
}

// StartProcess runs an empty etcd until the test ends, as a copy of the test's own program. The test must call [Child]
// first. etcd may not serve yet when StartProcess returns.
func StartProcess(t testing.TB) *Process {
	t.Helper()
	dir, err := os.MkdirTemp("", "etcd") // t.TempDir is too long for the path of a socket
	if err != nil {
		t.Fatal(err)
	}
	p := &Process{t: t, dir: dir}
	t.Cleanup(func() {
		p.Kill()
		_ = os.RemoveAll(dir)
	})
	p.Restart()
	return p
}

// Child returns at once in a test. In the copy of the test's program that StartProcess makes it runs etcd and does not
// return: it ends when it is killed or when the test ends.
func Child() {
	dir := os.Getenv(childDir)
	if dir == "" {
		return
	}
	cfg := config(dir)
	cfg.UnsafeNoFsync = false
	if _, err := embed.StartEtcd(cfg); err != nil {
		fmt.Fprintln(os.Stderr, "etcdtest:", err)
		os.Exit(1)
	}
	_, _ = io.Copy(io.Discard, os.Stdin) // ends with the test's process
	os.Exit(0)
}

// Endpoints returns the addresses for clients. They stay the same over Kill and Restart.
func (p *Process) Endpoints() []string { return []string{"unix://" + socket(p.dir)} }

// Kill ends etcd by SIGKILL and waits until it has ended.
func (p *Process) Kill() {
	p.t.Helper()
	if p.cmd == nil {
		return
	}
	if err := p.cmd.Process.Kill(); err != nil {
		p.t.Errorf("killing etcd: %v", err)
	}
	_ = p.cmd.Wait() // it was killed
	_ = p.alive.Close()
	p.cmd = nil
	_ = os.Remove(socket(p.dir)) // a killed process leaves it
	_ = os.Remove(filepath.Join(p.dir, "peer.sock"))
}

// Restart starts etcd on its data. It does not wait until it serves.
func (p *Process) Restart() {
	p.t.Helper()
	p.Kill()
	cmd := exec.Command(os.Args[0], "-test.run=^"+p.t.Name()+"$")
	cmd.Env = append(os.Environ(), childDir+"="+p.dir)
	cmd.Stderr = os.Stderr
	alive, err := cmd.StdinPipe()
	if err != nil {
		p.t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		p.t.Fatalf("starting etcd: %v", err)
	}
	p.cmd, p.alive = cmd, alive
}
