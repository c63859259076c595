// Package http1 speaks HTTP/1.1 and HTTP/1.0 (RFC 9112): to clients by [State.Serve], to origins as a [Client].
//
// There are packages for that, but not for the first server before all others. net/http reads some requests in two ways
// and accepts what another server may read in another way (as of Go 1.26): such bytes had to be checked before, and so
// were parsed twice. It copies each header into a map, and needs two goroutines for a connection to an origin. See
// docs/adr/0027-an-http-1-stack-of-our-own.md.
package http1

import (
	"cmp"
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"os"
	"sync"
	"syscall"
	"time"

	"bijou.dev/services/gateway/internal/message"
)

// Times for a client.
const (
	headTime = 10 * time.Second // to send the head of a request
	idleTime = time.Minute      // between requests

	// watchAfter is how long a request must take until its connection is watched for the client to leave.
	watchAfter = 100 * time.Millisecond
	// idleAfter is how long a connection waits for a request until Serve returns Idle. It may be up to a half less: the
	// deadline of a wait before is kept, which saves setting one for each request.
	idleAfter = 3 * time.Second
)

// Conn is what a server needs to know about a connection with a client.
type Conn interface {
	net.Conn
	// SetIdle says whether the connection waits for a request.
	SetIdle(idle bool)
	// Linger makes Close wait until the client has read the last response: there may be bytes of the client that nobody
	// has read, and then TCP sends a reset.
	Linger()
}

// Protocol is what a client may speak.
type Protocol uint8

// The protocols.
const (
	Any       Protocol = iota
	OnlyHTTP1          // a preface of HTTP/2 is refused
	OnlyHTTP2          // anything but a preface of HTTP/2 ends the connection
)

// Options of a connection with a client.
type Options struct {
	// Protocol is what the client may speak. Zero: HTTP/1 and HTTP/2.
	Protocol Protocol
	// Handle answers a request. It returns when the response has ended. Required.
	Handle func(r *message.Request, w message.Writer)
	// Stopping reports whether connections are to be closed after the response in progress. Required. Who makes it true
	// also closes the connections that are idle then.
	Stopping func() bool
	// IdleAfter is how long a connection waits for a request, after the first one, until Serve returns Idle. It may be up
	// to a half less. Zero: 3 s.
	IdleAfter time.Duration
}

// Preface is what a client of HTTP/2 sends first (RFC 9113, 3.4).
const Preface = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"

// End is why Serve has returned.
type End uint8

const (
	// Closed says that the connection was closed, or is a tunnel now.
	Closed End = iota
	// Idle says that no request has come for a while. Call Wait, and then Serve again, both in a new goroutine: the stack
	// of the one that has answered requests is large, and Go does not make it as small as that of a new one.
	Idle
	// HTTP2 says that the client speaks HTTP/2. The connection is open.
	HTTP2
)

// State is what a connection with a client keeps between calls of Serve. The zero value is for a new connection.
type State struct {
	received []byte    // and not used yet
	until    time.Time // when the connection is closed if no request has come; zero: Serve was not called yet
}

// Received is what was received and not used. It is to be asked for when Serve has returned HTTP2.
func (s *State) Received() []byte { return s.received }

// Serve answers the requests of a client until either side ends the connection, and closes it; or until one of the
// other reasons.
func (s *State) Serve(nc Conn, opts Options) End {
	c := s.open(nc, opts)
	end := c.serve()
	switch end {
	case Idle:
		s.until = c.until
	case HTTP2:
		s.received = c.in.data()
	}
	return end
}

func (s *State) open(nc Conn, opts Options) *conn {
	c := &conn{Conn: nc, opts: opts, first: s.until.IsZero(), until: s.until, deadline: s.until}
	c.opts.IdleAfter = cmp.Or(opts.IdleAfter, idleAfter)
	c.ended.L = &c.mu
	c.in.src = source(nc)
	c.in.add(s.received)
	s.received = nil
	return c
}

// Wait waits for a request after Serve has returned Idle. It holds no buffer, and its goroutine needs a small stack. If
// it returns false, the connection was closed. raw is the kernel's connection below nc; nil: there is none.
func (s *State) Wait(nc Conn, raw syscall.RawConn) bool {
	err := nc.SetReadDeadline(s.until)
	if err == nil {
		s.received, err = await(nc, raw)
	}
	if err != nil {
		_ = nc.Close() // nothing is lost
	}
	return err == nil
}

