package errs

import (
	"encoding/json"
	"errors"
	"io"
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
	TraceID string `json:"trace_id,omitempty"`
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

// ProblemOf returns the body for err. The text of an error without a kind is not shown.
func ProblemOf(err error) Problem {
	k := KindOf(err)
	p := Problem{Type: "about:blank", Title: http.StatusText(k.HTTP()), Status: k.HTTP()}
	if p.Title == "" {
		p.Title = k.String()
	}
	var e *Error
	if !errors.As(err, &e) {
		if k != Internal {
			p.Detail = err.Error()
		}
		return p
	}
	p.Detail = message(err, e)
	if e.Reason != "" {
		p.Type, p.Code, p.Meta = problemType+e.Reason, e.Reason, e.Meta
	}
	for _, f := range e.Fields {
		p.Errors = append(p.Errors, ProblemField{f.Name, f.Problem})
	}
	return p
}

// SetRetry puts into the header of an answer when to ask again: Retry-After, where err says so, and Pushback where whoever
// answers has tried in vain as often as it may. It is for answers that are no problems, such as pages.
func SetRetry(h http.Header, err error) {
	setRetryAfter(h, RetryAfter(err))
	var up interface{ GivenUp() bool }
	if errors.As(err, &up) && up.GivenUp() {
		h.Set(Pushback, "-1")
	}
}

// Pushback is the header by which an answer asks not to try again elsewhere, when it is -1: layers of retries would
// multiply. gRPC has it as a trailer (proposal A6).
const Pushback = "Grpc-Retry-Pushback-Ms"

func setRetryAfter(h http.Header, d time.Duration) {
	if d > 0 {
		h.Set("Retry-After", strconv.Itoa(int(math.Ceil(d.Seconds()))))
	}
}

// WriteProblem answers r with err as application/problem+json and, where the error says so, when to retry: see SetRetry.
func WriteProblem(w http.ResponseWriter, r *http.Request, err error) {
	p := ProblemOf(err)
	p.Instance = r.URL.Path
	SetRetry(w.Header(), err)
	WriteProblemBody(w, p, 0)
}

// WriteProblemBody writes a body that the caller has completed. Retry-After is rounded up to whole seconds; zero
// leaves it out.
func WriteProblemBody(w http.ResponseWriter, p Problem, retry time.Duration) {
	setRetryAfter(w.Header(), retry)
	w.Header().Set("Content-Type", "application/problem+json")
	w.Header().Set("X-Content-Type-Options", "nosniff")
	w.Header().Set("Cache-Control", "no-store")
	w.WriteHeader(p.Status)
	_ = json.NewEncoder(w).Encode(p) // the client may be gone; there is nobody left to tell
}

// maxProblem bounds what FromResponse reads of a body that it does not control.
const maxProblem = 64 << 10

// FromResponse turns an HTTP answer into an error marked as having come over the wire, or nil below 400. It reads the
// body when it is a problem, and leaves closing it to the caller.
func FromResponse(resp *http.Response) error {
	if resp.StatusCode < 400 {
		return nil
	}
	e := &Error{Kind: kindOfHTTP(resp.StatusCode), Message: resp.Status, wire: true}
	if s, err := strconv.Atoi(resp.Header.Get("Retry-After")); err == nil && s > 0 && s < 86400 {
		e.RetryAfter = time.Duration(s) * time.Second
	}
	if kind, _, err := mime.ParseMediaType(resp.Header.Get("Content-Type")); err != nil || kind != "application/problem+json" {
		return e
	}
	var p Problem
	if json.NewDecoder(io.LimitReader(resp.Body, maxProblem)).Decode(&p) != nil {
		return e
	}
	if p.Detail != "" {
		e.Message = p.Detail
	}
	e.Reason, e.Meta = p.Code, p.Meta
	for _, f := range p.Errors {
		e.Fields = append(e.Fields, Field{f.Field, f.Detail})
	}
	return e
}
