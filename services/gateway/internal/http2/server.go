// Package http2 speaks HTTP/2 (RFC 9113): to clients as a [Server], to origins as a [Client].
//
// There are packages for that. net/http's passes each frame through several goroutines, which for a small call of gRPC
// is nine tenths of the CPU time, and limits how many streams are open, but not how often they begin and end (as of Go
// 1.26). HPACK is that of golang.org/x/net. See docs/adr/0030-an-http-2-stack-of-our-own.md.
package http2

import (
	"errors"
	"io"
	"log/slog"
	"net"
	"runtime/debug"
	"sync"
	"sync/atomic"
	"time"

	"bijou.dev/services/gateway/internal/http1"
	"bijou.dev/services/gateway/internal/message"
)

// Times for a client.
const (
	headTime  = 10 * time.Second // to send a frame or a header
	bodyRate  = 1 << 10          // bytes per second of a frame of a body, at least
	writeTime = 10 * time.Second // to read a piece of a response
	idleTime  = time.Minute      // without a stream
	pingAfter = 30 * time.Second // without a frame of a client that has streams: it may have left without closing
	pongTime  = 10 * time.Second // to answer a ping
	lastTime  = time.Second      // to read GOAWAY, and to answer the ping with it
)

// Limits of a connection with a client.
const (
	maxStreams   = 100
	maxRunning   = 2 * maxStreams        // with those that the client has reset, and that have not ended yet
	maxFieldList = message.MaxHead + 320 // bytes of fields as HTTP/2 counts them
	streamRoom   = 256 << 10             // bytes of a body that are received before they are read
	connRoom     = 1 << 20               // and of all bodies of a connection
)

// Conn is what a server needs to know about a connection with a client.
type Conn interface {
	net.Conn
	// SetIdle says whether the connection has no request in progress.
	SetIdle(idle bool)
	// Linger makes Close wait until the client has read what was sent last.
	Linger()
	// Cut closes the connection at once.
	Cut()
}

// Handle answers a request. It returns when the response has ended.
type Handle func(r *message.Request, w message.Writer)

// Options of a server.
type Options struct {
	// Count counts an error or a flood of a client by its kind. Required.
	Count func(kind string)
	// Receive takes note that bytes of bodies have come on a connection; false: there is no memory for them, and the
	// client is disconnected. Required.
	Receive func(c Conn, n int) bool
	// Read takes note that bytes of bodies were read. Required.
	Read func(c Conn, n int)
	// Log gets defects of the server. Required.
	Log *slog.Logger
}

// Server serves clients. Make one with NewServer, and end it with Close.
type Server struct {
	opts  Options
	work  chan *serverStream // for goroutines that wait
	idle  atomic.Int64       // how many there are
	ended chan struct{}      // closed by Close
	once  sync.Once

	mu       sync.Mutex
	conns    map[*serverConn]struct{}
	draining bool
}

// NewServer returns a server.
func NewServer(opts Options) *Server {
	return &Server{
		opts: opts, conns: map[*serverConn]struct{}{}, work: make(chan *serverStream), ended: make(chan struct{}),
	}
}

// Serve answers the requests of a client until either side ends the connection, and closes it. Received is what has
// come already: it begins with the preface.
func (s *Server) Serve(nc Conn, received []byte, handle Handle) {
	c := &serverConn{server: s, nc: nc, handle: handle, idle: time.Now()}
	c.budgets.init()
	c.init(nc, received[len(http1.Preface):], c, streamRoom, connRoom, maxFieldList)
	s.add(c)
	defer s.remove(c)
	c.out.control(func(b []byte) []byte {
		b = appendSettings(b, setting{settingStreams, maxStreams}, setting{settingWindow, streamRoom},
			setting{settingFields, maxFieldList}, setting{settingConnect, 1})
		return appendWindow(b, 0, connRoom-firstWindow)
	})
	c.out.flushLater()
	c.finish(c.readFrames())
}

func (s *Server) add(c *serverConn) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.conns[c] = struct{}{}
	if s.draining {
		c.drain()
	}
}

