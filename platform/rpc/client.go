package rpc

import (
	"context"
	"errors"
	"net"
	"slices"
	"strings"
	"sync"
	"time"

	"bijou.dev/platform/circuit"
	"bijou.dev/platform/config"
	"bijou.dev/platform/discovery"
	"bijou.dev/platform/errs"
	"bijou.dev/platform/retry"
	"bijou.dev/platform/route"
	"bijou.dev/platform/trace"

	"github.com/prometheus/client_golang/prometheus"
	oteltrace "go.opentelemetry.io/otel/trace"
	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/resolver"
)

// ClientOptions are the parts of the platform that calls go through. The step of a part that is missing is left out.
type ClientOptions struct {
	// Service is the caller, for the user agent. Empty: the caller has no name.
	Service string
	// Zone is where the caller runs; instances in it are preferred. Empty: no preference.
	Zone string
	// Discovery finds instances. Nil: only targets with a scheme of gRPC's own, such as dns:///, can be dialled.
	Discovery *discovery.Directory
	// Config has the settings of balancing and retries. Nil: the defaults.
	Config config.Set
	// Circuits guards calls. Nil: no time-out, breaker, bulkhead or retry but the deadline of MaxWait.
	Circuits *circuit.Set
	// Trace records calls and sends the trace on. Nil: neither.
	Trace *trace.Provider
	// Metrics gets bijou_rpc_client_*. Nil: none.
	Metrics prometheus.Registerer
	// DialContext connects. Nil: the real network.
	DialContext func(ctx context.Context, network, addr string) (net.Conn, error)
}

// MaxWait is the time-out of a call that has no deadline and no circuit.
const MaxWait = 30 * time.Second

// Client makes connections whose calls go through the platform's steps, and holds what the connections share.
type Client struct {
	opts    ClientOptions
	routes  *route.Settings
	seconds *prometheus.HistogramVec
	retries *prometheus.CounterVec // nil: not counted

	mu   sync.Mutex
	open []*Conn // in the order in which they were made
}

// NewClient returns a Client. It need not be closed, but its connections do.
func NewClient(o ClientOptions) *Client {
	c := &Client{
		opts:    o,
		seconds: newHistogram(o.Metrics, "client", "Time of calls to other services, by method and code."),
	}
	if o.Metrics != nil {
		c.retries = prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "bijou_rpc_client_retries_total", Help: "Attempts after the first, by callee.",
		}, []string{"callee"})
		o.Metrics.MustRegister(c.retries)
	}
	if o.Config != nil {
		c.routes = route.NewSettings(o.Config)
	}
	return c
}

// Dial returns a connection to a service, "catalog", to one of its other listeners, "tracing?endpoint=otlp", or to any
// target that gRPC knows, "dns:///host:port". It connects when it is first used: if there is no instance, the call
// fails, not Dial. The caller must close the connection: until then the client keeps its balancer and its metrics.
func (c *Client) Dial(target string) (*Conn, error) {
	opts := c.dialOptions()
	conn := &Conn{client: c, target: target, callee: target}
	resolved := target
	if !strings.Contains(target, "://") {
		if c.opts.Discovery == nil {
			return nil, errs.Errorf(errs.Invalid,
				"dialling %q: there is no discovery to find it; use a target with a scheme, such as dns:///host:port", target)
		}
		conn.callee, _, _ = strings.Cut(target, "?")
		conn.balancer = route.New(route.Options{Service: conn.callee, Zone: c.opts.Zone, Settings: c.routes})
		opts = append(opts, grpc.WithAuthority(authority(conn.callee)),
			grpc.WithResolvers(route.Resolver(naming{c.opts.Discovery.Builder()}, conn.balancer)))
		resolved = discovery.Scheme + ":///" + target
	}
	call := &calls{Client: c, callee: conn.callee, budget: retry.NewBudget(c.opts.Config)}
	opts = append(opts, grpc.WithChainUnaryInterceptor(call.unary), grpc.WithChainStreamInterceptor(call.stream))
	var err error
	if conn.grpc, err = grpc.NewClient(resolved, opts...); err != nil {
		return nil, errs.Errorf(errs.Invalid, "dialling %s: %w", target, err)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.open = append(c.open, conn)
	return conn, nil
}

// dialOptions returns what all connections have.
func (c *Client) dialOptions() []grpc.DialOption {
	opts := []grpc.DialOption{
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithDefaultServiceConfig(route.ServiceConfig),
		grpc.WithDisableServiceConfig(),
		grpc.WithDisableRetry(), // package retry does it
		grpc.WithUserAgent("bijou/" + c.opts.Service),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(MaxMessage)),
		grpc.WithKeepaliveParams(keepalive.ClientParameters{Time: 10 * time.Second, Timeout: 3 * time.Second}),
		grpc.WithConnectParams(grpc.ConnectParams{
			// The registry says which instances are up, so gRPC's own waits of up to two minutes are too long.
			Backoff: backoff.Config{
				BaseDelay: 100 * time.Millisecond, Multiplier: 1.6, Jitter: 0.2, MaxDelay: 3 * time.Second,
			},
			MinConnectTimeout: 3 * time.Second,
		}),
	}
	if dial := c.opts.DialContext; dial != nil {
		opts = append(opts, grpc.WithContextDialer(func(ctx context.Context, addr string) (net.Conn, error) {
			return dial(ctx, "tcp", addr)
		}))
	}
	return opts
}

