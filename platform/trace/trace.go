// Package trace records what happened to a request and sends it to a trace store.
//
// A [Provider] is one process's part in tracing: a tracer of the OpenTelemetry SDK, a propagator, a bounded queue and an
// exporter. It is built to be ignored by the code that serves requests. Ending a span takes a mutex for an append and
// never waits: when the queue is full, the store is away or slow, or the process stops, spans are dropped and counted,
// and every span that was recorded is in the end either exported or in [Provider.Dropped].
//
// On the wire contexts go out as W3C traceparent and tracestate. Incoming requests may carry those or Zipkin's B3
// headers, see [Provider.Propagator]. Spans leave as OTLP over a gRPC connection that the caller provides.
//
// Everything here works without the rest of the platform; [Discard] is a provider that keeps ids flowing and records
// nothing.
package trace

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/propagation"
	"go.opentelemetry.io/otel/sdk"
	"go.opentelemetry.io/otel/sdk/resource"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	semconv "go.opentelemetry.io/otel/semconv/v1.43.0"
	"go.opentelemetry.io/otel/trace"
	"google.golang.org/grpc"
)

// scope names the instrumentation in exported spans.
const scope = "bijou.dev/platform"

// maxValue bounds one attribute value in bytes: a span is a summary, not a copy of the payload.
const maxValue = 4 << 10

// Options say who this process is and where its spans go. Service and one of Conn and Exporter are required.
type Options struct {
	// Service is the name of the service (service.name). Required.
	Service string
	// Instance is unique among the service's instances (service.instance.id). Empty: left out.
	Instance string
	// Version is the running build (service.version). Empty: left out.
	Version string
	// Environment is where it runs (deployment.environment.name). Empty: left out.
	Environment string
	// Region and Zone place the process (cloud.region, cloud.availability_zone). Empty: left out.
	Region, Zone string

	// Conn returns the connection to the trace store. It is called once, before the first export, so it may use a
	// connection that itself traces: calls made to export are never sampled. The provider does not close it.
	Conn func() grpc.ClientConnInterface
	// Exporter replaces OTLP over Conn, for tests and for other destinations. Set one of the two. It must return when its
	// context ends: Shutdown waits for it.
	Exporter sdktrace.SpanExporter

	// Sampling is the share of new traces to record, from 0 to 1. It is asked for every new trace, so a live
	// setting (*config.Value[float64]) takes effect at once. A request that arrives with a decision keeps it. Nil
	// means 1: record all.
	Sampling interface{ Get() float64 }

	// Revision returns the revision of the settings in use. Every recorded span says it as bijou.config.revision, so that
	// what a request met can be told from what is set now. Nil: left out.
	Revision func() int64

	// Queue is the number of ended spans that may wait. Further ones are dropped. 0 means 4096.
	Queue int
	// Batch is the most spans in one export. 0 means 512; more than Queue means Queue.
	Batch int
	// Every is the longest a span waits for its batch to fill. 0 means 1 s.
	Every time.Duration
	// Timeout bounds the export of one batch, retries included, and Shutdown. 0 means 10 s.
	Timeout time.Duration

	// Log is told when export begins to fail and when it works again. Nil discards.
	Log *slog.Logger
}

func (o Options) validate() error {
	switch {
	case o.Service == "":
		return errors.New("trace options: Service is required")
	case (o.Conn == nil) == (o.Exporter == nil):
		return errors.New("trace options: Conn, Exporter: set exactly one, or use trace.Discard to export nothing")
	case o.Queue < 0, o.Batch < 0:
		return errors.New("trace options: Queue, Batch must not be negative")
	case o.Every < 0, o.Timeout < 0:
		return errors.New("trace options: Every, Timeout must not be negative")
	}
	return nil
}

func (o *Options) setDefaults() {
	o.Queue = orDefault(o.Queue, 4096)
	o.Batch = min(orDefault(o.Batch, 512), o.Queue)
	o.Every = orDefault(o.Every, time.Second)
	o.Timeout = orDefault(o.Timeout, 10*time.Second)
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
}

func orDefault[T comparable](v, def T) T {
	var zero T
	if v == zero {
		return def
	}
	return v
}

// Provider is one process's part in tracing. It is safe for concurrent use.
type Provider struct {
	sdk    *sdktrace.TracerProvider
	tracer trace.Tracer
	queue  *queue // nil: nothing is recorded
}

