package trace_test

import (
	"context"
	"errors"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/propagation"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"
	oteltrace "go.opentelemetry.io/otel/trace"
	collector "go.opentelemetry.io/proto/otlp/collector/trace/v1"
	otlp "go.opentelemetry.io/proto/otlp/trace/v1"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"bijou.dev/platform/errs"
	"bijou.dev/platform/memnet"
	"bijou.dev/platform/trace"
)

func newProvider(t *testing.T, o trace.Options) *trace.Provider {
	t.Helper()
	if o.Service == "" {
		o.Service = "test"
	}
	p, err := trace.New(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = p.Shutdown(context.Background()) })
	return p
}

func spans(p *trace.Provider, n int) {
	for range n {
		_, s := p.Tracer().Start(context.Background(), "work")
		s.End()
	}
}

type share float64

func (s share) Get() float64 { return float64(s) }

func TestOptionsThatAreNotValidNameTheField(t *testing.T) {
	conn := func() grpc.ClientConnInterface { return nil }
	exporter := tracetest.NewNoopExporter()
	for field, o := range map[string]trace.Options{
		"Service":       {Conn: conn},
		"Conn":          {Service: "a"},
		"QueueSize":     {Service: "a", Conn: conn, QueueSize: -1},
		"BatchSize":     {Service: "a", Conn: conn, BatchSize: -1},
		"FlushInterval": {Service: "a", Conn: conn, FlushInterval: -1},
		"ExportTimeout": {Service: "a", Conn: conn, ExportTimeout: -1},
	} {
		if _, err := trace.New(o); err == nil || !strings.Contains(err.Error(), field) {
			t.Errorf("New with a bad %s returns the error %v", field, err)
		}
	}
	if _, err := trace.New(trace.Options{Service: "a", Conn: conn, Exporter: exporter}); err == nil {
		t.Error("New accepts both Conn and Exporter")
	}
}

func TestResource(t *testing.T) {
	exporter := tracetest.NewInMemoryExporter()
	p := newProvider(t, trace.Options{
		Service: "catalog", Instance: "catalog-1", Version: "v3", Environment: "prod",
		Zone: "b", Exporter: keep{exporter},
	})
	spans(p, 1)
	if err := p.Flush(t.Context()); err != nil {
		t.Fatal(err)
	}
	got := map[attribute.Key]string{}
	for _, a := range exporter.GetSpans()[0].Resource.Attributes() {
		got[a.Key] = a.Value.AsString()
	}
	delete(got, "telemetry.sdk.version")
	want := map[attribute.Key]string{
		"service.name": "catalog", "service.instance.id": "catalog-1", "service.version": "v3",
		"deployment.environment.name": "prod", "cloud.availability_zone": "b",
		"telemetry.sdk.name": "bijou", "telemetry.sdk.language": "go",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("resource (-want +got):\n%s", diff)
	}
}

// keep is an in-memory exporter that keeps its spans at shutdown.
type keep struct{ *tracetest.InMemoryExporter }

func (keep) Shutdown(context.Context) error { return nil }

// gate is an exporter that waits until open is closed.
type gate struct{ open chan struct{} }

func (g *gate) ExportSpans(ctx context.Context, _ []sdktrace.ReadOnlySpan) error {
	select {
	case <-g.open:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (*gate) Shutdown(context.Context) error { return nil }

func TestFullQueueDropsAndCounts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := &gate{open: make(chan struct{})}
		p := newProvider(t, trace.Options{Exporter: g, QueueSize: 8, BatchSize: 4})
		spans(p, 4)
		synctest.Wait() // the exporter has a batch and waits
		start := time.Now()
		spans(p, 20)
		if d := time.Since(start); d != 0 {
			t.Errorf("ending spans took %v", d)
		}
		assertDrops(t, p, map[string]uint64{"queue_full": 12}) // 4 are exported, 8 are queued
		close(g.open)
		if err := p.Shutdown(t.Context()); err != nil {
			t.Fatal(err)
		}
		if n := p.Exported(); n != 12 {
			t.Errorf("%d spans are exported, want 12", n)
		}
		spans(p, 3) // after Shutdown
		assertDrops(t, p, map[string]uint64{"queue_full": 12, "stopped": 3})
	})
}

