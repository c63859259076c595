package trace

import (
	"fmt"
	"reflect"
	"runtime"
	rt "runtime/trace"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	semconv "go.opentelemetry.io/otel/semconv/v1.43.0"
	"go.opentelemetry.io/otel/trace"
	"go.opentelemetry.io/otel/trace/embedded"
)

// span implements trace.Span. Users may keep it and its context as long as they like: it is never used again for
// another span. What it has recorded is in rec, which is used again.
type span struct {
	embedded.Span
	within   spanContext
	context  trace.SpanContext
	provider *tracerProvider

	mu  sync.Mutex             // guards what rec points to
	rec atomic.Pointer[record] // nil: the span has ended, or is not sampled
}

// lock returns what the span has recorded and locks mu, or returns nil if it does not record. So what needs no lock is
// done without one: most spans may be those that are not sampled.
func (s *span) lock() *record {
	if s.rec.Load() == nil {
		return nil
	}
	s.mu.Lock()
	r := s.rec.Load()
	if r == nil {
		s.mu.Unlock()
	}
	return r
}

// SpanContext implements trace.Span.
func (s *span) SpanContext() trace.SpanContext { return s.context }

// TracerProvider implements trace.Span.
func (s *span) TracerProvider() trace.TracerProvider { return s.provider }

// IsRecording implements trace.Span. It returns false when the span has ended.
func (s *span) IsRecording() bool { return s.rec.Load() != nil }

// SetName implements trace.Span.
func (s *span) SetName(name string) {
	if r := s.lock(); r != nil {
		defer s.mu.Unlock()
		r.name = name
	}
}

// SetStatus implements trace.Span. Ok is final, and an error is not replaced by Unset.
func (s *span) SetStatus(code codes.Code, description string) {
	if r := s.lock(); r != nil {
		defer s.mu.Unlock()
		r.setStatus(code, description)
	}
}

// SetAttributes implements trace.Span.
func (s *span) SetAttributes(attrs ...attribute.KeyValue) {
	if r := s.lock(); r != nil {
		defer s.mu.Unlock()
		r.set(attrs)
	}
}

// SetAttributes does what span.SetAttributes does. Called this way, a list of attributes needs no allocation: the
// compiler does not know what a method of an interface does with it.
func SetAttributes(s trace.Span, attrs ...attribute.KeyValue) {
	if own, ok := s.(*span); ok {
		own.SetAttributes(attrs...)
	} else if s.IsRecording() {
		s.SetAttributes(slices.Clone(attrs)...)
	}
}

// AddLink implements trace.Span.
func (s *span) AddLink(l trace.Link) {
	if r := s.lock(); r != nil {
		defer s.mu.Unlock()
		r.addLink(l)
	}
}

// AddEvent implements trace.Span.
func (s *span) AddEvent(name string, opts ...trace.EventOption) {
	if r := s.lock(); r != nil {
		defer s.mu.Unlock()
		c := trace.NewEventConfig(opts...)
		r.addEvent(name, c.Timestamp(), c.Attributes())
	}
}

// RecordError implements trace.Span.
func (s *span) RecordError(err error, opts ...trace.EventOption) {
	if err == nil || !s.IsRecording() {
		return
	}
	c := trace.NewEventConfig(opts...)
	attrs := appendException(c.Attributes(), err, err.Error(), c.StackTrace()) // Error may use the span
	if r := s.lock(); r != nil {
		defer s.mu.Unlock()
		r.addEvent(semconv.ExceptionEventName, c.Timestamp(), attrs)
	}
}

// End implements trace.Span. A panic of the function that defers End becomes an event of the span, and goes on.
func (s *span) End(opts ...trace.SpanEndOption) {
	r := s.lock()
	if r == nil {
		return
	}
	s.rec.Store(nil)
	s.mu.Unlock()
	// The difference comes from the monotonic clock: a span does not end before it begins when the clock is set.
	r.end = r.start.Add(time.Since(r.start))
	var c trace.SpanConfig
	if len(opts) > 0 {
		c = trace.NewSpanEndConfig(opts...)
	}
	if at := c.Timestamp(); !at.IsZero() {
		r.end = at
	}
	if cause := recover(); cause != nil {
		defer panic(cause)
		r.addEvent(semconv.ExceptionEventName, time.Now(), appendException(nil, cause, fmt.Sprint(cause), c.StackTrace()))
	}
	if r.task != nil {
		r.task.End()
	}
	s.provider.queue.add(r)
}

