package gateway_test

import (
	"crypto/tls"
	"encoding/json"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"bijou.dev/services/gateway"

	"google.golang.org/grpc"
	"google.golang.org/grpc/health"
	healthv1 "google.golang.org/grpc/health/grpc_health_v1"
)

// at serves h at an address of the world's network, until the test ends or stop is called.
func (w *world) at(addr string, h http.Handler) (stop func()) {
	w.t.Helper()
	l, err := w.net.Listen("tcp", addr)
	if err != nil {
		w.t.Fatal(err)
	}
	return serve(w.t, l, &http.Server{Handler: h})
}

func echoBody(rw http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return // the client has left
	}
	_, _ = io.WriteString(rw, r.Method+" "+r.Host+" "+r.RequestURI+" "+string(body)) // the test reads it
}

// A program that knows nothing of the platform is behind the edge like any service.
func TestURLIsATarget(t *testing.T) {
	w := newWorld(t, `[{"name":"app","match":{"prefix":"/app"},"rewrite":{"prefix":"/"},
		"to":[{"url":"http://10.0.0.5:3000"}]}]`)
	w.at("10.0.0.5:3000", http.HandlerFunc(echoBody))
	large := strings.Repeat("large ", 20_000)
	for _, h2 := range []bool{false, true} {
		for _, body := range []string{"", "small", large} {
			res := w.do(w.client(h2), http.MethodPost, "http://shop.example/app/a?b=c", strings.NewReader(body))
			if want := "POST shop.example /a?b=c " + body; res.StatusCode != 200 || res.body != want {
				t.Errorf("HTTP/2 %t: %d %.60q, want 200 %.60q", h2, res.StatusCode, res.body, want)
			}
		}
	}
	if res := w.get("http://x/app/a"); res.body != "GET x /a " {
		t.Errorf("GET: %d %q, want the answer of the program", res.StatusCode, res.body)
	}
	var page struct {
		Origins []struct {
			Service  string
			Upstream struct {
				Target    string
				Instances []struct {
					Addr    string
					Healthy bool
				}
			}
		}
	}
	rec := newRecorder()
	w.edge.RoutesHandler().ServeHTTP(rec, mustRequest(t))
	if err := json.Unmarshal(rec.body.Bytes(), &page); err != nil {
		t.Fatal(err)
	}
	if len(page.Origins) != 1 || page.Origins[0].Service != "10-0-0-5-3000" ||
		page.Origins[0].Upstream.Target != "http://10.0.0.5:3000" || len(page.Origins[0].Upstream.Instances) != 1 {
		t.Errorf("the page /routes has the origins %+v; want one, 10-0-0-5-3000, with one instance", page.Origins)
	}
}

func TestURLOfAWebSocketServer(t *testing.T) {
	w := newWorld(t, `[{"name":"app","to":[{"url":"http://10.0.0.5:3000"}]}]`)
	w.at("10.0.0.5:3000", websocket(nil))
	conn, r := w.upgrade()
	_, _ = io.WriteString(conn, "a") // reading fails if it was not sent
	read(t, r, "\x81\x01a")
}

func TestURLOfAUnixSocket(t *testing.T) {
	socket := filepath.Join(t.TempDir(), "app.sock")
	l, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	w := worldWith(t, gateway.EdgeOptions{DialContext: (&net.Dialer{}).DialContext},
		`[{"name":"app","to":[{"url":"unix://`+socket+`"}]}]`)
	serve(t, l, &http.Server{Handler: http.HandlerFunc(echoBody)})
	for _, method := range []string{http.MethodGet, http.MethodPost} { // by the edge's own client and by net/http's
		if res := w.do(w.client(false), method, "http://x/a", nil); res.body != method+" x /a " {
			t.Errorf("%s: %d %q, want the answer of the program", method, res.StatusCode, res.body)
		}
	}
}

