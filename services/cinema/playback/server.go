package playback

import (
	"context"
	"time"

	bolt "go.etcd.io/bbolt"
	"golang.org/x/sync/errgroup"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	"bijou.dev/platform/errs"
	catalogv1 "bijou.dev/services/cinema/api/catalog/v1"
	playbackv1 "bijou.dev/services/cinema/api/playback/v1"
	profilesv1 "bijou.dev/services/cinema/api/profiles/v1"
	viewingv1 "bijou.dev/services/cinema/api/viewing/v1"
	"bijou.dev/services/cinema/disk"
)

// defaultDuration is the running time of a film for which the catalog has none.
const defaultDuration = 110 * time.Minute

// The buckets: all sessions by id, and the ids of those whose progress viewing has not stored yet.
var (
	sessions = []byte("sessions")
	pending  = []byte("pending")
)

// Server implements the Playback contract over one file. Make one with Open.
type Server struct {
	playbackv1.UnimplementedPlaybackServer
	db    *disk.DB
	peers Peers
}

// Open opens the file.
func Open(o Options, peers Peers) (*Server, error) {
	db, err := disk.Open(o.Dir, "playback", string(sessions), string(pending))
	if err != nil {
		return nil, err
	}
	return &Server{db: db, peers: peers}, nil
}

// Close closes the file.
func (s *Server) Close() error { return s.db.Close() }

// Start implements playbackv1.PlaybackServer. The film must exist. If profiles or viewing is not available, the session
// starts without a check of the profile, or at the beginning of the film.
func (s *Server) Start(ctx context.Context, r *playbackv1.StartRequest) (*playbackv1.Session, error) {
	if err := check(r); err != nil {
		return nil, err
	}
	if old, err := s.load(r.SessionId); err == nil {
		return existing(old, r)
	} else if errs.KindOf(err) != errs.NotFound {
		return nil, err
	}
	fresh, err := s.prepare(ctx, r)
	if err != nil {
		return nil, err
	}
	var got *playbackv1.Session
	err = s.db.Write(ctx, func(tx *bolt.Tx) error {
		got = &playbackv1.Session{}
		if found, err := disk.Get(tx.Bucket(sessions), fresh.Id, got); err != nil || found {
			return err
		}
		got = fresh
		return disk.Put(tx.Bucket(sessions), fresh.Id, fresh)
	})
	if err != nil {
		return nil, err
	}
	return existing(got, r)
}

func check(r *playbackv1.StartRequest) error {
	var bad errs.Violations
	disk.CheckID(&bad, "session_id", r.SessionId, 64)
	disk.CheckID(&bad, "profile_id", r.ProfileId, 64)
	disk.CheckID(&bad, "title_id", r.TitleId, 128)
	return bad.Err("starting a session")
}

// existing returns the session old if r is for the same profile and film, or an error.
func existing(old *playbackv1.Session, r *playbackv1.StartRequest) (*playbackv1.Session, error) {
	if old.ProfileId != r.ProfileId || old.TitleId != r.TitleId {
		return nil, errs.Errorf(errs.Exists, "starting session %q: it is for another profile or film", r.SessionId)
	}
	return old, nil
}

// prepare looks up profile, film and bookmark in parallel and returns the new session.
func (s *Server) prepare(ctx context.Context, r *playbackv1.StartRequest) (*playbackv1.Session, error) {
	now := timestamppb.Now()
	session := &playbackv1.Session{
		Id: r.SessionId, ProfileId: r.ProfileId, TitleId: r.TitleId, Started: now, Reported: now,
		Position: durationpb.New(0), Bookmarked: true,
	}
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error {
		_, err := s.peers.Profiles.Get(ctx, &profilesv1.GetRequest{Id: r.ProfileId})
		if err != nil && errs.KindOf(err) == errs.NotFound {
			return errs.Errorf(errs.NotFound, "starting session %q: there is no profile %q", r.SessionId, r.ProfileId)
		}
		return nil
	})
	g.Go(func() error {
		found, err := s.peers.Catalog.GetTitles(ctx, &catalogv1.GetTitlesRequest{Ids: []string{r.TitleId}})
		if err != nil {
			return err
		}
		if len(found.Titles) == 0 {
			return errs.Errorf(errs.NotFound, "starting session %q: there is no film %q", r.SessionId, r.TitleId)
		}
		session.Duration = durationpb.New(durationOf(found.Titles[0]))
		return nil
	})
	var mark *viewingv1.Bookmark
	g.Go(func() (err error) {
		mark, err = s.peers.Viewing.GetBookmark(ctx, &viewingv1.GetBookmarkRequest{
			ProfileId: r.ProfileId,
			TitleId:   r.TitleId,
		})
		session.PositionUnknown = err != nil && errs.KindOf(err) != errs.NotFound
		return nil
	})
	if err := g.Wait(); err != nil {
		return nil, err
	}
	if !mark.GetFinished() && mark.GetPosition() != nil {
		session.Position = within(mark.Position, session)
	}
	return session, nil
}

