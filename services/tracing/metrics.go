package tracing

import (
	"github.com/prometheus/client_golang/prometheus"

	"bijou.dev/services/tracing/internal/store"
)

// Reasons of bijou_tracing_spans_dropped_total.
const (
	dropInvalid = "invalid"  // no valid ids
	dropExpired = "expired"  // older than retention when they came
	dropBusy    = "busy"     // too much in flight
	dropFull    = "full"     // no space on disk
	dropFailed  = "failed"   // the store could not, or the sender went away
	dropRefused = "unparsed" // requests that could not be read; their spans are not known and count as one
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

func newMetrics(r prometheus.Registerer, st *store.Store) *metrics {
	m := &metrics{
		received: prometheus.NewCounterVec(prometheus.CounterOpts{Name: "bijou_tracing_spans_received_total", Help: "Spans that arrived."}, []string{"format"}),
		bytes:    prometheus.NewCounterVec(prometheus.CounterOpts{Name: "bijou_tracing_received_bytes_total", Help: "Size of requests, decompressed."}, []string{"format"}),
		dropped:  prometheus.NewCounterVec(prometheus.CounterOpts{Name: "bijou_tracing_spans_dropped_total", Help: "Spans that were not stored."}, []string{"reason"}),
		stored:   prometheus.NewCounter(prometheus.CounterOpts{Name: "bijou_tracing_spans_stored_total", Help: "Spans acknowledged and on disk."}),
		trimmed:  prometheus.NewCounter(prometheus.CounterOpts{Name: "bijou_tracing_trimmed_total", Help: "Names, tags and annotations cut to their limits."}),
		expired:  prometheus.NewCounter(prometheus.CounterOpts{Name: "bijou_tracing_buckets_expired_total", Help: "Parts of time forgotten by retention."}),
		queries: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "bijou_tracing_query_seconds", Help: "Time to answer queries.",
			Buckets: []float64{.001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10},
		}, []string{"endpoint"}),
	}
	gauge := func(name, help string, fn func(store.Stats) float64) prometheus.Collector {
		return prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: name, Help: help}, func() float64 { return fn(st.Stats()) })
	}
	r.MustRegister(m.received, m.bytes, m.dropped, m.stored, m.trimmed, m.expired, m.queries,
		gauge("bijou_tracing_store_bytes", "Size of the store on disk.", func(s store.Stats) float64 { return float64(s.Bytes) }),
		gauge("bijou_tracing_store_oldest_seconds", "Start of the oldest spans, seconds since 1970; 0: none.", func(s store.Stats) float64 {
			if s.Oldest.IsZero() {
				return 0
			}
			return float64(s.Oldest.Unix())
		}),
		gauge("bijou_tracing_store_lost_bytes", "Size of the part of the log that was found damaged at the start, and put aside.", func(s store.Stats) float64 { return float64(s.Lost) }),
		gauge("bijou_tracing_store_full", "1 while spans are refused for want of space.", func(s store.Stats) float64 {
			if s.Full {
				return 1
			}
			return 0
		}),
	)
	return m
}
