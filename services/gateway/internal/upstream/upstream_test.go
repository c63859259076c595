package upstream_test

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"net"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"bijou.dev/services/gateway/internal/upstream"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/net/dns/dnsmessage"
)

func TestFunctionMayStopItsWatch(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, nil)
		w.dns.setHost("app.example.", 1, "10.0.0.1")
		var watch *upstream.Watch
		known := make(chan struct{})
		calls := 0
		watch = w.set.Watch(parse(t, "http://app.example."), upstream.Check{}, func(list []upstream.Instance) {
			if calls++; len(list) > 0 {
				<-known
				watch.Stop()
			}
		})
		close(known)
		<-watch.Ready()
		w.dns.setHost("app.example.", 1, "10.0.0.2")
		time.Sleep(time.Hour)
		if calls != 2 {
			t.Errorf("the function was called %d times, want 2: with no instance, and with the one at which it stopped", calls)
		}
	})
}

func TestFunctionMayReadTheState(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, nil)
		w.dns.setHost("app.example.", 1, "10.0.0.1")
		var watch *upstream.Watch
		known := make(chan struct{})
		instances := 0
		watch = w.set.Watch(parse(t, "http://app.example."), upstream.Check{}, func(list []upstream.Instance) {
			if len(list) > 0 {
				<-known
				instances = len(watch.State().Instances)
			}
		})
		close(known)
		defer watch.Stop()
		<-watch.Ready()
		if instances != 1 {
			t.Errorf("the state had %d instances when the function was called with one", instances)
		}
	})
}

func TestFunctionMayChangeItsList(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, nil)
		w.dns.setHost("app.example.", 1, "10.0.0.1", "10.0.0.2")
		calls := 0
		watch := w.set.Watch(parse(t, "http://app.example."), upstream.Check{}, func(list []upstream.Instance) {
			calls++
			clear(list)
		})
		defer watch.Stop()
		time.Sleep(10 * time.Minute)
		if calls != 2 {
			t.Errorf("the function was called %d times although the instances did not change, want 2", calls)
		}
	})
}

// A DNS server that does not answer must hold up neither Watch nor Stop.
func TestStopDoesNotWaitForALookup(t *testing.T) {
	for _, url := range []string{"http://app.example.", "http://_http._tcp.app.example."} {
		synctest.Test(t, func(t *testing.T) {
			w := newWorld(t, nil)
			for _, kind := range []dnsmessage.Type{dnsmessage.TypeA, dnsmessage.TypeAAAA} {
				w.dns.set("app.example.", kind, answer{hang: true})
			}
			w.dns.set("_http._tcp.app.example.", dnsmessage.TypeSRV, answer{hang: true})
			begin := time.Now()
			got := w.watch(url, upstream.Check{})
			synctest.Wait()
			got.Stop()
			got.Stop()
			if took := time.Since(begin); took != 0 {
				t.Errorf("Watch and Stop of %s took %v while a DNS server did not answer", url, took)
			}
			<-got.Ready() // nobody waits for it for ever
			if n := got.count(); n != 1 {
				t.Errorf("%s: the function was called %d times, want once", url, n)
			}
		})
	}
}

