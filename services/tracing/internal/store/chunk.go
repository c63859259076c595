package store

import (
	"encoding/binary"
	"errors"
	"net/netip"

	"bijou.dev/services/tracing/internal/span"
)

// A chunk is a count and then spans. Of a span, in this order: flags; endpoint flags; id; parent; name; start as
// difference to the span before; duration; endpoints; tags; annotations. Numbers are varints; a string is a varint
// whose lowest bit says whether the dictionary's number or the length of what follows is above it.
const (
	flagKind     = 7 // mask
	flagShared   = 1 << 3
	flagDebug    = 1 << 4
	flagNotes    = 1 << 5
	flagParent   = 1 << 6 // eight bytes
	flagParentAt = 1 << 7 // the number of a span before in this chunk
)

// Endpoint flags, for the local endpoint; shifted by 4 for the remote one.
const (
	endService = 1 << iota
	endIPv4
	endIPv6
	endPort
)

// encoder appends chunks. intern gives a string's number, if it has one.
type encoder struct {
	buf    []byte
	intern func(s string, always bool) (uint32, bool)
}

// str appends a string. A name is expected again; a value has to be seen twice.
func (e *encoder) str(s string, name bool) {
	if id, ok := e.intern(s, name); ok {
		e.buf = binary.AppendUvarint(e.buf, uint64(id)<<1)
		return
	}
	e.buf = binary.AppendUvarint(e.buf, uint64(len(s))<<1|1)
	e.buf = append(e.buf, s...)
}

// chunk encodes spans of one trace into e.buf. base is the start of the bucket in microseconds.
func (e *encoder) chunk(spans []*span.Span, base int64) {
	e.buf = binary.AppendUvarint(e.buf[:0], uint64(len(spans)))
	for i, s := range spans {
		e.span(s, spans[:i], base)
		base = s.Start
	}
}

func (e *encoder) span(s *span.Span, before []*span.Span, base int64) {
	flags := byte(s.Kind)
	if s.Shared {
		flags |= flagShared
	}
	if s.Debug {
		flags |= flagDebug
	}
	if len(s.Annotations) > 0 {
		flags |= flagNotes
	}
	at := -1
	if s.Parent != 0 {
		if at = indexOf(before, s.Parent); at >= 0 {
			flags |= flagParentAt
		} else {
			flags |= flagParent
		}
	}
	e.buf = append(e.buf, flags, endFlags(&s.Local)|endFlags(&s.Remote)<<4)
	e.buf = binary.BigEndian.AppendUint64(e.buf, uint64(s.ID))
	if flags&flagParentAt != 0 {
		e.buf = binary.AppendUvarint(e.buf, uint64(at))
	} else if flags&flagParent != 0 {
		e.buf = binary.BigEndian.AppendUint64(e.buf, uint64(s.Parent))
	}
	e.str(s.Name, true)
	e.buf = binary.AppendVarint(e.buf, s.Start-base)
	e.buf = binary.AppendUvarint(e.buf, uint64(s.Duration))
	e.endpoint(&s.Local)
	e.endpoint(&s.Remote)
	e.buf = binary.AppendUvarint(e.buf, uint64(len(s.Tags)))
	for i := range s.Tags {
		e.str(s.Tags[i].Key, true)
		e.str(s.Tags[i].Value, false)
	}
	if flags&flagNotes != 0 {
		e.buf = binary.AppendUvarint(e.buf, uint64(len(s.Annotations)))
		for i := range s.Annotations {
			e.buf = binary.AppendVarint(e.buf, s.Annotations[i].At-s.Start)
			e.str(s.Annotations[i].Value, false)
		}
	}
}

// indexOf looks back a bounded number of spans: parents come shortly before, and a chunk may be long.
func indexOf(before []*span.Span, id span.ID) int {
	for i := len(before) - 1; i >= max(0, len(before)-32); i-- {
		if before[i].ID == id {
			return i
		}
	}
	return -1
}

func endFlags(e *span.Endpoint) (flags byte) {
	if e.Service != "" {
		flags |= endService
	}
	if e.IPv4.IsValid() {
		flags |= endIPv4
	}
	if e.IPv6.IsValid() {
		flags |= endIPv6
	}
	if e.Port != 0 {
		flags |= endPort
	}
	return flags
}

func (e *encoder) endpoint(p *span.Endpoint) {
	if p.Service != "" {
		e.str(p.Service, true)
	}
	if p.IPv4.IsValid() {
		e.buf = append(e.buf, p.IPv4.AsSlice()...)
	}
	if p.IPv6.IsValid() {
		e.buf = append(e.buf, p.IPv6.AsSlice()...)
	}
	if p.Port != 0 {
		e.buf = binary.BigEndian.AppendUint16(e.buf, p.Port)
	}
}

// errCorrupt reports a chunk that this code did not write.
var errCorrupt = errors.New("reading a chunk of spans: it is corrupt")

