package http2

import (
	"errors"
	"io"
	"sync"
	"time"

	"bijou.dev/services/gateway/internal/message"
)

// stream is what both sides of a stream have in common.
type stream struct {
	id   uint32
	l    *link
	news sync.Cond // signalled, with l.mu, when something below has changed

	// Used by the reader of the connection only.
	queued  bool // it is in l.batch
	started bool // a goroutine works on it

	// Guarded by l.mu.
	window, room, unacked int64 // as those of l
	left                  int64 // bytes of content that Content-Length says are to come; negative: unknown
	got                   pieces
	ended                 bool           // the other side has sent everything
	trailer               message.Header // what it has sent last
	err                   error          // why the stream was closed before its end; nil: it was not
	waits                 bool           // for a window
	late                  bool           // it has waited too long
	unread                bool           // what comes is dropped
	sent                  bool           // this side has sent everything
	interrupted           bool           // nothing is read any more

	// What the role keeps.
	server *serverStream
	client *clientStream
}

var (
	errInterrupted = errors.New("reading the body was interrupted")
	errStalled     = errors.New("the other side gives no window for too long")
)

// openLocked adds s to the streams that are open.
func (l *link) openLocked(s *stream, id uint32) {
	s.id, s.l, s.room, s.window = id, l, l.streamRoom, l.first
	s.news.L = &l.mu
	l.streams[s.id] = s
}

// endLocked closes the stream before its end.
func (s *stream) endLocked(err error) {
	if s.err == nil {
		s.err = err
	}
	delete(s.l.streams, s.id)
}

func (s *stream) dropsLocked() bool { return s.err != nil || s.unread }

// ackLocked lets the other side send n more bytes, as soon as it is worth a frame.
func (s *stream) ackLocked(n int64) {
	s.l.ackLocked(n)
	if s.unacked += n; s.unacked < s.l.streamRoom/4 || s.ended || s.dropsLocked() {
		return
	}
	n, s.unacked = s.unacked, 0
	s.room += n
	s.l.out.control(func(b []byte) []byte { return appendWindow(b, s.id, n) })
}

// read reads the body. What has come before an error is read before it.
func (s *stream) read(p []byte) (n int, err error) {
	l := s.l
	l.mu.Lock()
	s.awaitLocked()
	switch {
	case s.interrupted:
		err = errInterrupted
	case s.got.n > 0:
		if n = s.got.read(p); n > 0 {
			s.ackLocked(int64(n))
		}
		if s.got.n == 0 && s.ended {
			err = s.end()
		}
	case s.ended:
		err = s.end()
	default:
		err = s.err
	}
	l.mu.Unlock()
	if n > 0 {
		l.role.read(n)
		l.out.flush(true) // window updates
	}
	return n, err
}

// await waits until read has something to return.
func (s *stream) await() {
	s.l.mu.Lock()
	defer s.l.mu.Unlock()
	s.awaitLocked()
}

func (s *stream) awaitLocked() {
	for s.got.n == 0 && !s.ended && s.err == nil && !s.interrupted {
		s.news.Wait()
	}
}

// end is the error at the end of the body.
func (s *stream) end() error {
	if s.left > 0 {
		return io.ErrUnexpectedEOF
	}
	return io.EOF
}

// drop drops what was received and what still comes.
func (s *stream) drop() {
	l := s.l
	l.mu.Lock()
	s.unread = true
	n := s.got.drop()
	s.ackLocked(int64(n))
	l.mu.Unlock()
	if n > 0 {
		l.role.read(n)
	}
}

// interrupt makes reads return.
func (s *stream) interrupt() {
	s.l.mu.Lock()
	defer s.l.mu.Unlock()
	s.interrupted = true
	s.news.Broadcast()
}

// send sends a part of a body, as the windows allow. It may wait for them for the time of within.
func (s *stream) send(p []byte, end bool, within time.Duration) error {
	l := s.l
	var timer *time.Timer
	defer func() {
		if timer != nil {
			timer.Stop()
		}
	}()
	for flushed := false; ; {
		if err := l.out.await(); err != nil {
			return err
		}
		l.mu.Lock()
		n := int64(0)
		if len(p) > 0 {
			n = min(int64(len(p)), s.window, l.window, maxFrame)
		}
		switch {
		case s.err != nil:
			l.mu.Unlock()
			return s.err
		case s.sent:
			l.mu.Unlock()
			return errClosed
		case s.late:
			l.mu.Unlock()
			return errStalled
		case n <= 0 && len(p) > 0:
			if !flushed { // the other side needs it to give more window
				l.mu.Unlock()
				l.out.flush(true)
				flushed = true
				continue
			}
			if timer == nil {
				timer = time.AfterFunc(within, s.stall)
			}
			s.waits = true
			s.news.Wait()
			s.waits = false
			l.mu.Unlock()
			continue
		}
		s.window -= n
		l.window -= n
		last := end && n == int64(len(p))
		err := l.out.data(s.id, p[:n], last)
		s.sent = s.sent || last
		l.mu.Unlock()
		l.role.sentFrame(last)
		if p, flushed = p[n:], false; err != nil || len(p) == 0 {
			return err
		}
	}
}

// stall ends a send that waits.
func (s *stream) stall() {
	s.l.mu.Lock()
	defer s.l.mu.Unlock()
	s.late = true
	s.news.Broadcast()
}

// header sends a header or a trailer.
func (s *stream) header(first []pseudo, h message.Header, length int64, end bool) error {
	s.l.role.sentFrame(end)
	s.l.mu.Lock()
	defer s.l.mu.Unlock()
	if s.err != nil {
		return s.err
	}
	s.sent = s.sent || end
	return s.l.out.headers(s.id, first, h, length, end)
}

// close closes the stream at the end of its work. What is not complete is reset with a code. It reports whether the
// stream was open.
func (s *stream) close(c code) (wasOpen bool) {
	l := s.l
	l.mu.Lock()
	defer l.mu.Unlock()
	s.unread = true
	n := s.got.drop()
	if n > 0 {
		s.l.ackLocked(int64(n))
		l.role.read(n)
	}
	if s.err != nil {
		return false
	}
	if !s.sent || !s.ended {
		l.sendResetLocked(s.id, c)
	}
	s.endLocked(errClosed)
	return true
}

// sentAll reports whether this side has sent everything.
func (s *stream) sentAll() bool {
	s.l.mu.Lock()
	defer s.l.mu.Unlock()
	return s.sent
}
