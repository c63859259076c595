// Package overload keeps a server useful when it is asked for more than it can do: it finds out how many requests the
// server can work on at once, and when there are more it sheds the least important ones first.
//
//	limiter := overload.New(overload.Options{Config: settings}).Limiter("grpc")
//	permit, ok := limiter.Acquire("Catalog/Get", overload.Of(ctx))
//	if !ok {
//		return tooMuchToDo // say when to come back: limiter.RetryAfter()
//	}
//	permit.Done(overload.Success)
//
// platform/rpc does this for every call of a server, and the gateway for every request to an origin.
//
// # Criticality
//
// A request has one of Google's four criticalities (Site Reliability Engineering, chapter 21). It is decided once, at
// the edge, by the route; it travels as the member bijou.criticality of the W3C baggage, and is CRITICAL when nobody
// says anything. A service may set it in a context with [With], to mark work of its own that can wait.
//
// # Which requests are shed
//
// Sheddable requests have the part of the limit up to shedAll. With u = requests in flight / limit and x = (u -
// shedFrom) / (shedAll - shedFrom), a request is shed when its place in the order, from 0 for the last of
// SHEDDABLE_PLUS to 1 for the first of SHEDDABLE, is at or above 1 - x^3. That is the cubic curve of Netflix's Zuul:
// near the start almost nobody is touched, and no SHEDDABLE_PLUS is before 79 % of the way, where no SHEDDABLE is left.
// What is between shedAll and the limit is for critical requests: without that gap, chance would shed them beside
// sheddable ones. They may go beyond it by its square root, which is how far chance alone takes a number of arrivals,
// and CRITICAL_PLUS by twice that. Nothing waits in a queue.
//
// # The limit
//
// It follows latency, in the way of Gradient2 in Netflix's concurrency-limits, with what its users found wanting
// mended:
//
//   - A baseline for each kind of request, so that a change of the mix is not taken for a change of load. What counts is
//     the slowdown, the time requests took over the time they take when there is no queue. Each sample is clipped, so that
//     one outlier does not decide.
//   - A window whose slowdown is above the tolerance multiplies the limit by tolerance / slowdown, by half at the most. It
//     grows, by its square root, only while there is no slowdown and at least half of it is in use: so it does not drift up
//     (concurrency-limits PR 134).
//   - Requests whose deadline passed count as congestion: the limit is multiplied by the share of the others, and a server
//     that answers nothing in time does not look fast (concurrency-limits #137, #176).
//   - The baseline is the lowest mean of any window. It rises when the limit was not in use, for then what is slow is not
//     the queue here, and when halving the limit did not help, for then it is not either: a slow dependency is not overload.
//   - While there is overload, the baseline is measured again now and then with three quarters of the sheddable requests'
//     places taken away for one window, so that a server that was born in a storm learns what it can do.
//   - Latencies below the floor are never slow: a millisecond that becomes five on a busy machine is no queue.
//
// # Settings
//
// All are live:
//
//	overload.enabled        true
//	overload.limit.initial  100
//	overload.limit.min      50     lower ones shed where a busy machine is all that is wrong
//	overload.limit.max      1000
//	overload.tolerance      2
//	overload.floor          20ms
//	overload.window         500ms
//	overload.probe          15s    0s: no probes
//	overload.shedFrom       0.5
//	overload.shedAll        0.75
//	overload.retryAfter     1s
package overload
