// Package kvmem keeps a kv.Store in memory: for tests, and for processes that need no store of their own.
//
// It keeps the whole contract of package kv, leases included. It waits with timers of package time only, so in a
// testing/synctest bubble a lease of hours takes no real time. The faults of a real store can be made to happen: see
// [Store.Fail], [Store.Cut], [Store.Compact], [Store.DropWatches] and [Store.ExpireLease].
package kvmem

import (
	"bytes"
	"context"
	"slices"
	"strings"
	"sync"
	"time"

	"bijou.dev/platform/errs"
	"bijou.dev/platform/kv"
	"bijou.dev/platform/kv/driver"
)

// history is how many transactions are kept for watches that are cut off; older ones are compacted.
const history = 1000

// Store is one client of data in memory. [New] makes the data and its first client, [Store.Peer] another client. Faults
// affect one client: its peers work on.
type Store struct {
	data *data

	// Guarded by data.mu.
	down   error                   // why every call fails; nil: up
	cut    bool                    // watches get no updates
	closed bool                    // Close was called
	feeds  map[string]*driver.Feed // prefix -> feed with watches
}

// data is what all clients share.
type data struct {
	mu        sync.Mutex
	rev       kv.Revision
	entries   map[string]entry
	leases    map[kv.LeaseID]*lease
	lastLease kv.LeaseID
	log       []kv.Update // every transaction after compacted
	compacted kv.Revision
	clients   map[*Store]bool
}

type entry struct {
	kv.Entry
	lease kv.LeaseID
}

// lease is kept alive while it has an owner that can reach the store; else its timer runs.
type lease struct {
	*driver.Lease
	owner  *Store      // nil: no client keeps it alive
	expiry *time.Timer // nil: not running
}

var _ kv.Store = (*Store)(nil)

// New returns an empty store.
func New() *Store {
	d := &data{entries: map[string]entry{}, leases: map[kv.LeaseID]*lease{}, clients: map[*Store]bool{}}
	return d.client()
}

// Peer returns another client of the same data, like that of a second process.
func (s *Store) Peer() *Store {
	s.data.mu.Lock()
	defer s.data.mu.Unlock()
	return s.data.client()
}

func (d *data) client() *Store {
	s := &Store{data: d, feeds: map[string]*driver.Feed{}}
	d.clients[s] = true
	return s
}

// Close ends the client: its watches and calls fail with kv.ErrClosed and its leases expire within their TTL. Peers
// keep the data.
func (s *Store) Close() error {
	d := s.data
	d.mu.Lock()
	defer d.mu.Unlock()
	if s.closed {
		return nil
	}
	s.closed = true
	delete(d.clients, s)
	for _, f := range s.feeds {
		f.Close(kv.ErrClosed)
	}
	for _, l := range d.leases {
		if l.owner == s {
			l.SetLost()
			d.abandonLocked(l)
		}
	}
	return nil
}

// Get implements kv.Store.
func (s *Store) Get(ctx context.Context, key string) (kv.Entry, error) {
	if err := kv.ValidateKey(key); err != nil {
		return kv.Entry{}, err
	}
	s.data.mu.Lock()
	defer s.data.mu.Unlock()
	if err := s.upLocked(ctx, "reading "+key); err != nil {
		return kv.Entry{}, err
	}
	e, ok := s.data.entries[key]
	if !ok {
		return kv.Entry{}, errs.Errorf(errs.NotFound, "reading %s: no such key", key)
	}
	return e.Entry, nil
}

// List implements kv.Store.
func (s *Store) List(ctx context.Context, prefix string) ([]kv.Entry, kv.Revision, error) {
	if err := kv.ValidatePrefix(prefix); err != nil {
		return nil, 0, err
	}
	s.data.mu.Lock()
	defer s.data.mu.Unlock()
	if err := s.upLocked(ctx, "listing "+prefix); err != nil {
		return nil, 0, err
	}
	return s.data.listLocked(prefix), s.data.rev, nil
}

func (d *data) listLocked(prefix string) []kv.Entry {
	var list []kv.Entry
	for key, e := range d.entries {
		if strings.HasPrefix(key, prefix) {
			list = append(list, e.Entry)
		}
	}
	slices.SortFunc(list, func(a, b kv.Entry) int { return strings.Compare(a.Key, b.Key) })
	return list
}

// Txn implements kv.Store.
func (s *Store) Txn(ctx context.Context, txn kv.Txn) (kv.Revision, error) {
	if err := txn.Validate(); err != nil {
		return 0, err
	}
	d := s.data
	d.mu.Lock()
	defer d.mu.Unlock()
	if err := s.upLocked(ctx, "writing"); err != nil {
		return 0, err
	}
	for _, c := range txn.If {
		if at := d.entries[c.Key].Modified; at != c.Modified {
			return 0, driver.Conflict(c, at)
		}
	}
	for _, op := range txn.Then {
		if op.Lease != 0 && d.leases[op.Lease] == nil {
			return 0, errs.Errorf(errs.Precondition, "writing %s: its lease has ended: grant another", op.Key)
		}
	}
	d.commitLocked(txn.Then)
	return d.rev, nil
}

