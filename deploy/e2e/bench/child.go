package main

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"sync"
	"time"

	"bijou.dev/platform/service"
)

// childArg is the first argument of a child.
const childArg = "child"

// role is what a child does until ctx ends. It calls ready with its address once it serves there.
type role func(ctx context.Context, args []string, ready func(addr string)) error

var roles = map[string]role{
	"etcd":      runEtcd,
	"config":    runConfig,
	"discovery": runDiscovery,
	"origin":    runOrigin,
	"proxy":     runProxy,
	"gateway":   runGateway,
	"decoder":   runDecoder,
	"tracing":   runTracing,
	"site":      runSite,
	"load":      runLoad,
	"idle":      runIdle,
}

// process is a child process. The first line of its output is its address. For each line that it reads it writes the
// CPU time that it has used, in nanoseconds. It exits when its input ends, so no child outlives this program.
type process struct {
	role   string
	addr   string
	cmd    *exec.Cmd
	in     io.WriteCloser
	out    *bufio.Reader
	stderr *tail
}

// tail keeps the end of what a child wrote to standard error, for the text of errors.
type tail struct {
	mu   sync.Mutex
	text []byte
}

// Write implements io.Writer.
func (t *tail) Write(b []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.text = append(t.text, b...)
	t.text = t.text[max(0, len(t.text)-2000):]
	return len(b), nil
}

// wrap adds the text to an error.
func (t *tail) wrap(err error) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	if len(t.text) == 0 {
		return err
	}
	return fmt.Errorf("%w; its standard error:\n%s", err, bytes.TrimSpace(t.text))
}

// spawn starts a child and waits for its address.
func spawn(ctx context.Context, role string, args ...string) (*process, error) {
	return spawnOn(ctx, "", role, args...)
}

// spawnOn is spawn with the child pinned to a CPU, unless core is empty.
func spawnOn(ctx context.Context, core, role string, args ...string) (*process, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, fmt.Errorf("finding this program, to start %s: %w", role, err)
	}
	command := append([]string{self, childArg, role}, args...)
	if core != "" {
		command = append([]string{"taskset", "-c", core}, command...)
	}
	p := &process{role: role, cmd: exec.CommandContext(ctx, command[0], command[1:]...)}
	p.stderr = new(tail)
	p.cmd.Stderr = p.stderr
	if p.in, err = p.cmd.StdinPipe(); err != nil {
		return nil, fmt.Errorf("starting %s: %w", role, err)
	}
	out, err := p.cmd.StdoutPipe()
	if err != nil {
		return nil, fmt.Errorf("starting %s: %w", role, err)
	}
	p.out = bufio.NewReader(out)
	if err := p.cmd.Start(); err != nil {
		return nil, fmt.Errorf("starting %s: %w", role, err)
	}
	if p.addr, err = p.out.ReadString('\n'); err != nil {
		p.kill()
		return nil, p.stderr.wrap(fmt.Errorf("starting %s: it exited before it printed its address", role))
	}
	p.addr = strings.TrimSpace(p.addr)
	return p, nil
}

// cpu returns the CPU time that the child has used.
func (p *process) cpu() (time.Duration, error) {
	_, err := io.WriteString(p.in, "\n")
	var n int64
	if err == nil {
		_, err = fmt.Fscanln(p.out, &n)
	}
	if err != nil {
		return 0, p.stderr.wrap(fmt.Errorf("asking %s for its CPU time: %w", p.role, err))
	}
	return time.Duration(n), nil
}

// stop ends the input of the child, so that it stops gracefully, and waits for it.
func (p *process) stop() error {
	_ = p.in.Close() // fails only if the child has exited
	if err := p.cmd.Wait(); err != nil {
		return p.stderr.wrap(fmt.Errorf("stopping %s: %w", p.role, err))
	}
	return nil
}

// kill kills the child and waits for it.
func (p *process) kill() {
	_ = p.cmd.Process.Kill() // fails only if the child has exited
	_ = p.cmd.Wait()         // returns that it was killed
}

// member is the role of one service of the platform, without the others, that listens on loopback. Its address is that
// of listener.
func member(ctx context.Context, name, listener string, listen []string, setup service.SetupFunc,
	ready func(string),
) error {
	addrs := map[string]string{"admin": "127.0.0.1:0"}
	for _, l := range append(listen, listener) {
		addrs[l] = "127.0.0.1:0"
	}
	p, err := service.New(ctx, service.Options{Name: name, Listen: addrs, Drain: time.Second}, setup)
	if err != nil {
		return err
	}
	ready(p.Addr(listener))
	return p.Run(ctx)
}

// errCut means that a child process ended before it was stopped.
var errCut = errors.New("the server ended too early")
