// Package recommendations suggests what a profile may like next, from its ratings and its history.
//
// Each film that a profile rated or watched is an opinion about its genre, director, type and decade. The opinions
// about each of them are averaged, and moved towards zero when there are few. The candidates are the most popular films
// of all genres, of the genres and of the directors that the profile likes. They are ranked by popularity plus the
// profile's opinions. The same evidence always gives the same response.
package recommendations

import (
	"context"

	"bijou.dev/platform/service"
	catalogv1 "bijou.dev/services/cinema/api/catalog/v1"
	ratingsv1 "bijou.dev/services/cinema/api/ratings/v1"
	recommendationsv1 "bijou.dev/services/cinema/api/recommendations/v1"
	viewingv1 "bijou.dev/services/cinema/api/viewing/v1"
)

// New sets up a recommendations service. It has no options, because it stores nothing.
func New(_ context.Context, setup *service.Setup) error {
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
