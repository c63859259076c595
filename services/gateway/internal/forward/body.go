package forward

import (
	"errors"
	"io"
	"net/http"
	"slices"
	"sync"
	"time"

	"bijou.dev/services/gateway/internal/fields"
	"bijou.dev/services/gateway/internal/flow"
	"bijou.dev/services/gateway/internal/http1"
	"bijou.dev/services/gateway/internal/message"
)

// Bounds of bodies.
const (
	bodyTime = 10 * time.Second // to wait for a body in all, plus a second for each bodyRate bytes
	bodyRate = 1 << 10
	// to wait for the message of a gRPC client before the place in the circuit is given back
	placeTime = 25 * time.Millisecond

	maxReplay = 64 << 10 // bytes of body that are kept to send a request again
	maxKept   = 16 << 20 // bytes of all bodies that are kept; bodies beyond this are passed on as they come
)

// content is the body of a request: read as a whole, or passed on as it comes.
type content struct {
	whole      []byte
	kept       int64   // bytes of maxKept that whole uses
	stream     *stream // nil: there is none
	repeatable bool    // it is safe to send the request twice
	continued  bool    // 100 was sent
}

// prepare reads a small body as a whole, so that it can be sent again, and so that a slow client holds no place in the
// limit or the circuit meanwhile.
func (b *content) prepare(c *call) *flow.Failure {
	b.repeatable = c.Header.Has("Idempotency-Key") || c.Rule.Repeats(c.Method)
	if c.Body != nil {
		if n, whole := c.Body.Received(); whole && n <= maxReplay && b.keep(c.f, n) {
			return b.take(c, n)
		}
	}
	if c.Length <= 0 || c.Length > maxReplay || c.GRPC {
		return nil
	}
	size := int(c.Length)
	if !b.keep(c.f, min(size, 4<<10)) {
		return nil
	}
	s := newStream(c)
	b.answerExpect(c)
	// The buffer grows with what has come, not with what was announced.
	whole := make([]byte, 0, min(size, 4<<10))
	for {
		n, err := s.Read(whole[len(whole):cap(whole)])
		whole = whole[:len(whole)+n]
		if len(whole) == size || err != nil {
			break
		}
		if len(whole) == cap(whole) {
			more := min(size, 2*cap(whole)) - len(whole)
			if !b.keep(c.f, more) {
				s.ahead, b.stream = whole, s
				return nil
			}
			whole = slices.Grow(whole, more)
			whole = whole[:len(whole):min(cap(whole), size)]
		}
	}
	s.detach()
	if f := s.failure(); f != nil {
		return f
	}
	if len(whole) < size {
		return flow.HangUp(http.StatusBadRequest, "the body is shorter than its Content-Length")
	}
	b.whole = whole
	return nil
}

// take reads a body of n bytes that has come as a whole.
func (b *content) take(c *call, n int) *flow.Failure {
	if c.MaxBody >= 0 && int64(n) > c.MaxBody {
		return TooLarge(c.MaxBody)
	}
	if b.whole = c.small[:min(n, len(c.small))]; n > len(c.small) {
		b.whole = make([]byte, n)
	}
	_, err := io.ReadFull(c.Body, b.whole)
	if n, more := c.Body.Read(c.one[:]); err == nil && n == 0 && errors.Is(more, io.EOF) {
		return nil
	}
	return flow.Fail(flow.FaultClientGone, flow.StatusClientGone, "the client left while it sent the body")
}

// keep reserves n bytes of maxKept; false: too little is left.
func (b *content) keep(f *Forwarder, n int) bool {
	if f.kept.Add(int64(n)) > maxKept {
		f.kept.Add(-int64(n))
		return false
	}
	b.kept += int64(n)
	return true
}

// streams reports whether the body is passed on as it comes. How long that takes is up to the client, so such requests
// hold no place in the limit and the circuit: a few slow clients would take all places. The limiter and the circuit are
// asked before, and the circuit counts the outcome. A gRPC call holds a place until the edge has to wait for its
// client.
func (b *content) streams(r *Request) bool { return !r.GRPC && b.whole == nil && r.Length != 0 }

// start prepares a body that is passed on as it comes for an attempt.
func (b *content) start(c *call) {
	if b.whole == nil && c.Length != 0 && b.stream == nil {
		b.stream = newStream(c)
	}
}

// answerExpect sends 100 if the client waits for it.
func (b *content) answerExpect(c *call) {
	if c.Body != nil && !b.continued && c.Header.Has("Expect") {
		b.continued = true
		_ = c.out.Interim(http.StatusContinue, nil) // an error shows when the response is sent
	}
}

// TooLarge refuses a body.
func TooLarge(limit int64) *flow.Failure {
	return flow.HangUp(http.StatusRequestEntityTooLarge, "the body must be at most %d bytes long", limit)
}

