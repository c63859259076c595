// Package driver is for implementations of [kv.Store]: the watches of a prefix, the owner's side of a lease, and errors
// that all stores share. Users of a store import package kv only.
package driver

import (
	"time"

	"bijou.dev/platform/errs"
	"bijou.dev/platform/kv"
)

// WholeSeconds returns ttl in seconds, rounded up: a lease lives at least as long as asked for.
func WholeSeconds(ttl time.Duration) int64 { return int64((ttl + time.Second - 1) / time.Second) }

// Conflict returns the error of a transaction whose condition c does not hold. at is the revision of its key; zero: the
// key does not exist.
func Conflict(c kv.Cond, at kv.Revision) error {
	switch {
	case c.Modified == 0:
		return errs.Errorf(errs.Conflict, "writing: %s exists, at revision %d", c.Key, at)
	case at == 0:
		return errs.Errorf(errs.Conflict, "writing: %s does not exist, expected it at revision %d", c.Key, c.Modified)
	}
	return errs.Errorf(errs.Conflict, "writing: %s is at revision %d, expected %d", c.Key, at, c.Modified)
}
