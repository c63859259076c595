package gateway

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"io"
	"maps"
	"math"
	"net"
	"net/http"
	"net/http/httptrace"
	"net/textproto"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"bijou.dev/platform/errs"
	"bijou.dev/platform/retry"
	"bijou.dev/platform/route"
	"bijou.dev/platform/trace"
	"bijou.dev/services/gateway/internal/compress"
	"bijou.dev/services/gateway/internal/syntax"
	"bijou.dev/services/gateway/routes"

	"go.opentelemetry.io/otel/attribute"
	otelcodes "go.opentelemetry.io/otel/codes"
	oteltrace "go.opentelemetry.io/otel/trace"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// What an attempt returns to retry.Do.
var (
	errFinal   = errs.Errorf(errs.Internal, "another attempt would not help")
	errAgain   = errs.Errorf(errs.Unavailable, "another instance may answer")
	errNotSent = errs.Errorf(errs.Unavailable, "no instance has seen the request").Because(retry.ReasonNotSent)
)

// errBody replaces a response to a request whose body is invalid. explain returns the reason.
var errBody = errors.New("the client's body is wrong")

// errLate ends an attempt whose time is over.
var errLate = errors.New("the time for the response is over")

// send makes attempts until x.res is an answer for the client, or returns why there is none.
func (x *exchange) send() (f *failure) {
	policy := retry.Policy{Budget: x.target.origin.budget, Idempotent: x.repeatable}
	_ = retry.Do(x.r.Context(), policy, func(ctx context.Context, n int) error { // f and x.res have more than the error
		var again error
		f, again = x.attempt(ctx, n, f)
		if again != nil && n >= x.rule.Attempts {
			return errFinal
		}
		return again
	})
	if x.res != nil {
		return nil
	}
	if f == nil { // the client left between two attempts
		return x.clientLeft()
	}
	return f
}

func (x *exchange) clientLeft() *failure {
	return fail(FaultClientGone, statusClientGone, "the client left")
}

// attempt sends the request to one more instance. The error decides whether there is another attempt. last is the
// failure of the attempt before.
func (x *exchange) attempt(ctx context.Context, n int, last *failure) (*failure, error) {
	picked, err := x.pick()
	if err != nil {
		if n > 1 {
			return last, errFinal // there is no other instance; the last outcome is the response
		}
		return x.noInstance(err), errFinal
	}
	if n > 1 {
		x.edge.metrics.retries.WithLabelValues(x.rule.Name).Inc()
		x.release()
		x.res, x.body, x.outcome = nil, nil, route.Success
		x.header = maps.Clone(x.header) // the sender of the last attempt may still read it
	}
	x.picked = picked
	if !x.passDeadline() {
		return x.deadlineExceeded(), errFinal
	}
	to := picked.Endpoint()
	x.tried = append(x.tried, to.ID)
	begin := time.Now()
	res, f, again := x.roundTrip(ctx, n, to) //nolint:bodyclose // release closes it, here or when the exchange ends
	a := attempt{instance: to.ID, took: time.Since(begin)}
	if f != nil {
		a.problem = string(f.fault)
		x.attempts = append(x.attempts, a)
		x.release()
		x.picked = route.Picked{}
		return f, again
	}
	a.status = res.StatusCode
	x.attempts = append(x.attempts, a)
	x.res = res
	x.judge()
	x.picked.Answered(x.outcome)
	x.target.origin.outage.end()
	if x.repeatable && x.body == nil && x.outcome == route.Unreachable && !x.grpc &&
		!strings.HasPrefix(res.Header.Get(errs.Pushback), "-") {
		return nil, errAgain // 502, 503, 504: the client gets this answer unless there is a better one
	}
	return nil, nil
}

