package discovery

import (
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"

	discoveryv1 "bijou.dev/platform/api/discovery/v1"
	"bijou.dev/platform/internal/lastknown"
	"google.golang.org/protobuf/encoding/protojson"
)

// The file in Options.Dir holds a ListResponse as JSON.
const (
	fileName = "instances.json"
	fileMark = "bijou-instances-1"
)

// file says where the last known instances are kept for the next start, and what was last written.
type file struct {
	path   string // empty: they are not kept
	saved  uint64 // view.changes of the view in the file
	failed bool   // the last write failed
}

func newFile(dir string) file {
	if dir == "" {
		return file{}
	}
	return file{path: filepath.Join(dir, fileName)}
}

// load reads the file, if there is one. An unreadable file is ignored: the registry sends all instances anyway.
func (c *Client) load() {
	if c.file.path == "" {
		return
	}
	b, err := lastknown.Read(c.file.path, fileMark)
	if errors.Is(err, fs.ErrNotExist) {
		return
	}
	var list []Instance
	if err == nil {
		list, err = decodeFile(b)
	}
	if err != nil {
		c.stats.BadFiles++
		c.log.Warn("ignoring the last known instances", "file", c.file.path, "error", err)
		return
	}
	touched := map[string]bool{}
	for _, in := range list {
		c.guard.set(entry{Instance: in, unconfirmed: true}, touched)
	}
	c.publish(touched)
	c.file.saved = c.view.Load().changes
}

// save writes the file if instances changed since the last write. Only the first of consecutive failures is logged.
func (c *Client) save() {
	v := c.view.Load()
	if c.file.path == "" || v.changes == c.file.saved || len(v.services) == 0 {
		return
	}
	b, err := encodeFile(v.list(""))
	if err == nil {
		err = lastknown.Write(c.file.path, fileMark, b)
	}
	c.file.saved = v.changes // also after a failure: the next change is the next attempt
	if err != nil {
		c.mu.Lock()
		c.stats.Unsaved++
		c.mu.Unlock()
		if !c.file.failed {
			c.log.Warn("saving the last known instances", "file", c.file.path, "error", err)
		}
	}
	c.file.failed = err != nil
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
	return body, nil
}

func decodeFile(b []byte) ([]Instance, error) {
	var m discoveryv1.ListResponse
	if err := protojson.Unmarshal(b, &m); err != nil {
		return nil, fmt.Errorf("decoding instances: %w", err)
	}
	list := make([]Instance, len(m.GetInstances()))
	for i, p := range m.GetInstances() {
		list[i] = fromProto(p)
	}
	return list, nil
}
