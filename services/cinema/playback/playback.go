// Package playback issues sessions of watching and carries their progress to the bookmarks.
package playback

import (
	"context"

	"bijou.dev/platform/service"
	catalogv1 "bijou.dev/services/cinema/api/catalog/v1"
	playbackv1 "bijou.dev/services/cinema/api/playback/v1"
	profilesv1 "bijou.dev/services/cinema/api/profiles/v1"
	viewingv1 "bijou.dev/services/cinema/api/viewing/v1"

	"github.com/prometheus/client_golang/prometheus"
)

// Options says where sessions are kept. The zero value is ready to use.
type Options struct {
	// Dir is the folder of the data file. Empty: the state folder of the process, and without one the data lives until
	// the process ends.
	Dir string
}

// New sets up a playback service.
func New(_ context.Context, setup *service.Setup, o Options) error {
	if o.Dir == "" {
		o.Dir = setup.StateDir()
	}
	peers, err := dial(setup)
	if err != nil {
		return err
	}
	s, err := Open(o, peers)
	if err != nil {
		return err
	}
	setup.OnStop("playback store", func(context.Context) error { return s.Close() })
	setup.Go("playback store", s.db.Run)
	playbackv1.RegisterPlaybackServer(setup.GRPC(), s)
	setup.Go("bookmark delivery", s.Run)
	return setup.Metrics().Register(prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "cinema_playback_undelivered", Help: "Sessions whose progress has not reached the bookmarks yet.",
	}, func() float64 { return float64(s.Undelivered()) }))
}

// Peers are the services that playback calls. All are required.
type Peers struct {
	Profiles profilesv1.ProfilesClient
	Catalog  catalogv1.CatalogClient
	Viewing  viewingv1.ViewingClient
}

func dial(setup *service.Setup) (Peers, error) {
	profiles, err := setup.Dial("profiles")
	if err != nil {
		return Peers{}, err
	}
	catalog, err := setup.Dial("catalog")
	if err != nil {
		return Peers{}, err
	}
	viewing, err := setup.Dial("viewing")
	if err != nil {
		return Peers{}, err
	}
	return Peers{
		profilesv1.NewProfilesClient(profiles), catalogv1.NewCatalogClient(catalog), viewingv1.NewViewingClient(viewing),
	}, nil
}
