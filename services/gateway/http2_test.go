package gateway_test

import (
	"bytes"
	"encoding/binary"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"bijou.dev/services/gateway/gatewaytest"

	"golang.org/x/net/http2"
)

// h2 opens a connection of HTTP/2 frame by frame.
func (w *world) h2(settings ...http2.Setting) *gatewaytest.Client {
	w.t.Helper()
	return gatewaytest.NewClient(w.dial(), settings...)
}

// A client that floods is disconnected within 1,000 frames and counted, in most cases with GOAWAY, and other clients
// are not affected.
func TestHTTP2FloodsAreDisconnected(t *testing.T) {
	withReason := 0
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
					t.Errorf("disconnected after %d frames and %v, want at most 1,000 and 1 s", frames,
						time.Since(begin))
				}
				// In the middle of a frame the server cannot send GOAWAY.
				if code, ok := c.GoAway(); ok {
					withReason++
					if code != http2.ErrCodeEnhanceYourCalm && a.Kind != "goaway" {
						t.Errorf("GOAWAY has the code %v, want ENHANCE_YOUR_CALM", code)
					}
				}
				if w.metric("bijou_gateway_http2_errors_total", "kind="+a.Kind) != 1 {
					t.Errorf("it was not counted once as %s", a.Kind)
				}
				synctest.Wait()
				if n := w.metric("bijou_gateway_requests_in_flight"); n != 0 {
					t.Errorf("%v requests are in progress, want none", n)
				}
				if res := w.do(victim, "GET", "http://x/ok", nil); res.body != "ok" {
					t.Errorf("another client got %d", res.StatusCode)
				}
			})
		})
	}
	if withReason < 10 {
		t.Errorf("only %d clients got GOAWAY, want at least 10", withReason)
	}
}

// A connection is closed as soon as GOAWAY with an error was sent: net/http reads for another second, which
// is 300,000 frames.
func TestHTTP2ConnectionErrorsCloseAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, toWeb)
		w.origin("web", "web-1", "", gatewaytest.Origin)
		c := w.h2()
		begin := time.Now()
		_ = c.WriteRawFrame(http2.FrameWindowUpdate, 0, 0, make([]byte, 4)) // no increment
		<-c.Done()
		if code, ok := c.GoAway(); !ok || code != http2.ErrCodeProtocol || time.Since(begin) > 0 {
			t.Errorf("closed after %v, GOAWAY: %v, %v; want 0 s, true, PROTOCOL_ERROR", time.Since(begin), ok, code)
		}
		if n := w.metric("bijou_gateway_http2_errors_total", "kind=goaway"); n != 1 {
			t.Errorf("counted %v times, want once", n)
		}
		c.Conn.Close()
	})
}

