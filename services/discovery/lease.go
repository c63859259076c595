package discovery

import (
	"context"
	"maps"
	"slices"
	"time"

	discoveryv1 "bijou.dev/platform/api/discovery/v1"
	"bijou.dev/platform/errs"
	"bijou.dev/platform/kv"
)

const (
	// tickEvery is how often leases are checked.
	tickEvery = time.Second
	// maxDelay is how late a check may be. A later one means that this process was stopped (SIGSTOP, a paused machine),
	// so that instances could not renew: then each gets a fresh lease.
	maxDelay = 3 * time.Second
)

// lease is how long an instance may be silent, and which replica evicts it when it is silent for longer.
type lease struct {
	heartbeat, length time.Duration
	// owner is the replica that has, or last had, the registration stream. Empty: none.
	owner string
	// renewed is the time of the last heartbeat, or when this replica learned of the lease. It is compared by its
	// monotonic part.
	renewed time.Time
	// ownerLost: the instance is a suspect because its owner is not live, and not because its owner has marked it.
	ownerLost bool
}

// late is the silence after which an instance counts as lost, although its lease has not ended. When many instances
// become silent at the same moment, their leases end over a whole heartbeat. The first must not be evicted before the
// others are counted.
func (l *lease) late() time.Duration {
	return max(l.heartbeat*5/4, min(2*l.heartbeat, l.length-l.heartbeat*5/4))
}

// leases decide which leases this replica must end, and when. The registry's lock guards them.
type leases struct {
	self     string              // this replica
	replicas map[string]presence // live replicas, this one included once its presence is in the store
	renewed  time.Time           // when all instances last got a fresh lease
}

// mine reports whether this replica must end a lease: it does so for its own and for those whose owner is not live.
func (l *leases) mine(of *lease) bool {
	if of.owner == l.self {
		return true
	}
	_, live := l.replicas[of.owner]
	return !live
}

// silence is how long an instance has not renewed. The times are monotonic: a change of the clock has no effect.
func (l *leases) silence(of *lease, now time.Time) time.Duration {
	since := of.renewed
	if l.renewed.After(since) {
		since = l.renewed
	}
	return now.Sub(since)
}

// census returns the instances that are lost, and those whose lease has ended and that this replica must evict.
func (l *leases) census(all *instances, now time.Time) (lost map[key]bool, ended []key) {
	lost = map[key]bool{}
	for k, rec := range all.all() {
		if !l.mine(&rec.lease) {
			if rec.inst.GetSuspect() {
				lost[k] = true
			}
			continue
		}
		silent := l.silence(&rec.lease, now)
		if silent > rec.lease.late() {
			lost[k] = true
		}
		if silent >= rec.lease.length {
			ended = append(ended, k)
		}
	}
	return lost, ended
}

// timesOf returns the heartbeat and the lease of an instance, with defaults for those that it does not ask for. The
// result is within the bounds that other replicas check when they read the record.
func (o *Options) timesOf(req *discoveryv1.RegisterRequest) (beat, length time.Duration) {
	beat, length = req.GetHeartbeat().AsDuration(), req.GetLease().AsDuration()
	if beat == 0 && length == 0 {
		return o.Heartbeat, o.Lease
	}
	if beat == 0 {
		beat = min(o.Heartbeat, max(length/3, MinHeartbeat))
	}
	if length == 0 {
		length = min(max(o.Lease, 3*beat), MaxLease)
	}
	return beat, length
}

// tick checks leases and watchers, and evicts. It is called every tickEvery.
func (s *Server) tick(ctx context.Context, now, last time.Time) {
	r := s.reg
	r.mu.Lock()
	r.notePausesLocked(s.watch.Problem(), now, last)
	r.checkWatchersLocked(now)
	evict := r.endedLocked(now)
	r.mu.Unlock()
	for _, k := range evict {
		if err := s.evict(ctx, k, now); err != nil {
			s.log.Warn("evicting", "service", k.service, "instance", k.id, "error", err)
			if errs.KindOf(err) != errs.Conflict {
				return // the store is down: nothing is evicted
			}
		}
	}
}

// notePausesLocked gives all instances a fresh lease after a time in which they could not renew, or in which this
// replica could not see that they had renewed at another one.
func (r *registry) notePausesLocked(problem error, now, last time.Time) {
	before := r.store.problem
	switch {
	case before != nil && problem == nil && r.store.loaded:
		r.opts.Log.Info("the store is back, giving each instance a fresh lease", "instances", r.instances.count)
		r.leases.renewed = now
	case before == nil && problem != nil:
		r.opts.Log.Warn("the store is down: serving from memory, evicting nothing", "error", problem)
	}
	if problem != nil || r.store.loaded {
		r.store.problem = problem
	}
	if now.Sub(last) > tickEvery+maxDelay {
		r.opts.Log.Warn("this process was stopped, giving each instance a fresh lease", "took", now.Sub(last))
		r.leases.renewed = now
	}
}

// endedLocked returns the instances to evict. When nothing is to be evicted, it marks the lost ones as suspects.
func (r *registry) endedLocked(now time.Time) (evict []key) {
	lost, ended := r.leases.census(&r.instances, now)
	evicting, fresh := r.losses.update(lost, r.instances.count, r.store.usable(), now)
	if fresh {
		r.leases.renewed = now
	}
	if evicting {
		return ended
	}
	suspects := ended
	if r.losses.active {
		suspects = slices.Collect(maps.Keys(lost))
	}
	for _, k := range suspects {
		if rec := r.instances.find(k); r.leases.mine(&rec.lease) {
			r.suspectLocked(k, rec)
		}
	}
	return nil
}

// evict deletes an instance whose lease has ended, unless its record was written since.
func (s *Server) evict(ctx context.Context, k key, now time.Time) error {
	r := s.reg
	r.mu.Lock()
	rec, st := r.instances.find(k), r.store.stored[k]
	if rec == nil || r.store.writing[k] {
		r.mu.Unlock()
		return nil
	}
	r.store.writing[k] = true
	silent := r.leases.silence(&rec.lease, now)
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
	delete(r.store.writing, k)
	if err != nil {
		wake(r.toStore) // the writer has skipped changes of this instance meanwhile
		return err
	}
	delete(r.store.stored, k)
	if r.instances.find(k) != rec || r.leases.silence(&rec.lease, time.Now()) < rec.lease.length {
		r.writeLocked(k) // it has renewed meanwhile
		return nil
	}
	if rec.sess != nil {
		rec.sess.end(errs.Errorf(errs.Unavailable, "renewing %s/%s: the lease has ended, register again",
			k.service, k.id))
	}
	r.removeLocked(k)
	delete(r.store.dirty, k)
	r.losses.evictedAt(now)
	s.log.Info("evicted: its lease ended", "service", k.service, "instance", k.id, "silent", silent)
	return nil
}