func TestExportTimesOut(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := &gate{open: make(chan struct{})}
		p := newProvider(t, trace.Options{Exporter: g, ExportTimeout: 5 * time.Second})
		spans(p, 3)
		time.Sleep(10 * time.Second) // fake time
		synctest.Wait()
		if n := p.Exported(); n != 0 {
			t.Errorf("%d spans are exported, want none", n)
		}
		assertDrops(t, p, map[string]uint64{"failed": 3})
	})
}

func TestShutdownIsBounded(t *testing.T) {
	for name, tt := range map[string]struct {
		timeout time.Duration // of the context; 0: none
		want    time.Duration
	}{
		"by the options":               {0, 10 * time.Second},
		"by a context that is shorter": {time.Second, time.Second},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				p := newProvider(t, trace.Options{
					Exporter: &gate{open: make(chan struct{})}, QueueSize: 100, BatchSize: 1,
				})
				spans(p, 30)
				ctx := context.Background()
				if tt.timeout > 0 {
					var cancel context.CancelFunc
					ctx, cancel = context.WithTimeout(ctx, tt.timeout)
					defer cancel()
				}
				start := time.Now()
				if err := p.Shutdown(ctx); err == nil {
					t.Error("no error though spans were lost")
				}
				if d := time.Since(start); d != tt.want {
					t.Errorf("took %v, want %v", d, tt.want)
				}
				if d := p.Dropped(); d != 30 {
					t.Errorf("dropped %d, want 30", d)
				}
			})
		})
	}
}

// Every recorded span is counted once, whatever happens to it.
func TestCountsAreExact(t *testing.T) {
	var n atomic.Int64
	flaky := exporterFunc(func(s []sdktrace.ReadOnlySpan) error {
		if n.Add(1)%3 == 0 {
			return errors.New("no")
		}
		return nil
	})
	p := newProvider(t, trace.Options{Exporter: flaky, QueueSize: 64, BatchSize: 16})
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() { spans(p, 5000) })
	}
	wg.Wait()
	if err := p.Shutdown(t.Context()); err != nil {
		t.Fatal(err)
	}
	if sum := p.Exported() + p.Dropped(); sum != 40000 {
		t.Errorf("exported %d + dropped %d = %d, want 40000", p.Exported(), p.Dropped(), sum)
	}
}

type exporterFunc func([]sdktrace.ReadOnlySpan) error

func (f exporterFunc) ExportSpans(_ context.Context, s []sdktrace.ReadOnlySpan) error { return f(s) }
func (exporterFunc) Shutdown(context.Context) error                                   { return nil }

// store is a trace store whose answers a test chooses.
type store struct {
	collector.UnimplementedTraceServiceServer
	answer func(call int, req *collector.ExportTraceServiceRequest) (*collector.ExportTraceServiceResponse, error)

	mu      sync.Mutex
	calls   int
	parents []string     // traceparent headers
	spans   []*otlp.Span // of requests that were answered without an error
}

func (s *store) Export(
	ctx context.Context, req *collector.ExportTraceServiceRequest,
) (*collector.ExportTraceServiceResponse, error) {
	md, _ := metadata.FromIncomingContext(ctx)
	s.mu.Lock()
	s.calls++
	call := s.calls
	s.parents = append(s.parents, md.Get("traceparent")...)
	s.mu.Unlock()
	resp, err := s.answer(call, req)
	if err == nil {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.spans = append(s.spans, spansOf(req)...)
	}
	return resp, err
}

func (s *store) seen() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.calls
}

// names returns the names of the stored spans.
func (s *store) names() (list []string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, span := range s.spans {
		list = append(list, span.GetName())
	}
	return list
}

func spansOf(req *collector.ExportTraceServiceRequest) (list []*otlp.Span) {
	for _, r := range req.GetResourceSpans() {
		for _, sc := range r.GetScopeSpans() {
			list = append(list, sc.GetSpans()...)
		}
	}
	return list
}

type (
	request  = collector.ExportTraceServiceRequest
	response = collector.ExportTraceServiceResponse
)

