package discovery

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"time"

	discoveryv1 "bijou.dev/platform/api/discovery/v1"
	"bijou.dev/platform/errs"
	"google.golang.org/protobuf/types/known/timestamppb"
)

// tickEvery is how often leases are looked at. stall is how late a look may be before this process is taken to have been
// stopped itself, and everybody gets a fresh lease.
const (
	tickEvery = time.Second
	stall     = 3 * time.Second
)

// preservation is the state of self-preservation. The registry's mu guards it.
type preservation struct {
	active  bool
	reason  string
	since   time.Time
	changed time.Time    // when something was last lost or found
	who     map[key]bool // what is lost, as of the last look
	evicted []time.Time  // within the last lease
	total   uint64       // evictions since the start
}

// mineLocked reports whether this replica watches over an instance's lease: its own and the orphaned.
func (r *registry) mineLocked(rec *record) bool {
	if rec.owner == r.self {
		return true
	}
	_, live := r.replicas[rec.owner]
	return !live
}

// silence is how long an instance has not renewed. Times are monotonic: a step of the clock changes nothing.
func (r *registry) silenceLocked(rec *record, now time.Time) time.Duration {
	since := rec.renewed
	if r.grace.After(since) {
		since = r.grace
	}
	return now.Sub(since)
}

// late is the silence after which an instance counts as lost, though its lease still runs. When many fall silent at the same
// moment their leases end over a whole heartbeat, and the first must not be evicted before the others are noticed.
func (rec *record) late() time.Duration {
	return max(rec.heartbeat*5/4, min(2*rec.heartbeat, rec.lease-rec.heartbeat*5/4))
}

// census counts instances: all, those that are lost, and those whose lease has ended and is ours to end.
func (r *registry) censusLocked(now time.Time) (total int, lost map[key]bool, ended []key) {
	lost = map[key]bool{}
	for service, m := range r.services {
		for id, rec := range m {
			total++
			k := key{service, id}
			if !r.mineLocked(rec) {
				if rec.inst.GetSuspect() {
					lost[k] = true
				}
				continue
			}
			silent := r.silenceLocked(rec, now)
			if silent > rec.late() {
				lost[k] = true
			}
			if silent >= rec.lease {
				ended = append(ended, k)
			}
		}
	}
	return total, lost, ended
}

// judge decides what becomes of instances whose lease has ended: it returns those to evict and marks the others.
func (r *registry) judge(now time.Time) []key {
	r.mu.Lock()
	defer r.mu.Unlock()
	p := &r.lost
	total, lost, ended := r.censusLocked(now)
	for len(p.evicted) > 0 && now.Sub(p.evicted[0]) > r.opts.Lease {
		p.evicted = p.evicted[1:]
	}
	if !maps.Equal(lost, p.who) {
		p.who, p.changed = lost, now
	}
	gone, expected := len(lost)+len(p.evicted), total+len(p.evicted)
	alarm := gone >= r.opts.PreserveAtLeast && float64(gone) > (1-r.opts.PreserveBelow)*float64(expected)
	switch {
	case !r.loaded || r.problem != nil:
		// Nobody is evicted without the store: the instance may be renewing at a replica that cannot tell us.
	case p.active && !alarm:
		r.relaxLocked("enough instances have renewed or left", gone, expected)
		r.grace = now
	case p.active && now.Sub(p.changed) >= r.opts.PreserveFor:
		r.relaxLocked("nothing has changed for "+r.opts.PreserveFor.String()+", so the losses are believed", gone, expected)
		return ended
	case p.active:
	case alarm: // before any lease has ended, so that replicas with fewer of the lost than would alarm them hear of it in time
		p.active, p.since, p.changed = true, now, now
		r.opts.Log.Warn("self-preservation begins", "lost", gone, "instances", expected)
	default:
		return ended
	}
	doubted := ended
	if p.active {
		doubted = slices.Collect(maps.Keys(lost))
		p.reason = fmt.Sprintf("%d of %d instances have stopped renewing within %v without leaving: not evicting", gone, expected, r.opts.Lease)
	}
	for _, k := range doubted {
		if rec := r.findLocked(k); r.mineLocked(rec) {
			r.suspectLocked(k, rec)
		}
	}
	return nil
}

func (r *registry) relaxLocked(why string, gone, expected int) {
	r.opts.Log.Info("self-preservation ends", "why", why, "lost", gone, "instances", expected, "lasted", time.Since(r.lost.since))
	r.lost.active, r.lost.reason, r.lost.since = false, "", time.Time{}
}

// preserving describes self-preservation for people.
func (r *registry) preserving() *discoveryv1.SelfPreservation {
	r.mu.Lock()
	defer r.mu.Unlock()
	if !r.lost.active {
		return &discoveryv1.SelfPreservation{}
	}
	return &discoveryv1.SelfPreservation{Active: true, Reason: r.lost.reason, Since: timestamppb.New(r.lost.since)}
}

// look does what is due: it is called every tickEvery.
func (s *Server) look(ctx context.Context, now, last time.Time) {
	r := s.reg
	problem := s.watch.Problem()
	r.mu.Lock()
	if r.problem != nil && problem == nil && r.loaded {
		r.opts.Log.Info("the store is back, giving everybody a fresh lease", "instances", r.count)
		r.grace = now
	} else if r.problem == nil && problem != nil {
		r.opts.Log.Warn("the store is away: serving from memory, evicting nobody", "err", problem)
	}
	if problem != nil || r.loaded {
		r.problem = problem
	}
	if now.Sub(last) > tickEvery+stall {
		r.opts.Log.Warn("this process was stopped, giving everybody a fresh lease", "for", now.Sub(last))
		r.grace = now
	}
	r.attendLocked(now)
	r.mu.Unlock()
	for _, k := range r.judge(now) {
		if err := s.evict(ctx, k, now); err != nil {
			s.log.Warn("evicting", "service", k.service, "id", k.id, "err", err)
			if errs.KindOf(err) != errs.Conflict {
				return // the store is away: nobody is evicted
			}
		}
	}
}
