// Package trace records what happened to a request and sends it to a trace store.
//
// A [Provider] has tracers, a propagator, a bounded queue and an exporter. The tracers are OpenTelemetry's API
// (go.opentelemetry.io/otel/trace); what is below it is ours, because a span of OpenTelemetry's SDK costs five times as
// much (docs/adr/0028-spans-of-our-own.md). A process has one provider. Code that serves requests never waits for it:
// to end a span takes one append under a mutex. When the queue is full, the store is unavailable or slow, or the
// process stops, spans are dropped and counted. Each recorded span is in the end either in [Provider.Exported] or in
// [Provider.Dropped].
//
// Outgoing requests carry W3C traceparent and tracestate, as Trace Context Level 2 defines them. Incoming requests may
// carry those or Zipkin's B3 headers, see [Provider.Propagator]. Spans are sent as OTLP over a gRPC connection that the
// caller provides. Text in them is made valid UTF-8 and cut to 512 bytes (names and keys) or 4 KiB (values), so that
// one bad span cannot spoil a batch.
//
// The package works without the rest of the platform. [Discard] is a provider that makes and propagates ids and
// records nothing.
package trace

import (
	"cmp"
	"context"
	"fmt"
	"log/slog"
	"time"

	"bijou.dev/platform/errs"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/propagation"
	"go.opentelemetry.io/otel/sdk/resource"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	semconv "go.opentelemetry.io/otel/semconv/v1.43.0"
	"go.opentelemetry.io/otel/trace"
	"google.golang.org/grpc"
)

// scope is the name of the instrumentation in exported spans.
const scope = "bijou.dev/platform"

// What makes the spans, in telemetry.sdk.name and telemetry.sdk.version. The name "opentelemetry" is for the SDK of
// OpenTelemetry only, see its conventions.
const (
	sdkName    = "bijou"
	sdkVersion = "1"
)

// Options of a [Provider]. Service and one of Conn and Exporter are required.
type Options struct {
	// Service is the name of the service (service.name). Required.
	Service string
	// Instance identifies the process among those of the service (service.instance.id). Empty: no attribute.
	Instance string
	// Version is the running build (service.version). Empty: no attribute.
	Version string
	// Environment is where the process runs (deployment.environment.name). Empty: no attribute.
	Environment string
	// Region and Zone are where the machine is (cloud.region, cloud.availability_zone). Empty: no attribute.
	Region, Zone string

	// Conn returns the connection to the trace store. It is called once, before the first export. The connection may be
	// one whose calls are traced: calls made to export are never sampled. The provider does not close it. Required,
	// unless there is an Exporter.
	Conn func() grpc.ClientConnInterface
	// Exporter replaces OTLP over Conn, for tests and for other destinations. Nil: OTLP over Conn. ExportSpans
	// must return when its context ends: Shutdown waits for it. Text in its spans is not repaired, and they do not count
	// their children.
	Exporter sdktrace.SpanExporter

	// Sampling is the share of new traces to record; 0 or less records none, 1 or more all. It is read for each new
	// trace, so a live setting (*config.Value[float64]) takes effect at once. A request that arrives with a sampling
	// decision keeps it. Nil: 1.
	Sampling interface{ Get() float64 }

	// Revision returns the revision of the settings in use. Each recorded span has it as bijou.config.revision, because
	// settings may have changed when somebody reads the span. Nil: no attribute.
	Revision func() int64

	// QueueSize is the number of ended spans that may wait for export. Further ones are dropped. Zero: 4096.
	QueueSize int
	// BatchSize is the largest number of spans in one export. Zero: 512; more than QueueSize means QueueSize.
	BatchSize int
	// FlushInterval is the longest time that a span waits for its batch to fill, plus or minus a tenth. Zero: 1 s.
	FlushInterval time.Duration
	// ExportTimeout bounds the export of one batch, retries included, and Shutdown. Zero: 10 s.
	ExportTimeout time.Duration

	// Log receives a warning when exports begin to fail, a message when they work again, and at most once a minute a
	// warning about refused spans. Keys: error, dropped (spans dropped so far). Nil: nothing is logged.
	Log *slog.Logger
}

// complete returns the options with their defaults, or an error that names each field that cannot work.
func (o Options) complete() (Options, error) {
	var bad errs.Violations
	if o.Service == "" {
		bad.Add("Service", "must not be empty")
	}
	if (o.Conn == nil) == (o.Exporter == nil) {
		bad.Add("Conn", "or Exporter must be set, and not both; trace.Discard exports nothing")
	}
	for _, f := range []struct {
		name  string
		value int64
	}{
		{"QueueSize", int64(o.QueueSize)},
		{"BatchSize", int64(o.BatchSize)},
		{"FlushInterval", int64(o.FlushInterval)},
		{"ExportTimeout", int64(o.ExportTimeout)},
	} {
		if f.value < 0 {
			bad.Add(f.name, "must not be negative")
		}
	}
	o.QueueSize = cmp.Or(o.QueueSize, 4096)
	o.BatchSize = min(cmp.Or(o.BatchSize, 512), o.QueueSize)
	o.FlushInterval = cmp.Or(o.FlushInterval, time.Second)
	o.ExportTimeout = cmp.Or(o.ExportTimeout, 10*time.Second)
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	return o, bad.Err("options of tracing")
}

// Provider records and exports the spans of one process. It is safe for concurrent use.
type Provider struct {
	provider *tracerProvider
	tracer   *tracer
	queue    *queue // nil: records nothing
}

