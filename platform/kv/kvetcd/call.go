package kvetcd

import (
	"context"
	"errors"
	"sync/atomic"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"bijou.dev/platform/errs"
	"bijou.dev/platform/kv"
)

// Stats counts what the store did since it was opened.
type Stats struct {
	// Calls is how many calls were made to etcd, and Errors how many of them failed.
	Calls, Errors uint64
	// Lists is how often a watched prefix was listed: once at first, and once after each loss.
	Lists uint64
	// Lost is how often a watch was lost, for any reason; the next four are why.
	Lost uint64
	// Compacted: etcd had deleted the history that the watch needed next.
	Compacted uint64
	// Canceled: etcd ended the watch, or its channel was closed.
	Canceled uint64
	// Silent: etcd sent nothing for two heartbeats.
	Silent uint64
	// Rewound: etcd came back at an older revision than it had shown.
	Rewound uint64
	// Updates is how many transactions arrived by watches.
	Updates uint64
	// Watches is how many etcd watches are open now: one for each prefix that has readers.
	Watches int
	// Renewals is how often a lease was renewed, and LeasesLost how many leases ended without being closed.
	Renewals, LeasesLost uint64
}

type counters struct {
	calls, errors, renewals, leasesLost                        atomic.Uint64
	lists, lost, compacted, canceled, silent, rewound, updates atomic.Uint64
}

// Stats returns the counters, for a metrics page.
func (s *Store) Stats() Stats {
	s.mu.Lock()
	watches := len(s.feeds)
	s.mu.Unlock()
	c := &s.count
	return Stats{
		Calls: c.calls.Load(), Errors: c.errors.Load(), Lists: c.lists.Load(), Lost: c.lost.Load(),
		Compacted: c.compacted.Load(), Canceled: c.canceled.Load(), Silent: c.silent.Load(), Rewound: c.rewound.Load(),
		Updates: c.updates.Load(), Watches: watches, Renewals: c.renewals.Load(), LeasesLost: c.leasesLost.Load(),
	}
}

// call makes one call with the store's deadline and gives its error a kind.
func call[T any](ctx context.Context, s *Store, what string, fn func(context.Context) (T, error)) (T, error) {
	s.count.calls.Add(1)
	bounded, cancel := context.WithTimeout(ctx, s.opts.Timeout)
	defer cancel()
	answer, err := fn(clientv3.WithRequireLeader(bounded)) // a member without a leader returns an error at once
	if err != nil {
		s.count.errors.Add(1)
		var none T
		return none, s.translate(ctx, what, err)
	}
	return answer, nil
}

func (s *Store) translate(ctx context.Context, what string, err error) error {
	switch {
	case ctx.Err() != nil:
		return errs.Errorf(errs.KindOf(ctx.Err()), "%s: %w", what, ctx.Err())
	case s.ctx.Err() != nil:
		return kv.ErrClosed
	case errors.Is(err, context.DeadlineExceeded):
		return errs.Errorf(errs.Unavailable, "%s: no answer from etcd within %v", what, s.opts.Timeout)
	case errors.Is(err, rpctypes.ErrLeaseNotFound):
		return errs.Errorf(errs.Precondition, "%s: the lease has ended, grant another: %w", what, err)
	}
	k := kind(err)
	if st, ok := status.FromError(err); ok {
		err = errors.New(st.Message()) // without "rpc error: code = Unavailable desc =", which the kind says already
	}
	return errs.Errorf(k, "%s: %w", what, err)
}

// kind returns the kind of an error of etcd. An error that is not clearly about the request is a failure of etcd.
func kind(err error) errs.Kind {
	code := status.Code(err)
	if e, ok := errors.AsType[rpctypes.EtcdError](err); ok {
		code = e.Code()
	}
	if errors.Is(err, rpctypes.ErrRequestTooLarge) {
		return errs.Exhausted
	}
	switch code {
	case codes.InvalidArgument:
		return errs.Invalid
	case codes.ResourceExhausted:
		return errs.Exhausted
	case codes.PermissionDenied:
		return errs.Denied
	case codes.Unauthenticated:
		return errs.Unauthenticated
	}
	return errs.Unavailable
}
