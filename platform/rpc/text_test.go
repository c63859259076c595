package rpc_test

import (
	"context"
	"fmt"
	"maps"
	"net"
	"slices"
	"strings"
	"testing"
	"testing/synctest"

	configv1 "bijou.dev/platform/api/config/v1"
	"bijou.dev/platform/errs"
	"bijou.dev/platform/rpc"
	"bijou.dev/platform/trace"

	"github.com/google/go-cmp/cmp"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"
	collector "go.opentelemetry.io/proto/otlp/collector/trace/v1"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
)

// encoding is a connection to a trace store that encodes requests and decodes them again, as gRPC does, and accepts
// what can be decoded.
type encoding struct{ grpc.ClientConnInterface }

func (encoding) Invoke(_ context.Context, _ string, args, _ any, _ ...grpc.CallOption) error {
	data, err := proto.Marshal(args.(proto.Message))
	if err != nil {
		return err
	}
	return proto.Unmarshal(data, &collector.ExportTraceServiceRequest{})
}

// An error text that is not UTF-8 reaches the caller, and the spans of all calls reach the trace store.
func TestErrorTextThatIsNotUTF8(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p, err := trace.New(trace.Options{
			Service: "test", Conn: func() grpc.ClientConnInterface { return encoding{} },
		})
		if err != nil {
			t.Fatal(err)
		}
		defer p.Shutdown(context.WithoutCancel(t.Context()))
		w := newWorld()
		fail := false
		w.start(t, rpc.ServerOptions{Trace: p}, func(context.Context) error {
			if fail {
				return errs.Errorf(errs.Unavailable, "reading film \xff")
			}
			return nil
		})
		c := w.client(t, rpc.ClientOptions{Trace: p})
		for _, fail = range []bool{false, true, false} {
			if _, err := c.Publish(t.Context(), &configv1.PublishRequest{}); (err != nil) != fail {
				t.Errorf("a call that must fail: %v, returns %v", fail, err)
			}
		}
		if err := p.Flush(t.Context()); err != nil {
			t.Fatal(err)
		}
		if p.Exported() != 6 || p.Dropped() != 0 {
			t.Errorf("of 6 spans %d are exported and %d dropped", p.Exported(), p.Dropped())
		}
	})
}

// Callers may call services and methods that a server does not have, with any metadata: the server gets no spans,
// attributes or series of metrics from their names.
func TestCallersCannotInventNames(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		exporter := tracetest.NewInMemoryExporter()
		p, err := trace.New(trace.Options{Service: "config", Exporter: exporter})
		if err != nil {
			t.Fatal(err)
		}
		defer p.Shutdown(context.WithoutCancel(t.Context()))
		w := newWorld()
		w.start(t, rpc.ServerOptions{Service: "config", Trace: p, Metrics: w.metrics, Limiter: limiter("100")}, ok)
		dial := func(ctx context.Context, addr string) (net.Conn, error) { return w.net.DialContext(ctx, "tcp", addr) }
		conn, err := grpc.NewClient("passthrough:///config-1:7000", grpc.WithContextDialer(dial),
			grpc.WithTransportCredentials(insecure.NewCredentials()))
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		call := func(word string) {
			t.Helper()
			ctx := metadata.AppendToOutgoingContext(t.Context(), "x-"+word, word, "baggage", word+"="+word,
				"traceparent", word, "tracestate", word+"="+word, "b3", word, "x-request-id", word)
			for method, want := range map[string]codes.Code{
				"/" + word + ".v1." + word + "/" + word: codes.Unimplemented,
				"/bijou.config.v1.Config/" + word:       codes.Unimplemented,
				configv1.Config_Get_FullMethodName:      codes.OK,
			} {
				err := conn.Invoke(ctx, method, &configv1.GetRequest{}, &configv1.GetResponse{})
				if status.Code(err) != want {
					t.Fatalf("calling %s returns %v, want %v", method, err, want)
				}
			}
		}
		names := func() []string {
			t.Helper()
			if err := p.Flush(t.Context()); err != nil {
				t.Fatal(err)
			}
			seen := map[string]bool{}
			for _, s := range exporter.GetSpans() {
				seen["span "+s.Name] = true
				for _, a := range s.Attributes {
					seen[fmt.Sprintf("attribute %s %s", a.Key, a.Value.String())] = true
				}
			}
			families, err := w.metrics.Gather()
			if err != nil {
				t.Fatal(err)
			}
			for _, f := range families {
				for _, m := range f.GetMetric() {
					seen[fmt.Sprintf("series %s%v", f.GetName(), m.GetLabel())] = true
				}
			}
			return slices.Sorted(maps.Keys(seen))
		}
		call("first")
		before := names()
		for i := range 200 {
			call(fmt.Sprintf("invented%d", i))
		}
		after := names()
		if diff := cmp.Diff(before, after); diff != "" {
			t.Errorf("200 times as many calls led to other names (-before +after):\n%s", diff)
		}
		for _, name := range after {
			if strings.Contains(name, "first") {
				t.Errorf("a caller invented the name %q", name)
			}
		}
		if !slices.Contains(after, "span bijou.config.v1.Config/Get") {
			t.Errorf("the call that the server has is not among %q", after)
		}
	})
}
