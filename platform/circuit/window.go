package circuit

import (
	"time"

	"bijou.dev/platform/load"

	"go.opentelemetry.io/otel/trace"
)

// event is what is counted. Names and meanings are those of Hystrix, except SLOW, SHED and ISOLATED_FAILURE, which it
// does not have.
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
	evSlow // counted together with evSuccess
	evShed
	evIsolatedFailure
	numEvents
)

var eventNames = [numEvents]string{
	"SUCCESS", "FAILURE", "TIMEOUT", "BAD_REQUEST", "CANCELLED", "SHORT_CIRCUITED", "SEMAPHORE_REJECTED",
	"FALLBACK_SUCCESS", "FALLBACK_FAILURE", "FALLBACK_REJECTION", "FALLBACK_MISSING",
	"FALLBACK_DISABLED", "SLOW", "SHED", "ISOLATED_FAILURE",
}

const (
	period      = time.Second
	periods     = int64(load.Window / period)
	maxExamples = 3
)

// window holds what one circuit counted in the last seconds. The breaker, the snapshots and the load of the link read
// the same counts. Times are given as the time since the Set was made. The circuit's lock guards it.
type window struct {
	// ring has the running second and the ten complete seconds before it.
	ring [periods + 1]second
	// lastErr and examples are the newest failures, to explain why a circuit opened.
	lastErr  error
	examples [maxExamples]trace.TraceID
	failures int // number of examples ever recorded
}

// second holds one second; number counts the seconds since the Set was made.
type second struct {
	number        int64
	events        [numEvents]uint64
	maxConcurrent int64
	// health is what the breaker decides on. It is reset when the circuit closes, events are not.
	health  health
	latency load.Histogram
}

// health is a number of calls that say something about the callee, and how many of them failed. Calls that timed out
// and slow ones are parts of failed.
type health struct{ calls, failed, timedOut, slow int64 }

// add counts one call.
func (h *health) add(ev event, slow bool) {
	switch {
	case slow:
		h.slow++
	case ev == evTimeout:
		h.timedOut++
	case ev == evSuccess, ev == evIsolatedFailure:
		h.calls++
		return
	case ev != evFailure:
		return
	}
	h.calls++
	h.failed++
}

// percent returns the share of failed calls, rounded down; 0 without calls.
func (h health) percent() int64 {
	if h.calls == 0 {
		return 0
	}
	return h.failed * 100 / h.calls
}

// at returns the second of now, emptied if it held an older second.
func (w *window) at(now time.Duration) *second {
	number := int64(now / period)
	s := &w.ring[number%(periods+1)]
	if s.number < number {
		*s = second{number: number}
	}
	return s
}

// count adds one event.
func (w *window) count(now time.Duration, ev event) { w.at(now).events[ev]++ }

// ended adds a call that ran. Canceled and shed calls leave no latency, because it would say nothing about the callee.
// If forHealth is false the breaker does not see the call.
func (w *window) ended(now time.Duration, ev event, slow bool, took time.Duration, concurrent int64, forHealth bool) {
	s := w.at(now)
	s.events[ev]++
	if slow {
		s.events[evSlow]++
	}
	s.maxConcurrent = max(s.maxConcurrent, concurrent)
	if ev != evCanceled && ev != evShed {
		s.latency.Record(took)
	}
	if forHealth {
		s.health.add(ev, slow)
	}
}

// resetHealth makes the breaker see no calls, for a circuit that closed.
func (w *window) resetHealth() {
	for i := range w.ring {
		w.ring[i].health = health{}
	}
}

// exampleOf remembers the trace of a failure.
func (w *window) exampleOf(id trace.TraceID) {
	if id.IsValid() {
		w.examples[w.failures%maxExamples] = id
		w.failures++
	}
}

// rolling adds up the events of the running second and the nine before it, as hystrix.stream shows them.
func (w *window) rolling(now time.Duration) (events [numEvents]uint64, maxConcurrent int64) {
	newest := int64(now / period)
	for i := range w.ring {
		s := &w.ring[i]
		if s.number <= newest-periods {
			continue
		}
		for ev, n := range s.events {
			events[ev] += n
		}
		maxConcurrent = max(maxConcurrent, s.maxConcurrent)
	}
	return events, maxConcurrent
}

// health adds up the running second and the nine before it.
func (w *window) health(now time.Duration) (sum health) {
	newest := int64(now / period)
	for i := range w.ring {
		if s := &w.ring[i]; s.number > newest-periods {
			sum.calls += s.health.calls
			sum.failed += s.health.failed
			sum.timedOut += s.health.timedOut
			sum.slow += s.health.slow
		}
	}
	return sum
}

// load adds up the ten complete seconds before now.
func (w *window) load(now time.Duration) load.Load {
	running := int64(now / period)
	sum := load.Load{Measured: time.Duration(min(running, periods)) * period}
	for i := range w.ring {
		s := &w.ring[i]
		if s.number >= running || s.number < running-periods {
			continue
		}
		failed := s.events[evFailure] + s.events[evTimeout] + s.events[evIsolatedFailure]
		rejected := s.events[evShortCircuited] + s.events[evSemaphoreRejected] + s.events[evShed]
		sum.Calls += s.events[evSuccess] + s.events[evBadRequest] + failed + rejected
		sum.Failures += failed
		sum.Rejected += rejected
		sum.Fallbacks += s.events[evFallbackSuccess]
		sum.Latency.Merge(&s.latency)
	}
	return sum
}
