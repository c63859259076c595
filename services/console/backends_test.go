package console_test

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"strings"
	"sync"
	"testing"
	"testing/fstest"
	"time"

	circuitsv1 "bijou.dev/platform/api/circuits/v1"
	configv1 "bijou.dev/platform/api/config/v1"
	discoveryv1 "bijou.dev/platform/api/discovery/v1"
	"bijou.dev/platform/discovery"
	"bijou.dev/platform/errs"
	"bijou.dev/platform/memnet"
	"bijou.dev/platform/pace"
	"bijou.dev/platform/service"
	"bijou.dev/services/console"

	"google.golang.org/grpc"
)

// world is a network in memory with a console, and with the backends that a test starts. Processes, connections and
// admin pages are real; the backends answer what the test sets. deploy/e2e has the console with the real services.
type world struct {
	net         *memnet.Network
	log         *logBuffer
	known       *discovery.Static // what the discovery client of the console knows
	stopConsole func()
	backends
}

// backends has what the backends answer. Change it by set.
type backends struct {
	mu        sync.Mutex
	list      *discoveryv1.ListResponse
	listed    int // calls of List
	late      int // how many calls of List get no answer
	status    *configv1.StatusResponse
	statusErr error
	history   *configv1.HistoryResponse
	histories int // calls of History
	publish   func(*configv1.PublishRequest) (*configv1.PublishResponse, error)
	rollbacks []*configv1.RollbackRequest
	store     error // what the check "store" of config says
	overrides []*discoveryv1.SetOverrideRequest
	forced    []*circuitsv1.ForceRequest
	board     *circuitsv1.WatchResponse // nil: a watch sends nothing
	ended     bool                      // a watch ends at once
}

// set changes what the backends answer.
func (b *backends) set(change func()) {
	b.mu.Lock()
	defer b.mu.Unlock()
	change()
}

// locked reads what the backends have received.
func locked[V any](b *backends, read func() V) V {
	b.mu.Lock()
	defer b.mu.Unlock()
	return read()
}

type (
	registryServer struct {
		discoveryv1.UnimplementedDiscoveryServer
		*backends
	}
	configServer struct {
		configv1.UnimplementedConfigServer
		*backends
	}
	circuitsServer struct {
		circuitsv1.UnimplementedCircuitsServer
		*backends
	}
)

func (b registryServer) List(ctx context.Context, _ *discoveryv1.ListRequest) (*discoveryv1.ListResponse, error) {
	b.mu.Lock()
	b.listed++
	b.late--
	list, late := b.list, b.late >= 0
	b.mu.Unlock()
	if late {
		<-ctx.Done()
		return nil, ctx.Err()
	}
	return list, nil
}

func (b registryServer) SetOverride(
	_ context.Context, q *discoveryv1.SetOverrideRequest,
) (*discoveryv1.SetOverrideResponse, error) {
	b.set(func() { b.overrides = append(b.overrides, q) })
	return &discoveryv1.SetOverrideResponse{}, nil
}

func (b configServer) Status(context.Context, *configv1.StatusRequest) (*configv1.StatusResponse, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.status, b.statusErr
}

func (b configServer) History(context.Context, *configv1.HistoryRequest) (*configv1.HistoryResponse, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.histories++
	return b.history, nil
}

func (b configServer) Publish(_ context.Context, q *configv1.PublishRequest) (*configv1.PublishResponse, error) {
	return locked(b.backends, func() func(*configv1.PublishRequest) (*configv1.PublishResponse, error) {
		return b.publish
	})(q)
}

func (b configServer) Rollback(_ context.Context, q *configv1.RollbackRequest) (*configv1.PublishResponse, error) {
	b.set(func() { b.rollbacks = append(b.rollbacks, q) })
	return &configv1.PublishResponse{Revision: 9}, nil
}