// errUnknown reports a string that is newer than the dictionary at hand.
var errUnknown = errors.New("reading a chunk of spans: the dictionary is out of date")

// decoder reads chunks. After the first error it returns zeros.
type decoder struct {
	b       []byte
	strings []string // the dictionary
	// bare leaves out annotations and all tags but error: what dependencies need.
	bare bool
	err  error
}

func (d *decoder) fail(err error) {
	if d.err == nil {
		d.err = err
	}
	d.b = nil
}

func (d *decoder) uvarint() uint64 {
	v, n := binary.Uvarint(d.b)
	if n <= 0 {
		d.fail(errCorrupt)
		return 0
	}
	d.b = d.b[n:]
	return v
}

func (d *decoder) varint() int64 {
	v, n := binary.Varint(d.b)
	if n <= 0 {
		d.fail(errCorrupt)
		return 0
	}
	d.b = d.b[n:]
	return v
}

// count reads a number of things that take at least one byte each.
func (d *decoder) count() int {
	n := d.uvarint()
	if n > uint64(len(d.b)) {
		d.fail(errCorrupt)
		return 0
	}
	return int(n)
}

var zeros [16]byte

func (d *decoder) bytes(n int) []byte {
	if n > len(d.b) {
		d.fail(errCorrupt)
		return zeros[:min(n, len(zeros))]
	}
	b := d.b[:n]
	d.b = d.b[n:]
	return b
}

// str returns a string; a copy, unless it is in the dictionary.
func (d *decoder) str() string {
	v := d.uvarint()
	if v&1 == 0 {
		if v>>1 >= uint64(len(d.strings)) {
			d.fail(errUnknown)
			return ""
		}
		return d.strings[v>>1]
	}
	if v>>1 > uint64(len(d.b)) {
		d.fail(errCorrupt)
		return ""
	}
	return string(d.bytes(int(v >> 1)))
}

func (d *decoder) skip() {
	if v := d.uvarint(); v&1 == 1 {
		if v>>1 > uint64(len(d.b)) {
			d.fail(errCorrupt)
			return
		}
		d.b = d.b[v>>1:]
	}
}

// chunk appends the spans of a chunk to spans.
func (d *decoder) chunk(spans []span.Span, id span.TraceID, base int64) ([]span.Span, error) {
	n, first := d.count(), len(spans)
	for range n {
		s := span.Span{Trace: id}
		d.span(&s, spans[first:], base)
		if d.err != nil {
			return spans[:first], d.err
		}
		base = s.Start
		spans = append(spans, s)
	}
	return spans, d.err
}

func (d *decoder) span(s *span.Span, before []span.Span, base int64) {
	head := d.bytes(2)
	flags, ends := head[0], head[1]
	s.Kind = span.Kind(flags & flagKind)
	if s.Kind > span.Consumer {
		d.fail(errCorrupt)
	}
	s.Shared, s.Debug = flags&flagShared != 0, flags&flagDebug != 0
	s.ID = span.ID(binary.BigEndian.Uint64(d.bytes(8)))
	if flags&flagParentAt != 0 {
		if at := d.uvarint(); at < uint64(len(before)) {
			s.Parent = before[at].ID
		} else {
			d.fail(errCorrupt)
		}
	} else if flags&flagParent != 0 {
		s.Parent = span.ID(binary.BigEndian.Uint64(d.bytes(8)))
	}
	s.Name = d.str()
	s.Start = base + d.varint()
	s.Duration = int64(d.uvarint())
	d.endpoint(&s.Local, ends)
	d.endpoint(&s.Remote, ends>>4)
	d.tags(s)
	if flags&flagNotes != 0 {
		d.notes(s)
	}
}

func (d *decoder) endpoint(e *span.Endpoint, flags byte) {
	if flags&endService != 0 {
		e.Service = d.str()
	}
	if flags&endIPv4 != 0 {
		e.IPv4 = netip.AddrFrom4([4]byte(d.bytes(4)))
	}
	if flags&endIPv6 != 0 {
		e.IPv6 = netip.AddrFrom16([16]byte(d.bytes(16)))
	}
	if flags&endPort != 0 {
		e.Port = binary.BigEndian.Uint16(d.bytes(2))
	}
}

func (d *decoder) tags(s *span.Span) {
	n := d.count()
	if n > 0 && !d.bare {
		s.Tags = make([]span.Tag, 0, n)
	}
	for range n {
		key := d.str()
		if d.bare && key != "error" {
			d.skip()
			continue
		}
		s.Tags = append(s.Tags, span.Tag{Key: key, Value: d.str()})
	}
}

func (d *decoder) notes(s *span.Span) {
	for range d.count() {
		at := s.Start + d.varint()
		if d.bare {
			d.skip()
			continue
		}
		s.Annotations = append(s.Annotations, span.Annotation{At: at, Value: d.str()})
	}
}
