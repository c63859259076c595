package gateway_test

import (
	"bytes"
	"encoding/binary"
	"io"
	"net"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"bijou.dev/services/gateway"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
)

// h2client speaks HTTP/2 to the edge frame by frame, so that it can break rules.
type h2client struct {
	*http2.Framer
	conn   net.Conn
	enc    *hpack.Encoder
	block  bytes.Buffer
	stream uint32 // of the next request

	mu       sync.Mutex
	statuses map[uint32]string // by stream
	resets   map[uint32]http2.ErrCode
	goaway   *http2.ErrCode
	closed   bool
	news     sync.Cond
	done     chan struct{} // closed when the edge has closed the connection
}

func (w *world) h2(settings ...http2.Setting) *h2client {
	w.t.Helper()
	c := &h2client{conn: w.dial(), stream: 1, statuses: map[uint32]string{}, resets: map[uint32]http2.ErrCode{}, done: make(chan struct{})}
	c.news.L = &c.mu
	c.Framer = http2.NewFramer(c.conn, c.conn)
	c.AllowIllegalWrites = true
	c.enc = hpack.NewEncoder(&c.block)
	_, _ = io.WriteString(c.conn, http2.ClientPreface)
	_ = c.WriteSettings(settings...)
	go c.read()
	return c
}

func (c *h2client) read() {
	defer close(c.done)
	dec := hpack.NewDecoder(4096, nil)
	acks := http2.NewFramer(c.conn, nil)
	for {
		f, err := c.ReadFrame()
		c.mu.Lock()
		if err != nil {
			c.closed = true
			c.news.Broadcast()
			c.mu.Unlock()
			return
		}
		switch f := f.(type) {
		case *http2.HeadersFrame:
			fields, _ := dec.DecodeFull(f.HeaderBlockFragment())
			for _, h := range fields {
				if h.Name == ":status" && h.Value[0] != '1' {
					c.statuses[f.StreamID] = h.Value
				}
			}
		case *http2.PingFrame:
			if !f.IsAck() {
				_ = acks.WritePing(true, f.Data)
			}
		case *http2.RSTStreamFrame:
			c.resets[f.StreamID] = f.ErrCode
		case *http2.GoAwayFrame:
			if c.goaway == nil {
				c.goaway = &f.ErrCode
			}
		}
		c.news.Broadcast()
		c.mu.Unlock()
	}
}

// fields encodes pairs of names and values.
func (c *h2client) fields(pairs ...string) []byte {
	c.block.Reset()
	for i := 0; i < len(pairs); i += 2 {
		_ = c.enc.WriteField(hpack.HeaderField{Name: pairs[i], Value: pairs[i+1]})
	}
	return bytes.Clone(c.block.Bytes())
}

// open opens a stream and returns its number.
func (c *h2client) open(method, path string, end bool, pairs ...string) uint32 {
	id := c.stream
	c.stream += 2
	_ = c.WriteHeaders(http2.HeadersFrameParam{
		StreamID: id, EndStream: end, EndHeaders: true,
		BlockFragment: c.fields(append([]string{":method", method, ":scheme", "http", ":authority", "x", ":path", path}, pairs...)...),
	})
	return id
}

// request opens a stream with all fields given, and sends a body if there is one.
func (c *h2client) request(pairs []string, body string) uint32 {
	id := c.stream
	c.stream += 2
	_ = c.WriteHeaders(http2.HeadersFrameParam{StreamID: id, EndStream: body == "", EndHeaders: true, BlockFragment: c.fields(pairs...)})
	if body != "" {
		_ = c.WriteData(id, true, []byte(body))
	}
	return id
}

// outcome waits for the status of a stream; "" if it is reset or the connection ends before.
func (c *h2client) outcome(id uint32) string {
	c.mu.Lock()
	defer c.mu.Unlock()
	for {
		_, reset := c.resets[id]
		if s := c.statuses[id]; s != "" || reset || c.closed || c.goaway != nil {
			return s
		}
		c.news.Wait()
	}
}

func (c *h2client) isClosed() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.closed
}

func (c *h2client) status(id uint32) string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.statuses[id]
}

// abuse is what one step of an attack sends; it returns how many frames these were.
type abuse struct {
	step func(c *h2client) int
	kind string // in the metric
}

