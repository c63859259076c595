// Package kv is the contract of the platform's key-value store: a small, linearizable, ordered map with transactions,
// leases and watches. kvetcd keeps it in etcd, kvmem in memory; kvtest is the suite that both pass, and that a third
// implementation would have to pass.
//
// # Keys and values
//
// A [Key] is text: it starts with "/", has no empty segment ("//"), does not end in "/", and is at most [MaxKey] bytes.
// A prefix is "/" or a key followed by "/". So "/apps/user/" never covers "/apps/user-admin/1". A value is any bytes, at
// most [MaxValue] of them. Whoever receives a value must not change its bytes; a store keeps its own copy of what is put.
//
// # Revisions
//
// Every successful transaction that changes something gets the next revision of the store: one counter for all keys, so
// revisions order all changes. A transaction that changes nothing (it only checks, or deletes what is not there) returns
// the revision it was evaluated at. Revisions never repeat, unless the store itself lost its data or was restored
// from an older copy.
//
// # Consistency
//
// Get, List and Txn are linearizable: each takes effect at one moment between call and return, and sees everything that
// was acknowledged before it was called. List is one consistent picture. An acknowledged write is durable as far as the
// store is. A write that ended with [errs.Unavailable], [errs.Timeout] or [errs.Canceled] may have happened or not; to
// find out, read, or repeat it with the condition it was made under.
//
// # Errors
//
// Every error has a kind of package errs: Invalid (a key, prefix, ttl or transaction that breaks the rules, naming which),
// Exhausted (too large, or the store is full), NotFound (Get), Conflict (a condition of a Txn does not hold, naming the
// first), Precondition (a lease that has ended), Unavailable (the store is away or closed; reported within seconds),
// Timeout and Canceled (the caller's context ended).
package kv

import (
	"context"
	"strings"
	"time"

	"bijou.dev/platform/errs"
)

// Limits of the contract. They are below etcd's own defaults, so that a store is never the first to say no.
const (
	// MaxKey is the longest key, in bytes.
	MaxKey = 1 << 10
	// MaxValue is the largest value, in bytes.
	MaxValue = 1 << 20
	// MaxTxn is the largest sum of all keys and values in one transaction, in bytes.
	MaxTxn = MaxValue + MaxValue/4
	// MaxOps is how many conditions, and how many operations, a transaction may have.
	MaxOps = 128
	// MinTTL is the shortest time to live of a lease. A store may grant a longer one: see [Lease.TTL].
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
	// Value must not be modified by whoever receives the entry.
	Value []byte
	// Created is the revision at which the key came into being, after its last deletion.
	Created Revision
	// Modified is the revision of the last put: what [At] compares with.
	Modified Revision
}

// Store is a key-value store. All methods may be called from many goroutines.
type Store interface {
	// Get returns the entry of key, or an error of kind errs.NotFound.
	Get(ctx context.Context, key string) (Entry, error)

	// List returns all entries under prefix, sorted by key, and the revision at which they were read. Nothing there is
	// not an error.
	List(ctx context.Context, prefix string) ([]Entry, Revision, error)

	// Txn evaluates all conditions and, when every one holds, performs all operations as one revision, which it returns.
	// When one does not hold nothing is changed and the error is of kind errs.Conflict.
	Txn(ctx context.Context, txn Txn) (Revision, error)

	// Grant makes a lease and keeps it alive until ctx ends, the lease is closed or lost. Keys put with it disappear
	// together, as one revision, when it ends. Loss is not repaired: the owner sees it on [Lease.Lost] and grants another.
	Grant(ctx context.Context, ttl time.Duration) (*Lease, error)

	// Watch follows the keys under prefix until ctx ends. It never fails to start: an invalid prefix, or a store that is
	// away, show in [Watch.Next] and [Watch.Problem].
	Watch(ctx context.Context, prefix string) *Watch
}

// ErrClosed is what calls and watches of a closed store fail with. Its kind is errs.Unavailable.
var ErrClosed error = errs.Errorf(errs.Unavailable, "using store: it is closed")

// Txn is a transaction: if all of If, then all of Then. No Then only checks. A key may be in Then only once.
type Txn struct {
	If   []Cond
	Then []Op
}

// Cond is a condition on one key. Make it with [Absent] or [At].
type Cond struct {
	// Key is the key that is looked at.
	Key string
	// Modified is the revision that the key must have been modified at last. Zero: the key must not exist.
	Modified Revision
}

// Absent holds when there is no such key.
func Absent(key string) Cond { return Cond{Key: key} }