func (s *Server) remove(c *serverConn) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.conns, c)
}

// Drain sends GOAWAY to all clients. Their connections end after the requests in progress, and so does Serve.
func (s *Server) Drain() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.draining = true
	for c := range s.conns {
		c.drain()
	}
}

// Close ends the goroutines that wait for requests. Who closes the connections calls it after that. It may be called
// more than once.
func (s *Server) Close() { s.once.Do(func() { close(s.ended) }) }

// serverConn is a connection with a client.
type serverConn struct {
	link
	server  *Server
	nc      Conn
	handle  Handle
	budgets budgets
	running atomic.Int64 // requests that are handled
	stalls  atomic.Bool  // too many responses were not read

	// Used by the reader only.
	deadline time.Time // for reading
	heard    time.Time // when something was read last
	pinged   time.Time // when a ping was sent that was not answered; zero: none was

	// Guarded by link.mu.
	idle     time.Time // since when there is no stream
	draining bool      // GOAWAY was sent
	drained  bool      // and the last stream is known
	final    uint32    // the last stream that is answered, if drained
	timer    *time.Timer
}

// floodError ends a connection because of a flood.
type floodError struct{ kind string }

// Error implements error.
func (e *floodError) Error() string { return "the client floods: " + e.kind }

var (
	errSlow    = errors.New("the client sends too slowly")
	errStopped = errors.New("the server has sent GOAWAY and has no more to do")
)

// finish ends the connection. Err is why reading has ended.
func (c *serverConn) finish(err error) {
	last, kind := code(0), ""
	if e, ok := errors.AsType[*connError](err); ok {
		last, kind = e.code, "goaway"
	} else if e, ok := errors.AsType[*floodError](err); ok {
		last, kind = codeCalm, e.kind
	}
	if kind != "" {
		c.server.opts.Count(kind)
		c.mu.Lock()
		id := c.last
		c.mu.Unlock()
		c.out.control(func(b []byte) []byte { return appendGoAway(b, id, last) })
		c.nc.Linger()
	}
	limit := time.AfterFunc(lastTime, c.nc.Cut)
	c.out.drain()
	if errors.Is(err, errStopped) {
		c.awaitClient()
	}
	limit.Stop()
	c.end(errClosed)
	c.mu.Lock()
	if c.timer != nil {
		c.timer.Stop()
	}
	c.mu.Unlock()
	_ = c.nc.Close() // the client knows, or has left
}

// awaitClient waits until the client closes the connection, as it should after GOAWAY. If the server closed first, TCP
// could reset the connection for what the client still sends, and the client could lose the last response.
func (c *serverConn) awaitClient() {
	_ = c.nc.SetReadDeadline(time.Now().Add(lastTime)) // fails only when it is closed, and then reading fails
	_, _ = io.CopyN(io.Discard, c.nc, connRoom)        // what still comes is not needed
}

// drain tells the client to open no more streams. Those that are on their way are answered: the last one is named when
// the client has answered a ping.
func (c *serverConn) drain() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.draining {
		return
	}
	c.draining = true
	c.out.control(func(b []byte) []byte {
		return appendPing(appendGoAway(b, maxWindow, codeNo), 0, []byte("draining"))
	})
	c.out.flushLater()
	c.timer = time.AfterFunc(lastTime, c.nameLast)
}

// nameLast sends GOAWAY with the last stream that is answered.
func (c *serverConn) nameLast() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.drained {
		return
	}
	c.drained, c.final = true, c.last
	c.out.control(func(b []byte) []byte { return appendGoAway(b, c.final, codeNo) })
	c.out.flushLater()
	c.stopIfDrainedLocked()
}

func (c *serverConn) stopIfDrainedLocked() {
	if c.drained && len(c.streams) == 0 {
		c.out.stop()
	}
}

