package gateway_test

import (
	"bufio"
	"bytes"
	"context"
	"io"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"

	"bijou.dev/platform/config"
	"bijou.dev/platform/discovery"
	"bijou.dev/platform/memnet"
	"bijou.dev/platform/trace"
	"bijou.dev/services/gateway"

	"github.com/prometheus/client_golang/prometheus"
)

// world is an edge on a network in memory, with origins behind it.
type world struct {
	t       testing.TB
	net     *memnet.Network
	set     *config.StaticSet
	disc    *discovery.Static
	metrics *prometheus.Registry
	log     *lockedBuffer
	edge    *gateway.Edge
	served  chan error

	mu        sync.Mutex
	instances map[string][]discovery.Instance
}

// newWorld starts an edge with routes as JSON and other settings.
func newWorld(t testing.TB, routes string, settings ...string) *world {
	t.Helper()
	return worldWith(t, gateway.EdgeOptions{}, routes, settings...)
}

func worldWith(t testing.TB, opts gateway.EdgeOptions, routes string, settings ...string) *world {
	t.Helper()
	w := &world{
		t: t, net: memnet.New(), disc: discovery.NewStatic(nil), metrics: prometheus.NewRegistry(),
		log:       &lockedBuffer{},
		instances: map[string][]discovery.Instance{}, served: make(chan error, 1),
	}
	values := map[string]string{"gateway.routes": routes}
	for i := 0; i < len(settings); i += 2 {
		values[settings[i]] = settings[i+1]
	}
	w.set = config.Static(values)
	w.start(opts)
	return w
}

func (w *world) start(opts gateway.EdgeOptions) {
	w.t.Helper()
	opts.Config, opts.Discovery, opts.Metrics = w.set, w.disc.Directory, w.metrics
	opts.Seed = 1 // with 1 of some hundred seeds two paths of a test share places
	if opts.DialContext == nil {
		opts.DialContext = w.net.DialContext
	}
	// the same handler as in a process
	opts.Log = slog.New(trace.Handler(slog.NewJSONHandler(w.log, &slog.HandlerOptions{Level: slog.LevelDebug})))
	edge, err := gateway.NewEdge(opts)
	if err != nil {
		w.t.Fatal(err)
	}
	for _, e := range w.set.Entries() {
		if e.Problem != "" {
			w.t.Fatalf("setting %s: %s", e.Name, e.Problem)
		}
	}
	l, err := w.net.Listen("tcp", "edge:80")
	if err != nil {
		w.t.Fatal(err)
	}
	w.edge = edge
	go func() { w.served <- edge.Serve(l) }()
	w.t.Cleanup(func() {
		if err := edge.Close(); err != nil {
			w.t.Error(err)
		}
		if err := <-w.served; err != nil {
			w.t.Error(err)
		}
	})
}

// origin adds an instance of a service that answers with h.
func (w *world) origin(service, id, version string, h http.Handler) *http.Server {
	w.t.Helper()
	return w.originWith(service, id, version, &http.Server{Handler: h})
}

func (w *world) originWith(service, id, version string, srv *http.Server) *http.Server {
	w.t.Helper()
	l, err := w.net.Listen("tcp", id+":80")
	if err != nil {
		w.t.Fatal(err)
	}
	srv.Protocols, srv.ErrorLog = new(http.Protocols), slog.NewLogLogger(slog.DiscardHandler, 0)
	srv.Protocols.SetHTTP1(true)
	srv.Protocols.SetUnencryptedHTTP2(true)
	serve(w.t, l, srv)
	w.register(service, id, version, id+":80")
	return srv
}

// serve runs a server until the test ends or stop is called.
func serve(t testing.TB, l net.Listener, srv *http.Server) (stop func()) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = srv.Serve(l) // ends with Close
	}()
	stop = func() {
		_ = srv.Close() // it is not needed any more
		<-done
	}
	t.Cleanup(stop)
	return stop
}

// newConnection stands in what script returns where a connection begins.
const newConnection = "(connection)"

