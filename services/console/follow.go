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
	// period is how often the back ends are asked, and so how old a picture may be.
	period = time.Second
	// askLimit bounds one question.
	askLimit = 1500 * time.Millisecond
)

// follow starts the loops that keep the topics up to date. Each runs while pages are open, and ends with ctx.
func (c *Console) follow(start func(name string, fn func(context.Context) error)) {
	for name, loop := range map[string]func(context.Context){
		"registry": c.followRegistry, "circuits": c.followCircuits, "settings": c.followSettings,
		"routes": c.followRoutes, "traffic": c.followTraffic,
	} {
		start(name, func(ctx context.Context) error { loop(ctx); return nil })
	}
}

// every calls fn each period while pages are open.
func (c *Console) every(ctx context.Context, fn func(context.Context)) {
	for c.hub.interest(ctx) {
		begin := time.Now()
		fn(unsampled(ctx))
		pace.Sleep(ctx, max(period-time.Since(begin), 10*time.Millisecond))
	}
}

// unsampled keeps what the console asks every second out of the trace store.
func unsampled(ctx context.Context) context.Context {
	var c oteltrace.SpanContextConfig
	for i := range c.TraceID {
		c.TraceID[i] = byte(rand.N(255) + 1) //nolint:gosec // an id, not a secret
	}
	copy(c.SpanID[:], c.TraceID[:])
	return oteltrace.ContextWithRemoteSpanContext(ctx, oteltrace.NewSpanContext(c))
}

func protoJSON(m proto.Message) json.RawMessage {
	text, err := protojson.MarshalOptions{EmitDefaultValues: true}.Marshal(m)
	if err != nil {
		return json.RawMessage("null") // our own messages have no invalid text
	}
	// protojson varies its spaces on purpose; equal states must be equal texts.
	var b []byte
	if b, err = json.Marshal(json.RawMessage(text)); err != nil {
		return json.RawMessage("null")
	}
	return b
}
