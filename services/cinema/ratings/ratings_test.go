package ratings_test

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

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
	t.Cleanup(func() { _ = s.Close() })
	return s
}

func rate(t *testing.T, s *ratings.Server, key, profile, title string, stars int32) *ratingsv1.RateResponse {
	t.Helper()
	out, err := s.Rate(t.Context(), &ratingsv1.RateRequest{Key: key, ProfileId: profile, TitleId: title, Stars: stars})
	if err != nil {
		t.Fatalf("rating %s with key %s: %v", title, key, err)
	}
	return out
}

// average is what all profiles together gave a film.
type average struct {
	Stars float64
	Count int64
}

// averages returns the averages of films that have ratings.
func averages(t *testing.T, s *ratings.Server, titles ...string) map[string]average {
	t.Helper()
	got, err := s.Averages(t.Context(), &ratingsv1.AveragesRequest{TitleIds: titles})
	if err != nil {
		t.Fatal(err)
	}
	out := map[string]average{}
	for _, a := range got.Averages {
		out[a.TitleId] = average{a.Stars, a.Count}
	}
	return out
}

// stars returns the ratings of a profile by film.
func stars(t *testing.T, s *ratings.Server, profile string) map[string]int32 {
	t.Helper()
	got, err := s.GetRatings(t.Context(), &ratingsv1.GetRatingsRequest{ProfileId: profile})
	if err != nil {
		t.Fatal(err)
	}
	out := map[string]int32{}
	for _, r := range got.Ratings {
		out[r.TitleId] = r.Stars
	}
	return out
}

func TestKeyIsAppliedOnce(t *testing.T) {
	dir := t.TempDir()
	s := open(t, dir)
	rate(t, s, "k1", "ann", "film", 2)
	rate(t, s, "k2", "ann", "film", 5)
	if err := s.Close(); err != nil { // keys are known after a restart
		t.Fatal(err)
	}
	s = open(t, dir)
	if late := rate(t, s, "k1", "ann", "film", 2); late.Applied || late.Rating.Stars != 5 {
		t.Errorf("a late retry of the first rating: applied is %t with %d stars, want false with 5", late.Applied,
			late.Rating.GetStars())
	}
	rate(t, s, "k3", "bob", "film", 4)
	if diff := cmp.Diff(map[string]average{"film": {4.5, 2}}, averages(t, s, "film", "unrated")); diff != "" {
		t.Errorf("averages (-want +got):\n%s", diff)
	}
}

func TestRatingIsRemoved(t *testing.T) {
	s := open(t, t.TempDir())
	rate(t, s, "k1", "ann", "film", 5)
	rate(t, s, "k2", "bob", "film", 4)
	for range 2 { // also when it is sent twice
		if got := rate(t, s, "k3", "ann", "film", 0); got.Rating != nil {
			t.Errorf("removing the rating returned %v, want none", got.Rating)
		}
	}
	if got := rate(t, s, "k4", "ann", "never-rated", 0); !got.Applied || got.Rating != nil {
		t.Errorf("removing a rating that does not exist: %v, want applied without a rating", got)
	}
	if diff := cmp.Diff(map[string]average{"film": {4, 1}}, averages(t, s, "film", "never-rated")); diff != "" {
		t.Errorf("averages (-want +got):\n%s", diff)
	}
	if got := stars(t, s, "ann"); len(got) != 0 {
		t.Errorf("ann has the ratings %v, want none", got)
	}
}

// Random ratings, changes and removals leave what a simple map has.
func TestAveragesAgreeWithTheRatings(t *testing.T) {
	s := open(t, t.TempDir())
	random := rand.New(rand.NewPCG(1, 2))
	want := map[string]map[string]int32{} // film -> profile -> stars
	for n := range 300 {
		title, profile := fmt.Sprint("film-", random.IntN(4)), fmt.Sprint("p", random.IntN(5))
		given := random.Int32N(6)
		rate(t, s, fmt.Sprint("k", n), profile, title, given)
		if want[title] == nil {
			want[title] = map[string]int32{}
		}
		if want[title][profile] = given; given == 0 {
			delete(want[title], profile)
		}
	}
	wantAverages := map[string]average{}
	wantStars := map[string]map[string]int32{} // profile -> film -> stars
	for title, given := range want {
		a := average{}
		for profile, n := range given {
			a.Stars += float64(n) / float64(len(given))
			a.Count++
			if wantStars[profile] == nil {
				wantStars[profile] = map[string]int32{}
			}
			wantStars[profile][title] = n
		}
		if a.Count > 0 {
			wantAverages[title] = a
		}
	}
	got := averages(t, s, "film-0", "film-1", "film-2", "film-3")
	if diff := cmp.Diff(wantAverages, got, cmpopts.EquateApprox(0, 1e-9)); diff != "" {
		t.Errorf("averages (-want +got):\n%s", diff)
	}
	for profile, given := range wantStars {
		if diff := cmp.Diff(given, stars(t, s, profile)); diff != "" {
			t.Errorf("ratings of %s (-want +got):\n%s", profile, diff)
		}
	}
}

