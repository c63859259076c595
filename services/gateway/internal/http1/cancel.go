package http1

import (
	"context"
	"sync"
)

// Canceler ends a call from another goroutine. The zero value is ready for a call. It is used instead of a context,
// which costs eight allocations for each call.
type Canceler struct {
	mu     sync.Mutex
	cause  error       // nil: it was not canceled
	held   Interrupter // nil: nothing can be interrupted
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
	if s.held != nil {
		s.held.Interrupt()
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
func (s *Canceler) Reset() { s.cause, s.held, s.cancel = nil, nil, nil }

// Interrupter is what waits for an origin.
type Interrupter interface {
	// Interrupt makes all reads and writes end, and those that begin later.
	Interrupt()
}

// Hold makes Cancel interrupt what the call waits for. If the call was canceled, it is interrupted at once.
func (s *Canceler) Hold(x Interrupter) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.held = x; s.cause != nil {
		x.Interrupt()
	}
}

// Release ends Hold, and reports whether the call was not canceled.
func (s *Canceler) Release() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.held = nil
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
