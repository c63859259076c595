package config

import (
	"cmp"
	"context"
	"maps"
	"slices"
	"sync"
	"time"

	configv1 "bijou.dev/platform/api/config/v1"
	"bijou.dev/platform/discovery"
	"bijou.dev/platform/errs"

	"google.golang.org/grpc/metadata"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"
)

// hop is the key of gRPC metadata that marks a request from another replica. The response has only the watchers of this
// replica.
const hop = "bijou-config-hop"

// Times of Status.
const (
	maxWait     = 5 * time.Minute
	peerTimeout = 2 * time.Second        // beyond the wait
	pollPeers   = 250 * time.Millisecond // between two requests to the other replicas
)

// Status implements the contract.
//
// An instance that is cut off keeps running with the settings that it has. If only watchers were counted, the response
// could be "3 of 3" while a fourth instance runs old settings. So instances that are registered as following settings
// are counted too. The registry, and not a broken stream, says whether an instance still exists. The process's copy of
// it is in memory, so Status works while the registry is away.
func (s *Server) Status(ctx context.Context, req *configv1.StatusRequest) (*configv1.StatusResponse, error) {
	md, _ := metadata.FromIncomingContext(ctx)
	forPeer := len(md.Get(hop)) > 0
	newest, err := s.newest()
	if !forPeer {
		newest, err = s.reach(ctx, req.GetRevision())
	}
	if err != nil {
		return nil, err
	}
	wait := req.GetWait().AsDuration()
	var bad errs.Violations
	if req.GetRevision() < 0 || req.GetRevision() > newest && !forPeer {
		bad.Addf("revision", "must be 0 to the newest, %d, is %d", newest, req.GetRevision())
	}
	if wait < 0 || wait > maxWait {
		bad.Addf("wait", "must be 0s to %v, is %v", maxWait, wait)
	}
	if err := bad.Err("asking for status"); err != nil {
		return nil, err
	}
	app, revision := req.GetApp(), cmp.Or(req.GetRevision(), newest)
	if forPeer {
		s.awaitAcks(ctx, app, revision, wait)
		return s.answer(app, revision, nil), nil
	}
	for deadline := time.Now().Add(wait); ; {
		others := s.askPeers(ctx, app, revision, max(0, time.Until(deadline)))
		s.awaitAcks(ctx, app, revision, max(0, time.Until(deadline)))
		resp := s.answer(app, revision, others.wait())
		// Each replica has waited for its own watchers. An instance that is cut off may return to any replica.
		remaining := time.Until(deadline)
		if remaining <= 0 || !slices.ContainsFunc(resp.GetInstances(), func(in *configv1.InstanceStatus) bool {
			return in.GetCutOff() && in.GetRevision() < revision
		}) {
			resp.Unreachable = others.silent
			return resp, nil
		}
		if err := s.awaitChange(ctx, min(remaining, pollPeers)); err != nil {
			return nil, err
		}
	}
}

// member names an instance.
type member struct{ app, instance string }

func memberOf(id *configv1.Identity) member { return member{id.GetApp(), id.GetInstance()} }

// answer returns the status of all instances that this replica or one of the others knows.
func (s *Server) answer(app string, revision int64, others []*configv1.StatusResponse) *configv1.StatusResponse {
	all := map[member]*configv1.InstanceStatus{}
	resp := &configv1.StatusResponse{Revision: revision}
	merge(all, s.watching(app))
	cutOff, err := s.cutOff(app)
	if err != nil {
		resp.RegistryProblem = err.Error()
	}
	merge(all, cutOff)
	for _, other := range others {
		merge(all, other.GetInstances())
	}
	for _, key := range slices.SortedFunc(maps.Keys(all), func(a, b member) int {
		return cmp.Or(cmp.Compare(a.app, b.app), cmp.Compare(a.instance, b.instance))
	}) {
		if all[key].GetRevision() >= revision {
			resp.Current++
		}
		resp.Instances = append(resp.Instances, all[key])
	}
	resp.Total = int32(len(resp.Instances)) //nolint:gosec // instances of one platform
	return resp
}

// merge adds statuses to all. An instance that watches a replica is not cut off, whatever other replicas remember of
// it. If two replicas have a status of an instance, it has moved, and the later one counts.
func merge(all map[member]*configv1.InstanceStatus, list []*configv1.InstanceStatus) {
	for _, in := range list {
		key := memberOf(in.GetIdentity())
		known := all[key]
		switch {
		case known == nil, known.GetCutOff() && !in.GetCutOff():
		case in.GetCutOff() && !known.GetCutOff():
			continue
		case !known.GetAcknowledged().AsTime().Before(in.GetAcknowledged().AsTime()):
			continue
		}
		all[key] = in
	}
}

