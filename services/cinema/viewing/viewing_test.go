package viewing_test

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
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	"bijou.dev/platform/errs"
	viewingv1 "bijou.dev/services/cinema/api/viewing/v1"
	"bijou.dev/services/cinema/viewing"
)

// evening is the time from which the starts of sessions are counted.
var evening = time.Date(2026, 11, 20, 20, 15, 0, 0, time.UTC)

// report returns a report of ann's progress in a film of 100 minutes.
func report(
	title, session string, started time.Duration, sequence int64, position time.Duration,
) *viewingv1.AdvanceRequest {
	return &viewingv1.AdvanceRequest{
		ProfileId: "ann", TitleId: title, Position: durationpb.New(position), Duration: durationpb.New(100 * time.Minute),
		Report: &viewingv1.Report{
			SessionId: session, SessionStarted: timestamppb.New(evening.Add(started)), Sequence: sequence,
		},
	}
}

func open(t *testing.T, dir string) *viewing.Server {
	t.Helper()
	s, err := viewing.Open(viewing.Options{Dir: dir})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	return s
}

// advance sends a report, which must be accepted.
func advance(t *testing.T, s *viewing.Server, r *viewingv1.AdvanceRequest) *viewingv1.AdvanceResponse {
	t.Helper()
	out, err := s.Advance(t.Context(), r)
	if err != nil {
		t.Fatalf("advancing %s: %v", r.TitleId, err)
	}
	return out
}

// position returns the position of ann's bookmark in a film.
func position(t *testing.T, s *viewing.Server, title string) time.Duration {
	t.Helper()
	m, err := s.GetBookmark(t.Context(), &viewingv1.GetBookmarkRequest{ProfileId: "ann", TitleId: title})
	if err != nil {
		t.Fatal(err)
	}
	return m.Position.AsDuration()
}

// titles returns the films of bookmarks in order.
func titles(r *viewingv1.BookmarksResponse) []string {
	var out []string
	for _, m := range r.GetBookmarks() {
		out = append(out, m.TitleId)
	}
	return out
}

func TestOnlyNewerReportsMoveTheBookmark(t *testing.T) {
	dir := t.TempDir()
	s := open(t, dir)
	for _, step := range []struct {
		name    string
		report  *viewingv1.AdvanceRequest
		applied bool
		want    time.Duration
	}{
		{"first report", report("film", "a", 0, 1, 5*time.Minute), true, 5 * time.Minute},
		{"the same again", report("film", "a", 0, 1, 5*time.Minute), false, 5 * time.Minute},
		{"newer report", report("film", "a", 0, 3, 15*time.Minute), true, 15 * time.Minute},
		{"older report that is late", report("film", "a", 0, 2, 10*time.Minute), false, 15 * time.Minute},
		{"later session", report("film", "b", time.Hour, 1, time.Minute), true, time.Minute},
		{"late report of the first session", report("film", "a", 0, 9, 80*time.Minute), false, time.Minute},
		{"position after the end", report("film", "b", time.Hour, 2, 300*time.Minute), true, 100 * time.Minute},
		{"position before the beginning", report("film", "b", time.Hour, 3, -time.Minute), true, 0},
	} {
		got := advance(t, s, step.report)
		if got.Applied != step.applied {
			t.Errorf("%s: applied is %t, want %t", step.name, got.Applied, step.applied)
		}
		if at := got.Bookmark.Position.AsDuration(); at != step.want {
			t.Errorf("%s: the response has the position %v, want %v", step.name, at, step.want)
		}
		if err := s.Close(); err != nil { // each acknowledged state is there after a restart
			t.Fatal(err)
		}
		s = open(t, dir)
		if at := position(t, s, "film"); at != step.want {
			t.Errorf("%s: after a restart the position is %v, want %v", step.name, at, step.want)
		}
	}
}

