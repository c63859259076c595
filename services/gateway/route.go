package gateway

import (
	"net/http"
	"strings"
	"time"

	"bijou.dev/services/gateway/internal/cors"
	"bijou.dev/services/gateway/internal/flow"
	"bijou.dev/services/gateway/internal/forward"
	"bijou.dev/services/gateway/internal/origin"
	"bijou.dev/services/gateway/internal/syntax"
	"bijou.dev/services/gateway/routes"
)

// route finds the route of a request, and checks what the route asks of it.
func (x *exchange) route() *flow.Failure {
	t := x.edge.table.Load()
	found, err := x.find(t)
	if err != nil {
		return flow.HangUp(http.StatusBadRequest, "%v", err)
	}
	if found == nil {
		return flow.Fail(flow.FaultNoRoute, http.StatusNotFound, "no route takes %s %s for host %s",
			x.in.Method, flow.PlainPath(x.in.Request), syntax.HostName(x.in.Host))
	}
	x.to.Rule, x.rule = found, t.rules[found.Number]
	if x.to.Preflight {
		return nil // the edge answers
	}
	x.translate()
	if x.in.Upgrade != "" && !found.UpgradesTo(x.in.Upgrade) {
		return flow.HangUp(http.StatusBadRequest, "the route %s does not upgrade to this protocol", found.Name)
	}
	if f := x.checkClientCert(); f != nil {
		return f
	}
	if found.RewritePath != nil {
		x.to.Rewritten = found.RewritePath.URL(x.to.Vars())
		if routes.Unambiguous(x.to.Rewritten) != nil {
			return flow.HangUp(http.StatusBadRequest, "the path that the route %s makes of this one is not valid",
				found.Name)
		}
	}
	if limit := x.maxBody(); limit >= 0 && x.in.Length > limit {
		return forward.TooLarge(limit)
	}
	return nil
}

// find returns the route of the request, and sets the path to send. The route of a preflight is that of the request
// that the preflight asks about, because only that one has the method to which a route may be limited; else it is the
// route of the preflight itself. If this route has no origins, the preflight is a request as any other.
func (x *exchange) find(t *table) (found *routes.Rule, err error) {
	if method, ok := cors.IsPreflight(x.in.Request); ok {
		asked := *x.in.Request
		for _, asked.Method = range []string{method, http.MethodOptions} {
			found, path, err := t.Find(&asked, x.in.Path, x.in.Client)
			if err == nil && found != nil && found.Origins != nil {
				x.to.Preflight, x.to.Path = true, path
				return found, nil
			}
		}
	}
	found, path, err := t.Find(x.in.Request, x.in.Path, x.in.Client)
	if err == nil {
		x.to.Path = path
	}
	return found, err
}

// maxBody is the most bytes of body; -1: no limit. A gRPC call is a stream of messages, each limited by its server.
func (x *exchange) maxBody() int64 {
	switch limit := x.rule.MaxBody; {
	case x.in.GRPC, limit < 0:
		return -1
	case limit > 0:
		return limit
	}
	return x.edge.settings.maxBody.Get()
}

// forward sends the request to the target that is drawn for it.
func (x *exchange) forward() *flow.Failure {
	if x.rule.mirror != nil {
		defer x.mirror()()
	}
	r := forward.Request{
		Routed: &x.to, Targets: x.rule.targets, MaxBody: x.maxBody(), HeaderTimeout: x.headerTimeout(),
		Total: x.totalTimeout(), Debug: x.edge.settings.debug.Get(),
	}
	if x.edge.settings.pin.Get() {
		r.Target, r.Version = x.pinned()
	}
	var given string
	if x.rule.Hash != nil {
		r.Hash, given = x.hash()
	}
	if r.Target == nil {
		r.Target = x.rule.pick(x.sticky(given))
	}
	r.Attempts = x.attempts[:0]
	var f *flow.Failure
	x.sent, f = x.edge.forwarder.Forward(&r, &x.out)
	return f
}

// headerTimeout is the time for the header of a response.
func (x *exchange) headerTimeout() time.Duration {
	if d := x.rule.HeaderTimeout; d >= 0 {
		return d
	}
	return x.edge.settings.header.Get()
}

// totalTimeout is the time for all attempts; 0: no limit.
func (x *exchange) totalTimeout() time.Duration {
	if d := x.rule.TotalTimeout; d >= 0 {
		return d
	}
	return x.edge.settings.total.Get()
}

// pinned obeys X-Bijou-Pin: "web=v2, catalog=v1". Nil: it names no target of the route.
func (x *exchange) pinned() (target *origin.Target, version string) {
	for item := range x.in.Header.Words("X-Bijou-Pin") {
		service, v, _ := strings.Cut(item, "=")
		for _, t := range x.rule.targets {
			if t.Service == service && v != "" && (t.Version == "" || t.Version == v || target == nil) {
				target, version = t, v
			}
		}
	}
	return target, version
}

// sticky is the value by which the request always gets the same target. Empty: any. given is the value of the cookie of
// the route's hash that the client gets with the response.
func (x *exchange) sticky(given string) string {
	if x.rule.Sticky == "" {
		return ""
	}
	if given != "" && x.rule.Sticky == x.rule.HashBy.Cookie {
		return given
	}
	return x.cookie(x.rule.Sticky)
}

// cookie is the first value of a cookie of the request. Empty: there is none.
func (x *exchange) cookie(name string) string {
	for value := range x.in.Cookies(name) {
		return value
	}
	return ""
}
