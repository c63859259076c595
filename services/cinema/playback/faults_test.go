package playback_test

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"

	"bijou.dev/platform/errs"
	catalogv1 "bijou.dev/services/cinema/api/catalog/v1"
	playbackv1 "bijou.dev/services/cinema/api/playback/v1"
	profilesv1 "bijou.dev/services/cinema/api/profiles/v1"
	viewingv1 "bijou.dev/services/cinema/api/viewing/v1"
	"bijou.dev/services/cinema/cinematest"
	"bijou.dev/services/cinema/playback"
)

// open opens a server of its own on the services of a stack. Its Run is not started.
func open(t *testing.T, h *cinematest.Stack, dir string) *playback.Server {
	t.Helper()
	s, err := playback.Open(playback.Options{Dir: dir}, playback.Peers{
		Profiles: profilesv1.NewProfilesClient(h.Conn("profiles")), Catalog: catalogv1.NewCatalogClient(h.Conn("catalog")),
		Viewing: viewingv1.NewViewingClient(h.Conn("viewing")),
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	return s
}

// play starts a session and reports one minute.
func play(t *testing.T, s *playback.Server, id string) {
	t.Helper()
	_, err := s.Start(t.Context(), &playbackv1.StartRequest{SessionId: id, ProfileId: "ingrid", TitleId: fargo})
	if err == nil {
		_, err = s.Heartbeat(t.Context(), heartbeat(id, 1, time.Minute))
	}
	if err != nil {
		t.Fatalf("playing in session %s: %v", id, err)
	}
}

// runFor runs the background work of a server for some time.
func runFor(t *testing.T, s *playback.Server, d time.Duration) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), d)
	defer cancel()
	if err := s.Run(ctx); err != nil {
		t.Errorf("Run ended with %v, want nil", err)
	}
}

func assertUndelivered(t *testing.T, what string, s *playback.Server, want int) {
	t.Helper()
	if got := s.Undelivered(); got != want {
		t.Errorf("%s: %d sessions are undelivered, want %d", what, got, want)
	}
}

func TestStartNeedsTheCatalogOnly(t *testing.T) {
	ok := cinematest.Answer(nil)
	for name, c := range map[string]struct {
		service string
		answer  cinematest.Answer
		want    error // nil: the session starts
	}{
		"all services work":       {"catalog", ok, nil},
		"profiles fails":          {"profiles", cinematest.Fail(errs.Errorf(errs.Internal, "x")), nil},
		"profiles is overloaded":  {"profiles", cinematest.Fail(errs.Errorf(errs.Exhausted, "x")), nil},
		"viewing fails":           {"viewing", cinematest.Fail(errs.Errorf(errs.Internal, "x")), nil},
		"viewing refuses":         {"viewing", cinematest.Fail(errs.Errorf(errs.Invalid, "x")), nil},
		"catalog fails":           {"catalog", cinematest.Fail(errs.Errorf(errs.Internal, "x")), errs.Internal},
		"catalog is overloaded":   {"catalog", cinematest.Fail(errs.Errorf(errs.Exhausted, "x")), errs.Exhausted},
		"catalog returns no film": {"catalog", answer(&catalogv1.GetTitlesResponse{}), errs.NotFound},
	} {
		t.Run(name, func(t *testing.T) {
			h := cinematest.Full(t, nil)
			if c.answer != nil {
				h.Replace(c.service, c.answer)
			}
			s, err := client(h).Start(t.Context(), &playbackv1.StartRequest{
				SessionId: "s1", ProfileId: "ingrid", TitleId: fargo,
			})
			if !errors.Is(err, c.want) {
				t.Fatalf("got %v, want %v", err, c.want)
			}
			if want := c.service == "viewing"; s.GetPositionUnknown() != want {
				t.Errorf("the position is unknown: %t, want %t", s.GetPositionUnknown(), want)
			}
			if _, err := client(h).Get(t.Context(), &playbackv1.GetRequest{SessionId: "s1"}); (err == nil) != (c.want == nil) {
				t.Errorf("reading the session after the start: %v", err)
			}
		})
	}
}

func answer(m proto.Message) cinematest.Answer {
	return func(context.Context, string) (proto.Message, error) { return m, nil }
}

// Services that do not answer delay a start by the timeout of their circuit.
func TestStartWaitsForSlowServicesAsLongAsTheirTimeout(t *testing.T) {
	for _, slow := range []string{"profiles", "viewing", "catalog"} {
		t.Run(slow, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				h := cinematest.Full(t, map[string]string{"circuit." + slow + ".timeout": "400ms"})
				h.Replace(slow, cinematest.Hang)
				begin := time.Now()
				_, err := client(h).Start(t.Context(), &playbackv1.StartRequest{
					SessionId: "s1", ProfileId: "ingrid", TitleId: fargo,
				})
				if took := time.Since(begin); took > 2*time.Second {
					t.Errorf("the start took %v, want less than 2s", took)
				}
				if want := slow != "catalog"; (err == nil) != want {
					t.Errorf("the session started: %t, want %t: %v", err == nil, want, err)
				}
				if slow == "catalog" && !errors.Is(err, errs.Timeout) {
					t.Errorf("got %v, want Timeout", err)
				}
			})
		})
	}
}