// accept answers every request with success.
func accept(int, *request) (*response, error) { return &response{}, nil }

// serve starts a store on n and returns its stop.
func serve(t *testing.T, n *memnet.Network, s *store) (stop func()) {
	t.Helper()
	l, err := n.Listen("tcp", "store:4317")
	if err != nil {
		t.Fatal(err)
	}
	g := grpc.NewServer()
	collector.RegisterTraceServiceServer(g, s)
	go func() { _ = g.Serve(l) }()
	return g.Stop
}

func dial(t *testing.T, n *memnet.Network, opts ...grpc.DialOption) func() grpc.ClientConnInterface {
	t.Helper()
	opts = append(opts, grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithContextDialer(func(ctx context.Context, addr string) (net.Conn,
			error,
		) {
			return n.DialContext(ctx, "tcp", addr)
		}))
	conn, err := grpc.NewClient("passthrough:///store:4317", opts...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	return func() grpc.ClientConnInterface { return conn }
}

func TestAnswersOfTheStore(t *testing.T) {
	refuse := func(err error) func(int, *request) (*response, error) {
		return func(int, *request) (*response, error) { return nil, err }
	}
	// failFirst fails n calls and accepts the next.
	failFirst := func(n int, err error) func(int, *request) (*response, error) {
		return func(call int, _ *request) (*response, error) {
			if call <= n {
				return nil, err
			}
			return &response{}, nil
		}
	}
	partly := &response{PartialSuccess: &collector.ExportTracePartialSuccess{RejectedSpans: 2, ErrorMessage: "too old"}}
	tests := []struct {
		name     string
		answer   func(call int, req *request) (*response, error)
		exported uint64 // of 5
		reason   string // of the dropped spans
		calls    int
		took     time.Duration // at least
	}{
		{name: "accepts", answer: accept, exported: 5, calls: 1},
		{
			name:   "accepts some",
			answer: func(int, *request) (*response, error) { return partly, nil }, exported: 3,
			reason: "refused", calls: 1,
		},
		{
			name:   "refuses everything, so that each span is sent alone at last",
			answer: refuse(status.Error(codes.InvalidArgument, "bad")), exported: 0, reason: "refused", calls: 9,
		},
		{
			name:   "is exhausted and does not say until when: no retry",
			answer: refuse(status.Error(codes.ResourceExhausted, "over quota")), exported: 0,
			reason: "failed", calls: 1,
		},
		{
			name: "is exhausted and says when to retry",
			answer: failFirst(1, errs.ToStatus(t.Context(),
				errs.Errorf(errs.Exhausted, "storing spans").RetryIn(3*time.Second)).Err()),
			exported: 5, calls: 2, took: 3 * time.Second,
		},
		{
			name:   "is unavailable for a moment",
			answer: failFirst(3, status.Error(codes.Unavailable, "restarting")), exported: 5, calls: 4,
			took: 500 * time.Millisecond,
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				n := memnet.New()
				s := &store{answer: tt.answer}
				stop := serve(t, n, s)
				defer stop()
				p := newProvider(t, trace.Options{Conn: dial(t, n)})
				spans(p, 5)
				start := time.Now()
				flush(t, p)
				if s.seen() != tt.calls || p.Exported() != tt.exported {
					t.Errorf("%d calls exported %d spans, want %d calls and %d spans",
						s.seen(), p.Exported(), tt.calls, tt.exported)
				}
				assertDrops(t, p, map[string]uint64{tt.reason: 5 - tt.exported})
				if took := time.Since(start); took < tt.took {
					t.Errorf("the export took %v, want at least %v", took, tt.took)
				}
			})
		})
	}
}

func flush(t *testing.T, p *trace.Provider) {
	t.Helper()
	if err := p.Flush(t.Context()); err != nil {
		t.Fatal(err)
	}
}

// assertDrops compares the reasons with spans, and their sum.
func assertDrops(t *testing.T, p *trace.Provider, want map[string]uint64) {
	t.Helper()
	sum := uint64(0)
	for reason, n := range p.Drops() {
		sum += n
		if n != want[reason] {
			t.Errorf("%d spans are dropped with reason %q, want %d", n, reason, want[reason])
		}
	}
	if sum != p.Dropped() {
		t.Errorf("Dropped returns %d, and the reasons add up to %d", p.Dropped(), sum)
	}
}

