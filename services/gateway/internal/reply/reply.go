// Package reply sends the response to one request, with what its route changes in it.
package reply

import (
	"io"
	"net/http"
	"slices"
	"strings"
	"time"

	"bijou.dev/services/gateway/internal/compress"
	"bijou.dev/services/gateway/internal/errorpage"
	"bijou.dev/services/gateway/internal/fields"
	"bijou.dev/services/gateway/internal/flow"
	"bijou.dev/services/gateway/internal/message"
	"bijou.dev/services/gateway/routes"

	"golang.org/x/net/http/httpguts"
)

// Reply is a response while it is sent. The order of calls is Begin or Refuse, then Write and Flush, then Complete or
// Abort; or Tunnel alone. End comes last.
type Reply struct {
	To       *flow.Routed
	Encoders *compress.Limit
	// Pages are what browsers get for failures. Nil: the page of the edge.
	Pages *errorpage.Table
	// Extra is lines that every response gets, as a limit of the route adds them.
	Extra message.Header
	message.Writer

	// Status is what was sent to the client. Zero: nothing yet.
	Status int
	// Took is the time until the header was sent.
	Took time.Duration
	// Bytes is how many bytes of the body were sent.
	Bytes int64
	// Aborted: the connection or stream is reset, because the response is not complete.
	Aborted bool

	encoder  *compress.Writer // compresses the body; nil: it is sent as it is
	complete bool             // nothing is missing but the end
	tunneled bool
	trailer  message.Header
}

// Begin begins a response, of an origin or of a route that answers itself. length is that of the body; -1: unknown.
func (r *Reply) Begin(status int, h message.Header, length int64) error {
	if c := &r.To.Rule.Response; c.Any() {
		Change(&h, c, r.To)
	}
	r.setOrigins(&h)
	length = r.compress(status, &h, length)
	r.setCommon(&h)
	r.setStatus(status)
	return r.Writer.Begin(status, h, length) //nolint:wrapcheck // it says that the client has left
}

// setCommon sets the fields that every response has.
func (r *Reply) setCommon(h *message.Header) {
	h.Set("X-Request-Id", r.To.ID)
	*h = append(*h, r.Extra...)
}

func (r *Reply) setStatus(status int) { r.Status, r.Took = status, time.Since(r.To.Start) }

// setOrigins says which other origins may use the response, if the route does.
func (r *Reply) setOrigins(h *message.Header) {
	switch {
	case r.To.Rule == nil || r.To.Rule.Origins == nil:
	case r.To.Preflight:
		r.To.Rule.Origins.Preflight(h, r.To.Header)
	default:
		r.To.Rule.Origins.Answer(h, r.To.Header)
	}
}

// compress decides whether the body is compressed, and changes the header if it is. It returns the length of what is
// sent. A response to HEAD gets the header that the response to GET would have (RFC 9110, 9.3.2).
func (r *Reply) compress(status int, h *message.Header, length int64) int64 {
	p := r.To.Rule.Compressed
	if p == nil || r.To.GRPC {
		return length
	}
	coding := p.Choose(r.To.Request, status, h, length)
	if coding == "" {
		return length
	}
	if r.To.Method != http.MethodHead {
		if r.encoder = r.Encoders.Get(coding, (*plain)(r), length, IsEventStream(*h)); r.encoder == nil {
			return length
		}
	}
	compress.SetFields(h, coding)
	// A digest in the trailer would be wrong, too.
	*h = slices.DeleteFunc(*h, func(f message.Field) bool { return f.Name == "Trailer" && compress.IsDigest(f.Value) })
	return -1
}

// IsEventStream reports whether a response has server-sent events.
func IsEventStream(h message.Header) bool {
	return strings.HasPrefix(h.Get("Content-Type"), "text/event-stream")
}

// Compresses reports whether the body is compressed here.
func (r *Reply) Compresses() bool { return r.encoder != nil }

// Write sends a part of the body.
func (r *Reply) Write(p []byte) (int, error) {
	if r.encoder != nil {
		return r.encoder.Write(p)
	}
	return (*plain)(r).Write(p)
}

// plain sends bytes as they are, and counts them.
type plain Reply

// Write writes.
func (r *plain) Write(p []byte) (int, error) {
	n, err := r.Writer.Write(p)
	r.Bytes += int64(n)
	return n, err //nolint:wrapcheck // it says that the client has left
}

// Flush sends what was written.
func (r *Reply) Flush() error {
	if r.encoder != nil {
		if err := r.encoder.Flush(); err != nil {
			return err //nolint:wrapcheck // it says that the client has left
		}
	}
	return r.Writer.Flush() //nolint:wrapcheck // it says that the client has left
}

