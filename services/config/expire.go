package config

import (
	"context"
	"slices"
	"strings"
	"time"

	configv1 "bijou.dev/platform/api/config/v1"
	settings "bijou.dev/platform/config"
	"bijou.dev/platform/pace"
)

// expire ends overrides when their time is over, until ctx ends: at once for those who read or watch, and in the
// store by publishing their removal. All replicas do this. One of them is first, and the others then find nothing to
// remove.
func (s *Server) expire(ctx context.Context) error {
	backoff := pace.Backoff{First: time.Second, Max: 10 * time.Second}
	failing := false
	for {
		s.state.mu.RLock()
		next, changed := s.state.nextExpiryLocked(), s.state.changed
		s.state.mu.RUnlock()
		var due <-chan time.Time
		if !next.IsZero() {
			due = time.After(time.Until(next))
		}
		select {
		case <-ctx.Done():
			return nil
		case <-changed:
			continue
		case <-due:
		}
		s.state.notifyExpired()
		_, err := s.publish(ctx, batch{author: "expiry", reason: "the time of an override is over", plan: s.planExpiry})
		if err == nil {
			failing = false
			backoff.Reset()
			continue
		}
		if !failing && ctx.Err() == nil { // only the first of consecutive failures is logged
			s.log.WarnContext(ctx, "config: cannot remove expired overrides, retrying", "error", err)
		}
		failing = true
		backoff.Wait(ctx)
	}
}

// planExpiry returns the removal of all overrides that have expired.
func (s *Server) planExpiry(context.Context, base) ([]change, error) {
	s.state.mu.RLock()
	defer s.state.mu.RUnlock()
	var due []change
	for c := range s.state.overridesLocked() {
		if v := c.GetValue(); settings.Expired(v, time.Now()) && len(due) < s.opts.MaxChanges {
			due = append(due, change{name: v.GetName(), scope: v.GetScope()})
		}
	}
	slices.SortFunc(due, func(a, b change) int { return strings.Compare(a.name, b.name) })
	return due, nil
}

// notifyExpired makes watchers read the overrides that have expired again.
func (s *state) notifyExpired() {
	s.mu.Lock()
	defer s.mu.Unlock()
	now := time.Now()
	var names []string
	for c := range s.overridesLocked() {
		if v := c.GetValue(); settings.Expired(v, now) {
			names = append(names, v.GetName())
		}
	}
	s.onNames(names)
}

// nextExpiryLocked returns when the next override expires, or the zero time if none does.
func (s *state) nextExpiryLocked() time.Time {
	var next time.Time
	for c := range s.overridesLocked() {
		if e := c.GetValue().GetExpires().AsTime(); next.IsZero() || e.Before(next) {
			next = e
		}
	}
	return next
}

// overridesLocked yields the values that expire.
func (s *state) overridesLocked() func(yield func(*configv1.Candidate) bool) {
	return func(yield func(*configv1.Candidate) bool) {
		for _, records := range s.values {
			for _, c := range records {
				if c.GetValue().GetExpires() != nil && !yield(c) {
					return
				}
			}
		}
	}
}
