package recommendations

import (
	"cmp"
	"context"
	"maps"
	"slices"

	"golang.org/x/sync/errgroup"

	"bijou.dev/platform/errs"
	catalogv1 "bijou.dev/services/cinema/api/catalog/v1"
	ratingsv1 "bijou.dev/services/cinema/api/ratings/v1"
	recommendationsv1 "bijou.dev/services/cinema/api/recommendations/v1"
	viewingv1 "bijou.dev/services/cinema/api/viewing/v1"
)

// perDirector is the most films of one director in a response, so that it has different films.
const perDirector = 3

// Server implements the Recommendations contract. Make one with NewServer; it is safe for concurrent use.
type Server struct {
	recommendationsv1.UnimplementedRecommendationsServer
	peers Peers
}

// NewServer returns a server that calls peers.
func NewServer(peers Peers) *Server { return &Server{peers: peers} }

// Recommend implements recommendationsv1.RecommendationsServer. It returns an error if one of its peers does: the
// caller chooses the fallback.
func (s *Server) Recommend(ctx context.Context,
	r *recommendationsv1.RecommendRequest,
) (*recommendationsv1.RecommendResponse, error) {
	if r.Limit < 0 || r.Limit > 100 {
		return nil, errs.Errorf(errs.Invalid, "recommending").Field("limit", "must be 0 to 100")
	}
	opinions, err := s.evidence(ctx, r.ProfileId)
	if err != nil {
		return nil, err
	}
	seen, err := s.titles(ctx, slices.Sorted(maps.Keys(opinions)))
	if err != nil {
		return nil, err
	}
	profileTaste := tasteOf(seen, opinions)
	candidates, err := s.candidates(ctx, profileTaste)
	if err != nil {
		return nil, err
	}
	for id := range opinions {
		delete(candidates, id)
	}
	return &recommendationsv1.RecommendResponse{
		Picks: pick(candidates, profileTaste, cmp.Or(int(r.Limit), 20)), Evidence: int32(len(opinions)),
	}, nil
}

// evidence returns the opinions of the profile by film, from -1 (bad) to 1 (good). A film that was watched to the end
// is a weak good opinion. A rating replaces it.
func (s *Server) evidence(ctx context.Context, profile string) (map[string]float64, error) {
	var history *viewingv1.BookmarksResponse
	var rated *ratingsv1.GetRatingsResponse
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() (err error) {
		history, err = s.peers.Viewing.History(ctx, &viewingv1.HistoryRequest{ProfileId: profile})
		return err
	})
	g.Go(func() (err error) {
		rated, err = s.peers.Ratings.GetRatings(ctx, &ratingsv1.GetRatingsRequest{ProfileId: profile, Limit: 250})
		return err
	})
	if err := g.Wait(); err != nil {
		return nil, err
	}
	opinions := map[string]float64{}
	for _, m := range history.Bookmarks {
		opinions[m.TitleId] = 0.15
		if m.Finished {
			opinions[m.TitleId] = 0.4
		}
	}
	for _, r := range rated.Ratings {
		opinions[r.TitleId] = (float64(r.Stars) - 2.75) / 2.25 // 5 stars: 1; 3 stars: a little; 1 star: -0.8
	}
	return opinions, nil
}

// titles looks up films in as few calls as the catalog allows.
func (s *Server) titles(ctx context.Context, ids []string) ([]*catalogv1.Title, error) {
	var out []*catalogv1.Title
	for chunk := range slices.Chunk(ids, 500) {
		found, err := s.peers.Catalog.GetTitles(ctx, &catalogv1.GetTitlesRequest{Ids: chunk})
		if err != nil {
			return nil, err
		}
		out = append(out, found.Titles...)
	}
	return out, nil
}

// candidates returns the films to rank, by id.
func (s *Server) candidates(ctx context.Context, t taste) (map[string]*catalogv1.Title, error) {
	requests := []*catalogv1.PopularRequest{{Limit: 150}}
	for _, genre := range t.liked("genre", 3) {
		requests = append(requests, &catalogv1.PopularRequest{Limit: 80, Genre: genre})
	}
	for _, director := range t.liked("director", 3) {
		requests = append(requests, &catalogv1.PopularRequest{Limit: 20, Director: director})
	}
	responses := make([]*catalogv1.PopularResponse, len(requests))
	g, ctx := errgroup.WithContext(ctx)
	for i, request := range requests {
		g.Go(func() (err error) {
			responses[i], err = s.peers.Catalog.Popular(ctx, request)
			return err
		})
	}
	if err := g.Wait(); err != nil {
		return nil, err
	}
	all := map[string]*catalogv1.Title{}
	for _, a := range responses {
		for _, film := range a.Titles {
			all[film.Id] = film
		}
	}
	return all, nil
}

// pick ranks candidates and returns the best ones, at most limit.
func pick(candidates map[string]*catalogv1.Title, t taste, limit int) []*recommendationsv1.Pick {
	type ranked struct {
		pick     *recommendationsv1.Pick
		director string
	}
	all := make([]ranked, 0, len(candidates))
	for _, film := range candidates {
		score, reason := t.score(film)
		all = append(all, ranked{&recommendationsv1.Pick{TitleId: film.Id, Score: score, Reason: reason}, film.Director})
	}
	slices.SortFunc(all, func(a, b ranked) int {
		return cmp.Or(cmp.Compare(b.pick.Score, a.pick.Score), cmp.Compare(a.pick.TitleId, b.pick.TitleId))
	})
	var out []*recommendationsv1.Pick
	by := map[string]int{}
	for _, r := range all {
		if r.director != "" {
			if by[r.director]++; by[r.director] > perDirector {
				continue
			}
		}
		if out = append(out, r.pick); len(out) == limit {
			break
		}
	}
	return out
}
