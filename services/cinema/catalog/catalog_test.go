package catalog_test

import (
	"errors"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"

	"bijou.dev/platform/errs"
	catalogv1 "bijou.dev/services/cinema/api/catalog/v1"
	"bijou.dev/services/cinema/catalog"
	"bijou.dev/services/cinema/films"
)

// open returns a server of the bundled films. The tests do not change them.
var open = sync.OnceValue(func() *catalog.Server { return catalog.NewServer(films.Load()) })

// small returns a server of these films.
func small(titles ...*catalogv1.Title) *catalog.Server {
	return catalog.NewServer(titles, &catalogv1.ReportResponse{})
}

// ids returns the ids of films in order.
func ids(titles []*catalogv1.Title) []string {
	var out []string
	for _, t := range titles {
		out = append(out, t.Id)
	}
	return out
}

func TestGetTitlesKeepsTheOrder(t *testing.T) {
	got, err := open().GetTitles(t.Context(), &catalogv1.GetTitlesRequest{
		Ids: []string{"fargo-1996", "unknown", "alien-1979", "fargo-1996", ""},
	})
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]string{"fargo-1996", "alien-1979", "fargo-1996"}, ids(got.Titles)); diff != "" {
		t.Errorf("films (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff([]string{"unknown", ""}, got.Missing); diff != "" {
		t.Errorf("missing (-want +got):\n%s", diff)
	}
}

func TestGetTitlesOfNothing(t *testing.T) {
	got, err := open().GetTitles(t.Context(), &catalogv1.GetTitlesRequest{})
	if err != nil || len(got.Titles) != 0 || len(got.Missing) != 0 {
		t.Errorf("got %v, error %v; want no films", got, err)
	}
}

// browse returns the ids on all pages of a genre, in order.
func browse(t *testing.T, s *catalog.Server, genre string, size int32, total int) []string {
	t.Helper()
	var out []string
	request := &catalogv1.BrowseRequest{Genre: genre, PageSize: size}
	for {
		got, err := s.Browse(t.Context(), request)
		if err != nil {
			t.Fatalf("browsing %q at %q: %v", genre, request.PageToken, err)
		}
		if int(got.Total) != total {
			t.Errorf("browsing %q at %q: total is %d, want %d", genre, request.PageToken, got.Total, total)
		}
		out = append(out, ids(got.Titles)...)
		if got.NextPageToken == "" {
			return out
		}
		if len(got.Titles) == 0 || got.NextPageToken == request.PageToken {
			t.Fatalf("browsing %q at %q: an empty page, or the same page again", genre, request.PageToken)
		}
		request.PageToken = got.NextPageToken
	}
}

func TestBrowseListsEachFilmOnceWithAnyPageSize(t *testing.T) {
	for genre, want := range map[string]int{"": 3200, "Western": 36, "Unknown": 0} {
		all := browse(t, open(), genre, 200, want)
		if distinct := len(slices.Compact(slices.Sorted(slices.Values(all)))); distinct != want || len(all) != want {
			t.Errorf("genre %q: %d films of which %d are different, want %d", genre, len(all), distinct, want)
		}
		for _, size := range []int32{0, 1, 12, 35, 36, 37} {
			if want > 100 && size == 1 {
				continue
			}
			if diff := cmp.Diff(all, browse(t, open(), genre, size, want)); diff != "" {
				t.Errorf("genre %q with pages of %d (-want +got):\n%s", genre, size, diff)
			}
		}
	}
}

func TestBrowseSortsByNameWithoutTheArticle(t *testing.T) {
	s := small(
		&catalogv1.Title{Id: "5", Name: "Zodiac"}, &catalogv1.Title{Id: "1", Name: "The Alamo"},
		&catalogv1.Title{Id: "4", Name: "an Education"}, &catalogv1.Title{Id: "2", Name: "ALIEN"},
		&catalogv1.Title{Id: "3", Name: "A Beautiful Mind"}, &catalogv1.Title{Id: "6", Name: "Zodiac"},
	)
	if diff := cmp.Diff([]string{"1", "2", "3", "4", "5", "6"}, browse(t, s, "", 2, 6)); diff != "" {
		t.Errorf("order (-want +got):\n%s", diff)
	}
}

