package upstream_test

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"bijou.dev/platform/errs"
	"bijou.dev/services/gateway/internal/upstream"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/net/dns/dnsmessage"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/health"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
)

func TestCompleteCheck(t *testing.T) {
	if got, err := (upstream.Check{}).Complete(); err != nil || got != (upstream.Check{}) {
		t.Errorf("without a check: %+v, %v, want none", got, err)
	}
	got, err := upstream.Check{Kind: upstream.CheckHTTP}.Complete()
	want := upstream.Check{
		Kind: "http", Path: "/", Interval: 5 * time.Second, Timeout: 2 * time.Second, Healthy: 2, Unhealthy: 3,
	}
	if err != nil || got != want {
		t.Errorf("the default check is %+v, %v, want %+v", got, err, want)
	}
	if again, err := got.Complete(); err != nil || again != got {
		t.Errorf("a complete check changed to %+v, %v", again, err)
	}
	for _, c := range []upstream.Check{
		{Kind: "http", Path: "/health?full=1", Host: "example.org:8080", Interval: time.Hour, Timeout: time.Minute},
		{Kind: "grpc", Host: "example.org", Service: "catalog.v1.Catalog", Healthy: 1, Unhealthy: 100},
		{Kind: "tcp", Interval: 100 * time.Millisecond, Timeout: 1},
	} {
		if _, err := c.Complete(); err != nil {
			t.Errorf("%+v is refused: %v", c, err)
		}
	}
}

func TestCompleteCheckNamesWrongFields(t *testing.T) {
	for _, c := range []struct {
		upstream.Check
		want []string
	}{
		{upstream.Check{Kind: "icmp"}, []string{"kind"}},
		{upstream.Check{Interval: time.Second}, []string{"kind"}},
		{upstream.Check{Kind: "http", Path: "health"}, []string{"path"}},
		{upstream.Check{Kind: "http", Path: "http://example.org/"}, []string{"path"}},
		{upstream.Check{Kind: "http", Path: "/a#b"}, []string{"path"}},
		{upstream.Check{Kind: "http", Path: "/a\r\nX: y"}, []string{"path"}},
		{upstream.Check{Kind: "http", Path: "/" + strings.Repeat("a", 1024)}, []string{"path"}},
		{upstream.Check{Kind: "http", Host: "a b", Service: "x"}, []string{"host", "service"}},
		{upstream.Check{Kind: "grpc", Path: "/", Service: "a\nb"}, []string{"path", "service"}},
		{upstream.Check{Kind: "tcp", Path: "/", Host: "a", Service: "x"}, []string{"path", "host", "service"}},
		{upstream.Check{Kind: "tcp", Interval: -1, Timeout: -1}, []string{"interval", "timeout"}},
		{upstream.Check{Kind: "tcp", Interval: time.Millisecond, Timeout: time.Hour}, []string{"interval", "timeout"}},
		{upstream.Check{Kind: "tcp", Healthy: -1, Unhealthy: 101}, []string{"healthy", "unhealthy"}},
	} {
		_, err := c.Complete()
		e, ok := errors.AsType[*errs.Error](err)
		if !ok || e.Kind() != errs.Invalid {
			t.Errorf("%+v: the error is %v, want one of kind Invalid", c.Check, err)
			continue
		}
		var got []string
		for _, f := range e.Fields() {
			got = append(got, f.Name)
		}
		if d := cmp.Diff(c.want, got); d != "" {
			t.Errorf("%+v: fields of the error (-want +got):\n%s", c.Check, d)
		}
	}
}

// serve runs an HTTP server at an address.
func (w *world) serve(addr string, h http.HandlerFunc, change func(*http.Server)) {
	w.t.Helper()
	l, err := w.net.Listen("tcp", addr)
	if err != nil {
		w.t.Fatal(err)
	}
	s := &http.Server{Handler: h, ErrorLog: slog.NewLogLogger(slog.DiscardHandler, 0)}
	if change != nil {
		change(s)
	}
	if s.TLSConfig != nil {
		l = tls.NewListener(l, s.TLSConfig)
	}
	go s.Serve(l)
	w.t.Cleanup(func() { s.Close() })
}

