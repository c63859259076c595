// Package kvetcd keeps a kv.Store in etcd.
//
// etcd may be unreachable at any time. [New] does not wait for it, and every call has a deadline. A watch lists the
// prefix at one revision and watches from the next one, with a heartbeat of its own. When etcd compacts its history,
// ends the watch, sends nothing or comes back with older data, the prefix is listed again and readers get the
// difference. There is one etcd watch for each prefix, however many readers it has.
//
// Its tests run a real etcd. They are in etcdtest, which is a module of its own so that this one does not require
// etcd's server.
package kvetcd

import (
	"cmp"
	"context"
	"crypto/tls"
	"errors"
	"log/slog"
	"net"
	"sync"
	"time"

	"go.etcd.io/etcd/api/v3/mvccpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"
	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"

	"bijou.dev/platform/errs"
	"bijou.dev/platform/kv"
	"bijou.dev/platform/kv/driver"
)

// Options say where etcd is and how long to wait for it.
type Options struct {
	// Endpoints are etcd's client addresses: "etcd:2379", "http://127.0.0.1:2379" or "unix:///run/etcd.sock". Required:
	// at least one.
	Endpoints []string
	// TLS secures the connections. Nil: plain text, unless an endpoint says https.
	TLS *tls.Config
	// DialContext replaces the network. Nil: the host's.
	DialContext func(ctx context.Context, addr string) (net.Conn, error)
	// Timeout bounds each call, within the caller's own deadline. Zero: 3s.
	Timeout time.Duration
	// Heartbeat is how often etcd is asked for progress of a watch. A watch that receives nothing for two heartbeats is
	// lost and made again. Zero: 2s.
	Heartbeat time.Duration
	// Log receives lost watches (debug) and lost leases (warn). Nil: they are not logged.
	Log *slog.Logger
}

// complete returns the options with their defaults, or an error that names each field that cannot work.
func (o Options) complete() (Options, error) {
	var bad errs.Violations
	if len(o.Endpoints) == 0 {
		bad.Add("Endpoints", "must name at least one address")
	}
	if o.Timeout < 0 {
		bad.Add("Timeout", "must not be negative")
	}
	if o.Heartbeat < 0 {
		bad.Add("Heartbeat", "must not be negative")
	}
	o.Timeout = cmp.Or(o.Timeout, 3*time.Second)
	o.Heartbeat = cmp.Or(o.Heartbeat, 2*time.Second)
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	return o, bad.Err("opening an etcd store")
}

// Store is a client of etcd. Make it with [New].
type Store struct {
	opts   Options
	client *clientv3.Client
	count  counters
	ctx    context.Context // ends with Close
	cancel context.CancelFunc
	wg     sync.WaitGroup // everything that follows a prefix or keeps a lease

	mu    sync.Mutex
	feeds map[string]*follower // prefix -> the one watch on it
}

var _ kv.Store = (*Store)(nil)

// New makes a store and returns at once, whether etcd can be reached or not. The owner closes it.
func New(opts Options) (*Store, error) {
	opts, err := opts.complete()
	if err != nil {
		return nil, err
	}
	dial := []grpc.DialOption{grpc.WithConnectParams(grpc.ConnectParams{
		// With gRPC's own limit of two minutes, calls would fail long after etcd is back.
		Backoff: backoff.Config{
			BaseDelay: 50 * time.Millisecond, Multiplier: 1.6, Jitter: 0.3, MaxDelay: time.Second,
		},
		MinConnectTimeout: opts.Timeout,
	}), grpc.WithChainUnaryInterceptor(failFast)}
	if opts.DialContext != nil {
		dial = append(dial, grpc.WithContextDialer(opts.DialContext))
	}
	ctx, cancel := context.WithCancel(context.Background())
	client, err := clientv3.New(clientv3.Config{
		Endpoints:            opts.Endpoints,
		TLS:                  opts.TLS,
		Context:              ctx,
		DialTimeout:          opts.Timeout,
		DialKeepAliveTime:    10 * time.Second, // etcd refuses pings more often than every 5s
		DialKeepAliveTimeout: opts.Timeout,
		DialOptions:          dial,
		MaxUnaryRetries:      8,
		BackoffWaitBetween:   50 * time.Millisecond,
		Logger:               zap.NewNop(), // our errors and counters have the same
	})
	if err != nil {
		cancel()
		return nil, errs.Errorf(errs.Invalid, "opening etcd store at %q: %w", opts.Endpoints, err)
	}
	return &Store{opts: opts, client: client, ctx: ctx, cancel: cancel, feeds: map[string]*follower{}}, nil
}

