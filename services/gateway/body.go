package gateway

import (
	"errors"
	"io"
	"net/http"
	"sync"
	"sync/atomic"
	"time"
)

// body is the body of a request that is sent to an origin. The transport that sends it may still read it after its
// attempt has failed; detach ends that. It enforces the size limit and the minimum rate.
type body struct {
	x     *exchange
	limit int64       // bytes; -1: none
	timer *time.Timer // fires when the client is too slow; nil: nothing was read yet

	interrupted atomic.Bool // see exchange.attemptContext

	// trailer is for the origin. It has the names that the client has announced, and at the end of the body also the
	// values. Nil: there can be none.
	trailer http.Header

	// Used by the reader only.
	ahead  []byte // bytes that were read before
	n      int64
	waited time.Duration

	mu       sync.Mutex
	idle     sync.Cond // signalled when reading becomes false
	reading  bool
	started  bool // a reader has read from it
	ended    bool // it was read to its end
	detached bool
	slow     bool
	err      error // error of reading from the client, other than io.EOF
}

var (
	errDetached = errors.New("the body was detached")
	errLimit    = errors.New("the body is too large")
	errTrailer  = errors.New("the trailer has too many fields")
)

var longAgo = time.Unix(1, 0)

func newBody(x *exchange) *body {
	b := &body{x: x, limit: x.bodyLimit()}
	b.idle.L = &b.mu
	if x.r.Trailer != nil {
		b.trailer = http.Header{}
		copyTrailer(b.trailer, x.r.Trailer, named(x.r.Header["Connection"]))
	}
	return b
}

// Read reads from the client.
func (b *body) Read(p []byte) (int, error) {
	b.mu.Lock()
	if b.detached {
		b.mu.Unlock()
		return 0, errDetached
	}
	if len(b.ahead) > 0 {
		n := copy(p, b.ahead)
		b.ahead = b.ahead[n:]
		b.mu.Unlock()
		return n, nil
	}
	b.started, b.reading = true, true
	b.mu.Unlock()

	n, err := b.read(p)

	b.mu.Lock()
	defer b.mu.Unlock()
	b.reading = false
	b.ended = b.ended || errors.Is(err, io.EOF) || b.n == b.x.r.ContentLength
	if err != nil && !errors.Is(err, io.EOF) && b.err == nil && !b.detached {
		b.err = err
	}
	b.idle.Broadcast()
	return n, err
}

func (b *body) read(p []byte) (int, error) {
	begin := time.Now()
	b.arm()
	n, err := b.x.r.Body.Read(p)
	if b.timer != nil {
		b.timer.Stop()
	}
	b.waited += time.Since(begin)
	b.n += int64(n)
	if b.x.conn != nil && b.x.conn.http2 != nil {
		b.x.edge.memory.read(b.x.conn, n)
	}
	if b.limit >= 0 && b.n > b.limit {
		return 0, errLimit
	}
	if err == io.EOF && b.trailer != nil {
		return n, b.readTrailer()
	}
	return n, err
}

// readTrailer takes the trailer, which net/http has when it returns io.EOF.
func (b *body) readTrailer() error {
	n := 0
	for _, lines := range b.x.r.Trailer {
		n += len(lines)
	}
	if n > maxFields {
		return errTrailer
	}
	copyTrailer(b.trailer, b.x.r.Trailer, named(b.x.r.Header["Connection"]))
	return io.EOF
}

// arm limits the next read: all reads together may take bodyTime, and a second for each bodyRate bytes that came. The
// time in which the origin reads does not count. A gRPC stream may be silent without a limit, but its place in the
// circuit is then given back.
func (b *body) arm() {
	if b.x.grpc {
		if b.timer == nil {
			b.timer = time.AfterFunc(placeTime, func() { b.x.settle(errAborted) })
		} else if b.x.settled.Load() != nil {
			b.timer.Reset(placeTime)
		}
		return
	}
	left := bodyTime + time.Duration(b.n/bodyRate)*time.Second - b.waited
	if b.timer != nil {
		b.timer.Reset(left)
		return
	}
	b.timer = time.AfterFunc(left, func() {
		b.mu.Lock()
		defer b.mu.Unlock()
		if b.reading { // else it fired just as the read returned, and the response may have ended
			b.slow = true
			b.unblockLocked()
		}
	})
}

// unblockLocked makes a blocked read return.
func (b *body) unblockLocked() {
	_ = http.NewResponseController(b.x.w).SetReadDeadline(longAgo) // fails only for a closed connection
}

// Close detaches the body without waiting. A transport calls it when it needs no more of the body, also to unblock a
// read.
func (b *body) Close() error {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.detached = true
	if b.reading {
		b.interrupted.Store(b.x.r.ProtoMajor == 1)
		b.unblockLocked()
	}
	return nil
}

// spare detaches the body if no reader has begun, and reports whether it did.
func (b *body) spare() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.started {
		return false
	}
	b.detached = true
	return true
}

// detach makes further reads fail and waits until no read is in progress.
func (b *body) detach() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.detached = true
	for b.reading {
		b.unblockLocked()
		b.idle.Wait()
	}
}

// whole reports whether the whole body was read from the client.
func (b *body) whole() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.ended && b.err == nil
}

// waits reports whether a read waits for the client.
func (b *body) waits() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.reading
}

// failure returns the error that the client made with the body; nil: none so far. It does not wait for Read to return:
// net/http cancels the request first, and a canceled request looks like a client that has left.
func (b *body) failure() *failure {
	b.mu.Lock()
	defer b.mu.Unlock()
	switch {
	case b.slow:
		return hangUp(http.StatusRequestTimeout, "the body came too slowly")
	case malformed(b.x.r.Context()):
		return hangUp(http.StatusBadRequest, "the body is not well formed")
	case b.err == nil:
		return nil
	case errors.Is(b.err, errLimit):
		return tooLarge(b.limit)
	case errors.Is(b.err, errTrailer):
		return hangUp(http.StatusRequestHeaderFieldsTooLarge, "the trailer must have at most %d fields", maxFields)
	case b.x.r.Context().Err() != nil || errors.Is(b.err, io.ErrUnexpectedEOF):
		return fail(FaultClientGone, statusClientGone, "the client left while it sent the body")
	}
	return hangUp(http.StatusBadRequest, "reading the body: %v", b.err)
}