// status is a handler that answers with a status that can be changed.
type status struct {
	code  atomic.Int64
	asked atomic.Int64
}

func newStatus(code int) *status {
	s := &status{}
	s.code.Store(int64(code))
	return s
}

func (s *status) handle(w http.ResponseWriter, _ *http.Request) {
	s.asked.Add(1)
	w.WriteHeader(int(s.code.Load()))
}

func TestChecksDecideWhichInstancesAreUsed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, nil)
		w.dns.setHost("app.example.", 300, "10.0.0.1", "10.0.0.2")
		a, b := newStatus(200), newStatus(200)
		w.serve("10.0.0.1:80", a.handle, nil)
		w.serve("10.0.0.2:80", b.handle, nil)
		got := w.watch("http://app.example.", upstream.Check{Kind: upstream.CheckHTTP})
		<-got.Ready()
		got.assertLast("before the first check", "10.0.0.1:80", "10.0.0.2:80")
		until := func(s *status, asked int64) {
			for s.asked.Load() < asked {
				time.Sleep(time.Millisecond)
			}
			synctest.Wait()
		}

		until(b, 3)
		b.code.Store(500)
		until(b, 5)
		got.assertLast("two checks have failed", "10.0.0.1:80", "10.0.0.2:80")
		until(b, 6)
		got.assertLast("three checks have failed", "10.0.0.1:80")
		s := got.State().Instances[1]
		if s.Addr != "10.0.0.2:80" || s.Healthy || !strings.Contains(s.Error, "500") || time.Since(s.Since) > time.Second {
			t.Errorf("the state is %+v, want 10.0.0.2:80 unhealthy since now because of status 500", s)
		}

		b.code.Store(399)
		until(b, 7)
		got.assertLast("one check has succeeded", "10.0.0.1:80")
		b.code.Store(400)
		until(b, 8)
		b.code.Store(200)
		until(b, 9)
		got.assertLast("one check has succeeded after another failure", "10.0.0.1:80")
		until(b, 10)
		got.assertLast("two checks in a row have succeeded", "10.0.0.1:80", "10.0.0.2:80")

		a.code.Store(503)
		until(a, a.asked.Load()+2)
		a.code.Store(200)
		until(a, a.asked.Load()+1)
		a.code.Store(503)
		until(a, a.asked.Load()+2)
		got.assertLast("never three failures in a row", "10.0.0.1:80", "10.0.0.2:80")
		if w.log.count("an instance is unhealthy") != 1 || w.log.count("an instance is healthy again") != 1 {
			t.Errorf("the log does not have one line for each change of health:\n%s", w.log)
		}
	})
}

func TestAllInstancesAreUsedWhenAllAreUnhealthy(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, nil)
		w.dns.setHost("app.example.", 1, "10.0.0.1", "10.0.0.2")
		s := newStatus(404)
		w.serve("10.0.0.1:80", s.handle, nil)
		w.serve("10.0.0.2:80", s.handle, nil)
		got := w.watch("http://app.example.", upstream.Check{Kind: upstream.CheckHTTP})
		time.Sleep(10 * time.Minute)
		got.assertLast("all checks fail", "10.0.0.1:80!", "10.0.0.2:80!")
		if n := w.log.count("all instances of a target are unhealthy"); n != 1 {
			t.Errorf("%d lines of the log say so, want 1:\n%s", n, w.log)
		}
		w.dns.setHost("app.example.", 1, "10.0.0.1", "10.0.0.2", "10.0.0.3")
		w.serve("10.0.0.3:80", newStatus(200).handle, nil)
		time.Sleep(time.Minute)
		got.assertLast("there is a new instance", "10.0.0.3:80")
		s.code.Store(200)
		time.Sleep(time.Minute)
		got.assertLast("all checks succeed", "10.0.0.1:80", "10.0.0.2:80", "10.0.0.3:80")
	})
}

