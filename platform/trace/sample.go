package trace

import (
	"context"
	"encoding/binary"

	"go.opentelemetry.io/otel/trace"
)

// A decision is a sampling decision of B3 headers that a W3C span context cannot hold: that the receiver decides, or a
// decision without ids.
type decision uint8

const (
	undecided decision = iota
	deferred           // there are ids, and the receiver decides
	deny
	accept
)

type decisionKey struct{}

func decisionOf(ctx context.Context) decision {
	d, _ := ctx.Value(decisionKey{}).(decision)
	return d
}

// sampler keeps the decision of the parent. It decides about traces that begin in this process.
type sampler struct {
	ratio interface{ Get() float64 } // nil: 1
}

// sample reports whether a span with this parent, in the trace with this id, is recorded.
func (s sampler) sample(ctx context.Context, parent trace.SpanContext, id trace.TraceID) bool {
	if parent.IsValid() && !parent.IsRemote() {
		return parent.IsSampled()
	}
	switch d := decisionOf(ctx); {
	case parent.IsValid() && d != deferred:
		return parent.IsSampled()
	case d == deny:
		return false
	case d == accept:
		return true
	}
	return s.ratio == nil || within(id, s.ratio.Get())
}

// within reports whether a trace is in the recorded share. It depends only on the id and the ratio, so that all
// processes with the same ratio decide alike.
func within(id trace.TraceID, ratio float64) bool {
	return ratio >= 1 || float64(binary.BigEndian.Uint64(id[8:])>>1) < ratio*(1<<63)
}