// pick chooses an instance of the target, or, if none is left, of the route's other targets: requests do not fail
// because a canary has no instance. A pinned version is not replaced.
func (x *exchange) pick() (route.Picked, error) {
	info := route.PickInfo{Exclude: x.tried, Version: x.target.Version, Stream: x.grpc || x.upgrade != ""}
	if x.version != "" {
		info.Version = x.version
	}
	picked, err := x.target.origin.balancer.Pick(info)
	if err != nil && len(x.tried) == 0 && x.target.origin.awaitFirst(x.r.Context()) {
		picked, err = x.target.origin.balancer.Pick(info)
	}
	if err == nil || x.version != "" {
		return picked, err
	}
	for _, heavy := range []bool{true, false} { // those with a weight first
		for _, t := range x.rule.targets {
			if t == x.target || (t.Weight > 0) != heavy || !t.origin.has(t.Version) {
				continue
			}
			info.Version = t.Version
			if picked, e := t.origin.balancer.Pick(info); e == nil {
				if x.target.origin.watch != nil && len(x.tried) > 0 {
					x.target.origin.outage.begin()
				}
				x.target = t
				return picked, nil
			}
		}
	}
	return picked, err
}

func (x *exchange) noInstance(err error) *failure {
	f := fail(FaultUnreachable, http.StatusServiceUnavailable, "no instance of %s can take the request: %v",
		x.target.name, err)
	f.retry = time.Second
	return f
}

// roundTrip sends the request to one instance and returns its answer, or what went wrong and whether another instance
// may help.
func (x *exchange) roundTrip(parent context.Context, n int, to route.Endpoint) (*http.Response, *failure, error) {
	x.startBody()
	ctx, cancel := x.attemptContext(parent)
	x.cancel = cancel
	x.startTimer(cancel)
	ctx, span := x.startSpan(ctx, n, to)
	res, err := x.exchangeWith(ctx, to.Addr)
	if !x.timer.Stop() && err == nil && !x.grpc {
		err = errLate
		_ = res.Body.Close()
	}
	if err == nil && res.StatusCode == http.StatusSwitchingProtocols && x.upgrade == "" {
		err = errSwitched
		_ = res.Body.Close()
	}
	if err == nil && res.StatusCode < 100 {
		err = errStatus
		_ = res.Body.Close()
	}
	if err == nil && x.body != nil && x.body.failure() != nil {
		err = errBody // an origin may respond to a part of a body; the client gets the reason why it is only a part
		_ = res.Body.Close()
	}
	endSpan(span, res, err)
	if err != nil {
		f, again := x.explain(ctx, err)
		return nil, f, again
	}
	return res, nil, nil
}

// startBody prepares a body that is passed on as it comes.
func (x *exchange) startBody() {
	if x.replay != nil || x.r.ContentLength == 0 {
		return
	}
	if x.body == nil {
		x.body = newBody(x)
	}
	if x.r.ProtoMajor == 1 {
		// Else the server would read the rest of the body before it sends the header of the response.
		_ = http.NewResponseController(x.w).EnableFullDuplex() // HTTP/1 can
	}
}

// attemptContext returns the context of an attempt. It does not end when a transport closes the body that it sends,
// because it has got the answer or an error. That interrupts a read of the body, and net/http then cancels the context
// of a request of HTTP/1, as if the client had left.
func (x *exchange) attemptContext(parent context.Context) (context.Context, context.CancelCauseFunc) {
	b := x.body
	if b == nil || x.r.ProtoMajor != 1 {
		return context.WithCancelCause(parent)
	}
	ctx, cancel := context.WithCancelCause(context.WithoutCancel(parent))
	context.AfterFunc(parent, func() {
		if !b.interrupted.Load() {
			cancel(context.Cause(parent))
		}
	})
	return ctx, cancel
}

// hasLeft reports whether the client has closed its connection or reset its stream.
func (x *exchange) hasLeft() bool {
	return x.r.Context().Err() != nil && (x.body == nil || !x.body.interrupted.Load())
}

// startTimer limits the wait for the header of the response. A gRPC server may be silent until its first message, so
// for gRPC only the place in the circuit is given back.
func (x *exchange) startTimer(cancel context.CancelCauseFunc) {
	limit := x.headerTimeout()
	switch {
	case x.uploads():
		limit = math.MaxInt64 // upload.write and upload limit the time of the origin
	case x.grpc:
		x.timer = time.AfterFunc(limit, func() { x.settle(errAborted) })
		return
	}
	if total := x.total(); total > 0 && !x.uploads() {
		limit = min(limit, max(0, total-time.Since(x.start)))
	}
	x.late.Store(false)
	x.timer = time.AfterFunc(limit, func() {
		x.late.Store(true)
		cancel(errLate)
	})
}

