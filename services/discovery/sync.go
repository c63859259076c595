package discovery

import (
	"context"
	"encoding/json"
	"strings"
	"time"

	"bijou.dev/platform/errs"
	"bijou.dev/platform/kv"
)

// storeState is the state of the exchange with the store. The registry's lock guards it.
type storeState struct {
	stored    map[key]stored
	dirty     map[key]bool // to be written
	writing   map[key]bool // a write is in progress
	leaving   map[key]bool // deregistered here, to be deleted
	loaded    bool         // the store was read once
	warmUntil time.Time    // until then some instances may be missing
	problem   error        // why the store is not in use; nil: it is
	badKeys   uint64       // unreadable keys
}

// stored is the record of an instance in the store, as last read or written by this replica.
type stored struct {
	rev   kv.Revision
	owner string
}

func newStoreState() storeState {
	return storeState{
		stored: map[key]stored{}, dirty: map[key]bool{}, writing: map[key]bool{}, leaving: map[key]bool{},
		problem: errs.Errorf(errs.Unavailable, "the store has not answered yet"),
	}
}

// warming reports whether instances that are live may still be missing.
func (s *storeState) warming(now time.Time) bool { return !s.loaded || now.Before(s.warmUntil) }

func (s *storeState) usable() bool { return s.loaded && s.problem == nil }

// has reports whether the store has this replica's newest record of an instance, and at which revision.
func (s *storeState) has(k key, self string) (rev kv.Revision, ok bool) {
	st := s.stored[k]
	return st.rev, !s.dirty[k] && !s.writing[k] && st.owner == self
}

// storeProblem returns why the store is not in use. Empty: it is in use.
func (r *registry) storeProblem() string {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.store.problem == nil {
		return ""
	}
	return r.store.problem.Error()
}

// mirror applies the changes of the store to memory, until ctx ends.
func (s *Server) mirror(ctx context.Context) {
	for {
		u, err := s.watch.Next(ctx)
		if err != nil {
			return
		}
		s.reg.applyUpdate(u, time.Now())
	}
}

// applyUpdate applies an update of the store. Replicas come first, because the owners of instances depend on them.
func (r *registry) applyUpdate(u kv.Update, now time.Time) {
	r.mu.Lock()
	defer r.mu.Unlock()
	defer r.ackedLocked()
	if u.Snapshot {
		r.loadedLocked(u, now)
	}
	instances := false
	for _, e := range u.Puts {
		r.applyReplicaLocked(e)
		r.applyOverrideLocked(e, u.Resync)
	}
	for _, path := range u.Deletes {
		r.applyEndLocked(path, u, now)
	}
	lossy := r.lossyLocked(u)
	for _, e := range u.Puts {
		if k, ok := parseKey(instancesRoot, e.Key); ok {
			instances = r.applyInstanceLocked(k, e, u.Resync, now) || instances
		}
	}
	for _, path := range u.Deletes {
		if k, ok := parseKey(instancesRoot, path); ok {
			instances = r.applyRemovalLocked(k, u, lossy, now) || instances
		}
	}
	if instances || u.Snapshot {
		r.watchers.mark(r.version, u.Revision)
	}
}

func (r *registry) loadedLocked(u kv.Update, now time.Time) {
	r.store.loaded = true
	n := 0
	for _, e := range u.Puts {
		if strings.HasPrefix(e.Key, instancesRoot) {
			n++
		}
	}
	if n == 0 {
		r.store.warmUntil = now.Add(r.opts.Lease)
	}
	r.opts.Log.Info("the store was read", "instances", n, "warming_up", n == 0)
	wake(r.toStore)
}

// lossyLocked reports whether the store seems to have lost data: after a resync so many instances are missing that it
// is unlikely that all of them have left.
func (r *registry) lossyLocked(u kv.Update) bool {
	if !u.Resync {
		return false
	}
	n := 0
	for _, path := range u.Deletes {
		if k, ok := parseKey(instancesRoot, path); ok && r.instances.find(k) != nil {
			n++
		}
	}
	lossy := r.opts.suspicious(n, r.instances.count)
	if lossy {
		r.opts.Log.Warn("the store has lost many instances, giving them a lease to renew",
			"lost", n, "instances", r.instances.count)
	}
	return lossy
}

