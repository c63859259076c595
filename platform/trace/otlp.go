package trace

import (
	"context"
	"errors"
	"fmt"
	"time"

	collector "go.opentelemetry.io/proto/otlp/collector/trace/v1"
	"google.golang.org/grpc"

	"bijou.dev/platform/errs"
	"bijou.dev/platform/pace"
)

// maxRequest is the largest request in bytes: gRPC servers take no more by default.
const maxRequest = 4 << 20

// errTooLarge reports spans that do not fit into one request. They were not sent.
var errTooLarge = fmt.Errorf("the spans take more than %d MiB in one request", maxRequest>>20)

// partialSuccess reports that the store took a request except for some spans.
type partialSuccess struct {
	refused int64
	reason  string
}

func (p *partialSuccess) Error() string {
	return fmt.Sprintf("the trace store refused %d spans of a batch: %s", p.refused, p.reason)
}

// otlpExporter sends spans over a connection that it does not own.
type otlpExporter struct {
	conn     func() grpc.ClientConnInterface
	resource []byte // as encodeResource returns it

	service collector.TraceServiceClient // set by the first export
	request []byte                       // of the last export; its memory is used again
}

// maxKept is how many bytes of memory are kept for the next request. A full batch rarely has so many.
const maxKept = 1 << 20

func (*otlpExporter) shutdown(context.Context) error { return nil }

// stopKey is the context key of the channel that is closed when the process stops.
type stopKey struct{}

// export retries what OTLP calls retryable until ctx ends. When the process stops, it does not retry a store that is
// unavailable: the store will hardly be back in time.
func (e *otlpExporter) export(ctx context.Context, spans []*record) error {
	if e.service == nil {
		e.service = collector.NewTraceServiceClient(e.conn())
	}
	request := appendRequest(e.request[:0], e.resource, spans)
	if cap(request) <= maxKept {
		e.request = request
	}
	if len(request) > maxRequest {
		return errTooLarge
	}
	// What a message has in unknown fields is sent as it is. So any connection can send it as it sends all messages, and
	// it is encoded before the call returns.
	req := new(collector.ExportTraceServiceRequest)
	req.ProtoReflect().SetUnknown(request)
	stop, _ := ctx.Value(stopKey{}).(chan struct{})
	backoff := pace.Backoff{First: 150 * time.Millisecond, Max: 5 * time.Second}
	for {
		resp, err := e.service.Export(ctx, req)
		if err == nil {
			if p := resp.GetPartialSuccess(); p.GetRejectedSpans() > 0 {
				return &partialSuccess{p.GetRejectedSpans(), p.GetErrorMessage()}
			}
			return nil
		}
		err = errs.FromRPC(err)
		absent := errors.Is(err, errs.Unavailable)
		if !retryable(err) || absent && closed(stop) {
			return err
		}
		if pause := errs.RetryAfter(err) + backoff.Next(); !sleep(ctx, pause, stop) {
			return err
		}
	}
}

func closed(c <-chan struct{}) bool {
	select {
	case <-c:
		return true
	default:
		return false
	}
}

// retryable follows the OTLP specification: exhausted may be retried only when the store says when.
func retryable(err error) bool {
	switch errs.KindOf(err) {
	case errs.Unavailable, errs.Timeout, errs.Canceled, errs.Conflict:
		return true
	case errs.Exhausted:
		return errs.RetryAfter(err) > 0
	}
	return false
}

// sleep waits for d, or until the process stops, and reports whether there is time for another attempt. It does not
// begin a wait that ends after the deadline of ctx.
func sleep(ctx context.Context, d time.Duration, stop <-chan struct{}) bool {
	if closed(stop) {
		stop = nil // the process stops already; a store that answers still gets the time it asked for
	}
	if end, ok := ctx.Deadline(); ok && time.Until(end) <= d {
		return false
	}
	select {
	case <-time.After(d):
		return true
	case <-stop:
		return true
	case <-ctx.Done():
		return false
	}
}
