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

// minFreeBytes is the free disk space that we wait for before we start etcd. etcd exits when it cannot write; on a full
// disk the supervisor would restart it with growing delays, and etcd would stay down after space is freed.
const (
	minFreeBytes  = 4 << 20
	checkInterval = 200 * time.Millisecond
)

// waitForFreeSpace returns when the disk of a folder has minFreeBytes, or when its free space cannot be read.
func waitForFreeSpace(dir string, stderr io.Writer) {
	for reported := false; ; reported = true {
		free, err := freeBytes(dir)
		if err != nil || free >= minFreeBytes {
			return
		}
		if !reported {
			fmt.Fprintf(stderr, "etcd: the disk of %s has %d KiB left: waiting for %d KiB before it starts\n",
				dir, free>>10, minFreeBytes>>10)
		}
		<-time.After(checkInterval)
	}
}

// freeBytes returns how many bytes can be written below a folder, which need not exist yet.
func freeBytes(dir string) (uint64, error) {
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
