package peers_test

import (
	"context"
	"errors"
	"io"
	"io/fs"
	"net"
	"net/http"
	"os"
	"regexp"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"bijou.dev/deploy/e2e/peers"

	"github.com/gorilla/websocket"
	collectorv1 "go.opentelemetry.io/proto/otlp/collector/trace/v1"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	_ "google.golang.org/grpc/encoding/gzip" // Traefik compresses spans
	"google.golang.org/grpc/health"
	healthv1 "google.golang.org/grpc/health/grpc_health_v1"
)

// dir is where `make peers` installs programs.
const dir = "../../../.bijou/peers"

// start starts a proxy. Where it is not installed the test is skipped, or fails if BIJOU_TEST_PEERS is set.
func start(t *testing.T, name string, o peers.Options) *peers.Proxy {
	t.Helper()
	if _, err := peers.Find(name, dir); err != nil {
		if os.Getenv("BIJOU_TEST_PEERS") != "" {
			t.Fatal(err)
		}
		t.Skip(err)
	}
	o.Dir = dir
	p, err := peers.Start(t.Context(), name, o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(p.Stop)
	return p
}

func listen(t *testing.T) net.Listener {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	return l
}

// startSite starts an HTTP server that answers "ok" and accepts WebSockets at /socket, and returns its address.
func startSite(t *testing.T) string {
	t.Helper()
	l := listen(t)
	mux := http.NewServeMux()
	mux.HandleFunc("/", func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "ok") })
	mux.HandleFunc("/socket", func(w http.ResponseWriter, r *http.Request) {
		c, err := new(websocket.Upgrader).Upgrade(w, r, nil)
		if err != nil {
			return // the client sees the response
		}
		defer c.Close()
		kind, message, err := c.ReadMessage()
		if err == nil {
			_ = c.WriteMessage(kind, message) // the client waits for it
		}
	})
	s := &http.Server{Handler: mux, ReadHeaderTimeout: time.Minute}
	go func() { _ = s.Serve(l) }()
	t.Cleanup(func() { _ = s.Close() })
	return l.Addr().String()
}

// startCalls starts a gRPC server with the health service, and returns its address.
func startCalls(t *testing.T) string {
	t.Helper()
	l := listen(t)
	s := grpc.NewServer()
	healthv1.RegisterHealthServer(s, health.NewServer())
	go func() { _ = s.Serve(l) }()
	t.Cleanup(s.Stop)
	return l.Addr().String()
}

func get(t *testing.T, url string) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, url, nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Host = "cinema.example"
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil || resp.StatusCode != http.StatusOK || string(body) != "ok" {
		t.Fatalf("GET %s: status %d, body %q, error %v; want 200, ok and nil", url, resp.StatusCode, body, err)
	}
}

