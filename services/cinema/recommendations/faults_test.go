package recommendations_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/testing/protocmp"

	"bijou.dev/platform/errs"
	catalogv1 "bijou.dev/services/cinema/api/catalog/v1"
	ratingsv1 "bijou.dev/services/cinema/api/ratings/v1"
	recommendationsv1 "bijou.dev/services/cinema/api/recommendations/v1"
	viewingv1 "bijou.dev/services/cinema/api/viewing/v1"
	"bijou.dev/services/cinema/cinematest"
)

func client(h *cinematest.Stack) recommendationsv1.RecommendationsClient {
	return recommendationsv1.NewRecommendationsClient(h.Conn("recommendations"))
}

// The caller chooses the fallback, so an error of a service is returned with its kind.
func TestErrorsOfOtherServicesAreReturned(t *testing.T) {
	for _, service := range []string{"catalog", "viewing", "ratings"} {
		h := cinematest.Full(t, nil)
		for _, kind := range []errs.Kind{errs.Exhausted, errs.Internal, errs.Unavailable} {
			h.Replace(service, cinematest.Fail(errs.Errorf(kind, "x")))
			_, err := client(h).Recommend(t.Context(), &recommendationsv1.RecommendRequest{ProfileId: "ingrid"})
			if !errors.Is(err, kind) {
				t.Errorf("%s answers with %v: got %v", service, kind, err)
			}
		}
		h.Restore(service)
		h.Kill(service)
		_, err := client(h).Recommend(t.Context(), &recommendationsv1.RecommendRequest{ProfileId: "ingrid"})
		if !errors.Is(err, errs.Unavailable) {
			t.Errorf("without %s: got %v, want Unavailable", service, err)
		}
	}
}

func TestServicesThatDoNotAnswerEndWithATimeout(t *testing.T) {
	for _, service := range []string{"catalog", "viewing", "ratings"} {
		t.Run(service, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				h := cinematest.Full(t, map[string]string{"circuit." + service + ".timeout": "300ms"})
				h.Replace(service, cinematest.Hang)
				begin := time.Now()
				_, err := client(h).Recommend(t.Context(), &recommendationsv1.RecommendRequest{ProfileId: "ingrid"})
				if took := time.Since(begin); !errors.Is(err, errs.Timeout) || took > 2*time.Second {
					t.Errorf("got %v after %v, want Timeout after less than 2s", err, took)
				}
			})
		})
	}
}

// The deadline of the caller ends all calls to other services.
func TestDeadlineOfTheCaller(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := cinematest.Full(t, nil)
		recommend(t, h, "ingrid", 1) // connects
		h.Replace("ratings", cinematest.Hang)
		ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
		defer cancel()
		begin := time.Now()
		_, err := client(h).Recommend(ctx, &recommendationsv1.RecommendRequest{ProfileId: "ingrid"})
		if took := time.Since(begin); !errors.Is(err, errs.Timeout) || took > 200*time.Millisecond {
			t.Errorf("got %v after %v, want Timeout after 100ms", err, took)
		}
	})
}

// Answers that cannot be right give fewer or other films, and no error.
func TestImpossibleAnswers(t *testing.T) {
	for name, c := range map[string]struct {
		service string
		answers map[string]proto.Message // by method
		picks   int
	}{
		"catalog has no films": {"catalog", map[string]proto.Message{
			"GetTitles": &catalogv1.GetTitlesResponse{}, "Popular": &catalogv1.PopularResponse{},
		}, 0},
		"films without any data": {"catalog", map[string]proto.Message{
			"GetTitles": &catalogv1.GetTitlesResponse{Titles: []*catalogv1.Title{{}}},
			"Popular":   &catalogv1.PopularResponse{Titles: []*catalogv1.Title{{}, {Id: "a"}, {Id: "a"}}},
		}, 2},
		"negative votes and rating": {"catalog", map[string]proto.Message{
			"GetTitles": &catalogv1.GetTitlesResponse{},
			"Popular": &catalogv1.PopularResponse{Titles: []*catalogv1.Title{
				{Id: "a", ImdbRating: new(-5.0), ImdbVotes: -20_001}, {Id: "b", ImdbRating: new(1e300), ImdbVotes: 5},
			}},
		}, 2},
		"history of unknown films": {"viewing", map[string]proto.Message{
			"History": &viewingv1.BookmarksResponse{Bookmarks: []*viewingv1.Bookmark{{TitleId: "none"}, {}, {}}},
		}, 10},
		"ratings of 1000 and -1000 stars": {"ratings", map[string]proto.Message{
			"GetRatings": &ratingsv1.GetRatingsResponse{Ratings: []*ratingsv1.Rating{
				{TitleId: "fargo-1996", Stars: 1000}, {TitleId: "alien-1979", Stars: -1000}, {TitleId: "none", Stars: 5},
			}},
		}, 10},
	} {
		t.Run(name, func(t *testing.T) {
			h := cinematest.Full(t, nil)
			h.Replace(c.service, func(_ context.Context, method string) (proto.Message, error) {
				return c.answers[method], nil
			})
			got := recommend(t, h, "ingrid", 10)
			if len(got.Picks) != c.picks {
				t.Errorf("%d picks, want %d: %v", len(got.Picks), c.picks, got.Picks)
			}
			for _, p := range got.Picks {
				if !(p.Score >= 0 && p.Score <= 1) {
					t.Errorf("the score of %q is %v, want 0 to 1", p.TitleId, p.Score)
				}
			}
		})
	}
}

