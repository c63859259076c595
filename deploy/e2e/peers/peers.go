// Package peers runs other proxies, to measure them beside the edge: HAProxy, nginx, Envoy, Traefik and Caddy.
// `make peers` installs them.
//
// The folder config has their configurations: one service, as the documentation of each says, with the limits and
// protections that it has by default.
package peers

import (
	"bytes"
	"cmp"
	"context"
	"embed"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"text/template"
	"time"

	"bijou.dev/platform/errs"
	"bijou.dev/platform/pace"
)

// Names are the proxies that this package can run.
var Names = []string{"HAProxy", "nginx", "Envoy", "Traefik", "Caddy"}

// peer says how a proxy is started.
type peer struct {
	program string   // a path below Options.Dir, or the name of a program of a Debian package
	version string   // the argument with which it prints its version
	files   []string // templates in the folder config
	args    func(c *configuration) []string
}

var peers = map[string]peer{
	"HAProxy": {"haproxy", "-v", []string{"haproxy.cfg"}, func(c *configuration) []string {
		return []string{"-db", "-f", c.Dir + "/haproxy.cfg"}
	}},
	"nginx": {"nginx", "-v", []string{"nginx.conf"}, func(c *configuration) []string {
		return []string{"-p", c.Dir, "-e", "stderr", "-c", c.Dir + "/nginx.conf"}
	}},
	"Envoy": {"envoy/_bin/envoy", "--version", []string{"envoy.yaml"}, func(c *configuration) []string {
		// without hot restart: all Envoys of a machine that can restart so share memory
		args := []string{"-c", c.Dir + "/envoy.yaml", "--disable-hot-restart", "--log-level", "error"}
		if c.Core != "" {
			args = append(args, "--concurrency", "1")
		}
		return args
	}},
	"Traefik": {
		"bin/traefik", "version",
		[]string{"traefik.yaml", "traefik-routes.yaml"},
		func(c *configuration) []string { return []string{"--configFile=" + c.Dir + "/traefik.yaml"} },
	},
	"Caddy": {"bin/caddy", "version", []string{"Caddyfile"}, func(c *configuration) []string {
		return []string{"run", "--adapter", "caddyfile", "--config", c.Dir + "/Caddyfile"}
	}},
}

//go:embed config
var configs embed.FS

var templates = template.Must(template.New("").Funcs(template.FuncMap{
	"port": func(addr string) (string, error) {
		_, port, err := net.SplitHostPort(addr)
		return port, err
	},
}).ParseFS(configs, "config/*"))

// Options says what a proxy serves, and how.
type Options struct {
	// Dir is the folder to which `make peers` has installed programs. Required.
	Dir string
	// Origins are the addresses of the instances of the service. They serve HTTP/1.1, and / with status 200. Required.
	Origins []string
	// GRPCOrigin is the address of a gRPC server without TLS. Empty: the proxy has no listener for gRPC.
	GRPCOrigin string
	// Core is the CPU to which the proxy is pinned, with one thread that serves. Empty: it is not pinned, and has as
	// many threads as it does by default.
	Core string
	// Connections is how many connections and requests at once the proxy must allow. Zero: its default.
	Connections int
	// Spans is the address of a receiver of spans, OTLP over gRPC without TLS. With it the proxy traces every request,
	// measures it, and logs it as JSON to standard output, which is thrown away. Only for Traefik and Caddy. Empty: none
	// of these.
	Spans string
}

func (o Options) complete(name string) (Options, error) {
	_, known := peers[name]
	switch {
	case !known:
		return o, errs.Errorf(errs.Invalid, "unknown proxy %q; the proxies are %v", name, Names)
	case o.Dir == "" || len(o.Origins) == 0:
		return o, errs.Errorf(errs.Invalid, "starting %s: Dir and Origins must be set", name)
	case o.Connections < 0:
		return o, errs.Errorf(errs.Invalid, "starting %s: Connections must not be negative", name)
	case o.Spans != "" && name != "Traefik" && name != "Caddy":
		return o, errs.Errorf(errs.Invalid, "starting %s: Spans is only for Traefik and Caddy", name)
	}
	return o, nil
}

// Proxy is a running proxy.
type Proxy struct {
	// HTTP and GRPC are its addresses, of HTTP/1.1 and of HTTP/2 without TLS. GRPC is empty without Options.GRPCOrigin.
	HTTP, GRPC string
	// PID is its process. nginx has further processes below it.
	PID int

	dir   string
	stop  context.CancelFunc
	ended chan struct{} // closed when its process has ended
}

// listener is one address of a proxy, with the instances behind it.
type listener struct {
	Name    string // "http" or "grpc"
	Addr    string
	Origins []string
}

// configuration is the data of the templates.
type configuration struct {
	Options
	Dir                 string // of its files; shadows Options.Dir
	HTTP, GRPC, Metrics string
	Listeners           []listener
}

// Find returns the path of a proxy's program. The error is fs.ErrNotExist if it is not installed.
func Find(name, dir string) (string, error) {
	p, known := peers[name]
	if !known {
		return "", errs.Errorf(errs.Invalid, "unknown proxy %q; the proxies are %v", name, Names)
	}
	path := filepath.Join(dir, p.program)
	if !strings.Contains(p.program, "/") {
		path = "/usr/sbin/" + p.program // not in the search path of every user
		if found, err := exec.LookPath(p.program); err == nil {
			path = found
		}
	}
	if _, err := os.Stat(path); err != nil {
		return "", fmt.Errorf("finding %s: %w; run make peers, which installs it", name, err)
	}
	return path, nil
}

