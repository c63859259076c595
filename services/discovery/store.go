package discovery

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"sync"
	"time"

	discoveryv1 "bijou.dev/platform/api/discovery/v1"
	"bijou.dev/platform/errs"
	"bijou.dev/platform/kv"
	"bijou.dev/platform/names"
	"google.golang.org/protobuf/encoding/protojson"
)

// The keys. Everything is JSON, so that an operator can read it.
//
//	/bijou/discovery/instances/SERVICE/ID   a savedInstance, without a lease of the store
//	/bijou/discovery/overrides/SERVICE/ID   an override
//	/bijou/discovery/replicas/REPLICA       a presence, which lives as long as the replica
const (
	root          = "/bijou/discovery/"
	instancesRoot = root + "instances/"
	overridesRoot = root + "overrides/"
	replicasRoot  = root + "replicas/"
)

const (
	presenceTTL = 10 * time.Second
	// storeTimeout bounds one request to the store.
	storeTimeout = 5 * time.Second
	// publishEvery is the least time between two writes of a presence.
	publishEvery = 100 * time.Millisecond
	// writers is how many records are written at the same time.
	writers = 16
)

// savedInstance is the record of an instance.
type savedInstance struct {
	// Owner is the replica that has the stream.
	Owner string `json:"owner"`
	// Heartbeat and Lease are durations such as "3s".
	Heartbeat string `json:"heartbeat"`
	Lease     string `json:"lease"`
	// Instance is a discovery.v1.Instance.
	Instance json.RawMessage `json:"instance"`
}

// override is an operator's word on the status of an instance.
type override struct {
	Status discoveryv1.Status `json:"status"`
	Author string             `json:"author,omitempty"`
	Reason string             `json:"reason,omitempty"`
}

// presence is what a replica says of itself.
type presence struct {
	Name string `json:"name"`
	// Acked is the store revision up to which all watchers of the replica know everything.
	Acked kv.Revision `json:"acked"`
}

func encodeInstance(owner string, rec *record) ([]byte, error) {
	body, err := protojson.Marshal(rec.inst)
	if err != nil {
		return nil, fmt.Errorf("encoding %s/%s: %w", rec.inst.GetService(), rec.inst.GetId(), err)
	}
	return json.Marshal(savedInstance{owner, rec.heartbeat.String(), rec.lease.String(), body})
}

// DecodeRecord reads the value of an instance key: for tools, and for fuzzing. The error says what is wrong with it.
func DecodeRecord(b []byte) (owner string, heartbeat, lease time.Duration, in *discoveryv1.Instance, err error) {
	var s savedInstance
	if err = json.Unmarshal(b, &s); err != nil {
		return "", 0, 0, nil, fmt.Errorf("decoding a record: %w", err)
	}
	in = &discoveryv1.Instance{}
	// A newer replica may write fields that this one does not know: an instance must not vanish from half of the replicas
	// while they are replaced.
	if err = (protojson.UnmarshalOptions{DiscardUnknown: true}).Unmarshal(s.Instance, in); err != nil {
		return "", 0, 0, nil, fmt.Errorf("decoding the instance of a record: %w", err)
	}
	if heartbeat, err = time.ParseDuration(s.Heartbeat); err == nil {
		lease, err = time.ParseDuration(s.Lease)
	}
	switch {
	case err != nil:
		err = fmt.Errorf("decoding the times of a record: %w", err)
	case heartbeat < MinHeartbeat || lease < 2*heartbeat || lease > MaxLease:
		err = fmt.Errorf("decoding a record: heartbeat %v and lease %v are out of bounds", heartbeat, lease)
	}
	return s.Owner, heartbeat, lease, in, err
}

func (k key) path(prefix string) string { return prefix + k.service + "/" + k.id }

// parseKey is the inverse of path.
func parseKey(prefix, path string) (key, bool) {
	rest, ok := strings.CutPrefix(path, prefix)
	service, id, ok2 := strings.Cut(rest, "/")
	return key{service, id}, ok && ok2 && names.Service.Match(service) && names.ID.Match(id)
}

// mirror folds what happens in the store into memory, until ctx ends.
func (s *Server) mirror(ctx context.Context) {
	for {
		u, err := s.watch.Next(ctx)
		if err != nil {
			return
		}
		s.reg.fold(u, time.Now())
	}
}

