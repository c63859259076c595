package http1

import (
	"context"
	"sync"
	"time"
)

// Canceler ends a call from another goroutine. The zero value is ready for a call. It is used instead of a context,
// which costs eight allocations for each call.
type Canceler struct {
	mu     sync.Mutex
	cause  error // nil: it was not canceled
	conn   interface{ SetDeadline(t time.Time) error }
	cancel context.CancelFunc
}

// Cancel ends the call. Only the first Cancel has an effect.
func (s *Canceler) Cancel(cause error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.cause != nil {
		return
	}
	s.cause = cause
	if s.conn != nil {
		_ = s.conn.SetDeadline(longAgo) // fails only when it is closed
	}
	if s.cancel != nil {
		s.cancel()
	}
}

// Cause is why the call was canceled. Nil: it was not.
func (s *Canceler) Cause() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.cause
}

// Reset makes s ready for another call. Nobody may use it for an earlier one any more.
func (s *Canceler) Reset() { s.cause, s.conn, s.cancel = nil, nil, nil }

// hold makes Cancel end reads and writes of a connection.
func (s *Canceler) hold(c *originConn) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.conn = c.Conn; s.cause != nil {
		_ = c.SetDeadline(longAgo) // fails only when it is closed
	}
}

// release ends hold, and reports whether the call was not canceled.
func (s *Canceler) release() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.conn = nil
	return s.cause == nil
}

// Context returns a context that ends with parent and by Cancel. The function frees it.
func (s *Canceler) Context(parent context.Context) (context.Context, func()) {
	ctx, cancel := context.WithCancel(parent)
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.cancel = cancel; s.cause != nil {
		cancel()
	}
	return ctx, func() {
		cancel()
		s.mu.Lock()
		defer s.mu.Unlock()
		s.cancel = nil
	}
}
