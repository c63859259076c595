// Package web is the face of the cinema: pages for people and a JSON API for players, made of what seven services know.
//
// It asks them in parallel, each part of a page within the page's budget, and has an answer ready for each part that
// stays away: popular films for recommendations, no row for bookmarks, films seen before for the catalog, an apology when
// there is nothing at all. A page fails only when what it is about cannot be had.
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

// Options is empty: what can be chosen are live settings, see the README.
type Options struct{}

// New sets up the web service on the listener "http".
func New(_ context.Context, setup *service.Setup, _ Options) error {
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

// Dial makes clients of connections to the services by name.
func Dial(dial func(service string) (grpc.ClientConnInterface, error)) (p Peers, err error) {
	for name, use := range map[string]func(grpc.ClientConnInterface){
		"catalog":         func(c grpc.ClientConnInterface) { p.Catalog = catalogv1.NewCatalogClient(c) },
		"profiles":        func(c grpc.ClientConnInterface) { p.Profiles = profilesv1.NewProfilesClient(c) },
		"viewing":         func(c grpc.ClientConnInterface) { p.Viewing = viewingv1.NewViewingClient(c) },
		"ratings":         func(c grpc.ClientConnInterface) { p.Ratings = ratingsv1.NewRatingsClient(c) },
		"recommendations": func(c grpc.ClientConnInterface) { p.Recommendations = recommendationsv1.NewRecommendationsClient(c) },
		"search":          func(c grpc.ClientConnInterface) { p.Search = searchv1.NewSearchClient(c) },
		"playback":        func(c grpc.ClientConnInterface) { p.Playback = playbackv1.NewPlaybackClient(c) },
	} {
		conn, err := dial(name)
		if err != nil {
			return p, err
		}
		use(conn)
	}
	return p, nil
}
