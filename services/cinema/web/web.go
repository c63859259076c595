// Package web serves the pages of the cinema and a JSON API for players. It gets the data from seven other services.
//
// It calls them in parallel, within the time budget of the home page, and has a fallback for each part of a page:
// popular films instead of recommendations, no row of bookmarks, and the films that the catalog returned before. A page
// fails only when its main part is missing.
package web

import (
	"context"

	"bijou.dev/platform/service"
	catalogv1 "bijou.dev/services/cinema/api/catalog/v1"
	playbackv1 "bijou.dev/services/cinema/api/playback/v1"
	profilesv1 "bijou.dev/services/cinema/api/profiles/v1"
	ratingsv1 "bijou.dev/services/cinema/api/ratings/v1"
	recommendationsv1 "bijou.dev/services/cinema/api/recommendations/v1"
	searchv1 "bijou.dev/services/cinema/api/search/v1"
	viewingv1 "bijou.dev/services/cinema/api/viewing/v1"

	"google.golang.org/grpc"
)

// New sets up the web service on the listener "http". It has no options; the README lists its live settings.
func New(_ context.Context, setup *service.Setup) error {
	peers, err := Dial(setup.Dial)
	if err != nil {
		return err
	}
	s, err := NewServer(peers, setup.Config(), setup.Log())
	if err != nil {
		return err
	}
	return setup.Handle("http", s.Handler())
}

// Peers are the services that web calls. All are required.
type Peers struct {
	Catalog         catalogv1.CatalogClient
	Profiles        profilesv1.ProfilesClient
	Viewing         viewingv1.ViewingClient
	Ratings         ratingsv1.RatingsClient
	Recommendations recommendationsv1.RecommendationsClient
	Search          searchv1.SearchClient
	Playback        playbackv1.PlaybackClient
}

// Dial returns clients of the services. dial connects to a service by name.
func Dial(dial func(service string) (grpc.ClientConnInterface, error)) (p Peers, err error) {
	for name, use := range map[string]func(grpc.ClientConnInterface){
		"catalog":  func(c grpc.ClientConnInterface) { p.Catalog = catalogv1.NewCatalogClient(c) },
		"profiles": func(c grpc.ClientConnInterface) { p.Profiles = profilesv1.NewProfilesClient(c) },
		"viewing":  func(c grpc.ClientConnInterface) { p.Viewing = viewingv1.NewViewingClient(c) },
		"ratings":  func(c grpc.ClientConnInterface) { p.Ratings = ratingsv1.NewRatingsClient(c) },
		"recommendations": func(c grpc.ClientConnInterface) {
			p.Recommendations = recommendationsv1.NewRecommendationsClient(c)
		},
		"search":   func(c grpc.ClientConnInterface) { p.Search = searchv1.NewSearchClient(c) },
		"playback": func(c grpc.ClientConnInterface) { p.Playback = playbackv1.NewPlaybackClient(c) },
	} {
		conn, err := dial(name)
		if err != nil {
			return p, err
		}
		use(conn)
	}
	return p, nil
}