// The order in which reports arrive does not change where the bookmark is in the end.
func TestOrderOfReportsDoesNotMatter(t *testing.T) {
	s := open(t, t.TempDir())
	reports := func(title string) []*viewingv1.AdvanceRequest {
		return []*viewingv1.AdvanceRequest{
			report(title, "a", 0, 1, 10*time.Minute), report(title, "a", 0, 2, 20*time.Minute),
			report(title, "b", time.Minute, 1, 30*time.Minute), report(title, "b", time.Minute, 2, 40*time.Minute),
			report(title, "c", time.Minute, 1, 50*time.Minute), // as old as b: the session id decides
		}
	}
	random := rand.New(rand.NewPCG(1, 2))
	for n := range 30 {
		title := fmt.Sprint("film-", n)
		list := reports(title)
		random.Shuffle(len(list), func(i, j int) { list[i], list[j] = list[j], list[i] })
		order := ""
		for _, r := range list {
			advance(t, s, r)
			order += fmt.Sprintf(" %s%d", r.Report.SessionId, r.Report.Sequence)
		}
		if got := position(t, s, title); got != 50*time.Minute {
			t.Errorf("after the reports%s the position is %v, want 50m", order, got)
		}
	}
}

func TestConcurrentReportsLeaveTheNewest(t *testing.T) {
	s := open(t, t.TempDir())
	var wg sync.WaitGroup
	for n := range 40 {
		wg.Go(func() {
			r := report(fmt.Sprint("film-", n%2), "a", 0, int64(n), time.Duration(n)*time.Minute)
			if _, err := s.Advance(t.Context(), r); err != nil {
				t.Errorf("report %d: %v", n, err)
			}
		})
	}
	wg.Wait()
	for title, want := range map[string]time.Duration{"film-0": 38 * time.Minute, "film-1": 39 * time.Minute} {
		if got := position(t, s, title); got != want {
			t.Errorf("%s is at %v, want %v", title, got, want)
		}
	}
}

func TestFilmIsFinishedAt95Percent(t *testing.T) {
	s := open(t, t.TempDir())
	for at, want := range map[time.Duration]bool{
		0: false, 94 * time.Minute: false, 95*time.Minute - 1: false, 95 * time.Minute: true, 100 * time.Minute: true,
	} {
		got := advance(t, s, report(fmt.Sprint("film-", int(at)), "a", 0, 1, at))
		if got.Bookmark.Finished != want {
			t.Errorf("at %v of 100m: finished is %t, want %t", at, got.Bookmark.Finished, want)
		}
	}
}

func TestContinueWatchingListsBegunFilmsLastWatchedFirst(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := open(t, t.TempDir())
		for _, film := range []struct {
			title string
			at    time.Duration
		}{
			{"opened", 9 * time.Second}, {"older", 10 * time.Second}, {"finished", 96 * time.Minute}, {"newer", time.Hour},
		} {
			advance(t, s, report(film.title, "s-"+film.title, 0, 1, film.at))
			time.Sleep(time.Minute)
		}
		list := func(limit int32) []string {
			got, err := s.ContinueWatching(t.Context(), &viewingv1.ContinueWatchingRequest{ProfileId: "ann", Limit: limit})
			if err != nil {
				t.Fatal(err)
			}
			return titles(got)
		}
		if diff := cmp.Diff([]string{"newer", "older"}, list(0)); diff != "" {
			t.Errorf("films to continue (-want +got):\n%s", diff)
		}
		if diff := cmp.Diff([]string{"newer"}, list(1)); diff != "" {
			t.Errorf("films to continue with limit 1 (-want +got):\n%s", diff)
		}
		history, err := s.History(t.Context(), &viewingv1.HistoryRequest{ProfileId: "ann"})
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff([]string{"newer", "finished", "older", "opened"}, titles(history)); diff != "" {
			t.Errorf("history (-want +got):\n%s", diff)
		}
		advance(t, s, report("older", "s-older", 0, 2, 30*time.Minute))
		if diff := cmp.Diff([]string{"older", "newer"}, list(0)); diff != "" {
			t.Errorf("films to continue after another report (-want +got):\n%s", diff)
		}
	})
}