var number = regexp.MustCompile(`\d+\.\d+\.\d+`)

// Version returns the version of a proxy, such as 3.7.15.
func Version(ctx context.Context, name, dir string) (string, error) {
	program, err := Find(name, dir)
	if err != nil {
		return "", err
	}
	out, err := exec.CommandContext(ctx, program, peers[name].version).CombinedOutput()
	version := number.Find(out)
	if err != nil || version == nil {
		return "", fmt.Errorf("asking %s for its version: %w: %.300s", name, cmp.Or(err, errors.ErrUnsupported), out)
	}
	return string(version), nil
}

// Start starts a proxy on free ports and waits until it passes requests. It runs until Stop is called or ctx ends. Stop
// must be called in both cases.
func Start(ctx context.Context, name string, o Options) (*Proxy, error) {
	o, err := o.complete(name)
	if err != nil {
		return nil, err
	}
	program, err := Find(name, o.Dir)
	if err != nil {
		return nil, err
	}
	for range 3 { // another process may take a port before the proxy does
		var p *Proxy
		if p, err = start(ctx, name, program, o); err == nil {
			return p, nil
		}
	}
	return nil, fmt.Errorf("starting %s: %w", name, err)
}

func start(ctx context.Context, name, program string, o Options) (_ *Proxy, err error) {
	dir, err := os.MkdirTemp("", "bijou-peer-")
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithCancel(ctx)
	p := &Proxy{dir: dir, stop: cancel, ended: make(chan struct{})}
	defer func() {
		if err != nil {
			p.Stop()
		}
	}()
	c := configuration{Options: o, Dir: dir}
	args, err := c.prepare(name)
	if err != nil {
		close(p.ended)
		return nil, err
	}
	p.HTTP, p.GRPC = c.HTTP, c.GRPC
	if o.Core != "" {
		program, args = "taskset", append([]string{"-c", o.Core, program}, args...)
	}
	problems, err := os.Create(filepath.Join(dir, "problems"))
	if err != nil {
		close(p.ended)
		return nil, err
	}
	defer problems.Close()
	cmd := exec.CommandContext(ctx, program, args...)
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) } // killed, nginx would leave its workers
	cmd.WaitDelay = 2 * time.Second
	cmd.Stderr = problems
	if o.Spans == "" {
		cmd.Stdout = problems // otherwise it is the access log
	}
	if name == "Caddy" {
		cmd.Env = append(cmd.Environ(), "XDG_CONFIG_HOME="+dir, "XDG_DATA_HOME="+dir,
			"OTEL_EXPORTER_OTLP_PROTOCOL=grpc", "OTEL_EXPORTER_OTLP_ENDPOINT=http://"+o.Spans)
	}
	started := make(chan error, 1)
	go func() {
		defer close(p.ended)
		runTied(cmd, started)
	}()
	if err := <-started; err != nil {
		return nil, err
	}
	p.PID = cmd.Process.Pid
	if err := p.wait(ctx); err != nil {
		text, _ := os.ReadFile(problems.Name()) // without it there is less to read
		return nil, fmt.Errorf("%w: %.2000s", err, bytes.TrimSpace(text))
	}
	return p, nil
}

// wait waits until the proxy accepts connections and passes a request to an instance. Traefik accepts connections
// before it has its routes.
func (p *Proxy) wait(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	for {
		err := p.serves(ctx)
		if err == nil {
			return nil
		}
		select {
		case <-p.ended:
			return errors.New("it exited")
		default:
		}
		if !pace.Sleep(ctx, 20*time.Millisecond) {
			return fmt.Errorf("waiting until it passes a request: %w", err)
		}
	}
}

func (p *Proxy) serves(ctx context.Context) error {
	if p.GRPC != "" {
		conn, err := new(net.Dialer).DialContext(ctx, "tcp", p.GRPC)
		if err != nil {
			return err
		}
		_ = conn.Close() // nothing was sent
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+p.HTTP+"/", nil)
	if err != nil {
		return err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return err
	}
	_ = resp.Body.Close() // only its status counts
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("status %d, want 200", resp.StatusCode)
	}
	return nil
}

// Stop ends the proxy and removes its files.
func (p *Proxy) Stop() {
	p.stop()
	<-p.ended
	_ = os.RemoveAll(p.dir) // a temporary folder
}

// prepare chooses free ports and writes the files of a proxy. It returns its arguments.
func (c *configuration) prepare(name string) (args []string, err error) {
	if err := os.Chmod(c.Dir, 0o755); err != nil { // the workers of nginx are another user
		return nil, err
	}
	var free [3]string
	for i := range free {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			return nil, err
		}
		defer l.Close() // all ports are held until the last is found, so that they differ
		free[i] = l.Addr().String()
	}
	c.HTTP, c.Metrics = free[0], free[1]
	c.Listeners = []listener{{"http", c.HTTP, c.Origins}}
	if c.GRPCOrigin != "" {
		c.GRPC = free[2]
		c.Listeners = append(c.Listeners, listener{"grpc", c.GRPC, []string{c.GRPCOrigin}})
	}
	for _, file := range peers[name].files {
		var b bytes.Buffer
		if err := templates.ExecuteTemplate(&b, file, c); err != nil {
			return nil, err
		}
		if err := os.WriteFile(filepath.Join(c.Dir, file), b.Bytes(), 0o644); err != nil {
			return nil, err
		}
	}
	return peers[name].args(c), nil
}

func run(cmd *exec.Cmd, started chan<- error) {
	err := cmd.Start()
	started <- err
	if err == nil {
		_ = cmd.Wait() // returns that it was stopped; what it printed says more
	}
}
