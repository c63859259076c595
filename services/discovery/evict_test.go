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

// undeletable is a store that takes its time to refuse the deletion of instances.
type undeletable struct{ kv.Store }

func (u undeletable) Txn(ctx context.Context, txn kv.Txn) (kv.Revision, error) {
	if op := txn.Then[0]; op.Delete && strings.Contains(op.Key, "/instances/") {
		<-time.After(2 * time.Second)
		return 0, errs.Errorf(errs.Unavailable, "the store is away")
	}
	return u.Store.Txn(ctx, txn)
}

// What an instance says while it is being evicted must reach the store, whatever becomes of the eviction.
func TestNewsDuringAnEvictionThatFails(t *testing.T) {
	inStack(t, func(t *testing.T, s *stack) {
		r := s.replica("discovery-1", func(o *registry.Options) { o.Store = undeletable{o.Store} })
		settle()
		stream, err := s.rpc(r).Register(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		say := func(status discoveryv1.Status) {
			if err := stream.Send(&discoveryv1.RegisterRequest{Instance: &discoveryv1.Instance{
				Service: "catalog", Id: "1", Reported: status, Endpoints: map[string]string{"grpc": "catalog-1:7000"},
			}}); err != nil {
				t.Fatal(err)
			}
		}
		say(discoveryv1.Status_STATUS_STARTING)
		after(11 * time.Second) // the lease has ended and the eviction is under way
		say(discoveryv1.Status_STATUS_UP)
		after(5 * time.Second)
		entries, _, err := s.store.List(t.Context(), "/bijou/discovery/instances/")
		if err != nil || len(entries) != 1 {
			t.Fatalf("%d records, %v", len(entries), err)
		}
		if _, _, _, in, err := registry.DecodeRecord(entries[0].Value); err != nil ||
			in.GetStatus() != discoveryv1.Status_STATUS_UP {
			t.Errorf("the store has %v, %v; want UP", in.GetStatus(), err)
		}
	})
}

// tardy is a store that takes a while to say that it has saved an override by ann.
type tardy struct{ kv.Store }

func (s tardy) Txn(ctx context.Context, txn kv.Txn) (kv.Revision, error) {
	rev, err := s.Store.Txn(ctx, txn)
	if strings.Contains(string(txn.Then[0].Value), "ann") {
		<-time.After(2 * time.Second)
	}
	return rev, err
}

// Of two overrides the later one in the store holds, at the replica too that is slow to hear that it has saved the
// other.
func TestOverridesAtTwoReplicas(t *testing.T) {
	inStack(t, func(t *testing.T, s *stack) {
		a := s.replica("discovery-1", func(o *registry.Options) { o.Store = tardy{o.Store} })
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
		want(t, "after ann", b.list(), "1:DOWN")
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
