package service_test

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	discoveryv1 "bijou.dev/platform/api/discovery/v1"
	"bijou.dev/platform/memnet"
	"bijou.dev/platform/service"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	healthv1 "google.golang.org/grpc/health/grpc_health_v1"
)

// registry accepts all instances and records what they report.
type registry struct {
	discoveryv1.UnimplementedDiscoveryServer
	propagated atomic.Bool // whether all callers know the last reported status

	mu     sync.Mutex
	events []string // each status when it changes, and "LEFT"
}

func startRegistry(t *testing.T, n *memnet.Network) *registry {
	t.Helper()
	l, err := n.Listen("tcp", "registry:7000")
	if err != nil {
		t.Fatal(err)
	}
	r, srv := &registry{}, grpc.NewServer()
	discoveryv1.RegisterDiscoveryServer(srv, r)
	go func() { _ = srv.Serve(l) }() // ends with Stop
	t.Cleanup(srv.Stop)
	return r
}

func (r *registry) record(event string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if n := len(r.events); n == 0 || r.events[n-1] != event {
		r.events = append(r.events, event)
	}
}

func (r *registry) last() string {
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.events) == 0 {
		return ""
	}
	return r.events[len(r.events)-1]
}

func (r *registry) Register(stream grpc.BidiStreamingServer[discoveryv1.RegisterRequest,
	discoveryv1.RegisterResponse],
) error {
	for {
		req, err := stream.Recv()
		if err != nil {
			return err
		}
		if req.GetDeregister() {
			r.record("LEFT")
			return nil
		}
		r.record(strings.TrimPrefix(req.GetInstance().GetReported().String(), "STATUS_"))
		if err := stream.Send(&discoveryv1.RegisterResponse{
			Instance:   req.GetInstance(),
			Propagated: r.propagated.Load(),
		}); err != nil {
			return err
		}
	}
}

func (r *registry) Watch(stream grpc.BidiStreamingServer[discoveryv1.WatchRequest, discoveryv1.WatchResponse]) error {
	if _, err := stream.Recv(); err != nil {
		return err
	}
	if err := stream.Send(&discoveryv1.WatchResponse{Version: 1, Snapshot: true}); err != nil {
		return err
	}
	<-stream.Context().Done()
	return nil
}

// The order of a stop loses no request. First callers are informed, and until all of them know, new requests are
// answered. Then no new requests are accepted, and those in progress end. Then the instance leaves, and last the
// functions of OnStop run.
func TestOrderOfAStop(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := memnet.New()
		reg := startRegistry(t, n)
		o := standalone(n, "hello-1")
		o.Discovery, o.Drain = []string{"registry:7000"}, 20*time.Second
		entered, finish := make(chan struct{}), make(chan struct{})
		_, stop := run(t, o, func(_ context.Context, setup *service.Setup) error {
			begin := time.Now()
			setup.Ready("films", func() error {
				if time.Since(begin) < 500*time.Millisecond {
					return errors.New("still loading")
				}
				return nil
			})
			setup.OnStop("store", func(context.Context) error { reg.record("stopped"); return nil })
			return setup.Handle("http", http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				if r.URL.Path == "/slow" {
					close(entered)
					<-finish
				}
				_, _ = io.WriteString(w, "hi")
			}))
		})
		time.Sleep(time.Second)
		conn, err := grpc.NewClient("passthrough:///hello-1:7000",
			grpc.WithTransportCredentials(insecure.NewCredentials()),
			grpc.WithContextDialer(memDial(n)))
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		health := func() string {
			h, err := healthv1.NewHealthClient(conn).Check(t.Context(), &healthv1.HealthCheckRequest{})
			if err != nil {
				return err.Error()
			}
			return h.GetStatus().String()
		}
		if reg.last() != "UP" || health() != "SERVING" {
			t.Fatalf("at first the registry got %q, the health service says %s", reg.last(), health())
		}
		slow := make(chan string, 1)
		go func() {
			_, body := get(t, n, "http://hello-1:8080/slow")
			slow <- body
		}()
		<-entered
		stopped := make(chan error, 1)
		go func() { stopped <- stop() }()

		time.Sleep(4 * time.Second) // of the 10 s in which callers are informed
		if reg.last() != "DRAINING" || health() != "NOT_SERVING" {
			t.Errorf("draining, the registry got %q, the health service says %s", reg.last(), health())
		}
		if code, body := get(t, n, "http://hello-1:8080/"); code != 200 || body != "hi" {
			t.Errorf("a caller that does not know yet got %d %q", code, body)
		}
		if code, body := get(t, n, "http://hello-1:9090/readyz"); code != 503 || !strings.Contains(body, "draining") {
			t.Errorf("readyz is %d %s", code, body)
		}

		reg.propagated.Store(true)
		time.Sleep(4 * time.Second) // more than a heartbeat
		for _, addr := range []string{"hello-1:8080", "hello-1:7000"} {
			if c, err := n.DialContext(t.Context(), "tcp", addr); err == nil {
				c.Close()
				t.Errorf("when all callers know, %s still takes connections", addr)
			}
		}
		if got := reg.last(); got != "DRAINING" {
			t.Errorf("with a request in progress the registry got %q", got)
		}
		close(finish)
		if got := <-slow; got != "hi" {
			t.Errorf("the request in progress got %q", got)
		}
		if err := <-stopped; err != nil {
			t.Error(err)
		}
		if want := []string{"STARTING", "UP", "DRAINING", "LEFT", "stopped"}; !slices.Equal(reg.events, want) {
			t.Errorf("the order was %v, want %v", reg.events, want)
		}
	})
}