// At holds when the key was last modified at rev. At(key, 0) is Absent(key).
func At(key string, rev Revision) Cond { return Cond{Key: key, Modified: rev} }

// Op is a change of one key. Make it with [Put], [PutLeased] or [Delete].
type Op struct {
	// Key is the key that is changed.
	Key string
	// Value is the new value; unused by a delete.
	Value []byte
	// Lease is what the key lives as long as. Zero: the key stays until it is deleted.
	Lease LeaseID
	// Delete says that the key is removed.
	Delete bool
}

// Put sets the value of key and ties it to no lease, whatever it was tied to before.
func Put(key string, value []byte) Op { return Op{Key: key, Value: value} }

// PutLeased sets the value of key and removes the key when the lease ends. A lease that is not there (any more) fails the
// transaction with errs.Precondition.
func PutLeased(key string, value []byte, lease LeaseID) Op {
	return Op{Key: key, Value: value, Lease: lease}
}

// Delete removes key. Removing what is not there changes nothing and is not an error: demand it with [At].
func Delete(key string) Op { return Op{Key: key, Delete: true} }

// Validate says how txn breaks the rules of the contract, if it does. Stores call it before anything else.
func (t Txn) Validate() error {
	if n := max(len(t.If), len(t.Then)); n > MaxOps {
		return errs.Errorf(errs.Invalid, "checking transaction: %d conditions or operations, at most %d fit: split it", n, MaxOps)
	}
	for _, c := range t.If {
		if err := ValidateKey(c.Key); err != nil {
			return err
		}
		if c.Modified < 0 {
			return errs.Errorf(errs.Invalid, "checking condition on %q: revision %d is negative", c.Key, c.Modified)
		}
	}
	size := 0
	seen := make(map[string]bool, len(t.Then))
	for _, op := range t.Then {
		if err := op.validate(); err != nil {
			return err
		}
		if seen[op.Key] {
			return errs.Errorf(errs.Invalid, "checking transaction: key %q is changed twice", op.Key)
		}
		seen[op.Key] = true
		size += len(op.Key) + len(op.Value)
	}
	if size > MaxTxn {
		return errs.Errorf(errs.Exhausted, "checking transaction: %d bytes of keys and values from %q on, at most %d fit: split it", size, t.Then[0].Key, MaxTxn)
	}
	return nil
}

func (op Op) validate() error {
	if err := ValidateKey(op.Key); err != nil {
		return err
	}
	if len(op.Value) > MaxValue {
		return errs.Errorf(errs.Exhausted, "checking value of %q: %d bytes, at most %d fit", op.Key, len(op.Value), MaxValue)
	}
	return nil
}

// ValidateKey says how key breaks the rules, if it does: an error of kind errs.Invalid.
func ValidateKey(key string) error {
	var rule string
	switch {
	case !strings.HasPrefix(key, "/"):
		rule = `must start with "/"`
	case strings.HasSuffix(key, "/"):
		rule = `must not end in "/"`
	case strings.Contains(key, "//"):
		rule = "must not have an empty segment"
	case len(key) > MaxKey:
		return errs.Errorf(errs.Invalid, "checking key %.64q...: must be at most %d bytes, is %d", key, MaxKey, len(key))
	default:
		return nil
	}
	return errs.Errorf(errs.Invalid, "checking key %q: %s", key, rule)
}

// ValidatePrefix says how prefix breaks the rules, if it does: an error of kind errs.Invalid.
func ValidatePrefix(prefix string) error {
	if prefix == "/" {
		return nil
	}
	key, ok := strings.CutSuffix(prefix, "/")
	if !ok {
		return errs.Errorf(errs.Invalid, `checking prefix %q: must end in "/"`, prefix)
	}
	return ValidateKey(key)
}

// ValidateTTL says that ttl is too short for a lease, if it is: an error of kind errs.Invalid.
func ValidateTTL(ttl time.Duration) error {
	if ttl < MinTTL {
		return errs.Errorf(errs.Invalid, "checking lease: ttl %v is below %v", ttl, MinTTL)
	}
	return nil
}

// Conflict is the error of a transaction whose condition c does not hold because its key is at another revision; zero: it
// is not there. It is for implementations of [Store].
func Conflict(c Cond, at Revision) error {
	switch {
	case c.Modified == 0:
		return errs.Errorf(errs.Conflict, "writing: %s exists, at revision %d", c.Key, at)
	case at == 0:
		return errs.Errorf(errs.Conflict, "writing: %s does not exist, expected it at revision %d", c.Key, c.Modified)
	}
	return errs.Errorf(errs.Conflict, "writing: %s is at revision %d, expected %d", c.Key, at, c.Modified)
}
