package circuit

import (
	"context"
	"fmt"
	"sync/atomic"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/trace"
)

// record is what circuits below a Fallback tell it.
type record struct {
	// failed is the circuit whose call failed last.
	failed atomic.Pointer[circuit]
}

type recordKey struct{}

func recordOf(ctx context.Context) *record {
	rec, _ := ctx.Value(recordKey{}).(*record)
	return rec
}

// Fallback calls call, and if it fails, fallback with its error. It returns the first result that is no error. If both
// fail the error wraps both, and its kind is that of the call.
//
// Errors that are the caller's own doing (BAD_REQUEST and CANCELLED in the package comment) are returned as they are:
// another answer would be wrong. A nil fallback has no other effect than the count FALLBACK_MISSING.
//
// The circuit runs inside call, for example in a client of platform/rpc. It is found through the context, so call must
// pass on the context it is given. The fallback counts, and takes its place, on the circuit that failed; when several
// failed, on the last one; when none did, it runs uncounted and without a limit.
func Fallback[T any](ctx context.Context, call func(context.Context) (T, error), fallback func(context.Context, error) (T, error)) (T, error) {
	rec := &record{}
	v, err := call(context.WithValue(ctx, recordKey{}, rec))
	if err == nil || badRequest(err) {
		return v, err
	}
	c := rec.failed.Load()
	if fallback == nil {
		c.fallbackFailed(ctx, evFallbackMissing)
		return v, err
	}
	if ev := c.startFallback(); ev != evFallbackSuccess {
		c.fallbackFailed(ctx, ev)
		return v, err
	}
	defer c.endFallback()
	v, fallbackErr := fallback(ctx, err)
	if fallbackErr != nil {
		c.fallbackFailed(ctx, evFallbackFailure)
		return v, fmt.Errorf("%w; its fallback: %w", err, fallbackErr)
	}
	c.countFallback(evFallbackSuccess)
	if span := trace.SpanFromContext(ctx); span.IsRecording() && c != nil {
		span.AddEvent("fallback", trace.WithAttributes(attribute.String("bijou.circuit.name", c.name)))
	}
	return v, nil
}

// startFallback takes a place for a fallback. Any event but FALLBACK_SUCCESS is why there is none. No circuit, no limit.
func (c *circuit) startFallback() event {
	if c == nil {
		return evFallbackSuccess
	}
	l := c.limits.Load()
	if !l.fallbackEnabled {
		return evFallbackDisabled
	}
	if c.fallbacks.Add(1) > l.maxFallbacks {
		c.fallbacks.Add(-1)
		return evFallbackRejection
	}
	return evFallbackSuccess
}

func (c *circuit) endFallback() {
	if c != nil {
		c.fallbacks.Add(-1)
	}
}

func (c *circuit) countFallback(ev event) {
	if c == nil {
		return
	}
	c.mu.Lock()
	defer c.unlock()
	c.window.count(time.Since(c.base), ev)
}

// fallbackFailed counts ev and hands the circuit to the Fallback around this one, if any.
func (c *circuit) fallbackFailed(ctx context.Context, ev event) {
	c.countFallback(ev)
	if rec := recordOf(ctx); rec != nil && c != nil {
		rec.failed.Store(c)
	}
}