// Balancers returns the instances of each service with an open connection, as the balancer of the connection sees
// them: ready, ejected and why. If there are several connections to a service, it is the newest one.
func (c *Client) Balancers() map[string][]route.EndpointState {
	c.mu.Lock()
	open := slices.Clone(c.open)
	c.mu.Unlock()
	states := make(map[string][]route.EndpointState, len(open))
	for _, conn := range open {
		if conn.balancer != nil {
			states[conn.target] = conn.balancer.State()
		}
	}
	return states
}

// Conn is a connection whose calls go through the platform's steps. Make one with [Client.Dial].
type Conn struct {
	client   *Client
	target   string
	callee   string
	grpc     *grpc.ClientConn
	balancer *route.Balancer // nil: the target is no service
}

// Invoke implements grpc.ClientConnInterface.
func (c *Conn) Invoke(ctx context.Context, method string, args, reply any, opts ...grpc.CallOption) error {
	return c.grpc.Invoke(ctx, method, args, reply, opts...)
}

// NewStream implements grpc.ClientConnInterface.
func (c *Conn) NewStream(
	ctx context.Context, desc *grpc.StreamDesc, method string, opts ...grpc.CallOption,
) (grpc.ClientStream, error) {
	return c.grpc.NewStream(ctx, desc, method, opts...)
}

// Close ends all calls and streams and removes the connection from its client: from [Client.Balancers], and from the
// metric of retries if it was the last one to its callee. Calls after it fail with kind Canceled. It may be called more
// than once and returns nil.
func (c *Conn) Close() error {
	c.client.forget(c)
	_ = c.grpc.Close() // its only error is that it was closed before
	return nil
}

// forget removes a connection.
func (c *Client) forget(conn *Conn) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.open = slices.DeleteFunc(c.open, func(o *Conn) bool { return o == conn })
	same := func(o *Conn) bool { return o.callee == conn.callee }
	if c.retries != nil && !slices.ContainsFunc(c.open, same) {
		c.retries.DeleteLabelValues(conn.callee)
	}
}

// naming adds to each address the instance that it belongs to, for the balancer. So the packages discovery and route do
// not depend on each other.
type naming struct{ resolver.Builder }

// Build resolves with the endpoints named.
func (n naming) Build(
	target resolver.Target, cc resolver.ClientConn, o resolver.BuildOptions,
) (resolver.Resolver, error) {
	return n.Builder.Build(target, namingConn{cc}, o)
}

type namingConn struct{ resolver.ClientConn }

// UpdateState adds the instance to each endpoint.
func (n namingConn) UpdateState(s resolver.State) error {
	for i, ep := range s.Endpoints {
		if in, ok := discovery.FromEndpoint(ep); ok && len(ep.Addresses) > 0 {
			s.Endpoints[i] = route.SetEndpoint(ep, route.Endpoint{
				ID: in.ID, Addr: ep.Addresses[0].Addr, Zone: in.Zone, Version: in.Version,
			})
		}
	}
	return n.ClientConn.UpdateState(s)
}

// calls are the interceptors of one connection.
type calls struct {
	*Client
	callee string
	budget *retry.Budget
}

