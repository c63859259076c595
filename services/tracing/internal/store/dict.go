package store

import (
	"encoding/binary"
	"fmt"
	"hash/maphash"
	"strings"
	"sync"

	"github.com/cockroachdb/pebble/v2"
)

// Limits of a bucket's dictionary. Strings beyond them are written out where they occur.
const (
	dictEntries = 16 << 10
	dictBytes   = 1 << 20
	dictString  = 256 // longest string in it
	dictStates  = 16  // dictionaries in memory
	namesKnown  = 16 << 10
)

// state is what memory knows of a bucket. Only the committer changes it.
type state struct {
	bucket uint32

	mu      sync.RWMutex
	strings []string          // by number
	ids     map[string]uint32 // string -> number
	bytes   int

	once  [8 << 10]uint32     // hashes of values seen once; committer only
	names map[string]struct{} // name keys known to be stored; committer only
	used  uint64              // for eviction; guarded by states.mu
}

var seed = maphash.MakeSeed()

// intern returns the number of a string. A string without a number gets one if always is set or the string was seen
// before. New numbers are valid only if the batch commits; see rollback.
func (st *state) intern(s string, always bool) (uint32, bool) {
	if id, ok := st.ids[s]; ok {
		return id, true
	}
	if len(s) > dictString || len(st.strings) >= dictEntries || st.bytes+len(s) > dictBytes {
		return 0, false
	}
	if !always {
		h := uint32(maphash.String(seed, s)) | 1
		if slot := &st.once[h>>8%uint32(len(st.once))]; *slot != h {
			*slot = h
			return 0, false
		}
	}
	s = strings.Clone(s) // the original is part of a whole request
	id := uint32(len(st.strings))
	st.mu.Lock()
	defer st.mu.Unlock()
	st.strings = append(st.strings, s)
	st.ids[s] = id
	st.bytes += len(s)
	return id, true
}

// rollback removes what intern added since there were n strings.
func (st *state) rollback(n int) {
	st.mu.Lock()
	defer st.mu.Unlock()
	for _, s := range st.strings[n:] {
		delete(st.ids, s)
		st.bytes -= len(s)
	}
	st.strings = st.strings[:n:n]
}

func (st *state) dictionary() []string {
	st.mu.RLock()
	defer st.mu.RUnlock()
	return st.strings
}

// states keeps the dictionaries that were used last.
type states struct {
	db *pebble.DB

	mu    sync.Mutex
	all   map[uint32]*state
	clock uint64
}

func (c *states) get(bucket uint32) (*state, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	st := c.all[bucket]
	if st == nil {
		var err error
		if st, err = c.load(bucket); err != nil {
			return nil, err
		}
		c.all[bucket] = st
		c.evict()
	}
	c.clock++
	st.used = c.clock
	return st, nil
}

// evict removes the least recently used dictionary. Code that has it may go on reading it.
func (c *states) evict() {
	if len(c.all) <= dictStates {
		return
	}
	var oldest *state
	for _, st := range c.all {
		if st.used != 0 && (oldest == nil || st.used < oldest.used) {
			oldest = st
		}
	}
	delete(c.all, oldest.bucket)
}

func (c *states) drop(bucket uint32) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.all, bucket)
}

func (c *states) load(bucket uint32) (*state, error) {
	st := &state{bucket: bucket, ids: make(map[string]uint32), names: make(map[string]struct{})}
	prefix := appendKind(nil, bucket, kindDict)
	it, err := c.db.NewIter(&pebble.IterOptions{LowerBound: prefix, UpperBound: after(prefix)})
	if err != nil {
		return nil, err
	}
	defer it.Close()
	for it.First(); it.Valid(); it.Next() {
		s := string(it.Value())
		id := binary.BigEndian.Uint32(it.Key()[5:])
		if int(id) != len(st.strings) {
			return nil, fmt.Errorf("loading the dictionary of bucket %d: number %d is missing", bucket, len(st.strings))
		}
		st.ids[s] = id
		st.strings = append(st.strings, s)
		st.bytes += len(s)
	}
	return st, it.Error()
}

// put makes st the dictionary that get returns. The committer calls it after each commit: meanwhile st may have been
// evicted, and a reader may have loaded it as it was before the commit.
func (c *states) put(st *state) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.all[st.bucket] = st
	c.clock++
	st.used = c.clock
}
