// Package load defines the load of a link: how many calls one service sends to another, how many fail and how long they
// take. Everything that shows load (bijou map, the console, turbine.stream) uses these definitions.
//
//   - The window is the last ten complete seconds (Window) for every figure.
//   - A call is counted when it ends. Calls = succeeded + failed + rejected.
//   - A call failed if the callee is at fault or it timed out. An error of the caller, such as an invalid argument or
//     "not found", is a success of the callee.
//   - A call is rejected if it was not run: the circuit was open, the bulkhead was full, or the callee shed it.
//   - The error percentage is (failed + rejected) / calls. A fallback does not change it.
//   - A call that the caller canceled is not counted at all: it says nothing about the callee.
//   - Latency is measured for calls that succeeded or failed, not for rejected ones. At the edge it ends with the
//     response's header, because a response may be a stream.
//   - Loads of several instances or callers are added: counts are summed and histograms are merged, so percentiles are
//     those of all calls together, within MaxError.
//   - A load that does not cover its whole window yet is not known. It is shown as "measuring", never as 0.
package load

import "time"

// Window is what every load covers: the last ten complete seconds.
const Window = 10 * time.Second

// Internet is the name of the callers outside the platform, where the name of a calling service is expected.
const Internet = "INTERNET"

// Load is the number, the outcome and the latency of the calls of one link within Window. The zero value has measured
// nothing and is not Known. It is not safe for concurrent use.
type Load struct {
	// Measured is how much of Window the counts cover. Less than Window: the figures are not known yet.
	Measured time.Duration
	// Calls is the number of all calls that ended; Failures and Rejected are parts of it.
	Calls, Failures, Rejected uint64
	// Fallbacks is the number of calls that a fallback answered.
	Fallbacks uint64
	// Latency has the calls that ran: those not rejected.
	Latency Histogram
}

// Add adds the load of another instance or caller. The sum covers what the longer of the two covers: an instance that
// started within the window had no calls before.
func (l *Load) Add(o *Load) {
	l.Measured = max(l.Measured, o.Measured)
	l.Calls += o.Calls
	l.Failures += o.Failures
	l.Rejected += o.Rejected
	l.Fallbacks += o.Fallbacks
	l.Latency.Merge(&o.Latency)
}

// Known reports whether the counts cover the whole window. If not, show "measuring" instead of any figure.
func (l *Load) Known() bool { return l.Measured >= Window }

// Rate returns the calls per second.
func (l *Load) Rate() float64 { return perSecond(l.Calls) }

// RejectedRate returns the rejected calls per second.
func (l *Load) RejectedRate() float64 { return perSecond(l.Rejected) }

// FallbackRate returns the fallbacks per second.
func (l *Load) FallbackRate() float64 { return perSecond(l.Fallbacks) }

// ErrorPercent returns how many percent of the calls failed or were rejected; 0 without calls.
func (l *Load) ErrorPercent() float64 {
	if l.Calls == 0 {
		return 0
	}
	return 100 * float64(l.Failures+l.Rejected) / float64(l.Calls)
}

// P50 returns the median latency. Without calls that ran there is none: check Latency.Count.
func (l *Load) P50() time.Duration { return l.Latency.Percentile(50) }

// P99 returns the latency that 99 percent of the calls did not exceed. Without calls that ran there is none: check
// Latency.Count.
func (l *Load) P99() time.Duration { return l.Latency.Percentile(99) }

func perSecond(n uint64) float64 { return float64(n) / Window.Seconds() }
