package catalog

import (
	"cmp"
	"context"
	"math"
	"slices"
	"strconv"
	"strings"

	"bijou.dev/platform/errs"
	catalogv1 "bijou.dev/services/cinema/api/catalog/v1"
)

// Server implements the Catalog contract. Make one with NewServer; it is safe for concurrent use.
type Server struct {
	catalogv1.UnimplementedCatalogServer
	report     *catalogv1.ReportResponse
	byID       map[string]*catalogv1.Title
	byName     map[string][]*catalogv1.Title // genre, or "" for all -> by name
	popular    map[string][]*catalogv1.Title // genre, or "" for all -> best first
	byDirector map[string][]*catalogv1.Title // best first
	genres     []*catalogv1.Genre
}

// NewServer returns a server of these films. The caller must not change them afterwards.
func NewServer(titles []*catalogv1.Title, report *catalogv1.ReportResponse) *Server {
	s := &Server{
		report: report, byID: map[string]*catalogv1.Title{}, byName: map[string][]*catalogv1.Title{},
		popular: map[string][]*catalogv1.Title{}, byDirector: map[string][]*catalogv1.Title{},
	}
	best := slices.SortedFunc(slices.Values(titles), func(a, b *catalogv1.Title) int {
		return cmp.Or(cmp.Compare(popularity(b), popularity(a)), cmp.Compare(a.Id, b.Id))
	})
	for _, t := range best {
		s.byID[t.Id] = t
		s.popular[""] = append(s.popular[""], t)
		if t.Genre != "" {
			s.popular[t.Genre] = append(s.popular[t.Genre], t)
		}
		if t.Director != "" {
			s.byDirector[t.Director] = append(s.byDirector[t.Director], t)
		}
	}
	for genre, list := range s.popular {
		s.byName[genre] = slices.SortedFunc(slices.Values(list), func(a, b *catalogv1.Title) int {
			return cmp.Or(strings.Compare(sortName(a), sortName(b)), cmp.Compare(a.Id, b.Id))
		})
		if genre != "" {
			s.genres = append(s.genres, &catalogv1.Genre{Name: genre, Titles: int32(len(list))})
		}
	}
	slices.SortFunc(s.genres, func(a, b *catalogv1.Genre) int { return strings.Compare(a.Name, b.Name) })
	return s
}

// popularity ranks films: the mean rating on IMDb, moved towards the average when there are few votes, plus a bonus for
// many votes. A film without votes comes last.
func popularity(t *catalogv1.Title) float64 {
	const average, averageVotes = 6.3, 20_000 // counts as 20,000 more votes with the average rating
	votes := float64(t.ImdbVotes)
	if t.ImdbRating == nil || votes == 0 {
		return 0
	}
	return (t.GetImdbRating()*votes+average*averageVotes)/(votes+averageVotes) + 0.25*math.Log10(votes)
}

// sortName is the lower-case name without a leading article, by which films are sorted.
func sortName(t *catalogv1.Title) string {
	name := strings.ToLower(t.Name)
	for _, article := range []string{"the ", "a ", "an "} {
		if rest, ok := strings.CutPrefix(name, article); ok {
			return rest
		}
	}
	return name
}

// checkLimit returns n, or unset if n is zero, or an error that names the field if n is not between 0 and most.
func checkLimit(field string, n int32, unset, most int) (int, error) {
	if n < 0 || int(n) > most {
		return 0, errs.Errorf(errs.Invalid, "asking for %d films", n).Field(field, "must be 0 to "+strconv.Itoa(most))
	}
	return cmp.Or(int(n), unset), nil
}

// GetTitles implements catalogv1.CatalogServer.
func (s *Server) GetTitles(_ context.Context, r *catalogv1.GetTitlesRequest) (*catalogv1.GetTitlesResponse, error) {
	if len(r.Ids) > 500 {
		return nil, errs.Errorf(errs.Invalid, "asking for %d films", len(r.Ids)).Field("ids", "must be at most 500")
	}
	out := &catalogv1.GetTitlesResponse{}
	for _, id := range r.Ids {
		if t := s.byID[id]; t != nil {
			out.Titles = append(out.Titles, t)
		} else {
			out.Missing = append(out.Missing, id)
		}
	}
	return out, nil
}

// Browse implements catalogv1.CatalogServer.
func (s *Server) Browse(_ context.Context, r *catalogv1.BrowseRequest) (*catalogv1.BrowseResponse, error) {
	size, err := checkLimit("page_size", r.PageSize, 48, 200)
	if err != nil {
		return nil, err
	}
	list := s.byName[r.Genre]
	from := 0
	if r.PageToken != "" {
		if from, err = strconv.Atoi(r.PageToken); err != nil || from < 0 || from > len(list) {
			return nil, errs.Errorf(errs.Invalid, "browsing %q", r.Genre).Field("page_token",
				"must be the next_page_token of the previous page")
		}
	}
	to := min(from+size, len(list))
	out := &catalogv1.BrowseResponse{Titles: list[from:to], Total: int32(len(list))}
	if to < len(list) {
		out.NextPageToken = strconv.Itoa(to)
	}
	return out, nil
}

// Popular implements catalogv1.CatalogServer.
func (s *Server) Popular(_ context.Context, r *catalogv1.PopularRequest) (*catalogv1.PopularResponse, error) {
	limit, err := checkLimit("limit", r.Limit, 20, 200)
	if err != nil {
		return nil, err
	}
	list := s.popular[r.Genre]
	if r.Director != "" {
		list = s.byDirector[r.Director]
		if r.Genre != "" {
			list = slices.DeleteFunc(slices.Clone(list), func(t *catalogv1.Title) bool { return t.Genre != r.Genre })
		}
	}
	return &catalogv1.PopularResponse{Titles: list[:min(limit, len(list))]}, nil
}

// Shelves implements catalogv1.CatalogServer.
func (s *Server) Shelves(_ context.Context, r *catalogv1.ShelvesRequest) (*catalogv1.ShelvesResponse, error) {
	limit, err := checkLimit("limit", r.Limit, 20, 50)
	if err != nil {
		return nil, err
	}
	if len(r.Genres) > 20 {
		return nil, errs.Errorf(errs.Invalid, "asking for %d shelves", len(r.Genres)).Field("genres", "must be at most 20")
	}
	out := &catalogv1.ShelvesResponse{}
	shown := map[string]bool{}
	for _, genre := range r.Genres {
		shelf := &catalogv1.Shelf{Genre: genre}
		for _, t := range s.popular[genre] {
			if len(shelf.Titles) == limit {
				break
			}
			if !shown[t.Id] {
				shown[t.Id] = true
				shelf.Titles = append(shelf.Titles, t)
			}
		}
		out.Shelves = append(out.Shelves, shelf)
	}
	return out, nil
}

// Genres implements catalogv1.CatalogServer.
func (s *Server) Genres(context.Context, *catalogv1.GenresRequest) (*catalogv1.GenresResponse, error) {
	return &catalogv1.GenresResponse{Genres: s.genres}, nil
}

// Report implements catalogv1.CatalogServer.
func (s *Server) Report(context.Context, *catalogv1.ReportRequest) (*catalogv1.ReportResponse, error) {
	return s.report, nil
}
