package stack

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"io/fs"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"bijou.dev/platform/pace"
)

// Run is the record of a running stack, kept as run.json in its folder.
type Run struct {
	// PID of the program that runs the stack, the compose file, and the folder of the binaries.
	PID     int       `json:"pid"`
	File    string    `json:"file"`
	Bin     string    `json:"bin"`
	Started time.Time `json:"started"`
	// Socket is the unix socket on which the stack takes requests.
	Socket    string      `json:"socket"`
	Published []Published `json:"published"`
	Instances []Instance  `json:"instances"`
}

// Addrs are the addresses of all instances of a service for a port of the compose file.
func (r *Run) Addrs(service string, port int) []string {
	var addrs []string
	for _, i := range r.Instances {
		if addr := i.Ports[port]; i.Service == service && addr != "" {
			addrs = append(addrs, addr)
		}
	}
	return addrs
}

// control is how other programs find and use a stack: its record, and a socket for requests.
type control struct {
	file, socket string
	server       *http.Server

	mu     sync.Mutex // one save at a time
	closed bool
}

// takeFolder locks the folder until this process ends, so that no other stack can use it. Then it kills the processes
// of a stack whose program was killed.
func (s *Stack) takeFolder() error {
	if err := os.MkdirAll(s.opts.Dir, 0o755); err != nil {
		return fmt.Errorf("making %s: %w", s.opts.Dir, err)
	}
	lock, err := os.OpenFile(filepath.Join(s.opts.Dir, "lock"), os.O_CREATE|os.O_RDWR, 0o644)
	if err != nil {
		return fmt.Errorf("locking %s: %w", s.opts.Dir, err)
	}
	if err := syscall.Flock(int(lock.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		_ = lock.Close()
		return fmt.Errorf("%w (%s): `bijou down` ends it", ErrRunning, s.opts.Dir)
	}
	s.lock = lock
	if left, err := readRun(s.opts.Dir); err == nil {
		left.killLeftovers()
	}
	return nil
}

// killLeftovers ends the processes of a stack whose program was killed. On Linux the kernel has done it already.
func (r *Run) killLeftovers() {
	for _, i := range r.Instances {
		// Another program may have got the same process id.
		if i.PID != 0 && r.Bin != "" && strings.HasPrefix(commandOf(i.PID), r.Bin+"/") {
			_ = syscall.Kill(-i.PID, syscall.SIGKILL)
		}
	}
}

// commandOf is the command line of a process, empty if there is none.
func commandOf(pid int) string {
	out, _ := exec.Command("ps", "-o", "args=", "-p", strconv.Itoa(pid)).Output() //nolint:noctx // answers at once
	return strings.TrimSpace(string(out))
}

func (s *Stack) serveControl() (*control, error) {
	c := &control{
		file: filepath.Join(s.opts.Dir, "run.json"), socket: filepath.Join(s.opts.Dir, "bijou.sock"),
	}
	// The name of a socket may have about 100 bytes.
	if len(c.socket) > 100 {
		c.socket = filepath.Join(os.TempDir(), fmt.Sprintf("bijou-%08x.sock", crc32.ChecksumIEEE([]byte(s.opts.Dir))))
	}
	if err := os.Remove(c.socket); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("removing an old socket: %w", err)
	}
	l, err := net.Listen("unix", c.socket) //nolint:noctx // binding does not wait
	if err != nil {
		return nil, fmt.Errorf("listening on the socket %s: %w", c.socket, err)
	}
	c.server = &http.Server{Handler: s.orders(), ReadHeaderTimeout: 5 * time.Second}
	go func() { _ = c.server.Serve(l) }() // ends when close closes the listener
	return c, nil
}

// orders is the interface of the socket: GET /run, POST /down, POST /instances/{name}/{kill,hold,restart}.
func (s *Stack) orders() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /run", func(w http.ResponseWriter, _ *http.Request) {
		run := s.record()
		measureMemory(run.Instances)
		_ = json.NewEncoder(w).Encode(run)
	})
	mux.HandleFunc("POST /down", func(http.ResponseWriter, *http.Request) {
		s.downOnce.Do(func() { close(s.down) })
	})
	mux.HandleFunc("POST /instances/{name}/{order}", func(w http.ResponseWriter, r *http.Request) {
		if err := s.obey(r.Context(), r.PathValue("name"), r.PathValue("order")); err != nil {
			status := http.StatusConflict
			if errors.Is(err, ErrNoInstance) {
				status = http.StatusNotFound
			}
			http.Error(w, err.Error(), status)
		}
	})
	return mux
}

