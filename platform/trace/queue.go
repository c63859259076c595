package trace

import (
	"cmp"
	"context"
	"errors"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"go.opentelemetry.io/otel/trace"

	"bijou.dev/platform/errs"
	"bijou.dev/platform/pace"
)

// dropReason says why a recorded span was not delivered.
type dropReason int

const (
	dropQueueFull dropReason = iota
	dropStopped
	dropFailed
	dropRefused
	dropTooLarge
	dropReasons // their number
)

// dropNames are the reasons as [Provider.Drops] returns them.
var dropNames = [dropReasons]string{"queue_full", "stopped", "failed", "refused", "too_large"}

// maxRefusals bounds the requests that the store may refuse while we look for the bad spans of one batch. One bad
// span of 512 takes ten; a store that refuses everything is not asked more often than this per batch.
const maxRefusals = 32

// exporter delivers spans. One goroutine calls it.
type exporter interface {
	// export delivers spans. It keeps nothing of them, because they are used again. It returns errTooLarge, an
	// errs.Invalid or a partialSuccess for spans that cannot be delivered.
	export(ctx context.Context, spans []*record) error
	shutdown(ctx context.Context) error
}

// queue is between the code that serves requests and the exporter. It counts what happens to each span.
type queue struct {
	exporter exporter
	size     int
	batch    int
	interval time.Duration
	timeout  time.Duration
	log      *slog.Logger

	ended, exported atomic.Uint64
	dropped         [dropReasons]atomic.Uint64

	mu     sync.Mutex
	spans  []*record // ended, not yet taken; at most size
	closed bool

	full    chan struct{}      // a batch is ready
	flushes chan chan struct{} // each is closed when the flush is done
	stop    chan struct{}      // closed by Shutdown
	done    chan struct{}      // closed when run has returned
	ctx     context.Context    // of exports; ends when Shutdown gives up
	cancel  context.CancelFunc

	// Used by run only.
	taken   []*record // the spans of one export
	failing bool      // the last export failed
	warned  time.Time // when refused spans were last logged
}

func newQueue(o Options, e exporter) *queue {
	q := &queue{
		exporter: e, size: o.QueueSize, batch: o.BatchSize, interval: o.FlushInterval, timeout: o.ExportTimeout, log: o.Log,
		full:    make(chan struct{}, 1),
		flushes: make(chan chan struct{}),
		stop:    make(chan struct{}),
		done:    make(chan struct{}),
	}
	// The parent is not sampled, so that calls made to export spans do not make spans to export.
	parent := trace.NewSpanContext(trace.SpanContextConfig{TraceID: trace.TraceID{15: 1}, SpanID: trace.SpanID{7: 1}})
	ctx := context.WithValue(trace.ContextWithSpanContext(context.Background(), parent), stopKey{}, q.stop)
	q.ctx, q.cancel = context.WithCancel(ctx)
	go q.run()
	return q
}

// add queues a span that has ended, or drops it. It never waits for an export.
func (q *queue) add(r *record) {
	q.ended.Add(1)
	q.mu.Lock()
	closed, full := q.closed, len(q.spans) >= q.size
	if !closed && !full {
		q.spans = append(q.spans, r)
	}
	ready := len(q.spans) == q.batch
	q.mu.Unlock()
	switch {
	case closed:
		q.drop(dropStopped, 1)
		r.release()
	case full:
		q.drop(dropQueueFull, 1)
		r.release()
	case ready:
		q.wake()
	}
}

func (q *queue) drop(reason dropReason, n uint64) { q.dropped[reason].Add(n) }

// drops returns the number of dropped spans of all reasons.
func (q *queue) drops() (n uint64) {
	for i := range q.dropped {
		n += q.dropped[i].Load()
	}
	return n
}

func (q *queue) wake() {
	select {
	case q.full <- struct{}{}:
	default:
	}
}

