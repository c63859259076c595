package gateway

import (
	"context"
	"errors"
	"net/http"
	"net/textproto"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"bijou.dev/platform/circuit"
	"bijou.dev/platform/errs"
	"bijou.dev/platform/overload"
	"bijou.dev/platform/route"
	"bijou.dev/services/gateway/internal/compress"
	"bijou.dev/services/gateway/internal/fields"
	"bijou.dev/services/gateway/internal/syntax"
	"bijou.dev/services/gateway/routes"

	"go.opentelemetry.io/otel/attribute"
	oteltrace "go.opentelemetry.io/otel/trace"
)

// Limits of requests. They are not settings: for other limits put another server before or behind the edge.
const (
	maxHeader = routes.MostHeader // bytes of a request's header
	maxFields = 100
	maxURL    = 8 << 10

	headerTime = 10 * time.Second // for a client to send a header
	idleTime   = time.Minute      // between requests
	bodyTime   = 10 * time.Second // to wait for a body in all, plus a second for each bodyRate bytes
	bodyRate   = 1 << 10
	// to wait for the message of a gRPC client before the place in the circuit is given back
	placeTime = 25 * time.Millisecond
	writeTime = 10 * time.Second // for a client to read a response
	// to connect to an instance: a first packet that was lost is sent again after a second
	dialTime = 1500 * time.Millisecond

	maxReplay = 64 << 10 // bytes of body that are kept to send a request again
	maxKept   = 16 << 20 // bytes of all bodies that are kept; bodies beyond this are passed on as they come
)

// exchange is one request with its response.
type exchange struct {
	edge  *Edge
	w     http.ResponseWriter
	r     *http.Request
	start time.Time
	span  oteltrace.Span

	conn     *conn // nil: it did not come through connections.listener
	peer, id string
	trusted  []string // addresses that trusted proxies have added, the one of the client first
	path     string   // as it came, or normalized as its route says; escaped
	sent     string   // the path for the origin that rewrite.path has made; empty: path
	upgrade  string   // the protocol the client wants to switch to; empty: none
	grpc     bool
	// preflight: the request asks whether another one would be allowed, and the edge answers it
	preflight bool
	// clientCert describes the certificate of the client for the origin; empty: it has none, or the route does not ask.
	clientCert string
	deadline   time.Time // of a gRPC call, by its client; zero: none

	rule    *rule
	target  *target
	version string          // of the pin; empty: none
	permit  overload.Permit // given back when settled
	share   share           // given back when settled
	limited *limited        // nil: the route has no limits, or was not found
	settled atomic.Pointer[func(error)]

	header     http.Header // for the origin
	replay     []byte      // the body, when it was read as a whole
	kept       int64       // bytes of maxKept that it uses
	repeatable bool        // it is safe to send it twice
	body       *body       // being sent; nil: there is none, or replay is sent
	continued  bool        // answerExpect has sent 100
	tried      []string    // instance ids
	attempts   []attempt

	// Of the attempt whose answer goes to the client.
	picked  route.Picked
	res     *http.Response
	cancel  context.CancelCauseFunc
	late    atomic.Bool // the origin kept us waiting for too long
	waiting atomic.Bool // for more of the response
	out     sender
	encoder *compress.Writer // compresses the answer; nil: it is sent as it is
	timer   *time.Timer
	outcome route.Outcome

	status  int           // sent to the client; 0: nothing yet
	took    time.Duration // until the header was sent
	bytes   int64
	fault   Fault
	counted bool // in peer.requests
	abort   bool // the connection or stream is reset, because the response is not complete

	lines [13]string // see set
	used  int
}

// attempt is one attempt at one instance, as logs and X-Bijou-Attempts show it.
type attempt struct {
	instance string
	status   int // 0: no answer
	problem  string
	took     time.Duration
}

// serve handles a request in the order of steps of the package comment.
func (e *Edge) serve(w http.ResponseWriter, r *http.Request) {
	if !e.begin() {
		panic(http.ErrAbortHandler) // the edge was closed
	}
	defer e.work.Done()
	x := &exchange{
		edge: e, w: w, r: r, start: time.Now(), span: oteltrace.SpanFromContext(r.Context()),
		conn: connOf(r.Context()), peer: peerOf(r), id: requestID(r.Header), grpc: isGRPC(r),
	}
	e.metrics.inFlight.Inc()
	if x.conn != nil {
		x.conn.requests.Add(1)
	}
	defer x.end()
	f := x.admit()
	if f == nil {
		f = x.admitClient()
	}
	if f == nil && x.redirectToHTTPS() {
		return
	}
	if f == nil {
		f = x.choose()
	}
	if f == nil {
		f = x.limit()
	}
	if f == nil {
		if x.target == nil {
			f = x.respond()
		} else {
			f = x.forward()
		}
	}
	if f != nil {
		x.refuse(f)
	}
}

