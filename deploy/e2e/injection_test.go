package e2e

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"bijou.dev/cmd/bijou/stack"
	"bijou.dev/platform/pace"
)

// pauser is a platform that can pause instances: they keep their connections and do nothing. Not every runner can.
type pauser interface {
	pause(t testing.TB, instance string)
	resume(t testing.TB, instance string)
}

// netInjector is a platform that can delay and reset the connections of an instance.
type netInjector interface {
	slow(t testing.TB, instance string, d time.Duration)
	resume(t testing.TB, instance string)
	reset(t testing.TB, instance string)
}

// proxied is a platform whose etcd is reached through a proxy. Where this process may mount file systems, etcd and
// tracing have small disks.
type proxied struct {
	processes
	store *proxy
	small error // nil: the disks are small; else why they are not
}

// startProxied runs the stack with a proxy between etcd and its clients, config and discovery.
func startProxied(t testing.TB) platform {
	t.Helper()
	o := stack.Options{Dir: t.TempDir()}
	var small error
	for _, volume := range []string{"etcd", "tracing"} {
		small = errors.Join(small, smallDisk(t, filepath.Join(o.Dir, "volumes", volume)))
	}
	store := startProxy(t)
	o.Env = map[string]string{"BIJOU_ETCD_ENDPOINTS": "http://" + store.addr()}
	p := startProcessesBehind(t, o, func(s *stack.Stack) { store.to(s.Addr("etcd-1", 2379)) })
	return proxied{p, store, small}
}

// smallDisks is the mount source of our small disks. The number is the process that mounted it, so that disks of
// earlier runs that were killed can be found and unmounted.
const smallDisks = "bijou-e2e-%d"

// smallDisk mounts a small file system at dir until the test ends.
func smallDisk(t testing.TB, dir string) error {
	t.Helper()
	if err := os.MkdirAll(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	mounts, _ := os.ReadFile("/proc/self/mounts")
	for line := range strings.Lines(string(mounts)) {
		owner, left := 0, strings.Fields(line)
		if n, _ := fmt.Sscanf(left[0], smallDisks, &owner); n == 1 && syscall.Kill(owner, 0) == syscall.ESRCH {
			_ = syscall.Unmount(left[1], syscall.MNT_DETACH)
		}
	}
	// Each log file of etcd takes 64 MB.
	if err := syscall.Mount(fmt.Sprintf(smallDisks, os.Getpid()), dir, "tmpfs", 0, "size=200m"); err != nil {
		return err
	}
	t.Cleanup(func() { _ = syscall.Unmount(dir, syscall.MNT_DETACH) })
	return nil
}

// volume returns the folder of a volume of compose.yaml.
func (p processes) volume(name string) string { return filepath.Join(p.dir, "volumes", name) }

// fill takes all the space of a small disk, and again all that is freed meanwhile, until the returned function is
// called.
func (p proxied) fill(t testing.TB, volume string) (undo func()) {
	t.Helper()
	if p.small != nil {
		t.Skip("this needs a small disk, which cannot be mounted: ", p.small)
	}
	file, err := os.Create(filepath.Join(p.volume(volume), "filler"))
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(context.Background())
	full := make(chan struct{})
	first := sync.OnceFunc(func() { close(full) })
	var filling sync.WaitGroup
	filling.Go(func() {
		for ctx.Err() == nil {
			for piece := make([]byte, 1<<20); len(piece) > 0; piece = piece[:len(piece)/2] {
				for err := error(nil); err == nil; {
					_, err = file.Write(piece)
				}
			}
			first()
			pace.Sleep(ctx, 10*time.Millisecond)
		}
	})
	<-full
	undo = sync.OnceFunc(func() {
		stop()
		filling.Wait()
		if err := errors.Join(file.Close(), os.Remove(file.Name())); err != nil {
			t.Error(err)
		}
	})
	t.Cleanup(undo)
	return undo
}

// injectSync applies an injection of strace, such as "error=EIO", to all syncs of an instance to disk until undo is
// called or the instance ends. strace logs the calls with their times to the file seen.
func (p processes) injectSync(t testing.TB, instance, what string) (seen string, undo func()) {
	t.Helper()
	path, err := exec.LookPath("strace")
	if err != nil {
		t.Skip("this needs strace: ", err)
	}
	seen = filepath.Join(t.TempDir(), "seen")
	cmd := exec.Command(path, "-f", "-q", "-ttt", "-o", seen, "-p", strconv.Itoa(p.instance(t, instance).PID),
		"-e", "trace=fsync,fdatasync", "-e", "inject=fsync,fdatasync:"+what)
	if err := cmd.Start(); err != nil {
		t.Skip("this needs strace: ", err)
	}
	undo = sync.OnceFunc(func() {
		_ = cmd.Process.Signal(syscall.SIGTERM) // strace detaches; fails only if it has ended
		_ = cmd.Wait()
	})
	t.Cleanup(undo)
	return seen, undo
}

// lossy drops a share of the packets from and to an address of this machine until the returned function is called. A
// shell adds the rules and removes them when its input ends, so that they are removed also when this process is killed.
func lossy(t testing.TB, addr string, share float64) (undo func()) {
	t.Helper()
	_, port, err := net.SplitHostPort(addr)
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("sh", "-c", `
		rule() {
			iptables -w "$1" INPUT -i lo -p tcp "$2" "$port" -m statistic --mode random --probability "$share" -j DROP
		}
		rule -I --dport && rule -I --sport && echo on && read -r _
		rule -D --dport; rule -D --sport`)
	cmd.Env = append(os.Environ(), "port="+port, fmt.Sprint("share=", share))
	var problems bytes.Buffer
	cmd.Stderr = &problems
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Skip("dropping packets needs a shell and iptables: ", err)
	}
	undo = sync.OnceFunc(func() {
		_ = in.Close()
		_ = cmd.Wait() // its exit code is that of removing a rule that may not have been added
	})
	t.Cleanup(undo)
	if on, _ := io.ReadAll(io.LimitReader(out, 3)); string(on) != "on\n" {
		undo()
		t.Skip("dropping packets needs iptables and the right to use it: ", problems.String())
	}
	return undo
}

