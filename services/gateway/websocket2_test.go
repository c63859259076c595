package gateway_test

import (
	"bytes"
	"context"
	"crypto/sha1" //nolint:gosec // of WebSocket
	"crypto/tls"
	"encoding/base64"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/net/http2"
)

// tunnel2 is a WebSocket over a stream of HTTP/2 (RFC 8441).
type tunnel2 struct {
	res            *http.Response // closing its body resets the stream
	io.WriteCloser                // closing it ends the direction to the edge
}

// client2 is a client with one connection of HTTP/2.
type client2 struct {
	w    *world
	tr   *http2.Transport //nolint:staticcheck // that of net/http refuses requests with a protocol
	conn net.Conn
}

func (w *world) client2() *client2 {
	c := &client2{w: w}
	dial := func(ctx context.Context, network, _ string, _ *tls.Config) (conn net.Conn, err error) {
		c.conn, err = w.net.DialContext(ctx, network, "edge:80")
		return c.conn, err
	}
	c.tr = &http2.Transport{AllowHTTP: true, DialTLSContext: dial} //nolint:staticcheck // see client2
	w.t.Cleanup(c.tr.CloseIdleConnections)                         //nolint:staticcheck // see client2
	return c
}

// open asks for a WebSocket.
func (c *client2) open(path, protocol string, header ...string) tunnel2 {
	c.w.t.Helper()
	body, send := io.Pipe()
	req, err := http.NewRequestWithContext(c.w.t.Context(), http.MethodConnect, "http://x"+path, body)
	if err != nil {
		c.w.t.Fatal(err)
	}
	req.Header = http.Header{":protocol": {protocol}, "Sec-Websocket-Version": {"13"}}
	for i := 0; i < len(header); i += 2 {
		req.Header.Add(header[i], header[i+1])
	}
	res, err := c.tr.RoundTrip(req) //nolint:staticcheck // see client2
	if err != nil {
		c.w.t.Fatalf("%s %s: %v", path, protocol, err)
	}
	c.w.t.Cleanup(func() { _ = res.Body.Close() }) // it may be closed
	return tunnel2{res, send}
}

// mustOpen opens a WebSocket.
func (c *client2) mustOpen(header ...string) tunnel2 {
	c.w.t.Helper()
	opened := c.open("/ws", "websocket", header...)
	if opened.res.StatusCode != http.StatusOK {
		c.w.t.Fatalf("opening a WebSocket: %s, want 200", opened.res.Status)
	}
	return opened
}

// get sends another request on the connection.
func (c *client2) get(path string) answer {
	c.w.t.Helper()
	return c.w.do(&http.Client{Transport: c.tr}, "GET", "http://x"+path, nil)
}

// accepts is an origin of WebSockets that sends bytes back. Other requests get 426. Each upgrade is sent to seen, and
// the error of reading from its connection to ended, unless the channel is nil.
func accepts(seen chan<- *http.Request, ended chan<- error) http.Handler {
	return http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Upgrade") == "" {
			rw.WriteHeader(http.StatusUpgradeRequired)
			return
		}
		if seen != nil {
			seen <- r
		}
		const guid = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
		sum := sha1.Sum([]byte(r.Header.Get("Sec-Websocket-Key") + guid)) //nolint:gosec // RFC 6455 says so
		err := echoOn(rw, base64.StdEncoding.EncodeToString(sum[:])+"\r\nSec-WebSocket-Protocol: chat", "")
		if ended != nil {
			ended <- err
		}
	})
}

