package main

import (
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"bijou.dev/platform/service"
	"bijou.dev/services/tracing"

	collectorv1 "go.opentelemetry.io/proto/otlp/collector/trace/v1"
	commonv1 "go.opentelemetry.io/proto/otlp/common/v1"
	resourcev1 "go.opentelemetry.io/proto/otlp/resource/v1"
	tracev1 "go.opentelemetry.io/proto/otlp/trace/v1"
	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/protobuf/proto"
)

// runDecoder receives spans over OTLP, decodes them and drops them.
func runDecoder(ctx context.Context, _ []string, ready func(string)) error {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	s := grpc.NewServer(grpc.MaxRecvMsgSize(16 << 20))
	collectorv1.RegisterTraceServiceServer(s, decoder{})
	defer context.AfterFunc(ctx, s.Stop)()
	ready(l.Addr().String())
	return s.Serve(l)
}

type decoder struct {
	collectorv1.UnimplementedTraceServiceServer
}

// Export implements TraceServiceServer.
func (decoder) Export(context.Context,
	*collectorv1.ExportTraceServiceRequest,
) (*collectorv1.ExportTraceServiceResponse, error) {
	return &collectorv1.ExportTraceServiceResponse{}, nil
}

// runTracing runs the trace store on the folder in args. Its address is that of OTLP over gRPC, a space, and that of
// queries.
func runTracing(ctx context.Context, args []string, ready func(string)) error {
	queries := ""
	return member(ctx, "tracing", "otlp", []string{"otlphttp", "zipkin"},
		func(ctx context.Context, setup *service.Setup) error {
			queries = setup.Addr("zipkin")
			return tracing.New(ctx, setup, tracing.Options{Dir: args[0]})
		}, func(addr string) { ready(addr + " " + queries) })
}

const (
	batchSpans = 512
	senders    = 4  // concurrent
	batches    = 80 // per round and receiver
	lookups    = 200
)

func benchIngest(ctx context.Context, r *report) error {
	dir, err := os.MkdirTemp("", "bijou-bench")
	if err != nil {
		return err
	}
	defer func() { _ = os.RemoveAll(dir) }() // a temporary folder
	floor, err := spawn(ctx, "decoder")
	if err != nil {
		return err
	}
	defer floor.kill()
	store, err := spawn(ctx, "tracing", dir)
	if err != nil {
		return err
	}
	defer store.kill()
	receivers := []*process{floor, store}
	cpu, rate := make([][]float64, len(receivers)), make([][]float64, len(receivers))
	sources := []*films{newFilms(1), newFilms(2)}
	var stored, wire int
	var ids [][]byte // ids of traces of which at least one span was stored
	err = turns(ctx, r.rounds, len(receivers), func(i int) error {
		work, size := sources[i].batches(batches)
		c, n, err := deliver(ctx, receivers[i], work)
		cpu[i], rate[i] = append(cpu[i], c), append(rate[i], n)
		if i == 1 {
			stored, wire = stored+batches*batchSpans, wire+size
			for _, w := range work {
				ids = append(ids, w.GetResourceSpans()[0].GetScopeSpans()[0].GetSpans()[0].GetTraceId())
			}
		}
		return err
	})
	if err != nil {
		return err
	}
	// At a start the log is written into tables, so that the folder has every span once.
	if err := store.stop(); err != nil {
		return err
	}
	again, err := spawn(ctx, "tracing", dir)
	if err != nil {
		return err
	}
	defer again.kill()
	found, err := lookUp(ctx, again, ids)
	if err != nil {
		return err
	}
	if err := again.stop(); err != nil {
		return err
	}
	used, err := tables(dir)
	if err != nil {
		return err
	}
	r.add("decode, keep nothing", figure{"us CPU a span", cpu[0]}, figure{"spans/s", rate[0]})
	r.add("stored and synced", figure{"us CPU a span", cpu[1]}, figure{"spans/s", rate[1]})
	r.add("size of a span", figure{"bytes sent", []float64{float64(wire) / float64(stored)}},
		figure{"bytes on disk", []float64{float64(used) / float64(stored)}})
	r.add(fmt.Sprintf("a trace by its id, of %d spans", stored), found.figures()...)
	return nil
}

