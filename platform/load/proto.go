package load

import (
	"errors"
	"fmt"
	"time"

	circuitsv1 "bijou.dev/platform/api/circuits/v1"
	"google.golang.org/protobuf/types/known/durationpb"
)

// maxCount bounds each count of a received load, so that sums of many do not overflow.
const maxCount = 1 << 40

// Proto returns the message of l.
func (l *Load) Proto() *circuitsv1.Load {
	return &circuitsv1.Load{
		Measured: durationpb.New(l.Measured),
		Calls:    l.Calls, Failures: l.Failures, Rejected: l.Rejected, Fallbacks: l.Fallbacks,
		Latency: l.Latency.proto(),
	}
}

// FromProto returns the load of a message. Nil is the zero Load, which is not Known. The error says which field cannot
// be true.
func FromProto(p *circuitsv1.Load) (Load, error) {
	latency, err := histogramFrom(p.GetLatency())
	l := Load{
		Measured: min(p.GetMeasured().AsDuration(), Window),
		Calls:    p.GetCalls(), Failures: p.GetFailures(), Rejected: p.GetRejected(), Fallbacks: p.GetFallbacks(),
		Latency: latency,
	}
	switch {
	case err != nil:
		return Load{}, err
	case l.Measured < 0:
		return Load{}, errors.New("measured must not be negative")
	case max(l.Calls, l.Fallbacks) > maxCount:
		return Load{}, errors.New("calls and fallbacks must be at most 2^40")
	case l.Failures > l.Calls || l.Rejected > l.Calls-l.Failures:
		return Load{}, errors.New("failures and rejected must be parts of calls")
	case l.Latency.count > l.Calls:
		return Load{}, errors.New("latency must not have more calls than calls")
	}
	return l, nil
}

// proto returns the message of h, and nil if h is empty. It has the buckets from the first to the last that is used.
func (h *Histogram) proto() *circuitsv1.Histogram {
	if h.count == 0 {
		return nil
	}
	first, last := bucketOf(h.min), bucketOf(h.max)
	return &circuitsv1.Histogram{
		First: uint32(first), Counts: append([]uint64(nil), h.counts[first:last+1]...),
		SumNs: h.sum, MinNs: int64(h.min), MaxNs: int64(h.max),
	}
}

func histogramFrom(p *circuitsv1.Histogram) (Histogram, error) {
	h := Histogram{sum: p.GetSumNs(), min: time.Duration(p.GetMinNs()), max: time.Duration(p.GetMaxNs())}
	first, counts := int(p.GetFirst()), p.GetCounts()
	switch {
	case p == nil:
		return h, nil
	case len(counts) == 0 || len(counts) > Buckets || first > Buckets-len(counts):
		return Histogram{}, fmt.Errorf("latency must have counts for buckets 0 to %d", Buckets-1)
	case h.min < 0 || h.max < h.min || bucketOf(h.min) != first || bucketOf(h.max) != first+len(counts)-1,
		counts[0] == 0 || counts[len(counts)-1] == 0:
		return Histogram{}, errors.New("latency must have min_ns in its first bucket and max_ns in its last one")
	}
	for i, n := range counts {
		if n > maxCount {
			return Histogram{}, errors.New("latency must have counts of at most 2^40")
		}
		h.counts[first+i] = n
		h.count += n
	}
	// The sum of many floating-point numbers is a little inexact.
	if mean := h.sum / float64(h.count); !(mean >= 0.99*float64(h.min) && mean <= 1.01*float64(h.max)) {
		return Histogram{}, errors.New("latency must have a mean, sum_ns by count, between min_ns and max_ns")
	}
	return h, nil
}