func TestStateIsJSONForOperators(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, nil)
		found := time.Now()
		w.dns.setHost("app.example.", 300, "10.0.0.1", "10.0.0.2")
		w.serve("10.0.0.1:80", newStatus(200).handle, nil)
		got := w.watch("http://APP.example.:80", upstream.Check{
			Kind: upstream.CheckHTTP, Interval: time.Second, Unhealthy: 1,
		})
		if s := got.State(); s.Lookup == nil || !s.Lookup.Next.IsZero() || len(s.Instances) != 0 {
			t.Errorf("before the first look-up the state is %+v %+v, want no instances and no time of the next look-up", s,
				s.Lookup)
		}
		time.Sleep(time.Minute)
		s := got.State()
		since := s.Instances[1].Since
		if since.Before(found) || since.After(found.Add(time.Second)) {
			t.Errorf("the second instance is unhealthy since %v, want within a second from %v", since, found)
		}
		if next := s.Lookup.Next.Sub(found); next < 300*time.Second || next > 330*time.Second {
			t.Errorf("the next look-up is %v after the first, want 300s to 330s", next)
		}
		want := upstream.State{
			Target: "http://app.example.", Lookup: &upstream.LookupState{Next: s.Lookup.Next},
			Instances: []upstream.InstanceState{
				{Addr: "10.0.0.1:80", Healthy: true, Since: found},
				{Addr: "10.0.0.2:80", Since: since, Error: "dial tcp 10.0.0.2:80: connection refused"},
			},
		}
		if d := cmp.Diff(want, s); d != "" {
			t.Errorf("state (-want +got):\n%s", d)
		}
	})
}

func TestMetrics(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		registry := prometheus.NewRegistry()
		w := newWorld(t, func(o *upstream.Options) { o.Metrics = registry })
		w.dns.setHost("app.example.", 300, "10.0.0.1", "10.0.0.2")
		w.serve("10.0.0.1:80", newStatus(200).handle, nil)
		check := upstream.Check{Kind: upstream.CheckHTTP}
		a, b := w.watch("http://app.example.", check), w.watch("http://app.example.", upstream.Check{})
		w.watch("http://10.0.0.9", upstream.Check{})
		missing := w.watch("http://missing.example.", upstream.Check{})
		time.Sleep(time.Minute)
		missing.Stop()
		got := values(t, registry)
		for _, failed := range []string{"bijou_gateway_upstream_lookups_total not_found"} {
			if got[failed] < 3 {
				t.Errorf("%s is %v, want at least 3", failed, got[failed])
			}
			delete(got, failed)
		}
		want := map[string]float64{
			"bijou_gateway_upstream_instances true http://app.example.":  3, // both watches
			"bijou_gateway_upstream_instances false http://app.example.": 1,
			"bijou_gateway_upstream_instances true http://10.0.0.9":      1,
			"bijou_gateway_upstream_instances false http://10.0.0.9":     0,
			"bijou_gateway_upstream_lookups_total found":                 2,
		}
		if d := cmp.Diff(want, got); d != "" {
			t.Errorf("metrics (-want +got):\n%s", d)
		}
		a.Stop()
		b.Stop()
		if v, ok := values(t, registry)["bijou_gateway_upstream_instances true http://app.example."]; ok {
			t.Errorf("a target that is not watched any more has %v instances", v)
		}
	})
}

// values returns the value of each metric by its name and labels.
func values(t *testing.T, g prometheus.Gatherer) map[string]float64 {
	t.Helper()
	families, err := g.Gather()
	if err != nil {
		t.Fatal(err)
	}
	got := map[string]float64{}
	for _, f := range families {
		for _, m := range f.GetMetric() {
			key := f.GetName()
			for _, l := range m.GetLabel() {
				key += " " + l.GetValue()
			}
			got[key] = m.GetGauge().GetValue() + m.GetCounter().GetValue()
		}
	}
	return got
}

