package driver

import (
	"context"
	"sync"
	"time"

	"bijou.dev/platform/kv"
)

// Lease implements [kv.Lease] but for keeping it alive, which its store does.
type Lease struct {
	id     kv.LeaseID
	ttl    time.Duration
	lost   chan struct{}
	once   sync.Once
	revoke func(context.Context) error
}

var _ kv.Lease = (*Lease)(nil)

// NewLease returns a lease that the store has granted. revoke ends it in the store at once; it returns nil if the lease
// has ended already.
func NewLease(id kv.LeaseID, ttl time.Duration, revoke func(context.Context) error) *Lease {
	return &Lease{id: id, ttl: ttl, lost: make(chan struct{}), revoke: revoke}
}

// ID implements kv.Lease.
func (l *Lease) ID() kv.LeaseID { return l.id }

// TTL implements kv.Lease.
func (l *Lease) TTL() time.Duration { return l.ttl }

// Lost implements kv.Lease.
func (l *Lease) Lost() <-chan struct{} { return l.lost }

// SetLost closes Lost. The store calls it when it stops keeping the lease alive. More calls do nothing.
func (l *Lease) SetLost() { l.once.Do(func() { close(l.lost) }) }

// Close implements kv.Lease.
func (l *Lease) Close(ctx context.Context) error {
	l.SetLost()
	return l.revoke(ctx)
}