// fold applies an update of the store. Replicas come first: who is responsible for an instance depends on them.
func (r *registry) fold(u kv.Update, now time.Time) {
	r.mu.Lock()
	defer r.mu.Unlock()
	defer r.settleLocked()
	if u.Snapshot {
		r.loadedLocked(u, now)
	}
	instances := false
	for _, e := range u.Puts {
		r.foldReplicaLocked(e)
		r.foldOverrideLocked(e, u.Resync)
	}
	for _, path := range u.Deletes {
		r.foldGoneLocked(path, u, now)
	}
	lossy := r.lossyLocked(u)
	for _, e := range u.Puts {
		if k, ok := parseKey(instancesRoot, e.Key); ok {
			instances = r.foldInstanceLocked(k, e, u.Resync, now) || instances
		}
	}
	for _, path := range u.Deletes {
		if k, ok := parseKey(instancesRoot, path); ok {
			instances = r.foldRemovalLocked(k, u, lossy, now) || instances
		}
	}
	if instances || u.Snapshot {
		r.markLocked(u.Revision)
	}
}

func (r *registry) loadedLocked(u kv.Update, now time.Time) {
	r.loaded = true
	n := 0
	for _, e := range u.Puts {
		if strings.HasPrefix(e.Key, instancesRoot) {
			n++
		}
	}
	if n == 0 {
		r.warmUntil = now.Add(r.opts.Lease)
	}
	r.opts.Log.Info("the store was read", "instances", n, "warming_up", n == 0)
	wake(r.toStore)
}

// lossyLocked: a store that was cut off and comes back without many of the instances has more likely lost its data than
// heard all of them leave.
func (r *registry) lossyLocked(u kv.Update) bool {
	if !u.Resync {
		return false
	}
	n := 0
	for _, path := range u.Deletes {
		if k, ok := parseKey(instancesRoot, path); ok && r.findLocked(k) != nil {
			n++
		}
	}
	lossy := n >= r.opts.PreserveAtLeast && float64(n) > (1-r.opts.PreserveBelow)*float64(r.count)
	if lossy {
		r.opts.Log.Warn("the store came back without many instances, giving them a lease to be renewed", "instances", n, "of", r.count)
	}
	return lossy
}

func (r *registry) foldReplicaLocked(e kv.Entry) {
	id, ok := strings.CutPrefix(e.Key, replicasRoot)
	if !ok {
		return
	}
	var p presence
	if err := json.Unmarshal(e.Value, &p); err != nil {
		r.badLocked(e.Key, err)
		return
	}
	_, known := r.replicas[id]
	if r.replicas[id] = p; known {
		return
	}
	for service, m := range r.services {
		for name, rec := range m {
			if rec.owner == id && rec.doubted {
				rec.doubted = false
				r.reviseLocked(key{service, name}, rec, rec.inst, false)
			}
		}
	}
}

func (r *registry) foldOverrideLocked(e kv.Entry, force bool) {
	k, ok := parseKey(overridesRoot, e.Key)
	if !ok {
		return
	}
	var o override
	if err := json.Unmarshal(e.Value, &o); err != nil {
		r.badLocked(e.Key, err)
		return
	}
	r.overrideLocked(k, o, e.Modified, force)
}

// foldGoneLocked handles the end of a replica and of an override.
func (r *registry) foldGoneLocked(path string, u kv.Update, now time.Time) {
	if k, ok := parseKey(overridesRoot, path); ok {
		r.overrideLocked(k, override{}, u.Revision, u.Resync)
	}
	id, ok := strings.CutPrefix(path, replicasRoot)
	if !ok {
		return
	}
	delete(r.replicas, id)
	if id == r.self {
		return
	}
	orphans := 0
	for _, m := range r.services {
		for _, rec := range m {
			if rec.owner == id {
				rec.renewed = now
				orphans++
			}
		}
	}
	r.opts.Log.Info("a replica is gone, giving its instances a fresh lease", "replica", id, "instances", orphans)
}

// overrideLocked sets or clears an override and applies it to the instance, if there is one. Of two words the one with the
// later revision of the store holds, whichever is heard first; force is for a store that was listed again.
func (r *registry) overrideLocked(k key, o override, rev kv.Revision, force bool) {
	if rev < r.decided[k] && !force {
		return
	}
	r.decided[k] = rev
	if r.overrides[k] == o {
		return
	}
	if r.overrides[k] = o; o.Status == discoveryv1.Status_STATUS_UNSPECIFIED {
		delete(r.overrides, k)
	}
	if rec := r.findLocked(k); rec != nil {
		if r.reviseLocked(k, rec, rec.inst, rec.inst.GetSuspect()) && rec.owner == r.self {
			r.storeLocked(k)
		}
	}
}

