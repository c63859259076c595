package tracing

import (
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"mime"
	"net/http"
	"os"
	"strings"
	"sync/atomic"
	"time"

	collector "go.opentelemetry.io/proto/otlp/collector/trace/v1"
	"google.golang.org/grpc"
	"google.golang.org/grpc/encoding"
	_ "google.golang.org/grpc/encoding/gzip" // senders may compress
	encproto "google.golang.org/grpc/encoding/proto"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/mem"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"

	"bijou.dev/platform/errs"
	"bijou.dev/platform/httpapi"
	"bijou.dev/services/tracing/internal/span"
	"bijou.dev/services/tracing/internal/store"
)

// maxBody is the largest request, on the wire and after decompression, over gRPC and HTTP.
const maxBody = 4 << 20

// jsonCost is the memory that reading JSON takes besides the body, as a multiple of the body's size.
const jsonCost = 3

// retryBusy is when a sender should send again after a refusal because too much memory is in flight.
const retryBusy = time.Second

// ingest receives spans in all formats and stores them.
type ingest struct {
	store   *store.Store
	metrics *metrics
	limit   int64 // bytes in flight

	inFlight atomic.Int64
}

// take reserves n bytes. If it refuses, the sender keeps its spans and sends them again later.
func (in *ingest) take(n int64) error {
	if in.inFlight.Add(n) <= in.limit {
		return nil
	}
	in.inFlight.Add(-n)
	return errs.Errorf(errs.Exhausted, "storing spans: %d MiB are in flight; send again later", in.limit>>20).
		Because("BUSY").RetryIn(retryBusy)
}

func (in *ingest) give(n int64) { in.inFlight.Add(-n) }

// rejection is the number of spans of a request that were not stored, and why. The others are stored.
type rejection struct {
	spans  int64
	reason string
}

// add stores the valid spans of a request and counts how many were stored or dropped, by reason.
func (in *ingest) add(ctx context.Context, format string, p span.Parsed) (rejection, error) {
	m := in.metrics
	m.received.WithLabelValues(format).Add(float64(len(p.Spans) + p.Invalid))
	m.dropped.WithLabelValues(dropInvalid).Add(float64(p.Invalid))
	var size, changed int
	for i := range p.Spans {
		changed += p.Spans[i].Clean()
		size += p.Spans[i].Size()
	}
	m.trimmed.Add(float64(changed))
	n := len(p.Spans)
	if err := in.take(int64(size)); err != nil {
		m.dropped.WithLabelValues(dropBusy).Add(float64(n))
		return rejection{}, err
	}
	defer in.give(int64(size))
	expired, err := in.store.Add(ctx, p.Spans)
	m.dropped.WithLabelValues(dropExpired).Add(float64(expired))
	if err != nil {
		reason := dropFailed
		if errs.Reason(err) == "DISK_FULL" {
			reason = dropFull
		}
		m.dropped.WithLabelValues(reason).Add(float64(n - expired))
		return rejection{}, err
	}
	m.stored.Add(float64(n - expired))
	return rejected(p, expired), nil
}

func rejected(p span.Parsed, expired int) rejection {
	r := rejection{spans: int64(p.Invalid + expired)}
	var reasons []string
	if p.Invalid > 0 {
		reasons = append(reasons, fmt.Sprintf("%d spans are not valid, the first because: %v", p.Invalid, p.Reason))
	}
	if expired > 0 {
		reasons = append(reasons, fmt.Sprintf("%d spans are older than retention", expired))
	}
	r.reason = strings.Join(reasons, "; ")
	return r
}

// unparsed counts a request that could not be read and returns the error for the sender.
func (in *ingest) unparsed(err error) error {
	in.metrics.dropped.WithLabelValues(dropUnparsed).Inc()
	return errs.Errorf(errs.Invalid, "%w", err)
}

// OTLP over gRPC.

// payload is an encoded ExportTraceServiceRequest.
type payload []byte

// codec does not decode requests: span.ParseOTLP reads them into the model.
type codec struct{ encoding.CodecV2 }

// Unmarshal implements encoding.CodecV2.
func (c codec) Unmarshal(data mem.BufferSlice, v any) error {
	if p, ok := v.(*payload); ok {
		*p = data.Materialize()
		return nil
	}
	return c.CodecV2.Unmarshal(data, v)
}

