package trace

import (
	"context"
	"slices"

	"go.opentelemetry.io/otel/sdk/resource"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"
)

// sdkExporter passes spans to an exporter of OpenTelemetry's SDK.
type sdkExporter struct {
	exporter sdktrace.SpanExporter
	resource *resource.Resource
}

func (e *sdkExporter) export(ctx context.Context, spans []*record) error {
	list := make([]sdktrace.ReadOnlySpan, len(spans))
	for i, r := range spans {
		list[i] = tracetest.SpanStub{ // the one type of the SDK that makes a ReadOnlySpan of data
			Name: r.name, SpanContext: r.context, Parent: r.parent, SpanKind: r.kind,
			StartTime: r.start, EndTime: r.end, Status: r.status,
			Attributes: slices.Clone(r.attributes), DroppedAttributes: r.droppedAttributes,
			Events: slices.Clone(r.events), DroppedEvents: r.droppedEvents,
			Links: slices.Clone(r.links), DroppedLinks: r.droppedLinks,
			Resource: e.resource, InstrumentationScope: r.tracer.scope,
		}.Snapshot()
	}
	return e.exporter.ExportSpans(ctx, list)
}

func (e *sdkExporter) shutdown(ctx context.Context) error { return e.exporter.Shutdown(ctx) }