// New returns a provider that exports in the background until [Provider.Shutdown]. New does not wait for the store, and
// succeeds when the store is unavailable. Options that are not valid are an error.
func New(opts Options) (*Provider, error) {
	opts, err := opts.complete()
	if err != nil {
		return nil, err
	}
	// As OpenTelemetry's SDK does, so that its environment variables work: OTEL_RESOURCE_ATTRIBUTES and the limits.
	res, err := resource.Merge(resource.Environment(), opts.resource())
	if err != nil {
		opts.Log.Warn("merging the resource of spans with OTEL_RESOURCE_ATTRIBUTES", "error", err)
	}
	var e exporter = &otlpExporter{conn: opts.Conn, resource: encodeResource(res)}
	if opts.Exporter != nil {
		e = &sdkExporter{exporter: opts.Exporter, resource: res}
	}
	return newProvider(&tracerProvider{
		queue: newQueue(opts, e), sampler: sampler{opts.Sampling}, limits: sdktrace.NewSpanLimits(),
		revision: opts.Revision,
	}), nil
}

// Discard returns a provider that records and exports nothing. It still makes trace ids and propagates them, so that
// log lines of one request can be found in all processes.
func Discard() *Provider { return newProvider(&tracerProvider{}) }

func newProvider(p *tracerProvider) *Provider {
	return &Provider{provider: p, tracer: p.tracer(scope), queue: p.queue}
}

func (o Options) resource() *resource.Resource {
	attrs := []attribute.KeyValue{
		semconv.ServiceName(o.Service),
		semconv.TelemetrySDKName(sdkName),
		semconv.TelemetrySDKLanguageGo,
		semconv.TelemetrySDKVersion(sdkVersion),
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
func (p *Provider) TracerProvider() trace.TracerProvider { return p.provider }

// Tracer returns the tracer with which the platform makes its own spans.
func (p *Provider) Tracer() trace.Tracer { return p.tracer }

// StartRemote starts a span of the tracer below the span that the carrier names, or else below that of ctx. It does the
// same as Extract of the propagator and Start of the tracer, with fewer allocations.
func (p *Provider) StartRemote(
	ctx context.Context, from propagation.TextMapCarrier, name string, opts ...trace.SpanStartOption,
) (context.Context, trace.Span) {
	ctx, parent := extract(ctx, from)
	c := trace.NewSpanStartConfig(opts...)
	switch {
	case c.NewRoot():
		parent = trace.SpanContext{}
	case !parent.IsValid():
		parent = trace.SpanContextFromContext(ctx)
	}
	return p.tracer.start(ctx, parent, name, &c)
}

// Propagator returns the propagator of this process. It writes W3C traceparent and tracestate (Trace Context Level 2).
// It reads W3C, and B3 in one header or several when there is no valid traceparent. Two traceparent headers count as
// none. Of the flags it keeps sampled and random, the others are not defined. All tracestate headers together are one
// list. A list that is malformed or has more than 32 members is discarded; of two members with one key the first is
// kept. The context must be the one that Extract returned, or made from it: it has the members that a TraceState of
// OpenTelemetry cannot hold, because it only takes keys of level 1.
//
// It asks carriers for lower-case keys. Use propagation.HeaderCarrier for HTTP and [MD] for gRPC.
func (p *Provider) Propagator() propagation.TextMapPropagator { return propagator{} }

// Ended returns how many recorded spans have ended. Spans that are neither exported nor dropped are queued.
func (p *Provider) Ended() uint64 {
	if p.queue == nil {
		return 0
	}
	return p.queue.ended.Load()
}

// Dropped returns how many recorded spans were not delivered and never will be.
func (p *Provider) Dropped() uint64 {
	if p.queue == nil {
		return 0
	}
	return p.queue.drops()
}

// Drops returns the spans of [Provider.Dropped] by reason. All reasons are present:
//
//	queue_full  the queue was full when the span ended
//	stopped     the span ended after Shutdown had begun
//	failed      the export failed: the store was unavailable, too slow or out of space
//	refused     the store refused the span
//	too_large   the span does not fit into one request
func (p *Provider) Drops() map[string]uint64 {
	drops := make(map[string]uint64, dropReasons)
	for i, name := range dropNames {
		drops[name] = 0
		if p.queue != nil {
			drops[name] = p.queue.dropped[i].Load()
		}
	}
	return drops
}

// Exported returns how many spans the store acknowledged.
func (p *Provider) Exported() uint64 {
	if p.queue == nil {
		return 0
	}
	return p.queue.exported.Load()
}

// Flush exports the spans that have ended so far. It returns when each is exported or dropped, or an error when ctx
// ends before that.
func (p *Provider) Flush(ctx context.Context) error {
	if p.queue == nil {
		return nil
	}
	return p.queue.flush(ctx)
}

// Shutdown exports the queued spans and stops. It takes at most Options.ExportTimeout and not longer than ctx, drops
// and counts the spans that are not exported by then, and returns an error if it ran out of time. It does not wait
// for a store that is unavailable. Spans that end later are dropped and counted. It may be called more than once.
func (p *Provider) Shutdown(ctx context.Context) error {
	if p.queue == nil {
		return nil
	}
	if err := p.queue.shutdown(ctx); err != nil {
		return fmt.Errorf("exporting the last spans: %w", err)
	}
	return nil
}
