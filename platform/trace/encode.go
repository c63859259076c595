package trace

import (
	"encoding/binary"
	"math"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/sdk/instrumentation"
	"go.opentelemetry.io/otel/sdk/resource"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/trace"
	otlp "go.opentelemetry.io/proto/otlp/trace/v1"

	"bijou.dev/platform/text"
)

// The functions of this file append messages of OTLP to bytes, as protobuf encodes them. They make text valid and
// bounded while they do so: see clean.go.

// Wire types of protobuf.
const (
	wireVarint  = 0
	wireFixed64 = 1
	wireBytes   = 2 // also text and messages
	wireFixed32 = 5
)

// Tags of the fields that are used: the number and the wire type. Those of a span and an enum's values are in
// opentelemetry/proto/trace/v1/trace.proto, those of attributes in opentelemetry/proto/common/v1/common.proto.
const (
	requestResourceSpans = 1<<3 | wireBytes

	resourceSpansResource   = 1<<3 | wireBytes
	resourceSpansScopeSpans = 2<<3 | wireBytes
	resourceSpansSchemaURL  = 3<<3 | wireBytes
	resourceAttributes      = 1<<3 | wireBytes

	scopeSpansScope     = 1<<3 | wireBytes
	scopeSpansSpans     = 2<<3 | wireBytes
	scopeSpansSchemaURL = 3<<3 | wireBytes
	scopeName           = 1<<3 | wireBytes
	scopeVersion        = 2<<3 | wireBytes
	scopeAttributes     = 3<<3 | wireBytes

	spanTraceID           = 1<<3 | wireBytes
	spanSpanID            = 2<<3 | wireBytes
	spanTraceState        = 3<<3 | wireBytes
	spanParentSpanID      = 4<<3 | wireBytes
	spanName              = 5<<3 | wireBytes
	spanKind              = 6<<3 | wireVarint
	spanStart             = 7<<3 | wireFixed64
	spanEnd               = 8<<3 | wireFixed64
	spanAttributes        = 9<<3 | wireBytes
	spanDroppedAttributes = 10<<3 | wireVarint
	spanEvents            = 11<<3 | wireBytes
	spanDroppedEvents     = 12<<3 | wireVarint
	spanLinks             = 13<<3 | wireBytes
	spanDroppedLinks      = 14<<3 | wireVarint
	spanStatus            = 15<<3 | wireBytes
	spanFlags             = 16<<3 | wireFixed32 // takes two bytes

	eventTime              = 1<<3 | wireFixed64
	eventName              = 2<<3 | wireBytes
	eventAttributes        = 3<<3 | wireBytes
	eventDroppedAttributes = 4<<3 | wireVarint

	linkTraceID           = 1<<3 | wireBytes
	linkSpanID            = 2<<3 | wireBytes
	linkAttributes        = 4<<3 | wireBytes
	linkDroppedAttributes = 5<<3 | wireVarint
	linkFlags             = 6<<3 | wireFixed32

	statusMessage = 2<<3 | wireBytes
	statusCode    = 3<<3 | wireVarint

	keyValueKey   = 1<<3 | wireBytes
	keyValueValue = 2<<3 | wireBytes
	listValues    = 1<<3 | wireBytes // of a list and of a map

	valueString = 1<<3 | wireBytes
	valueBool   = 2<<3 | wireVarint
	valueInt    = 3<<3 | wireVarint
	valueDouble = 4<<3 | wireFixed64
	valueList   = 5<<3 | wireBytes
	valueMap    = 6<<3 | wireBytes
	valueBytes  = 7<<3 | wireBytes
)

// appendRequest appends an ExportTraceServiceRequest with all spans. The resource is what encodeResource returned. When
// the request becomes longer than maxRequest, the rest is left out.
func appendRequest(b, resource []byte, spans []*record) []byte {
	b, all := begin(b, requestResourceSpans)
	b = append(b, resource...)
	for i, r := range spans {
		if hasTracer(spans[:i], r.tracer) {
			continue
		}
		var scope int
		b, scope = begin(b, resourceSpansScopeSpans)
		b = append(b, r.tracer.encoded...)
		for _, s := range spans[i:] {
			if s.tracer == r.tracer && len(b) <= maxRequest {
				b = appendSpan(b, s)
			}
		}
		b = end(b, scope)
	}
	return end(b, all)
}

// hasTracer reports whether a tracer made one of the spans. Most spans of a batch are of one tracer.
func hasTracer(spans []*record, t *tracer) bool {
	for _, s := range spans {
		if s.tracer == t {
			return true
		}
	}
	return false
}

