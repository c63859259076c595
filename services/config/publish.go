package config

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	configv1 "bijou.dev/platform/api/config/v1"
	settings "bijou.dev/platform/config"
	"bijou.dev/platform/errs"
	"bijou.dev/platform/kv"

	"bijou.dev/platform/names"
	"google.golang.org/protobuf/types/known/timestamppb"
)

// Limits of what people write.
const (
	maxAuthor   = 200
	maxReason   = 2000
	maxSelector = 128
	maxTTL      = 366 * 24 * time.Hour
)

// Time-outs of a publish. It is refused rather than left hanging when the store is away.
const (
	publishTimeout = 5 * time.Second
	visibleTimeout = 2 * time.Second // until this replica serves what it wrote
)

// change is one value to set or, without one, to remove.
type change struct {
	name    string
	scope   *configv1.Scope
	value   *string
	expires *timestamppb.Timestamp
}

// batch is one publish: plan is asked for the changes against the newest revision, and again if that was replaced
// before the batch was written.
type batch struct {
	author, reason string
	dryRun         bool
	plan           func(ctx context.Context, head int64) ([]change, error)
}

// signed says what is missing from who and why.
func signed(bad *errs.Violations, author, reason string) {
	for _, f := range []struct {
		name, text string
		most       int
	}{{"author", author, maxAuthor}, {"reason", reason, maxReason}} {
		if strings.TrimSpace(f.text) == "" {
			bad.Add(f.name, "must not be empty")
		} else if len(f.text) > f.most {
			bad.Addf(f.name, "must have at most %d bytes, has %d", f.most, len(f.text))
		}
	}
}

// publish writes a batch as one revision, or changes nothing.
func (s *Server) publish(ctx context.Context, b batch) (*configv1.PublishResponse, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, publishTimeout, errs.Errorf(errs.Unavailable, "publishing: the store did not answer within %v", publishTimeout))
	defer cancel()
	select { // one at a time in this replica: a second writer would only find that the first was quicker
	case s.writing <- struct{}{}:
		defer func() { <-s.writing }()
	case <-ctx.Done():
		return nil, given(ctx)
	}
	for {
		if err := s.writable(); err != nil {
			return nil, err
		}
		resp, at, err := s.try(ctx, b)
		if !errors.Is(err, errLostRace) {
			return resp, err
		}
		if err := s.state.await(ctx, func() bool { return s.state.headAt != at }); err != nil {
			return nil, given(ctx)
		}
	}
}

// errLostRace says that somebody else published meanwhile.
var errLostRace = errors.New("the newest revision was replaced")

// given returns why a publish was given up before anything was written.
func given(ctx context.Context) error {
	err := context.Cause(ctx)
	if errs.KindOf(err) == errs.Unavailable {
		return err
	}
	return errs.Errorf(errs.KindOf(err), "publishing: %w before anything was written", err)
}

// try plans and writes once, against the head at a revision of the store.
func (s *Server) try(ctx context.Context, b batch) (*configv1.PublishResponse, kv.Revision, error) {
	s.state.mu.RLock()
	head, at := s.state.head.GetRevision(), s.state.headAt
	s.state.mu.RUnlock()
	changes, err := b.plan(ctx, head)
	if err != nil {
		return nil, at, s.refusal(ctx, at, err)
	}
	if len(changes) == 0 {
		return &configv1.PublishResponse{Revision: head}, at, s.confirm(ctx, at)
	}
	rev := &configv1.Revision{Revision: head + 1, Author: b.author, Reason: b.reason, Time: timestamppb.Now()}
	if rev.Changes = s.applied(changes, at); rev.Changes == nil {
		return nil, at, errLostRace
	}
	txn, err := transaction(rev, changes, at)
	if err != nil {
		return nil, at, err
	}
	resp := &configv1.PublishResponse{Revision: rev.GetRevision(), Applied: rev.GetChanges()}
	if b.dryRun {
		return resp, at, nil
	}
	if err := s.write(ctx, txn, rev); err != nil {
		return nil, at, err
	}
	return resp, at, nil
}

// confirm asks the store whether the head is still at. It is for answers that follow from this replica's copy and write
// nothing: another replica may have acknowledged something since that makes them wrong.
func (s *Server) confirm(ctx context.Context, at kv.Revision) error {
	_, err := s.store.Txn(ctx, kv.Txn{If: []kv.Cond{kv.At(headKey, at)}})
	switch kind := errs.KindOf(err); {
	case err == nil:
		return nil
	case kind == errs.Conflict:
		return errLostRace
	default:
		return errs.Errorf(kind, "publishing: %w; nothing was written", err)
	}
}

