package gateway

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"net"
	"net/http"
	"os"
	"strconv"
	"sync"
	"time"
)

// wire speaks HTTP/1.1 to origins for two kinds of requests. All others go by http.Transport.
//
// Nearly all may be repeated and have no body, or one that was read as a whole. They are written and read in the
// goroutine of the request; http.Transport would pass each to two other goroutines and back, which is a third of the
// CPU time of a small request (see BenchmarkGateway). A connection from the pool may have been closed by the origin
// meanwhile. Then the request is sent on a new one: that is safe because it may be repeated.
//
// The others have a body that is passed on as it comes. The client decides how long that takes, and http.Transport
// would hold 90 KiB meanwhile. They use new connections: such a request cannot be sent again.
type wire struct {
	dial func(ctx context.Context, network, addr string) (net.Conn, error)

	mu     sync.Mutex
	idle   map[string][]*wireConn // address -> connections, the one used last at the end
	sweep  *time.Timer            // runs while there are idle connections
	closed bool
}

// Bounds of the pool and of what an origin may send.
const (
	maxIdle       = 512 // connections to one address
	keepIdle      = 55 * time.Second
	sweepEvery    = 30 * time.Second
	maxAnswerHead = 64 << 10
	maxInterim    = 8 // 1xx responses before the response
)

var (
	errAnswerHead = errors.New("the origin's header is too large")
	errInterim    = errors.New("the origin sent too many interim answers")
	errStatus     = errors.New("the origin's status is below 100")
	errSwitched   = errors.New("the origin switched protocols without being asked")
)

// wireConn is a connection to an origin.
type wireConn struct {
	net.Conn
	wire   *wire
	addr   string
	r      *bufio.Reader
	out    []byte
	left   int64 // bytes that may still come
	came   bool  // a byte of the response was read
	unread unread
	parked time.Time
}

// Read reads within the limit of bytes.
func (c *wireConn) Read(p []byte) (int, error) {
	if c.left <= 0 {
		return 0, errAnswerHead
	}
	n, err := c.Conn.Read(p[:min(int64(len(p)), c.left)])
	c.left -= int64(n)
	c.came = c.came || n > 0
	return n, err
}

// roundTrip sends the exchange's request to an address and returns the answer, whose body must be read to its end or
// closed. The request ends with ctx.
func (w *wire) roundTrip(ctx context.Context, addr string, x *exchange) (*http.Response, error) {
	for {
		c, fresh, err := w.get(ctx, addr)
		if err != nil {
			return nil, err
		}
		stop := c.until(ctx)
		res, err := c.exchange(x)
		if err == nil {
			res.Body = newWireBody(c, res, stop)
			return res, nil
		}
		stop()
		_ = c.Close() // the first error counts
		if fresh || c.came || ctx.Err() != nil {
			return nil, err
		}
	}
}

// upload sends the exchange's request and its body, and returns the answer as roundTrip does. The origin may answer
// before it has all of the body, so another goroutine sends that. The time that the client takes is not the origin's.
func (w *wire) upload(ctx context.Context, addr string, x *exchange) (*http.Response, error) {
	c, err := w.connect(ctx, addr)
	if err != nil {
		return nil, err
	}
	stop := c.until(ctx)
	x.answerExpect()
	u := &upload{c: c, ctx: ctx, body: x.body, left: x.r.ContentLength, timeout: x.headerTimeout()}
	head, late, answered := x.appendHead(nil), x.cancel, make(chan struct{})
	x.edge.work.Go(func() {
		fromClient, toOrigin := u.send(head)
		switch {
		case fromClient != nil:
			_ = c.Close() // the answer to a part of a request is not used
			return
		case !errors.Is(toOrigin, os.ErrDeadlineExceeded):
			// the origin reads no more for another reason, and its response may explain it
			select {
			case <-answered:
			case <-time.After(u.timeout):
			}
		}
		select {
		case <-answered:
		default:
			late(errLate)
		}
	})
	defer close(answered)
	res, err := c.answer(x)
	if err != nil {
		stop()
		_ = c.Close() // the first error counts
		return nil, err
	}
	res.Close = true // else the pool would grow with each of them
	res.Body = newWireBody(c, res, stop)
	return res, nil
}

