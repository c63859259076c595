package login

import (
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"
)

// Secrets reads secrets from the files of a folder. Routes have the names of the files: everybody who may read settings
// reads routes, and who may change them must not be able to read any file of the edge.
type Secrets struct {
	dir string
	log *slog.Logger

	mu    sync.Mutex
	files map[string]secret // name -> what was read
}

type secret struct {
	text string
	err  error
	at   time.Time
}

// Bounds of secrets.
const (
	maxSecret  = 16 << 10 // bytes
	secretsFor = 30 * time.Second
)

// NewSecrets returns the secrets of a folder. Empty: there is none, and each secret is an error.
func NewSecrets(dir string, log *slog.Logger) *Secrets {
	return &Secrets{dir: dir, log: log, files: map[string]secret{}}
}

// Read returns a secret without white space around it. A file is read again after 30 s, so that it can be replaced. An
// error is logged when it is new: strangers cause many requests for one secret.
func (s *Secrets) Read(name string) (string, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	f, ok := s.files[name]
	if !ok || time.Since(f.at) > secretsFor {
		before := f.err
		f = secret{at: time.Now()}
		f.text, f.err = s.read(name)
		s.files[name] = f
		if f.err != nil && before == nil {
			s.log.Error("log-ins are not possible", "error", f.err)
		}
	}
	return f.text, f.err
}

// IsSecretName reports whether a name is one of a file in the folder: it has no slash, and does not begin with a dot.
func IsSecretName(name string) bool {
	return name != "" && len(name) <= 128 && name[0] != '.' && !strings.ContainsFunc(name, func(c rune) bool {
		return c != '-' && c != '_' && c != '.' && (c < '0' || c > '9') && (c < 'A' || c > 'Z') && (c < 'a' || c > 'z')
	})
}

func (s *Secrets) read(name string) (string, error) {
	if s.dir == "" {
		return "", fmt.Errorf("reading the secret %q: there is no folder of secrets; set -secrets", name)
	}
	if !IsSecretName(name) {
		return "", fmt.Errorf("reading the secret %q: it is not the name of a file", name)
	}
	file, err := os.Open(filepath.Join(s.dir, name)) // may be a link, as in Kubernetes
	if err != nil {
		return "", fmt.Errorf("reading the secret %q: %w", name, err)
	}
	defer file.Close()
	text, err := io.ReadAll(io.LimitReader(file, maxSecret+1))
	switch {
	case err != nil:
		return "", fmt.Errorf("reading the secret %q: %w", name, err)
	case len(text) > maxSecret:
		return "", fmt.Errorf("reading the secret %q: it has more than %d bytes", name, maxSecret)
	case len(strings.TrimSpace(string(text))) == 0:
		return "", fmt.Errorf("reading the secret %q: it is empty", name)
	}
	return strings.TrimSpace(string(text)), nil
}
