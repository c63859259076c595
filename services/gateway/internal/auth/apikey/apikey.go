// Package apikey knows API keys by their hashes.
//
// A key is 256 random bits, so a plain SHA-256 is enough: nobody can try that many keys, and a slow hash as for
// passwords would only let strangers use up the CPU with wrong keys. Who reads the settings gets hashes, by which
// nobody can call.
package apikey

import (
	"crypto/sha256"
	"crypto/subtle"
	"encoding/hex"
	"fmt"
	"hash/maphash"

	"bijou.dev/platform/errs"
	"bijou.dev/platform/names"
)

// Bounds of lists and keys.
const (
	maxEntries = 10_000
	minKey     = 32 // characters: fewer cannot hold enough random bits
	maxKey     = 512
)

// List is the setting gateway.keys.
type List []Entry

// Entry is one key. Two entries may have the same name, so that a key can be replaced without a gap.
type Entry struct {
	// Name is the identity of who has the key: letters, digits and . _ : + -. Required.
	Name string `json:"name"`
	// SHA256 is the hash of the key, in 64 hexadecimal digits. Required.
	SHA256 string `json:"sha256"`
}

// JSONSchema is the schema by which the config service checks a list when it is published.
func (List) JSONSchema() string {
	return fmt.Sprintf(`{"type": ["array", "null"], "maxItems": %d, "items": {"type": "object",
		"additionalProperties": false, "required": ["name", "sha256"], "properties": {
		"name": {"type": "string", "pattern": "^[A-Za-z0-9][A-Za-z0-9._:+-]{0,127}$",
			"description": "must be 1 to 128 letters, digits and . _ : + -, beginning with a letter or digit"},
		"sha256": {"type": "string", "pattern": "^[0-9a-fA-F]{64}$",
			"description": "must be the SHA-256 of the key in 64 hexadecimal digits"}}}}`, maxEntries)
}

// Validate returns an error that names the entry that cannot be used.
func (l List) Validate() error {
	_, err := Compile(l)
	return err
}

// Table is a list ready for use. It does not change. Nil is an empty one.
type Table struct {
	seed    maphash.Seed
	entries map[uint64][]entry // hash of sum, which differs in each process -> entries
}

type entry struct {
	sum  [sha256.Size]byte
	name string
}

// Compile makes a table of a list.
func Compile(l List) (*Table, error) {
	refuse := func(i int, field, text string) error {
		return errs.Errorf(errs.Invalid, "list of API keys").Field(fmt.Sprintf("[%d].%s", i, field), text)
	}
	if len(l) > maxEntries {
		return nil, errs.Errorf(errs.Invalid, "list of API keys: must have at most %d entries, has %d", maxEntries, len(l))
	}
	t := &Table{seed: maphash.MakeSeed(), entries: make(map[uint64][]entry, len(l))}
	for i, from := range l {
		if err := names.ID.Check(from.Name); err != nil {
			return nil, refuse(i, "name", err.Error())
		}
		e := entry{name: from.Name}
		if n, err := hex.Decode(e.sum[:], []byte(from.SHA256)[:min(len(from.SHA256), 2*sha256.Size)]); err != nil ||
			n != sha256.Size || len(from.SHA256) != 2*sha256.Size {
			return nil, refuse(i, "sha256", "must be the SHA-256 of the key in 64 hexadecimal digits")
		}
		if _, ok := t.find(&e.sum); ok {
			return nil, refuse(i, "sha256", "is that of another entry: a key has one name")
		}
		at := t.index(&e.sum)
		t.entries[at] = append(t.entries[at], e)
	}
	return t, nil
}

// index is where the entry of a sum is. How long a look-up takes says nothing about the sums of other keys, because
// nobody knows the seed.
func (t *Table) index(sum *[sha256.Size]byte) uint64 { return maphash.Bytes(t.seed, sum[:]) }

func (t *Table) find(sum *[sha256.Size]byte) (name string, ok bool) {
	if t == nil {
		return "", false
	}
	for i := range t.entries[t.index(sum)] {
		if e := &t.entries[t.index(sum)][i]; subtle.ConstantTimeCompare(e.sum[:], sum[:]) == 1 {
			name, ok = e.name, true
		}
	}
	return name, ok
}

// Find returns the name of a key.
func (t *Table) Find(key string) (name string, ok bool) {
	if len(key) < minKey || len(key) > maxKey {
		return "", false
	}
	sum := sha256.Sum256([]byte(key))
	return t.find(&sum)
}
