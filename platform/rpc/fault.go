package rpc

import (
	"context"
	"math/rand/v2"
	"strings"
	"time"

	"bijou.dev/platform/config"
	"bijou.dev/platform/errs"

	"bijou.dev/platform/pace"
	"go.opentelemetry.io/otel/attribute"
	oteltrace "go.opentelemetry.io/otel/trace"
)

// ReasonFault is the reason of errors that a fault rule made.
const ReasonFault = "FAULT_RULE"

// fault is the fault rule of a server: two live settings make it slow or failing on purpose, for game days. The server
// applies it and not its callers, so that circuits, retries, balancing, time-outs and traces see a real fault. A rule
// that is published as an override with a time to live expires.
//
// It does not apply to streams, nor to the config service, because the rule is removed there.
type fault struct {
	latency *config.Value[time.Duration]
	errors  *config.Value[int64]
}

func newFault(c config.Set) *fault {
	if c == nil {
		return nil
	}
	return &fault{
		latency: config.Duration(c, "fault.latency", 0, config.Spec{
			Doc: "Game days: every unary gRPC call to this service takes this much longer; streams and HTTP do not. " +
				"Publish it as an override with a time to live.",
			Min: "0s", Max: "30s",
		}),
		errors: config.Int(c, "fault.errorPercent", 0, config.Spec{
			Doc: "Game days: this percentage of unary gRPC calls to this service fails as unavailable; streams and HTTP " +
				"do not. Publish it as an override with a time to live.",
			Unit: "percent", Min: "0", Max: "100",
		}),
	}
}

// apply delays or fails a call if there is a rule, and marks its span.
func (f *fault) apply(ctx context.Context, m *method, span oteltrace.Span) error {
	if f == nil {
		return nil
	}
	wait, percent := f.latency.Get(), f.errors.Get()
	exempt := strings.HasPrefix(m.service, "bijou.config.") || strings.HasPrefix(m.service, "grpc.health.")
	if wait == 0 && percent == 0 || exempt {
		return nil
	}
	if wait > 0 {
		span.SetAttributes(attribute.String("bijou.fault.latency", wait.String()))
		if !pace.Sleep(ctx, wait) {
			return expired(ctx)
		}
	}
	if rand.N[int64](100) < percent {
		span.SetAttributes(attribute.Bool("bijou.fault.error", true))
		return errs.Errorf(errs.Unavailable,
			"refused by a fault rule: the setting fault.errorPercent is %d", percent).Because(ReasonFault)
	}
	return nil
}
