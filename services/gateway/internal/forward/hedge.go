package forward

import (
	"context"
	"errors"
	"net/http"
	"slices"
	"sync/atomic"
	"time"

	"bijou.dev/platform/route"
	"bijou.dev/platform/trace"
	"bijou.dev/services/gateway/internal/flow"
	"bijou.dev/services/gateway/internal/http1"
	"bijou.dev/services/gateway/internal/message"

	"go.opentelemetry.io/otel/attribute"
)

// hedge is a second attempt beside one that is slow. It runs in a goroutine of its own with an attempt, a header and a
// call of its own, and the call waits for its end before it goes on. Of the call it reads only what does not change
// meanwhile.
type hedge struct {
	c       *call
	attempt     // the response is used if won is true
	sent    int // how often the request was sent before
	ctx     context.Context
	header  message.Header // for the origin
	call    http1.Call
	start   *time.Timer
	done    chan struct{} // closed at the end of the goroutine
	decided atomic.Bool   // one of the two attempts has the response for the client

	// Written by the goroutine, read after done.
	seen Attempt // no instance: nothing was sent
	won  bool
}

// What becomes of a hedge, in metrics.
const (
	hedgeWon        = "won"         // the client gets its response
	hedgeLost       = "lost"        // it was canceled, or its response was not needed
	hedgeFailed     = "failed"      // it had no response, or one that is worth a retry
	hedgeBudget     = "budget"      // it was not sent: the budget of retries is used up
	hedgeNoInstance = "no_instance" // it was not sent: there is no other instance
)

// errReplaced ends an attempt because the one beside it has the response for the client.
var errReplaced = errors.New("the attempt beside it has answered")

// replaced is the failure of such an attempt. Only lists of attempts show it.
var replaced = flow.Failure{Fault: "canceled"}

// isReplaced reports whether the attempt beside a has the response for the client.
func (a *attempt) isReplaced() bool { return errors.Is(a.cancel.Load().Cause(), errReplaced) }

// startHedge prepares a hedge of attempt n, if the route has one and the request may be sent twice at the same time.
// Nil: there is none.
func (c *call) startHedge(ctx context.Context, n int) *hedge {
	if c.Rule.HedgeAfter == 0 || c.hedged || n >= c.mostAttempts() || !c.hedges() {
		return nil
	}
	h := &hedge{
		c: c, sent: n, ctx: ctx, done: make(chan struct{}),
		header: slices.Clone(c.header), // the first attempt changes its own
	}
	h.attempt.reset()
	c.hedge.Store(h)
	h.start = time.AfterFunc(c.Rule.HedgeAfter, h.run)
	return h
}

// hedges reports whether the request may be sent to two instances at the same time.
func (c *call) hedges() bool {
	switch c.Method {
	case http.MethodGet, http.MethodHead, http.MethodOptions:
		return c.body.repeatable && c.Upgrade == "" && !c.GRPC && (c.body.whole != nil || c.Length == 0)
	}
	return false
}

// joinHedge waits for the end of a hedge and reports whether its response is for the client. good says that the first
// attempt has a response that is worth no retry: the hedge is canceled then, unless it was faster.
func (c *call) joinHedge(h *hedge, good bool) bool {
	defer c.hedge.Store(nil)
	if h.start.Stop() {
		return false
	}
	if good && h.decided.CompareAndSwap(false, true) {
		h.cancel.Load().Cancel(errReplaced)
	}
	<-h.done
	if h.seen.Instance == "" {
		return false
	}
	c.hedged = true
	c.tried = append(c.tried, h.seen.Instance)
	if !h.won {
		c.result.Attempts = append(c.result.Attempts, h.seen)
	}
	return h.won
}

// endHedge ends a hedge that was not joined because the first attempt has ended with a panic.
func (c *call) endHedge() {
	if h := c.hedge.Load(); h != nil && c.joinHedge(h, true) {
		h.drop(h.res, route.Abandoned)
	}
}

