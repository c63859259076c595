// Package span defines the spans of the trace store and reads and writes them in their wire formats.
//
// The model is Zipkin's, because queries return Zipkin's JSON. OTLP is mapped to it as the OpenTelemetry specification
// says, so that a span is the same in whichever format it was sent.
package span

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"

	"bijou.dev/platform/text"
)

// TraceID identifies a trace. Old tracers send only the lower half: then Hi is 0, and the trace is the same as one with
// equal Lo.
type TraceID struct{ Hi, Lo uint64 }

// String returns 32 hex digits, or 16 when Hi is 0.
func (t TraceID) String() string {
	if t.Hi == 0 {
		return fmt.Sprintf("%016x", t.Lo)
	}
	return fmt.Sprintf("%016x%016x", t.Hi, t.Lo)
}

// Joins reports whether t and u identify the same trace, when one of them or both may be cut to 64 bits.
func (t TraceID) Joins(u TraceID) bool {
	return t.Lo == u.Lo && (t.Hi == u.Hi || t.Hi == 0 || u.Hi == 0)
}

// ParseTraceID reads 1 to 32 hex digits that are not all zero.
func ParseTraceID(s string) (TraceID, error) {
	var t TraceID
	lo := s
	if len(s) > 16 {
		hi, err := strconv.ParseUint(s[:len(s)-16], 16, 64)
		if err != nil {
			return t, fmt.Errorf("trace id %q must be 1 to 32 hex digits", text.Bound(s, 40))
		}
		t.Hi, lo = hi, s[len(s)-16:]
	}
	var err error
	if t.Lo, err = strconv.ParseUint(lo, 16, 64); err != nil || len(s) > 32 || t == (TraceID{}) ||
		strings.ContainsAny(s, "+-_") {
		return TraceID{}, fmt.Errorf("trace id %q must be 1 to 32 hex digits, not all zero", text.Bound(s, 40))
	}
	return t, nil
}

// ID identifies a span in its trace. 0: none.
type ID uint64

// String returns 16 hex digits.
func (id ID) String() string { return fmt.Sprintf("%016x", uint64(id)) }

// Kind is the role of a span in a call. The zero Kind is Internal: work inside of a process.
type Kind uint8

// The kinds. The numbers are stored on disk: never change one.
const (
	Internal Kind = iota
	Client
	Server
	Producer
	Consumer
)

var kindNames = [...]string{"", "CLIENT", "SERVER", "PRODUCER", "CONSUMER"}

// String returns the kind in Zipkin's spelling, "" for Internal.
func (k Kind) String() string { return kindNames[k] }

// Endpoint is one side of a call. The zero Endpoint is unknown.
type Endpoint struct {
	Service    string
	IPv4, IPv6 netip.Addr
	Port       uint16
}

// Annotation is an event in a span. At is in microseconds since 1970.
type Annotation struct {
	At    int64
	Value string
}

// Tag is a detail of a span.
type Tag struct{ Key, Value string }

// Span is one operation.
type Span struct {
	Trace  TraceID
	ID     ID
	Parent ID // 0: a root
	Kind   Kind
	Name   string
	// Start is in microseconds since 1970, Duration in microseconds. 0: unknown.
	Start, Duration int64
	Local, Remote   Endpoint
	Annotations     []Annotation
	Tags            []Tag // if a key is there twice, the last one counts
	// Shared marks the server's part of a span that client and server report under one id, as B3 allows.
	Shared, Debug bool
}

// Tag returns the value of a tag.
func (s *Span) Tag(key string) (string, bool) {
	for i := len(s.Tags) - 1; i >= 0; i-- {
		if s.Tags[i].Key == key {
			return s.Tags[i].Value, true
		}
	}
	return "", false
}

// Failed reports whether the operation failed: then it has a tag named error with any value.
func (s *Span) Failed() bool {
	_, ok := s.Tag("error")
	return ok
}

// Size estimates the memory that the span holds, in bytes.
func (s *Span) Size() int {
	n := 200 + len(s.Name) + len(s.Local.Service) + len(s.Remote.Service)
	for i := range s.Tags {
		n += 32 + len(s.Tags[i].Key) + len(s.Tags[i].Value)
	}
	for i := range s.Annotations {
		n += 24 + len(s.Annotations[i].Value)
	}
	return n
}

