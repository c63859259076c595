package span

import (
	"encoding/base64"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"slices"
	"strconv"

	collector "go.opentelemetry.io/proto/otlp/collector/trace/v1"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
)

// OTLP is read from the wire straight into the model. Decoding into generated types first would cost most of the time
// of an ingest, and memory: an empty span is two bytes on the wire and hundreds in memory.

// maxDepth bounds nested attribute values.
const maxDepth = 32

// MaxSpans is the most spans in one request.
const MaxSpans = 16 << 10

// maxObjects bounds what a JSON request may make the parser allocate.
const maxObjects = 256 << 10

// ErrTooMany refuses a request with more than MaxSpans spans or an absurd number of parts.
var ErrTooMany = fmt.Errorf("reading spans: more than %d in one request; send smaller batches", MaxSpans)

var errWire = errors.New("reading OTLP: this is not an ExportTraceServiceRequest in protobuf")

// ParseOTLPJSON reads an OTLP/JSON request. In it ids are hex, where protobuf's JSON has base64.
func ParseOTLPJSON(b []byte) (spans []Span, invalid int, err error) {
	if tooManyObjects(b) {
		return nil, 0, ErrTooMany
	}
	req := new(collector.ExportTraceServiceRequest)
	opts := protojson.UnmarshalOptions{DiscardUnknown: true, RecursionLimit: 3*maxDepth + 16}
	if err := opts.Unmarshal(b, req); err != nil {
		return nil, 0, fmt.Errorf("reading OTLP JSON: %w", err)
	}
	for _, r := range req.ResourceSpans {
		for _, sc := range r.GetScopeSpans() {
			for _, s := range sc.GetSpans() {
				if s != nil {
					s.TraceId, s.SpanId, s.ParentSpanId = hexID(s.TraceId), hexID(s.SpanId), hexID(s.ParentSpanId)
				}
			}
		}
	}
	wire, err := proto.Marshal(req)
	if err != nil {
		return nil, 0, fmt.Errorf("reading OTLP JSON: %w", err)
	}
	return ParseOTLP(wire)
}

func tooManyObjects(b []byte) bool {
	n := 0
	for _, c := range b {
		if c == '{' || c == '[' {
			n++
		}
	}
	return n > maxObjects
}

// hexID undoes what the parser did: hex digits are also base64 digits, and an id's length is a whole number of base64
// groups, so encoding again gives back the text. What is not hex becomes an id of a wrong length, which is refused.
func hexID(b []byte) []byte {
	if len(b) == 0 {
		return nil
	}
	id, err := hex.DecodeString(base64.StdEncoding.EncodeToString(b))
	if err != nil {
		return []byte{0}
	}
	return id
}

// fields calls fn for each field of an encoded message: v holds numbers, s holds bytes.
func fields(m string, fn func(num int, v uint64, s string) error) error {
	for len(m) > 0 {
		tag, n := uvarint(m)
		if n == 0 || tag>>3 == 0 {
			return errWire
		}
		m = m[n:]
		var v uint64
		var s string
		switch tag & 7 {
		case 0:
			if v, n = uvarint(m); n == 0 {
				return errWire
			}
		case 1, 5:
			n = 8
			if tag&7 == 5 {
				n = 4
			}
			if len(m) < n {
				return errWire
			}
			for i := n - 1; i >= 0; i-- {
				v = v<<8 | uint64(m[i])
			}
		case 2:
			size, k := uvarint(m)
			if k == 0 || size > uint64(len(m)-k) {
				return errWire
			}
			s, n = m[k:k+int(size)], k+int(size)
		default:
			return errWire
		}
		m = m[n:]
		if err := fn(int(tag>>3), v, s); err != nil {
			return err
		}
	}
	return nil
}

// uvarint returns the length 0 for what is not one.
func uvarint(m string) (v uint64, n int) {
	for i := 0; i < len(m) && i < binary.MaxVarintLen64; i++ {
		v |= uint64(m[i]&0x7f) << (7 * i)
		if m[i] < 0x80 {
			return v, i + 1
		}
	}
	return 0, 0
}

// ParseOTLP reads an ExportTraceServiceRequest. Spans without valid ids are left out and counted. The spans share memory
// with one copy of b.
func ParseOTLP(b []byte) ([]Span, int, error) {
	var p otlp
	err := fields(string(b), func(num int, _ uint64, s string) error {
		if num == 1 {
			return p.resource(s)
		}
		return nil
	})
	if err != nil {
		return nil, 0, err
	}
	return p.spans, p.invalid, nil
}

// otlp collects the spans of a request.
type otlp struct {
	spans   []Span
	invalid int
}