// recorder is a Server that reports its Shutdown to the registry's list.
type recorder struct {
	reg  *registry
	stop chan struct{}
}

func (r recorder) Serve(net.Listener) error {
	<-r.stop
	return nil
}

func (r recorder) Shutdown(context.Context) error {
	r.reg.record("shutdown")
	select {
	case <-r.stop:
	default:
		close(r.stop)
	}
	return nil
}

// A server of the service's own stops as the platform's servers do: callers know before, and the instance leaves after.
func TestServersOfTheServiceStopBeforeTheInstanceLeaves(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := memnet.New()
		reg := startRegistry(t, n)
		reg.propagated.Store(true)
		o := standalone(n, "hello-1")
		o.Discovery = []string{"registry:7000"}
		_, stop := run(t, o, func(_ context.Context, setup *service.Setup) error {
			begin := time.Now()
			setup.Ready("films", func() error { // so that it is registered before it is UP
				if time.Since(begin) < 500*time.Millisecond {
					return errors.New("still loading")
				}
				return nil
			})
			setup.OnStop("store", func(context.Context) error { reg.record("stopped"); return nil })
			return setup.Serve("http", recorder{reg, make(chan struct{})})
		})
		time.Sleep(time.Second)
		if err := stop(); err != nil {
			t.Errorf("stop: %v", err)
		}
		want := []string{"STARTING", "UP", "DRAINING", "shutdown", "LEFT", "stopped"}
		if !slices.Equal(reg.events, want) {
			t.Errorf("the order was %v, want %v", reg.events, want)
		}
	})
}

// OnDrain runs when all callers know that the instance leaves, and not before: until then streams continue.
func TestStreamsEndWhenCallersKnow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := memnet.New()
		reg := startRegistry(t, n)
		o := standalone(n, "hello-1")
		o.Discovery, o.Drain = []string{"registry:7000"}, 20*time.Second
		released := make(chan time.Time, 100)
		_, stop := run(t, o, func(ctx context.Context, setup *service.Setup) error {
			setup.OnDrain(func() { released <- time.Now() })
			return greet(ctx, setup)
		})
		time.Sleep(time.Second)
		begin := time.Now()
		stopped := make(chan error, 1)
		go func() { stopped <- stop() }()
		time.Sleep(4 * time.Second)
		if n := len(released); n != 0 {
			t.Errorf("before callers knew, OnDrain was called %d times", n)
		}
		reg.propagated.Store(true) // the answer to the next heartbeat says so
		if took := (<-released).Sub(begin); took < 4*time.Second || took > 10*time.Second {
			t.Errorf("OnDrain was called after %v, want between 4s, when callers knew, and half of the drain time", took)
		}
		if err := <-stopped; err != nil {
			t.Errorf("stop: %v", err)
		}
	})
}
