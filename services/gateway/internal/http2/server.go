// Package http2 speaks HTTP/2 (RFC 9113): to clients as a [Server], to origins as a [Client]. Frames and streams are
// net/http's; a guard against floods reads the frame headers beside it.
package http2

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/textproto"
	"strconv"
	"strings"
	"sync"
	"time"

	"bijou.dev/services/gateway/internal/message"
)

// Times for a client.
const (
	headTime  = 10 * time.Second // to send a header
	bodyRate  = 1 << 10          // bytes per second of a body, at least
	writeTime = 10 * time.Second // to read a piece of a response
)

var longAgo = time.Unix(1, 0)

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

// preface is what a client sends first (RFC 9113, 3.4).
const preface = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"

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
	// Log gets the errors of net/http. Required.
	Log *slog.Logger
}

// Server serves clients. Make one with NewServer, and end it with Shutdown and Close.
type Server struct {
	opts   Options
	server *http.Server
	conns  handedOver
	served chan struct{} // closed when server does not accept any more
}

// NewServer returns a server.
func NewServer(opts Options) *Server {
	s := &Server{opts: opts, conns: handedOver{ch: make(chan net.Conn), closed: make(chan struct{})}}
	s.served = make(chan struct{})
	s.server = &http.Server{
		Handler:                      http.HandlerFunc(serve),
		ReadHeaderTimeout:            headTime,
		IdleTimeout:                  time.Minute,
		MaxHeaderBytes:               message.MaxHead,
		DisableGeneralOptionsHandler: true,
		ErrorLog:                     slog.NewLogLogger(opts.Log.Handler(), slog.LevelDebug),
		ConnContext: func(ctx context.Context, c net.Conn) context.Context {
			return context.WithValue(ctx, connKey{}, c)
		},
		ConnState: func(c net.Conn, state http.ConnState) {
			if c, ok := c.(*conn); ok && (state == http.StateIdle || state == http.StateActive) {
				c.Conn.SetIdle(state == http.StateIdle)
			}
		},
		Protocols: new(http.Protocols),
		HTTP2: &http.HTTP2Config{
			MaxConcurrentStreams:          100,
			MaxDecoderHeaderTableSize:     4 << 10,
			MaxReadFrameSize:              16 << 10,
			MaxReceiveBufferPerConnection: 1 << 20,
			MaxReceiveBufferPerStream:     256 << 10,
			SendPingTimeout:               30 * time.Second, // finds clients that left without closing
			PingTimeout:                   10 * time.Second,
			WriteByteTimeout:              writeTime,
			CountError:                    opts.Count,
		},
	}
	s.server.Protocols.SetUnencryptedHTTP2(true)
	go func() {
		defer close(s.served)
		_ = s.server.Serve(&s.conns) // ends with Close or Shutdown
	}()
	return s
}

// Serve answers the requests of a client, and closes the connection. Received is what has come already: it begins with
// the preface. Serve does not wait.
func (s *Server) Serve(c Conn, received []byte, handle Handle) {
	k := &conn{Conn: c, server: s, handle: handle, ahead: received}
	k.guard = newGuard(k)
	if !s.conns.hand(k) {
		c.Cut() // the server was closed
	}
}

// Shutdown sends GOAWAY to all clients and waits for requests in progress.
func (s *Server) Shutdown(ctx context.Context) error { return s.server.Shutdown(ctx) }

// Close closes all connections.
func (s *Server) Close() error {
	err := s.server.Close()
	_ = s.conns.Close() // never fails
	<-s.served
	return err
}

// handedOver is a listener whose connections were accepted by somebody else.
type handedOver struct {
	ch     chan net.Conn
	once   sync.Once
	closed chan struct{}
}

func (h *handedOver) hand(c net.Conn) bool {
	select {
	case h.ch <- c:
		return true
	case <-h.closed:
		return false
	}
}

// Accept returns the next connection.
func (h *handedOver) Accept() (net.Conn, error) {
	select {
	case c := <-h.ch:
		return c, nil
	case <-h.closed:
		return nil, net.ErrClosed
	}
}

// Close ends Accept.
func (h *handedOver) Close() error {
	h.once.Do(func() { close(h.closed) })
	return nil
}

// Addr is of no use.
func (h *handedOver) Addr() net.Addr { return &net.TCPAddr{} }

type connKey struct{}

// conn is a connection with a client, for net/http. One goroutine reads from it.
type conn struct {
	Conn
	server *Server
	handle Handle
	guard  *guard
	ahead  []byte      // was received, and not read
	pooled *[4096]byte // what ahead is in; nil: it is not from buffers
}