// count implements role.
func (c *serverConn) count(h frameHead) error {
	switch {
	case h.kind == frameHeaders:
		return nil
	case h.kind == frameData && (h.length > 0 || h.has(flagEndStream)):
		c.budgets.upload()
		return nil
	}
	if !c.budgets.frame() {
		return &floodError{"frame_flood"}
	}
	return nil
}

// resets implements role.
func (c *serverConn) resets(code) error {
	c.server.opts.Count("reset")
	if !c.budgets.early(1) {
		return &floodError{"reset_flood"}
	}
	return nil
}

// wasReset implements role.
func (c *serverConn) wasReset(s *stream) error {
	if time.Since(s.server.opened) < earlyTime && !c.budgets.early(1) {
		return &floodError{"reset_flood"}
	}
	return nil
}

// ended implements role.
func (c *serverConn) ended(s *stream) {
	s.server.leave.Set()
	s.server.context.cancel()
	c.closed()
}

// closed takes note that a stream is not open any more.
func (c *serverConn) closed() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.streams) == 0 {
		c.idle = time.Now()
		c.nc.SetIdle(true)
		c.stopIfDrainedLocked()
	}
}

// late implements role.
func (c *serverConn) late(id uint32, kind byte) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case c.resetIDs[id/2%uint32(len(c.resetIDs))] == id, c.drained && id > c.final:
		return nil // it was sent before the client knew
	case kind == frameHeaders:
		return broke(codeProtocol, "HEADERS of a stream that has ended")
	}
	return &streamError{id, codeClosed, "DATA of a stream that has ended"}
}

// received implements role.
func (c *serverConn) received(n int) error {
	if !c.server.opts.Receive(c.nc, n) {
		return &floodError{"unread_bodies"}
	}
	return nil
}

// read implements role.
func (c *serverConn) read(n int) { c.server.opts.Read(c.nc, n) }

// goAway implements role: the client only says that it opens no more streams.
func (c *serverConn) goAway(uint32, code) {}

// pong implements role.
func (c *serverConn) pong() {
	c.mu.Lock()
	draining := c.draining
	c.mu.Unlock()
	if draining {
		c.nameLast()
	}
}

// setting implements role.
func (c *serverConn) setting(setting) {}

// sentFrame implements role.
func (c *serverConn) sentFrame(end bool) { c.budgets.answer(end) }

// due is when waiting ends.
func (c *serverConn) due() time.Time {
	if !c.since.IsZero() {
		limit := headTime
		if c.within {
			limit += time.Duration(c.frame.length/bodyRate) * time.Second
		}
		return c.since.Add(limit)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case len(c.streams) == 0:
		return c.idle.Add(idleTime)
	case c.pinged.IsZero():
		return c.heard.Add(pingAfter)
	}
	return c.pinged.Add(pongTime)
}

// wait implements role. The deadline is set only if the one before is too late: one that is too early is noticed by
// expired, and a timer is not changed for each read.
func (c *serverConn) wait(again bool) {
	now := time.Now()
	if !again {
		c.heard, c.pinged = now, time.Time{}
	}
	if due := c.due(); again || due.Before(c.deadline) || c.deadline.IsZero() {
		c.deadline = due
		_ = c.nc.SetReadDeadline(due) // fails only when it is closed, and then reading fails
		if c.out.stopped.Load() {
			_ = c.nc.SetReadDeadline(message.LongAgo)
		}
	}
}

// expired implements role.
func (c *serverConn) expired() error {
	switch {
	case c.stalls.Load():
		return &floodError{"stall_flood"}
	case c.out.stopped.Load():
		return errStopped
	}
	if time.Now().Before(c.due()) {
		return nil
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case !c.since.IsZero():
		return errSlow
	case len(c.streams) == 0:
		c.out.control(func(b []byte) []byte { return appendGoAway(b, c.last, codeNo) })
		return errStopped
	case !c.pinged.IsZero():
		return errClosed
	}
	c.pinged = time.Now()
	c.out.control(func(b []byte) []byte { return appendPing(b, 0, []byte("is there")) })
	c.out.flushLater()
	return nil
}

