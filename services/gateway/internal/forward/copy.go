package forward

import (
	"cmp"
	"errors"
	"io"
	"slices"
	"strconv"
	"time"

	"bijou.dev/platform/route"
	"bijou.dev/services/gateway/internal/compress"
	"bijou.dev/services/gateway/internal/fields"
	"bijou.dev/services/gateway/internal/flow"
	"bijou.dev/services/gateway/internal/http1"
	"bijou.dev/services/gateway/internal/message"
	"bijou.dev/services/gateway/internal/reply"

	"google.golang.org/grpc/codes"
)

// flushEvery is how long a piece of a response waits for the next one before it is sent. It waits only if another piece
// was sent less than flushEvery ago, or if the beginning of the next one has come. So an origin that writes single
// bytes does not make the edge send single bytes.
const flushEvery = time.Millisecond

// copier passes the body of a response on. When it is compressed, a piece waits for the next ones for
// flushEvery in any case: what is flushed is compressed by itself, and several small pieces become larger so.
type copier struct {
	c     *call
	every time.Duration // 0: each piece is sent at once
	whole bool          // the response has come to its end: all is sent with that

	// lock guards the response, which is not safe for concurrent use, and what follows. Nil while there is no timer. It
	// is a channel because writing may take long, and fake time stands still while a goroutine waits for a mutex.
	lock  chan struct{}
	timer *time.Timer // nil: was not needed yet
	sent  time.Time   // when the client was last sent something; zero: never
	ended bool
	armed bool  // the timer of a compressed response runs
	err   error // of flushNow
}

func (s *copier) begin(c *call) {
	s.c, s.every = c, flushEvery
	if c.GRPC {
		s.every, s.whole = 0, c.isWhole()
	}
}

func (s *copier) acquire() {
	if s.lock != nil {
		s.lock <- struct{}{}
	}
}

func (s *copier) release() {
	if s.lock != nil {
		<-s.lock
	}
}

// sendHeader sends the header of the response, also when no piece of the body comes for a while.
func (s *copier) sendHeader() error {
	switch {
	case s.whole:
		return nil
	case s.every == 0:
		return s.flush()
	}
	if length := s.c.last.res.Length; length < 0 || bufferedFromOrigin(s.c.last.res) < length {
		s.lock = make(chan struct{}, 1)
		s.armed = true
		s.timer = time.AfterFunc(s.every, s.flushNow)
	}
	return nil
}

// send writes one piece.
func (s *copier) send(p []byte) error {
	s.acquire()
	defer s.release()
	if s.err != nil {
		return s.err
	}
	if s.c.out.Compresses() {
		return s.compress(p)
	}
	if s.timer != nil {
		s.timer.Stop()
	}
	_, err := s.c.out.Write(p)
	switch {
	case err != nil:
		return &clientError{err}
	case s.whole || s.c.out.Bytes == s.c.last.res.Length:
		return nil // it is sent at the end
	case s.timer != nil && s.mayWait():
		s.timer.Reset(s.every)
		return nil
	}
	return s.flush()
}

// compress writes one piece to the encoder, and sends it within the time.
func (s *copier) compress(p []byte) error {
	if _, err := s.c.out.Write(p); err != nil {
		return &clientError{err}
	}
	if s.timer != nil && !s.armed {
		s.armed = true
		s.timer.Reset(s.every)
	}
	return nil
}

// finish writes the end of what was compressed.
func (s *copier) finish() error {
	if !s.c.out.Compresses() {
		return nil
	}
	s.acquire()
	defer s.release()
	if err := s.c.out.Finish(); s.err == nil && err != nil {
		s.err = &clientError{err}
	}
	return s.err
}

// mayWait reports whether what was written can wait for the next piece. Nothing waits for longer than twice the time.
func (s *copier) mayWait() bool {
	ago := time.Since(s.sent)
	return ago < s.every || ago < 2*s.every && bufferedFromOrigin(s.c.last.res) > 0
}

// flushNow is called by the timer.
func (s *copier) flushNow() {
	s.acquire()
	defer s.release()
	s.armed = false
	if !s.ended && s.err == nil {
		s.err = s.flush()
	}
}

func (s *copier) flush() error {
	s.sent = time.Now()
	if err := s.c.out.Flush(); err != nil {
		return &clientError{err}
	}
	return nil
}

// end makes sure that nothing is sent later.
func (s *copier) end() {
	s.acquire()
	defer s.release()
	s.ended = true
	if s.timer != nil {
		s.timer.Stop()
	}
}

// clientError is an error of writing to the client.
type clientError struct{ error }

