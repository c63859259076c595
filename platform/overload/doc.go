// Package overload keeps a server useful when it gets more requests than it can serve: it measures how many requests
// the server can work on at once, and when there are more it sheds the least important ones first.
//
//	limiter := overload.New(overload.Options{Config: settings}).Limiter("grpc")
//	permit, ok := limiter.Acquire("Catalog/Get", overload.Of(ctx))
//	if !ok {
//		return tooMuchToDo // with limiter.RetryAfter()
//	}
//	permit.Done(overload.Success)
//
// platform/rpc does this for every call of a server, and the gateway for every request to an origin.
//
// # Criticality
//
// A request has one of Google's four criticalities (Site Reliability Engineering, chapter 21). The route decides it, at
// the edge. It travels as the member bijou.criticality of the W3C baggage. Without that member it is CRITICAL. A
// service may set it in a context with [With], to mark work of its own that can wait.
//
// # Which requests are shed
//
// Sheddable requests may use the limit up to the share shedAll. With u = requests in flight / limit and x = (u -
// shedFrom) / (shedAll - shedFrom), a request is shed when its place in the order is at or above 1 - x^3. The order is
// from 0 for the last of SHEDDABLE_PLUS to 1 for the first of SHEDDABLE. This is the cubic curve of Netflix's Zuul:
// near the start almost no request is shed, and SHEDDABLE_PLUS is shed only from 79 % of the way on, where every
// SHEDDABLE is shed already. The places between shedAll and the limit are for critical requests: without that gap,
// random bursts would shed them together with sheddable ones. CRITICAL may exceed the limit by its square root, which
// is the size of random bursts, and CRITICAL_PLUS by twice that. There is no queue.
//
// # The limit
//
// The limit follows latency, like Gradient2 in Netflix's concurrency-limits, without the faults that its users
// reported:
//
//   - There is a baseline for each kind of request, so that a change of the mix does not look like a change of load.
//     The slowdown is the time that requests took, divided by the time they take without a queue. Each sample is
//     clipped, so that one outlier does not decide.
//   - A window whose slowdown is above the tolerance multiplies the limit by tolerance / slowdown, or by one half if
//     that is more. The limit grows, by its square root, only while there is no slowdown and at least half of it is in
//     use: so it does not drift up (concurrency-limits PR 134).
//   - Requests whose deadline passed count as congestion: the limit is multiplied by the share of the others, so that a
//     server that answers nothing in time does not look fast (concurrency-limits #137, #176).
//   - The baseline is the lowest mean of any window. It rises in two cases: the limit was not in use, or halving the
//     limit did not help. In both, requests are slow for another reason than a queue in this server, such as a slow
//     dependency.
//   - While there is overload, the baseline is measured again from time to time: for one window, sheddable requests get
//     a quarter of their places. So a server that started under overload learns its capacity.
//   - Latencies below the floor are never slow: a millisecond that becomes five on a busy machine is not a queue.
//
// # Settings
//
// All are live:
//
//	overload.enabled        true
//	overload.limit.initial  100
//	overload.limit.min      50     lower limits shed requests on a machine that is only busy
//	overload.limit.max      1000
//	overload.tolerance      2
//	overload.floor          20ms
//	overload.window         500ms
//	overload.probe          15s    0s: no probes
//	overload.shedFrom       0.5
//	overload.shedAll        0.75
//	overload.retryAfter     1s
package overload
