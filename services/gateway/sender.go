package gateway

import (
	"net/http"
	"time"
)

// flushEvery is how long a piece of a response waits for the next one before it is sent. It waits only if another piece
// was sent less than flushEvery ago, or if the beginning of the next one has come. So an origin that writes single
// bytes does not make the edge send single bytes.
const flushEvery = time.Millisecond

// sender writes the body of a response to the client. When it is compressed, a piece waits for the next ones for
// flushEvery in any case: what is flushed is compressed by itself, and several small pieces become larger so.
type sender struct {
	x     *exchange
	every time.Duration // 0: each piece is sent at once
	stall stall

	// lock guards x.w, which is not safe for concurrent use, and what follows. Nil while there is no timer. It is a
	// channel because writing may take long, and fake time stands still while a goroutine waits for a mutex.
	lock  chan struct{}
	timer *time.Timer // nil: was not needed yet
	sent  time.Time   // when the client was last sent something; zero: never
	ended bool
	armed bool  // the timer of a compressed response runs
	held  bool  // the encoder may have bytes that were not sent
	err   error // of flushNow
}

func (s *sender) begin(x *exchange) {
	s.x, s.every, s.stall = x, flushEvery, x.watchWrites()
	if x.grpc {
		s.every = 0
	}
}

func (s *sender) acquire() {
	if s.lock != nil {
		s.lock <- struct{}{}
	}
}

func (s *sender) release() {
	if s.lock != nil {
		<-s.lock
	}
}

// sendHeader sends the header of the response, also when no piece of the body comes for a while.
func (s *sender) sendHeader() error {
	if s.every == 0 {
		return s.flush()
	}
	if length := s.x.res.ContentLength; length < 0 || bufferedFromOrigin(s.x.res) < length {
		s.lock = make(chan struct{}, 1)
		s.armed = true
		s.timer = time.AfterFunc(s.every, s.flushNow)
	}
	return nil
}

// send writes one piece.
func (s *sender) send(p []byte) error {
	s.acquire()
	defer s.release()
	if s.err != nil {
		return s.err
	}
	if s.x.encoder != nil {
		return s.compress(p)
	}
	if s.timer != nil {
		s.timer.Stop()
	}
	s.stall.begin()
	n, err := s.x.w.Write(p)
	s.stall.end()
	s.x.bytes += int64(n)
	switch {
	case err != nil:
		return &clientError{err}
	case s.x.bytes == s.x.res.ContentLength:
		return nil // the server sends the end
	case s.timer != nil && s.mayWait():
		s.timer.Reset(s.every)
		return nil
	}
	return s.flush()
}

// compress writes one piece to the encoder, and sends it within the time.
func (s *sender) compress(p []byte) error {
	s.stall.begin()
	defer s.stall.end()
	s.held = true
	if _, err := s.x.encoder.Write(p); err != nil {
		return &clientError{err}
	}
	if s.timer != nil && !s.armed {
		s.armed = true
		s.timer.Reset(s.every)
	}
	return nil
}

// finish writes the end of what was compressed.
func (s *sender) finish() error {
	if s.x.encoder == nil {
		return nil
	}
	s.acquire()
	defer s.release()
	s.stall.begin()
	defer s.stall.end()
	s.held = false // the timer may still fire
	if err := s.x.encoder.Close(); s.err == nil && err != nil {
		s.err = &clientError{err}
	}
	return s.err
}

// mayWait reports whether what was written can wait for the next piece. Nothing waits for longer than twice the time.
func (s *sender) mayWait() bool {
	ago := time.Since(s.sent)
	return ago < s.every || ago < 2*s.every && bufferedFromOrigin(s.x.res) > 0
}

// flushNow is called by the timer.
func (s *sender) flushNow() {
	s.acquire()
	defer s.release()
	s.armed = false
	if !s.ended && s.err == nil {
		s.err = s.flush()
	}
}

func (s *sender) flush() error {
	s.stall.begin()
	defer s.stall.end()
	s.sent = time.Now()
	if s.held {
		s.held = false
		if err := s.x.encoder.Flush(); err != nil {
			return &clientError{err}
		}
	}
	if err := http.NewResponseController(s.x.w).Flush(); err != nil {
		return &clientError{err}
	}
	return nil
}

// end makes sure that nothing is sent later. The server sends what was written when the handler returns.
func (s *sender) end() {
	s.acquire()
	defer s.release()
	s.ended = true
	if s.timer != nil {
		s.timer.Stop()
	}
}

// clientError is an error of writing to the client.
type clientError struct{ error }

// stall ends an HTTP/2 stream whose client does not read. For HTTP/1 conn.Write does it.
type stall struct{ timer *time.Timer }

func (x *exchange) watchWrites() stall {
	if x.r.ProtoMajor == 1 {
		return stall{}
	}
	s := stall{time.AfterFunc(time.Hour, func() {
		if x.conn != nil && x.conn.http2 != nil {
			x.conn.http2.stalled()
		}
		_ = http.NewResponseController(x.w).SetWriteDeadline(longAgo) // fails only for a closed connection
	})}
	s.timer.Stop()
	return s
}

func (s stall) begin() {
	if s.timer != nil {
		s.timer.Reset(writeTime)
	}
}

func (s stall) end() {
	if s.timer != nil {
		s.timer.Stop()
	}
}
