package rpc_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	circuitsv1 "bijou.dev/platform/api/circuits/v1"
	configv1 "bijou.dev/platform/api/config/v1"
	"bijou.dev/platform/circuit"
	"bijou.dev/platform/config"
	"bijou.dev/platform/discovery"
	"bijou.dev/platform/errs"
	"bijou.dev/platform/load"
	"bijou.dev/platform/memnet"
	"bijou.dev/platform/overload"
	"bijou.dev/platform/retry"
	"bijou.dev/platform/rpc"
	"bijou.dev/platform/trace"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"
	oteltrace "go.opentelemetry.io/otel/trace"
	"google.golang.org/grpc"
	"google.golang.org/grpc/health"
	healthv1 "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/metadata"
)

// settings is a Config server whose Get (idempotent) and Publish (not) do what a test says.
type settings struct {
	configv1.UnimplementedConfigServer
	calls atomic.Int64
	get   func(context.Context) error
}

func (s *settings) Get(ctx context.Context, _ *configv1.GetRequest) (*configv1.GetResponse, error) {
	s.calls.Add(1)
	return &configv1.GetResponse{}, s.get(ctx)
}

func (s *settings) Publish(ctx context.Context, _ *configv1.PublishRequest) (*configv1.PublishResponse, error) {
	s.calls.Add(1)
	return &configv1.PublishResponse{}, s.get(ctx)
}

// world is a network with a client and any number of instances of "config".
type world struct {
	net       *memnet.Network
	discovery *discovery.Static
	instances []discovery.Instance
	metrics   *prometheus.Registry
}

func newWorld() *world {
	return &world{net: memnet.New(), discovery: discovery.NewStatic(nil), metrics: prometheus.NewRegistry()}
}

// start adds an instance whose methods call get, and returns its implementation and its server.
func (w *world) start(t *testing.T, o rpc.ServerOptions, get func(context.Context) error) (*settings, *grpc.Server) {
	t.Helper()
	impl := &settings{get: get}
	return impl, w.startServer(t, o, impl)
}

// startServer adds an instance.
func (w *world) startServer(t *testing.T, o rpc.ServerOptions, impl configv1.ConfigServer) *grpc.Server {
	t.Helper()
	id := fmt.Sprintf("config-%d", len(w.instances)+1)
	l, err := w.net.Listen("tcp", id+":7000")
	if err != nil {
		t.Fatal(err)
	}
	srv := rpc.NewServer(o)
	configv1.RegisterConfigServer(srv, impl)
	healthv1.RegisterHealthServer(srv, health.NewServer())
	go srv.Serve(l)
	t.Cleanup(srv.Stop)
	w.instances = append(w.instances, discovery.Instance{
		Service: "config", ID: id, Endpoints: map[string]string{"grpc": l.Addr().String()},
		Status: discovery.Up, Zone: "a",
	})
	w.discovery.Put("config", w.instances)
	return srv
}

func (w *world) client(t *testing.T, o rpc.ClientOptions) configv1.ConfigClient {
	t.Helper()
	o.Service, o.Discovery, o.DialContext = "test", w.discovery.Directory, w.net.DialContext
	conn, err := rpc.NewClient(o).Dial("config")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return configv1.NewConfigClient(conn)
}

func ok(context.Context) error { return nil }

func unavailable(context.Context) error {
	return errs.Errorf(errs.Unavailable, "reading settings: the store is down")
}

func TestAnErrorKeepsItsKindAndDetails(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld()
		w.start(t, rpc.ServerOptions{}, func(context.Context) error {
			return errs.Errorf(errs.Invalid, "publishing").Field("value", "must be at most 10")
		})
		_, err := w.client(t, rpc.ClientOptions{}).Get(t.Context(), &configv1.GetRequest{})
		if !errors.Is(err, errs.Invalid) || !errs.Wire(err) || err.Error() != "publishing: value must be at most 10" {
			t.Errorf("got %v (wire %v)", err, errs.Wire(err))
		}
	})
}

func TestPanicIsAnInternalErrorAndTheServerLives(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		assertStaysInternal(t, func(context.Context) error { panic("secret") })
	})
}

func TestTextOfAnInternalErrorStaysAtTheServer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		assertStaysInternal(t, func(context.Context) error {
			return errs.Errorf(errs.Internal, "reading: %w", errors.New("secret"))
		})
	})
}

