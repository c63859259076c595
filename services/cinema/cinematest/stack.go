// Package cinematest runs the real services of the cinema on an in-memory network, for tests. Calls between them go
// through the platform's circuits, retries and load balancing.
package cinematest

import (
	"context"
	"maps"
	"net"
	"slices"
	"sync"
	"sync/atomic"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/emptypb"

	"bijou.dev/platform/circuit"
	"bijou.dev/platform/config"
	"bijou.dev/platform/discovery"
	"bijou.dev/platform/memnet"
	"bijou.dev/platform/rpc"
	catalogv1 "bijou.dev/services/cinema/api/catalog/v1"
	playbackv1 "bijou.dev/services/cinema/api/playback/v1"
	profilesv1 "bijou.dev/services/cinema/api/profiles/v1"
	ratingsv1 "bijou.dev/services/cinema/api/ratings/v1"
	recommendationsv1 "bijou.dev/services/cinema/api/recommendations/v1"
	searchv1 "bijou.dev/services/cinema/api/search/v1"
	viewingv1 "bijou.dev/services/cinema/api/viewing/v1"
	"bijou.dev/services/cinema/catalog"
	"bijou.dev/services/cinema/films"
	"bijou.dev/services/cinema/playback"
	"bijou.dev/services/cinema/profiles"
	"bijou.dev/services/cinema/ratings"
	"bijou.dev/services/cinema/recommendations"
	"bijou.dev/services/cinema/search"
	"bijou.dev/services/cinema/viewing"
)

// Stack is a set of services on one network. Make one with New or Full.
type Stack struct {
	// Settings are the settings of the circuits and of all services in the test.
	Settings *config.StaticSet
	// Circuits are those of all connections of the stack.
	Circuits *circuit.Set

	t       testing.TB
	net     *memnet.Network
	known   *discovery.Static
	client  *rpc.Client
	servers map[string]*grpc.Server
	answers map[string]*atomic.Pointer[Answer] // service -> what Replace set

	mu    sync.Mutex
	conns map[string]*rpc.Conn
}

// slowSettings are the default settings of a stack: long timeouts, so that tests pass on a busy machine.
var slowSettings = map[string]string{
	"circuit.default.timeout": "60s",
	"web.home.budget":         "10s",
}

// New returns a stack without services. settings override the default settings. Everything stops when the test ends.
func New(t testing.TB, settings map[string]string) *Stack {
	all := maps.Clone(slowSettings)
	maps.Copy(all, settings)
	h := &Stack{
		Settings: config.Static(all), t: t, net: memnet.New(), known: discovery.NewStatic(nil),
		servers: map[string]*grpc.Server{}, answers: map[string]*atomic.Pointer[Answer]{}, conns: map[string]*rpc.Conn{},
	}
	h.Circuits = circuit.New(circuit.Options{Config: h.Settings, Service: "test"})
	h.client = rpc.NewClient(rpc.ClientOptions{
		Service: "test", Discovery: h.known.Directory, Circuits: h.Circuits,
		Config: h.Settings, DialContext: h.net.DialContext,
	})
	t.Cleanup(func() {
		for _, s := range h.servers {
			s.Stop()
		}
		for _, c := range h.conns {
			_ = c.Close()
		}
	})
	return h
}

// Serve starts a service under a name. It can be called again after Kill.
func (h *Stack) Serve(name string, register func(grpc.ServiceRegistrar)) {
	h.t.Helper()
	addr := name + ":7000"
	l, err := h.net.Listen("tcp", addr)
	if err != nil {
		h.t.Fatal(err)
	}
	s := rpc.NewServer(rpc.ServerOptions{})
	answer := &atomic.Pointer[Answer]{}
	register(replaceable{s, answer})
	h.answers[name] = answer
	go func(l net.Listener) { _ = s.Serve(l) }(l)
	h.servers[name] = s
	h.known.Put(name, []discovery.Instance{{Service: name, ID: name + "-1", Endpoints: map[string]string{"grpc": addr}}})
}

// Kill stops a service without draining it. The registry still lists it.
func (h *Stack) Kill(name string) { h.servers[name].Stop() }

// Answer returns the response to a call of a method, such as "Recommend".
type Answer func(ctx context.Context, method string) (proto.Message, error)

// Hang never answers: it waits until the caller has given up.
func Hang(ctx context.Context, _ string) (proto.Message, error) {
	<-ctx.Done()
	return nil, ctx.Err()
}

// Fail answers every call with an error.
func Fail(err error) Answer {
	return func(context.Context, string) (proto.Message, error) { return nil, err }
}

// Replace makes a service that runs answer every call with answer, until Restore. Its connections stay open.
func (h *Stack) Replace(name string, answer Answer) { h.answers[name].Store(&answer) }

// Restore undoes Replace.
func (h *Stack) Restore(name string) { h.answers[name].Store(nil) }

