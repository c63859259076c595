package store

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/bloom"
	"github.com/cockroachdb/pebble/v2/vfs"

	"bijou.dev/platform/errs"
	"bijou.dev/services/tracing/internal/span"
)

const (
	bucketLen = 15 * 60 // seconds
	maxFuture = time.Hour
	maxCommit = 8192 // spans in one commit, unless one request has more
)

// Options of a store.
type Options struct {
	// Dir is the folder. It is made if missing. Required.
	Dir string
	// Retention is how long spans are kept. Nil: 72 h. It is read often, so it may change.
	Retention func() time.Duration
	// MaxBytes is the size on disk above which the oldest spans are deleted. Nil: 2 GiB. It is read often, so it may
	// change.
	MaxBytes func() int64
	// Cache is the memory for blocks of files, in bytes. Zero: 32 MiB.
	Cache int64
	// Autocomplete lists the tags whose values can be listed. Empty: none.
	Autocomplete []string
	// Log receives failures and messages of the database. Nil: nothing is logged.
	Log *slog.Logger

	// FS is the file system. Nil: the machine's. Tests use one that fails.
	FS vfs.FS
}

// Store keeps spans. It is safe for concurrent use.
type Store struct {
	opts   Options
	log    *slog.Logger
	db     *pebble.DB
	disk   *disk
	states *states

	queue  chan *request
	stop   chan struct{} // closed by Close
	done   chan struct{} // closed when the committer has ended
	failed chan struct{} // closed by fail
	reason atomic.Pointer[string]
	once   sync.Once // of Close
	lost   int64     // bytes of the log that were damaged when it was opened
	encode encoder   // of the committer
	seq    uint32    // number of the last commit; under writing

	writing sync.Mutex // commits and deletes exclude each other
	fresh   int64      // bytes written to the newest bucket since it began; under writing
	failing bool       // the last commit failed; under writing

	mu     sync.RWMutex
	starts []uint32 // of the buckets that may have spans, sorted, in seconds since 1970
}

type request struct {
	spans  []span.Span
	answer chan error // buffered, so that the committer does not wait
}

// Open opens or makes the store. Another process that has it open is an error.
func Open(opts Options) (*Store, error) {
	if opts.Dir == "" {
		return nil, errors.New("opening the trace store: Dir is required: traces are kept on disk")
	}
	opts = opts.complete()
	s := &Store{
		opts: opts, log: opts.Log,
		queue:  make(chan *request),
		stop:   make(chan struct{}),
		done:   make(chan struct{}),
		failed: make(chan struct{}),
	}
	opened := make(chan error, 1)
	go func() { opened <- s.open() }()
	var err error
	select {
	case err = <-opened:
	case <-s.failed: // the goroutine is blocked in fail
		err = s.Err()
	}
	if err != nil {
		return nil, fmt.Errorf("opening the trace store %q: %w", opts.Dir, err)
	}
	go s.commits()
	return s, nil
}

