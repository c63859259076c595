package route_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	healthv1 "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/resolver"
	"google.golang.org/grpc/resolver/manual"
	"google.golang.org/grpc/status"
	"google.golang.org/grpc/test/bufconn"

	"bijou.dev/platform/route"
)

// server is one instance. It answers Check with what answer returns; nil means well.
type server struct {
	healthv1.UnimplementedHealthServer
	endpoint route.Endpoint
	calls    atomic.Int64
	answer   atomic.Pointer[func(context.Context) error]

	grpc *grpc.Server
	lis  *bufconn.Listener
}

func (s *server) Check(ctx context.Context, _ *healthv1.HealthCheckRequest) (*healthv1.HealthCheckResponse, error) {
	s.calls.Add(1)
	if f := s.answer.Load(); f != nil {
		if err := (*f)(ctx); err != nil {
			return nil, err
		}
	}
	return &healthv1.HealthCheckResponse{}, nil
}

func (s *server) Watch(_ *healthv1.HealthCheckRequest,
	stream grpc.ServerStreamingServer[healthv1.HealthCheckResponse],
) error {
	s.calls.Add(1)
	if err := stream.Send(&healthv1.HealthCheckResponse{}); err != nil {
		return err
	}
	<-stream.Context().Done()
	return nil
}

func (s *server) answers(f func(context.Context) error) { s.answer.Store(&f) }

func (s *server) start() {
	s.lis = bufconn.Listen(1 << 16)
	s.grpc = grpc.NewServer()
	healthv1.RegisterHealthServer(s.grpc, s)
	go s.grpc.Serve(s.lis)
}

// cluster is some servers, and a connection to them that is balanced by b.
type cluster struct {
	t        *testing.T
	servers  map[string]*server // by address
	resolver *manual.Resolver
	b        *route.Balancer
	conn     *grpc.ClientConn
	client   healthv1.HealthClient
}

func newCluster(t *testing.T, es ...route.Endpoint) *cluster {
	t.Helper()
	c := &cluster{
		t:        t,
		servers:  make(map[string]*server),
		resolver: manual.NewBuilderWithScheme("test"),
		b:        route.New(route.Options{Service: "catalog", Zone: "here"}),
	}
	for _, e := range es {
		s := &server{endpoint: e}
		s.start()
		c.servers[e.Addr] = s
	}
	c.resolve(es...)
	conn, err := grpc.NewClient("test:///catalog",
		grpc.WithResolvers(route.Resolver(c.resolver, c.b)),
		grpc.WithDefaultServiceConfig(route.ServiceConfig),
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithContextDialer(func(ctx context.Context, addr string) (net.Conn, error) {
			if s := c.servers[addr]; s != nil {
				return s.lis.DialContext(ctx)
			}
			return nil, fmt.Errorf("nobody at %s", addr)
		}))
	if err != nil {
		t.Fatal(err)
	}
	c.conn, c.client = conn, healthv1.NewHealthClient(conn)
	return c
}

func (c *cluster) close() {
	c.conn.Close()
	for _, s := range c.servers {
		s.grpc.Stop()
	}
}

// resolve tells the connection what the endpoints are.
func (c *cluster) resolve(es ...route.Endpoint) {
	var state resolver.State
	for _, e := range es {
		r := resolver.Endpoint{Addresses: []resolver.Address{{Addr: e.Addr}}}
		state.Endpoints = append(state.Endpoints, route.SetEndpoint(r, e))
	}
	if c.conn == nil {
		c.resolver.InitialState(state)
	} else {
		c.resolver.UpdateState(state)
	}
	synctest.Wait()
}

// connect waits until every server that runs is connected.
func (c *cluster) connect() {
	c.conn.Connect()
	synctest.Wait()
}

func (c *cluster) call(call *route.Call, opts ...grpc.CallOption) error {
	ctx, cancel := context.WithTimeout(c.t.Context(), time.Second)
	defer cancel()
	_, err := c.client.Check(route.WithCall(ctx, call), &healthv1.HealthCheckRequest{}, opts...)
	return err
}

func inBubble(t *testing.T, f func(t *testing.T)) {
	t.Helper()
	synctest.Test(t, f)
}