func TestInstanceThatIsNotKnownAnyMoreIsNotChecked(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, nil)
		w.dns.setHost("app.example.", 1, "10.0.0.1", "10.0.0.2")
		a, b := newStatus(200), newStatus(500)
		w.serve("10.0.0.1:80", a.handle, nil)
		w.serve("10.0.0.2:80", b.handle, nil)
		got := w.watch("http://app.example.", upstream.Check{Kind: upstream.CheckHTTP})
		time.Sleep(time.Minute)
		got.assertLast("one is unhealthy", "10.0.0.1:80")
		w.dns.setHost("app.example.", 1, "10.0.0.1")
		time.Sleep(10 * time.Second)
		before := b.asked.Load()
		time.Sleep(10 * time.Minute)
		if n := b.asked.Load() - before; n != 0 {
			t.Errorf("an instance that DNS does not have any more was checked %d times", n)
		}
		w.dns.setHost("app.example.", 1, "10.0.0.1", "10.0.0.2")
		time.Sleep(2 * time.Second)
		got.assertLast("it is back, as a new instance", "10.0.0.1:80", "10.0.0.2:80")

		asked := a.asked.Load()
		got.Stop()
		time.Sleep(10 * time.Minute)
		if n := a.asked.Load() - asked; n != 0 {
			t.Errorf("%d checks after Stop", n)
		}
	})
}

// Checks of many instances must not come at the same moment, although all were found at the same moment.
func TestChecksAreSpreadOverTheInterval(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, nil)
		var addrs []string
		var mu sync.Mutex
		perSecond := map[time.Duration]int{}
		begin := time.Now()
		for i := range 200 {
			addr := fmt.Sprintf("10.0.0.%d", i+1)
			addrs = append(addrs, addr)
			w.serve(addr+":80", func(http.ResponseWriter, *http.Request) {
				mu.Lock()
				defer mu.Unlock()
				perSecond[time.Since(begin)/time.Second]++
			}, nil)
		}
		w.dns.setHost("app.example.", 300, addrs...)
		w.watch("http://app.example.", upstream.Check{Kind: upstream.CheckHTTP, Interval: 20 * time.Second})
		time.Sleep(2 * time.Minute)
		mu.Lock()
		defer mu.Unlock()
		for second := range time.Duration(120) {
			if n := perSecond[second]; n > 40 { // 10 on average
				t.Errorf("%d of 200 instances were checked in second %d, want about 10", n, second)
			}
		}
		sum := 0
		for _, n := range perSecond {
			sum += n
		}
		if sum < 1000 || sum > 1400 {
			t.Errorf("%d checks of 200 instances in 2 minutes, want about 1200", sum)
		}
	})
}

// countingDial counts the connections that are open.
type countingDial struct {
	dial       func(ctx context.Context, network, addr string) (net.Conn, error)
	open, most atomic.Int64
}

func (d *countingDial) DialContext(ctx context.Context, network, addr string) (net.Conn, error) {
	c, err := d.dial(ctx, network, addr)
	if err != nil {
		return nil, err
	}
	n := d.open.Add(1)
	for most := d.most.Load(); n > most && !d.most.CompareAndSwap(most, n); most = d.most.Load() {
	}
	return &countedConn{Conn: c, dial: d}, nil
}

type countedConn struct {
	net.Conn
	dial *countingDial
	once sync.Once
}

func (c *countedConn) Close() error {
	c.once.Do(func() { c.dial.open.Add(-1) })
	return c.Conn.Close()
}

