// Package discovery is the client of the registry: it has the instances of all services with their addresses, and it
// keeps this process registered.
//
// A [Directory] is what a process knows. Reading it ([Directory.Instances], [Directory.Watch], the gRPC resolver of
// [Directory.Builder]) never waits for the network: readers always get the newest list that is known, at start the one
// from disk. A [Client] fills its directory from the registry, which it follows on one stream. A [Static] fills its
// directory with what the program gives it; it needs no registry. A [Registrar] keeps one [Instance] registered through
// a Client.
//
// # When an instance is dropped
//
// The registry can be down, restarted without data, or cut off from half of the instances. If callers then emptied
// their lists, a fault of the registry would become a fault of every service. So the client drops an instance by these
// rules only:
//
//  1. While no registry answers, nothing is dropped.
//  2. An instance whose last known status is not UP takes no calls. It is dropped when the registry removes it, or when
//     a snapshot does not contain it.
//  3. UP instances that a snapshot does not contain are dropped when they are at most half of the UP instances of
//     their service. Otherwise, or when the registry is warming up, they are kept as suspects.
//  4. An instance that is known from disk only is dropped when a snapshot has any UP instance of its service, unless
//     the registry is warming up: the file may be old.
//  5. An instance that a delta removes is dropped, because the registry has decided it. One exception: when a removal
//     leaves a service without an UP instance, the instances that were removed while UP within the last [LeaseDefault]
//     come back as suspects. With an empty list every call would fail, so calling them costs nothing, and a service
//     whose instances have only lost their connection to the registry stays up.
//  6. A suspect is dropped after [Options.Hold]. The time counts only while a registry is followed that is not warming
//     up, and starts again with each snapshot. An instance that is reported again is no longer a suspect.
//
// Suspects are called like any other instance; the balancer ejects those that do not answer. [Client.Stats] counts
// suspects and drops.
//
// # Applied versions
//
// The client acknowledges each version of the registry after all functions given to [Directory.Watch] have returned and
// all gRPC connections have their new addresses. [Registrar.Drain] depends on it: when it returns nil, no connected
// watcher picks the instance for new calls.
package discovery
