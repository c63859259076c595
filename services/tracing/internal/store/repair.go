package store

import (
	"fmt"
	"regexp"
	"strconv"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/cockroachdb/pebble/v2/wal"
)

// damagedAt finds, in the details of an error of the database, the record of the log that it could not read.
var damagedAt = regexp.MustCompile(`replaying wal \d+, offset \((.+): (\d+)\)`)

// repair makes the log end before the damaged record, which the error damage names. Later records may depend on the
// damaged one, so they are removed too. Copies of the files get names that end in .damaged. repair returns how many
// bytes are lost. An error about anything but the log is returned unchanged.
func repair(fs vfs.FS, dir string, damage error) (lost int64, err error) {
	m := damagedAt.FindStringSubmatch(fmt.Sprintf("%+v", damage))
	if m == nil {
		return 0, damage
	}
	path := m[1]
	whole, err := strconv.ParseInt(m[2], 10, 64)
	num, _, ok := wal.ParseLogFilename(fs.PathBase(path))
	if err != nil || !ok {
		return 0, damage
	}
	info, err := fs.Stat(path)
	if err != nil {
		return 0, err
	}
	lost = info.Size() - whole
	// If the process ends before all of this is done, the next start finds the same damage and repeats it.
	if err := vfs.Copy(fs, path, path+".damaged"); err != nil {
		return 0, err
	}
	if err := vfs.LimitedCopy(fs, path, path+".repaired", whole); err != nil {
		return 0, err
	}
	logs, err := wal.Scan(wal.Dir{FS: fs, Dirname: dir})
	if err != nil {
		return 0, err
	}
	for _, l := range logs {
		if l.Num <= num {
			continue
		}
		size, err := l.PhysicalSize()
		if err != nil {
			return 0, err
		}
		lost += int64(size)
		for i := range l.NumSegments() {
			_, later := l.SegmentLocation(i)
			if err := fs.Rename(later, later+".damaged"); err != nil {
				return 0, err
			}
		}
	}
	if err := fs.Rename(path+".repaired", path); err != nil {
		return 0, err
	}
	d, err := fs.OpenDir(dir)
	if err != nil {
		return 0, err
	}
	defer d.Close()
	return lost, d.Sync()
}
