package disk_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"sync"
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
	if _, err := disk.Open(dir, "x", "b"); !errors.Is(err, errs.Precondition) || !strings.Contains(err.Error(), "own folder") {
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