// Finish writes the end of a body that is compressed.
func (r *Reply) Finish() error {
	if r.encoder == nil {
		return nil
	}
	return r.encoder.Close() //nolint:wrapcheck // it says that the client has left, or that the body was too short
}

// Complete says that the response is complete but for its end, which is sent by End.
func (r *Reply) Complete(trailer message.Header) { r.complete, r.trailer = true, trailer }

// Whole sends a response of the edge with its body, as the route changes it.
func (r *Reply) Whole(status int, h message.Header, body string) {
	err := r.Begin(status, h, int64(len(body)))
	if err == nil && body != "" {
		_, err = r.Write([]byte(body))
	}
	if err == nil {
		err = r.Finish()
	}
	r.CompleteOr(err)
}

// CompleteOr says that the response is complete, or aborts it after an error.
func (r *Reply) CompleteOr(err error) {
	if err != nil {
		r.Abort()
	} else {
		r.Complete(nil)
	}
}

// Plain sends a response of the edge that no route changes.
func (r *Reply) Plain(status int, h message.Header, body []byte) {
	r.setCommon(&h)
	r.setStatus(status)
	err := r.Writer.Begin(status, h, int64(len(body)))
	if err == nil && message.HasBody(r.To.Method, status) {
		_, err = (*plain)(r).Write(body)
	}
	r.CompleteOr(err)
}

// Refuse answers with a failure, unless the response has begun.
func (r *Reply) Refuse(f *flow.Failure) {
	if r.Status != 0 {
		r.Abort()
		return
	}
	if f.Fault == flow.FaultClientGone {
		r.setStatus(f.Status)
		r.Abort() // the client has closed its connection
		return
	}
	traceID := ""
	if sc := r.To.Span.SpanContext(); sc.IsValid() {
		traceID = sc.TraceID().String()
	}
	status, h, body := f.Render(r.To.Accepted, traceID, r.Pages)
	r.setOrigins(&h)
	if f.Close {
		r.Last()
	}
	r.Plain(status, h, body)
	r.Status = f.Status // gRPC has its own
}

// Tunnel agrees to switch protocols and returns the connection.
func (r *Reply) Tunnel(h message.Header) (io.ReadWriteCloser, error) {
	r.setCommon(&h)
	if r.To.Protocol != "" {
		r.setStatus(http.StatusOK)
	} else {
		r.setStatus(http.StatusSwitchingProtocols)
	}
	r.tunneled = true
	return r.Writer.Tunnel(h) //nolint:wrapcheck // it says that the client has left
}

// Abort says that the response cannot be completed.
func (r *Reply) Abort() { r.Aborted = true }

// Release gives the memory of compression back.
func (r *Reply) Release() {
	if r.encoder != nil {
		r.encoder.Release()
	}
}

// End sends the end of the response. It comes last, so that what a client has seen as a whole is in metrics, logs and
// spans.
func (r *Reply) End() {
	switch {
	case r.tunneled:
	case r.Aborted || !r.complete || r.Writer.End(r.trailer) != nil:
		r.Writer.Abort()
	}
}

// Change applies the changes of a route to a header. A value that is not valid because of what a client sent is left
// out.
func Change(h *message.Header, c *routes.Changes, r *flow.Routed) {
	for _, name := range c.Remove {
		h.Delete(name)
	}
	if len(c.Set)+len(c.Add) == 0 {
		return
	}
	vars := r.Vars()
	for _, f := range c.Set {
		h.Delete(f.Name)
		if value := f.Value.Text(vars); httpguts.ValidHeaderFieldValue(value) {
			h.Add(f.Name, value)
		}
	}
	for _, f := range c.Add {
		if value := f.Value.Text(vars); httpguts.ValidHeaderFieldValue(value) {
			h.Add(f.Name, value)
		}
	}
}

// FromOrigin returns an origin's header without what is about its connection. A response without a Content-Type stays
// so: a guess could turn text that a stranger wrote into HTML.
func FromOrigin(from message.Header) message.Header {
	drop := fields.Named(from)
	return slices.DeleteFunc(from, func(f message.Field) bool {
		switch f.Name {
		case "Connection", "Proxy-Connection", "Keep-Alive", "Proxy-Authenticate", "Te", "Trailer", "Transfer-Encoding",
			"Upgrade", "X-Request-Id", flow.FaultHeader, flow.AttemptsHeader:
			return true
		}
		return drop != nil && slices.Contains(drop, f.Name)
	})
}