// conn is a connection with a client. One goroutine reads requests from it and answers them.
type conn struct {
	Conn
	opts     Options
	in       input
	head     head
	first    bool      // no request has come yet
	timed    bool      // the request that has begun has a deadline
	deadline time.Time // for reading; zero: none
	until    time.Time // when Wait, which came before, would have ended; zero: a request has come since
	last     bool      // nothing is read from it any more
	tunneled bool      // it is not the server's any more

	ctx    context.Context // of requests; nil: there was none
	cancel context.CancelFunc
	leave  message.Leave

	// While a request is in progress, its client is watched as soon as its body was read.
	mu       sync.Mutex
	busy     bool      // a request is in progress
	since    time.Time // when the client may be watched; zero: not yet
	timer    *time.Timer
	running  bool // timer is to call watch
	watching bool // watch waits in a read
	ended    sync.Cond
	failure  error // of that read
}

var (
	errHTTP2 = errors.New("the client speaks HTTP/2")
	errIdle  = errors.New("no request has come for a while")
)

func (c *conn) serve() (end End) {
	defer func() {
		if c.cancel != nil {
			c.cancel()
			c.stopTimer()
		}
		if end == Closed && !c.tunneled {
			c.in.free()
			_ = c.Close() // the client knows by the last response, or has left
		}
	}()
	for c.head.reset(); ; {
		r, err := c.next()
		if r == nil && err == nil {
			if err = c.await(); err == nil {
				continue
			}
		}
		switch {
		case errors.Is(err, errHTTP2):
			return HTTP2
		case errors.Is(err, errIdle):
			return Idle
		case err != nil || !c.handle(r):
			return Closed
		}
		c.head.reset()
		c.timed = false
	}
}

// handle answers a request, and reports whether there may be another one.
func (c *conn) handle(r *request) bool {
	w := &r.writer
	*w = writer{c: c, r: &r.Request, body: r.body(), close: r.close}
	c.begin(r)
	c.opts.Handle(&r.Request, w)
	c.watchNoMore()
	return !c.tunneled && w.finish() && c.failure == nil
}

// request is a request with what the server keeps about it.
type request struct {
	message.Request
	content body
	writer  writer
	close   bool              // the client wants no further response
	room    [16]message.Field // memory of most headers
}

func (r *request) body() *body {
	if r.Body == nil {
		return nil
	}
	return &r.content
}

// next returns the next request. Nil: more must come.
func (c *conn) next() (*request, error) {
	h := &c.head
	data := c.in.data()
	if len(data) == 0 {
		return nil, nil //nolint:nilnil // there is none yet
	}
	if !c.timed {
		c.SetIdle(false)
	}
	for c.skipsEmptyLine(data) {
		data = c.in.data()
	}
	if len(data) == 0 {
		return nil, nil //nolint:nilnil // there is none yet
	}
	switch isHTTP2, more := c.isPreface(data); {
	case isHTTP2:
		return nil, errHTTP2
	case more:
		return nil, nil //nolint:nilnil // there is none yet
	case c.first && c.opts.Protocol == OnlyHTTP2:
		return nil, io.EOF
	}
	done, refused := h.parse(data)
	switch {
	case refused != nil:
		c.last = true
		r := &request{}
		r.Version, r.Refused, r.Context, r.Leave = message.HTTP11, refused, c.context(), &c.leave
		return r, nil
	case done:
		return c.request(h, data), nil
	}
	return nil, nil //nolint:nilnil // there is none yet
}

// skipsEmptyLine takes an empty line before a request (RFC 9112, 2.2).
func (c *conn) skipsEmptyLine(data []byte) bool {
	if c.head.next > 0 || c.head.empty == maxEmpty || len(data) < 2 || data[0] != '\r' || data[1] != '\n' ||
		c.first && c.opts.Protocol == OnlyHTTP2 {
		return false
	}
	c.head.empty++
	c.first = false // a preface comes first
	c.in.use(2)
	return true
}

// isPreface reports whether a connection begins with the preface of HTTP/2, or whether more bytes must come to know.
func (c *conn) isPreface(data []byte) (isHTTP2, more bool) {
	n := min(len(data), len(Preface))
	if !c.first || c.opts.Protocol == OnlyHTTP1 || string(data[:n]) != Preface[:n] {
		return false, false
	}
	// no client of HTTP/1 has a method PRI
	return n == len(Preface), n < len(Preface) && (n > len("PRI ") || c.opts.Protocol == OnlyHTTP2)
}

