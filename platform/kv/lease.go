package kv

import (
	"context"
	"sync"
	"time"
)

// Lease is a claim that lasts as long as its owner keeps it alive. [Store.Grant] makes one.
type Lease struct {
	// ID is what [PutLeased] takes.
	ID LeaseID
	// TTL is how long the lease outlives the last sign of life of its owner: at least what was asked for.
	TTL time.Duration

	lost   chan struct{}
	once   sync.Once
	revoke func(context.Context) error
}

// NewLease makes the owner's side of a lease, for implementations of [Store]. They call [Lease.Drop] when they stop
// keeping it; revoke ends it in the store at once and must not mind a lease that has ended.
func NewLease(id LeaseID, ttl time.Duration, revoke func(context.Context) error) *Lease {
	return &Lease{ID: id, TTL: ttl, lost: make(chan struct{}), revoke: revoke}
}

// Lost is closed when nobody keeps the lease alive any more: it expired or was revoked, the store could not be reached for
// a TTL, it was closed, or its context ended. Its keys are gone, or will be within a TTL.
func (l *Lease) Lost() <-chan struct{} { return l.lost }

// Drop closes Lost. It is for implementations of [Store]; calling it again does nothing.
func (l *Lease) Drop() { l.once.Do(func() { close(l.lost) }) }

// Close ends the lease and deletes its keys now. A lease that has ended already is not an error. When the store cannot be
// reached the error says so, and the lease ends by itself within its TTL.
func (l *Lease) Close(ctx context.Context) error {
	l.Drop()
	return l.revoke(ctx)
}
