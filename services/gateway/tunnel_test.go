package gateway_test

import (
	"bufio"
	"bytes"
	"context"
	"crypto/sha256"
	"io"
	"net"
	"net/http"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"bijou.dev/services/gateway"
)

// echoes is an origin of WebSockets that sends bytes back as they come, with the first ones in the same segment as the
// header.
func echoes(first string) http.Handler {
	return http.HandlerFunc(func(rw http.ResponseWriter, _ *http.Request) {
		_ = echoOn(rw, "a", first) // how the client has left
	})
}

// echoOn switches to WebSocket, sends first and then what comes, and returns the error of reading.
func echoOn(rw http.ResponseWriter, accept, first string) error {
	conn, buf, err := http.NewResponseController(rw).Hijack()
	if err != nil {
		return err
	}
	defer conn.Close()
	_, _ = io.WriteString(conn, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"+
		"Sec-Websocket-Accept: "+accept+"\r\n\r\n"+first)
	_, err = io.Copy(conn, buf)
	return err
}

// What either side sends together with its header is passed on.
func TestWebSocketsPassBytesBehindTheHeader(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, toWeb)
		w.origin("web", "web-1", "", echoes("\x81\x01f"))
		conn := w.dial()
		if _, err := io.WriteString(conn, upgrade+"\x81\x01a"); err != nil {
			t.Fatal(err)
		}
		r := bufio.NewReader(conn)
		if res, err := http.ReadResponse(r, nil); err != nil || res.StatusCode != http.StatusSwitchingProtocols {
			t.Fatalf("upgrading: %v, %v", res, err)
		}
		read(t, r, "\x81\x01f\x81\x01a")
	})
}

// Megabytes pass through a tunnel unchanged in both directions, over real TCP, where the edge waits without buffers.
func TestWebSocketsPassManyBytesOverTCP(t *testing.T) {
	origin := listen(t, echoes("first"))
	addr := edge(t, origin, 0, nil)
	conn, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	frame := "\x82\x7e\xff\xff" + strings.Repeat("0123456789abcde", 0xffff/15)
	const frames = 64
	sent := sha256.New()
	go func() {
		_, _ = io.WriteString(conn, upgrade) // reading tells of errors
		for n := range frames {
			for piece := range slices.Chunk([]byte(frame), 1+1000*n) {
				_, _ = conn.Write(piece)
			}
		}
	}()
	for range frames {
		_, _ = io.WriteString(sent, frame) // never fails
	}
	r := bufio.NewReader(conn)
	if res, err := http.ReadResponse(r, nil); err != nil || res.StatusCode != http.StatusSwitchingProtocols {
		t.Fatalf("upgrading: %v, %v", res, err)
	}
	read(t, r, "first")
	got := sha256.New()
	if n, err := io.CopyN(got, r, int64(frames*len(frame))); err != nil {
		t.Fatalf("after %d bytes: %v", n, err)
	}
	if !bytes.Equal(got.Sum(nil), sent.Sum(nil)) {
		t.Error("what came back is not what was sent")
	}
}

// A client that leaves just before the edge agrees to switch protocols leaves no connection behind.
func TestClientsThatLeaveDuringAnUpgrade(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, toWeb)
		w.origin("web", "web-1", "", http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
			time.Sleep(50 * time.Millisecond) // before the edge notices that its client has left
			echoes("").ServeHTTP(rw, r)
		}))
		conn := w.dial()
		if _, err := io.WriteString(conn, upgrade); err != nil {
			t.Fatal(err)
		}
		_ = conn.Close()
		time.Sleep(10 * time.Second)
		synctest.Wait()
		for _, name := range []string{
			"bijou_gateway_websockets_open", "bijou_gateway_connections_open", "bijou_gateway_requests_in_flight",
		} {
			if got := w.metric(name); got != 0 {
				t.Errorf("%s is %v, want 0", name, got)
			}
		}
	})
}

// panicking is a connection with an origin whose Write panics when it gets some bytes.
type panicking struct {
	net.Conn
	at string
}

func (c panicking) Write(p []byte) (int, error) {
	if bytes.Contains(p, []byte(c.at)) {
		panic("a defect in a test")
	}
	return c.Conn.Write(p)
}

// A defect that shows in a tunnel ends that tunnel only, and is logged.
func TestAPanicInATunnelEndsOnlyTheTunnel(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var w *world
		w = worldWith(t, gateway.EdgeOptions{DialContext: func(ctx context.Context, network, addr string) (net.Conn, error) {
			c, err := w.net.DialContext(ctx, network, addr)
			return panicking{c, "panic"}, err
		}}, toWeb)
		w.origin("web", "web-1", "", websocket(nil))
		other, fromOther := w.upgrade()
		conn, r := w.upgrade()
		_, _ = io.WriteString(conn, "panic")
		if _, err := r.ReadByte(); err == nil {
			t.Error("the tunnel with the defect goes on")
		}
		time.Sleep(10 * time.Second)
		_, _ = io.WriteString(other, "a")
		read(t, fromOther, "\x81\x01a")
		if got := w.metric("bijou_gateway_websockets_open"); got != 1 {
			t.Errorf("%v WebSockets are open, want 1", got)
		}
		if text := w.log.String(); !strings.Contains(text, "a defect of the edge ended a tunnel") ||
			!strings.Contains(text, "a defect in a test") {
			t.Errorf("the log does not tell of the defect: %s", text)
		}
	})
}
