package certs

import (
	"bytes"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
)

// pair is the files of a certificate and its key.
type pair struct{ cert, key string }

// files is what the files of a pair hold.
type files struct {
	cert, key []byte
	err       string // of reading; empty: none
}

// find returns the pairs in a folder and in the folders directly in it, by name.
func find(dir string) (map[string]pair, error) {
	pairs := map[string]pair{}
	subs, err := findIn(dir, "", pairs)
	if err != nil {
		return nil, err
	}
	for _, sub := range subs {
		if _, err := findIn(filepath.Join(dir, sub), sub, pairs); err != nil {
			return nil, err
		}
	}
	return pairs, nil
}

// findIn adds the pairs of one folder, whose name is sub, and returns the names of the folders in it.
func findIn(dir, sub string, pairs map[string]pair) (subs []string, err error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	found := map[string]bool{}
	for _, e := range entries {
		name := e.Name()
		if strings.HasPrefix(name, ".") {
			continue // Kubernetes keeps the versions of a secret in folders such as ..data
		}
		info, err := os.Stat(filepath.Join(dir, name)) // follows links
		switch {
		case errors.Is(err, os.ErrNotExist): // removed meanwhile
		case err != nil:
			return nil, err
		case info.IsDir():
			subs = append(subs, name)
		default:
			found[name] = true
		}
	}
	for name := range found {
		p := pair{key: name}
		switch base, isKey := strings.CutSuffix(name, ".key"); {
		case name == "privkey.pem":
			p.cert, name = "fullchain.pem", "fullchain"
		case !isKey:
			continue
		case found[base+".pem"] && !found[base+".crt"]:
			p.cert, name = base+".pem", base
		default:
			p.cert, name = base+".crt", base
		}
		if sub != "" {
			name = sub + "/" + name
		}
		pairs[name] = pair{filepath.Join(dir, p.cert), filepath.Join(dir, p.key)}
	}
	return subs, nil
}

func (p pair) read() files {
	var f files
	var err error
	if f.cert, err = readFile(p.cert); err == nil {
		f.key, err = readFile(p.key)
	}
	if err != nil {
		f.err = err.Error()
	}
	return f
}

// maxFile is the size of the largest file that is read.
const maxFile = 1 << 20

func readFile(name string) ([]byte, error) {
	f, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, maxFile+1))
	if err == nil && len(data) > maxFile {
		err = fmt.Errorf("reading %s: it is larger than %d bytes", name, maxFile)
	}
	return data, err
}

func (f files) equal(g files) bool {
	return f.err == g.err && bytes.Equal(f.cert, g.cert) && bytes.Equal(f.key, g.key)
}

func (f files) parse(name string) (Certificate, error) {
	if f.err != "" {
		return Certificate{}, errors.New(f.err)
	}
	c, err := tls.X509KeyPair(f.cert, f.key)
	if err != nil {
		return Certificate{}, err
	}
	return checked(name, &c)
}