// New returns a provider that exports in the background until [Provider.Shutdown]. It neither waits for the store nor
// fails when the store is away.
func New(opts Options) (*Provider, error) {
	if err := opts.validate(); err != nil {
		return nil, fmt.Errorf("setting up tracing: %w", err)
	}
	opts.setDefaults()
	if opts.Exporter == nil {
		opts.Exporter = newOTLP(opts.Conn)
	}
	q := newQueue(opts)
	limits := sdktrace.NewSpanLimits()
	limits.AttributeValueLengthLimit = maxValue
	return provider(q,
		sdktrace.WithSampler(sampler{opts.Sampling}),
		sdktrace.WithSpanProcessor(q),
		sdktrace.WithResource(opts.resource()),
		sdktrace.WithRawSpanLimits(limits),
	), nil
}

// Discard returns a provider that records and exports nothing. Trace ids are still made and passed on, so logs of one
// request can be joined across processes.
func Discard() *Provider {
	return provider(nil, sdktrace.WithSampler(sdktrace.NeverSample()))
}

func provider(q *queue, opts ...sdktrace.TracerProviderOption) *Provider {
	tp := sdktrace.NewTracerProvider(opts...)
	return &Provider{sdk: tp, tracer: tp.Tracer(scope), queue: q}
}

func (o Options) resource() *resource.Resource {
	attrs := []attribute.KeyValue{
		semconv.ServiceName(o.Service),
		semconv.TelemetrySDKName("opentelemetry"),
		semconv.TelemetrySDKLanguageGo,
		semconv.TelemetrySDKVersion(sdk.Version()),
	}
	for _, a := range []attribute.KeyValue{
		semconv.ServiceInstanceID(o.Instance),
		semconv.ServiceVersion(o.Version),
		semconv.DeploymentEnvironmentNameKey.String(o.Environment),
		semconv.CloudRegion(o.Region),
		semconv.CloudAvailabilityZone(o.Zone),
	} {
		if a.Value.AsString() != "" {
			attrs = append(attrs, a)
		}
	}
	return resource.NewWithAttributes(semconv.SchemaURL, attrs...)
}

// TracerProvider returns the OpenTelemetry provider, for libraries that take one.
func (p *Provider) TracerProvider() trace.TracerProvider { return p.sdk }

// Tracer returns the tracer with which the platform makes its own spans.
func (p *Provider) Tracer() trace.Tracer { return p.tracer }

// Propagator returns the propagator of this process. It writes W3C traceparent and tracestate. It reads W3C first and,
// where that is missing or invalid, B3 in one header or several. Two traceparent headers count as none. A tracestate
// that is malformed or has more than 32 members is discarded; of two members with one key the first is kept.
//
// Carriers are asked for lower-case keys. Use propagation.HeaderCarrier for HTTP and [MD] for gRPC.
func (p *Provider) Propagator() propagation.TextMapPropagator { return propagator{} }

// Ended returns how many spans were recorded and have ended. Those that are neither exported nor dropped are queued.
func (p *Provider) Ended() uint64 {
	if p.queue == nil {
		return 0
	}
	return p.queue.ended.Load()
}

// Dropped returns how many recorded spans were not delivered and never will be: the queue was full, the export failed,
// the store refused them, or the process stopped.
func (p *Provider) Dropped() uint64 {
	if p.queue == nil {
		return 0
	}
	return p.queue.dropped.Load()
}

// Exported returns how many spans the store accepted.
func (p *Provider) Exported() uint64 {
	if p.queue == nil {
		return 0
	}
	return p.queue.exported.Load()
}

// Flush exports what has ended so far. It returns when that was exported or dropped, or when ctx ends.
func (p *Provider) Flush(ctx context.Context) error {
	if p.queue == nil {
		return nil
	}
	return p.queue.ForceFlush(ctx)
}

// Shutdown exports what is queued, for at most Options.Timeout and no longer than ctx, counts the rest as dropped, and
// stops. It does not wait for a store that is not there. Spans that end later are dropped and counted. It may be called more than once.
func (p *Provider) Shutdown(ctx context.Context) error {
	if p.queue == nil {
		return nil
	}
	// The SDK's own Shutdown would detach the queue, and spans that end later would go uncounted.
	if err := p.queue.Shutdown(ctx); err != nil {
		return fmt.Errorf("exporting the last spans: %w", err)
	}
	return nil
}
