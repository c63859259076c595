// Package playback starts sessions of watching a film and sends their progress to the service viewing.
package playback

import (
	"cmp"
	"context"

	"bijou.dev/platform/service"
	catalogv1 "bijou.dev/services/cinema/api/catalog/v1"
	playbackv1 "bijou.dev/services/cinema/api/playback/v1"
	profilesv1 "bijou.dev/services/cinema/api/profiles/v1"
	viewingv1 "bijou.dev/services/cinema/api/viewing/v1"

	"github.com/prometheus/client_golang/prometheus"
)

// Options says where sessions are stored. The zero value is ready to use.
type Options struct {
	// Dir is the folder of the data file. Empty: the state folder of the process; if it has none, a temporary folder
	// that is removed when the process stops.
	Dir string
}

// New sets up a playback service.
func New(_ context.Context, setup *service.Setup, o Options) error {
	o.Dir = cmp.Or(o.Dir, setup.StateDir())
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
		Name: "cinema_playback_undelivered", Help: "Sessions whose progress has not been stored by viewing yet.",
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
