package etcd

import (
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

// leastRoom is the space, in bytes, without which etcd is not started. It ends when it cannot write, so that on a full
// disk it would be started again and again, ever later by whoever does so, and be away long after there is space.
const (
	leastRoom = 4 << 20
	lookAgain = 200 * time.Millisecond
)

// waitForRoom returns when the disk of a folder has space, or when nobody knows.
func waitForRoom(dir string, stderr io.Writer) {
	for said := false; ; said = true {
		left, err := room(dir)
		if err != nil || left >= leastRoom {
			return
		}
		if !said {
			fmt.Fprintf(stderr, "etcd: the disk of %s has %d KiB left: waiting for %d KiB before it starts\n", dir, left>>10, leastRoom>>10)
		}
		<-time.After(lookAgain)
	}
}

// room returns how many bytes can be written below a folder, which may not be there yet.
func room(dir string) (uint64, error) {
	for {
		var st syscall.Statfs_t
		err := syscall.Statfs(dir, &st)
		if os.IsNotExist(err) && dir != filepath.Dir(dir) {
			dir = filepath.Dir(dir)
			continue
		}
		return uint64(st.Bavail) * uint64(st.Bsize), err //nolint:gosec,unconvert // their types differ between systems
	}
}

// dataDir returns where etcd keeps its data.
func dataDir(flags, env []string) string {
	for i, flag := range flags {
		if !hasFlag([]string{flag}, "data-dir") {
			continue
		}
		if _, value, ok := strings.Cut(flag, "="); ok {
			return value
		}
		if i+1 < len(flags) {
			return flags[i+1]
		}
	}
	if dir, ok := lookup(env, "ETCD_DATA_DIR"); ok {
		return dir
	}
	return "etcd-data"
}