// headerTimeout is the time for the header of the response.
func (x *exchange) headerTimeout() time.Duration {
	if x.rule.HeaderTimeout >= 0 {
		return x.rule.HeaderTimeout
	}
	return x.edge.settings.header.Get()
}

// total is the time for all attempts until a response begins, and for each pause of it; 0: no limit.
func (x *exchange) total() time.Duration {
	if x.rule.TotalTimeout >= 0 {
		return x.rule.TotalTimeout
	}
	return x.edge.settings.total.Get()
}

// exchangeWith sends the request to an address and waits for the answer's header.
func (x *exchange) exchangeWith(ctx context.Context, addr string) (*http.Response, error) {
	overHTTP2 := x.grpc || x.target.http2()
	switch { // here because another attempt may be by another protocol
	case x.header["Te"] == nil:
	case overHTTP2:
		delete(x.header, "Connection")
	default:
		x.header["Connection"] = te // RFC 9110, 10.1.4
	}
	switch {
	case x.uploads():
		return x.target.origin.wire.upload(ctx, addr, x)
	case x.repeatable && x.upgrade == "" && !overHTTP2:
		return x.target.origin.wire.roundTrip(ctx, addr, x)
	}
	req := (&http.Request{
		Method: x.r.Method, URL: x.url(addr), Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1,
		Header: x.header, Host: x.host(),
	}).WithContext(ctx)
	switch req.ContentLength = x.r.ContentLength; {
	case x.body != nil:
		req.Body, req.Trailer = x.body, x.body.trailer
	case x.replay != nil:
		req.Body = io.NopCloser(bytes.NewReader(x.replay))
		req.GetBody = func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(x.replay)), nil }
	}
	if overHTTP2 {
		return x.byTransport(x.target.origin.h2, req)
	}
	return x.byTransport(x.target.origin.h1, req)
}

// byTransport sends a request by http.Transport, which calls Got1xxResponse in another goroutine.
func (x *exchange) byTransport(t *http.Transport, req *http.Request) (*http.Response, error) {
	x.answerExpect()
	// lock guards x.w until the transport has returned. It is a channel because writing may take long, and fake time
	// stands still while a goroutine waits for a mutex.
	lock, n, returned := make(chan struct{}, 1), 0, false
	ctx := httptrace.WithClientTrace(req.Context(), &httptrace.ClientTrace{
		Got1xxResponse: func(status int, header textproto.MIMEHeader) error {
			lock <- struct{}{}
			defer func() { <-lock }()
			if n++; n > maxInterim {
				return errInterim // this hook has replaced the limit of the transport
			}
			if !returned {
				x.passInterim(status, http.Header(header))
			}
			return nil
		},
	})
	res, err := t.RoundTrip(req.WithContext(ctx))
	lock <- struct{}{}
	returned = true
	<-lock
	return res, err
}

// passInterim passes a 1xx answer on (RFC 9110, 15.2). 100 is not passed: the edge answers Expect itself.
func (x *exchange) passInterim(status int, header http.Header) {
	if status == http.StatusContinue || !x.r.ProtoAtLeast(1, 1) {
		return
	}
	h := x.w.Header()
	copyAnswer(h, header)
	// WriteHeader does not send Content-Length. With it, the server of HTTP/2 clones h, which it would else still read
	// after WriteHeader has returned because the stream is closed (as of Go 1.26).
	h["Content-Length"] = nil
	x.w.WriteHeader(status)
	clear(h)
}

// answerExpect sends 100 if the client waits for it. net/http sends it when the body is first read, which another
// goroutine does, while this one may send interim answers: it does not exclude one from the other (as of Go 1.26).
func (x *exchange) answerExpect() {
	if x.body == nil || x.continued || x.r.ProtoMajor != 1 || !x.r.ProtoAtLeast(1, 1) || x.r.Header["Expect"] == nil {
		return
	}
	x.continued = true
	x.w.WriteHeader(http.StatusContinue)
}

