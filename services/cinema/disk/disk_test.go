package disk_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"

	bolt "go.etcd.io/bbolt"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"bijou.dev/platform/errs"
	"bijou.dev/services/cinema/disk"
)

// put writes one entry.
func put(db *disk.DB, key string) error {
	return db.Write(context.Background(), func(tx *bolt.Tx) error {
		return disk.Put(tx.Bucket([]byte("b")), key, wrapperspb.String("value of "+key))
	})
}

// count returns the number of entries.
func count(t *testing.T, db *disk.DB) (n int) {
	t.Helper()
	err := db.Read(func(tx *bolt.Tx) error {
		all, err := disk.All[wrapperspb.StringValue](tx.Bucket([]byte("b")))
		n = len(all)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// TestMain makes this program a writer, which TestAcknowledgedWritesSurviveKill starts and kills.
func TestMain(m *testing.M) {
	if dir := os.Getenv("DISK_TEST_WRITER"); dir != "" {
		write(dir)
	}
	os.Exit(m.Run())
}

// write writes from several goroutines until the process is killed. It prints the keys of acknowledged writes.
func write(dir string) {
	db, err := disk.Open(dir, "killed", "b")
	if err != nil {
		panic(err)
	}
	var wg sync.WaitGroup
	for w := range 8 {
		wg.Go(func() {
			for i := 0; ; i++ {
				key := fmt.Sprintf("%d-%d", w, i)
				if err := put(db, key); err != nil {
					panic(err)
				}
				fmt.Println(key)
			}
		})
	}
	wg.Wait()
}

func TestAcknowledgedWritesSurviveKill(t *testing.T) {
	dir := t.TempDir()
	cmd := exec.CommandContext(t.Context(), os.Args[0])
	cmd.Env = append(os.Environ(), "DISK_TEST_WRITER="+dir)
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	var acknowledged []string
	lines := bufio.NewScanner(out)
	for lines.Scan() {
		if acknowledged = append(acknowledged, lines.Text()); len(acknowledged) == 200 {
			if err := cmd.Process.Kill(); err != nil {
				t.Fatal(err)
			}
		}
	}
	_ = cmd.Wait() // it was killed
	db, err := disk.Open(dir, "killed", "b")
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	err = db.Read(func(tx *bolt.Tx) error {
		for _, key := range acknowledged {
			if found, err := disk.Get(tx.Bucket([]byte("b")), key, &wrapperspb.StringValue{}); err != nil || !found {
				t.Errorf("the acknowledged entry %s is lost: found is %t, error %v", key, found, err)
			}
		}
		return nil
	})
	if err != nil || len(acknowledged) < 200 {
		t.Errorf("%d writes were acknowledged, want at least 200; error %v", len(acknowledged), err)
	}
}

// After a sync that failed, all writes are refused with the reason, also when the disk works again. Acknowledged
// entries can be read, and are there when the file is opened again.
func TestDiskFails(t *testing.T) {
	dir := t.TempDir()
	db, err := disk.Open(dir, "x", "b")
	if err != nil {
		t.Fatal(err)
	}
	if err := put(db, "a"); err != nil {
		t.Fatal(err)
	}
	repair := breakSync(t, filepath.Join(dir, "x.db"))
	if err := put(db, "b"); !errors.Is(err, errs.Unavailable) || !errors.Is(err, syscall.EINVAL) {
		t.Errorf("a write that could not be synced: got %v, want Unavailable because of EINVAL", err)
	}
	repair()
	var writers sync.WaitGroup
	for w := range 8 {
		writers.Go(func() {
			if err := put(db, fmt.Sprint("later-", w)); !errors.Is(err, errs.Unavailable) {
				t.Errorf("a write after a failed sync: got %v, want Unavailable", err)
			}
		})
	}
	writers.Wait()
	if err := db.Run(t.Context()); !errors.Is(err, syscall.EINVAL) {
		t.Errorf("Run returned %v, want EINVAL", err)
	}
	if n := count(t, db); n != 1 {
		t.Errorf("there are %d entries, want the acknowledged one", n)
	}
	if err := db.Close(); err != nil {
		t.Error(err)
	}
	if db, err = disk.Open(dir, "x", "b"); err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	if err := put(db, "c"); err != nil || count(t, db) != 2 {
		t.Errorf("a write after opening again: error %v, %d entries; want 2", err, count(t, db))
	}
}

// breakSync replaces the open file of this process by the null device: writes to it succeed, and a sync fails. repair
// undoes that.
func breakSync(t *testing.T, path string) (repair func()) {
	t.Helper()
	null, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer null.Close()
	all, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Skip("open files cannot be listed: ", err)
	}
	for _, e := range all {
		if name, err := os.Readlink("/proc/self/fd/" + e.Name()); err != nil || name != path {
			continue
		}
		fd, _ := strconv.Atoi(e.Name())
		saved, err := syscall.Dup(fd)
		if err == nil {
			err = syscall.Dup3(int(null.Fd()), fd, 0)
		}
		if err != nil {
			t.Fatal(err)
		}
		return func() {
			if err := errors.Join(syscall.Dup3(saved, fd, 0), syscall.Close(saved)); err != nil {
				t.Fatal(err)
			}
		}
	}
	t.Fatalf("%s is not open", path)
	return nil
}

// While the disk is full, writes are refused. When there is space again, they are accepted.
func TestDiskFull(t *testing.T) {
	dir := t.TempDir()
	if err := syscall.Mount("tmpfs", dir, "tmpfs", 0, "size=1m"); err != nil {
		if os.Getenv("CI") != "" {
			t.Fatal("mounting a small disk: ", err)
		}
		t.Skip("this test mounts a small disk, for which it must run as root: ", err)
	}
	defer func() { _ = syscall.Unmount(dir, syscall.MNT_DETACH) }()
	db, err := disk.Open(dir, "x", "b")
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	filler := filepath.Join(dir, "filler")
	if err := os.WriteFile(filler, make([]byte, 2<<20), 0o600); !errors.Is(err, syscall.ENOSPC) {
		t.Fatalf("the disk is not full: %v", err)
	}
	n := 0
	for err == nil && n < 1000 {
		if err = put(db, fmt.Sprint(n)); err == nil {
			n++
		}
	}
	if !errors.Is(err, errs.Exhausted) || count(t, db) != n {
		t.Errorf("on a full disk: got %v, want Exhausted; %d entries, %d were acknowledged", err, count(t, db), n)
	}
	if err := os.Remove(filler); err != nil {
		t.Fatal(err)
	}
	if err := put(db, "again"); err != nil || count(t, db) != n+1 {
		t.Errorf("with space again: error %v; %d entries, %d were acknowledged", err, count(t, db), n+1)
	}
}

func TestWriteIsAllOrNothing(t *testing.T) {
	db, err := disk.Open(t.TempDir(), "x", "b")
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	refused := errors.New("refused")
	err = db.Write(t.Context(), func(tx *bolt.Tx) error {
		_ = disk.Put(tx.Bucket([]byte("b")), "a", wrapperspb.String("x"))
		return refused
	})
	if !errors.Is(err, refused) || count(t, db) != 0 {
		t.Errorf("got %v with %d entries, want the error of the function and none", err, count(t, db))
	}
}

func TestOnlyOneProcessCanOpenTheFile(t *testing.T) {
	if testing.Short() {
		t.Skip("waits for five seconds")
	}
	t.Parallel()
	dir := t.TempDir()
	db, err := disk.Open(dir, "x", "b")
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	if _, err := disk.Open(dir, "x", "b"); !errors.Is(err, errs.Precondition) ||
		!strings.Contains(err.Error(), "own folder") {
		t.Errorf("opening the file twice: got %v, want Precondition with advice", err)
	}
}

func TestWithoutAFolderTheDataIsTemporary(t *testing.T) {
	db, err := disk.Open("", "x", "b")
	if err != nil {
		t.Fatal(err)
	}
	if err := put(db, "a"); err != nil || count(t, db) != 1 {
		t.Errorf("a write: error %v, %d entries; want 1", err, count(t, db))
	}
	if err := db.Close(); err != nil {
		t.Error(err)
	}
	if err := put(db, "a"); !errors.Is(err, errs.Unavailable) {
		t.Errorf("writing to a closed file: got %v, want Unavailable", err)
	}
}

func TestErrorOfAClosedFileSaysWhy(t *testing.T) {
	db, err := disk.Open(t.TempDir(), "x", "b")
	if err != nil {
		t.Fatal(err)
	}
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	read := db.Read(func(*bolt.Tx) error { return nil })
	for name, err := range map[string]error{"read": read, "write": put(db, "a")} {
		if !errors.Is(err, errs.Unavailable) || !strings.Contains(err.Error(), "it is closed") {
			t.Errorf("%s: got %v, want Unavailable with the text that the file is closed", name, err)
		}
	}
}

func TestConcurrentWritesAreAllStored(t *testing.T) {
	dir := t.TempDir()
	db, err := disk.Open(dir, "x", "b")
	if err != nil {
		t.Fatal(err)
	}
	var writers sync.WaitGroup
	for w := range 16 {
		writers.Go(func() {
			for i := range 5 {
				if err := put(db, fmt.Sprint(w, "-", i)); err != nil {
					t.Errorf("write %d of writer %d: %v", i, w, err)
				}
			}
		})
	}
	writers.Wait()
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	if db, err = disk.Open(dir, "x", "b"); err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	if n := count(t, db); n != 80 {
		t.Errorf("after opening again there are %d entries, want 80", n)
	}
}

// An error of one writer does not undo the writes of others that share its transaction.
func TestFailedWriteDoesNotHarmOthers(t *testing.T) {
	db, err := disk.Open(t.TempDir(), "x", "b")
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	refused := errors.New("refused")
	var writers sync.WaitGroup
	for w := range 20 {
		writers.Go(func() {
			if w%2 == 0 {
				if err := put(db, fmt.Sprint(w)); err != nil {
					t.Errorf("a good write beside bad ones: %v", err)
				}
				return
			}
			err := db.Write(context.Background(), func(tx *bolt.Tx) error {
				return errors.Join(disk.Put(tx.Bucket([]byte("b")), fmt.Sprint(w), wrapperspb.String("x")), refused)
			})
			if !errors.Is(err, refused) {
				t.Errorf("a bad write: got %v, want its own error", err)
			}
		})
	}
	writers.Wait()
	if n := count(t, db); n != 10 {
		t.Errorf("there are %d entries, want those of the 10 good writes", n)
	}
}

func TestCancelledWriteWritesNothing(t *testing.T) {
	db, err := disk.Open(t.TempDir(), "x", "b")
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	err = db.Write(ctx, func(tx *bolt.Tx) error {
		return disk.Put(tx.Bucket([]byte("b")), "a", wrapperspb.String("x"))
	})
	if !errors.Is(err, context.Canceled) || count(t, db) != 0 {
		t.Errorf("got %v with %d entries, want Canceled and none", err, count(t, db))
	}
}

// Data that cannot be decoded gives an error that names the key.
func TestDamagedEntries(t *testing.T) {
	db, err := disk.Open(t.TempDir(), "x", "b")
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	err = db.Write(t.Context(), func(tx *bolt.Tx) error {
		return tx.Bucket([]byte("b")).Put([]byte("damaged"), []byte{0xff, 0xff})
	})
	if err != nil {
		t.Fatal(err)
	}
	err = db.Read(func(tx *bolt.Tx) error {
		b := tx.Bucket([]byte("b"))
		_, one := disk.Get(b, "damaged", &wrapperspb.StringValue{})
		_, all := disk.All[wrapperspb.StringValue](b)
		for name, err := range map[string]error{"Get": one, "All": all} {
			if err == nil || !strings.Contains(err.Error(), `decoding "damaged"`) {
				t.Errorf("%s: got %v, want an error that names the key", name, err)
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

func TestMissingBucketIsEmpty(t *testing.T) {
	found, err := disk.Get(nil, "a", &wrapperspb.StringValue{})
	if found || err != nil {
		t.Errorf("Get: found is %t, error %v; want false and none", found, err)
	}
	all, err := disk.All[wrapperspb.StringValue](nil)
	if len(all) != 0 || err != nil {
		t.Errorf("All: %v, error %v; want nothing", all, err)
	}
}

func TestIDs(t *testing.T) {
	for value, want := range map[string]bool{
		"a": true, "a-1": true, "0": true, "abcdefgh": true, "abcdefghi": false, "": false, "-a": false, "A": false,
		"a b": false, "a/b": false, "a\n": false, "é": false, "a_b": false, "\xff": false,
	} {
		if got := disk.ValidID(value, 8); got != want {
			t.Errorf("ValidID(%q, 8) is %t, want %t", value, got, want)
		}
		var bad errs.Violations
		disk.CheckID(&bad, "some_id", value, 8)
		err := bad.Err("checking")
		if (err == nil) != want || err != nil && !strings.Contains(err.Error(), "some_id") {
			t.Errorf("CheckID of %q: got %v; want an error that names the field: %t", value, err, !want)
		}
	}
}
