package spantest

import (
	"os"
	"strings"
	"sync/atomic"
	"syscall"

	"github.com/cockroachdb/pebble/v2/vfs"
)

// Unreadable is a file system whose files of spans cannot be read while Broken is set.
type Unreadable struct {
	vfs.FS
	Broken atomic.Bool
}

// Open opens a file.
func (u *Unreadable) Open(name string, opts ...vfs.OpenOption) (vfs.File, error) {
	f, err := u.FS.Open(name, opts...)
	return &unreadableFile{f, u, name}, err
}

type unreadableFile struct {
	vfs.File
	disk *Unreadable
	name string
}

// ReadAt fails with EIO while the file cannot be read.
func (f *unreadableFile) ReadAt(b []byte, at int64) (int, error) {
	if f.disk.Broken.Load() && strings.HasSuffix(f.name, ".sst") {
		return 0, &os.PathError{Op: "read", Path: f.name, Err: syscall.EIO}
	}
	return f.File.ReadAt(b, at)
}