// failFast makes a call fail as soon as no endpoint can be reached; etcd's client would wait for the whole deadline.
// That client still retries reads for a moment, so that they survive a reconnect.
func failFast(ctx context.Context, method string, req, reply any, cc *grpc.ClientConn, invoke grpc.UnaryInvoker,
	opts ...grpc.CallOption,
) error {
	return invoke(ctx, method, req, reply, cc, append(opts, grpc.WaitForReady(false))...)
}

// Close ends all watches and calls with kv.ErrClosed and waits for them. Leases that are open expire within their TTL.
func (s *Store) Close() error {
	s.cancel()
	s.mu.Lock()
	for _, f := range s.feeds {
		f.feed.Close(kv.ErrClosed)
	}
	s.mu.Unlock()
	err := s.client.Close()
	s.wg.Wait()
	if err != nil && !errors.Is(err, context.Canceled) {
		return errs.Errorf(errs.Internal, "closing etcd store: %w", err)
	}
	return nil
}

// Get implements kv.Store.
func (s *Store) Get(ctx context.Context, key string) (kv.Entry, error) {
	if err := kv.ValidateKey(key); err != nil {
		return kv.Entry{}, err
	}
	resp, err := call(ctx, s, "reading "+key, func(ctx context.Context) (*clientv3.GetResponse, error) {
		return s.client.Get(ctx, key)
	})
	if err != nil {
		return kv.Entry{}, err
	}
	if len(resp.Kvs) == 0 {
		return kv.Entry{}, errs.Errorf(errs.NotFound, "reading %s: no such key", key)
	}
	return entry(resp.Kvs[0]), nil
}

// page is how many keys one call lists, so that the list of a large prefix neither blocks etcd nor takes longer than
// the deadline of a call.
const page = 500

// List implements kv.Store.
func (s *Store) List(ctx context.Context, prefix string) ([]kv.Entry, kv.Revision, error) {
	if err := kv.ValidatePrefix(prefix); err != nil {
		return nil, 0, err
	}
	for try := 1; ; try++ {
		entries, rev, err := s.list(ctx, prefix)
		if try < 3 && errors.Is(err, rpctypes.ErrCompacted) {
			continue // compacted between two pages: start again at a newer revision
		}
		return entries, rev, err
	}
}

// list reads all pages at the revision of the first.
func (s *Store) list(ctx context.Context, prefix string) ([]kv.Entry, kv.Revision, error) {
	var entries []kv.Entry
	var rev int64
	from, end := prefix, clientv3.GetPrefixRangeEnd(prefix)
	for {
		resp, err := call(ctx, s, "listing "+prefix, func(ctx context.Context) (*clientv3.GetResponse, error) {
			return s.client.Get(ctx, from, clientv3.WithRange(end), clientv3.WithLimit(page), clientv3.WithRev(rev))
		})
		if err != nil {
			return nil, 0, err
		}
		for _, kvs := range resp.Kvs {
			entries = append(entries, entry(kvs))
		}
		if rev == 0 {
			rev = resp.Header.Revision
		}
		if !resp.More || len(resp.Kvs) == 0 {
			return entries, kv.Revision(rev), nil
		}
		from = entries[len(entries)-1].Key + "\x00"
	}
}

func entry(e *mvccpb.KeyValue) kv.Entry {
	return kv.Entry{
		Key: string(e.Key), Value: e.Value,
		Created: kv.Revision(e.CreateRevision), Modified: kv.Revision(e.ModRevision),
	}
}