// unary runs the steps of a call in their order.
func (c *calls) unary(
	ctx context.Context, full string, req, reply any, cc *grpc.ClientConn, invoke grpc.UnaryInvoker,
	opts ...grpc.CallOption,
) (err error) {
	m := methodOf(full)
	start := time.Now()
	ctx, span := startClient(ctx, c.opts.Trace, m, c.callee)
	ctx = sendCriticality(ctx)
	defer func() {
		err = errs.FromRPC(err)
		c.observe(m, err, start)
		endClient(span, err)
	}()
	if err := expired(ctx); err != nil {
		return err
	}
	var trailer metadata.MD
	opts = append(opts, grpc.Trailer(&trailer))
	attempt := func(ctx context.Context) error {
		trailer = nil
		err := invoke(ctx, full, req, reply, cc, opts...)
		if v := trailer[pushback]; err != nil && len(v) > 0 && strings.HasPrefix(v[0], "-") {
			return retry.Final(err)
		}
		return err
	}
	if c.opts.Circuits == nil {
		return c.withoutCircuit(ctx, attempt)
	}
	return c.opts.Circuits.Do(ctx, circuit.Key{Group: c.callee, Method: m.name}, func(ctx context.Context) error {
		return c.retry(ctx, m, span, attempt)
	})
}

// withoutCircuit makes a call with at most MaxWait if it has no deadline.
func (c *calls) withoutCircuit(ctx context.Context, attempt func(context.Context) error) error {
	if _, ok := ctx.Deadline(); !ok {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, MaxWait)
		defer cancel()
	}
	return attempt(ctx)
}

// retry makes attempts within the budget, never two at the same instance. If every instance has been tried, it returns
// the error of the last attempt, which says more than "no instance is left".
func (c *calls) retry(ctx context.Context, m *method, span oteltrace.Span, attempt func(context.Context) error) error {
	var tried []string
	var last error
	policy := retry.Policy{Budget: c.budget, Idempotent: m.idempotent}
	return retry.Do(ctx, policy, func(ctx context.Context, n int) error {
		call := &route.Call{}
		if pinned, ok := route.CallOf(ctx); ok {
			call.PickInfo = pinned.PickInfo
		}
		if n > 1 {
			call.Exclude = slices.Concat(call.Exclude, tried)
			if c.retries != nil {
				c.retries.WithLabelValues(c.callee).Inc()
			}
		}
		err := errs.FromRPC(attempt(route.WithCall(ctx, call)))
		picked, ok := call.Endpoint()
		switch {
		case !ok && last != nil:
			return retry.Final(last)
		case !ok:
			return notSent(err)
		}
		explain(span, n, call, err)
		if err != nil {
			err = sent(err)
			tried, last = append(tried, picked.ID), err
		}
		if unimportant(ctx, err) {
			return retry.Final(err)
		}
		return err
	})
}

// sent removes ReasonNotSent from a received error. The reason is about a call that the instance made itself; our call
// was sent, so it may not be safe to repeat.
func sent(err error) error {
	if e, ok := errors.AsType[*errs.Error](err); ok && e.Reason() == retry.ReasonNotSent {
		return e.Because("")
	}
	return err
}

// notSent marks an error of a call that never left: no instance was picked, so it is safe to repeat.
func notSent(err error) error {
	if e, ok := errors.AsType[*errs.Error](err); ok && e.Kind() == errs.Unavailable && e.Reason() == "" {
		return e.Because(retry.ReasonNotSent)
	}
	return err
}

func (c *calls) observe(m *method, err error, start time.Time) {
	if c.seconds != nil {
		c.seconds.WithLabelValues(m.full, code(err).String()).Observe(time.Since(start).Seconds())
	}
}

// stream opens a stream. Its span ends when the stream is open, because a stream may stay open as long as the process
// runs.
func (c *calls) stream(
	ctx context.Context, desc *grpc.StreamDesc, cc *grpc.ClientConn, full string, open grpc.Streamer,
	opts ...grpc.CallOption,
) (grpc.ClientStream, error) {
	ctx, span := startClient(ctx, c.opts.Trace, methodOf(full), c.callee)
	ctx = sendCriticality(ctx)
	call := &route.Call{}
	if pinned, ok := route.CallOf(ctx); ok {
		call.PickInfo = pinned.PickInfo
	}
	call.Stream = true // its duration is not a latency
	s, err := open(route.WithCall(ctx, call), desc, cc, full, opts...)
	err = errs.FromRPC(err)
	if _, ok := call.Endpoint(); ok {
		explain(span, 1, call, err)
	}
	endClient(span, err)
	if err != nil {
		return nil, err
	}
	return clientStream{s}, nil
}

// clientStream gives errors their kind. io.EOF stays io.EOF.
type clientStream struct{ grpc.ClientStream }

// RecvMsg receives.
func (s clientStream) RecvMsg(m any) error { return streamError(s.ClientStream.RecvMsg(m)) }

// SendMsg sends.
func (s clientStream) SendMsg(m any) error { return streamError(s.ClientStream.SendMsg(m)) }
