package accesslog

import (
	"os"
	"sync"
	"time"

	"bijou.dev/platform/errs"
)

// reopenEvery is how often File looks whether its file was moved away, as logrotate does.
const reopenEvery = time.Second

// File appends lines to a file. If the file is moved or removed, a new one is made within a second.
type File struct {
	name string

	mu      sync.Mutex
	file    *os.File // nil: closed
	checked time.Time
}

// OpenFile opens a file, and makes it if there is none: only its user and group can read it.
func OpenFile(name string) (*File, error) {
	f := &File{name: name, checked: time.Now()}
	if err := f.openLocked(); err != nil {
		return nil, errs.Errorf(errs.Invalid, "opening the access log: %w", err)
	}
	return f, nil
}

func (f *File) openLocked() (err error) {
	f.file, err = os.OpenFile(f.name, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o640)
	return err
}

// Write appends a line at once.
func (f *File) Write(line []byte) (int, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.file == nil {
		return 0, os.ErrClosed
	}
	if now := time.Now(); now.Sub(f.checked) >= reopenEvery {
		f.checked = now
		f.followLocked()
	}
	return f.file.Write(line)
}

// followLocked opens the file again if its name leads to another one, or to none. When that fails, the former stays.
func (f *File) followLocked() {
	mine, err := f.file.Stat()
	if err != nil {
		return
	}
	if there, err := os.Stat(f.name); err == nil && os.SameFile(mine, there) {
		return
	}
	old := f.file
	if err := f.openLocked(); err != nil {
		f.file = old
		return
	}
	_ = old.Close() // each line was written at once
}

// Close closes the file. It may be called more than once.
func (f *File) Close() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.file == nil {
		return nil
	}
	err := f.file.Close()
	f.file = nil
	return err
}