// each calls do for each of some instances, in order.
func each(t testing.TB, do func(t testing.TB, instance string), instances ...string) {
	t.Helper()
	for _, i := range instances {
		do(t, i)
	}
}

// instance returns a running process of the stack.
func (p processes) instance(t testing.TB, name string) stack.Instance {
	t.Helper()
	for _, i := range p.Instances() {
		if i.Name == name && i.PID > 0 {
			return i
		}
	}
	t.Fatalf("no instance %s is running", name)
	return stack.Instance{}
}

func (p processes) signal(t testing.TB, instance string, sig syscall.Signal) {
	t.Helper()
	if err := syscall.Kill(p.instance(t, instance).PID, sig); err != nil {
		t.Fatalf("signalling %s: %v", instance, err)
	}
}

func (p processes) pause(t testing.TB, instance string)  { p.signal(t, instance, syscall.SIGSTOP) }
func (p processes) resume(t testing.TB, instance string) { p.signal(t, instance, syscall.SIGCONT) }

// proxy forwards connections to a target. It can delay, hold back and reset them, as a network between two processes.
type proxy struct {
	l net.Listener

	mu      sync.Mutex
	target  string
	open    map[net.Conn]bool
	delay   time.Duration // of each piece
	still   bool          // no data is forwarded, no connection is closed
	changed chan struct{} // closed when delay or still changes
}

func startProxy(t testing.TB) *proxy {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	p := &proxy{l: l, open: map[net.Conn]bool{}, changed: make(chan struct{})}
	var all sync.WaitGroup
	all.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			all.Go(func() { p.serve(c) })
		}
	})
	t.Cleanup(func() { l.Close(); p.set(0, false); p.reset(); all.Wait() })
	return p
}

func (p *proxy) addr() string { return p.l.Addr().String() }

// to sets the target of new connections: host:port, or the path of a Unix socket.
func (p *proxy) to(target string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.target = target
}

// set delays each piece of data, or with still holds back all data without closing connections, as a network does that
// drops all packets.
func (p *proxy) set(delay time.Duration, still bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.delay, p.still = delay, still
	close(p.changed)
	p.changed = make(chan struct{})
}

// reset resets all open connections. New ones are accepted.
func (p *proxy) reset() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for c := range p.open {
		reset(c)
	}
	clear(p.open)
}

func (p *proxy) serve(c net.Conn) {
	p.mu.Lock()
	target := p.target
	p.open[c] = true
	p.mu.Unlock()
	defer p.drop(c)
	p.pass(false)
	network := "tcp"
	if filepath.IsAbs(target) {
		network = "unix"
	}
	d, err := net.DialTimeout(network, target, time.Second)
	if err != nil {
		return
	}
	p.mu.Lock()
	p.open[d] = true
	p.mu.Unlock()
	defer p.drop(d)
	var both sync.WaitGroup
	for _, way := range [2][2]net.Conn{{c, d}, {d, c}} {
		both.Go(func() {
			defer p.drop(c)
			defer p.drop(d)
			buf := make([]byte, 32<<10)
			for {
				n, err := way[0].Read(buf)
				if err != nil {
					return
				}
				p.pass(true)
				if _, err := way[1].Write(buf[:n]); err != nil {
					return
				}
			}
		})
	}
	both.Wait()
}

func (p *proxy) drop(c net.Conn) {
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.open, c)
	c.Close()
}

// pass waits until the next piece of data may be forwarded.
func (p *proxy) pass(late bool) {
	for {
		p.mu.Lock()
		delay, still, changed := p.delay, p.still, p.changed
		p.mu.Unlock()
		switch {
		case still:
			<-changed
		case late && delay > 0:
			<-time.After(delay)
			return
		default:
			return
		}
	}
}
