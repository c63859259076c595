package http1

import (
	"cmp"
	"errors"
	"io"
	"net"
	"os"
	"sync"
	"time"
)

// input is what was received on a connection and not used yet. It holds memory only while there is something.
type input struct {
	src    io.Reader
	buf    []byte  // from off on
	off    int     // where what was not used begins
	pooled *[]byte // to give back with buf; nil: buf is not from buffers
}

// bufferSize holds nearly every head.
const bufferSize = 4 << 10

var buffers = sync.Pool{New: func() any { b := make([]byte, 0, bufferSize); return &b }}

func (in *input) data() []byte { return in.buf[in.off:] }

// use drops the first n bytes, and the memory when nothing is left.
func (in *input) use(n int) {
	if in.off += n; in.off == len(in.buf) {
		in.free()
	}
}

func (in *input) free() {
	if in.pooled != nil {
		*in.pooled = (*in.pooled)[:0]
		buffers.Put(in.pooled)
	}
	in.buf, in.pooled, in.off = nil, nil, 0
}

// add adds bytes to what was received.
func (in *input) add(b []byte) {
	if len(b) > 0 {
		in.reserve(len(b))
		in.buf = append(in.buf, b...)
	}
}

// reserve makes room for n more bytes.
func (in *input) reserve(n int) {
	if in.buf == nil {
		in.pooled = buffers.Get().(*[]byte)
		in.buf = *in.pooled
	}
	if cap(in.buf)-len(in.buf) >= n {
		return
	}
	rest := in.data()
	if in.off >= n && in.off >= len(rest) { // there is room at the beginning
		in.buf = in.buf[:copy(in.buf, rest)]
		in.off = 0
		return
	}
	next := make([]byte, len(rest), 2*len(rest)+n)
	copy(next, rest)
	in.free()
	in.buf = next
}

// fill waits for more bytes.
func (in *input) fill() error {
	if w, ok := in.src.(waiter); ok && len(in.data()) == 0 {
		return w.fill(in)
	}
	in.reserve(minRead)
	n, err := in.src.Read(in.buf[len(in.buf):cap(in.buf)])
	in.buf = in.buf[:len(in.buf)+n]
	if n > 0 {
		return nil
	}
	if len(in.data()) == 0 {
		in.free()
	}
	if err == nil {
		err = io.ErrNoProgress
	}
	return err
}

// minRead is the least room for a read.
const minRead = 512

// await waits for more bytes when there are none, without holding memory meanwhile where that is possible.
func (in *input) await() error {
	if w, ok := in.src.(waiter); ok && len(in.data()) == 0 {
		return w.fill(in)
	}
	b, err := readByte(in.src)
	in.add(b)
	return err
}

// readByte waits for one byte.
func readByte(r io.Reader) ([]byte, error) {
	b := make([]byte, 1)
	n, err := r.Read(b)
	switch {
	case n > 0:
		return b, nil // an error comes again
	case err == nil:
		err = io.ErrNoProgress
	}
	return nil, err
}

// read reads what was received before, and directly from the connection. It waits only if there is nothing.
func (in *input) read(p []byte) (int, error) {
	data := in.data()
	if len(data) == 0 {
		return in.src.Read(p)
	}
	n := copy(p, data)
	in.use(n)
	if w, ok := in.src.(waiter); ok && n < len(p) {
		n += w.poll(p[n:]) // one large piece is less work than a small and a large one
	}
	return n, nil
}

// waiter is a connection that waits for bytes without a buffer.
type waiter interface {
	fill(in *input) error
	// poll reads what has come, without waiting. An error comes again.
	poll(p []byte) int
}

// ErrIdle is why WriteTo of a tunnel has returned although its connection has not ended: something has come, and then
// nothing for a while. WriteTo can be called again. A new goroutine should do so: its stack is smaller.
var ErrIdle = errors.New("nothing has come for a while")

// copyTo writes what was received and what comes to w, until the other side of c ends it, or until ErrIdle. It holds
// memory only while something comes, where that is possible. p reads from c.
func (in *input) copyTo(w io.Writer, c net.Conn, p pieces) (sent int64, err error) {
	if data := in.data(); len(data) > 0 {
		n, err := w.Write(data)
		sent = int64(n)
		if in.free(); err != nil {
			return sent, err
		}
	}
	defer p.free()
	var idle time.Time // the deadline for the next piece; zero: there is none
	for {
		piece, err := p.next()
		if len(piece) > 0 {
			n, werr := w.Write(piece)
			if sent += int64(n); werr != nil {
				return sent, werr
			}
		}
		switch {
		case err == io.EOF: //nolint:errorlint // it is not wrapped
			return sent, nil
		case err != nil && !idle.IsZero() && errors.Is(err, os.ErrDeadlineExceeded):
			return sent, cmp.Or(c.SetReadDeadline(time.Time{}), ErrIdle)
		case err != nil:
			return sent, err
		}
		if now := time.Now(); idle.Before(now.Add(idleAfter / 2)) {
			idle = now.Add(idleAfter)
			_ = c.SetReadDeadline(idle) // fails only when it is closed, and then reading fails
		}
	}
}

// pieces reads what comes on a connection.
type pieces interface {
	// next waits for the next piece, which is valid until the next call.
	next() ([]byte, error)
	free()
}

// bufferedPieces holds a buffer while it waits.
type bufferedPieces struct {
	src io.Reader
	buf Buffer
	n   int // bytes of the last piece
}

func (s *bufferedPieces) next() ([]byte, error) {
	p := s.buf.Next(s.n)
	var err error
	s.n, err = s.src.Read(p)
	return p[:s.n], err
}

func (s *bufferedPieces) free() { s.buf.Free() }
