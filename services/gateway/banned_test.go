package gateway_test

import (
	"bufio"
	"errors"
	"io"
	"net"
	"net/http"
	"strings"
	"syscall"
	"testing"
)

// onLoopback makes the edge listen on an address of its own and returns it: clients have the address 127.0.0.1.
func (w *world) onLoopback() string {
	w.t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		w.t.Fatal(err)
	}
	served := make(chan error, 1)
	go func() { served <- w.edge.Serve(l) }()
	w.t.Cleanup(func() {
		w.edge.Close()
		if err := <-served; err != nil {
			w.t.Error(err)
		}
	})
	return l.Addr().String()
}

// grpc makes a gRPC call as a client with this address.
func (w *world) grpc(client string) answer {
	w.t.Helper()
	return w.do(w.client(true), http.MethodPost, "http://x/a.B/C", nil, "X-Forwarded-For", client, "Content-Type",
		"application/grpc", "Te", "trailers")
}

func dialTCP(t *testing.T, addr string) net.Conn {
	t.Helper()
	c, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

// assertClosed waits until the edge closes a connection.
func assertClosed(t *testing.T, what string, c io.Reader) {
	t.Helper()
	if b, err := io.ReadAll(c); len(b) > 0 || err != nil && !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("%s: got %q, %v; want it closed without an answer", what, b, err)
	}
}

// The list is live: it closes open connections, and then new ones at once.
func TestConnectionsOfBannedAddressesAreClosed(t *testing.T) {
	w := newWorld(t, `[{"name":"all","respond":{"body":"ok"}}]`, "gateway.banned", `["192.0.2.0/24"]`)
	addr := w.onLoopback()
	open := dialTCP(t, addr)
	r := bufio.NewReader(open)
	if _, err := io.WriteString(open, "GET / HTTP/1.1\r\nHost: x\r\n\r\n"); err != nil {
		t.Fatal(err)
	}
	res, err := http.ReadResponse(r, nil)
	if err != nil || res.StatusCode != http.StatusOK {
		t.Fatalf("before the ban: %v, %v; want status 200", res, err)
	}
	_, _ = io.Copy(io.Discard, res.Body) // so that only what comes later is left
	w.put("gateway.banned", `["127.0.0.0/8"]`)
	assertClosed(t, "a connection that was open when its address was banned", r)
	assertClosed(t, "a new connection of a banned address", dialTCP(t, addr))
	if got := w.metric("bijou_gateway_connections_refused_total"); got != 1 {
		t.Errorf("bijou_gateway_connections_refused_total is %v, want 1", got)
	}
	w.put("gateway.banned", `[]`)
	again, err := http.Get("http://" + addr + "/")
	if err != nil || again.StatusCode != http.StatusOK {
		t.Errorf("after the ban: %v, %v; want status 200", again, err)
	}
	if err == nil {
		again.Body.Close()
	}
}

// Behind trusted proxies the connections are those of the proxies, and the requests of banned clients are refused.
func TestRequestsOfBannedClientsAreRefused(t *testing.T) {
	w := newWorld(t, `[{"name":"all","respond":{"body":"ok"}}]`, "gateway.trustedHops", "1",
		"gateway.banned", `["192.0.2.7","2001:db8::/32","127.0.0.1"]`)
	for client, want := range map[string]int{
		"192.0.2.7": 403, "192.0.2.8": 200, "::ffff:192.0.2.7": 403, "2001:db8::1": 403, "192.0.2.8, 192.0.2.7": 403,
		"192.0.2.7, 192.0.2.8": 200,
	} {
		res := w.get("http://x/", "X-Forwarded-For", client)
		if res.StatusCode != want {
			t.Errorf("X-Forwarded-For %s: %d %s, want %d", client, res.StatusCode, res.body, want)
		}
		if want == 403 && (res.Header.Get("X-Bijou-Fault") != "client" || !strings.Contains(res.body, `"status":403`)) {
			t.Errorf("X-Forwarded-For %s: %v %s, want a problem with the fault client", client, res.Header, res.body)
		}
	}
	if got := w.metric("bijou_gateway_limited_total"); got != 4 {
		t.Errorf("bijou_gateway_limited_total is %v, want 4: each refused request", got)
	}
	w.put("gateway.redirectToHTTPS", `{"hosts": ["*"]}`)
	if res := w.get("http://x/", "X-Forwarded-For", "192.0.2.7"); res.StatusCode != 403 {
		t.Errorf("a banned client where clients are redirected to https: %d, want 403", res.StatusCode)
	}
	w.put("gateway.redirectToHTTPS", `{}`)
	if res := w.grpc("192.0.2.7"); res.Header.Get("Grpc-Status") != "7" {
		t.Errorf("a gRPC call of a banned client: grpc-status %q, want 7, PERMISSION_DENIED", res.Header.Get("Grpc-Status"))
	}
	c := dialTCP(t, w.onLoopback())
	if _, err := io.WriteString(c, "GET / HTTP/1.1\r\nHost: x\r\nX-Forwarded-For: 192.0.2.8\r\n\r\n"); err != nil {
		t.Fatal(err)
	}
	res, err := http.ReadResponse(bufio.NewReader(c), nil)
	if err != nil || res.StatusCode != http.StatusOK {
		t.Errorf("a connection of a banned proxy: %v, %v; want its clients served, because only these count", res, err)
	}
}

func TestAListOfBannedAddressesThatCannotBeReadIsNotUsed(t *testing.T) {
	w := newWorld(t, `[{"name":"all","respond":{}}]`, "gateway.trustedHops", "1", "gateway.banned", `["192.0.2.7"]`)
	if err := w.set.Put("gateway.banned", `["10.0.0.1/8"]`); err == nil || !strings.Contains(err.Error(), "10.0.0.0/8") {
		t.Errorf("a network with bits behind its length: error %v, want one that says what a network is", err)
	}
	if res := w.get("http://x/", "X-Forwarded-For", "192.0.2.7"); res.StatusCode != http.StatusForbidden {
		t.Errorf("after a list was refused: %d, want 403 by the list before", res.StatusCode)
	}
}
