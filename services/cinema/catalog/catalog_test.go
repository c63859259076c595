package catalog_test

import (
	"errors"
	"testing"

	"bijou.dev/platform/errs"
	catalogv1 "bijou.dev/services/cinema/api/catalog/v1"
	"bijou.dev/services/cinema/catalog"
	"bijou.dev/services/cinema/films"
)

func open() *catalog.Server { return catalog.NewServer(films.Load()) }

func TestGetTitlesKeepsTheOrder(t *testing.T) {
	got, err := open().GetTitles(t.Context(), &catalogv1.GetTitlesRequest{Ids: []string{
		"alien-1979", "none",
		"fargo-1996",
	}})
	if err != nil || len(got.Titles) != 2 || got.Titles[0].Name != "Alien" || len(got.Missing) != 1 ||
		got.Missing[0] != "none" {
		t.Errorf("got %v, %v", got, err)
	}
}

func TestBrowseShowsEachFilmOnce(t *testing.T) {
	s := open()
	for genre, want := range map[string]int{"": 3200, "Western": 36, "Nonsense": 0} {
		seen := map[string]bool{}
		for ask := (&catalogv1.BrowseRequest{Genre: genre, PageSize: 100}); ; {
			got, err := s.Browse(t.Context(), ask)
			if err != nil || int(got.Total) != want {
				t.Fatalf("%q: total %d, %v", genre, got.GetTotal(), err)
			}
			for _, f := range got.Titles {
				seen[f.Id] = true
			}
			if ask.PageToken = got.NextPageToken; ask.PageToken == "" {
				break
			}
		}
		if len(seen) != want {
			t.Errorf("%q: %d films on all pages, want %d", genre, len(seen), want)
		}
	}
}

func TestPopular(t *testing.T) {
	s := open()
	for name, tc := range map[string]struct {
		ask   *catalogv1.PopularRequest
		first string
		count int
	}{
		"all":      {&catalogv1.PopularRequest{}, "the-shawshank-redemption-1994", 20},
		"genre":    {&catalogv1.PopularRequest{Genre: "Western", Limit: 3}, "cera-una-volta-il-west-1969", 3},
		"director": {&catalogv1.PopularRequest{Director: "Joel Coen", Limit: 5}, "no-country-for-old-men-2007", 5},
		"both":     {&catalogv1.PopularRequest{Director: "Joel Coen", Genre: "Comedy"}, "the-big-lebowski-1998", 5},
		"neither":  {&catalogv1.PopularRequest{Director: "Nobody"}, "", 0},
	} {
		got, err := s.Popular(t.Context(), tc.ask)
		if err != nil || len(got.Titles) != tc.count || tc.count > 0 && got.Titles[0].Id != tc.first {
			t.Errorf("%s: %d films, %v, first %v", name, len(got.GetTitles()), err,
				got.GetTitles()[:min(1, len(got.GetTitles()))])
		}
	}
}

func TestShelvesShareNoFilm(t *testing.T) {
	got, err := open().Shelves(t.Context(), &catalogv1.ShelvesRequest{
		Genres: []string{"", "Drama", "Western", "None"},
		Limit:  30,
	})
	if err != nil || len(got.Shelves) != 4 {
		t.Fatal(got, err)
	}
	seen := map[string]bool{}
	for i, shelf := range got.Shelves {
		if want := []int{30, 30, 30, 0}[i]; len(shelf.Titles) != want {
			t.Errorf("shelf %q has %d films, want %d", shelf.Genre, len(shelf.Titles), want)
		}
		for _, f := range shelf.Titles {
			if seen[f.Id] {
				t.Errorf("%s is on two shelves", f.Id)
			}
			seen[f.Id] = true
		}
	}
}

func TestGenresAndReport(t *testing.T) {
	s := open()
	genres, err := s.Genres(t.Context(), nil)
	if err != nil || len(genres.Genres) != 12 || genres.Genres[0].Name != "Action" || genres.Genres[0].Titles != 420 {
		t.Errorf("genres %v, %v", genres, err)
	}
	report, err := s.Report(t.Context(), nil)
	if err != nil || report.Loaded != 3200 {
		t.Errorf("report %v, %v", report, err)
	}
}

func TestRefusals(t *testing.T) {
	s, ctx := open(), t.Context()
	for name, call := range map[string]func() error{
		"too many ids": func() error {
			_, err := s.GetTitles(ctx, &catalogv1.GetTitlesRequest{Ids: make([]string, 501)})
			return err
		},
		"page size":      func() error { _, err := s.Browse(ctx, &catalogv1.BrowseRequest{PageSize: 201}); return err },
		"page token":     func() error { _, err := s.Browse(ctx, &catalogv1.BrowseRequest{PageToken: "99999"}); return err },
		"negative limit": func() error { _, err := s.Popular(ctx, &catalogv1.PopularRequest{Limit: -1}); return err },
		"too many shelves": func() error {
			_, err := s.Shelves(ctx, &catalogv1.ShelvesRequest{Genres: make([]string, 21)})
			return err
		},
	} {
		if err := call(); !errors.Is(err, errs.Invalid) {
			t.Errorf("%s: %v", name, err)
		}
	}
}
