package circuits

import (
	"context"
	"regexp"
	"slices"
	"strconv"
	"time"

	circuitsv1 "bijou.dev/platform/api/circuits/v1"
	configv1 "bijou.dev/platform/api/config/v1"
	"bijou.dev/platform/circuit"
	"bijou.dev/platform/errs"
	"bijou.dev/platform/names"
	"bijou.dev/platform/text"
	"google.golang.org/protobuf/types/known/durationpb"
)

// Bounds of the time for which a circuit is forced: it must end, and not before all processes can have the setting.
const (
	defaultTTL = 10 * time.Minute
	minTTL     = 10 * time.Second
	maxTTL     = 24 * time.Hour
)

// forcedName is a group or a command key: "catalog" or "catalog.GetMovie".
var forcedName = regexp.MustCompile(`^[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+)*$`)

// Force implements the contract with operator overrides in the config service. A second force replaces the first one.
// Releasing a circuit that is not forced is an error of kind NotFound.
func (b *Board) Force(ctx context.Context, req *circuitsv1.ForceRequest) (*circuitsv1.ForceResponse, error) {
	ttl, err := validateForce(req)
	if err != nil {
		return nil, err
	}
	changes := forceChanges(req, ttl)
	if req.State == circuitsv1.State_STATE_UNSPECIFIED {
		if changes, err = b.forced(ctx, req); err != nil {
			return nil, err
		}
	}
	resp, err := b.opts.Config.Publish(ctx, &configv1.PublishRequest{
		Changes: changes, Author: req.Author, Reason: req.Reason,
	})
	if err != nil {
		return nil, errs.Errorf(errs.KindOf(err), "forcing %s: %w", req.Name, errs.FromRPC(err))
	}
	b.log.Warn("forced a circuit", "circuit", req.Name, "caller", req.Service, "state", req.State.String(),
		"ttl", ttl, "author", req.Author, "reason", req.Reason, "revision", resp.Revision)
	return &circuitsv1.ForceResponse{Revision: resp.Revision}, nil
}

func validateForce(req *circuitsv1.ForceRequest) (time.Duration, error) {
	var bad errs.Violations
	switch req.State {
	case circuitsv1.State_STATE_UNSPECIFIED, circuitsv1.State_STATE_FORCED_OPEN, circuitsv1.State_STATE_FORCED_CLOSED:
	default:
		bad.Add("state", "must be STATE_FORCED_OPEN, STATE_FORCED_CLOSED, or STATE_UNSPECIFIED to release")
	}
	if !forcedName.MatchString(req.Name) || len(req.Name) > maxName {
		bad.Add("name", `must be a circuit as "catalog.GetMovie" or a group as "catalog"`)
	}
	if req.Name == "default" {
		bad.Add("name", "must not be the default of all circuits; force each group")
	}
	if wrong := names.Service.Check(req.Service); req.Service != "" && wrong != nil {
		bad.Add("service", wrong.Error())
	}
	if wrong := text.CheckNote(req.Author, text.MaxAuthor); wrong != nil {
		bad.Add("author", wrong.Error())
	}
	if wrong := text.CheckNote(req.Reason, text.MaxReason); wrong != nil {
		bad.Add("reason", wrong.Error())
	}
	ttl := defaultTTL
	if req.Ttl != nil && req.Ttl.AsDuration() != 0 {
		ttl = req.Ttl.AsDuration()
	}
	if ttl < minTTL || ttl > maxTTL || req.Ttl != nil && !req.Ttl.IsValid() {
		bad.Add("ttl", "must be 10s to 24h")
	}
	return ttl, bad.Err("forcing circuit %q", req.Name)
}

func overrideScope(service string) *configv1.Scope {
	return &configv1.Scope{Layer: configv1.Layer_LAYER_OVERRIDE, App: service}
}

// forceChanges sets both settings, so that a force replaces the opposite one and both expire together.
func forceChanges(req *circuitsv1.ForceRequest, ttl time.Duration) []*configv1.Change {
	set := func(name string, on bool) *configv1.Change {
		return &configv1.Change{
			Name: circuit.Setting(req.Name, name), Scope: overrideScope(req.Service),
			Value: strconv.FormatBool(on), Ttl: durationpb.New(ttl),
		}
	}
	return []*configv1.Change{
		set(circuit.ForceOpen, req.State == circuitsv1.State_STATE_FORCED_OPEN),
		set(circuit.ForceClosed, req.State == circuitsv1.State_STATE_FORCED_CLOSED),
	}
}

// forced returns changes that remove the overrides. A value that a person set in another layer stays.
func (b *Board) forced(ctx context.Context, req *circuitsv1.ForceRequest) ([]*configv1.Change, error) {
	forces := []string{circuit.Setting(req.Name, circuit.ForceOpen), circuit.Setting(req.Name, circuit.ForceClosed)}
	prefix := circuit.Setting(req.Name, "force")
	resp, err := b.opts.Config.List(ctx, &configv1.ListRequest{Prefix: prefix, App: req.Service})
	if err != nil {
		return nil, errs.Errorf(errs.KindOf(err), "releasing %s: %w", req.Name, errs.FromRPC(err))
	}
	var changes []*configv1.Change
	for _, p := range resp.Properties {
		for _, v := range p.Values {
			if v.Scope.GetLayer() == configv1.Layer_LAYER_OVERRIDE && v.Scope.GetApp() == req.Service &&
				slices.Contains(forces, v.Name) {
				changes = append(changes, &configv1.Change{
					Name: v.Name, Scope: overrideScope(req.Service), Remove: true,
				})
			}
		}
	}
	if len(changes) == 0 {
		return nil, errs.Errorf(errs.NotFound, "releasing %s: it is not forced for %s", req.Name, callers(req.Service))
	}
	return changes, nil
}

func callers(service string) string {
	if service == "" {
		return "every caller; name the caller if it was forced for one"
	}
	return service
}