// refusal returns why a batch is refused, unless that is so only in a copy that is behind.
func (s *Server) refusal(ctx context.Context, at kv.Revision, err error) error {
	if kind := errs.KindOf(err); kind != errs.Invalid && kind != errs.Conflict {
		return err
	}
	if behind := s.confirm(ctx, at); errors.Is(behind, errLostRace) {
		return behind
	}
	return err
}

// applied adds what each change replaces. It returns nil if the head is not at any more.
func (s *Server) applied(changes []change, at kv.Revision) []*configv1.AppliedChange {
	s.state.mu.RLock()
	defer s.state.mu.RUnlock()
	if s.state.headAt != at {
		return nil
	}
	list := make([]*configv1.AppliedChange, len(changes))
	for i, c := range changes {
		list[i] = &configv1.AppliedChange{Name: c.name, Scope: c.scope, After: c.value, Expires: c.expires}
		if old := s.state.values[c.name][valueKey(c.name, c.scope)]; old != nil {
			list[i].Before = new(old.GetValue().GetValue())
		}
	}
	return list
}

// transaction is one revision: its values, its history record, and the head that makes it the newest, which must be the
// one that the changes were checked against.
func transaction(rev *configv1.Revision, changes []change, at kv.Revision) (kv.Txn, error) {
	record, err := encode(rev)
	if err != nil {
		return kv.Txn{}, err
	}
	head, err := encode(&configv1.Revision{Revision: rev.GetRevision(), Author: rev.GetAuthor(), Reason: rev.GetReason(), Time: rev.GetTime()})
	if err != nil {
		return kv.Txn{}, err
	}
	txn := kv.Txn{
		If:   []kv.Cond{kv.At(headKey, at)},
		Then: []kv.Op{kv.Put(headKey, head), kv.Put(historyKey(rev.GetRevision()), record)},
	}
	for _, c := range changes {
		op := kv.Delete(valueKey(c.name, c.scope))
		if c.value != nil {
			if op.Value, err = encode(stored(rev, c)); err != nil {
				return kv.Txn{}, err
			}
			op.Delete = false
		}
		txn.Then = append(txn.Then, op)
	}
	if err := txn.Validate(); err != nil {
		return kv.Txn{}, errs.Errorf(errs.Invalid, "publishing %d changes: they do not fit one revision: %w", len(changes), err).
			Field("changes", "must be smaller together, with the values they replace: split them")
	}
	return txn, nil
}

// stored is what the store keeps of one value.
func stored(rev *configv1.Revision, c change) *configv1.Candidate {
	return &configv1.Candidate{
		Value: &configv1.Value{
			Name: c.name, Value: *c.value, Layer: c.scope.GetLayer(), Scope: c.scope, Revision: rev.GetRevision(), Expires: c.expires,
		},
		Author: rev.GetAuthor(), Reason: rev.GetReason(), Time: rev.GetTime(),
	}
}

// write commits, and waits until this replica serves what it wrote.
func (s *Server) write(ctx context.Context, txn kv.Txn, rev *configv1.Revision) error {
	_, err := s.store.Txn(ctx, txn)
	switch kind := errs.KindOf(err); {
	case err == nil:
	case kind == errs.Conflict:
		return errLostRace
	case kind == errs.Unavailable || kind == errs.Timeout || kind == errs.Canceled:
		if ctx.Err() != nil && errs.KindOf(context.Cause(ctx)) == errs.Unavailable {
			kind = errs.Unavailable
		}
		return errs.Errorf(kind, "publishing revision %d: %w; look at the history whether it was written", rev.GetRevision(), err)
	default:
		return errs.Errorf(kind, "publishing revision %d: %w", rev.GetRevision(), err)
	}
	s.log.InfoContext(ctx, "config: published", "revision", rev.GetRevision(), "changes", len(rev.GetChanges()), "author", rev.GetAuthor(), "reason", rev.GetReason())
	ctx, cancel := context.WithTimeout(ctx, visibleTimeout)
	defer cancel()
	_ = s.state.await(ctx, func() bool { return s.state.head.GetRevision() >= rev.GetRevision() }) // it is written, seen or not
	return nil
}

// writable says why nothing can be published at the moment.
func (s *Server) writable() error {
	s.state.mu.RLock()
	defer s.state.mu.RUnlock()
	if err := s.state.readLocked(); err != nil {
		return err
	}
	if err := s.state.problemLocked(); err != nil {
		return errs.Errorf(errs.Unavailable, "publishing: nothing can be written at the moment: %w", err)
	}
	return nil
}

