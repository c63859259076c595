package gateway_test

import (
	"encoding/binary"
	"io"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"bijou.dev/services/gateway"
	"bijou.dev/services/gateway/gatewaytest"

	"golang.org/x/net/http2"
)

// h2 opens a connection of HTTP/2 frame by frame.
func (w *world) h2(settings ...http2.Setting) *gatewaytest.Client {
	w.t.Helper()
	return gatewaytest.NewClient(w.dial(), settings...)
}

// TestHTTP2Abuse holds that a client that floods is cut off within 1,000 frames and told so, that it is counted, and
// that others do not notice.
func TestHTTP2Abuse(t *testing.T) {
	told := 0
	for name, a := range gatewaytest.Floods {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t, toWeb)
				w.origin("web", "web-1", "", gatewaytest.Origin)
				victim := w.client(true)
				c := w.h2()
				begin, frames, asked := time.Now(), 0, 0
				for !c.Closed() && frames < 5000 {
					for range 10 {
						frames += a.Step(c)
					}
					synctest.Wait()
					if frames%100 == 0 {
						asked++
						if res := w.do(victim, "GET", "http://x/ok", nil); res.body != "ok" {
							t.Fatalf("another client got %d", res.StatusCode)
						}
					}
				}
				<-c.Done()
				if frames > 1000 || time.Since(begin) > time.Second {
					t.Errorf("cut off after %d frames and %v", frames, time.Since(begin))
				}
				// Where the server is in the middle of a frame there is no place to tell the client.
				if code, ok := c.GoAway(); ok {
					told++
					if code != http2.ErrCodeEnhanceYourCalm && a.Kind != "goaway" {
						t.Errorf("the client was told %v", code)
					}
				}
				if w.metric("bijou_gateway_http2_errors_total", "kind="+a.Kind) != 1 {
					t.Errorf("it was not counted as %s", a.Kind)
				}
				time.Sleep(2 * time.Second) // net/http keeps a goroutine for one after GOAWAY
				synctest.Wait()
				if n := w.metric("bijou_gateway_requests_in_flight"); n != 0 {
					t.Errorf("%v requests are under way", n)
				}
				if res := w.do(victim, "GET", "http://x/ok", nil); res.body != "ok" {
					t.Errorf("another client got %d", res.StatusCode)
				}
			})
		})
	}
	if told < 10 {
		t.Errorf("only %d clients were told why", told)
	}
}

// TestHTTP2ConnectionErrors holds that a connection is closed as soon as its client was told that it broke a rule:
// net/http goes on reading for a second, and a second is 300,000 frames.
func TestHTTP2ConnectionErrors(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, toWeb)
		w.origin("web", "web-1", "", gatewaytest.Origin)
		c := w.h2()
		begin := time.Now()
		_ = c.WriteRawFrame(http2.FrameWindowUpdate, 0, 0, make([]byte, 4)) // no increment
		<-c.Done()
		if code, ok := c.GoAway(); !ok || code != http2.ErrCodeProtocol || time.Since(begin) > 0 {
			t.Errorf("closed after %v, told: %v, %v", time.Since(begin), ok, code)
		}
		if n := w.metric("bijou_gateway_http2_errors_total", "kind=goaway"); n != 1 {
			t.Errorf("counted %v times", n)
		}
		c.Conn.Close()
		time.Sleep(2 * time.Second) // net/http keeps a goroutine for one
	})
}

// TestHTTP2CutOff holds that a connection is closed soon after its client was cut off, though the client keeps its end
// open and the server is still about to read: the two meet in net/http when writing fails.
func TestHTTP2CutOff(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, toWeb)
		l, err := w.net.Listen("tcp", "side:80")
		if err != nil {
			t.Fatal(err)
		}
		client, err := w.net.DialContext(t.Context(), "tcp", "side:80")
		if err != nil {
			t.Fatal(err)
		}
		server, err := gateway.Limited(w.edge, l).Accept()
		if err != nil {
			t.Fatal(err)
		}
		ping := "\x00\x00\x08\x06\x00\x00\x00\x00\x0012345678"
		buf := make([]byte, 1<<10)
		// in the middle of a frame there is a time limit
		for _, piece := range []string{http2.ClientPreface + ping[:12], ping[12:]} {
			_, _ = io.WriteString(client, piece)
			for got := 0; got < len(piece); {
				n, err := server.Read(buf)
				if err != nil {
					t.Fatal(err)
				}
				got += n
			}
		}
		gateway.CutOff(server)
		var done sync.WaitGroup
		done.Go(func() { _ = server.Close() })
		synctest.Wait()
		done.Go(func() { _, _ = server.Read(buf) })
		time.Sleep(time.Second)
		synctest.Wait()
		if _, err := client.Write([]byte{0}); err == nil {
			t.Error("after a second the edge still holds the connection")
		}
		client.Close()
		done.Wait()
	})
}

