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
	"etcd":      playEtcd,
	"config":    playConfig,
	"discovery": playDiscovery,
	"origin":    playOrigin,
	"proxy":     playProxy,
	"gateway":   playGateway,
	"decoder":   playDecoder,
	"tracing":   playTracing,
}

// process is a child. Its first line is its address. For each line it is sent it answers with the CPU time it has used, in
// nanoseconds. It ends with its input, so none outlives this program.
type process struct {
	role string
	addr string
	cmd  *exec.Cmd
	in   io.WriteCloser
	out  *bufio.Reader
	said *tail
}

// tail keeps the last of what a child wrote about its problems, for an error to quote.
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

// wrap adds it to an error.
func (t *tail) wrap(err error) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	if len(t.text) == 0 {
		return err
	}
	return fmt.Errorf("%w; it said:\n%s", err, bytes.TrimSpace(t.text))
}

// spawn starts a child and waits for its address.
func spawn(ctx context.Context, role string, args ...string) (*process, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, fmt.Errorf("finding this program, to start %s: %w", role, err)
	}
	p := &process{role: role, cmd: exec.CommandContext(ctx, self, append([]string{childArg, role}, args...)...)}
	p.said = new(tail)
	p.cmd.Stderr = p.said
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
		return nil, p.said.wrap(fmt.Errorf("starting %s: it ended before it told its address", role))
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
		return 0, p.said.wrap(fmt.Errorf("asking %s for its CPU time: %w", p.role, err))
	}
	return time.Duration(n), nil
}

// stop ends the child in order and waits for it.
func (p *process) stop() error {
	_ = p.in.Close() // a pipe whose other end is gone has done its work
	if err := p.cmd.Wait(); err != nil {
		return p.said.wrap(fmt.Errorf("stopping %s: %w", p.role, err))
	}
	return nil
}

// kill ends the child at once.
func (p *process) kill() {
	_ = p.cmd.Process.Kill() // its only error is that the child has ended
	_ = p.cmd.Wait()         // which says that it was killed
}

// member is the role of a service of the platform, alone, that listens on loopback. Its address is that of a listener.
func member(ctx context.Context, name, listener string, listen []string, setup service.SetupFunc, ready func(string)) error {
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

// errCut tells that something ended that should have gone on.
var errCut = errors.New("it ended early")
