package trace

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/exporters/otlp/otlptrace"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/trace"
	collector "go.opentelemetry.io/proto/otlp/collector/trace/v1"
	otlp "go.opentelemetry.io/proto/otlp/trace/v1"
	"google.golang.org/grpc"

	"bijou.dev/platform/errs"
	"bijou.dev/platform/pace"
)

// queue is the span processor between request code and exporter. The SDK's own batcher does the same but keeps no exact
// count: it forgets spans of failed and partly refused exports.
type queue struct {
	exporter sdktrace.SpanExporter
	size     int
	batch    int
	every    time.Duration
	timeout  time.Duration
	log      *slog.Logger
	revision func() int64 // nil: left out

	ended, exported, dropped atomic.Uint64

	mu     sync.Mutex
	spans  []sdktrace.ReadOnlySpan // ended, not yet taken; at most size
	closed bool

	full    chan struct{}      // a batch is ready
	flushes chan chan struct{} // answered by closing
	stop    chan struct{}      // closed by Shutdown
	done    chan struct{}      // closed when run has ended
	ctx     context.Context    // of exports; ends when Shutdown gives up
	cancel  context.CancelFunc

	failing bool // of run: the last export failed
}

func newQueue(o Options) *queue {
	q := &queue{
		exporter: o.Exporter, size: o.Queue, batch: o.Batch, every: o.Every, timeout: o.Timeout, log: o.Log, revision: o.Revision,
		full:    make(chan struct{}, 1),
		flushes: make(chan chan struct{}),
		stop:    make(chan struct{}),
		done:    make(chan struct{}),
	}
	// An unsampled parent keeps calls made to export from being traced and exported in turn.
	parent := trace.NewSpanContext(trace.SpanContextConfig{TraceID: trace.TraceID{15: 1}, SpanID: trace.SpanID{7: 1}})
	ctx := context.WithValue(trace.ContextWithSpanContext(context.Background(), parent), stopKey{}, q.stop)
	q.ctx, q.cancel = context.WithCancel(ctx)
	go q.run()
	return q
}

// OnStart implements sdktrace.SpanProcessor. It is called for recorded spans only.
func (q *queue) OnStart(_ context.Context, s sdktrace.ReadWriteSpan) {
	if q.revision != nil {
		s.SetAttributes(attribute.Int64("bijou.config.revision", q.revision()))
	}
}

// OnEnd implements sdktrace.SpanProcessor. It never waits.
func (q *queue) OnEnd(s sdktrace.ReadOnlySpan) {
	q.ended.Add(1)
	q.mu.Lock()
	if q.closed || len(q.spans) >= q.size {
		q.mu.Unlock()
		q.dropped.Add(1)
		return
	}
	q.spans = append(q.spans, s)
	ready := len(q.spans) == q.batch
	q.mu.Unlock()
	if ready {
		q.wake()
	}
}

func (q *queue) wake() {
	select {
	case q.full <- struct{}{}:
	default:
	}
}

