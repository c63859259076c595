package viewing_test

import (
	"errors"
	"testing"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	"bijou.dev/platform/errs"
	viewingv1 "bijou.dev/services/cinema/api/viewing/v1"
	"bijou.dev/services/cinema/viewing"
)

var evening = time.Date(2026, 11, 20, 20, 15, 0, 0, time.UTC)

// report is what a player says: which session, begun how long after eight, which number, how far.
func report(title, session string, begun time.Duration, sequence int64,
	position time.Duration,
) *viewingv1.AdvanceRequest {
	return &viewingv1.AdvanceRequest{
		ProfileId: "ann", TitleId: title, Position: durationpb.New(position), Duration: durationpb.New(100 * time.Minute),
		Report: &viewingv1.Report{
			SessionId: session, SessionStarted: timestamppb.New(evening.Add(begun)),
			Sequence: sequence,
		},
	}
}

func open(t *testing.T, dir string) *viewing.Server {
	t.Helper()
	s, err := viewing.Open(viewing.Options{Dir: dir})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestOnlyNewerReportsMoveTheBookmark(t *testing.T) {
	dir := t.TempDir()
	s := open(t, dir)
	for _, step := range []struct {
		name    string
		say     *viewingv1.AdvanceRequest
		applied bool
		at      time.Duration
	}{
		{"first", report("film", "a", 0, 1, 5*time.Minute), true, 5 * time.Minute},
		{"sent twice", report("film", "a", 0, 1, 5*time.Minute), false, 5 * time.Minute},
		{"later", report("film", "a", 0, 3, 15*time.Minute), true, 15 * time.Minute},
		{"overtaken", report("film", "a", 0, 2, 10*time.Minute), false, 15 * time.Minute},
		{"watched again from the start", report("film", "b", time.Hour, 1, time.Minute), true, time.Minute},
		{"straggler of the old session", report("film", "a", 0, 9, 80*time.Minute), false, time.Minute},
		{"past the end", report("film", "b", time.Hour, 2, 300*time.Minute), true, 100 * time.Minute},
	} {
		got, err := s.Advance(t.Context(), step.say)
		if err != nil || got.Applied != step.applied || got.Bookmark.Position.AsDuration() != step.at {
			t.Errorf("%s: applied %v at %v, %v; want %v at %v",
				step.name, got.GetApplied(), got.GetBookmark().GetPosition().AsDuration(), err, step.applied, step.at)
		}
		// Each acknowledged state is there after a restart.
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
		s = open(t, dir)
		mark, err := s.GetBookmark(t.Context(), &viewingv1.GetBookmarkRequest{ProfileId: "ann", TitleId: "film"})
		if err != nil || mark.Position.AsDuration() != step.at {
			t.Errorf("%s: after reopening at %v, %v", step.name, mark.GetPosition().AsDuration(), err)
		}
	}
	_ = s.Close()
}

func TestContinueAndHistory(t *testing.T) {
	s := open(t, t.TempDir())
	defer s.Close()
	for title, at := range map[string]time.Duration{"glimpsed": 5 * time.Second, "finished": 96 * time.Minute} {
		if _, err := s.Advance(t.Context(), report(title, "s-"+title, 0, 1, at)); err != nil {
			t.Fatal(err)
		}
	}
	for _, title := range []string{"older", "newer"} {
		if _, err := s.Advance(t.Context(), report(title, "s-"+title, 0, 1, 30*time.Minute)); err != nil {
			t.Fatal(err)
		}
	}
	on, err := s.ContinueWatching(t.Context(), &viewingv1.ContinueWatchingRequest{ProfileId: "ann"})
	if err != nil || len(on.Bookmarks) != 2 || on.Bookmarks[0].TitleId != "newer" {
		t.Errorf("continue: %v, %v", on, err)
	}
	all, err := s.History(t.Context(), &viewingv1.HistoryRequest{ProfileId: "ann", Limit: 3})
	if err != nil || len(all.Bookmarks) != 3 {
		t.Errorf("history: %v, %v", all, err)
	}
	none, err := s.History(t.Context(), &viewingv1.HistoryRequest{ProfileId: "nobody"})
	if err != nil || len(none.Bookmarks) != 0 {
		t.Errorf("history of nobody: %v, %v", none, err)
	}
}

func TestRefusals(t *testing.T) {
	s := open(t, t.TempDir())
	defer s.Close()
	noLength := report("film", "a", 0, 1, 0)
	noLength.Duration = nil
	noReport := report("film", "a", 0, 1, 0)
	noReport.Report = nil
	for name, r := range map[string]*viewingv1.AdvanceRequest{
		"no film": report("", "a", 0, 1, 0), "no length": noLength, "no report": noReport,
	} {
		if _, err := s.Advance(t.Context(), r); !errors.Is(err, errs.Invalid) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := s.GetBookmark(t.Context(), &viewingv1.GetBookmarkRequest{
		ProfileId: "ann",
		TitleId:   "x",
	}); !errors.Is(err, errs.NotFound) {
		t.Errorf("no bookmark: %v", err)
	}
}
