// Package gatewaytest attacks the edge: with clients of HTTP/2 that break rules, and with clients that are slow. The
// edge's own tests do so in fake time, and those of the assembled platform over real sockets.
package gatewaytest

import (
	"bytes"
	"io"
	"net"
	"net/http"
	"path"
	"strconv"
	"strings"
	"sync"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
)

// Client speaks HTTP/2 frame by frame, so that it can break rules. Everything but sending may be done from any
// goroutine.
type Client struct {
	*http2.Framer
	// Conn is the connection. Closing it ends the client.
	Conn net.Conn
	// Stream is the number of the next request.
	Stream uint32

	enc   *hpack.Encoder
	block bytes.Buffer
	done  chan struct{}

	mu       sync.Mutex
	news     sync.Cond
	statuses map[uint32]string // stream -> status
	resets   map[uint32]bool   // streams
	goAway   *http2.ErrCode
	closed   bool
}

// NewClient starts a client on conn.
func NewClient(conn net.Conn, settings ...http2.Setting) *Client {
	c := &Client{
		Framer: http2.NewFramer(conn, conn), Conn: conn, Stream: 1, done: make(chan struct{}),
		statuses: map[uint32]string{}, resets: map[uint32]bool{},
	}
	c.news.L = &c.mu
	c.AllowIllegalWrites = true
	c.enc = hpack.NewEncoder(&c.block)
	_, _ = io.WriteString(conn, http2.ClientPreface) // an error shows as a missing response
	_ = c.WriteSettings(settings...)
	go c.read()
	return c
}

func (c *Client) read() {
	defer close(c.done)
	dec := hpack.NewDecoder(4096, nil)
	acks := http2.NewFramer(c.Conn, nil)
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
			c.resets[f.StreamID] = true
		case *http2.GoAwayFrame:
			if c.goAway == nil {
				c.goAway = &f.ErrCode
			}
		}
		c.news.Broadcast()
		c.mu.Unlock()
	}
}

// Fields encodes pairs of names and values.
func (c *Client) Fields(pairs ...string) []byte {
	c.block.Reset()
	for i := 0; i < len(pairs); i += 2 {
		_ = c.enc.WriteField(hpack.HeaderField{Name: pairs[i], Value: pairs[i+1]})
	}
	return bytes.Clone(c.block.Bytes())
}

// Open opens a stream for host x and returns its number.
func (c *Client) Open(method, path string, end bool, pairs ...string) uint32 {
	id := c.Stream
	c.Stream += 2
	_ = c.WriteHeaders(http2.HeadersFrameParam{
		StreamID: id, EndStream: end, EndHeaders: true,
		BlockFragment: c.Fields(append([]string{":method", method, ":scheme", "http", ":authority", "x", ":path", path},
			pairs...)...),
	})
	return id
}

// Request opens a stream with the fields given, and no others, and sends a body if there is one.
func (c *Client) Request(pairs []string, body string) uint32 {
	id := c.Stream
	c.Stream += 2
	const most = 16 << 10 // bytes of a frame
	block := c.Fields(pairs...)
	n := min(len(block), most)
	_ = c.WriteHeaders(http2.HeadersFrameParam{
		StreamID: id, EndStream: body == "", EndHeaders: n == len(block),
		BlockFragment: block[:n],
	})
	for block = block[n:]; len(block) > 0; block = block[n:] {
		n = min(len(block), most)
		_ = c.WriteContinuation(id, n == len(block), block[:n])
	}
	if body != "" {
		_ = c.WriteData(id, true, []byte(body))
	}
	return id
}

// Outcome waits for the status of a stream; "" if it is reset or the connection ends before.
func (c *Client) Outcome(id uint32) string {
	c.mu.Lock()
	defer c.mu.Unlock()
	for {
		if s := c.statuses[id]; s != "" || c.resets[id] || c.closed || c.goAway != nil {
			return s
		}
		c.news.Wait()
	}
}

// Status is that of a stream so far.
func (c *Client) Status(id uint32) string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.statuses[id]
}

// Closed reports whether the edge has closed the connection.
func (c *Client) Closed() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.closed
}

// Done is closed when the connection is.
func (c *Client) Done() <-chan struct{} { return c.done }

// GoAway returns the code of GOAWAY; not ok: none was received.
func (c *Client) GoAway() (code http2.ErrCode, ok bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.goAway == nil {
		return 0, false
	}
	return *c.goAway, true
}

// Flood is an attack that costs the client little and the server much.
type Flood struct {
	// Step sends some more, and returns how many frames that were.
	Step func(c *Client) int
	// Kind is what the edge counts it as.
	Kind string
}