// assertStaysInternal calls a server twice whose answer has the word secret in it, and wants that word in one line of
// the log for each call and not at the caller.
func assertStaysInternal(t *testing.T, answer func(context.Context) error) {
	t.Helper()
	w := newWorld()
	var log bytes.Buffer
	tracer, err := trace.New(trace.Options{Service: "config", Exporter: tracetest.NewNoopExporter()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = tracer.Shutdown(context.Background()) })
	handler := trace.Handler(slog.NewTextHandler(&log, nil))
	w.start(t, rpc.ServerOptions{Log: slog.New(handler), Trace: tracer}, answer)
	c := w.client(t, rpc.ClientOptions{})
	for range 2 {
		log.Reset()
		_, err := c.Get(t.Context(), &configv1.GetRequest{})
		if !errors.Is(err, errs.Internal) || strings.Contains(err.Error(), "secret") {
			t.Errorf("the caller sees the %v error %v", errs.KindOf(err), err)
		}
		if lines := strings.Count(log.String(), "\n"); lines != 1 || !strings.Contains(log.String(), "secret") {
			t.Errorf("the log has %d lines, want one with the text: %s", lines, log.String())
		}
		_, id, found := strings.Cut(err.Error(), "trace_id ")
		if !found || !strings.Contains(log.String(), "trace_id="+id) {
			t.Errorf("the caller sees %q, want the trace_id of the log: %s", err, log.String())
		}
	}
}

func TestRetriesGoElsewhereAndOnlyWhereTheProtoAllows(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld()
		bad, _ := w.start(t, rpc.ServerOptions{}, func(context.Context) error {
			return errs.Errorf(errs.Unavailable,
				"not now")
		})
		good, _ := w.start(t, rpc.ServerOptions{}, ok)
		c := w.client(t, rpc.ClientOptions{Circuits: circuit.New(circuit.Options{}), Config: config.Static(nil)})
		calls := int64(0)
		for bad.calls.Load() == 0 && calls < 1000 { // until both are connected and chance has picked the bad one
			if _, err := c.Get(t.Context(), &configv1.GetRequest{}); err != nil {
				t.Fatalf("an idempotent call: %v", err)
			}
			calls++
			time.Sleep(time.Millisecond)
		}
		if bad.calls.Load() == 0 || good.calls.Load() != calls {
			t.Errorf("of %d calls the bad instance had %d, the good one %d", calls, bad.calls.Load(), good.calls.Load())
		}
		before := bad.calls.Load() + good.calls.Load()
		for range 20 {
			c.Publish(t.Context(), &configv1.PublishRequest{})
		}
		if n := bad.calls.Load() + good.calls.Load() - before; n > 20 {
			t.Errorf("20 calls that are not idempotent made %d attempts", n)
		}
	})
}

// An instance that is reached may fail because it could not reach its own callee. Its "never sent" is about that call.
func TestAnothersNotSentIsNoLicenceToRepeat(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld()
		notSent := func(context.Context) error {
			return errs.Errorf(errs.Unavailable, "asking catalog").Because(retry.ReasonNotSent)
		}
		a, _ := w.start(t, rpc.ServerOptions{}, notSent)
		b, _ := w.start(t, rpc.ServerOptions{}, notSent)
		_, err := w.client(t, rpc.ClientOptions{Circuits: circuit.New(circuit.Options{})}).Publish(t.Context(),
			&configv1.PublishRequest{})
		if !errors.Is(err, errs.Unavailable) || a.calls.Load()+b.calls.Load() != 1 {
			t.Errorf("a publish that was made was made %d times: %v", a.calls.Load()+b.calls.Load(), err)
		}
		if errs.Reason(err) == retry.ReasonNotSent {
			t.Errorf("the error says that the call was not sent, but it was: %v", err)
		}
	})
}

// When every instance has been tried, the caller wants to know what they said, not that none is left.
func TestTheLastAnswerIsKeptWhenNobodyIsLeftToTry(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld()
		only, _ := w.start(t, rpc.ServerOptions{}, func(context.Context) error {
			return errs.Errorf(errs.Unavailable, "opening the store")
		})
		_, err := w.client(t, rpc.ClientOptions{Circuits: circuit.New(circuit.Options{})}).Get(t.Context(),
			&configv1.GetRequest{})
		if !errors.Is(err, errs.Unavailable) || !strings.Contains(err.Error(), "opening the store") ||
			only.calls.Load() != 1 {
			t.Errorf("after %d calls: %v", only.calls.Load(), err)
		}
	})
}