// commitLocked performs ops as one revision and sends it to all watches.
func (d *data) commitLocked(ops []kv.Op) {
	u := kv.Update{Revision: d.rev + 1}
	for _, op := range ops {
		old, exists := d.entries[op.Key]
		switch {
		case !op.Delete:
			e := kv.Entry{Key: op.Key, Value: bytes.Clone(op.Value), Created: u.Revision, Modified: u.Revision}
			if exists {
				e.Created = old.Created
			}
			d.entries[op.Key] = entry{e, op.Lease}
			u.Puts = append(u.Puts, e)
		case exists:
			delete(d.entries, op.Key)
			u.Deletes = append(u.Deletes, op.Key)
		}
	}
	if len(u.Puts)+len(u.Deletes) == 0 {
		return
	}
	d.rev = u.Revision
	d.log = append(d.log, u)
	if over := len(d.log) - history; over > 0 {
		d.compacted = d.log[over-1].Revision
		d.log = slices.Clone(d.log[over:])
	}
	for s := range d.clients {
		if s.down == nil && !s.cut {
			s.sendLocked(u)
		}
	}
}

// sendLocked adds one transaction to every feed of s that does not have it.
func (s *Store) sendLocked(u kv.Update) {
	for prefix, f := range s.feeds {
		if part := driver.Under(prefix, u); len(part.Puts)+len(part.Deletes) > 0 {
			f.Apply(part)
		}
		f.Advance(u.Revision)
	}
}

// Watch implements kv.Store.
func (s *Store) Watch(ctx context.Context, prefix string) kv.Watch {
	if err := kv.ValidatePrefix(prefix); err != nil {
		return driver.FailedWatch(prefix, err)
	}
	d := s.data
	d.mu.Lock()
	defer d.mu.Unlock()
	if s.closed {
		return driver.FailedWatch(prefix, kv.ErrClosed)
	}
	f := s.feeds[prefix]
	if f == nil {
		f = driver.NewFeed(prefix, func() { s.forget(prefix) })
		s.feeds[prefix] = f
		if err := s.cutOffLocked(); err != nil {
			f.SetProblem(err)
		} else {
			f.Reset(d.listLocked(prefix), d.rev)
		}
	}
	return f.Watch(ctx)
}

func (s *Store) forget(prefix string) {
	s.data.mu.Lock()
	defer s.data.mu.Unlock()
	if f := s.feeds[prefix]; f != nil && f.Idle() {
		delete(s.feeds, prefix)
	}
}

// Grant implements kv.Store. The lease lives until it is closed, or for a ttl after ctx ended or Fail or Close were
// called.
func (s *Store) Grant(ctx context.Context, ttl time.Duration) (kv.Lease, error) {
	if err := kv.ValidateTTL(ttl); err != nil {
		return nil, err
	}
	d := s.data
	d.mu.Lock()
	defer d.mu.Unlock()
	if err := s.upLocked(ctx, "granting lease"); err != nil {
		return nil, err
	}
	d.lastLease++
	id := d.lastLease
	l := &lease{owner: s}
	ttl = time.Duration(driver.WholeSeconds(ttl)) * time.Second // as in etcd
	stop := func() bool { return true }
	l.Lease = driver.NewLease(id, ttl, func(ctx context.Context) error {
		stop()
		return s.revoke(ctx, id)
	})
	d.leases[id] = l
	stop = context.AfterFunc(ctx, func() {
		d.mu.Lock()
		defer d.mu.Unlock()
		l.SetLost()
		d.abandonLocked(l)
	})
	return l.Lease, nil
}

func (s *Store) revoke(ctx context.Context, id kv.LeaseID) error {
	d := s.data
	d.mu.Lock()
	defer d.mu.Unlock()
	if err := s.upLocked(ctx, "closing lease"); err != nil {
		if l := d.leases[id]; l != nil {
			d.abandonLocked(l)
		}
		return err
	}
	d.expireLocked(id)
	return nil
}

// abandonLocked starts the expiry of a lease that its owner does not keep alive any more.
func (d *data) abandonLocked(l *lease) {
	l.owner = nil
	d.startExpiryLocked(l)
}

func (d *data) startExpiryLocked(l *lease) {
	if l.expiry != nil || d.leases[l.ID()] != l {
		return
	}
	var t *time.Timer
	t = time.AfterFunc(l.TTL(), func() {
		d.mu.Lock()
		defer d.mu.Unlock()
		if l.expiry == t { // else it was renewed while this function waited for the lock
			d.expireLocked(l.ID())
		}
	})
	l.expiry = t
}

// expireLocked ends a lease, if it exists, and deletes its keys as one revision.
func (d *data) expireLocked(id kv.LeaseID) {
	l := d.leases[id]
	if l == nil {
		return
	}
	delete(d.leases, id)
	if l.expiry != nil {
		l.expiry.Stop()
	}
	l.SetLost()
	var ops []kv.Op
	for key, e := range d.entries {
		if e.lease == id {
			ops = append(ops, kv.Delete(key))
		}
	}
	d.commitLocked(ops)
}

// upLocked returns why a call cannot be made now, or nil. what is what the call does.
func (s *Store) upLocked(ctx context.Context, what string) error {
	switch {
	case ctx.Err() != nil:
		kind := errs.KindOf(ctx.Err())
		return errs.Errorf(kind, "%s: %w", what, ctx.Err())
	case s.closed:
		return kv.ErrClosed
	case s.down != nil:
		return errs.Errorf(errs.Unavailable, "%s: %w", what, s.down)
	}
	return nil
}
