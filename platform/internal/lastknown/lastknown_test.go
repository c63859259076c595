package lastknown_test

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"testing"

	"bijou.dev/platform/internal/lastknown"
)

func TestReadReturnsOnlyWhatWriteWrote(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "a", "b")
	path := filepath.Join(dir, "state")
	if _, err := lastknown.Read(path, "mark 1"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("without a file Read returned %v, want fs.ErrNotExist", err)
	}
	for _, body := range []string{"first\nwith a second line", "", "third"} {
		if err := lastknown.Write(path, "mark 1", []byte(body)); err != nil {
			t.Fatal(err)
		}
		if got, err := lastknown.Read(path, "mark 1"); err != nil || string(got) != body {
			t.Errorf("read %q, %v; want %q", got, err, body)
		}
	}
	if files, err := os.ReadDir(dir); err != nil || len(files) != 1 {
		t.Errorf("the folder has %v, %v; want only the file", files, err)
	}
	if _, err := lastknown.Read(path, "mark 2"); err == nil {
		t.Error("a file of another format was read")
	}
	whole, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	flipped := bytes.Clone(whole)
	flipped[len(flipped)-1] ^= 1
	for name, data := range map[string][]byte{"flipped": flipped, "cut": whole[:len(whole)-1], "empty": nil} {
		if err := os.WriteFile(path, data, 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := lastknown.Read(path, "mark 1"); err == nil {
			t.Errorf("a damaged file (%s) was read without an error", name)
		}
	}
}

func TestWriteReportsAFolderThatCannotBeCreated(t *testing.T) {
	blocked := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(blocked, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := lastknown.Write(filepath.Join(blocked, "dir", "state"), "mark 1", nil); err == nil {
		t.Error("Write below a file returned no error")
	}
}

func Example() {
	dir, err := os.MkdirTemp("", "lastknown")
	if err != nil {
		fmt.Println(err)
		return
	}
	defer os.RemoveAll(dir)
	path := filepath.Join(dir, "films")
	fmt.Println(lastknown.Write(path, "films 1", []byte("3,201")))
	body, err := lastknown.Read(path, "films 1")
	fmt.Println(string(body), err)
	// Output:
	// <nil>
	// 3,201 <nil>
}
