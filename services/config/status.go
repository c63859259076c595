package config

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	configv1 "bijou.dev/platform/api/config/v1"
	"bijou.dev/platform/discovery"
	"bijou.dev/platform/errs"

	"google.golang.org/grpc/metadata"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"
)

// hop marks a question from another replica in gRPC metadata: it is answered for the own watchers only.
const hop = "bijou-config-hop"

// Times of Status.
const (
	maxWait     = 5 * time.Minute
	peerTimeout = 2 * time.Second // beyond the wait
	askAgain    = 250 * time.Millisecond
)

// Status implements the contract.
//
// An instance that is cut off runs on with the settings that it has, so counting only those that watch would say "all
// of m" while somebody runs old ones. Therefore whoever is registered as following settings is counted too. The registry
// is asked, rather than a list kept here, as it knows what a broken stream cannot tell: whether the instance is gone. Its
// answer comes from memory, so Status works while it is away.
func (s *Server) Status(ctx context.Context, req *configv1.StatusRequest) (*configv1.StatusResponse, error) {
	md, _ := metadata.FromIncomingContext(ctx)
	forPeer := len(md.Get(hop)) > 0
	head, err := s.newest()
	if !forPeer {
		head, err = s.reach(ctx, req.GetRevision())
	}
	if err != nil {
		return nil, err
	}
	wait := req.GetWait().AsDuration()
	bad := errs.Errorf(errs.Invalid, "asking for status")
	switch {
	case req.GetRevision() < 0 || req.GetRevision() > head && !forPeer:
		return nil, bad.Field("revision", fmt.Sprintf("must be 0 to the newest, %d, is %d", head, req.GetRevision()))
	case wait < 0 || wait > maxWait:
		return nil, bad.Field("wait", fmt.Sprintf("must be 0s to %v, is %v", maxWait, wait))
	}
	app, revision := req.GetApp(), cmp.Or(req.GetRevision(), head)
	if forPeer {
		s.awaitAcks(ctx, app, revision, wait)
		return s.answer(app, revision, nil), nil
	}
	for deadline := time.Now().Add(wait); ; {
		others := s.askPeers(ctx, app, revision, max(0, time.Until(deadline)))
		s.awaitAcks(ctx, app, revision, max(0, time.Until(deadline)))
		resp := s.answer(app, revision, others.wait())
		// Who watches was waited for by the replica that is watched. Who does not may come back to any of them.
		left := time.Until(deadline)
		if left <= 0 || !slices.ContainsFunc(resp.GetInstances(), func(in *configv1.InstanceStatus) bool {
			return in.GetCutOff() && in.GetRevision() < revision
		}) {
			resp.Unreachable = others.silent
			return resp, nil
		}
		if err := s.awaitChange(ctx, min(left, askAgain)); err != nil {
			return nil, err
		}
	}
}

// member names an instance.
type member struct{ app, instance string }

func memberOf(id *configv1.Identity) member { return member{id.GetApp(), id.GetInstance()} }

// answer is who this replica knows, and what other replicas say.
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
		return cmp.Or(strings.Compare(a.app, b.app), strings.Compare(a.instance, b.instance))
	}) {
		if all[key].GetRevision() >= revision {
			resp.Current++
		}
		resp.Instances = append(resp.Instances, all[key])
	}
	resp.Total = int32(len(resp.Instances)) //nolint:gosec // instances of one platform
	return resp
}

// merge adds statuses. An instance that watches one replica is not cut off, whatever the others remember; one that is in
// two places has moved, and the later word counts.
func merge(all map[member]*configv1.InstanceStatus, list []*configv1.InstanceStatus) {
	for _, in := range list {
		key := memberOf(in.GetIdentity())
		had := all[key]
		switch {
		case had == nil, had.GetCutOff() && !in.GetCutOff():
		case in.GetCutOff() && !had.GetCutOff():
			continue
		case !had.GetAcknowledged().AsTime().Before(in.GetAcknowledged().AsTime()):
			continue
		}
		all[key] = in
	}
}

// watching returns who watches this replica.
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

// cutOff returns who is registered as following settings, as if nobody watched: merge knows better. The error says why
// the registry may not know everybody.
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
				App: in.Service, Instance: in.ID, Environment: in.Environment, Region: in.Region, Zone: in.Zone, Version: in.Version,
			}}
		}
		list = append(list, last)
	}
	maps.DeleteFunc(s.left, func(key member, _ *configv1.InstanceStatus) bool { return !known[key] })
	return list, err
}

// maxLeft is how many last words are kept. Who left beyond is counted all the same, at revision 0.
const maxLeft = 10_000

// leftLocked remembers what a watcher said last.
func (s *Server) leftLocked(w *watcher) {
	key := memberOf(w.id)
	had := s.left[key]
	if had == nil && len(s.left) >= maxLeft || had.GetAcknowledged().AsTime().After(w.status.GetAcknowledged().AsTime()) {
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
		behind := slices.ContainsFunc(s.watching(app), func(in *configv1.InstanceStatus) bool { return in.GetRevision() < revision })
		if !behind {
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

// asked is a question to all other replicas.
type asked struct {
	cancel  context.CancelFunc
	group   sync.WaitGroup
	mu      sync.Mutex
	answers []*configv1.StatusResponse
	silent  []string // who did not answer, sorted once all are waited for
}

func (s *Server) askPeers(ctx context.Context, app string, revision int64, wait time.Duration) *asked {
	a := &asked{}
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
				s.log.WarnContext(ctx, "config: a replica does not answer", "replica", name, "err", err)
				a.silent = append(a.silent, name)
				return
			}
			a.answers = append(a.answers, resp)
		})
	}
	return a
}

// wait returns the answers when all have answered or their time is up.
func (a *asked) wait() []*configv1.StatusResponse {
	a.group.Wait()
	a.cancel()
	slices.Sort(a.silent)
	return a.answers
}