// takeHedge ends the first attempt, whose response or failure is not used, and makes the hedge the last one.
func (c *call) takeHedge(h *hedge, res *message.Response, f *flow.Failure, seen Attempt) {
	a := &c.last
	if f != nil {
		seen.Problem = string(f.Fault)
	} else {
		seen.Status, a.res, a.outcome = res.Status, res, route.OutcomeOfHTTP(res.Status)
	}
	c.release()
	c.result.Attempts = append(c.result.Attempts, seen, h.seen)
	a.picked, a.res = h.picked, h.res
	a.cancel.Store(h.cancel.Load())
	c.Leave.Notify(c) // the client may have left just before
	c.judge()
	a.picked.Answered(a.outcome)
	c.Target.Answers()
}

// run makes the attempt.
func (h *hedge) run() {
	defer close(h.done)
	defer func() {
		if v := recover(); v != nil { // the goroutine does not belong to the request
			h.c.f.opts.Defect("a hedge", v)
			h.picked.Done(route.Abandoned)
		}
	}()
	c := h.c
	if h.decided.Load() || c.HasLeft() {
		return
	}
	result := h.try()
	c.f.opts.Hedged(c.Rule.Name, result)
}

// try sends the request to another instance and returns what became of that.
func (h *hedge) try() string {
	c := h.c
	picked, err := c.Target.Balancer.Pick(c.pickInfo())
	if err != nil {
		return hedgeNoInstance
	}
	h.picked = picked
	if !c.Target.Budget.TakeRetry() {
		h.picked.Done(route.Abandoned)
		return hedgeBudget
	}
	h.seen.Instance = picked.Endpoint().ID
	begin := time.Now()
	res, err := h.roundTrip(picked.Endpoint().Addr)
	h.seen.Took = time.Since(begin)
	switch {
	case h.isReplaced() || err != nil && c.HasLeft():
		h.seen.Problem = string(replaced.Fault)
		h.drop(res, route.Abandoned)
		return hedgeLost
	case err != nil:
		h.seen.Problem = string(flow.FaultOrigin)
		if errors.Is(h.cancel.Load().Cause(), errLate) {
			h.seen.Problem = string(flow.FaultTimeout)
		}
		h.drop(nil, route.Unreachable)
		return hedgeFailed
	}
	h.seen.Status = res.Status
	if c.retries(res) {
		h.drop(res, route.Unreachable)
		return hedgeFailed
	}
	if !h.decided.CompareAndSwap(false, true) {
		h.drop(res, route.OutcomeOfHTTP(res.Status))
		return hedgeLost
	}
	h.won, h.res = true, res
	c.last.cancel.Load().Cancel(errReplaced)
	return hedgeWon
}

// drop ends the attempt without a use for its response.
func (h *hedge) drop(res *message.Response, outcome route.Outcome) {
	if res != nil {
		closeBody(res)
	}
	h.picked.Done(outcome)
}

// roundTrip sends the request and waits for the header of the response.
func (h *hedge) roundTrip(addr string) (*message.Response, error) {
	c, cancel := h.c, h.cancel.Load()
	limit := c.HeaderTimeout
	if c.Total > 0 {
		limit = min(limit, max(0, c.Total-time.Since(c.Start)))
	}
	late := time.AfterFunc(limit, func() { cancel.Cancel(errLate) })
	defer late.Stop()
	ctx, span := c.startSpan(h.ctx, &h.attempt, &h.header, h.sent)
	if span != nil {
		trace.SetAttributes(span, attribute.Bool("bijou.hedge", true))
	}
	h.call.Interim = func(int, message.Header) {} // the client gets those of the first attempt
	res, err := c.exchangeWith(ctx, addr, &h.call, h.header, cancel)
	if cause := cancel.Cause(); cause != nil {
		if err == nil {
			closeBody(res)
		}
		res, err = nil, cause
	}
	endSpan(span, res, err)
	return res, err
}
