package store

import (
	"context"

	"github.com/cockroachdb/pebble/v2/vfs"
)

// WithFS lets a test break the disk.
func WithFS(o Options, fs vfs.FS) Options {
	o.fs = fs
	return o
}

// Flush writes memory to files, so that a test can measure them.
func (s *Store) Flush() error {
	if err := s.db.Flush(); err != nil {
		return err
	}
	return s.db.Compact(context.Background(), bucketKey(0), bucketKey(1<<32-1), false)
}
