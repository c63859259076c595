package circuits_test

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math"
	"math/rand/v2"
	"net"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	circuitsv1 "bijou.dev/platform/api/circuits/v1"
	configv1 "bijou.dev/platform/api/config/v1"
	"bijou.dev/platform/circuit"
	"bijou.dev/platform/discovery"
	"bijou.dev/platform/errs"
	"bijou.dev/platform/load"
	"bijou.dev/platform/memnet"
	"bijou.dev/platform/rpc"
	"bijou.dev/services/circuits"
	"github.com/google/go-cmp/cmp"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/protobuf/testing/protocmp"
)

// world is a network with a registry of replicas and a config service.
type world struct {
	net      *memnet.Network
	registry *discovery.Static
	config   *settings
	replicas []discovery.Instance
}

func newWorld(t testing.TB) *world {
	w := &world{net: memnet.New(), registry: discovery.NewStatic(nil), config: newSettings()}
	w.serve(t, "config:7000", func(s *grpc.Server) { configv1.RegisterConfigServer(s, w.config) })
	return w
}

// serve runs a gRPC server as rpc makes them until the test ends or stop is called.
func (w *world) serve(t testing.TB, addr string, register func(*grpc.Server)) (stop func()) {
	t.Helper()
	l, err := w.net.Listen("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	s := rpc.NewServer(rpc.ServerOptions{})
	register(s)
	go func() { _ = s.Serve(l) }()
	t.Cleanup(s.Stop)
	return s.Stop
}

func (w *world) dial(t testing.TB, addr string) *grpc.ClientConn {
	t.Helper()
	conn, err := grpc.NewClient("passthrough:///"+addr, grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithContextDialer(func(ctx context.Context, addr string) (net.Conn, error) {
			return w.net.DialContext(ctx, "tcp", addr)
		}))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return conn
}

// replica starts a board and returns it with a client. Kill ends it without closing its streams first.
func (w *world) replica(
	t *testing.T, name string, opts circuits.Options,
) (b *circuits.Board, client circuitsv1.CircuitsClient, kill func()) {
	t.Helper()
	addr := name + ":7000"
	b = circuits.NewBoard(circuits.BoardOptions{
		Options: opts, Instance: name, Config: configv1.NewConfigClient(w.dial(t, "config:7000")),
		Discovery: w.registry.Directory, DialContext: w.net.DialContext,
	})
	stop := w.serve(t, addr, func(s *grpc.Server) { circuitsv1.RegisterCircuitsServer(s, b) })
	ctx, cancel := context.WithCancel(t.Context())
	var running sync.WaitGroup
	running.Go(func() { _ = b.Run(ctx) })
	kill = func() { cancel(); stop(); running.Wait() }
	t.Cleanup(func() { kill(); b.Close() })
	w.replicas = append(w.replicas, discovery.Instance{
		Service: "circuits", ID: name, Endpoints: map[string]string{"grpc": addr}, Status: discovery.Up,
	})
	w.registry.Put("circuits", slices.Clone(w.replicas))
	return b, circuitsv1.NewCircuitsClient(w.dial(t, addr)), kill
}

type reportStream = grpc.ClientStreamingClient[circuitsv1.ReportRequest, circuitsv1.ReportResponse]

// reporter opens a report stream.
func reporter(t *testing.T, client circuitsv1.CircuitsClient) reportStream {
	t.Helper()
	stream, err := client.Report(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return stream
}

func report(service, instance string, snaps ...*circuitsv1.Snapshot) *circuitsv1.ReportRequest {
	return &circuitsv1.ReportRequest{Service: service, Instance: instance, Circuits: snaps}
}

// getMovie is a circuit with numbers of calls and of failed calls.
func getMovie(calls, failed int64) *circuitsv1.Snapshot {
	return &circuitsv1.Snapshot{
		Name: "catalog.GetMovie", Group: "catalog", State: circuitsv1.State_STATE_CLOSED, ReportingHosts: 1,
		Rolling: map[string]int64{"SUCCESS": calls - failed, "FAILURE": failed}, Requests: calls, Errors: failed,
		ErrorPercentage: int32(failed * 100 / max(calls, 1)),
		Properties:      map[string]string{"timeout": "1s", "maxConcurrent": "100", "forceOpen": "false"},
		Load:            loadOf(calls, failed, 10*time.Millisecond).Proto(),
	}
}

// loadOf returns the load of calls that took the same time, measured for the whole window.
func loadOf(calls, failed int64, took time.Duration) *load.Load {
	var m load.Meter
	for i := range calls {
		outcome := load.Succeeded
		if i < failed {
			outcome = load.Failed
		}
		m.Record(0, outcome, took)
	}
	l := m.Load(load.Window)
	return &l
}

func opened(s *circuitsv1.Snapshot) *circuitsv1.Snapshot {
	s.State, s.Reason = circuitsv1.State_STATE_OPEN, "many calls failed"
	return s
}

// watch returns the state that a replica shows now.
func watch(t *testing.T, client circuitsv1.CircuitsClient, service string) []*circuitsv1.ServiceCircuits {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	stream, err := client.Watch(ctx, &circuitsv1.WatchRequest{Service: service})
	if err != nil {
		t.Fatal(err)
	}
	resp, err := stream.Recv()
	if err != nil {
		t.Fatal(err)
	}
	return resp.Services
}

// summary is what most tests look at: service -> instances and requests.
func summary(services []*circuitsv1.ServiceCircuits) map[string]string {
	got := map[string]string{}
	for _, s := range services {
		requests := int64(0)
		for _, c := range s.Circuits {
			requests += c.Requests
		}
		got[s.Service] = fmt.Sprint(strings.Join(s.Instances, ","), " ", requests)
	}
	return got
}

func assertSummary(t *testing.T, client circuitsv1.CircuitsClient, want map[string]string) {
	t.Helper()
	if diff := cmp.Diff(want, summary(watch(t, client, ""))); diff != "" {
		t.Errorf("state (-want +got):\n%s", diff)
	}
}

func send(t *testing.T, stream reportStream, req *circuitsv1.ReportRequest) {
	t.Helper()
	if err := stream.Send(req); err != nil {
		t.Fatal(err)
	}
	synctest.Wait()
}

func TestInstancesOfOneServiceAreSummed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		_, client, _ := w.replica(t, "circuits-1", circuits.Options{})
		a := getMovie(30, 0)
		b := opened(getMovie(10, 10))
		b.Load = loadOf(10, 10, 50*time.Millisecond).Proto()
		b.Properties["timeout"], b.Properties["maxConcurrent"], b.Properties["forceOpen"] = "2s", "200", "true"
		b.ExampleTraces = []string{"abc"}
		send(t, reporter(t, client), report("web", "web-1", a))
		send(t, reporter(t, client), report("web", "web-2", b))
		send(t, reporter(t, client), report("search", "search-1", getMovie(5, 0)))

		assertSummary(t, client, map[string]string{"web": "web-1,web-2 40", "search": "search-1 5"})
		services := watch(t, client, "web")
		if len(services) != 1 {
			t.Fatalf("watching web shows %d services", len(services))
		}
		got := services[0].Circuits[0]
		all := loadOf(30, 0, 10*time.Millisecond)
		all.Add(loadOf(10, 10, 50*time.Millisecond))
		want := &circuitsv1.Snapshot{
			Name: "catalog.GetMovie", Group: "catalog", State: circuitsv1.State_STATE_OPEN, Reason: "many calls failed",
			Rolling: map[string]int64{"SUCCESS": 30, "FAILURE": 10}, Requests: 40, Errors: 10, ErrorPercentage: 25,
			Figures:       all.Figures(),
			Properties:    map[string]string{"timeout": "1.5s", "maxConcurrent": "150", "forceOpen": "true"},
			ExampleTraces: []string{"abc"}, ReportingHosts: 2, OpenInstances: 1,
		}
		if diff := cmp.Diff(want, got, protocmp.Transform(), approximately); diff != "" {
			t.Errorf("sum (-want +got):\n%s", diff)
		}
		if services := watch(t, client, "unknown"); len(services) != 0 {
			t.Errorf("an unknown service shows %v", services)
		}
	})
}