func TestListsAreLimited(t *testing.T) {
	s := open(t, t.TempDir())
	var wg sync.WaitGroup
	for n := range 210 { // concurrent writes share a sync
		wg.Go(func() {
			if _, err := s.Advance(t.Context(), report(fmt.Sprint("film-", n), "a", 0, 1, time.Minute)); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	for _, c := range []struct {
		limit              int32
		history, continued int
	}{{0, 200, 20}, {-5, 200, 20}, {7, 7, 7}, {200, 200, 200}, {5000, 200, 200}} {
		history, err := s.History(t.Context(), &viewingv1.HistoryRequest{ProfileId: "ann", Limit: c.limit})
		if err != nil || len(history.Bookmarks) != c.history {
			t.Errorf("history with limit %d: %d films, error %v; want %d", c.limit, len(history.GetBookmarks()), err, c.history)
		}
		begun, err := s.ContinueWatching(t.Context(),
			&viewingv1.ContinueWatchingRequest{ProfileId: "ann", Limit: c.limit})
		if err != nil || len(begun.Bookmarks) != c.continued {
			t.Errorf("continue watching with limit %d: %d films, error %v; want %d", c.limit, len(begun.GetBookmarks()), err,
				c.continued)
		}
	}
}

// Reading what was never written is no error for lists, and NotFound for one bookmark.
func TestUnknownProfilesAndFilms(t *testing.T) {
	s := open(t, t.TempDir())
	advance(t, s, report("film", "a", 0, 1, time.Minute))
	for _, profile := range []string{"", "bob", "an", "ann\x00", strings.Repeat("p", 100_000)} {
		history, err := s.History(t.Context(), &viewingv1.HistoryRequest{ProfileId: profile})
		if err != nil || len(history.Bookmarks) != 0 {
			t.Errorf("history of %.20q: %v, error %v; want none", profile, titles(history), err)
		}
	}
	for _, r := range []*viewingv1.GetBookmarkRequest{
		{}, {ProfileId: "ann"}, {ProfileId: "ann", TitleId: "other"}, {ProfileId: "bob", TitleId: "film"},
	} {
		if _, err := s.GetBookmark(t.Context(), r); !errors.Is(err, errs.NotFound) {
			t.Errorf("bookmark %v: got %v, want NotFound", r, err)
		}
	}
}

func TestWrongReportsAreRefused(t *testing.T) {
	s := open(t, t.TempDir())
	for name, c := range map[string]struct {
		change func(*viewingv1.AdvanceRequest)
		field  string
	}{
		"no film":                 {func(r *viewingv1.AdvanceRequest) { r.TitleId = "" }, "title_id"},
		"film id of 129 bytes":    {func(r *viewingv1.AdvanceRequest) { r.TitleId = strings.Repeat("f", 129) }, "title_id"},
		"profile with capitals":   {func(r *viewingv1.AdvanceRequest) { r.ProfileId = "Ann" }, "profile_id"},
		"no duration":             {func(r *viewingv1.AdvanceRequest) { r.Duration = nil }, "duration"},
		"negative duration":       {func(r *viewingv1.AdvanceRequest) { r.Duration = durationpb.New(-1) }, "duration"},
		"no report":               {func(r *viewingv1.AdvanceRequest) { r.Report = nil }, "report.session_id"},
		"session with a new line": {func(r *viewingv1.AdvanceRequest) { r.Report.SessionId = "a\nb" }, "report.session_id"},
	} {
		r := report("film", "a", 0, 1, time.Minute)
		c.change(r)
		if _, err := s.Advance(t.Context(), r); !errors.Is(err, errs.Invalid) || !strings.Contains(err.Error(), c.field) {
			t.Errorf("%s: got %v, want Invalid that names %s", name, err, c.field)
		}
	}
	history, err := s.History(t.Context(), &viewingv1.HistoryRequest{ProfileId: "ann"})
	if err != nil || len(history.Bookmarks) != 0 {
		t.Errorf("refused reports left the bookmarks %v, error %v", titles(history), err)
	}
}

func TestClosedStoreIsUnavailable(t *testing.T) {
	s := open(t, t.TempDir())
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Advance(t.Context(), report("film", "a", 0, 1, 0)); !errors.Is(err, errs.Unavailable) {
		t.Errorf("Advance: got %v, want Unavailable", err)
	}
	if _, err := s.History(t.Context(), &viewingv1.HistoryRequest{ProfileId: "ann"}); !errors.Is(err, errs.Unavailable) {
		t.Errorf("History: got %v, want Unavailable", err)
	}
}