// foldInstanceLocked applies a record, and reports whether it is another replica's.
func (r *registry) foldInstanceLocked(k key, e kv.Entry, force bool, now time.Time) bool {
	if !force && e.Modified <= r.stored[k].rev {
		return false
	}
	owner, beat, lease, in, err := DecodeRecord(e.Value)
	r.stored[k] = stored{e.Modified, owner}
	if err != nil || in.GetService() != k.service || in.GetId() != k.id {
		r.badLocked(e.Key, err)
		return false
	}
	if owner == r.self {
		return false // what is in memory is at least as new
	}
	delete(r.leaving, k)
	rec := r.findLocked(k)
	if rec == nil {
		rec = &record{}
		r.putLocked(k, rec)
	} else if rec.sess != nil && rec.inst.GetStarted().AsTime().After(in.GetStarted().AsTime()) {
		r.storeLocked(k) // an older process of the same id: ours stays
		return true
	}
	// A stream that is still here may be half open. Its next heartbeat, if it comes, claims the instance back.
	rec.owner, rec.heartbeat, rec.lease, rec.renewed, rec.doubted = owner, beat, lease, now, false
	r.reviseLocked(k, rec, in, in.GetSuspect())
	return true
}

// foldRemovalLocked applies the deletion of a record, and reports whether it mattered.
func (r *registry) foldRemovalLocked(k key, u kv.Update, lossy bool, now time.Time) bool {
	if !u.Resync && u.Revision < r.stored[k].rev {
		return false
	}
	delete(r.stored, k)
	delete(r.leaving, k)
	rec := r.findLocked(k)
	switch {
	case rec == nil:
		return false
	case rec.owner == r.self && rec.sess != nil:
		r.storeLocked(k) // it is alive, right here
		return false
	case lossy:
		rec.owner, rec.renewed = "", now
		r.warmUntil = now.Add(r.opts.Lease)
		return false
	}
	r.removeLocked(k)
	return true
}

func (r *registry) badLocked(path string, err error) {
	r.badKeys++
	r.opts.Log.Warn("ignoring an unreadable key of the store", "key", path, "err", err)
}

// write brings the store to what is in memory, for ever.
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
		away := make(chan bool, len(keys))
		for _, k := range keys {
			wg.Go(func() { away <- s.writeOne(ctx, k) != nil })
		}
		wg.Wait()
		close(away)
		for failed := range away {
			if failed {
				sleep(ctx, jittered(500*time.Millisecond))
				break
			}
		}
	}
}

// takeDirty returns some keys to write. None before this replica is known to the others: they would take its
// instances for orphans.
func (r *registry) takeDirty() []key {
	r.mu.Lock()
	defer r.mu.Unlock()
	if _, present := r.replicas[r.self]; !present || !r.loaded {
		return nil
	}
	var keys []key
	for k := range r.dirty {
		if r.writing[k] {
			continue
		}
		keys = append(keys, k)
		delete(r.dirty, k)
		r.writing[k] = true
		if len(keys) == writers {
			break
		}
	}
	return keys
}

// writeOne brings one key of the store to what is in memory. A key that somebody else has written is read and
// considered again.
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

// plan is the transaction that a key needs; without operations when it needs none.
func (r *registry) plan(k key) (kv.Txn, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	path, rec, st := k.path(instancesRoot), r.findLocked(k), r.stored[k]
	switch {
	case rec != nil && rec.owner == r.self:
		b, err := encodeInstance(r.self, rec)
		return kv.Txn{If: []kv.Cond{kv.At(path, st.rev)}, Then: []kv.Op{kv.Put(path, b)}}, err
	case rec == nil && r.leaving[k] && st.rev != 0:
		return kv.Txn{If: []kv.Cond{kv.At(path, st.rev)}, Then: []kv.Op{kv.Delete(path)}}, nil
	}
	return kv.Txn{}, nil
}

// wrote notes the outcome of a write.
func (r *registry) wrote(k key, txn kv.Txn, rev kv.Revision, err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.writing, k)
	switch {
	case err != nil:
		r.dirty[k] = true
	case len(txn.Then) == 0:
		delete(r.leaving, k)
	case txn.Then[0].Delete:
		delete(r.stored, k)
		delete(r.leaving, k)
	case r.stored[k].rev < rev:
		r.stored[k] = stored{rev, r.self}
	}
	if r.dirty[k] {
		wake(r.toStore)
	}
	r.settleLocked()
}

// reread takes over what somebody else has made of a key, and has it considered again.
func (s *Server) reread(ctx context.Context, k key) error {
	e, err := s.store.Get(ctx, k.path(instancesRoot))
	if err != nil && errs.KindOf(err) != errs.NotFound {
		s.reg.wrote(k, kv.Txn{}, 0, err)
		return err
	}
	r := s.reg
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.writing, k)
	if err != nil {
		delete(r.stored, k)
	} else {
		mine := r.findLocked(k)
		sess := mine != nil && mine.owner == r.self && mine.sess != nil
		r.foldInstanceLocked(k, e, true, time.Now())
		if sess {
			mine.owner = r.self // the stream is newer than what was found
		}
	}
	r.storeLocked(k)
	return nil
}

