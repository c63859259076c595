package message

import "sync"

// Leave says when a client leaves. The zero value is of a client that is there.
type Leave struct {
	mu     sync.Mutex
	left   bool
	notify Leaver // nil: nobody
}

// Leaver is notified when a client leaves. It must not wait, and must not call methods of Leave.
type Leaver interface{ ClientLeft() }

// Set records that the client has left.
func (l *Leave) Set() {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.left = true; l.notify != nil {
		l.notify.ClientLeft()
	}
}

// IsSet reports whether the client has left.
func (l *Leave) IsSet() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.left
}

// Notify makes Set notify to, in place of anybody else. If the client has left, to is notified at once. Nil: nobody.
func (l *Leave) Notify(to Leaver) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.notify = to; l.left && to != nil {
		to.ClientLeft()
	}
}