// fields implements role.
func (c *serverConn) fields(bool) int { return 16 }

// header implements role.
func (c *serverConn) header(id uint32, b *block, end bool) error {
	if id%2 == 0 {
		return broke(codeProtocol, "a client opens streams with odd numbers")
	}
	c.mu.Lock()
	s, last, open := c.streams[id], c.last, len(c.streams)
	if s == nil {
		c.last = max(c.last, id)
	}
	drained := c.drained
	c.mu.Unlock()
	switch {
	case s != nil:
		return c.trailer(s, b, end)
	case id <= last:
		return c.late(id, frameHeaders)
	case drained:
		return nil // it is known that the stream is not answered
	case open >= maxStreams || c.running.Load() >= maxRunning:
		return &streamError{id, codeRefused, "too many streams"}
	}
	if problem := malformed(b); problem != "" && !b.tooLarge {
		return &streamError{id, codeProtocol, problem}
	}
	s = c.newRequest(b, end)
	c.mu.Lock()
	c.openLocked(s, id)
	if len(c.streams) == 1 {
		c.nc.SetIdle(false)
	}
	c.mu.Unlock()
	c.wake(s)
	return nil
}

// trailer takes the end of a request.
func (c *serverConn) trailer(s *stream, b *block, end bool) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case s.ended && s.sent:
		return broke(codeProtocol, "HEADERS of a stream that has ended") // it is about to be removed
	case s.ended:
		return &streamError{s.id, codeClosed, "HEADERS after the end"}
	case !end:
		return &streamError{s.id, codeProtocol, "a trailer must end the stream"}
	case b.bad != "":
		return &streamError{s.id, codeProtocol, b.bad}
	case b.seen != 0:
		return &streamError{s.id, codeProtocol, "a pseudo field in a trailer"}
	case b.tooLarge:
		return &streamError{s.id, codeProtocol, "the trailer is too long"}
	}
	s.ended, s.trailer = true, b.fields
	c.wake(s)
	return nil
}

// start implements role.
func (c *serverConn) start(s *stream) {
	c.mu.Lock()
	gone := s.err != nil
	c.mu.Unlock()
	if gone {
		s.drop()
		return
	}
	c.running.Add(1)
	select {
	case c.server.work <- s.server:
	default:
		go c.server.serveStreams(s.server)
	}
}

// maxIdle is how many goroutines wait for more requests. A new one would have to grow its stack with each request.
const maxIdle = 64

// serveStreams answers a request, and then others.
func (s *Server) serveStreams(next *serverStream) {
	for {
		next.conn.run(next)
		if s.idle.Add(1) > maxIdle {
			s.idle.Add(-1)
			return
		}
		select {
		case next = <-s.work:
			s.idle.Add(-1)
		case <-s.ended:
			return
		}
	}
}

// run answers a request.
func (c *serverConn) run(s *serverStream) {
	defer c.running.Add(-1)
	defer s.context.cancel()
	how := codeInternal // unless the response is complete
	defer func() {
		if v := recover(); v != nil { // a defect must not end the connections of others
			c.server.opts.Log.Error("a defect of the edge ended a request", "panic", v, "stack", string(debug.Stack()))
		} else if s.writer.tunneled {
			s.request = message.Request{} // a tunnel may be open for days
			return
		}
		s.finish(how)
	}()
	c.handle(&s.request, &s.writer)
	if s.writer.stalled {
		how = codeCancel
	} else if s.sentAll() {
		how = codeNo
	}
}

// finish closes the stream.
func (s *serverStream) finish(how code) {
	if s.close(how) {
		s.conn.closed()
	}
	s.conn.out.flush(s.conn.alone())
}

// alone reports whether no other stream may have something to send.
func (c *serverConn) alone() bool { return c.running.Load() <= 1 }

// stalled takes note of a response that the client did not read in time.
func (c *serverConn) stalled() {
	c.server.opts.Count("stalled_stream")
	if !c.budgets.early(stallPrice) {
		c.stalls.Store(true)
		c.out.stop()
	}
}