// ForceFlush implements sdktrace.SpanProcessor.
func (q *queue) ForceFlush(ctx context.Context) error {
	answer := make(chan struct{})
	select {
	case q.flushes <- answer:
	case <-q.done:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
	select {
	case <-answer:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// Shutdown implements sdktrace.SpanProcessor.
func (q *queue) Shutdown(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, q.timeout)
	defer cancel()
	q.mu.Lock()
	first := !q.closed
	q.closed = true
	q.mu.Unlock()
	if first {
		close(q.stop)
	}
	select {
	case <-q.done:
		return nil
	case <-ctx.Done():
		q.cancel()
		<-q.done
		return ctx.Err()
	}
}

// run exports until Shutdown, then what is left, then ends.
func (q *queue) run() {
	defer close(q.done)
	defer q.cancel()
	for {
		timer := time.NewTimer(pace.Jitter(q.every, 0.1))
		select {
		case <-timer.C:
			q.drain(q.ctx)
		case <-q.full:
			q.export(q.ctx, q.take())
		case answer := <-q.flushes:
			q.drain(q.ctx)
			close(answer)
		case <-q.stop:
			timer.Stop()
			q.drain(q.ctx)
			if err := q.exporter.Shutdown(q.ctx); err != nil {
				q.log.Warn("closing the span exporter", "error", err)
			}
			return
		}
		timer.Stop()
	}
}

// drain exports what is queued now. Spans that end meanwhile wait for the next round, so that it ends.
func (q *queue) drain(ctx context.Context) {
	q.mu.Lock()
	n := len(q.spans)
	q.mu.Unlock()
	for n > 0 {
		spans := q.take()
		n -= len(spans)
		q.export(ctx, spans)
	}
}

// stopKey finds, in the context of an export, the channel that is closed when the process stops: a store that is not
// there then will not be there in time.
type stopKey struct{}

func (q *queue) take() []sdktrace.ReadOnlySpan {
	q.mu.Lock()
	defer q.mu.Unlock()
	n := min(q.batch, len(q.spans))
	spans := append([]sdktrace.ReadOnlySpan(nil), q.spans[:n]...)
	rest := copy(q.spans, q.spans[n:])
	clear(q.spans[rest:])
	q.spans = q.spans[:rest]
	if rest >= q.batch {
		q.wake()
	}
	return spans
}

func (q *queue) export(ctx context.Context, spans []sdktrace.ReadOnlySpan) {
	if len(spans) == 0 {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, q.timeout)
	defer cancel()
	err := q.exporter.ExportSpans(ctx, spans)
	lost := uint64(0)
	if partial := (*refused)(nil); errors.As(err, &partial) {
		lost = min(uint64(partial.spans), uint64(len(spans)))
	} else if err != nil {
		lost = uint64(len(spans))
	}
	q.exported.Add(uint64(len(spans)) - lost)
	q.dropped.Add(lost)
	q.report(err)
}

// report logs changes only: a store that is away for a day is two lines.
func (q *queue) report(err error) {
	switch {
	case err != nil && !q.failing:
		q.log.Warn("exporting spans; they are dropped and counted until it works again", "error", err, "dropped", q.dropped.Load())
	case err == nil && q.failing:
		q.log.Info("exporting spans works again", "dropped", q.dropped.Load())
	}
	q.failing = err != nil
}

// refused is a partial success: the store took the batch but for some spans.
type refused struct {
	spans  int64
	reason string
}

func (r *refused) Error() string {
	return fmt.Sprintf("the trace store refused %d spans of a batch: %s", r.spans, r.reason)
}

// otlpClient sends over a connection that it does not own.
type otlpClient struct {
	conn    func() grpc.ClientConnInterface
	service collector.TraceServiceClient // set by the first upload; uploads never overlap
}

func newOTLP(conn func() grpc.ClientConnInterface) sdktrace.SpanExporter {
	return otlptrace.NewUnstarted(&otlpClient{conn: conn})
}

// Start implements otlptrace.Client.
func (*otlpClient) Start(context.Context) error { return nil }

// Stop implements otlptrace.Client.
func (*otlpClient) Stop(context.Context) error { return nil }

// UploadTraces implements otlptrace.Client. It retries what OTLP calls retryable until ctx ends, but does not wait for an
// absent store once the process stops.
func (c *otlpClient) UploadTraces(ctx context.Context, spans []*otlp.ResourceSpans) error {
	if c.service == nil {
		c.service = collector.NewTraceServiceClient(c.conn())
	}
	req := &collector.ExportTraceServiceRequest{ResourceSpans: spans}
	stop, _ := ctx.Value(stopKey{}).(chan struct{})
	backoff := pace.Backoff{First: 150 * time.Millisecond, Max: 5 * time.Second}
	for {
		resp, err := c.service.Export(ctx, req)
		if err == nil {
			if p := resp.GetPartialSuccess(); p.GetRejectedSpans() > 0 {
				return &refused{p.GetRejectedSpans(), p.GetErrorMessage()}
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

// retryable follows the OTLP specification: exhausted counts only when the store says when to come back.
func retryable(err error) bool {
	switch errs.KindOf(err) {
	case errs.Unavailable, errs.Timeout, errs.Canceled, errs.Conflict:
		return true
	case errs.Exhausted:
		return errs.RetryAfter(err) > 0
	}
	return false
}

// sleep waits for d, or less when the process stops, and reports whether there is time for another try. A wait that cannot
// end in time is not begun.
func sleep(ctx context.Context, d time.Duration, stop <-chan struct{}) bool {
	if closed(stop) {
		stop = nil // asked for, and not a reason to hurry a store that answers
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
