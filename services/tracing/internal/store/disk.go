package store

import (
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"

	"bijou.dev/platform/errs"
)

// disk protects the database from a full disk, which would stop it. Spans are refused while less than the reserve is
// free. If the disk becomes full between two checks, because others write as well, the ballast file is removed: the
// write that failed is repeated, and there is space until spans are refused.
type disk struct {
	inner   vfs.FS
	guarded vfs.FS
	dir     string
	ballast string
	log     *slog.Logger
	total   uint64
	reserve uint64

	hit atomic.Bool // a write met a full disk since the last look

	mu     sync.Mutex
	looked time.Time
	avail  uint64
	full   bool
	placed bool // the ballast is there
	closed bool
}

const (
	lookEvery  = 200 * time.Millisecond
	maxReserve = 64 << 20
	retryFull  = 2 * time.Second
)

func newDisk(fs vfs.FS, dir string, log *slog.Logger) (*disk, error) {
	d := &disk{inner: fs, dir: dir, ballast: fs.PathJoin(dir, "BALLAST"), log: log}
	use, err := fs.GetDiskUsage(dir)
	if err != nil {
		return nil, err
	}
	d.total, d.reserve = use.TotalBytes, min(maxReserve, use.TotalBytes/16)
	d.guarded = vfs.OnDiskFull(fs, d.onFull)
	if _, err := fs.Stat(d.ballast); err == nil {
		d.placed = true
	}
	d.look()
	return d, nil
}

// memtable returns the memory for spans that are in the log only, in bytes. The log is as large, so it fits the volume.
func (d *disk) memtable() uint64 {
	return min(max(256<<10, d.total/64), 16<<20)
}

func (d *disk) onFull() {
	d.hit.Store(true)
	if err := d.inner.Remove(d.ballast); err == nil {
		d.log.Warn("the disk is full; removed the ballast file", "bytes", d.reserve)
	}
}

// checkSpace returns an error while spans must be refused.
func (d *disk) checkSpace() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	// When little is left, spans can fill it in less than lookEvery.
	if time.Since(d.looked) >= lookEvery || d.avail < 4*d.reserve || d.hit.Load() {
		d.lookLocked()
	}
	if d.full {
		return errs.Errorf(errs.Exhausted, "storing spans: the disk has %d MiB left, %d MiB are needed", d.avail>>20,
			d.reserve>>20).
			Because("DISK_FULL").RetryIn(retryFull)
	}
	return nil
}

// look measures the free space and returns it.
func (d *disk) look() uint64 {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.lookLocked()
	return d.avail
}

func (d *disk) lookLocked() {
	d.looked = time.Now()
	if d.hit.Swap(false) {
		d.placed = false
	}
	use, err := d.inner.GetDiskUsage(d.dir)
	if err != nil {
		d.log.Warn("asking for the space on disk", "error", err)
		return
	}
	d.avail = use.AvailBytes
	if full := d.avail < d.reserve; full != d.full {
		d.full = full
		d.log.Warn("space on disk", "refusing_spans", full, "available_bytes", d.avail, "reserve_bytes", d.reserve)
	}
	if !d.placed && !d.closed && d.avail > 4*d.reserve {
		d.place()
	}
}

// place writes the ballast file. It has no zeros, for which some file systems allocate no space.
func (d *disk) place() {
	f, err := d.inner.Create(d.ballast, vfs.WriteCategoryUnspecified)
	if err != nil {
		d.log.Warn("making the ballast file", "error", err)
		return
	}
	block := make([]byte, 1<<16)
	for i := range block {
		block[i] = byte(i*7 + i>>8)
	}
	for n := uint64(0); n < d.reserve && err == nil; n += uint64(len(block)) {
		_, err = f.Write(block)
	}
	if e := f.Close(); err == nil {
		err = e
	}
	if err != nil {
		d.log.Warn("making the ballast file", "error", err)
		_ = d.inner.Remove(d.ballast)
		return
	}
	d.placed = true
}

func (d *disk) close() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.closed = true
}
