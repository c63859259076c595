package main

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"
	"os"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"bijou.dev/platform/config"
	"bijou.dev/platform/discovery"
	"bijou.dev/platform/trace"
	"bijou.dev/services/gateway"
	"bijou.dev/services/gateway/routes"

	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
)

// page is a path and the body with which the origin answers.
type page struct {
	path string
	body []byte
}

var (
	small = page{"/films/metropolis", []byte(`{"title":"Metropolis","year":1927,"rating":8.3}`)}
	large = page{"/films/large", bytes.Repeat([]byte("0123456789abcdef"), 100<<10/16)}
)

// runOrigin serves HTTP and answers every request at once.
func runOrigin(ctx context.Context, _ []string, ready func(string)) error {
	return serveHTTP(ctx, ready, http.HandlerFunc(servePage))
}

// servePage answers with the large page at its path, and with the small one at any other.
func servePage(w http.ResponseWriter, r *http.Request) {
	body := small.body
	if r.URL.Path == large.path {
		body = large.body
	}
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Content-Length", strconv.Itoa(len(body)))
	_, _ = w.Write(body) // fails only if the client disconnected
}

// runProxy runs httputil.ReverseProxy to the origin in args, with a transport that keeps connections, and with a pool
// of buffers.
func runProxy(ctx context.Context, args []string, ready func(string)) error {
	origin := &url.URL{Scheme: "http", Host: args[0]}
	return serveHTTP(ctx, ready, &httputil.ReverseProxy{
		Rewrite:    func(r *httputil.ProxyRequest) { r.SetURL(origin); r.SetXForwarded() },
		Transport:  &http.Transport{MaxIdleConns: 512, MaxIdleConnsPerHost: 512, DisableCompression: true},
		BufferPool: &buffers{sync.Pool{New: func() any { return make([]byte, 32<<10) }}},
		ErrorLog:   slog.NewLogLogger(slog.DiscardHandler, slog.LevelError),
	})
}

type buffers struct{ sync.Pool }

// Get implements httputil.BufferPool.
func (b *buffers) Get() []byte { return b.Pool.Get().([]byte) }

// Put implements httputil.BufferPool.
func (b *buffers) Put(buf []byte) { b.Pool.Put(buf) } //nolint:staticcheck // SA6002: the interface wants a slice

func serveHTTP(ctx context.Context, ready func(string), h http.Handler) error {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	s := &http.Server{Handler: h, ReadHeaderTimeout: patience}
	defer context.AfterFunc(ctx, func() { _ = s.Close() })()
	ready(l.Addr().String())
	if err := s.Serve(l); !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return nil
}

