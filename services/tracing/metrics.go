package tracing

import (
	"github.com/prometheus/client_golang/prometheus"

	"bijou.dev/services/tracing/internal/store"
)

// Reasons of bijou_tracing_spans_dropped_total.
const (
	dropInvalid  = "invalid"  // the span is not valid, for example it has no ids
	dropExpired  = "expired"  // the span was older than retention when it came
	dropBusy     = "busy"     // too much memory is in flight
	dropFull     = "full"     // the disk is full
	dropFailed   = "failed"   // the store failed, or the sender closed the connection
	dropUnparsed = "unparsed" // the request could not be read; its spans are not known and count as one
)

type metrics struct {
	received *prometheus.CounterVec // by format
	bytes    *prometheus.CounterVec // by format
	dropped  *prometheus.CounterVec // by reason
	stored   prometheus.Counter
	trimmed  prometheus.Counter
	expired  prometheus.Counter
	queries  *prometheus.HistogramVec // by endpoint
}

func newMetrics(r prometheus.Registerer, st *store.Store, inFlight func() int64) *metrics {
	counter := func(name, help string) prometheus.Counter {
		return prometheus.NewCounter(prometheus.CounterOpts{Name: "bijou_tracing_" + name, Help: help})
	}
	counters := func(name, help, label string) *prometheus.CounterVec {
		return prometheus.NewCounterVec(
			prometheus.CounterOpts{Name: "bijou_tracing_" + name, Help: help}, []string{label},
		)
	}
	m := &metrics{
		received: counters("spans_received_total", "Spans that arrived.", "format"),
		bytes:    counters("received_bytes_total", "Size of requests, decompressed.", "format"),
		dropped:  counters("spans_dropped_total", "Spans that were not stored.", "reason"),
		stored:   counter("spans_stored_total", "Spans that are on disk and acknowledged."),
		trimmed:  counter("trimmed_total", "Names, tags and annotations that were cut to their limits or made valid UTF-8."),
		expired:  counter("buckets_expired_total", "Buckets deleted by retention."),
		queries: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "bijou_tracing_query_seconds", Help: "Time to answer queries.",
			Buckets: []float64{.001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10},
		}, []string{"endpoint"}),
	}
	gauge := func(name, help string, fn func() float64) prometheus.Collector {
		return prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: "bijou_tracing_" + name, Help: help}, fn)
	}
	r.MustRegister(m.received, m.bytes, m.dropped, m.stored, m.trimmed, m.expired, m.queries,
		gauge("in_flight_bytes", "Memory of requests that are not stored yet; at most -in-flight.",
			func() float64 { return float64(inFlight()) }),
		gauge("store_bytes", "Size of the store on disk.", func() float64 { return float64(st.Stats().Bytes) }),
		gauge("store_oldest_seconds", "Start of the oldest bucket, seconds since 1970; 0: no spans.", func() float64 {
			if oldest := st.Stats().Oldest; !oldest.IsZero() {
				return float64(oldest.Unix())
			}
			return 0
		}),
		gauge("store_lost_bytes", "Size of the part of the log that was damaged at the start and was moved aside.",
			func() float64 { return float64(st.Stats().Lost) }),
		gauge("store_full", "1 while spans are refused because the disk is full.", func() float64 {
			if st.Stats().Full {
				return 1
			}
			return 0
		}),
	)
	return m
}
