package search_test

import (
	"errors"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/testing/protocmp"

	"bijou.dev/platform/errs"
	catalogv1 "bijou.dev/services/cinema/api/catalog/v1"
	searchv1 "bijou.dev/services/cinema/api/search/v1"
	"bijou.dev/services/cinema/films"
	"bijou.dev/services/cinema/search"
)

// open returns a server of the bundled films.
var open = sync.OnceValue(func() *search.Server {
	titles, _ := films.Load()
	s, err := search.NewServer(titles)
	if err != nil {
		panic(err)
	}
	return s
})

func TestSearch(t *testing.T) {
	for query, want := range map[string]struct {
		first     string // "": nothing is found
		corrected bool
	}{
		"the godfather":         {"the-godfather-1972", false},
		"godfather":             {"the-godfather-1972", false},
		"GODFATHER!":            {"the-godfather-1972", false},
		"godfahter":             {"the-godfather-1972", true},
		"godf":                  {"the-godfather-1972", false},
		"lord of the ri":        {"the-lord-of-the-rings-the-two-towers-2002", false},
		"star wars empire":      {"star-wars-ep-v-the-empire-strikes-back-1980", false},
		"stra wars empire":      {"star-wars-ep-v-the-empire-strikes-back-1980", true},
		"schindler's":           {"schindlers-list-1993", false},
		"schindlers list":       {"schindlers-list-1993", false},
		"leon":                  {"leon-1994", false},
		"Léon":                  {"leon-1994", false},
		"deja vu":               {"deja-vu-2006", false},
		"300":                   {"300-2007", false},
		"hitchcock rebecca":     {"rebecca-1939", false},
		"spielberg jaws":        {"jaws-1975", false},
		"termintor":             {"the-terminator-1984", true},
		"star wrs":              {"star-wars-the-clone-wars-2008", true},
		"jws":                   {"jaws-1975", true},
		"":                      {"", false},
		"  !? ":                 {"", false},
		"xq":                    {"", false},
		"zzzzzzzzzzzzzzzzzzz":   {"", false},
		strings.Repeat("w", 90): {"", false},
	} {
		got := find(t, open(), query)
		first, corrected := "", false
		if len(got.Hits) > 0 {
			first, corrected = got.Hits[0].TitleId, got.Hits[0].Corrected
		}
		if first != want.first {
			t.Errorf("query %q: the first of %d hits is %q, want %q", query, got.Total, first, want.first)
		}
		if corrected != want.corrected {
			t.Errorf("query %q: corrected is %t, want %t", query, corrected, want.corrected)
		}
	}
}

// find returns the response to a query, which must be accepted.
func find(t *testing.T, s *search.Server, query string) *searchv1.SearchResponse {
	t.Helper()
	got, err := s.Search(t.Context(), &searchv1.SearchRequest{Query: query})
	if err != nil {
		t.Fatalf("searching %q: %v", query, err)
	}
	return got
}

// ids returns the films of a response in order.
func ids(r *searchv1.SearchResponse) []string {
	var out []string
	for _, h := range r.Hits {
		out = append(out, h.TitleId)
	}
	return out
}

// small returns a server of these films.
func small(t *testing.T, titles ...*catalogv1.Title) *search.Server {
	t.Helper()
	s, err := search.NewServer(titles)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestTitleCountsMoreThanDirectorAndGenre(t *testing.T) {
	s := small(t,
		&catalogv1.Title{Id: "genre", Name: "One", Genre: "Western"},
		&catalogv1.Title{Id: "director", Name: "Two", Director: "Western"},
		&catalogv1.Title{Id: "title", Name: "Western"},
		&catalogv1.Title{Id: "beginning", Name: "Western Union"},
		&catalogv1.Title{Id: "other", Name: "Three"},
	)
	want := []string{"title", "beginning", "director", "genre"}
	if diff := cmp.Diff(want, ids(find(t, s, "western"))); diff != "" {
		t.Errorf("order (-want +got):\n%s", diff)
	}
}

func TestEveryWordMustMatchAndOnlyTheLastMayBeUnfinished(t *testing.T) {
	s := small(t,
		&catalogv1.Title{Id: "both", Name: "Silver Streak"}, &catalogv1.Title{Id: "first", Name: "Silver Lining"},
		&catalogv1.Title{Id: "last", Name: "Gold Streak"},
	)
	for query, want := range map[string][]string{
		"silver streak": {"both"}, "streak silver": {"both"}, "silver": {"first", "both"}, "silver str": {"both"},
		"str": {"last", "both"}, "str silver": nil, "silver gold": nil, "silver silver": {"first", "both"},
	} {
		got := ids(find(t, s, query))
		slices.Sort(got)
		slices.Sort(want)
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("query %q (-want +got):\n%s", query, diff)
		}
	}
}

// Short words may have fewer typos: one from three letters on, two from seven on. An exact match is never corrected.
func TestTypos(t *testing.T) {
	s := small(t,
		&catalogv1.Title{Id: "up", Name: "Up"}, &catalogv1.Title{Id: "jaws", Name: "Jaws"},
		&catalogv1.Title{Id: "terminator", Name: "Terminator"},
	)
	for query, want := range map[string][]string{
		"ip": nil, "jaes": {"jaws"}, "aws": {"jaws"}, "jawss": {"jaws"}, "ajws": {"jaws"}, "jeas": nil,
		"termanatir": {"terminator"}, "tarmanatir": nil,
	} {
		got := find(t, s, query)
		if diff := cmp.Diff(want, ids(got)); diff != "" {
			t.Errorf("query %q (-want +got):\n%s", query, diff)
		}
		for _, h := range got.Hits {
			if !h.Corrected {
				t.Errorf("query %q: hit %s is not marked as corrected", query, h.TitleId)
			}
		}
	}
	for _, h := range find(t, s, "jaws").Hits {
		if h.Corrected {
			t.Errorf("the exact hit %s is marked as corrected", h.TitleId)
		}
	}
}

