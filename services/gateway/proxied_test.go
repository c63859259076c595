package gateway_test

import (
	"bufio"
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"runtime"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"bijou.dev/services/gateway"
)

// trustLoopback makes 127.0.0.1 a proxy; other addresses of loopback are none.
const trustLoopback = `{"http": ["127.0.0.1"], "https": ["127.0.0.1"]}`

// proxied is an edge on loopback whose listeners have the PROXY protocol. Its origin answers with X-Forwarded-For.
type proxied struct {
	*world
	http, https string // addresses
	authority   *authority
}

func newProxied(t *testing.T, settings ...string) *proxied {
	t.Helper()
	if runtime.GOOS != "linux" {
		t.Skip("only Linux has all of 127.0.0.0/8")
	}
	a, dir := newAuthority(t), t.TempDir()
	a.write(dir+"/www.crt", dir+"/www.key", nextYear(), "www.example.org")
	w := worldWith(t, gateway.EdgeOptions{Options: gateway.Options{Certs: dir}}, toWeb,
		append([]string{"gateway.proxyProtocol", trustLoopback}, settings...)...)
	w.origin("web", "web-1", "", http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		_, _ = io.WriteString(rw, r.Header.Get("X-Forwarded-For")) // a client that left fails the test itself
	}))
	p := &proxied{world: w, http: w.onLoopback(), authority: a}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	served := make(chan error, 1)
	go func() { served <- w.edge.ServeTLS(l) }()
	t.Cleanup(func() {
		w.edge.Close()
		if err := <-served; err != nil {
			t.Error(err)
		}
	})
	p.https = l.Addr().String()
	return p
}

// ask sends a request on a new connection from an address to another, on which first comes before all others.
func (p *proxied) ask(scheme, from, to, first string, h2 bool, header ...string) (answer, error) {
	p.t.Helper()
	tr := &http.Transport{
		DialContext: func(ctx context.Context, network, _ string) (net.Conn, error) {
			c, err := (&net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(from)}}).DialContext(ctx, network, to)
			if err != nil || first == "" {
				return c, err
			}
			_, err = io.WriteString(c, first)
			return c, err
		},
		TLSClientConfig: &tls.Config{RootCAs: p.authority.pool}, Protocols: new(http.Protocols),
		DisableKeepAlives: true,
	}
	tr.Protocols.SetHTTP1(!h2)
	tr.Protocols.SetHTTP2(h2)
	tr.Protocols.SetUnencryptedHTTP2(h2)
	defer tr.CloseIdleConnections()
	req, err := http.NewRequestWithContext(p.t.Context(), http.MethodGet, scheme+"://www.example.org/", nil)
	if err != nil {
		p.t.Fatal(err)
	}
	for i := 0; i < len(header); i += 2 {
		req.Header.Add(header[i], header[i+1])
	}
	res, err := tr.RoundTrip(req)
	if err != nil {
		return answer{}, err
	}
	defer res.Body.Close()
	body, err := io.ReadAll(res.Body)
	return answer{res, string(body)}, err
}

// eachProtocol calls f for HTTP/1 and HTTP/2, with and without TLS.
func (p *proxied) eachProtocol(f func(name, scheme, addr string, h2 bool)) {
	for _, h2 := range []bool{false, true} {
		f(fmt.Sprintf("http, HTTP/2 %t", h2), "http", p.http, h2)
		f(fmt.Sprintf("https, HTTP/2 %t", h2), "https", p.https, h2)
	}
}

const (
	proxyV1      = "PROXY TCP4 198.51.100.7 203.0.113.1 4096 443\r\n"
	proxyUnknown = "PROXY UNKNOWN\r\n"
	proxyV2      = "\r\n\r\n\x00\r\nQUIT\n\x21\x11\x00\x0f\xc6\x33\x64\x07\xcb\x00\x71\x01\x10\x00\x01\xbb" +
		"\x04\x00\x00" // a TLV
	proxyV2IPv6 = "\r\n\r\n\x00\r\nQUIT\n\x21\x21\x00\x24\x20\x01\x0d\xb8\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00" +
		"\x07\x20\x01\x0d\xb8\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x01\x10\x00\x01\xbb"
	proxyLocal = "\r\n\r\n\x00\r\nQUIT\n\x20\x00\x00\x00"
)