func (x *exchange) url(addr string) *url.URL {
	if strings.HasPrefix(addr, "/") {
		addr = "localhost" // a unix socket, which the dial function knows
	}
	u := &url.URL{Scheme: "http", Host: addr, RawQuery: x.r.URL.RawQuery, ForceQuery: x.r.URL.ForceQuery}
	path := x.targetPath()
	u.Path = path
	if strings.IndexByte(path, '%') >= 0 {
		if plain, err := url.PathUnescape(path); err == nil { // checkPath has checked that it can be unescaped
			u.Path, u.RawPath = plain, path
		}
	}
	return u
}

// targetPath is the path for the origin, with its escapes.
func (x *exchange) targetPath() string {
	if x.sent != "" {
		return x.sent
	}
	if to := x.rule.Rewrite.Prefix; to != "" {
		return routes.ReplacePrefix(x.path, len(x.rule.Match.Prefix), to)
	}
	return x.path
}

// host is the Host for the origin, which HTTP/1.1 demands also where the client of HTTP/1.0 has sent none.
func (x *exchange) host() string {
	if x.target.origin.url.TLS() {
		return cmp.Or(x.rule.Rewrite.Host, x.target.origin.url.Host())
	}
	return cmp.Or(x.rule.Rewrite.Host, x.r.Host, x.target.name)
}

// explain returns the failure of an attempt, and whether there may be another attempt.
func (x *exchange) explain(ctx context.Context, err error) (*failure, error) {
	service := x.target.name
	x.outcome = route.Abandoned
	if x.body != nil {
		if f := x.body.failure(); f != nil {
			return f, errFinal
		}
	}
	if x.hasLeft() {
		return x.clientLeft(), errFinal
	}
	if x.expired() {
		return x.deadlineExceeded(), errFinal
	}
	x.outcome = route.Unreachable
	untouched := x.body == nil || x.body.spare()
	if errors.Is(err, errLate) || errors.Is(context.Cause(ctx), errLate) {
		if x.body != nil && x.body.waits() {
			x.outcome = route.Abandoned
			return hangUp(http.StatusRequestTimeout, "the body came too slowly"), errFinal
		}
		f := fail(FaultTimeout, http.StatusGatewayTimeout, "%s did not answer in time", service)
		if total := x.total(); total > 0 && time.Since(x.start) >= total {
			return f, errFinal
		}
		return f, x.unless(!untouched, errAgain)
	}
	if op, ok := errors.AsType[*net.OpError](err); ok && op.Op == "dial" || errors.Is(err, context.DeadlineExceeded) {
		f := fail(FaultUnreachable, http.StatusBadGateway, "an instance of %s could not be reached", service)
		return f, x.unless(!untouched, errNotSent)
	}
	f := fail(FaultOrigin, http.StatusBadGateway, "an instance of %s broke off before it answered", service)
	return f, x.unless(!untouched, errAgain)
}

func (x *exchange) unless(final bool, again error) error {
	if final {
		return errFinal
	}
	return again
}

// judge sets the outcome for the balancer and the fault from the header of the response.
func (x *exchange) judge() {
	x.outcome = route.OutcomeOfHTTP(x.res.StatusCode)
	if x.res.StatusCode >= 500 {
		x.fault = FaultOrigin
	} else {
		x.fault = ""
	}
	if x.grpc {
		x.judgeGRPC(x.res.Header)
	}
}

// judgeGRPC does so from the status of a gRPC call, if h has it.
func (x *exchange) judgeGRPC(h http.Header) {
	n, err := strconv.Atoi(h.Get("Grpc-Status"))
	if err != nil {
		return
	}
	if codes.Code(n) == codes.DeadlineExceeded && x.expired() {
		x.outcome = route.Abandoned
		return
	}
	x.outcome = route.OutcomeOfRPC(status.Error(codes.Code(n), ""))
	if x.outcome == route.Failure || x.outcome == route.Unreachable {
		x.fault = FaultOrigin
	}
}

