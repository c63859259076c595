// Package kv is the contract of the platform's key-value store: a small, linearizable, ordered map with transactions,
// leases and watches. Package kvetcd keeps it in etcd, kvmem in memory. Package driver helps to implement it, and
// kvtest is the suite that every implementation passes.
//
// # Keys and values
//
// A key is text: it starts with "/", has no empty segment ("//"), does not end in "/", and is at most [MaxKey] bytes. A
// prefix is "/" or a key followed by "/". So "/apps/user/" never covers "/apps/user-admin/1". A value is any bytes, at
// most [MaxValue] of them. The receiver of a value must not change its bytes. A store keeps its own copy of what is
// put.
//
// # Revisions
//
// Every successful transaction that changes something gets the next revision of the store. There is one counter for all
// keys, so revisions order all changes. A transaction that changes nothing (it only checks, or deletes a key that does
// not exist) returns the revision it was evaluated at. Revisions never repeat, unless the store itself lost its data or
// was restored from an older copy.
//
// # Consistency
//
// Get, List and Txn are linearizable: each takes effect at one moment between call and return, and sees everything that
// was acknowledged before it was called. List is one consistent picture. An acknowledged write is durable as far as the
// store is. A write that ended with [errs.Unavailable], [errs.Timeout] or [errs.Canceled] may have happened or not. To
// find out, read, or repeat it with the condition it was made under.
//
// # Errors
//
// Every error has a kind of package errs: Invalid (a key, prefix, ttl or transaction breaks the rules; the text names
// it), Exhausted (too large, or the store is full), NotFound (Get), Conflict (a condition of a Txn does not hold; the
// text names the first), Precondition (a lease has ended), Unavailable (the store cannot be reached or is closed;
// reported within seconds), Timeout and Canceled (the caller's context ended).
package kv

import (
	"context"
	"time"

	"bijou.dev/platform/errs"
)

// Limits of the contract. They are below etcd's own defaults, so that every store accepts what they allow.
const (
	// MaxKey is the longest key, in bytes.
	MaxKey = 1 << 10
	// MaxValue is the largest value, in bytes.
	MaxValue = 1 << 20
	// MaxTxn is the largest sum of all keys and values in one transaction, in bytes.
	MaxTxn = MaxValue + MaxValue/4
	// MaxOps is the largest number of conditions, and of operations, in one transaction.
	MaxOps = 128
	// MinTTL is the shortest time to live of a lease. A store may grant a longer one: see [Lease].
	MinTTL = time.Second
)

// Revision numbers the changes of a store. Zero is before the first change.
type Revision int64

// LeaseID names a lease within its store. Zero is no lease.
type LeaseID int64

// Entry is one key with its value.
type Entry struct {
	// Key is the full key, prefix included.
	Key string
	// Value must not be modified by the receiver of the entry.
	Value []byte
	// Created is the revision at which the key was created, after its last deletion.
	Created Revision
	// Modified is the revision of the last put: what [At] compares with.
	Modified Revision
}

// Store is a key-value store. All methods may be called from many goroutines.
type Store interface {
	// Get returns the entry of key, or an error of kind errs.NotFound.
	Get(ctx context.Context, key string) (Entry, error)

	// List returns all entries under prefix, sorted by key, and the revision at which all of them were read. An empty
	// list is not an error.
	List(ctx context.Context, prefix string) ([]Entry, Revision, error)

	// Txn evaluates all conditions and, when every one holds, performs all operations as one revision, which it
	// returns. When a condition does not hold, nothing is changed and the error is of kind errs.Conflict.
	Txn(ctx context.Context, txn Txn) (Revision, error)

	// Grant makes a lease and keeps it alive until ctx ends, or the lease is closed or lost. Keys put with it are
	// deleted together, as one revision, when it ends. A lost lease is not replaced: its owner sees [Lease.Lost] and
	// grants another.
	Grant(ctx context.Context, ttl time.Duration) (Lease, error)

	// Watch follows the keys under prefix until ctx ends. It never fails to start: [Watch.Next] reports an invalid
	// prefix, and [Watch.Problem] a store that cannot be reached.
	Watch(ctx context.Context, prefix string) Watch
}

