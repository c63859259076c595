package errs

import (
	"context"
	"errors"
	"strings"

	"go.opentelemetry.io/otel/trace"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/protoadapt"
	"google.golang.org/protobuf/types/known/durationpb"
)

// domain is the ErrorInfo domain of every reason that Bijou defines.
const domain = "bijou.dev"

// ToStatus turns any error into a gRPC status with the details its kind has: BadRequest for fields, ErrorInfo for a
// reason, RetryInfo for a wait. An Internal error becomes a fixed text with the trace id of ctx, and nothing else of it
// is sent: log it. ToStatus(ctx, nil) is OK.
func ToStatus(ctx context.Context, err error) *status.Status {
	if err == nil {
		return status.New(codes.OK, "")
	}
	kind := KindOf(err)
	if kind == Internal {
		return status.New(codes.Internal, internalText(ctx))
	}
	e, ok := errors.AsType[*Error](err)
	if !ok {
		return foreign(err, kind)
	}
	st := status.New(kind.Code(), message(err, e))
	if with, err := st.WithDetails(details(e)...); err == nil {
		return with
	}
	return st
}

// foreign is the status of an error that has none of our errors in its chain.
func foreign(err error, kind Kind) *status.Status {
	if st, ok := status.FromError(err); ok {
		return st
	}
	return status.New(kind.Code(), err.Error())
}

// message is what is sent of the text of err beside the fields of e, the Error in its chain. Together they are the text
// of err again: e.Error() ends with the fields, and so does an error that wraps e with %w at its end. An error with
// more text behind e keeps the fields in its message.
func message(err error, e *Error) string {
	return strings.TrimSuffix(err.Error(), e.violations())
}

// internalText is what a caller sees of an Internal error.
func internalText(ctx context.Context) string {
	text := "internal error; the log of the service has the cause"
	if id := traceID(ctx); id != "" {
		text += ", trace_id " + id
	}
	return text
}

// traceID returns the id of the trace of ctx, or "".
func traceID(ctx context.Context) string {
	if sc := trace.SpanContextFromContext(ctx); sc.HasTraceID() {
		return sc.TraceID().String()
	}
	return ""
}

func details(e *Error) []protoadapt.MessageV1 {
	var ds []protoadapt.MessageV1
	if e.reason != "" {
		ds = append(ds, &errdetails.ErrorInfo{Reason: e.reason, Domain: domain, Metadata: e.meta})
	}
	if e.retryAfter > 0 {
		ds = append(ds, &errdetails.RetryInfo{RetryDelay: durationpb.New(e.retryAfter)})
	}
	if len(e.fields) > 0 {
		b := &errdetails.BadRequest{}
		for _, f := range e.fields {
			b.FieldViolations = append(b.FieldViolations, &errdetails.BadRequest_FieldViolation{
				Field:       f.Name,
				Description: f.Problem,
			})
		}
		ds = append(ds, b)
	}
	return ds
}

// FromRPC turns the error of a gRPC call into an [Error] with the sender's kind, fields, reason and wait, marked as
// having come over the wire. Nil stays nil, and an Error stays as it is.
func FromRPC(err error) error {
	if err == nil {
		return nil
	}
	var e *Error
	if errors.As(err, &e) {
		return err
	}
	st, ok := status.FromError(err)
	if !ok {
		return Errorf(KindOf(err), "%w", err)
	}
	e = &Error{kind: kindOfCode(st.Code()), message: st.Message(), wire: true, cause: err}
	for _, d := range st.Details() {
		switch d := d.(type) {
		case *errdetails.ErrorInfo:
			e.reason, e.meta = d.GetReason(), d.GetMetadata()
		case *errdetails.RetryInfo:
			e.retryAfter = d.GetRetryDelay().AsDuration()
		case *errdetails.BadRequest:
			for _, f := range d.GetFieldViolations() {
				e.fields = append(e.fields, Field{f.GetField(), f.GetDescription()})
			}
		}
	}
	return e
}