func appendException(attrs []attribute.KeyValue, cause any, message string, stack bool) []attribute.KeyValue {
	attrs = append(attrs, semconv.ExceptionType(typeName(cause)), semconv.ExceptionMessage(message))
	if stack {
		text := make([]byte, 2<<10)
		text = text[:runtime.Stack(text, false)]
		attrs = append(attrs, semconv.ExceptionStacktrace(string(text)))
	}
	return attrs
}

func typeName(v any) string {
	t := reflect.TypeOf(v)
	if t.PkgPath() == "" && t.Name() == "" {
		return t.String() // a pointer, for example
	}
	return t.PkgPath() + "." + t.Name()
}

// record is what one span has recorded. Until the span ends it is guarded by the span's mutex. Then the queue has it
// alone, until it is exported or dropped.
type record struct {
	tracer          *tracer
	context, parent trace.SpanContext
	name            string
	kind            trace.SpanKind
	start, end      time.Time
	status          sdktrace.Status
	task            *rt.Task // nil: no execution trace was running

	attributes []attribute.KeyValue // each key once
	events     []sdktrace.Event
	links      []sdktrace.Link

	droppedAttributes, droppedEvents, droppedLinks int
}

var records = sync.Pool{New: func() any { return &record{attributes: make([]attribute.KeyValue, 0, 16)} }}

// release lets another span use the record.
func (r *record) release() {
	clear(r.attributes)
	clear(r.events)
	clear(r.links)
	*r = record{attributes: r.attributes[:0], events: r.events[:0], links: r.links[:0]}
	records.Put(r)
}

func (r *record) setStatus(code codes.Code, description string) {
	if r.status.Code > code {
		return
	}
	if code != codes.Error {
		description = ""
	}
	r.status = sdktrace.Status{Code: code, Description: description}
}

// set sets attributes. The last value of a key is kept. It keeps nothing of the list itself.
func (r *record) set(attrs []attribute.KeyValue) {
	limit := r.tracer.provider.limits.AttributeCountLimit
next:
	for i := range attrs {
		a := &attrs[i]
		if !a.Valid() {
			r.droppedAttributes++
			continue
		}
		v := a.Value
		if !isNormal(v) {
			v = normal(v, maxValue, maxNormalDepth)
		}
		for j := range r.attributes {
			if r.attributes[j].Key == a.Key {
				r.attributes[j].Value = v
				continue next
			}
		}
		if limit >= 0 && len(r.attributes) >= limit {
			r.droppedAttributes++
			continue
		}
		r.attributes = append(r.attributes, attribute.KeyValue{Key: a.Key, Value: v})
	}
}

// addEvent adds an event, which keeps attrs.
func (r *record) addEvent(name string, at time.Time, attrs []attribute.KeyValue) {
	limits := &r.tracer.provider.limits
	e := sdktrace.Event{Name: name, Time: at}
	e.Attributes, e.DroppedAttributeCount = limited(attrs, limits.AttributePerEventCountLimit)
	r.events = push(r.events, e, limits.EventCountLimit, &r.droppedEvents)
}

func (r *record) addLink(l trace.Link) {
	if !l.SpanContext.IsValid() && len(l.Attributes) == 0 && l.SpanContext.TraceState().Len() == 0 {
		return
	}
	limits := &r.tracer.provider.limits
	kept := sdktrace.Link{SpanContext: l.SpanContext}
	kept.Attributes, kept.DroppedAttributeCount = limited(slices.Clone(l.Attributes), limits.AttributePerLinkCountLimit)
	r.links = push(r.links, kept, limits.LinkCountLimit, &r.droppedLinks)
}

// push appends v to list. When the list is full, the oldest element is dropped and counted.
func push[T any](list []T, v T, limit int, dropped *int) []T {
	if limit == 0 {
		*dropped++
		return list
	}
	if limit > 0 && len(list) >= limit {
		copy(list, list[1:])
		list = list[:len(list)-1]
		*dropped++
	}
	return append(list, v)
}
