package gateway

import (
	"context"
	"encoding/base64"
	"fmt"
	"html"
	"net/http"
	"strconv"
	"strings"
	"time"

	"bijou.dev/platform/errs"

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
	FaultGateway     Fault = "gateway"            // a defect of the edge itself
)

const (
	faultHeader    = "X-Bijou-Fault"
	attemptsHeader = "X-Bijou-Attempts"
	// statusClientGone is what logs and metrics show when the client left before there was a response.
	statusClientGone = 499
)

// allowed is what Allow lists. Other methods than TRACE and CONNECT are passed on, too.
const allowed = "GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS"

// failure is an answer that the edge gives itself.
type failure struct {
	fault  Fault // empty: an answer to OPTIONS
	status int
	detail string
	retry  time.Duration // Retry-After; zero: none
	close  bool          // the connection cannot be used any more
}

func fail(fault Fault, status int, format string, args ...any) *failure {
	return &failure{fault: fault, status: status, detail: fmt.Sprintf(format, args...)}
}

// hangUp is fail for requests after which the connection must be closed: it is not clear where the next one begins.
func hangUp(status int, format string, args ...any) *failure {
	f := fail(FaultClient, status, format, args...)
	f.close = true
	return f
}

// code is the gRPC code of a failure.
func (f *failure) code() codes.Code {
	switch f.fault {
	case FaultClient:
		switch {
		case f.status == http.StatusRequestTimeout:
			return codes.DeadlineExceeded
		case f.status == http.StatusForbidden:
			return codes.PermissionDenied
		case f.status >= 413:
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
func (f *failure) details(ctx context.Context) string {
	err := errs.Errorf(errs.KindOf(status.Error(f.code(), "")), "%s", f.detail).RetryIn(f.retry)
	b, _ := proto.Marshal(errs.ToStatus(ctx, err).Proto()) // text from us, which is UTF-8
	return base64.RawStdEncoding.EncodeToString(b)
}

// write answers with the failure in the form that the client reads.
func (f *failure) write(w http.ResponseWriter, r *http.Request, id, traceID string) {
	h := w.Header()
	if f.fault == "" || f.status == http.StatusMethodNotAllowed && h["Allow"] == nil {
		h.Set("Allow", allowed)
	}
	if f.fault == "" {
		w.WriteHeader(f.status)
		return
	}
	h.Set(faultHeader, string(f.fault))
	if f.close && r.ProtoMajor == 1 {
		h.Set("Connection", "close")
	}
	errs.SetRetryAfter(h, f.retry)
	switch {
	case isGRPC(r):
		h.Set("Content-Type", "application/grpc")
		h.Set("Grpc-Status", strconv.Itoa(int(f.code())))
		h.Set("Grpc-Message", grpcMessage(f.detail))
		if f.retry > 0 {
			h.Set("Grpc-Status-Details-Bin", f.details(r.Context()))
		}
		w.WriteHeader(http.StatusOK)
	case prefersHTML(r.Header["Accept"]):
		f.writePage(w, r, id)
	default:
		errs.WriteProblemBody(w, errs.Problem{
			Type: "about:blank", Title: http.StatusText(f.status), Status: f.status, Detail: f.detail,
			Instance: r.URL.Path,
			Code:     strings.ToUpper(string(f.fault)), Meta: map[string]string{"requestId": id}, TraceID: traceID,
		})
	}
}

const page = `<!doctype html>
<html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width"><title>%d %s</title>
<style>body{font:1.1rem/1.5 system-ui,sans-serif;max-width:36rem;margin:20vh auto;padding:0 1rem;color-scheme:light dark}</style>
<h1>%s</h1><p>%s<p><small>%d · request %s</small></html>
`

// writePage answers people: one sentence, and the id by which the request can be found.
func (f *failure) writePage(w http.ResponseWriter, r *http.Request, id string) {
	h := w.Header()
	h.Set("Content-Type", "text/html; charset=utf-8")
	h.Set("Cache-Control", "no-store")
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("Content-Security-Policy", "default-src 'none'; style-src 'unsafe-inline'")
	w.WriteHeader(f.status)
	if r.Method == http.MethodHead {
		return
	}
	title := http.StatusText(f.status)
	// the client went
	_, _ = fmt.Fprintf(w, page, f.status, title, title, html.EscapeString(f.sentence()), f.status,
		html.EscapeString(id))
}

// sentence is what a visitor can make use of; the detail names services and is for readers of problem+json.
func (f *failure) sentence() string {
	switch f.fault {
	case FaultClient:
		return "This request cannot be answered: " + f.detail + "."
	case FaultNoRoute:
		return "There is no such page here."
	case FaultOverload, FaultCircuit, FaultUnreachable:
		return "This part of the site is not available right now. Please try again in a moment."
	case FaultTimeout:
		return "The answer took too long. Please try again in a moment."
	}
	return "Something went wrong on our side. Please try again in a moment."
}

// isGRPC reports whether the request is a gRPC call.
func isGRPC(r *http.Request) bool {
	return r.ProtoMajor == 2 && strings.HasPrefix(contentType(r.Header), "application/grpc")
}

func contentType(h http.Header) string {
	if lines := h["Content-Type"]; len(lines) > 0 {
		return lines[0]
	}
	return ""
}

// grpcMessage escapes a message as gRPC's HTTP/2 mapping says.
func grpcMessage(s string) string {
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
func prefersHTML(accept []string) bool {
	html, json := 0.0, 0.0
	for _, line := range accept {
		for item := range strings.SplitSeq(line, ",") {
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
	}
	return html > 0 && html >= json
}