// Values from other services that cannot be right are limited.
func TestImpossibleAnswers(t *testing.T) {
	bookmark := func(position time.Duration) *viewingv1.Bookmark {
		return &viewingv1.Bookmark{Position: durationpb.New(position), Duration: durationpb.New(time.Hour)}
	}
	film := func(minutes int32) *catalogv1.GetTitlesResponse {
		return &catalogv1.GetTitlesResponse{Titles: []*catalogv1.Title{{Id: fargo, Minutes: &minutes}}}
	}
	for name, c := range map[string]struct {
		service            string
		answer             proto.Message
		position, duration time.Duration
	}{
		"bookmark before the beginning": {"viewing", bookmark(-time.Hour), 0, 87 * time.Minute},
		"bookmark after the end":        {"viewing", bookmark(99 * time.Hour), 87 * time.Minute, 87 * time.Minute},
		"bookmark without a position":   {"viewing", &viewingv1.Bookmark{}, 0, 87 * time.Minute},
		"film of unknown length": {
			"catalog", &catalogv1.GetTitlesResponse{Titles: []*catalogv1.Title{{Id: fargo}}}, 0, 110 * time.Minute,
		},
		"film of 0 minutes":   {"catalog", film(0), 0, 110 * time.Minute},
		"film of -10 minutes": {"catalog", film(-10), 0, 110 * time.Minute},
	} {
		t.Run(name, func(t *testing.T) {
			h := cinematest.Full(t, nil)
			h.Replace(c.service, answer(c.answer))
			s := start(t, h, "s1")
			assertPosition(t, "a new session", s, c.position)
			if got := s.Duration.AsDuration(); got != c.duration {
				t.Errorf("the duration is %v, want %v", got, c.duration)
			}
			if c.service == "viewing" {
				return
			}
			s, err := client(h).Heartbeat(t.Context(), heartbeat("s1", 1, time.Minute))
			if err != nil || !s.Bookmarked {
				t.Errorf("reporting progress: bookmarked is %t, error %v; want true", s.GetBookmarked(), err)
			}
		})
	}
}

// While viewing does not answer, progress is acknowledged after the timeout, is kept over a restart, and is delivered
// when viewing works again.
func TestUndeliveredProgressSurvivesARestart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := cinematest.Full(t, map[string]string{"circuit.viewing.timeout": "400ms"})
		dir := t.TempDir()
		s := open(t, h, dir)
		h.Replace("viewing", cinematest.Hang)
		begin := time.Now()
		play(t, s, "s1")
		if took := time.Since(begin); took > 3*time.Second {
			t.Errorf("the start and a report took %v, want less than 3s", took)
		}
		assertUndelivered(t, "while viewing hangs", s, 1)
		runFor(t, s, time.Minute)
		assertUndelivered(t, "after a minute", s, 1)
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}

		s = open(t, h, dir)
		assertUndelivered(t, "after a restart", s, 1)
		h.Replace("viewing", cinematest.Fail(errs.Errorf(errs.Unavailable, "x")))
		runFor(t, s, time.Minute)
		assertUndelivered(t, "while viewing is unavailable", s, 1)
		h.Restore("viewing")
		runFor(t, s, time.Minute)
		assertUndelivered(t, "after viewing is back", s, 0)
		assertBookmark(t, "after viewing is back", h, time.Minute)
	})
}

// Progress that viewing refuses as invalid would be refused each time.
func TestProgressThatViewingRefusesIsNotSentAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := cinematest.Full(t, nil)
		s := open(t, h, t.TempDir())
		h.Replace("viewing", cinematest.Fail(errs.Errorf(errs.Invalid, "advancing")))
		play(t, s, "s1")
		assertUndelivered(t, "after a report", s, 1)
		runFor(t, s, time.Minute)
		assertUndelivered(t, "after a delivery", s, 0)
	})
}

// A session is deleted a week after its last report, but not before viewing has its progress.
func TestOldSessionsAreDeleted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := cinematest.Full(t, nil)
		s := open(t, h, t.TempDir())
		play(t, s, "delivered")
		h.Replace("viewing", cinematest.Fail(errs.Errorf(errs.Unavailable, "x")))
		play(t, s, "undelivered")
		time.Sleep(7*24*time.Hour - 2*time.Minute)
		assertExists := func(when, id string, want bool) {
			t.Helper()
			_, err := s.Get(t.Context(), &playbackv1.GetRequest{SessionId: id})
			if got := !errors.Is(err, errs.NotFound); got != want {
				t.Errorf("%s: session %s exists: %t, want %t (%v)", when, id, got, want, err)
			}
		}
		runFor(t, s, time.Minute)
		assertExists("before a week has passed", "delivered", true)
		time.Sleep(time.Hour)
		runFor(t, s, time.Minute)
		assertExists("after a week", "delivered", false)
		assertExists("after a week", "undelivered", true)
	})
}

func TestClosedStoreIsUnavailable(t *testing.T) {
	h := cinematest.Full(t, nil)
	s := open(t, h, t.TempDir())
	play(t, s, "s1")
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	for name, call := range map[string]func() error{
		"Start": func() error {
			_, err := s.Start(t.Context(), &playbackv1.StartRequest{SessionId: "s2", ProfileId: "ingrid", TitleId: fargo})
			return err
		},
		"Get": func() error {
			_, err := s.Get(t.Context(), &playbackv1.GetRequest{SessionId: "s1"})
			return err
		},
		"Heartbeat": func() error {
			_, err := s.Heartbeat(t.Context(), heartbeat("s1", 2, time.Minute))
			return err
		},
	} {
		if err := call(); !errors.Is(err, errs.Unavailable) {
			t.Errorf("%s after Close: got %v, want Unavailable", name, err)
		}
	}
}