// minRead: smaller reads of frame headers are served from a buffer, to save system calls.
const minRead = 512

var buffers = sync.Pool{New: func() any { return new([4096]byte) }}

// Read reads what the guard has seen.
func (c *conn) Read(p []byte) (n int, err error) {
	c.guard.beforeRead()
	switch {
	case len(c.ahead) > 0:
	case len(p) >= minRead:
		n, err = c.Conn.Read(p)
		if n > 0 && !c.guard.received(p[:n]) {
			return 0, io.EOF
		}
		return n, err //nolint:wrapcheck // it is the error of the connection
	default:
		c.pooled = buffers.Get().(*[4096]byte)
		n, err = c.Conn.Read(c.pooled[:])
		if c.ahead = c.pooled[:n]; n == 0 {
			c.free()
			return 0, err //nolint:wrapcheck // it is the error of the connection
		}
	}
	n = copy(p, c.ahead)
	if c.ahead = c.ahead[n:]; len(c.ahead) == 0 {
		c.free()
	}
	if !c.guard.received(p[:n]) {
		return 0, io.EOF
	}
	return n, nil
}

// free gives the memory of ahead back.
func (c *conn) free() {
	if c.pooled != nil {
		buffers.Put(c.pooled)
	}
	c.ahead, c.pooled = nil, nil
}

// Write writes what the guard has seen.
func (c *conn) Write(p []byte) (int, error) { return c.guard.write(p) }

// Close closes the connection. A client that was disconnected gets time to read why.
func (c *conn) Close() error {
	if c.guard.isCut() {
		c.Linger()
	}
	return c.Conn.Close() //nolint:wrapcheck // it is the error of the connection
}

// serve answers a request that net/http has read.
func serve(rw http.ResponseWriter, hr *http.Request) {
	c := hr.Context().Value(connKey{}).(*conn)
	r := &message.Request{
		Version: message.HTTP2, Method: hr.Method, Target: hr.RequestURI, Host: hr.Host, Path: hr.RequestURI,
		Length: hr.ContentLength, Context: hr.Context(), Leave: &message.Leave{},
		Header: make(message.Header, 0, len(hr.Header)),
	}
	r.Size = len(r.Method) + len(" ") + len(r.Target) + len(" HTTP/1.1\r\n") + len("Host: \r\n") + len(r.Host)
	for name, lines := range hr.Header {
		for _, line := range lines {
			r.Header.Add(name, line)
			r.Size += len(name) + len(": \r\n") + len(line)
		}
	}
	if i := strings.IndexByte(r.Target, '?'); i >= 0 {
		r.Path, r.Query = r.Target[:i], r.Target[i:]
	}
	if detail := check(r); detail != "" {
		r.Refused = &message.Refusal{Status: http.StatusBadRequest, Detail: detail}
	}
	w := &writer{rw: rw, control: http.NewResponseController(rw), conn: c, r: r}
	if r.Length != 0 {
		r.Body = newBody(c, w.control, hr)
	}
	if len(hr.Trailer) > 0 && r.Length > 0 {
		r.Length = -1 // in HTTP/1.1 a trailer needs chunks
	}
	defer w.end()
	defer context.AfterFunc(hr.Context(), r.Leave.Set)()
	c.handle(r, w)
}

// check checks what package http1 checks for HTTP/1 and net/http does not for HTTP/2 (as of Go 1.26).
func check(r *message.Request) (problem string) {
	if strings.ContainsAny(r.Target, " #") {
		return "the URL is not valid"
	}
	hosts := 0
	for _, f := range r.Header {
		if f.Name == "Host" {
			if hosts++; hosts > 1 || !strings.EqualFold(f.Value, r.Host) {
				return "the authority and the Host must name the same host, once"
			}
		}
		if f.Value != textproto.TrimString(f.Value) { // RFC 9113, 8.2.1
			return fmt.Sprintf("the header %q must not begin or end with white space", f.Name)
		}
	}
	if !r.Header.Has("Content-Length") {
		return ""
	}
	length, err := strconv.ParseUint(r.Header.Get("Content-Length"), 10, 63)
	switch {
	case err != nil || r.Header.Count("Content-Length") > 1:
		return "there must be one Content-Length, of digits"
	case int64(length) != max(0, r.Length):
		return "the body is shorter than its Content-Length"
	}
	return ""
}

// body is the body of a request.
type body struct {
	conn    *conn
	control *http.ResponseController
	r       *http.Request
	names   message.Header

	mu    sync.Mutex
	ended bool
}