func TestURLWithTLS(t *testing.T) {
	srv := httptest.NewUnstartedServer(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		rw.Header().Set("X-Version", r.Proto)
		echoBody(rw, r)
	}))
	srv.EnableHTTP2 = true
	srv.StartTLS()
	t.Cleanup(srv.Close)
	routes := `[{"name":"app","to":[{"url":"` + srv.URL + `"}]}]`
	host := strings.TrimPrefix(srv.URL, "https://")
	w := worldWith(t, gateway.EdgeOptions{
		DialContext: (&net.Dialer{}).DialContext, OriginTLS: srv.Client().Transport.(*http.Transport).TLSClientConfig,
	}, routes)
	for _, body := range []string{"", strings.Repeat("x", 100_000)} {
		for range 2 { // on a new connection and again
			res := w.do(w.client(false), http.MethodPut, "http://x/a", strings.NewReader(body))
			if want := "PUT " + host + " /a " + body; res.body != want || res.Header.Get("X-Version") != "HTTP/1.1" {
				t.Errorf("%d %.60q over %s; want %.60q over HTTP/1.1", res.StatusCode, res.body, res.Header.Get("X-Version"), want)
			}
		}
	}
	res := w.do(w.client(true), http.MethodPost, "http://x/a.B/C", nil, "Content-Type", "application/grpc")
	if res.Header.Get("X-Version") != "HTTP/2.0" {
		t.Errorf("a gRPC call: %d over %q; want HTTP/2.0", res.StatusCode, res.Header.Get("X-Version"))
	}

	w = worldWith(t, gateway.EdgeOptions{DialContext: (&net.Dialer{}).DialContext, OriginTLS: &tls.Config{}}, routes)
	if res := w.get("http://x/"); res.StatusCode != 502 || res.Header.Get("X-Bijou-Fault") != "origin_unreachable" {
		t.Errorf("with a certificate that nobody trusts: %d %s; want 502 origin_unreachable", res.StatusCode,
			res.Header.Get("X-Bijou-Fault"))
	}
}

func TestURLOfAGRPCServer(t *testing.T) {
	w := newWorld(t, `[{"name":"app","to":[{"url":"h2c://10.0.0.5:3000"}]}]`)
	l, err := w.net.Listen("tcp", "10.0.0.5:3000")
	if err != nil {
		t.Fatal(err)
	}
	srv := grpc.NewServer()
	healthv1.RegisterHealthServer(srv, health.NewServer())
	go func() { _ = srv.Serve(l) }() // ends with Stop
	t.Cleanup(srv.Stop)
	answer, err := healthv1.NewHealthClient(w.grpcClient()).Check(t.Context(), &healthv1.HealthCheckRequest{})
	if err != nil || answer.GetStatus() != healthv1.HealthCheckResponse_SERVING {
		t.Errorf("%v, %v; want the answer of the server", answer, err)
	}
}

// With several URLs requests are split by weight. When one is down, its requests go to the others; when health checks
// say so, they go there at once.
func TestSeveralURLs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, `[{"name":"app","to":[
			{"url":"http://10.0.0.1:80","weight":3,"health":{"kind":"http","path":"/health","interval":"1s"}},
			{"url":"http://10.0.0.2:80","weight":1}]}]`)
		var asked [2]atomic.Int64
		var ill atomic.Bool
		stops := [2]func(){}
		for i := range asked {
			stops[i] = w.at([]string{"10.0.0.1:80", "10.0.0.2:80"}[i], http.HandlerFunc(
				func(rw http.ResponseWriter, r *http.Request) {
					if r.URL.Path == "/health" && ill.Load() {
						rw.WriteHeader(http.StatusServiceUnavailable)
					} else if r.URL.Path != "/health" {
						asked[i].Add(1)
					}
				}))
		}
		send := func(n int) (first, second int64) {
			before := [2]int64{asked[0].Load(), asked[1].Load()}
			for range n {
				if res := w.get("http://x/"); res.StatusCode != 200 {
					t.Errorf("status %d, want 200", res.StatusCode)
				}
			}
			return asked[0].Load() - before[0], asked[1].Load() - before[1]
		}
		if first, second := send(400); first < 240 || first > 360 || first+second != 400 {
			t.Errorf("of 400 requests %d and %d, want about 300 and 100", first, second)
		}
		ill.Store(true)
		time.Sleep(10 * time.Second)
		if first, second := send(100); first != 0 || second != 100 {
			t.Errorf("with the first unhealthy: %d and %d, want 0 and 100", first, second)
		}
		ill.Store(false)
		time.Sleep(10 * time.Second)
		if first, _ := send(100); first == 0 {
			t.Error("the first is healthy again and gets no requests")
		}
		stops[1]()
		if first, _ := send(100); first != 100 {
			t.Errorf("with the second down: %d requests at the first, want 100", first)
		}
	})
}

// A name that does not exist is known to be the origin's trouble, and it is used as soon as it does.
func TestURLWithANameThatIsUnknown(t *testing.T) {
	w := worldWith(t, gateway.EdgeOptions{DialDNS: (&net.Dialer{}).DialContext},
		`[{"name":"app","to":[{"url":"http://app.invalid:3000"}]}]`)
	res := w.get("http://x/")
	if res.StatusCode != 503 || res.Header.Get("X-Bijou-Fault") != "origin_unreachable" ||
		!strings.Contains(res.body, "app-invalid-3000") {
		t.Errorf("%d %s %q; want 503 origin_unreachable that names app-invalid-3000", res.StatusCode,
			res.Header.Get("X-Bijou-Fault"), res.body)
	}
}
