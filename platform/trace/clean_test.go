package trace_test

import (
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"testing/synctest"
	"unicode/utf8"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	oteltrace "go.opentelemetry.io/otel/trace"
	"google.golang.org/protobuf/encoding/prototext"

	"bijou.dev/platform/memnet"
	"bijou.dev/platform/trace"
)

const (
	invalid  = "a\xff\xfeb\xc3" // as a client may send it
	repaired = "a\uFFFDb\uFFFD" // as it is stored
	cutChar  = "\u00e9"         // two bytes
	tooLong  = 100 << 10        // bytes
)

// A request whose path is not UTF-8 leaves its span, and those of all other requests of the batch.
func TestPathThatIsNotUTF8(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := memnet.New()
		s := &store{answer: accept}
		stop := serve(t, n, s)
		defer stop()
		p := newProvider(t, trace.Options{Conn: dial(t, n)})
		h := p.Middleware(http.NotFoundHandler())
		for _, path := range []string{"/good", "/bad%ff%fe", "/good"} {
			h.ServeHTTP(httptest.NewRecorder(), httptest.NewRequestWithContext(t.Context(), "GET", path, nil))
		}
		flush(t, p)
		paths := map[string]int{}
		for _, span := range s.spans {
			for _, a := range span.GetAttributes() {
				if a.GetKey() == "url.path" {
					paths[a.GetValue().GetStringValue()]++
				}
			}
		}
		if paths["/good"] != 2 || paths["/bad\uFFFD"] != 1 {
			t.Errorf("the stored spans have the paths %v", paths)
		}
		assertDrops(t, p, nil)
	})
}

// Every text of a span may come from outside.
func TestInvalidTextIsRepaired(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := memnet.New()
		s := &store{answer: accept}
		stop := serve(t, n, s)
		defer stop()
		p := newProvider(t, trace.Options{
			Service: invalid, Instance: invalid, Version: invalid, Environment: invalid, Region: invalid, Zone: invalid,
			Conn: dial(t, n),
		})
		attrs := []attribute.KeyValue{
			attribute.String(invalid, invalid), attribute.StringSlice("list", []string{"x", invalid}),
			attribute.Slice("nested", attribute.StringValue(invalid),
				attribute.MapValue(attribute.String(invalid, invalid))),
		}
		linked := oteltrace.NewSpanContext(oteltrace.SpanContextConfig{TraceID: [16]byte{1}, SpanID: [8]byte{1}})
		tracer := p.TracerProvider().Tracer(invalid, oteltrace.WithInstrumentationVersion(invalid),
			oteltrace.WithSchemaURL(invalid), oteltrace.WithInstrumentationAttributes(attrs...))
		_, span := tracer.Start(t.Context(), invalid, oteltrace.WithAttributes(attrs...),
			oteltrace.WithLinks(oteltrace.Link{SpanContext: linked, Attributes: attrs}))
		span.AddEvent(invalid, oteltrace.WithAttributes(attrs...))
		span.SetStatus(codes.Error, invalid)
		span.End()
		spans(p, 3)
		flush(t, p)
		if got := s.names(); len(got) != 4 || got[0] != repaired && got[3] != repaired {
			t.Fatalf("the stored spans are %q", got)
		}
		assertDrops(t, p, nil)
		for _, span := range s.spans {
			if span.GetName() != repaired {
				continue
			}
			if got := span.GetStatus().GetMessage(); got != repaired {
				t.Errorf("the status says %q, want %q", got, repaired)
			}
			// Names of the span and its event, the status, and six texts in each of three sets of attributes.
			if n := strings.Count(prototext.Format(span), repaired); n != 3+3*6 {
				t.Errorf("%d texts are repaired, want 21 in\n%v", n, prototext.Format(span))
			}
		}
	})
}

func TestTextIsCutToItsLimit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := memnet.New()
		s := &store{answer: accept}
		stop := serve(t, n, s)
		defer stop()
		p := newProvider(t, trace.Options{Conn: dial(t, n)})
		for _, text := range []string{
			strings.Repeat("x", tooLong), "x" + strings.Repeat(cutChar, tooLong), strings.Repeat("\x80", tooLong),
			strings.Repeat("x\xff", tooLong),
		} {
			list := make([]string, 1000)
			ctx := p.Propagator().Extract(t.Context(), pairs{
				"traceparent", good, "tracestate", members(32, "k%02d="+strings.Repeat("v", 256)),
			}.http())
			_, span := p.Tracer().Start(ctx, text, oteltrace.WithAttributes(attribute.String(text, text)))
			span.AddEvent(text, oteltrace.WithAttributes(attribute.String("k", text),
				attribute.StringSlice("list", list)))
			span.SetStatus(codes.Error, text)
			span.End()
		}
		flush(t, p)
		if len(s.spans) != 4 {
			t.Fatalf("%d spans are stored, want 4", len(s.spans))
		}
		assertText := func(what, text string, limit int) {
			t.Helper()
			if len(text) > limit || !utf8.ValidString(text) {
				t.Errorf("%s has %d bytes, want at most %d of valid UTF-8", what, len(text), limit)
			}
		}
		for _, span := range s.spans {
			event := span.GetEvents()[0]
			assertText("the name", span.GetName(), 512)
			assertText("the key", span.GetAttributes()[0].GetKey(), 512)
			assertText("the value", span.GetAttributes()[0].GetValue().GetStringValue(), 4096)
			assertText("the status", span.GetStatus().GetMessage(), 4096)
			assertText("the event's name", event.GetName(), 512)
			assertText("the event's value", event.GetAttributes()[0].GetValue().GetStringValue(), 4096)
			if n := len(event.GetAttributes()[1].GetValue().GetArrayValue().GetValues()); n != 256 {
				t.Errorf("the list has %d elements, want 256", n)
			}
		}
		// Of a tracestate, whole members are kept.
		if got, want := s.spans[0].GetTraceState(), members(15, "k%02d="+strings.Repeat("v", 256)); got != want {
			t.Errorf("tracestate is\n%s\nwant the first 15 of 32 members:\n%s", got, want)
		}
		// A character is never cut in two.
		if name := s.spans[1].GetName(); !strings.HasSuffix(name, cutChar+"…") {
			t.Errorf("the name ends with %q, want %q", name[len(name)-6:], cutChar+"…")
		}
	})
}