func TestPicksAreSortedAndLimited(t *testing.T) {
	h := cinematest.Full(t, nil)
	for i, title := range []string{"fargo-1996", "alien-1979", "the-godfather-1972", "jaws-1975"} {
		rate(t, h, "ingrid", title, int32(2+i))
	}
	for limit, want := range map[int32]int{0: 20, 1: 1, 100: 100} {
		got := recommend(t, h, "ingrid", limit)
		if len(got.Picks) != want {
			t.Errorf("limit %d: %d picks, want %d", limit, len(got.Picks), want)
		}
		if !slices.IsSortedFunc(got.Picks, func(a, b *recommendationsv1.Pick) int {
			return int(1e12*b.Score) - int(1e12*a.Score)
		}) {
			t.Errorf("limit %d: the picks are not sorted by score: %v", limit, got.Picks)
		}
		seen := map[string]bool{}
		for _, p := range got.Picks {
			if seen[p.TitleId] || p.Reason == "" {
				t.Errorf("limit %d: pick %v is there twice or has no reason", limit, p)
			}
			seen[p.TitleId] = true
		}
	}
	for _, limit := range []int32{-1, 101} {
		_, err := client(h).Recommend(t.Context(), &recommendationsv1.RecommendRequest{ProfileId: "ingrid", Limit: limit})
		if !errors.Is(err, errs.Invalid) {
			t.Errorf("limit %d: got %v, want Invalid", limit, err)
		}
	}
}

// Concurrent requests for different profiles do not mix their evidence.
func TestConcurrentRequests(t *testing.T) {
	h := cinematest.Full(t, nil)
	profiles := []string{"ingrid", "marcel", "noor", "theo"}
	want := map[string]*recommendationsv1.RecommendResponse{}
	for i, p := range profiles {
		for n := range i {
			rate(t, h, p, []string{"fargo-1996", "the-alamo-1960", "jaws-1975"}[n], 5)
		}
		want[p] = recommend(t, h, p, 10)
	}
	var wg sync.WaitGroup
	for i := range 16 {
		wg.Go(func() {
			p := profiles[i%len(profiles)]
			got, err := client(h).Recommend(t.Context(), &recommendationsv1.RecommendRequest{ProfileId: p, Limit: 10})
			if diff := cmp.Diff(want[p], got, protocmp.Transform()); err != nil || diff != "" {
				t.Errorf("profile %s: error %v, (-alone +beside others):\n%s", p, err, diff)
			}
		})
	}
	wg.Wait()
}

// A profile that rated more films than one call of the catalog may ask for gets recommendations.
func TestManyOpinions(t *testing.T) {
	h := cinematest.Full(t, nil)
	many := &ratingsv1.GetRatingsResponse{}
	for i := range 1200 {
		many.Ratings = append(many.Ratings, &ratingsv1.Rating{TitleId: fmt.Sprint("film-", i), Stars: 4})
	}
	h.Replace("ratings", func(context.Context, string) (proto.Message, error) { return many, nil })
	got := recommend(t, h, "ingrid", 10)
	if got.Evidence != 1200 || len(got.Picks) != 10 {
		t.Errorf("evidence is %d with %d picks, want 1200 with 10", got.Evidence, len(got.Picks))
	}
}
