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

// load takes over the file, if there is a good one. Anything else is as good as none: the registry knows better.
func (c *Client) load() {
	if c.opts.Dir == "" {
		return
	}
	path := filepath.Join(c.opts.Dir, fileName)
	b, err := lastknown.Read(path, fileMark)
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
		err = lastknown.Write(filepath.Join(c.opts.Dir, fileName), fileMark, b)
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