func TestRPCsAreSpread(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		c := newCluster(t, endpoints("a", "here", 3)...)
		defer c.close()
		c.connect()
		for range 300 {
			var call route.Call
			if err := c.call(&call); err != nil {
				t.Fatal(err)
			}
			if w := call.Why(); w.Ready != 3 || w.Chosen.ID == "" {
				t.Fatalf("%+v", w)
			}
		}
		for addr, s := range c.servers {
			if n := s.calls.Load(); n < 50 {
				t.Errorf("%s got %d of 300 RPCs", addr, n)
			}
		}
	})
}

// An instance dies: every RPC succeeds with at most one retry elsewhere, and nothing goes to the dead.
func TestRPCKilledInstance(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		c := newCluster(t, endpoints("a", "here", 3)...)
		defer c.close()
		c.connect()
		time.Sleep(time.Minute) // slow start is over
		var dead int64
		victim := c.servers["a1:7000"]
		for i := range 400 {
			if i == 100 {
				victim.grpc.Stop()
				dead = victim.calls.Load()
			}
			var first route.Call
			err := c.call(&first)
			if e, ok := first.Endpoint(); status.Code(err) == codes.Unavailable && ok {
				again := route.Call{PickInfo: route.PickInfo{Exclude: []string{e.ID}}}
				err = c.call(&again)
				if other, _ := again.Endpoint(); other.ID == e.ID {
					t.Fatalf("retried on %s", e.ID)
				}
			}
			if err != nil {
				t.Fatalf("RPC %d: %v", i, err)
			}
			time.Sleep(time.Millisecond)
		}
		if n := victim.calls.Load(); n != dead {
			t.Errorf("%d RPCs reached the dead", n-dead)
		}
		if s := stateOf(t, c.b, "a1"); s.Ready {
			t.Errorf("the dead is ready: %+v", s)
		}
		victim.start()
		time.Sleep(5 * time.Second) // gRPC connects again
		if s := stateOf(t, c.b, "a1"); !s.Ready || s.Share > 0.7 {
			t.Errorf("back for a few seconds, it should be ready and in slow start: %+v", s)
		}
	})
}

func TestRPCErrorsAndEjection(t *testing.T) {
	tests := []struct {
		code    codes.Code
		ejected bool // after five of them
		penalty bool
	}{
		{codes.NotFound, false, false},
		{codes.InvalidArgument, false, false},
		{codes.Unauthenticated, false, false},
		{codes.Unimplemented, false, false},
		{codes.Canceled, false, false},
		{codes.Internal, false, true},
		{codes.ResourceExhausted, false, true},
		{codes.Unknown, false, true},
		{codes.Unavailable, true, true},
		{codes.DeadlineExceeded, true, true},
	}
	for _, tt := range tests {
		t.Run(tt.code.String(), func(t *testing.T) {
			inBubble(t, func(t *testing.T) {
				c := newCluster(t, endpoints("a", "here", 2)...)
				defer c.close()
				c.connect()
				c.servers["a0:7000"].answers(func(context.Context) error { return status.Error(tt.code, "as asked") })
				for range 5 {
					call := route.Call{PickInfo: route.PickInfo{Exclude: []string{"a1"}}}
					if err := c.call(&call); status.Code(err) != tt.code {
						t.Fatal(err)
					}
				}
				s := stateOf(t, c.b, "a0")
				if ejected := s.Phase == "ejected"; ejected != tt.ejected {
					t.Errorf("%+v", s)
				}
				if penalty := s.LatencyMS > 1000; penalty != tt.penalty {
					t.Errorf("%+v", s)
				}
			})
		})
	}
}

// An instance that accepts and never answers is ejected by time-outs.
func TestRPCSilentInstance(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		c := newCluster(t, endpoints("a", "here", 3)...)
		defer c.close()
		c.connect()
		c.servers["a0:7000"].answers(func(ctx context.Context) error { <-ctx.Done(); return ctx.Err() })
		begin := time.Now()
		for range 50 {
			for range 20 {
				go c.call(new(route.Call))
			}
			time.Sleep(100 * time.Millisecond)
			if stateOf(t, c.b, "a0").Phase == "ejected" {
				break
			}
		}
		if took := time.Since(begin); took > 3*time.Second {
			t.Errorf("not ejected after %v: %+v", took, c.b.State())
		}
		time.Sleep(2 * time.Second)
	})
}

