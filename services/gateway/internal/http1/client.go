package http1

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strconv"
	"sync"
	"time"

	"bijou.dev/services/gateway/internal/message"
)

// Client sends requests to origins. A request is written and its response read by the goroutine that calls RoundTrip;
// http.Transport would pass each to two other goroutines and back, which is a third of the CPU time of a small request.
//
// A connection from the pool may have been closed by the origin meanwhile. If so, a request that may be repeated is
// sent again on a new connection.
type Client struct {
	// Dial connects to an address. Required.
	Dial func(ctx context.Context, network, addr string) (net.Conn, error)

	mu     sync.Mutex
	idle   map[string][]*originConn // address -> connections, the one used last at the end
	sweep  *time.Timer              // runs while there are idle connections
	closed bool
}

// Bounds of the pool.
const (
	maxIdle    = 512 // connections to one address
	sweepEvery = 30 * time.Second
)

// Call is a request for an origin.
type Call struct {
	Method      string
	Path, Query string // the query has its question mark
	Host        string
	Header      message.Header
	Length      int64 // of the body; -1: unknown, and then it is sent in chunks
	// Content is the body, if it was read as a whole.
	Content []byte
	// Body is the body, if it is passed on as it comes. Nil: see Content.
	Body Body
	// Repeatable says that it is safe to send the request twice.
	Repeatable bool
	// Upgrade says that the origin may switch to another protocol.
	Upgrade bool
	// Timeout is how long the origin may take to read each piece of Body.
	Timeout time.Duration
	// Interim gets 1xx responses.
	Interim func(status int, h message.Header)
	// Cancel ends the call, its response included. Required.
	Cancel *Canceler
	// Late is the cause with which Cancel ends the call when the origin does not read Body in time.
	Late error
	// Go runs a function in another goroutine. It is for sending Body.
	Go func(func())
}

// Body is a body that is sent as it comes.
type Body interface {
	io.Reader
	// Trailer is the trailer at the end; before, the names that were announced, without values.
	Trailer() message.Header
}

// originConn is a connection to an origin.
type originConn struct {
	net.Conn
	client *Client
	addr   string
	in     input
	heads  int  // bytes of heads that came since the request
	came   bool // a byte of the response was read
	unread unread
	parked time.Time
}

// Interrupt implements Interrupter.
func (c *originConn) Interrupt() { _ = c.SetDeadline(message.LongAgo) } // fails only when it is closed

// RoundTrip sends a request to an address and returns the response, whose body must be read to its end or closed. Only
// connecting ends with ctx, the rest by call.Cancel.
func (c *Client) RoundTrip(ctx context.Context, addr string, call *Call) (*message.Response, error) {
	if call.Body != nil {
		return c.upload(ctx, addr, call)
	}
	for {
		oc, fresh, err := c.get(ctx, addr, call.Cancel)
		if err != nil {
			return nil, err
		}
		call.Cancel.Hold(oc)
		a, err := oc.exchange(call)
		if err == nil {
			oc.setBody(a, call.Cancel)
			return &a.Response, nil
		}
		again := call.Cancel.Release()
		_ = oc.Close() // the first error counts
		if fresh || oc.came || !call.Repeatable || !again {
			return nil, err
		}
	}
}

