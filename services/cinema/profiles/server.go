package profiles

import (
	"cmp"
	"context"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	bolt "go.etcd.io/bbolt"
	"google.golang.org/protobuf/types/known/timestamppb"

	"bijou.dev/platform/errs"
	profilesv1 "bijou.dev/services/cinema/api/profiles/v1"
	"bijou.dev/services/cinema/disk"
)

// defaultHousehold is the household of requests that name none.
const defaultHousehold = "home"

var bucket = []byte("profiles")

// Server implements the Profiles contract over one file. Make one with Open.
type Server struct {
	profilesv1.UnimplementedProfilesServer
	db *disk.DB
}

// Open opens the file. If it has no profile, Open creates those of Options.Household.
func Open(o Options) (*Server, error) {
	o, err := o.complete()
	if err != nil {
		return nil, err
	}
	db, err := disk.Open(o.Dir, "profiles", string(bucket))
	if err != nil {
		return nil, err
	}
	s := &Server{db: db}
	if err := s.createHousehold(o.Household); err != nil {
		_ = db.Close()
		return nil, err
	}
	return s, nil
}

// Close closes the file.
func (s *Server) Close() error { return s.db.Close() }

func (s *Server) createHousehold(names []string) error {
	return s.db.Write(context.Background(), func(tx *bolt.Tx) error {
		b := tx.Bucket(bucket)
		if k, _ := b.Cursor().First(); k != nil {
			return nil
		}
		now := time.Now()
		for i, name := range names {
			p := &profilesv1.Profile{
				Id: strings.ToLower(name), Name: name, Household: defaultHousehold,
				Created: timestamppb.New(now.Add(time.Duration(i) * time.Microsecond)), // List sorts by it
			}
			if err := disk.Put(b, p.Id, p); err != nil {
				return err
			}
		}
		return nil
	})
}

// List implements profilesv1.ProfilesServer.
func (s *Server) List(_ context.Context, r *profilesv1.ListRequest) (*profilesv1.ListResponse, error) {
	household := cmp.Or(r.Household, defaultHousehold)
	var all []*profilesv1.Profile
	err := s.db.Read(func(tx *bolt.Tx) (err error) {
		all, err = disk.All[profilesv1.Profile](tx.Bucket(bucket))
		return err
	})
	if err != nil {
		return nil, err
	}
	all = slices.DeleteFunc(all, func(p *profilesv1.Profile) bool { return p.Household != household })
	slices.SortStableFunc(all,
		func(a, b *profilesv1.Profile) int { return a.Created.AsTime().Compare(b.Created.AsTime()) })
	return &profilesv1.ListResponse{Profiles: all}, nil
}

// Get implements profilesv1.ProfilesServer.
func (s *Server) Get(_ context.Context, r *profilesv1.GetRequest) (*profilesv1.Profile, error) {
	p := &profilesv1.Profile{}
	found := false
	err := s.db.Read(func(tx *bolt.Tx) (err error) {
		found, err = disk.Get(tx.Bucket(bucket), r.Id, p)
		return err
	})
	if err == nil && !found {
		return nil, errs.Errorf(errs.NotFound, "looking for profile %.64q", r.Id)
	}
	return p, err
}

// Create implements profilesv1.ProfilesServer.
func (s *Server) Create(ctx context.Context, r *profilesv1.CreateRequest) (*profilesv1.Profile, error) {
	p := &profilesv1.Profile{
		Id: r.Id, Name: strings.TrimSpace(r.Name), Household: cmp.Or(r.Household,
			defaultHousehold), Created: timestamppb.Now(),
	}
	if err := check(p); err != nil {
		return nil, err
	}
	var old *profilesv1.Profile
	err := s.db.Write(ctx, func(tx *bolt.Tx) error {
		old = &profilesv1.Profile{}
		found, err := disk.Get(tx.Bucket(bucket), p.Id, old)
		if err != nil || found {
			return err
		}
		old = nil
		return disk.Put(tx.Bucket(bucket), p.Id, p)
	})
	switch {
	case err != nil:
		return nil, err
	case old == nil:
		return p, nil
	case old.Name == p.Name && old.Household == p.Household:
		return old, nil
	}
	return nil, errs.Errorf(errs.Exists, "creating profile %q: it exists under the name %q", p.Id, old.Name)
}

func check(p *profilesv1.Profile) error {
	var bad errs.Violations
	disk.CheckID(&bad, "id", p.Id, 64)
	disk.CheckID(&bad, "household", p.Household, 64)
	if n := utf8.RuneCountInString(p.Name); n < 1 || n > 40 {
		bad.Add("name", "must have 1 to 40 characters")
	}
	return bad.Err("creating profile %.64q", p.Id)
}
