package trace_test

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"strings"
	"testing"
	"unicode/utf8"

	oteltrace "go.opentelemetry.io/otel/trace"

	"bijou.dev/platform/trace"
)

// textLog returns a logger over [trace.Handler] that writes message and attributes to the buffer.
func textLog() (*slog.Logger, *bytes.Buffer) {
	var out bytes.Buffer
	text := slog.NewTextHandler(&out, &slog.HandlerOptions{ReplaceAttr: func(_ []string, a slog.Attr) slog.Attr {
		if a.Key == slog.TimeKey || a.Key == slog.LevelKey {
			return slog.Attr{}
		}
		return a
	}})
	return slog.New(trace.Handler(text)), &out
}

func TestHandlerAddsIDs(t *testing.T) {
	id, _ := oteltrace.TraceIDFromHex(tid)
	span, _ := oteltrace.SpanIDFromHex(sid)
	ctx := oteltrace.ContextWithSpanContext(t.Context(),
		oteltrace.NewSpanContext(oteltrace.SpanContextConfig{TraceID: id, SpanID: span}))
	ids := " trace_id=" + tid + " span_id=" + sid
	same := func(l *slog.Logger) *slog.Logger { return l }
	tests := []struct {
		name string
		ctx  context.Context
		with func(*slog.Logger) *slog.Logger
		want string
	}{
		{"no span", t.Context(), same, "msg=hi k=v"},
		{"a span", ctx, same, "msg=hi k=v" + ids},
		{"attributes", ctx, func(l *slog.Logger) *slog.Logger { return l.With("a", 1) }, "msg=hi a=1 k=v" + ids},
		{
			"ids stay outside of a group", ctx,
			func(l *slog.Logger) *slog.Logger { return l.With("a", 1).WithGroup("g").With("b", 2) },
			"msg=hi a=1" + ids + " g.b=2 g.k=v",
		},
		{
			"a group without a span", t.Context(),
			func(l *slog.Logger) *slog.Logger { return l.WithGroup("g").With("b", 2) }, "msg=hi g.b=2 g.k=v",
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			log, out := textLog()
			log = tt.with(log)
			log.InfoContext(tt.ctx, "hi", "k", "v")
			log.DebugContext(tt.ctx, "not enabled")
			if got := strings.TrimSpace(out.String()); got != tt.want {
				t.Errorf("logged %q, want %q", got, tt.want)
			}
		})
	}
}

func TestHandlerRepairsText(t *testing.T) {
	for name, write := range map[string]func(l *slog.Logger, text string){
		"message":       func(l *slog.Logger, text string) { l.Info(text) },
		"string":        func(l *slog.Logger, text string) { l.Info("hi", "n", 1, "k", text, "m", 2) },
		"error":         func(l *slog.Logger, text string) { l.Info("hi", "k", errors.New(text)) },
		"group":         func(l *slog.Logger, text string) { l.Info("hi", slog.Group("g", "n", 1, "k", text)) },
		"LogValuer":     func(l *slog.Logger, text string) { l.Info("hi", "k", valuer(text)) },
		"With":          func(l *slog.Logger, text string) { l.With("k", text).Info("hi") },
		"With, a group": func(l *slog.Logger, text string) { l.WithGroup("g").With("k", text).Info("hi") },
	} {
		t.Run(name, func(t *testing.T) {
			log, out := textLog()
			write(log, invalid)
			if !strings.Contains(out.String(), repaired) || !utf8.Valid(out.Bytes()) ||
				strings.Contains(out.String(), "xff") {
				t.Errorf("logged %q, want %q in it", out.String(), repaired)
			}
			out.Reset()
			write(log, strings.Repeat("x", tooLong))
			if n := out.Len(); n < 16<<10 || n > 17<<10 {
				t.Errorf("a text of %d bytes makes a line of %d, want some 16 KiB", tooLong, n)
			}
		})
	}
}

// A handler must not change the attributes of its caller.
func TestHandlerLeavesAttributesOfTheCaller(t *testing.T) {
	log, _ := textLog()
	group := slog.Group("g", "k", invalid)
	log.Info("hi", group)
	log.With(group).Info("hi")
	if got := group.Value.Group()[0].Value.String(); got != invalid {
		t.Errorf("the caller's value became %q", got)
	}
}

type valuer string

func (v valuer) LogValue() slog.Value { return slog.StringValue(string(v)) }
