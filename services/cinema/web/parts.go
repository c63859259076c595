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

// Card is a film as rows show it.
type Card struct {
	ID    string `json:"id"`
	Name  string `json:"name"`
	Year  int    `json:"year,omitempty"`
	Genre string `json:"genre,omitempty"`
	// Percent is how much of the film the profile has seen; zero when it is not to be continued.
	Percent int `json:"percent,omitempty"`
	// Left is how many minutes are left of it.
	Left int `json:"left_minutes,omitempty"`
	// Reason says why the film is recommended.
	Reason string `json:"reason,omitempty"`
	// Stars is what the profile gave the film; zero when it did not.
	Stars int `json:"stars,omitempty"`
}

func card(t *catalogv1.Title) Card {
	return Card{ID: t.Id, Name: t.Name, Year: int(t.Year), Genre: t.Genre}
}

// gaps collects the parts that had to be replaced. The zero value is empty.
type gaps struct {
	mu    sync.Mutex
	parts []string
}

func (g *gaps) add(part string) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if !slices.Contains(g.parts, part) {
		g.parts = append(g.parts, part)
	}
}

func (g *gaps) has(part string) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	return slices.Contains(g.parts, part)
}

func (g *gaps) sorted() []string {
	g.mu.Lock()
	defer g.mu.Unlock()
	return slices.Sorted(slices.Values(g.parts))
}

// part asks one service for its part of a page and notes the gap when there is none. An error of the caller's own
// making, such as an unknown profile, leaves the part empty without a gap.
func part[T any](ctx context.Context, g *gaps, name string, call func(context.Context) (T, error), instead func() T) T {
	v, err := circuit.Fallback(ctx, call, func(context.Context, error) (T, error) {
		g.add(name)
		return instead(), nil
	})
	if err == nil {
		return v
	}
	if k := errs.KindOf(err); k != errs.NotFound && k != errs.Invalid {
		g.add(name) // the fallback itself was refused or switched off
	}
	return instead()
}

// nothing is the fallback of a part that is left out.
func nothing[T any]() (v T) { return v }

// titles returns films in the order of ids; those that the catalog did not answer for from memory.
func (s *Server) titles(ctx context.Context, g *gaps, ids []string) []*catalogv1.Title {
	if len(ids) == 0 {
		return nil
	}
	return part(ctx, g, "catalog", func(ctx context.Context) ([]*catalogv1.Title, error) {
		found, err := s.peers.Catalog.GetTitles(ctx, &catalogv1.GetTitlesRequest{Ids: ids})
		if err != nil {
			return nil, err
		}
		s.memory.learn(found.Titles...)
		return found.Titles, nil
	}, func() []*catalogv1.Title { return s.memory.recall(ids) })
}

// viewer returns who watches. A profile that profiles does not know is nobody; when it does not answer, the cookie is
// believed.
func (s *Server) viewer(ctx context.Context, g *gaps, who *Viewer) *Viewer {
	if who == nil {
		return nil
	}
	v, err := circuit.Fallback(ctx, func(ctx context.Context) (*Viewer, error) {
		p, err := s.peers.Profiles.Get(ctx, &profilesv1.GetRequest{Id: who.ID})
		return &Viewer{ID: who.ID, Name: p.GetName()}, err
	}, func(context.Context, error) (*Viewer, error) { return who, nil })
	switch {
	case err == nil && v != who:
		return v
	case errors.Is(err, errs.NotFound), errors.Is(err, errs.Invalid):
		return nil
	}
	g.add("profiles")
	return who
}

// stars returns the ratings of a profile by film.
func (s *Server) stars(ctx context.Context, g *gaps, profile string) map[string]int {
	out := map[string]int{}
	for _, r := range part(ctx, g, "ratings", func(ctx context.Context) ([]*ratingsv1.Rating, error) {
		found, err := s.peers.Ratings.GetRatings(ctx, &ratingsv1.GetRatingsRequest{ProfileId: profile})
		return found.GetRatings(), err
	}, nothing) {
		out[r.TitleId] = int(r.Stars)
	}
	return out
}

// marked returns a card with the progress of a bookmark.
func marked(c Card, m *viewingv1.Bookmark) Card {
	position, duration := m.GetPosition().AsDuration(), m.GetDuration().AsDuration()
	if duration > 0 && !m.Finished {
		c.Percent = max(1, int(100*position/duration))
		c.Left = int((duration - position + time.Minute - 1) / time.Minute)
	}
	return c
}

// byID makes films easy to find.
func byID(titles []*catalogv1.Title) map[string]*catalogv1.Title {
	out := make(map[string]*catalogv1.Title, len(titles))
	for _, t := range titles {
		out[t.Id] = t
	}
	return out
}

// Viewer is the profile that watches.
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