// TestHTTP2Abuse holds that a client that floods is cut off within 1,000 frames and told so, that it is counted, and
// that others do not notice.
func TestHTTP2Abuse(t *testing.T) {
	reset := func(offence func(c *h2client, id uint32) int) abuse {
		return abuse{func(c *h2client) int { return 1 + offence(c, c.open("GET", "/hang", true)) }, "reset_flood"}
	}
	frame := func(send func(c *h2client)) abuse {
		return abuse{func(c *h2client) int { send(c); return 1 }, "frame_flood"}
	}
	once := func(c *h2client, send func(id uint32)) {
		if c.stream == 1 {
			send(1)
			c.stream += 2
		}
	}
	told := 0
	for name, a := range map[string]abuse{
		"rapid reset": reset(func(c *h2client, id uint32) int { _ = c.WriteRSTStream(id, http2.ErrCodeCancel); return 1 }),
		"made you reset by no increment": reset(func(c *h2client, id uint32) int {
			_ = c.WriteRawFrame(http2.FrameWindowUpdate, 0, id, make([]byte, 4))
			return 1
		}),
		"made you reset by a large increment": reset(func(c *h2client, id uint32) int { _ = c.WriteWindowUpdate(id, 1<<31-1); return 1 }),
		"made you reset by late data":         reset(func(c *h2client, id uint32) int { _ = c.WriteData(id, false, []byte("x")); return 1 }),
		"made you reset by itself": reset(func(c *h2client, id uint32) int {
			_ = c.WritePriority(id, http2.PriorityParam{StreamDep: id})
			return 1
		}),
		"made you reset by a late header": reset(func(c *h2client, id uint32) int {
			_ = c.WriteHeaders(http2.HeadersFrameParam{StreamID: id, EndStream: true, EndHeaders: true, BlockFragment: c.fields("a", "b")})
			return 1
		}),
		"refused streams": {func(c *h2client) int { c.open("GET", "/hang", true, "A", "upper"); return 1 }, "reset_flood"},
		"ping":            frame(func(c *h2client) { _ = c.WritePing(false, [8]byte{}) }),
		"settings":        frame(func(c *h2client) { _ = c.WriteSettings(http2.Setting{ID: http2.SettingInitialWindowSize, Val: 65535}) }),
		"empty settings":  frame(func(c *h2client) { _ = c.WriteSettings() }),
		"priority":        frame(func(c *h2client) { _ = c.WritePriority(99, http2.PriorityParam{StreamDep: 0, Weight: 1}) }),
		"windows":         frame(func(c *h2client) { _ = c.WriteWindowUpdate(0, 1) }),
		"unknown frames":  frame(func(c *h2client) { _ = c.WriteRawFrame(0xfa, 0, 0, []byte("grease")) }),
		"resets of nothing": frame(func(c *h2client) {
			once(c, func(uint32) { c.stream = 1; c.open("GET", "/ok", true) })
			_ = c.WriteRSTStream(1, http2.ErrCodeCancel)
		}),
		"empty data": frame(func(c *h2client) {
			once(c, func(uint32) { c.stream = 1; c.open("POST", "/read", false) })
			_ = c.WriteData(1, false, nil)
		}),
		"empty continuation": frame(func(c *h2client) {
			once(c, func(id uint32) {
				_ = c.WriteHeaders(http2.HeadersFrameParam{StreamID: id, BlockFragment: c.fields(":method", "GET")})
			})
			_ = c.WriteContinuation(1, false, nil)
		}),
		"full continuation": {func(c *h2client) int {
			once(c, func(id uint32) {
				_ = c.WriteHeaders(http2.HeadersFrameParam{StreamID: id, BlockFragment: c.fields(":method", "GET")})
			})
			_ = c.WriteContinuation(1, false, c.fields("a-"+strconv.Itoa(c.block.Len()), strings.Repeat("x", 8000)))
			return 1
		}, "goaway"},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t, toWeb)
				w.origin("web", "web-1", "", h2origin)
				victim := w.client(true)
				c := w.h2()
				begin, frames, asked := time.Now(), 0, 0
				for !c.isClosed() && frames < 5000 {
					for range 10 {
						frames += a.step(c)
					}
					synctest.Wait()
					if frames%100 == 0 {
						asked++
						if res := w.do(victim, "GET", "http://x/ok", nil); res.body != "ok" {
							t.Fatalf("another client got %d", res.StatusCode)
						}
					}
				}
				<-c.done
				if frames > 1000 || time.Since(begin) > time.Second {
					t.Errorf("cut off after %d frames and %v", frames, time.Since(begin))
				}
				// Where the server is in the middle of a frame there is no place to tell the client.
				if c.goaway != nil {
					told++
					if *c.goaway != http2.ErrCodeEnhanceYourCalm && a.kind != "goaway" {
						t.Errorf("the client was told %v", c.goaway)
					}
				}
				if w.metric("bijou_gateway_http2_errors_total", "kind="+a.kind) != 1 {
					t.Errorf("it was not counted as %s", a.kind)
				}
				time.Sleep(time.Second)
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

// TestHTTP2CutOff holds that a connection is closed soon after its client was cut off, though the client keeps its end open
// and the server is still about to read: the two meet in net/http when writing fails.
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
		for _, piece := range []string{http2.ClientPreface + ping[:12], ping[12:]} { // in the middle of a frame there is a time limit
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

// h2origin answers /ok at once, /hang never, /read when it has read the body, and /large with more than any window.
var h2origin = http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
	switch r.URL.Path {
	case "/hang":
		<-r.Context().Done()
	case "/read":
		n, _ := io.Copy(io.Discard, r.Body)
		_, _ = io.WriteString(rw, strconv.FormatInt(n, 10))
	case "/large":
		_, _ = rw.Write(make([]byte, 1<<20))
	default:
		_, _ = io.WriteString(rw, "ok")
	}
})

