package trace

import (
	"bufio"
	"context"
	"io"
	"net"
	"net/http"
	"strconv"
	"strings"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/propagation"
	semconv "go.opentelemetry.io/otel/semconv/v1.43.0"
	"go.opentelemetry.io/otel/trace"

	"bijou.dev/platform/text"
)

// serverKind is made once, because options made for each request cost an allocation, also when it is not sampled.
var serverKind = []trace.SpanStartOption{trace.WithSpanKind(trace.SpanKindServer)}

// Middleware makes a server span for each request, as a child of the caller's span if the request has one. The span
// has method, path, scheme, protocol version, client address, route and status, named as in the semantic conventions.
// It never has the query, which may contain secrets. A method that HTTP does not define is HTTP in the name, see
// [MethodName]. The route is the pattern of the http.ServeMux that served the request; a handler that routes in another
// way sets r.Pattern, or http.route and the name of the span. A status of 500 or more, or a panic, marks the span as an
// error.
//
// A request that is not sampled gets a context with the trace id; its ResponseWriter is not wrapped.
func (p *Provider) Middleware(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		in := Incoming{
			Header: propagation.HeaderCarrier(r.Header), Method: r.Method, Scheme: "http", Path: r.URL.Path,
			Version: strings.TrimPrefix(r.Proto, "HTTP/"),
		}
		if host, _, err := net.SplitHostPort(r.RemoteAddr); err == nil {
			in.Client = host
		}
		if r.TLS != nil {
			in.Scheme = "https"
		}
		ctx, span := p.StartServer(r.Context(), in)
		defer span.End()
		r = r.WithContext(ctx)
		if !span.IsRecording() {
			next.ServeHTTP(w, r)
			return
		}
		sw := &statusWriter{ResponseWriter: w}
		status := http.StatusInternalServerError // if next panics
		defer func() {
			// A pattern is "[METHOD ][HOST]/path"; the convention wants the path. For CONNECT it may be the client's own path:
			// net/http sets that when it redirects to the path with a slash at its end (as of Go 1.26).
			route := ""
			if i := strings.IndexByte(r.Pattern, '/'); i >= 0 && r.Method != http.MethodConnect {
				route = r.Pattern[i:]
			}
			FinishServer(span, r.Method, route, status)
		}()
		next.ServeHTTP(sw, r)
		status = sw.code()
	})
}

// Incoming is a request as its server has received it.
type Incoming struct {
	// Header may have the trace context of the caller.
	Header propagation.TextMapCarrier
	Method string
	Scheme string // http or https
	Path   string
	// Version is the version of HTTP: 1.1.
	Version string
	// Client is the address of the client without a port. Empty: it is not known.
	Client string
}

// StartServer makes the span of a request for a server that is not net/http's; [Provider.Middleware] says what it has.
// End it by [FinishServer] and End.
func (p *Provider) StartServer(ctx context.Context, r Incoming) (context.Context, trace.Span) {
	ctx, span := p.StartRemote(ctx, r.Header, MethodName(r.Method), serverKind...)
	if span.IsRecording() {
		var known [8]attribute.KeyValue
		attrs := append(AppendMethod(known[:0], r.Method),
			semconv.URLScheme(r.Scheme), semconv.URLPath(r.Path), semconv.NetworkProtocolVersion(r.Version))
		if r.Client != "" {
			attrs = append(attrs, semconv.ClientAddress(r.Client))
		}
		SetAttributes(span, attrs...)
	}
	return ctx, span
}

// FinishServer puts the outcome on the span of a request. An empty route: there is none.
func FinishServer(span trace.Span, method, route string, status int) {
	if !span.IsRecording() {
		return
	}
	SetAttributes(span, semconv.HTTPResponseStatusCode(status))
	if route != "" {
		SetAttributes(span, semconv.HTTPRoute(route))
		span.SetName(MethodName(method) + " " + route)
	}
	if status >= 500 {
		SetAttributes(span, semconv.ErrorTypeKey.String(strconv.Itoa(status)))
		span.SetStatus(codes.Error, "")
	}
}

// MethodName returns how the name of a span for an HTTP request begins: with its method, or with HTTP if HTTP does not
// define the method. Clients may send any text as a method, and spans must not have any number of names.
func MethodName(method string) string {
	if isMethod(method) {
		return method
	}
	return "HTTP"
}

// maxMethod bounds a method that HTTP does not define, in bytes.
const maxMethod = 64

// AppendMethod appends the attributes of a span that have the method of a request. If HTTP does not define it, they are
// _OTHER and the first 64 bytes of the method.
func AppendMethod(attrs []attribute.KeyValue, method string) []attribute.KeyValue {
	if isMethod(method) {
		return append(attrs, semconv.HTTPRequestMethodKey.String(method))
	}
	return append(attrs, semconv.HTTPRequestMethodOther,
		semconv.HTTPRequestMethodOriginal(text.Bound(method, maxMethod)))
}

// isMethod reports whether m is one of the methods that OpenTelemetry's conventions know.
func isMethod(m string) bool {
	switch m {
	case http.MethodGet, http.MethodHead, http.MethodPost, http.MethodPut, http.MethodPatch, http.MethodDelete,
		http.MethodConnect, http.MethodOptions, http.MethodTrace, "QUERY":
		return true
	}
	return false
}

// statusWriter records the status. It supports the optional interfaces that handlers use: flushing, hijacking, and
// copies by the kernel.
type statusWriter struct {
	http.ResponseWriter
	status int // 0: nothing written yet
}

func (w *statusWriter) code() int {
	if w.status == 0 {
		return http.StatusOK
	}
	return w.status
}

// WriteHeader implements http.ResponseWriter.
func (w *statusWriter) WriteHeader(status int) {
	// After other 1xx responses comes the final one.
	if w.status == 0 && (status >= 200 || status == http.StatusSwitchingProtocols) {
		w.status = status
	}
	w.ResponseWriter.WriteHeader(status)
}

// Flush implements http.Flusher.
func (w *statusWriter) Flush() {
	_ = http.NewResponseController(w.ResponseWriter).Flush() // an http.Flusher cannot return an error
}

// Hijack implements http.Hijacker.
func (w *statusWriter) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	conn, rw, err := http.NewResponseController(w.ResponseWriter).Hijack()
	if err == nil && w.status == 0 {
		w.status = http.StatusSwitchingProtocols
	}
	return conn, rw, err
}

// ReadFrom implements io.ReaderFrom.
func (w *statusWriter) ReadFrom(r io.Reader) (int64, error) { return io.Copy(w.ResponseWriter, r) }

// Unwrap is for http.ResponseController.
func (w *statusWriter) Unwrap() http.ResponseWriter { return w.ResponseWriter }