// stream is the body of a request that is passed on as it comes. The transport that sends it may still read it after
// its attempt has failed; detach ends that. It enforces the size limit and the minimum rate.
type stream struct {
	c     *call
	timer *time.Timer // fires when the client is too slow; nil: nothing was read yet

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
	errDefect   = errors.New("the edge has a defect")
)

func newStream(c *call) *stream {
	b := &stream{c: c}
	b.idle.L = &b.mu
	return b
}

// Read reads from the client.
func (b *stream) Read(p []byte) (int, error) {
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
	b.ended = b.ended || errors.Is(err, io.EOF) || b.n == b.c.Length
	if err != nil && !errors.Is(err, io.EOF) && b.err == nil && !b.detached {
		b.err = err
	}
	b.idle.Broadcast()
	return n, err
}

func (b *stream) read(p []byte) (n int, err error) {
	defer func() {
		if v := recover(); v != nil { // the sender is a goroutine that does not belong to the request
			b.c.f.opts.Defect("reading a body", v)
			n, err = 0, errDefect
		}
	}()
	begin := time.Now()
	b.arm()
	n, err = b.c.Body.Read(p)
	if b.timer != nil {
		b.timer.Stop()
	}
	b.waited += time.Since(begin)
	b.n += int64(n)
	if b.c.MaxBody >= 0 && b.n > b.c.MaxBody {
		return 0, errLimit
	}
	if errors.Is(err, io.EOF) && len(b.c.Body.Trailer()) > message.MaxFields {
		return n, errTrailer
	}
	return n, err
}

// send runs a function that sends the body to an origin, in another goroutine. A panic must not end the process.
func (b *stream) send(f func(), cancel *http1.Canceler) {
	b.c.f.opts.Go(func() {
		defer func() {
			if v := recover(); v != nil {
				b.c.f.opts.Defect("sending a body", v)
				b.mu.Lock()
				b.err = errDefect
				b.mu.Unlock()
				cancel.Cancel(errDefect)
			}
		}()
		f()
	})
}

// Trailer is the trailer for the origin. Before the end of the body it is the names that the client has announced.
func (b *stream) Trailer() message.Header {
	t := fields.PassedTrailer(b.c.Body.Trailer(), fields.Named(b.c.Header))
	return slices.DeleteFunc(t, func(f message.Field) bool { return b.c.Rule.Callers.Removes(f.Name) })
}

// arm limits the next read: all reads together may take bodyTime, and a second for each bodyRate bytes that came. The
// time in which the origin reads does not count. A gRPC stream may be silent without a limit, but its place in the
// circuit is then given back.
func (b *stream) arm() {
	if b.c.GRPC {
		if b.timer == nil {
			b.timer = time.AfterFunc(placeTime, func() { b.c.place.settle(errAborted) })
		} else if b.c.place.held.Load() {
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
func (b *stream) unblockLocked() { b.c.Body.Interrupt() }

// Close detaches the body without waiting. A transport calls it when it needs no more of the body, also to unblock a
// read.
func (b *stream) Close() error {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.detached = true
	if b.reading {
		b.unblockLocked()
	}
	return nil
}

// spare detaches the body if no reader has begun, and reports whether it did.
func (b *stream) spare() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.started {
		return false
	}
	b.detached = true
	return true
}

// detach makes further reads fail and waits until no read is in progress.
func (b *stream) detach() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.detached = true
	for b.reading {
		b.unblockLocked()
		b.idle.Wait()
	}
}

// whole reports whether the whole body was read from the client.
func (b *stream) whole() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.ended && b.err == nil
}

// waits reports whether a read waits for the client.
func (b *stream) waits() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.reading
}

// failure returns the error that the client made with the body; nil: none so far.
func (b *stream) failure() *flow.Failure {
	b.mu.Lock()
	defer b.mu.Unlock()
	switch {
	case b.slow:
		return flow.HangUp(http.StatusRequestTimeout, "the body came too slowly")
	case b.c.Body.Malformed():
		return flow.HangUp(http.StatusBadRequest, "the body is not well formed")
	case b.err == nil:
		return nil
	case errors.Is(b.err, errDefect):
		return flow.Fail(flow.FaultGateway, http.StatusInternalServerError,
			"the edge has a defect; the log has more under the request's id")
	case errors.Is(b.err, errLimit):
		return TooLarge(b.c.MaxBody)
	case errors.Is(b.err, errTrailer):
		return flow.HangUp(http.StatusRequestHeaderFieldsTooLarge, "the trailer must have at most %d fields",
			message.MaxFields)
	case b.c.HasLeft() || errors.Is(b.err, io.ErrUnexpectedEOF):
		return flow.Fail(flow.FaultClientGone, flow.StatusClientGone, "the client left while it sent the body")
	}
	return flow.HangUp(http.StatusBadRequest, "reading the body: %v", b.err)
}
