package route

import (
	"context"
	"fmt"
	"sync"

	"google.golang.org/grpc/balancer"
	"google.golang.org/grpc/balancer/endpointsharding"
	"google.golang.org/grpc/balancer/pickfirst"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/connectivity"
	"google.golang.org/grpc/resolver"
	"google.golang.org/grpc/status"

	"bijou.dev/platform/errs"
)

// Name is the name of the load balancing policy in gRPC's service configurations.
const Name = "bijou"

// ServiceConfig selects the policy, for [google.golang.org/grpc.WithDefaultServiceConfig].
const ServiceConfig = `{"loadBalancingConfig":[{"` + Name + `":{}}]}`

// gRPC finds policies by name in a table that may only be filled by init functions. The policy keeps no state of its
// own: what belongs to a connection arrives with its resolver, see [Resolver].
func init() { balancer.Register(policy{}) }

// Resolver returns inner, but so that connections made with it are balanced by b. It goes with [ServiceConfig]:
//
//	b := route.New(route.Options{Service: "catalog", Zone: zone, Settings: settings})
//	conn, err := grpc.NewClient("bijou:///catalog",
//		grpc.WithResolvers(route.Resolver(builder, b)),
//		grpc.WithDefaultServiceConfig(route.ServiceConfig))
//
// Use one Balancer for one connection, and leave Update to the connection. A connection without this gets a Balancer
// with default options. Only instances with a live connection are picked.
func Resolver(inner resolver.Builder, b *Balancer) resolver.Builder {
	r := attached{inner, b}
	if a, ok := inner.(resolver.AuthorityOverrider); ok {
		return attachedAuthority{r, a}
	}
	return r
}

type attached struct {
	resolver.Builder
	core *Balancer
}

type attachedAuthority struct {
	attached
	resolver.AuthorityOverrider
}

func (a attached) Build(target resolver.Target, cc resolver.ClientConn, o resolver.BuildOptions) (resolver.Resolver,
	error,
) {
	return a.Builder.Build(target, attaching{cc, a.core}, o)
}

type attaching struct {
	resolver.ClientConn
	core *Balancer
}

func (a attaching) UpdateState(s resolver.State) error {
	s.Attributes = s.Attributes.WithValue(coreKey{}, a.core)
	return a.ClientConn.UpdateState(s)
}

type (
	coreKey     struct{}
	endpointKey struct{}
)

// SetEndpoint returns r carrying e, for resolvers to tell the balancer who an address belongs to.
func SetEndpoint(r resolver.Endpoint, e Endpoint) resolver.Endpoint {
	r.Attributes = r.Attributes.WithValue(endpointKey{}, e)
	return r
}

// EndpointOf returns what SetEndpoint attached to r. If it attached nothing, the Endpoint has r's first address as
// Addr and nothing else, and ok is false.
func EndpointOf(r resolver.Endpoint) (e Endpoint, ok bool) {
	if e, ok = r.Attributes.Value(endpointKey{}).(Endpoint); ok {
		return e, true
	}
	if len(r.Addresses) > 0 {
		e.Addr = r.Addresses[0].Addr
	}
	return e, false
}

// policy builds the balancer of a connection.
type policy struct{}

func (policy) Name() string { return Name }

func (policy) Build(cc balancer.ClientConn, o balancer.BuildOptions) balancer.Balancer {
	c := &connection{ClientConn: cc, core: New(Options{Service: o.Target.Endpoint()})}
	// One pick_first child for each instance keeps its connection and, if configured, its health check.
	c.Balancer = endpointsharding.NewBalancer(c, o, balancer.Get(pickfirst.Name).Build, endpointsharding.Options{})
	return c
}

// connection is between gRPC and the children: it sees each change of their states.
type connection struct {
	balancer.ClientConn
	balancer.Balancer

	mu       sync.Mutex
	core     *Balancer
	resolved error // what the resolver last complained about
}

// UpdateClientConnState comes from the resolver.
func (c *connection) UpdateClientConnState(s balancer.ClientConnState) error {
	c.mu.Lock()
	if b, ok := s.ResolverState.Attributes.Value(coreKey{}).(*Balancer); ok {
		c.core = b
	}
	c.resolved = nil
	c.mu.Unlock()
	s.ResolverState = pickfirst.EnableHealthListener(s.ResolverState)
	return c.Balancer.UpdateClientConnState(s)
}

// ResolverError comes from the resolver too. What is known stays in use.
func (c *connection) ResolverError(err error) {
	c.mu.Lock()
	c.resolved = err
	c.mu.Unlock()
	c.Balancer.ResolverError(err)
}

