package config

import (
	"context"
	"fmt"

	configv1 "bijou.dev/platform/api/config/v1"
	settings "bijou.dev/platform/config"
	"bijou.dev/platform/errs"
	"bijou.dev/platform/kv"
	"bijou.dev/platform/names"

	"google.golang.org/protobuf/proto"
)

// Limits of the declarations of one app. They are stored as one entry.
const (
	maxProperties = 2000
	maxDeclared   = 900 << 10 // bytes
)

// Declare implements the contract. The declarations of an app replace the ones before: the newest process of the app
// knows best which settings it reads.
func (s *Server) Declare(ctx context.Context, req *configv1.DeclareRequest) (*configv1.DeclareResponse, error) {
	if err := checkDeclare(req); err != nil {
		return nil, err
	}
	doing := fmt.Sprintf("declaring settings of %s", req.GetApp())
	ctx, cancel := context.WithTimeout(ctx, publishTimeout)
	defer cancel()
	for {
		if err := s.writable(doing); err != nil {
			return nil, err
		}
		at, same := s.state.declaration(req)
		if same {
			return &configv1.DeclareResponse{}, nil
		}
		err := s.replaceDeclaration(ctx, req, at)
		if err == nil {
			return &configv1.DeclareResponse{}, nil
		}
		if errs.KindOf(err) == errs.Conflict { // another replica was faster: wait until this one has what it wrote
			err = s.state.await(ctx, func() bool { return s.state.declaredAtLocked(req.GetApp()) != at })
		}
		if err != nil {
			s.log.WarnContext(ctx, "config: cannot write declarations", "app", req.GetApp(), "error", err)
			return nil, errs.Errorf(errs.Unavailable, "%s: the store (etcd) did not answer; try again", doing).
				Because(reasonStore)
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
		return bad.Err("declaring settings of %.40q", req.GetApp())
	}
	first := map[string]int{} // name -> index
	for i, p := range req.GetProperties() {
		if j, twice := first[p.GetName()]; twice {
			bad.Addf(fmt.Sprintf("properties[%d].name", i), "must not be declared twice, is properties[%d] too", j)
		}
		first[p.GetName()] = i
		if _, err := settings.ParseProperty(p); err != nil {
			bad.Add(fmt.Sprintf("properties[%d]", i), err.Error())
		}
	}
	return bad.Err("declaring settings of %.40q", req.GetApp())
}

// declaration returns where the store has the declarations of an app, and whether they are equal to those of req.
func (s *state) declaration(req *configv1.DeclareRequest) (at kv.Revision, same bool) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	a := s.apps[req.GetApp()]
	return s.declaredAtLocked(req.GetApp()), a != nil && proto.Equal(a.declared, req)
}

// declaredAtLocked returns the revision of the store at which an app last declared its settings, 0 for never.
func (s *state) declaredAtLocked(name string) kv.Revision {
	if a := s.apps[name]; a != nil {
		return a.at
	}
	return 0
}

// replaceDeclaration writes the declarations of an app, if the ones before are those written at a revision, and waits
// until the copy of this replica has them.
func (s *Server) replaceDeclaration(ctx context.Context, req *configv1.DeclareRequest, at kv.Revision) error {
	data, err := encode(req)
	if err != nil {
		return err
	}
	key := appPrefix + segment(req.GetApp())
	rev, err := s.store.Txn(ctx, kv.Txn{If: []kv.Cond{kv.At(key, at)}, Then: []kv.Op{kv.Put(key, data)}})
	if err != nil {
		return err
	}
	s.log.InfoContext(ctx, "config: declarations replaced",
		"app", req.GetApp(), "properties", len(req.GetProperties()), "first", at == 0)
	// If ctx ends first, the declarations are written all the same.
	_ = s.state.await(ctx, func() bool { return s.state.declaredAtLocked(req.GetApp()) >= rev })
	return nil
}
