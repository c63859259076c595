package http2

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/textproto"
	"strconv"
	"strings"
	"sync"
	"time"

	"bijou.dev/services/gateway/internal/http1"
	"bijou.dev/services/gateway/internal/message"
)

// serverStream is a stream of a client: a request and its response.
type serverStream struct {
	stream
	conn    *serverConn
	request message.Request
	body    body
	writer  writer
	leave   message.Leave
	context streamContext
	opened  time.Time
}

// streamContext ends with its stream. It is not one of package context, which would be made anew for each request.
type streamContext struct {
	mu   sync.Mutex
	done chan struct{} // nil: nobody has asked
	err  error
}

// closedChan is Done of a context that had ended before anybody asked.
var closedChan = func() chan struct{} {
	c := make(chan struct{})
	close(c)
	return c
}()

// Deadline implements context.Context.
func (*streamContext) Deadline() (at time.Time, ok bool) { return time.Time{}, false }

// Done implements context.Context.
func (c *streamContext) Done() <-chan struct{} {
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case c.done != nil:
	case c.err != nil:
		c.done = closedChan
	default:
		c.done = make(chan struct{})
	}
	return c.done
}

// Err implements context.Context.
func (c *streamContext) Err() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.err
}

// Value implements context.Context.
func (*streamContext) Value(any) any { return nil }

func (c *streamContext) cancel() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.err != nil {
		return
	}
	if c.err = context.Canceled; c.done != nil {
		close(c.done)
	}
}

// malformed is why a header is not that of a request (RFC 9113, 8.3.1); empty: it is one.
func malformed(b *block) string {
	switch {
	case b.bad != "":
		return b.bad
	case b.seen&hasStatus != 0:
		return "a request has no status"
	case b.seen&hasProtocol != 0 && (b.method != http.MethodConnect || b.authority == ""):
		return "only CONNECT has a protocol, and an authority with it"
	case b.method == http.MethodConnect && b.seen&hasProtocol == 0:
		if b.seen&(hasScheme|hasPath) != 0 || b.authority == "" {
			return "CONNECT has an authority and no path"
		}
	case b.method == "" || b.path == "" || b.scheme == "":
		return "a request has a method, a scheme and a path"
	case b.scheme != "http" && b.scheme != "https":
		return "the scheme is neither http nor https"
	}
	return ""
}

// newRequest returns the stream of a request whose header has come.
func (c *serverConn) newRequest(b *block, end bool) *stream {
	s := &serverStream{conn: c, opened: time.Now()}
	s.left = -1
	s.server = s
	s.ended = end
	s.writer = writer{s: s}
	r := &s.request
	r.Version, r.Leave, r.Context = message.HTTP2, &s.leave, &s.context
	if b.tooLarge {
		r.Refused = &message.Refusal{
			Status: http.StatusRequestHeaderFieldsTooLarge,
			Detail: fmt.Sprintf("the header must be at most %d bytes long", message.MaxHead),
		}
		return &s.stream
	}
	r.Method, r.Target, r.Host, r.Header, r.Protocol = b.method, b.path, b.authority, b.fields, b.protocol
	switch {
	case b.seen&hasProtocol != 0:
		r.Method = http.MethodGet
	case b.method == http.MethodConnect:
		r.Target = b.authority
	}
	r.Path = r.Target
	if i := strings.IndexByte(r.Target, '?'); i >= 0 {
		r.Path, r.Query = r.Target[:i], r.Target[i:]
	}
	if detail := s.readFields(end); detail != "" {
		r.Refused = &message.Refusal{Status: http.StatusBadRequest, Detail: detail}
		return &s.stream
	}
	r.Size = len(r.Method) + len(" ") + len(r.Target) + len(" HTTP/1.1\r\n") + len("Host: \r\n") + len(r.Host)
	for _, f := range r.Header {
		r.Size += len(f.Name) + len(": \r\n") + len(f.Value)
	}
	if r.Protocol != "" {
		r.Length = 0 // what comes is for the tunnel
	} else if r.Length != 0 {
		s.body = body{s: s, names: r.Header.Announced()}
		r.Body = &s.body
		if len(s.body.names) > 0 {
			r.Length = -1 // in HTTP/1.1 a trailer needs chunks
		}
	}
	return &s.stream
}

