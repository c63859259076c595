package discovery

import (
	"fmt"
	"maps"
	"time"

	discoveryv1 "bijou.dev/platform/api/discovery/v1"
	"google.golang.org/protobuf/types/known/timestamppb"
)

// preservation is the state of self-preservation: while it is active nothing is evicted. See the package comment. The
// registry's lock guards it.
type preservation struct {
	opts    Options
	active  bool
	reason  string       // for operators, while active
	since   time.Time    // when it began
	changed time.Time    // when lost last changed
	lost    map[key]bool // as of the last update
	evicted []time.Time  // evictions within the last lease
	total   uint64       // evictions since the start
}

// evictedAt records an eviction.
func (p *preservation) evictedAt(now time.Time) {
	p.evicted = append(p.evicted, now)
	p.total++
}

// update decides whether instances whose lease has ended are evicted. registered is the number of instances, the lost
// ones included. fresh: each instance has to get a fresh lease.
func (p *preservation) update(
	lost map[key]bool, registered int, storeUsable bool, now time.Time,
) (evicting, fresh bool) {
	for len(p.evicted) > 0 && now.Sub(p.evicted[0]) > p.opts.Lease {
		p.evicted = p.evicted[1:]
	}
	if !maps.Equal(lost, p.lost) {
		p.lost, p.changed = lost, now
	}
	missing, expected := len(lost)+len(p.evicted), registered+len(p.evicted)
	alarm := p.opts.suspicious(missing, expected)
	switch {
	case !storeUsable:
		// Without the store nothing is evicted: an instance may have renewed at another replica.
	case p.active && !alarm:
		p.end("enough instances have renewed or left", missing, expected)
		fresh = true
	case p.active && now.Sub(p.changed) >= p.opts.PreserveFor:
		p.end("nothing has changed for "+p.opts.PreserveFor.String()+", so the lost instances are evicted",
			missing, expected)
		return true, false
	case p.active:
	case alarm:
		// It begins before any lease has ended. So a replica that owns few of the lost instances sees the suspects of
		// the other replicas before it evicts its own.
		p.active, p.since, p.changed = true, now, now
		p.opts.Log.Warn("self-preservation begins", "lost", missing, "instances", expected)
	default:
		return true, false
	}
	if p.active {
		p.reason = fmt.Sprintf("%d of %d instances have stopped renewing within %v without leaving: not evicting",
			missing, expected, p.opts.Lease)
	}
	return false, fresh
}

// suspicious reports whether so many instances are missing that a fault of the network is more likely than crashes.
func (o *Options) suspicious(missing, expected int) bool {
	return missing >= o.PreserveAtLeast && float64(missing) > (1-o.PreserveBelow)*float64(expected)
}

func (p *preservation) end(reason string, missing, expected int) {
	p.opts.Log.Info("self-preservation ends",
		"reason", reason, "lost", missing, "instances", expected, "took", time.Since(p.since))
	p.active, p.reason, p.since = false, "", time.Time{}
}

// preserving returns the state of self-preservation for operators.
func (r *registry) preserving() *discoveryv1.SelfPreservation {
	r.mu.Lock()
	defer r.mu.Unlock()
	if !r.losses.active {
		return &discoveryv1.SelfPreservation{}
	}
	return &discoveryv1.SelfPreservation{Active: true, Reason: r.losses.reason, Since: timestamppb.New(r.losses.since)}
}
