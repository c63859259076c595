package discovery_test

import (
	"fmt"
	"net/url"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"bijou.dev/platform/discovery"
	"bijou.dev/platform/errs"
	"bijou.dev/platform/memnet"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/health"
	healthv1 "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/resolver"
)

// connection records what a resolver sends to a gRPC connection.
type connection struct {
	resolver.ClientConn
	mu     sync.Mutex
	states []resolver.State
	errs   []error
}

func (c *connection) UpdateState(s resolver.State) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.states = append(c.states, s)
	return nil
}

func (c *connection) ReportError(err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.errs = append(c.errs, err)
}

// summary returns the last state as "1@a:1 2@b:1?", and how many updates and errors there were.
func (c *connection) summary() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	var out []string
	if n := len(c.states); n > 0 {
		for _, ep := range c.states[n-1].Endpoints {
			in, ok := discovery.FromAddress(ep.Addresses[0])
			in2, ok2 := discovery.FromEndpoint(ep)
			s := in.ID + "@" + ep.Addresses[0].Addr
			if in.Suspect {
				s += "?"
			}
			if !ok || !ok2 || !in.Equal(in2) {
				s += " without its instance"
			}
			out = append(out, s)
		}
	}
	return fmt.Sprintf("%d %d [%s]", len(c.states), len(c.errs), strings.Join(out, " "))
}

func build(t *testing.T, c *discovery.Directory, target string) (*connection, resolver.Resolver, error) {
	t.Helper()
	u, err := url.Parse(target)
	if err != nil {
		t.Fatal(err)
	}
	cc := &connection{}
	r, err := c.Builder().Build(resolver.Target{URL: *u}, cc, resolver.BuildOptions{})
	return cc, r, err
}

func up(id, addr string) discovery.Instance {
	return discovery.Instance{ID: id, Endpoints: map[string]string{"grpc": addr, "admin": addr + "9"}, Zone: "a"}
}

func TestResolver(t *testing.T) {
	c := discovery.NewStatic(map[string][]discovery.Instance{"catalog": {up("1", "a:1"), up("2", "b:1")}})
	cc, r, err := build(t, c.Directory, "bijou:///catalog")
	if err != nil {
		t.Fatal(err)
	}
	r.ResolveNow(resolver.ResolveNowOptions{})
	steps := []struct {
		name string
		put  []discovery.Instance
		want string
	}{
		{"at first", nil, "1 0 [1@a:1 2@b:1]"},
		{"no change", []discovery.Instance{up("2", "b:1"), up("1", "a:1")}, "1 0 [1@a:1 2@b:1]"},
		{"an instance that takes no calls", []discovery.Instance{
			up("1", "a:1"), up("2", "b:1"),
			{ID: "3", Status: discovery.Starting},
		}, "1 0 [1@a:1 2@b:1]"},
		{"a suspect", []discovery.Instance{up("1", "a:1"), {
			ID: "2", Suspect: true,
			Endpoints: map[string]string{"grpc": "b:1"},
		}}, "2 0 [1@a:1 2@b:1?]"},
		{"one drains", []discovery.Instance{up("1", "a:1"), {
			ID: "2", Status: discovery.Draining,
			Endpoints: map[string]string{"grpc": "b:1"},
		}}, "3 0 [1@a:1]"},
		{"nothing is up", []discovery.Instance{
			{ID: "2", Status: discovery.Down},
			{ID: "3", Endpoints: map[string]string{"http": "c:1"}},
		}, "4 1 []"},
		{"nothing at all", []discovery.Instance{}, "4 2 []"},
		{"back", []discovery.Instance{up("1", "a:1")}, "5 2 [1@a:1]"},
	}
	for _, s := range steps {
		if s.put != nil {
			c.Put("catalog", s.put)
		}
		if got := cc.summary(); got != s.want {
			t.Errorf("%s: %s, want %s", s.name, got, s.want)
		}
	}
	if err := errs.FromRPC(cc.errs[0]); errs.KindOf(err) != errs.Unavailable ||
		!strings.Contains(err.Error(),
			`service "catalog": none of 2 instances takes calls: 2 is DOWN, 3 is UP without endpoint "grpc"`) {
		t.Errorf("nothing is up: %v", err)
	}
	if err := cc.errs[1]; !strings.Contains(err.Error(), `"catalog": no instance is registered`) {
		t.Errorf("nothing at all: %v", err)
	}
	r.Close()
	c.Put("catalog", nil)
	if got := cc.summary(); got != "5 2 [1@a:1]" {
		t.Errorf("after Close: %s", got)
	}
}

