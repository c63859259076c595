package viewing

import (
	"cmp"
	"context"
	"slices"
	"time"

	bolt "go.etcd.io/bbolt"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	"bijou.dev/platform/errs"
	viewingv1 "bijou.dev/services/cinema/api/viewing/v1"
	"bijou.dev/services/cinema/disk"
)

// minPosition is how far a film must have been watched before it is listed by ContinueWatching.
const minPosition = 10 * time.Second

// byProfile: profile -> film -> bookmark.
var byProfile = []byte("profiles")

// Server implements the Viewing contract over one file. Make one with Open.
type Server struct {
	viewingv1.UnimplementedViewingServer
	db *disk.DB
}

// Open opens the file.
func Open(o Options) (*Server, error) {
	db, err := disk.Open(o.Dir, "viewing", string(byProfile))
	if err != nil {
		return nil, err
	}
	return &Server{db: db}, nil
}

// Close closes the file.
func (s *Server) Close() error { return s.db.Close() }

// Advance implements viewingv1.ViewingServer.
func (s *Server) Advance(ctx context.Context, r *viewingv1.AdvanceRequest) (*viewingv1.AdvanceResponse, error) {
	if err := check(r); err != nil {
		return nil, err
	}
	position, duration := r.Position.AsDuration(), r.Duration.AsDuration()
	position = min(max(position, 0), duration)
	mark := &viewingv1.Bookmark{
		ProfileId: r.ProfileId, TitleId: r.TitleId, Position: durationpb.New(position), Duration: durationpb.New(duration),
		Finished: position >= duration*95/100, Watched: timestamppb.Now(), Report: r.Report,
	}
	var out *viewingv1.AdvanceResponse
	err := s.db.Write(ctx, func(tx *bolt.Tx) error {
		b, err := tx.Bucket(byProfile).CreateBucketIfNotExists([]byte(r.ProfileId))
		if err != nil {
			return err
		}
		old := &viewingv1.Bookmark{}
		found, err := disk.Get(b, r.TitleId, old)
		if err != nil {
			return err
		}
		if found && !newer(r.Report, old.Report) {
			out = &viewingv1.AdvanceResponse{Bookmark: old}
			return nil
		}
		out = &viewingv1.AdvanceResponse{Bookmark: mark, Applied: true}
		return disk.Put(b, r.TitleId, mark)
	})
	return out, err
}

func check(r *viewingv1.AdvanceRequest) error {
	var bad errs.Violations
	disk.CheckID(&bad, "profile_id", r.ProfileId, 64)
	disk.CheckID(&bad, "title_id", r.TitleId, 128)
	disk.CheckID(&bad, "report.session_id", r.Report.GetSessionId(), 64)
	if r.Duration.AsDuration() <= 0 {
		bad.Add("duration", "must be more than zero")
	}
	return bad.Err("advancing a bookmark")
}

// newer reports whether a is newer than b: it is of a later session, or has a higher number in the same session.
func newer(a, b *viewingv1.Report) bool {
	return cmp.Or(a.SessionStarted.AsTime().Compare(b.SessionStarted.AsTime()),
		cmp.Compare(a.SessionId, b.SessionId), cmp.Compare(a.Sequence, b.Sequence)) > 0
}

// GetBookmark implements viewingv1.ViewingServer.
func (s *Server) GetBookmark(_ context.Context, r *viewingv1.GetBookmarkRequest) (*viewingv1.Bookmark, error) {
	mark := &viewingv1.Bookmark{}
	found := false
	err := s.db.Read(func(tx *bolt.Tx) (err error) {
		found, err = disk.Get(tx.Bucket(byProfile).Bucket([]byte(r.ProfileId)), r.TitleId, mark)
		return err
	})
	if err == nil && !found {
		return nil, errs.Errorf(errs.NotFound, "looking for the bookmark of %.64q in %.128q", r.ProfileId, r.TitleId)
	}
	return mark, err
}

// ContinueWatching implements viewingv1.ViewingServer.
func (s *Server) ContinueWatching(_ context.Context,
	r *viewingv1.ContinueWatchingRequest,
) (*viewingv1.BookmarksResponse, error) {
	return s.bookmarks(r.ProfileId, limit(r.Limit, 20), func(m *viewingv1.Bookmark) bool {
		return !m.Finished && m.Position.AsDuration() >= minPosition
	})
}

// History implements viewingv1.ViewingServer.
func (s *Server) History(_ context.Context, r *viewingv1.HistoryRequest) (*viewingv1.BookmarksResponse, error) {
	return s.bookmarks(r.ProfileId, limit(r.Limit, 200), func(*viewingv1.Bookmark) bool { return true })
}

// limit returns the requested limit, at most 200, or unset if there is none.
func limit(requested int32, unset int) int {
	if requested <= 0 {
		return unset
	}
	return min(int(requested), 200)
}

// bookmarks returns the bookmarks of a profile for which keep returns true, the last watched first.
func (s *Server) bookmarks(profile string, limit int,
	keep func(*viewingv1.Bookmark) bool,
) (*viewingv1.BookmarksResponse, error) {
	var all []*viewingv1.Bookmark
	err := s.db.Read(func(tx *bolt.Tx) (err error) {
		all, err = disk.All[viewingv1.Bookmark](tx.Bucket(byProfile).Bucket([]byte(profile)))
		return err
	})
	if err != nil {
		return nil, err
	}
	all = slices.DeleteFunc(all, func(m *viewingv1.Bookmark) bool { return !keep(m) })
	slices.SortFunc(all, func(a, b *viewingv1.Bookmark) int {
		return cmp.Or(b.Watched.AsTime().Compare(a.Watched.AsTime()), cmp.Compare(a.TitleId, b.TitleId))
	})
	return &viewingv1.BookmarksResponse{Bookmarks: all[:min(len(all), limit)]}, nil
}
