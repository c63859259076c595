package span

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"
)

// OTLP is read from the wire straight into the model. To decode it into generated types first would take most of the
// CPU of an ingest, and much memory: an empty span is two bytes on the wire and hundreds in memory.

// maxDepth bounds attribute values inside of each other.
const maxDepth = 32

// MaxSpans is the largest number of spans in one request.
const MaxSpans = 16 << 10

// ErrTooMany refuses a request with more than MaxSpans spans, or with far more parts than so many spans have.
var ErrTooMany = fmt.Errorf("reading spans: more than %d in one request; send smaller batches", MaxSpans)

var (
	errWire = errors.New("reading OTLP: this is not an ExportTraceServiceRequest in protobuf")
	errSpan = errors.New("reading a span: it is not valid protobuf")
	errIDs  = errors.New("reading a span: a trace id must have 16 bytes and a span id 8, not all zero")
)

// Parsed is what was read from a request.
type Parsed struct {
	// Spans are the valid spans.
	Spans []Span
	// Invalid is the number of spans that were left out. One bad span does not refuse the others of its request.
	Invalid int
	// Reason says why the first invalid span was left out. Nil if there is none.
	Reason error
}

func (p *Parsed) reject(reason error) {
	p.Invalid++
	if p.Reason == nil {
		p.Reason = reason
	}
}

// ParseOTLP reads an ExportTraceServiceRequest in protobuf. The spans share memory with one copy of b.
func ParseOTLP(b []byte) (Parsed, error) {
	var p Parsed
	err := fields(string(b), func(num int, _ uint64, s string) error {
		if num == 1 {
			return p.resource(s)
		}
		return nil
	})
	if err != nil {
		return Parsed{}, err
	}
	return p, nil
}

// resource reads ResourceSpans. The resource, which all spans share, may come after them, so it is read first.
func (p *Parsed) resource(m string) error {
	local := Endpoint{Service: "unknown_service"}
	var shared []Tag
	err := fields(m, func(num int, _ uint64, s string) error {
		if num != 1 {
			return nil
		}
		return fields(s, func(num int, _ uint64, s string) error {
			if num != 1 {
				return nil
			}
			t, err := attribute(s)
			switch {
			case err != nil:
			case t.Key != "service.name":
				shared = appendTag(shared, t)
			case t.Value != "":
				local.Service = t.Value
			}
			return err
		})
	})
	if err != nil {
		return err
	}
	return fields(m, func(num int, _ uint64, s string) error {
		if num == 2 {
			return p.scope(s, local, shared)
		}
		return nil
	})
}

// scope reads ScopeSpans.
func (p *Parsed) scope(m string, local Endpoint, shared []Tag) error {
	n := 0
	err := fields(m, func(num int, _ uint64, s string) error {
		switch num {
		case 1:
			return fields(s, func(num int, _ uint64, s string) error {
				if num == 1 && s != "" {
					shared = appendTag(shared, Tag{"otel.scope.name", s})
				} else if num == 2 && s != "" {
					shared = appendTag(shared, Tag{"otel.scope.version", s})
				}
				return nil
			})
		case 2:
			n++
		}
		return nil
	})
	if err != nil {
		return err
	}
	if len(p.Spans)+p.Invalid+n > MaxSpans {
		return ErrTooMany
	}
	p.Spans = slices.Grow(p.Spans, n)
	return fields(m, func(num int, _ uint64, s string) error {
		if num != 2 {
			return nil
		}
		p.Spans = append(p.Spans, Span{Local: local})
		if err := p.Spans[len(p.Spans)-1].fromOTLP(s, shared); err != nil {
			p.Spans = p.Spans[:len(p.Spans)-1]
			p.reject(err)
		}
		return nil
	})
}

// kinds is indexed by OTLP's number.
var kinds = [...]Kind{Internal, Internal, Server, Client, Producer, Consumer}

var droppedKeys = map[int]string{
	10: "otel.dropped_attributes_count", 12: "otel.dropped_events_count", 14: "otel.dropped_links_count",
}

