// Package forward sends a request to an instance of its origin, to another one if that fails, and passes the response
// on.
//
// # Order of steps
//
//  1. A small body is read as a whole: so it can be sent again, and a slow client holds no place meanwhile.
//  2. A place in the limit of the origin, and in its shares. When there are more requests than the origin can serve,
//     those of the least critical routes are shed here. It comes before the circuit, which must not count requests that
//     were not sent.
//  3. Circuit of (service, route): one logical request, however many attempts it takes. It gets the outcome, and the
//     place is free again, when the response's header is there: a stream does not hold a place.
//  4. Attempts within the budget, each at another instance, only before the client has got anything and only if the
//     request may be repeated. If the route has hedge, a slow attempt gets a second one beside it.
//  5. The response, as it comes.
package forward

import (
	"errors"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"bijou.dev/platform/circuit"
	"bijou.dev/platform/errs"
	"bijou.dev/platform/overload"
	"bijou.dev/platform/route"
	"bijou.dev/platform/trace"
	"bijou.dev/services/gateway/internal/flow"
	"bijou.dev/services/gateway/internal/http1"
	"bijou.dev/services/gateway/internal/message"
	"bijou.dev/services/gateway/internal/origin"
	"bijou.dev/services/gateway/internal/reply"
)

// Options are what all requests share.
type Options struct {
	// Circuits are asked before a request is sent, and get its outcome. Required.
	Circuits *circuit.Set
	// Trace makes a span for each attempt. Required.
	Trace *trace.Provider
	// Retried is called for each attempt after the first. Required.
	Retried func(route string)
	// Hedged is called for each hedge with what became of it. Required.
	Hedged func(route, result string)
	// Tunnels is called with 1 when a tunnel begins, and with -1 when it ends. Required.
	Tunnels func(n float64)
	// Go runs what may go on after the request has ended. Required.
	Go func(func())
	// Defect is called where a panic was caught, with what it has ended and its value. Required.
	Defect func(what string, v any)
}

// Forwarder forwards requests. Make one with New.
type Forwarder struct {
	opts    Options
	kept    atomic.Int64 // bytes of bodies that are kept to be sent again
	streams longLived
	calls   sync.Pool // finished calls, whose memory is used again
}

// New returns a forwarder.
func New(opts Options) *Forwarder {
	f := &Forwarder{opts: opts}
	f.calls.New = func() any {
		c := &call{f: f}
		c.call.Interim = c.passInterim
		c.timer.c = c
		c.last.reset()
		return c
	}
	return f
}

// Request is a request with all that decides where it is sent.
type Request struct {
	*flow.Routed
	Targets []*origin.Target // of the route
	Target  *origin.Target   // the one to try first
	Version string           // of the pin; empty: none
	Hash    uint64           // requests with the same one go to the same instance; 0: none
	MaxBody int64            // bytes; -1: no limit
	// HeaderTimeout is the time for the header of the response, Total for all attempts until a response begins, and for
	// each pause of it; 0: no limit.
	HeaderTimeout, Total time.Duration
	// Debug says that the response lists the attempts.
	Debug bool
	// Attempts is memory for those of the result.
	Attempts []Attempt
}

// Result is what became of a request.
type Result struct {
	Target   *origin.Target // the last one
	Attempts []Attempt
	Fault    flow.Fault
	// Tunnel is what the request became. The caller starts it. Nil: no tunnel.
	Tunnel *Tunnel
}

// Attempt is one attempt at one instance, as logs and X-Bijou-Attempts show it.
type Attempt struct {
	Instance string
	Status   int // 0: no response
	Problem  string
	Took     time.Duration
}

// call is one request while it is forwarded.
type call struct {
	Request
	f   *Forwarder
	out *reply.Reply

	place  place
	body   content
	header message.Header        // for the origin
	call   http1.Call            // of the last attempt
	tried  []string              // ids of instances
	last   attempt               // its response goes to the client
	hedge  atomic.Pointer[hedge] // beside last; nil: there is none
	hedged bool                  // a hedge was sent
	timer  timer
	copier copier
	long   bool // the response is a stream
	result Result
	small  [512]byte // memory for a body that is read as a whole
	one    [1]byte   // memory to read the end behind it
}

