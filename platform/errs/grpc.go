package errs

import (
	"errors"
	"strings"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/protoadapt"
	"google.golang.org/protobuf/types/known/durationpb"
)

// domain is the ErrorInfo domain of every reason that Bijou defines.
const domain = "bijou.dev"

// ToStatus turns any error into a gRPC status with the details its kind has: BadRequest for fields, ErrorInfo for a
// reason, RetryInfo for a wait. The text of an error without a kind stays here: it becomes "internal error", and the
// server logs it. ToStatus(nil) is OK.
func ToStatus(err error) *status.Status {
	if err == nil {
		return status.New(codes.OK, "")
	}
	var e *Error
	if !errors.As(err, &e) {
		return unclassified(err)
	}
	st := status.New(e.Kind.Code(), message(err, e))
	if with, err := st.WithDetails(details(e)...); err == nil {
		return with
	}
	return st
}

// message is the text of err, in which e was found, with what those who wrapped e were doing, but without the fields of
// e: they travel beside it.
func message(err error, e *Error) string {
	return strings.Replace(err.Error(), e.Error(), e.Message, 1)
}

func unclassified(err error) *status.Status {
	if st, ok := status.FromError(err); ok {
		return st
	}
	if k := KindOf(err); k != Internal {
		return status.New(k.Code(), err.Error())
	}
	return status.New(codes.Internal, "internal error")
}

func details(e *Error) []protoadapt.MessageV1 {
	var ds []protoadapt.MessageV1
	if e.Reason != "" {
		ds = append(ds, &errdetails.ErrorInfo{Reason: e.Reason, Domain: domain, Metadata: e.Meta})
	}
	if e.RetryAfter > 0 {
		ds = append(ds, &errdetails.RetryInfo{RetryDelay: durationpb.New(e.RetryAfter)})
	}
	if len(e.Fields) > 0 {
		b := &errdetails.BadRequest{}
		for _, f := range e.Fields {
			b.FieldViolations = append(b.FieldViolations, &errdetails.BadRequest_FieldViolation{Field: f.Name, Description: f.Problem})
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
	e = &Error{Kind: kindOfCode(st.Code()), Message: st.Message(), wire: true, err: err}
	for _, d := range st.Details() {
		switch d := d.(type) {
		case *errdetails.ErrorInfo:
			e.Reason, e.Meta = d.GetReason(), d.GetMetadata()
		case *errdetails.RetryInfo:
			e.RetryAfter = d.GetRetryDelay().AsDuration()
		case *errdetails.BadRequest:
			for _, f := range d.GetFieldViolations() {
				e.Fields = append(e.Fields, Field{f.GetField(), f.GetDescription()})
			}
		}
	}
	return e
}
