package config

import (
	"context"
	"fmt"
	"time"

	configv1 "bijou.dev/platform/api/config/v1"
	"bijou.dev/platform/errs"

	"google.golang.org/protobuf/types/known/timestamppb"
)

// base returns the newest revision that this replica has seen.
func (s *state) base() base {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return base{s.head.GetRevision(), s.headAt}
}

// planPublish returns the changes of a request that change something.
func (s *Server) planPublish(ctx context.Context, req *configv1.PublishRequest, base base) ([]change, error) {
	if err := s.checkExpected(ctx, req, base.revision); err != nil {
		return nil, err
	}
	s.state.mu.RLock()
	defer s.state.mu.RUnlock()
	if err := s.checkChangesLocked(req.GetChanges()); err != nil {
		return nil, err
	}
	var changes []change
	for _, c := range req.GetChanges() {
		if next := newChange(c); !s.state.hasLocked(next) {
			changes = append(changes, next)
		}
	}
	return changes, nil
}

func newChange(c *configv1.Change) change {
	next := change{name: c.GetName(), scope: c.GetScope()}
	if !c.GetRemove() {
		next.value = new(c.GetValue())
	}
	if ttl := c.GetTtl().AsDuration(); ttl > 0 {
		next.expires = timestamppb.New(time.Now().Add(ttl))
	}
	return next
}

// hasLocked reports whether the value of a change is there already. It is not if either of the two expires: the change
// then sets another time.
func (s *state) hasLocked(c change) bool {
	old := s.values[c.name][valueKey(c.name, c.scope)].GetValue()
	return old != nil && c.value != nil && *c.value == old.GetValue() && c.expires == nil && old.GetExpires() == nil
}

// checkExpected refuses a request if one of its names was changed after the revision that its writer has seen.
func (s *Server) checkExpected(ctx context.Context, req *configv1.PublishRequest, newest int64) error {
	expected := req.GetExpectedRevision()
	switch reached, err := s.reach(ctx, expected); {
	case err != nil:
		return err
	case expected == 0 || expected == newest:
		return nil
	case expected > newest && expected <= reached:
		return errLostRace // another replica wrote it, and this one has received it just now
	case expected < 0 || expected > newest:
		return errs.Errorf(errs.Invalid, "publishing").
			Field("expected_revision", fmt.Sprintf("must be at most the newest, %d, is %d", newest, expected))
	}
	names := map[string]bool{}
	for _, c := range req.GetChanges() {
		names[c.GetName()] = true
	}
	for rev, err := range s.history(ctx, newest, expected) {
		if err != nil {
			return err
		}
		for _, c := range rev.GetChanges() {
			if names[c.GetName()] {
				return stale(rev, fmt.Sprintf("%q was changed", c.GetName()), expected)
			}
		}
	}
	return nil
}

// stale returns the error for a writer who has not seen a revision.
func stale(rev *configv1.Revision, what string, expected int64) error {
	when := rev.GetTime().AsTime().Format(time.RFC3339)
	return errs.Errorf(errs.Conflict,
		"publishing: %s by %s in revision %d at %s (%s), after revision %d: look at it, then publish again",
		what, rev.GetAuthor(), rev.GetRevision(), when, rev.GetReason(), expected).
		Because(reasonStale, "author", rev.GetAuthor(), "revision", fmt.Sprint(rev.GetRevision()),
			"time", when, "reason", rev.GetReason())
}
