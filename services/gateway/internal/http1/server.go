// Package http1 speaks HTTP/1.1 and HTTP/1.0 (RFC 9112): to clients by [Serve], to origins as a [Client].
//
// There are packages for that, but not for the first server before all others. net/http reads some requests in two ways
// and accepts what another server may read in another way (as of Go 1.26): such bytes had to be checked before, and so
// were parsed twice. It copies each header into a map, and needs two goroutines for a connection to an origin. See
// docs/adr/0027-an-http-1-stack-of-our-own.md.
package http1

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"sync"
	"time"

	"bijou.dev/services/gateway/internal/message"
)

// Times for a client.
const (
	headTime = 10 * time.Second // to send the head of a request
	idleTime = time.Minute      // between requests

	// watchAfter is how long a request must take until its connection is watched for the client to leave.
	watchAfter = 100 * time.Millisecond
	// slack is by how much a deadline for an idle connection may be too early. It saves setting one for each request.
	slack = 2 * time.Second
)

var longAgo = time.Unix(1, 0)

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
}

// preface is what a client of HTTP/2 sends first (RFC 9113, 3.4).
const preface = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"

// Serve answers the requests of a client until either side ends the connection, and closes it. If the client speaks
// HTTP/2, it returns what was received, and does not close the connection.
func Serve(nc Conn, opts Options) (received []byte, isHTTP2 bool) {
	c := &conn{Conn: nc, opts: opts, first: true}
	c.ended.L = &c.mu
	c.in.src = source(nc)
	if c.serve() {
		return c.in.data(), true
	}
	return nil, false
}

// conn is a connection with a client. One goroutine reads requests from it and answers them.
type conn struct {
	Conn
	opts     Options
	in       input
	head     head
	first    bool      // no request has come yet
	deadline time.Time // for reading; zero: none
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

// errHTTP2 says that the client speaks HTTP/2.
var errHTTP2 = errors.New("the client speaks HTTP/2")

func (c *conn) serve() (isHTTP2 bool) {
	defer func() {
		if c.cancel != nil {
			c.cancel()
			c.stopTimer()
		}
		if !isHTTP2 && !c.tunneled {
			c.in.free()
			_ = c.Close() // the client knows by the last response, or has left
		}
	}()
	for {
		r, err := c.next()
		if err != nil {
			return errors.Is(err, errHTTP2)
		}
		w := &r.writer
		*w = writer{c: c, r: &r.Request, body: r.body(), close: r.close}
		c.begin(r)
		c.opts.Handle(&r.Request, w)
		c.watchNoMore()
		if c.tunneled || !w.finish() || c.failure != nil {
			return false
		}
	}
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

// next waits for the next request.
func (c *conn) next() (*request, error) {
	h := &c.head
	h.reset()
	for began := false; ; {
		data := c.in.data()
		if len(data) > 0 {
			if !began {
				c.SetIdle(false)
			}
			if c.skipsEmptyLine(data) {
				continue
			}
			if isHTTP2, more := c.isPreface(data); isHTTP2 {
				return nil, errHTTP2
			} else if more {
				// it is waited for
			} else if c.first && c.opts.Protocol == OnlyHTTP2 {
				return nil, io.EOF
			} else if done, refused := h.parse(data); refused != nil {
				c.last = true
				r := &request{}
				r.Version, r.Refused, r.Context, r.Leave = message.HTTP11, refused, c.context(), &c.leave
				return r, nil
			} else if done {
				return c.request(h, data), nil
			}
		}
		if err := c.await(len(data) > 0 || h.empty > 0, &began); err != nil {
			return nil, err
		}
	}
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
	n := min(len(data), len(preface))
	if !c.first || c.opts.Protocol == OnlyHTTP1 || string(data[:n]) != preface[:n] {
		return false, false
	}
	// no client of HTTP/1 has a method PRI
	return n == len(preface), n < len(preface) && (n > len("PRI ") || c.opts.Protocol == OnlyHTTP2)
}

// await waits for more bytes: of a request that has begun, or of the next one.
func (c *conn) await(hasBegun bool, timed *bool) error {
	switch {
	case hasBegun && !*timed:
		*timed = true
		if !c.first { // else the time runs since the connection was accepted
			c.readUntil(time.Now().Add(headTime))
		}
		if len(c.in.data()) > 0 {
			return c.in.fill()
		}
		return c.in.await()
	case hasBegun:
		return c.in.fill()
	}
	if c.SetIdle(true); c.opts.Stopping() {
		return io.EOF
	}
	if c.first {
		c.readUntil(time.Now().Add(headTime))
	} else if now := time.Now(); c.deadline.Before(now.Add(idleTime - slack)) {
		c.readUntil(now.Add(idleTime))
	}
	return c.in.await()
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
	c.first = false
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
	c.readUntil(longAgo)
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