// A store that refuses a batch because of one span still gets the other spans of the batch.
func TestOneRefusedSpanDoesNotDropItsBatch(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := memnet.New()
		s := &store{answer: func(_ int, req *request) (*response, error) {
			for _, span := range spansOf(req) {
				if span.GetName() == "bad" {
					return nil, status.Error(codes.InvalidArgument, "a span is bad")
				}
			}
			return &response{}, nil
		}}
		stop := serve(t, n, s)
		defer stop()
		p := newProvider(t, trace.Options{Conn: dial(t, n)})
		spans(p, 200)
		_, span := p.Tracer().Start(t.Context(), "bad")
		span.End()
		spans(p, 199)
		flush(t, p)
		if p.Exported() != 399 || len(s.names()) != 399 {
			t.Errorf("%d spans are exported and %d stored, want 399", p.Exported(), len(s.names()))
		}
		assertDrops(t, p, map[string]uint64{"refused": 1})
	})
}

// The log has the first of consecutive failures and the recovery. Refused spans are logged at most once a minute.
func TestExportsAreLoggedRarely(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var answer error
		log, out := textLog()
		p := newProvider(t, trace.Options{
			Log:      log,
			Exporter: exporterFunc(func([]sdktrace.ReadOnlySpan) error { return answer }),
		})
		lines := func() []string {
			defer out.Reset()
			return strings.FieldsFunc(out.String(), func(r rune) bool { return r == '\n' })
		}
		export := func(n int) {
			for range n {
				spans(p, 1)
				flush(t, p)
			}
		}
		answer = errors.New("no route to host")
		export(5)
		if got := lines(); len(got) != 1 || !strings.Contains(got[0], "no route to host") ||
			!strings.Contains(got[0], "dropped=1") {
			t.Errorf("five failures logged %q, want one line with the error and the number of dropped spans", got)
		}
		answer = nil
		export(5)
		if got := lines(); len(got) != 1 || !strings.Contains(got[0], "works again") ||
			!strings.Contains(got[0], "dropped=5") {
			t.Errorf("the recovery logged %q, want one line with the number of dropped spans", got)
		}
		answer = errs.Errorf(errs.Invalid, "the name is bad")
		export(5)
		if got := lines(); len(got) != 1 || !strings.Contains(got[0], "the name is bad") {
			t.Errorf("five refusals logged %q, want one line with the reason", got)
		}
		time.Sleep(time.Minute) // fake time
		export(5)
		if got := lines(); len(got) != 1 {
			t.Errorf("five refusals a minute later logged %q, want one line", got)
		}
	})
}

// A store that refuses everything gets a bounded number of requests per batch.
func TestRefusalsAreBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := memnet.New()
		s := &store{answer: func(int, *request) (*response, error) {
			return nil, status.Error(codes.InvalidArgument, "not here")
		}}
		stop := serve(t, n, s)
		defer stop()
		p := newProvider(t, trace.Options{Conn: dial(t, n)})
		spans(p, 512)
		flush(t, p)
		assertDrops(t, p, map[string]uint64{"refused": 512})
		if s.seen() > 64 {
			t.Errorf("one batch took %d requests", s.seen())
		}
	})
}

// Spans that do not fit into one request together are sent in several. One that does not fit into a request is dropped.
func TestLargeSpans(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := memnet.New()
		s := &store{answer: accept}
		stop := serve(t, n, s)
		defer stop()
		p := newProvider(t, trace.Options{Conn: dial(t, n)})
		end := func(name string, events int) {
			_, span := p.Tracer().Start(t.Context(), name)
			list := make([]string, 100)
			for i := range list {
				list[i] = strings.Repeat("x", 4096)
			}
			for range events {
				span.AddEvent("rows", oteltrace.WithAttributes(attribute.StringSlice("rows", list)))
			}
			span.End()
		}
		for range 20 {
			end("1 MiB", 3)
		}
		end("50 MiB", 128)
		spans(p, 1)
		flush(t, p)
		if p.Exported() != 21 {
			t.Errorf("%d spans are exported, want 21", p.Exported())
		}
		assertDrops(t, p, map[string]uint64{"too_large": 1})
	})
}