// Forward forwards a request. A failure that is returned is still to be sent to the client.
func (f *Forwarder) Forward(r *Request, out *reply.Reply) (Result, *flow.Failure) {
	c := f.calls.Get().(*call)
	c.Request, c.out = *r, out
	c.result = Result{Target: r.Target, Attempts: r.Attempts}
	defer c.end()
	r.Leave.Notify(c)
	failure := c.forward()
	if failure != nil {
		c.result.Fault = failure.Fault
	}
	return c.result, failure
}

// ClientLeft implements message.Leaver.
func (c *call) ClientLeft() {
	c.last.cancel.Load().Cancel(errLeft)
	if h := c.hedge.Load(); h != nil {
		h.cancel.Load().Cancel(errLeft)
	}
}

// errLeft ends an attempt because the client has left.
var errLeft = errors.New("the client has left")

func (c *call) forward() *flow.Failure {
	if f := c.body.prepare(c); f != nil {
		return f
	}
	if f := c.admit(); f != nil {
		return f
	}
	c.header = c.outgoing()
	f := c.send()
	if c.Debug {
		c.out.Extra.Set(flow.AttemptsHeader, describe(c.result.Attempts))
	}
	if f != nil {
		c.place.settle(verdictOf(f))
		return f
	}
	c.place.settle(c.verdict())
	if c.last.res.Status == http.StatusSwitchingProtocols {
		return c.tunnel()
	}
	if c.Protocol != "" && c.last.res.Status < 300 { // to the client it would say that the tunnel is open
		return c.notSwitched("%s did not switch to %s", c.Target.Name, c.Upgrade)
	}
	c.answer()
	return nil
}

// end frees what is held, also after a panic.
func (c *call) end() {
	c.Leave.Notify(nil)
	c.endHedge()
	c.place.settle(errAborted)
	c.release()
	c.f.kept.Add(-c.body.kept)
	// A body that is passed on and streams have goroutines that may still use c.
	if c.body.stream == nil && !c.long && c.copier.timer == nil {
		header, tried := c.header[:0], c.tried[:0]
		clear(header[:cap(header)])
		clear(tried[:cap(tried)])
		c.Request, c.out, c.body, c.copier, c.result = Request{}, nil, content{}, copier{}, Result{}
		c.long, c.hedged = false, false
		c.call = http1.Call{Interim: c.call.Interim}
		c.place.reset()
		c.last.reset()
		c.header, c.tried = header, tried
		c.f.calls.Put(c)
	}
}

// place is the place of a request in limiter, shares and circuit of its target.
type place struct {
	permit overload.Permit
	share  origin.Share
	done   func(error) // of the circuit
	held   atomic.Bool
}

func (p *place) reset() { p.permit, p.share, p.done = overload.Permit{}, origin.Share{}, nil }

// admit takes a place in the limit of the origin and in its circuit.
func (c *call) admit() *flow.Failure {
	o := c.Target.Origin
	key := circuit.Key{Group: c.Target.Name, Method: c.Rule.Name}
	p := &c.place
	p.share = o.Shares.Of(c.Rule.Name, c.Path, c.Client)
	if free := min(o.Limiter.Free(), float64(c.f.opts.Circuits.Free(key))); free > 0 { // else these two refuse
		if of := p.share.Take(free); of != "" {
			return c.tooMany(of)
		}
	}
	permit, ok := o.Limiter.Acquire(p.share.Kind(), c.Rule.Class)
	if !ok {
		p.share.Release()
		f := flow.Fail(flow.FaultOverload, http.StatusServiceUnavailable,
			"%s is overloaded, and requests that are %s are shed", c.Target.Name, c.Rule.Class)
		f.Retry = o.Limiter.RetryAfter()
		return f
	}
	done, err := c.f.opts.Circuits.Start(c.Ctx, key)
	if err != nil {
		permit.Done(overload.Ignored)
		p.share.Release()
		return c.refusedByCircuit(key, err)
	}
	if c.body.streams(&c.Request) {
		done(errAborted)
		permit.Done(overload.Ignored)
		p.share.Release()
		permit = overload.Permit{}
		done = func(verdict error) {
			if verdict == errAborted { //nolint:errorlint // it is this one
				return
			}
			if done, err := c.f.opts.Circuits.Start(c.Ctx, key); err == nil {
				done(verdict)
			}
		}
	}
	p.permit, p.done = permit, done
	p.held.Store(true)
	return nil
}