var approximately = cmp.Comparer(func(a, b float64) bool { return math.Abs(a-b) < 1e-9 })

// TestSumsDoNotDependOnOrder reports the same circuits over one and over several replicas, in random order.
func TestSumsDoNotDependOnOrder(t *testing.T) {
	var snaps []*circuitsv1.Snapshot
	for i := range int64(9) {
		s := getMovie(100*i, 10*i)
		s.Load = loadOf(100*i, 10*i, time.Duration(i*i)*time.Millisecond).Proto()
		if i%3 == 0 {
			opened(s)
		}
		snaps = append(snaps, s)
	}
	var want *circuitsv1.Snapshot
	for seed := range uint64(10) {
		synctest.Test(t, func(t *testing.T) {
			rng := rand.New(rand.NewPCG(seed, 0))
			w := newWorld(t)
			var clients []circuitsv1.CircuitsClient
			for i := range 1 + int(seed)%3 {
				_, client, _ := w.replica(t, fmt.Sprint("circuits-", i), circuits.Options{})
				clients = append(clients, client)
			}
			for _, i := range rng.Perm(len(snaps)) {
				send(t, reporter(t, clients[rng.IntN(len(clients))]), report("web", fmt.Sprint("web-", i), snaps[i]))
			}
			time.Sleep(1100 * time.Millisecond) // replicas exchange their state each second
			synctest.Wait()
			got := watch(t, clients[rng.IntN(len(clients))], "web")[0].Circuits[0]
			if want == nil {
				want = got
			}
			if diff := cmp.Diff(want, got, protocmp.Transform(), approximately); diff != "" {
				t.Errorf("seed %d with %d replicas (-want +got):\n%s", seed, len(clients), diff)
			}
		})
	}
	if want.ReportingHosts != 9 || want.Requests != 3600 || want.OpenInstances != 3 {
		t.Errorf("sum is %v", want)
	}
}