// upload sends a request whose body is passed on as it comes. The sender of the body decides how long that takes. The
// origin may answer before it has all of it, so another goroutine sends it. It uses a new connection: such a request
// cannot be sent again.
func (c *Client) upload(ctx context.Context, addr string, call *Call) (*message.Response, error) {
	oc, err := c.connect(ctx, addr, call.Cancel)
	if err != nil {
		return nil, err
	}
	call.Cancel.Hold(oc)
	u := &upload{c: oc, call: call, left: call.Length}
	head, answered := call.appendHead(nil), make(chan struct{})
	call.Go(func() {
		fromClient, toOrigin := u.send(head)
		switch {
		case fromClient != nil:
			_ = oc.Close() // the answer to a part of a request is not used
			return
		case !errors.Is(toOrigin, os.ErrDeadlineExceeded):
			// the origin reads no more for another reason, and its response may explain it
			select {
			case <-answered:
			case <-time.After(call.Timeout):
			}
		}
		select {
		case <-answered:
		default:
			call.Cancel.Cancel(call.Late)
		}
	})
	defer close(answered)
	a, err := oc.answer(call)
	if err != nil {
		call.Cancel.Release()
		_ = oc.Close() // the first error counts
		return nil, err
	}
	a.close = true // else the pool would grow with each of them
	oc.setBody(a, call.Cancel)
	return &a.Response, nil
}

// upload is a body that is being sent.
type upload struct {
	c    *originConn
	call *Call
	left int64 // bytes to come; negative: unknown
}

// chunkHead is the space for the size of a chunk.
const chunkHead = len("fff8\r\n")

// send sends the head of the request, and the body as it comes.
func (u *upload) send(head []byte) (fromClient, toOrigin error) {
	if err := u.write(head); err != nil {
		return nil, err
	}
	chunked := u.left < 0
	var buf Buffer
	defer buf.Free()
	for n := 0; u.left != 0; {
		p := buf.Next(n)
		var err error
		n, err = u.call.Body.Read(p[chunkHead : len(p)-2])
		u.left -= int64(n)
		out := p[chunkHead : chunkHead+n]
		switch {
		case chunked && errors.Is(err, io.EOF) && n == 0:
			return nil, u.write(append(appendFields([]byte("0\r\n"), u.call.Body.Trailer()), "\r\n"...))
		case chunked && n > 0:
			size := strconv.AppendInt(make([]byte, 0, chunkHead), int64(n), 16)
			out = p[chunkHead-2-len(size) : chunkHead+n+2]
			copy(out, append(size, '\r', '\n'))
			copy(out[len(out)-2:], "\r\n")
		case err != nil && u.left != 0:
			return err, nil
		}
		if err := u.write(out); err != nil {
			return nil, err
		}
	}
	return nil, nil
}

func (u *upload) write(p []byte) error {
	_ = u.c.SetWriteDeadline(time.Now().Add(u.call.Timeout)) // fails only if c is closed, and so does writing
	if u.call.Cancel.Cause() != nil {
		_ = u.c.SetDeadline(message.LongAgo) // Cancel did so before; the line above has undone it
	}
	_, err := u.c.Write(p)
	return err
}

// exchange sends the request and reads the answer's head.
func (c *originConn) exchange(call *Call) (*answer, error) {
	c.heads, c.came = 0, false
	pooled := buffers.Get().(*[]byte)
	_, err := c.Write(append(call.appendHead(*pooled), call.Content...))
	buffers.Put(pooled)
	if err != nil {
		return nil, err
	}
	return c.answer(call)
}

// answer reads the head of the answer.
func (c *originConn) answer(call *Call) (*answer, error) {
	for n := 0; ; n++ {
		a, err := c.readHead(call.Method)
		switch {
		case err != nil:
			return nil, err
		case a.Status == http.StatusSwitchingProtocols && !call.Upgrade:
			return nil, errSwitched
		case a.Status >= 200 || a.Status == http.StatusSwitchingProtocols:
			return a, nil
		case n == message.MaxInterim:
			return nil, message.ErrInterim
		}
		call.Interim(a.Status, a.Header)
	}
}

// answerLines is memory for parsing.
var answerLines = sync.Pool{New: func() any { return new([]place) }}

