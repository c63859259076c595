package config

import (
	"cmp"
	"context"
	"fmt"
	"log/slog"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"time"

	configv1 "bijou.dev/platform/api/config/v1"
	settings "bijou.dev/platform/config"
	"bijou.dev/platform/errs"
	"bijou.dev/platform/kv"
	"bijou.dev/platform/kv/kvetcd"

	"bijou.dev/platform/names"
	"golang.org/x/sync/errgroup"
	"google.golang.org/protobuf/proto"
)

// Server is one replica of the service, without the process around it: [New] puts it into one. All that lasts is in the
// store; what a Server has in memory is a copy. It can be registered with [configv1.RegisterConfigServer].
type Server struct {
	configv1.UnimplementedConfigServer

	opts    Options
	log     *slog.Logger
	store   kv.Store
	close   func() error // what NewServer opened
	state   *state
	writing chan struct{} // held by the one publish of this replica that is at work
	audience
}

// NewServer returns a replica that serves once Run has read the store. Until then it answers that it is unavailable.
func NewServer(o Options) (*Server, error) {
	if err := o.validate(); err != nil {
		return nil, err
	}
	o = o.complete()
	s := &Server{
		opts: o, log: o.Log, store: o.Store, close: func() error { return nil }, state: newState(o.Log),
		writing: make(chan struct{}, 1), audience: newAudience(),
	}
	s.state.onNames = s.tell
	if s.store == nil {
		etcd, err := kvetcd.New(kvetcd.Options{Endpoints: o.EtcdEndpoints, Log: o.Log})
		if err != nil {
			return nil, err
		}
		s.store, s.close = etcd, etcd.Close
	}
	return s, nil
}

// Run follows the store and removes expired overrides until ctx ends. Then watchers are told to go elsewhere, and it
// returns nil.
func (s *Server) Run(ctx context.Context) error {
	defer s.Release()
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error { return s.state.follow(ctx, s.store) })
	group.Go(func() error { return s.expire(ctx) })
	return group.Wait()
}

// Release ends all watches of this replica, so that the instances go to another one. It does nothing to later watches.
func (s *Server) Release() {
	s.amu.Lock()
	defer s.amu.Unlock()
	close(s.released)
	s.released = make(chan struct{})
}

// Close closes the store, if NewServer opened it. Run has to have returned and gRPC has to have stopped.
func (s *Server) Close() error {
	s.Release()
	s.readers.Wait()
	return s.close()
}

// Loaded says why the replica cannot serve yet, or returns nil. Once loaded it serves reads whatever happens to the store.
func (s *Server) Loaded() error {
	s.state.mu.RLock()
	defer s.state.mu.RUnlock()
	return s.state.readLocked()
}

// Problem says why nothing can be published at the moment, or returns nil.
func (s *Server) Problem() error { return s.writable() }

// pause waits about d or until ctx ends.
func pause(ctx context.Context, d time.Duration) {
	select {
	case <-ctx.Done():
	case <-time.After(d/2 + rand.N(d)):
	}
}

// Get implements the contract.
func (s *Server) Get(_ context.Context, req *configv1.GetRequest) (*configv1.GetResponse, error) {
	s.state.mu.RLock()
	defer s.state.mu.RUnlock()
	if err := s.state.readLocked(); err != nil {
		return nil, err
	}
	resp := &configv1.GetResponse{Revision: s.state.head.GetRevision()}
	a := s.state.apps[req.GetIdentity().GetApp()]
	names := req.GetNames()
	if len(names) == 0 {
		names = s.state.namesLocked(a)
	}
	for _, name := range names {
		if v := s.state.winnerLocked(name, req.GetIdentity()); v != nil {
			resp.Values = append(resp.Values, v)
		} else if p := a.property(name); p != nil {
			resp.Values = append(resp.Values, defaultValue(p, name))
		} else if p := a.family(name); p != nil {
			resp.Values = append(resp.Values, defaultValue(p, name))
		}
	}
	return resp, nil
}