// upload is a body that is being sent.
type upload struct {
	c       *wireConn
	ctx     context.Context
	body    *body
	left    int64         // bytes to come; negative: unknown
	timeout time.Duration // for the origin to read each piece
}

// chunkHead is the space for the size of a chunk.
const chunkHead = len("8000\r\n")

// send sends the head of the request, and the body as it comes.
func (u *upload) send(head []byte) (fromClient, toOrigin error) {
	if err := u.write(head); err != nil {
		return nil, err
	}
	chunked := u.left < 0
	var buf buffer
	defer buf.free()
	for n := 0; u.left != 0; {
		p := buf.next(n)
		var err error
		n, err = u.body.Read(p[chunkHead : len(p)-2])
		u.left -= int64(n)
		out := p[chunkHead : chunkHead+n]
		switch {
		case chunked && errors.Is(err, io.EOF) && n == 0:
			return nil, u.write(append(appendFields([]byte("0"), u.body.trailer), "\r\n\r\n"...))
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
	_ = u.c.SetWriteDeadline(time.Now().Add(u.timeout)) // fails only if c is closed, and so does writing
	if u.ctx.Err() != nil {
		_ = u.c.SetDeadline(longAgo) // until did so before; the line above has undone it
	}
	_, err := u.c.Write(p)
	return err
}

// until ends reads and writes of the connection when ctx ends.
func (c *wireConn) until(ctx context.Context) (stop func() bool) {
	return context.AfterFunc(ctx, func() { _ = c.SetDeadline(longAgo) }) // fails only if c is closed
}

// exchange sends the request and reads the answer's head.
func (c *wireConn) exchange(x *exchange) (*http.Response, error) {
	c.left, c.came = maxAnswerHead, false
	c.out = x.appendHead(c.out[:0])
	c.out = append(c.out, x.replay...)
	_, err := c.Write(c.out)
	if cap(c.out) > 8<<10 {
		c.out = nil
	}
	if err != nil {
		return nil, err
	}
	return c.answer(x)
}

// answer reads the head of the answer.
func (c *wireConn) answer(x *exchange) (*http.Response, error) {
	for n := 0; ; n++ {
		res, err := http.ReadResponse(c.r, x.r)
		switch {
		case err != nil:
			return nil, err
		case res.StatusCode == http.StatusSwitchingProtocols:
			return nil, errSwitched
		case res.StatusCode < 100 || res.StatusCode >= 200:
			c.left = math.MaxInt64
			if !res.ProtoAtLeast(1, 1) {
				res.Close = true // http.ReadResponse hides whether it had chunks (RFC 9112, 6.1)
			}
			return res, nil
		case n == maxInterim:
			return nil, errInterim
		}
		x.passInterim(res.StatusCode, res.Header)
	}
}

// appendHead writes the request's head. Everything in it was checked when it came: path and fields have no control
// characters, the host is one.
func (x *exchange) appendHead(b []byte) []byte {
	b = append(b, x.r.Method...)
	b = append(b, ' ')
	path := x.targetPath()
	for i := range len(path) {
		if c := path[i]; c < 0x80 {
			b = append(b, c)
		} else {
			b = fmt.Appendf(b, "%%%02X", c)
		}
	}
	if x.r.URL.RawQuery != "" || x.r.URL.ForceQuery {
		b = append(b, '?')
		b = append(b, x.r.URL.RawQuery...)
	}
	b = append(b, " HTTP/1.1\r\nHost: "...)
	b = append(b, x.host()...)
	b = appendFields(b, x.header)
	switch length := x.r.ContentLength; {
	case length < 0:
		b = append(b, "\r\nTransfer-Encoding: chunked"...)
		for name := range x.body.trailer {
			b = append(append(b, "\r\nTrailer: "...), name...)
		}
	case length > 0 || x.r.Method == http.MethodPost || x.r.Method == http.MethodPut || x.r.Method == http.MethodPatch:
		b = append(b, "\r\nContent-Length: "...)
		b = strconv.AppendInt(b, length, 10)
	}
	return append(b, "\r\n\r\n"...)
}

// appendFields writes each line after a CR LF.
func appendFields(b []byte, h http.Header) []byte {
	for name, lines := range h {
		for _, line := range lines {
			if line == "" && name == "User-Agent" {
				continue // an empty line only keeps http.Transport from adding its own
			}
			b = append(b, "\r\n"...)
			b = append(b, name...)
			b = append(b, ": "...)
			b = append(b, line...)
		}
	}
	return b
}

// get returns a connection from the pool, else a fresh one.
func (w *wire) get(ctx context.Context, addr string) (c *wireConn, fresh bool, err error) {
	for {
		w.mu.Lock()
		list := w.idle[addr]
		if len(list) == 0 {
			w.mu.Unlock()
			c, err = w.connect(ctx, addr)
			return c, true, err
		}
		c = list[len(list)-1]
		w.idle[addr] = list[:len(list)-1]
		w.mu.Unlock()
		if !c.unread.is() {
			return c, false, nil
		}
		_ = c.Close() // it has ended, or what it has is no answer to the next request (RFC 9112, 9.2)
	}
}

func (w *wire) connect(ctx context.Context, addr string) (*wireConn, error) {
	c := &wireConn{wire: w, addr: addr, left: maxAnswerHead}
	var err error
	done := make(chan struct{})
	go func() { // else the stack of the request would grow to 16 KiB, and not shrink
		defer close(done)
		c.Conn, err = w.dial(ctx, "tcp", addr)
	}()
	if <-done; err != nil {
		return nil, &net.OpError{Op: "dial", Net: "tcp", Err: err}
	}
	c.unread.init(c.Conn)
	c.r = bufio.NewReaderSize(c, 2<<10) // nearly all heads are smaller; what is behind one is read in larger pieces
	return c, nil
}

// put returns an idle connection to the pool.
func (w *wire) put(c *wireConn) {
	c.parked = time.Now()
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.closed || len(w.idle[c.addr]) >= maxIdle {
		_ = c.Close() // it is not needed
		return
	}
	if w.idle == nil {
		w.idle = map[string][]*wireConn{}
	}
	w.idle[c.addr] = append(w.idle[c.addr], c)
	if w.sweep == nil {
		w.sweep = time.AfterFunc(sweepEvery, w.clean)
	}
}

// clean closes connections that have been idle for too long, and runs again while there are others.
func (w *wire) clean() {
	w.mu.Lock()
	defer w.mu.Unlock()
	for addr, list := range w.idle {
		n := 0
		for n < len(list) && (w.closed || time.Since(list[n].parked) > keepIdle) {
			_ = list[n].Close() // it is not needed
			n++
		}
		if n == len(list) {
			delete(w.idle, addr)
		} else {
			w.idle[addr] = append(list[:0], list[n:]...)
		}
	}
	w.sweep = nil
	if len(w.idle) > 0 {
		w.sweep = time.AfterFunc(sweepEvery, w.clean)
	}
}

// close closes idle connections now, and others when their requests end.
func (w *wire) close() {
	w.mu.Lock()
	w.closed = true
	if w.sweep != nil {
		w.sweep.Stop()
	}
	w.mu.Unlock()
	w.clean()
}

// wireBody is the body of an answer. At its end the connection goes back to the pool.
type wireBody struct {
	io.ReadCloser
	c    *wireConn // nil: it was given back or closed
	stop func() bool
	last bool // the connection cannot be used again
}

func newWireBody(c *wireConn, res *http.Response, stop func() bool) *wireBody {
	b := &wireBody{ReadCloser: res.Body, c: c, stop: stop, last: res.Close}
	if res.Body == http.NoBody {
		b.done(true)
	}
	return b
}

// Read reads the body.
func (b *wireBody) Read(p []byte) (int, error) {
	if b.c == nil {
		return 0, io.EOF
	}
	n, err := b.ReadCloser.Read(p)
	if err != nil {
		b.done(err == io.EOF)
	}
	return n, err
}

// bufferedFromOrigin returns how many bytes of an answer have come from the origin and were not read. 0 if that is not
// known.
func bufferedFromOrigin(res *http.Response) int64 {
	if b, ok := res.Body.(*wireBody); ok && b.c != nil {
		return int64(b.c.r.Buffered())
	}
	return 0
}

// Close gives up what was not read.
func (b *wireBody) Close() error {
	b.done(false)
	return nil
}

func (b *wireBody) done(whole bool) {
	c := b.c
	if c == nil {
		return
	}
	b.c = nil
	if quiet := b.stop(); quiet && whole && !b.last && c.r.Buffered() == 0 {
		c.wire.put(c)
		return
	}
	_ = c.Close() // the answer was read, or is not used
}