// answer passes the origin's response on.
func (c *call) answer() {
	res := c.last.res
	connection := fields.Named(res.Header)
	res.Header = reply.FromOrigin(res.Header)
	h := res.Header
	if c.result.Fault != "" {
		h.Set(flow.FaultHeader, string(c.result.Fault))
	}
	for _, f := range res.Announced {
		if c.passesInTrailer(f.Name, connection) {
			h.Add("Trailer", f.Name)
		}
	}
	err := c.out.Begin(res.Status, h, res.Length)
	if err != nil {
		err = &clientError{err}
	} else {
		err = c.copy()
	}
	switch {
	case errors.Is(err, errLeaving):
		c.leave()
		return
	case err != nil:
		c.broke(err)
		return
	}
	if c.GRPC {
		c.judgeGRPC(res.Trailer)
	}
	c.out.Complete(slices.DeleteFunc(res.Trailer, func(f message.Field) bool {
		return !c.passesInTrailer(f.Name, connection)
	}))
}

// passesInTrailer reports whether a field may be passed on in the trailer of the response. A digest of content that is
// compressed here would be wrong.
func (c *call) passesInTrailer(name string, connection []string) bool {
	return fields.PassesInTrailer(name, connection) && (!c.out.Compresses() || !compress.IsDigest(name))
}

// bufferedFromOrigin returns how many bytes of an answer have come from the origin and were not read. 0 if that is not
// known.
func bufferedFromOrigin(res *message.Response) int64 {
	if b, ok := res.Body.(interface{ Buffered() int }); ok {
		return int64(b.Buffered())
	}
	return 0
}

// pause is how long each wait for more of the response may be; 0: there is no limit, as for responses of a kind that
// has no end. A response that moves may take as long as it likes.
func (c *call) pause() (what wait, limit time.Duration) {
	switch {
	case c.Total <= 0 || c.GRPC || c.isEventStream():
		return waitNothing, 0
	case c.body.stream != nil && !c.body.stream.whole():
		return waitMoreUpload, c.Total // the origin may be waiting for the client
	}
	return waitMore, c.Total
}

func (c *call) isEventStream() bool {
	return c.last.res.Length < 0 && reply.IsEventStream(c.last.res.Header)
}

// copy passes the body on.
func (c *call) copy() error {
	if c.last.res.Body == nil {
		return nil
	}
	s := c.streaming()
	if s != nil {
		defer c.f.streams.remove(s)
	}
	out := &c.copier
	out.begin(c)
	defer out.end()
	if err := out.sendHeader(); err != nil {
		return err
	}
	what, limit := c.pause()
	var buf http1.Buffer
	defer buf.Free()
	for read := int(min(c.last.res.Length, 1<<20)); ; {
		p := buf.Next(read)
		if limit > 0 && (c.last.res.Length < 0 || bufferedFromOrigin(c.last.res) == 0) { // else it does not wait
			c.timer.start(what, limit)
		}
		var err error
		read, err = c.last.res.Body.Read(p)
		c.timer.stop()
		n, last := s.pass(p[:read])
		if n > 0 {
			if err := out.send(p[:n]); err != nil {
				return err
			}
		}
		switch {
		case err == io.EOF && n == read:
			return out.finish()
		case last || err != nil && s.leaving():
			return cmp.Or(out.finish(), errLeaving)
		case err != nil:
			return err
		}
	}
}

// broke handles a response whose body ended too early.
func (c *call) broke(err error) {
	var f *flow.Failure
	if c.body.stream != nil {
		f = c.body.stream.failure()
	}
	ce := (*clientError)(nil)
	switch {
	case f != nil:
		c.result.Fault, c.last.outcome = f.Fault, route.Abandoned
	case errors.As(err, &ce) || c.HasLeft():
		c.result.Fault, c.last.outcome = flow.FaultClientGone, route.Abandoned
	case errors.Is(c.last.cancel.Load().Cause(), errLate):
		c.result.Fault, c.last.outcome = flow.FaultTimeout, route.Unreachable
	case c.Expired():
		c.result.Fault, c.last.outcome = flow.FaultClient, route.Abandoned
		c.endGRPC(codes.DeadlineExceeded, deadlineExceeded().Detail)
		return
	default:
		c.result.Fault, c.last.outcome = flow.FaultOrigin, route.Unreachable
	}
	if c.GRPC && c.last.outcome == route.Unreachable {
		// A trailer can carry the reason, which a reset cannot.
		c.endGRPC(codes.Unavailable, "the instance of "+c.Target.Name+" broke off")
		return
	}
	c.out.Abort()
}

// endGRPC ends a call whose answer has begun.
func (c *call) endGRPC(code codes.Code, text string) {
	c.out.Complete(message.Header{
		{Name: "Grpc-Status", Value: strconv.Itoa(int(code))}, {Name: "Grpc-Message", Value: flow.GRPCMessage(text)},
	})
}