// UpdateState comes from the children, one call at a time.
func (c *connection) UpdateState(s balancer.State) {
	c.mu.Lock()
	core, problem := c.core, c.resolved
	c.mu.Unlock()
	children := endpointsharding.ChildStatesFromPicker(s.Picker)
	members := make([]*member, len(children))
	for i, child := range children {
		e, _ := EndpointOf(child.Endpoint)
		state := child.State.ConnectivityState
		members[i] = &member{
			Endpoint: e,
			ready:    state == connectivity.Ready,
			waiting:  state == connectivity.Connecting || state == connectivity.Idle,
			picker:   child.State.Picker,
		}
		if state == connectivity.TransientFailure {
			problem = lastError(child.State.Picker, problem)
		}
	}
	core.update(members)
	s.Picker = &picker{core: core, problem: problem}
	c.ClientConn.UpdateState(s)
}

// Close ends the use of the balancer by this connection; what was learned is kept for a while.
func (c *connection) Close() {
	c.Balancer.Close()
	c.mu.Lock()
	defer c.mu.Unlock()
	c.core.update(nil)
}

// lastError asks a failed child what its trouble is.
func lastError(p balancer.Picker, otherwise error) error {
	if _, err := p.Pick(balancer.PickInfo{}); err != nil {
		return err
	}
	return otherwise
}

// picker picks for gRPC. A new one is made at each change only because that wakes the RPCs that wait.
type picker struct {
	core    *Balancer
	problem error // why an instance is not connected, or not resolved; nil if all is well
}

func (g *picker) Pick(info balancer.PickInfo) (balancer.PickResult, error) {
	call, _ := CallOf(info.Ctx)
	var want PickInfo
	if call != nil {
		want = call.PickInfo
	}
	snap := g.core.snap.Load()
	p, err := g.core.Pick(want)
	for err != nil { // refuse must judge by what Pick saw: the connection waited for may have come up meanwhile
		now := g.core.snap.Load()
		if now == snap {
			return balancer.PickResult{}, g.refuse(err, snap, want)
		}
		snap = now
		p, err = g.core.Pick(want)
	}
	result, err := p.m.picker.Pick(info)
	if err != nil {
		p.Done(Abandoned)
		return balancer.PickResult{}, err
	}
	if call != nil {
		call.picked = p
	}
	// The copies keep p on the stack: the function is the one allocation for each RPC.
	chosen, child := p, result.Done
	result.Done = func(d balancer.DoneInfo) {
		p := chosen
		p.Done(outcomeOf(d))
		if child != nil {
			child(d)
		}
	}
	return result, nil
}

// refuse decides what an RPC does that cannot be placed: wait for a connection that is being made; fail at once if
// exclusion is the reason, for waiting would not help; else fail, unless it waits for ready.
func (g *picker) refuse(err error, snap *snapshot, want PickInfo) error {
	pl := snap.pool(want.Version)
	switch {
	case pl != nil && len(pl.ready) > 0:
		return errs.ToStatus(context.Background(), err).Err()
	case pl != nil && pl.waiting > 0:
		return balancer.ErrNoSubConnAvailable
	case g.problem != nil:
		return fmt.Errorf("%w; last problem: %w", err, g.problem)
	}
	return err
}

func outcomeOf(d balancer.DoneInfo) Outcome {
	if d.Err == nil && !d.BytesReceived {
		return Abandoned // the connection was closed before the RPC began; gRPC picks again
	}
	o := OutcomeOfRPC(d.Err)
	if !d.BytesSent && status.Code(d.Err) == codes.DeadlineExceeded {
		return Abandoned // the time was over before the instance had a chance
	}
	return o
}

// OutcomeOfRPC judges the error of an RPC:
//
//	Unavailable, DeadlineExceeded                     Unreachable
//	ResourceExhausted, Internal, Unknown, DataLoss    Failure
//	Canceled                                          Abandoned
//	nil and all others                                Success: the instance did its work
func OutcomeOfRPC(err error) Outcome {
	switch status.Code(err) {
	case codes.Unavailable, codes.DeadlineExceeded:
		return Unreachable
	case codes.ResourceExhausted, codes.Internal, codes.Unknown, codes.DataLoss:
		return Failure
	case codes.Canceled:
		return Abandoned
	}
	return Success
}

// OutcomeOfHTTP judges the status of an HTTP answer. No answer at all is Unreachable or Abandoned; the caller knows.
//
//	502, 503, 504                            Unreachable
//	429 and the other 5xx, except 501, 505   Failure
//	all others                               Success
func OutcomeOfHTTP(code int) Outcome {
	switch {
	case code == 502 || code == 503 || code == 504:
		return Unreachable
	case code == 501 || code == 505:
		return Success
	case code >= 500 || code == 429:
		return Failure
	}
	return Success
}
