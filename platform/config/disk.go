package config

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"time"

	configv1 "bijou.dev/platform/api/config/v1"

	"google.golang.org/protobuf/encoding/protojson"
)

// The file of last known good values is one line that names the format and the SHA-256 of the rest, and then a
// WatchResponse in JSON, for people to read: a snapshot of the values in use.
const fileFormat = "bijou settings 1 sha256 %x\n"

func lastKnownGood(dir string, id *configv1.Identity) string {
	if dir == "" {
		return ""
	}
	return filepath.Join(dir, id.GetApp()+".settings")
}

// load takes over the values of the file that still apply to this instance.
func (s *Set) load() {
	if s.remote.file == "" {
		return
	}
	m, err := readFile(s.remote.file)
	if errors.Is(err, fs.ErrNotExist) {
		return
	}
	if err != nil {
		s.log.Warn("settings: ignoring last known good values, starting with defaults", "err", err)
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, v := range m.GetValues() {
		if Applies(v.GetScope(), s.identity) && !expired(v, time.Now()) {
			s.values[v.GetName()] = v
		}
	}
	s.revision = m.GetRevision()
	s.log.Info("settings: using last known good values", "revision", s.revision, "values", len(s.values))
}

func readFile(name string) (*configv1.WatchResponse, error) {
	f, err := os.Open(name)
	if err != nil {
		return nil, fmt.Errorf("reading settings: %w", err)
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, maxMessage))
	if err != nil {
		return nil, fmt.Errorf("reading settings: %w", err)
	}
	m, err := parseFile(data)
	if err != nil {
		return nil, fmt.Errorf("reading settings %s: %w", name, err)
	}
	return m, nil
}

func parseFile(data []byte) (*configv1.WatchResponse, error) {
	head, body, _ := bytes.Cut(data, []byte("\n"))
	if want := fmt.Sprintf(fileFormat, sha256.Sum256(body)); string(head)+"\n" != want {
		return nil, errors.New("checksum or format does not match: the file is damaged or of another version")
	}
	m := &configv1.WatchResponse{}
	if err := protojson.Unmarshal(body, m); err != nil {
		return nil, err
	}
	return m, nil
}

// keepSaved writes the file after changes, at most about once a second, and once more at the end.
func (s *Set) keepSaved(ctx context.Context) {
	if s.remote.file == "" {
		return
	}
	var last []byte
	failing := false
	for {
		select {
		case <-ctx.Done():
			select {
			case <-s.remote.save:
				s.saveIfChanged(&last, &failing)
			default:
			}
			return
		case <-s.remote.save:
			s.saveIfChanged(&last, &failing)
		}
		sleep(ctx, time.Second/2+rand.N(time.Second))
	}
}

// saveIfChanged logs the first of a row of failures: the process works without the file.
func (s *Set) saveIfChanged(last *[]byte, failing *bool) {
	data := s.fileContent()
	if bytes.Equal(data, *last) {
		return
	}
	err := writeFile(s.remote.file, data)
	if err == nil {
		*last = data
	} else if !*failing {
		s.log.Warn("settings: cannot keep last known good values, a restart without the config service starts with older ones", "err", err)
	}
	*failing = err != nil
}

// fileContent returns the file that holds the values in use.
func (s *Set) fileContent() []byte {
	s.mu.Lock()
	defer s.mu.Unlock()
	m := &configv1.WatchResponse{Revision: s.revision, Snapshot: true}
	for _, name := range slices.Sorted(maps.Keys(s.values)) {
		m.Values = append(m.Values, s.values[name])
	}
	loose, err := protojson.Marshal(m)
	if err != nil {
		return nil // a text that is not UTF-8 cannot have come over the wire
	}
	var body bytes.Buffer
	if err := json.Indent(&body, loose, "", " "); err != nil { // protojson varies its spaces
		return nil
	}
	return append(fmt.Appendf(nil, fileFormat, sha256.Sum256(body.Bytes())), body.Bytes()...)
}

// writeFile replaces the file in one step: after a crash it is the old one or the new one, whole.
func writeFile(name string, data []byte) (err error) {
	dir := filepath.Dir(name)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return fmt.Errorf("keeping settings: %w", err)
	}
	f, err := os.OpenFile(name+".new", os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return fmt.Errorf("keeping settings: %w", err)
	}
	_, err = f.Write(data)
	if err := errors.Join(err, f.Sync(), f.Close()); err != nil {
		return fmt.Errorf("keeping settings: %w", err)
	}
	if err := os.Rename(name+".new", name); err != nil {
		return fmt.Errorf("keeping settings: %w", err)
	}
	return syncDir(dir)
}

// syncDir makes a rename last through a loss of power.
func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return fmt.Errorf("keeping settings: %w", err)
	}
	if err := errors.Join(d.Sync(), d.Close()); err != nil {
		return fmt.Errorf("keeping settings: %w", err)
	}
	return nil
}
