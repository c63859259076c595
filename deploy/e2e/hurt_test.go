package e2e

import (
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"sync"
	"syscall"
	"testing"
	"time"

	"bijou.dev/cmd/bijou/stack"
)

// sufferer is a platform whose instances can be hurt in more ways than death. Not every runner can do everything.
type sufferer interface {
	pause(t testing.TB, instance string)
	resume(t testing.TB, instance string)
}

// wired is a platform that can hurt connections.
type wired interface {
	slow(t testing.TB, instance string, d time.Duration)
	resume(t testing.TB, instance string)
	reset(t testing.TB, instance string)
}

// fragile is a platform whose store is reached through a proxy and, where this machine lets us, is on a small disk.
type fragile struct {
	processes
	store *proxy
	small error // why the disk is not small
}

// startFragile runs the stack with a proxy between config, discovery and their store.
func startFragile(t testing.TB) platform {
	t.Helper()
	o := stack.Options{Dir: t.TempDir()}
	disk := filepath.Join(o.Dir, "volumes", "etcd")
	if err := os.MkdirAll(disk, 0o700); err != nil {
		t.Fatal(err)
	}
	small := syscall.Mount("tmpfs", disk, "tmpfs", 0, "size=200m") // its log takes 64 MiB for each file
	if small == nil {
		t.Cleanup(func() { _ = syscall.Unmount(disk, syscall.MNT_DETACH) })
	}
	store := startProxy(t)
	o.Env = map[string]string{"BIJOU_ETCD_ENDPOINTS": "http://" + store.addr()}
	p := startProcessesBehind(t, o, func(s *stack.Stack) { store.to(s.Addr("etcd-1", 2379)) })
	return fragile{p, store, small}
}

// storeDisk is where the store of compose.yaml keeps its data.
func (p fragile) storeDisk() string { return filepath.Join(p.dir, "volumes", "etcd") }

// slowDisk makes each sync of an instance to disk take so much longer, until the returned function is called.
func (p processes) slowDisk(t testing.TB, instance string, d time.Duration) (undo func()) {
	t.Helper()
	path, err := exec.LookPath("strace")
	if err != nil {
		t.Skip("a slow disk needs strace: ", err)
	}
	for _, i := range p.Instances() {
		if i.Name != instance || i.PID == 0 {
			continue
		}
		cmd := exec.Command(path, "-f", "-qq", "-o", "/dev/null", "-p", strconv.Itoa(i.PID), "-e", "trace=fsync,fdatasync",
			"-e", fmt.Sprintf("inject=fsync,fdatasync:delay_enter=%d", d.Microseconds()))
		if err := cmd.Start(); err != nil {
			t.Skip("a slow disk needs strace: ", err)
		}
		return sync.OnceFunc(func() {
			_ = cmd.Process.Signal(syscall.SIGTERM) // it lets go
			_ = cmd.Wait()
		})
	}
	t.Fatalf("there is no live %s", instance)
	return nil
}

// each does the same to several instances.
func each(t testing.TB, do func(t testing.TB, instance string), instances ...string) {
	t.Helper()
	for _, i := range instances {
		do(t, i)
	}
}

func (p processes) signal(t testing.TB, instance string, sig syscall.Signal) {
	t.Helper()
	for _, i := range p.Instances() {
		if i.Name == instance && i.PID > 0 {
			if err := syscall.Kill(i.PID, sig); err != nil {
				t.Fatalf("signalling %s: %v", instance, err)
			}
			return
		}
	}
	t.Fatalf("there is no live %s", instance)
}

func (p processes) pause(t testing.TB, instance string)  { p.signal(t, instance, syscall.SIGSTOP) }
func (p processes) resume(t testing.TB, instance string) { p.signal(t, instance, syscall.SIGCONT) }

// proxy passes connections on, until it is told not to. It is the network between two processes.
type proxy struct {
	l net.Listener

	mu     sync.Mutex
	target string
	open   map[net.Conn]bool
	delay  time.Duration // of each piece
	still  bool          // nothing passes, nothing is closed
	eased  chan struct{} // closed when delay or still changes
}

func startProxy(t testing.TB) *proxy {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	p := &proxy{l: l, open: map[net.Conn]bool{}, eased: make(chan struct{})}
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

// to says where connections go from now on: to host:port, or to the path of a socket.
func (p *proxy) to(target string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.target = target
}

// set makes each piece of data late, or stops everything without closing anything, as a network does that drops packets.
func (p *proxy) set(delay time.Duration, still bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.delay, p.still = delay, still
	close(p.eased)
	p.eased = make(chan struct{})
}

// reset breaks all connections; new ones are served.
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

// pass waits for as long as the network is slow or still.
func (p *proxy) pass(late bool) {
	for {
		p.mu.Lock()
		delay, still, eased := p.delay, p.still, p.eased
		p.mu.Unlock()
		switch {
		case still:
			<-eased
		case late && delay > 0:
			<-time.After(delay)
			return
		default:
			return
		}
	}
}
