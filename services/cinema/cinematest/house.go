// Package cinematest runs the services of the cinema for real, on an in-memory network, for tests. Calls between them go
// through the platform's whole chain: circuits, retries, balancing.
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

// House is a network with services on it. Make one with New or Full.
type House struct {
	// Settings steer circuits and whatever else the test declares.
	Settings *config.StaticSet
	// Circuits guard the calls of all connections of the house.
	Circuits *circuit.Set

	t       testing.TB
	net     *memnet.Network
	known   *discovery.Static
	client  *rpc.Client
	servers map[string]*grpc.Server
	conns   map[string]*rpc.Conn
}

// patient are the settings of a house unless a test has others: what is there answers in the end, however busy the
// machine is.
var patient = map[string]string{
	"circuit.default.timeout": "60s",
	"web.home.budget":         "10s",
}

// New returns an empty house with these settings. Everything in it stops with the test.
func New(t testing.TB, settings map[string]string) *House {
	all := maps.Clone(patient)
	maps.Copy(all, settings)
	h := &House{
		Settings: config.Static(all), t: t, net: memnet.New(), known: discovery.NewStatic(nil),
		servers: map[string]*grpc.Server{}, conns: map[string]*rpc.Conn{},
	}
	h.Circuits = circuit.New(circuit.Options{Config: h.Settings, Service: "test"})
	h.client = rpc.NewClient(rpc.ClientOptions{
		Service: "test", Discovery: h.known.Directory, Circuits: h.Circuits, Config: h.Settings, DialContext: h.net.DialContext,
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

// Serve starts a service, again if it was stopped.
func (h *House) Serve(name string, register func(grpc.ServiceRegistrar)) {
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

// Kill stops a service without a word: the registry goes on naming it.
func (h *House) Kill(name string) { h.servers[name].Stop() }

// Dial returns the connection to a service.
func (h *House) Dial(name string) (grpc.ClientConnInterface, error) {
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

// Conn is Dial for a test that cannot go on without.
func (h *House) Conn(name string) grpc.ClientConnInterface {
	h.t.Helper()
	c, err := h.Dial(name)
	if err != nil {
		h.t.Fatal(err)
	}
	return c
}

// programme is the part of a house that never changes: made once, shared by all houses of a test program.
var programme = sync.OnceValues(func() (catalogv1.CatalogServer, *search.Server) {
	titles, report := films.Load()
	find, err := search.NewServer(titles)
	if err != nil {
		panic(err) // the bundled films make an index, see the tests of search
	}
	return catalog.NewServer(titles, report), find
})

// Services are the names of what Full runs.
var Services = []string{"catalog", "profiles", "ratings", "viewing", "search", "recommendations", "playback"}

// Full returns a house with every service but web, on empty stores.
func Full(t testing.TB, settings map[string]string) *House {
	h := New(t, settings)
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	shown, find := programme()
	who, err := profiles.Open(profiles.Options{Dir: t.TempDir()})
	must(err)
	stars, err := ratings.Open(ratings.Options{Dir: t.TempDir()})
	must(err)
	marks, err := viewing.Open(viewing.Options{Dir: t.TempDir()})
	must(err)
	player, err := playback.Open(playback.Options{Dir: t.TempDir()}, playback.Peers{
		Profiles: profilesv1.NewProfilesClient(h.Conn("profiles")), Catalog: catalogv1.NewCatalogClient(h.Conn("catalog")),
		Viewing: viewingv1.NewViewingClient(h.Conn("viewing")),
	})
	must(err)
	ctx, stop := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- player.Run(ctx) }()
	t.Cleanup(func() {
		stop()
		if err := <-done; err != nil {
			t.Errorf("delivering bookmarks: %v", err)
		}
		for _, c := range []interface{ Close() error }{who, stars, marks, player} {
			must(c.Close())
		}
	})
	h.Serve("catalog", func(r grpc.ServiceRegistrar) { catalogv1.RegisterCatalogServer(r, shown) })
	h.Serve("search", func(r grpc.ServiceRegistrar) { searchv1.RegisterSearchServer(r, find) })
	h.Serve("profiles", func(r grpc.ServiceRegistrar) { profilesv1.RegisterProfilesServer(r, who) })
	h.Serve("ratings", func(r grpc.ServiceRegistrar) { ratingsv1.RegisterRatingsServer(r, stars) })
	h.Serve("viewing", func(r grpc.ServiceRegistrar) { viewingv1.RegisterViewingServer(r, marks) })
	h.Serve("playback", func(r grpc.ServiceRegistrar) { playbackv1.RegisterPlaybackServer(r, player) })
	h.Serve("recommendations", func(r grpc.ServiceRegistrar) {
		recommendationsv1.RegisterRecommendationsServer(r, recommendations.NewServer(recommendations.Peers{
			Catalog: catalogv1.NewCatalogClient(h.Conn("catalog")), Viewing: viewingv1.NewViewingClient(h.Conn("viewing")),
			Ratings: ratingsv1.NewRatingsClient(h.Conn("ratings")),
		}))
	})
	return h
}
