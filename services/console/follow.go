package console

import (
	"context"
	"encoding/json"
	"math/rand/v2"
	"time"

	"bijou.dev/platform/pace"

	oteltrace "go.opentelemetry.io/otel/trace"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
)

const (
	// pollPeriod is how often the backends are asked.
	pollPeriod = time.Second
	// requestTimeout bounds one request to a backend.
	requestTimeout = 1500 * time.Millisecond
)

// follow starts the loops that update the topics. A loop works while pages are open, and ends with its context.
func (c *Console) follow(start func(name string, fn func(context.Context) error)) {
	for name, loop := range map[string]func(context.Context){
		"registry": c.followRegistry, "circuits": c.followCircuits, "settings": c.followSettings,
		"routes": c.followRoutes, "traffic": c.followTraffic,
	} {
		start(name, func(ctx context.Context) error { loop(ctx); return nil })
	}
}

// poll calls fn every pollPeriod while pages are open.
func (c *Console) poll(ctx context.Context, fn func(context.Context)) {
	for c.hub.waitUntilActive(ctx) {
		begin := time.Now()
		fn(withoutTrace(ctx))
		pace.Sleep(ctx, max(pollPeriod-time.Since(begin), 10*time.Millisecond))
	}
}

// withoutTrace returns a context whose requests are not sampled: the requests that the console makes every second
// would fill the trace store.
func withoutTrace(ctx context.Context) context.Context {
	var c oteltrace.SpanContextConfig
	for i := range c.TraceID {
		c.TraceID[i] = byte(rand.N(255) + 1) //nolint:gosec // an id, not a secret
	}
	copy(c.SpanID[:], c.TraceID[:])
	return oteltrace.ContextWithRemoteSpanContext(ctx, oteltrace.NewSpanContext(c))
}

// protoJSON returns m as JSON. Equal messages give equal texts: protojson varies its white space on purpose, and
// json.Marshal removes it.
func protoJSON(m proto.Message) json.RawMessage {
	text, err := protojson.MarshalOptions{EmitDefaultValues: true}.Marshal(m)
	if err != nil {
		return json.RawMessage("null") // only invalid UTF-8 causes this, and gRPC refuses a message that has it
	}
	var b []byte
	if b, err = json.Marshal(json.RawMessage(text)); err != nil {
		return json.RawMessage("null")
	}
	return b
}
