package gateway

import (
	"runtime/debug"
	rtmetrics "runtime/metrics"
	"sync"
	"time"
)

// release gives memory back to the system when many connections have become idle, or tunnels. A goroutine that ends
// leaves its stack to Go, which gives it to other goroutines of the same size, and to the system only after a garbage
// collection. A process with nothing to do makes the next one after two minutes. A process with much to do needs no
// help.
type release struct {
	mu     sync.Mutex
	idle   int         // how many became idle since the last release
	cycles uint64      // garbage collections when the timer was set
	timer  *time.Timer // calls check; nil: it does not run
	last   time.Time   // when memory was last given back
}

const (
	releaseIdle  = 256 // they leave about 2 MiB
	releaseQuiet = time.Second
	releaseEvery = 10 * time.Second
)

// becameIdle counts a connection that has no goroutine with a large stack any more.
func (r *release) becameIdle() {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.idle++; r.idle >= releaseIdle && r.timer == nil {
		r.startLocked(max(releaseQuiet, time.Until(r.last.Add(releaseEvery))))
	}
}

func (r *release) startLocked(after time.Duration) {
	r.cycles = collections()
	r.timer = time.AfterFunc(after, r.check)
}

// check gives memory back, unless there was a garbage collection since the timer was set: then it looks again later.
func (r *release) check() {
	if r.isDue() {
		debug.FreeOSMemory() // takes milliseconds, and must not hold the mutex
	}
}

func (r *release) isDue() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if collections() != r.cycles {
		r.startLocked(releaseQuiet)
		return false
	}
	r.timer, r.idle, r.last = nil, 0, time.Now()
	return true
}

func (r *release) stop() {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.timer != nil {
		r.timer.Stop()
	}
}

// collections is how many garbage collections there were.
func collections() uint64 {
	sample := [1]rtmetrics.Sample{{Name: "/gc/cycles/total:gc-cycles"}}
	rtmetrics.Read(sample[:])
	return sample[0].Value.Uint64()
}
