package search_test

import (
	"errors"
	"strings"
	"sync"
	"testing"

	"bijou.dev/platform/errs"
	searchv1 "bijou.dev/services/cinema/api/search/v1"
	"bijou.dev/services/cinema/films"
	"bijou.dev/services/cinema/search"
)

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
		got, err := open().Search(t.Context(), &searchv1.SearchRequest{Query: query})
		if err != nil {
			t.Errorf("%q: %v", query, err)
			continue
		}
		first := ""
		if len(got.Hits) > 0 {
			first = got.Hits[0].TitleId
		}
		if first != want.first || first != "" && got.Hits[0].Corrected != want.corrected {
			t.Errorf("%q: first is %q of %d, corrected %v; want %q", query, first, got.Total, got.Hits[:min(1, len(got.Hits))],
				want.first)
		}
	}
}

func TestLimits(t *testing.T) {
	got, err := open().Search(t.Context(), &searchv1.SearchRequest{Query: "drama", Limit: 5})
	if err != nil || len(got.Hits) != 5 || got.Total < 700 {
		t.Errorf("%d of %d, %v", len(got.GetHits()), got.GetTotal(), err)
	}
	for _, r := range []*searchv1.SearchRequest{
		{Query: strings.Repeat("a", 201)},
		{Query: "a", Limit: 101},
		{Query: "a", Limit: -1},
	} {
		if _, err := open().Search(t.Context(), r); !errors.Is(err, errs.Invalid) {
			t.Errorf("%v: %v", r, err)
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
		"slips": "lrod rigns twoers",
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
