package circuit

import (
	"math/bits"
	"sync"
	"time"

	"go.opentelemetry.io/otel/trace"
)

// event is what is counted. Names and meanings are Hystrix's, but for SLOW and SHED, which it does not have.
type event uint8

const (
	evSuccess event = iota
	evFailure
	evTimeout
	evBadRequest
	evCanceled
	evShortCircuited
	evSemaphoreRejected
	evFallbackSuccess
	evFallbackFailure
	evFallbackRejection
	evFallbackMissing
	evFallbackDisabled
	evSlow // beside evSuccess
	evShed
	numEvents
)

var eventNames = [numEvents]string{
	"SUCCESS", "FAILURE", "TIMEOUT", "BAD_REQUEST", "CANCELLED", "SHORT_CIRCUITED", "SEMAPHORE_REJECTED",
	"FALLBACK_SUCCESS", "FALLBACK_FAILURE", "FALLBACK_REJECTION", "FALLBACK_MISSING", "FALLBACK_DISABLED", "SLOW", "SHED",
}

const (
	countBuckets  = 10
	countPeriod   = time.Second
	countWindow   = countBuckets * countPeriod
	latencyPeriod = 10 * time.Second
	latencySlots  = 208 // up to 2^27 units of 1.024 us, 137 s
	maxExamples   = 3
)

// window is the memory of one circuit. Times are given as the time since the circuit's base.
type window struct {
	mu      sync.Mutex
	counts  [countBuckets]countBucket
	latency [6]latencyBucket
	// healthFrom is the first period whose calls count for the error rate shown: a circuit that closed starts afresh.
	healthFrom int64
	// lastErr and examples are the newest failures, for the reason why a circuit opened.
	lastErr  error
	examples [maxExamples]trace.TraceID
	failures int
	// why and since describe the last change of state. The sentence is empty when closed.
	why   string
	since time.Time
	// retryAt is when an open circuit lets a trial through.
	retryAt time.Duration
}

// countBucket holds one period; epoch is the period's number.
type countBucket struct {
	epoch         int64
	n             [numEvents]int64
	maxConcurrent int64
}

type latencyBucket struct {
	epoch    int64
	count    int64
	sum      time.Duration
	min, max time.Duration
	slots    [latencySlots]uint32
}

// countsAt returns the bucket for now, emptied when it held an older period.
func (w *window) countsAt(now time.Duration) *countBucket {
	epoch := int64(now / countPeriod)
	b := &w.counts[epoch%countBuckets]
	if b.epoch < epoch {
		*b = countBucket{epoch: epoch}
	}
	return b
}

// count adds one event.
func (w *window) count(now time.Duration, ev event) {
	w.mu.Lock()
	w.countsAt(now).n[ev]++
	w.mu.Unlock()
}

// ran adds one call that ran: its event, how many ran beside it, how long it took. Canceled calls leave no latency,
// because it would be the caller's patience that is measured; refused ones leave none either.
func (w *window) ran(now time.Duration, ev event, slow bool, concurrent int64, took time.Duration) {
	w.mu.Lock()
	b := w.countsAt(now)
	b.n[ev]++
	if slow {
		b.n[evSlow]++
	}
	b.maxConcurrent = max(b.maxConcurrent, concurrent)
	if ev != evCanceled && ev != evShed {
		w.addLatency(now, took)
	}
	w.mu.Unlock()
}

func (w *window) addLatency(now, took time.Duration) {
	epoch := int64(now / latencyPeriod)
	b := &w.latency[epoch%int64(len(w.latency))]
	if b.epoch < epoch || b.count == 0 {
		*b = latencyBucket{epoch: epoch, min: took}
	}
	b.count++
	b.sum += took
	b.min = min(b.min, took)
	b.max = max(b.max, took)
	b.slots[slotOf(took)]++
}

// failed remembers a failure as evidence.
func (w *window) failed(err error, id trace.TraceID) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.lastErr = err
	if id.IsValid() {
		w.examples[w.failures%maxExamples] = id
		w.failures++
	}
}

// sums are the counts of the whole rolling window.
type sums struct {
	n                [numEvents]int64
	maxConcurrent    int64
	requests, errors int64
}

// sumLocked adds up the rolling window. Requests and errors are what the breaker sees: Hystrix's health counts, with slow calls as
// errors and without those that found the bulkhead full.
func (w *window) sumLocked(now time.Duration) sums {
	var s sums
	oldest := int64(now/countPeriod) - countBuckets + 1
	for i := range w.counts {
		b := &w.counts[i]
		if b.epoch < oldest {
			continue
		}
		for ev, n := range b.n {
			s.n[ev] += n
		}
		s.maxConcurrent = max(s.maxConcurrent, b.maxConcurrent)
		if b.epoch >= w.healthFrom {
			bad := b.n[evFailure] + b.n[evTimeout]
			s.errors += bad + b.n[evSlow]
			s.requests += bad + b.n[evSuccess]
		}
	}
	return s
}

// latenciesLocked merges the periods of the latency window.
func (w *window) latenciesLocked(now time.Duration) latencyBucket {
	var sum latencyBucket
	oldest := int64(now/latencyPeriod) - int64(len(w.latency)) + 1
	for i := range w.latency {
		b := &w.latency[i]
		if b.count == 0 || b.epoch < oldest {
			continue
		}
		if sum.count == 0 || b.min < sum.min {
			sum.min = b.min
		}
		sum.max = max(sum.max, b.max)
		sum.count += b.count
		sum.sum += b.sum
		for slot, n := range b.slots {
			sum.slots[slot] += n
		}
	}
	return sum
}

// percentile returns the latency that p percent of the calls did not exceed; 0 without calls.
func (b *latencyBucket) percentile(p float64) time.Duration {
	switch {
	case b.count == 0:
		return 0
	case p <= 0:
		return b.min
	case p >= 100:
		return b.max
	}
	rank := p / 100 * float64(b.count)
	seen := 0.0
	for slot, n := range b.slots {
		if seen+float64(n) < rank {
			seen += float64(n)
			continue
		}
		low, high := slotStart(slot), slotStart(slot+1)
		within := low + time.Duration(float64(high-low)*(rank-seen)/float64(n))
		return min(max(within, b.min), b.max)
	}
	return b.max
}

func (b *latencyBucket) mean() time.Duration {
	if b.count == 0 {
		return 0
	}
	return b.sum / time.Duration(b.count)
}

// slotOf maps a latency to its slot: eight slots for each power of two, so that a slot is at most 12.5 % wide.
func slotOf(d time.Duration) int {
	u := uint64(max(d, 0)) >> 10
	if u < 8 {
		return int(u)
	}
	exp := bits.Len64(u) - 4
	return min(exp*8+int(u>>exp), latencySlots-1)
}

// slotStart returns the smallest latency of a slot.
func slotStart(slot int) time.Duration {
	if slot < 8 {
		return time.Duration(slot) << 10
	}
	return time.Duration(slot%8+8) << (slot/8 - 1 + 10)
}
