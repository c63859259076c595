package forward

import (
	"cmp"
	"context"
	"errors"
	"net"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"bijou.dev/platform/errs"
	"bijou.dev/platform/retry"
	"bijou.dev/platform/route"
	"bijou.dev/platform/trace"
	"bijou.dev/services/gateway/internal/flow"
	"bijou.dev/services/gateway/internal/http1"
	"bijou.dev/services/gateway/internal/message"
	"bijou.dev/services/gateway/internal/reply"
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

// attempt is one attempt at one instance.
type attempt struct {
	picked  route.Picked
	res     *message.Response // nil: there was none
	cancel  atomic.Pointer[http1.Canceler]
	first   http1.Canceler // cancel of the first attempt
	outcome route.Outcome
}

// reset prepares a for another attempt. Goroutines of an earlier one may still have its canceler.
func (a *attempt) reset() {
	a.picked, a.res, a.outcome = route.Picked{}, nil, route.Success
	a.first.Reset()
	a.cancel.Store(&a.first)
}

// release frees what the last attempt holds. The request's body is detached first: an origin may have responded without
// reading all of it, and closing a response of HTTP/2 waits for the goroutine that sends the body (golang/go#80085).
func (c *call) release() {
	a := &c.last
	if c.body.stream != nil {
		c.body.stream.detach()
	}
	c.timer.stop()
	if a.res != nil && a.res.Body != nil {
		_ = a.res.Body.Close() // read to its end, or not used
	}
	a.picked.Done(a.outcome)
	a.picked, a.res = route.Picked{}, nil
}

// send makes attempts until there is a response for the client, or returns why there is none.
func (c *call) send() (f *flow.Failure) {
	policy := retry.Policy{Budget: c.Target.Budget, Idempotent: c.body.repeatable}
	_ = retry.Do(c.Ctx, policy, func(ctx context.Context, n int) error { // f and c.last have more than the error
		var again error
		f, again = c.attempt(ctx, n, f)
		if again != nil && c.sent(n) >= c.mostAttempts() {
			return errFinal
		}
		return again
	})
	if c.last.res != nil {
		return nil
	}
	if f == nil { // the client left between two attempts
		return clientLeft()
	}
	return f
}

func clientLeft() *flow.Failure {
	return flow.Fail(flow.FaultClientGone, flow.StatusClientGone, "the client left")
}

func deadlineExceeded() *flow.Failure {
	return flow.Fail(flow.FaultClient, http.StatusRequestTimeout, "the deadline of the call is over")
}

// attempt sends the request to one more instance. The error decides whether there is another attempt. before is the
// failure of the attempt before.
func (c *call) attempt(ctx context.Context, n int, before *flow.Failure) (*flow.Failure, error) {
	picked, err := c.pick()
	if err != nil {
		if n > 1 {
			return before, errFinal // there is no other instance; the last outcome is the response
		}
		f := flow.Fail(flow.FaultUnreachable, http.StatusServiceUnavailable,
			"no instance of %s can take the request: %v", c.Target.Name, err)
		f.Retry = time.Second
		return f, errFinal
	}
	if n > 1 {
		c.f.opts.Retried(c.Rule.Name)
		c.release()
		c.body.stream = nil
		c.header = slices.Clone(c.header) // the sender of the last attempt may still read it
		c.last.cancel.Store(&http1.Canceler{})
		c.Leave.Notify(c) // the client may have left just before
	}
	a := &c.last
	a.picked, a.outcome = picked, route.Success
	if !c.passDeadline() {
		return deadlineExceeded(), errFinal
	}
	to := picked.Endpoint()
	c.tried = append(c.tried, to.ID)
	h := c.startHedge(ctx, n)
	begin := time.Now()
	res, f, again := c.roundTrip(ctx, n, to)
	seen := Attempt{Instance: to.ID, Took: time.Since(begin)}
	if h != nil && c.joinHedge(h, f == nil && !c.retries(res)) {
		c.takeHedge(h, res, f, seen)
		return nil, nil
	}
	if f != nil {
		seen.Problem = string(f.Fault)
		c.result.Attempts = append(c.result.Attempts, seen)
		c.release()
		return f, again
	}
	seen.Status = res.Status
	c.result.Attempts = append(c.result.Attempts, seen)
	a.res = res
	c.judge()
	a.picked.Answered(a.outcome)
	c.Target.Answers()
	if c.retries(res) {
		return nil, errAgain // the client gets this response unless there is a better one
	}
	return nil, nil
}

// retries reports whether a response is worth another attempt: 502, 503 and 504 are, if that is safe.
func (c *call) retries(res *message.Response) bool {
	return c.body.repeatable && c.body.stream == nil && !c.GRPC &&
		route.OutcomeOfHTTP(res.Status) == route.Unreachable && !strings.HasPrefix(res.Header.Get(errs.Pushback), "-")
}

// mostAttempts is how often the request is sent at most.
func (c *call) mostAttempts() int { return min(c.Rule.Attempts, c.Target.Budget.MaxAttempts()) }

// sent is how often the request was sent after n attempts, a hedge included.
func (c *call) sent(n int) int {
	if c.hedged {
		n++
	}
	return n
}

// pick chooses an instance of the target, or, if none is left, of the route's other targets: requests do not fail
// because a canary has no instance. A pinned version is not replaced.
func (c *call) pick() (route.Picked, error) {
	info := c.pickInfo()
	picked, err := c.Target.Balancer.Pick(info)
	if err != nil && len(c.tried) == 0 && c.Target.AwaitFirst(c.Ctx) {
		picked, err = c.Target.Balancer.Pick(info)
	}
	if err == nil || c.Version != "" {
		return picked, err //nolint:wrapcheck // the caller says what could not be done
	}
	for _, heavy := range []bool{true, false} { // those with a weight first
		for _, t := range c.Targets {
			if t == c.Target || (t.Weight > 0) != heavy || !t.Has(t.Version) {
				continue
			}
			info.Version = t.Version
			if picked, e := t.Balancer.Pick(info); e == nil {
				if len(c.tried) > 0 {
					c.Target.Fails()
				}
				c.Target, c.result.Target = t, t
				return picked, nil
			}
		}
	}
	return picked, err //nolint:wrapcheck // the caller says what could not be done
}

// pickInfo is what an instance of the target must be.
func (c *call) pickInfo() route.PickInfo {
	return route.PickInfo{
		Exclude: c.tried, Version: cmp.Or(c.Version, c.Target.Version), Stream: c.GRPC || c.Upgrade != "", Hash: c.Hash,
	}
}

// roundTrip sends the request to one instance and returns its response, or what went wrong and whether another instance
// may help.
func (c *call) roundTrip(parent context.Context, n int, to route.Endpoint) (*message.Response, *flow.Failure, error) {
	c.body.start(c)
	c.startTimer()
	ctx, span := c.startSpan(parent, &c.last, &c.header, n-1)
	res, err := c.exchange(ctx, to.Addr)
	c.timer.stop()
	if cause := c.last.cancel.Load().Cause(); cause != nil && (err == nil || errors.Is(cause, errReplaced)) {
		if err == nil {
			closeBody(res)
		}
		err = cause
	}
	if err == nil && c.body.stream != nil && c.body.stream.failure() != nil {
		err = errBody // an origin may respond to a part of a body; the client gets the reason why it is only a part
		closeBody(res)
	}
	endSpan(span, res, err)
	if err != nil {
		f, again := c.explain(err)
		return nil, f, again
	}
	return res, nil, nil
}

func closeBody(res *message.Response) {
	if res.Body != nil {
		_ = res.Body.Close() // it is not used
	}
}

// uploads reports whether the body is passed on to an origin that speaks HTTP/1.1.
func (c *call) uploads() bool { return c.body.streams(&c.Request) && !c.Target.HTTP2() }

// startTimer limits the wait for the header of the response. A gRPC server may be silent until its first message, so
// for gRPC only the place in the circuit is given back.
func (c *call) startTimer() {
	switch limit := c.HeaderTimeout; {
	case c.uploads(): // sending the body limits the time of the origin
	case c.GRPC:
		c.timer.start(waitPlace, limit)
	default:
		if c.Total > 0 {
			limit = min(limit, max(0, c.Total-time.Since(c.Start)))
		}
		c.timer.start(waitHeader, limit)
	}
}

// exchange sends the request to an address and waits for the response's header.
func (c *call) exchange(ctx context.Context, addr string) (*message.Response, error) {
	out, cancel := &c.call, c.last.cancel.Load()
	if c.body.stream != nil {
		// A goroutine may still send for an earlier attempt.
		body := c.body.stream
		send := func(f func()) { body.send(f, cancel) }
		out = &http1.Call{Interim: c.call.Interim, Body: body, Timeout: c.HeaderTimeout, Go: send}
	}
	c.body.answerExpect(c)
	return c.exchangeWith(ctx, addr, out, c.header, cancel)
}

// exchangeWith does so with a call, a header and a canceler that only this attempt uses.
func (c *call) exchangeWith(
	ctx context.Context, addr string, out *http1.Call, header message.Header, cancel *http1.Canceler,
) (*message.Response, error) {
	overHTTP2 := c.GRPC || c.Target.HTTP2()
	if !overHTTP2 && header.Has("Te") { // here because another attempt may be by another protocol
		header = append(slices.Clip(header), message.Field{Name: "Connection", Value: "TE"}) // RFC 9110, 10.1.4
	}
	out.Method, out.Path, out.Query, out.Host = c.Method, c.path(), c.Query, c.host()
	out.Header, out.Length = header, c.Length
	out.Content, out.Repeatable, out.Upgrade = c.body.whole, c.body.repeatable, c.Upgrade != ""
	if out.Length < 0 && out.Content != nil && !overHTTP2 {
		out.Length = int64(len(out.Content))
	}
	out.Cancel, out.Late = cancel, errLate
	if overHTTP2 {
		return c.Target.H2.RoundTrip(ctx, addr, out) //nolint:wrapcheck // explain does
	}
	return c.Target.H1.RoundTrip(ctx, addr, out) //nolint:wrapcheck // explain does
}

// passInterim passes a 1xx response on (RFC 9110, 15.2). 100 is not passed: the edge answers Expect itself.
func (c *call) passInterim(status int, h message.Header) {
	if status != http.StatusContinue {
		_ = c.out.Interim(status, reply.FromOrigin(h)) // an error shows when the response is sent
	}
}

// path is the path for the origin, with its escapes.
func (c *call) path() string {
	if c.Rewritten != "" {
		return c.Rewritten
	}
	if to := c.Rule.Rewrite.Prefix; to != "" {
		return routes.ReplacePrefix(c.Path, len(c.Rule.Match.Prefix), to)
	}
	return c.Path
}

// host is the Host for the origin, which HTTP/1.1 demands also where the client of HTTP/1.0 has sent none.
func (c *call) host() string {
	if url := c.Target.Origin.URL; url.TLS() {
		return cmp.Or(c.Rule.Rewrite.Host, url.Host())
	}
	return cmp.Or(c.Rule.Rewrite.Host, c.Host, c.Target.Name)
}

// explain returns the failure of an attempt, and whether there may be another attempt.
func (c *call) explain(err error) (*flow.Failure, error) {
	a, stream, service := &c.last, c.body.stream, c.Target.Name
	a.outcome = route.Abandoned
	if a.isReplaced() {
		return &replaced, errFinal
	}
	if stream != nil {
		if f := stream.failure(); f != nil {
			return f, errFinal
		}
	}
	switch {
	case c.HasLeft():
		return clientLeft(), errFinal
	case c.Expired():
		return deadlineExceeded(), errFinal
	}
	a.outcome = route.Unreachable
	unless := func(again error) error {
		if stream != nil && !stream.spare() {
			return errFinal
		}
		return again
	}
	if errors.Is(a.cancel.Load().Cause(), errLate) {
		if stream != nil && stream.waits() {
			a.outcome = route.Abandoned
			return flow.HangUp(http.StatusRequestTimeout, "the body came too slowly"), errFinal
		}
		f := flow.Fail(flow.FaultTimeout, http.StatusGatewayTimeout, "%s did not answer in time", service)
		if c.Total > 0 && time.Since(c.Start) >= c.Total {
			return f, errFinal
		}
		return f, unless(errAgain)
	}
	if op, ok := errors.AsType[*net.OpError](err); ok && op.Op == "dial" || errors.Is(err, context.DeadlineExceeded) {
		f := flow.Fail(flow.FaultUnreachable, http.StatusBadGateway, "an instance of %s could not be reached", service)
		return f, unless(errNotSent)
	}
	f := flow.Fail(flow.FaultOrigin, http.StatusBadGateway, "an instance of %s broke off before it answered", service)
	return f, unless(errAgain)
}

// judge sets the outcome for the balancer and the fault from the header of the response.
func (c *call) judge() {
	c.last.outcome, c.result.Fault = route.OutcomeOfHTTP(c.last.res.Status), ""
	if c.last.res.Status >= 500 {
		c.result.Fault = flow.FaultOrigin
	}
	if c.GRPC {
		c.judgeGRPC(c.last.res.Header)
	}
}

// judgeGRPC does so from the status of a gRPC call, if h has it.
func (c *call) judgeGRPC(h message.Header) {
	text := h.Get("Grpc-Status")
	if text == "" || text == "0" { // for most calls no error has to be made
		return
	}
	n, err := strconv.Atoi(text)
	if err != nil {
		return
	}
	if codes.Code(n) == codes.DeadlineExceeded && c.Expired() {
		c.last.outcome = route.Abandoned
		return
	}
	c.last.outcome = route.OutcomeOfRPC(status.Error(codes.Code(n), ""))
	if c.last.outcome == route.Failure || c.last.outcome == route.Unreachable {
		c.result.Fault = flow.FaultOrigin
	}
}

// clientKind is made once, because options made for each attempt cost allocations.
var clientKind = []oteltrace.SpanStartOption{oteltrace.WithSpanKind(oteltrace.SpanKindClient)}

// startSpan makes a span for an attempt if the request is recorded, and passes the trace on in h. sent is how often the
// request was sent before.
func (c *call) startSpan(
	ctx context.Context, a *attempt, h *message.Header, sent int,
) (context.Context, oteltrace.Span) {
	p := c.f.opts.Trace
	var span oteltrace.Span
	if c.Span.IsRecording() {
		ctx, span = p.Tracer().Start(ctx, trace.MethodName(c.Method)+" "+c.Target.Name, clientKind...)
		var known [20]attribute.KeyValue
		attrs := append(trace.AppendMethod(known[:0], c.Method),
			attribute.String("server.address", a.picked.Endpoint().Addr),
			attribute.String("peer.service", c.Target.Name),
			attribute.Int("http.request.resend_count", sent),
		)
		trace.SetAttributes(span, a.picked.Why().AppendAttributes(attrs)...)
	}
	p.Propagator().Inject(ctx, flow.TraceCarrier{Header: h})
	return ctx, span
}

func endSpan(span oteltrace.Span, res *message.Response, err error) {
	switch {
	case span == nil:
		return
	case errors.Is(err, errReplaced):
		trace.SetAttributes(span, attribute.Bool("bijou.canceled", true))
	case err != nil:
		span.SetStatus(otelcodes.Error, err.Error())
	default:
		trace.SetAttributes(span, attribute.Int("http.response.status_code", res.Status))
		if res.Status >= 400 {
			span.SetStatus(otelcodes.Error, "")
		}
	}
	span.End()
}

// describe lists attempts on one line: "web-1 error 2ms; web-2 200 5ms".
func describe(attempts []Attempt) string {
	var b strings.Builder
	for i, a := range attempts {
		if i > 0 {
			b.WriteString("; ")
		}
		b.WriteString(a.Instance)
		b.WriteByte(' ')
		if a.Status > 0 {
			b.WriteString(strconv.Itoa(a.Status))
		} else {
			b.WriteString(a.Problem)
		}
		b.WriteByte(' ')
		b.WriteString(a.Took.Round(10 * time.Microsecond).String())
	}
	return b.String()
}