// A browser that has a connection of HTTP/2 opens its WebSockets on it. The origin gets them by HTTP/1.1.
func TestWebSocketsOverHTTP2(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, toWeb)
		seen := make(chan *http.Request, 2)
		w.origin("web", "web-1", "", accepts(seen, nil))
		c := w.client2()
		a := c.mustOpen("Sec-Websocket-Protocol", "chat", "Origin", "http://x")
		if h := a.res.Header; h.Get("Sec-Websocket-Protocol") != "chat" || h.Get("Sec-Websocket-Accept") != "" ||
			h.Get("X-Request-Id") == "" {
			t.Errorf("the header of the response is %v", h)
		}
		r := <-seen
		key, err := base64.StdEncoding.DecodeString(r.Header.Get("Sec-Websocket-Key"))
		if h := r.Header; r.Method != "GET" || r.ProtoMajor != 1 || h.Get("Upgrade") != "websocket" ||
			h.Get("Connection") != "Upgrade" || h.Get("Origin") != "http://x" || len(key) != 16 || err != nil ||
			!strings.HasPrefix(h.Get("Via"), "2.0 ") {
			t.Errorf("the origin got %s %v", r.Method, h)
		}
		b := c.mustOpen()
		for _, ws := range []tunnel2{a, b, a} { // side by side
			_, _ = io.WriteString(ws, "\x81\x05hello") // an error shows as a missing answer
			read(t, ws.res.Body, "\x81\x05hello")
		}
		if got := w.metric("bijou_gateway_websockets_open"); got != 2 {
			t.Errorf("%v tunnels are counted, want 2", got)
		}
		if got := w.metric("bijou_gateway_connections_open"); got != 1 {
			t.Errorf("there are %v connections, want 1", got)
		}

		// One is quiet for an hour. The end of the other one passes in both directions.
		time.Sleep(time.Hour)
		_ = b.Close() // the stream has no more
		if rest, err := io.ReadAll(b.res.Body); err != nil || len(rest) > 0 {
			t.Errorf("the closed tunnel ends with %q, %v", rest, err)
		}
		w.checkLog("/ws", 200, "")
		_, _ = io.WriteString(a, "\x81\x02ok")
		read(t, a.res.Body, "\x81\x02ok")
		if res := c.get("/a"); res.StatusCode != http.StatusUpgradeRequired {
			t.Errorf("another request of the connection got %d, want 426", res.StatusCode)
		}
		synctest.Wait()
		if got := w.metric("bijou_gateway_websockets_open"); got != 1 {
			t.Errorf("%v tunnels are counted, want 1", got)
		}
	})
}

// Megabytes pass both ways, within the windows of both sides.
func TestWebSocketsOverHTTP2PassManyBytes(t *testing.T) {
	w := newWorld(t, toWeb)
	w.origin("web", "web-1", "", accepts(nil, nil))
	c := w.client2().mustOpen()
	sent := bytes.Repeat([]byte("0123456789abcdef"), 256<<10)
	go func() {
		_, _ = c.Write(sent) // an error shows as a missing answer
		_ = c.Close()
	}()
	if got, err := io.ReadAll(c.res.Body); err != nil || !bytes.Equal(got, sent) {
		t.Errorf("%d bytes came back, %v; want %d, unchanged", len(got), err, len(sent))
	}
}

// A client that resets the stream, or leaves with its connection, ends the connection of the origin.
func TestClientsOfHTTP2ThatLeaveTheirWebSockets(t *testing.T) {
	for name, leave := range map[string]func(*client2, tunnel2){
		"the stream":     func(_ *client2, ws tunnel2) { _ = ws.res.Body.Close() }, // what it does shows below
		"the connection": func(c *client2, _ tunnel2) { _ = c.conn.Close() },
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t, toWeb)
				ended := make(chan error, 1)
				w.origin("web", "web-1", "", accepts(nil, ended))
				c := w.client2()
				leave(c, c.mustOpen())
				<-ended
				time.Sleep(time.Minute)
				for _, m := range []string{"bijou_gateway_websockets_open", "bijou_gateway_requests_in_flight"} {
					if got := w.metric(m); got != 0 {
						t.Errorf("%s is %v, want 0", m, got)
					}
				}
			})
		})
	}
}