func TestPopular(t *testing.T) {
	for name, tc := range map[string]struct {
		request *catalogv1.PopularRequest
		first   string
		count   int
	}{
		"all":              {&catalogv1.PopularRequest{}, "the-shawshank-redemption-1994", 20},
		"most":             {&catalogv1.PopularRequest{Limit: 200}, "the-shawshank-redemption-1994", 200},
		"genre":            {&catalogv1.PopularRequest{Genre: "Western", Limit: 3}, "cera-una-volta-il-west-1969", 3},
		"director":         {&catalogv1.PopularRequest{Director: "Joel Coen", Limit: 5}, "no-country-for-old-men-2007", 5},
		"both":             {&catalogv1.PopularRequest{Director: "Joel Coen", Genre: "Comedy"}, "the-big-lebowski-1998", 5},
		"unknown director": {&catalogv1.PopularRequest{Director: "Unknown"}, "", 0},
		"unknown genre":    {&catalogv1.PopularRequest{Genre: "Unknown"}, "", 0},
	} {
		got, err := open().Popular(t.Context(), tc.request)
		if err != nil || len(got.Titles) != tc.count {
			t.Errorf("%s: %d films, error %v; want %d", name, len(got.GetTitles()), err, tc.count)
			continue
		}
		if tc.count > 0 && got.Titles[0].Id != tc.first {
			t.Errorf("%s: the first film is %s, want %s", name, got.Titles[0].Id, tc.first)
		}
	}
}

// A few votes say less than many, and a film without votes comes last.
func TestPopularityNeedsVotes(t *testing.T) {
	film := func(id string, rating float64, votes int32) *catalogv1.Title {
		return &catalogv1.Title{Id: id, Name: id, ImdbRating: &rating, ImdbVotes: votes}
	}
	s := small(
		&catalogv1.Title{Id: "no-rating", Name: "x", ImdbVotes: 900_000}, film("no-votes", 10, 0),
		film("few-votes", 9.9, 10), film("good", 8, 500_000), film("bad", 2, 500_000), film("best", 9, 500_000),
	)
	got, err := s.Popular(t.Context(), &catalogv1.PopularRequest{})
	if err != nil {
		t.Fatal(err)
	}
	want := []string{"best", "good", "few-votes", "bad", "no-rating", "no-votes"}
	if diff := cmp.Diff(want, ids(got.Titles)); diff != "" {
		t.Errorf("order (-want +got):\n%s", diff)
	}
}

// Popular must not change its lists when it filters by genre and director.
func TestPopularAnswersTheSameEachTime(t *testing.T) {
	requests := []*catalogv1.PopularRequest{
		{Director: "Joel Coen"}, {Director: "Joel Coen", Genre: "Comedy"}, {Genre: "Comedy"}, {},
	}
	answers := func() (out [][]string) {
		for _, r := range requests {
			got, err := open().Popular(t.Context(), r)
			if err != nil {
				t.Fatal(err)
			}
			out = append(out, ids(got.Titles))
		}
		return out
	}
	if diff := cmp.Diff(answers(), answers()); diff != "" {
		t.Errorf("the second answers differ (-first +second):\n%s", diff)
	}
}

func TestShelvesShareNoFilm(t *testing.T) {
	got, err := open().Shelves(t.Context(), &catalogv1.ShelvesRequest{
		Genres: []string{"", "Drama", "Western", "Unknown", "Drama"}, Limit: 30,
	})
	if err != nil || len(got.Shelves) != 5 {
		t.Fatalf("%d shelves, error %v; want 5", len(got.GetShelves()), err)
	}
	seen := map[string]bool{}
	for i, shelf := range got.Shelves {
		if want := []int{30, 30, 30, 0, 30}[i]; len(shelf.Titles) != want {
			t.Errorf("shelf %d, %q, has %d films, want %d", i, shelf.Genre, len(shelf.Titles), want)
		}
		for _, f := range shelf.Titles {
			if seen[f.Id] {
				t.Errorf("film %s is on two shelves", f.Id)
			}
			seen[f.Id] = true
		}
	}
}

func TestGenresAreSortedAndCounted(t *testing.T) {
	got, err := open().Genres(t.Context(), &catalogv1.GenresRequest{})
	if err != nil || len(got.Genres) != 12 {
		t.Fatalf("%d genres, error %v; want 12", len(got.GetGenres()), err)
	}
	sum := 0
	for i, g := range got.Genres {
		if i > 0 && g.Name <= got.Genres[i-1].Name {
			t.Errorf("genre %q is after %q", g.Name, got.Genres[i-1].Name)
		}
		sum += len(browse(t, open(), g.Name, 200, int(g.Titles)))
	}
	if sum != 3200-275 { // 275 films have no genre
		t.Errorf("the genres have %d films, want 2925", sum)
	}
}