func newBody(c *conn, control *http.ResponseController, r *http.Request) *body {
	b := &body{conn: c, control: control, r: r}
	for name := range r.Trailer {
		b.names.Add(name, "")
	}
	return b
}

// Read implements message.Body.
func (b *body) Read(p []byte) (int, error) {
	n, err := b.r.Body.Read(p)
	b.conn.server.opts.Read(b.conn.Conn, n)
	if errors.Is(err, io.EOF) {
		b.mu.Lock()
		b.ended = true
		b.mu.Unlock()
	}
	return n, err //nolint:wrapcheck // the caller asks what it is
}

// Trailer implements message.Body.
func (b *body) Trailer() (h message.Header) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if !b.ended {
		return b.names
	}
	h.FromHTTP(b.r.Trailer)
	return h
}

// Interrupt implements message.Body.
func (b *body) Interrupt() { _ = b.control.SetReadDeadline(longAgo) } // fails only when the stream has ended

// Malformed implements message.Body: net/http resets a stream whose body is not what was announced.
func (b *body) Malformed() bool { return false }

// writer sends a response.
type writer struct {
	rw      http.ResponseWriter
	control *http.ResponseController
	conn    *conn
	r       *message.Request
	stall   *time.Timer // ends the stream when its client does not read; nil: nothing was written
	length  int64       // of the body; -1: unknown
	aborted bool
}

// Interim implements message.Writer. net/http sends 100 by itself, when the body is first read.
func (w *writer) Interim(status int, h message.Header) error {
	if status == http.StatusContinue {
		return nil
	}
	to := w.rw.Header()
	w.set(h)
	// WriteHeader does not send Content-Length. With it, the server clones the map, which it would else still read after
	// WriteHeader has returned because the stream is closed (as of Go 1.26).
	to["Content-Length"] = nil
	w.rw.WriteHeader(status)
	clear(to)
	return nil
}

func (w *writer) set(h message.Header) {
	to := w.rw.Header()
	for _, f := range h {
		to[f.Name] = append(to[f.Name], f.Value)
	}
}

// Last implements message.Writer: other streams of the connection go on.
func (w *writer) Last() {}

// Begin implements message.Writer.
func (w *writer) Begin(status int, h message.Header, length int64) error {
	w.set(h)
	to := w.rw.Header()
	if to["Content-Type"] == nil {
		to["Content-Type"] = nil // else net/http would guess one
	}
	if length >= 0 && message.HasBody(http.MethodGet, status) {
		to["Content-Length"] = []string{strconv.FormatInt(length, 10)}
	}
	w.length = length
	w.rw.WriteHeader(status)
	return nil
}

// Write implements message.Writer.
func (w *writer) Write(p []byte) (int, error) {
	w.begin()
	defer w.stall.Stop()
	n, err := w.rw.Write(p)
	if errors.Is(err, http.ErrBodyNotAllowed) {
		return len(p), nil
	}
	return n, err //nolint:wrapcheck // it says that the client has left
}

// Flush implements message.Writer.
func (w *writer) Flush() error {
	w.begin()
	defer w.stall.Stop()
	return w.control.Flush() //nolint:wrapcheck // it says that the client has left
}

// begin limits the time for a write.
func (w *writer) begin() {
	if w.stall != nil {
		w.stall.Reset(writeTime)
		return
	}
	w.stall = time.AfterFunc(writeTime, func() {
		w.conn.guard.stalled()
		_ = w.control.SetWriteDeadline(longAgo) // fails only when the stream has ended
	})
}

// End implements message.Writer.
func (w *writer) End(trailer message.Header) error {
	h := w.rw.Header()
	for _, f := range trailer {
		h[http.TrailerPrefix+f.Name] = append(h[http.TrailerPrefix+f.Name], f.Value)
	}
	// net/http writes the rest after the handler has returned, and would wait without a limit for a client that sends no
	// window updates. A trailer needs no window.
	if len(trailer) == 0 {
		_ = w.control.SetWriteDeadline(time.Now().Add(writeTime)) // fails only when the stream has ended
	}
	return nil
}

// Abort implements message.Writer.
func (w *writer) Abort() { w.aborted = true }

// end is called when the request was handled.
func (w *writer) end() {
	if w.aborted {
		panic(http.ErrAbortHandler)
	}
}

// Tunnel implements message.Writer.
func (w *writer) Tunnel(message.Header) (io.ReadWriteCloser, error) { return nil, http.ErrNotSupported }