// encodeResource returns the fields of ResourceSpans that are the same in all requests.
func encodeResource(r *resource.Resource) []byte {
	b, start := begin(nil, resourceSpansResource)
	b = appendAttributes(b, resourceAttributes, r.Attributes(), 0)
	b = end(b, start)
	// The schema is ours, or that of the environment.
	return appendString(b, resourceSpansSchemaURL, r.SchemaURL())
}

// encodeScope returns the fields of ScopeSpans that are the same for all spans of a tracer.
func encodeScope(s instrumentation.Scope) []byte {
	b, start := begin(nil, scopeSpansScope)
	b = appendString(b, scopeName, text.Bound(s.Name, maxName))
	b = appendString(b, scopeVersion, text.Bound(s.Version, maxName))
	b = appendAttributes(b, scopeAttributes, s.Attributes.ToSlice(), 0)
	b = end(b, start)
	return appendString(b, scopeSpansSchemaURL, text.Bound(s.SchemaURL, maxValue))
}

func appendSpan(b []byte, r *record) []byte {
	b, start := begin(b, scopeSpansSpans)
	tid, sid, psid := r.context.TraceID(), r.context.SpanID(), r.parent.SpanID()
	b = append(b, spanTraceID, byte(len(tid)))
	b = append(b, tid[:]...)
	b = append(b, spanSpanID, byte(len(sid)))
	b = append(b, sid[:]...)
	b = appendString(b, spanTraceState, boundState(r.context.TraceState().String()))
	if psid.IsValid() {
		b = append(b, spanParentSpanID, byte(len(psid)))
		b = append(b, psid[:]...)
	}
	b = appendString(b, spanName, text.Bound(r.name, maxName))
	b = append(b, spanKind, byte(r.kind)) // the API has the numbers of OTLP
	b = appendTime(b, spanStart, r.start.UnixNano())
	b = appendTime(b, spanEnd, r.end.UnixNano())
	b = appendAttributes(b, spanAttributes, r.attributes, 0)
	b = appendCount(b, spanDroppedAttributes, r.droppedAttributes)
	for i := range r.events {
		b = appendEvent(b, &r.events[i])
	}
	b = appendCount(b, spanDroppedEvents, r.droppedEvents)
	for i := range r.links {
		b = appendLink(b, &r.links[i])
	}
	b = appendCount(b, spanDroppedLinks, r.droppedLinks)
	b = appendStatus(b, r.status)
	b = append(b, spanFlags&0x7f|0x80, spanFlags>>7)
	b = binary.LittleEndian.AppendUint32(b, flagsOf(r.context.TraceFlags(), r.parent))
	return end(b, start)
}

// flagsOf returns the flags of a span or a link in OTLP: those of the trace, and whether parent is in another process.
func flagsOf(f trace.TraceFlags, parent trace.SpanContext) uint32 {
	flags := uint32(f) | uint32(otlp.SpanFlags_SPAN_FLAGS_CONTEXT_HAS_IS_REMOTE_MASK)
	if parent.IsRemote() {
		flags |= uint32(otlp.SpanFlags_SPAN_FLAGS_CONTEXT_IS_REMOTE_MASK)
	}
	return flags
}

func appendEvent(b []byte, e *sdktrace.Event) []byte {
	b, start := begin(b, spanEvents)
	b = appendTime(b, eventTime, e.Time.UnixNano())
	b = appendString(b, eventName, text.Bound(e.Name, maxName))
	b = appendAttributes(b, eventAttributes, e.Attributes, 0)
	b = appendCount(b, eventDroppedAttributes, e.DroppedAttributeCount)
	return end(b, start)
}

// appendLink leaves out the tracestate of the link, as OpenTelemetry's exporter does (as of v1.47).
func appendLink(b []byte, l *sdktrace.Link) []byte {
	b, start := begin(b, spanLinks)
	tid, sid := l.SpanContext.TraceID(), l.SpanContext.SpanID()
	b = append(b, linkTraceID, byte(len(tid)))
	b = append(b, tid[:]...)
	b = append(b, linkSpanID, byte(len(sid)))
	b = append(b, sid[:]...)
	b = appendAttributes(b, linkAttributes, l.Attributes, 0)
	b = appendCount(b, linkDroppedAttributes, l.DroppedAttributeCount)
	b = append(b, linkFlags)
	b = binary.LittleEndian.AppendUint32(b, flagsOf(l.SpanContext.TraceFlags(), l.SpanContext))
	return end(b, start)
}

func appendStatus(b []byte, s sdktrace.Status) []byte {
	b, start := begin(b, spanStatus)
	b = appendString(b, statusMessage, text.Bound(s.Description, maxValue))
	switch s.Code {
	case codes.Ok:
		b = append(b, statusCode, byte(otlp.Status_STATUS_CODE_OK))
	case codes.Error:
		b = append(b, statusCode, byte(otlp.Status_STATUS_CODE_ERROR))
	}
	return end(b, start)
}

