// Package service makes a process a member of the platform with one call.
//
// A service author writes a proto, a type that implements it, and a main:
//
//	func main() {
//		var o hello.Options
//		service.Main("hello",
//			func(f *service.Flags) { f.StringVar(&o.Greeting, "greeting", "Hello", "what to say") },
//			func(ctx context.Context, p *service.Process) error { return hello.New(ctx, p, o) })
//	}
//
// and gets registration, live settings, tracing, metrics, deadlines, breakers, retries, load balancing, health, an
// admin page and a drain that loses no request.
//
// # Life
//
// [New] binds the listeners, wires the parts and calls the service's Setup. [Process.Run] serves. The instance is
// STARTING until every check given to [Process.Ready] passes, UP while they do, DOWN while one does not. When the
// context ends:
//
//  1. the health service answers NOT_SERVING and the registry is told DRAINING;
//  2. the process waits until all callers have acknowledged that, or half of the drain time is over;
//  3. listeners stop accepting, connections get GOAWAY, work in hand finishes, until the drain time is over;
//  4. the instance leaves the registry;
//  5. background work ends, and everything New made is undone, last in, first out, each step bounded and named.
//
// # Anything may be missing
//
// Nothing has to be there when a process starts. It begins with the settings and instances it kept on disk, or with
// defaults and nobody, says so on /readyz, and catches up in the background. For the same reason none of the
// platform's own checks makes a process unready.
//
// # Admin
//
// The listener "admin" has /healthz, /readyz, /metrics, /version, /config, /circuits, /hystrix.stream, /instances and
// /debug/pprof. It is meant for a private network; the edge never routes to it.
package service