// admit checks what does not depend on the route.
func (x *exchange) admit() *failure {
	r := x.r
	if f := x.edge.conns.refusalOf(r); f != nil {
		x.span.SetAttributes(attribute.String("http.request.method_original", "")) // it is a secret
		return f
	}
	if x.edge.memory.isTight() {
		f := hangUp(http.StatusServiceUnavailable, "the edge has no memory for more requests")
		f.fault, f.retry = FaultOverload, time.Second
		return f
	}
	fields := 0
	for name, lines := range r.Header {
		fields += len(lines)
		if disguised(name) {
			return hangUp(http.StatusBadRequest, "the header %q must be written with dashes", name)
		}
	}
	switch {
	case fields > maxFields:
		return hangUp(http.StatusRequestHeaderFieldsTooLarge, "there must be at most %d header fields, there are %d",
			maxFields, fields)
	case len(r.RequestURI) > maxURL:
		return hangUp(http.StatusRequestURITooLong, "the URL must be at most %d bytes long", maxURL)
	case r.Method == http.MethodConnect || r.Method == http.MethodTrace:
		return hangUp(http.StatusMethodNotAllowed, "the method %s is not available here", r.Method)
	case !syntax.IsToken(r.Method):
		return hangUp(http.StatusBadRequest, "the method is not a token")
	case !syntax.IsHost(r.Host) && (r.Host != "" || r.ProtoAtLeast(1, 1)):
		return hangUp(http.StatusBadRequest, "the host %q is not valid", r.Host)
	}
	if x.grpc {
		x.deadline = deadlineOf(r.Header, x.start)
	}
	if f := x.admitForwarding(); f != nil {
		return f
	}
	x.path = rawPath(r)
	if err := routes.CheckPath(x.path); err != nil {
		return hangUp(http.StatusBadRequest, "%v", err)
	}
	if r.ProtoMajor == 2 {
		return admitHTTP2(r)
	}
	return x.admitUpgrade()
}

// admitForwarding answers requests that must not be forwarded: those that are for the edge itself (RFC 9110, 7.6.2 and
// 9.3.7), and those that go round in circles (RFC 9110, 7.6).
func (x *exchange) admitForwarding() *failure {
	r := x.r
	if passedEdges(r.Header["Via"]) >= maxEdges {
		return fail(FaultClient, http.StatusLoopDetected,
			"the request has come through %d edges; the service of its route leads back to the edge", maxEdges)
	}
	if r.Method != http.MethodOptions {
		return nil
	}
	if r.RequestURI == "*" || r.URL.Host != "" && r.URL.Path == "" && r.URL.RawQuery == "" {
		x.path = r.RequestURI
		return &failure{status: http.StatusOK}
	}
	lines := r.Header["Max-Forwards"]
	if len(lines) == 0 {
		return nil
	}
	left, err := strconv.ParseUint(lines[0], 10, 31)
	if len(lines) > 1 || err != nil && !errors.Is(err, strconv.ErrRange) {
		return hangUp(http.StatusBadRequest, "there must be one Max-Forwards, of digits")
	}
	if left == 0 {
		x.path = rawPath(r)
		return &failure{status: http.StatusOK}
	}
	r.Header["Max-Forwards"] = []string{strconv.FormatUint(left-1, 10)}
	return nil
}

// admitHTTP2 checks what framing checks for HTTP/1 and net/http does not for HTTP/2 (as of Go 1.26).
func admitHTTP2(r *http.Request) *failure {
	if strings.ContainsAny(r.RequestURI, " #") {
		return hangUp(http.StatusBadRequest, "the URL is not valid")
	}
	if hosts := r.Header["Host"]; len(hosts) > 1 || len(hosts) == 1 && !strings.EqualFold(hosts[0], r.Host) {
		return hangUp(http.StatusBadRequest, "the authority and the Host must name the same host, once")
	}
	for name, lines := range r.Header {
		for _, line := range lines {
			if line != textproto.TrimString(line) { // RFC 9113, 8.2.1
				return hangUp(http.StatusBadRequest, "the header %q must not begin or end with white space", name)
			}
		}
	}
	lengths := r.Header["Content-Length"]
	if len(lengths) == 0 {
		return nil
	}
	h := head{length: -1}
	if _, problem := h.contentLength(lengths[0]); problem != "" || len(lengths) > 1 {
		return hangUp(http.StatusBadRequest, "there must be one Content-Length, of digits")
	}
	if h.length != max(0, r.ContentLength) {
		return hangUp(http.StatusBadRequest, "the body is shorter than its Content-Length")
	}
	if len(r.Trailer) > 0 && r.ContentLength > 0 {
		r.ContentLength = -1 // in HTTP/1.1 a trailer needs chunks
	}
	return nil
}