// namesLocked returns every name that has a value or that the app declares, sorted. Families stand under their pattern.
func (s *state) namesLocked(a *app) []string {
	names := map[string]bool{}
	for name := range s.values {
		names[name] = true
	}
	for _, p := range a.all() {
		names[p.Name()] = true
	}
	return slices.Sorted(maps.Keys(names))
}

// family returns the property whose pattern is name to the letter, or nil.
func (a *app) family(pattern string) *settings.Property {
	for _, p := range a.all() {
		if p.Name() == pattern {
			return p
		}
	}
	return nil
}

func defaultValue(p *settings.Property, name string) *configv1.Value {
	return &configv1.Value{
		Name: name, Value: p.Proto().GetDefaultValue(), Layer: configv1.Layer_LAYER_DEFAULT,
		Scope: &configv1.Scope{Layer: configv1.Layer_LAYER_DEFAULT},
	}
}

// Explain implements the contract.
func (s *Server) Explain(_ context.Context, req *configv1.ExplainRequest) (*configv1.ExplainResponse, error) {
	s.state.mu.RLock()
	defer s.state.mu.RUnlock()
	if err := s.state.readLocked(); err != nil {
		return nil, err
	}
	name, id := req.GetName(), req.GetIdentity()
	resp := &configv1.ExplainResponse{Revision: s.state.head.GetRevision()}
	for _, c := range s.state.candidatesLocked(name, id) {
		c = proto.CloneOf(c)
		c.Wins = len(resp.Candidates) == 0
		resp.Candidates = append(resp.Candidates, c)
	}
	if p := s.state.declaredForLocked(name, id.GetApp()); p != nil {
		resp.Property = p.Proto()
		resp.Candidates = append(resp.Candidates, &configv1.Candidate{Value: defaultValue(p, name), Wins: len(resp.Candidates) == 0})
	}
	if len(resp.Candidates) == 0 {
		return nil, errs.Errorf(errs.NotFound, "explaining %q: it has no value for %s and %s",
			shorten(name), cmp.Or(id.GetApp(), "any app"), s.state.unknownLocked(name, id.GetApp()))
	}
	return resp, nil
}

// declaredForLocked returns the app's declaration of a setting or, when no app is named, the first one there is.
func (s *state) declaredForLocked(name, appName string) *settings.Property {
	if appName != "" {
		return s.apps[appName].property(name)
	}
	for _, n := range s.appNamesLocked() {
		if p := s.apps[n].property(name); p != nil {
			return p
		}
	}
	return nil
}

// List implements the contract.
func (s *Server) List(_ context.Context, req *configv1.ListRequest) (*configv1.ListResponse, error) {
	s.state.mu.RLock()
	defer s.state.mu.RUnlock()
	if err := s.state.readLocked(); err != nil {
		return nil, err
	}
	listed := map[string]*configv1.ListedProperty{}
	for _, name := range slices.Sorted(maps.Keys(s.state.concernedLocked(req.GetApp()))) {
		for _, p := range s.state.apps[name].all() {
			entry := listed[p.Name()]
			if entry == nil {
				entry = &configv1.ListedProperty{Property: p.Proto()}
				listed[p.Name()] = entry
			}
			entry.Apps = append(entry.Apps, name)
		}
	}
	s.state.addValuesLocked(listed, req)
	resp := &configv1.ListResponse{Revision: s.state.head.GetRevision()}
	for _, name := range slices.Sorted(maps.Keys(listed)) {
		if entry := listed[name]; strings.HasPrefix(name, req.GetPrefix()) || len(entry.GetValues()) > 0 {
			resp.Properties = append(resp.Properties, entry)
		}
	}
	return resp, nil
}