func (c *call) refusedByCircuit(key circuit.Key, err error) *flow.Failure {
	f := flow.Fail(flow.FaultCircuit, http.StatusServiceUnavailable, "the circuit of %s is open", key)
	if c.Rule.Circuit.CountErrors {
		f.Detail += "; it counts responses with a status of 500 and above, as circuit.countErrors of the route says"
	}
	if errs.Reason(err) == circuit.ReasonFull {
		f = flow.Fail(flow.FaultCircuit, http.StatusServiceUnavailable, "too many requests to %s are in progress", key)
	}
	f.Retry = max(time.Second, errs.RetryAfter(err))
	return f
}

// tooMany refuses a request whose URL or client holds its share of the places.
func (c *call) tooMany(of string) *flow.Failure {
	if of == "client" {
		f := flow.Fail(flow.FaultClient, http.StatusTooManyRequests,
			"this client has its share of the requests that %s can work on; wait for some of them", c.Target.Name)
		f.Retry = time.Second
		return f
	}
	f := flow.Fail(flow.FaultOverload, http.StatusServiceUnavailable,
		"requests for this path have their share of the requests that %s can work on; other paths still get through",
		c.Target.Name)
	f.Retry = c.Target.Limiter.RetryAfter()
	return f
}

// settle reports the outcome to the circuit and the limiter. Only the first call has an effect.
func (p *place) settle(err error) {
	if !p.held.CompareAndSwap(true, false) {
		return
	}
	switch {
	case err == nil, errors.Is(err, errCounted), errors.Is(err, errAnswered):
		p.share.Responded()
	case !errors.Is(err, errAborted) && p.share.OneURL():
		err = errOneURL
	}
	p.share.Release()
	p.done(err)
	switch {
	case err == nil:
		p.permit.Done(overload.Success)
	case errors.Is(err, errs.Timeout):
		p.permit.Done(overload.Dropped)
	default:
		p.permit.Done(overload.Ignored)
	}
}

// Outcomes for the circuit. All requests share them; they are never changed.
var (
	errAborted     = errs.Errorf(errs.Canceled, "the request was given up because of its client")
	errTimedOut    = errs.Errorf(errs.Timeout, "the origin took too long")
	errUnreachable = errs.Errorf(errs.Unavailable, "the origin was not reached")
	errBroken      = errs.Errorf(errs.Internal, "the origin broke off")
	errCounted     = errs.Errorf(errs.Internal, "the origin answered with an error, and its route counts that")
	errAnswered    = errs.Errorf(errs.Internal, "the origin answered with an error").Because(circuit.ReasonIsolated)
	errOneURL      = errs.Errorf(errs.Internal, "only this URL does not get a response").Because(circuit.ReasonIsolated)
)

// verdictOf is what a failure means for the circuit.
func verdictOf(f *flow.Failure) error {
	switch f.Fault {
	case flow.FaultTimeout:
		return errTimedOut
	case flow.FaultUnreachable:
		return errUnreachable
	case flow.FaultOrigin:
		return errBroken
	}
	return errAborted
}

// verdict is what the response means for the circuit. That an instance responds with an error is its own business: if
// the circuit counted it, whoever requests one failing URL often would close the route for everybody.
func (c *call) verdict() error {
	var bad bool
	switch res := c.last.res; {
	case !c.GRPC:
		bad = res.Status >= 500 && res.Status != http.StatusNotImplemented
	case res.Header.Get("Grpc-Status") == exhausted:
		return errAborted // shed: if it opened the circuit, the important calls would be refused with the others
	case c.last.outcome == route.Abandoned:
		return errAborted
	case c.last.outcome == route.Unreachable:
		return errUnreachable // gRPC gives UNAVAILABLE to what did not reach the server
	default:
		bad = c.last.outcome != route.Success
	}
	switch {
	case !bad:
		return nil
	case c.Rule.Circuit.CountErrors:
		return errCounted
	}
	return errAnswered
}

// exhausted is RESOURCE_EXHAUSTED on the wire.
const exhausted = "8"