func (b circuitsServer) Force(_ context.Context, q *circuitsv1.ForceRequest) (*circuitsv1.ForceResponse, error) {
	b.set(func() { b.forced = append(b.forced, q) })
	return &circuitsv1.ForceResponse{}, nil
}

// Watch sends the board each second, unless it is nil, and ends when ended is set.
func (b circuitsServer) Watch(
	_ *circuitsv1.WatchRequest, s grpc.ServerStreamingServer[circuitsv1.WatchResponse],
) error {
	for s.Context().Err() == nil {
		b.mu.Lock()
		board, ended := b.board, b.ended
		b.mu.Unlock()
		if ended {
			return nil
		}
		if board != nil {
			if err := s.Send(board); err != nil {
				return err
			}
		}
		pace.Sleep(s.Context(), time.Second)
	}
	return s.Context().Err()
}

// logBuffer is a log that may be read while it is written.
type logBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *logBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *logBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

// frontEnd replaces the build of ui, which may be missing here.
var frontEnd = fstest.MapFS{
	"dist/index.html": {Data: []byte(`<!doctype html><script type="module" src="/app.js"></script>`)},
	"dist/app.js":     {Data: []byte(`document.title = "Bijou"`)},
}

// newWorld starts a console without backends.
func newWorld(t *testing.T, o console.Options) *world {
	t.Helper()
	w := &world{net: memnet.New(), log: &logBuffer{}, known: discovery.NewStatic(nil)}
	w.list, w.status, w.history = &discoveryv1.ListResponse{}, &configv1.StatusResponse{}, &configv1.HistoryResponse{}
	if o.Files == nil {
		o.Files = frontEnd
	}
	w.stopConsole = w.start(t, service.Options{
		Name: "console", Known: w.known, Log: slog.New(slog.NewTextHandler(w.log, nil)),
		Listen: map[string]string{"grpc": "console:7000", "admin": "console:9090", "http": "console:8080"},
	}, func(ctx context.Context, setup *service.Setup) error { return console.New(ctx, setup, o) })
	return w
}