// readFields checks what package http1 checks for HTTP/1, takes the length, and joins what came in pieces.
func (s *serverStream) readFields(end bool) (problem string) {
	r := &s.request
	if strings.ContainsAny(r.Target, " #") || r.Method != http.MethodConnect && r.Target[0] != '/' && r.Target != "*" {
		return "the URL is not valid"
	}
	r.Length = -1
	hosts, lengths, cookie := 0, 0, -1
	kept := r.Header[:0]
	for _, f := range r.Header {
		if f.Value != textproto.TrimString(f.Value) { // RFC 9113, 8.2.1
			return fmt.Sprintf("the header %q must not begin or end with white space", f.Name)
		}
		switch f.Name {
		case "Connection", "Proxy-Connection", "Keep-Alive", "Transfer-Encoding", "Upgrade":
			return fmt.Sprintf("the header %q is about a connection of HTTP/1.1", f.Name)
		case "Te":
			if f.Value != "" && !strings.EqualFold(f.Value, "trailers") {
				return `the only TE is "trailers"`
			}
		case "Host":
			if hosts++; hosts > 1 || r.Host != "" && !strings.EqualFold(f.Value, r.Host) {
				return "the authority and the Host must name the same host, once"
			}
			if r.Host == "" {
				r.Host = f.Value
			}
			continue
		case "Content-Length":
			length, err := strconv.ParseUint(f.Value, 10, 63)
			if lengths++; lengths > 1 || err != nil || f.Value[0] == '+' {
				return "there must be one Content-Length, of digits"
			}
			r.Length = int64(length)
		case "Cookie": // RFC 9113, 8.2.3
			if cookie >= 0 {
				kept[cookie].Value += "; " + f.Value
				continue
			}
			cookie = len(kept)
		}
		kept = append(kept, f)
	}
	r.Header = kept
	s.left = r.Length
	switch {
	case r.Protocol != "" && lengths > 0:
		return "a request to switch protocols has no Content-Length"
	case end && r.Length > 0:
		return "the body is shorter than its Content-Length"
	case end:
		r.Length = 0
	}
	return ""
}

// body is the body of a request.
type body struct {
	s     *serverStream
	names message.Header
	whole bool // it was read to its end
}

// Read implements message.Body.
func (b *body) Read(p []byte) (int, error) {
	n, err := b.s.read(p)
	if errors.Is(err, io.EOF) {
		b.s.l.mu.Lock()
		b.whole = true
		b.s.l.mu.Unlock()
	}
	return n, err
}

// Trailer implements message.Body.
func (b *body) Trailer() message.Header {
	b.s.l.mu.Lock()
	defer b.s.l.mu.Unlock()
	if b.whole {
		return b.s.trailer
	}
	return b.names
}

// Received implements message.Body.
func (b *body) Received() (n int, whole bool) {
	b.s.l.mu.Lock()
	defer b.s.l.mu.Unlock()
	return b.s.got.n, b.s.ended && len(b.s.trailer) == 0 && b.s.left <= 0
}

// Interrupt implements message.Body.
func (b *body) Interrupt() { b.s.interrupt() }

// Malformed implements message.Body: the body was shorter than its Content-Length.
func (b *body) Malformed() bool {
	b.s.l.mu.Lock()
	defer b.s.l.mu.Unlock()
	return b.s.ended && b.s.left > 0
}

// writer sends a response.
type writer struct {
	s       *serverStream
	status  int // 0: it has not begun
	header  message.Header
	length  int64
	sent    bool // the header was sent
	empty   bool // the response has no body
	stalled bool
	// The stream is a tunnel, which ends it.
	tunneled bool
}

// Interim implements message.Writer.
func (w *writer) Interim(status int, h message.Header) error {
	err := w.s.header([]pseudo{{":status", statusText(status)}}, h, -1, false)
	w.flush()
	return err
}

// Last implements message.Writer: other streams of the connection go on.
func (w *writer) Last() {}

// Begin implements message.Writer.
func (w *writer) Begin(status int, h message.Header, length int64) error {
	w.status, w.header, w.length = status, h, length
	w.empty = !message.HasBody(w.s.request.Method, status)
	if !message.HasBody(http.MethodGet, status) {
		w.length = -1
	}
	return nil
}

// start sends the header. End: nothing follows.
func (w *writer) start(end bool) error {
	if w.sent {
		return nil
	}
	w.sent = true
	if !w.header.Has("Date") {
		w.header.Add("Date", http1.Date())
	}
	return w.s.header([]pseudo{{":status", statusText(w.status)}}, w.header, w.length, end)
}

// Write implements message.Writer.
func (w *writer) Write(p []byte) (int, error) {
	if w.empty || len(p) == 0 {
		return len(p), nil
	}
	if err := w.start(false); err != nil {
		return 0, err
	}
	if err := w.s.send(p, false, writeTime); err != nil {
		if errors.Is(err, errStalled) && !w.stalled {
			if w.stalled = true; w.length < 0 || w.length > stallBytes {
				w.s.conn.stalled()
			}
		}
		return 0, err
	}
	return len(p), nil
}

// Flush implements message.Writer.
func (w *writer) Flush() error {
	err := w.start(false)
	w.flush()
	return err
}

func (w *writer) flush() { w.s.conn.out.flush(w.s.conn.alone()) }

// End implements message.Writer.
func (w *writer) End(trailer message.Header) error {
	var err error
	switch {
	case w.stalled:
		return errStalled
	case !w.sent && (w.empty || len(trailer) == 0):
		err = w.start(true)
	case len(trailer) == 0:
		err = w.s.send(nil, true, writeTime)
	default:
		if err = w.start(false); err == nil {
			err = w.s.header(nil, trailer, -1, true)
		}
	}
	w.flush()
	return err
}

// Abort implements message.Writer: the stream is reset because its end was not sent.
func (w *writer) Abort() {}

// statusText is a status without an allocation for common ones.
func statusText(status int) string {
	if status == http.StatusOK {
		return "200"
	}
	return strconv.Itoa(status)
}
