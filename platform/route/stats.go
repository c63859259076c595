package route

import (
	"math"
	"sync/atomic"
	"time"
)

// phase is where an endpoint stands with regard to ejection.
type phase = uint32

const (
	admitted  phase = iota
	ejected         // until a moment
	probation       // out, waiting for one request to succeed
)

// stats is what a balancer has learned about one endpoint. There is no lock on the path of a request.
type stats struct {
	pending  atomic.Int64
	streams  atomic.Int64 // long requests under way; they are not in pending
	ewma     ewma
	failures atomic.Uint32 // requests in a row without an answer
	good     atomic.Uint32 // since the last sweep
	bad      atomic.Uint32 // since the last sweep
	failedAt atomic.Int64  // when it failed, or was last tried since; 0: the last answer was good
	born     atomic.Int64  // when slow start began, ns since the balancer's epoch
	probed   atomic.Int64  // when the probe under way was sent; 0: none is
	phase    atomic.Uint32 // written under Balancer.mu

	// Under Balancer.mu.
	until     int64  // end of the ejection
	ejections uint32 // how many of late; the sweep forgets them
	reason    string // of the last one
}

func newStats(now int64) *stats {
	s := new(stats)
	s.born.Store(now)
	return s
}

// unknown is the latency of an endpoint that is still at work on its first request: above that of any known one.
const unknown = float64(time.Hour)

// cost is what one more request would cost, in nanoseconds x requests. Streams weigh on each other but not on
// requests: most of them are idle most of the time.
func (s *stats) cost(now int64, t *tuning, stream bool) float64 {
	latency, pending := s.ewma.at(now, t.decay), float64(s.pending.Load())
	if stream {
		return max(latency, float64(time.Millisecond)) * (pending + float64(s.streams.Load()) + 1)
	}
	if latency == 0 && pending > 0 {
		latency = unknown
	}
	return latency * (pending + 1)
}

// claim reserves the right to probe. A probe that takes longer than an ejection no longer keeps others away.
func (s *stats) claim(now int64, t *tuning) bool {
	if s.phase.Load() != probation {
		return false
	}
	last := s.probed.Load()
	if last != 0 && now-last < int64(t.ejectMax) {
		return false
	}
	return s.probed.CompareAndSwap(last, max(now, 1))
}

// retry reserves the right to try an endpoint again that failed and has got nothing since, because it costs too much.
// With only the penalty it would be without a request for more than a minute.
func (s *stats) retry(now int64, t *tuning) bool {
	failed := s.failedAt.Load()
	return failed != 0 && now-failed >= int64(t.ejectBase) && s.failedAt.CompareAndSwap(failed, now)
}

// ewma is a peak EWMA: a higher value replaces it, lower ones and time pull it down. The upper half of the word is
// the value in ns as float32, the lower the moment it was set, in ms; so it changes in one step, without a lock.
// Zero means that nothing is known.
type ewma struct{ word atomic.Uint64 }

func (e *ewma) at(now int64, decay time.Duration) float64 {
	value, _ := decayed(e.word.Load(), now, decay)
	return value
}

// observe takes in one latency.
func (e *ewma) observe(latency, now int64, decay time.Duration) {
	for {
		word := e.word.Load()
		value, keep := decayed(word, now, decay)
		sample := max(float64(latency), 1)
		switch {
		case word == 0 || sample > value:
			value = sample
		case keep == 1: // within one millisecond nothing decays
			return
		default:
			value += sample * (1 - keep)
		}
		if e.word.CompareAndSwap(word, packed(value, now)) {
			return
		}
	}
}

// set forgets the past.
func (e *ewma) set(value float64, now int64) { e.word.Store(packed(value, now)) }

func packed(value float64, now int64) uint64 {
	return uint64(math.Float32bits(float32(value)))<<32 | uint64(uint32(now/int64(time.Millisecond)))
}

// decayed returns the value of word as of now, and the part of it that is left.
func decayed(word uint64, now int64, decay time.Duration) (value, keep float64) {
	value = float64(math.Float32frombits(uint32(word >> 32)))
	ms := int32(uint32(now/int64(time.Millisecond)) - uint32(word))
	if ms <= 0 || value == 0 {
		return value, 1
	}
	keep = math.Exp(-float64(ms) * float64(time.Millisecond) / float64(decay))
	return value * keep, keep
}
