package discovery

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	discoveryv1 "bijou.dev/platform/api/discovery/v1"
	"bijou.dev/platform/errs"
	"google.golang.org/protobuf/encoding/protojson"
)

// fileName is the file in Options.Dir: one line with a mark and the SHA-256 of the rest, then a ListResponse as JSON.
const fileName = "instances.json"

const fileMark = "bijou-instances-1 "

// load takes over the file, if there is a good one. Anything else is as good as none: the registry knows better.
func (c *Client) load() {
	if c.opts.Dir == "" {
		return
	}
	path := filepath.Join(c.opts.Dir, fileName)
	b, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return
	}
	var list []Instance
	if err == nil {
		list, err = decodeFile(b)
	}
	if err != nil {
		c.stats.BadFiles++
		c.log.Warn("ignoring the last known instances", "file", path, "err", err)
		return
	}
	touched := map[string]bool{}
	for _, in := range list {
		c.guard.set(entry{Instance: in, unconfirmed: true}, touched)
	}
	c.publish(touched)
	c.saved = c.now.Load()
}

// save writes the file when something has changed. The log hears of the first of a row of failures.
func (c *Client) save() {
	v := c.now.Load()
	if c.opts.Dir == "" || v == c.saved || len(v.services) == 0 {
		return
	}
	b, err := encodeFile(v.list(""))
	if err == nil {
		err = replaceFile(filepath.Join(c.opts.Dir, fileName), b)
	}
	c.saved = v // also when it went wrong: the next change tries again
	if err != nil {
		c.mu.Lock()
		c.stats.Unsaved++
		c.mu.Unlock()
		if !c.unsaved {
			c.log.Warn("saving the last known instances", "dir", c.opts.Dir, "err", err)
		}
	}
	c.unsaved = err != nil
}

func encodeFile(list []Instance) ([]byte, error) {
	m := &discoveryv1.ListResponse{}
	for _, in := range list {
		m.Instances = append(m.Instances, in.toProto())
	}
	body, err := protojson.Marshal(m)
	if err != nil {
		return nil, fmt.Errorf("encoding %d instances: %w", len(list), err)
	}
	sum := sha256.Sum256(body)
	return append([]byte(fileMark+hex.EncodeToString(sum[:])+"\n"), body...), nil
}

func decodeFile(b []byte) ([]Instance, error) {
	head, body, ok := bytes.Cut(b, []byte("\n"))
	sum := sha256.Sum256(body)
	if !ok || string(head) != fileMark+hex.EncodeToString(sum[:]) {
		return nil, errs.Errorf(errs.Invalid, "the checksum does not match")
	}
	var m discoveryv1.ListResponse
	if err := protojson.Unmarshal(body, &m); err != nil {
		return nil, fmt.Errorf("decoding instances: %w", err)
	}
	list := make([]Instance, len(m.GetInstances()))
	for i, p := range m.GetInstances() {
		list[i] = fromProto(p)
	}
	return list, nil
}

// replaceFile writes a file so that a crash at any moment leaves the old one or the new one.
func replaceFile(path string, b []byte) error {
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return err
	}
	f, err := os.CreateTemp(filepath.Dir(path), filepath.Base(path)+".*.tmp")
	if err != nil {
		return err
	}
	_, err = f.Write(b)
	if err = errors.Join(err, f.Sync(), f.Close()); err == nil {
		err = os.Rename(f.Name(), path)
	}
	if err != nil {
		_ = os.Remove(f.Name()) // the error before this one is the one to report
	}
	return err
}
