// Package cinematest runs the real services of the cinema on an in-memory network, for tests. Calls between them go
// through the platform's circuits, retries and load balancing.
package cinematest

import (
	"context"
	"maps"
	"net"
	"sync"
	"testing"

	"google.golang.org/grpc"

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
	conns   map[string]*rpc.Conn
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
		servers: map[string]*grpc.Server{}, conns: map[string]*rpc.Conn{},
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
	register(s)
	go func(l net.Listener) { _ = s.Serve(l) }(l)
	h.servers[name] = s
	h.known.Put(name, []discovery.Instance{{Service: name, ID: name + "-1", Endpoints: map[string]string{"grpc": addr}}})
}

// Kill stops a service abruptly. The registry still lists it.
func (h *Stack) Kill(name string) { h.servers[name].Stop() }

// Dial returns the connection to a service.
func (h *Stack) Dial(name string) (grpc.ClientConnInterface, error) {
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
			t.Errorf("delivering bookviewingStore: %v", err)
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