func TestDialNegotiatesTheProtocol(t *testing.T) {
	cert, pool := certificate(t, "app.example")
	for _, c := range []struct {
		what     string
		offered  []string
		protocol string
		want     string // what was agreed to
		problem  string
	}{
		{"HTTP/2 with a server of both", []string{"h2", "http/1.1"}, upstream.HTTP2, "h2", ""},
		{"HTTP/1.1 with a server of both", []string{"h2", "http/1.1"}, upstream.HTTP1, "http/1.1", ""},
		{"HTTP/1.1 with a server without ALPN", nil, upstream.HTTP1, "", ""},
		{"HTTP/2 with a server without ALPN", nil, upstream.HTTP2, "", "does not offer HTTP/2"},
		{"HTTP/2 with a server of HTTP/1.1", []string{"http/1.1"}, upstream.HTTP2, "", "no application protocol"},
	} {
		t.Run(c.what, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				counting := &countingDial{}
				w := newWorld(t, func(o *upstream.Options) {
					counting.dial, o.DialContext = o.DialContext, counting.DialContext
					o.TLS = &tls.Config{RootCAs: pool}
				})
				w.listenTLS("10.0.0.1:443", &tls.Config{Certificates: []tls.Certificate{cert}, NextProtos: c.offered})
				ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
				defer cancel()
				conn, err := w.set.Dial(ctx, parse(t, "https://app.example"), "10.0.0.1:443", c.protocol)
				if c.problem != "" {
					op, ok := errors.AsType[*net.OpError](err)
					if !ok || op.Op != "dial" || !strings.Contains(err.Error(), c.problem) {
						t.Errorf("the error is %v, want a *net.OpError of a dial with %q", err, c.problem)
					}
					if n := counting.open.Load(); n != 0 {
						t.Errorf("%d connections are open after the error", n)
					}
					return
				}
				if err != nil {
					t.Fatal(err)
				}
				defer conn.Close()
				if got := conn.(*tls.Conn).ConnectionState().NegotiatedProtocol; got != c.want {
					t.Errorf("the protocol is %q, want %q", got, c.want)
				}
			})
		})
	}
}

// listenTLS makes the TLS handshake with each connection.
func (w *world) listenTLS(addr string, config *tls.Config) {
	w.t.Helper()
	l, err := w.net.Listen("tcp", addr)
	if err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(func() { l.Close() })
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer conn.Close()
				_, _ = io.Copy(io.Discard, tls.Server(conn, config))
			}()
		}
	}()
}

func TestDialVerifiesTheCertificate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		cert, _ := certificate(t, "app.example")
		config := &tls.Config{RootCAs: x509.NewCertPool()}
		w := newWorld(t, func(o *upstream.Options) { o.TLS = config })
		w.listenTLS("10.0.0.1:443", &tls.Config{Certificates: []tls.Certificate{cert}})
		_, err := w.set.Dial(t.Context(), parse(t, "https://app.example"), "10.0.0.1:443", upstream.HTTP1)
		op, ok := errors.AsType[*net.OpError](err)
		_, unknown := errors.AsType[x509.UnknownAuthorityError](err)
		if !ok || op.Op != "dial" || !unknown {
			t.Errorf("the error is %v, want a *net.OpError of a dial about an unknown authority", err)
		}
		if config.ServerName != "" || config.NextProtos != nil || config.ClientSessionCache != nil {
			t.Error("the caller's TLS configuration was changed")
		}
	})
}

func TestDialEndsWithItsContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, nil)
		l, err := w.net.Listen("tcp", "10.0.0.1:443") // nobody accepts, so there is no handshake
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		begin := time.Now()
		_, err = w.set.Dial(ctx, parse(t, "https://app.example"), "10.0.0.1:443", upstream.HTTP1)
		if took := time.Since(begin); !errors.Is(err, context.DeadlineExceeded) || took != time.Second {
			t.Errorf("Dial returned %v after %v, its context ended after 1s", err, took)
		}
	})
}

func TestUnixSocket(t *testing.T) {
	file := filepath.Join(t.TempDir(), "app.sock")
	l, err := net.Listen("unix", file)
	if err != nil {
		t.Skipf("unix sockets: %v", err)
	}
	defer l.Close()
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			_, _ = io.WriteString(conn, "hello")
			_ = conn.Close()
		}
	}()
	set := upstream.New(upstream.Options{})
	target := parse(t, "unix://"+file)
	var addr string
	defer set.Watch(target, upstream.Check{}, func(list []upstream.Instance) { addr = list[0].Addr }).Stop()
	conn, err := set.Dial(t.Context(), target, addr, upstream.HTTP1)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if got, err := io.ReadAll(conn); string(got) != "hello" {
		t.Errorf("the server at the socket sent %q, %v, want hello", got, err)
	}
}
