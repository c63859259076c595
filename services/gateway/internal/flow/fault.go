package flow

import (
	"bytes"
	"cmp"
	"context"
	"encoding/base64"
	"fmt"
	"html"
	"net/http"
	"strconv"
	"strings"
	"time"

	"bijou.dev/platform/errs"
	"bijou.dev/services/gateway/internal/errorpage"
	"bijou.dev/services/gateway/internal/message"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
)

// Fault is the side that caused the failure of a request. It is the header X-Bijou-Fault, a label of metrics, an
// attribute of spans and a field of the access log. Empty: the request did not fail; the origin answered with a status
// below 500.
type Fault string

// The faults.
const (
	FaultClient      Fault = "client"             // the request is wrong, too large or too slow
	FaultClientGone  Fault = "client_gone"        // the client left before it had the answer
	FaultNoRoute     Fault = "no_route"           // no route matches
	FaultOverload    Fault = "overload"           // the origin has too many requests, and others are more critical
	FaultCircuit     Fault = "circuit"            // the circuit of the route is open, or too many requests run
	FaultUnreachable Fault = "origin_unreachable" // no instance is known, or none accepts connections
	FaultTimeout     Fault = "origin_timeout"     // the origin took too long
	FaultOrigin      Fault = "origin_error"       // the origin sent 500 or above or an invalid response, or broke off
	FaultAuth        Fault = "auth_unavailable"   // it cannot be checked who calls
	FaultGateway     Fault = "gateway"            // a defect of the edge itself
)

// Fields and a status of the edge's own.
const (
	FaultHeader    = "X-Bijou-Fault"
	AttemptsHeader = "X-Bijou-Attempts"
	// StatusClientGone is what logs and metrics show when the client left before there was a response.
	StatusClientGone = 499
)

// allowed is what Allow lists. Other methods than TRACE and CONNECT are passed on, too.
const allowed = "GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS"

// Failure is an answer that the edge gives itself.
type Failure struct {
	Fault  Fault // empty: an answer to OPTIONS
	Status int
	Detail string
	Retry  time.Duration // Retry-After; zero: none
	Close  bool          // the connection cannot be used any more
	Allow  string        // Allow, beside 405; empty: what the edge passes on
}

// Fail returns a failure.
func Fail(fault Fault, status int, format string, args ...any) *Failure {
	return &Failure{Fault: fault, Status: status, Detail: fmt.Sprintf(format, args...)}
}

// HangUp is Fail for requests after which the connection must be closed: it is not clear where the next one begins.
func HangUp(status int, format string, args ...any) *Failure {
	f := Fail(FaultClient, status, format, args...)
	f.Close = true
	return f
}

// Code is the gRPC code of a failure.
func (f *Failure) Code() codes.Code {
	switch f.Fault {
	case FaultClient:
		switch {
		case f.Status == http.StatusRequestTimeout:
			return codes.DeadlineExceeded
		case f.Status == http.StatusUnauthorized:
			return codes.Unauthenticated
		case f.Status == http.StatusForbidden:
			return codes.PermissionDenied
		case f.Status >= 413:
			return codes.ResourceExhausted
		}
		return codes.InvalidArgument
	case FaultClientGone:
		return codes.Canceled
	case FaultNoRoute:
		return codes.Unimplemented
	case FaultOverload:
		return codes.ResourceExhausted
	case FaultTimeout:
		return codes.DeadlineExceeded
	case FaultGateway:
		return codes.Internal
	}
	return codes.Unavailable
}

// details is the status of a failure with when to come back (google.rpc.RetryInfo), as gRPC sends it beside the code.
func (f *Failure) details(ctx context.Context) string {
	err := errs.Errorf(errs.KindOf(status.Error(f.Code(), "")), "%s", f.Detail).RetryIn(f.Retry)
	b, _ := proto.Marshal(errs.ToStatus(ctx, err).Proto()) // text from us, which is UTF-8
	return base64.RawStdEncoding.EncodeToString(b)
}

