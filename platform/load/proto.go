package load

import (
	"errors"
	"fmt"
	"math"
	"slices"
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

// Validate returns an error that says which field of a received load cannot be true. Nil is valid: it is a load that
// has measured nothing.
func Validate(p *circuitsv1.Load) error {
	h := p.GetLatency()
	if err := validateHistogram(h); err != nil {
		return err
	}
	switch {
	case p.GetMeasured().AsDuration() < 0:
		return errors.New("measured must not be negative")
	case max(p.GetCalls(), p.GetFallbacks()) > maxCount:
		return errors.New("calls and fallbacks must be at most 2^40")
	case p.GetFailures() > p.GetCalls() || p.GetRejected() > p.GetCalls()-p.GetFailures():
		return errors.New("failures and rejected must be parts of calls")
	case count(h) > p.GetCalls():
		return errors.New("latency must not have more calls than calls")
	}
	return nil
}

func validateHistogram(p *circuitsv1.Histogram) error {
	if p == nil {
		return nil
	}
	first, counts := int(p.First), p.Counts
	lowest, highest := time.Duration(p.MinNs), time.Duration(p.MaxNs)
	switch {
	case len(counts) == 0 || len(counts) > Buckets || first > Buckets-len(counts):
		return fmt.Errorf("latency must have counts for buckets 0 to %d", Buckets-1)
	case slices.Max(counts) > maxCount:
		return errors.New("latency must have counts of at most 2^40")
	case lowest < 0 || highest < lowest,
		bucketOf(lowest) != first || bucketOf(highest) != first+len(counts)-1,
		counts[0] == 0 || counts[len(counts)-1] == 0:
		return errors.New("latency must have min_ns in its first bucket and max_ns in its last one")
	}
	// The sum of many floating-point numbers is a little inexact.
	mean := p.SumNs / float64(count(p))
	if !(mean >= 0.99*float64(lowest) && mean <= 1.01*float64(highest)) { // also true for NaN
		return errors.New("latency must have a mean, sum_ns by count, between min_ns and max_ns")
	}
	return nil
}

// AddProto adds a received load. It adds nothing if the load is not valid, see Validate.
func (l *Load) AddProto(p *circuitsv1.Load) {
	if Validate(p) != nil {
		return
	}
	l.Measured = max(l.Measured, min(p.GetMeasured().AsDuration(), Window))
	l.Calls += p.GetCalls()
	l.Failures += p.GetFailures()
	l.Rejected += p.GetRejected()
	l.Fallbacks += p.GetFallbacks()
	l.Latency.addProto(p.GetLatency())
}

// Figures returns what is shown of l, rounded to three digits, and nil while l is being measured.
func (l *Load) Figures() *circuitsv1.Figures {
	if !l.Known() {
		return nil
	}
	f := &circuitsv1.Figures{
		CallsPerSecond: round(l.Rate()), ErrorPercent: round(l.ErrorPercent()),
		RejectedPerSecond: round(l.RejectedRate()), FallbacksPerSecond: round(l.FallbackRate()),
	}
	if l.Latency.Count() > 0 {
		f.P50Ms, f.P90Ms, f.P99Ms = l.percentileMs(50), l.percentileMs(90), l.percentileMs(99)
	}
	return f
}

func (l *Load) percentileMs(p float64) *float64 {
	ms := round(float64(l.Latency.Percentile(p)) / float64(time.Millisecond))
	return &ms
}

// round keeps three digits. More would not be true, and a page would be drawn again for differences that say nothing.
func round(x float64) float64 {
	if x == 0 {
		return 0
	}
	scale := math.Pow(10, 2-math.Floor(math.Log10(math.Abs(x))))
	return math.Round(x*scale) / scale
}

// proto returns the message of h, and nil if h is empty. It has the buckets from the first to the last that is used.
func (h *Histogram) proto() *circuitsv1.Histogram {
	if h.count == 0 {
		return nil
	}
	first, last := bucketOf(h.min), bucketOf(h.max)
	return &circuitsv1.Histogram{
		First: uint32(first), Counts: slices.Clone(h.counts[first : last+1]),
		SumNs: h.sum, MinNs: int64(h.min), MaxNs: int64(h.max),
	}
}

func (h *Histogram) addProto(p *circuitsv1.Histogram) {
	n := count(p)
	if n == 0 {
		return
	}
	for i, n := range p.GetCounts() {
		h.counts[int(p.GetFirst())+i] += n
	}
	h.addTotals(n, p.GetSumNs(), time.Duration(p.GetMinNs()), time.Duration(p.GetMaxNs()))
}

// count returns how many latencies a histogram has.
func count(p *circuitsv1.Histogram) (n uint64) {
	for _, c := range p.GetCounts() {
		n += c
	}
	return n
}
