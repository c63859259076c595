package load

import (
	"sync"
	"time"

	circuitsv1 "bijou.dev/platform/api/circuits/v1"
)

// Recorder measures the calls that one process serves. It is safe for concurrent use. Make one with NewRecorder.
type Recorder struct {
	start time.Time

	mu       sync.Mutex
	meter    Meter
	used     bool // a call was recorded
	internet bool
}

// NewRecorder returns a Recorder that measures from now on.
func NewRecorder() *Recorder { return &Recorder{start: time.Now()} }

// Record adds a call that ends now and took some time.
func (r *Recorder) Record(outcome Outcome, took time.Duration) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.used = true
	r.meter.Record(time.Since(r.start), outcome, took)
}

// ServeInternet declares that the calls come from outside the platform: the load is also that of the link from Internet
// to this service.
func (r *Recorder) ServeInternet() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.internet = true
}

// Proto returns the load, and whether the calls come from outside the platform. The load is nil until the first call:
// some processes serve nothing that is recorded, and theirs must not be shown as 0.
func (r *Recorder) Proto() (served *circuitsv1.Load, internet bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if !r.used {
		return nil, r.internet
	}
	l := r.meter.Load(time.Since(r.start))
	return l.Proto(), r.internet
}