// TestHTTP2Stalls holds that a client that grants no window, or does not finish what it began, keeps nothing: neither
// requests nor the connection.
func TestHTTP2Stalls(t *testing.T) {
	noWindow := []http2.Setting{{ID: http2.SettingInitialWindowSize, Val: 0}}
	for name, c := range map[string]struct {
		settings []http2.Setting
		start    func(*gatewaytest.Client)
		drip     func(*gatewaytest.Client) // each second; nil: nothing
		within   time.Duration
		stays    bool // the connection, which is idle then
	}{
		"no window, large answers": {noWindow, func(c *gatewaytest.Client) {
			for range 100 {
				c.Open("GET", "/large", true)
			}
		}, nil, 11 * time.Second, false},
		"no window, small answers": {noWindow, func(c *gatewaytest.Client) {
			for range 100 {
				c.Open("GET", "/ok", true)
			}
		}, nil, 11 * time.Second, true},
		"no window, refusals": {noWindow, func(c *gatewaytest.Client) {
			for range 100 {
				c.Open("GET", "/../x", true)
			}
		}, nil, 11 * time.Second, true},
		"a window of drops": {
			noWindow, func(c *gatewaytest.Client) { c.Open("GET", "/large", true) },
			func(c *gatewaytest.Client) { _ = c.WriteWindowUpdate(1, 1) }, 11 * time.Second, true,
		},
		"no body": {nil, func(c *gatewaytest.Client) { c.Open("POST", "/read", false) }, nil, 11 * time.Second, true},
		"a body of drops": {
			nil, func(c *gatewaytest.Client) { c.Open("POST", "/read", false) },
			func(c *gatewaytest.Client) { _ = c.WriteData(1, false, []byte("x")) }, 11 * time.Second, true,
		},
		"half a header": {nil, func(c *gatewaytest.Client) {
			_ = c.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: c.Fields(":method", "GET")})
		}, nil, 11 * time.Second, false},
		"header in drops": {
			nil, func(c *gatewaytest.Client) {
				_ = c.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: c.Fields(":method", "GET")})
			},
			func(c *gatewaytest.Client) { _ = c.WriteContinuation(1, false, c.Fields("a", "b")) }, 11 * time.Second, false,
		},
		"frame in drops": {
			nil, func(c *gatewaytest.Client) { _, _ = c.Conn.Write([]byte{0, 1, 0, 4, 0}) },
			func(c *gatewaytest.Client) { _, _ = c.Conn.Write([]byte{0}) }, 11 * time.Second, false,
		},
		"head in drops": {nil, func(c *gatewaytest.Client) { _, _ = c.Conn.Write([]byte{0}) }, nil, 11 * time.Second, false},
		"data in drops": {nil, func(c *gatewaytest.Client) {
			c.Open("POST", "/read", false)
			var head [9]byte
			binary.BigEndian.PutUint32(head[:], 16000<<8)
			head[8] = 1
			_, _ = c.Conn.Write(head[:])
		}, func(c *gatewaytest.Client) { _, _ = c.Conn.Write([]byte{0}) }, 26 * time.Second, false},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t, toWeb)
				w.origin("web", "web-1", "", gatewaytest.Origin)
				h := w.h2(c.settings...)
				synctest.Wait()
				c.start(h)
				begin := time.Now()
				for time.Since(begin) < c.within {
					time.Sleep(time.Second)
					if c.drip != nil && !h.Closed() {
						c.drip(h)
					}
					if res := w.get("http://x/ok"); res.body != "ok" {
						t.Fatalf("another client got %d", res.StatusCode)
					}
				}
				synctest.Wait()
				if n := w.metric("bijou_gateway_requests_in_flight"); n != 0 {
					t.Errorf("%v requests are under way", n)
				}
				if h.Closed() == c.stays {
					t.Errorf("closed: %v, want %v", h.Closed(), !c.stays)
				}
				time.Sleep(70 * time.Second)
				synctest.Wait()
				if !h.Closed() {
					t.Error("the connection stays although it is idle")
				}
			})
		})
	}
}