// replaceable registers services whose calls return what answer returns, unless answer is nil.
type replaceable struct {
	grpc.ServiceRegistrar
	answer *atomic.Pointer[Answer]
}

// RegisterService implements grpc.ServiceRegistrar.
func (r replaceable) RegisterService(contract *grpc.ServiceDesc, server any) {
	wrapped := *contract
	wrapped.Methods = slices.Clone(contract.Methods)
	for i, m := range contract.Methods {
		wrapped.Methods[i].Handler = func(
			server any, ctx context.Context, decode func(any) error, intercept grpc.UnaryServerInterceptor,
		) (any, error) {
			answer := r.answer.Load()
			if answer == nil {
				return m.Handler(server, ctx, decode, intercept)
			}
			request := &emptypb.Empty{} // the fields of the request are unknown to it, which is allowed
			if err := decode(request); err != nil {
				return nil, err
			}
			info := &grpc.UnaryServerInfo{Server: server, FullMethod: "/" + contract.ServiceName + "/" + m.MethodName}
			return intercept(ctx, request, info, func(ctx context.Context, _ any) (any, error) {
				return (*answer)(ctx, m.MethodName)
			})
		}
	}
	r.ServiceRegistrar.RegisterService(&wrapped, server)
}

// Dial returns the connection to a service. It is safe for concurrent use.
func (h *Stack) Dial(name string) (grpc.ClientConnInterface, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if c := h.conns[name]; c != nil {
		return c, nil
	}
	c, err := h.client.Dial(name)
	if err != nil {
		return nil, err
	}
	h.conns[name] = c
	return c, nil
}

// Conn is Dial, and ends the test on an error.
func (h *Stack) Conn(name string) grpc.ClientConnInterface {
	h.t.Helper()
	c, err := h.Dial(name)
	if err != nil {
		h.t.Fatal(err)
	}
	return c
}

// sharedFilms returns the servers that keep no state. They are made once and shared by all stacks of a test program.
var sharedFilms = sync.OnceValues(func() (catalogv1.CatalogServer, *search.Server) {
	titles, report := films.Load()
	find, err := search.NewServer(titles)
	if err != nil {
		panic(err) // cannot happen with the bundled films: the tests of search check it
	}
	return catalog.NewServer(titles, report), find
})

// Services are the names of what Full runs.
var Services = []string{"catalog", "profiles", "ratings", "viewing", "search", "recommendations", "playback"}

// Full returns a stack with every service but web, on empty stores.
func Full(t testing.TB, settings map[string]string) *Stack {
	h := New(t, settings)
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	catalogServer, searchServer := sharedFilms()
	profileStore, err := profiles.Open(profiles.Options{Dir: t.TempDir()})
	must(err)
	ratingStore, err := ratings.Open(ratings.Options{Dir: t.TempDir()})
	must(err)
	viewingStore, err := viewing.Open(viewing.Options{Dir: t.TempDir()})
	must(err)
	playbackStore, err := playback.Open(playback.Options{Dir: t.TempDir()}, playback.Peers{
		Profiles: profilesv1.NewProfilesClient(h.Conn("profiles")), Catalog: catalogv1.NewCatalogClient(h.Conn("catalog")),
		Viewing: viewingv1.NewViewingClient(h.Conn("viewing")),
	})
	must(err)
	ctx, stop := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- playbackStore.Run(ctx) }()
	t.Cleanup(func() {
		stop()
		if err := <-done; err != nil {
			t.Errorf("delivering bookmarks: %v", err)
		}
		for _, c := range []interface{ Close() error }{profileStore, ratingStore, viewingStore, playbackStore} {
			must(c.Close())
		}
	})
	h.Serve("catalog", func(r grpc.ServiceRegistrar) { catalogv1.RegisterCatalogServer(r, catalogServer) })
	h.Serve("search", func(r grpc.ServiceRegistrar) { searchv1.RegisterSearchServer(r, searchServer) })
	h.Serve("profiles", func(r grpc.ServiceRegistrar) { profilesv1.RegisterProfilesServer(r, profileStore) })
	h.Serve("ratings", func(r grpc.ServiceRegistrar) { ratingsv1.RegisterRatingsServer(r, ratingStore) })
	h.Serve("viewing", func(r grpc.ServiceRegistrar) { viewingv1.RegisterViewingServer(r, viewingStore) })
	h.Serve("playback", func(r grpc.ServiceRegistrar) { playbackv1.RegisterPlaybackServer(r, playbackStore) })
	h.Serve("recommendations", func(r grpc.ServiceRegistrar) {
		recommendationsv1.RegisterRecommendationsServer(r, recommendations.NewServer(recommendations.Peers{
			Catalog: catalogv1.NewCatalogClient(h.Conn("catalog")), Viewing: viewingv1.NewViewingClient(h.Conn("viewing")),
			Ratings: ratingsv1.NewRatingsClient(h.Conn("ratings")),
		}))
	})
	return h
}
