package discovery_test

import (
	"context"
	"fmt"
	"net"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	discoveryv1 "bijou.dev/platform/api/discovery/v1"
	"bijou.dev/platform/discovery"
	"bijou.dev/platform/kv/kvmem"
	"bijou.dev/platform/memnet"
	registry "bijou.dev/services/discovery"
	"bijou.dev/services/discovery/discoverytest"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
)

// stack is a registry with its store, its replicas and its instances.
type stack struct {
	t     *testing.T
	net   *memnet.Network
	store *kvmem.Store
	seeds []string
}

// inStack runs a test in fake time.
func inStack(t *testing.T, test func(t *testing.T, s *stack)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		s := &stack{t: t, net: memnet.New(), store: kvmem.New()}
		t.Cleanup(func() { _ = s.store.Close() })
		test(t, s)
	})
}

// replica is one running registry with its own client of the store.
type replica struct {
	*discoverytest.Server
	store *kvmem.Store
}

func (s *stack) replica(name string, change ...func(*registry.Options)) *replica {
	s.t.Helper()
	store := s.store.Peer()
	o := registry.Options{Name: name, Store: store}
	for _, c := range change {
		c(&o)
	}
	r := &replica{
		discoverytest.NewServer(s.t, &discoverytest.Options{Net: s.net, Addr: name + ":7000", Registry: o}),
		store,
	}
	for _, seed := range s.seeds {
		if seed == r.Addr {
			return r
		}
	}
	s.seeds = append(s.seeds, r.Addr)
	return r
}

// crash ends a replica that cannot remove its presence from the store, so the presence has to expire.
func (r *replica) crash() {
	r.store.Fail(nil)
	r.Stop()
}

// member is an instance with its registrar.
type member struct {
	*discovery.Registrar
	in     discovery.Instance
	cancel context.CancelFunc
	done   sync.WaitGroup
}

// crash ends an instance that does not deregister.
func (m *member) crash() {
	m.cancel()
	m.done.Wait()
}

func instance(service, id string) discovery.Instance {
	return discovery.Instance{
		Service: service, ID: id, Status: discovery.Up, Zone: "a", Version: "1",
		Endpoints: map[string]string{"grpc": service + "-" + id + ":7000"}, Started: time.Now(),
	}
}

// join starts an instance that uses the given seeds, or all.
func (s *stack) join(in discovery.Instance, o discovery.RegistrarOptions, seeds ...string) *member {
	s.t.Helper()
	if len(seeds) == 0 {
		seeds = s.seeds
	}
	c, err := discovery.New(discovery.Options{Seeds: seeds, Name: in.ID, DialContext: s.net.DialContext})
	if err != nil {
		s.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	r, err := discovery.NewRegistrar(c, in, o)
	if err != nil {
		s.t.Fatal(err)
	}
	m := &member{Registrar: r, in: in, cancel: cancel}
	m.done.Go(func() { _ = m.Run(ctx) })
	s.t.Cleanup(m.crash)
	return m
}

// joinAll starts n instances "1" to "n" of a service, and waits until they are registered.
func (s *stack) joinAll(service string, n int, seeds ...string) []*member {
	var all []*member
	for i := range n {
		all = append(all, s.join(instance(service, fmt.Sprint(i+1)), discovery.RegistrarOptions{}, seeds...))
	}
	settle()
	for _, m := range all {
		if ok, why := m.Registered(); !ok {
			s.t.Fatalf("%s is not registered: %s", m.in.ID, why)
		}
	}
	return all
}

// follow starts a client of a replica.
func (s *stack) follow(r *replica, more ...string) *discovery.Client {
	s.t.Helper()
	c := r.Client(s.t, "test", more...)
	settle()
	return c
}

// settle waits until everything has happened that takes less than 300 ms.
func settle() {
	time.Sleep(300 * time.Millisecond)
	synctest.Wait()
}

// after waits for a time, and then until no goroutine has anything left to do.
func after(d time.Duration) {
	time.Sleep(d)
	synctest.Wait()
}

// rpc is a plain client of a replica.
func (s *stack) rpc(r *replica) discoveryv1.DiscoveryClient {
	s.t.Helper()
	conn, err := grpc.NewClient("passthrough:///"+r.Addr, grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithContextDialer(
			func(ctx context.Context, addr string) (net.Conn, error) { return s.net.DialContext(ctx, "tcp", addr) },
		))
	if err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(func() { _ = conn.Close() })
	return discoveryv1.NewDiscoveryClient(conn)
}

// show writes instances as "1:UP 2:UP? 3:DRAINING"; the question mark is a suspect.
func show(list []discovery.Instance) string {
	var out []string
	for _, in := range list {
		s := in.ID + ":" + in.Status.String()
		if in.Suspect {
			s += "?"
		}
		out = append(out, s)
	}
	return strings.Join(out, " ")
}

func want(t *testing.T, what string, got []discovery.Instance, want string) {
	t.Helper()
	if s := show(got); s != want {
		t.Errorf("%s: got %q, want %q", what, s, want)
	}
}

// state returns all instances of a replica and the state of its self-preservation and store.
func (s *stack) state(r *replica) *discoveryv1.ListResponse {
	s.t.Helper()
	resp, err := r.List(s.t.Context(), &discoveryv1.ListRequest{})
	if err != nil {
		s.t.Fatal(err)
	}
	return resp
}

// heartbeat returns a heartbeat of an instance without a start time. Its heartbeat and lease are the registry's.
func heartbeat(service, id string, status discoveryv1.Status) *discoveryv1.RegisterRequest {
	return &discoveryv1.RegisterRequest{Instance: &discoveryv1.Instance{
		Service: service, Id: id, Reported: status, Endpoints: map[string]string{"grpc": service + "-" + id + ":7000"},
	}}
}

// register opens a stream, sends messages on it and reads one response to each.
func (s *stack) register(r *replica, messages ...*discoveryv1.RegisterRequest) discoveryv1.Discovery_RegisterClient {
	s.t.Helper()
	stream, err := s.rpc(r).Register(s.t.Context())
	if err != nil {
		s.t.Fatal(err)
	}
	for _, m := range messages {
		if err := stream.Send(m); err != nil {
			s.t.Fatal(err)
		}
		if _, err := stream.Recv(); err != nil {
			s.t.Fatalf("registering %s/%s: %v", m.GetInstance().GetService(), m.GetInstance().GetId(), err)
		}
	}
	return stream
}

// records returns the keys of the store below /bijou/discovery/instances/.
func (s *stack) records() []string {
	s.t.Helper()
	const root = "/bijou/discovery/instances/"
	entries, _, err := s.store.List(s.t.Context(), root)
	if err != nil {
		s.t.Fatal(err)
	}
	keys := []string{}
	for _, e := range entries {
		keys = append(keys, strings.TrimPrefix(e.Key, root))
	}
	return keys
}
