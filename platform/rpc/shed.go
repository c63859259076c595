package rpc

import (
	"context"
	"errors"
	"time"

	"bijou.dev/platform/circuit"
	"bijou.dev/platform/errs"
	"bijou.dev/platform/overload"
	"bijou.dev/platform/retry"

	"google.golang.org/grpc/metadata"
)

// healthService is never shed.
const healthService = "grpc.health.v1.Health"

// admit takes a place for a call or returns the error that sheds it.
func (s *server) admit(ctx context.Context, m *method) (overload.Permit, error) {
	if s.Limiter == nil || m.service == healthService {
		return overload.Permit{}, nil
	}
	permit, ok := s.Limiter.Acquire(m.full, overload.Of(ctx))
	if !ok {
		return permit, errs.Errorf(errs.Exhausted, "refusing %s: too much to do", m.name).
			Because(circuit.ReasonShed, "criticality", overload.Of(ctx).String()).
			RetryIn(s.Limiter.RetryAfter().Round(time.Millisecond))
	}
	return permit, nil
}

// limiterOutcome returns what the limiter learns from the end of a call. A response after the deadline counts as none.
func limiterOutcome(ctx context.Context, err error) overload.Outcome {
	switch {
	case errors.Is(ctx.Err(), context.DeadlineExceeded):
		return overload.Dropped
	case err == nil && ctx.Err() == nil:
		return overload.Success
	}
	return overload.Ignored
}

// withCriticality returns a context with the criticality that the caller sent.
func withCriticality(ctx context.Context) context.Context {
	lines := metadata.ValueFromIncomingContext(ctx, overload.Header)
	if lines == nil {
		return ctx
	}
	return overload.With(ctx, overload.FromBaggage(lines))
}

// sendCriticality adds the criticality of the context to the metadata to send.
func sendCriticality(ctx context.Context) context.Context {
	if b := overload.Of(ctx).Baggage(); b != "" {
		return metadata.AppendToOutgoingContext(ctx, overload.Header, b)
	}
	return ctx
}

// ownRefusal removes the reason from a refusal that another process answered with. That process refused a call of this
// one, but the call that is answered here was begun, so it may not be safe to repeat.
func ownRefusal(err error) error {
	e, ok := errors.AsType[*errs.Error](err)
	if !ok || e.Reason() != circuit.ReasonShed && e.Reason() != retry.ReasonMisdirected || !errs.Wire(e) {
		return err
	}
	return e.Because("")
}

// unimportant reports whether a call was shed and is of low criticality: then it is not retried.
func unimportant(ctx context.Context, err error) bool {
	return errs.Reason(err) == circuit.ReasonShed && overload.Of(ctx) >= overload.SheddablePlus
}
