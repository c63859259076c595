package http1

import (
	"errors"
	"io"
	"net"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"bijou.dev/services/gateway/internal/message"
)

// writer sends a response.
type writer struct {
	c    *conn
	r    *message.Request
	body *body // of the request; nil: there is none

	out     []byte  // what was not sent yet
	pooled  *[]byte // to give back; nil: out is not from buffers
	begun   bool
	close   bool // the connection ends with the response
	empty   bool // the response has no body
	chunked bool
	left    int64 // bytes of the body to come; -1: unknown
	ended   bool
	aborted bool
	err     error // of writing
}

// Interim implements message.Writer.
func (w *writer) Interim(status int, h message.Header) error {
	if w.r.Version == message.HTTP10 || w.begun {
		return nil
	}
	w.statusLine(status)
	w.out = append(appendFields(w.out, h), "\r\n"...)
	return w.Flush()
}

// Last implements message.Writer.
func (w *writer) Last() {
	w.close = true
	w.c.Linger()
}

// Begin implements message.Writer.
func (w *writer) Begin(status int, h message.Header, length int64) error {
	remains := w.body != nil && w.body.remains()
	if remains || w.c.last {
		w.c.Linger()
	}
	w.begun = true
	w.close = w.close || remains || w.c.last || w.c.opts.Stopping()
	w.empty, w.left = !message.HasBody(w.r.Method, status), length
	w.statusLine(status)
	w.out = appendFields(w.out, h)
	if !h.Has("Date") {
		w.out = append(append(append(w.out, "Date: "...), Date()...), "\r\n"...)
	}
	switch {
	case !message.HasBody(http.MethodGet, status): // RFC 9110, 8.6
	case length >= 0:
		w.out = strconv.AppendInt(append(w.out, "Content-Length: "...), length, 10)
		w.out = append(w.out, "\r\n"...)
	case w.empty:
	case w.r.Version == message.HTTP10: // the end of the connection is that of the body (RFC 9112, 6.3)
		w.close = true
	default:
		w.chunked = true
		w.out = append(w.out, "Transfer-Encoding: chunked\r\n"...)
	}
	switch {
	case w.close:
		w.out = append(w.out, "Connection: close\r\n"...)
	case w.r.Version == message.HTTP10:
		w.out = append(w.out, "Connection: keep-alive\r\n"...)
	}
	w.out = append(w.out, "\r\n"...)
	return nil
}

func (w *writer) statusLine(status int) {
	w.reserve()
	w.out = strconv.AppendInt(append(w.out, "HTTP/1.1 "...), int64(status), 10) // also to HTTP/1.0 (RFC 9110, 6.2)
	w.out = append(append(append(w.out, ' '), statusText(status)...), "\r\n"...)
}

// appendFields writes lines. A value cannot end its line.
func appendFields(b []byte, h message.Header) []byte {
	for _, f := range h {
		b = append(append(b, f.Name...), ": "...)
		if strings.IndexByte(f.Value, '\n') >= 0 || strings.IndexByte(f.Value, '\r') >= 0 {
			b = append(b, strings.NewReplacer("\r", " ", "\n", " ").Replace(f.Value)...)
		} else {
			b = append(b, f.Value...)
		}
		b = append(b, "\r\n"...)
	}
	return b
}

var errLength = errors.New("the body is not as long as its Content-Length")

// Write implements message.Writer.
func (w *writer) Write(p []byte) (int, error) {
	switch {
	case w.empty || len(p) == 0:
		return len(p), w.err
	case w.left >= 0 && int64(len(p)) > w.left:
		return 0, errLength
	}
	var end []byte
	if w.chunked {
		w.reserve()
		w.out = append(strconv.AppendInt(w.out, int64(len(p)), 16), crlf...)
		end = crlf
	}
	if err := w.write(p, end); err != nil {
		return 0, err
	}
	if w.left >= 0 {
		w.left -= int64(len(p))
	}
	return len(p), nil
}

var crlf = []byte("\r\n")

