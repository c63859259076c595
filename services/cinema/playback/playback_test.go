package playback_test

import (
	"errors"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/protobuf/types/known/durationpb"

	"bijou.dev/platform/errs"
	playbackv1 "bijou.dev/services/cinema/api/playback/v1"
	viewingv1 "bijou.dev/services/cinema/api/viewing/v1"
	"bijou.dev/services/cinema/cinematest"
	"bijou.dev/services/cinema/viewing"
)

// fargo has 87 minutes.
const fargo = "fargo-1996"

func client(h *cinematest.Stack) playbackv1.PlaybackClient {
	return playbackv1.NewPlaybackClient(h.Conn("playback"))
}

// start starts a session in which ingrid watches fargo.
func start(t *testing.T, h *cinematest.Stack, id string) *playbackv1.Session {
	t.Helper()
	s, err := client(h).Start(t.Context(), &playbackv1.StartRequest{SessionId: id, ProfileId: "ingrid", TitleId: fargo})
	if err != nil {
		t.Fatalf("starting session %s: %v", id, err)
	}
	return s
}

// heartbeat returns a report of progress.
func heartbeat(id string, sequence int64, position time.Duration) *playbackv1.HeartbeatRequest {
	return &playbackv1.HeartbeatRequest{SessionId: id, Sequence: sequence, Position: durationpb.New(position)}
}

// assertPosition checks the position of a session.
func assertPosition(t *testing.T, what string, s *playbackv1.Session, want time.Duration) {
	t.Helper()
	if got := s.GetPosition().AsDuration(); got != want {
		t.Errorf("%s: the session is at %v, want %v", what, got, want)
	}
}

// assertBookmark checks ingrid's bookmark in fargo.
func assertBookmark(t *testing.T, what string, h *cinematest.Stack, want time.Duration) {
	t.Helper()
	m, err := viewingv1.NewViewingClient(h.Conn("viewing")).GetBookmark(t.Context(),
		&viewingv1.GetBookmarkRequest{ProfileId: "ingrid", TitleId: fargo})
	if got := m.GetPosition().AsDuration(); err != nil || got != want {
		t.Errorf("%s: the bookmark is at %v, error %v; want %v", what, got, err, want)
	}
}

func TestProgressMovesTheBookmark(t *testing.T) {
	h := cinematest.Full(t, nil)
	c := client(h)
	s := start(t, h, "s1")
	assertPosition(t, "a new session", s, 0)
	if got := s.Duration.AsDuration(); got != 87*time.Minute {
		t.Errorf("the duration is %v, want 87m", got)
	}
	for _, step := range []struct {
		name   string
		report *playbackv1.HeartbeatRequest
		want   time.Duration
	}{
		{"first report", heartbeat("s1", 1, 10*time.Minute), 10 * time.Minute},
		{"newer report", heartbeat("s1", 3, 30*time.Minute), 30 * time.Minute},
		{"older report that is late", heartbeat("s1", 2, 20*time.Minute), 30 * time.Minute},
		{"other report with the same number", heartbeat("s1", 3, 40*time.Minute), 30 * time.Minute},
	} {
		s, err := c.Heartbeat(t.Context(), step.report)
		if err != nil || !s.Bookmarked {
			t.Errorf("%s: bookmarked is %t, error %v; want true", step.name, s.GetBookmarked(), err)
		}
		assertPosition(t, step.name, s, step.want)
		assertBookmark(t, step.name, h, step.want)
	}
	for range 2 { // stopping can be repeated
		if s, err := c.Stop(t.Context(), heartbeat("s1", 4, 35*time.Minute)); err != nil || !s.Stopped {
			t.Errorf("stopping: stopped is %t, error %v; want true", s.GetStopped(), err)
		}
	}
	s, err := c.Heartbeat(t.Context(), heartbeat("s1", 5, 80*time.Minute))
	if err != nil {
		t.Errorf("a report after the stop: %v", err)
	}
	assertPosition(t, "a report after the stop", s, 35*time.Minute)
	assertPosition(t, "the next session", start(t, h, "s2"), 35*time.Minute)
	if s := start(t, h, "s1"); !s.Stopped {
		t.Error("starting with the id of a stopped session opened another one")
	}
}

