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

// repair makes the log end before the record that damage is about. That record and all later ones are put aside,
// because what was written later may build on it: copies of their files get names that end in .damaged. It returns
// how many bytes are lost. Damage that is not in the log is returned as it is.
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
	if err := vfs.LimitedCopy(fs, path, path+".mended", whole); err != nil {
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
	if err := fs.Rename(path+".mended", path); err != nil {
		return 0, err
	}
	d, err := fs.OpenDir(dir)
	if err != nil {
		return 0, err
	}
	defer d.Close()
	return lost, d.Sync()
}
