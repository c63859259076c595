package trace

import (
	"math"
	"strings"

	"go.opentelemetry.io/otel/attribute"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
)

// The functions of this file do what OpenTelemetry's SDK does to attributes before an exporter gets them.

// maxNormalDepth is how many lists and maps may be inside of each other.
const maxNormalDepth = sdktrace.DefaultAttributeValueDepthLimit

// limited makes the values of attributes normal, in place, and returns the first limit of them and the number of the
// others. The text of events and links is not cut here.
func limited(attrs []attribute.KeyValue, limit int) (kept []attribute.KeyValue, dropped int) {
	if limit >= 0 && len(attrs) > limit {
		attrs, dropped = attrs[:limit], len(attrs)-limit
	}
	for i := range attrs {
		attrs[i].Value = normal(attrs[i].Value, math.MaxInt, maxNormalDepth)
	}
	return attrs, dropped
}

// normalSet makes the values of a set normal.
func normalSet(set attribute.Set) attribute.Set {
	if set.Len() == 0 {
		return set
	}
	attrs := set.ToSlice()
	attrs, _ = limited(attrs, len(attrs))
	return attribute.NewSet(attrs...)
}

// isNormal reports whether normal has nothing to do for an attribute of a span. That is so for most of them.
func isNormal(v attribute.Value) bool {
	return v.Type() <= attribute.STRING && len(v.AsString()) <= maxValue // no list, map or bytes
}

// normal returns a value with the last of equal keys of a map, without the lists and maps that are deeper than depth,
// and with text of at most longest characters and byte slices of at most longest bytes.
func normal(v attribute.Value, longest, depth int) attribute.Value {
	switch v.Type() {
	case attribute.STRING:
		if s := v.AsString(); len(s) > longest {
			return attribute.StringValue(firstChars(s, longest))
		}
		return v
	case attribute.EMPTY, attribute.BOOL, attribute.INT64, attribute.FLOAT64:
		return v
	}
	if depth == 0 {
		return attribute.Value{}
	}
	switch v.Type() {
	case attribute.BYTESLICE:
		if s := v.AsString(); len(s) > longest { // the bytes, without a copy
			return attribute.ByteSliceValue([]byte(s[:longest]))
		}
	case attribute.STRINGSLICE:
		list := v.AsStringSlice()
		for i, s := range list {
			if len(s) > longest {
				list[i] = firstChars(s, longest)
			}
		}
		return attribute.StringSliceValue(list)
	case attribute.SLICE:
		list := v.AsSlice()
		for i := range list {
			list[i] = normal(list[i], longest, depth-1)
		}
		return attribute.SliceValue(list...)
	case attribute.MAP:
		list := v.AsMap() // sorted by key, in a stable way
		kept := list[:0]
		for i, kv := range list {
			if i+1 < len(list) && list[i+1].Key == kv.Key {
				continue
			}
			kv.Value = normal(kv.Value, longest, depth-1)
			kept = append(kept, kv)
		}
		return attribute.MapValue(kept...)
	}
	return v
}

// firstChars returns the first n valid characters of s, which has more bytes. Bytes that are not UTF-8 do not count.
func firstChars(s string, n int) string {
	s = strings.ToValidUTF8(s, "")
	for i := range s {
		if n == 0 {
			return s[:i]
		}
		n--
	}
	return s
}