func (s *Stack) obey(ctx context.Context, instance, order string) error {
	switch order {
	case "kill":
		return s.Kill(instance)
	case "hold":
		return s.Hold(ctx, instance)
	case "restart":
		return s.Restart(ctx, instance)
	default:
		return fmt.Errorf("no order %q", order)
	}
}

func (s *Stack) record() Run {
	return Run{
		PID: os.Getpid(), File: s.opts.File, Bin: s.opts.Bin, Started: s.started, Socket: s.control.socket,
		Published: s.published, Instances: s.instances(),
	}
}

// save writes the record. It ignores errors, because the stack works without the record.
func (c *control) save(s *Stack) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return
	}
	data, err := json.MarshalIndent(s.record(), "", "  ")
	if err != nil {
		return
	}
	if os.WriteFile(c.file+".new", data, 0o644) == nil {
		_ = os.Rename(c.file+".new", c.file)
	}
}

func (c *control) close() {
	if c == nil {
		return
	}
	_ = c.server.Close()
	c.mu.Lock()
	defer c.mu.Unlock()
	c.closed = true
	_, _ = os.Remove(c.file), os.Remove(c.socket)
}

func readRun(dir string) (*Run, error) {
	data, err := os.ReadFile(filepath.Join(dir, "run.json"))
	if err != nil {
		return nil, err
	}
	var run Run
	if err := json.Unmarshal(data, &run); err != nil {
		return nil, fmt.Errorf("reading run.json: %w", err)
	}
	return &run, nil
}

// Remote sends requests to a stack that another program runs.
type Remote struct {
	client *http.Client
	dir    string
}

// ErrNotRunning means that no stack runs in a folder.
var ErrNotRunning = errors.New("no stack is running here: start it with `bijou up`")

// Attach finds the stack that runs in a folder, or returns [ErrNotRunning].
func Attach(dir string) (*Remote, error) {
	run, err := readRun(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("%w (%s)", ErrNotRunning, dir)
	} else if err != nil {
		return nil, err
	}
	dial := func(ctx context.Context, _, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "unix", run.Socket)
	}
	return &Remote{dir: dir, client: &http.Client{Transport: &http.Transport{DialContext: dial}}}, nil
}

// Run returns the present record of the stack, with the memory of each instance.
func (r *Remote) Run(ctx context.Context) (*Run, error) {
	var run Run
	return &run, r.do(ctx, http.MethodGet, "/run", &run)
}

// Kill is [Stack.Kill].
func (r *Remote) Kill(ctx context.Context, instance string) error {
	return r.order(ctx, instance, "kill")
}

// Hold is [Stack.Hold].
func (r *Remote) Hold(ctx context.Context, instance string) error {
	return r.order(ctx, instance, "hold")
}

// Restart is [Stack.Restart].
func (r *Remote) Restart(ctx context.Context, instance string) error {
	return r.order(ctx, instance, "restart")
}

// Down asks for the end of the stack and waits for it: until its record is removed, or until it does not answer, which
// is how a program looks that was killed while it stopped the stack.
func (r *Remote) Down(ctx context.Context) error {
	if err := r.do(ctx, http.MethodPost, "/down", nil); err != nil {
		return err
	}
	for {
		if _, err := readRun(r.dir); errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if _, err := r.Run(ctx); errors.Is(err, ErrNotRunning) {
			return nil
		}
		if !pace.Sleep(ctx, 50*time.Millisecond) {
			return fmt.Errorf("waiting for the stack to end: %w", context.Cause(ctx))
		}
	}
}

func (r *Remote) order(ctx context.Context, instance, order string) error {
	err := r.do(ctx, http.MethodPost, "/instances/"+url.PathEscape(instance)+"/"+order, nil)
	if errors.Is(err, ErrNoInstance) {
		return fmt.Errorf("%w: %q", err, instance)
	}
	return err
}

func (r *Remote) do(ctx context.Context, method, path string, answer any) error {
	req, err := http.NewRequestWithContext(ctx, method, "http://stack"+path, nil)
	if err != nil {
		return fmt.Errorf("asking the stack: %w", err)
	}
	resp, err := r.client.Do(req)
	if errors.Is(err, syscall.ECONNREFUSED) || errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("%w (%s)", ErrNotRunning, r.dir)
	} else if err != nil {
		return fmt.Errorf("asking the stack: %w", err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	switch {
	case err != nil:
		return fmt.Errorf("asking the stack: %w", err)
	case resp.StatusCode == http.StatusNotFound:
		return ErrNoInstance
	case resp.StatusCode != http.StatusOK:
		return errors.New(strings.TrimSpace(string(body)))
	case answer != nil:
		return json.Unmarshal(body, answer)
	}
	return nil
}
