// Package platform is the map: to do X, import Y. It holds no code.
//
//	make a process a member of the platform       platform/service
//	read settings that change while running       platform/config
//	find instances, register one                  platform/discovery
//	choose the instance for a request             platform/route
//	guard a call: time-out, breaker, fallback     platform/circuit
//	make a failed call again, within a budget     platform/retry
//	count calls, errors and latencies             platform/load
//	take no more than can be done                 platform/overload
//	record what happened to a request             platform/trace
//	call and serve gRPC with all of the above     platform/rpc
//	return errors that survive the wire           platform/errs
//	answer JSON requests over HTTP                platform/httpapi
//	keep small state that replicas share          platform/kv
//	check what a person calls a thing             platform/names
//	keep and print text from outside safely       platform/text
//	wait, with jitter or growing pauses           platform/pace
//	test without ports, in fake time              platform/memnet
//	speak to the control plane yourself           platform/api
//
// Every package works alone, and its Example shows that. Imports point one way: api and errs are at the bottom, service
// is at the top. What is exported here is a promise: it changes by addition.
package platform
