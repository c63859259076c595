package playback_test

import (
	"errors"
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

// start starts a session of fargo-1996, which has 87 minutes.
func start(t *testing.T, h *cinematest.Stack, id string) (playbackv1.PlaybackClient, *playbackv1.Session) {
	t.Helper()
	c := playbackv1.NewPlaybackClient(h.Conn("playback"))
	s, err := c.Start(t.Context(), &playbackv1.StartRequest{SessionId: id, ProfileId: "ingrid", TitleId: "fargo-1996"})
	if err != nil {
		t.Fatal(err)
	}
	return c, s
}

func beat(id string, sequence int64, at time.Duration) *playbackv1.HeartbeatRequest {
	return &playbackv1.HeartbeatRequest{SessionId: id, Sequence: sequence, Position: durationpb.New(at)}
}

func bookmark(t *testing.T, h *cinematest.Stack) (time.Duration, error) {
	t.Helper()
	m, err := viewingv1.NewViewingClient(h.Conn("viewing")).GetBookmark(t.Context(),
		&viewingv1.GetBookmarkRequest{ProfileId: "ingrid", TitleId: "fargo-1996"})
	return m.GetPosition().AsDuration(), err
}

func TestSessionMovesTheBookmark(t *testing.T) {
	h := cinematest.Full(t, nil)
	c, s := start(t, h, "s1")
	if s.Duration.AsDuration() != 87*time.Minute || s.Position.AsDuration() != 0 {
		t.Errorf("began at %v of %v", s.Position.AsDuration(), s.Duration.AsDuration())
	}
	for _, step := range []struct {
		r    *playbackv1.HeartbeatRequest
		want time.Duration
	}{
		{beat("s1", 1, 10*time.Minute), 10 * time.Minute},
		{beat("s1", 3, 30*time.Minute), 30 * time.Minute},
		{beat("s1", 2, 20*time.Minute), 30 * time.Minute}, // overtaken
		{beat("s1", 3, 40*time.Minute), 30 * time.Minute}, // sent twice
	} {
		s, err := c.Heartbeat(t.Context(), step.r)
		if err != nil || s.Position.AsDuration() != step.want || !s.Bookmarked {
			t.Errorf("report %d: %v, %v", step.r.Sequence, s, err)
		}
		if at, err := bookmark(t, h); err != nil || at != step.want {
			t.Errorf("bookmark at %v, %v; want %v", at, err, step.want)
		}
	}
	for range 2 { // stopping may be repeated
		if s, err := c.Stop(t.Context(), beat("s1", 4, 35*time.Minute)); err != nil || !s.Stopped {
			t.Errorf("stop: %v, %v", s, err)
		}
	}
	if s, err := c.Heartbeat(t.Context(), beat("s1", 5, 80*time.Minute)); err != nil ||
		s.Position.AsDuration() != 35*time.Minute {
		t.Errorf("a report after the stop: %v, %v", s, err)
	}
	if _, s := start(t, h, "s2"); s.Position.AsDuration() != 35*time.Minute {
		t.Errorf("the next session begins at %v", s.Position.AsDuration())
	}
	if _, s := start(t, h, "s1"); !s.Stopped {
		t.Error("starting again with a used id opened a second session")
	}
}

func TestPlayingGoesOnWithoutProfilesAndViewing(t *testing.T) {
	synctest.Test(t, playWithoutProfilesAndViewing)
}

func playWithoutProfilesAndViewing(t *testing.T) {
	h := cinematest.Full(t, nil)
	h.Kill("profiles")
	h.Kill("viewing")
	c, s := start(t, h, "s1")
	if !s.PositionUnknown {
		t.Error("the session does not say that its place is a guess")
	}
	s, err := c.Heartbeat(t.Context(), beat("s1", 1, time.Minute))
	if err != nil || s.Bookmarked {
		t.Errorf("report: %v, %v", s, err)
	}
	// Viewing comes back and gets what it missed.
	marks, err := viewing.Open(viewing.Options{Dir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	defer marks.Close()
	h.Serve("viewing", func(r grpc.ServiceRegistrar) { viewingv1.RegisterViewingServer(r, marks) })
	time.Sleep(30 * time.Second) // circuits close and delivery comes round
	at, err := marks.GetBookmark(t.Context(), &viewingv1.GetBookmarkRequest{ProfileId: "ingrid", TitleId: "fargo-1996"})
	if err != nil || at.Position.AsDuration() != time.Minute {
		t.Errorf("delivered %v, %v", at, err)
	}
	if s, err := c.Heartbeat(t.Context(), beat("s1", 1, time.Minute)); err != nil || !s.Bookmarked {
		t.Errorf("after delivery: %v, %v", s, err)
	}
}

func TestRefusals(t *testing.T) {
	h := cinematest.Full(t, nil)
	c, _ := start(t, h, "s1")
	for name, tc := range map[string]struct {
		r    *playbackv1.StartRequest
		kind errs.Kind
	}{
		"no film":     {&playbackv1.StartRequest{SessionId: "s2", ProfileId: "ingrid", TitleId: "none"}, errs.NotFound},
		"no profile":  {&playbackv1.StartRequest{SessionId: "s2", ProfileId: "nobody", TitleId: "fargo-1996"}, errs.NotFound},
		"another's":   {&playbackv1.StartRequest{SessionId: "s1", ProfileId: "theo", TitleId: "fargo-1996"}, errs.Exists},
		"bad session": {&playbackv1.StartRequest{SessionId: "S 1", ProfileId: "theo", TitleId: "fargo-1996"}, errs.Invalid},
	} {
		if _, err := c.Start(t.Context(), tc.r); !errors.Is(err, tc.kind) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := c.Heartbeat(t.Context(), beat("s1", 0, 0)); !errors.Is(err, errs.Invalid) {
		t.Errorf("report 0: %v", err)
	}
	if _, err := c.Heartbeat(t.Context(), beat("s9", 1, 0)); !errors.Is(err, errs.NotFound) {
		t.Errorf("no such session: %v", err)
	}
	h.Kill("catalog")
	if _, err := c.Start(t.Context(), &playbackv1.StartRequest{
		SessionId: "s3", ProfileId: "theo",
		TitleId: "fargo-1996",
	}); !errors.Is(err, errs.Unavailable) {
		t.Errorf("without a catalog: %v", err)
	}
}