// An instance that accepts connections and does nothing more must cost one connection at most, for each kind of check,
// and nothing after Stop.
func TestChecksThatHangDoNotPileUp(t *testing.T) {
	for _, url := range []string{"http://10.0.0.1", "https://10.0.0.1:80", "h2c://10.0.0.1:80"} {
		for _, kind := range []upstream.CheckKind{upstream.CheckHTTP, upstream.CheckGRPC, upstream.CheckTCP} {
			t.Run(url+" "+string(kind), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					dial := &countingDial{}
					w := newWorld(t, func(o *upstream.Options) {
						dial.dial = o.DialContext
						o.DialContext = dial.DialContext
					})
					l, err := w.net.Listen("tcp", "10.0.0.1:80")
					if err != nil {
						t.Fatal(err)
					}
					t.Cleanup(func() { l.Close() })
					go func() {
						for {
							if _, err := l.Accept(); err != nil {
								return
							}
						}
					}()
					got := w.watch(url, upstream.Check{Kind: kind, Interval: 100 * time.Millisecond})
					time.Sleep(5 * time.Minute)
					if n := dial.most.Load(); n != 1 {
						t.Errorf("%d connections were open at the same time, want 1", n)
					}
					healthy := got.State().Instances[0].Healthy
					if want := kind == upstream.CheckTCP && url != "https://10.0.0.1:80"; healthy != want {
						t.Errorf("an instance that accepts connections and answers nothing has healthy = %v, want %v; %+v", healthy,
							want, got.State())
					}
					got.Stop()
					synctest.Wait()
					if n := dial.open.Load(); n != 0 {
						t.Errorf("%d connections are open after Stop", n)
					}
				})
			})
		}
	}
}

func TestChecksOfHostThatIsCutOff(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, nil)
		w.serve("10.0.0.1:80", newStatus(200).handle, nil)
		w.serve("10.0.0.2:80", newStatus(200).handle, nil)
		w.dns.setHost("app.example.", 300, "10.0.0.1", "10.0.0.2")
		got := w.watch("http://app.example.", upstream.Check{Kind: upstream.CheckHTTP})
		time.Sleep(time.Minute)
		w.net.Cut("10.0.0.1")
		time.Sleep(time.Minute)
		got.assertLast("a host is cut off", "10.0.0.2:80")
		w.net.Heal("10.0.0.1")
		time.Sleep(time.Minute)
		got.assertLast("the host is back", "10.0.0.1:80", "10.0.0.2:80")
	})
}

func TestHTTPCheckSendsPathAndHost(t *testing.T) {
	for _, c := range []struct {
		url   string
		check upstream.Check
		want  string
	}{
		{"http://app.example.", upstream.Check{}, "HTTP/1.1 GET app.example / bijou-health-check"},
		{
			"http://app.example.",
			upstream.Check{Path: "/health?a=1"},
			"HTTP/1.1 GET app.example /health?a=1 bijou-health-check",
		},
		{"http://app.example.", upstream.Check{Host: "www.example"}, "HTTP/1.1 GET www.example / bijou-health-check"},
		{"h2c://app.example.:80", upstream.Check{Path: "/x"}, "HTTP/2.0 GET app.example:80 /x bijou-health-check"},
	} {
		synctest.Test(t, func(t *testing.T) {
			w := newWorld(t, nil)
			w.dns.setHost("app.example.", 300, "10.0.0.1")
			var got atomic.Value
			w.serve("10.0.0.1:80", func(_ http.ResponseWriter, r *http.Request) {
				got.Store(fmt.Sprint(r.Proto, " ", r.Method, " ", r.Host, " ", r.RequestURI, " ", r.UserAgent()))
			}, func(s *http.Server) {
				s.Protocols = new(http.Protocols)
				s.Protocols.SetHTTP1(true)
				s.Protocols.SetUnencryptedHTTP2(true)
			})
			c.check.Kind = upstream.CheckHTTP
			watch := w.watch(c.url, c.check)
			time.Sleep(6 * time.Second)
			if got.Load() != c.want {
				t.Errorf("the check %+v of %s sent %v, want %s; %+v", c.check, c.url, got.Load(), c.want, watch.State())
			}
		})
	}
}

