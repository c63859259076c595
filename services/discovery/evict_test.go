package discovery_test

import (
	"context"
	"strings"
	"testing"
	"time"

	discoveryv1 "bijou.dev/platform/api/discovery/v1"
	"bijou.dev/platform/errs"
	"bijou.dev/platform/kv"
	registry "bijou.dev/services/discovery"
)

// noDeletes is a store that refuses to delete instances, after 2 s.
type noDeletes struct{ kv.Store }

func (u noDeletes) Txn(ctx context.Context, txn kv.Txn) (kv.Revision, error) {
	if op := txn.Then[0]; op.Delete && strings.Contains(op.Key, "/instances/") {
		<-time.After(2 * time.Second)
		return 0, errs.Errorf(errs.Unavailable, "the store is down")
	}
	return u.Store.Txn(ctx, txn)
}

// A change that an instance reports while it is being evicted is written to the store, also if the eviction fails.
func TestChangeDuringAFailedEvictionIsWritten(t *testing.T) {
	inStack(t, func(t *testing.T, s *stack) {
		r := s.replica("discovery-1", func(o *registry.Options) { o.Store = noDeletes{o.Store} })
		settle()
		stream := s.register(r, heartbeat("catalog", "1", discoveryv1.Status_STATUS_STARTING))
		after(11 * time.Second) // the lease has ended and the eviction is in progress
		if err := stream.Send(heartbeat("catalog", "1", up)); err != nil {
			t.Fatal(err)
		}
		after(5 * time.Second)
		entries, _, err := s.store.List(t.Context(), "/bijou/discovery/instances/")
		if err != nil || len(entries) != 1 {
			t.Fatalf("the store has %d records, error %v; want 1 record", len(entries), err)
		}
		if _, _, _, in, err := registry.DecodeRecord(entries[0].Value); err != nil ||
			in.GetStatus() != discoveryv1.Status_STATUS_UP {
			t.Errorf("the record has status %v, error %v; want UP", in.GetStatus(), err)
		}
	})
}

// slowForAnn is a store whose response to an override by ann comes 2 s after it was saved.
type slowForAnn struct{ kv.Store }

func (s slowForAnn) Txn(ctx context.Context, txn kv.Txn) (kv.Revision, error) {
	rev, err := s.Store.Txn(ctx, txn)
	if strings.Contains(string(txn.Then[0].Value), "ann") {
		<-time.After(2 * time.Second)
	}
	return rev, err
}

// Of two overrides the one that was saved later is in effect at all replicas, also at the replica that saved the
// earlier one and gets the store's response after both.
func TestLaterOverrideIsInEffectAtAllReplicas(t *testing.T) {
	inStack(t, func(t *testing.T, s *stack) {
		a := s.replica("discovery-1", func(o *registry.Options) { o.Store = slowForAnn{o.Store} })
		b := s.replica("discovery-2")
		settle()
		s.joinAll("catalog", 1, a.Addr)
		saved := make(chan error, 1)
		go func() {
			_, err := a.SetOverride(t.Context(), &discoveryv1.SetOverrideRequest{
				Service: "catalog", Id: "1",
				Status: discoveryv1.Status_STATUS_DOWN, Author: "ann",
			})
			saved <- err
		}()
		settle()
		want(t, "after the override by ann", b.list(), "1:DOWN")
		if _, err := b.SetOverride(t.Context(), &discoveryv1.SetOverrideRequest{
			Service: "catalog", Id: "1",
			Status: discoveryv1.Status_STATUS_OUT_OF_SERVICE, Author: "bob",
		}); err != nil {
			t.Fatal(err)
		}
		if err := <-saved; err != nil {
			t.Fatal(err)
		}
		settle()
		for _, r := range []*replica{a, b} {
			want(t, r.Addr, r.list(), "1:OUT_OF_SERVICE")
		}
	})
}