func TestResolverTargets(t *testing.T) {
	c := discovery.NewStatic(map[string][]discovery.Instance{"catalog": {up("1", "a:1")}})
	cc, r, err := build(t, c.Directory, "bijou:///catalog?endpoint=admin")
	if err != nil || cc.summary() != "1 0 [1@a:19]" {
		t.Errorf("another endpoint: %v, %s", err, cc.summary())
	}
	r.Close()
	for _, bad := range []string{"bijou:///", "bijou:///a/b"} {
		if _, _, err := build(t, c.Directory, bad); errs.KindOf(err) != errs.Invalid {
			t.Errorf("%s: %v, want invalid", bad, err)
		}
	}
	some, err := discovery.New(discovery.Options{Seeds: []string{"one:7000"}, Services: []string{"viewing"}})
	if err != nil {
		t.Fatal(err)
	}
	if _, _, err := build(t, some.Directory, "bijou:///catalog"); errs.KindOf(err) != errs.Invalid {
		t.Errorf("a service that is not watched: %v, want invalid", err)
	}
}

func TestAddressIsTheProcess(t *testing.T) {
	c := discovery.NewStatic(map[string][]discovery.Instance{"catalog": {up("1", "a:1")}})
	cc, r, err := build(t, c.Directory, "bijou:///catalog")
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	changed := up("1", "a:1")
	changed.Metadata = map[string]string{"k": "v"}
	c.Put("catalog", []discovery.Instance{changed})
	restarted := changed
	restarted.Started = time.Unix(1, 0)
	c.Put("catalog", []discovery.Instance{restarted})
	addr := func(i int) resolver.Address { return cc.states[i].Endpoints[0].Addresses[0] }
	if !addr(0).Equal(addr(1)) {
		t.Error("a change of metadata costs the connection")
	}
	if addr(1).Equal(addr(2)) {
		t.Error("a restarted process keeps the connection of the old one")
	}
	if in, _ := discovery.FromAddress(addr(1)); in.Metadata["k"] != "v" {
		t.Errorf("the address carries %+v", in)
	}
	if _, ok := discovery.FromAddress(resolver.Address{Addr: "a:1"}); ok {
		t.Error("a foreign address carries an instance")
	}
}

func TestResolverWaitsForTheFirstAnswer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newScript(t, memnet.New(), "one")
		s.net.Cut("one")
		c, _ := run(t, discovery.Options{Seeds: []string{s.addr}, DialContext: s.net.DialContext})
		cc, r, err := build(t, c.Directory, "bijou:///a")
		if err != nil {
			t.Fatal(err)
		}
		defer r.Close()
		settle()
		if got := cc.summary(); got != "0 0 []" {
			t.Errorf("while the first seed is being tried: %s", got)
		}
		after(30 * time.Second)
		if got := cc.summary(); got != "1 1 []" || !strings.Contains(cc.errs[0].Error(),
			`"a": no instance is known: no registry has answered yet: one:7000`) {
			t.Errorf("when no registry answers: %s, %v", got, cc.errs)
		}
		s.open(snapshot("a1"))
		s.net.Heal("one")
		after(15 * time.Second)
		if got := cc.summary(); got != "2 1 [a1@a1:7000]" {
			t.Errorf("when a registry answers: %s", got)
		}
		s.stop()
		after(time.Hour)
		if got := cc.summary(); got != "2 1 [a1@a1:7000]" {
			t.Errorf("an hour after the registry is lost: %s", got)
		}
	})
}

// A real connection of gRPC follows the instances.
func TestGRPC(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		net := memnet.New()
		for i, addr := range []string{"a:1", "b:1"} {
			l, err := net.Listen("tcp", addr)
			if err != nil {
				t.Fatal(err)
			}
			h := health.NewServer()
			// SERVING and NOT_SERVING are the difference between them
			h.SetServingStatus("", healthv1.HealthCheckResponse_ServingStatus(i+1))
			s := grpc.NewServer()
			healthv1.RegisterHealthServer(s, h)
			go func() { _ = s.Serve(l) }()
			t.Cleanup(s.Stop)
		}
		c := discovery.NewStatic(map[string][]discovery.Instance{"catalog": {up("1", "a:1")}})
		conn, err := grpc.NewClient("bijou:///catalog", grpc.WithResolvers(c.Builder()),
			grpc.WithTransportCredentials(insecure.NewCredentials()),
			grpc.WithContextDialer(dialer(net)))
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		call := func() string {
			synctest.Wait()
			resp, err := healthv1.NewHealthClient(conn).Check(t.Context(), &healthv1.HealthCheckRequest{})
			if err != nil {
				return errs.FromRPC(err).Error()
			}
			return resp.GetStatus().String()
		}
		if got := call(); got != "SERVING" {
			t.Errorf("one is up: %s", got)
		}
		c.Put("catalog", []discovery.Instance{{
			ID: "1", Status: discovery.Draining,
			Endpoints: map[string]string{"grpc": "a:1"},
		}, up("2", "b:1")})
		if got := call(); got != "NOT_SERVING" {
			t.Errorf("the other is up: %s", got)
		}
		c.Put("catalog", nil)
		if got := call(); !strings.Contains(got, `service "catalog": no instance is registered`) {
			t.Errorf("nothing is up: %s", got)
		}
	})
}
