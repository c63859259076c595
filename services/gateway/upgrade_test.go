package gateway_test

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

const upgradeRoutes = `[{"name":"web","to":[{"service":"web"}]},
	{"name":"own","match":{"prefix":"/own"},"to":[{"service":"web"}],"upgrade":["websocket","x-proto","SPDY/3.1"]},
	{"name":"none","match":{"prefix":"/none"},"to":[{"service":"web"}],"upgrade":[]}]`

// switches switches to the protocol that the client asks for, says which method it got, and sends back what comes.
func switches(rw http.ResponseWriter, r *http.Request) {
	c, buf, err := http.NewResponseController(rw).Hijack()
	if err != nil {
		return
	}
	defer c.Close()
	_, _ = fmt.Fprintf(c, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: %s\r\n\r\n%s ",
		r.Header.Get("Upgrade"), r.Method) // a client that left fails the test itself
	_, _ = io.Copy(c, buf)
}

// switchTo asks for a protocol.
func (w *world) switchTo(method, path, protocol string) (net.Conn, *bufio.Reader, *http.Response) {
	w.t.Helper()
	c := w.dial()
	text := method + " " + path + " HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: " + protocol + "\r\n\r\n"
	if _, err := io.WriteString(c, text); err != nil {
		w.t.Fatal(err)
	}
	r := bufio.NewReader(c)
	res, err := http.ReadResponse(r, nil)
	if err != nil {
		w.t.Fatal(err)
	}
	return c, r, res
}

func TestUpgradesOfARoute(t *testing.T) {
	for _, c := range []struct {
		method, path, protocol string
		status                 int
	}{
		{"GET", "/", "websocket", 101},
		{"GET", "/", "x-proto", 400},
		{"GET", "/", "SPDY/3.1", 400},
		{"GET", "/own", "WebSocket", 101},
		{"GET", "/own", "x-proto", 101},
		{"GET", "/own", "X-Proto", 101},
		{"POST", "/own", "SPDY/3.1", 101},
		{"GET", "/own", "SPDY/3.2", 400},
		{"GET", "/own", "SPDY", 400},
		{"POST", "/own", "websocket", 400},
		{"GET", "/own", "x-proto, websocket", 400},
		{"GET", "/own", "x-proto\r\nUpgrade: y", 400},
		{"GET", "/none", "websocket", 400},
		{"GET", "/none", "x-proto", 400},
	} {
		w := newWorld(t, upgradeRoutes)
		w.origin("web", "web-1", "", http.HandlerFunc(switches))
		conn, r, res := w.switchTo(c.method, c.path, c.protocol)
		if res.StatusCode != c.status {
			t.Errorf("%s %s to %q: got %d, want %d", c.method, c.path, c.protocol, res.StatusCode, c.status)
			continue
		}
		if c.status == 400 {
			if !res.Close || res.Header.Get("X-Bijou-Fault") != "client" {
				t.Errorf("%s to %q: got %v, want the fault client and the connection closed", c.path, c.protocol, res.Header)
			}
			continue
		}
		if got := res.Header.Get("Upgrade"); !strings.EqualFold(got, c.protocol) {
			t.Errorf("%s to %q: the answer has Upgrade %q", c.path, c.protocol, got)
		}
		read(t, r, c.method+" ")
		// In a WebSocket these bytes would be a head of a frame with 2^63 bytes behind it.
		const bytes = "\x82\x7f\x7f\xff\xff\xff\xff\xff\xff\xff hello"
		if _, err := io.WriteString(conn, bytes); err != nil {
			t.Fatal(err)
		}
		read(t, r, bytes)
	}
}

// Without a route that has other protocols, they are refused before a route is looked for.
func TestOtherUpgradesAreRefusedByDefault(t *testing.T) {
	w := newWorld(t, toWeb)
	for _, protocol := range []string{"x-proto", "tls", "h2", "websocket, x"} {
		if _, _, res := w.switchTo("GET", "/", protocol); res.StatusCode != 400 {
			t.Errorf("%q: got %d, want 400", protocol, res.StatusCode)
		}
	}
}

// A stop gives a protocol that the edge does not know some time, and then closes it: there is no frame to send.
func TestStopClosesOtherProtocols(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, upgradeRoutes)
		w.origin("web", "web-1", "", http.HandlerFunc(switches))
		begin := time.Now()
		conn, r, _ := w.switchTo("GET", "/own", "x-proto")
		read(t, r, "GET ")
		stopped := make(chan error, 1)
		go func() {
			ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
			defer cancel()
			stopped <- w.edge.Shutdown(ctx)
		}()
		time.Sleep(time.Second)
		if _, err := io.WriteString(conn, "abc"); err != nil {
			t.Fatal(err)
		}
		rest, _ := io.ReadAll(r) // until it is closed
		if took := time.Since(begin); string(rest) != "abc" || took > 19*time.Second {
			t.Errorf("after %v the connection was closed behind %q, want it closed in time behind abc", took, rest)
		}
		if err := <-stopped; err != nil {
			t.Error(err)
		}
	})
}
