// Package recommendations suggests what a profile may like next, from its ratings and its history.
//
// Each film a profile rated or watched speaks for, or against, its genre, director, kind and decade. What was said is
// averaged, and drawn towards nothing when little was said. Candidates are the popular films of all, of the genres and
// of the directors the profile likes; they are ranked by public appeal plus what the profile's taste adds. The same
// evidence always gives the same answer.
package recommendations

import (
	"context"

	"bijou.dev/platform/service"
	catalogv1 "bijou.dev/services/cinema/api/catalog/v1"
	ratingsv1 "bijou.dev/services/cinema/api/ratings/v1"
	recommendationsv1 "bijou.dev/services/cinema/api/recommendations/v1"
	viewingv1 "bijou.dev/services/cinema/api/viewing/v1"
)

// Options is empty: recommendations keeps nothing and has nothing to choose.
type Options struct{}

// New sets up a recommendations service.
func New(_ context.Context, setup *service.Setup, _ Options) error {
	peers, err := dial(setup)
	if err != nil {
		return err
	}
	recommendationsv1.RegisterRecommendationsServer(setup.GRPC(), NewServer(peers))
	return nil
}

// Peers are the services that recommendations calls. All are required.
type Peers struct {
	Catalog catalogv1.CatalogClient
	Viewing viewingv1.ViewingClient
	Ratings ratingsv1.RatingsClient
}

func dial(setup *service.Setup) (Peers, error) {
	catalog, err := setup.Dial("catalog")
	if err != nil {
		return Peers{}, err
	}
	viewing, err := setup.Dial("viewing")
	if err != nil {
		return Peers{}, err
	}
	ratings, err := setup.Dial("ratings")
	if err != nil {
		return Peers{}, err
	}
	return Peers{
		catalogv1.NewCatalogClient(catalog), viewingv1.NewViewingClient(viewing), ratingsv1.NewRatingsClient(ratings),
	}, nil
}
