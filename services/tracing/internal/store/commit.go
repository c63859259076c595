package store

import (
	"cmp"
	"math/bits"
	"slices"
	"strings"
	"time"

	"github.com/cockroachdb/pebble/v2"

	"bijou.dev/services/tracing/internal/span"
)

// commit is one batch being built.
type commit struct {
	store *Store
	batch *pebble.Batch
	now   time.Time
	spans []*span.Span
	used  map[*state]int // state -> strings it had before
	key   []byte         // scratch
	parts []part         // scratch
}

// part is what one service did in one chunk.
type part struct {
	service string
	start   int64
	sum     summary
}

// summary lets a search skip entries without reading the trace. The zero summary matches no condition.
type summary struct {
	failed   bool   // has a tag or an annotation named error
	duration uint8  // bits.Len of the longest
	names    uint16 // one bit per hash of a span's name
}

// summaryLen is its encoded length. Entries under one key are concatenated.
const summaryLen = 3

func (m summary) append(b []byte) []byte {
	head := m.duration
	if m.failed {
		head |= 1 << 7
	}
	return append(b, head, byte(m.names>>8), byte(m.names))
}

// parseSummary joins the summaries in a value.
func parseSummary(b []byte) (m summary) {
	for ; len(b) >= summaryLen; b = b[summaryLen:] {
		m.join(summary{b[0]>>7 == 1, b[0] & 0x7f, uint16(b[1])<<8 | uint16(b[2])})
	}
	return m
}

func (m *summary) join(o summary) {
	m.failed = m.failed || o.failed
	m.duration = max(m.duration, o.duration)
	m.names |= o.names
}

// nameBit must not change: it is stored. FNV-1a, case folded.
func nameBit(name string) uint16 {
	h := uint32(2166136261)
	for i := range len(name) {
		c := name[i]
		if 'A' <= c && c <= 'Z' {
			c += 'a' - 'A'
		}
		h = (h ^ uint32(c)) * 16777619
	}
	return 1 << ((h ^ h>>16) & 15)
}

func newCommit(s *Store, now time.Time) *commit {
	return &commit{store: s, batch: s.db.NewBatch(), now: now, used: make(map[*state]int)}
}

// build fills the batch, one chunk per trace.
func (c *commit) build() error {
	c.store.seq++
	slices.SortFunc(c.spans, func(a, b *span.Span) int {
		return cmp.Or(cmp.Compare(a.Trace.Lo, b.Trace.Lo), cmp.Compare(a.Trace.Hi, b.Trace.Hi), cmp.Compare(a.Start, b.Start))
	})
	for rest := c.spans; len(rest) > 0; {
		n := 1
		for n < len(rest) && rest[n].Trace == rest[0].Trace {
			n++
		}
		if err := c.trace(rest[:n]); err != nil {
			return err
		}
		rest = rest[n:]
	}
	return c.strings()
}

// trace adds the spans of one trace, sorted by start.
func (c *commit) trace(spans []*span.Span) error {
	at := c.when(spans)
	st, err := c.store.states.get(c.store.bucketFor(uint32(at / 1e6)))
	if err != nil {
		return err
	}
	if _, ok := c.used[st]; !ok {
		c.used[st] = len(st.strings)
	}
	e := &c.store.encode
	e.intern = st.intern
	e.chunk(spans, int64(st.bucket)*1e6)
	c.key = appendChunk(c.key[:0], st.bucket, spans[0].Trace, c.store.seq)
	if err := c.batch.Set(c.key, e.buf, nil); err != nil {
		return err
	}
	if err := c.index(st, spans, at); err != nil {
		return err
	}
	return c.names(st, spans)
}

// when returns the time that decides about the bucket: the first known start. Without one, or with one that is too far
// ahead to be right, it is now.
func (c *commit) when(spans []*span.Span) int64 {
	for _, s := range spans {
		if s.Start != 0 {
			if s.Start < c.now.Add(maxFuture).UnixMicro() {
				return s.Start
			}
			break
		}
	}
	return c.now.UnixMicro()
}

func (c *commit) index(st *state, spans []*span.Span, at int64) error {
	c.parts = c.parts[:0]
	for _, s := range spans {
		p := c.part(strings.ToLower(s.Local.Service), cmp.Or(s.Start, at))
		p.sum.join(summary{hasTag(s, "error", ""), uint8(bits.Len64(uint64(s.Duration))), nameBit(s.Name)})
	}
	base := int64(st.bucket) * 1e6
	var value [summaryLen]byte
	for i := range c.parts {
		p := &c.parts[i]
		offset := uint32(min(max(0, (p.start-base)/1000), 1<<32-1))
		c.key = appendIndex(c.key[:0], st.bucket, p.service, offset, spans[0].Trace.Lo)
		if err := c.batch.Merge(c.key, p.sum.append(value[:0]), nil); err != nil {
			return err
		}
	}
	return nil
}

func (c *commit) part(service string, start int64) *part {
	for i := range c.parts {
		if c.parts[i].service == service {
			return &c.parts[i]
		}
	}
	c.parts = append(c.parts, part{service: service, start: start})
	return &c.parts[len(c.parts)-1]
}

// names adds names that the bucket does not list yet.
func (c *commit) names(st *state, spans []*span.Span) error {
	for _, s := range spans {
		if s.Local.Service != "" {
			if err := c.name(st, Services, "", s.Local.Service); err != nil {
				return err
			}
			if err := c.name(st, SpanNames, s.Local.Service, s.Name); err != nil {
				return err
			}
			if err := c.name(st, RemoteServices, s.Local.Service, s.Remote.Service); err != nil {
				return err
			}
		}
		for i := range s.Tags {
			if t := &s.Tags[i]; slices.Contains(c.store.opts.Autocomplete, t.Key) {
				if err := c.name(st, TagValues, t.Key, t.Value); err != nil {
					return err
				}
			}
		}
	}
	return nil
}

// name lists a name once. Very long ones, and those of a bucket that has very many, are not listed; they can be
// searched for all the same.
func (c *commit) name(st *state, t NameType, owner, name string) error {
	if name == "" || len(name) > dictString {
		return nil
	}
	if t == SpanNames || t == RemoteServices {
		owner = strings.ToLower(owner)
	}
	c.key = appendName(c.key[:0], st.bucket, t, owner, name)
	if _, ok := st.names[string(c.key)]; ok || len(st.names) >= namesKnown {
		return nil
	}
	st.names[string(c.key)] = struct{}{}
	return c.batch.Set(c.key, nil, nil)
}

// strings adds the new strings of the dictionaries.
func (c *commit) strings() error {
	for st, had := range c.used {
		for i := had; i < len(st.strings); i++ {
			c.key = appendDict(c.key[:0], st.bucket, uint32(i))
			if err := c.batch.Set(c.key, []byte(st.strings[i]), nil); err != nil {
				return err
			}
		}
	}
	return nil
}

// finish makes the dictionaries in memory equal to those on disk.
func (c *commit) finish(ok bool) {
	for st, had := range c.used {
		if !ok {
			st.rollback(had)
			clear(st.names)
		}
		c.store.states.put(st)
	}
	c.store.cut(uint32(c.now.Unix()), c.batch.Len())
}