func TestConcurrentRatingsAddUp(t *testing.T) {
	s := open(t, t.TempDir())
	var wg sync.WaitGroup
	for i := range 40 {
		for range 2 { // each is sent twice
			wg.Go(func() {
				_, err := s.Rate(t.Context(), &ratingsv1.RateRequest{
					Key: fmt.Sprint("k", i), ProfileId: fmt.Sprint("p", i), TitleId: "film", Stars: int32(1 + i%5),
				})
				if err != nil {
					t.Errorf("rating %d: %v", i, err)
				}
			})
		}
	}
	wg.Wait()
	if diff := cmp.Diff(map[string]average{"film": {3, 40}}, averages(t, s, "film")); diff != "" {
		t.Errorf("averages (-want +got):\n%s", diff)
	}
}

// A key is deleted after two days, so that the file does not grow without limit.
func TestKeysAreDeletedAfterTwoDays(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := open(t, t.TempDir())
		rate(t, s, "old", "ann", "film", 5)
		time.Sleep(47 * time.Hour)
		if r := rate(t, s, "old", "ann", "film", 1); r.Applied {
			t.Error("after 47 hours the key was applied again, want that it is known")
		}
		time.Sleep(2 * time.Hour)
		rate(t, s, "new", "ann", "film", 4) // deletes old keys
		if r := rate(t, s, "old", "ann", "film", 1); !r.Applied {
			t.Error("after 49 hours the key was not applied, want that it is deleted")
		}
	})
}

func TestRatingsAreListedNewestFirst(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := open(t, t.TempDir())
		for i := range 3 {
			rate(t, s, fmt.Sprint(i), "ann", fmt.Sprint("film-", i), 3)
			time.Sleep(time.Second)
		}
		rate(t, s, "again", "ann", "film-0", 4)
		rate(t, s, "other", "bob", "film-9", 4)
		for limit, want := range map[int32][]string{
			0: {"film-0", "film-2", "film-1"}, 2: {"film-0", "film-2"}, -1: {"film-0", "film-2", "film-1"},
			5000: {"film-0", "film-2", "film-1"},
		} {
			all, err := s.GetRatings(t.Context(), &ratingsv1.GetRatingsRequest{ProfileId: "ann", Limit: limit})
			if err != nil {
				t.Fatal(err)
			}
			var got []string
			for _, r := range all.Ratings {
				got = append(got, r.TitleId)
			}
			if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("ratings with limit %d (-want +got):\n%s", limit, diff)
			}
		}
	})
}

func TestUnknownProfilesHaveNoRatings(t *testing.T) {
	s := open(t, t.TempDir())
	rate(t, s, "k", "ann", "film", 3)
	for _, profile := range []string{"", "bob", "an", strings.Repeat("p", 100_000)} {
		if got := stars(t, s, profile); len(got) != 0 {
			t.Errorf("profile %.20q has the ratings %v, want none", profile, got)
		}
	}
	if got := averages(t, s, "", "unrated", strings.Repeat("f", 100_000)); len(got) != 0 {
		t.Errorf("films without ratings have the averages %v, want none", got)
	}
}

func TestWrongRatingsAreRefused(t *testing.T) {
	s := open(t, t.TempDir())
	for name, c := range map[string]struct {
		request *ratingsv1.RateRequest
		field   string
	}{
		"no key":          {&ratingsv1.RateRequest{ProfileId: "a", TitleId: "t", Stars: 1}, "key"},
		"key of 129":      {&ratingsv1.RateRequest{Key: strings.Repeat("k", 129), ProfileId: "a", TitleId: "t"}, "key"},
		"six stars":       {&ratingsv1.RateRequest{Key: "k", ProfileId: "a", TitleId: "t", Stars: 6}, "stars"},
		"minus one star":  {&ratingsv1.RateRequest{Key: "k", ProfileId: "a", TitleId: "t", Stars: -1}, "stars"},
		"no profile":      {&ratingsv1.RateRequest{Key: "k", TitleId: "t", Stars: 1}, "profile_id"},
		"no film":         {&ratingsv1.RateRequest{Key: "k", ProfileId: "a", Stars: 1}, "title_id"},
		"film in capital": {&ratingsv1.RateRequest{Key: "k", ProfileId: "a", TitleId: "T", Stars: 1}, "title_id"},
	} {
		if _, err := s.Rate(t.Context(), c.request); !errors.Is(err, errs.Invalid) ||
			!strings.Contains(err.Error(), c.field) {
			t.Errorf("%s: got %v, want Invalid that names %s", name, err, c.field)
		}
	}
	for n, want := range map[int]error{500: nil, 501: errs.Invalid} {
		_, err := s.Averages(t.Context(), &ratingsv1.AveragesRequest{TitleIds: make([]string, n)})
		if !errors.Is(err, want) {
			t.Errorf("averages of %d films: got %v, want %v", n, err, want)
		}
	}
}

func TestClosedStoreIsUnavailable(t *testing.T) {
	s := open(t, t.TempDir())
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	r := &ratingsv1.RateRequest{Key: "k", ProfileId: "a", TitleId: "t", Stars: 1}
	if _, err := s.Rate(t.Context(), r); !errors.Is(err, errs.Unavailable) {
		t.Errorf("Rate: got %v, want Unavailable", err)
	}
	if _, err := s.GetRatings(t.Context(), &ratingsv1.GetRatingsRequest{ProfileId: "a"}); !errors.Is(err,
		errs.Unavailable) {
		t.Errorf("GetRatings: got %v, want Unavailable", err)
	}
}