func TestNobodyThereIsUnavailableAndNamesTheService(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld()
		c := w.client(t, rpc.ClientOptions{Circuits: circuit.New(circuit.Options{}), Config: config.Static(nil)})
		_, err := c.Get(t.Context(), &configv1.GetRequest{})
		if !errors.Is(err, errs.Unavailable) {
			t.Errorf("got %v, want unavailable", err)
		}
		t.Log(err)
	})
}

func TestDeadlines(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld()
		var given atomic.Int64
		impl, _ := w.start(t, rpc.ServerOptions{}, func(ctx context.Context) error {
			d, _ := ctx.Deadline()
			given.Store(int64(time.Until(d)))
			<-ctx.Done()
			return ctx.Err()
		})
		c := w.client(t, rpc.ClientOptions{})
		ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
		defer cancel()
		start := time.Now()
		if _, err := c.Get(ctx, &configv1.GetRequest{}); !errors.Is(err, errs.Timeout) {
			t.Errorf("got %v, want timeout", err)
		}
		left := time.Duration(given.Load())
		if d := time.Since(start); d != 2*time.Second || left > 2*time.Second || left < time.Second {
			t.Errorf("the call took %v, the server was given %v", d, left)
		}
		// The deadline has passed: the call must not reach the server.
		n := impl.calls.Load()
		if _, err := c.Get(ctx, &configv1.GetRequest{}); !errors.Is(err, errs.Timeout) || impl.calls.Load() != n {
			t.Errorf("an expired call: %v, %d more calls", err, impl.calls.Load()-n)
		}
		// Without any deadline a call still ends.
		if _, err := c.Get(t.Context(), &configv1.GetRequest{}); !errors.Is(err, errs.Timeout) {
			t.Errorf("a call without a deadline: %v, want timeout", err)
		}
	})
}

func TestSpansJoinAndExplainThePick(t *testing.T) {
	rec := tracetest.NewInMemoryExporter()
	synctest.Test(t, func(t *testing.T) {
		set := config.Static(nil)
		p, err := trace.New(trace.Options{Service: "test", Exporter: keep{rec}, Revision: set.Revision})
		if err != nil {
			t.Fatal(err)
		}
		defer p.Shutdown(context.WithoutCancel(t.Context()))
		w := newWorld()
		w.start(t, rpc.ServerOptions{Trace: p}, ok)
		c := w.client(t, rpc.ClientOptions{Trace: p, Circuits: circuit.New(circuit.Options{}), Config: set})
		if err := set.Put("retry.maxAttempts", "2"); err != nil { // revision 1
			t.Fatal(err)
		}
		ctx := metadata.AppendToOutgoingContext(t.Context(), "x", "y")
		if _, err := c.Get(ctx, &configv1.GetRequest{}); err != nil {
			t.Fatal(err)
		}
		p.Flush(t.Context())
	})
	var client, server sdktrace.ReadOnlySpan
	for _, s := range rec.GetSpans().Snapshots() {
		switch s.SpanKind() {
		case oteltrace.SpanKindClient:
			client = s
		case oteltrace.SpanKindServer:
			server = s
		}
	}
	if client == nil || server == nil {
		t.Fatal("want a client and a server span")
	}
	if server.Parent().SpanID() != client.SpanContext().SpanID() || server.Name() != "bijou.config.v1.Config/Get" {
		t.Errorf("server span %q has parent %v, client span is %v", server.Name(), server.Parent().SpanID(),
			client.SpanContext().SpanID())
	}
	wantAttributes(t, client, map[string]string{
		"bijou.route.instance": "config-1", "bijou.attempts": "1", "bijou.config.revision": "1",
		"bijou.circuit.name": "config.Get", "bijou.circuit.state": "closed",
	})
	wantAttributes(t, server, map[string]string{"bijou.config.revision": "1"})
}

func wantAttributes(t *testing.T, span sdktrace.ReadOnlySpan, want map[string]string) {
	t.Helper()
	got := map[string]string{}
	for _, kv := range span.Attributes() {
		got[string(kv.Key)] = fmt.Sprint(kv.Value.AsInterface())
	}
	for key, value := range want {
		if got[key] != value {
			t.Errorf("the span of the %v: %s is %q, want %q; it has %v", span.SpanKind(), key, got[key], value, got)
		}
	}
}

// keep is an exporter that survives the provider's shutdown.
type keep struct{ *tracetest.InMemoryExporter }

func (keep) Shutdown(context.Context) error { return nil }