func (r *registry) applyReplicaLocked(e kv.Entry) {
	id, ok := strings.CutPrefix(e.Key, replicasRoot)
	if !ok {
		return
	}
	var p presence
	if err := json.Unmarshal(e.Value, &p); err != nil {
		r.badLocked(e.Key, err)
		return
	}
	_, known := r.leases.replicas[id]
	if r.leases.replicas[id] = p; known {
		return
	}
	for k, rec := range r.instances.all() {
		if rec.lease.owner == id && rec.lease.ownerLost {
			rec.lease.ownerLost = false
			r.reviseLocked(k, rec, rec.inst, false)
		}
	}
}

func (r *registry) applyOverrideLocked(e kv.Entry, force bool) {
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

// applyEndLocked handles the end of a replica and of an override.
func (r *registry) applyEndLocked(path string, u kv.Update, now time.Time) {
	if k, ok := parseKey(overridesRoot, path); ok {
		r.overrideLocked(k, override{}, u.Revision, u.Resync)
	}
	id, ok := strings.CutPrefix(path, replicasRoot)
	if !ok {
		return
	}
	delete(r.leases.replicas, id)
	if id == r.self {
		return
	}
	orphans := 0
	for _, rec := range r.instances.all() {
		if rec.lease.owner == id {
			rec.lease.renewed = now
			orphans++
		}
	}
	r.opts.Log.Info("a replica has ended, giving its instances a fresh lease", "replica", id, "instances", orphans)
}

// applyInstanceLocked applies a record, and reports whether it changes an instance of another replica.
func (r *registry) applyInstanceLocked(k key, e kv.Entry, force bool, now time.Time) bool {
	if !force && e.Modified <= r.store.stored[k].rev {
		return false
	}
	owner, beat, length, in, err := DecodeRecord(e.Value)
	r.store.stored[k] = stored{e.Modified, owner}
	if err != nil || in.GetService() != k.service || in.GetId() != k.id {
		r.badLocked(e.Key, err)
		return false
	}
	if owner == r.self {
		return false // the instance in memory is at least as new
	}
	delete(r.store.leaving, k)
	rec := r.instances.find(k)
	if rec == nil {
		rec = &record{}
		r.instances.put(k, rec)
	} else if rec.sess != nil && rec.inst.GetStarted().AsTime().After(in.GetStarted().AsTime()) {
		r.writeLocked(k) // the record is of an older process of the same id
		return true
	}
	// The stream of this replica, if any, may be half open. If a heartbeat comes on it, this replica becomes the owner
	// again.
	rec.lease = lease{heartbeat: beat, length: length, owner: owner, renewed: now}
	r.reviseLocked(k, rec, in, in.GetSuspect())
	return true
}

// applyRemovalLocked applies the deletion of a record, and reports whether it has removed an instance.
func (r *registry) applyRemovalLocked(k key, u kv.Update, lossy bool, now time.Time) bool {
	if !u.Resync && u.Revision < r.store.stored[k].rev {
		return false
	}
	delete(r.store.stored, k)
	delete(r.store.leaving, k)
	rec := r.instances.find(k)
	switch {
	case rec == nil:
		return false
	case rec.lease.owner == r.self && rec.sess != nil:
		r.writeLocked(k) // it renews at this replica
		return false
	case lossy:
		rec.lease.owner, rec.lease.renewed = "", now
		r.store.warmUntil = now.Add(r.opts.Lease)
		return false
	}
	r.removeLocked(k)
	return true
}

func (r *registry) badLocked(path string, err error) {
	r.store.badKeys++
	r.opts.Log.Warn("ignoring an unreadable key of the store", "key", path, "error", err)
}