// The status decides, and what follows it must not cost anything.
func TestHTTPCheckDoesNotReadTheBody(t *testing.T) {
	for _, url := range []string{"http://10.0.0.1", "h2c://10.0.0.1:80"} {
		synctest.Test(t, func(t *testing.T) {
			w := newWorld(t, nil)
			var written, ended atomic.Int64
			w.serve("10.0.0.1:80", func(rw http.ResponseWriter, _ *http.Request) {
				defer ended.Add(1)
				for {
					n, err := rw.Write(make([]byte, 4096))
					if written.Add(int64(n)); err != nil {
						return
					}
				}
			}, func(s *http.Server) {
				s.Protocols = new(http.Protocols)
				s.Protocols.SetHTTP1(true)
				s.Protocols.SetUnencryptedHTTP2(true)
			})
			got := w.watch(url, upstream.Check{Kind: upstream.CheckHTTP})
			time.Sleep(time.Minute)
			got.Stop()
			synctest.Wait()
			if n := ended.Load(); n < 10 || written.Load() > n<<20 {
				t.Errorf("%s: %d responses had %d bytes, want at least 10 responses of less than 1 MiB each", url, n,
					written.Load())
			}
			got.assertLast(url+": the status was 200", got.last()[0])
			if s := got.State().Instances[0]; !s.Healthy || s.Error != "" {
				t.Errorf("%s: a response with an endless body has the state %+v, want a healthy one", url, s)
			}
		})
	}
}

func TestHTTPCheckRefusesEndlessHeaders(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, nil)
		l, err := w.net.Listen("tcp", "10.0.0.1:80")
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { l.Close() })
		var written atomic.Int64
		go func() {
			for {
				conn, err := l.Accept()
				if err != nil {
					return
				}
				go func() {
					defer conn.Close()
					_, err := io.WriteString(conn, "HTTP/1.1 200 OK\r\n")
					for err == nil {
						var n int
						n, err = io.WriteString(conn, "A: "+strings.Repeat("a", 1000)+"\r\n")
						written.Add(int64(n))
					}
				}()
			}
		}()
		got := w.watch("http://10.0.0.1", upstream.Check{Kind: upstream.CheckHTTP, Unhealthy: 1, Interval: time.Minute})
		time.Sleep(time.Minute)
		got.assertLast("the header has no end", "10.0.0.1:80!")
		if n := written.Load(); n > 1<<20 {
			t.Errorf("%d bytes of headers were taken", n)
		}
	})
}