// addValuesLocked puts each stored value under its property, or under its own name if nothing declares it (any more).
func (s *state) addValuesLocked(listed map[string]*configv1.ListedProperty, req *configv1.ListRequest) {
	for _, name := range slices.Sorted(maps.Keys(s.values)) {
		if !strings.HasPrefix(name, req.GetPrefix()) {
			continue
		}
		under := name
		if p := s.declaredForLocked(name, req.GetApp()); p != nil {
			under = p.Name()
		}
		for _, key := range slices.Sorted(maps.Keys(s.values[name])) {
			v := s.values[name][key].GetValue()
			if app := v.GetScope().GetApp(); req.GetApp() != "" && app != "" && app != req.GetApp() {
				continue
			}
			if listed[under] == nil {
				listed[under] = &configv1.ListedProperty{Property: &configv1.Property{Name: under}}
			}
			listed[under].Values = append(listed[under].Values, v)
		}
	}
}

// Limits of one app's declarations. They are stored as one entry.
const (
	maxProperties = 2000
	maxDeclared   = 900 << 10
)

// Declare implements the contract.
func (s *Server) Declare(ctx context.Context, req *configv1.DeclareRequest) (*configv1.DeclareResponse, error) {
	if err := checkDeclare(req); err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, publishTimeout)
	defer cancel()
	for {
		if err := s.writable(); err != nil {
			return nil, err
		}
		at, same := s.state.declaration(req)
		if same {
			return &configv1.DeclareResponse{}, nil
		}
		err := s.replaceDeclaration(ctx, req, at)
		if errs.KindOf(err) != errs.Conflict || err == nil {
			return &configv1.DeclareResponse{}, err
		}
		// Another replica was told too, perhaps the same.
		if err := s.state.await(ctx, func() bool { return s.state.declaredAtLocked(req.GetApp()) != at }); err != nil {
			return nil, errs.Errorf(errs.Unavailable, "declaring settings of %s: the store is slow: %w", req.GetApp(), err)
		}
	}
}

func checkDeclare(req *configv1.DeclareRequest) error {
	var bad errs.Violations
	if err := names.Service.Check(req.GetApp()); err != nil {
		bad.Add("app", err.Error())
	}
	if n, size := len(req.GetProperties()), proto.Size(req); n > maxProperties || size > maxDeclared {
		bad.Addf("properties", "must be at most %d in %d bytes, are %d in %d", maxProperties, maxDeclared, n, size)
		return bad.Err("declaring settings of %q", shorten(req.GetApp()))
	}
	seen := map[string]int{}
	for i, p := range req.GetProperties() {
		if first, twice := seen[p.GetName()]; twice {
			bad.Addf(fmt.Sprintf("properties[%d].name", i), "must not be declared twice, is properties[%d] too", first)
		}
		seen[p.GetName()] = i
		if _, err := settings.ParseProperty(p); err != nil {
			bad.Add(fmt.Sprintf("properties[%d]", i), err.Error())
		}
	}
	return bad.Err("declaring settings of %q", shorten(req.GetApp()))
}

// declaration reports whether the app has declared just this, and where the store has what it declared.
func (s *state) declaration(req *configv1.DeclareRequest) (at kv.Revision, same bool) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	a := s.apps[req.GetApp()]
	return s.declaredAtLocked(req.GetApp()), a != nil && proto.Equal(a.declared, req)
}

func (s *state) declaredAtLocked(name string) kv.Revision {
	if a := s.apps[name]; a != nil {
		return a.at
	}
	return 0
}

// replaceDeclaration writes: the newest process of an app knows best what the app reads.
func (s *Server) replaceDeclaration(ctx context.Context, req *configv1.DeclareRequest, at kv.Revision) error {
	data, err := encode(req)
	if err != nil {
		return err
	}
	key := appPrefix + segment(req.GetApp())
	rev, err := s.store.Txn(ctx, kv.Txn{If: []kv.Cond{kv.At(key, at)}, Then: []kv.Op{kv.Put(key, data)}})
	if err != nil {
		return errs.Errorf(errs.KindOf(err), "declaring settings of %s: %w", req.GetApp(), err)
	}
	s.log.InfoContext(ctx, "config: declarations replaced", "app", req.GetApp(), "properties", len(req.GetProperties()), "first", at == 0)
	_ = s.state.await(ctx, func() bool { return s.state.declaredAtLocked(req.GetApp()) >= rev }) // it is written, seen or not
	return nil
}
