package http1

import (
	"errors"
	"io"
	"sync"
	"sync/atomic"

	"bijou.dev/services/gateway/internal/message"
)

// body is the body of a request.
type body struct {
	c      *conn
	left   int64 // bytes to come; -1: in chunks
	chunks chunks

	malformed atomic.Bool

	mu          sync.Mutex
	started     bool // somebody has read
	whole       bool // it was read to its end
	interrupted bool
}

var errInterrupted = errors.New("reading the body was interrupted")

// Read implements message.Body.
func (b *body) Read(p []byte) (int, error) {
	b.mu.Lock()
	if b.interrupted {
		b.mu.Unlock()
		return 0, errInterrupted
	}
	b.started = true
	whole := b.whole
	b.mu.Unlock()
	if whole {
		return 0, io.EOF
	}
	n, err := b.read(p)
	if errors.Is(err, errMalformed) {
		b.malformed.Store(true)
	}
	if err == io.EOF { //nolint:errorlint // it is returned as it is
		b.end()
	}
	return n, err
}

func (b *body) read(p []byte) (int, error) {
	if b.left < 0 {
		return b.chunks.read(p)
	}
	n, err := b.c.in.read(p[:min(int64(len(p)), b.left)])
	if b.left -= int64(n); b.left == 0 {
		return n, io.EOF
	}
	return n, unexpected(err)
}

// end records that the whole body was read.
func (b *body) end() {
	b.mu.Lock()
	b.whole = true
	b.mu.Unlock()
	b.c.mu.Lock()
	defer b.c.mu.Unlock()
	b.c.watchLocked()
}

// Trailer implements message.Body.
func (b *body) Trailer() message.Header {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.whole {
		return b.chunks.trailer
	}
	return b.chunks.names
}

// Received implements message.Body. What comes on a connection that has no other requests is read when it is needed.
func (b *body) Received() (n int, whole bool) { return 0, false }

// Interrupt implements message.Body.
func (b *body) Interrupt() {
	b.mu.Lock()
	defer b.mu.Unlock()
	if !b.interrupted && !b.whole {
		b.interrupted = true
		_ = b.c.SetReadDeadline(message.LongAgo) // fails only when it is closed
	}
}

// Malformed implements message.Body.
func (b *body) Malformed() bool { return b.malformed.Load() }

// remains reports whether there may be bytes of the body before the next request. If nobody has read the body but all
// of it was received, it is dropped.
func (b *body) remains() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.whole || b.started || b.interrupted {
		return !b.whole || b.interrupted // the deadline of Interrupt stays
	}
	b.started = true
	switch {
	case b.left < 0:
		b.whole = b.chunks.whole()
	case int64(len(b.c.in.data())) >= b.left:
		b.c.in.use(int(b.left))
		b.left, b.whole = 0, true
	}
	return !b.whole
}