func TestRPCExcludeAndVersion(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		es := endpoints("a", "here", 3)
		es[2].Version = "2"
		c := newCluster(t, es...)
		defer c.close()
		c.connect()
		for range 50 {
			call := route.Call{PickInfo: route.PickInfo{Version: "2"}}
			if err := c.call(&call); err != nil {
				t.Fatal(err)
			}
		}
		if n := c.servers["a2:7000"].calls.Load(); n != 50 {
			t.Errorf("%d of 50 RPCs pinned to version 2 got there", n)
		}
		all := route.PickInfo{Exclude: []string{"a0", "a1", "a2"}}
		for _, wait := range []bool{false, true} {
			var call route.Call
			call.PickInfo = all
			err := c.call(&call, grpc.WaitForReady(wait))
			if status.Code(err) != codes.Unavailable || !strings.Contains(err.Error(),
				"3 known, 0 not ready, 0 ejected, 3 excluded") {
				t.Errorf("all excluded, waiting %v: %v", wait, err)
			}
			if e, ok := call.Endpoint(); ok || call.Why() != (route.Why{}) {
				t.Errorf("all excluded: picked %v", e)
			}
		}
		ctx := route.WithVersion(route.WithExclude(route.WithExclude(t.Context(), "a0"), "a1"), "2")
		call, ok := route.CallOf(ctx)
		if !ok || call.Version != "2" || !slices.Equal(call.Exclude, []string{"a0", "a1"}) {
			t.Errorf("context carries %+v", call)
		}
		if _, err := c.client.Check(ctx, &healthv1.HealthCheckRequest{}); err != nil {
			t.Error(err)
		}
	})
}

func TestRPCNobodyThere(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		c := newCluster(t)
		defer c.close()
		es := endpoints("ghost", "here", 2)
		c.conn.Connect()
		c.resolver.CC().ReportError(errors.New("the registry is on holiday"))
		synctest.Wait()
		check := func(want ...string) {
			t.Helper()
			err := c.call(new(route.Call))
			for _, w := range append(want, "catalog") {
				if status.Code(err) != codes.Unavailable || !strings.Contains(err.Error(), w) {
					t.Errorf("%v; want Unavailable, saying %q", err, w)
				}
			}
		}
		check("0 known", "the registry is on holiday")
		c.resolve(es...)
		time.Sleep(100 * time.Millisecond)
		check("2 known, 2 not ready", "nobody at ghost")
	})
}

// A stream that is open for a day is not a slow answer.
func TestRPCStream(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		c := newCluster(t, endpoints("a", "here", 1)...)
		defer c.close()
		c.connect()
		ctx, cancel := context.WithCancel(t.Context())
		call := route.Call{PickInfo: route.PickInfo{Stream: true}}
		stream, err := c.client.Watch(route.WithCall(ctx, &call), &healthv1.HealthCheckRequest{})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := stream.Recv(); err != nil {
			t.Fatal(err)
		}
		if e, ok := call.Endpoint(); !ok || e.ID != "a0" {
			t.Errorf("the stream goes to %v", e)
		}
		time.Sleep(24 * time.Hour)
		cancel()
		stream.Recv()
		synctest.Wait()
		if s := stateOf(t, c.b, "a0"); s.LatencyMS != 0 || s.Pending != 0 || s.Failures != 0 {
			t.Errorf("%+v", s)
		}
	})
}

// A resolver that says nothing about endpoints, and a connection without a Balancer of its own, work as well.
func TestRPCWithoutAnything(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		s := &server{}
		s.start()
		defer s.grpc.Stop()
		r := manual.NewBuilderWithScheme("plain")
		r.InitialState(resolver.State{Addresses: []resolver.Address{{Addr: "somewhere:1"}}})
		conn, err := grpc.NewClient("plain:///x", grpc.WithResolvers(r),
			grpc.WithDefaultServiceConfig(route.ServiceConfig),
			grpc.WithTransportCredentials(insecure.NewCredentials()),
			grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) {
				return s.lis.DialContext(ctx)
			}))
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		var call route.Call
		if _, err := healthv1.NewHealthClient(conn).Check(route.WithCall(t.Context(), &call),
			&healthv1.HealthCheckRequest{}); err != nil {
			t.Fatal(err)
		}
		if e, _ := call.Endpoint(); e.ID != "somewhere:1" {
			t.Errorf("picked %+v", e)
		}
	})
}

