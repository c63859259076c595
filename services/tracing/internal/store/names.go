package store

import (
	"bytes"
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"
)

// NameType is what Names lists.
type NameType byte

// The lists. They are stored: never change a letter.
const (
	Services       NameType = 's' // the owner is ""
	SpanNames      NameType = 'v' // of a service
	RemoteServices NameType = 'r' // of a service
	TagValues      NameType = 't' // of a tag
)

// maxNames bounds a list.
const maxNames = 10_000

// Names returns a list of names, sorted.
func (s *Store) Names(ctx context.Context, t NameType, owner string) ([]string, error) {
	r, err := s.reader()
	if err != nil {
		return nil, err
	}
	defer r.close()
	if t != TagValues {
		owner = strings.ToLower(owner)
	}
	set := make(map[string]struct{})
	for _, b := range s.allBuckets() {
		prefix := appendName(nil, b, t, owner, "")
		for ok := r.it.SeekGE(prefix); ok && bytes.HasPrefix(r.it.Key(), prefix) && len(set) < maxNames; ok = r.it.Next() {
			set[string(r.it.Key()[len(prefix):])] = struct{}{}
		}
		if err := cmp.Or(r.it.Error(), ctx.Err()); err != nil {
			return nil, fmt.Errorf("listing names: %w", err)
		}
	}
	names := make([]string, 0, len(set))
	for n := range set {
		names = append(names, n)
	}
	slices.Sort(names)
	return names, nil
}