// evict deletes an instance whose lease has ended, unless somebody has written it since.
func (s *Server) evict(ctx context.Context, k key, now time.Time) error {
	r := s.reg
	r.mu.Lock()
	rec, st := r.findLocked(k), r.stored[k]
	if rec == nil || r.writing[k] {
		r.mu.Unlock()
		return nil
	}
	r.writing[k] = true
	silent := r.silenceLocked(rec, now)
	r.mu.Unlock()

	var err error
	if st.rev != 0 {
		ctx, cancel := context.WithTimeout(ctx, storeTimeout)
		defer cancel()
		path := k.path(instancesRoot)
		_, err = s.store.Txn(ctx, kv.Txn{If: []kv.Cond{kv.At(path, st.rev)}, Then: []kv.Op{kv.Delete(path)}})
	}
	if errs.KindOf(err) == errs.Conflict && err != nil {
		return s.reread(ctx, k)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.writing, k)
	if err != nil {
		wake(r.toStore) // the writer has passed over what came meanwhile
		return err
	}
	delete(r.stored, k)
	if r.findLocked(k) != rec || r.silenceLocked(rec, time.Now()) < rec.lease {
		r.storeLocked(k) // it came back meanwhile
		return nil
	}
	if rec.sess != nil {
		rec.sess.end(errs.Errorf(errs.Unavailable, "renewing %s/%s: the lease has ended, register again", k.service, k.id))
	}
	r.removeLocked(k)
	delete(r.dirty, k)
	r.lost.evicted = append(r.lost.evicted, now)
	r.lost.total++
	s.log.Info("evicted: its lease ended", "service", k.service, "id", k.id, "silent", silent)
	return nil
}

// attend keeps the presence of this replica in the store, until ctx ends.
func (s *Server) attend(ctx context.Context) {
	for ctx.Err() == nil {
		if err := s.present(ctx); err != nil && ctx.Err() == nil {
			s.log.Debug("keeping the presence of this replica", "err", err)
			sleep(ctx, jittered(time.Second))
		}
	}
}

// present keeps one lease for the presence, and says in it what the watchers here know.
func (s *Server) present(ctx context.Context) error {
	lease, err := s.store.Grant(ctx, presenceTTL)
	if err != nil {
		return err
	}
	defer func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
		defer cancel()
		_ = lease.Close(ctx) // if the store is away, the lease ends by itself
	}()
	for {
		if err := s.publish(ctx, lease.ID()); err != nil {
			return err
		}
		sleep(ctx, publishEvery)
		select {
		case <-ctx.Done():
			return nil
		case <-lease.Lost():
			return errs.Errorf(errs.Unavailable, "the lease was lost")
		case <-s.reg.toPeers:
		}
	}
}

func (s *Server) publish(ctx context.Context, id kv.LeaseID) error {
	s.reg.mu.Lock()
	p := presence{Name: s.opts.Name, Acked: s.reg.acked}
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
		s.reg.replicas[s.reg.self] = p
		s.reg.mu.Unlock()
		wake(s.reg.toStore)
	}
	return err
}

// mayOverride refuses an override of nothing.
func (r *registry) mayOverride(k key, clears bool) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	_, exists := r.overrides[k]
	if r.findLocked(k) == nil && (!clears || !exists) {
		return errs.Errorf(errs.NotFound, "overriding %s/%s: no such instance is registered", k.service, k.id)
	}
	return nil
}

// saveOverride makes an override durable, and then visible here; the other replicas learn it from the store.
func (s *Server) saveOverride(ctx context.Context, k key, o override) error {
	ctx, cancel := context.WithTimeout(ctx, storeTimeout)
	defer cancel()
	op := kv.Delete(k.path(overridesRoot))
	if o.Status != discoveryv1.Status_STATUS_UNSPECIFIED {
		b, err := json.Marshal(o)
		if err != nil {
			return err
		}
		op = kv.Put(k.path(overridesRoot), b)
	}
	rev, err := s.store.Txn(ctx, kv.Txn{Then: []kv.Op{op}})
	if err != nil {
		return errs.Errorf(errs.KindOf(err), "saving the override of %s/%s, nothing is changed: %w", k.service, k.id, err)
	}
	s.reg.mu.Lock()
	defer s.reg.mu.Unlock()
	if o.Status == discoveryv1.Status_STATUS_UNSPECIFIED {
		o = override{}
	}
	s.reg.overrideLocked(k, o, rev, false)
	return nil
}

// instance is an instance as callers see it; with its name only, when it is not registered.
func (r *registry) instance(k key) *discoveryv1.Instance {
	r.mu.Lock()
	defer r.mu.Unlock()
	if rec := r.findLocked(k); rec != nil {
		return rec.inst
	}
	return &discoveryv1.Instance{Service: k.service, Id: k.id}
}
