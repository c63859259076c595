package gateway_test

import (
	"context"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"
	"slices"
	"sync"
	"syscall"
	"testing"
	"time"

	"bijou.dev/platform/config"
	"bijou.dev/platform/discovery"
	"bijou.dev/platform/trace"
	"bijou.dev/services/gateway"

	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"
)

// BenchmarkGateway sends small requests over loopback, keep-alive, 32 at a time: to the origin directly, through a
// tuned httputil.ReverseProxy, and through the edge. Client and origin run in the same process, so what matters is the
// difference to direct: NAME-us is process CPU time for each request less that of direct in the same round, the median
// of eleven rounds with all contenders. The time for each op is that of one request to each of them.
//
//	edge           routing, circuit, balancer, trace context, metrics
//	edge-post      the same for requests that may not be repeated
//	edge-sampled   1 % of the requests recorded
//	edge-logged    with the access log
func BenchmarkGateway(b *testing.B) {
	origin := listen(b, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header()["Content-Type"] = []string{"text/plain"}
		_, _ = io.WriteString(w, "hello, world")
	}))
	plain := edge(b, origin, 0, nil)
	contenders := []struct{ name, method, addr string }{
		{"direct", "GET", origin},
		{"reverseproxy", "GET", reverseProxy(b, origin)},
		{"edge", "GET", plain},
		{"edge-post", "POST", plain},
		{"edge-sampled", "GET", edge(b, origin, 0.01, nil)},
		{"edge-logged", "GET", edge(b, origin, 0, slog.New(slog.NewJSONHandler(io.Discard, nil)))},
	}
	const rounds = 11
	n := max(1, b.N/rounds)
	spent := make([][]float64, len(contenders))
	b.ResetTimer()
	for round := range rounds {
		var direct float64
		for i := range contenders {
			if round%2 == 1 && i > 0 {
				i = len(contenders) - i // in reverse order
			}
			c := contenders[i]
			cpu := sendAll(b, n, c.method, "http://"+c.addr+"/", 32)
			if i == 0 {
				direct = cpu
				spent[0] = append(spent[0], cpu)
			} else {
				spent[i] = append(spent[i], cpu-direct)
			}
		}
	}
	for i, c := range contenders {
		slices.Sort(spent[i])
		b.ReportMetric(spent[i][rounds/2], c.name+"-us")
	}
}

// BenchmarkEdgeAllocs is for profiles and allocations, which are those of client, edge and origin together.
func BenchmarkEdgeAllocs(b *testing.B) {
	origin := listen(b, responds("hello, world"))
	for name, sampled := range map[string]float64{"unsampled": 0, "sampled": 1} {
		b.Run(name, func(b *testing.B) {
			addr := edge(b, origin, sampled, nil)
			b.ReportAllocs()
			b.ResetTimer()
			sendAll(b, b.N, "GET", "http://"+addr+"/", 32)
		})
	}
}

// BenchmarkLimits handles requests that a route answers itself, without a connection: what limits and bans cost, and
// that a route without limits pays nothing for those of another.
func BenchmarkLimits(b *testing.B) {
	for _, c := range costs {
		b.Run(c.name, func(b *testing.B) {
			handle := handling(b, c.path, c.routes, c.banned)
			b.ReportAllocs()
			for b.Loop() {
				handle()
			}
		})
	}
}

// sendAll sends n requests and returns the process's CPU time for one in microseconds.
func sendAll(b *testing.B, n int, method, target string, clients int) float64 {
	tr := &http.Transport{MaxIdleConnsPerHost: clients, DisableCompression: true}
	defer tr.CloseIdleConnections()
	u, err := url.Parse(target)
	if err != nil {
		b.Fatal(err)
	}
	send := func() {
		req := (&http.Request{
			Method: method, URL: u, Host: u.Host,
			Header: http.Header{"User-Agent": {"bench/1.0"}, "Accept": {"*/*"}},
		}).WithContext(b.Context())
		res, err := tr.RoundTrip(req)
		if err != nil {
			b.Error(err)
			return
		}
		if size, err := io.Copy(io.Discard, res.Body); err != nil || size != 12 || res.StatusCode != 200 {
			b.Errorf("status %d, %d bytes, %v", res.StatusCode, size, err)
		}
		res.Body.Close()
	}
	work := make(chan struct{}, clients)
	var done sync.WaitGroup
	for range clients {
		send()
		done.Go(func() {
			for range work {
				send()
			}
		})
	}
	begin := cpuTime()
	for range n {
		work <- struct{}{}
	}
	close(work)
	done.Wait()
	spent := cpuTime() - begin
	return float64(spent.Microseconds()) / float64(n)
}