// write keeps p and what ends it, or sends it together with what was kept.
func (w *writer) write(p, end []byte) error {
	if size := len(p) + len(end); size <= bufferSize {
		w.reserve()
		if len(w.out)+size <= cap(w.out) {
			w.out = append(append(w.out, p...), end...)
			return w.err
		}
	}
	if w.err != nil {
		return w.err
	}
	if len(w.out)+len(end) == 0 {
		_, w.err = w.c.Write(p)
		return w.err
	}
	v := vectors.Get().(*vector)
	if v.all = append(v.room[:0], w.out, p); end != nil {
		v.all = append(v.all, end)
	}
	if c, ok := w.c.Conn.(vectorWriter); ok {
		w.err = c.WriteVector(&v.all)
	} else {
		_, w.err = v.all.WriteTo(w.c)
	}
	*v = vector{}
	vectors.Put(v)
	w.free()
	return w.err
}

// vectorWriter is a connection that can write several pieces with one system call. net.Buffers finds only those of the
// kernel by itself.
type vectorWriter interface{ WriteVector(v *net.Buffers) error }

// vector is memory for one write of several pieces.
type vector struct {
	all  net.Buffers
	room [3][]byte
}

var vectors = sync.Pool{New: func() any { return new(vector) }}

func (w *writer) reserve() {
	if w.out == nil {
		w.pooled = buffers.Get().(*[]byte)
		w.out = *w.pooled
	}
}

// Flush implements message.Writer.
func (w *writer) Flush() error {
	if len(w.out) > 0 && w.err == nil {
		_, w.err = w.c.Write(w.out)
	}
	w.free()
	return w.err
}

// free gives the memory back: a response may wait long for its next piece.
func (w *writer) free() {
	if w.pooled != nil {
		*w.pooled = (*w.pooled)[:0]
		buffers.Put(w.pooled)
	}
	w.out, w.pooled = nil, nil
}

// End implements message.Writer.
func (w *writer) End(trailer message.Header) error {
	w.ended = true
	if w.left > 0 && !w.empty {
		w.err = errLength
	}
	if w.chunked {
		w.reserve()
		w.out = append(appendFields(append(w.out, "0\r\n"...), trailer), "\r\n"...)
	}
	return w.Flush()
}

// Abort implements message.Writer.
func (w *writer) Abort() { w.aborted = true }

// finish reports whether the connection can be used for another request.
func (w *writer) finish() bool {
	w.free()
	return w.ended && !w.aborted && !w.close && w.err == nil && !w.c.opts.Stopping()
}

// Tunnel implements message.Writer.
func (w *writer) Tunnel(h message.Header) (io.ReadWriteCloser, error) {
	c := w.c
	c.watchNoMore()
	c.tunneled = true
	w.statusLine(http.StatusSwitchingProtocols)
	w.out = append(appendFields(w.out, h), "\r\n"...)
	c.readUntil(time.Time{})
	t := &tunnel{c.Conn, c.in, newPieces(c.in.src)} // without the rest of c, which is large
	c.in = input{}
	return t, w.Flush()
}

// tunnel is a connection that does not speak HTTP any more.
type tunnel struct {
	Conn
	in     input
	pieces pieces
}

// Read reads what the client has sent.
func (t *tunnel) Read(p []byte) (int, error) { return t.in.read(p) }

// WriteTo writes what the client sends to w, until the client ends it, or until ErrIdle.
func (t *tunnel) WriteTo(w io.Writer) (int64, error) { return t.in.copyTo(w, t.Conn, t.pieces) }

// CloseWrite ends the sending direction.
func (t *tunnel) CloseWrite() error {
	return closeWrite(t.Conn)
}

// closeWrite ends the sending direction of c, if c can do that without closing the other one.
func closeWrite(c net.Conn) error {
	if half, ok := c.(interface{ CloseWrite() error }); ok {
		return half.CloseWrite() //nolint:wrapcheck // it is the error of the connection
	}
	return nil
}

// now is the value of Date in the second that it says.
var now atomic.Pointer[dateLine]

type dateLine struct {
	second int64
	text   string
}

// Date returns the value of Date (RFC 9110, 6.6.1).
func Date() string {
	t := time.Now()
	if d := now.Load(); d != nil && d.second == t.Unix() {
		return d.text
	}
	d := &dateLine{t.Unix(), t.UTC().Format(http.TimeFormat)}
	now.Store(d)
	return d.text
}
