package config

import (
	"context"
	"errors"
	"time"

	configv1 "bijou.dev/platform/api/config/v1"
	"bijou.dev/platform/errs"
	"bijou.dev/platform/kv"

	"google.golang.org/protobuf/types/known/timestamppb"
)

// A publish, a rollback and an expiry are the same thing: a batch of changes that becomes one revision. It takes these
// steps, each in a file of its own:
//
//	check.go   is the request well-formed, and does each value fit what the apps declare?
//	plan.go    which changes lead from the newest revision to what is wanted?
//	write.go   write them as one transaction, if the newest revision is still that one
//
// If another replica published meanwhile, planning starts again. Checks that need the copy of the store in memory are
// part of planning, so that they are made again too. rollback.go and expire.go have the plans of the other two.

// Limits of the time that a publish takes.
const (
	// publishTimeout is for the whole publish. With the store away it is refused, and does not wait any longer.
	publishTimeout = 5 * time.Second
	// visibleTimeout is how long a publish waits until this replica's copy has what was written.
	visibleTimeout = 2 * time.Second
)

// batch is what becomes one revision.
type batch struct {
	author, reason string
	dryRun         bool
	// plan returns the changes that are needed if base is the newest revision. It may be called several times.
	plan func(ctx context.Context, base base) ([]change, error)
}

// change is one value to set or, if value is nil, to remove.
type change struct {
	name    string
	scope   *configv1.Scope
	value   *string
	expires *timestamppb.Timestamp // nil: never
}

// base is the revision that a batch is planned and written on top of.
type base struct {
	revision int64
	at       kv.Revision // of the head in the store; 0: nothing was published yet
}

// errLostRace means that another replica published, so that base is no longer the newest revision.
var errLostRace = errors.New("the newest revision was replaced")

// Publish implements the contract. Changes that would set the value that is already there are left out. If none
// remains, nothing is written and the response has the newest revision.
func (s *Server) Publish(ctx context.Context, req *configv1.PublishRequest) (*configv1.PublishResponse, error) {
	if err := checkPublish(req, s.opts.MaxChanges); err != nil {
		return nil, err
	}
	return s.publish(ctx, batch{
		author: req.GetAuthor(), reason: req.GetReason(), dryRun: req.GetDryRun(),
		plan: func(ctx context.Context, base base) ([]change, error) { return s.planPublish(ctx, req, base) },
	})
}

// publish writes a batch as one revision, or changes nothing.
func (s *Server) publish(ctx context.Context, b batch) (*configv1.PublishResponse, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, publishTimeout, errTimedOut)
	defer cancel()
	select { // one at a time in this replica: several would only replace each other's base
	case s.writing <- struct{}{}:
		defer func() { <-s.writing }()
	case <-ctx.Done():
		return nil, notWritten(ctx)
	}
	for {
		if err := s.writable("publishing"); err != nil {
			return nil, err
		}
		base := s.state.base()
		resp, err := s.attempt(ctx, b, base)
		if !errors.Is(err, errLostRace) {
			return resp, err
		}
		if err := s.state.await(ctx, func() bool { return s.state.headAt != base.at }); err != nil {
			return nil, notWritten(ctx)
		}
	}
}

// attempt plans a batch and writes it. The error is errLostRace if base is no longer the newest revision.
func (s *Server) attempt(ctx context.Context, b batch, base base) (*configv1.PublishResponse, error) {
	changes, err := b.plan(ctx, base)
	if err != nil {
		return nil, s.confirmRefusal(ctx, base, err)
	}
	if len(changes) == 0 {
		return &configv1.PublishResponse{Revision: base.revision}, s.confirmNewest(ctx, base)
	}
	rev, txn, err := s.prepare(b, base, changes)
	if err == nil && !b.dryRun {
		err = s.write(ctx, rev, txn)
	}
	if err != nil {
		return nil, err
	}
	return &configv1.PublishResponse{Revision: rev.GetRevision(), Applied: rev.GetChanges()}, nil
}

// errTimedOut is the cause of a context that ended because of publishTimeout.
var errTimedOut = errs.Errorf(errs.Unavailable,
	"publishing: the store did not answer within %v; nothing was written, try again", publishTimeout).
	Because(reasonStore)

// notWritten returns the error of a publish whose context ended before anything was written.
func notWritten(ctx context.Context) error {
	cause := context.Cause(ctx)
	if errors.Is(cause, errTimedOut) {
		return errTimedOut
	}
	return errs.Errorf(errs.KindOf(cause), "publishing: the caller stopped waiting; nothing was written")
}
