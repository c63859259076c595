// Package circuit protects callers from a failing callee.
//
// There is one circuit for each method of each callee. It bounds how long a call may take and how many calls may run at
// once, and it stops calling for a while when too many calls fail. A [Set] holds the circuits of one process and makes
// each of them at its first use:
//
//	err := set.Do(ctx, circuit.Key{Group: "catalog", Method: "GetMovie"}, func(ctx context.Context) error {
//		return get(ctx) // must give up when ctx ends
//	})
//
// # States
//
// A closed circuit lets calls through. It opens when at least minCalls calls ended within the rolling window of 10
// seconds and errorPercent of them failed. An open circuit rejects calls at once. After openFor it is half-open: it
// lets exactly one call through as a trial. If the trial succeeds, the circuit closes and its error rate starts anew.
// If the trial fails, the wait starts again. The state machine is that of github.com/sony/gobreaker; the counts are
// ours (see ADR 18).
//
// # What counts
//
// Outcomes are counted under the names of Hystrix events. One table says what an error means:
//
//	outcome                                           event               the circuit sees
//	no error                                          SUCCESS             success
//	no error, but slower than slowCall                SUCCESS and SLOW    failure
//	Invalid NotFound Exists Conflict Precondition     BAD_REQUEST         nothing; a half-open circuit sees success
//	  Unauthenticated Denied
//	Canceled, or the caller canceled its context      CANCELLED           nothing
//	Timeout, or a deadline passed (own or caller's)   TIMEOUT             failure
//	Internal Unavailable Exhausted Unimplemented,     FAILURE             failure
//	  errors without a kind, panics
//	the callee answered one request with a failure    ISOLATED_FAILURE    success
//	  that says nothing about others (ReasonIsolated)
//	the callee is overloaded and refused the call     SHED                nothing
//	  unread (ReasonShed)
//	rejected: too many calls are running              SEMAPHORE_REJECTED  nothing
//	rejected: the circuit is open                     SHORT_CIRCUITED     nothing
//
// In Hystrix a call that finds too many running is a failure. Here it is not: many calls at once say nothing about the
// callee, and an open circuit would also reject those that it can serve. An incident was the reason: 2000 clients that
// reconnected at once made the circuits of a healthy service reject all calls for five seconds.
//
// A bad request closes a half-open circuit because it proves that the callee answers. EXCEPTION_THROWN is the sum of
// BAD_REQUEST and the FALLBACK events that left the caller with an error, as in Hystrix. A failed call that is not
// inside a [Fallback] counts as FALLBACK_MISSING. Events are those of the running second and the nine before it. The
// load and the latencies are those of the last ten complete seconds, see package load; percentiles are within
// load.MaxError.
//
// # Settings
//
// All settings are live. They are named circuit.<KEY>.<name>, where <KEY> is the circuit ("catalog.GetMovie"), its
// group ("catalog") or "default". The circuit uses the value of the first of these keys that has one:
//
//	timeout          1s     0s: no time-out
//	maxConcurrent    100    calls are rejected while this many are running
//	breakerEnabled   true
//	minCalls         20     calls in the window before the circuit can open
//	errorPercent     50
//	openFor          5s
//	slowCall         0s     0s: off
//	forceOpen        false  takes precedence over forceClosed
//	forceClosed      false
//	fallbackEnabled  true
//	maxFallbacks     100
//
// The settings circuit.stream.interval (500ms) and circuit.stream.maxConnections (5) are those of StreamHandler.
// docs/api/circuits.md says what Hystrix calls each of them.
//
// maxConcurrent is 10 in Hystrix, where each call holds a thread. Here a call holds a goroutine of a few kilobytes. A
// limit of 10 would allow 200 calls a second to a callee that answers in 50 ms.
//
// A changed setting changes no state and no count. While a circuit is forced or disabled it keeps its state and counts
// its calls. Afterwards it continues with both.
//
// # Limits
//
// A Set makes at most 1000 circuits. Beyond that, calls share one circuit for each group ("catalog.*"), and beyond
// 2000 circuits one for all ("*.*"): a caller that builds keys from user input cannot exhaust memory. One circuit
// takes about 18 KiB.
//
// [Set.Do] runs the call in the caller's goroutine, and its time-out cancels the context. It starts no goroutine, so
// none can leak. It waits for a call that ignores its context.
package circuit