func cpuTime() time.Duration {
	var u syscall.Rusage
	_ = syscall.Getrusage(syscall.RUSAGE_SELF, &u) // cannot fail for oneself
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

func listen(b testing.TB, h http.Handler) string {
	b.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		b.Fatal(err)
	}
	srv := &http.Server{Handler: h}
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = srv.Serve(l) // ends with Close
	}()
	b.Cleanup(func() {
		srv.Close()
		<-done
	})
	return l.Addr().String()
}

type pool struct{ sync.Pool }

func (p *pool) Get() []byte  { return *p.Pool.Get().(*[]byte) }
func (p *pool) Put(b []byte) { p.Pool.Put(&b) }

func reverseProxy(b *testing.B, origin string) string {
	tr := &http.Transport{
		MaxIdleConnsPerHost: 512, DisableCompression: true, WriteBufferSize: 8 << 10,
		ReadBufferSize: 8 << 10,
	}
	b.Cleanup(tr.CloseIdleConnections)
	return listen(b, &httputil.ReverseProxy{
		Rewrite: func(r *httputil.ProxyRequest) {
			r.SetURL(&url.URL{Scheme: "http", Host: origin})
			r.SetXForwarded()
		},
		Transport:  tr,
		BufferPool: &pool{sync.Pool{New: func() any { buf := make([]byte, 32<<10); return &buf }}},
	})
}

// discarding is a connection to a trace store that encodes requests as gRPC does, and sends none.
type discarding struct{ grpc.ClientConnInterface }

func (discarding) Invoke(_ context.Context, _ string, args, _ any, _ ...grpc.CallOption) error {
	_, err := proto.Marshal(args.(proto.Message))
	return err
}

func edge(b testing.TB, origin string, sampled float64, log *slog.Logger, settings ...string) string {
	return edgeTo(b, "http", origin, sampled, log, settings...)
}

// edgeTo starts an edge before an endpoint of one instance.
func edgeTo(
	b testing.TB, endpoint, origin string, sampled float64, log *slog.Logger, settings ...string,
) string {
	values := map[string]string{
		"gateway.routes":                `[{"name":"web","to":[{"service":"web","endpoint":"` + endpoint + `"}]}]`,
		"circuit.default.maxConcurrent": "1000",
	}
	for i := 0; i < len(settings); i += 2 {
		values[settings[i]] = settings[i+1]
	}
	set := config.Static(values)
	provider, err := trace.New(trace.Options{
		Service: "gateway", Conn: func() grpc.ClientConnInterface { return discarding{} }, Sampling: share(sampled),
	})
	if err != nil {
		b.Fatal(err)
	}
	e, err := gateway.NewEdge(gateway.EdgeOptions{
		Config: set, Log: log, Trace: provider, Metrics: prometheus.NewRegistry(),
		Discovery: discovery.NewStatic(map[string][]discovery.Instance{
			"web": {{ID: "web-1", Endpoints: map[string]string{endpoint: origin}}},
		}).Directory,
	})
	if err != nil {
		b.Fatal(err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		b.Fatal(err)
	}
	done := make(chan error, 1)
	go func() { done <- e.Serve(l) }()
	b.Cleanup(func() {
		if err := e.Close(); err != nil {
			b.Error(err)
		}
		if err := <-done; err != nil {
			b.Error(err)
		}
		_ = provider.Shutdown(context.WithoutCancel(b.Context())) // nothing to deliver
	})
	return l.Addr().String()
}

type share float64

func (s share) Get() float64 { return float64(s) }
