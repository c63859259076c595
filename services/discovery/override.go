package discovery

import (
	"context"
	"encoding/json"

	discoveryv1 "bijou.dev/platform/api/discovery/v1"
	"bijou.dev/platform/errs"
	"bijou.dev/platform/kv"
)

// override is the status that an operator has decided for an instance.
type override struct {
	Status discoveryv1.Status `json:"status"`
	Author string             `json:"author,omitempty"`
	Reason string             `json:"reason,omitempty"`
}

// overrides are the decisions of operators. The registry's lock guards them.
type overrides struct {
	current map[key]override
	decided map[key]kv.Revision // store revision of the newest decision, its removal included
}

// set records a decision and reports whether it has changed anything. Of two decisions, the one with the later store
// revision is kept, also if it is read first. force: the store was listed again, so this decision is kept in any case.
func (o *overrides) set(k key, decision override, rev kv.Revision, force bool) bool {
	if rev < o.decided[k] && !force {
		return false
	}
	o.decided[k] = rev
	if o.current[k] == decision {
		return false
	}
	if o.current[k] = decision; decision.Status == discoveryv1.Status_STATUS_UNSPECIFIED {
		delete(o.current, k)
	}
	return true
}

// apply sets the status that callers act on: the override's, else the reported one. An instance that is draining is
// not set to UP, because it is about to leave.
func (o *overrides) apply(k key, in *discoveryv1.Instance) {
	decision := o.current[k]
	in.Override, in.OverrideReason, in.OverrideAuthor = decision.Status, decision.Reason, decision.Author
	in.Status = in.GetReported()
	leaving := in.GetReported() == discoveryv1.Status_STATUS_DRAINING && decision.Status == discoveryv1.Status_STATUS_UP
	if decision.Status != discoveryv1.Status_STATUS_UNSPECIFIED && !leaving {
		in.Status = decision.Status
	}
}

// overrideLocked sets or clears an override, and applies it to the instance if there is one.
func (r *registry) overrideLocked(k key, decision override, rev kv.Revision, force bool) {
	if !r.overrides.set(k, decision, rev, force) {
		return
	}
	if rec := r.instances.find(k); rec != nil {
		if r.reviseLocked(k, rec, rec.inst, rec.inst.GetSuspect()) && rec.lease.owner == r.self {
			r.writeLocked(k)
		}
	}
}

// checkOverridable refuses an override of an instance that is not registered. Clearing needs only an override.
func (r *registry) checkOverridable(k key, clears bool) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	_, exists := r.overrides.current[k]
	if r.instances.find(k) == nil && (!clears || !exists) {
		return errs.Errorf(errs.NotFound, "overriding %s/%s: no such instance is registered", k.service, k.id)
	}
	return nil
}

// saveOverride writes an override to the store, and then applies it here. The other replicas read it from the store.
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
		return errs.Errorf(errs.KindOf(err), "saving the override of %s/%s, nothing is changed: %w",
			k.service, k.id, err)
	}
	s.reg.mu.Lock()
	defer s.reg.mu.Unlock()
	if o.Status == discoveryv1.Status_STATUS_UNSPECIFIED {
		o = override{}
	}
	s.reg.overrideLocked(k, o, rev, false)
	return nil
}