// A store that is busy asks all senders to retry after a second. They must not do so at the same moment.
func TestRetriesOfManySendersAreSpread(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := memnet.New()
		var mu sync.Mutex
		calls, moments := 0, map[time.Duration]bool{}
		begin := time.Now()
		stop := serve(t, n, &store{answer: func(int, *request) (*response, error) {
			mu.Lock()
			defer mu.Unlock()
			if calls++; calls <= 5 {
				return nil, errs.ToStatus(t.Context(),
					errs.Errorf(errs.Exhausted, "storing spans").RetryIn(time.Second)).Err()
			}
			moments[time.Since(begin)] = true
			return &response{}, nil
		}})
		defer stop()
		var all sync.WaitGroup
		for range 5 {
			p := newProvider(t, trace.Options{Conn: dial(t, n)})
			spans(p, 1)
			all.Go(func() {
				if err := p.Flush(t.Context()); err != nil {
					t.Error(err)
				}
			})
		}
		all.Wait()
		for m := range moments {
			if m < time.Second {
				t.Errorf("a sender retried after %v, want at least 1s", m)
			}
		}
		if len(moments) < 4 {
			t.Errorf("5 senders retried at the moments %v", moments)
		}
	})
}

// The store may start late. Until then requests do not wait, and each dropped span is counted.
func TestStoreIsUnavailableAtStart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := memnet.New()
		p := newProvider(t, trace.Options{Conn: dial(t, n), QueueSize: 10})
		for range 60 {
			start := time.Now()
			spans(p, 5)
			if d := time.Since(start); d != 0 {
				t.Fatalf("ending spans took %v while the store is unavailable", d)
			}
			time.Sleep(time.Second) // fake time
		}
		if p.Exported() != 0 || p.Dropped() < 250 {
			t.Errorf("exported %d, dropped %d of 300", p.Exported(), p.Dropped())
		}
		s := &store{answer: accept}
		stop := serve(t, n, s)
		defer stop()
		time.Sleep(2 * time.Minute) // gRPC's back-off
		spans(p, 5)
		if err := p.Flush(t.Context()); err != nil {
			t.Fatal(err)
		}
		if p.Exported() < 5 || p.Exported()+p.Dropped() != 305 {
			t.Errorf("exported %d, dropped %d of 305", p.Exported(), p.Dropped())
		}
	})
}

// A process that stops does not wait for a store that is unavailable.
func TestShutdownWithoutStore(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newProvider(t, trace.Options{Conn: dial(t, memnet.New()), QueueSize: 100, BatchSize: 10})
		spans(p, 100)
		start := time.Now()
		if err := p.Shutdown(t.Context()); err != nil {
			t.Error(err)
		}
		if d := time.Since(start); d > 0 || p.Dropped() != 100 {
			t.Errorf("took %v, dropped %d of 100", d, p.Dropped())
		}
	})
}

// Calls of the connection to the store may be traced. They must not make spans that are exported in turn.
func TestExportIsNotTraced(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := memnet.New()
		s := &store{answer: accept}
		stop := serve(t, n, s)
		defer stop()
		var p *trace.Provider
		traced := func(ctx context.Context, method string, req, reply any, cc *grpc.ClientConn, call grpc.UnaryInvoker,
			opts ...grpc.CallOption,
		) error {
			ctx, span := p.Tracer().Start(ctx, method)
			defer span.End()
			md := metadata.MD{}
			p.Propagator().Inject(ctx, trace.MD(md))
			return call(metadata.NewOutgoingContext(ctx, md), method, req, reply, cc, opts...)
		}
		p = newProvider(t, trace.Options{Conn: dial(t, n, grpc.WithUnaryInterceptor(traced))})
		spans(p, 1)
		time.Sleep(time.Minute) // fake time
		if s.seen() != 1 || p.Exported() != 1 {
			t.Errorf("%d exports of %d spans, want one of one", s.seen(), p.Exported())
		}
		if len(s.parents) != 1 || s.parents[0][53:] != "00" {
			t.Errorf("exported with traceparent %q, want one that is not sampled", s.parents)
		}
	})
}

