// Package lastknown keeps what a process last knew in a file, for its next start.
//
// A file begins with one line: a mark that names its format, and the SHA-256 of the rest in hex. So a file that is
// damaged, cut short or of another format is refused as a whole.
package lastknown

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
)

// maxFile is larger than any file that Write makes, in bytes. A larger file is refused.
const maxFile = 256 << 20

// Read returns the body of a file that Write has written with the same mark. If there is no file the error is
// fs.ErrNotExist.
func Read(path, mark string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, maxFile))
	if err != nil {
		return nil, err
	}
	head, body, _ := bytes.Cut(data, []byte("\n"))
	if string(head) != headOf(mark, body) {
		return nil, fmt.Errorf("reading %s: the checksum or the format does not match", path)
	}
	return body, nil
}

// Write replaces the file, and creates its folder if there is none. A crash or a loss of power at any moment leaves the
// old file or the new one, whole.
func Write(path, mark string, body []byte) error {
	dir := filepath.Dir(path)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	f, err := os.CreateTemp(dir, filepath.Base(path)+".*.tmp") // not a fixed name: two processes may share the folder
	if err != nil {
		return err
	}
	_, err = f.Write(append([]byte(headOf(mark, body)+"\n"), body...))
	if err = errors.Join(err, f.Sync(), f.Close()); err == nil {
		err = os.Rename(f.Name(), path)
	}
	if err != nil {
		_ = os.Remove(f.Name()) // the error before this one is the one to report
		return err
	}
	return syncDir(dir)
}

func headOf(mark string, body []byte) string { return fmt.Sprintf("%s %x", mark, sha256.Sum256(body)) }

// syncDir makes a rename in dir durable.
func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}