// TestHTTP2Bombs holds that a few bytes do not become many: fields that HPACK repeats, and endless ones.
func TestHTTP2Bombs(t *testing.T) {
	w := newWorld(t, toWeb)
	w.origin("web", "web-1", "", gatewaytest.Origin)
	c := w.h2()
	get := []string{
		":method", "GET", ":scheme", "http", ":authority", "x", ":path", "/ok", "bomb",
		strings.Repeat("x", 3900),
	}
	bomb := c.Fields(get...)
	for range 50 {
		again := c.Fields(get...) // a byte for each field
		for len(bomb) < 16<<10 {
			bomb = append(bomb, again[len(again)-1])
		}
		_ = c.WriteHeaders(http2.HeadersFrameParam{
			StreamID: c.Stream, EndStream: true, EndHeaders: true,
			BlockFragment: bomb,
		})
		c.Stream += 2
		bomb = again
	}
	_ = c.WritePing(false, [8]byte{1})
	id := c.Open("GET", "/ok", true)
	for i := uint32(1); i < id; i += 2 {
		if got := c.Outcome(i); got != "431" {
			t.Fatalf("stream %d: status %q", i, got)
		}
	}
	if got := c.Outcome(id); got != "200" {
		t.Errorf("afterwards: status %q", got)
	}
}

// TestHTTP2Use holds that what clients do who use their connection is not taken for abuse.
func TestHTTP2Use(t *testing.T) {
	for name, use := range map[string]func(t *testing.T, w *world){
		"many requests": func(_ *testing.T, w *world) {
			c := w.client(true)
			for range 1000 {
				w.do(c, "GET", "http://x/ok", nil)
			}
		},
		"downloads in small windows": func(t *testing.T, w *world) {
			c := w.h2()
			id := c.Open("GET", "/large", true)
			for sent := 0; sent < 1<<20; sent += 1 << 10 {
				_ = c.WriteWindowUpdate(0, 1<<10)
				_ = c.WriteWindowUpdate(id, 1<<10)
				synctest.Wait()
			}
			if c.Closed() || c.Status(id) != "200" {
				t.Errorf("status %q, closed %v", c.Status(id), c.Closed())
			}
			c.Conn.Close()
		},
		"uploads in small frames": func(t *testing.T, w *world) {
			c := w.h2()
			id := c.Open("POST", "/read", false)
			for range 3000 {
				_ = c.WriteData(id, false, []byte("x"))
			}
			_ = c.WriteData(id, true, nil)
			synctest.Wait()
			if c.Closed() || c.Status(id) != "200" {
				t.Errorf("status %q, closed %v", c.Status(id), c.Closed())
			}
			c.Conn.Close()
		},
		"every other request given up": func(t *testing.T, w *world) {
			c := w.h2()
			for range 400 {
				_ = c.WriteRSTStream(c.Open("GET", "/hang", true), http2.ErrCodeCancel)
				id := c.Open("GET", "/ok", true)
				synctest.Wait()
				if got := c.Status(id); got != "200" {
					t.Fatalf("stream %d: status %q", id, got)
				}
			}
			c.Conn.Close()
		},
		"slow requests given up": func(t *testing.T, w *world) {
			c := w.h2()
			for range 20 {
				var ids []uint32
				for range 50 {
					ids = append(ids, c.Open("GET", "/hang", true))
				}
				time.Sleep(1500 * time.Millisecond)
				for _, id := range ids {
					_ = c.WriteRSTStream(id, http2.ErrCodeCancel)
				}
				synctest.Wait()
			}
			if c.Closed() {
				t.Error("cut off")
			}
			c.Conn.Close()
		},
		"a ping with each answer": func(t *testing.T, w *world) {
			c := w.h2()
			for range 1000 {
				_ = c.WritePing(false, [8]byte{})
				c.Open("GET", "/ok", true)
				synctest.Wait()
			}
			if c.Closed() {
				t.Error("cut off")
			}
			c.Conn.Close()
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t, toWeb)
				w.origin("web", "web-1", "", gatewaytest.Origin)
				use(t, w)
				synctest.Wait()
				if n := w.metric("bijou_gateway_http2_errors_total"); n != 0 {
					t.Errorf("%v offences", n)
				}
			})
		})
	}
}

// TestRequestsOfOneClient holds that HTTP/2 does not get around the limit of connections.
func TestRequestsOfOneClient(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, toWeb, "gateway.maxConnectionsPerClient", "150", "overload.enabled", "false",
			"circuit.default.maxConcurrent", "1000")
		w.origin("web", "web-1", "", gatewaytest.Origin)
		a, b := w.h2(), w.h2()
		for range 75 {
			a.Open("GET", "/hang", true)
			b.Open("GET", "/hang", true)
		}
		synctest.Wait()
		id := a.Open("GET", "/ok", true)
		synctest.Wait()
		if got := a.Status(id); got != "429" {
			t.Errorf("request 151: status %q", got)
		}
		b.Conn.Close()
		synctest.Wait()
		id = a.Open("GET", "/ok", true)
		synctest.Wait()
		if got := a.Status(id); got != "200" {
			t.Errorf("when others have ended: status %q", got)
		}
		a.Conn.Close()
	})
}