// Publish implements the contract. Values that are there already are no changes: if there are no others, it answers with
// the newest revision.
func (s *Server) Publish(ctx context.Context, req *configv1.PublishRequest) (*configv1.PublishResponse, error) {
	var bad errs.Violations
	signed(&bad, req.GetAuthor(), req.GetReason())
	if n := len(req.GetChanges()); n == 0 || n > s.opts.MaxChanges {
		bad.Addf("changes", "must be 1 to %d, are %d", s.opts.MaxChanges, n)
	}
	if err := bad.Err("publishing %s", subject(req.GetChanges())); err != nil {
		return nil, err
	}
	return s.publish(ctx, batch{
		author: req.GetAuthor(), reason: req.GetReason(), dryRun: req.GetDryRun(),
		plan: func(ctx context.Context, head int64) ([]change, error) {
			if err := s.checkExpected(ctx, req, head); err != nil {
				return nil, err
			}
			return s.check(req.GetChanges())
		},
	})
}

// checkExpected refuses when one of the names was changed after the revision that the writer has seen.
func (s *Server) checkExpected(ctx context.Context, req *configv1.PublishRequest, head int64) error {
	expected := req.GetExpectedRevision()
	switch reached, err := s.reach(ctx, expected); {
	case err != nil:
		return err
	case expected == 0 || expected == head:
		return nil
	case expected > head && expected <= reached:
		return errLostRace // written by another replica, and only just heard of
	case expected < 0 || expected > head:
		return errs.Errorf(errs.Invalid, "publishing").Field("expected_revision", fmt.Sprintf("must be at most the newest, %d, is %d", head, expected))
	}
	names := map[string]bool{}
	for _, c := range req.GetChanges() {
		names[c.GetName()] = true
	}
	for rev, err := range s.history(ctx, head, expected) {
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

func stale(rev *configv1.Revision, what string, expected int64) error {
	when := rev.GetTime().AsTime().Format(time.RFC3339)
	return errs.Errorf(errs.Conflict, "publishing: %s by %s in revision %d at %s (%s), after revision %d: look at it, then publish again",
		what, rev.GetAuthor(), rev.GetRevision(), when, rev.GetReason(), expected).
		Because("STALE_REVISION", "author", rev.GetAuthor(), "revision", fmt.Sprint(rev.GetRevision()), "time", when, "reason", rev.GetReason())
}

// subject says what a publish is about: the setting, or how many.
func subject(list []*configv1.Change) string {
	if len(list) == 1 && settings.CheckName(list[0].GetName()) == nil {
		return list[0].GetName()
	}
	return fmt.Sprintf("%d changes", len(list))
}

// check holds every change against the declarations, and returns those that change something. All violations are told at
// once.
func (s *Server) check(list []*configv1.Change) ([]change, error) {
	s.state.mu.RLock()
	defer s.state.mu.RUnlock()
	var bad errs.Violations
	seen := map[string]int{}
	changes := make([]change, 0, len(list))
	for i, c := range list {
		here := bad.At(fmt.Sprintf("changes[%d]", i))
		fail := here.Add
		key := valueKey(c.GetName(), c.GetScope())
		if first, twice := seen[key]; twice {
			fail("name", fmt.Sprintf("must not be set twice at one scope, is in changes[%d] too", first))
			continue
		}
		seen[key] = i
		checkName(c.GetName(), fail)
		checkScope(c.GetScope(), fail)
		expires := checkTTL(c, fail)
		if here.Len() > 0 {
			continue
		}
		s.checkValueLocked(c, fail)
		next := change{name: c.GetName(), scope: c.GetScope(), expires: expires}
		if !c.GetRemove() {
			next.value = new(c.GetValue())
		}
		if !s.thereLocked(next) {
			changes = append(changes, next)
		}
	}
	return changes, bad.Err("publishing %s", subject(list))
}

// thereLocked reports whether a change would leave everything as it is. A value that expires, or should, is set anew.
func (s *Server) thereLocked(c change) bool {
	old := s.state.values[c.name][valueKey(c.name, c.scope)].GetValue()
	return old != nil && c.value != nil && *c.value == old.GetValue() && c.expires == nil && old.GetExpires() == nil
}

func checkName(name string, fail func(field, problem string)) {
	if strings.Contains(name, "*") {
		fail("name", "must be a name; a pattern is declared, not set")
	} else if err := settings.CheckName(name); err != nil {
		fail("name", err.Error())
	}
}

func checkScope(scope *configv1.Scope, fail func(field, problem string)) {
	layer := scope.GetLayer()
	switch {
	case layer == configv1.Layer_LAYER_DEFAULT:
		fail("scope.layer", "must not be the default, which the code declares")
		return
	case layer < configv1.Layer_LAYER_APP || layer > configv1.Layer_LAYER_OVERRIDE:
		fail("scope.layer", "must be LAYER_APP, _ENVIRONMENT, _REGION, _ZONE, _VERSION, _INSTANCE or _OVERRIDE")
		return
	}
	if scope.GetApp() != "" {
		if err := names.Service.Check(scope.GetApp()); err != nil {
			fail("scope.app", err.Error())
		}
	}
	selects := layer != configv1.Layer_LAYER_APP && layer != configv1.Layer_LAYER_OVERRIDE
	switch selector := scope.GetSelector(); {
	case selects && selector == "":
		fail("scope.selector", fmt.Sprintf("must say which %s", settings.LayerName(layer)))
	case !selects && selector != "":
		fail("scope.selector", fmt.Sprintf("must be empty for the layer %s, is %q", settings.LayerName(layer), shorten(selector)))
	case selects:
		if err := names.ID.Check(selector); err != nil {
			fail("scope.selector", err.Error())
		}
	}
}

func checkTTL(c *configv1.Change, fail func(field, problem string)) *timestamppb.Timestamp {
	if c.GetTtl() == nil || (c.GetTtl().GetSeconds() == 0 && c.GetTtl().GetNanos() == 0) {
		return nil
	}
	ttl := c.GetTtl().AsDuration()
	switch {
	case c.GetScope().GetLayer() != configv1.Layer_LAYER_OVERRIDE:
		fail("ttl", "must be empty: only an override removes itself")
	case c.GetRemove():
		fail("ttl", "must be empty when the value is removed")
	case c.GetTtl().CheckValid() != nil || ttl < time.Second || ttl > maxTTL:
		fail("ttl", fmt.Sprintf("must be 1s to %v", maxTTL))
	}
	return timestamppb.New(time.Now().Add(ttl))
}

// checkValueLocked holds a well-formed change against what the apps declare. What is not declared any more can still be
// removed.
func (s *Server) checkValueLocked(c *configv1.Change, fail func(field, problem string)) {
	switch {
	case c.GetRemove() && c.GetValue() != "":
		fail("value", "must be empty when the value is removed")
		return
	case c.GetRemove():
		if s.state.values[c.GetName()][valueKey(c.GetName(), c.GetScope())] == nil {
			fail("name", "has no value at this scope that could be removed")
		}
		return
	case len(c.GetValue()) > s.opts.MaxValueBytes:
		fail("value", fmt.Sprintf("must have at most %d bytes, has %d", s.opts.MaxValueBytes, len(c.GetValue())))
		return
	}
	declared := false
	for name, a := range s.state.concernedLocked(c.GetScope().GetApp()) {
		if p := a.property(c.GetName()); p != nil {
			declared = true
			if err := p.Check(c.GetValue()); err != nil {
				fail("value", fmt.Sprintf("%s (declared by %s)", err, name))
				return
			}
		}
	}
	if !declared {
		fail("name", s.state.unknownLocked(c.GetName(), c.GetScope().GetApp()))
	}
}

// concernedLocked returns the apps that a value for app reaches: that one or, for an empty name, all.
func (s *state) concernedLocked(name string) map[string]*app {
	if name == "" {
		return s.apps
	}
	if a := s.apps[name]; a != nil {
		return map[string]*app{name: a}
	}
	return nil
}

// unknownLocked says that nothing declares a setting, and what was perhaps meant.
func (s *state) unknownLocked(name, appName string) string {
	concerned := s.concernedLocked(appName)
	if appName != "" && len(concerned) == 0 {
		return fmt.Sprintf("is not declared: no app %q has declared anything%s", appName, perhaps(nearest(appName, maps.Keys(s.apps))))
	}
	known := map[string]bool{}
	for _, a := range concerned {
		for _, p := range a.all() {
			known[inPlace(p, name)] = true
		}
	}
	by := "any app"
	if appName != "" {
		by = appName
	}
	return fmt.Sprintf("is not declared by %s%s", by, perhaps(nearest(name, maps.Keys(known))))
}

func perhaps(names []string) string {
	if len(names) == 0 {
		return ""
	}
	return "; did you mean " + strings.Join(names, " or ") + "?"
}

// Rollback implements the contract.
func (s *Server) Rollback(ctx context.Context, req *configv1.RollbackRequest) (*configv1.PublishResponse, error) {
	var bad errs.Violations
	signed(&bad, req.GetAuthor(), req.GetReason())
	if req.GetTo() <= 0 {
		bad.Add("to", "must be a revision")
	}
	if err := bad.Err("rolling back to revision %d", req.GetTo()); err != nil {
		return nil, err
	}
	return s.publish(ctx, batch{
		author: req.GetAuthor(), reason: req.GetReason(), dryRun: req.GetDryRun(),
		plan: func(ctx context.Context, head int64) ([]change, error) {
			if expected := req.GetExpectedRevision(); expected != 0 && expected != head {
				s.state.mu.RLock()
				newest := s.state.head
				s.state.mu.RUnlock()
				return nil, stale(newest, "the newest revision was made", expected)
			}
			if req.GetTo() >= head {
				return nil, errs.Errorf(errs.Invalid, "rolling back").Field("to", fmt.Sprintf("must be older than the newest revision, %d, is %d", head, req.GetTo()))
			}
			return s.planRollback(ctx, head, req.GetTo())
		},
	})
}

// planRollback returns the changes that lead back to the values of an older revision. Overrides that have expired since
// stay away.
func (s *Server) planRollback(ctx context.Context, head, to int64) ([]change, error) {
	diffs, err := s.diff(ctx, to, head)
	if err != nil {
		return nil, err
	}
	var changes []change
	for _, d := range diffs {
		c := change{name: d.GetName(), scope: d.GetScope(), value: d.Before}
		if c.value != nil && c.scope.GetLayer() == configv1.Layer_LAYER_OVERRIDE {
			if c.expires, err = s.expiryAt(ctx, c, to); err != nil {
				return nil, err
			}
			if c.expires != nil && !c.expires.AsTime().After(time.Now()) {
				if c.value = nil; d.After == nil {
					continue
				}
			}
		}
		changes = append(changes, c)
	}
	switch n := len(changes); {
	case n == 0:
		return nil, errs.Errorf(errs.Invalid, "rolling back").Field("to", fmt.Sprintf("must differ from the newest revision, %d: the values of %d are the same", head, to))
	case n > kv.MaxOps-2:
		return nil, errs.Errorf(errs.Invalid, "rolling back").Field("to", fmt.Sprintf("must differ in at most %d values, differs in %d: roll back in steps", kv.MaxOps-2, n))
	}
	return changes, s.checkRollback(changes)
}

// checkRollback refuses values that do not fit the declarations of today. Names that nothing declares any more pass: they
// reach nobody, and must not stand in the way of an operator in a hurry.
func (s *Server) checkRollback(changes []change) error {
	s.state.mu.RLock()
	defer s.state.mu.RUnlock()
	var bad errs.Violations
	for _, c := range changes {
		for name, a := range s.state.concernedLocked(c.scope.GetApp()) {
			p := a.property(c.name)
			if p == nil || c.value == nil {
				continue
			}
			if err := p.Check(*c.value); err != nil {
				bad.Addf(c.name, "%s (declared by %s)", err, name)
			}
		}
	}
	return bad.Err("rolling back: some values do not fit any more; publish what is wanted instead")
}

// expire ends overrides when their time is over: for the watchers at once, and in the store by removing them, each batch as
// one revision. All replicas do this; the head decides whose revision it is, and the others find nothing left to remove.
func (s *Server) expire(ctx context.Context) error {
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
		s.state.tellOver()
		_, err := s.publish(ctx, batch{author: "expiry", reason: "the time of an override is over", plan: s.planExpiry})
		if err != nil && ctx.Err() == nil {
			s.log.WarnContext(ctx, "config: cannot remove expired overrides, trying on", "err", err)
			pause(ctx, time.Second)
		}
	}
}

// tellOver has the watchers look at what is over.
func (s *state) tellOver() {
	s.mu.Lock()
	defer s.mu.Unlock()
	now := time.Now()
	var names []string
	for c := range s.overridesLocked() {
		if v := c.GetValue(); over(v, now) {
			names = append(names, v.GetName())
		}
	}
	s.onNames(names, s.head.GetRevision())
}

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

func (s *Server) planExpiry(context.Context, int64) ([]change, error) {
	s.state.mu.RLock()
	defer s.state.mu.RUnlock()
	var due []change
	for c := range s.state.overridesLocked() {
		if v := c.GetValue(); over(v, time.Now()) && len(due) < s.opts.MaxChanges {
			due = append(due, change{name: v.GetName(), scope: v.GetScope()})
		}
	}
	slices.SortFunc(due, func(a, b change) int { return strings.Compare(a.name, b.name) })
	return due, nil
}