func TestProcessesThatLeaveOrStopReportingAreRemoved(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		_, client, _ := w.replica(t, "circuits-1", circuits.Options{})
		leaves, silent, reconnects := reporter(t, client), reporter(t, client), reporter(t, client)
		send(t, leaves, report("web", "leaves", getMovie(1, 0)))
		send(t, silent, report("web", "silent", getMovie(2, 0)))
		send(t, reconnects, report("web", "reconnects", getMovie(4, 0)))
		assertSummary(t, client, map[string]string{"web": "leaves,reconnects,silent 7"})

		send(t, reporter(t, client), report("web", "reconnects", getMovie(8, 0)))
		if _, err := reconnects.CloseAndRecv(); err != nil {
			t.Error(err)
		}
		if _, err := leaves.CloseAndRecv(); err != nil {
			t.Error(err)
		}
		// the end of its old stream changes nothing
		assertSummary(t, client, map[string]string{"web": "reconnects,silent 10"})

		time.Sleep(5*time.Second + 1)
		assertSummary(t, client, map[string]string{})
		send(t, silent, report("web", "silent", getMovie(2, 0)))
		assertSummary(t, client, map[string]string{"web": "silent 2"})
	})
}

func TestReplicasShowEverything(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		_, one, _ := w.replica(t, "circuits-1", circuits.Options{})
		_, two, killTwo := w.replica(t, "circuits-2", circuits.Options{})
		_, three, _ := w.replica(t, "circuits-3", circuits.Options{})
		a, b := reporter(t, one), reporter(t, two)
		tick := func(seconds int) {
			for range seconds {
				_ = a.Send(report("web", "web-1", getMovie(1, 0)))
				_ = b.Send(report("web", "web-2", opened(getMovie(2, 2))))
				time.Sleep(time.Second)
			}
			synctest.Wait()
		}
		tick(3)
		for _, client := range []circuitsv1.CircuitsClient{one, two, three} {
			assertSummary(t, client, map[string]string{"web": "web-1,web-2 3"})
			if got := watch(t, client, "")[0].Circuits[0]; got.ReportingHosts != 2 ||
				got.State != circuitsv1.State_STATE_OPEN {
				t.Errorf("sum over replicas is %v", got)
			}
		}

		w.net.Cut("circuits-2") // without closing connections
		tick(6)
		assertSummary(t, one, map[string]string{"web": "web-1 1"})
		w.net.Heal("circuits-2")
		b = reporter(t, two)
		tick(30)
		assertSummary(t, three, map[string]string{"web": "web-1,web-2 3"})

		killTwo()
		w.registry.Put("circuits", []discovery.Instance{w.replicas[0], w.replicas[2]})
		b = reporter(t, three)
		tick(2)
		assertSummary(t, one, map[string]string{"web": "web-1,web-2 3"})
	})
}

