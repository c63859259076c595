// Package tracing is the trace store: it receives spans, keeps them on disk for some days, and answers queries about
// them.
//
// Spans come as OTLP over gRPC (listener "otlp"), as OTLP over HTTP in protobuf or JSON ("otlphttp"), and as Zipkin
// v2 JSON ("zipkin"). They are acknowledged when they are synced to disk. Queries use Zipkin's v2 API, on "zipkin"
// too.
//
// Replicas share nothing: each keeps the spans that were sent to it, and a query is also sent to the others.
package tracing

import (
	"cmp"
	"context"
	"fmt"
	"log/slog"
	"net/http"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"

	"bijou.dev/platform/config"
	"bijou.dev/platform/errs"
	"bijou.dev/platform/httpapi"
	"bijou.dev/platform/pace"
	"bijou.dev/platform/service"
	"bijou.dev/services/tracing/internal/store"
)

// Options of the service. Dir is required.
type Options struct {
	// Dir is the folder of the store, on a volume that outlives the process. Required: there is no store in memory.
	Dir string
	// Retention is how long spans are kept, unless the setting tracing.retention says otherwise. Zero: 72 h.
	Retention time.Duration
	// MaxBytes is the size of the store, unless the setting tracing.maxBytes says otherwise. Zero: 2 GiB.
	MaxBytes int64
	// Cache is the memory for blocks of the store's files, in bytes. Zero: 32 MiB.
	Cache int64
	// InFlight bounds the memory of spans that are not on disk yet, in bytes. Zero: 64 MiB.
	InFlight int64
	// Autocomplete lists tags whose values the query API lists. Nil: environment, zone and version.
	Autocomplete []string

	fs vfs.FS // of tests that fill the disk
}

const (
	minRetention = 15 * time.Minute
	maxRetention = 30 * 24 * time.Hour // a trace is searched in each bucket
	minBytes     = 16 << 20
)

// complete returns the options with their defaults, or an error that names each field that cannot work.
func (o Options) complete() (Options, error) {
	var bad errs.Violations
	if o.Dir == "" {
		bad.Add("Dir", "must name a folder (-dir): traces are kept on disk")
	}
	if o.Retention != 0 && (o.Retention < minRetention || o.Retention > maxRetention) {
		bad.Addf("Retention", "must be from %v to %v", minRetention, maxRetention)
	}
	if o.MaxBytes != 0 && o.MaxBytes < minBytes {
		bad.Addf("MaxBytes", "must be at least %d", minBytes)
	}
	if o.Cache < 0 {
		bad.Add("Cache", "must not be negative")
	}
	if o.InFlight < 0 {
		bad.Add("InFlight", "must not be negative")
	}
	o.Retention = cmp.Or(o.Retention, 72*time.Hour)
	o.MaxBytes = cmp.Or(o.MaxBytes, 2<<30)
	o.InFlight = cmp.Or(o.InFlight, 64<<20)
	if o.Autocomplete == nil {
		o.Autocomplete = []string{"deployment.environment.name", "cloud.availability_zone", "service.version"}
	}
	return o, bad.Err("options of tracing")
}

// New opens the store and serves it on the process's listeners. A store that cannot be opened is an error; one whose
// disk fails later ends the process.
func New(_ context.Context, setup *service.Setup, opts Options) error {
	opts, err := opts.complete()
	if err != nil {
		return err
	}
	retention := config.Duration(setup.Config(), "tracing.retention", opts.Retention, config.Spec{
		Doc: "How long spans are kept.", Min: minRetention.String(), Max: maxRetention.String(),
	})
	maxBytes := config.Int(setup.Config(), "tracing.maxBytes", opts.MaxBytes, config.Spec{
		Doc: "Size of the trace store on disk. Above it the oldest spans are deleted.", Unit: "bytes",
		Min: fmt.Sprint(minBytes),
	})
	st, err := store.Open(store.Options{
		Dir: opts.Dir, Retention: retention.Get, MaxBytes: maxBytes.Get, Cache: opts.Cache,
		Autocomplete: opts.Autocomplete, Log: setup.Log(), FS: opts.fs,
	})
	if err != nil {
		return err
	}
	setup.OnStop("store", func(context.Context) error { return st.Close() })
	setup.Ready("store", st.Err)

	in := &ingest{store: st, limit: opts.InFlight}
	m := newMetrics(setup.Metrics(), st, in.inFlight.Load)
	in.metrics = m
	q := &queries{store: st, metrics: m, peers: newPeers(setup), autocomplete: opts.Autocomplete, log: setup.Log()}
	setup.Go("retention", func(ctx context.Context) error { return expire(ctx, setup.Log(), st, m) })
	return listen(setup, in, q)
}

func listen(setup *service.Setup, in *ingest, q *queries) error {
	if err := setup.Handle("otlphttp", in.otlpHandler()); err != nil {
		return err
	}
	mux := new(httpapi.Mux)
	mux.HandleFunc("POST /api/v2/spans", in.zipkin)
	q.register(mux)
	// Zipkin's own pages ask below /zipkin.
	mux.Handle("/zipkin/", http.StripPrefix("/zipkin", mux))
	if err := setup.Handle("zipkin", mux); err != nil {
		return err
	}
	return setup.ServeGRPC("otlp", in.grpcServer())
}

// expire deletes old spans until ctx ends. It returns an error when the store failed: then nothing can be stored, and
// after a restart the disk may work again.
func expire(ctx context.Context, log *slog.Logger, st *store.Store, m *metrics) error {
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-st.Failed():
			return st.Err()
		case <-time.After(pace.Jitter(5*time.Second, 0.2)):
		}
		n, err := st.Expire(ctx, time.Now())
		m.expired.Add(float64(n))
		if err != nil && ctx.Err() == nil {
			log.Warn("deleting old spans", "error", err)
		}
	}
}