func TestSampling(t *testing.T) {
	const b3ids = "463ac35c9f6413ad48485a3953bb6124-a2fb4a1d1a96d312"
	tests := []struct {
		name    string
		in      pairs
		ratio   float64
		sampled bool
	}{
		{"new trace, all", nil, 1, true},
		{"new trace, none", nil, 0, false},
		{"sampled parent", pairs{"traceparent", good}, 0, true},
		{"unsampled parent", pairs{"traceparent", good[:53] + "00"}, 1, false},
		{"b3 accept", pairs{"b3", b3ids + "-1"}, 0, true},
		{"b3 deny", pairs{"b3", b3ids + "-0"}, 1, false},
		{"b3 debug", pairs{"b3", b3ids + "-d"}, 0, true},
		{"b3 leaves the decision to us, we record all", pairs{"b3", b3ids}, 1, true},
		{"b3 leaves the decision to us, we record none", pairs{"b3", b3ids}, 0, false},
		{"b3 deny without ids", pairs{"b3", "0"}, 1, false},
		{"b3 debug without ids", pairs{"b3", "d"}, 0, true},
		{"b3 header deny without ids", pairs{"X-B3-Sampled", "0"}, 1, false},
		{"b3 header debug without ids", pairs{"X-B3-Flags", "1"}, 0, true},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			p := newProvider(t, trace.Options{Exporter: tracetest.NewNoopExporter(), Sampling: share(tt.ratio)})
			ctx := p.Propagator().Extract(t.Context(), tt.in.http())
			ctx, span := p.Tracer().Start(ctx, "server")
			_, child := p.Tracer().Start(ctx, "child")
			for _, s := range []oteltrace.Span{span, child} {
				if got := s.SpanContext().IsSampled(); got != tt.sampled || s.IsRecording() != tt.sampled {
					t.Errorf("sampled %v, want %v", got, tt.sampled)
				}
			}
			if parent := oteltrace.SpanContextFromContext(p.Propagator().Extract(t.Context(),
				tt.in.http())); parent.IsValid() && parent.TraceID() != child.SpanContext().TraceID() {
				t.Error("the child has another trace id than the incoming request")
			}
		})
	}
}

type live struct{ v atomic.Value }

func (l *live) Get() float64 { return l.v.Load().(float64) }

func TestSamplingIsLive(t *testing.T) {
	var ratio live
	ratio.v.Store(0.0)
	p := newProvider(t, trace.Options{Exporter: tracetest.NewNoopExporter(), Sampling: &ratio})
	count := func() (n int) {
		for range 2000 {
			_, s := p.Tracer().Start(t.Context(), "x")
			if s.SpanContext().IsSampled() {
				n++
			}
			s.End()
		}
		return n
	}
	for _, tt := range []struct {
		ratio  float64
		lo, hi int
	}{{0, 0, 0}, {0.25, 350, 650}, {1, 2000, 2000}, {0, 0, 0}} {
		ratio.v.Store(tt.ratio)
		if n := count(); n < tt.lo || n > tt.hi {
			t.Errorf("ratio %v recorded %d of 2000", tt.ratio, n)
		}
	}
}

func TestDiscardPropagatesContext(t *testing.T) {
	p := trace.Discard()
	ctx, span := p.Tracer().Start(t.Context(), "root")
	h := propagation.HeaderCarrier{}
	p.Propagator().Inject(ctx, h)
	if !span.SpanContext().IsValid() || span.IsRecording() || h.Get("traceparent") == "" {
		t.Errorf("span %v, recording %v, headers %v", span.SpanContext(), span.IsRecording(), h)
	}
	if err := p.Shutdown(t.Context()); err != nil || p.Dropped() != 0 || p.Exported() != 0 {
		t.Errorf("shutdown: %v, dropped %d, exported %d", err, p.Dropped(), p.Exported())
	}
}