// resource reads ResourceSpans. What all spans share may come behind them, so it is looked for first.
func (p *otlp) resource(m string) error {
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
func (p *otlp) scope(m string, local Endpoint, shared []Tag) error {
	shared = shared[:len(shared):len(shared)]
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
	if len(p.spans)+p.invalid+n > MaxSpans {
		return ErrTooMany
	}
	p.spans = slices.Grow(p.spans, n)
	return fields(m, func(num int, _ uint64, s string) error {
		if num != 2 {
			return nil
		}
		p.spans = append(p.spans, Span{Local: local})
		ok, err := p.spans[len(p.spans)-1].fromOTLP(s, shared)
		if !ok {
			p.spans = p.spans[:len(p.spans)-1]
			p.invalid++
		}
		return err
	})
}

// kinds is indexed by OTLP's number.
var kinds = [...]Kind{Internal, Internal, Server, Client, Producer, Consumer}

var droppedKeys = map[int]string{
	10: "otel.dropped_attributes_count", 12: "otel.dropped_events_count", 14: "otel.dropped_links_count",
}

// fromOTLP reads a span. It reports whether the ids are valid.
func (s *Span) fromOTLP(m string, shared []Tag) (ok bool, err error) {
	var start, end, code uint64
	var state, message string
	var peer peer
	ok = true
	s.Tags = append(make([]Tag, 0, len(shared)+8), shared...)
	err = fields(m, func(num int, v uint64, f string) error {
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
			// For Zipkin the mere presence of this tag is a failure, so it says what the status says.
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
	return ok && s.Trace != (TraceID{}) && s.ID != 0, err
}

// status sets what Zipkin knows of a status: 1 is OK, 2 is an error.
func (s *Span) status(code uint64, message string) {
	switch code {
	case 1:
		s.Tags = append(s.Tags, Tag{"otel.status_code", "OK"})
	case 2:
		s.Tags = append(s.Tags, Tag{"otel.status_code", "ERROR"}, Tag{"error", message})
	}
}

// appendTag stops one past the limit: Trim then sees that there were too many.
func appendTag(tags []Tag, t Tag) []Tag {
	if len(tags) > MaxTags {
		return tags
	}
	return append(tags, t)
}

// event reads a Span.Event: its name, with its attributes behind it.
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

// beUint64 returns 0 for what has not eight bytes.
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

// peer collects what attributes say about the other side, best first.
type peer struct {
	service string // given by name
	address string // a host name or an address
	socket  string // the address of the connection
	db      string
	port    uint64
}

func (p *peer) see(key, v string) {
	switch key {
	case "service.peer.name", "peer.service":
		p.service = v
	case "server.address", "net.peer.name":
		p.address = v
	case "network.peer.address", "net.sock.peer.addr":
		p.socket = v
	case "network.peer.port", "server.port", "net.peer.port":
		if n, err := strconv.ParseUint(v, 10, 16); err == nil {
			p.port = n
		}
	case "db.name", "db.namespace":
		p.db = v
	}
}

// endpoint ranks the names as the specification does. Who serves is described by server.address on both sides, so only
// a caller may read it as the other side.
func (p *peer) endpoint(k Kind) Endpoint {
	var e Endpoint
	calls := k == Client || k == Producer
	if !calls && p.service == "" {
		return e
	}
	e.setIP(p.socket)
	e.Service = p.service
	if calls {
		for _, name := range []string{p.address, p.socket, p.db} {
			if e.Service == "" && name != "" && !e.setIP(name) {
				e.Service = name
			}
		}
		e.Port = uint16(p.port)
	}
	return e
}

// attribute reads a KeyValue as a tag.
func attribute(m string) (t Tag, err error) {
	err = fields(m, func(num int, _ uint64, f string) (err error) {
		switch num {
		case 1:
			t.Key = f
		case 2:
			t.Value, err = text(f)
		}
		return err
	})
	return t, err
}

// text writes an AnyValue as a tag: strings as they are, numbers in decimal, bytes in base64, the rest as JSON.
func text(m string) (string, error) {
	if len(m) > 0 && m[0] == 1<<3|2 { // nearly always it is a string and nothing else
		if size, n := uvarint(m[1:]); n > 0 && size == uint64(len(m)-1-n) {
			return m[1+n:], nil
		}
	}
	v, err := plain(m, 0)
	switch v := v.(type) {
	case nil:
		return "", err
	case string:
		return v, err
	case bool:
		return strconv.FormatBool(v), err
	case int64:
		return strconv.FormatInt(v, 10), err
	case float64:
		return strconv.FormatFloat(v, 'g', -1, 64), err
	}
	b, _ := json.Marshal(v) // plain returns nothing that JSON cannot say
	return string(b), err
}

// plain turns an AnyValue into what encoding/json writes.
func plain(m string, depth int) (out any, err error) {
	if depth > maxDepth {
		return "...", nil
	}
	err = fields(m, func(num int, v uint64, f string) (err error) {
		switch num {
		case 1:
			out = f
		case 2:
			out = v != 0
		case 3:
			out = int64(v)
		case 4:
			out = math.Float64frombits(v)
			if d := math.Float64frombits(v); depth > 0 && (math.IsNaN(d) || math.IsInf(d, 0)) {
				out = strconv.FormatFloat(d, 'g', -1, 64)
			}
		case 5:
			out, err = array(f, depth+1)
		case 6:
			out, err = object(f, depth+1)
		case 7:
			out = base64.StdEncoding.EncodeToString([]byte(f))
		}
		return err
	})
	return out, err
}

func array(m string, depth int) (any, error) {
	list := []any{}
	err := fields(m, func(num int, _ uint64, f string) error {
		if num != 1 || len(list) >= MaxTags {
			return nil
		}
		v, err := plain(f, depth)
		list = append(list, v)
		return err
	})
	return list, err
}

func object(m string, depth int) (any, error) {
	set := make(map[string]any)
	err := fields(m, func(num int, _ uint64, f string) error {
		if num != 1 {
			return nil
		}
		return member(set, f, depth)
	})
	return set, err
}

// member reads a KeyValue into an object.
func member(set map[string]any, m string, depth int) error {
	if len(set) >= MaxTags {
		return nil
	}
	var key string
	var value any
	err := fields(m, func(num int, _ uint64, f string) (err error) {
		switch num {
		case 1:
			key = f
		case 2:
			value, err = plain(f, max(1, depth))
		}
		return err
	})
	set[key] = value
	return err
}