func TestMetricsCountByMethodAndCode(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld()
		w.start(t, rpc.ServerOptions{Metrics: w.metrics}, ok)
		c := w.client(t, rpc.ClientOptions{Metrics: w.metrics})
		c.Get(t.Context(), &configv1.GetRequest{})
		n, err := testutil.GatherAndCount(w.metrics, "bijou_rpc_server_seconds", "bijou_rpc_client_seconds")
		if err != nil || n != 2 {
			t.Errorf("%d series, %v; want one on each side", n, err)
		}
	})
}

func TestServedLoadCountsUnaryCalls(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld()
		served := load.NewRecorder()
		var result error
		w.start(t, rpc.ServerOptions{Served: served}, func(context.Context) error {
			time.Sleep(50 * time.Millisecond)
			return result
		})
		c := w.client(t, rpc.ClientOptions{})
		for _, result = range []error{nil, errs.Errorf(errs.NotFound, "none"), errs.Errorf(errs.Unavailable, "down")} {
			_, _ = c.Publish(t.Context(), &configv1.PublishRequest{}) // the load is what is tested
		}
		canceled, cancel := context.WithCancel(t.Context())
		time.AfterFunc(10*time.Millisecond, cancel)
		_, _ = c.Publish(canceled, &configv1.PublishRequest{}) // canceled calls are not counted
		time.Sleep(time.Second)
		report, internet := served.Proto()
		var l load.Load
		l.AddProto(report)
		if l.Calls != 3 || l.Failures != 1 || internet {
			t.Errorf("calls %d, failures %d, from the internet %t; want 3, 1, false", l.Calls, l.Failures, internet)
		}
		if p50, want := l.P50(), 50*time.Millisecond; (p50 - want).Abs() > want/8 {
			t.Errorf("p50 is %v, want about %v", p50, want)
		}
	})
}

// callMany makes n calls at the same time and returns how many were answered and the last error.
func callMany(ctx context.Context, c configv1.ConfigClient, n int) (answered int64, last error) {
	var good atomic.Int64
	var problem atomic.Pointer[error]
	var all sync.WaitGroup
	for range n {
		all.Go(func() {
			if _, err := c.Publish(ctx, &configv1.PublishRequest{}); err != nil {
				problem.Store(&err)
				return
			}
			good.Add(1)
		})
	}
	all.Wait()
	if p := problem.Load(); p != nil {
		last = *p
	}
	return good.Load(), last
}

// Calls made while the first connection comes up wait for it, whenever it does.
func TestTheFirstCallsOfACrowdWaitForTheConnection(t *testing.T) {
	for range 30 {
		synctest.Test(t, func(t *testing.T) {
			w := newWorld()
			w.start(t, rpc.ServerOptions{}, ok)
			if n, err := callMany(t.Context(), w.client(t, rpc.ClientOptions{}), 60); n != 60 {
				t.Fatalf("%d of 60 calls were answered: %v", n, err)
			}
		})
	}
}

func limiter(most string) *overload.Limiter {
	return overload.New(overload.Options{Config: config.Static(map[string]string{
		"overload.limit.max": most, "overload.limit.min": "1", "overload.limit.initial": most,
	})}).Limiter("grpc")
}

func slowly(context.Context) error { time.Sleep(100 * time.Millisecond); return nil }

func TestTooManyCallsAreShedByCriticality(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld()
		impl, _ := w.start(t, rpc.ServerOptions{Limiter: limiter("20"), Metrics: w.metrics}, slowly)
		set := circuit.New(circuit.Options{})
		c := w.client(t, rpc.ClientOptions{Circuits: set})
		for _, step := range []struct {
			c    overload.Criticality
			want int64 // of 60 calls
		}{{overload.Sheddable, 15}, {overload.Critical, 24}, {overload.CriticalPlus, 28}} {
			n, err := callMany(overload.With(t.Context(), step.c), c, 60)
			if n > step.want || n < step.want-2 {
				t.Errorf("%d of 60 calls that are %s were answered, want %d", n, step.c, step.want)
			}
			if !errors.Is(err, errs.Exhausted) || errs.Reason(err) != circuit.ReasonShed ||
				errs.RetryAfter(err) < 400*time.Millisecond {
				t.Errorf("a call that was shed got %v, reason %s, retry in %v",
					err, errs.Reason(err), errs.RetryAfter(err))
			}
		}
		if snap := set.Snapshots()[0]; snap.GetState() != circuitsv1.State_STATE_CLOSED ||
			snap.GetRolling()["FAILURE"] != 0 || snap.GetRolling()["SHED"] < 90 {
			t.Errorf("shed calls must not count in the circuit: %v %v", snap.GetState(), snap.GetRolling())
		}
		done := make(chan struct{})
		go func() { defer close(done); callMany(t.Context(), c, 60) }()
		time.Sleep(50 * time.Millisecond)
		conn, err := rpc.NewClient(rpc.ClientOptions{DialContext: w.net.DialContext}).
			Dial("passthrough:///config-1:7000")
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		if _, err := healthv1.NewHealthClient(conn).Check(t.Context(), &healthv1.HealthCheckRequest{}); err != nil {
			t.Errorf("a health check during overload: %v", err)
		}
		<-done
		if impl.calls.Load() == 0 {
			t.Error("no call arrived")
		}
	})
}

