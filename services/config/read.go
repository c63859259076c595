package config

import (
	"cmp"
	"context"
	"maps"
	"slices"
	"strings"

	configv1 "bijou.dev/platform/api/config/v1"
	settings "bijou.dev/platform/config"
	"bijou.dev/platform/errs"

	"google.golang.org/protobuf/proto"
)

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

// namesLocked returns all names that have a value or that the app declares, sorted; of a family, the pattern.
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

// family returns the property whose name or pattern is equal to pattern, or nil.
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
		resp.Candidates = append(resp.Candidates,
			&configv1.Candidate{Value: defaultValue(p, name), Wins: len(resp.Candidates) == 0})
	}
	if len(resp.Candidates) == 0 {
		return nil, errs.Errorf(errs.NotFound, "explaining %q: it has no value for %s and %s",
			shorten(name), shorten(cmp.Or(id.GetApp(), "any app")), s.state.unknownLocked(name, id.GetApp()))
	}
	return resp, nil
}

// declaredForLocked returns an app's declaration of a setting. If no app is named, it returns that of the first app
// that has one, by name.
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

// addValuesLocked adds each stored value to its property, or to its own name if no app declares it (any more).
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