func TestFinishedFilmStartsAtTheBeginning(t *testing.T) {
	h := cinematest.Full(t, nil)
	start(t, h, "s1")
	if _, err := client(h).Stop(t.Context(), heartbeat("s1", 1, 86*time.Minute)); err != nil {
		t.Fatal(err)
	}
	assertPosition(t, "the session after a finished one", start(t, h, "s2"), 0)
}

func TestPositionIsWithinTheFilm(t *testing.T) {
	h := cinematest.Full(t, nil)
	start(t, h, "s1")
	for i, c := range []struct{ report, want time.Duration }{
		{-time.Hour, 0}, {500 * time.Hour, 87 * time.Minute}, {0, 0},
	} {
		s, err := client(h).Heartbeat(t.Context(), heartbeat("s1", int64(i+1), c.report))
		if err != nil {
			t.Errorf("reporting %v: %v", c.report, err)
		}
		assertPosition(t, "after a report of "+c.report.String(), s, c.want)
	}
	s, err := client(h).Heartbeat(t.Context(), &playbackv1.HeartbeatRequest{SessionId: "s1", Sequence: 9})
	if err != nil {
		t.Errorf("reporting no position: %v", err)
	}
	assertPosition(t, "after a report without a position", s, 0)
}

func TestGetReturnsTheSession(t *testing.T) {
	h := cinematest.Full(t, nil)
	start(t, h, "s1")
	if _, err := client(h).Heartbeat(t.Context(), heartbeat("s1", 7, time.Minute)); err != nil {
		t.Fatal(err)
	}
	s, err := client(h).Get(t.Context(), &playbackv1.GetRequest{SessionId: "s1"})
	if err != nil || s.Sequence != 7 || s.TitleId != fargo || s.ProfileId != "ingrid" {
		t.Errorf("got %v, %v; want the session of ingrid and fargo with sequence 7", s, err)
	}
	for _, id := range []string{"", "unknown", strings.Repeat("x", 70_000)} {
		if _, err := client(h).Get(t.Context(), &playbackv1.GetRequest{SessionId: id}); !errors.Is(err, errs.NotFound) {
			t.Errorf("session %.20q: got %v, want NotFound", id, err)
		}
	}
}

// Reports that arrive at the same time, in any order, leave the session and the bookmark at the newest one.
func TestConcurrentReportsLeaveTheNewest(t *testing.T) {
	h := cinematest.Full(t, nil)
	start(t, h, "s1")
	var wg sync.WaitGroup
	for n := range 20 {
		wg.Go(func() {
			report := heartbeat("s1", int64(n+1), time.Duration(n+1)*time.Minute)
			if _, err := client(h).Heartbeat(t.Context(), report); err != nil {
				t.Errorf("report %d: %v", n+1, err)
			}
		})
	}
	wg.Wait()
	s, err := client(h).Get(t.Context(), &playbackv1.GetRequest{SessionId: "s1"})
	if err != nil || s.Sequence != 20 {
		t.Errorf("the sequence is %d, error %v; want 20", s.GetSequence(), err)
	}
	assertPosition(t, "after 20 reports", s, 20*time.Minute)
	assertBookmark(t, "after 20 reports", h, 20*time.Minute)
}

// Of concurrent starts with one id, those for one profile win. The others get Exists.
func TestConcurrentStartsOpenOneSession(t *testing.T) {
	h := cinematest.Full(t, nil)
	var wg sync.WaitGroup
	results := make([]error, 8)
	for i := range results {
		wg.Go(func() {
			_, results[i] = client(h).Start(t.Context(), &playbackv1.StartRequest{
				SessionId: "s1", ProfileId: []string{"ingrid", "theo"}[i%2], TitleId: fargo,
			})
		})
	}
	wg.Wait()
	s, err := client(h).Get(t.Context(), &playbackv1.GetRequest{SessionId: "s1"})
	if err != nil {
		t.Fatal(err)
	}
	for i, err := range results {
		winner := s.ProfileId == []string{"ingrid", "theo"}[i%2]
		if winner && err != nil || !winner && !errors.Is(err, errs.Exists) {
			t.Errorf("start %d: %v; the session is of %s", i, err, s.ProfileId)
		}
	}
}