// complete returns the options with their defaults.
func (o Options) complete() Options {
	if o.Retention == nil {
		o.Retention = func() time.Duration { return 72 * time.Hour }
	}
	if o.MaxBytes == nil {
		o.MaxBytes = func() int64 { return 2 << 30 }
	}
	if o.Cache == 0 {
		o.Cache = 32 << 20
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.FS == nil {
		o.FS = vfs.Default
	}
	return o
}

func (s *Store) open() (err error) {
	if err := s.opts.FS.MkdirAll(s.opts.Dir, 0o755); err != nil {
		return err
	}
	if s.disk, err = newDisk(s.opts.FS, s.opts.Dir, s.log); err != nil {
		return err
	}
	opts := &pebble.Options{
		FS:                 s.disk.guarded,
		Comparer:           comparer,
		FormatMajorVersion: pebble.FormatNewest,
		CacheSize:          s.opts.Cache,
		MemTableSize:       s.disk.memtable(),
		MaxOpenFiles:       256,
		// Files that have only deleted spans are removed soon after.
		FlushDelayDeleteRange: 5 * time.Second,
		Logger:                &logger{s},
		// By default the database would end the process at each query for damaged spans. With this the query fails.
		EventListener: &pebble.EventListener{DataCorruption: func(i pebble.DataCorruptionInfo) {
			s.log.Error("a file of the trace store is damaged; spans in it cannot be read", "file", i.Path, "error", i.Details)
		}},
	}
	opts.ApplyCompressionSettings(func() pebble.DBCompressionSettings { return pebble.DBCompressionBalanced })
	for i := range opts.Levels {
		opts.Levels[i].BlockSize = 32 << 10 // more neighbours to compress against
		opts.Levels[i].FilterPolicy = bloom.FilterPolicy(10)
	}
	s.db, err = s.openDB(opts)
	if pebble.IsCorruptionError(err) {
		if s.lost, err = repair(s.disk.guarded, s.opts.Dir, err); err != nil {
			return err
		}
		s.log.Error(
			"the log of the trace store was damaged on disk; acknowledged spans are lost, the files *.damaged have them",
			"dir", s.opts.Dir, "bytes", s.lost,
		)
		s.db, err = pebble.Open(s.opts.Dir, opts)
	}
	if err != nil {
		return err
	}
	s.states = &states{db: s.db, all: make(map[uint32]*state)}
	if err := s.load(); err != nil {
		return errors.Join(err, s.db.Close())
	}
	return nil
}

// openDB opens a new database twice: its first log does not record what was synced, so that damage in it could not be
// distinguished from an incomplete last write.
func (s *Store) openDB(opts *pebble.Options) (*pebble.DB, error) {
	if desc, err := pebble.Peek(s.opts.Dir, opts.FS); err != nil || desc.Exists {
		return pebble.Open(s.opts.Dir, opts)
	}
	db, err := pebble.Open(s.opts.Dir, opts)
	if err == nil {
		err = db.Close()
	}
	if err != nil {
		return nil, err
	}
	return pebble.Open(s.opts.Dir, opts)
}

// load finds the buckets by seeking from one to the next.
func (s *Store) load() error {
	it, err := s.db.NewIter(nil)
	if err != nil {
		return err
	}
	defer it.Close()
	for ok := it.First(); ok; {
		bucket := binary.BigEndian.Uint32(it.Key())
		if bucket == 0 {
			s.seq = binary.BigEndian.Uint32(it.Value())
		} else {
			s.starts = append(s.starts, bucket)
		}
		ok = it.SeekGE(bucketKey(bucket + 1))
	}
	return it.Error()
}

// Close makes Add refuse, finishes the current commit and closes the files. It may be called more than once.
func (s *Store) Close() (err error) {
	s.once.Do(func() {
		close(s.stop)
		select {
		case <-s.done:
			err = s.db.Close()
		case <-s.failed:
			// The database is blocked in fail. What was acknowledged is on disk.
		}
		s.disk.close()
	})
	return err
}

// Failed is closed when the disk failed and the store stopped. Then the process must be restarted; Err has the reason.
func (s *Store) Failed() <-chan struct{} { return s.failed }

// Err returns why the store failed, or nil.
func (s *Store) Err() error {
	if r := s.reason.Load(); r != nil {
		return errors.New(*r)
	}
	return nil
}

// fail is called by the database when it cannot go on. It never returns, because the database may not go on.
func (s *Store) fail(reason string) {
	if s.reason.CompareAndSwap(nil, &reason) {
		s.log.Error("the trace store failed; restart it when the disk works again", "reason", reason)
		close(s.failed)
	}
	select {}
}

// Add stores spans and returns when they are on disk and synced, with the number of those that it left out because
// their time is past retention. It takes over the slice. After an error it is not known whether they are stored:
// Exhausted when there is no space, Unavailable when the store is closing or failed.
func (s *Store) Add(ctx context.Context, spans []span.Span) (expired int, err error) {
	n := len(spans)
	spans = s.current(spans, time.Now())
	expired = n - len(spans)
	if len(spans) == 0 {
		return expired, nil
	}
	if err := s.disk.checkSpace(); err != nil {
		return expired, err
	}
	r := &request{spans, make(chan error, 1)}
	select {
	case s.queue <- r:
	case <-ctx.Done():
		return expired, fmt.Errorf("storing spans: %w", ctx.Err())
	case <-s.done:
		return expired, errs.Errorf(errs.Unavailable, "storing spans: the store is closed").RetryIn(time.Second)
	case <-s.failed:
		return expired, errs.Errorf(errs.Unavailable, "storing spans: the disk failed").RetryIn(5 * time.Second)
	}
	select {
	case err = <-r.answer:
		return expired, err
	case <-ctx.Done():
		return expired, fmt.Errorf("storing spans: %w", ctx.Err())
	case <-s.failed:
		return expired, errs.Errorf(errs.Unavailable, "storing spans: the disk failed").RetryIn(5 * time.Second)
	}
}

// current keeps the spans that are not past retention.
func (s *Store) current(spans []span.Span, now time.Time) []span.Span {
	oldest := now.Add(-s.opts.Retention()).UnixMicro()
	return slices.DeleteFunc(spans, func(sp span.Span) bool { return sp.Start != 0 && sp.Start < oldest })
}

// commits is the committer: it joins the requests that wait into one commit, so that they share one sync.
func (s *Store) commits() {
	defer close(s.done)
	for {
		select {
		case <-s.stop:
			return
		case r := <-s.queue:
			batch := []*request{r}
			for n := len(r.spans); n < maxCommit; {
				select {
				case r = <-s.queue:
					batch = append(batch, r)
					n += len(r.spans)
					continue
				default:
				}
				break
			}
			err := s.commit(batch)
			for _, r := range batch {
				r.answer <- err
			}
		}
	}
}

func (s *Store) commit(batch []*request) error {
	s.writing.Lock()
	defer s.writing.Unlock()
	// Add checked this, but commits since then may have used the space.
	if err := s.disk.checkSpace(); err != nil {
		return err
	}
	c := newCommit(s, time.Now())
	defer c.batch.Close()
	for _, r := range batch {
		for i := range r.spans {
			c.spans = append(c.spans, &r.spans[i])
		}
	}
	err := c.build()
	if err == nil {
		err = c.batch.Set(seqKey, binary.BigEndian.AppendUint32(nil, s.seq), nil)
	}
	if err == nil {
		err = c.batch.Commit(pebble.Sync)
	}
	c.finish(err == nil)
	if err == nil {
		s.failing = false
		return nil
	}
	// Senders do not get the text: it may name files. Only the first of consecutive failures is logged.
	if !s.failing {
		s.log.Error("storing spans; senders get an error and may send them again", "error", err)
	}
	s.failing = true
	return errs.Errorf(errs.Unavailable, "storing spans: the store cannot write them; its log has the reason").
		RetryIn(time.Second)
}

// bucketFor returns the bucket of a time in seconds, making it if need be. Buckets may be shorter than bucketLen: see
// cut.
func (s *Store) bucketFor(at uint32) uint32 {
	s.mu.Lock()
	defer s.mu.Unlock()
	i, found := slices.BinarySearch(s.starts, at)
	if found {
		return at
	}
	if i > 0 && at-s.starts[i-1] < bucketLen {
		return s.starts[i-1]
	}
	start := at / bucketLen * bucketLen
	s.starts = slices.Insert(s.starts, i, start)
	s.fresh = 0
	return start
}

// cut begins a new bucket when the newest is large, so that each bucket that is dropped has a small part of the spans.
func (s *Store) cut(now uint32, written int) {
	s.fresh += int64(written)
	s.mu.Lock()
	defer s.mu.Unlock()
	if n := len(s.starts); n > 0 && s.fresh > s.opts.MaxBytes()/16 && now > s.starts[n-1] {
		s.starts = append(s.starts, now)
		s.fresh = 0
	}
}

// buckets returns the starts of buckets that may have spans of a time range in seconds, oldest first.
func (s *Store) buckets(from, to int64) []uint32 {
	s.mu.RLock()
	defer s.mu.RUnlock()
	var out []uint32
	for _, b := range s.starts {
		if int64(b) <= to && int64(b)+bucketLen > from {
			out = append(out, b)
		}
	}
	return out
}

func (s *Store) allBuckets() []uint32 {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return slices.Clone(s.starts)
}

// logger writes the messages of the database to the log.
type logger struct{ s *Store }

// Infof implements pebble.Logger. The database logs each file that it writes.
func (l *logger) Infof(format string, args ...any) {
	l.s.log.Debug("pebble: " + fmt.Sprintf(format, args...))
}

// Errorf implements pebble.Logger.
func (l *logger) Errorf(format string, args ...any) {
	l.s.log.Warn("pebble: " + fmt.Sprintf(format, args...))
}

// Fatalf implements pebble.Logger. It must not return.
func (l *logger) Fatalf(format string, args ...any) { l.s.fail(fmt.Sprintf(format, args...)) }