// What one instance has no time for another may have, and to ask it is safe: nothing has been done yet.
func TestAShedCallIsTriedElsewhere(t *testing.T) {
	retried := 0
	for range 5 { // the instance with a limit may get no second call
		synctest.Test(t, func(t *testing.T) {
			w := newWorld()
			w.start(t, rpc.ServerOptions{Limiter: limiter("1")}, slowly)
			w.start(t, rpc.ServerOptions{}, ok)
			// for many calls at once, before any other call
			budget := config.Static(map[string]string{"retry.budget.floorPerSecond": "10"})
			c := w.client(t, rpc.ClientOptions{
				Circuits: circuit.New(circuit.Options{}), Config: budget, Metrics: w.metrics,
			})
			time.Sleep(time.Second)
			if n, err := callMany(t.Context(), c, 40); n != 40 {
				t.Errorf("%d of 40 calls were answered; the last error is %v", n, err)
			}
			n, err := testutil.GatherAndCount(w.metrics, "bijou_rpc_client_retries_total")
			if err != nil {
				t.Error(err)
			}
			retried += n
		})
	}
	if retried == 0 {
		t.Error("retries are not counted")
	}
}

// A call that its callee began must not look as if it had been refused unread.
func TestAnothersSheddingIsNotOurs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld()
		back, _ := w.start(t, rpc.ServerOptions{Limiter: limiter("1")}, slowly)
		behind := w.client(t, rpc.ClientOptions{})
		front := &world{net: memnet.New(), discovery: discovery.NewStatic(nil)}
		middle, _ := front.start(t, rpc.ServerOptions{}, func(ctx context.Context) error {
			_, err := behind.Publish(ctx, &configv1.PublishRequest{})
			return err
		})
		c := front.client(t, rpc.ClientOptions{Circuits: circuit.New(circuit.Options{})})
		n, err := callMany(t.Context(), c, 10)
		if !errors.Is(err, errs.Exhausted) || errs.Reason(err) != "" || errs.RetryAfter(err) == 0 {
			t.Errorf("the caller got %v, reason %q, retry in %v", err, errs.Reason(err), errs.RetryAfter(err))
		}
		if middle.calls.Load() != 10 || back.calls.Load() != n {
			t.Errorf("ten calls were made %d times; %d were answered, and %d done behind", middle.calls.Load(), n,
				back.calls.Load())
		}
	})
}

func TestCriticalityGoesWithTheCall(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld()
		var got atomic.Int64
		w.start(t, rpc.ServerOptions{},
			func(ctx context.Context) error { got.Store(int64(overload.Of(ctx))); return nil })
		c := w.client(t, rpc.ClientOptions{})
		for _, want := range []overload.Criticality{
			overload.Critical, overload.CriticalPlus, overload.SheddablePlus,
			overload.Sheddable,
		} {
			if _, err := c.Get(overload.With(t.Context(), want), &configv1.GetRequest{}); err != nil ||
				overload.Criticality(got.Load()) != want {
				t.Errorf("%s arrived as %s, %v", want, overload.Criticality(got.Load()), err)
			}
		}
	})
}

func Example() {
	network := memnet.New()
	l, _ := network.Listen("tcp", "settings:7000")
	srv := rpc.NewServer(rpc.ServerOptions{})
	configv1.RegisterConfigServer(srv, &settings{get: func(context.Context) error {
		return errs.Errorf(errs.NotFound, "there is no such setting")
	}})
	go srv.Serve(l)
	defer srv.Stop()

	client := rpc.NewClient(rpc.ClientOptions{
		Service: "example",
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return network.DialContext(ctx, "tcp", "settings:7000")
		},
	})
	conn, err := client.Dial("passthrough:///settings:7000")
	if err != nil {
		fmt.Println(err)
		return
	}
	defer conn.Close()
	_, err = configv1.NewConfigClient(conn).Get(context.Background(), &configv1.GetRequest{})
	fmt.Println(errors.Is(err, errs.NotFound), err)
	// Output: true there is no such setting
}
