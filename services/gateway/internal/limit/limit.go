// Package limit limits how often and how many at a time: rates and places by key, in memory that is bounded.
package limit

import (
	"math/bits"
	"sync"
	"sync/atomic"
	"time"
)

// Rate is how often: once each Every, and Burst times at once after a pause. Both must be above zero.
type Rate struct {
	Every time.Duration
	Burst int64
}

// Divided is one of n equal parts of the rate. The burst of a part is at least 1.
func (r Rate) Divided(n int64) Rate { return Rate{r.Every * time.Duration(n), max(1, r.Burst/n)} }

// Rates counts by key and refuses what comes too often. Make it with NewRates. It is safe for use by several
// goroutines.
//
// It is a token bucket in the form of GCRA (ITU-T I.371): the state of a key is one moment, the one at which it has its
// whole burst again. golang.org/x/time/rate needs a limiter of 80 bytes for each key and somebody who removes them.
// Here a moment that has passed is the same as no state, so nothing has to be removed.
//
// The keys are kept in sets of ways, as in the cache of a processor. When a set is full, the key that has its burst
// again first is forgotten: it has sent least. A key that is forgotten begins with a whole burst again, so an error
// lets requests pass and never refuses one. At half of the capacity, about 1 of 1000 keys is forgotten. Only keys that
// do not have their whole burst count.
type Rates struct {
	sets []atomic.Pointer[set] // their number is a power of 2; nil: no key of it was used
}

// ways is how many keys there are in a set.
const ways = 16

type set struct {
	mu   sync.Mutex
	keys [ways]uint64
	// full is when the key of the same index has its whole burst again. What has passed is as good as zero.
	full [ways]int64
}

// NewRates returns a counter for keys keys, rounded up to the next power of 2 and to 16. It takes 8 bytes for 16 keys,
// and 288 bytes more when one of these is used.
func NewRates(keys int) *Rates {
	return &Rates{sets: make([]atomic.Pointer[set], 1<<bits.Len(uint(max(1, (keys+ways-1)/ways)-1)))}
}

// Result is what Take says about a key.
type Result struct {
	// Passes is whether the request is within the rate. If not it was not counted.
	Passes bool
	// Left is how many more would pass now.
	Left int64
	// Wait is the time until one more passes. Zero: it passes now.
	Wait time.Duration
}

// Take counts one request of a key. Keys must be spread evenly over all numbers, as hashes are. Now is in nanoseconds
// since any moment before the first call, and must be above zero.
func (r *Rates) Take(key uint64, now int64, rate Rate) Result {
	s := r.set(key)
	s.mu.Lock()
	defer s.mu.Unlock()
	i := s.find(key)
	every, burst := int64(rate.Every), int64(rate.Every)*rate.Burst
	full := now + every
	if s.keys[i] == key {
		full = max(now, s.full[i]) + every
	}
	if over := full - now - burst; over > 0 { // only for a known key, because a burst is at least 1
		return Result{Wait: time.Duration(over)}
	}
	s.keys[i], s.full[i] = key, full
	left := burst - (full - now)
	res := Result{Passes: true, Left: left / every}
	if res.Left == 0 {
		res.Wait = time.Duration(every - left)
	}
	return res
}

func (r *Rates) set(key uint64) *set {
	p := &r.sets[key&uint64(len(r.sets)-1)]
	if s := p.Load(); s != nil {
		return s
	}
	p.CompareAndSwap(nil, new(set)) // another goroutine may have been first
	return p.Load()
}

// find returns the index of a key, or that of the key to forget for it.
func (s *set) find(key uint64) int {
	least := 0
	for i := range s.keys {
		if s.keys[i] == key {
			return i
		}
		if s.full[i] < s.full[least] {
			least = i
		}
	}
	return least
}

// Places counts what is in progress by key. The zero value is ready for use. It holds only keys that have a place.
type Places struct {
	mu   sync.Mutex
	held map[uint64]int64 // key -> how many places it holds, above 0
}

// Take takes a place and reports whether there was one: a key has at most most. It must be given back by Release.
func (p *Places) Take(key uint64, most int64) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.held[key] >= most {
		return false
	}
	if p.held == nil {
		p.held = map[uint64]int64{}
	}
	p.held[key]++
	return true
}

// Release gives a place back.
func (p *Places) Release(key uint64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.held[key]--; p.held[key] <= 0 {
		delete(p.held, key)
	}
}
