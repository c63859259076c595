package rpc

import (
	"context"
	"errors"
	"log/slog"
	"runtime/debug"
	"strings"
	"time"

	"bijou.dev/platform/circuit"
	"bijou.dev/platform/config"
	"bijou.dev/platform/errs"
	"bijou.dev/platform/load"
	"bijou.dev/platform/overload"
	"bijou.dev/platform/retry"
	"bijou.dev/platform/trace"

	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
)

// MaxMessage is the size of the largest message that a server and a client take, in bytes: 4 MiB. A larger one fails
// with kind Exhausted.
const MaxMessage = 4 << 20

// ServerOptions are the parts of the platform that a server uses. The zero value is a server that only has errors with
// kinds.
type ServerOptions struct {
	// Service is the name by which callers find this server. Calls for another name are refused. Empty: every call is
	// taken.
	Service string
	// Trace records a span for each call. Nil: nothing is recorded.
	Trace *trace.Provider
	// Log gets internal errors and panics. Nil: nothing is logged.
	Log *slog.Logger
	// Metrics gets bijou_rpc_server_*. Nil: none.
	Metrics prometheus.Registerer
	// Served measures the calls that this server answers, without streams and health checks. Nil: they are not
	// measured.
	Served *load.Recorder
	// Limiter sheds calls when there are too many. Nil: none is shed.
	Limiter *overload.Limiter
	// Config may hold a fault rule: the settings fault.latency and fault.errorPercent. Nil: none.
	Config config.Set
}

// server holds what the interceptors of one server share.
type server struct {
	ServerOptions
	seconds *prometheus.HistogramVec
	fault   *fault // nil: none
}

// NewServer returns a gRPC server with the platform's order of steps. Handlers return errors made by package errs.
func NewServer(o ServerOptions) *grpc.Server {
	s := &server{
		ServerOptions: o, fault: newFault(o.Config),
		seconds: newHistogram(o.Metrics, "server", "Time to answer calls, by method and code."),
	}
	if s.Log == nil {
		s.Log = slog.New(slog.DiscardHandler)
	}
	return grpc.NewServer(
		grpc.InTapHandle(s.meant),
		grpc.ChainUnaryInterceptor(s.unary),
		grpc.ChainStreamInterceptor(s.stream),
		grpc.MaxRecvMsgSize(MaxMessage),
		grpc.MaxConcurrentStreams(1024),
		grpc.ConnectionTimeout(10*time.Second),
		grpc.KeepaliveParams(keepalive.ServerParameters{Time: 30 * time.Second, Timeout: 5 * time.Second}),
		// Clients ping every 10 s while calls are open; anything faster than 5 s is abuse.
		grpc.KeepaliveEnforcementPolicy(keepalive.EnforcementPolicy{
			MinTime: 5 * time.Second, PermitWithoutStream: true,
		}),
	)
}

// unary is the order of a server's steps.
func (s *server) unary(
	ctx context.Context, req any, info *grpc.UnaryServerInfo, h grpc.UnaryHandler,
) (resp any, err error) {
	m := methodOf(info.FullMethod)
	start := time.Now()
	ctx, span := startServer(ctx, s.Trace, m)
	defer func() {
		s.record(ctx, m, err, time.Since(start))
		err = s.finish(ctx, m, start, err)
		endServer(span, err)
	}()
	if err := expired(ctx); err != nil {
		return nil, err
	}
	ctx = withCriticality(ctx)
	permit, err := s.admit(ctx, m)
	if err != nil {
		return nil, err
	}
	defer func() { permit.Done(limiterOutcome(ctx, err)) }()
	if err := s.fault.apply(ctx, m, span); err != nil {
		return nil, err
	}
	defer recovered(&err)
	return h(ctx, req)
}