// script adds an instance that answers each request with text as it is, and returns the bytes of all requests.
func (w *world) script(service, id, text string) *lockedBuffer {
	w.t.Helper()
	l, err := w.net.Listen("tcp", id+":80")
	if err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(func() { l.Close() })
	seen := &lockedBuffer{}
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				_, _ = io.WriteString(seen, newConnection) // never fails
				r := bufio.NewReader(io.TeeReader(c, seen))
				for {
					req, err := http.ReadRequest(r)
					if err != nil {
						return
					}
					_, _ = io.Copy(io.Discard, req.Body) // a body that is cut has no answer
					if _, err := io.WriteString(c, text); err != nil {
						return
					}
				}
			}()
		}
	}()
	w.register(service, id, "", id+":80")
	return seen
}

func (w *world) register(service, id, version, addr string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.instances[service] = append(w.instances[service], discovery.Instance{
		ID: id, Version: version, Endpoints: map[string]string{"http": addr, "grpc": addr},
	})
	w.disc.Put(service, w.instances[service])
}

func (w *world) put(name, value string) {
	w.t.Helper()
	if err := w.set.Put(name, value); err != nil {
		w.t.Fatal(err)
	}
}

// client returns a client of the edge, by HTTP/2 if h2.
func (w *world) client(h2 bool) *http.Client {
	tr := &http.Transport{
		DialContext: func(ctx context.Context, network, _ string) (net.Conn, error) {
			return w.net.DialContext(ctx, network, "edge:80")
		},
		DisableCompression: true, Protocols: new(http.Protocols),
	}
	tr.Protocols.SetHTTP1(!h2)
	tr.Protocols.SetUnencryptedHTTP2(h2)
	w.t.Cleanup(tr.CloseIdleConnections)
	return &http.Client{
		Transport:     tr,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
}

// answer is a response with its body.
type answer struct {
	*http.Response
	body string
}

func (w *world) do(c *http.Client, method, url string, body io.Reader, header ...string) answer {
	w.t.Helper()
	req, err := http.NewRequestWithContext(w.t.Context(), method, url, body)
	if err != nil {
		w.t.Fatal(err)
	}
	for i := 0; i < len(header); i += 2 {
		req.Header.Add(header[i], header[i+1])
	}
	res, err := c.Do(req)
	if err != nil {
		w.t.Fatalf("%s %s: %v", method, url, err)
	}
	defer res.Body.Close()
	text, err := io.ReadAll(res.Body)
	if err != nil {
		w.t.Fatalf("%s %s: %v", method, url, err)
	}
	return answer{res, string(text)}
}

func (w *world) get(url string, header ...string) answer {
	w.t.Helper()
	return w.do(w.client(false), http.MethodGet, url, nil, header...)
}

// dial opens a connection to the edge.
func (w *world) dial() net.Conn {
	w.t.Helper()
	c, err := w.net.DialContext(w.t.Context(), "tcp", "edge:80")
	if err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(func() { c.Close() })
	return c
}

// raw sends bytes on a new connection and returns the statuses of all answers until the edge closes it.
func (w *world) raw(text string) (statuses []int, headers []http.Header) {
	w.t.Helper()
	c := w.dial()
	go func() { _, _ = io.Copy(c, strings.NewReader(text)) }() // the edge may close first
	r := bufio.NewReader(c)
	for {
		res, err := http.ReadResponse(r, nil)
		if err != nil {
			return statuses, headers
		}
		_, _ = io.Copy(io.Discard, res.Body) // it may be cut short
		if res.Close {
			res.Header.Set("Connection", "close") // ReadResponse has removed it
		}
		statuses, headers = append(statuses, res.StatusCode), append(headers, res.Header)
	}
}

func responds(text string) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, text) })
}

func respondsStatus(code int) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(code) })
}

type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (b *lockedBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Write(p)
}

func (b *lockedBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.String()
}

type recorder struct {
	header http.Header
	body   bytes.Buffer
}

func newRecorder() *recorder { return &recorder{header: http.Header{}} }

func (r *recorder) Header() http.Header         { return r.header }
func (r *recorder) Write(p []byte) (int, error) { return r.body.Write(p) }
func (r *recorder) WriteHeader(int)             {}