// TestHTTP2Stalls holds that a client that grants no window, or does not finish what it began, keeps nothing: neither
// requests nor the connection.
func TestHTTP2Stalls(t *testing.T) {
	noWindow := []http2.Setting{{ID: http2.SettingInitialWindowSize, Val: 0}}
	for name, c := range map[string]struct {
		settings []http2.Setting
		start    func(*h2client)
		drip     func(*h2client) // each second; nil: nothing
		within   time.Duration
		stays    bool // the connection, which is idle then
	}{
		"no window, large answers": {noWindow, func(c *h2client) {
			for range 100 {
				c.open("GET", "/large", true)
			}
		}, nil, 11 * time.Second, false},
		"no window, small answers": {noWindow, func(c *h2client) {
			for range 100 {
				c.open("GET", "/ok", true)
			}
		}, nil, 11 * time.Second, true},
		"no window, refusals": {noWindow, func(c *h2client) {
			for range 100 {
				c.open("GET", "/../x", true)
			}
		}, nil, 11 * time.Second, true},
		"a window of drops": {
			noWindow, func(c *h2client) { c.open("GET", "/large", true) },
			func(c *h2client) { _ = c.WriteWindowUpdate(1, 1) }, 11 * time.Second, true,
		},
		"no body":         {nil, func(c *h2client) { c.open("POST", "/read", false) }, nil, 11 * time.Second, true},
		"a body of drops": {nil, func(c *h2client) { c.open("POST", "/read", false) }, func(c *h2client) { _ = c.WriteData(1, false, []byte("x")) }, 11 * time.Second, true},
		"half a header": {nil, func(c *h2client) {
			_ = c.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: c.fields(":method", "GET")})
		}, nil, 11 * time.Second, false},
		"header in drops": {
			nil, func(c *h2client) {
				_ = c.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: c.fields(":method", "GET")})
			},
			func(c *h2client) { _ = c.WriteContinuation(1, false, c.fields("a", "b")) }, 11 * time.Second, false,
		},
		"frame in drops": {nil, func(c *h2client) { _, _ = c.conn.Write([]byte{0, 1, 0, 4, 0}) }, func(c *h2client) { _, _ = c.conn.Write([]byte{0}) }, 11 * time.Second, false},
		"head in drops":  {nil, func(c *h2client) { _, _ = c.conn.Write([]byte{0}) }, nil, 11 * time.Second, false},
		"data in drops": {nil, func(c *h2client) {
			c.open("POST", "/read", false)
			var head [9]byte
			binary.BigEndian.PutUint32(head[:], 16000<<8)
			head[8] = 1
			_, _ = c.conn.Write(head[:])
		}, func(c *h2client) { _, _ = c.conn.Write([]byte{0}) }, 26 * time.Second, false},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t, toWeb)
				w.origin("web", "web-1", "", h2origin)
				h := w.h2(c.settings...)
				synctest.Wait()
				c.start(h)
				begin := time.Now()
				for time.Since(begin) < c.within {
					time.Sleep(time.Second)
					if c.drip != nil && !h.isClosed() {
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
				if h.isClosed() == c.stays {
					t.Errorf("closed: %v, want %v", h.isClosed(), !c.stays)
				}
				time.Sleep(70 * time.Second)
				synctest.Wait()
				if !h.isClosed() {
					t.Error("the connection stays although it is idle")
				}
			})
		})
	}
}

