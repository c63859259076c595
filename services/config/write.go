package config

import (
	"context"
	"errors"

	configv1 "bijou.dev/platform/api/config/v1"
	"bijou.dev/platform/errs"
	"bijou.dev/platform/kv"

	"google.golang.org/protobuf/types/known/timestamppb"
)

// Reasons of errors, for programs. docs/api/config.md lists them.
const (
	reasonStale   = "STALE_REVISION"        // somebody published after the revision that the writer has seen
	reasonStore   = "STORE_UNAVAILABLE"     // the store is away or full, and nothing was written
	reasonUnknown = "MAY_HAVE_BEEN_WRITTEN" // the store did not answer a write
)

// writable returns why nothing can be written at the moment, or nil. doing begins its text. The cause is not for
// writers of settings: it is in Problem, which the process shows to its operators.
func (s *Server) writable(doing string) error {
	s.state.mu.RLock()
	defer s.state.mu.RUnlock()
	if err := s.state.readLocked(); err != nil {
		return err
	}
	if s.state.lost != nil {
		return s.state.lost
	}
	if s.state.problemLocked() != nil {
		return errs.Errorf(errs.Unavailable, "%s: the store (etcd) is away, so nothing can be written at the moment; "+
			"nothing was changed, and the settings in use keep working; try again when it is back", doing).
			Because(reasonStore)
	}
	return nil
}

// prepare returns the revision that a batch becomes, and the transaction that writes it. The error is errLostRace if
// base is no longer the newest revision.
func (s *Server) prepare(b batch, base base, changes []change) (*configv1.Revision, kv.Txn, error) {
	rev := &configv1.Revision{
		Revision: base.revision + 1, Author: b.author, Reason: b.reason, Time: timestamppb.Now(),
	}
	s.state.mu.RLock()
	if s.state.headAt != base.at {
		s.state.mu.RUnlock()
		return nil, kv.Txn{}, errLostRace
	}
	for _, c := range changes {
		applied := &configv1.AppliedChange{Name: c.name, Scope: c.scope, After: c.value, Expires: c.expires}
		if old := s.state.values[c.name][valueKey(c.name, c.scope)]; old != nil {
			applied.Before = new(old.GetValue().GetValue())
		}
		rev.Changes = append(rev.Changes, applied)
	}
	s.state.mu.RUnlock()
	txn, err := transaction(rev, changes, base)
	return rev, txn, err
}

// transaction writes one revision: its values, its record in the history, and the head, which names it as the newest.
// Its condition is that the head is still that of base.
func transaction(rev *configv1.Revision, changes []change, base base) (kv.Txn, error) {
	record, err := encode(rev)
	if err != nil {
		return kv.Txn{}, err
	}
	head, err := encode(&configv1.Revision{
		Revision: rev.GetRevision(), Author: rev.GetAuthor(), Reason: rev.GetReason(), Time: rev.GetTime(),
	})
	if err != nil {
		return kv.Txn{}, err
	}
	txn := kv.Txn{
		If:   []kv.Cond{kv.At(headKey, base.at)},
		Then: []kv.Op{kv.Put(headKey, head), kv.Put(historyKey(rev.GetRevision()), record)},
	}
	for _, c := range changes {
		op := kv.Delete(valueKey(c.name, c.scope))
		if c.value != nil {
			value, err := encode(stored(rev, c))
			if err != nil {
				return kv.Txn{}, err
			}
			op = kv.Put(valueKey(c.name, c.scope), value)
		}
		txn.Then = append(txn.Then, op)
	}
	if err := txn.Validate(); err != nil {
		return kv.Txn{}, errs.Errorf(errs.Invalid, "publishing %d changes that do not fit one revision", len(changes)).
			Field("changes", "must be smaller together, with the values they replace: split them")
	}
	return txn, nil
}

// stored is what the store keeps of one value.
func stored(rev *configv1.Revision, c change) *configv1.Candidate {
	return &configv1.Candidate{
		Value: &configv1.Value{
			Name: c.name, Value: *c.value, Layer: c.scope.GetLayer(), Scope: c.scope,
			Revision: rev.GetRevision(), Expires: c.expires,
		},
		Author: rev.GetAuthor(), Reason: rev.GetReason(), Time: rev.GetTime(),
	}
}

// write commits a revision, and waits until the copy of this replica has it.
func (s *Server) write(ctx context.Context, rev *configv1.Revision, txn kv.Txn) error {
	if _, err := s.store.Txn(ctx, txn); err != nil {
		return s.writeError(ctx, rev, err)
	}
	s.log.InfoContext(ctx, "config: published", "revision", rev.GetRevision(), "changes", len(rev.GetChanges()),
		"author", rev.GetAuthor(), "reason", rev.GetReason())
	ctx, cancel := context.WithTimeout(ctx, visibleTimeout)
	defer cancel()
	// If the time ends first, the revision is written all the same.
	_ = s.state.await(ctx, func() bool { return s.state.head.GetRevision() >= rev.GetRevision() })
	return nil
}

// writeError returns the error of a publish whose transaction failed. The text of the cause goes to the log only: it is
// about the connection to the store, which is not a concern of the writer.
func (s *Server) writeError(ctx context.Context, rev *configv1.Revision, err error) error {
	kind := errs.KindOf(err)
	if kind == errs.Conflict {
		return errLostRace
	}
	s.log.WarnContext(ctx, "config: cannot write a revision", "revision", rev.GetRevision(), "error", err)
	switch kind {
	case errs.Unavailable, errs.Timeout, errs.Canceled:
		if errors.Is(context.Cause(ctx), errTimedOut) {
			kind = errs.Unavailable
		}
		return errs.Errorf(kind, "publishing revision %d: the store (etcd) did not answer, so it may have been written: "+
			"look at the history before you publish again", rev.GetRevision()).Because(reasonUnknown)
	case errs.Exhausted:
		return errs.Errorf(errs.Unavailable, "publishing: the store (etcd) is full or overloaded; nothing was written; "+
			"its runbook says how to make space").Because(reasonStore)
	}
	return errs.Errorf(kind, "publishing revision %d: %w", rev.GetRevision(), err)
}

// confirmNewest asks the store whether base is still the newest revision. It is for answers that come from the copy in
// memory and write nothing: another replica may have published something that makes them wrong.
func (s *Server) confirmNewest(ctx context.Context, base base) error {
	_, err := s.store.Txn(ctx, kv.Txn{If: []kv.Cond{kv.At(headKey, base.at)}})
	switch kind := errs.KindOf(err); {
	case err == nil:
		return nil
	case kind == errs.Conflict:
		return errLostRace
	case ctx.Err() != nil:
		return notWritten(ctx)
	default:
		s.log.WarnContext(ctx, "config: cannot read the newest revision", "error", err)
		return errs.Errorf(errs.Unavailable,
			"publishing: the store (etcd) did not answer; nothing was written; try again when it is back").
			Because(reasonStore)
	}
}

// confirmRefusal returns err, with which a batch was refused, or errLostRace if that refusal is based on a copy that is
// out of date.
func (s *Server) confirmRefusal(ctx context.Context, base base, err error) error {
	if kind := errs.KindOf(err); kind != errs.Invalid && kind != errs.Conflict {
		return err
	}
	if outdated := s.confirmNewest(ctx, base); errors.Is(outdated, errLostRace) {
		return outdated
	}
	return err
}
