//go:build !race

// The race detector lets sync.Pool forget what it holds, so that the standard library's handler allocates.

package trace_test

import (
	"errors"
	"io"
	"log/slog"
	"testing"

	"bijou.dev/platform/trace"
)

// A record with nothing to repair costs what it costs without the handler.
func TestHandlerAllocatesNothing(t *testing.T) {
	log := slog.New(trace.Handler(slog.NewJSONHandler(io.Discard, nil)))
	err := errors.New("no")
	if n := testing.AllocsPerRun(100, func() {
		log.LogAttrs(t.Context(), slog.LevelInfo, "request", slog.String("path", "/films/7"), slog.Int("status", 200),
			slog.Any("error", err))
	}); n > 0 {
		t.Errorf("a log line makes %v allocations, want none", n)
	}
}