func TestReportFromCircuits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		_, client, _ := w.replica(t, "circuits-1", circuits.Options{})
		set := circuit.New(circuit.Options{Service: "web", Instance: "web-1"})
		for range 20 {
			_ = set.Do(t.Context(), circuit.Key{Group: "catalog", Method: "GetMovie"}, func(context.Context) error {
				return errors.New("down")
			})
		}
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error)
		go func() { ended <- set.Report(ctx, w.dial(t, "circuits-1:7000")) }()
		time.Sleep(time.Second)
		got := watch(t, client, "web")[0].Circuits[0]
		if got.State != circuitsv1.State_STATE_OPEN || got.Rolling["FAILURE"] != 20 || got.Reason == "" {
			t.Errorf("got %v", got)
		}
		cancel()
		<-ended
	})
}

func TestCloseEndsStreams(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		board, client, _ := w.replica(t, "circuits-1", circuits.Options{})
		watching, err := client.Watch(t.Context(), &circuitsv1.WatchRequest{})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := watching.Recv(); err != nil {
			t.Fatal(err)
		}
		reporting := reporter(t, client)
		send(t, reporting, report("web", "web-1"))
		board.Close()
		if _, err := watching.Recv(); errs.KindOf(err) != errs.Unavailable {
			t.Errorf("the watch ended with %v", err)
		}
		if err := reporting.RecvMsg(&circuitsv1.ReportResponse{}); errs.KindOf(err) != errs.Unavailable {
			t.Errorf("the report ended with %v", err)
		}
	})
}

// The limit is for new processes. One that has reported before is accepted, also on a new stream.
func TestReportingProcessIsAcceptedAtTheLimit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		_, client, _ := w.replica(t, "circuits-1", circuits.Options{MaxProcesses: 1})
		first := reporter(t, client)
		send(t, first, report("web", "web-1"))
		send(t, first, report("web", "web-1"))
		again := reporter(t, client)
		send(t, again, report("web", "web-1"))
		for what, stream := range map[string]reportStream{
			"a second report of one stream": first, "a report by a second stream": again,
		} {
			if _, err := stream.CloseAndRecv(); err != nil {
				t.Errorf("%s is refused: %v", what, errs.FromRPC(err))
			}
		}
	})
}