// deliver sends batches from several senders at once. It returns the CPU time of the receiver per span in microseconds,
// and the spans per second.
func deliver(ctx context.Context, p *process, work []*collectorv1.ExportTraceServiceRequest) (cpu, rate float64,
	err error,
) {
	addr, _, _ := strings.Cut(p.addr, " ")
	conn, err := grpc.NewClient("passthrough:///"+addr, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		return 0, 0, err
	}
	defer conn.Close()
	client := collectorv1.NewTraceServiceClient(conn)
	before, err := p.cpu()
	if err != nil {
		return 0, 0, err
	}
	start := time.Now()
	g, ctx := errgroup.WithContext(ctx)
	for s := range senders {
		g.Go(func() error {
			for i := s; i < len(work); i += senders {
				resp, err := client.Export(ctx, work[i])
				if err != nil {
					return err
				}
				if n := resp.GetPartialSuccess().GetRejectedSpans(); n > 0 {
					return fmt.Errorf("%d spans were rejected: %s", n, resp.GetPartialSuccess().GetErrorMessage())
				}
			}
			return nil
		})
	}
	if err := g.Wait(); err != nil {
		return 0, 0, fmt.Errorf("sending spans to %s: %w", p.role, err)
	}
	took := time.Since(start)
	after, err := p.cpu()
	n := float64(len(work) * batchSpans)
	return float64((after - before).Nanoseconds()) / 1000 / n, n / took.Seconds(), err
}

// lookUp gets traces by their ids, in random order.
func lookUp(ctx context.Context, p *process, ids [][]byte) (latencies, error) {
	_, queries, ok := strings.Cut(p.addr, " ")
	if !ok || len(ids) == 0 {
		return latencies{}, errors.New("no traces were stored, so none can be looked up")
	}
	random := rand.New(rand.NewPCG(1, 2))
	ask := func() (time.Time, error) {
		id := ids[random.IntN(len(ids))]
		n, err := countSpans(ctx, fmt.Sprintf("http://%s/api/v2/trace/%x", queries, id))
		if err == nil && n == 0 {
			err = fmt.Errorf("trace %x is empty", id)
		}
		return time.Now(), err
	}
	if err := until(ctx, 20*time.Millisecond, "the trace store",
		func(context.Context) error { _, err := ask(); return err }); err != nil {
		return latencies{}, err
	}
	took, err := paced(ctx, lookups, 10*time.Millisecond, ask)
	var l latencies
	l.add(took)
	return l, err
}

func countSpans(ctx context.Context, url string) (int, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return 0, err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return 0, err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return 0, fmt.Errorf("asking for a trace: %s", resp.Status)
	}
	var spans []json.RawMessage
	err = json.NewDecoder(resp.Body).Decode(&spans)
	return len(spans), err
}

// tables returns the size of the tables and logs in the folder of a store, without its reserved space.
func tables(dir string) (total int64, err error) {
	err = filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if ext := filepath.Ext(path); err != nil || ext != ".sst" && ext != ".log" {
			return err
		}
		info, err := d.Info()
		if err == nil {
			total += info.Size()
		}
		return err
	})
	return total, err
}

// films makes spans like those of the services of a film site. Each service exports its own, in full batches.
type films struct {
	random  *rand.Rand
	at      time.Time
	pending map[string][]*tracev1.Span // service -> spans of its next batch
	full    []*collectorv1.ExportTraceServiceRequest
}

func newFilms(seed uint64) *films {
	// Spans of the last hour, about a hundred requests per second.
	return &films{
		random: rand.New(rand.NewPCG(seed, 7)), at: time.Now().Add(-time.Hour),
		pending: map[string][]*tracev1.Span{},
	}
}

