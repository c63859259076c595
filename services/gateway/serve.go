package gateway

import (
	"net/http"
	"runtime/debug"
	"strings"

	"bijou.dev/platform/trace"
	"bijou.dev/services/gateway/internal/flow"
	"bijou.dev/services/gateway/internal/forward"
	"bijou.dev/services/gateway/internal/message"
	"bijou.dev/services/gateway/internal/reply"

	"go.opentelemetry.io/otel/attribute"
)

// exchange is one request on its way, as the values that the steps of serve fill one after the other.
type exchange struct {
	edge     *Edge
	conn     *conn
	in       flow.Accepted      // by accept and check
	to       flow.Routed        // by route
	rule     *rule              // of to
	held     *limited           // by limit; nil: the route has no limits
	sent     forward.Result     // by forward
	attempts [2]forward.Attempt // memory of sent
	out      reply.Reply        // the response

	fault flow.Fault
	// counted in conn.peer.requests, and answered by a method of auth
	counted, answered bool
}

// defect logs a panic that was caught, and what it has ended.
func (e *Edge) defect(ended string, v any) {
	e.log.Error("a defect of the edge ended "+ended, "panic", v, "stack", string(debug.Stack()))
}

// serve handles a request in the order of steps of the package comment.
func (e *Edge) serve(c *conn, r *message.Request, w message.Writer) {
	if !e.begin() {
		w.Abort()
		return
	}
	defer e.work.Done()
	if e.answerChallenge(r, w) {
		return
	}
	x := &exchange{edge: e, conn: c, in: e.accept(c, r)}
	x.to.Accepted = &x.in
	x.out = reply.Reply{To: &x.to, Encoders: e.encoders, Pages: e.pages.Load(), Writer: w}
	e.metrics.inFlight.Inc()
	c.requests.Add(1)
	defer x.end()
	f := x.check()
	if f == nil && x.redirectToHTTPS() {
		return
	}
	if f == nil {
		f = x.route()
	}
	if f == nil {
		f = x.limit()
	}
	if f == nil {
		f = x.authenticate()
	}
	if x.answered {
		return
	}
	if f == nil {
		f = x.limitIdentity()
	}
	switch {
	case f != nil:
	case x.to.Preflight || len(x.rule.targets) == 0:
		f = x.respond()
	default:
		f = x.forward()
		x.fault = x.sent.Fault
	}
	if f != nil {
		x.refuse(f)
	}
}

func (x *exchange) refuse(f *flow.Failure) {
	x.fault = f.Fault
	x.out.Refuse(f)
}

// keepTunnel starts the tunnel that the request became, and leaves the end of the request to it.
func (x *exchange) keepTunnel() {
	tunnel := x.sent.Tunnel
	x.sent.Tunnel = nil
	// What is kept is what report needs: the header of the request alone may have 32 KiB.
	r := x.in.Request
	x.in = flow.Accepted{
		Request: &message.Request{Version: r.Version, Method: strings.Clone(r.Method), Host: strings.Clone(r.Host)},
		Ctx:     x.in.Ctx, Span: x.in.Span, Start: x.in.Start, ID: strings.Clone(x.in.ID), Peer: x.in.Peer,
	}
	x.to = flow.Routed{Accepted: &x.in, Rule: x.to.Rule, Path: strings.Clone(x.to.Path)}
	x.out.Writer, x.out.Extra = nil, nil
	x.edge.work.Add(1)
	x.edge.release.becameIdle()
	tunnel.Start(func(sent int64) {
		defer x.edge.work.Done()
		x.out.Bytes = sent
		x.end()
	})
}

// end is called at the end of every request, also after a failure or a panic.
func (x *exchange) end() {
	if x.sent.Tunnel != nil {
		x.keepTunnel()
		return
	}
	if v := recover(); v != nil {
		x.edge.log.ErrorContext(x.in.Ctx, "a defect of the edge ended a request", "panic", v, "stack", string(debug.Stack()))
		x.refuse(flow.Fail(flow.FaultGateway, http.StatusInternalServerError,
			"the edge has a defect; the log has more under the request's id"))
	}
	if x.held != nil {
		x.held.release()
	}
	x.out.Release()
	if x.conn.requests.Add(-1) == 0 {
		x.edge.memory.forget(x.conn)
	}
	if x.counted {
		x.conn.peer.requests.Add(-1)
	}
	x.edge.metrics.inFlight.Dec()
	x.report()
	x.out.End()
}

// report puts the outcome into metrics, the span and the log.
func (x *exchange) report() {
	x.edge.metrics.count(x)
	x.recordLoad()
	if x.in.Span.IsRecording() {
		var known [7]attribute.KeyValue
		attrs := append(known[:0], attribute.String("bijou.request_id", x.in.ID),
			attribute.Int("bijou.gateway.attempts", len(x.sent.Attempts)))
		if x.fault != "" {
			attrs = append(attrs, attribute.String("bijou.gateway.fault", string(x.fault)))
		}
		pattern := ""
		if x.rule != nil {
			attrs = append(attrs, attribute.String("bijou.gateway.route", x.rule.Name))
			if id := x.identity(); id != "" {
				attrs = append(attrs, attribute.String("enduser.id", id))
			}
			pattern = x.rule.Match.Path + x.rule.Match.Prefix
		}
		if x.sent.Target != nil {
			attrs = append(attrs, attribute.String("bijou.gateway.service", x.sent.Target.Name))
		}
		trace.SetAttributes(x.in.Span, attrs...)
		trace.FinishServer(x.in.Span, x.in.Method, pattern, x.out.Status)
	}
	x.in.Span.End()
	x.access()
}
