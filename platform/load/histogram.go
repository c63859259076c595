package load

import (
	"math"
	"math/bits"
	"time"
)

const (
	// Buckets is the number of buckets of every Histogram. The bounds are the same everywhere and part of the contract
	// bijou.circuits.v1: eight buckets of 8.192 us each, then eight equal buckets for each doubling, up to 137 s. A
	// longer latency counts in the last bucket.
	Buckets = 8 + octaves*8
	octaves = 21
	// unitBits is the width of the first eight buckets: 1<<13 ns = 8.192 us.
	unitBits = 13
	// MaxError is the largest error of a percentile as a share of the true value. Below 65 us the error is at most
	// 8.192 us instead. It does not grow when histograms are merged.
	MaxError = 0.125
)

// Histogram counts latencies in fixed buckets, so that the histograms of several instances or callers add up to the
// histogram of all their calls. The zero value is empty. It is not safe for concurrent use. Copy it by assignment.
type Histogram struct {
	counts   [Buckets]uint64
	count    uint64
	sum      float64 // nanoseconds
	min, max time.Duration
}

// Record adds one latency. A negative one counts as zero. It does not allocate.
func (h *Histogram) Record(d time.Duration) {
	d = max(d, 0)
	h.counts[bucketOf(d)]++
	h.addTotals(1, float64(d), d, d)
}

// Merge adds the latencies of o.
func (h *Histogram) Merge(o *Histogram) {
	if o.count == 0 {
		return
	}
	for i := bucketOf(o.min); i <= bucketOf(o.max); i++ {
		h.counts[i] += o.counts[i]
	}
	h.addTotals(o.count, o.sum, o.min, o.max)
}

// addTotals adds what is kept beside the buckets; n is not 0.
func (h *Histogram) addTotals(n uint64, sum float64, lowest, highest time.Duration) {
	if h.count == 0 || lowest < h.min {
		h.min = lowest
	}
	h.max = max(h.max, highest)
	h.count += n
	h.sum += sum
}

// Count returns how many latencies were recorded.
func (h *Histogram) Count() uint64 { return h.count }

// Mean returns the mean of the latencies themselves, not of their buckets, and 0 for an empty histogram.
func (h *Histogram) Mean() time.Duration {
	if h.count == 0 {
		return 0
	}
	return time.Duration(h.sum / float64(h.count))
}

// Percentile returns the smallest latency that p percent of the calls did not exceed, within MaxError. It interpolates
// inside the bucket. The smallest (p <= 0) and the largest (p >= 100) latency are exact. It returns 0 for an empty
// histogram.
func (h *Histogram) Percentile(p float64) time.Duration {
	switch {
	case h.count == 0:
		return 0
	case p <= 0:
		return h.min
	case p >= 100:
		return h.max
	}
	rank := max(1, uint64(math.Ceil(p/100*float64(h.count))))
	var below uint64
	for i, n := range h.counts {
		if below+n < rank {
			below += n
			continue
		}
		low, high := bucketStart(i), bucketStart(i+1)
		if i == Buckets-1 {
			high = max(high, h.max)
		}
		within := low + time.Duration(float64(high-low)*float64(rank-below)/float64(n))
		return min(max(within, h.min), h.max)
	}
	return h.max
}

// bucketOf returns the bucket of a latency that is not negative.
func bucketOf(d time.Duration) int {
	u := uint64(d) >> unitBits
	if u < 8 {
		return int(u)
	}
	exp := bits.Len64(u) - 4
	return min(exp*8+int(u>>exp), Buckets-1)
}

// bucketStart returns the smallest latency of bucket i, which is also the end of bucket i-1.
func bucketStart(i int) time.Duration {
	if i < 8 {
		return time.Duration(i) << unitBits
	}
	return time.Duration(i%8+8) << (i/8 - 1 + unitBits)
}
