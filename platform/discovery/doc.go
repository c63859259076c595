// Package discovery is the client of the registry: it says who is alive and where, and keeps this process registered.
//
// A [Client] follows the registry on one stream per process and holds what it learnt in memory. Reading it
// ([Client.Instances], [Client.Watch], the gRPC resolver of [Client.Builder]) never waits for the network: callers
// always get the last list that was known, at start from disk. A [Registrar] keeps one [Instance] registered, for
// ever. A client made by [Static] does the same reading without any registry.
//
// # What the client believes
//
// The registry may be gone, restarted empty or cut off from half of the instances. A caller that empties its lists then
// turns a fault of the registry into a fault of everything. So the client drops an instance by these rules only:
//
//  1. While no registry answers, nothing is dropped.
//  2. An instance that was last seen in a status other than UP takes no calls. It goes when the registry says so,
//     or is silent about it.
//  3. A snapshot that lacks UP instances is believed when it lacks at most half of those of a service. Otherwise,
//     or when the registry says that it is warming up, the missing ones are kept as suspects.
//  4. An instance known from disk only gives way to a snapshot that has any UP instance of its service, unless the
//     registry is warming up: the file may be old.
//  5. A removal in a delta is obeyed, for the registry has then decided it. One exception: when a removal leaves a
//     service without an UP instance, those that were removed within the last [LeaseDefault] without having been seen
//     DRAINING come back as suspects. An empty list would fail every call anyway, so trying them costs nothing,
//     and it saves a service whose instances have only lost the registry.
//  6. A suspect is dropped after [Options.Hold]. The time counts only while a registry answers that is not warming
//     up, and starts again with each snapshot. A suspect that is reported again is a suspect no more.
//
// Suspects are called like any other instance; the balancer ejects those that do not answer. [Client.Stats] counts all
// of it.
//
// # Applied versions
//
// Each version of the registry is acknowledged after all functions given to [Client.Watch] have returned and all gRPC
// connections have got their new addresses. That makes [Registrar.Drain] honest: when it returns nil, no watcher
// that is connected picks the instance for new calls.
package discovery