// runGateway runs the edge to the origin in args, with routes, circuit, metrics and tracing. The other arguments are
// the receiver of spans, the share of requests that is recorded, which requests are logged, and optionally the address
// of a gRPC server.
func runGateway(ctx context.Context, args []string, ready func(string)) error {
	origin, spans, share, log := args[0], args[1], args[2], args[3]
	endpoints := map[string]string{"http": origin}
	if len(args) > 4 {
		endpoints["grpc"] = args[4]
	}
	lines, err := os.OpenFile(os.DevNull, os.O_WRONLY, 0) // a line of the log costs its system call
	if err != nil {
		return err
	}
	defer lines.Close()
	set := config.Static(map[string]string{"trace.sampling": share, "gateway.accessLog": log})
	conn, err := grpc.NewClient("passthrough:///"+spans, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		return err
	}
	defer conn.Close()
	tracer, err := trace.New(trace.Options{
		Service: "gateway", Instance: "gateway-1", Version: "v1", Environment: "local", Region: "local", Zone: "a",
		Sampling: config.Float(set, "trace.sampling", 1, config.Spec{Doc: "Share of requests to record."}),
		Conn:     func() grpc.ClientConnInterface { return conn }, QueueSize: 1 << 16,
	})
	if err != nil {
		return err
	}
	defer func() { _ = tracer.Shutdown(context.WithoutCancel(ctx)) }() // the last spans may be lost
	var list routes.Routes
	if err := list.Set(`[
		{"name": "api", "match": {"prefix": "/api"}, "to": [{"service": "catalog"}]},
		{"name": "films", "match": {"prefix": "/films", "methods": ["GET"]},
			"to": [{"service": "catalog", "weight": 90}, {"service": "catalog", "version": "v2", "weight": 10}]},
		{"name": "calls", "match": {"prefix": "/grpc.health.v1.Health"},
			"to": [{"service": "catalog", "endpoint": "grpc"}]},
		{"name": "web", "match": {"prefix": "/"}, "to": [{"service": "web"}]}]`); err != nil {
		return err
	}
	instance := func(service string) []discovery.Instance {
		return []discovery.Instance{{
			Service: service, ID: service + "-1", Zone: "a", Version: "v1", Status: discovery.Up,
			Endpoints: endpoints,
		}}
	}
	edge, err := gateway.NewEdge(gateway.EdgeOptions{
		Options: gateway.Options{Routes: list}, Zone: "a", Config: set, Trace: tracer,
		Metrics: prometheus.NewRegistry(),
		Discovery: discovery.NewStatic(map[string][]discovery.Instance{
			"web": instance("web"), "catalog": instance("catalog"),
		}).Directory,
		Log: slog.New(trace.Handler(slog.NewJSONHandler(lines, nil))),
	})
	if err != nil {
		return err
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	defer context.AfterFunc(ctx, func() { _ = edge.Close() })()
	ready(l.Addr().String())
	return edge.Serve(l)
}

// connections is the number of clients, each with one connection.
const connections = 32

func benchGateway(ctx context.Context, r *report) error {
	origin, err := spawn(ctx, "origin")
	if err != nil {
		return err
	}
	defer origin.kill()
	spans, err := spawn(ctx, "decoder")
	if err != nil {
		return err
	}
	defer spans.kill()
	names := []string{
		"direct: the origin itself", "httputil.ReverseProxy, no metrics or traces",
		"gateway, no trace sampled", "gateway, all traces sampled", "gateway, all sampled and logged",
	}
	contenders := []*process{origin}
	for _, args := range [][]string{
		{"proxy", origin.addr},
		{"gateway", origin.addr, spans.addr, "0", "errors"},
		{"gateway", origin.addr, spans.addr, "1", "errors"},
		{"gateway", origin.addr, spans.addr, "1", "all"},
	} {
		p, err := spawn(ctx, args[0], args[1:]...)
		if err != nil {
			return err
		}
		defer p.kill()
		contenders = append(contenders, p)
	}
	cpu, rate := make([][]float64, len(contenders)), make([][]float64, len(contenders))
	for _, p := range contenders { // warm up
		if _, _, err := loadProcess(ctx, p, r.each); err != nil {
			return err
		}
	}
	err = turns(ctx, r.rounds, len(contenders), func(i int) error {
		c, n, err := loadProcess(ctx, contenders[i], 2*r.each)
		cpu[i], rate[i] = append(cpu[i], c), append(rate[i], n)
		return err
	})
	if err != nil {
		return err
	}
	for i, name := range names {
		r.add(name, figure{"us CPU", cpu[i]}, figure{"requests/s", rate[i]})
	}
	return nil
}

// loadProcess sends requests to p for d. It returns the CPU time of p per request in microseconds, and the requests per
// second, which depend on all processes of this machine.
func loadProcess(ctx context.Context, p *process, d time.Duration) (cpu, rate float64, err error) {
	before, err := p.cpu()
	if err != nil {
		return 0, 0, err
	}
	start := time.Now()
	n, err := load(ctx, p.addr, small, start.Add(d))
	if err != nil {
		return 0, 0, fmt.Errorf("sending requests to %s: %w", p.role, err)
	}
	took := time.Since(start)
	after, err := p.cpu()
	return float64((after - before).Nanoseconds()) / 1000 / float64(n), float64(n) / took.Seconds(), err
}

// load gets a page over all connections until end, and returns the number of responses. A wrong response is an error.
func load(ctx context.Context, addr string, p page, end time.Time) (int64, error) {
	return concurrently(ctx, end, connections, func(ctx context.Context) (int64, error) {
		return converse(ctx, addr, p, end)
	})
}

// concurrently calls send n times at once, with a context that ends some time after end, and returns the sum.
func concurrently(ctx context.Context, end time.Time, n int, send func(context.Context) (int64, error)) (int64, error) {
	ctx, cancel := context.WithDeadline(ctx, end.Add(patience))
	defer cancel()
	var sum atomic.Int64
	var wg sync.WaitGroup
	problems := make(chan error, n)
	for range n {
		wg.Go(func() {
			sent, err := send(ctx)
			sum.Add(sent)
			if err != nil {
				problems <- err
			}
		})
	}
	wg.Wait()
	select {
	case err := <-problems:
		return 0, err
	default:
		return sum.Load(), nil
	}
}

// converse sends one request after the other on one connection. It does not use net/http, so that it uses little of the
// CPU time of the machine.
func converse(ctx context.Context, addr string, p page, end time.Time) (n int64, err error) {
	conn, err := new(net.Dialer).DialContext(ctx, "tcp", addr)
	if err != nil {
		return 0, err
	}
	defer conn.Close()
	defer context.AfterFunc(ctx, func() { _ = conn.Close() })()
	request, in, body := p.request(), bufio.NewReader(conn), make([]byte, len(p.body))
	for ; time.Now().Before(end); n++ {
		if _, err := conn.Write(request); err != nil {
			return n, err
		}
		if err := p.read(in, body); err != nil {
			return n, err
		}
	}
	return n, nil
}

// request returns a request for the page, for HTTP/1.1.
func (p page) request() []byte {
	return []byte("GET " + p.path + " HTTP/1.1\r\nHost: cinema.example\r\nUser-Agent: bench\r\nAccept: */*\r\n\r\n")
}

// read reads one response, which must be the page, into body. body has the length of the page.
func (p page) read(in *bufio.Reader, body []byte) error {
	status, err := in.ReadSlice('\n')
	if err != nil {
		return err
	}
	if !bytes.HasPrefix(status, []byte("HTTP/1.1 200 ")) {
		return fmt.Errorf("the response is %q, want 200 and the body of the origin", bytes.TrimSpace(status))
	}
	length := -1
	for {
		h, err := in.ReadSlice('\n')
		if err != nil {
			return err
		}
		if len(h) <= 2 {
			break
		}
		if name, value, ok := bytes.Cut(h, []byte(":")); ok && bytes.EqualFold(name, []byte("Content-Length")) {
			length, _ = strconv.Atoi(string(bytes.TrimSpace(value)))
		}
	}
	if length != len(body) {
		return fmt.Errorf("the response has %d bytes, want %d", length, len(body))
	}
	if _, err := io.ReadFull(in, body); err != nil {
		return err
	}
	if !bytes.Equal(body, p.body) {
		return fmt.Errorf("the response is %.100q, want 200 and the body of the origin", body)
	}
	return nil
}
