package gateway_test

import (
	"bufio"
	"context"
	"crypto/tls"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"bijou.dev/services/gateway"
	"bijou.dev/services/gateway/gatewaytest"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/protobuf/types/known/wrapperspb"
)

// dialTLS opens a connection with TLS for www.example.org.
func (w *world) dialTLS(a *authority, protocol string) *tls.Conn {
	w.t.Helper()
	c, err := w.handshake(&tls.Config{ServerName: "www.example.org", RootCAs: a.pool, NextProtos: []string{protocol}})
	if err != nil {
		w.t.Fatal(err)
	}
	return c
}

// The guard against floods reads the bytes below TLS.
func TestHTTP2FloodsOverTLSAreDisconnected(t *testing.T) {
	for name, attack := range gatewaytest.Floods {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w, a, _ := newTLSWorld(t, toWeb)
				w.origin("web", "web-1", "", gatewaytest.Origin)
				c := gatewaytest.NewClient(w.dialTLS(a, "h2"))
				frames := 0
				for !c.Closed() && frames < 5000 {
					for range 10 {
						frames += attack.Step(c)
					}
					synctest.Wait()
				}
				<-c.Done()
				if frames > 1000 || w.metric("bijou_gateway_http2_errors_total", "kind="+attack.Kind) != 1 {
					t.Errorf("disconnected after %d frames, counted %v times; want at most 1,000 frames, and once", frames,
						w.metric("bijou_gateway_http2_errors_total", "kind="+attack.Kind))
				}
				time.Sleep(2 * time.Second) // net/http keeps a goroutine for one after GOAWAY
			})
		})
	}
}

func TestWebSocketsOverTLS(t *testing.T) {
	w, a, _ := newTLSWorld(t, toWeb)
	w.origin("web", "web-1", "", websocket(nil))
	c := w.dialTLS(a, "http/1.1")
	if _, err := io.WriteString(c, upgrade); err != nil {
		t.Fatal(err)
	}
	r := bufio.NewReader(c)
	res, err := http.ReadResponse(r, nil)
	if err != nil || res.StatusCode != http.StatusSwitchingProtocols {
		t.Fatalf("upgrading: %v, %v", res, err)
	}
	for _, b := range []string{"a", "b"} {
		if _, err := io.WriteString(c, b); err != nil {
			t.Fatal(err)
		}
		read(t, r, "\x81\x01"+b)
	}
	stopped := make(chan error, 1)
	go func() { stopped <- w.edge.Shutdown(t.Context()) }()
	read(t, r, "\x88\x02\x03\xe9") // the close frame: going away
	c.Close()
	if err := <-stopped; err != nil {
		t.Error(err)
	}
}

func TestGRPCOverTLS(t *testing.T) {
	w, a, _ := newTLSWorld(t, toCalls)
	w.grpcOrigin("calls", "calls-1")
	conn, err := grpc.NewClient("passthrough:///edge:443",
		grpc.WithTransportCredentials(credentials.NewTLS(&tls.Config{ServerName: "www.example.org", RootCAs: a.pool})),
		grpc.WithContextDialer(func(ctx context.Context, addr string) (net.Conn, error) {
			return w.net.DialContext(ctx, "tcp", addr)
		}))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	out := new(wrapperspb.StringValue)
	if err := conn.Invoke(t.Context(), "/test.v1.Calls/Echo", wrapperspb.String("hi"), out); err != nil ||
		out.Value != "hi" {
		t.Fatalf("got %q, %v", out.Value, err)
	}
}

// A client that reads nothing is disconnected, and does not delay a stop.
func TestClientOverTLSThatDoesNotRead(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, a, _ := newTLSWorld(t, toWeb)
		w.origin("web", "web-1", "", responds(strings.Repeat("x", 10<<20)))
		c := w.dialTLS(a, "http/1.1")
		if _, err := io.WriteString(c, "GET / HTTP/1.1\r\nHost: www.example.org\r\n\r\n"); err != nil {
			t.Fatal(err)
		}
		time.Sleep(25 * time.Second)
		synctest.Wait()
		if n := w.metric("bijou_gateway_connections_open"); n != 0 {
			t.Errorf("after 25 s %v connections are open, want none", n)
		}
	})
}

// An idle connection makes room for a new one, also if its client reads nothing.
func TestIdleConnectionsOverTLSMakeRoom(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, a, _ := newTLSWorld(t, toWeb, "gateway.maxConnections", "3")
		w.origin("web", "web-1", "", responds("hi"))
		for range 3 {
			w.dialRaw() // without a handshake
		}
		time.Sleep(time.Second)
		got := w.do(w.tlsClient(&tls.Config{RootCAs: a.pool}, "h2"), http.MethodGet, "https://www.example.org/", nil)
		if got.body != "hi" {
			t.Errorf("status %d, want the response of the origin", got.StatusCode)
		}
	})
}

// Handshakes for which there is no CPU time are given up, so that they do not pile up.
func TestHandshakesAreLimited(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, a, _ := newTLSWorld(t, toWeb)
		free := gateway.OccupyHandshakes(w.edge)
		start := time.Now()
		_, err := w.handshake(&tls.Config{ServerName: "www.example.org", RootCAs: a.pool})
		if err == nil || time.Since(start) != time.Second {
			t.Errorf("without a place the handshake ended after %v with the error %v, want one after 1 s", time.Since(start),
				err)
		}
		synctest.Wait() // the client sees the end before it is counted
		if n := w.gauge("bijou_gateway_tls_handshakes_total")["busy"]; n != 1 {
			t.Errorf("%v handshakes are counted as busy, want 1", n)
		}
		free()
		w.serial(a, "www.example.org")
	})
}