func TestGRPCCheck(t *testing.T) {
	cert, pool := certificate(t, "app.example")
	for _, url := range []string{"h2c://app.example.:443", "https://app.example."} {
		t.Run(url, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t, func(o *upstream.Options) { o.TLS = &tls.Config{RootCAs: pool} })
				w.dns.setHost("app.example.", 300, "10.0.0.1")
				opts := []grpc.ServerOption{}
				if strings.HasPrefix(url, "https:") {
					opts = append(opts, grpc.Creds(credentials.NewServerTLSFromCert(&cert)))
				}
				server, state := grpc.NewServer(opts...), health.NewServer()
				healthpb.RegisterHealthServer(server, state)
				l, err := w.net.Listen("tcp", "10.0.0.1:443")
				if err != nil {
					t.Fatal(err)
				}
				go server.Serve(l)
				t.Cleanup(server.Stop)

				whole := w.watch(url, upstream.Check{Kind: upstream.CheckGRPC})
				catalog := w.watch(url, upstream.Check{Kind: upstream.CheckGRPC, Service: "catalog", Host: "x.example"})
				assert := func(watch *watched, what, problem string) {
					t.Helper()
					s := watch.State().Instances[0]
					if s.Healthy != (problem == "") || !strings.Contains(s.Error, problem) || problem == "" && s.Error != "" {
						t.Errorf("%s: the state is %+v, want the problem %q", what, s, problem)
					}
				}
				state.SetServingStatus("catalog", healthpb.HealthCheckResponse_SERVING)
				time.Sleep(time.Minute)
				assert(whole, "the server serves", "")
				assert(catalog, "the service serves", "")
				state.SetServingStatus("catalog", healthpb.HealthCheckResponse_NOT_SERVING)
				time.Sleep(time.Minute)
				assert(whole, "another service does not serve", "")
				assert(catalog, "the service does not serve", `"catalog" is NOT_SERVING`)
				state.SetServingStatus("catalog", healthpb.HealthCheckResponse_SERVING)
				time.Sleep(time.Minute)
				assert(catalog, "the service serves again", "")
				unknown := w.watch(url, upstream.Check{Kind: upstream.CheckGRPC, Service: "unknown"})
				time.Sleep(time.Minute)
				assert(unknown, "the service is not known", "unknown service")
				server.Stop()
				time.Sleep(time.Minute)
				assert(whole, "the server has stopped", "connection refused")
			})
		})
	}
}

func TestGRPCCheckOfServerWithoutHealthService(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, nil)
		server := grpc.NewServer()
		l, err := w.net.Listen("tcp", "10.0.0.1:50051")
		if err != nil {
			t.Fatal(err)
		}
		go server.Serve(l)
		t.Cleanup(server.Stop)
		w.serve("10.0.0.2:50051", newStatus(200).handle, nil) // HTTP/1.1
		for addr, want := range map[string]string{"10.0.0.1:50051": "Unimplemented", "10.0.0.2:50051": "rpc error"} {
			got := w.watch("h2c://"+addr, upstream.Check{Kind: upstream.CheckGRPC})
			time.Sleep(time.Minute)
			if s := got.State().Instances[0]; s.Healthy || !strings.Contains(s.Error, want) {
				t.Errorf("the state of %s is %+v, want an unhealthy one with %q", addr, s, want)
			}
		}
	})
}

func TestTLSOfChecksVerifiesTheName(t *testing.T) {
	cert, pool := certificate(t, "app.example", "10.0.0.1")
	for url, want := range map[string]string{
		"https://app.example.": "", "https://10.0.0.1": "", "https://_https._tcp.app.example.": "",
		"https://other.example.": "certificate is valid for app.example",
		"https://10.0.0.2":       "certificate is valid for 10.0.0.1",
	} {
		for _, kind := range []upstream.CheckKind{upstream.CheckHTTP, upstream.CheckTCP} {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t, func(o *upstream.Options) { o.TLS = &tls.Config{RootCAs: pool} })
				for _, name := range []string{"app.example.", "other.example."} {
					w.dns.setHost(name, 300, "10.0.0.1")
				}
				const service = "_https._tcp.app.example."
				w.dns.set(service, dnsmessage.TypeSRV, answer{records: []dnsmessage.Resource{
					srv(service, 300, 1, 443, "other.example."),
				}})
				for _, addr := range []string{"10.0.0.1:443", "10.0.0.2:443"} {
					w.serve(addr, func(_ http.ResponseWriter, r *http.Request) {
						if r.TLS == nil {
							t.Error("a check came without TLS")
						}
					}, func(s *http.Server) { s.TLSConfig = &tls.Config{Certificates: []tls.Certificate{cert}} })
				}
				got := w.watch(url, upstream.Check{Kind: kind})
				time.Sleep(time.Minute)
				s := got.State().Instances[0]
				if s.Healthy != (want == "") || !strings.Contains(s.Error, want) || want == "" && s.Error != "" {
					t.Errorf("the %s check of %s has the state %+v, want the problem %q", kind, url, s, want)
				}
			})
		}
	}
}