func TestReportIsThatOfTheLoader(t *testing.T) {
	_, want := films.Load()
	got, err := open().Report(t.Context(), &catalogv1.ReportRequest{})
	if err != nil || got.Loaded != want.Loaded || len(got.Findings) != len(want.Findings) {
		t.Errorf("%d loaded with %d findings, error %v; want %d with %d", got.GetLoaded(), len(got.GetFindings()), err,
			want.Loaded, len(want.Findings))
	}
}

func TestCatalogWithoutFilms(t *testing.T) {
	s := small()
	if got := browse(t, s, "", 10, 0); len(got) != 0 {
		t.Errorf("browsing: %v, want no film", got)
	}
	if got, err := s.Popular(t.Context(), &catalogv1.PopularRequest{}); err != nil || len(got.Titles) != 0 {
		t.Errorf("popular films: %v, error %v; want none", got, err)
	}
	if got, err := s.Genres(t.Context(), &catalogv1.GenresRequest{}); err != nil || len(got.Genres) != 0 {
		t.Errorf("genres: %v, error %v; want none", got, err)
	}
}

func TestRequestsOutOfBoundsAreRefused(t *testing.T) {
	s, ctx := open(), t.Context()
	browseError := func(r *catalogv1.BrowseRequest) error { _, err := s.Browse(ctx, r); return err }
	popularError := func(r *catalogv1.PopularRequest) error { _, err := s.Popular(ctx, r); return err }
	shelvesError := func(r *catalogv1.ShelvesRequest) error { _, err := s.Shelves(ctx, r); return err }
	titlesError := func(n int) error {
		_, err := s.GetTitles(ctx, &catalogv1.GetTitlesRequest{Ids: make([]string, n)})
		return err
	}
	for name, c := range map[string]struct {
		err   error
		field string // empty: the request is accepted
	}{
		"500 ids":              {titlesError(500), ""},
		"501 ids":              {titlesError(501), "ids"},
		"page of 200":          {browseError(&catalogv1.BrowseRequest{PageSize: 200}), ""},
		"page of 201":          {browseError(&catalogv1.BrowseRequest{PageSize: 201}), "page_size"},
		"page of -1":           {browseError(&catalogv1.BrowseRequest{PageSize: -1}), "page_size"},
		"token at the end":     {browseError(&catalogv1.BrowseRequest{Genre: "Western", PageToken: "36"}), ""},
		"token after the end":  {browseError(&catalogv1.BrowseRequest{Genre: "Western", PageToken: "37"}), "page_token"},
		"token of -1":          {browseError(&catalogv1.BrowseRequest{PageToken: "-1"}), "page_token"},
		"token of letters":     {browseError(&catalogv1.BrowseRequest{PageToken: "x"}), "page_token"},
		"token above int64":    {browseError(&catalogv1.BrowseRequest{PageToken: strings.Repeat("9", 30)}), "page_token"},
		"200 popular films":    {popularError(&catalogv1.PopularRequest{Limit: 200}), ""},
		"201 popular films":    {popularError(&catalogv1.PopularRequest{Limit: 201}), "limit"},
		"-1 popular films":     {popularError(&catalogv1.PopularRequest{Limit: -1}), "limit"},
		"20 shelves":           {shelvesError(&catalogv1.ShelvesRequest{Genres: make([]string, 20)}), ""},
		"21 shelves":           {shelvesError(&catalogv1.ShelvesRequest{Genres: make([]string, 21)}), "genres"},
		"shelves of 51 films":  {shelvesError(&catalogv1.ShelvesRequest{Limit: 51}), "limit"},
		"shelves of -1 films":  {shelvesError(&catalogv1.ShelvesRequest{Limit: -1}), "limit"},
		"shelves of 50 films":  {shelvesError(&catalogv1.ShelvesRequest{Limit: 50}), ""},
		"shelves of no genres": {shelvesError(&catalogv1.ShelvesRequest{}), ""},
	} {
		switch {
		case c.field == "" && c.err != nil:
			t.Errorf("%s: got %v, want no error", name, c.err)
		case c.field != "" && (!errors.Is(c.err, errs.Invalid) || !strings.Contains(c.err.Error(), c.field)):
			t.Errorf("%s: got %v, want Invalid that names %s", name, c.err, c.field)
		}
	}
}