// TestHTTP2Bombs holds that a few bytes do not become many: fields that HPACK repeats, and endless ones.
func TestHTTP2Bombs(t *testing.T) {
	w := newWorld(t, toWeb)
	w.origin("web", "web-1", "", h2origin)
	c := w.h2()
	get := []string{":method", "GET", ":scheme", "http", ":authority", "x", ":path", "/ok", "bomb", strings.Repeat("x", 3900)}
	bomb := c.fields(get...)
	for range 50 {
		again := c.fields(get...) // a byte for each field
		for len(bomb) < 16<<10 {
			bomb = append(bomb, again[len(again)-1])
		}
		_ = c.WriteHeaders(http2.HeadersFrameParam{StreamID: c.stream, EndStream: true, EndHeaders: true, BlockFragment: bomb})
		c.stream += 2
		bomb = again
	}
	_ = c.WritePing(false, [8]byte{1})
	id := c.open("GET", "/ok", true)
	for range 1000 {
		if c.status(id) != "" || c.isClosed() {
			break
		}
		w.get("http://x/ok")
	}
	for i := uint32(1); i < id; i += 2 {
		if got := c.status(i); got != "431" {
			t.Fatalf("stream %d: status %q, reset %v, goaway %v", i, got, c.resets, c.goaway)
		}
	}
	if got := c.status(id); got != "200" {
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
			id := c.open("GET", "/large", true)
			for sent := 0; sent < 1<<20; sent += 1 << 10 {
				_ = c.WriteWindowUpdate(0, 1<<10)
				_ = c.WriteWindowUpdate(id, 1<<10)
				synctest.Wait()
			}
			if c.isClosed() || c.status(id) != "200" {
				t.Errorf("status %q, closed %v", c.status(id), c.isClosed())
			}
			c.conn.Close()
		},
		"uploads in small frames": func(t *testing.T, w *world) {
			c := w.h2()
			id := c.open("POST", "/read", false)
			for range 3000 {
				_ = c.WriteData(id, false, []byte("x"))
			}
			_ = c.WriteData(id, true, nil)
			synctest.Wait()
			if c.isClosed() || c.status(id) != "200" {
				t.Errorf("status %q, closed %v", c.status(id), c.isClosed())
			}
			c.conn.Close()
		},
		"every other request given up": func(t *testing.T, w *world) {
			c := w.h2()
			for range 400 {
				_ = c.WriteRSTStream(c.open("GET", "/hang", true), http2.ErrCodeCancel)
				id := c.open("GET", "/ok", true)
				synctest.Wait()
				if got := c.status(id); got != "200" {
					t.Fatalf("stream %d: status %q", id, got)
				}
			}
			c.conn.Close()
		},
		"slow requests given up": func(t *testing.T, w *world) {
			c := w.h2()
			for range 20 {
				var ids []uint32
				for range 50 {
					ids = append(ids, c.open("GET", "/hang", true))
				}
				time.Sleep(1500 * time.Millisecond)
				for _, id := range ids {
					_ = c.WriteRSTStream(id, http2.ErrCodeCancel)
				}
				synctest.Wait()
			}
			if c.isClosed() {
				t.Error("cut off")
			}
			c.conn.Close()
		},
		"a ping with each answer": func(t *testing.T, w *world) {
			c := w.h2()
			for range 1000 {
				_ = c.WritePing(false, [8]byte{})
				c.open("GET", "/ok", true)
				synctest.Wait()
			}
			if c.isClosed() {
				t.Error("cut off")
			}
			c.conn.Close()
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t, toWeb)
				w.origin("web", "web-1", "", h2origin)
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
			"hystrix.command.default.execution.isolation.semaphore.maxConcurrentRequests", "1000")
		w.origin("web", "web-1", "", h2origin)
		a, b := w.h2(), w.h2()
		for range 75 {
			a.open("GET", "/hang", true)
			b.open("GET", "/hang", true)
		}
		synctest.Wait()
		id := a.open("GET", "/ok", true)
		synctest.Wait()
		if got := a.status(id); got != "429" {
			t.Errorf("request 151: status %q", got)
		}
		b.conn.Close()
		synctest.Wait()
		id = a.open("GET", "/ok", true)
		synctest.Wait()
		if got := a.status(id); got != "200" {
			t.Errorf("when others have ended: status %q", got)
		}
		a.conn.Close()
	})
}
