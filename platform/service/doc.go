// Package service makes a process a member of the platform with one call.
//
// A service author writes a proto, a type that implements it, and a main:
//
//	func main() {
//		var o hello.Options
//		service.Main("hello",
//			func(f *service.Flags) { f.StringVar(&o.Greeting, "greeting", "Hello", "what to say") },
//			func(ctx context.Context, setup *service.Setup) error { return hello.New(ctx, setup, o) })
//	}
//
// and gets registration, live settings, tracing, metrics, deadlines, breakers, retries, load balancing, health, an
// admin page and a drain that loses no request.
//
// # Life
//
// [New] binds the listeners, makes the parts and calls the service's [SetupFunc]. Everything that the service adds it
// registers on the [Setup] that it gets; after the function has returned nothing can be added. [Process.Run] serves.
// The instance is STARTING until every check given to [Setup.Ready] passes, UP while they do, DOWN while one does not.
// When the context of Run ends, a part fails or [Process.Stop] is called:
//
//  1. the health service answers NOT_SERVING and the registry gets the status DRAINING;
//  2. the process waits until all callers have acknowledged that, or until half of the drain time is over;
//  3. listeners stop accepting, long-lived streams are ended ([Setup.OnDrain]), connections get GOAWAY, requests in
//     progress finish, until the drain time is over;
//  4. the instance leaves the registry;
//  5. background work ends, and the teardown runs, last in, first out, each step bounded and named.
//
// # Anything may be missing
//
// Nothing has to be running when a process starts. It begins with the settings and instances that it kept on disk, else
// with defaults and no instances. /readyz shows that, and the process catches up in the background. For the same reason
// none of the platform's own checks makes a process unready.
//
// # Admin
//
// The listener "admin" has /healthz, /readyz, /metrics, /version, /config, /circuits, /hystrix.stream, /overload,
// /instances, /balancers and /debug/pprof, and refuses other requests as package httpapi does. It is meant for a
// private network; the edge never routes to it.
package service