func (in *ingest) grpcServer() *grpc.Server {
	s := grpc.NewServer(
		grpc.ForceServerCodecV2(codec{encoding.GetCodecV2(encproto.Name)}),
		grpc.MaxRecvMsgSize(maxBody),
		grpc.MaxConcurrentStreams(64),
		grpc.ConnectionTimeout(10*time.Second),
		grpc.KeepaliveParams(keepalive.ServerParameters{Time: 30 * time.Second, Timeout: 5 * time.Second}),
		grpc.KeepaliveEnforcementPolicy(keepalive.EnforcementPolicy{MinTime: 5 * time.Second, PermitWithoutStream: true}),
	)
	s.RegisterService(&grpc.ServiceDesc{
		ServiceName: collector.TraceService_ServiceDesc.ServiceName,
		HandlerType: (*any)(nil),
		Methods: []grpc.MethodDesc{{
			MethodName: "Export",
			Handler: func(_ any, ctx context.Context, decode func(any) error, _ grpc.UnaryServerInterceptor) (any, error) {
				var p payload
				if err := decode(&p); err != nil {
					return nil, err
				}
				resp, err := in.export(ctx, p)
				if err != nil {
					return nil, errs.ToStatus(ctx, err).Err()
				}
				return resp, nil
			},
		}},
		Metadata: collector.TraceService_ServiceDesc.Metadata,
	}, nil)
	return s
}

func (in *ingest) export(ctx context.Context, p payload) (*collector.ExportTraceServiceResponse, error) {
	if err := in.take(int64(len(p))); err != nil {
		return nil, err
	}
	defer in.give(int64(len(p)))
	in.metrics.bytes.WithLabelValues("otlp_grpc").Add(float64(len(p)))
	parsed, err := span.ParseOTLP(p)
	if err != nil {
		return nil, in.unparsed(err)
	}
	r, err := in.add(ctx, "otlp_grpc", parsed)
	if err != nil {
		return nil, err
	}
	return otlpResponse(r), nil
}

func otlpResponse(r rejection) *collector.ExportTraceServiceResponse {
	resp := &collector.ExportTraceServiceResponse{}
	if r.spans > 0 {
		resp.PartialSuccess = &collector.ExportTracePartialSuccess{RejectedSpans: r.spans, ErrorMessage: r.reason}
	}
	return resp
}

// OTLP over HTTP.

func (in *ingest) otlpHandler() http.Handler {
	mux := new(httpapi.Mux)
	mux.HandleFunc("POST /v1/traces", in.otlpHTTP)
	return mux
}

func (in *ingest) otlpHTTP(w http.ResponseWriter, r *http.Request) {
	asJSON, format := false, "otlp_http"
	parse := span.ParseOTLP
	switch t, _, _ := mime.ParseMediaType(r.Header.Get("Content-Type")); t {
	case "application/json":
		asJSON, format, parse = true, "otlp_json", span.ParseOTLPJSON
	case "application/x-protobuf":
	default:
		writeProblem(w, r, errOTLPType)
		return
	}
	var rej rejection
	err := in.withBody(r, format, func(b []byte) error {
		parsed, err := parse(b)
		if err != nil {
			return in.unparsed(err)
		}
		rej, err = in.add(r.Context(), format, parsed)
		return err
	})
	if err != nil {
		errs.LogInternal(r.Context(), err, "method", r.Method, "path", r.URL.Path)
		writeOTLP(w, asJSON, httpStatus(w, err), errs.ToStatus(r.Context(), err).Proto())
		return
	}
	writeOTLP(w, asJSON, http.StatusOK, otlpResponse(rej))
}

// writeOTLP answers in the encoding of the request, also errors, as OTLP requires.
func writeOTLP(w http.ResponseWriter, asJSON bool, status int, m proto.Message) {
	var b []byte
	var err error
	if asJSON {
		w.Header().Set("Content-Type", "application/json")
		b, err = protojson.Marshal(m)
	} else {
		w.Header().Set("Content-Type", "application/x-protobuf")
		b, err = proto.Marshal(m)
	}
	if err != nil {
		status = http.StatusInternalServerError
	}
	w.WriteHeader(status)
	_, _ = w.Write(b) // fails if the sender closed the connection
}

// errs has no kinds for these errors: see httpStatus.
var (
	errTooLarge = errs.Errorf(errs.Invalid,
		"reading spans: a request may have %d MiB, also decompressed; send smaller batches", maxBody>>20)
	errSlow       = errs.Errorf(errs.Invalid, "reading spans: the body did not come in time")
	errOTLPType   = errs.Errorf(errs.Invalid, "Content-Type must be application/x-protobuf or application/json")
	errZipkinType = errs.Errorf(errs.Invalid, "Content-Type must be application/json: Zipkin v2 JSON")
)

