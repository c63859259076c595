package trace_test

import (
	"strings"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/sdk/instrumentation"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	oteltrace "go.opentelemetry.io/otel/trace"
	collector "go.opentelemetry.io/proto/otlp/collector/trace/v1"
	common "go.opentelemetry.io/proto/otlp/common/v1"
	resource "go.opentelemetry.io/proto/otlp/resource/v1"
	otlp "go.opentelemetry.io/proto/otlp/trace/v1"

	"bijou.dev/platform/text"
)

// This file is what our spans are compared with: spans of OpenTelemetry's SDK as messages of protobuf, made as
// exporters/otlp/otlptrace makes them (v1.47), and then made valid and bounded. It is written in the simplest way, with
// the types that protoc generates.

// reference returns the request with which spans of the SDK are sent: one or more, all of one resource.
func reference(spans []sdktrace.ReadOnlySpan) *request {
	of := spans[0].Resource()
	r := &otlp.ResourceSpans{
		SchemaUrl: of.SchemaURL(), Resource: &resource.Resource{Attributes: refAttributes(of.Attributes())},
	}
	scopes := map[instrumentation.Scope]*otlp.ScopeSpans{}
	for _, s := range spans {
		scope := s.InstrumentationScope()
		list := scopes[scope]
		if list == nil {
			list = &otlp.ScopeSpans{SchemaUrl: scope.SchemaURL, Scope: &common.InstrumentationScope{
				Name: scope.Name, Version: scope.Version, Attributes: refAttributes(scope.Attributes.ToSlice()),
			}}
			scopes[scope] = list
			r.ScopeSpans = append(r.ScopeSpans, list)
		}
		list.Spans = append(list.Spans, refSpan(s))
	}
	list := []*otlp.ResourceSpans{r}
	cleanSpans(list)
	return &collector.ExportTraceServiceRequest{ResourceSpans: list}
}

func refSpan(s sdktrace.ReadOnlySpan) *otlp.Span {
	c := s.SpanContext()
	span := &otlp.Span{
		TraceId: refTraceID(c), SpanId: refSpanID(c), TraceState: c.TraceState().String(), Name: s.Name(),
		Kind:              otlp.Span_SpanKind(s.SpanKind()),
		StartTimeUnixNano: uint64(max(0, s.StartTime().UnixNano())), EndTimeUnixNano: uint64(max(0, s.EndTime().UnixNano())),
		Attributes: refAttributes(s.Attributes()), DroppedAttributesCount: uint32(s.DroppedAttributes()),
		DroppedEventsCount: uint32(s.DroppedEvents()), DroppedLinksCount: uint32(s.DroppedLinks()),
		Status: &otlp.Status{Message: s.Status().Description}, Flags: refFlags(c, s.Parent()),
	}
	switch s.Status().Code {
	case codes.Ok:
		span.Status.Code = otlp.Status_STATUS_CODE_OK
	case codes.Error:
		span.Status.Code = otlp.Status_STATUS_CODE_ERROR
	}
	if s.Parent().HasSpanID() {
		span.ParentSpanId = refSpanID(s.Parent())
	}
	for _, e := range s.Events() {
		span.Events = append(span.Events, &otlp.Span_Event{
			Name: e.Name, TimeUnixNano: uint64(max(0, e.Time.UnixNano())), Attributes: refAttributes(e.Attributes),
			DroppedAttributesCount: uint32(e.DroppedAttributeCount),
		})
	}
	for _, l := range s.Links() {
		span.Links = append(span.Links, &otlp.Span_Link{
			TraceId: refTraceID(l.SpanContext), SpanId: refSpanID(l.SpanContext), Attributes: refAttributes(l.Attributes),
			DroppedAttributesCount: uint32(l.DroppedAttributeCount), Flags: refFlags(l.SpanContext, l.SpanContext),
		})
	}
	return span
}

func refTraceID(c oteltrace.SpanContext) []byte {
	id := c.TraceID()
	return id[:]
}

func refSpanID(c oteltrace.SpanContext) []byte {
	id := c.SpanID()
	return id[:]
}

func refFlags(c, parent oteltrace.SpanContext) uint32 {
	flags := uint32(c.TraceFlags()) | uint32(otlp.SpanFlags_SPAN_FLAGS_CONTEXT_HAS_IS_REMOTE_MASK)
	if parent.IsRemote() {
		flags |= uint32(otlp.SpanFlags_SPAN_FLAGS_CONTEXT_IS_REMOTE_MASK)
	}
	return flags
}

func refAttributes(attrs []attribute.KeyValue) []*common.KeyValue {
	list := make([]*common.KeyValue, 0, len(attrs))
	for _, a := range attrs {
		list = append(list, &common.KeyValue{Key: string(a.Key), Value: refValue(a.Value)})
	}
	return list
}

