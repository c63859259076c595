package web

import (
	"context"
	"sync"

	catalogv1 "bijou.dev/services/cinema/api/catalog/v1"
	recommendationsv1 "bijou.dev/services/cinema/api/recommendations/v1"
	viewingv1 "bijou.dev/services/cinema/api/viewing/v1"
)

// Home is the home page.
type Home struct {
	// Viewer is the chosen profile. Nil: none is chosen.
	Viewer *Viewer `json:"profile,omitempty"`
	Rows   []Row   `json:"rows"`
	// Degraded lists the services that did not answer in time and whose parts were replaced by fallbacks.
	Degraded []string `json:"degraded,omitempty"`
}

// Row is films under a heading.
type Row struct {
	// Kind is continue, recommended, popular or genre.
	Kind string `json:"kind"`
	Name string `json:"name"`
	// Note is shown if the row is a fallback. Empty: it is not.
	Note  string `json:"note,omitempty"`
	Cards []Card `json:"cards"`
}

// homeParts has the parts of the home page that the services returned.
type homeParts struct {
	shelves       []*catalogv1.Shelf
	continueCards []Card
	pickCards     []Card
	stars         map[string]int
	viewer        *Viewer
}

// home calls five services in parallel, and returns rows made of the parts that arrived within the budget.
func (s *Server) home(ctx context.Context, viewer *Viewer) *Home {
	ctx, cancel := context.WithTimeout(ctx, s.budget.Get())
	defer cancel()
	var g degraded
	var a homeParts
	var wg sync.WaitGroup
	genres := append([]string{""}, split(s.genres.Get(), 12)...)
	wg.Go(func() { a.shelves = s.shelves(ctx, &g, genres) })
	if viewer != nil {
		wg.Go(func() { a.viewer = s.viewer(ctx, &g, viewer) })
		wg.Go(func() { a.continueCards = s.continueCards(ctx, &g, viewer.ID) })
		wg.Go(func() { a.pickCards = s.pickCards(ctx, &g, viewer.ID) })
		wg.Go(func() { a.stars = s.stars(ctx, &g, viewer.ID) })
	}
	wg.Wait()
	return &Home{Viewer: a.viewer, Rows: a.rows(int(s.row.Get()), g.has("recommendations")), Degraded: g.sorted()}
}

// shelves returns the popular films of all and of each genre, or those that the catalog returned last.
func (s *Server) shelves(ctx context.Context, g *degraded, genres []string) []*catalogv1.Shelf {
	return part(ctx, g, "catalog", func(ctx context.Context) ([]*catalogv1.Shelf, error) {
		found, err := s.peers.Catalog.Shelves(ctx, &catalogv1.ShelvesRequest{Genres: genres, Limit: 50})
		if err != nil {
			return nil, err
		}
		s.seen.setShelves(found.Shelves)
		return found.Shelves, nil
	}, s.seen.allShelves)
}

// continueCards returns the films that the profile has begun.
func (s *Server) continueCards(ctx context.Context, g *degraded, profile string) []Card {
	marks := part(ctx, g, "viewing", func(ctx context.Context) ([]*viewingv1.Bookmark, error) {
		found, err := s.peers.Viewing.ContinueWatching(ctx, &viewingv1.ContinueWatchingRequest{ProfileId: profile})
		return found.GetBookmarks(), err
	}, zero)
	ids := make([]string, len(marks))
	for i, m := range marks {
		ids[i] = m.TitleId
	}
	films := byID(s.titles(ctx, g, ids))
	var cards []Card
	for _, m := range marks {
		if t := films[m.TitleId]; t != nil {
			cards = append(cards, marked(card(t), m))
		}
	}
	return cards
}

// pickCards returns the recommended films.
func (s *Server) pickCards(ctx context.Context, g *degraded, profile string) []Card {
	picks := part(ctx, g, "recommendations", func(ctx context.Context) ([]*recommendationsv1.Pick, error) {
		found, err := s.peers.Recommendations.Recommend(ctx, &recommendationsv1.RecommendRequest{ProfileId: profile})
		return found.GetPicks(), err
	}, zero)
	ids := make([]string, len(picks))
	for i, p := range picks {
		ids[i] = p.TitleId
	}
	films := byID(s.titles(ctx, g, ids))
	var cards []Card
	for _, p := range picks {
		if t := films[p.TitleId]; t != nil {
			c := card(t)
			c.Reason = p.Reason
			cards = append(cards, c)
		}
	}
	return cards
}

// rows returns the rows of the page: begun films first, and each film in one row only. If noPicks is true, popular
// films replace the recommendations.
func (a *homeParts) rows(size int, noPicks bool) []Row {
	shown := map[string]bool{}
	rows := []Row{} // in JSON an empty list, not null
	add := func(kind, name, note string, cards []Card) {
		var fresh []Card
		for _, c := range cards {
			if len(fresh) < size && !shown[c.ID] {
				shown[c.ID] = true
				c.Stars = a.stars[c.ID]
				fresh = append(fresh, c)
			}
		}
		if len(fresh) > 0 {
			rows = append(rows, Row{kind, name, note, fresh})
		}
	}
	add("continue", "Continue watching", "", a.continueCards)
	if noPicks {
		add("recommended", "You might like", "Popular films, because recommendations are not available at the moment.",
			a.popular())
	} else {
		add("recommended", "Recommended for you", "", a.pickCards)
	}
	for _, shelf := range a.shelves {
		if shelf.Genre == "" {
			add("popular", "Popular", "", a.popular())
			continue
		}
		cards := make([]Card, len(shelf.Titles))
		for i, t := range shelf.Titles {
			cards[i] = card(t)
		}
		add("genre", shelf.Genre, "", cards)
	}
	return rows
}

func (a *homeParts) popular() []Card {
	var cards []Card
	for _, shelf := range a.shelves {
		if shelf.Genre == "" {
			for _, t := range shelf.Titles {
				cards = append(cards, card(t))
			}
		}
	}
	return cards
}