// startSpan makes a span for the attempt if the request is recorded, and passes the trace on.
func (x *exchange) startSpan(ctx context.Context, n int, to route.Endpoint) (context.Context, oteltrace.Span) {
	p := x.edge.opts.Trace
	var span oteltrace.Span
	if x.span.IsRecording() {
		ctx, span = p.Tracer().Start(ctx, trace.MethodName(x.r.Method)+" "+x.target.name,
			oteltrace.WithSpanKind(oteltrace.SpanKindClient))
		span.SetAttributes(trace.MethodAttributes(x.r.Method)...)
		span.SetAttributes(
			attribute.String("server.address", to.Addr),
			attribute.String("peer.service", x.target.name),
			attribute.Int("http.request.resend_count", n-1),
		)
		why := x.picked.Why()
		span.SetAttributes(why.Attributes()...)
	}
	p.Propagator().Inject(ctx, carrier{x})
	return ctx, span
}

func endSpan(span oteltrace.Span, res *http.Response, err error) {
	if span == nil {
		return
	}
	if err != nil {
		span.SetStatus(otelcodes.Error, err.Error())
	} else {
		span.SetAttributes(attribute.Int("http.response.status_code", res.StatusCode))
		if res.StatusCode >= 400 {
			span.SetStatus(otelcodes.Error, "")
		}
	}
	span.End()
}

// carrier puts a trace context into the header for the origin.
type carrier struct{ x *exchange }

// Get is not needed to inject.
func (c carrier) Get(string) string { return "" }

// Keys is not needed to inject.
func (c carrier) Keys() []string { return nil }

// Set sets a field.
func (c carrier) Set(key, value string) {
	switch key {
	case "traceparent":
		key = "Traceparent"
	case "tracestate":
		key = "Tracestate"
	default:
		key = syntax.Canonical(key)
	}
	c.x.header[key] = []string{value} // not by x.set: an earlier attempt may still read its line
}

// buffer is the memory for copying a body. It is small while the pieces are small, because there may be thousands of
// slow clients, and when all large buffers are in use. It must be freed.
type buffer struct {
	small []byte
	large *[largeBuffer]byte
}

const (
	smallBuffer, largeBuffer = 4 << 10, 32 << 10
	maxLarge                 = 64
)

var (
	largeBuffers = sync.Pool{New: func() any { return new([largeBuffer]byte) }}
	largeTaken   atomic.Int64
)

// next returns memory for what comes next; n is how much came last.
func (b *buffer) next(n int) []byte {
	switch {
	case n < smallBuffer/2:
		b.free()
	case b.large == nil && largeTaken.Add(1) <= maxLarge:
		b.large = largeBuffers.Get().(*[largeBuffer]byte)
	case b.large == nil:
		largeTaken.Add(-1)
	}
	if b.large != nil {
		return b.large[:]
	}
	if b.small == nil {
		b.small = make([]byte, smallBuffer)
	}
	return b.small
}

func (b *buffer) free() {
	if b.large != nil {
		largeBuffers.Put(b.large)
		largeTaken.Add(-1)
		b.large = nil
	}
}

// answer passes the origin's answer on.
func (x *exchange) answer() {
	res := x.res
	h := x.w.Header()
	copyAnswer(h, res.Header)
	if c := &x.rule.Response; c.Any() {
		x.change(h, c)
	}
	x.setOrigins(h)
	x.compress(res.StatusCode, h, res.ContentLength)
	x.setCommonHeaders()
	if x.fault != "" {
		x.set(h, faultHeader, string(x.fault))
	}
	connection := named(res.Header["Connection"])
	for name := range res.Trailer {
		if x.passesInTrailer(name, connection) {
			h.Add("Trailer", name)
		}
	}
	if x.bodyRemains() {
		h.Set("Connection", "close")
	}
	x.setStatus(res.StatusCode)
	x.w.WriteHeader(res.StatusCode)
	switch err := x.copy(); {
	case errors.Is(err, errLeaving):
		x.leave()
		return
	case err != nil:
		x.broke(err)
		return
	}
	x.sendTrailer(connection)
	if x.grpc {
		x.judgeGRPC(res.Trailer)
	}
}

// passesInTrailer reports whether a field may be passed on in the trailer of the answer. A digest of content that is
// compressed here would be wrong.
func (x *exchange) passesInTrailer(name string, connection []string) bool {
	return passesInTrailer(name, connection) && (x.encoder == nil || !compress.IsDigest(name))
}