// A client that sends no window updates, or does not finish a frame or header, keeps neither requests nor, when it is
// idle, the connection.
func TestHTTP2StallsEndInTime(t *testing.T) {
	noWindow := []http2.Setting{{ID: http2.SettingInitialWindowSize, Val: 0}}
	for name, c := range map[string]struct {
		settings []http2.Setting
		start    func(*gatewaytest.Client)
		drip     func(*gatewaytest.Client) // each second; nil: nothing
		within   time.Duration
		stays    bool // the connection stays open until the idle time
	}{
		"no window, large responses": {noWindow, func(c *gatewaytest.Client) {
			for range 100 {
				c.Open("GET", "/large", true)
			}
		}, nil, 11 * time.Second, false},
		"no window, small responses": {noWindow, func(c *gatewaytest.Client) {
			for range 100 {
				c.Open("GET", "/ok", true)
			}
		}, nil, 11 * time.Second, true},
		"no window, refusals": {noWindow, func(c *gatewaytest.Client) {
			for range 100 {
				c.Open("GET", "/../x", true)
			}
		}, nil, 11 * time.Second, true},
		"window updates of one byte": {
			noWindow, func(c *gatewaytest.Client) { c.Open("GET", "/large", true) },
			func(c *gatewaytest.Client) { _ = c.WriteWindowUpdate(1, 1) }, 11 * time.Second, true,
		},
		"no body": {nil, func(c *gatewaytest.Client) { c.Open("POST", "/read", false) }, nil, 11 * time.Second, true},
		"body of one byte a second": {
			nil, func(c *gatewaytest.Client) { c.Open("POST", "/read", false) },
			func(c *gatewaytest.Client) { _ = c.WriteData(1, false, []byte("x")) }, 11 * time.Second, true,
		},
		"half a header": {nil, func(c *gatewaytest.Client) {
			_ = c.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: c.Fields(":method", "GET")})
		}, nil, 11 * time.Second, false},
		"header of one field a second": {
			nil, func(c *gatewaytest.Client) {
				_ = c.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: c.Fields(":method", "GET")})
			},
			func(c *gatewaytest.Client) { _ = c.WriteContinuation(1, false, c.Fields("a", "b")) },
			11 * time.Second, false,
		},
		"frame of one byte a second": {
			nil, func(c *gatewaytest.Client) { _, _ = c.Conn.Write([]byte{0, 1, 0, 4, 0}) },
			func(c *gatewaytest.Client) { _, _ = c.Conn.Write([]byte{0}) }, 11 * time.Second, false,
		},
		"one byte of a frame header": {
			nil, func(c *gatewaytest.Client) { _, _ = c.Conn.Write([]byte{0}) }, nil, 11 * time.Second, false,
		},
		"data of one byte a second": {nil, func(c *gatewaytest.Client) {
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
					t.Errorf("%v requests are in progress, want none", n)
				}
				if h.Closed() == c.stays {
					t.Errorf("closed: %v, want %v", h.Closed(), !c.stays)
				}
				time.Sleep(70 * time.Second)
				synctest.Wait()
				if !h.Closed() {
					t.Error("the idle connection is still open after 70 s")
				}
			})
		})
	}
}

// A header of a few bytes that HPACK expands beyond the limit is refused.
func TestHTTP2HeaderBombsAreRefused(t *testing.T) {
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

// Normal use of a connection is not counted as a flood.
func TestHTTP2NormalUseIsNoFlood(t *testing.T) {
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
		"every second request reset": func(t *testing.T, w *world) {
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
		"slow requests reset": func(t *testing.T, w *world) {
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
				t.Error("the client was disconnected")
			}
			c.Conn.Close()
		},
		"a ping with each request": func(t *testing.T, w *world) {
			c := w.h2()
			for range 1000 {
				_ = c.WritePing(false, [8]byte{})
				c.Open("GET", "/ok", true)
				synctest.Wait()
			}
			if c.Closed() {
				t.Error("the client was disconnected")
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
					t.Errorf("%v errors were counted, want none", n)
				}
			})
		})
	}
}

// The limit of connections is also a limit of requests, because HTTP/2 has many requests on one connection.
func TestRequestsOfOneClientAreLimited(t *testing.T) {
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

// A request that is refused gets its response although its body comes at the same time.
func TestHTTP2RefusalsDoNotDependOnTheBody(t *testing.T) {
	for name, c := range map[string]struct {
		fields []string
		want   string
	}{
		"header that is too large": {
			slices.Concat([]string{":path", "/"}, slices.Repeat([]string{"a", strings.Repeat("x", 900)}, 40)), "431",
		},
		"field about the connection": {[]string{":path", "/", "connection", "close"}, "400"},
		"two lengths":                {[]string{":path", "/", "content-length", "1", "content-length", "1"}, "400"},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t, toWeb)
				w.origin("web", "web-1", "", gatewaytest.Origin)
				h := w.h2()
				var all bytes.Buffer // so that the edge has the whole request at once
				f := http2.NewFramer(&all, nil)
				_ = f.WriteHeaders(http2.HeadersFrameParam{
					StreamID: 1, EndHeaders: true,
					BlockFragment: h.Fields(append([]string{":method", "POST", ":scheme", "http", ":authority", "x"}, c.fields...)...),
				})
				_ = f.WriteData(1, true, []byte("x"))
				_, _ = h.Conn.Write(all.Bytes())
				synctest.Wait()
				if got := h.Status(1); got != c.want {
					t.Errorf("status %q, want %q", got, c.want)
				}
				_ = h.Conn.Close()
			})
		})
	}
}
