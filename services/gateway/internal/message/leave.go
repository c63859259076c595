package message

import "sync"

// Leave tells when a client leaves. The zero value is of a client that is there.
type Leave struct {
	mu   sync.Mutex
	left bool
	tell Leaver // nil: nobody
}

// Leaver is told that a client has left. It must not wait, and not call methods of Leave.
type Leaver interface{ ClientLeft() }

// Now says that the client has left.
func (l *Leave) Now() {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.left = true; l.tell != nil {
		l.tell.ClientLeft()
	}
}

// Has reports whether the client has left.
func (l *Leave) Has() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.left
}

// Tell makes Now tell somebody, in place of anybody else: at once if the client has left. Nil: nobody.
func (l *Leave) Tell(to Leaver) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.tell = to; l.left && to != nil {
		to.ClientLeft()
	}
}