func (c *originConn) readHead(method string) (*answer, error) {
	for from := 0; ; {
		data := c.in.data()
		if n := endOfHead(data, from); n > 0 {
			if c.heads += n; c.heads > message.MaxAnswerHead {
				return nil, errAnswerHead
			}
			lines := answerLines.Get().(*[]place)
			a, err := parseAnswer(data[:n], method, lines)
			answerLines.Put(lines)
			c.in.use(n)
			return a, err
		}
		if c.heads+len(data) > message.MaxAnswerHead {
			return nil, errAnswerHead
		}
		from = max(0, len(data)-len("\n\r"))
		if err := c.in.fill(); err != nil {
			return nil, fmt.Errorf("reading the origin's header: %w", unexpected(err))
		}
		c.came = true
	}
}

// Target is the path and the query, as they are sent.
func (call *Call) Target() string {
	if call.Query == "" && isASCII(call.Path) {
		return call.Path
	}
	return string(call.appendTarget(nil))
}

func isASCII(s string) bool {
	for i := range len(s) {
		if s[i] >= 0x80 {
			return false
		}
	}
	return true
}

func (call *Call) appendTarget(b []byte) []byte {
	for i := range len(call.Path) {
		if c := call.Path[i]; c < 0x80 {
			b = append(b, c)
		} else {
			b = fmt.Appendf(b, "%%%02X", c)
		}
	}
	return append(b, call.Query...)
}

// appendHead writes the request's head. Path and fields were checked when they came: they have no control characters.
func (call *Call) appendHead(b []byte) []byte {
	b = append(append(b, call.Method...), ' ')
	b = call.appendTarget(b)
	b = append(b, " HTTP/1.1\r\nHost: "...)
	b = append(append(b, call.Host...), "\r\n"...)
	b = appendFields(b, call.Header)
	switch length := call.Length; {
	case length < 0:
		b = append(b, "Transfer-Encoding: chunked\r\n"...)
		for _, f := range call.Body.Trailer() {
			b = append(append(append(b, "Trailer: "...), f.Name...), "\r\n"...)
		}
	case length > 0 || call.Method == http.MethodPost || call.Method == http.MethodPut || call.Method == http.MethodPatch:
		b = strconv.AppendInt(append(b, "Content-Length: "...), length, 10)
		b = append(b, "\r\n"...)
	}
	return append(b, "\r\n"...)
}

// get returns a connection from the pool, else a fresh one.
func (c *Client) get(ctx context.Context, addr string, cancel *Canceler) (oc *originConn, fresh bool, err error) {
	for {
		c.mu.Lock()
		list := c.idle[addr]
		if len(list) == 0 {
			c.mu.Unlock()
			oc, err = c.connect(ctx, addr, cancel)
			return oc, true, err
		}
		oc = list[len(list)-1]
		c.idle[addr] = list[:len(list)-1]
		c.mu.Unlock()
		if !oc.unread.is() {
			return oc, false, nil
		}
		_ = oc.Close() // it has ended, or what it has is no answer to the next request (RFC 9112, 9.2)
	}
}

func (c *Client) connect(ctx context.Context, addr string, cancel *Canceler) (*originConn, error) {
	oc := &originConn{client: c, addr: addr}
	ctx, free := cancel.Context(ctx)
	defer free()
	var err error
	done := make(chan struct{})
	go func() { // else the stack of the request would grow to 16 KiB, and not shrink
		defer close(done)
		defer Catch(&err)
		oc.Conn, err = c.Dial(ctx, "tcp", addr)
	}()
	<-done
	Raise(err)
	if err != nil {
		return nil, &net.OpError{Op: "dial", Net: "tcp", Err: err}
	}
	oc.unread.init(oc.Conn)
	oc.in.src = source(oc.Conn)
	return oc, nil
}

// put returns an idle connection to the pool.
func (c *Client) put(oc *originConn) {
	oc.parked = time.Now()
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed || len(c.idle[oc.addr]) >= maxIdle {
		_ = oc.Close() // it is not needed
		return
	}
	if c.idle == nil {
		c.idle = map[string][]*originConn{}
	}
	c.idle[oc.addr] = append(c.idle[oc.addr], oc)
	if c.sweep == nil {
		c.sweep = time.AfterFunc(sweepEvery, c.clean)
	}
}

