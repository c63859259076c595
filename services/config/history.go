package config

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"iter"
	"maps"
	"slices"

	configv1 "bijou.dev/platform/api/config/v1"
	"bijou.dev/platform/errs"
)

// bucket is how many revisions one read of the history fetches.
const bucket = 32

// Revisions in one response of History.
const (
	maxHistory     = 500
	defaultHistory = 50 // if the request has no limit
)

func bucketPrefix(n int64) string { return fmt.Sprintf("%s%012d/", historyPrefix, n) }

func historyKey(revision int64) string {
	return fmt.Sprintf("%s%015d", bucketPrefix(revision/bucket), revision)
}

// history yields the revisions from newest down to the one after oldest. It reads one bucket of the store at a time.
// Revisions never change, so all of it is as of newest, whatever is published meanwhile.
func (s *Server) history(ctx context.Context, newest, oldest int64) iter.Seq2[*configv1.Revision, error] {
	return func(yield func(*configv1.Revision, error) bool) {
		for n := newest / bucket; n >= 0 && newest > oldest && n >= oldest/bucket; n-- {
			entries, _, err := s.store.List(ctx, bucketPrefix(n))
			if err != nil {
				yield(nil, s.readError(ctx, err))
				return
			}
			for _, e := range slices.Backward(entries) {
				rev := &configv1.Revision{}
				if err := decode(e.Value, rev); err != nil {
					yield(nil, errs.Errorf(errs.Internal, "reading history %s: %w", e.Key, err))
					return
				}
				if r := rev.GetRevision(); r > oldest && r <= newest && !yield(rev, nil) {
					return
				}
			}
		}
	}
}

// readError returns the error of a read of the history that failed. The text of the cause goes to the log only.
func (s *Server) readError(ctx context.Context, err error) error {
	kind := errs.KindOf(err)
	if kind == errs.Canceled || kind == errs.Timeout {
		return errs.Errorf(kind, "reading history: the caller stopped waiting")
	}
	s.log.WarnContext(ctx, "config: cannot read the history", "error", err)
	return errs.Errorf(errs.Unavailable,
		"reading history: the store (etcd) is away; the settings in use keep working; try again when it is back").
		Because(reasonStore)
}

// newest returns the newest revision that this replica has seen.
func (s *Server) newest() (int64, error) {
	s.state.mu.RLock()
	defer s.state.mu.RUnlock()
	return s.state.head.GetRevision(), s.state.readLocked()
}

// newestStored returns the newest revision in the store. This replica may not have seen it yet.
func (s *Server) newestStored(ctx context.Context) (int64, error) {
	e, err := s.store.Get(ctx, headKey)
	if errors.Is(err, errs.NotFound) {
		return 0, nil
	}
	if err != nil {
		return 0, s.readError(ctx, err)
	}
	head := &configv1.Revision{}
	if err := decode(e.Value, head); err != nil {
		return 0, errs.Errorf(errs.Internal, "reading history: %w", err)
	}
	return head.GetRevision(), nil
}

// reach waits until this replica has seen a revision that another replica may have written, and returns the newest that
// it has seen. If the store has no such revision, it does not wait and the result is lower.
func (s *Server) reach(ctx context.Context, revision int64) (int64, error) {
	head, err := s.newest()
	if err != nil || revision <= head {
		return head, err
	}
	if stored, err := s.newestStored(ctx); err != nil || revision > stored {
		return head, err
	}
	ctx, cancel := context.WithTimeout(ctx, visibleTimeout)
	defer cancel()
	if err := s.state.await(ctx, func() bool { return s.state.head.GetRevision() >= revision }); err != nil {
		return head, errs.Errorf(errs.Unavailable,
			"waiting for revision %d: this replica has seen only %d so far; ask another replica, or try again",
			revision, head).Because(reasonStore)
	}
	return s.newest()
}

// History implements the contract.
func (s *Server) History(ctx context.Context, req *configv1.HistoryRequest) (*configv1.HistoryResponse, error) {
	var bad errs.Violations
	if req.GetLimit() < 0 {
		bad.Add("limit", "must not be negative")
	}
	if req.GetBefore() < 0 {
		bad.Add("before", "must not be negative")
	}
	if err := bad.Err("reading history"); err != nil {
		return nil, err
	}
	limit := min(int(cmp.Or(req.GetLimit(), defaultHistory)), maxHistory)
	start, err := s.newestStored(ctx)
	if err != nil {
		return nil, err
	}
	if before := req.GetBefore(); before > 0 {
		start = min(start, before-1)
	}
	resp := &configv1.HistoryResponse{}
	for rev, err := range s.history(ctx, start, 0) {
		if err != nil {
			return nil, err
		}
		if len(resp.Revisions) == limit {
			break
		}
		if concerns(rev, req.GetName()) {
			resp.Revisions = append(resp.Revisions, rev)
		}
	}
	return resp, nil
}

func concerns(rev *configv1.Revision, name string) bool {
	return name == "" || slices.ContainsFunc(rev.GetChanges(), func(c *configv1.AppliedChange) bool {
		return c.GetName() == name
	})
}

// Diff implements the contract.
func (s *Server) Diff(ctx context.Context, req *configv1.DiffRequest) (*configv1.DiffResponse, error) {
	head, err := s.newestStored(ctx)
	if err != nil {
		return nil, err
	}
	from, to := req.GetFrom(), cmp.Or(req.GetTo(), head)
	var bad errs.Violations
	if from < 0 || from > head {
		bad.Addf("from", "must be 0 to the newest, %d", head)
	}
	if to < 0 || to > head {
		bad.Addf("to", "must be 0 to the newest, %d", head)
	}
	if err := bad.Err("comparing revisions %d and %d", from, to); err != nil {
		return nil, err
	}
	changes, err := s.diff(ctx, min(from, to), max(from, to))
	if err != nil {
		return nil, err
	}
	if from > to {
		for _, c := range changes {
			c.Before, c.After, c.Expires = c.After, c.Before, nil
		}
	}
	return &configv1.DiffResponse{From: from, To: to, Changes: changes}, nil
}

// diff returns the changes that lead from an older revision to a newer one, sorted by name and scope.
func (s *Server) diff(ctx context.Context, older, newer int64) ([]*configv1.AppliedChange, error) {
	net := map[string]*configv1.AppliedChange{}
	for rev, err := range s.history(ctx, newer, older) {
		if err != nil {
			return nil, err
		}
		for _, c := range rev.GetChanges() {
			key := valueKey(c.GetName(), c.GetScope())
			if later := net[key]; later != nil {
				later.Before = c.Before
			} else {
				net[key] = c
			}
		}
	}
	maps.DeleteFunc(net, func(_ string, c *configv1.AppliedChange) bool {
		return c.Before == nil && c.After == nil || c.Before != nil && c.After != nil && *c.Before == *c.After
	})
	changes := make([]*configv1.AppliedChange, 0, len(net))
	for _, key := range slices.Sorted(maps.Keys(net)) {
		changes = append(changes, net[key])
	}
	return changes, nil
}