// Txn implements kv.Store. A transaction that changes something is never sent twice.
func (s *Store) Txn(ctx context.Context, txn kv.Txn) (kv.Revision, error) {
	if err := txn.Validate(); err != nil {
		return 0, err
	}
	var conds []clientv3.Cmp
	var reads, ops []clientv3.Op
	for _, c := range txn.If {
		conds = append(conds, clientv3.Compare(clientv3.ModRevision(c.Key), "=", int64(c.Modified)))
		reads = append(reads, clientv3.OpGet(c.Key, clientv3.WithKeysOnly()))
	}
	for _, op := range txn.Then {
		if op.Delete {
			ops = append(ops, clientv3.OpDelete(op.Key))
		} else {
			ops = append(ops, clientv3.OpPut(op.Key, string(op.Value), clientv3.WithLease(clientv3.LeaseID(op.Lease))))
		}
	}
	resp, err := call(ctx, s, "writing", func(ctx context.Context) (*clientv3.TxnResponse, error) {
		return s.client.Txn(ctx).If(conds...).Then(ops...).Else(reads...).Commit()
	})
	if err != nil {
		return 0, err
	}
	if !resp.Succeeded {
		return 0, conflict(txn.If, resp)
	}
	rev := kv.Revision(resp.Header.Revision)
	s.expect(txn.Then, resp, rev)
	return rev, nil
}

// conflict returns the error for the first condition that does not hold. resp has the keys of all conditions.
func conflict(conds []kv.Cond, resp *clientv3.TxnResponse) error {
	for i, c := range conds {
		var at kv.Revision
		if kvs := resp.Responses[i].GetResponseRange().GetKvs(); len(kvs) > 0 {
			at = kv.Revision(kvs[0].ModRevision)
		}
		if at != c.Modified {
			return driver.Conflict(c, at)
		}
	}
	return errs.Errorf(errs.Conflict, "writing: a condition does not hold")
}

// expect makes the snapshot of a watch that starts later wait for what was just written.
func (s *Store) expect(ops []kv.Op, resp *clientv3.TxnResponse, rev kv.Revision) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, f := range s.feeds {
		for i, op := range ops {
			changed := !op.Delete || resp.Responses[i].GetResponseDeleteRange().GetDeleted() > 0
			if changed && f.covers(op.Key) {
				f.feed.Expect(rev)
			}
		}
	}
}

// Grant implements kv.Store. etcd counts a ttl in whole seconds: it is rounded up.
func (s *Store) Grant(ctx context.Context, ttl time.Duration) (kv.Lease, error) {
	if err := kv.ValidateTTL(ttl); err != nil {
		return nil, err
	}
	resp, err := call(ctx, s, "granting lease", func(ctx context.Context) (*clientv3.LeaseGrantResponse, error) {
		return s.client.Grant(ctx, driver.WholeSeconds(ttl))
	})
	if err != nil {
		return nil, err
	}
	keep, stop := context.WithCancel(ctx)
	alive, err := s.client.KeepAlive(keep, resp.ID)
	if err != nil {
		stop()
		return nil, s.translate(ctx, "keeping lease", err)
	}
	lease := driver.NewLease(kv.LeaseID(resp.ID), time.Duration(resp.TTL)*time.Second, func(ctx context.Context) error {
		stop()
		return s.revoke(ctx, resp.ID)
	})
	s.wg.Go(func() {
		defer stop()
		for range alive { // closed by the client when the lease has ended, or a TTL has passed without an answer
			s.count.renewals.Add(1)
		}
		if keep.Err() == nil && s.ctx.Err() == nil {
			s.count.leasesLost.Add(1)
			s.opts.Log.Warn("etcd lease lost", "lease", int64(resp.ID))
		}
		lease.SetLost()
	})
	return lease, nil
}

func (s *Store) revoke(ctx context.Context, id clientv3.LeaseID) error {
	_, err := call(ctx, s, "closing lease", func(ctx context.Context) (*clientv3.LeaseRevokeResponse, error) {
		return s.client.Revoke(ctx, id)
	})
	if errors.Is(err, rpctypes.ErrLeaseNotFound) {
		return nil
	}
	return err
}