// admitClient refuses clients that are banned, and limits the requests of one address: with HTTP/2, the limit of
// connections does not limit them.
func (x *exchange) admitClient() *failure {
	x.trusted = x.trustedAddrs()
	if f := x.refuseBanned(); f != nil {
		return f
	}
	if x.conn == nil {
		return nil
	}
	x.counted = true
	if x.conn.peer.requests.Add(1) <= x.edge.settings.maxConnsClient.Get() {
		return nil
	}
	f := fail(FaultClient, http.StatusTooManyRequests, "too many requests of one client are in progress")
	f.retry = time.Second
	return f
}

// admitUpgrade checks a request to switch protocols. An upgrade to h2c is ignored, as RFC 9113 advises, and so is each
// of HTTP/1.0 (RFC 9110, 7.8). HTTP/2 with prior knowledge works.
func (x *exchange) admitUpgrade() *failure {
	r := x.r
	if r.Proto != "HTTP/1.1" || !fields.HasWord(r.Header["Connection"], "upgrade") || len(r.Header["Upgrade"]) == 0 {
		return nil
	}
	lines := r.Header["Upgrade"]
	if len(lines) == 1 && strings.EqualFold(lines[0], "h2c") {
		return nil
	}
	if len(lines) > 1 || !strings.EqualFold(lines[0], "websocket") {
		return hangUp(http.StatusBadRequest, "the only protocol to upgrade to is websocket")
	}
	if r.Method != http.MethodGet || r.ContentLength != 0 {
		return hangUp(http.StatusBadRequest, "an upgrade must be a GET without a body")
	}
	x.upgrade = "websocket"
	return nil
}

// rawPath is the path as it came.
func rawPath(r *http.Request) string {
	if uri := r.RequestURI; strings.HasPrefix(uri, "/") {
		path, _, _ := strings.Cut(uri, "?")
		return path
	}
	if r.ProtoMajor != 1 || r.URL.Host == "" {
		return r.RequestURI // which CheckPath refuses
	}
	if path := r.URL.EscapedPath(); path != "" {
		return path
	}
	return "/"
}

// choose finds the route and the target.
func (x *exchange) choose() *failure {
	r := x.r
	t := x.edge.table.Load()
	found, path, err := x.find(t)
	if err != nil {
		return hangUp(http.StatusBadRequest, "%v", err)
	}
	x.path = path
	if found == nil {
		return fail(FaultNoRoute, http.StatusNotFound, "no route takes %s %s for host %s",
			r.Method, r.URL.Path, syntax.HostName(r.Host))
	}
	x.rule = t.rules[found.Number]
	r.Pattern = x.rule.Match.Path + x.rule.Match.Prefix // names the span
	if x.preflight {
		return nil // the edge answers
	}
	if f := x.admitClientCert(); f != nil {
		return f
	}
	if x.rule.RewritePath != nil {
		if x.sent = x.rule.RewritePath.URL(x.vars()); routes.Unambiguous(x.sent) != nil {
			return hangUp(http.StatusBadRequest, "the path that the route %s makes of this one is not valid", x.rule.Name)
		}
	}
	if limit := x.bodyLimit(); limit >= 0 && r.ContentLength > limit {
		return tooLarge(limit)
	}
	if len(x.rule.targets) == 0 {
		return nil // the edge answers
	}
	if x.edge.settings.pin.Get() {
		x.pin()
	}
	if x.target == nil {
		sticky := ""
		if x.rule.Sticky != "" {
			if c, err := r.Cookie(x.rule.Sticky); err == nil {
				sticky = c.Value
			}
		}
		x.target = x.rule.pick(sticky)
	}
	return nil
}

