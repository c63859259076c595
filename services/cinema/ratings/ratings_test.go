package ratings_test

import (
	"errors"
	"fmt"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"bijou.dev/platform/errs"
	ratingsv1 "bijou.dev/services/cinema/api/ratings/v1"
	"bijou.dev/services/cinema/ratings"
)

func open(t *testing.T, dir string) *ratings.Server {
	t.Helper()
	s, err := ratings.Open(ratings.Options{Dir: dir})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func rate(t *testing.T, s *ratings.Server, key, profile, title string, stars int32) *ratingsv1.RateResponse {
	t.Helper()
	out, err := s.Rate(t.Context(), &ratingsv1.RateRequest{Key: key, ProfileId: profile, TitleId: title, Stars: stars})
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// average returns mean and number of the ratings of a film.
func average(t *testing.T, s *ratings.Server, title string) (float64, int64) {
	t.Helper()
	out, err := s.Averages(t.Context(), &ratingsv1.AveragesRequest{TitleIds: []string{title, "unrated"}})
	if err != nil || len(out.Averages) > 1 {
		t.Fatal(out, err)
	}
	if len(out.Averages) == 0 {
		return 0, 0
	}
	return out.Averages[0].Stars, out.Averages[0].Count
}

func TestKeysAreAppliedOnceAndLast(t *testing.T) {
	dir := t.TempDir()
	s := open(t, dir)
	rate(t, s, "k1", "ann", "film", 2)
	rate(t, s, "k2", "ann", "film", 5)
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	s = open(t, dir)
	defer s.Close()
	if late := rate(t, s, "k1", "ann", "film", 2); late.Applied || late.Rating.Stars != 5 {
		t.Errorf("the late retry of an older rating gave %v", late)
	}
	rate(t, s, "k3", "bob", "film", 4)
	if mean, n := average(t, s, "film"); mean != 4.5 || n != 2 {
		t.Errorf("average %v of %d", mean, n)
	}
	if gone := rate(t, s, "k4", "ann", "film", 0); !gone.Applied || gone.Rating != nil {
		t.Errorf("taking back gave %v", gone)
	}
	if mean, n := average(t, s, "film"); mean != 4 || n != 1 {
		t.Errorf("average after taking back: %v of %d", mean, n)
	}
	all, err := s.GetRatings(t.Context(), &ratingsv1.GetRatingsRequest{ProfileId: "ann"})
	if err != nil || len(all.Ratings) != 0 {
		t.Errorf("ratings of ann: %v, %v", all, err)
	}
}

func TestConcurrentRatingsAddUp(t *testing.T) {
	s := open(t, t.TempDir())
	defer s.Close()
	var wg sync.WaitGroup
	for i := range 40 {
		for range 2 { // each is sent twice
			wg.Go(func() { rate(t, s, fmt.Sprint("k", i), fmt.Sprint("p", i), "film", int32(1+i%5)) })
		}
	}
	wg.Wait()
	if mean, n := average(t, s, "film"); mean != 3 || n != 40 {
		t.Errorf("average %v of %d, want 3 of 40", mean, n)
	}
}

// A key is forgotten after two days, so that the file stays small.
func TestKeysAreForgotten(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := open(t, t.TempDir())
		defer s.Close()
		rate(t, s, "old", "ann", "film", 5)
		time.Sleep(47 * time.Hour)
		if r := rate(t, s, "old", "ann", "film", 1); r.Applied {
			t.Error("forgotten too early")
		}
		time.Sleep(2 * time.Hour)
		rate(t, s, "new", "ann", "film", 4)
		if r := rate(t, s, "old", "ann", "film", 1); !r.Applied {
			t.Error("still known after 49 hours")
		}
	})
}

func TestNewestFirst(t *testing.T) {
	s := open(t, t.TempDir())
	defer s.Close()
	for i := range 3 {
		rate(t, s, fmt.Sprint(i), "ann", fmt.Sprint("film-", i), 3)
	}
	all, err := s.GetRatings(t.Context(), &ratingsv1.GetRatingsRequest{ProfileId: "ann", Limit: 2})
	if err != nil || len(all.Ratings) != 2 || all.Ratings[0].TitleId != "film-2" {
		t.Errorf("got %v, %v", all, err)
	}
}

func TestRefusals(t *testing.T) {
	s := open(t, t.TempDir())
	defer s.Close()
	for name, r := range map[string]*ratingsv1.RateRequest{
		"no key": {ProfileId: "a", TitleId: "t", Stars: 1}, "six stars": {Key: "k", ProfileId: "a", TitleId: "t", Stars: 6},
		"no profile": {Key: "k", TitleId: "t", Stars: 1}, "no film": {Key: "k", ProfileId: "a", Stars: 1},
	} {
		if _, err := s.Rate(t.Context(), r); !errors.Is(err, errs.Invalid) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := s.Averages(t.Context(), &ratingsv1.AveragesRequest{TitleIds: make([]string, 501)}); !errors.Is(err,
		errs.Invalid) {
		t.Errorf("501 films: %v", err)
	}
}