// Limits of one span, so that one sender cannot fill the store with one span.
const (
	MaxName  = 512  // bytes of the name of a span, a service or a tag
	MaxValue = 4096 // bytes of the value of a tag or an annotation
	MaxTags  = 256
	MaxNotes = 256 // annotations
)

// Clean cuts s to the limits, makes its text valid UTF-8, and returns how many parts were changed or left out.
func (s *Span) Clean() int {
	changed := 0
	clean := func(v *string, limit int) {
		if len(*v) <= limit && utf8.ValidString(*v) {
			return
		}
		*v = text.Bound(*v, limit)
		changed++
	}
	clean(&s.Name, MaxName)
	clean(&s.Local.Service, MaxName)
	clean(&s.Remote.Service, MaxName)
	changed += max(0, len(s.Tags)-MaxTags) + max(0, len(s.Annotations)-MaxNotes)
	s.Tags = s.Tags[:min(len(s.Tags), MaxTags)]
	s.Annotations = s.Annotations[:min(len(s.Annotations), MaxNotes)]
	for i := range s.Tags {
		clean(&s.Tags[i].Key, MaxName)
		clean(&s.Tags[i].Value, MaxValue)
	}
	for i := range s.Annotations {
		clean(&s.Annotations[i].Value, MaxValue)
	}
	return changed
}

// Begin returns when a trace began: the start of its root, else the earliest start. 0: no span has a start.
func Begin(spans []Span) int64 {
	var first int64
	for i := range spans {
		at := spans[i].Start
		if at == 0 {
			continue
		}
		if spans[i].Parent == 0 && !spans[i].Shared {
			return at
		}
		if first == 0 || at < first {
			first = at
		}
	}
	return first
}

// Merge returns the spans of one trace sorted by start, all with the longest trace id of them, and spans that were sent
// twice joined into one. It reuses the memory of its argument.
func Merge(spans []Span) []Span {
	type key struct {
		id      ID
		kind    Kind
		shared  bool
		service string
	}
	var id TraceID
	seen := make(map[key]int, len(spans))
	out := spans[:0]
	for _, s := range spans {
		if s.Trace.Hi != 0 || id == (TraceID{}) {
			id = s.Trace
		}
		k := key{s.ID, s.Kind, s.Shared, s.Local.Service}
		if i, ok := seen[k]; ok {
			out[i].join(&s)
			continue
		}
		seen[k] = len(out)
		out = append(out, s)
	}
	for i := range out {
		out[i].Trace = id
	}
	slices.SortStableFunc(out, func(a, b Span) int { return cmp.Compare(a.Start, b.Start) })
	return out
}

// join adds to s what is known only from u, another report of the same span.
func (s *Span) join(u *Span) {
	s.Name = cmp.Or(s.Name, u.Name)
	s.Parent = cmp.Or(s.Parent, u.Parent)
	s.Start = cmp.Or(s.Start, u.Start)
	s.Duration = max(s.Duration, u.Duration)
	s.Debug = s.Debug || u.Debug
	if s.Remote == (Endpoint{}) {
		s.Remote = u.Remote
	}
	for _, t := range u.Tags {
		if _, ok := s.Tag(t.Key); !ok {
			s.Tags = append(s.Tags, t)
		}
	}
	for _, a := range u.Annotations {
		if !slices.Contains(s.Annotations, a) {
			s.Annotations = append(s.Annotations, a)
		}
	}
}

// Split separates traces that have the same lower half of the id. Spans that have only that half go to the first.
func Split(spans []Span) [][]Span {
	var his []uint64
	for i := range spans {
		if hi := spans[i].Trace.Hi; hi != 0 && !slices.Contains(his, hi) {
			his = append(his, hi)
		}
	}
	if len(his) < 2 {
		return [][]Span{spans}
	}
	out := make([][]Span, len(his))
	for _, s := range spans {
		i := max(0, slices.Index(his, s.Trace.Hi))
		out[i] = append(out[i], s)
	}
	return out
}
