package span

import (
	"bytes"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"unicode/utf8"

	collector "go.opentelemetry.io/proto/otlp/collector/trace/v1"
	otlppb "go.opentelemetry.io/proto/otlp/trace/v1"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
)

// maxObjects bounds the objects and lists in a JSON request, because each takes much more memory than its two bytes.
const maxObjects = 256 << 10

func tooManyObjects(b []byte) bool {
	n := 0
	for _, c := range b {
		if c == '{' || c == '[' {
			n++
		}
	}
	return n > maxObjects
}

var fromJSON = protojson.UnmarshalOptions{DiscardUnknown: true, RecursionLimit: 3*maxDepth + 16}

// ParseOTLPJSON reads an ExportTraceServiceRequest in OTLP's JSON. In it ids are hex, where protobuf's JSON has base64.
func ParseOTLPJSON(b []byte) (Parsed, error) {
	if tooManyObjects(b) {
		return Parsed{}, ErrTooMany
	}
	if !utf8.Valid(b) {
		b = bytes.ToValidUTF8(b, []byte("\uFFFD"))
	}
	var bad Parsed
	req := new(collector.ExportTraceServiceRequest)
	if err := fromJSON.Unmarshal(b, req); err != nil {
		if b, bad = withoutBadSpans(b); b == nil {
			return Parsed{}, fmt.Errorf("reading OTLP JSON: %w", err)
		}
		req.Reset()
		if err := fromJSON.Unmarshal(b, req); err != nil {
			return Parsed{}, fmt.Errorf("reading OTLP JSON: %w", err)
		}
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
		return Parsed{}, fmt.Errorf("reading OTLP JSON: %w", err)
	}
	p, err := ParseOTLP(wire)
	for range bad.Invalid {
		p.reject(bad.Reason)
	}
	return p, err
}

// withoutBadSpans returns a request without the spans that cannot be read alone, and their number and reason. It
// returns nil if the request is not one at all.
func withoutBadSpans(b []byte) (good []byte, bad Parsed) {
	var req struct {
		ResourceSpans []struct {
			Resource   json.RawMessage `json:"resource,omitempty"`
			ScopeSpans []struct {
				Scope json.RawMessage   `json:"scope,omitempty"`
				Spans []json.RawMessage `json:"spans,omitempty"`
			} `json:"scopeSpans,omitempty"`
		} `json:"resourceSpans,omitempty"`
	}
	if json.Unmarshal(b, &req) != nil {
		return nil, bad
	}
	for _, r := range req.ResourceSpans {
		for i := range r.ScopeSpans {
			sc := &r.ScopeSpans[i]
			kept := sc.Spans[:0]
			for _, s := range sc.Spans {
				s = replaceSurrogates(s)
				if err := fromJSON.Unmarshal(s, new(otlppb.Span)); err != nil {
					bad.reject(fmt.Errorf("reading a span in OTLP JSON: %w", err))
					continue
				}
				kept = append(kept, s)
			}
			sc.Spans = kept
		}
	}
	good, err := json.Marshal(req)
	if err != nil {
		return nil, bad
	}
	return good, bad
}

// replaceSurrogates replaces halves of surrogate pairs by U+FFFD. JavaScript writes them as escapes; protojson refuses
// them.
func replaceSurrogates(b []byte) []byte {
	d := json.NewDecoder(bytes.NewReader(b))
	d.UseNumber()
	var v any
	if d.Decode(&v) != nil {
		return b
	}
	replaced, err := json.Marshal(v)
	if err != nil {
		return b
	}
	return replaced
}

// hexID undoes what the parser did: hex digits are also base64 digits, and an id's length is a whole number of base64
// groups, so that encoding again returns the text. Text that is not hex becomes an id of a wrong length, which is
// refused.
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
