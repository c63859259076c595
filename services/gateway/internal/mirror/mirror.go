// Package mirror has what a copy of a request needs: its content, which is kept while the original is sent, and a
// writer that drops the response.
package mirror

import (
	"errors"
	"io"
	"sync/atomic"

	"bijou.dev/services/gateway/internal/message"
)

// Budget bounds the memory of all copies. The zero value has none.
type Budget struct {
	most int64
	used atomic.Int64
}

// NewBudget returns a budget of a number of bytes.
func NewBudget(most int64) *Budget { return &Budget{most: most} }

// Take takes n bytes; false: there is too little left.
func (b *Budget) Take(n int64) bool {
	if b.used.Add(n) > b.most {
		b.used.Add(-n)
		return false
	}
	return true
}

// Release gives n bytes back.
func (b *Budget) Release(n int64) { b.used.Add(-n) }

// Recorder is the body of an original, of which it keeps a copy while it is read. Reading it takes no longer for that
// than copying the bytes does.
type Recorder struct {
	message.Body
	// Length is that of the body; -1: it is not known.
	Length int64
	// Most is how many bytes are kept at most.
	Most int64
	// Whole is called once, with the whole body, when its end was read. It must not wait.
	Whole func(content []byte)

	kept  []byte
	ended bool // nothing more is kept: the body is whole, too long, or was not read to its end
}

// Read reads the body.
func (r *Recorder) Read(p []byte) (int, error) {
	n, err := r.Body.Read(p)
	if r.ended {
		return n, err
	}
	if int64(len(r.kept)+n) > r.Most || err != nil && !errors.Is(err, io.EOF) {
		r.kept, r.ended = nil, true
		return n, err
	}
	r.kept = append(r.kept, p[:n]...)
	if size := int64(len(r.kept)); size == r.Length || r.Length < 0 && errors.Is(err, io.EOF) {
		r.ended = true
		r.Whole(r.kept)
	}
	return n, err
}

// Content is the body of a copy.
type Content struct{ left []byte }

// NewContent returns a body with this content.
func NewContent(b []byte) *Content { return &Content{b} }

// Read implements message.Body.
func (c *Content) Read(p []byte) (int, error) {
	n := copy(p, c.left)
	if c.left = c.left[n:]; n == 0 && len(p) > 0 {
		return 0, io.EOF
	}
	return n, nil
}

// Trailer implements message.Body: copies have none.
func (*Content) Trailer() message.Header { return nil }

// Received implements message.Body.
func (c *Content) Received() (n int, whole bool) { return len(c.left), true }

// Interrupt implements message.Body: Read never waits.
func (*Content) Interrupt() {}

// Malformed implements message.Body.
func (*Content) Malformed() bool { return false }

// ErrLong ends a response of which enough was read.
var ErrLong = errors.New("the response to a copy is longer than what is read of it")

// Sink is the writer for the response to a copy. It drops what it gets.
type Sink struct {
	// Most is how many bytes of the response are read.
	Most int64
}

// Interim implements message.Writer.
func (*Sink) Interim(int, message.Header) error { return nil }

// Last implements message.Writer.
func (*Sink) Last() {}

// Begin implements message.Writer.
func (*Sink) Begin(int, message.Header, int64) error { return nil }

// Write implements message.Writer.
func (s *Sink) Write(p []byte) (int, error) {
	if s.Most -= int64(len(p)); s.Most < 0 {
		return 0, ErrLong
	}
	return len(p), nil
}

// Flush implements message.Writer.
func (*Sink) Flush() error { return nil }

// End implements message.Writer.
func (*Sink) End(message.Header) error { return nil }

// Abort implements message.Writer.
func (*Sink) Abort() {}

// Tunnel implements message.Writer: copies do not switch protocols.
func (*Sink) Tunnel(message.Header) (io.ReadWriteCloser, error) { return nil, errors.ErrUnsupported }
