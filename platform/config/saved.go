package config

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"path/filepath"
	"slices"
	"time"

	configv1 "bijou.dev/platform/api/config/v1"
	"bijou.dev/platform/internal/lastknown"
	"bijou.dev/platform/pace"

	"google.golang.org/protobuf/encoding/protojson"
)

// The file of last known good values is a WatchResponse as JSON, which people can read: a snapshot of the values in
// use.
const fileMark = "bijou settings 1 sha256"

// fileName returns the path of the file, or "" if dir is empty.
func fileName(dir string, id *configv1.Identity) string {
	if dir == "" {
		return ""
	}
	return filepath.Join(dir, id.GetApp()+".settings")
}

// load uses the values of the file that still apply to this instance.
func (s *LiveSet) load() {
	if s.file == "" {
		return
	}
	m, err := readFile(s.file)
	if errors.Is(err, fs.ErrNotExist) {
		return
	}
	if err != nil {
		s.log.Warn("settings: ignoring last known good values, starting with defaults", "error", err)
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, v := range m.GetValues() {
		if Applies(v.GetScope(), s.identity) && !Expired(v, time.Now()) {
			s.values[v.GetName()] = v
		}
	}
	s.revision = m.GetRevision()
	s.log.Info("settings: using last known good values", "revision", s.revision, "values", len(s.values))
}

func readFile(name string) (*configv1.WatchResponse, error) {
	body, err := lastknown.Read(name, fileMark)
	if err != nil {
		return nil, fmt.Errorf("reading settings: %w", err)
	}
	m := &configv1.WatchResponse{}
	if err := protojson.Unmarshal(body, m); err != nil {
		return nil, fmt.Errorf("reading settings %s: %w", name, err)
	}
	return m, nil
}

// keepSaved writes the file after changes, about once a second at most. When ctx ends it writes the last change.
func (s *LiveSet) keepSaved(ctx context.Context) {
	if s.file == "" {
		return
	}
	var last []byte
	failing := false
	for {
		select {
		case <-ctx.Done():
			select {
			case <-s.save:
				s.saveIfChanged(&last, &failing)
			default:
			}
			return
		case <-s.save:
			s.saveIfChanged(&last, &failing)
		}
		pace.Sleep(ctx, pace.Jitter(time.Second, 0.5))
	}
}

// saveIfChanged writes the file. Only the first of consecutive failures is logged: the process works without the file.
func (s *LiveSet) saveIfChanged(last *[]byte, failing *bool) {
	data := s.fileContent()
	if data == nil || bytes.Equal(data, *last) {
		return
	}
	err := lastknown.Write(s.file, fileMark, data)
	if err == nil {
		*last = data
	} else if !*failing {
		s.log.Warn("settings: cannot save last known good values; a restart without the config service uses older ones",
			"error", err)
	}
	*failing = err != nil
}

// fileContent returns the content of the file for the values in use.
func (s *LiveSet) fileContent() []byte {
	s.mu.Lock()
	defer s.mu.Unlock()
	m := &configv1.WatchResponse{Revision: s.revision, Snapshot: true}
	for _, name := range slices.Sorted(maps.Keys(s.values)) {
		m.Values = append(m.Values, s.values[name])
	}
	loose, err := protojson.Marshal(m)
	if err != nil {
		return nil // only for text that is not UTF-8, which gRPC does not deliver
	}
	var body bytes.Buffer
	if err := json.Indent(&body, loose, "", " "); err != nil { // protojson varies its spaces
		return nil
	}
	return body.Bytes()
}
