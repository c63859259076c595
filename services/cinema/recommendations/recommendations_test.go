package recommendations_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/testing/protocmp"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	ratingsv1 "bijou.dev/services/cinema/api/ratings/v1"
	recommendationsv1 "bijou.dev/services/cinema/api/recommendations/v1"
	viewingv1 "bijou.dev/services/cinema/api/viewing/v1"
	"bijou.dev/services/cinema/cinematest"
)

func rate(t *testing.T, h *cinematest.Stack, profile, title string, stars int32) {
	t.Helper()
	_, err := ratingsv1.NewRatingsClient(h.Conn("ratings")).Rate(t.Context(), &ratingsv1.RateRequest{
		Key: fmt.Sprint(profile, title, stars), ProfileId: profile, TitleId: title, Stars: stars,
	})
	if err != nil {
		t.Fatal(err)
	}
}

func recommend(t *testing.T, h *cinematest.Stack, profile string, limit int32) *recommendationsv1.RecommendResponse {
	t.Helper()
	got, err := recommendationsv1.NewRecommendationsClient(h.Conn("recommendations")).Recommend(t.Context(),
		&recommendationsv1.RecommendRequest{ProfileId: profile, Limit: limit})
	if err != nil {
		t.Fatal(err)
	}
	return got
}

// countReason returns how many of the picks have a reason with these words.
func countReason(r *recommendationsv1.RecommendResponse, words string) (n int) {
	for _, p := range r.Picks {
		if strings.Contains(p.Reason, words) {
			n++
		}
	}
	return n
}

func TestRatingsChangeTheRecommendations(t *testing.T) {
	h := cinematest.Full(t, nil)
	unknown := recommend(t, h, "noor", 10)
	if unknown.Evidence != 0 || len(unknown.Picks) != 10 || countReason(unknown, "Popular with many people") != 10 {
		t.Errorf("for a profile without evidence: %v; want 10 popular films", unknown)
	}
	for _, title := range []string{
		"butch-cassidy-and-the-sundance-kid-1969", "dances-with-wolves-1990",
		"the-alamo-1960",
	} {
		rate(t, h, "ingrid", title, 5)
	}
	rate(t, h, "ingrid", "the-shawshank-redemption-1994", 1)
	got := recommend(t, h, "ingrid", 12)
	if got.Evidence != 4 || countReason(got, "Westerns") < 8 {
		t.Errorf("for a profile that rated Westerns: %v; want at least 8 Westerns", got)
	}
	for _, p := range got.Picks {
		if p.TitleId == "the-alamo-1960" || p.TitleId == "the-shawshank-redemption-1994" {
			t.Errorf("%s was rated already", p.TitleId)
		}
		if p.Score < 0 || p.Score > 1 {
			t.Errorf("the score of %s is %v, want 0 to 1", p.TitleId, p.Score)
		}
	}
	if diff := cmp.Diff(got, recommend(t, h, "ingrid", 12), protocmp.Transform()); diff != "" {
		t.Errorf("the same evidence gave another response (-first +second):\n%s", diff)
	}
}

func TestWatchedFilmsAreEvidenceAndNotRecommended(t *testing.T) {
	h := cinematest.Full(t, nil)
	_, err := viewingv1.NewViewingClient(h.Conn("viewing")).Advance(t.Context(), &viewingv1.AdvanceRequest{
		ProfileId: "theo", TitleId: "the-godfather-1972",
		Position: durationpb.New(time.Hour), Duration: durationpb.New(time.Hour),
		Report: &viewingv1.Report{SessionId: "s", SessionStarted: timestamppb.Now(), Sequence: 1},
	})
	if err != nil {
		t.Fatal(err)
	}
	got := recommend(t, h, "theo", 30)
	if got.Evidence != 1 || countReason(got, "More by Francis Ford Coppola") == 0 {
		t.Errorf("after The Godfather: %v", got)
	}
	if n := countReason(got, "Coppola"); n > 3 {
		t.Errorf("%d films of one director, want at most 3", n)
	}
	for _, p := range got.Picks {
		if p.TitleId == "the-godfather-1972" {
			t.Error("a film that was watched is recommended")
		}
	}
}