// A stop sends a close frame, and the edge ends in time also if the client does not answer it.
func TestStopWithWebSocketsOverHTTP2(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, toWeb)
		w.origin("web", "web-1", "", accepts(nil, nil))
		c := w.client2().mustOpen()
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
		defer cancel()
		begin := time.Now()
		if err := w.edge.Shutdown(ctx); err != nil || time.Since(begin) > 20*time.Second {
			t.Errorf("stopping: %v after %v", err, time.Since(begin))
		}
		read(t, c.res.Body, "\x88\x02\x03\xe9")
	})
}

// What is not a WebSocket that the route has is refused, and only the stream ends.
func TestWebSocketsOverHTTP2ThatAreRefused(t *testing.T) {
	const routes = `[{"name":"web","to":[{"service":"web"}]},
		{"name":"none","match":{"prefix":"/none"},"to":[{"service":"web"}],"upgrade":[]}]`
	origin := func(rw http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/200":
		case "/403":
			http.Error(rw, "not you", http.StatusForbidden)
		case "/none", "/ws":
			accepts(nil, nil).ServeHTTP(rw, r)
		default:
			echoes("").ServeHTTP(rw, r) // with a wrong Sec-WebSocket-Accept
		}
	}
	for _, c := range []struct {
		path, protocol string
		status         int
		fault          string
	}{
		{"/ws", "websocket", 200, ""},
		{"/ws", "connect-udp", 501, "client"},
		{"/none", "websocket", 400, "client"},
		{"/200", "websocket", 502, "origin_error"},
		{"/403", "websocket", 403, ""},
		{"/wrong", "websocket", 502, "origin_error"},
	} {
		synctest.Test(t, func(t *testing.T) {
			w := newWorld(t, routes)
			w.origin("web", "web-1", "", http.HandlerFunc(origin))
			client := w.client2()
			res := client.open(c.path, c.protocol).res
			if fault := res.Header.Get("X-Bijou-Fault"); res.StatusCode != c.status || fault != c.fault {
				t.Errorf("%s %s: got %d %q, want %d %q", c.path, c.protocol, res.StatusCode, fault, c.status, c.fault)
			}
			if res := client.get("/403"); res.StatusCode != 403 {
				t.Errorf("%s: the next request got %d, want 403", c.path, res.StatusCode)
			}
		})
	}
}

// A protocol belongs to CONNECT, with a scheme, a path and an authority (RFC 8441, 4).
func TestMalformedProtocolsOverHTTP2(t *testing.T) {
	for fields, want := range map[string]string{
		":method CONNECT :protocol websocket :scheme http :authority x :path /":                    "1 503",
		":method CONNECT :authority x":                                                             "1 405",
		":method GET :protocol websocket :scheme http :authority x :path /":                        "1 PROTOCOL_ERROR",
		":method CONNECT :protocol websocket :scheme http :path /":                                 "1 PROTOCOL_ERROR",
		":method CONNECT :protocol websocket :scheme http :authority x":                            "1 PROTOCOL_ERROR",
		":method CONNECT :protocol websocket :authority x :path /":                                 "1 PROTOCOL_ERROR",
		":method CONNECT :protocol websocket :protocol a :scheme http :authority x :path /":        "1 PROTOCOL_ERROR",
		":method CONNECT :protocol websocket :scheme http :authority x :path / connection Upgrade": "1 400",
		":method CONNECT :protocol websocket :scheme http :authority x :path / upgrade websocket":  "1 400",
		":method CONNECT :protocol websocket :scheme http :authority x :path / content-length 3":   "1 400",
		":method CONNECT :protocol websocket :scheme http :authority x :path /../a":                "1 400",
	} {
		synctest.Test(t, func(t *testing.T) {
			w := newWorld(t, toWeb) // without an instance
			got := w.frames(func(f framer) {
				f.raw(http2.FrameHeaders, endHeaders, 1, string(block(strings.Fields(fields)...)))
			})
			if !strings.Contains(got, want) {
				t.Errorf("%s: the edge answered %q, want %q in it", fields, got, want)
			}
		})
	}
}