// start runs a process. It stops with the test, or before by stop.
func (w *world) start(t *testing.T, o service.Options, setup service.SetupFunc) (stop func()) {
	t.Helper()
	o.Instance, o.Drain = o.Name+"-1", time.Second
	o.Net = service.Net{Listen: w.net.Listen, DialContext: w.net.DialContext}
	p, err := service.New(t.Context(), o, setup)
	if err != nil {
		t.Fatalf("starting %s: %v", o.Name, err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() {
		defer close(done)
		if err := p.Run(ctx); err != nil {
			t.Errorf("running %s: %v", o.Name, err)
		}
	}()
	stop = func() {
		cancel()
		<-done
	}
	t.Cleanup(stop)
	return stop
}

// run starts the instance NAME-1 of a service, and makes it known to the console's discovery client.
func (w *world) run(
	t *testing.T, name string, listen map[string]string, crash func(), setup service.SetupFunc,
) (stop func()) {
	t.Helper()
	endpoints := map[string]string{"grpc": name + ":7000", "admin": name + ":9090"}
	for listener, addr := range listen {
		endpoints[listener] = addr
	}
	stop = w.start(t, service.Options{Name: name, Listen: endpoints, Crash: crash}, setup)
	w.known.Put(name, []discovery.Instance{{
		ID: name + "-1", Zone: "a", Version: "1", Status: discovery.Up, Endpoints: endpoints,
	}})
	return stop
}

// register adds an instance to the list of the registry.
func (w *world) register(service, id string, endpoints map[string]string) {
	w.set(func() {
		w.list = &discoveryv1.ListResponse{Instances: append(w.list.Instances, &discoveryv1.Instance{
			Service: service, Id: id, Zone: "a", Version: "1", Endpoints: endpoints,
			Status: discoveryv1.Status_STATUS_UP, Reported: discoveryv1.Status_STATUS_UP,
		})}
	})
}

// runCatalog starts a service of the product that the registry does not list. With a nil crash it may not be killed.
func (w *world) runCatalog(t *testing.T, crash func()) (stop func()) {
	t.Helper()
	return w.run(t, "catalog", nil, crash, func(context.Context, *service.Setup) error { return nil })
}

func (w *world) runRegistry(t *testing.T) (stop func()) {
	t.Helper()
	return w.run(t, "discovery", nil, nil, func(_ context.Context, s *service.Setup) error {
		discoveryv1.RegisterDiscoveryServer(s.GRPC(), registryServer{backends: &w.backends})
		return nil
	})
}

func (w *world) runConfig(t *testing.T) (stop func()) {
	t.Helper()
	return w.run(t, "config", nil, nil, func(_ context.Context, s *service.Setup) error {
		configv1.RegisterConfigServer(s.GRPC(), configServer{backends: &w.backends})
		s.Note("store", func() error { return locked(&w.backends, func() error { return w.store }) })
		return nil
	})
}

func (w *world) runCircuits(t *testing.T) (stop func()) {
	t.Helper()
	return w.run(t, "circuits", nil, nil, func(_ context.Context, s *service.Setup) error {
		circuitsv1.RegisterCircuitsServer(s.GRPC(), circuitsServer{backends: &w.backends})
		return nil
	})
}

// newPlatform starts a console with a registry that lists itself, a config and a circuits service.
func newPlatform(t *testing.T) *world {
	t.Helper()
	w := newWorld(t, console.Options{})
	w.runRegistry(t)
	w.runConfig(t)
	w.runCircuits(t)
	for _, name := range []string{"discovery", "config", "circuits"} {
		w.register(name, name+"-1", map[string]string{"grpc": name + ":7000", "admin": name + ":9090"})
	}
	return w
}

// runGateway starts a gateway that the registry lists. routes returns its admin page /routes; serve answers requests.
func (w *world) runGateway(t *testing.T, name string, routes func() string, serve http.HandlerFunc) (stop func()) {
	t.Helper()
	listen := map[string]string{"http": name + ":8080"}
	stop = w.run(t, name, listen, nil, func(_ context.Context, s *service.Setup) error {
		s.Admin().HandleFunc("GET /routes", func(rw http.ResponseWriter, _ *http.Request) {
			_, _ = io.WriteString(rw, routes()) // a failed write fails the test that reads it
		})
		return s.Handle("http", serve)
	})
	w.register("gateway", name+"-1", map[string]string{"admin": name + ":9090", "http": name + ":8080"})
	return stop
}

// runTracing starts an instance of the trace store that the registry lists.
func (w *world) runTracing(t *testing.T, name string, serve http.HandlerFunc) {
	t.Helper()
	listen := map[string]string{"zipkin": name + ":9411"}
	w.run(t, name, listen, nil, func(_ context.Context, s *service.Setup) error { return s.Handle("zipkin", serve) })
	w.register("tracing", name+"-1", map[string]string{"zipkin": name + ":9411"})
}

// do sends a request to the console. The header is a list of names and values; "Host" sets the host.
func (w *world) do(t *testing.T, method, path, body string, header ...string) (int, http.Header, string) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, "http://console:8080"+path, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	req.Host = "localhost:8081"
	for i := 0; i+1 < len(header); i += 2 {
		req.Header.Set(header[i], header[i+1])
		if header[i] == "Host" {
			req.Host = header[i+1]
		}
	}
	c := http.Client{Transport: &http.Transport{
		DialContext: w.net.DialContext, DisableKeepAlives: true, DisableCompression: true,
	}}
	resp, err := c.Do(req)
	if err != nil {
		t.Fatalf("%s %s: %v", method, path, err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatalf("%s %s: reading the answer: %v", method, path, err)
	}
	return resp.StatusCode, resp.Header, string(text)
}

// post sends JSON, reads the JSON answer into answer and returns the status.
func (w *world) post(t *testing.T, path, body string, answer any) (status int) {
	t.Helper()
	status, _, text := w.do(t, "POST", path, body, "Content-Type", "application/json")
	if err := json.Unmarshal([]byte(text), answer); err != nil {
		t.Fatalf("POST %s: status %d, text that is not JSON: %v\n%s", path, status, err, text)
	}
	return status
}

// openStream opens a stream. The caller closes its body.
func (w *world) openStream(t *testing.T, query string) *http.Response {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://console:8080/api/stream"+query, nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Host = "127.0.0.1:8081"
	c := http.Client{Transport: &http.Transport{DialContext: w.net.DialContext}}
	resp, err := c.Do(req)
	if err != nil {
		t.Fatalf("opening a stream: %v", err)
	}
	t.Cleanup(func() { resp.Body.Close() })
	if kind := resp.Header.Get("Content-Type"); resp.StatusCode != http.StatusOK || kind != "text/event-stream" {
		t.Fatalf("opening a stream: status %d, Content-Type %q; want 200 and text/event-stream", resp.StatusCode, kind)
	}
	return resp
}

// events opens a stream with all topics and returns a function that reads the next event of a topic.
func (w *world) events(t *testing.T) (next func(topic string, into any)) {
	t.Helper()
	lines := bufio.NewScanner(w.openStream(t, "").Body)
	lines.Buffer(nil, 1<<20)
	return func(topic string, into any) {
		t.Helper()
		start := time.Now()
		for lines.Scan() {
			if time.Since(start) > time.Minute {
				t.Fatalf("no event %s within a minute", topic)
			}
			if lines.Text() != "event: "+topic {
				continue
			}
			lines.Scan()
			if err := json.Unmarshal([]byte(strings.TrimPrefix(lines.Text(), "data: ")), into); err != nil {
				t.Fatalf("event %s: %v", topic, err)
			}
			return
		}
		t.Fatalf("the stream ended before an event %s: %v", topic, lines.Err())
	}
}

// problem is the body of an error.
type problem struct {
	Detail string
	Code   string
	Errors []struct{ Field, Detail string }
}

// part is what the topic parts has of one part.
type part struct {
	OK, Unknown bool
	Problem     string
	Since       time.Time
}

// await reads the state of a topic until is returns true for it. It fails the test after a minute, with the last state.
func await[V any](t *testing.T, next func(string, any), topic string, is func(V) bool) V {
	t.Helper()
	for start := time.Now(); ; {
		var v V
		if next(topic, &v); is(v) {
			return v
		}
		if time.Since(start) > time.Minute {
			t.Fatalf("after a minute the topic %s is still not as wanted: %+v", topic, v)
		}
	}
}

// awaitPart reads events until a part satisfies is.
func awaitPart(t *testing.T, next func(string, any), name string, is func(part) bool) part {
	t.Helper()
	return await(t, next, "parts", func(parts map[string]part) bool {
		p, reported := parts[name]
		return reported && is(p)
	})[name]
}

func ok(p part) bool      { return p.OK }
func failed(p part) bool  { return !p.OK && !p.Unknown }
func unknown(p part) bool { return p.Unknown }

// assertPlain fails if a text for users has text of Go, gRPC or the operating system in it.
func assertPlain(t *testing.T, what, text string) {
	t.Helper()
	for _, raw := range []string{"rpc error", "desc =", "dial tcp", "context deadline exceeded", "transport:", "EOF"} {
		if strings.Contains(text, raw) {
			t.Errorf("%s has raw text %q: %s", what, raw, text)
		}
	}
}

// errRaw has the text of a broken connection, which must not reach a page.
var errRaw = errs.Errorf(errs.Unavailable, "waiting for the store: %w", errors.New("rpc error: code = Unavailable "+
	"desc = connection error: dial tcp 10.0.0.1:2379: connect: connection refused"))