func TestProxyProtocolSaysWhoTheClientIs(t *testing.T) {
	p := newProxied(t)
	p.eachProtocol(func(name, scheme, addr string, h2 bool) {
		for first, want := range map[string]string{
			proxyV1: "198.51.100.7", proxyV2: "198.51.100.7", proxyV2IPv6: "2001:db8::7", proxyUnknown: "127.0.0.1",
			proxyLocal: "127.0.0.1",
		} {
			res, err := p.ask(scheme, "127.0.0.1", addr, first, h2, "X-Forwarded-For", "192.0.2.66")
			if err != nil || res.body != want {
				t.Errorf("%s, %q: X-Forwarded-For is %q, %v; want %q", name, first, res.body, err, want)
			}
		}
	})
	if !strings.Contains(p.log.String(), `"client":"198.51.100.7"`) {
		t.Error("the access log does not have the address of the client")
	}
}

// An address that is not one of a proxy is closed, with and without a header: else who reaches the edge beside the
// proxy could choose an address, or avoid what the proxy does for its clients.
func TestProxyProtocolRefusesOthers(t *testing.T) {
	p := newProxied(t)
	p.eachProtocol(func(name, scheme, addr string, h2 bool) {
		for _, first := range []string{"", proxyV1, proxyV2} {
			if res, err := p.ask(scheme, "127.0.0.2", addr, first, h2); err == nil {
				t.Errorf("%s, %q: got %d, want the connection closed", name, first, res.StatusCode)
			}
		}
		for _, first := range []string{
			"", "PROXY TCP4 localhost 203.0.113.1 4096 443\r\n", proxyV2[:12] + "\x31" + proxyV2[13:],
		} {
			if res, err := p.ask(scheme, "127.0.0.1", addr, first, h2); err == nil {
				t.Errorf("%s, %q from the proxy: got %d, want the connection closed", name, first, res.StatusCode)
			}
		}
	})
	if n := strings.Count(p.log.String(), "gateway.proxyProtocol; further ones"); n != 1 {
		t.Errorf("the log has %d lines about refused connections, want 1", n)
	}
	if got := p.metric("bijou_gateway_connections_refused_total", "limit=proxy"); got == 0 {
		t.Error("bijou_gateway_connections_refused_total is 0")
	}
	if got := p.metric("bijou_gateway_proxy_headers_total", "result=missing"); got == 0 {
		t.Error("bijou_gateway_proxy_headers_total is 0")
	}
}

// A listener that the setting does not name takes a header for a request, which is refused.
func TestProxyProtocolIsOffByDefault(t *testing.T) {
	p := newProxied(t, "gateway.proxyProtocol", `{"https": ["127.0.0.1"]}`)
	if res, err := p.ask("http", "127.0.0.1", p.http, "", false); err != nil || res.body != "127.0.0.1" {
		t.Errorf("without a header: got %q, %v; want 127.0.0.1", res.body, err)
	}
	for _, first := range []string{proxyV1, proxyV2, proxyLocal} {
		c := dialTCP(t, p.http)
		if _, err := io.WriteString(c, first+"GET / HTTP/1.1\r\nHost: x\r\n\r\n"); err != nil {
			t.Fatal(err)
		}
		if res, err := http.ReadResponse(bufio.NewReader(c), nil); err != nil || res.StatusCode != 400 {
			t.Errorf("%q: got %v, %v; want 400", first, res, err)
		}
	}
	p.put("gateway.proxyProtocol", trustLoopback)
	if res, err := p.ask("http", "127.0.0.1", p.http, proxyV1, false); err != nil || res.body != "198.51.100.7" {
		t.Errorf("after the setting was changed: got %q, %v; want 198.51.100.7", res.body, err)
	}
}

// That the proxy itself is banned does not matter: its address is not that of a client.
func TestBansAndLimitsCountTheClientOfTheProxyProtocol(t *testing.T) {
	p := newProxied(t, "gateway.banned", `["198.51.100.0/24", "127.0.0.1"]`, "gateway.maxConnectionsPerClient", "1")
	if res, err := p.ask("http", "127.0.0.1", p.http, proxyV1, false); err == nil {
		t.Errorf("a banned client got %d, want its connection closed", res.StatusCode)
	}
	open := func(client string) (net.Conn, *bufio.Reader) {
		c := dialTCP(t, p.http)
		text := "PROXY TCP4 " + client + " 203.0.113.1 4096 443\r\nGET / HTTP/1.1\r\nHost: x\r\n\r\n"
		if _, err := io.WriteString(c, text); err != nil {
			t.Fatal(err)
		}
		return c, bufio.NewReader(c)
	}
	var last *bufio.Reader
	for _, client := range []string{"192.0.2.1", "192.0.2.2", "192.0.2.3"} { // one proxy, three clients
		_, r := open(client)
		res, err := http.ReadResponse(r, nil)
		if err != nil || res.StatusCode != http.StatusOK {
			t.Fatalf("%s: %v, %v; want 200", client, res, err)
		}
		_, _ = io.Copy(io.Discard, res.Body) // so that only what comes later is left
		last = r
	}
	c, _ := open("192.0.2.2")
	assertClosed(t, "a second connection of a client that may have one", c)
	p.put("gateway.banned", `["192.0.2.3", "127.0.0.1"]`)
	assertClosed(t, "an open connection of a client that is banned now", last)
	if got := p.metric("bijou_gateway_connections_open"); got > 3 {
		t.Errorf("%v connections are open, want at most 3", got)
	}
}