func TestWordsAfterTheTenthAreIgnored(t *testing.T) {
	s := small(t, &catalogv1.Title{Id: "film", Name: "a b c d e f g h i j"})
	for query, want := range map[string]int{
		"a b c d e f g h i j": 1, "a b c d e f g h i j other words": 1, "a b c d e f g h other": 0,
	} {
		if got := find(t, s, query); int(got.Total) != want {
			t.Errorf("query %q: %d films, want %d", query, got.Total, want)
		}
	}
}

func TestHitsHaveWhatIsShown(t *testing.T) {
	s := small(t, &catalogv1.Title{Id: "film", Name: "Film", Year: 1999, Genre: "Drama", Director: "Ann Lee"})
	got := find(t, s, "film")
	want := &searchv1.SearchResponse{
		Hits:  []*searchv1.Hit{{TitleId: "film", Name: "Film", Year: 1999, Genre: "Drama", Director: "Ann Lee"}},
		Total: 1,
	}
	ignoreScore := protocmp.IgnoreFields(&searchv1.Hit{}, "score")
	if diff := cmp.Diff(want, got, protocmp.Transform(), ignoreScore); diff != "" {
		t.Errorf("response (-want +got):\n%s", diff)
	}
}

func TestSearchWithoutFilms(t *testing.T) {
	if got := find(t, small(t), "film"); got.Total != 0 || len(got.Hits) != 0 {
		t.Errorf("got %v, want no film", got)
	}
}

func TestHitsAreSortedAndTheSameEachTime(t *testing.T) {
	for _, query := range []string{"star", "the", "drama", "strr wrs", "a"} {
		first := find(t, open(), query)
		for i := 1; i < len(first.Hits); i++ {
			if first.Hits[i].Score > first.Hits[i-1].Score {
				t.Errorf("query %q: hit %d has a higher score than hit %d", query, i, i-1)
			}
		}
		for range 5 {
			if diff := cmp.Diff(ids(first), ids(find(t, open(), query))); diff != "" {
				t.Errorf("query %q gave another order (-first +now):\n%s", query, diff)
			}
		}
	}
}

func TestConcurrentSearches(t *testing.T) {
	queries := []string{"star", "godfahter", "the lord of", "léon", "drama", "qqqqqq"}
	want := map[string]int32{}
	for _, q := range queries {
		want[q] = find(t, open(), q).Total
	}
	var wg sync.WaitGroup
	for i := range 24 {
		wg.Go(func() {
			q := queries[i%len(queries)]
			got, err := open().Search(t.Context(), &searchv1.SearchRequest{Query: q})
			if err != nil || got.Total != want[q] {
				t.Errorf("query %q beside others: %d films, error %v; want %d", q, got.GetTotal(), err, want[q])
			}
		})
	}
	wg.Wait()
}

func TestLimits(t *testing.T) {
	for limit, want := range map[int32]int{0: 24, 5: 5, 100: 100} {
		got, err := open().Search(t.Context(), &searchv1.SearchRequest{Query: "drama", Limit: limit})
		if err != nil || len(got.Hits) != want || got.Total < 700 {
			t.Errorf("limit %d: %d hits of %d, error %v; want %d of more than 700", limit, len(got.GetHits()), got.GetTotal(),
				err, want)
		}
	}
	if got := find(t, open(), strings.Repeat("a", 200)); got.Total != 0 {
		t.Errorf("a query of 200 bytes: %d films, want 0", got.Total)
	}
	for field, r := range map[string]*searchv1.SearchRequest{
		"query":  {Query: strings.Repeat("a", 201)},
		"limit":  {Query: "a", Limit: 101},
		"limit ": {Query: "a", Limit: -1},
	} {
		if _, err := open().Search(t.Context(), r); !errors.Is(err, errs.Invalid) || !strings.Contains(err.Error(), field) {
			t.Errorf("query of %d bytes with limit %d: got %v, want Invalid that names %s", len(r.Query), r.Limit, err, field)
		}
	}
}

func FuzzSearch(f *testing.F) {
	for _, q := range []string{"the godfahter", "a", "é\x00\xff", "ﬃ ½", "日本語の映画"} {
		f.Add(q)
	}
	f.Fuzz(func(t *testing.T, query string) {
		got, err := open().Search(t.Context(), &searchv1.SearchRequest{Query: query})
		if err != nil && !errors.Is(err, errs.Invalid) {
			t.Errorf("%q: %v", query, err)
		}
		if err == nil && len(got.Hits) > 24 {
			t.Errorf("%q: %d hits", query, len(got.Hits))
		}
	})
}

func BenchmarkSearch(b *testing.B) {
	for name, query := range map[string]string{
		"exact": "godfather", "prefix": "the lord of the r",
		"typos": "lrod rigns twoers",
	} {
		b.Run(name, func(b *testing.B) {
			s := open()
			b.ReportAllocs()
			for b.Loop() {
				if _, err := s.Search(b.Context(), &searchv1.SearchRequest{Query: query}); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
