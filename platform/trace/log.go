package trace

import (
	"context"
	"log/slog"

	"go.opentelemetry.io/otel/trace"

	"bijou.dev/platform/text"
)

// maxLogValue bounds the message and each value of a log line, in bytes. A stack trace fits into it.
const maxLogValue = 16 << 10

// Handler returns a handler that adds trace_id and span_id to records logged with a context that has a span. They are
// at the top level of the record, also when the logger has open groups.
//
// It makes the message and the values that are strings or errors valid UTF-8 of at most 16 KiB, because they may come
// from clients. Other values are passed to next as they are.
func Handler(next slog.Handler) slog.Handler { return &logHandler{top: next, here: next} }

type logHandler struct {
	top  slog.Handler // the handler as it was before the first open group
	here slog.Handler // top with steps applied
	// steps are the calls of WithGroup and WithAttrs that lead from top to here. They are repeated after the ids were
	// added. Before the first group there are none.
	steps []func(slog.Handler) slog.Handler
}

// Enabled implements slog.Handler.
func (h *logHandler) Enabled(ctx context.Context, level slog.Level) bool {
	return h.here.Enabled(ctx, level)
}

// Handle implements slog.Handler.
func (h *logHandler) Handle(ctx context.Context, r slog.Record) error {
	r = cleanRecord(r)
	sc := trace.SpanContextFromContext(ctx)
	if !sc.IsValid() {
		return h.here.Handle(ctx, r)
	}
	ids := []slog.Attr{slog.String("trace_id", sc.TraceID().String()), slog.String("span_id", sc.SpanID().String())}
	if len(h.steps) == 0 {
		r = r.Clone()
		r.AddAttrs(ids...)
		return h.here.Handle(ctx, r)
	}
	next := h.top.WithAttrs(ids)
	for _, step := range h.steps {
		next = step(next)
	}
	return next.Handle(ctx, r)
}

// WithAttrs implements slog.Handler.
func (h *logHandler) WithAttrs(attrs []slog.Attr) slog.Handler {
	attrs, _ = cleanAttrs(attrs)
	if len(h.steps) == 0 {
		return Handler(h.here.WithAttrs(attrs))
	}
	return h.with(func(next slog.Handler) slog.Handler { return next.WithAttrs(attrs) })
}

// WithGroup implements slog.Handler.
func (h *logHandler) WithGroup(name string) slog.Handler {
	if name == "" {
		return h
	}
	return h.with(func(next slog.Handler) slog.Handler { return next.WithGroup(name) })
}

func (h *logHandler) with(step func(slog.Handler) slog.Handler) slog.Handler {
	steps := append(h.steps[:len(h.steps):len(h.steps)], step)
	return &logHandler{top: h.top, here: step(h.here), steps: steps}
}

// cleanRecord returns r itself when nothing is wrong with it, which costs no memory.
func cleanRecord(r slog.Record) slog.Record {
	message := text.Bound(r.Message, maxLogValue)
	changed := message != r.Message
	r.Attrs(func(a slog.Attr) bool {
		if !changed {
			_, changed = cleanAttr(a)
		}
		return !changed
	})
	if !changed {
		return r
	}
	clean := slog.NewRecord(r.Time, r.Level, message, r.PC)
	r.Attrs(func(a slog.Attr) bool {
		a, _ = cleanAttr(a)
		clean.AddAttrs(a)
		return true
	})
	return clean
}

// cleanAttr returns a with valid and bounded text, and whether that differs from a.
func cleanAttr(a slog.Attr) (clean slog.Attr, changed bool) {
	switch v := a.Value.Resolve(); v.Kind() {
	case slog.KindString:
		if s := text.Bound(v.String(), maxLogValue); s != v.String() {
			return slog.String(a.Key, s), true
		}
	case slog.KindGroup:
		if attrs, changed := cleanAttrs(v.Group()); changed {
			return slog.Attr{Key: a.Key, Value: slog.GroupValue(attrs...)}, true
		}
	case slog.KindAny:
		if err, ok := v.Any().(error); ok {
			full := err.Error()
			if s := text.Bound(full, maxLogValue); s != full {
				return slog.String(a.Key, s), true
			}
		}
	}
	return a, false
}

func cleanAttrs(attrs []slog.Attr) (list []slog.Attr, changed bool) {
	list = attrs
	for i, a := range attrs {
		a, differs := cleanAttr(a)
		if !differs {
			continue
		}
		if !changed {
			list, changed = append([]slog.Attr(nil), attrs...), true
		}
		list[i] = a
	}
	return list, changed
}