// batches returns n full batches and their size in bytes.
func (f *films) batches(n int) (work []*collectorv1.ExportTraceServiceRequest, size int) {
	for len(f.full) < n {
		f.trace()
	}
	work, f.full = f.full[:n], f.full[n:]
	for _, w := range work {
		size += proto.Size(w)
	}
	return work, size
}

// trace makes the spans of a page: a request at the edge, which calls web, which calls three services.
func (f *films) trace() {
	f.at = f.at.Add(time.Duration(f.random.ExpFloat64() * float64(10*time.Millisecond)))
	id := binary.BigEndian.AppendUint64(binary.BigEndian.AppendUint64(nil, f.random.Uint64()), f.random.Uint64())
	film := strconv.Itoa(f.random.IntN(3200))
	edge := f.span(id, nil, "gateway", "GET /films/{id}", tracev1.Span_SPAN_KIND_SERVER,
		"http.request.method", "GET", "url.scheme", "http", "url.path", "/films/"+film,
		"network.protocol.version", "1.1",
		"client.address", fmt.Sprintf("192.0.2.%d",
			f.random.IntN(250)), "http.response.status_code", "200", "http.route", "/films/{id}")
	web := f.call(id, edge, "gateway", "web", "bijou.web.v1.Web/Page")
	for _, callee := range []string{"catalog", "recommendations", "ratings"} {
		f.call(id, web, "web", callee, "bijou."+callee+".v1.Service/Get")
	}
}

// call makes the spans of both sides of a call. It returns the id of the span of the callee.
func (f *films) call(trace, parent []byte, caller, callee, method string) []byte {
	out := f.span(trace, parent, caller, method, tracev1.Span_SPAN_KIND_CLIENT, "rpc.system.name", "grpc",
		"peer.service", callee,
		"bijou.route.instance", fmt.Sprintf("%s-%d", callee,
			f.random.IntN(3)), "bijou.route.scope", "zone", "bijou.route.zone", "a", "rpc.response.status_code", "OK")
	return f.span(trace, out, callee, method, tracev1.Span_SPAN_KIND_SERVER, "rpc.system.name", "grpc",
		"rpc.response.status_code", "OK")
}

// span adds a span to the batch of its service and returns its id.
func (f *films) span(trace, parent []byte, service, name string, kind tracev1.Span_SpanKind, attrs ...string) []byte {
	id := binary.BigEndian.AppendUint64(nil, f.random.Uint64())
	start := f.at.Add(time.Duration(f.random.IntN(2_000_000)))
	end := start.Add(time.Duration(500_000 + f.random.ExpFloat64()*20_000_000))
	f.pending[service] = append(f.pending[service], &tracev1.Span{
		TraceId: trace, SpanId: id, ParentSpanId: parent, Name: name, Kind: kind, Flags: 0x101,
		StartTimeUnixNano: uint64(start.UnixNano()), EndTimeUnixNano: uint64(end.UnixNano()),
		Attributes: attributes(attrs...),
	})
	if len(f.pending[service]) == batchSpans {
		f.full = append(f.full, &collectorv1.ExportTraceServiceRequest{ResourceSpans: []*tracev1.ResourceSpans{{
			Resource: &resourcev1.Resource{Attributes: attributes("service.name", service,
				"service.instance.id", service+"-1", "service.version", "v1.4.2",
				"deployment.environment.name", "local", "cloud.region", "local", "cloud.availability_zone", "a",
				"telemetry.sdk.language", "go")},
			ScopeSpans: []*tracev1.ScopeSpans{{
				Scope: &commonv1.InstrumentationScope{Name: "bijou.dev/platform"},
				Spans: f.pending[service],
			}},
		}}})
		f.pending[service] = nil
	}
	return id
}

func attributes(pairs ...string) (list []*commonv1.KeyValue) {
	for i := 0; i < len(pairs); i += 2 {
		list = append(list,
			&commonv1.KeyValue{
				Key:   pairs[i],
				Value: &commonv1.AnyValue{Value: &commonv1.AnyValue_StringValue{StringValue: pairs[i+1]}},
			})
	}
	return list
}