// pin obeys X-Bijou-Pin: "web=v2, catalog=v1".
func (x *exchange) pin() {
	for _, line := range x.r.Header["X-Bijou-Pin"] {
		for item := range strings.SplitSeq(line, ",") {
			service, version, _ := strings.Cut(strings.TrimSpace(item), "=")
			for _, t := range x.rule.targets {
				if t.Service != service || version == "" {
					continue
				}
				if t.Version == "" || t.Version == version || x.target == nil {
					x.target, x.version = t, version
				}
			}
		}
	}
}

// bodyLimit is the most bytes of body; -1: no limit. A gRPC call is a stream of messages, each limited by its server.
func (x *exchange) bodyLimit() int64 {
	switch limit := x.rule.MaxBody; {
	case x.grpc, limit < 0:
		return -1
	case limit > 0:
		return limit
	}
	return x.edge.settings.maxBody.Get()
}

func tooLarge(limit int64) *failure {
	return hangUp(http.StatusRequestEntityTooLarge, "the body must be at most %d bytes long", limit)
}

// forward asks the limiter and the circuit, sends the request with retries, and passes the response on. A failure that
// is returned is still to be sent to the client.
func (x *exchange) forward() *failure {
	r := x.r
	if f := x.prepareBody(); f != nil { // before a place is taken, so that slow clients hold none
		return f
	}
	limiter := x.target.origin.limiter
	key := circuit.Key{Group: x.target.name, Method: x.rule.Name}
	x.share = x.shareOf()
	if free := min(limiter.Free(), float64(x.edge.opts.Circuits.Free(key))); free > 0 { // else these two refuse
		if of := x.share.take(free); of != "" {
			return x.tooMany(of)
		}
	}
	permit, ok := limiter.Acquire(kinds[int(x.share.path)%len(kinds)], x.rule.Class)
	if !ok {
		f := fail(FaultOverload, http.StatusServiceUnavailable, "%s is overloaded, and requests that are %s are shed",
			x.target.name, x.rule.Class)
		f.retry = limiter.RetryAfter()
		x.share.release()
		return f
	}
	done, err := x.edge.opts.Circuits.Start(r.Context(), key)
	if err != nil {
		permit.Done(overload.Ignored)
		x.share.release()
		f := fail(FaultCircuit, http.StatusServiceUnavailable, "the circuit of %s is open", key)
		if x.rule.Circuit.CountErrors {
			f.detail += "; it counts responses with a status of 500 and above, as circuit.countErrors of the route says"
		}
		if errs.Reason(err) == circuit.ReasonFull {
			f = fail(FaultCircuit, http.StatusServiceUnavailable, "too many requests to %s are in progress", key)
		}
		f.retry = max(time.Second, errs.RetryAfter(err))
		return f
	}
	if x.streams() {
		done(errAborted)
		permit.Done(overload.Ignored)
		x.share.release()
		permit = overload.Permit{}
		done = func(verdict error) {
			if verdict == errAborted { //nolint:errorlint // it is this one
				return
			}
			if done, err := x.edge.opts.Circuits.Start(r.Context(), key); err == nil {
				done(verdict)
			}
		}
	}
	x.permit = permit
	x.settled.Store(&done)
	x.header = x.outgoing()
	f := x.send()
	x.header = nil // the answer may take long
	if f != nil {
		x.settle(f.verdict())
		return f
	}
	x.settle(x.verdict())
	if x.res.StatusCode == http.StatusSwitchingProtocols {
		return x.tunnel()
	}
	x.answer()
	return nil
}

// streams reports whether the body is passed on as it comes. How long that takes is up to the client, so such requests
// hold no place in the limit and the circuit: a few slow clients would take all places. The limiter and the circuit are
// asked before, and the circuit counts the outcome. A gRPC call holds a place until the edge has to wait for its
// client.
func (x *exchange) streams() bool {
	return !x.grpc && x.replay == nil && x.r.ContentLength != 0
}

// uploads reports whether the body is passed on to an origin that speaks HTTP/1.1.
func (x *exchange) uploads() bool { return x.streams() && !x.target.http2() }

// settle reports the outcome to the circuit and the limiter. Only the first call has an effect.
func (x *exchange) settle(err error) {
	done := x.settled.Swap(nil)
	if done == nil {
		return
	}
	err = x.share.judge(err)
	x.share.release()
	(*done)(err)
	switch {
	case err == nil:
		x.permit.Done(overload.Success)
	case errors.Is(err, errs.Timeout):
		x.permit.Done(overload.Dropped)
	default:
		x.permit.Done(overload.Ignored)
	}
}

