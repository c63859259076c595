package playback

import (
	"context"
	"slices"
	"time"

	bolt "go.etcd.io/bbolt"

	"bijou.dev/platform/errs"
	"bijou.dev/platform/pace"
	playbackv1 "bijou.dev/services/cinema/api/playback/v1"
	"bijou.dev/services/cinema/disk"
)

const (
	pause  = 5 * time.Second    // between deliveries
	keep   = 7 * 24 * time.Hour // how long a session without news is known
	forget = time.Hour          // between looking for old sessions
)

// Run delivers progress that viewing did not take at first, and forgets old sessions, until ctx ends.
func (s *Server) Run(ctx context.Context) error {
	next := time.Now()
	for {
		if err := s.deliver(ctx); err != nil && ctx.Err() == nil {
			return err
		}
		if time.Now().After(next) {
			next = time.Now().Add(forget)
			if err := s.forget(ctx, time.Now().Add(-keep)); err != nil && ctx.Err() == nil {
				return err
			}
		}
		if !pace.Sleep(ctx, pace.Jitter(pause, 0.5)) {
			return nil
		}
	}
}

// Undelivered returns how many sessions have progress that viewing does not have.
func (s *Server) Undelivered() int {
	n := 0
	_ = s.db.Read(func(tx *bolt.Tx) error { n = tx.Bucket(pending).Stats().KeyN; return nil })
	return n
}

// deliver sends what is pending and stops at the first session that viewing cannot take now.
func (s *Server) deliver(ctx context.Context) error {
	var ids []string
	err := s.db.Read(func(tx *bolt.Tx) error {
		return tx.Bucket(pending).ForEach(func(k, _ []byte) error { ids = append(ids, string(k)); return nil })
	})
	if err != nil {
		return err
	}
	for _, id := range ids {
		session, err := s.load(id)
		if err != nil {
			return err
		}
		if !s.taken(ctx, session) {
			return nil // later; that viewing does not answer is visible in its circuit
		}
		if err := s.delivered(ctx, session); err != nil {
			return err
		}
	}
	return nil
}

// taken reports whether viewing has a session's progress, or never will because it does not accept it.
func (s *Server) taken(ctx context.Context, session *playbackv1.Session) bool {
	err := s.advance(ctx, session)
	return err == nil || errs.KindOf(err) == errs.Invalid
}

// delivered takes a session off the list unless it moved meanwhile.
func (s *Server) delivered(ctx context.Context, sent *playbackv1.Session) error {
	return s.db.Write(ctx, func(tx *bolt.Tx) error {
		now := &playbackv1.Session{}
		found, err := disk.Get(tx.Bucket(sessions), sent.Id, now)
		if err != nil || !found || now.Sequence != sent.Sequence {
			return err
		}
		now.Bookmarked = true
		return save(tx, now)
	})
}

// forget removes sessions without news since before, in steps that do not hold other writers up.
func (s *Server) forget(ctx context.Context, before time.Time) error {
	var old []string
	err := s.db.Read(func(tx *bolt.Tx) error {
		all, err := disk.All[playbackv1.Session](tx.Bucket(sessions))
		for _, session := range all {
			if session.Bookmarked && session.Reported.AsTime().Before(before) {
				old = append(old, session.Id)
			}
		}
		return err
	})
	for ids := range slices.Chunk(old, 500) {
		if err != nil {
			return err
		}
		err = s.db.Write(ctx, func(tx *bolt.Tx) error {
			for _, id := range ids {
				if err := tx.Bucket(sessions).Delete([]byte(id)); err != nil {
					return err
				}
			}
			return nil
		})
	}
	return err
}