func TestOutcomeOfRPC(t *testing.T) {
	for code, want := range map[codes.Code]route.Outcome{
		codes.OK: route.Success, codes.NotFound: route.Success, codes.InvalidArgument: route.Success,
		codes.AlreadyExists: route.Success, codes.PermissionDenied: route.Success, codes.Unauthenticated: route.Success,
		codes.FailedPrecondition: route.Success, codes.Aborted: route.Success, codes.OutOfRange: route.Success,
		codes.Unimplemented: route.Success, codes.Canceled: route.Abandoned,
		codes.Internal: route.Failure, codes.Unknown: route.Failure, codes.DataLoss: route.Failure,
		codes.ResourceExhausted: route.Failure,
		codes.Unavailable:       route.Unreachable, codes.DeadlineExceeded: route.Unreachable,
	} {
		if got := route.OutcomeOfRPC(status.Error(code, "x")); got != want {
			t.Errorf("OutcomeOfRPC(%v) = %d, want %d", code, got, want)
		}
	}
}

func TestOutcomeOfHTTP(t *testing.T) {
	for code, want := range map[int]route.Outcome{
		200: route.Success, 304: route.Success, 404: route.Success, 501: route.Success,
		429: route.Failure, 500: route.Failure, 507: route.Failure,
		502: route.Unreachable, 503: route.Unreachable, 504: route.Unreachable,
	} {
		if got := route.OutcomeOfHTTP(code); got != want {
			t.Errorf("OutcomeOfHTTP(%d) = %d, want %d", code, got, want)
		}
	}
}

type named struct{ resolver.Builder }

func (named) OverrideAuthority(resolver.Target) string { return "catalog.example" }

// The resolver's say about the authority is not lost.
func TestResolverKeepsAuthority(t *testing.T) {
	b, plain := route.New(route.Options{}), manual.NewBuilderWithScheme("test")
	if _, ok := route.Resolver(plain, b).(resolver.AuthorityOverrider); ok {
		t.Error("a resolver without an authority got one")
	}
	a, ok := route.Resolver(named{plain}, b).(resolver.AuthorityOverrider)
	if !ok || a.OverrideAuthority(resolver.Target{}) != "catalog.example" {
		t.Error("the authority is lost")
	}
}

// BenchmarkRPC shows what the policy adds to an RPC, in allocations above all: gRPC's own round robin is the floor.
func BenchmarkRPC(b *testing.B) {
	for _, c := range []struct{ name, config string }{
		{"floor=round_robin", `{"loadBalancingConfig":[{"round_robin":{}}]}`},
		{"bijou", route.ServiceConfig},
	} {
		b.Run(c.name, func(b *testing.B) {
			s := &server{}
			s.start()
			defer s.grpc.Stop()
			r := manual.NewBuilderWithScheme("bench")
			var state resolver.State
			for _, e := range endpoints("a", "", 3) {
				state.Endpoints = append(state.Endpoints,
					route.SetEndpoint(resolver.Endpoint{Addresses: []resolver.Address{{Addr: e.Addr}}}, e))
			}
			r.InitialState(state)
			conn, err := grpc.NewClient("bench:///x", grpc.WithResolvers(route.Resolver(r, route.New(route.Options{}))),
				grpc.WithDefaultServiceConfig(c.config), grpc.WithTransportCredentials(insecure.NewCredentials()),
				grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) {
					return s.lis.DialContext(ctx)
				}))
			if err != nil {
				b.Fatal(err)
			}
			defer conn.Close()
			client, request := healthv1.NewHealthClient(conn), new(healthv1.HealthCheckRequest)
			b.ReportAllocs()
			for b.Loop() {
				if _, err := client.Check(context.Background(), request); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// Resolvers of other packages attach no endpoint. Then the first address identifies the instance.
func TestEndpointOfAResolver(t *testing.T) {
	addresses := []resolver.Address{{Addr: "10.0.0.1:7000"}, {Addr: "10.0.0.2:7000"}}
	attached := route.Endpoint{ID: "catalog-1", Addr: "catalog-1:7000", Zone: "a"}
	for _, tt := range []struct {
		name string
		in   resolver.Endpoint
		want route.Endpoint
		ok   bool
	}{
		{"attached", route.SetEndpoint(resolver.Endpoint{Addresses: addresses}, attached), attached, true},
		{"addresses only", resolver.Endpoint{Addresses: addresses}, route.Endpoint{Addr: "10.0.0.1:7000"}, false},
		{"nothing", resolver.Endpoint{}, route.Endpoint{}, false},
	} {
		if got, ok := route.EndpointOf(tt.in); got != tt.want || ok != tt.ok {
			t.Errorf("%s: the endpoint is %+v, %t; want %+v, %t", tt.name, got, ok, tt.want, tt.ok)
		}
	}
}