// Outcomes for the circuit and the retries. All requests share them; they are never changed.
var (
	errAborted     = errs.Errorf(errs.Canceled, "the request was given up because of its client")
	errTimedOut    = errs.Errorf(errs.Timeout, "the origin took too long")
	errUnreachable = errs.Errorf(errs.Unavailable, "the origin was not reached")
	errBroken      = errs.Errorf(errs.Internal, "the origin broke off")
	errCounted     = errs.Errorf(errs.Internal, "the origin answered with an error, and its route counts that")
	errAnswered    = errs.Errorf(errs.Internal, "the origin answered with an error").Because(circuit.ReasonIsolated)
	errOneURL      = errs.Errorf(errs.Internal, "only this URL does not get a response").Because(circuit.ReasonIsolated)
)

func (f *failure) verdict() error {
	switch f.fault {
	case FaultTimeout:
		return errTimedOut
	case FaultUnreachable:
		return errUnreachable
	case FaultOrigin:
		return errBroken
	}
	return errAborted
}

// verdict is what the response means for the circuit. That an instance responds with an error is its own business: if
// the circuit counted it, whoever requests one failing URL often would close the route for everybody.
func (x *exchange) verdict() error {
	var bad bool
	switch {
	case !x.grpc:
		bad = x.res.StatusCode >= 500 && x.res.StatusCode != http.StatusNotImplemented
	case x.res.Header.Get("Grpc-Status") == exhausted:
		return errAborted // shed: if it opened the circuit, the important calls would be refused with the others
	case x.outcome == route.Abandoned:
		return errAborted
	case x.outcome == route.Unreachable:
		return errUnreachable // gRPC gives UNAVAILABLE to what did not reach the server
	default:
		bad = x.outcome != route.Success
	}
	switch {
	case !bad:
		return nil
	case x.rule.Circuit.CountErrors:
		return errCounted
	}
	return errAnswered
}

// exhausted is RESOURCE_EXHAUSTED on the wire.
const exhausted = "8"

// refuse answers with a failure, unless the answer has begun.
func (x *exchange) refuse(f *failure) {
	x.fault = f.fault
	if x.status != 0 {
		x.abort = true
		return
	}
	x.setStatus(f.status)
	if f.fault == FaultClientGone {
		x.abort = true // the client has closed its connection
		return
	}
	x.setCommonHeaders()
	x.setOrigins(x.w.Header())
	f.close = f.close || x.bodyRemains()
	if f.close && x.conn != nil {
		x.conn.refused.Store(true)
	}
	traceID := ""
	if sc := x.span.SpanContext(); sc.IsValid() {
		traceID = sc.TraceID().String()
	}
	f.write(x.w, x.r, x.id, traceID)
}

// bodyRemains reports whether the rest of a body that was being passed on comes before the next request of the
// connection. Then the connection must be closed: after EnableFullDuplex net/http does not find out whether it could
// read the rest, and would read it as a request (as of Go 1.26).
func (x *exchange) bodyRemains() bool { return x.body != nil && x.r.ProtoMajor == 1 && !x.body.whole() }

// boundUnread limits how long net/http reads the rest of a body that was not read to its end: by default it has no time
// limit. When the time is over net/http closes the connection, see conn.Close.
func (x *exchange) boundUnread() {
	r := x.r
	if x.conn == nil || r.ProtoMajor != 1 || r.ContentLength == 0 || int64(len(x.replay)) == r.ContentLength ||
		x.body != nil && x.body.whole() {
		return
	}
	x.conn.refused.Store(true)
	_ = http.NewResponseController(x.w).SetReadDeadline(time.Now().Add(lingerTime)) // fails only when closed
}

// setStatus records the status that is sent to the client now.
func (x *exchange) setStatus(status int) { x.status, x.took = status, time.Since(x.start) }

// setCommonHeaders sets the header fields that every answer has.
func (x *exchange) setCommonHeaders() {
	h := x.w.Header()
	x.set(h, "X-Request-Id", x.id)
	if x.edge.settings.debug.Get() && len(x.attempts) > 0 {
		h.Set(attemptsHeader, describe(x.attempts))
	}
	if x.limited != nil {
		x.limited.setHeader(h, x.rule.policies)
	}
}

// describe lists attempts on one line: "web-1 error 2ms; web-2 200 5ms".
func describe(attempts []attempt) string {
	var b strings.Builder
	for i, a := range attempts {
		if i > 0 {
			b.WriteString("; ")
		}
		b.WriteString(a.instance)
		b.WriteByte(' ')
		if a.status > 0 {
			b.WriteString(strconv.Itoa(a.status))
		} else {
			b.WriteString(a.problem)
		}
		b.WriteByte(' ')
		b.WriteString(a.took.Round(10 * time.Microsecond).String())
	}
	return b.String()
}

