package discovery

import (
	"context"
	"encoding/json"
	"time"

	"bijou.dev/platform/errs"
	"bijou.dev/platform/kv"
	"bijou.dev/platform/pace"
)

const (
	presenceTTL = 10 * time.Second
	// presenceEvery is the least time between two writes of a presence.
	presenceEvery = 100 * time.Millisecond
)

// presence is the record of a live replica.
type presence struct {
	Name string `json:"name"`
	// Acked is the store revision up to which all watchers of the replica have acknowledged all changes.
	Acked kv.Revision `json:"acked"`
}

// keepPresence keeps the presence of this replica in the store, until ctx ends.
func (s *Server) keepPresence(ctx context.Context) {
	for ctx.Err() == nil {
		if err := s.holdPresence(ctx); err != nil && ctx.Err() == nil {
			s.log.Debug("keeping the presence of this replica", "error", err)
			pace.Sleep(ctx, pace.Jitter(time.Second, 0.1))
		}
	}
}

// holdPresence keeps one lease of the store with the presence, and updates the presence when watchers acknowledge.
func (s *Server) holdPresence(ctx context.Context) error {
	lease, err := s.store.Grant(ctx, presenceTTL)
	if err != nil {
		return err
	}
	defer func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
		defer cancel()
		_ = lease.Close(ctx) // if the store is down, the lease ends by itself
	}()
	for {
		if err := s.writePresence(ctx, lease.ID()); err != nil {
			return err
		}
		pace.Sleep(ctx, presenceEvery)
		select {
		case <-ctx.Done():
			return nil
		case <-lease.Lost():
			return errs.Errorf(errs.Unavailable, "the lease was lost")
		case <-s.reg.toPeers:
		}
	}
}

func (s *Server) writePresence(ctx context.Context, id kv.LeaseID) error {
	s.reg.mu.Lock()
	p := presence{Name: s.opts.Name, Acked: s.reg.watchers.acked}
	s.reg.mu.Unlock()
	b, err := json.Marshal(p)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, storeTimeout)
	defer cancel()
	_, err = s.store.Txn(ctx, kv.Txn{Then: []kv.Op{kv.PutLeased(replicasRoot+s.reg.self, b, id)}})
	if err == nil {
		s.reg.mu.Lock()
		s.reg.leases.replicas[s.reg.self] = p
		s.reg.mu.Unlock()
		wake(s.reg.toStore)
	}
	return err
}
