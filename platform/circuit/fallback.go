package circuit

import (
	"context"
	"fmt"
	"sync/atomic"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/trace"
)

// record is how the circuits inside a Fallback report to it.
type record struct {
	// failed is the circuit whose call failed last.
	failed atomic.Pointer[circuit]
}

type recordKey struct{}

func recordOf(ctx context.Context) *record {
	rec, _ := ctx.Value(recordKey{}).(*record)
	return rec
}

// Fallback calls call, and if that fails, fallback with its error. It returns the first result without an error. If
// both fail, the error wraps both and has the kind of the call's error.
//
// Errors that are the caller's fault (BAD_REQUEST and CANCELLED in the package comment) are returned as they are:
// another answer would be wrong. Nil fallback: the failure counts as FALLBACK_MISSING, nothing else.
//
// The circuit runs inside call, for example in a client of platform/rpc. It is found through the context, so call must
// use the context that it gets. The fallback is counted and limited by the circuit that failed; if several failed, by
// the last one. If none did, it is neither counted nor limited.
func Fallback[T any](
	ctx context.Context, call func(context.Context) (T, error), fallback func(context.Context, error) (T, error),
) (T, error) {
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

// startFallback counts a fallback as running and returns FALLBACK_SUCCESS, or the event that says why it may not run.
// On a nil circuit there is no limit.
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

// fallbackFailed counts ev and reports the circuit to the Fallback around this one, if there is one.
func (c *circuit) fallbackFailed(ctx context.Context, ev event) {
	c.countFallback(ev)
	if rec := recordOf(ctx); rec != nil && c != nil {
		rec.failed.Store(c)
	}
}
