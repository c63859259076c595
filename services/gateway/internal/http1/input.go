package http1

import (
	"io"
	"sync"
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
	var little [1]byte
	if _, ok := in.src.(waiter); ok {
		return in.fill()
	}
	n, err := in.src.Read(little[:])
	if n > 0 {
		in.reserve(1)
		in.buf = append(in.buf, little[:n]...)
		return nil
	}
	if err == nil {
		err = io.ErrNoProgress
	}
	return err
}

// read reads what was received before, or else directly from the connection.
func (in *input) read(p []byte) (int, error) {
	if data := in.data(); len(data) > 0 {
		n := copy(p, data)
		in.use(n)
		return n, nil
	}
	return in.src.Read(p)
}

// waiter is a connection that waits for bytes without a buffer.
type waiter interface{ fill(in *input) error }
