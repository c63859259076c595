package discovery_test

import (
	"context"
	"fmt"
	"net"
	"sync"
	"sync/atomic"
	"testing"

	discoveryv1 "bijou.dev/platform/api/discovery/v1"
	"bijou.dev/platform/discovery"
	"bijou.dev/platform/kv/kvmem"
	"bijou.dev/platform/rpc"
	registry "bijou.dev/services/discovery"
	"bijou.dev/services/discovery/discoverytest"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
)

// BenchmarkRegisterToLastWatcher measures from a status sent by one instance to the moment the last of 100 clients has
// it, over loopback TCP.
func BenchmarkRegisterToLastWatcher(b *testing.B) {
	for _, watchers := range []int{1, 100} {
		b.Run(fmt.Sprintf("watchers=%d", watchers), func(b *testing.B) { benchRegister(b, watchers) })
	}
}

func benchRegister(b *testing.B, watchers int) {
	addr := serve(b)
	var seen atomic.Pointer[sync.WaitGroup]
	seen.Store(new(sync.WaitGroup))
	var want atomic.Int64
	for range watchers {
		c := follow(b, addr)
		var last int64
		b.Cleanup(c.Watch("catalog", func(list []discovery.Instance) {
			if len(list) == 1 && int64(list[0].Status) == want.Load() && last != want.Load() {
				last = want.Load()
				seen.Load().Done()
			}
		}))
	}
	conn, err := grpc.NewClient("passthrough:///"+addr, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { _ = conn.Close() })
	stream, err := discoveryv1.NewDiscoveryClient(conn).Register(b.Context())
	if err != nil {
		b.Fatal(err)
	}
	go func() {
		for {
			if _, err := stream.Recv(); err != nil {
				return
			}
		}
	}()
	send := func(s discovery.Status) {
		wg := new(sync.WaitGroup)
		wg.Add(watchers)
		seen.Store(wg)
		want.Store(int64(s))
		in := &discoveryv1.Instance{
			Service: "catalog", Id: "1", Reported: discoveryv1.Status(s), Zone: "a",
			Endpoints: map[string]string{"grpc": "10.0.0.1:7000", "admin": "10.0.0.1:9090"},
		}
		if err := stream.Send(&discoveryv1.RegisterRequest{Instance: in}); err != nil {
			b.Fatal(err)
		}
		wg.Wait()
	}
	send(discovery.Starting)
	for b.Loop() {
		send(discovery.Up)
		send(discovery.Starting)
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(2*b.N), "ns/change")
}

// serve starts a registry on loopback.
func serve(b *testing.B) string {
	b.Helper()
	store := kvmem.New()
	s, err := registry.NewServer(registry.Options{Store: store})
	if err != nil {
		b.Fatal(err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		b.Fatal(err)
	}
	g := rpc.NewServer(rpc.ServerOptions{})
	discoveryv1.RegisterDiscoveryServer(g, s)
	ctx, cancel := context.WithCancel(context.Background())
	var done sync.WaitGroup
	done.Go(func() { _ = s.Run(ctx) })
	done.Go(func() { _ = g.Serve(l) })
	b.Cleanup(func() {
		g.Stop()
		cancel()
		done.Wait()
		_ = s.Close()
		_ = store.Close()
	})
	return l.Addr().String()
}

// follow starts a client. The first change that it has to see waits for it.
func follow(b *testing.B, addr string) *discovery.Client {
	b.Helper()
	c, err := discovery.New(discovery.Options{Seeds: []string{addr}})
	if err != nil {
		b.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	var done sync.WaitGroup
	done.Go(func() { _ = c.Run(ctx) })
	b.Cleanup(func() { cancel(); done.Wait() })
	return c
}

// BenchmarkFull is the start of 1,000 instances until each of 50 watchers has seen all of them.
func BenchmarkFull(b *testing.B) {
	for b.Loop() {
		full(b, 1000, 50)
	}
}

func full(tb testing.TB, instances, watchers int) {
	s := discoverytest.NewServer(tb, nil)
	var seeing sync.WaitGroup
	for range watchers {
		c := s.Client(tb, "bench")
		seeing.Add(1)
		var once sync.Once
		tb.Cleanup(c.Watch("catalog", func(list []discovery.Instance) {
			if len(list) == instances {
				once.Do(seeing.Done)
			}
		}))
	}
	ctx, cancel := context.WithCancel(context.Background())
	var done sync.WaitGroup
	defer done.Wait()
	defer cancel()
	c, err := discovery.New(discovery.Options{Seeds: []string{s.Addr}, DialContext: s.Net.DialContext})
	if err != nil {
		tb.Fatal(err)
	}
	for i := range instances {
		r, err := discovery.NewRegistrar(c, instance("catalog", fmt.Sprint(i)), discovery.RegistrarOptions{})
		if err != nil {
			tb.Fatal(err)
		}
		done.Go(func() { _ = r.Run(ctx) })
	}
	seeing.Wait()
}

// All watchers see all instances, however the changes are batched. BenchmarkFull does it with more of both.
func TestManyInstancesManyWatchers(t *testing.T) {
	full(t, 300, 20)
}
