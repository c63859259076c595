package config

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"time"

	configv1 "bijou.dev/platform/api/config/v1"
	"bijou.dev/platform/errs"
	"bijou.dev/platform/kv"

	"google.golang.org/protobuf/types/known/timestamppb"
)

// Rollback implements the contract.
func (s *Server) Rollback(ctx context.Context, req *configv1.RollbackRequest) (*configv1.PublishResponse, error) {
	var bad errs.Violations
	checkNotes(&bad, req.GetAuthor(), req.GetReason())
	if req.GetTo() <= 0 {
		bad.Add("to", "must be a revision")
	}
	if err := bad.Err("rolling back to revision %d", req.GetTo()); err != nil {
		return nil, err
	}
	return s.publish(ctx, batch{
		author: req.GetAuthor(), reason: req.GetReason(), dryRun: req.GetDryRun(),
		plan: func(ctx context.Context, base base) ([]change, error) { return s.planRollback(ctx, req, base) },
	})
}

// planRollback returns the changes that lead back to the values of an older revision.
func (s *Server) planRollback(ctx context.Context, req *configv1.RollbackRequest, base base) ([]change, error) {
	to := req.GetTo()
	if expected := req.GetExpectedRevision(); expected != 0 && expected != base.revision {
		s.state.mu.RLock()
		newest := s.state.head
		s.state.mu.RUnlock()
		return nil, stale(newest, "the newest revision was made", expected)
	}
	refuse := func(format string, args ...any) ([]change, error) {
		return nil, errs.Errorf(errs.Invalid, "rolling back").Field("to", fmt.Sprintf(format, args...))
	}
	if to >= base.revision {
		return refuse("must be older than the newest revision, %d, is %d", base.revision, to)
	}
	diffs, err := s.diff(ctx, to, base.revision)
	if err != nil {
		return nil, err
	}
	changes, err := s.undo(ctx, diffs, to)
	switch n := len(changes); {
	case err != nil:
		return nil, err
	case n == 0:
		return refuse("must differ from the newest revision, %d: the values of %d are the same", base.revision, to)
	case n > maxRollback:
		return refuse("must differ in at most %d values, differs in %d: roll back in steps", maxRollback, n)
	}
	return changes, s.checkRollback(changes)
}

// maxRollback is how many changes a transaction has room for, beside the head and the history.
const maxRollback = kv.MaxOps - 2

// undo returns the changes that take back the differences to an older revision. Overrides that have expired since then
// stay away.
func (s *Server) undo(ctx context.Context, diffs []*configv1.AppliedChange, to int64) ([]change, error) {
	var changes []change
	for _, d := range diffs {
		c := change{name: d.GetName(), scope: d.GetScope(), value: d.Before}
		if c.value != nil && c.scope.GetLayer() == configv1.Layer_LAYER_OVERRIDE {
			var err error
			if c.expires, err = s.expiryAt(ctx, c, to); err != nil {
				return nil, err
			}
			if c.expires != nil && !c.expires.AsTime().After(time.Now()) {
				c.value, c.expires = nil, nil
			}
		}
		if c.value != nil || d.After != nil {
			changes = append(changes, c)
		}
	}
	return changes, nil
}

// expiryAt returns when the value that an override had at a revision expires. The revision that set it says so.
func (s *Server) expiryAt(ctx context.Context, c change, revision int64) (*timestamppb.Timestamp, error) {
	key := valueKey(c.name, c.scope)
	for rev, err := range s.history(ctx, revision, 0) {
		if err != nil {
			return nil, err
		}
		for _, past := range rev.GetChanges() {
			if valueKey(past.GetName(), past.GetScope()) == key {
				return past.GetExpires(), nil
			}
		}
	}
	return nil, nil
}

// checkRollback refuses values that do not fit today's declarations. Names that no app declares any more are
// accepted: no process reads them, and they must not block a rollback that is urgent.
func (s *Server) checkRollback(changes []change) error {
	s.state.mu.RLock()
	defer s.state.mu.RUnlock()
	var bad errs.Violations
	for _, c := range changes {
		if c.value == nil {
			continue
		}
		concerned := s.state.concernedLocked(c.scope.GetApp())
		for _, name := range slices.Sorted(maps.Keys(concerned)) {
			if p := concerned[name].property(c.name); p != nil {
				if err := p.Check(*c.value); err != nil {
					bad.Addf(c.name, "%s (declared by %s)", err, name)
				}
			}
		}
	}
	return bad.Err("rolling back: some values do not fit any more; publish what is wanted instead")
}