// httpStatus sets Retry-After where it helps and returns the status.
func httpStatus(w http.ResponseWriter, err error) int {
	errs.SetRetry(w.Header(), err)
	switch {
	case errors.Is(err, errTooLarge):
		return http.StatusRequestEntityTooLarge
	case errors.Is(err, errSlow):
		return http.StatusRequestTimeout
	case errors.Is(err, errOTLPType), errors.Is(err, errZipkinType):
		return http.StatusUnsupportedMediaType
	}
	return errs.KindOf(err).HTTP()
}

// writeProblem is errs.WriteProblem with the statuses of httpStatus.
func writeProblem(w http.ResponseWriter, r *http.Request, err error) {
	errs.LogInternal(r.Context(), err, "method", r.Method, "path", r.URL.Path)
	p := errs.ProblemOf(r.Context(), err)
	p.Status, p.Instance = httpStatus(w, err), r.URL.Path
	p.Title = http.StatusText(p.Status)
	errs.WriteProblemBody(w, p)
}

// Zipkin v2 JSON.

func (in *ingest) zipkin(w http.ResponseWriter, r *http.Request) {
	if t, _, _ := mime.ParseMediaType(r.Header.Get("Content-Type")); t != "application/json" && t != "" {
		writeProblem(w, r, errZipkinType)
		return
	}
	err := in.withBody(r, "zipkin", func(b []byte) error {
		parsed, err := span.ParseZipkin(b)
		if err != nil {
			return in.unparsed(err)
		}
		_, err = in.add(r.Context(), "zipkin", parsed)
		if err == nil && parsed.Invalid > 0 && len(parsed.Spans) == 0 {
			return errs.Errorf(errs.Invalid, "no span is valid: %w", parsed.Reason)
		}
		return err
	})
	if err != nil {
		writeProblem(w, r, err)
		return
	}
	w.WriteHeader(http.StatusAccepted)
}

// withBody reads a body, holding its memory against the limit until fn returns.
func (in *ingest) withBody(r *http.Request, format string, fn func([]byte) error) error {
	if r.ContentLength > maxBody {
		in.metrics.dropped.WithLabelValues(dropUnparsed).Inc()
		return errTooLarge
	}
	body, err := plainBody(r)
	if err != nil {
		return in.unparsed(err)
	}
	buf, held, err := in.read(body)
	defer func() { in.give(held) }()
	if err != nil {
		return err
	}
	in.metrics.bytes.WithLabelValues(format).Add(float64(len(buf)))
	if format != "otlp_http" {
		cost := jsonCost * int64(len(buf))
		if err := in.hold(cost); err != nil {
			return err
		}
		defer in.give(cost)
	}
	return fn(buf)
}

func (in *ingest) hold(n int64) error {
	err := in.take(n)
	if err != nil {
		in.metrics.dropped.WithLabelValues(dropBusy).Inc()
	}
	return err
}

// read returns a body and how many bytes of the limit are held for it. The size of a compressed body, or of one without
// a Content-Length, is not known before, so it is counted as it grows.
func (in *ingest) read(body io.Reader) (buf []byte, held int64, err error) {
	held = 64 << 10
	if err := in.hold(held); err != nil {
		return nil, 0, err
	}
	buf = make([]byte, 0, held)
	for {
		if len(buf) == cap(buf) {
			larger := int64(min(2*cap(buf), maxBody+1))
			if err := in.hold(larger); err != nil { // both buffers exist while one is copied to the other
				return buf, held, err
			}
			buf = append(make([]byte, 0, larger), buf...)
			in.give(held)
			held = larger
		}
		n, err := body.Read(buf[len(buf):cap(buf)])
		buf = buf[:len(buf)+n]
		_, tooLong := errors.AsType[*http.MaxBytesError](err)
		switch {
		case len(buf) > maxBody, tooLong:
			in.metrics.dropped.WithLabelValues(dropUnparsed).Inc()
			return buf, held, errTooLarge
		case errors.Is(err, io.EOF):
			return buf, held, nil
		case errors.Is(err, os.ErrDeadlineExceeded):
			in.metrics.dropped.WithLabelValues(dropUnparsed).Inc()
			return buf, held, errSlow
		case err != nil:
			return buf, held, in.unparsed(fmt.Errorf("reading the body: %w", err))
		}
	}
}

func plainBody(r *http.Request) (io.Reader, error) {
	body := http.MaxBytesReader(nil, r.Body, maxBody)
	switch e := r.Header.Get("Content-Encoding"); e {
	case "", "identity":
		return body, nil
	case "gzip":
		z, err := gzip.NewReader(body)
		if err != nil {
			return nil, fmt.Errorf("reading the body: %w", err)
		}
		return z, nil
	default:
		return nil, fmt.Errorf("reading the body: Content-Encoding %q is unknown; use gzip or none", e)
	}
}
