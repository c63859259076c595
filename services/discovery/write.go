package discovery

import (
	"context"
	"sync"
	"time"

	"bijou.dev/platform/errs"
	"bijou.dev/platform/kv"
	"bijou.dev/platform/pace"
)

const (
	// storeTimeout bounds one request to the store.
	storeTimeout = 5 * time.Second
	// writers is how many records are written at the same time.
	writers = 16
)

// write writes the changes in memory to the store, until ctx ends.
func (s *Server) write(ctx context.Context) {
	for ctx.Err() == nil {
		keys := s.reg.takeDirty()
		if len(keys) == 0 {
			select {
			case <-ctx.Done():
			case <-s.reg.toStore:
			}
			continue
		}
		var wg sync.WaitGroup
		failures := make(chan bool, len(keys))
		for _, k := range keys {
			wg.Go(func() { failures <- s.writeOne(ctx, k) != nil })
		}
		wg.Wait()
		close(failures)
		for failed := range failures {
			if failed {
				pace.Sleep(ctx, pace.Jitter(500*time.Millisecond, 0.1))
				break
			}
		}
	}
}

// takeDirty returns some keys to write, and marks them as being written. It returns none before the presence of this
// replica is in the store: without it the other replicas would take this one for stopped and evict these instances.
func (r *registry) takeDirty() []key {
	r.mu.Lock()
	defer r.mu.Unlock()
	if _, present := r.leases.replicas[r.self]; !present || !r.store.loaded {
		return nil
	}
	var keys []key
	for k := range r.store.dirty {
		if r.store.writing[k] {
			continue
		}
		keys = append(keys, k)
		delete(r.store.dirty, k)
		r.store.writing[k] = true
		if len(keys) == writers {
			break
		}
	}
	return keys
}

// writeOne writes the change of one key to the store. If another replica has written the key, it is read, and written
// again if needed.
func (s *Server) writeOne(ctx context.Context, k key) error {
	ctx, cancel := context.WithTimeout(ctx, storeTimeout)
	defer cancel()
	txn, err := s.reg.plan(k)
	var rev kv.Revision
	if err == nil && len(txn.Then) > 0 {
		rev, err = s.store.Txn(ctx, txn)
	}
	if errs.KindOf(err) == errs.Conflict {
		return s.reread(ctx, k)
	}
	s.reg.wrote(k, txn, rev, err)
	return err
}

// plan returns the transaction that a key needs; without operations when it needs none.
func (r *registry) plan(k key) (kv.Txn, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	path, rec, st := k.path(instancesRoot), r.instances.find(k), r.store.stored[k]
	switch {
	case rec != nil && rec.lease.owner == r.self:
		b, err := encodeInstance(r.self, rec)
		return kv.Txn{If: []kv.Cond{kv.At(path, st.rev)}, Then: []kv.Op{kv.Put(path, b)}}, err
	case rec == nil && r.store.leaving[k] && st.rev != 0:
		return kv.Txn{If: []kv.Cond{kv.At(path, st.rev)}, Then: []kv.Op{kv.Delete(path)}}, nil
	}
	return kv.Txn{}, nil
}

// wrote records the result of a write.
func (r *registry) wrote(k key, txn kv.Txn, rev kv.Revision, err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.store.writing, k)
	switch {
	case err != nil:
		r.store.dirty[k] = true
	case len(txn.Then) == 0:
		delete(r.store.leaving, k)
	case txn.Then[0].Delete:
		delete(r.store.stored, k)
		delete(r.store.leaving, k)
	case r.store.stored[k].rev < rev:
		r.store.stored[k] = stored{rev, r.self}
	}
	if r.store.dirty[k] {
		wake(r.toStore)
	}
	r.ackedLocked()
}

// reread reads a key that another replica has written, applies it, and marks it for the writer.
func (s *Server) reread(ctx context.Context, k key) error {
	e, err := s.store.Get(ctx, k.path(instancesRoot))
	if err != nil && errs.KindOf(err) != errs.NotFound {
		s.reg.wrote(k, kv.Txn{}, 0, err)
		return err
	}
	r := s.reg
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.store.writing, k)
	if err != nil {
		delete(r.store.stored, k)
	} else {
		mine := r.instances.find(k)
		sess := mine != nil && mine.lease.owner == r.self && mine.sess != nil
		r.applyInstanceLocked(k, e, true, time.Now())
		if sess {
			mine.lease.owner = r.self // the stream is newer than the record
		}
	}
	r.writeLocked(k)
	return nil
}