// clean closes connections that have been idle for too long, and runs again while there are others.
func (c *Client) clean() {
	c.mu.Lock()
	defer c.mu.Unlock()
	for addr, list := range c.idle {
		n := 0
		for n < len(list) && (c.closed || time.Since(list[n].parked) > message.KeepIdle) {
			_ = list[n].Close() // it is not needed
			n++
		}
		if n == len(list) {
			delete(c.idle, addr)
		} else {
			c.idle[addr] = append(list[:0], list[n:]...)
		}
	}
	c.sweep = nil
	if len(c.idle) > 0 {
		c.sweep = time.AfterFunc(sweepEvery, c.clean)
	}
}

// Close closes idle connections now, and others when their requests end.
func (c *Client) Close() {
	c.mu.Lock()
	c.closed = true
	if c.sweep != nil {
		c.sweep.Stop()
	}
	c.mu.Unlock()
	c.clean()
}

// setBody gives a response its body.
func (c *originConn) setBody(a *answer, cancel *Canceler) {
	b := &a.body
	*b = answerBody{a: a, c: c, cancel: cancel, left: a.Length}
	switch {
	case a.Status == http.StatusSwitchingProtocols:
		cancel.Release()
		_ = c.SetDeadline(time.Time{}) // fails only when it is closed
		a.Body = switched{c, newPieces(c.in.src)}
		return
	case a.chunked:
		b.chunks = chunks{in: &c.in, padded: true}
		b.left = -1
	case a.Length == 0, a.empty:
		b.done(true)
		return
	}
	a.Body = b
}

// answerBody is the body of a response. At its end the connection goes back to the pool.
type answerBody struct {
	a      *answer
	c      *originConn // nil: it was given back or closed
	cancel *Canceler
	left   int64 // bytes to come; -1: unknown
	chunks chunks
}

// Read reads the body.
func (b *answerBody) Read(p []byte) (int, error) {
	if b.c == nil {
		return 0, io.EOF
	}
	n, err := b.read(p)
	if err != nil {
		b.done(err == io.EOF) //nolint:errorlint // it is not wrapped
	}
	return n, err
}

func (b *answerBody) read(p []byte) (n int, err error) {
	switch {
	case b.a.chunked:
		if n, err = b.chunks.read(p); err == io.EOF { //nolint:errorlint // it is not wrapped
			b.a.Trailer = b.chunks.trailer
		}
		return n, err
	case b.left < 0:
		return b.c.in.read(p)
	}
	n, err = b.c.in.read(p[:min(int64(len(p)), b.left)])
	if b.left -= int64(n); b.left == 0 {
		return n, io.EOF
	}
	return n, unexpected(err)
}

// Buffered is how many bytes have come from the origin and were not read.
func (b *answerBody) Buffered() int {
	if b.c == nil {
		return 0
	}
	return len(b.c.in.data())
}

// Close gives up what was not read.
func (b *answerBody) Close() error {
	b.done(false)
	return nil
}

func (b *answerBody) done(whole bool) {
	c := b.c
	if c == nil {
		return
	}
	b.c = nil
	if quiet := b.cancel.Release(); quiet && whole && !b.a.close && len(c.in.data()) == 0 {
		c.client.put(c)
		return
	}
	_ = c.Close() // the answer was read, or is not used
}

// switched is a connection that has switched to another protocol.
type switched struct {
	*originConn
	pieces pieces
}

// Read reads what the origin has sent.
func (s switched) Read(p []byte) (int, error) { return s.in.read(p) }

// WriteTo writes what the origin sends to w, until the origin ends it, or until ErrIdle.
func (s switched) WriteTo(w io.Writer) (int64, error) { return s.in.copyTo(w, s.Conn, s.pieces) }

// CloseWrite ends the sending direction.
func (s switched) CloseWrite() error {
	return closeWrite(s.Conn)
}