// Floods are the floods that the edge detects, by name. They send requests for host x and paths of Origin.
var Floods = map[string]Flood{
	"rapid reset": resetting(func(c *Client, id uint32) { _ = c.WriteRSTStream(id, http2.ErrCodeCancel) }),
	"made you reset by no increment": resetting(func(c *Client, id uint32) {
		_ = c.WriteRawFrame(http2.FrameWindowUpdate, 0, id, make([]byte, 4))
	}),
	"made you reset by a large increment": resetting(func(c *Client, id uint32) {
		_ = c.WriteWindowUpdate(id, 1<<31-1)
	}),
	"made you reset by late data": resetting(func(c *Client, id uint32) {
		_ = c.WriteData(id, false, []byte("x"))
	}),
	"made you reset by a stream that depends on itself": resetting(func(c *Client, id uint32) {
		_ = c.WritePriority(id, http2.PriorityParam{StreamDep: id})
	}),
	"made you reset by a late header": resetting(func(c *Client, id uint32) {
		_ = c.WriteHeaders(http2.HeadersFrameParam{
			StreamID: id, EndStream: true, EndHeaders: true,
			BlockFragment: c.Fields("a", "b"),
		})
	}),
	"refused streams": {func(c *Client) int { c.Open("GET", "/hang", true, "A", "upper"); return 1 }, "reset_flood"},
	"ping":            idle(func(c *Client) { _ = c.WritePing(false, [8]byte{}) }),
	"settings": idle(func(c *Client) {
		_ = c.WriteSettings(http2.Setting{
			ID:  http2.SettingInitialWindowSize,
			Val: 65535,
		})
	}),
	"empty settings": idle(func(c *Client) { _ = c.WriteSettings() }),
	"priority":       idle(func(c *Client) { _ = c.WritePriority(99, http2.PriorityParam{StreamDep: 0, Weight: 1}) }),
	"windows":        idle(func(c *Client) { _ = c.WriteWindowUpdate(0, 1) }),
	"unknown frames": idle(func(c *Client) { _ = c.WriteRawFrame(0xfa, 0, 0, []byte("grease")) }),
	"resets of nothing": idle(func(c *Client) {
		c.first(func() { c.Open("GET", "/ok", true) })
		_ = c.WriteRSTStream(1, http2.ErrCodeCancel)
	}),
	"empty data": idle(func(c *Client) {
		c.first(func() { c.Open("POST", "/read", false) })
		_ = c.WriteData(1, false, nil)
	}),
	"empty continuation": idle(func(c *Client) {
		c.first(c.half)
		_ = c.WriteContinuation(1, false, nil)
	}),
	"full continuation": {func(c *Client) int {
		c.first(c.half)
		_ = c.WriteContinuation(1, false, c.Fields("a-"+strconv.Itoa(c.block.Len()), strings.Repeat("x", 8000)))
		return 1
	}, "goaway"},
}

// resetting is a flood of streams that end early.
func resetting(offend func(c *Client, id uint32)) Flood {
	return Flood{func(c *Client) int { offend(c, c.Open("GET", "/hang", true)); return 2 }, "reset_flood"}
}

// idle is a flood of frames that carry nothing.
func idle(send func(c *Client)) Flood {
	return Flood{func(c *Client) int { send(c); return 1 }, "frame_flood"}
}

// first does something if no stream was opened yet.
func (c *Client) first(open func()) {
	if c.Stream == 1 {
		open()
		c.Stream = 3
	}
}

// half sends a part of a header.
func (c *Client) half() {
	_ = c.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: c.Fields(":method", "GET")})
}

// Slow is a client that sends or reads slowly.
type Slow struct {
	// Start is sent at once, and Drip every two seconds.
	Start, Drip string
	// Takes: the client reads the response.
	Takes bool
}

// SlowClients are some, by name. They ask host x.
var SlowClients = map[string]Slow{
	"headers":      {"GET / HTTP/1.1\r\nHost: x\r\n", "a: b\r\n", true},
	"small bodies": {"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 60000\r\n\r\n", "x", true},
	"large bodies": {"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 1000000\r\n\r\n", "x", true},
	"chunks":       {"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n", "1\r\nx\r\n", true},
	"readers":      {"GET /large HTTP/1.1\r\nHost: x\r\n\r\n", "", false},
	"HTTP/2": {
		"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" +
			"\x00\x00\x00\x04\x00\x00\x00\x00\x00\x00\x40\x00\x01\x04\x00\x00\x00\x01", "x", true,
	},
}

// Origin answers GET with "ok", POST with the length of the body, /hang never, and /large with 1 MiB. Only the last
// segment of the path counts.
var Origin = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
	switch name := path.Base(r.URL.Path); {
	case name == "hang":
		<-r.Context().Done()
	case name == "large":
		_, _ = w.Write(large) // the client may not take it
	case r.Method == http.MethodPost:
		n, _ := io.Copy(io.Discard, r.Body)
		_, _ = io.WriteString(w, strconv.FormatInt(n, 10))
	default:
		_, _ = io.WriteString(w, "ok")
	}
})

var large = make([]byte, 1<<20)
