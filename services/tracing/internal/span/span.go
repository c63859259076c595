// Package span is the one model of a span inside the trace store, and its wire formats.
//
// The model is Zipkin's, because that is what queries answer with. OTLP is mapped to it by the OpenTelemetry
// specification when it arrives; a span looks the same whichever way it came.
package span

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"
)

// TraceID names a trace. Old tracers send the lower half only; Hi is then 0 and the trace joins one with equal Lo.
type TraceID struct{ Hi, Lo uint64 }

// String returns 32 hex digits, or 16 when Hi is 0.
func (t TraceID) String() string {
	if t.Hi == 0 {
		return fmt.Sprintf("%016x", t.Lo)
	}
	return fmt.Sprintf("%016x%016x", t.Hi, t.Lo)
}

// Joins reports whether t and u name the same trace, given that either may be cut to 64 bits.
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
			return t, fmt.Errorf("trace id %q must be 1 to 32 hex digits", clip(s, 40))
		}
		t.Hi, lo = hi, s[len(s)-16:]
	}
	var err error
	if t.Lo, err = strconv.ParseUint(lo, 16, 64); err != nil || len(s) > 32 || t == (TraceID{}) || strings.ContainsAny(s, "+-_") {
		return TraceID{}, fmt.Errorf("trace id %q must be 1 to 32 hex digits, not all zero", clip(s, 40))
	}
	return t, nil
}

// ID names a span in its trace. 0: none.
type ID uint64

// String returns 16 hex digits.
func (id ID) String() string { return fmt.Sprintf("%016x", uint64(id)) }

// Kind is the part a span plays in a call. The zero Kind is work inside of a process.
type Kind uint8

// The kinds. They are stored: never change a number.
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

// Endpoint is a side of a call. The zero Endpoint is unknown.
type Endpoint struct {
	Service    string
	IPv4, IPv6 netip.Addr
	Port       uint16
}

// Annotation is something that happened at a time, in microseconds since 1970.
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
	Tags            []Tag // of equal keys the last counts
	// Shared is set on the server's half of a span that both sides report under one id, as B3 allows.
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

// Failed reports whether the operation failed: Zipkin marks that by a tag named error, whatever its value.
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

// Limits of one span. What is beyond them is cut off, so that one sender cannot fill the store with one span.
const (
	MaxName  = 512  // bytes of a name of a span, a service or a tag
	MaxValue = 4096 // bytes of a tag's or annotation's value
	MaxTags  = 256
	MaxNotes = 256
)

// Trim cuts s to the limits and returns how many parts of it were cut or left out.
func (s *Span) Trim() int {
	cut := 0
	trim := func(v *string, limit int) {
		if len(*v) > limit {
			*v = clip(*v, limit)
			cut++
		}
	}
	trim(&s.Name, MaxName)
	trim(&s.Local.Service, MaxName)
	trim(&s.Remote.Service, MaxName)
	cut += max(0, len(s.Tags)-MaxTags) + max(0, len(s.Annotations)-MaxNotes)
	s.Tags = s.Tags[:min(len(s.Tags), MaxTags)]
	s.Annotations = s.Annotations[:min(len(s.Annotations), MaxNotes)]
	for i := range s.Tags {
		trim(&s.Tags[i].Key, MaxName)
		trim(&s.Tags[i].Value, MaxValue)
	}
	for i := range s.Annotations {
		trim(&s.Annotations[i].Value, MaxValue)
	}
	return cut
}

// clip returns at most n bytes of s, not cutting a character in two. The copy lets go of the rest.
func clip(s string, n int) string {
	if len(s) <= n {
		return s
	}
	for n > 0 && !utf8.RuneStart(s[n]) {
		n--
	}
	return strings.Clone(s[:n])
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

// Merge puts the spans of one trace in order: sorted by start, all under the longest trace id, and what senders sent
// twice joined into one. It reuses spans.
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

// join adds what u, another report of the same span, knows and s does not.
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

// Split separates traces that share the lower half of their id. Spans that carry only that half go to the first.
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
