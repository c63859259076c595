package forward

import (
	"encoding/binary"
	"errors"
	"sync"
	"time"

	"google.golang.org/grpc/codes"

	"bijou.dev/platform/route"
)

// errLeaving ends the copying of a stream because the edge stops.
var errLeaving = errors.New("the edge is stopping")

// streaming is a response that may never end by itself: a gRPC call whose response has begun, or server-sent events. It
// finds the ends of gRPC messages (a byte, four bytes of length, the message), to end the response between two of them.
// Events may be cut: a client ignores an incomplete one.
type streaming struct {
	grpc bool
	cut  func() // ends reading from the origin

	mu    sync.Mutex
	head  [5]byte
	n     int    // bytes of head
	left  uint32 // bytes of the message to come
	leave bool   // end after the current message
}

// streaming adds the response to the streams if it is a stream; nil: it is not. The caller removes it.
func (c *call) streaming() *streaming {
	if !c.GRPC && !c.isEventStream() || c.isWhole() {
		return nil
	}
	c.long = true
	body, cancel := c.body.stream, c.last.cancel.Load()
	s := &streaming{grpc: c.GRPC, cut: func() {
		if body != nil {
			// While a body is being sent, the end of the context is not noticed (golang/go#80085).
			_ = body.Close() // never fails
		}
		cancel.Cancel(errLeaving)
	}}
	if !c.f.streams.add(s) {
		s.goAway(0)
	}
	return s
}

// isWhole reports whether the response has come to its end.
func (c *call) isWhole() bool {
	b, ok := c.last.res.Body.(interface{ Whole() bool })
	return ok && b.Whole()
}

// goAway implements longResponse. The edge ends the response itself.
func (s *streaming) goAway(time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.leave = true
	if s.between() {
		s.cut()
	}
}

func (s *streaming) close() { s.cut() }

func (s *streaming) between() bool { return s.n == 0 && s.left == 0 }

// leaving reports whether reading from the origin failed because of goAway.
func (s *streaming) leaving() bool {
	if s == nil {
		return false
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.leave && s.between()
}

// pass returns how much of p is to be passed on, and whether that is the end.
func (s *streaming) pass(p []byte) (n int, end bool) {
	if s == nil {
		return len(p), false
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.grpc {
		return len(p), s.leave
	}
	for {
		if s.leave && s.between() {
			return n, true
		}
		switch {
		case n == len(p):
			return n, false
		case s.left > 0:
			k := min(s.left, uint32(len(p)-n))
			s.left -= k
			n += int(k)
		default:
			s.head[s.n] = p[n]
			s.n++
			n++
			if s.n == len(s.head) {
				s.n, s.left = 0, binary.BigEndian.Uint32(s.head[1:])
			}
		}
	}
}

// leave ends a response because the edge stops. It counts as a success of the origin.
func (c *call) leave() {
	c.last.outcome = route.Success
	if c.GRPC {
		c.endGRPC(codes.Unavailable, errLeaving.Error()+"; connect again")
	} else {
		c.out.Complete(nil)
	}
}