// fromOTLP reads a span. An error says why it is not valid.
func (s *Span) fromOTLP(m string, shared []Tag) error {
	var start, end, code uint64
	var state, message string
	var peer peer
	ok := true
	s.Tags = append(make([]Tag, 0, len(shared)+8), shared...)
	err := fields(m, func(num int, v uint64, f string) error {
		switch num {
		case 1:
			s.Trace, ok = traceID(f), ok && len(f) == 16
		case 2:
			s.ID, ok = ID(beUint64(f)), ok && len(f) == 8
		case 3:
			state = f
		case 4:
			s.Parent, ok = ID(beUint64(f)), ok && (len(f) == 8 || f == "")
		case 5:
			s.Name = f
		case 6:
			if v < uint64(len(kinds)) {
				s.Kind = kinds[v]
			}
		case 7:
			start = v
		case 8:
			end = v
		case 9:
			t, err := attribute(f)
			peer.see(t.Key, t.Value)
			// In Zipkin's model a span with a tag of this name has failed, so only the status may set it.
			if t.Key != "error" {
				s.Tags = appendTag(s.Tags, t)
			}
			return err
		case 10, 12, 14:
			if v > 0 {
				s.Tags = appendTag(s.Tags, Tag{droppedKeys[num], strconv.FormatUint(v, 10)})
			}
		case 11:
			return s.event(f)
		case 15:
			return fields(f, func(num int, v uint64, f string) error {
				switch num {
				case 2:
					message = f
				case 3:
					code = v
				}
				return nil
			})
		}
		return nil
	})
	s.Start = micros(start)
	if start != 0 && end >= start {
		s.Duration = max(1, micros(end-start)) // Zipkin reads 0 as unknown
	}
	s.Remote = peer.endpoint(s.Kind)
	s.status(code, message)
	if state != "" {
		s.Tags = append(s.Tags, Tag{"w3c.tracestate", state})
	}
	switch {
	case err != nil:
		return errSpan
	case !ok || s.Trace == (TraceID{}) || s.ID == 0:
		return errIDs
	}
	return nil
}

// status sets the tags for an OTLP status: code 1 is OK, 2 is an error.
func (s *Span) status(code uint64, message string) {
	switch code {
	case 1:
		s.Tags = append(s.Tags, Tag{"otel.status_code", "OK"})
	case 2:
		s.Tags = append(s.Tags, Tag{"otel.status_code", "ERROR"}, Tag{"error", message})
	}
}

// appendTag stops one after the limit: Clean then sees that there were too many.
func appendTag(tags []Tag, t Tag) []Tag {
	if len(tags) > MaxTags {
		return tags
	}
	return append(tags, t)
}

// event reads a Span.Event into an annotation: the name, or the name and the attributes as JSON.
func (s *Span) event(m string) error {
	if len(s.Annotations) > MaxNotes {
		return nil
	}
	var a Annotation
	var attrs map[string]any
	err := fields(m, func(num int, v uint64, f string) error {
		switch num {
		case 1:
			a.At = micros(v)
		case 2:
			a.Value = f
		case 3:
			if attrs == nil {
				attrs = make(map[string]any)
			}
			return member(attrs, f, 0)
		}
		return nil
	})
	if attrs != nil {
		name, _ := json.Marshal(a.Value)
		list, _ := json.Marshal(attrs)
		a.Value = string(name) + ": " + string(list)
	}
	s.Annotations = append(s.Annotations, a)
	return err
}

func traceID(s string) TraceID {
	if len(s) != 16 {
		return TraceID{}
	}
	return TraceID{beUint64(s[:8]), beUint64(s[8:])}
}

// beUint64 reads eight bytes, big-endian. It returns 0 for any other length.
func beUint64(s string) (v uint64) {
	if len(s) != 8 {
		return 0
	}
	for i := range 8 {
		v = v<<8 | uint64(s[i])
	}
	return v
}

func micros(nanos uint64) int64 { return int64(nanos / 1000) }