// flush exports the spans that are queued when it is called.
func (q *queue) flush(ctx context.Context) error {
	flushed := make(chan struct{})
	select {
	case q.flushes <- flushed:
	case <-q.done:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
	select {
	case <-flushed:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// shutdown exports the queued spans and ends run.
func (q *queue) shutdown(ctx context.Context) error {
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

// run exports until Shutdown, then exports what is left, and returns.
func (q *queue) run() {
	defer close(q.done)
	defer q.cancel()
	for {
		timer := time.NewTimer(pace.Jitter(q.interval, 0.1))
		select {
		case <-timer.C:
			q.drain(q.ctx)
		case <-q.full:
			q.export(q.ctx, q.take())
		case flushed := <-q.flushes:
			q.drain(q.ctx)
			close(flushed)
		case <-q.stop:
			timer.Stop()
			q.drain(q.ctx)
			if err := q.exporter.shutdown(q.ctx); err != nil {
				q.log.Warn("closing the span exporter", "error", err)
			}
			return
		}
		timer.Stop()
	}
}

// drain exports the spans that are queued when it is called. Spans that end meanwhile wait for the next round;
// otherwise drain might never return.
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

// take removes the oldest spans from the queue, at most one batch. The list is valid until the next call.
func (q *queue) take() []*record {
	q.mu.Lock()
	defer q.mu.Unlock()
	n := min(q.batch, len(q.spans))
	q.taken = append(q.taken[:0], q.spans[:n]...)
	rest := copy(q.spans, q.spans[n:])
	clear(q.spans[rest:])
	q.spans = q.spans[:rest]
	if rest >= q.batch {
		q.wake()
	}
	return q.taken
}

// export sends one batch, counts each span of it as exported or dropped, and releases it.
func (q *queue) export(ctx context.Context, spans []*record) {
	if len(spans) == 0 {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, q.timeout)
	defer cancel()
	q.report(q.send(ctx, spans, new(int)))
	for _, r := range spans {
		r.release()
	}
	clear(spans)
}

// send exports spans and counts them. When the store refuses them all as invalid, or they do not fit into one request,
// it sends the two halves, so that a bad span does not take good ones with it. It returns the first error.
func (q *queue) send(ctx context.Context, spans []*record, refusals *int) error {
	err := q.exporter.export(ctx, spans)
	n, reason := uint64(len(spans)), dropFailed
	partial, partly := errors.AsType[*partialSuccess](err)
	switch {
	case err == nil:
		n = 0
	case partly:
		n, reason = min(n, uint64(partial.refused)), dropRefused
	case errors.Is(err, errTooLarge):
		reason = dropTooLarge
	case errors.Is(err, errs.Invalid):
		reason = dropRefused
		*refusals++
	}
	if half := len(spans) / 2; half > 0 &&
		(reason == dropTooLarge || reason == dropRefused && !partly && *refusals < maxRefusals) {
		first := q.send(ctx, spans[:half], refusals)
		return cmp.Or(first, q.send(ctx, spans[half:], refusals))
	}
	q.exported.Add(uint64(len(spans)) - n)
	q.drop(reason, n)
	return err
}

// report logs the first of consecutive failures and the first success after them. Refused spans are not a failure of
// the store: they are logged at most once a minute.
func (q *queue) report(err error) {
	_, partly := errors.AsType[*partialSuccess](err)
	switch refused := partly || errors.Is(err, errTooLarge) || errors.Is(err, errs.Invalid); {
	case refused && time.Since(q.warned) >= time.Minute:
		q.log.Warn("exporting spans: some were refused and dropped", "error", err, "dropped", q.drops())
		q.warned = time.Now()
	case refused:
	case err != nil && !q.failing:
		q.log.Warn("exporting spans: they are dropped and counted until it works again",
			"error", err, "dropped", q.drops())
		q.failing = true
	case err == nil && q.failing:
		q.log.Info("exporting spans works again", "dropped", q.drops())
		q.failing = false
	}
}
