package search

import (
	"cmp"
	"context"
	"math"
	"slices"
	"strings"

	"bijou.dev/platform/errs"
	catalogv1 "bijou.dev/services/cinema/api/catalog/v1"
	searchv1 "bijou.dev/services/cinema/api/search/v1"
)

// Server implements the Search contract. Make one with NewServer; it is safe for concurrent use.
type Server struct {
	searchv1.UnimplementedSearchServer
	films []*catalogv1.Title
	words *words
}

// NewServer returns a server that finds these films. The caller must not change them afterwards.
func NewServer(titles []*catalogv1.Title) (*Server, error) {
	w, err := index(titles)
	if err != nil {
		return nil, err
	}
	return &Server{films: titles, words: w}, nil
}

// Search implements searchv1.SearchServer.
func (s *Server) Search(_ context.Context, r *searchv1.SearchRequest) (*searchv1.SearchResponse, error) {
	if len(r.Query) > 200 {
		return nil, errs.Errorf(errs.Invalid, "searching").Field("query", "must have at most 200 bytes")
	}
	if r.Limit < 0 || r.Limit > 100 {
		return nil, errs.Errorf(errs.Invalid, "searching").Field("limit", "must be 0 to 100")
	}
	tokens := split(r.Query)
	if len(tokens) == 0 {
		return &searchv1.SearchResponse{}, nil
	}
	scores, err := s.match(tokens, false)
	corrected := false
	if err == nil && len(scores) == 0 {
		corrected = true
		scores, err = s.match(tokens, true)
	}
	if err != nil {
		return nil, err
	}
	return s.answer(scores, strings.Join(tokens, " "), cmp.Or(int(r.Limit), 24), corrected), nil
}

// match returns the score of each film that has every token. The last token may be the beginning of a word. If typos is
// true, every token may be misspelt.
func (s *Server) match(tokens []string, typos bool) (map[int32]float64, error) {
	var total map[int32]float64
	for i, token := range tokens {
		found, err := s.words.find(token, i == len(tokens)-1, typos)
		if err != nil {
			return nil, err
		}
		if total == nil {
			total = found
			continue
		}
		for film := range total {
			if score, ok := found[film]; ok {
				total[film] += score
			} else {
				delete(total, film)
			}
		}
	}
	return total, nil
}

// answer ranks films by how well the words match, how much of the title they cover, and the number of votes.
func (s *Server) answer(scores map[int32]float64, query string, limit int, corrected bool) *searchv1.SearchResponse {
	hits := make([]*searchv1.Hit, 0, len(scores))
	for film, score := range scores {
		t := s.films[film]
		name := strings.Join(split(t.Name), " ")
		switch {
		case name == query, strings.TrimPrefix(name, "the ") == query:
			score += 6
		case strings.HasPrefix(name, query):
			score += 2
		}
		score = score/(1+0.05*float64(strings.Count(name, " "))) + 0.5*math.Log10(1+float64(t.ImdbVotes))
		hits = append(hits, &searchv1.Hit{
			TitleId: t.Id, Name: t.Name, Year: t.Year, Genre: t.Genre, Director: t.Director, Score: score, Corrected: corrected,
		})
	}
	slices.SortFunc(hits, func(a, b *searchv1.Hit) int {
		return cmp.Or(cmp.Compare(b.Score, a.Score), cmp.Compare(a.TitleId, b.TitleId))
	})
	return &searchv1.SearchResponse{Hits: hits[:min(limit, len(hits))], Total: int32(len(hits))}
}