func call(t *testing.T, addr string) {
	t.Helper()
	conn, err := grpc.NewClient("passthrough:///"+addr, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if _, err := healthv1.NewHealthClient(conn).Check(t.Context(), &healthv1.HealthCheckRequest{}); err != nil {
		t.Fatalf("a gRPC call to %s: %v", addr, err)
	}
}

func TestProxiesPassHTTPAndGRPCAndWebSockets(t *testing.T) {
	o := peers.Options{Origins: []string{startSite(t), startSite(t)}, GRPCOrigin: startCalls(t)}
	for _, name := range peers.Names {
		t.Run(name, func(t *testing.T) {
			p := start(t, name, o)
			if version, err := peers.Version(t.Context(), name, dir); err != nil {
				t.Error(err)
			} else {
				t.Log("version", version)
			}
			get(t, "http://"+p.HTTP+"/films")
			call(t, p.GRPC)
			c, resp, err := websocket.DefaultDialer.DialContext(t.Context(), "ws://"+p.HTTP+"/socket", nil)
			if err != nil {
				t.Fatalf("opening a WebSocket: %v, response %v", err, resp)
			}
			defer resp.Body.Close()
			defer c.Close()
			if err := c.WriteMessage(websocket.TextMessage, []byte("hello")); err != nil {
				t.Fatal(err)
			}
			if _, message, err := c.ReadMessage(); err != nil || string(message) != "hello" {
				t.Fatalf("the WebSocket returned %q and error %v, want hello and nil", message, err)
			}
			p.Stop()
			if conn, err := net.Dial("tcp", p.HTTP); err == nil {
				_ = conn.Close()
				t.Errorf("%s still accepts connections after Stop", p.HTTP)
			}
		})
	}
}

// firstCPU returns a CPU on which this process may run.
func firstCPU(t *testing.T) string {
	t.Helper()
	status, err := os.ReadFile("/proc/self/status")
	if err != nil {
		t.Skip("pinning processes needs Linux: ", err)
	}
	list := regexp.MustCompile(`Cpus_allowed_list:\s+(\d+)`).FindSubmatch(status)
	if list == nil {
		t.Fatalf("no list of CPUs in /proc/self/status:\n%s", status)
	}
	return string(list[1])
}

func TestPinnedProxiesWithHigherLimitsStart(t *testing.T) {
	o := peers.Options{Origins: []string{startSite(t)}, Core: firstCPU(t), Connections: 3000}
	for _, name := range peers.Names {
		t.Run(name, func(t *testing.T) { get(t, "http://"+start(t, name, o).HTTP+"/") })
	}
}

// receiver counts spans.
type receiver struct {
	collectorv1.UnimplementedTraceServiceServer
	spans atomic.Int64
	came  chan struct{}
}

// Export implements TraceServiceServer.
func (r *receiver) Export(_ context.Context, req *collectorv1.ExportTraceServiceRequest) (
	*collectorv1.ExportTraceServiceResponse, error,
) {
	for _, resource := range req.GetResourceSpans() {
		for _, scope := range resource.GetScopeSpans() {
			r.spans.Add(int64(len(scope.GetSpans())))
		}
	}
	select {
	case r.came <- struct{}{}:
	default:
	}
	return &collectorv1.ExportTraceServiceResponse{}, nil
}

func TestTraefikAndCaddyTraceEveryRequest(t *testing.T) {
	const requests = 20
	site, calls := startSite(t), startCalls(t)
	for _, name := range []string{"Traefik", "Caddy"} {
		t.Run(name, func(t *testing.T) {
			l, r := listen(t), &receiver{came: make(chan struct{}, 1)}
			s := grpc.NewServer()
			collectorv1.RegisterTraceServiceServer(s, r)
			go func() { _ = s.Serve(l) }()
			t.Cleanup(s.Stop)
			p := start(t, name, peers.Options{Origins: []string{site}, GRPCOrigin: calls, Spans: l.Addr().String()})
			for range requests {
				get(t, "http://"+p.HTTP+"/")
			}
			ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
			defer cancel()
			for r.spans.Load() < requests {
				select {
				case <-r.came:
				case <-ctx.Done():
					t.Fatalf("%d spans came for %d requests within 30 s, want at least one for each", r.spans.Load(),
						requests)
				}
			}
			t.Logf("%d spans for %d requests", r.spans.Load(), requests)
		})
	}
}

func TestMissingProxyIsNamedWithTheCommandThatInstallsIt(t *testing.T) {
	_, err := peers.Start(t.Context(), "Caddy", peers.Options{Dir: t.TempDir(), Origins: []string{"127.0.0.1:1"}})
	if !errors.Is(err, fs.ErrNotExist) || !strings.Contains(err.Error(), "Caddy") ||
		!strings.Contains(err.Error(), "make peers") {
		t.Errorf("starting a proxy that is not installed: error %v; want fs.ErrNotExist, Caddy and make peers", err)
	}
}

func TestProxyThatDoesNotStartIsAnErrorWithItsReason(t *testing.T) {
	if _, err := peers.Find("HAProxy", dir); err != nil {
		t.Skip(err)
	}
	_, err := peers.Start(t.Context(), "HAProxy", peers.Options{Dir: dir, Origins: []string{"nowhere"}})
	if err == nil || !strings.Contains(err.Error(), "nowhere") {
		t.Errorf("starting HAProxy before the server %q: error %v; want one that names it", "nowhere", err)
	}
}