func TestPlaybackWorksWithoutProfilesAndViewing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := cinematest.Full(t, nil)
		h.Kill("profiles")
		h.Kill("viewing")
		if s := start(t, h, "s1"); !s.PositionUnknown {
			t.Error("the session does not say that its position is unknown")
		}
		s, err := client(h).Heartbeat(t.Context(), heartbeat("s1", 1, time.Minute))
		if err != nil || s.Bookmarked {
			t.Errorf("a report without viewing: bookmarked is %t, error %v; want false", s.GetBookmarked(), err)
		}
		marks, err := viewing.Open(viewing.Options{Dir: t.TempDir()})
		if err != nil {
			t.Fatal(err)
		}
		defer marks.Close()
		h.Serve("viewing", func(r grpc.ServiceRegistrar) { viewingv1.RegisterViewingServer(r, marks) })
		time.Sleep(30 * time.Second) // until the circuit is closed and the progress is sent again
		assertBookmark(t, "after viewing is back", h, time.Minute)
		if s, err := client(h).Get(t.Context(), &playbackv1.GetRequest{SessionId: "s1"}); err != nil || !s.Bookmarked {
			t.Errorf("after viewing is back: bookmarked is %t, error %v; want true", s.GetBookmarked(), err)
		}
	})
}

func TestWrongRequestsAreRefused(t *testing.T) {
	h := cinematest.Full(t, nil)
	c := client(h)
	start(t, h, "s1")
	for name, tc := range map[string]struct {
		session, profile, film string
		want                   errs.Kind
	}{
		"unknown film":               {"s2", "ingrid", "none", errs.NotFound},
		"unknown profile":            {"s2", "unknown", fargo, errs.NotFound},
		"session of another":         {"s1", "theo", fargo, errs.Exists},
		"session of another film":    {"s1", "ingrid", "alien-1979", errs.Exists},
		"session id with a space":    {"S 1", "theo", fargo, errs.Invalid},
		"session id of 65 bytes":     {strings.Repeat("s", 65), "theo", fargo, errs.Invalid},
		"no session id":              {"", "theo", fargo, errs.Invalid},
		"no profile":                 {"s2", "", fargo, errs.Invalid},
		"film id of 129 bytes":       {"s2", "theo", strings.Repeat("f", 129), errs.Invalid},
		"film id with a slash":       {"s2", "theo", "a/b", errs.Invalid},
		"profile that begins with -": {"s2", "-theo", fargo, errs.Invalid},
	} {
		_, err := c.Start(t.Context(), &playbackv1.StartRequest{
			SessionId: tc.session, ProfileId: tc.profile, TitleId: tc.film,
		})
		if !errors.Is(err, tc.want) {
			t.Errorf("%s: got %v, want %v", name, err, tc.want)
		}
	}
	for name, send := range map[string]func(*playbackv1.HeartbeatRequest) (*playbackv1.Session, error){
		"heartbeat": func(r *playbackv1.HeartbeatRequest) (*playbackv1.Session, error) { return c.Heartbeat(t.Context(), r) },
		"stop":      func(r *playbackv1.HeartbeatRequest) (*playbackv1.Session, error) { return c.Stop(t.Context(), r) },
	} {
		for _, sequence := range []int64{0, -1} {
			if _, err := send(heartbeat("s1", sequence, 0)); !errors.Is(err, errs.Invalid) {
				t.Errorf("%s with sequence %d: got %v, want Invalid", name, sequence, err)
			}
		}
		if _, err := send(heartbeat("unknown", 1, 0)); !errors.Is(err, errs.NotFound) {
			t.Errorf("%s of an unknown session: got %v, want NotFound", name, err)
		}
	}
}
