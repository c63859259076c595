package tracing_test

import (
	"context"
	"encoding/binary"
	"fmt"
	"net"
	"sync"
	"syscall"
	"testing"
	"time"

	collector "go.opentelemetry.io/proto/otlp/collector/trace/v1"
	common "go.opentelemetry.io/proto/otlp/common/v1"
	resource "go.opentelemetry.io/proto/otlp/resource/v1"
	otlp "go.opentelemetry.io/proto/otlp/trace/v1"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/protobuf/proto"

	"bijou.dev/platform/service"
	"bijou.dev/services/tracing"
	"bijou.dev/services/tracing/internal/span"
	"bijou.dev/services/tracing/internal/spantest"
)

// export turns traces into a request, as one service sends it: a resource, and spans of some 250 bytes.
func export(spans []span.Span) *collector.ExportTraceServiceRequest {
	attr := func(k, v string) *common.KeyValue {
		return &common.KeyValue{Key: k, Value: &common.AnyValue{Value: &common.AnyValue_StringValue{StringValue: v}}}
	}
	by := map[string]*otlp.ResourceSpans{}
	req := &collector.ExportTraceServiceRequest{}
	for _, s := range spans {
		r := by[s.Local.Service]
		if r == nil {
			r = &otlp.ResourceSpans{Resource: &resource.Resource{Attributes: []*common.KeyValue{attr("service.name",
				s.Local.Service)}}, ScopeSpans: []*otlp.ScopeSpans{{}}}
			for _, t := range s.Tags[:5] {
				r.Resource.Attributes = append(r.Resource.Attributes, attr(t.Key, t.Value))
			}
			by[s.Local.Service] = r
			req.ResourceSpans = append(req.ResourceSpans, r)
		}
		o := &otlp.Span{
			TraceId: binary.BigEndian.AppendUint64(binary.BigEndian.AppendUint64(nil, s.Trace.Hi), s.Trace.Lo),
			SpanId:  binary.BigEndian.AppendUint64(nil, uint64(s.ID)), Name: s.Name, Kind: otlp.Span_SpanKind(1 + (s.Kind^3)%3),
			StartTimeUnixNano: uint64(s.Start) * 1000, EndTimeUnixNano: uint64(s.Start+s.Duration) * 1000,
		}
		if s.Parent != 0 {
			o.ParentSpanId = binary.BigEndian.AppendUint64(nil, uint64(s.Parent))
		}
		for _, t := range s.Tags[5:] {
			o.Attributes = append(o.Attributes, attr(t.Key, t.Value))
		}
		if s.Remote.Service != "" {
			o.Attributes = append(o.Attributes, attr("peer.service", s.Remote.Service))
		}
		r.ScopeSpans[0].Spans = append(r.ScopeSpans[0].Spans, o)
	}
	return req
}

func cpu(b *testing.B) time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		b.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// nothing is a server that reads requests with the generated code and forgets them: the floor.
type nothing struct {
	collector.UnimplementedTraceServiceServer
}

func (nothing) Export(context.Context, *collector.ExportTraceServiceRequest) (*collector.ExportTraceServiceResponse,
	error,
) {
	return &collector.ExportTraceServiceResponse{}, nil
}

// BenchmarkIngest reports CPU per span of server and client together, over loopback TCP, for a server that only
// decodes (floor) and for this one (durable), and bytes a span on the wire. The client sends prepared bytes, so it
// costs little.
func BenchmarkIngest(b *testing.B) {
	const batch = 57 // traces of 9 spans
	run := func(b *testing.B, addr string) {
		conn, err := grpc.NewClient(addr, grpc.WithTransportCredentials(insecure.NewCredentials()))
		if err != nil {
			b.Fatal(err)
		}
		defer conn.Close()
		client := collector.NewTraceServiceClient(conn)
		src, at := spantest.New(1), time.Now().Add(-time.Hour)
		var reqs []*collector.ExportTraceServiceRequest
		size := 0
		for range min(b.N, 4000) {
			var spans []span.Span
			for range batch {
				at = at.Add(time.Millisecond)
				spans = append(spans, src.Trace(at)...)
			}
			reqs = append(reqs, export(spans))
			size += proto.Size(reqs[len(reqs)-1])
		}
		work := make(chan *collector.ExportTraceServiceRequest)
		var wg sync.WaitGroup
		for range 8 {
			wg.Go(func() {
				for r := range work {
					if _, err := client.Export(context.Background(), r); err != nil {
						b.Error(err)
					}
				}
			})
		}
		b.ResetTimer()
		begin := cpu(b)
		for i := range b.N {
			work <- reqs[i%len(reqs)]
		}
		close(work)
		wg.Wait()
		used := cpu(b) - begin
		b.StopTimer()
		n := float64(b.N * batch * 9)
		b.ReportMetric(float64(used.Nanoseconds())/n, "cpu-ns/span")
		b.ReportMetric(float64(b.Elapsed().Nanoseconds())/n, "ns/span")
		b.ReportMetric(float64(size)/float64(len(reqs)*batch*9), "wire-B/span")
	}
	b.Run("floor", func(b *testing.B) {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			b.Fatal(err)
		}
		s := grpc.NewServer()
		collector.RegisterTraceServiceServer(s, nothing{})
		go func() { _ = s.Serve(l) }()
		defer s.Stop()
		run(b, l.Addr().String())
	})
	b.Run("durable", func(b *testing.B) {
		p, err := service.New(b.Context(),
			service.Options{Name: "tracing", Instance: "a", Drain: 20 * time.Millisecond, Listen: map[string]string{
				"otlp": "127.0.0.1:0", "otlphttp": "127.0.0.1:0", "zipkin": "127.0.0.1:0",
			}}, func(ctx context.Context, setup *service.Setup) error {
				return tracing.New(ctx, setup, tracing.Options{Dir: b.TempDir()})
			})
		if err != nil {
			b.Fatal(err)
		}
		ctx, cancel := context.WithCancel(context.Background())
		done := make(chan error, 1)
		go func() { done <- p.Run(ctx) }()
		run(b, p.Addr("otlp"))
		cancel()
		if err := <-done; err != nil {
			b.Error(err)
		}
	})
}

// BenchmarkParse compares reading a request of 513 spans into the model with the generated code alone.
func BenchmarkParse(b *testing.B) {
	src := spantest.New(1)
	var spans []span.Span
	for range 57 {
		spans = append(spans, src.Trace(time.Now())...)
	}
	wire, err := proto.Marshal(export(spans))
	if err != nil {
		b.Fatal(err)
	}
	for name, parse := range map[string]func() error{
		"generated": func() error { return proto.Unmarshal(wire, new(collector.ExportTraceServiceRequest)) },
		"model": func() error {
			p, err := span.ParseOTLP(wire)
			if len(p.Spans) != len(spans) || p.Invalid != 0 {
				return fmt.Errorf("parsed %d valid and %d invalid spans: %w", len(p.Spans), p.Invalid, err)
			}
			return err
		},
	} {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if err := parse(); err != nil {
					b.Fatal(err)
				}
			}
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N*len(spans)), "ns/span")
		})
	}
}
