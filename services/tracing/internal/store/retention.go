package store

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/cockroachdb/pebble/v2"
)

// Stats describe what is stored.
type Stats struct {
	Bytes   int64     // on disk
	Buckets int       // parts of time with spans
	Oldest  time.Time // start of the oldest part; zero: none
	Full    bool      // spans are refused because the disk is full
	Lost    int64     // bytes of the log that were damaged at the start and were moved aside
}

// Stats returns them as of now.
func (s *Store) Stats() Stats {
	all := s.allBuckets()
	st := Stats{Buckets: len(all), Bytes: s.size(all), Full: s.disk.checkSpace() != nil, Lost: s.lost}
	if len(all) > 0 {
		st.Oldest = time.Unix(int64(all[0]), 0)
	}
	return st
}

// size is the space that the given buckets take, the log included.
func (s *Store) size(buckets []uint32) int64 {
	if len(buckets) == 0 {
		return 0
	}
	n, err := s.db.EstimateDiskUsage(bucketKey(buckets[0]), bucketKey(1<<32-1))
	if err != nil {
		return 0
	}
	return int64(n + s.db.Metrics().WAL.Size)
}

// Expire drops the buckets that are past retention at now, and the oldest ones above the size limit, but never the
// newest. When the disk is nearly full, the limit is lower, but at least a quarter of the volume: if something else
// fills the disk, dropping more spans does not help. It returns how many buckets it dropped.
func (s *Store) Expire(ctx context.Context, now time.Time) (dropped int, err error) {
	oldest := now.Add(-s.opts.Retention()).Unix()
	for _, b := range s.allBuckets() {
		if int64(b)+bucketLen > oldest || ctx.Err() != nil {
			break
		}
		if err := s.drop(b); err != nil {
			return dropped, err
		}
		dropped++
	}
	limit := s.opts.MaxBytes()
	for ctx.Err() == nil {
		all := s.allBuckets()
		size := s.size(all)
		avail := int64(s.disk.look())
		if short := int64(2*s.disk.reserve) - avail; short > 0 {
			limit = min(limit, max(size-short, int64(s.disk.total/4)))
		}
		if len(all) < 2 || size <= limit {
			break
		}
		if err := s.drop(all[0]); err != nil {
			return dropped, err
		}
		dropped++
		// For a full disk, one bucket per call: the space is free only after files are removed, which takes seconds.
		if limit < s.opts.MaxBytes() {
			break
		}
	}
	return dropped, ctx.Err()
}

// drop deletes a bucket.
func (s *Store) drop(bucket uint32) error {
	s.writing.Lock()
	defer s.writing.Unlock()
	if err := s.db.DeleteRange(bucketKey(bucket), bucketKey(bucket+1), pebble.Sync); err != nil {
		return fmt.Errorf("deleting spans from %v: %w", time.Unix(int64(bucket), 0).UTC(), err)
	}
	s.states.drop(bucket)
	s.mu.Lock()
	s.starts = slices.DeleteFunc(s.starts, func(b uint32) bool { return b == bucket })
	s.mu.Unlock()
	if _, err := s.db.AsyncFlush(); err != nil {
		return fmt.Errorf("deleting spans: %w", err)
	}
	return nil
}