func (s *server) stream(srv any, ss grpc.ServerStream, info *grpc.StreamServerInfo, h grpc.StreamHandler) (err error) {
	m := methodOf(info.FullMethod)
	start := time.Now()
	ctx, span := startStream(ss.Context(), s.Trace, m)
	defer func() {
		err = s.finish(ctx, m, start, err)
		endServer(span, err)
	}()
	defer recovered(&err)
	return h(srv, &serverStream{ss, withCriticality(ctx)})
}

// serverStream is a stream whose context has the span and the criticality.
type serverStream struct {
	grpc.ServerStream
	ctx context.Context
}

// Context returns the context with the span and the criticality.
func (s *serverStream) Context() context.Context { return s.ctx }

// finish counts the call, logs an internal error, whose text is not sent, and returns the status to send.
func (s *server) finish(ctx context.Context, m *method, start time.Time, err error) error {
	if err == nil {
		s.observe(m, codes.OK, start)
		return nil
	}
	st := errs.ToStatus(ctx, ownRefusal(err))
	s.observe(m, st.Code(), start)
	if retry.GaveUp(err) {
		_ = grpc.SetTrailer(ctx, metadata.Pairs(pushback, "-1")) // fails only for a call that has ended
	}
	if st.Code() == codes.Internal {
		s.Log.ErrorContext(ctx, "answering a call", "method", m.full, "error", err.Error())
	}
	return st.Err()
}

func (s *server) observe(m *method, code codes.Code, start time.Time) {
	if s.seconds != nil && m.known() {
		s.seconds.WithLabelValues(m.full, code.String()).Observe(time.Since(start).Seconds())
	}
}

// record adds a unary call to the load that this process serves.
func (s *server) record(ctx context.Context, m *method, err error, took time.Duration) {
	if s.Served == nil || !m.known() || m.service == healthService || code(err) == codes.Canceled ||
		errors.Is(ctx.Err(), context.Canceled) {
		return
	}
	switch {
	case errs.Reason(err) == circuit.ReasonShed && !errs.Wire(err):
		s.Served.Record(load.Rejected, 0)
	case serverFault(err):
		s.Served.Record(load.Failed, took)
	default:
		s.Served.Record(load.Succeeded, took)
	}
}

// recovered turns a panic into an internal error: one bad request must not end the process
// and its other requests.
func recovered(err *error) {
	if r := recover(); r != nil {
		*err = errs.Errorf(errs.Internal, "panic: %v\n%s", r, debug.Stack())
	}
}

// pushback is the trailer that asks a client not to retry (gRPC proposal A6). A server sends it when a call that it
// made itself failed after all retries: otherwise the retries of several layers would multiply.
var pushback = strings.ToLower(errs.Pushback)

// expired returns an error if the caller does not wait any more.
func expired(ctx context.Context) error {
	if err := ctx.Err(); err != nil {
		if errors.Is(err, context.DeadlineExceeded) {
			return errs.Errorf(errs.Timeout, "refusing work: the caller's deadline has passed")
		}
		return errs.Errorf(errs.Canceled, "refusing work: the caller has cancelled the call")
	}
	return nil
}

// newHistogram registers bijou_rpc_<side>_seconds, or returns nil.
func newHistogram(r prometheus.Registerer, side, help string) *prometheus.HistogramVec {
	if r == nil {
		return nil
	}
	h := prometheus.NewHistogramVec(prometheus.HistogramOpts{
		Name: "bijou_rpc_" + side + "_seconds", Help: help,
		Buckets: []float64{.0005, .001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10},
	}, []string{"method", "code"})
	r.MustRegister(h)
	return h
}

// incoming returns the metadata a caller sent, never nil.
func incoming(ctx context.Context) metadata.MD {
	md, ok := metadata.FromIncomingContext(ctx)
	if !ok {
		return metadata.MD{}
	}
	return md
}

// code returns the gRPC code of an error made by this package's steps.
func code(err error) codes.Code {
	if err == nil {
		return codes.OK
	}
	if st, ok := status.FromError(err); ok {
		return st.Code()
	}
	return errs.KindOf(err).Code()
}