func TestRefusedReports(t *testing.T) {
	many := make([]*circuitsv1.Snapshot, 3001)
	for i := range many {
		many[i] = &circuitsv1.Snapshot{Name: "x"}
	}
	nan := getMovie(1, 0)
	nan.Load.Latency.SumNs = math.NaN()
	negative := getMovie(1, 0)
	negative.Load.Latency.MinNs = -1
	noName := getMovie(1, 0)
	noName.Name = ""
	longName := getMovie(1, 0)
	longName.Name = strings.Repeat("x", 1<<20) // the refusal must not be as long
	longTrace := getMovie(1, 0)
	longTrace.ExampleTraces = []string{strings.Repeat("a", 33)}
	negativeCount := getMovie(1, 0)
	negativeCount.Rolling["FAILURE"] = -1
	negativeOpen := getMovie(1, 0)
	negativeOpen.OpenInstances = -1
	tests := []struct {
		name string
		reqs []*circuitsv1.ReportRequest
		want errs.Kind
		text string
	}{
		{"no service", []*circuitsv1.ReportRequest{report("", "x")}, errs.Invalid, "service"},
		{"no instance", []*circuitsv1.ReportRequest{report("web", "")}, errs.Invalid, "instance"},
		{
			"another instance",
			[]*circuitsv1.ReportRequest{report("web", "web-1"), report("web", "web-2")},
			errs.Invalid, "web-2",
		},
		{"too many circuits", []*circuitsv1.ReportRequest{report("web", "web-1", many...)}, errs.Invalid, "3000"},
		{"not a number", []*circuitsv1.ReportRequest{report("web", "web-1", nan)}, errs.Invalid, "mean"},
		{"negative", []*circuitsv1.ReportRequest{report("web", "web-1", negative)}, errs.Invalid, "min_ns"},
		{"circuit without a name", []*circuitsv1.ReportRequest{report("web", "web-1", noName)}, errs.Invalid, "name"},
		{
			"circuit with a long name",
			[]*circuitsv1.ReportRequest{report("web", "web-1", longName)},
			errs.Invalid, "at most 256 bytes",
		},
		{"no trace id", []*circuitsv1.ReportRequest{report("web", "web-1", longTrace)}, errs.Invalid, "traces"},
		{"negative count", []*circuitsv1.ReportRequest{report("web", "web-1", negativeCount)}, errs.Invalid, "counts"},
		{
			"negative number of open instances",
			[]*circuitsv1.ReportRequest{report("web", "web-1", negativeOpen)},
			errs.Invalid, "counts",
		},
		{"too many processes", []*circuitsv1.ReportRequest{report("web", "web-3")}, errs.Exhausted, "max-processes"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t)
				_, client, _ := w.replica(t, "circuits-1", circuits.Options{MaxProcesses: 2})
				if tt.want == errs.Exhausted {
					send(t, reporter(t, client), report("a", "a-1"))
					send(t, reporter(t, client), report("b", "b-1"))
				}
				stream := reporter(t, client)
				for _, req := range tt.reqs {
					send(t, stream, req)
				}
				_, err := stream.CloseAndRecv()
				if errs.KindOf(err) != tt.want || !strings.Contains(fmt.Sprint(errs.FromRPC(err)), tt.text) {
					t.Errorf("got %v, want %v about %q", errs.FromRPC(err), tt.want, tt.text)
				}
				if n := len(fmt.Sprint(errs.FromRPC(err))); n > 1000 {
					t.Errorf("the refusal has %d bytes", n)
				}
			})
		})
	}
}

func TestWatchesAreBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		_, client, _ := w.replica(t, "circuits-1", circuits.Options{MaxStreams: 1})
		first, err := client.Watch(t.Context(), &circuitsv1.WatchRequest{})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := first.Recv(); err != nil {
			t.Fatal(err)
		}
		second, err := client.Watch(t.Context(), &circuitsv1.WatchRequest{})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := second.Recv(); errs.KindOf(err) != errs.Unavailable {
			t.Errorf("second watch got %v", err)
		}
	})
}

// settings is a config service that keeps overrides in memory.
type settings struct {
	configv1.UnimplementedConfigServer
	published []*configv1.PublishRequest
	values    map[string]*configv1.Value // name and app -> value
}

func newSettings() *settings { return &settings{values: map[string]*configv1.Value{}} }

func (s *settings) Publish(_ context.Context, req *configv1.PublishRequest) (*configv1.PublishResponse, error) {
	if strings.Contains(req.Reason, "refuse") {
		return nil, errs.Errorf(errs.Precondition, "no service declares this")
	}
	s.published = append(s.published, req)
	for _, c := range req.Changes {
		key := c.Name + "/" + c.Scope.App
		if c.Remove {
			delete(s.values, key)
		} else {
			s.values[key] = &configv1.Value{Name: c.Name, Value: c.Value, Scope: c.Scope}
		}
	}
	return &configv1.PublishResponse{Revision: int64(len(s.published))}, nil
}

func (s *settings) List(_ context.Context, req *configv1.ListRequest) (*configv1.ListResponse, error) {
	p := &configv1.ListedProperty{}
	for _, key := range slices.Sorted(maps.Keys(s.values)) {
		if strings.HasPrefix(key, req.Prefix) {
			p.Values = append(p.Values, s.values[key])
		}
	}
	return &configv1.ListResponse{Properties: []*configv1.ListedProperty{p}}, nil
}
