package trace_test

import (
	"bytes"
	"context"
	"log/slog"
	"strings"
	"testing"

	oteltrace "go.opentelemetry.io/otel/trace"

	"bijou.dev/platform/trace"
)

func TestHandler(t *testing.T) {
	id, _ := oteltrace.TraceIDFromHex(tid)
	span, _ := oteltrace.SpanIDFromHex(sid)
	ctx := oteltrace.ContextWithSpanContext(t.Context(), oteltrace.NewSpanContext(oteltrace.SpanContextConfig{TraceID: id, SpanID: span}))
	ids := " trace_id=" + tid + " span_id=" + sid
	tests := []struct {
		name string
		ctx  context.Context
		with func(*slog.Logger) *slog.Logger
		want string
	}{
		{"no span", t.Context(), func(l *slog.Logger) *slog.Logger { return l }, "msg=hi k=v"},
		{"span", ctx, func(l *slog.Logger) *slog.Logger { return l }, "msg=hi k=v" + ids},
		{"attributes", ctx, func(l *slog.Logger) *slog.Logger { return l.With("a", 1) }, "msg=hi a=1 k=v" + ids},
		{"ids stay outside of a group", ctx, func(l *slog.Logger) *slog.Logger { return l.With("a", 1).WithGroup("g").With("b", 2) }, "msg=hi a=1" + ids + " g.b=2 g.k=v"},
		{"group without a span", t.Context(), func(l *slog.Logger) *slog.Logger { return l.WithGroup("g").With("b", 2) }, "msg=hi g.b=2 g.k=v"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			var out bytes.Buffer
			text := slog.NewTextHandler(&out, &slog.HandlerOptions{ReplaceAttr: func(_ []string, a slog.Attr) slog.Attr {
				if a.Key == slog.TimeKey || a.Key == slog.LevelKey {
					return slog.Attr{}
				}
				return a
			}})
			log := tt.with(slog.New(trace.Handler(text)))
			log.InfoContext(tt.ctx, "hi", "k", "v")
			log.DebugContext(tt.ctx, "not enabled")
			if got := strings.TrimSpace(out.String()); got != tt.want {
				t.Errorf("logged %q, want %q", got, tt.want)
			}
		})
	}
}