// sendTrailer passes the trailer on. The server sends it when the handler returns.
func (x *exchange) sendTrailer(connection []string) {
	h := x.w.Header()
	late := false
	for name, lines := range x.res.Trailer {
		if !x.passesInTrailer(name, connection) {
			continue
		}
		if !slices.Contains(h["Trailer"], name) {
			name, late = http.TrailerPrefix+name, true
		}
		h[name] = lines
	}
	if late && x.r.ProtoMajor == 1 {
		// Else a short body gets a Content-Length, and then there is no trailer. An error shows at the next write.
		_ = http.NewResponseController(x.w).Flush()
	}
}

// limitPauses prepares x.timer for the waits for more of the response and returns how long each may be; 0: there is no
// limit, as for responses of a kind that has no end. A response that moves may take as long as it likes.
func (x *exchange) limitPauses() time.Duration {
	limit := x.total()
	if limit <= 0 || x.grpc || x.isEventStream() {
		return 0
	}
	if body, cancel := x.body, x.cancel; body != nil && !body.whole() {
		sending := true
		x.timer = time.AfterFunc(math.MaxInt64, func() {
			switch {
			case !x.waiting.Load():
			case sending: // the origin may be waiting for the client, whose rate has a limit of its own
				sending = !body.whole()
				x.timer.Reset(limit)
			default:
				x.late.Store(true)
				cancel(errLate)
			}
		})
	}
	return limit
}

func (x *exchange) isEventStream() bool {
	return x.res.ContentLength < 0 && isEventStream(x.res.Header)
}

func isEventStream(h http.Header) bool { return strings.HasPrefix(contentType(h), "text/event-stream") }

// copy passes the body on.
func (x *exchange) copy() error {
	if x.res.Body == nil || x.res.Body == http.NoBody || x.grpc && x.res.Header["Grpc-Status"] != nil {
		return nil // a gRPC status in the header is the whole answer, and must be in the last frame
	}
	s := x.streaming()
	if s != nil {
		defer x.edge.longLived.remove(s)
	}
	out := &x.out
	out.begin(x)
	defer out.end()
	if err := out.sendHeader(); err != nil {
		return err
	}
	limit := x.limitPauses()
	var buf buffer
	defer buf.free()
	for read := int(min(x.res.ContentLength, largeBuffer)); ; {
		p := buf.next(read)
		if limit > 0 {
			x.waiting.Store(true)
			x.timer.Reset(limit)
		}
		var err error
		read, err = x.res.Body.Read(p)
		if limit > 0 {
			x.waiting.Store(false)
			x.timer.Stop()
		}
		n, last := s.pass(p[:read])
		if n > 0 {
			if err := out.send(p[:n]); err != nil {
				return err
			}
		}
		switch {
		case err == io.EOF && n == read:
			return out.finish()
		case last || err != nil && s.leaving():
			return cmp.Or(out.finish(), errLeaving)
		case err != nil:
			return err
		}
	}
}

// broke handles a response whose body ended too early.
func (x *exchange) broke(err error) {
	var f *failure
	if x.body != nil {
		f = x.body.failure()
	}
	ce := (*clientError)(nil)
	switch {
	case f != nil:
		x.fault, x.outcome = f.fault, route.Abandoned
	case errors.As(err, &ce) || x.hasLeft():
		x.fault, x.outcome = FaultClientGone, route.Abandoned
	case x.late.Load():
		x.fault, x.outcome = FaultTimeout, route.Unreachable
	case x.expired():
		x.fault, x.outcome = FaultClient, route.Abandoned
		x.endGRPC(codes.DeadlineExceeded, x.deadlineExceeded().detail)
		return
	default:
		x.fault, x.outcome = FaultOrigin, route.Unreachable
	}
	if x.grpc && x.outcome == route.Unreachable {
		// A trailer can carry the reason, which a reset cannot.
		x.endGRPC(codes.Unavailable, "the instance of "+x.target.name+" broke off")
		return
	}
	x.abort = true
}

// endGRPC ends a call whose answer has begun.
func (x *exchange) endGRPC(code codes.Code, message string) {
	h := x.w.Header()
	h[http.TrailerPrefix+"Grpc-Status"] = []string{strconv.Itoa(int(code))}
	h[http.TrailerPrefix+"Grpc-Message"] = []string{grpcMessage(message)}
}
