// Package disk keeps a service's data in one file that survives kill -9 and power cuts.
//
// A write has been synced to disk when Write returns. Writes that arrive together share one sync, so many writers are
// not slower than one. One process at a time may open a file.
//
// A full disk refuses writes until there is space. A disk that fails to write or to sync ends all writing, see [DB.Run]:
// after a failed sync nobody knows what is on disk, and the next one would say that all is well.
package disk

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"time"

	bolt "go.etcd.io/bbolt"
	berrors "go.etcd.io/bbolt/errors"
	"google.golang.org/protobuf/proto"

	"bijou.dev/platform/errs"
)

// DB is an open file. Make one with Open.
type DB struct {
	bolt *bolt.DB
	temp string // removed by Close; empty: nothing to remove

	failed chan struct{} // closed when reason is set
	reason error
	once   sync.Once
}

// Open opens or makes the file dir/name.db with these buckets. It waits up to five seconds for a process that is about
// to give the file up. With an empty dir the data lives in a temporary folder until Close.
func Open(dir, name string, buckets ...string) (*DB, error) {
	temp := ""
	if dir == "" {
		var err error
		if temp, err = os.MkdirTemp("", "bijou-"+name+"-"); err != nil {
			return nil, fmt.Errorf("making a temporary folder for %s: %w", name, err)
		}
		dir = temp
	}
	db, err := open(filepath.Join(dir, name+".db"), buckets)
	if err != nil {
		_ = os.RemoveAll(temp)
		return nil, err
	}
	return &DB{bolt: db, temp: temp, failed: make(chan struct{})}, nil
}

func open(path string, buckets []string) (*bolt.DB, error) {
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return nil, fmt.Errorf("making the folder of %s: %w", path, err)
	}
	db, err := bolt.Open(path, 0o600, &bolt.Options{Timeout: 5 * time.Second, FreelistType: bolt.FreelistMapType})
	if errors.Is(err, berrors.ErrTimeout) {
		return nil, errs.Errorf(errs.Precondition, "opening %s: another process holds it; give each instance its own folder", path)
	}
	if err != nil {
		return nil, fmt.Errorf("opening %s: %w", path, err)
	}
	// Long enough that concurrent writers meet, short enough that a single one does not notice.
	db.MaxBatchDelay = 2 * time.Millisecond
	err = db.Update(func(tx *bolt.Tx) error {
		for _, b := range buckets {
			if _, err := tx.CreateBucketIfNotExists([]byte(b)); err != nil {
				return fmt.Errorf("making bucket %s: %w", b, err)
			}
		}
		return nil
	})
	if err != nil {
		_ = db.Close()
		return nil, fmt.Errorf("preparing %s: %w", path, err)
	}
	return db, nil
}

// Close gives the file up. Writes in hand are finished first.
func (db *DB) Close() error {
	err := db.bolt.Close()
	if db.temp != "" {
		err = errors.Join(err, os.RemoveAll(db.temp))
	}
	return err
}

// Write runs fn in a transaction that is all on disk, or not at all, when Write returns. fn may run more than once, so it
// must set what it gives to the outside anew each time. An error of fn undoes the transaction and is returned as it is.
// Errors of its own are Exhausted when the disk is full and Unavailable when it has failed or the file is closed.
func (db *DB) Write(ctx context.Context, fn func(*bolt.Tx) error) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	var own error
	err := db.bolt.Batch(func(tx *bolt.Tx) error {
		if own = db.err(); own == nil {
			own = fn(tx)
		}
		return own
	})
	switch {
	case err == nil:
		return db.err() // a sync that succeeds after one that failed means nothing
	case own != nil, errors.Is(err, berrors.ErrDatabaseNotOpen):
		return closed(err)
	case errors.Is(err, syscall.ENOSPC):
		return errs.Errorf(errs.Exhausted, "writing to the data file: %w", err)
	}
	db.once.Do(func() {
		db.reason = errs.Errorf(errs.Unavailable, "writing to the data file: the disk failed; start again when it is well: %w", err)
		close(db.failed)
	})
	return db.reason
}

// Run waits until ctx ends, or until the disk has failed, and then returns why: nothing can be written until the file is
// opened again. It is for a service's background work, so that the process ends.
func (db *DB) Run(ctx context.Context) error {
	select {
	case <-ctx.Done():
		return nil
	case <-db.failed:
		return db.reason
	}
}

func (db *DB) err() error {
	select {
	case <-db.failed:
		return db.reason
	default:
		return nil
	}
}

// Read runs fn in a transaction that sees one state of the data.
func (db *DB) Read(fn func(*bolt.Tx) error) error { return closed(db.bolt.View(fn)) }

// closed classifies the one error that says "elsewhere or later": the process is going away.
func closed(err error) error {
	if errors.Is(err, berrors.ErrDatabaseNotOpen) {
		return errs.Errorf(errs.Unavailable, "using the data file: it is closed")
	}
	return err
}

// Put stores m in b under key.
func Put(b *bolt.Bucket, key string, m proto.Message) error {
	v, err := proto.Marshal(m)
	if err != nil {
		return fmt.Errorf("encoding %q: %w", key, err)
	}
	return b.Put([]byte(key), v)
}

// Get loads what b has under key into m and reports whether there was anything. A nil b has nothing.
func Get(b *bolt.Bucket, key string, m proto.Message) (bool, error) {
	if b == nil {
		return false, nil
	}
	v := b.Get([]byte(key))
	if v == nil {
		return false, nil
	}
	if err := proto.Unmarshal(v, m); err != nil {
		return false, fmt.Errorf("decoding %q: %w", key, err)
	}
	return true, nil
}

// All decodes each message of b, in the order of the keys. A nil b has nothing.
func All[T any, P interface {
	*T
	proto.Message
}](b *bolt.Bucket) ([]P, error) {
	if b == nil {
		return nil, nil
	}
	var out []P
	err := b.ForEach(func(k, v []byte) error {
		m := P(new(T))
		if err := proto.Unmarshal(v, m); err != nil {
			return fmt.Errorf("decoding %q: %w", k, err)
		}
		out = append(out, m)
		return nil
	})
	return out, err
}