// end is called at the end of every request, also after a failure or a panic.
func (x *exchange) end() {
	if v := recover(); v != nil && v != http.ErrAbortHandler { //nolint:errorlint // as net/http does
		x.panicked(v)
	}
	x.settle(errAborted)
	x.release()
	if x.limited != nil {
		x.limited.release()
	}
	if x.encoder != nil {
		x.encoder.Release()
	}
	x.boundUnread()
	x.edge.kept.Add(-x.kept)
	if x.conn != nil && x.conn.requests.Add(-1) == 0 {
		x.edge.memory.forget(x.conn)
	}
	if x.counted {
		x.conn.peer.requests.Add(-1)
	}
	if x.r.ProtoMajor == 2 && !x.grpc && !x.abort {
		// The server writes the buffered rest of the response after this, and would wait without a limit for a client
		// that sends no window updates. The rest of a gRPC response is a trailer, which needs no window.
		_ = http.NewResponseController(x.w).SetWriteDeadline(time.Now().Add(writeTime)) // fails only when closed
	}
	x.edge.metrics.inFlight.Dec()
	x.edge.metrics.count(x)
	x.report()
	if x.abort {
		panic(http.ErrAbortHandler)
	}
}

// release frees what the attempt holds. The request's body is detached first: an origin may have responded without
// reading all of it, and closing an answer of HTTP/2 waits for the goroutine that sends the body (golang/go#80085).
func (x *exchange) release() {
	if x.body != nil {
		x.body.detach()
	}
	if x.timer != nil {
		x.timer.Stop()
	}
	if x.cancel != nil {
		x.cancel(nil)
	}
	if x.res != nil && x.res.Body != nil {
		_ = x.res.Body.Close() // read to its end, or not used
	}
	x.picked.Done(x.outcome)
}

// report puts the outcome on the span.
func (x *exchange) report() {
	if x.span.IsRecording() {
		attrs := make([]attribute.KeyValue, 0, 6)
		attrs = append(attrs, attribute.String("bijou.request_id", x.id),
			attribute.Int("bijou.gateway.attempts", len(x.attempts)))
		if x.fault != "" {
			attrs = append(attrs, attribute.String("bijou.gateway.fault", string(x.fault)))
		}
		if x.rule != nil {
			attrs = append(attrs, attribute.String("bijou.gateway.route", x.rule.Name))
		}
		if x.target != nil {
			attrs = append(attrs, attribute.String("bijou.gateway.service", x.target.name))
		}
		x.span.SetAttributes(attrs...)
	}
	x.access()
}

// prepareBody reads a small body completely, so that it can be sent again, and so that a slow client holds no place in
// the limit or the circuit meanwhile.
func (x *exchange) prepareBody() *failure {
	r := x.r
	x.repeatable = r.Header["Idempotency-Key"] != nil || x.rule.Repeats(r.Method)
	if r.ContentLength <= 0 || r.ContentLength > maxReplay || x.grpc {
		return nil
	}
	size := int(r.ContentLength)
	if !x.keep(min(size, 4<<10)) {
		return nil
	}
	b := newBody(x)
	// The buffer grows with what has come, not with what was announced.
	x.replay = make([]byte, 0, min(size, 4<<10))
	for {
		n, err := b.Read(x.replay[len(x.replay):cap(x.replay)])
		x.replay = x.replay[:len(x.replay)+n]
		if len(x.replay) == size || err != nil {
			break
		}
		if len(x.replay) == cap(x.replay) {
			more := min(size, 2*cap(x.replay)) - len(x.replay)
			if !x.keep(more) {
				b.ahead, x.replay, x.body = x.replay, nil, b
				return nil
			}
			x.replay = slices.Grow(x.replay, more)
			x.replay = x.replay[:len(x.replay):min(cap(x.replay), size)]
		}
	}
	b.detach()
	if f := b.failure(); f != nil {
		return f
	}
	if len(x.replay) < size {
		return hangUp(http.StatusBadRequest, "the body is shorter than its Content-Length")
	}
	return nil
}

// keep reserves n bytes of maxKept for the body; false: too little is left.
func (x *exchange) keep(n int) bool {
	if x.edge.kept.Add(int64(n)) > maxKept {
		x.edge.kept.Add(-int64(n))
		return false
	}
	x.kept += int64(n)
	return true
}
