package web

import (
	"cmp"
	"context"
	"errors"
	"slices"
	"sync"
	"time"

	"bijou.dev/platform/circuit"
	"bijou.dev/platform/errs"
	catalogv1 "bijou.dev/services/cinema/api/catalog/v1"
	profilesv1 "bijou.dev/services/cinema/api/profiles/v1"
	ratingsv1 "bijou.dev/services/cinema/api/ratings/v1"
	viewingv1 "bijou.dev/services/cinema/api/viewing/v1"
)

// Card is a film in a row of films.
type Card struct {
	ID    string `json:"id"`
	Name  string `json:"name"`
	Year  int    `json:"year,omitempty"`
	Genre string `json:"genre,omitempty"`
	// Percent is how much of the film the profile has seen, 1 to 100. Zero: nothing, or all of it.
	Percent int `json:"percent,omitempty"`
	// Left is how many minutes are left of it.
	Left int `json:"leftMinutes,omitempty"`
	// Reason says why the film is recommended.
	Reason string `json:"reason,omitempty"`
	// Stars is the rating that the profile gave the film, 1 to 5. Zero: none.
	Stars int `json:"stars,omitempty"`
}

func card(t *catalogv1.Title) Card {
	return Card{ID: t.Id, Name: t.Name, Year: int(t.Year), Genre: t.Genre}
}

// degraded collects the names of the services whose parts were replaced by fallbacks. The zero value is empty.
type degraded struct {
	mu    sync.Mutex
	parts []string
}

func (g *degraded) add(part string) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if !slices.Contains(g.parts, part) {
		g.parts = append(g.parts, part)
	}
}

func (g *degraded) has(part string) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	return slices.Contains(g.parts, part)
}

func (g *degraded) sorted() []string {
	g.mu.Lock()
	defer g.mu.Unlock()
	return slices.Sorted(slices.Values(g.parts))
}

// part calls a service for a part of a page. If the call fails, part returns the fallback and adds the service to g. If
// the service refused the request, for example because the profile is unknown, part returns the fallback and does not
// add the service.
func part[T any](ctx context.Context, g *degraded, name string, call func(context.Context) (T, error),
	fallback func() T,
) T {
	v, err := circuit.Fallback(ctx, call, func(context.Context, error) (T, error) {
		g.add(name)
		return fallback(), nil
	})
	if err == nil {
		return v
	}
	if k := errs.KindOf(err); k != errs.NotFound && k != errs.Invalid {
		g.add(name) // the settings of the circuit do not allow the fallback
	}
	return fallback()
}

// zero is the fallback that leaves a part out.
func zero[T any]() (v T) { return v }

// titles returns films in the order of ids. If the catalog does not answer, it returns those that the catalog returned
// before.
func (s *Server) titles(ctx context.Context, g *degraded, ids []string) []*catalogv1.Title {
	if len(ids) == 0 {
		return nil
	}
	return part(ctx, g, "catalog", func(ctx context.Context) ([]*catalogv1.Title, error) {
		found, err := s.peers.Catalog.GetTitles(ctx, &catalogv1.GetTitlesRequest{Ids: ids})
		if err != nil {
			return nil, err
		}
		s.seen.add(found.Titles...)
		return found.Titles, nil
	}, func() []*catalogv1.Title { return s.seen.get(ids) })
}

// viewer returns a profile with its current name, or nil if it does not exist. If the service profiles does not answer,
// viewer returns the profile as the cookie has it.
func (s *Server) viewer(ctx context.Context, g *degraded, cookie *Viewer) *Viewer {
	if cookie == nil {
		return nil
	}
	v, err := circuit.Fallback(ctx, func(ctx context.Context) (*Viewer, error) {
		p, err := s.peers.Profiles.Get(ctx, &profilesv1.GetRequest{Id: cookie.ID})
		return &Viewer{ID: cookie.ID, Name: p.GetName()}, err
	}, func(context.Context, error) (*Viewer, error) { return cookie, nil })
	switch {
	case err == nil && v != cookie:
		return v
	case errors.Is(err, errs.NotFound), errors.Is(err, errs.Invalid):
		return nil
	}
	g.add("profiles")
	return cookie
}

// stars returns the ratings of a profile by film.
func (s *Server) stars(ctx context.Context, g *degraded, profile string) map[string]int {
	out := map[string]int{}
	for _, r := range part(ctx, g, "ratings", func(ctx context.Context) ([]*ratingsv1.Rating, error) {
		found, err := s.peers.Ratings.GetRatings(ctx, &ratingsv1.GetRatingsRequest{ProfileId: profile})
		return found.GetRatings(), err
	}, zero) {
		out[r.TitleId] = int(min(max(r.Stars, 0), 5))
	}
	return out
}

// marked returns a card with the progress of a bookmark.
func marked(c Card, m *viewingv1.Bookmark) Card {
	duration := m.GetDuration().AsDuration()
	position := min(max(m.GetPosition().AsDuration(), 0), duration)
	if duration > 0 && !m.Finished {
		c.Percent = max(1, int(100*position/duration))
		c.Left = int((duration - position + time.Minute - 1) / time.Minute)
	}
	return c
}

// byID returns the films by id.
func byID(titles []*catalogv1.Title) map[string]*catalogv1.Title {
	out := make(map[string]*catalogv1.Title, len(titles))
	for _, t := range titles {
		out[t.Id] = t
	}
	return out
}

// Viewer is the chosen profile.
type Viewer struct {
	ID   string `json:"id"`
	Name string `json:"name"`
}

// Initial is the letter on the viewer's badge.
func (v *Viewer) Initial() string {
	for _, r := range cmp.Or(v.Name, v.ID) {
		return string(r)
	}
	return "?"
}