// ErrClosed is the error of calls and watches of a closed store. Its kind is errs.Unavailable.
var ErrClosed error = errs.Errorf(errs.Unavailable, "using store: it is closed")

// Txn is a transaction: if all of If hold, all of Then are performed. Without Then it only checks. A key may be in Then
// only once.
type Txn struct {
	If   []Cond
	Then []Op
}

// Cond is a condition on one key. Make it with [Absent] or [At].
type Cond struct {
	// Key is the key that is checked.
	Key string
	// Modified is the revision at which the key must have been modified last. Zero: the key must not exist.
	Modified Revision
}

// Absent holds when key does not exist.
func Absent(key string) Cond { return Cond{Key: key} }

// At holds when the key was last modified at rev. At(key, 0) is Absent(key).
func At(key string, rev Revision) Cond { return Cond{Key: key, Modified: rev} }

// Op is a change of one key. Make it with [Put], [PutLeased] or [Delete].
type Op struct {
	// Key is the key that is changed.
	Key string
	// Value is the new value; unused by a delete.
	Value []byte
	// Lease is the lease that the key is deleted with. Zero: the key stays until it is deleted.
	Lease LeaseID
	// Delete says that the key is removed.
	Delete bool
}

// Put sets the value of key. The key is tied to no lease, even if it was before.
func Put(key string, value []byte) Op { return Op{Key: key, Value: value} }

// PutLeased sets the value of key and removes the key when the lease ends. A lease that has ended or never was fails
// the transaction with errs.Precondition.
func PutLeased(key string, value []byte, lease LeaseID) Op {
	return Op{Key: key, Value: value, Lease: lease}
}

// Delete removes key. If the key does not exist, nothing is changed, which is not an error: require it with [At].
func Delete(key string) Op { return Op{Key: key, Delete: true} }

// Lease keeps keys as long as its owner keeps it alive. [Store.Grant] makes one and keeps it alive. Its methods may be
// called from many goroutines.
type Lease interface {
	// ID is the argument of [PutLeased].
	ID() LeaseID

	// TTL is how long the lease lives after its owner was heard last: at least what was asked for.
	TTL() time.Duration

	// Lost returns a channel that is closed when the lease is no longer kept alive: it expired or was revoked, the
	// store could not be reached for a TTL, the store or the lease was closed, or the context of Grant ended. The keys
	// of the lease are deleted by then, or will be within a TTL.
	Lost() <-chan struct{}

	// Close ends the lease and deletes its keys now. Closing a lease that has ended is not an error. When the store
	// cannot be reached the error says so, and the lease ends by itself within its TTL.
	Close(ctx context.Context) error
}

// Watch is one reader's view of the keys under a prefix.
//
// The first update is a snapshot. It holds every write that this store acknowledged before Watch was called, as long as
// the store can be reached; when it cannot, the snapshot is the last known state. Then come deltas, in order of
// revision, one per transaction, with nothing missing and nothing twice. When the store had to be listed again the
// delta is the difference: a watch never starts over and never deletes what it has shown only because the store was
// away. When the reader is far behind, the deltas that it missed are merged into one, so that memory is bounded by what
// the reader knew and what there is. No delta is empty.
type Watch interface {
	// Next waits for the next update. It returns an error only when ctx or the watch's own context ends, the store is
	// closed, or the prefix was invalid. After an error that is not the end of ctx there are no more updates. Next is
	// for one goroutine at a time.
	Next(ctx context.Context) (Update, error)

	// Problem says why the watch cannot learn of changes now, or returns nil. While it is not nil the reader's view may
	// be out of date. It may be called from any goroutine.
	Problem() error
}

// Update is what changed under a prefix.
type Update struct {
	// Snapshot marks the first update of a watch: Puts has all keys, Deletes is empty.
	Snapshot bool
	// Resync marks a difference that was found by listing again after the connection was lost. Puts and Deletes are
	// exact, but stand for any number of transactions. A store that lost its data shows as a Resync that deletes a lot:
	// a reader to whom this matters should check such an update before it follows it.
	Resync bool
	// Revision is the state of the store that the update leads to.
	Revision Revision
	// Puts are the keys that were created or changed, sorted by key.
	Puts []Entry
	// Deletes are the keys that were deleted, sorted.
	Deletes []string
}
