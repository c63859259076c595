package trace

import (
	"strings"

	common "go.opentelemetry.io/proto/otlp/common/v1"
	otlp "go.opentelemetry.io/proto/otlp/trace/v1"

	"bijou.dev/platform/text"
)

// Limits of what one span may carry. Protobuf refuses text that is not UTF-8, and with it the whole batch; a server
// refuses messages that are too large. So text is repaired and cut before it is sent. The trace store has the same
// limits.
const (
	maxName  = 512     // bytes of a name or a key
	maxValue = 4 << 10 // bytes of a value
	maxList  = 256     // elements of a list or map in one value
	maxDepth = 32      // lists and maps inside of each other
)

// cleanSpans makes all text in an export valid and bounded, in place. It allocates nothing when there is nothing to
// repair.
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
	s.SchemaUrl = text.Bound(s.SchemaUrl, maxValue)
	if s.Scope != nil {
		s.Scope.Name = text.Bound(s.Scope.Name, maxName)
		s.Scope.Version = text.Bound(s.Scope.Version, maxName)
		cleanAttributes(s.Scope.Attributes, 0)
	}
}

func cleanSpan(s *otlp.Span) {
	s.Name = text.Bound(s.Name, maxName)
	s.TraceState = boundState(s.TraceState)
	cleanAttributes(s.Attributes, 0)
	for _, e := range s.Events {
		e.Name = text.Bound(e.Name, maxName)
		cleanAttributes(e.Attributes, 0)
	}
	for _, l := range s.Links {
		l.TraceState = boundState(l.TraceState)
		cleanAttributes(l.Attributes, 0)
	}
	if s.Status != nil {
		s.Status.Message = text.Bound(s.Status.Message, maxValue)
	}
}

// boundState returns as many whole members of a tracestate as fit: half of one would be another member, or none.
func boundState(list string) string {
	if len(list) > maxValue {
		list = list[:max(0, strings.LastIndexByte(list[:maxValue+1], ','))]
	}
	return text.Bound(list, maxValue)
}

func cleanAttributes(list []*common.KeyValue, depth int) {
	for _, kv := range list {
		kv.Key = text.Bound(kv.Key, maxName)
		cleanValue(kv.Value, depth)
	}
}

func cleanValue(v *common.AnyValue, depth int) {
	switch value := v.GetValue().(type) {
	case *common.AnyValue_StringValue:
		value.StringValue = text.Bound(value.StringValue, maxValue)
	case *common.AnyValue_BytesValue:
		value.BytesValue = value.BytesValue[:min(len(value.BytesValue), maxValue)]
	case *common.AnyValue_ArrayValue:
		if depth == maxDepth {
			v.Value = nil
			return
		}
		list := value.ArrayValue
		list.Values = list.Values[:min(len(list.Values), maxList)]
		for _, element := range list.Values {
			cleanValue(element, depth+1)
		}
	case *common.AnyValue_KvlistValue:
		if depth == maxDepth {
			v.Value = nil
			return
		}
		list := value.KvlistValue
		list.Values = list.Values[:min(len(list.Values), maxList)]
		cleanAttributes(list.Values, depth+1)
	}
}
