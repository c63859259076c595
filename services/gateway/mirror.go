package gateway

import (
	"cmp"
	"context"
	"math/rand/v2"
	"slices"
	"sync/atomic"
	"time"

	"bijou.dev/services/gateway/internal/flow"
	"bijou.dev/services/gateway/internal/forward"
	"bijou.dev/services/gateway/internal/message"
	"bijou.dev/services/gateway/internal/mirror"
	"bijou.dev/services/gateway/internal/origin"
	"bijou.dev/services/gateway/internal/reply"
	"bijou.dev/services/gateway/routes"

	oteltrace "go.opentelemetry.io/otel/trace"
)

const (
	mostMirrored     = 16 << 20        // bytes of the bodies of all copies
	mostMirrorAnswer = 1 << 20         // bytes of a response that are read; then the connection cannot be used again
	mostMirrorTime   = 5 * time.Minute // for a copy, whatever its route says
)

// mirrored is where copies of the requests of a route are sent.
type mirrored struct {
	rule   *routes.Rule // of the copies
	target *origin.Target
	share  float64
	most   int64 // copies in progress
	body   int64 // bytes of a body
	busy   atomic.Int64
}

func newMirrored(u *routes.Rule) *mirrored {
	if u.Mirrored == nil {
		return nil
	}
	to := u.Mirrored.To[0]
	return &mirrored{
		rule: u.Mirrored, target: &origin.Target{Target: to, Name: to.CalledName()}, share: cmp.Or(u.Mirror.Share, 1),
		most: cmp.Or(u.Mirror.Concurrency, 100), body: cmp.Or(u.Mirror.MaxBody, 64<<10),
	}
}

// mirror sends a copy of the request beside it, if the route says so. It never waits. done is called when the original
// has ended.
func (x *exchange) mirror() (done func()) {
	m := x.rule.mirror
	if m == nil || x.in.Upgrade != "" || m.share < 1 && rand.Float64() >= m.share {
		return func() {}
	}
	r := x.in.Request
	if r.Body == nil {
		x.sendCopy(m, nil, func() {})
		return func() {}
	}
	size := r.Length
	if size < 0 {
		size = m.body
	}
	switch {
	case size > m.body:
		x.dropCopy("body")
		return func() {}
	case !x.edge.mirrorBytes.Take(size):
		x.dropCopy("memory")
		return func() {}
	}
	free := func() { x.edge.mirrorBytes.Release(size) }
	sent := false
	original := *r
	original.Body = &mirror.Recorder{Body: r.Body, Length: r.Length, Most: m.body, Whole: func(content []byte) {
		sent = true
		x.sendCopy(m, content, free)
	}}
	x.in.Request = &original
	return func() {
		if !sent { // the body is too long, or was not read to its end
			free()
			x.dropCopy("body")
		}
	}
}

func (x *exchange) dropCopy(result string) {
	x.edge.metrics.mirrored.WithLabelValues(x.rule.Name, result).Inc()
}

// sendCopy sends a copy in a goroutine of its own. free is called when content is not needed any more.
func (x *exchange) sendCopy(m *mirrored, content []byte, free func()) {
	if m.busy.Add(1) > m.most {
		m.busy.Add(-1)
		free()
		x.dropCopy("busy")
		return
	}
	if !x.edge.begin() { // the edge is closed
		m.busy.Add(-1)
		free()
		return
	}
	// What belongs to the original is not used after its end, nor changed here.
	r, leave := *x.in.Request, &message.Leave{}
	r.Header, r.Leave, r.Context = slices.Clone(r.Header), leave, context.WithoutCancel(x.in.Ctx)
	r.Body, r.Length = nil, int64(len(content))
	if len(content) > 0 {
		r.Body = mirror.NewContent(content)
	}
	in := x.in
	in.Request, in.Ctx, in.Span = &r, r.Context, oteltrace.SpanFromContext(context.Background())
	in.Proxies = slices.Clone(in.Proxies)
	to := x.to
	to.Accepted, to.Rule = &in, m.rule
	e, name := x.edge, x.rule.Name
	request := forward.Request{
		Routed: &to, Targets: []*origin.Target{m.target}, Target: m.target, MaxBody: -1,
		HeaderTimeout: x.headerTimeout(), Total: x.totalTimeout(),
	}
	go func() {
		defer e.work.Done()
		defer m.busy.Add(-1)
		defer free()
		limit := mostMirrorTime
		if request.Total > 0 {
			limit = min(limit, request.Total)
		}
		late := time.AfterFunc(limit, leave.Set)
		defer late.Stop()
		defer context.AfterFunc(e.mirroring, leave.Set)()
		out := &reply.Reply{To: &to, Encoders: e.encoders, Writer: &mirror.Sink{Most: mostMirrorAnswer}}
		sent, failure := e.forwarder.Forward(&request, out)
		out.Release()
		result := "ok"
		if failure != nil || sent.Fault != "" && sent.Fault != flow.FaultClientGone { // that one has sent enough
			result = "failed"
		}
		e.metrics.mirrored.WithLabelValues(name, result).Inc()
	}()
}
