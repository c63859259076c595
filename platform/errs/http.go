package errs

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"math"
	"mime"
	"net/http"
	"strconv"
	"time"
)

// Problem is the RFC 9457 body of an error.
type Problem struct {
	// Type identifies the problem; "about:blank" when Reason has nothing to add to the status.
	Type string `json:"type"`
	// Title is the same for all problems of a type.
	Title string `json:"title"`
	// Status repeats the HTTP status.
	Status int `json:"status"`
	// Detail is the message.
	Detail string `json:"detail,omitempty"`
	// Instance is the path that was asked.
	Instance string `json:"instance,omitempty"`
	// Code is the reason identifier.
	Code string `json:"code,omitempty"`
	// Meta goes with Code.
	Meta map[string]string `json:"meta,omitempty"`
	// Errors lists bad fields.
	Errors []ProblemField `json:"errors,omitempty"`
	// TraceID joins the answer to its trace.
	TraceID string `json:"traceId,omitempty"`
}

// ProblemField is one bad field of a [Problem].
type ProblemField struct {
	// Field is the path of the field.
	Field string `json:"field"`
	// Detail is what is wrong with it.
	Detail string `json:"detail"`
}

// problemType prefixes a reason to make the problem's type, a URI that need not resolve (RFC 9457, 3.1.1).
const problemType = "https://bijou.dev/problems/"

// ProblemOf returns the body for err, with the trace id of ctx. Of an Internal error it shows a fixed text: see
// [LogInternal].
func ProblemOf(ctx context.Context, err error) Problem {
	k := KindOf(err)
	p := Problem{Type: "about:blank", Title: http.StatusText(k.HTTP()), Status: k.HTTP(), TraceID: traceID(ctx)}
	if p.Title == "" {
		p.Title = k.String()
	}
	if k == Internal {
		p.Detail = internalText(ctx)
		return p
	}
	e, ok := errors.AsType[*Error](err)
	if !ok {
		p.Detail = err.Error()
		return p
	}
	p.Detail = message(err, e)
	if e.reason != "" {
		p.Type, p.Code, p.Meta = problemType+e.reason, e.reason, e.Meta()
	}
	for _, f := range e.fields {
		p.Errors = append(p.Errors, ProblemField{f.Name, f.Problem})
	}
	return p
}

type logKey struct{}

// WithLog returns a context under which [LogInternal] writes to log. The HTTP servers of platform/service have it as
// the context of their connections.
func WithLog(ctx context.Context, log *slog.Logger) context.Context {
	return context.WithValue(ctx, logKey{}, log)
}

// LogInternal logs err, which is the answer to a request, if it is Internal: its text is not sent. It is for those who
// answer in a format of their own; WriteProblem calls it. It writes to the log of ctx (see [WithLog]), else to
// slog.Default. The args are as in [slog.Logger.Error].
func LogInternal(ctx context.Context, err error, args ...any) {
	if KindOf(err) != Internal {
		return
	}
	log, ok := ctx.Value(logKey{}).(*slog.Logger)
	if !ok {
		log = slog.Default()
	}
	log.ErrorContext(ctx, "answering a request", append(args, "error", err.Error())...)
}

// SetRetry adds Retry-After if err has a delay, and Pushback: -1 if this server has used up its retries, so that the
// caller does not retry. Use it for responses that are not problem+json, such as HTML pages.
func SetRetry(h http.Header, err error) {
	SetRetryAfter(h, RetryAfter(err))
	var up interface{ GivenUp() bool }
	if errors.As(err, &up) && up.GivenUp() {
		h.Set(Pushback, "-1")
	}
}

// Pushback is the header by which an answer asks not to try again elsewhere, when it is -1: layers of retries would
// multiply. gRPC has it as a trailer (proposal A6).
const Pushback = "Grpc-Retry-Pushback-Ms"

// SetRetryAfter adds Retry-After: d, rounded up to whole seconds. Zero: it adds nothing.
func SetRetryAfter(h http.Header, d time.Duration) {
	if d > 0 {
		h.Set("Retry-After", strconv.Itoa(int(math.Ceil(d.Seconds()))))
	}
}

// WriteProblem answers r with err as application/problem+json and, where the error says so, when to retry: see
// SetRetry. It logs an Internal error: see [LogInternal].
func WriteProblem(w http.ResponseWriter, r *http.Request, err error) {
	LogInternal(r.Context(), err, "method", r.Method, "path", r.URL.Path)
	p := ProblemOf(r.Context(), err)
	p.Instance = r.URL.Path
	SetRetry(w.Header(), err)
	WriteProblemBody(w, p)
}

// WriteProblemBody writes a body that the caller has completed. The caller adds Retry-After: see [SetRetryAfter].
func WriteProblemBody(w http.ResponseWriter, p Problem) {
	w.Header().Set("Content-Type", "application/problem+json")
	w.Header().Set("X-Content-Type-Options", "nosniff")
	w.Header().Set("Cache-Control", "no-store")
	w.WriteHeader(p.Status)
	_ = json.NewEncoder(w).Encode(p) // an error here means that the client has closed the connection
}

// maxProblem bounds what FromResponse reads of a body that it does not control.
const maxProblem = 64 << 10

// FromResponse turns an HTTP answer into an error marked as having come over the wire, or nil below 400. It reads the
// body when it is a problem, and leaves closing it to the caller.
func FromResponse(resp *http.Response) error {
	if resp.StatusCode < 400 {
		return nil
	}
	e := &Error{kind: kindOfHTTP(resp.StatusCode), message: resp.Status, wire: true}
	if s, err := strconv.Atoi(resp.Header.Get("Retry-After")); err == nil && s > 0 && s < 86400 {
		e.retryAfter = time.Duration(s) * time.Second
	}
	if kind, _, err := mime.ParseMediaType(resp.Header.Get("Content-Type")); err != nil ||
		kind != "application/problem+json" {
		return e
	}
	var p Problem
	if json.NewDecoder(io.LimitReader(resp.Body, maxProblem)).Decode(&p) != nil {
		return e
	}
	if p.Detail != "" {
		e.message = p.Detail
	}
	e.reason, e.meta = p.Code, p.Meta
	for _, f := range p.Errors {
		e.fields = append(e.fields, Field{f.Field, f.Detail})
	}
	return e
}