// await waits for more bytes: of a request that has begun, or of the next one.
func (c *conn) await() error {
	if len(c.in.data()) == 0 && c.head.empty == 0 {
		return c.awaitNext()
	}
	if !c.timed {
		c.timed = true
		if !c.first { // else the time runs since the connection was accepted
			c.readUntil(time.Now().Add(headTime))
		}
	}
	if len(c.in.data()) > 0 {
		return c.in.fill()
	}
	return c.in.await()
}

// awaitNext waits for the next request. Its goroutine should need a small stack meanwhile.
func (c *conn) awaitNext() error {
	if c.SetIdle(true); c.opts.Stopping() {
		return io.EOF
	}
	now := c.limitWait()
	err := c.in.await()
	if c.first || !errors.Is(err, os.ErrDeadlineExceeded) {
		return err
	}
	if c.until.IsZero() {
		c.until = now.Add(idleTime)
	}
	if !time.Now().Before(c.until) {
		return io.EOF
	}
	return errIdle
}

// limitWait sets the deadline for the wait for a request that begins now.
func (c *conn) limitWait() (now time.Time) {
	now = time.Now()
	wait := c.opts.IdleAfter
	switch {
	case c.first:
		c.readUntil(now.Add(headTime))
	case !c.until.IsZero():
		c.readUntil(now.Add(min(wait, c.until.Sub(now))))
	default:
		if left := c.deadline.Sub(now); left < wait/2 || left > wait {
			c.readUntil(now.Add(wait))
		}
	}
	return now
}

// readUntil sets the deadline for reading; zero: there is none.
func (c *conn) readUntil(t time.Time) {
	if t != c.deadline {
		c.deadline = t
		_ = c.SetReadDeadline(t) // fails only when it is closed, and then reading fails
	}
}

// request makes a request of its head.
func (c *conn) request(h *head, data []byte) *request {
	r := &request{}
	r.Header = r.room[:0]
	h.fill(&r.Request, string(data[:h.next]))
	c.first, c.until = false, time.Time{}
	c.in.use(h.next)
	r.close = r.Header.HasWord("Connection", "close")
	if r.Version == message.HTTP10 {
		r.close = !r.Header.HasWord("Connection", "keep-alive")
	}
	r.Context, r.Leave = c.context(), &c.leave
	if r.Length != 0 {
		r.content = body{c: c, left: r.Length}
		if h.chunked {
			r.content.chunks = chunks{in: &c.in, fields: h.fields}
			r.content.chunks.names = r.Header.Announced()
		}
		r.Body = &r.content
	}
	return r
}

func (c *conn) context() context.Context {
	if c.ctx == nil {
		c.ctx, c.cancel = context.WithCancel(context.Background())
	}
	return c.ctx
}

// begin begins to handle a request.
func (c *conn) begin(r *request) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.busy = true
	switch {
	case r.Body != nil:
		c.readUntil(time.Time{}) // a body may take longer
	case r.Refused == nil:
		c.watchLocked()
	}
}

// watchLocked lets the client be watched, unless the next request has come already. The timer is not set and stopped
// for each request, which could wake a thread each time: it runs on while requests come.
func (c *conn) watchLocked() {
	if !c.busy || len(c.in.data()) > 0 {
		return
	}
	c.since = time.Now()
	switch {
	case c.running:
		return
	case c.timer == nil:
		c.timer = time.AfterFunc(watchAfter, c.watch)
	default:
		c.timer.Reset(watchAfter)
	}
	c.running = true
}

// watch waits until the client leaves, sends more, or the request ends.
func (c *conn) watch() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.since.IsZero() {
		c.running = false
		return
	}
	if left := watchAfter - time.Since(c.since); left > 0 {
		c.timer.Reset(left)
		return
	}
	c.running, c.watching = false, true
	c.readUntil(time.Time{})
	c.mu.Unlock()
	err := c.in.await()
	c.mu.Lock()
	c.watching = false
	if err != nil && c.busy {
		c.failure = err
		c.cancel()
		c.leave.Set()
	}
	c.ended.Broadcast()
}

// watchNoMore ends watching: the request has ended.
func (c *conn) watchNoMore() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.busy, c.since = false, time.Time{}
	if !c.watching {
		return
	}
	c.readUntil(message.LongAgo)
	for c.watching {
		c.ended.Wait()
	}
	c.readUntil(time.Time{})
}

// stopTimer ends the timer with the connection.
func (c *conn) stopTimer() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.timer != nil {
		c.timer.Stop()
	}
}

// statusText returns the text of net/http for a status.
func statusText(status int) string {
	if text := http.StatusText(status); text != "" {
		return text
	}
	return "Unknown"
}
