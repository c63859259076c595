// Package disk stores a service's data in one file that survives kill -9 and power cuts.
//
// A write is synced to disk when Write returns. Concurrent writes share one sync, so many writers are not slower than
// one. Only one process at a time can open a file.
//
// While the disk is full, writes return an error. After the disk has failed to write or to sync, all writes return an
// error, see [DB.Run]: it is unknown what is on disk, and a later sync could report success although data is lost.
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

// Open opens or creates the file dir/name.db with these buckets. It waits up to 5 s for another process to close the
// file. If dir is empty, the file is in a temporary folder that Close removes.
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
		return nil, errs.Errorf(errs.Precondition, "opening %s: another process has it open; "+
			"give each instance its own folder", path)
	}
	if err != nil {
		return nil, fmt.Errorf("opening %s: %w", path, err)
	}
	// Long enough that concurrent writes share a sync, and short compared with the time of a sync.
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

// Close finishes the writes in progress and closes the file.
func (db *DB) Close() error {
	err := db.bolt.Close()
	if db.temp != "" {
		err = errors.Join(err, os.RemoveAll(db.temp))
	}
	return err
}

// Write runs fn in a transaction. When Write returns, either all of it is on disk or nothing. fn may run more than
// once, so it must set its results anew each time. If fn returns an error, nothing is written and Write returns that
// error. Write's own errors are Exhausted if the disk is full, and Unavailable if it has failed or the file is closed.
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
		return db.err() // a sync that succeeds after a failed one does not show that all data is on disk
	case own != nil, errors.Is(err, berrors.ErrDatabaseNotOpen):
		return unavailableIfClosed(err)
	case errors.Is(err, syscall.ENOSPC):
		return errs.Errorf(errs.Exhausted, "writing to the data file: %w", err)
	}
	db.once.Do(func() {
		db.reason = errs.Errorf(errs.Unavailable, "writing to the data file: %w; repair the disk, then restart", err)
		close(db.failed)
	})
	return db.reason
}

// Run waits until ctx ends and returns nil, or until the disk has failed and returns the reason. After that, nothing
// can be written until the file is opened again. Run it as background work of a service, so that the process ends.
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

// Read runs fn in a read transaction, which sees a snapshot of the data.
func (db *DB) Read(fn func(*bolt.Tx) error) error { return unavailableIfClosed(db.bolt.View(fn)) }

// unavailableIfClosed makes the error of a closed file Unavailable, so that callers retry: the process is stopping.
func unavailableIfClosed(err error) error {
	if errors.Is(err, berrors.ErrDatabaseNotOpen) {
		return errs.Errorf(errs.Unavailable, "using the data file: it is closed, because the process stops")
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

// Get loads the message with this key into m and reports whether it was found. A nil b is empty.
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

// All returns the messages of b in the order of their keys. A nil b is empty.
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