// With proxies before the one of the PROXY protocol, the client is in X-Forwarded-For.
func TestProxyProtocolWithTrustedHops(t *testing.T) {
	p := newProxied(t, "gateway.trustedHops", "1")
	res, err := p.ask("http", "127.0.0.1", p.http, proxyV1, false, "X-Forwarded-For", "203.0.113.66, 192.0.2.9")
	if want := "192.0.2.9, 198.51.100.7"; err != nil || res.body != want {
		t.Errorf("X-Forwarded-For is %q, %v; want %q", res.body, err, want)
	}
}

// fromAddress gives connections the address of a proxy.
type fromAddress struct {
	net.Listener
	addr net.Addr
}

func (l fromAddress) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	return addressed{c, l.addr}, err
}

type addressed struct {
	net.Conn
	addr net.Addr
}

func (c addressed) RemoteAddr() net.Addr { return c.addr }

// A header has 10 s, also one that comes byte by byte. Then the request has its own time.
func TestSlowProxyHeaders(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, `[{"name":"all","respond":{"body":"ok"}}]`, "gateway.proxyProtocol", `{"http": ["10.0.0.1"]}`)
		l, err := w.net.Listen("tcp", "edge:81")
		if err != nil {
			t.Fatal(err)
		}
		served := make(chan error, 1)
		go func() { served <- w.edge.Serve(fromAddress{l, &net.TCPAddr{IP: net.IPv4(10, 0, 0, 1)}}) }()
		t.Cleanup(func() {
			w.edge.Close()
			if err := <-served; err != nil {
				t.Error(err)
			}
		})
		send := func(header string, pause time.Duration) string {
			c, err := w.net.DialContext(t.Context(), "tcp", "edge:81")
			if err != nil {
				t.Fatal(err)
			}
			sent := make(chan struct{})
			defer func() {
				c.Close()
				<-sent
			}()
			go func() {
				defer close(sent)
				for i := range len(header) {
					time.Sleep(pause)
					if _, err := io.WriteString(c, header[i:i+1]); err != nil {
						return
					}
				}
				_, _ = io.WriteString(c, "GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n") // the edge may close first
			}()
			text, _ := io.ReadAll(c) // what came until it was closed
			return string(text)
		}
		for _, header := range []string{proxyV1, proxyV2} {
			if got := send(header, 100*time.Millisecond); !strings.HasSuffix(got, "ok") {
				t.Errorf("%q within 10 s: got %q, want an answer", header, got)
			}
			if got := send(header, time.Second); got != "" {
				t.Errorf("%q within a minute: got %q, want the connection closed", header, got)
			}
		}
		if got := w.metric("bijou_gateway_connections_open"); got != 0 {
			t.Errorf("%v connections are open, want 0", got)
		}
	})
}

// Real proxies: HAProxy with both versions and nginx, before HTTP/1 and HTTP/2, with and without TLS.
func TestProxyProtocolOfRealProxies(t *testing.T) {
	p := newProxied(t)
	tcp := []string{"haproxy", "-db", "-f", "CONF"}
	const haproxy = `
defaults
  mode tcp
  timeout connect 5s
  timeout client 5s
  timeout server 5s
listen edge
  bind LISTEN
  server edge TO `
	for name, c := range map[string]struct {
		command []string
		conf    string
	}{
		"HAProxy, version 1": {tcp, haproxy + "send-proxy\n"},
		"HAProxy, version 2": {tcp, haproxy + "send-proxy-v2 proxy-v2-options unique-id,crc32c\n"},
		"nginx": {nginx, `
load_module ` + nginxStream + `;
daemon off; master_process off; pid DIR/pid; error_log stderr;
events {}
stream { server { listen LISTEN; proxy_pass TO; proxy_protocol on; } }
`},
	} {
		t.Run(name, func(t *testing.T) {
			if c.command[0] == "nginx" {
				need(t, nginxStream)
			}
			p.eachProtocol(func(name, scheme, addr string, h2 bool) {
				res, err := p.ask(scheme, "127.0.0.9", startProgram(t, c.command, c.conf, addr), "", h2)
				if err != nil || res.body != "127.0.0.9" {
					t.Errorf("%s: X-Forwarded-For is %q, %v; want 127.0.0.9", name, res.body, err)
				}
			})
		})
	}
}

const nginxStream = "/usr/lib/nginx/modules/ngx_stream_module.so"