// within returns a position between the beginning and the end of a session's film.
func within(position *durationpb.Duration, s *playbackv1.Session) *durationpb.Duration {
	return durationpb.New(min(max(position.AsDuration(), 0), s.Duration.AsDuration()))
}

// durationOf returns the running time of a film, or defaultDuration if the catalog has none that is possible.
func durationOf(t *catalogv1.Title) time.Duration {
	if t.GetMinutes() <= 0 {
		return defaultDuration
	}
	return time.Duration(t.GetMinutes()) * time.Minute
}

func (s *Server) load(id string) (*playbackv1.Session, error) {
	session := &playbackv1.Session{}
	found := false
	err := s.db.Read(func(tx *bolt.Tx) (err error) {
		found, err = disk.Get(tx.Bucket(sessions), id, session)
		return err
	})
	if err == nil && !found {
		return nil, errs.Errorf(errs.NotFound, "looking for session %.64q", id)
	}
	return session, err
}

// Get implements playbackv1.PlaybackServer.
func (s *Server) Get(_ context.Context, r *playbackv1.GetRequest) (*playbackv1.Session, error) {
	return s.load(r.SessionId)
}

// Heartbeat implements playbackv1.PlaybackServer.
func (s *Server) Heartbeat(ctx context.Context, r *playbackv1.HeartbeatRequest) (*playbackv1.Session, error) {
	return s.report(ctx, r, false)
}

// Stop implements playbackv1.PlaybackServer.
func (s *Server) Stop(ctx context.Context, r *playbackv1.HeartbeatRequest) (*playbackv1.Session, error) {
	return s.report(ctx, r, true)
}

// report sends the progress to viewing, then writes the session and whether viewing has stored it, with one sync to
// disk. If viewing has not stored it, Run sends it again later.
func (s *Server) report(ctx context.Context, r *playbackv1.HeartbeatRequest, stop bool) (*playbackv1.Session, error) {
	if r.Sequence < 1 {
		return nil, errs.Errorf(errs.Invalid, "reporting on session %.64q", r.SessionId).Field("sequence",
			"must be at least 1")
	}
	session, err := s.load(r.SessionId)
	if err != nil || !isNewer(session, r) {
		return session, err
	}
	session.Sequence, session.Stopped, session.Reported = r.Sequence, stop, timestamppb.Now()
	session.Position = within(r.Position, session)
	session.Bookmarked = s.advance(ctx, session) == nil
	var got *playbackv1.Session
	err = s.db.Write(ctx, func(tx *bolt.Tx) error {
		got = &playbackv1.Session{}
		if found, err := disk.Get(tx.Bucket(sessions), r.SessionId, got); err != nil || !found || !isNewer(got, r) {
			return err
		}
		got = session
		return save(tx, session)
	})
	return got, err
}

// isNewer reports whether r changes session s: s is not stopped and r has a higher number.
func isNewer(s *playbackv1.Session, r *playbackv1.HeartbeatRequest) bool {
	return !s.Stopped && r.Sequence > s.Sequence
}

// save writes a session, and adds it to the pending ones or removes it from them.
func save(tx *bolt.Tx, s *playbackv1.Session) error {
	if s.Bookmarked {
		if err := tx.Bucket(pending).Delete([]byte(s.Id)); err != nil {
			return err
		}
	} else if err := tx.Bucket(pending).Put([]byte(s.Id), nil); err != nil {
		return err
	}
	return disk.Put(tx.Bucket(sessions), s.Id, s)
}

// advance sends the progress of a session to viewing.
func (s *Server) advance(ctx context.Context, session *playbackv1.Session) error {
	_, err := s.peers.Viewing.Advance(ctx, &viewingv1.AdvanceRequest{
		ProfileId: session.ProfileId, TitleId: session.TitleId, Position: session.Position, Duration: session.Duration,
		Report: &viewingv1.Report{SessionId: session.Id, SessionStarted: session.Started, Sequence: session.Sequence},
	})
	return err
}