// Render returns the failure in the form that the client reads. pages are for browsers; nil: they get the page of the
// edge.
func (f *Failure) Render(a *Accepted, traceID string, pages *errorpage.Table) (int, message.Header, []byte) {
	w := &recorder{header: http.Header{}}
	h := w.header
	if f.Fault == "" || f.Status == http.StatusMethodNotAllowed {
		h.Set("Allow", cmp.Or(f.Allow, allowed))
	}
	if f.Fault == "" {
		return w.response(f.Status)
	}
	h.Set(FaultHeader, string(f.Fault))
	errs.SetRetryAfter(h, f.Retry)
	switch {
	case a.GRPC:
		h.Set("Content-Type", "application/grpc")
		h.Set("Grpc-Status", strconv.Itoa(int(f.Code())))
		h.Set("Grpc-Message", GRPCMessage(f.Detail))
		if f.Retry > 0 {
			h.Set("Grpc-Status-Details-Bin", f.details(a.Ctx))
		}
		return w.response(http.StatusOK)
	case prefersHTML(a.Header):
		f.writePage(w, a.ID, pages.Page(a.Host, errorpage.Values{Status: f.Status, ID: a.ID, Trace: traceID}))
	default:
		errs.WriteProblemBody(w, errs.Problem{
			Type: "about:blank", Title: http.StatusText(f.Status), Status: f.Status, Detail: f.Detail,
			Instance: PlainPath(a.Request),
			Code:     strings.ToUpper(string(f.Fault)), Meta: map[string]string{"requestId": a.ID}, TraceID: traceID,
		})
	}
	return w.response(f.Status)
}

// recorder is an http.ResponseWriter that keeps what it gets.
type recorder struct {
	header http.Header
	bytes.Buffer
}

// Header implements http.ResponseWriter.
func (w *recorder) Header() http.Header { return w.header }

// WriteHeader implements http.ResponseWriter.
func (w *recorder) WriteHeader(int) {}

func (w *recorder) response(status int) (int, message.Header, []byte) {
	h := make(message.Header, 0, len(w.header)+4)
	h.FromHTTP(w.header)
	return status, h, w.Bytes()
}

const page = `<!doctype html>
<html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width"><title>%d %s</title>
<style>body{font:1.1rem/1.5 system-ui,sans-serif;max-width:36rem;margin:20vh auto;padding:0 1rem;color-scheme:light dark}</style>
<h1>%s</h1><p>%s<p><small>%d · request %s</small></html>
`

// writePage answers people: by the page of the site, or by one sentence and the id by which the request can be found.
func (f *Failure) writePage(w *recorder, id string, own []byte) {
	h := w.header
	h.Set("Content-Type", "text/html; charset=utf-8")
	h.Set("Cache-Control", "no-store")
	h.Set("X-Content-Type-Options", "nosniff")
	if own != nil {
		h.Set("Content-Security-Policy", "default-src 'none'; style-src 'self' 'unsafe-inline'; img-src 'self' data:; "+
			"font-src 'self' data:")
		_, _ = w.Write(own) // a buffer takes everything
		return
	}
	h.Set("Content-Security-Policy", "default-src 'none'; style-src 'unsafe-inline'")
	title := http.StatusText(f.Status)
	// a buffer takes everything
	_, _ = fmt.Fprintf(w, page, f.Status, title, title, html.EscapeString(f.sentence()), f.Status,
		html.EscapeString(id))
}

// sentence is what a visitor can make use of; the detail names services and is for readers of problem+json.
func (f *Failure) sentence() string {
	switch f.Fault {
	case FaultClient:
		return "This request cannot be answered: " + f.Detail + "."
	case FaultNoRoute:
		return "There is no such page here."
	case FaultOverload, FaultCircuit, FaultUnreachable, FaultAuth:
		return "This part of the site is not available right now. Please try again in a moment."
	case FaultTimeout:
		return "The answer took too long. Please try again in a moment."
	}
	return "Something went wrong on our side. Please try again in a moment."
}

// IsGRPC reports whether the request is a gRPC call.
func IsGRPC(r *message.Request) bool {
	rest, ok := strings.CutPrefix(r.Header.Get("Content-Type"), "application/grpc")
	return ok && r.Version == message.HTTP2 && (rest == "" || rest[0] == '+' || rest[0] == ';') // else it may be gRPC-Web
}

// GRPCMessage escapes a message as gRPC's HTTP/2 mapping says.
func GRPCMessage(s string) string {
	var b strings.Builder
	for i := range len(s) {
		if c := s[i]; c < ' ' || c > '~' || c == '%' {
			fmt.Fprintf(&b, "%%%02X", c)
		} else {
			b.WriteByte(c)
		}
	}
	return b.String()
}

// prefersHTML reports whether a client asks for HTML, and not for JSON with higher quality.
func prefersHTML(h message.Header) bool {
	html, json := 0.0, 0.0
	for item := range h.Words("Accept") {
		kind, params, _ := strings.Cut(item, ";")
		q := 1.0
		for p := range strings.SplitSeq(params, ";") {
			if v, ok := strings.CutPrefix(strings.TrimSpace(p), "q="); ok {
				if f, err := strconv.ParseFloat(v, 64); err == nil {
					q = f
				}
			}
		}
		switch strings.ToLower(strings.TrimSpace(kind)) {
		case "text/html":
			html = max(html, q)
		case "application/json", "application/problem+json":
			json = max(json, q)
		}
	}
	return html > 0 && html >= json
}
