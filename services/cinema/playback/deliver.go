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
	deliverEvery = 5 * time.Second    // the mean time between deliveries
	keepSessions = 7 * 24 * time.Hour // how long a session is stored after its last report
	cleanupEvery = time.Hour          // the time between cleanups
)

// Run sends pending progress to viewing again, and deletes old sessions, until ctx ends.
func (s *Server) Run(ctx context.Context) error {
	next := time.Now()
	for {
		if err := s.deliver(ctx); err != nil && ctx.Err() == nil {
			return err
		}
		if time.Now().After(next) {
			next = time.Now().Add(cleanupEvery)
			if err := s.cleanup(ctx, time.Now().Add(-keepSessions)); err != nil && ctx.Err() == nil {
				return err
			}
		}
		if !pace.Sleep(ctx, pace.Jitter(deliverEvery, 0.5)) {
			return nil
		}
	}
}

// Undelivered returns the number of sessions with progress that viewing has not stored.
func (s *Server) Undelivered() int {
	n := 0
	_ = s.db.Read(func(tx *bolt.Tx) error { n = tx.Bucket(pending).Stats().KeyN; return nil })
	return n
}

// deliver sends pending progress to viewing. It stops at the first session that viewing cannot store at the moment.
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
		if !s.sendAgain(ctx, session) {
			return nil // retried after deliverEvery; the circuit of viewing shows the error
		}
		if err := s.markDelivered(ctx, session); err != nil {
			return err
		}
	}
	return nil
}

// sendAgain sends a session's progress. It reports whether that was the last time: viewing stored the progress, or
// refused it as invalid.
func (s *Server) sendAgain(ctx context.Context, session *playbackv1.Session) bool {
	err := s.advance(ctx, session)
	return err == nil || errs.KindOf(err) == errs.Invalid
}

// markDelivered removes a session from the pending ones unless it has newer progress.
func (s *Server) markDelivered(ctx context.Context, sent *playbackv1.Session) error {
	return s.db.Write(ctx, func(tx *bolt.Tx) error {
		stored := &playbackv1.Session{}
		found, err := disk.Get(tx.Bucket(sessions), sent.Id, stored)
		if err != nil || !found || stored.Sequence != sent.Sequence {
			return err
		}
		stored.Bookmarked = true
		return save(tx, stored)
	})
}

// cleanup deletes the delivered sessions whose last report was before a time. It does so in small transactions, so that
// other writers do not wait long.
func (s *Server) cleanup(ctx context.Context, before time.Time) error {
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
