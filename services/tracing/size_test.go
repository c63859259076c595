package tracing_test

import (
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"

	"bijou.dev/platform/errs"
	"bijou.dev/platform/memnet"
	"bijou.dev/services/tracing"

	collector "go.opentelemetry.io/proto/otlp/collector/trace/v1"
)

// 4 MiB is the largest request over gRPC and over HTTP. One byte more is refused.
func TestLargestRequest(t *testing.T) {
	const limit = 4 << 20
	s := start(t, memnet.New(), "a", tracing.Options{})
	client := s.otlp(grpc.WithDefaultCallOptions(grpc.MaxCallSendMsgSize(2 * limit)))
	for size, want := range map[int]struct {
		status  int
		refused bool
	}{limit: {200, false}, limit + 1: {413, true}} {
		req := ofSize(t, size)
		_, err := client.Export(t.Context(), req)
		if refused := err != nil && errs.KindOf(err) == errs.Exhausted; refused != want.refused || !refused && err != nil {
			t.Errorf("%d bytes over gRPC: error %v, want one of kind Exhausted: %v", size, err, want.refused)
		}
		body, err := proto.Marshal(req)
		if err != nil {
			t.Fatal(err)
		}
		resp, text := s.do("POST", "4318", "/v1/traces", "application/x-protobuf", "", body)
		if resp.StatusCode != want.status {
			t.Errorf("%d bytes over HTTP: %s %q, want %d", size, resp.Status, text, want.status)
		}
	}
}

// ofSize returns a request with one span that takes exactly size bytes.
func ofSize(t *testing.T, size int) *collector.ExportTraceServiceRequest {
	t.Helper()
	req := request("4bf92f3577b34da6a3ce929d0e0e4736", time.Now())
	span := req.ResourceSpans[0].ScopeSpans[0].Spans[0]
	span.Name = strings.Repeat("x", size)
	span.Name = span.Name[:2*size-proto.Size(req)]
	if got := proto.Size(req); got != size {
		t.Fatalf("the request has %d bytes, want %d", got, size)
	}
	return req
}
