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

func put(db *disk.DB, key string) error {
	return db.Write(context.Background(), func(tx *bolt.Tx) error {
		return disk.Put(tx.Bucket([]byte("b")), key, wrapperspb.String("value of "+key))
	})
}

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

// TestMain runs this program again as a writer that is killed.
func TestMain(m *testing.M) {
	if dir := os.Getenv("DISK_TEST_WRITER"); dir != "" {
		write(dir)
	}
	os.Exit(m.Run())
}

// write writes for ever from several goroutines and says on standard output what was acknowledged.
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
				t.Errorf("%s was acknowledged and is lost: %v", key, err)
			}
		}
		return nil
	})
	if err != nil || len(acknowledged) < 200 {
		t.Errorf("%d acknowledged, %v", len(acknowledged), err)
	}
}

// A disk that does not sync ends all writing, also when it syncs again, and says why. What was acknowledged can be
// read, and is there for the next process.
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
		t.Errorf("a write that could not be synced: %v", err)
	}
	repair()
	var writers sync.WaitGroup
	for w := range 8 {
		writers.Go(func() {
			if err := put(db, fmt.Sprint("later-", w)); !errors.Is(err, errs.Unavailable) {
				t.Errorf("a write after it: %v", err)
			}
		})
	}
	writers.Wait()
	if err := db.Run(t.Context()); !errors.Is(err, syscall.EINVAL) {
		t.Errorf("it ends with %v", err)
	}
	if n := count(t, db); n != 1 {
		t.Errorf("there are %d entries, of which one was acknowledged", n)
	}
	if err := db.Close(); err != nil {
		t.Error(err)
	}
	if db, err = disk.Open(dir, "x", "b"); err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	if err := put(db, "c"); err != nil || count(t, db) != 2 {
		t.Errorf("after a new start: %v, %d entries", err, count(t, db))
	}
}

// breakSync replaces this process's open file by the null device: writes to it succeed, and a sync fails. The returned
// function undoes that.
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
		whole, err := syscall.Dup(fd)
		if err == nil {
			err = syscall.Dup3(int(null.Fd()), fd, 0)
		}
		if err != nil {
			t.Fatal(err)
		}
		return func() {
			if err := errors.Join(syscall.Dup3(whole, fd, 0), syscall.Close(whole)); err != nil {
				t.Fatal(err)
			}
		}
	}
	t.Fatalf("%s is not open", path)
	return nil
}

// A full disk refuses writes and takes them again when there is space.
func TestDiskFull(t *testing.T) {
	dir := t.TempDir()
	if err := syscall.Mount("tmpfs", dir, "tmpfs", 0, "size=1m"); err != nil {
		t.Skip("a small disk has to be mounted: ", err)
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
		t.Errorf("on a full disk: %v; %d entries, %d were acknowledged", err, count(t, db), n)
	}
	if err := os.Remove(filler); err != nil {
		t.Fatal(err)
	}
	if err := put(db, "again"); err != nil || count(t, db) != n+1 {
		t.Errorf("with space again: %v; %d entries, %d were acknowledged", err, count(t, db), n+1)
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
		t.Errorf("got %v with %d entries", err, count(t, db))
	}
}

func TestOneProcessHoldsTheFile(t *testing.T) {
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
		t.Errorf("a second process got %v", err)
	}
}

func TestWithoutAFolder(t *testing.T) {
	db, err := disk.Open("", "x", "b")
	if err != nil {
		t.Fatal(err)
	}
	if err := put(db, "a"); err != nil || count(t, db) != 1 {
		t.Error(err)
	}
	if err := db.Close(); err != nil {
		t.Error(err)
	}
	if err := put(db, "a"); !errors.Is(err, errs.Unavailable) {
		t.Errorf("writing to a closed file: %v", err)
	}
}
