package discovery

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"

	"bijou.dev/platform/errs"
	"google.golang.org/grpc/attributes"
	"google.golang.org/grpc/resolver"
)

// Scheme is the scheme of gRPC targets that a [Directory] resolves: bijou:///catalog, or
// bijou:///catalog?endpoint=admin for a listener other than "grpc".
const Scheme = "bijou"

// Builder returns a gRPC resolver for targets of [Scheme], for grpc.WithResolvers. It passes on the UP instances of
// the service, suspects included, and only when they change. When no instance is UP, calls fail with an error of kind
// errs.Unavailable that names the service and the statuses of its instances. Calls wait until a registry has answered
// or all seeds have failed, unless instances are known from disk.
func (d *Directory) Builder() resolver.Builder { return builder{d} }

type builder struct{ d *Directory }

func (builder) Scheme() string { return Scheme }

// Build starts to resolve. The connection gets the known instances before Build returns.
func (b builder) Build(
	target resolver.Target, cc resolver.ClientConn, _ resolver.BuildOptions,
) (resolver.Resolver, error) {
	service := target.Endpoint()
	if service == "" || strings.Contains(service, "/") {
		return nil, errs.Errorf(errs.Invalid, "target %q: want %s:///SERVICE", target.String(), Scheme)
	}
	if s := b.d.only; len(s) > 0 && !slices.Contains(s, service) {
		return nil, errs.Errorf(errs.Invalid, "target %q: this client watches only %s",
			target.String(), strings.Join(s, ", "))
	}
	t := &targets{cc: cc, service: service, endpoint: cmp.Or(target.URL.Query().Get("endpoint"), "grpc")}
	return &following{stop: b.d.watch(service, t.update)}, nil
}

type following struct{ stop func() }

// ResolveNow has nothing to do: changes are pushed.
func (*following) ResolveNow(resolver.ResolveNowOptions) {}

// Close stops the updates.
func (f *following) Close() { f.stop() }

// targets passes the instances of one service to one connection.
type targets struct {
	cc                resolver.ClientConn
	service, endpoint string

	// What the connection last got. updated: it got something.
	updated bool
	last    []Instance
	lastErr string
}

// update passes on v, if it differs from what the connection last got: each update makes gRPC rebuild its picker.
func (t *targets) update(v *view) {
	known := v.services[t.service]
	up := t.usable(known)
	if len(up) == 0 {
		t.reportNone(v, known)
		return
	}
	if t.updated && slices.EqualFunc(t.last, up, Instance.Equal) {
		return
	}
	t.updated, t.last, t.lastErr = true, up, ""
	// The error asks for another call with the same state, which would be rejected too.
	_ = t.cc.UpdateState(t.state(up))
}

func (t *targets) usable(known []Instance) []Instance {
	var up []Instance
	for _, in := range known {
		if in.Status == Up && in.Endpoints[t.endpoint] != "" {
			up = append(up, in)
		}
	}
	return up
}

// reportNone makes calls fail, with the reason why there is no instance to call.
func (t *targets) reportNone(v *view, known []Instance) {
	if !v.settled && len(known) == 0 {
		return
	}
	err := t.explain(v, known)
	if t.updated && len(t.last) == 0 && t.lastErr == err.Error() {
		return
	}
	if !t.updated || len(t.last) > 0 {
		_ = t.cc.UpdateState(resolver.State{Endpoints: []resolver.Endpoint{}})
	}
	t.updated, t.last, t.lastErr = true, nil, err.Error()
	t.cc.ReportError(errs.ToStatus(context.Background(), err).Err())
}

// explain returns the reason why there is no instance to call.
func (t *targets) explain(v *view, known []Instance) error {
	if len(known) == 0 {
		if v.synced != nil {
			return errs.Errorf(errs.Unavailable, "service %q: no instance is known: %w", t.service, v.synced)
		}
		return errs.Errorf(errs.Unavailable, "service %q: no instance is registered", t.service)
	}
	const shown = 5
	var statuses []string
	for _, in := range known[:min(shown, len(known))] {
		s := in.ID + " is " + in.Status.String()
		if in.Status == Up {
			s += fmt.Sprintf(" without endpoint %q", t.endpoint)
		}
		statuses = append(statuses, s)
	}
	if more := len(known) - shown; more > 0 {
		statuses = append(statuses, fmt.Sprintf("and %d more", more))
	}
	return errs.Errorf(errs.Unavailable, "service %q: none of %d instances takes calls: %s",
		t.service, len(known), strings.Join(statuses, ", "))
}

func (t *targets) state(up []Instance) resolver.State {
	var s resolver.State
	for _, in := range up {
		at := attributes.New(instanceKey{}, &attribute{in})
		addr := resolver.Address{Addr: in.Endpoints[t.endpoint], Attributes: at}
		s.Addresses = append(s.Addresses, addr)
		s.Endpoints = append(s.Endpoints, resolver.Endpoint{Addresses: []resolver.Address{addr}, Attributes: at})
	}
	return s
}

type instanceKey struct{}

// attribute is an instance as an attribute of an address. Two are equal when they are the same process. So a change of
// status or metadata does not close the connection, and a new process at an old address gets a new connection.
type attribute struct{ Instance }

// Equal is called by gRPC when it compares addresses.
func (a *attribute) Equal(o any) bool {
	b, ok := o.(*attribute)
	return ok && a.key() == b.key() && a.Started.Equal(b.Started)
}

// FromAddress returns the instance behind an address that came from [Directory.Builder], and false for any other.
func FromAddress(addr resolver.Address) (Instance, bool) { return fromAttributes(addr.Attributes) }

// FromEndpoint returns the instance behind an endpoint that came from [Directory.Builder], and false for any other.
func FromEndpoint(ep resolver.Endpoint) (Instance, bool) { return fromAttributes(ep.Attributes) }

func fromAttributes(at *attributes.Attributes) (Instance, bool) {
	if c, ok := at.Value(instanceKey{}).(*attribute); ok {
		return c.Instance, true
	}
	return Instance{}, false
}