// appendAttributes appends each attribute as a field with the tag. Depth is the number of lists and maps around them.
func appendAttributes(b []byte, tag byte, attrs []attribute.KeyValue, depth int) []byte {
	for i := range attrs {
		if len(b) > maxRequest {
			break
		}
		var all, value int
		b, all = begin(b, tag)
		b = appendString(b, keyValueKey, text.Bound(string(attrs[i].Key), maxName))
		b, value = begin(b, keyValueValue)
		b = appendValue(b, attrs[i].Value, depth)
		b = end(b, value)
		b = end(b, all)
	}
	return b
}

// appendValue appends the fields of an AnyValue. An empty one has none.
func appendValue(b []byte, v attribute.Value, depth int) []byte {
	switch v.Type() {
	case attribute.STRING:
		s := text.Bound(v.AsString(), maxValue)
		return append(binary.AppendUvarint(append(b, valueString), uint64(len(s))), s...)
	case attribute.BOOL:
		if v.AsBool() {
			return append(b, valueBool, 1)
		}
		return append(b, valueBool, 0)
	case attribute.INT64:
		return binary.AppendUvarint(append(b, valueInt), uint64(v.AsInt64()))
	case attribute.FLOAT64:
		return binary.LittleEndian.AppendUint64(append(b, valueDouble), math.Float64bits(v.AsFloat64()))
	case attribute.BYTESLICE:
		s := v.AsString() // the bytes, without a copy
		s = s[:min(len(s), maxValue)]
		return append(binary.AppendUvarint(append(b, valueBytes), uint64(len(s))), s...)
	case attribute.EMPTY:
		return b
	}
	if depth == maxDepth {
		return b
	}
	if v.Type() == attribute.MAP {
		list := v.AsMap()
		b, start := begin(b, valueMap)
		b = appendAttributes(b, listValues, list[:min(len(list), maxList)], depth+1)
		return end(b, start)
	}
	b, start := begin(b, valueList)
	switch v.Type() {
	case attribute.BOOLSLICE:
		b = appendList(b, v.AsBoolSlice(), attribute.BoolValue, depth+1)
	case attribute.INT64SLICE:
		b = appendList(b, v.AsInt64Slice(), attribute.Int64Value, depth+1)
	case attribute.FLOAT64SLICE:
		b = appendList(b, v.AsFloat64Slice(), attribute.Float64Value, depth+1)
	case attribute.STRINGSLICE:
		b = appendList(b, v.AsStringSlice(), attribute.StringValue, depth+1)
	case attribute.SLICE:
		b = appendList(b, v.AsSlice(), func(v attribute.Value) attribute.Value { return v }, depth+1)
	}
	return end(b, start)
}

func appendList[T any](b []byte, list []T, value func(T) attribute.Value, depth int) []byte {
	for _, element := range list[:min(len(list), maxList)] {
		if len(b) > maxRequest {
			break
		}
		var start int
		b, start = begin(b, listValues)
		b = appendValue(b, value(element), depth)
		b = end(b, start)
	}
	return b
}

// appendString appends a field, which is left out when it is empty.
func appendString(b []byte, tag byte, s string) []byte {
	if s == "" {
		return b
	}
	return append(binary.AppendUvarint(append(b, tag), uint64(len(s))), s...)
}

// appendCount appends a field, which is left out when it is zero.
func appendCount(b []byte, tag byte, n int) []byte {
	if n == 0 {
		return b
	}
	return binary.AppendUvarint(append(b, tag), uint64(min(n, math.MaxUint32)))
}

// appendTime appends nanoseconds since 1970, which are left out when they are zero or less.
func appendTime(b []byte, tag byte, nanos int64) []byte {
	if nanos <= 0 {
		return b
	}
	return binary.LittleEndian.AppendUint64(append(b, tag), uint64(nanos))
}

// begin appends the tag of a message, and one byte for its length. The message starts at start.
func begin(b []byte, tag byte) (_ []byte, start int) { return append(b, tag, 0), len(b) + 2 }

// end sets the length of the message that starts at start and goes to the end of b. If the length needs more than one
// byte, the message is moved.
func end(b []byte, start int) []byte {
	n := len(b) - start
	if n < 0x80 {
		b[start-1] = byte(n)
		return b
	}
	var length [binary.MaxVarintLen64]byte
	more := binary.PutUvarint(length[:], uint64(n)) - 1
	b = append(b, length[:more]...) // any bytes: they are overwritten
	copy(b[start+more:], b[start:start+n])
	copy(b[start-1:], length[:more+1])
	return b
}
