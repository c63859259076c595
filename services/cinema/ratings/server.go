package ratings

import (
	"cmp"
	"context"
	"encoding/binary"
	"slices"
	"time"

	bolt "go.etcd.io/bbolt"
	"google.golang.org/protobuf/types/known/timestamppb"

	"bijou.dev/platform/errs"
	ratingsv1 "bijou.dev/services/cinema/api/ratings/v1"
	"bijou.dev/services/cinema/disk"
)

// keepKeys is how long the key of an applied rating is stored: longer than any caller retries.
const keepKeys = 48 * time.Hour

// The buckets: profile -> film -> rating; film -> sum and number of ratings; applied keys by name, and by time.
var (
	byProfile   = []byte("profiles")
	totals      = []byte("totals")
	appliedKeys = []byte("applied")
	appliedAt   = []byte("applied_at")
)

// Server implements the Ratings contract over one file. Make one with Open.
type Server struct {
	ratingsv1.UnimplementedRatingsServer
	db *disk.DB
}

// Open opens the file.
func Open(o Options) (*Server, error) {
	db, err := disk.Open(o.Dir, "ratings", string(byProfile), string(totals), string(appliedKeys), string(appliedAt))
	if err != nil {
		return nil, err
	}
	return &Server{db: db}, nil
}

// Close closes the file.
func (s *Server) Close() error { return s.db.Close() }

// Rate implements ratingsv1.RatingsServer.
func (s *Server) Rate(ctx context.Context, r *ratingsv1.RateRequest) (*ratingsv1.RateResponse, error) {
	if err := check(r); err != nil {
		return nil, err
	}
	var out *ratingsv1.RateResponse
	err := s.db.Write(ctx, func(tx *bolt.Tx) (err error) {
		out, err = rate(tx, r, time.Now())
		return err
	})
	return out, err
}

func check(r *ratingsv1.RateRequest) error {
	var bad errs.Violations
	if len(r.Key) < 1 || len(r.Key) > 128 {
		bad.Add("key", "must have 1 to 128 bytes")
	}
	if r.Stars < 0 || r.Stars > 5 {
		bad.Add("stars", "must be 0 to 5")
	}
	disk.CheckID(&bad, "profile_id", r.ProfileId, 64)
	disk.CheckID(&bad, "title_id", r.TitleId, 128)
	return bad.Err("rating a film")
}

// rate applies r unless its key was applied before.
func rate(tx *bolt.Tx, r *ratingsv1.RateRequest, now time.Time) (*ratingsv1.RateResponse, error) {
	b, err := tx.Bucket(byProfile).CreateBucketIfNotExists([]byte(r.ProfileId))
	if err != nil {
		return nil, err
	}
	old := &ratingsv1.Rating{}
	found, err := disk.Get(b, r.TitleId, old)
	if err != nil {
		return nil, err
	}
	if tx.Bucket(appliedKeys).Get([]byte(r.Key)) != nil {
		if !found {
			old = nil
		}
		return &ratingsv1.RateResponse{Rating: old}, nil
	}
	if err := recordKey(tx, r.Key, now); err != nil {
		return nil, err
	}
	if err := count(tx, r.TitleId, r.Stars, old.Stars); err != nil {
		return nil, err
	}
	if r.Stars == 0 {
		return &ratingsv1.RateResponse{Applied: true}, b.Delete([]byte(r.TitleId))
	}
	rating := &ratingsv1.Rating{ProfileId: r.ProfileId, TitleId: r.TitleId, Stars: r.Stars, Rated: timestamppb.New(now)}
	return &ratingsv1.RateResponse{Rating: rating, Applied: true}, disk.Put(b, r.TitleId, rating)
}

// recordKey stores that a key was applied, and deletes up to two keys older than keepKeys. So the file does not grow
// without limit.
func recordKey(tx *bolt.Tx, key string, now time.Time) error {
	if err := tx.Bucket(appliedKeys).Put([]byte(key), []byte{1}); err != nil {
		return err
	}
	at := binary.BigEndian.AppendUint64(nil, uint64(now.UnixNano()))
	if err := tx.Bucket(appliedAt).Put(append(at, key...), nil); err != nil {
		return err
	}
	limit := uint64(now.Add(-keepKeys).UnixNano())
	for range 2 {
		k, _ := tx.Bucket(appliedAt).Cursor().First()
		if binary.BigEndian.Uint64(k) > limit {
			return nil
		}
		if err := tx.Bucket(appliedKeys).Delete(k[8:]); err != nil {
			return err
		}
		if err := tx.Bucket(appliedAt).Delete(k); err != nil {
			return err
		}
	}
	return nil
}

// count replaces an old rating by a new one in the sum and the number of a film's ratings. Zero stars: no rating.
func count(tx *bolt.Tx, title string, stars, old int32) error {
	sum, n := total(tx, title)
	sum += int64(stars - old)
	if old > 0 {
		n--
	}
	if stars > 0 {
		n++
	}
	v := binary.BigEndian.AppendUint64(nil, uint64(sum))
	return tx.Bucket(totals).Put([]byte(title), binary.BigEndian.AppendUint64(v, uint64(n)))
}

func total(tx *bolt.Tx, title string) (sum, n int64) {
	v := tx.Bucket(totals).Get([]byte(title))
	if len(v) != 16 {
		return 0, 0
	}
	return int64(binary.BigEndian.Uint64(v)), int64(binary.BigEndian.Uint64(v[8:]))
}

// GetRatings implements ratingsv1.RatingsServer.
func (s *Server) GetRatings(_ context.Context, r *ratingsv1.GetRatingsRequest) (*ratingsv1.GetRatingsResponse, error) {
	var all []*ratingsv1.Rating
	err := s.db.Read(func(tx *bolt.Tx) (err error) {
		all, err = disk.All[ratingsv1.Rating](tx.Bucket(byProfile).Bucket([]byte(r.ProfileId)))
		return err
	})
	if err != nil {
		return nil, err
	}
	slices.SortFunc(all, func(a, b *ratingsv1.Rating) int {
		return cmp.Or(b.Rated.AsTime().Compare(a.Rated.AsTime()), cmp.Compare(a.TitleId, b.TitleId))
	})
	limit := 1000
	if r.Limit > 0 && r.Limit < 1000 {
		limit = int(r.Limit)
	}
	return &ratingsv1.GetRatingsResponse{Ratings: all[:min(len(all), limit)]}, nil
}

// Averages implements ratingsv1.RatingsServer.
func (s *Server) Averages(_ context.Context, r *ratingsv1.AveragesRequest) (*ratingsv1.AveragesResponse, error) {
	if len(r.TitleIds) > 500 {
		return nil, errs.Errorf(errs.Invalid, "averaging %d films", len(r.TitleIds)).Field("title_ids", "must be at most 500")
	}
	out := &ratingsv1.AveragesResponse{}
	err := s.db.Read(func(tx *bolt.Tx) error {
		out.Averages = nil
		for _, id := range r.TitleIds {
			if sum, n := total(tx, id); n > 0 {
				out.Averages = append(out.Averages, &ratingsv1.Average{TitleId: id, Stars: float64(sum) / float64(n), Count: n})
			}
		}
		return nil
	})
	return out, err
}