func refValue(v attribute.Value) *common.AnyValue {
	switch v.Type() {
	case attribute.BOOL:
		return &common.AnyValue{Value: &common.AnyValue_BoolValue{BoolValue: v.AsBool()}}
	case attribute.INT64:
		return &common.AnyValue{Value: &common.AnyValue_IntValue{IntValue: v.AsInt64()}}
	case attribute.FLOAT64:
		return &common.AnyValue{Value: &common.AnyValue_DoubleValue{DoubleValue: v.AsFloat64()}}
	case attribute.STRING:
		return &common.AnyValue{Value: &common.AnyValue_StringValue{StringValue: v.AsString()}}
	case attribute.BYTESLICE:
		return &common.AnyValue{Value: &common.AnyValue_BytesValue{BytesValue: v.AsByteSlice()}}
	case attribute.BOOLSLICE:
		return refList(v.AsBoolSlice(), attribute.BoolValue)
	case attribute.INT64SLICE:
		return refList(v.AsInt64Slice(), attribute.Int64Value)
	case attribute.FLOAT64SLICE:
		return refList(v.AsFloat64Slice(), attribute.Float64Value)
	case attribute.STRINGSLICE:
		return refList(v.AsStringSlice(), attribute.StringValue)
	case attribute.SLICE:
		return refList(v.AsSlice(), func(v attribute.Value) attribute.Value { return v })
	case attribute.MAP:
		return &common.AnyValue{Value: &common.AnyValue_KvlistValue{
			KvlistValue: &common.KeyValueList{Values: refAttributes(v.AsMap())},
		}}
	}
	return &common.AnyValue{}
}

func refList[T any](list []T, value func(T) attribute.Value) *common.AnyValue {
	values := &common.ArrayValue{}
	for _, v := range list {
		values.Values = append(values.Values, refValue(value(v)))
	}
	return &common.AnyValue{Value: &common.AnyValue_ArrayValue{ArrayValue: values}}
}

// The limits of what is sent.
const (
	refName   = 512     // bytes of a name or a key
	refText   = 4 << 10 // bytes of a value
	refLength = 256     // elements of a list or map in one value
	refDepth  = 32      // lists and maps inside of each other
)

// cleanSpans makes all text in an export valid and bounded, in place.
func cleanSpans(list []*otlp.ResourceSpans) {
	for _, r := range list {
		cleanAttributes(r.GetResource().GetAttributes(), 0)
		for _, s := range r.ScopeSpans {
			cleanScope(s)
			for _, span := range s.Spans {
				cleanSpan(span)
			}
		}
	}
}

func cleanScope(s *otlp.ScopeSpans) {
	s.SchemaUrl = text.Bound(s.SchemaUrl, refText)
	if s.Scope != nil {
		s.Scope.Name = text.Bound(s.Scope.Name, refName)
		s.Scope.Version = text.Bound(s.Scope.Version, refName)
		cleanAttributes(s.Scope.Attributes, 0)
	}
}

func cleanSpan(s *otlp.Span) {
	s.Name = text.Bound(s.Name, refName)
	s.TraceState = refState(s.TraceState)
	cleanAttributes(s.Attributes, 0)
	for _, e := range s.Events {
		e.Name = text.Bound(e.Name, refName)
		cleanAttributes(e.Attributes, 0)
	}
	for _, l := range s.Links {
		l.TraceState = refState(l.TraceState)
		cleanAttributes(l.Attributes, 0)
	}
	if s.Status != nil {
		s.Status.Message = text.Bound(s.Status.Message, refText)
	}
}

// refState returns as many whole members of a tracestate as fit.
func refState(list string) string {
	for len(list) > refText {
		list = list[:max(0, strings.LastIndexByte(list, ','))]
	}
	return text.Bound(list, refText)
}

func cleanAttributes(list []*common.KeyValue, depth int) {
	for _, kv := range list {
		kv.Key = text.Bound(kv.Key, refName)
		cleanValue(kv.Value, depth)
	}
}

func cleanValue(v *common.AnyValue, depth int) {
	switch value := v.GetValue().(type) {
	case *common.AnyValue_StringValue:
		value.StringValue = text.Bound(value.StringValue, refText)
	case *common.AnyValue_BytesValue:
		value.BytesValue = value.BytesValue[:min(len(value.BytesValue), refText)]
	case *common.AnyValue_ArrayValue:
		if depth == refDepth {
			v.Value = nil
			return
		}
		list := value.ArrayValue
		list.Values = list.Values[:min(len(list.Values), refLength)]
		for _, element := range list.Values {
			cleanValue(element, depth+1)
		}
	case *common.AnyValue_KvlistValue:
		if depth == refDepth {
			v.Value = nil
			return
		}
		list := value.KvlistValue
		list.Values = list.Values[:min(len(list.Values), refLength)]
		cleanAttributes(list.Values, depth+1)
	}
}
