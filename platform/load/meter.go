package load

import "time"

// Outcome says how a call ended.
type Outcome uint8

// A canceled call has no outcome: do not record it.
const (
	// Succeeded: the callee answered. An error that is the caller's fault is an answer.
	Succeeded Outcome = iota
	// Failed: the callee is at fault, or did not answer in time.
	Failed
	// Rejected: the call was not run. Its latency is ignored.
	Rejected
)

const (
	period  = time.Second
	periods = int64(Window / period)
)

// Meter measures the load of one link. Times are given as the time since its owner began to measure. The zero value is
// ready to use. It is not safe for concurrent use: the owner locks. The first call allocates its buckets, 16 KB.
type Meter struct {
	// seconds is a ring: the seconds of the window and the one that is running.
	seconds *[periods + 1]second
}

// second holds the calls of one second; number counts from the start.
type second struct {
	number int64
	load   Load
}

// Record adds a call that ended at now after it took some time.
func (m *Meter) Record(now time.Duration, outcome Outcome, took time.Duration) {
	l := m.at(now)
	l.Calls++
	switch outcome {
	case Failed:
		l.Failures++
	case Rejected:
		l.Rejected++
		return
	}
	l.Latency.Record(took)
}

// Fallback adds a call that a fallback answered. The call itself is recorded by Record.
func (m *Meter) Fallback(now time.Duration) { m.at(now).Fallbacks++ }

// Load returns the load of the last ten complete seconds before now.
func (m *Meter) Load(now time.Duration) Load {
	current := int64(now / period)
	sum := Load{Measured: time.Duration(min(current, periods)) * period}
	if m.seconds == nil {
		return sum
	}
	for i := range m.seconds {
		if s := &m.seconds[i]; s.number < current && s.number >= current-periods {
			sum.Add(&s.load)
		}
	}
	return sum
}

// at returns the load of the second of now, which is emptied if it held an older second.
func (m *Meter) at(now time.Duration) *Load {
	if m.seconds == nil {
		m.seconds = new([periods + 1]second)
	}
	number := int64(now / period)
	s := &m.seconds[number%(periods+1)]
	if s.number < number {
		*s = second{number: number}
	}
	return &s.load
}