// watching returns the status of the instances that watch this replica.
func (s *Server) watching(app string) []*configv1.InstanceStatus {
	s.amu.Lock()
	defer s.amu.Unlock()
	var list []*configv1.InstanceStatus
	for w := range s.watchers {
		if app == "" || w.id.GetApp() == app {
			list = append(list, w.status)
		}
	}
	return list
}

// cutOff returns a status for each instance that is registered as following settings. All are marked as cut off; merge
// prefers the status of those that watch. The error says why the registry may not know all instances.
func (s *Server) cutOff(app string) ([]*configv1.InstanceStatus, error) {
	if s.opts.Registered == nil {
		return nil, nil
	}
	registered, err := s.opts.Registered()
	var list []*configv1.InstanceStatus
	known := map[member]bool{}
	s.amu.Lock()
	defer s.amu.Unlock()
	for _, in := range registered {
		if in.Metadata[discovery.MetaSettings] != discovery.SettingsWatched {
			continue
		}
		key := member{in.Service, in.ID}
		known[key] = true
		if app != "" && app != in.Service {
			continue
		}
		last := s.left[key]
		if last == nil {
			last = &configv1.InstanceStatus{CutOff: true, Identity: &configv1.Identity{
				App: in.Service, Instance: in.ID,
				Environment: in.Environment, Region: in.Region, Zone: in.Zone, Version: in.Version,
			}}
		}
		list = append(list, last)
	}
	maps.DeleteFunc(s.left, func(key member, _ *configv1.InstanceStatus) bool { return !known[key] })
	return list, err
}

// maxLeft is how many last statuses are kept. Instances beyond that are counted too, at revision 0.
const maxLeft = 10_000

// leftLocked keeps the last status of a watcher.
func (s *Server) leftLocked(w *watcher) {
	key := memberOf(w.id)
	known := s.left[key]
	if known == nil && len(s.left) >= maxLeft {
		return
	}
	if known.GetAcknowledged().AsTime().After(w.status.GetAcknowledged().AsTime()) {
		return
	}
	last := proto.CloneOf(w.status)
	last.CutOff = true
	s.left[key] = last
}

// awaitAcks waits until all watchers of this replica run the revision, at most for wait.
func (s *Server) awaitAcks(ctx context.Context, app string, revision int64, wait time.Duration) {
	if wait == 0 {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, wait)
	defer cancel()
	for {
		s.amu.Lock()
		acked := s.acked
		s.amu.Unlock()
		if !slices.ContainsFunc(s.watching(app), func(in *configv1.InstanceStatus) bool {
			return in.GetRevision() < revision
		}) {
			return
		}
		select {
		case <-ctx.Done():
			return
		case <-acked:
		}
	}
}

// awaitChange waits for a change of any status, at most for d. The error is that ctx has ended.
func (s *Server) awaitChange(ctx context.Context, d time.Duration) error {
	s.amu.Lock()
	changed := s.acked
	s.amu.Unlock()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-changed:
	case <-time.After(d):
	}
	return nil
}

// peerStatus is a request to all other replicas.
type peerStatus struct {
	cancel  context.CancelFunc
	group   sync.WaitGroup
	mu      sync.Mutex
	answers []*configv1.StatusResponse
	silent  []string // names of the replicas that did not answer; sorted by wait
}

func (s *Server) askPeers(ctx context.Context, app string, revision int64, wait time.Duration) *peerStatus {
	a := &peerStatus{}
	ctx, a.cancel = context.WithTimeout(metadata.AppendToOutgoingContext(ctx, hop, "1"), wait+peerTimeout)
	req := &configv1.StatusRequest{App: app, Revision: revision, Wait: durationpb.New(wait)}
	if s.opts.Peers == nil {
		return a
	}
	for name, peer := range s.opts.Peers() {
		a.group.Go(func() {
			resp, err := peer.Status(ctx, proto.CloneOf(req))
			a.mu.Lock()
			defer a.mu.Unlock()
			if err != nil {
				s.log.WarnContext(ctx, "config: a replica does not answer", "replica", name, "error", err)
				a.silent = append(a.silent, name)
				return
			}
			a.answers = append(a.answers, resp)
		})
	}
	return a
}

// wait returns the answers when all replicas have answered or the time is over.
func (a *peerStatus) wait() []*configv1.StatusResponse {
	a.group.Wait()
	a.cancel()
	slices.Sort(a.silent)
	return a.answers
}
