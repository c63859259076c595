package gateway

import (
	"encoding/hex"
	"errors"
	"math/rand/v2"
	"net"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"bijou.dev/platform/trace"
	"bijou.dev/services/gateway/internal/fields"
	"bijou.dev/services/gateway/internal/flow"
	"bijou.dev/services/gateway/internal/forward"
	"bijou.dev/services/gateway/internal/message"
	"bijou.dev/services/gateway/internal/syntax"
	"bijou.dev/services/gateway/routes"
)

// accept describes a request that has come, and begins its span.
func (e *Edge) accept(c *conn, r *message.Request) flow.Accepted {
	a := flow.Accepted{
		Request: r, Start: time.Now(), ID: requestID(r.Header), Peer: c.peer.addr, Client: c.peer.addr,
		GRPC: flow.IsGRPC(r), SeenHost: r.Host, SeenScheme: c.scheme(),
	}
	if hops := int(e.settings.trustedHops.Get()); hops > 0 {
		a.Proxies = trustedAddrs(r.Header, hops)
		if len(a.Proxies) > 0 {
			a.Client = a.Proxies[0]
		}
		if h := lastWord(r.Header, "X-Forwarded-Host"); syntax.IsHost(h) {
			a.SeenHost = h
		}
		if p := lastWord(r.Header, "X-Forwarded-Proto"); p == "https" || p == "http" {
			a.SeenScheme = p
		}
	}
	a.Ctx, a.Span = e.opts.Trace.StartServer(r.Context, trace.Incoming{
		Header: flow.TraceCarrier{Header: &r.Header}, Method: r.Method, Scheme: a.SeenScheme, Path: flow.PlainPath(r),
		Version: r.Version.String(), Client: a.Client,
	})
	if a.GRPC {
		a.Deadline = forward.DeadlineOf(r.Header, a.Start)
	}
	return a
}

// lastWord is the last word of the lists of a field: what the nearest proxy has added. Words before it may be the
// client's.
func lastWord(h message.Header, name string) (last string) {
	for word := range h.Words(name) {
		last = word
	}
	return last
}

// requestID returns the request's id if it can be passed on, else a new one.
func requestID(h message.Header) string {
	if id := h.Get("X-Request-Id"); len(id) <= 128 && syntax.Only(id, &syntax.IDChars) && h.Count("X-Request-Id") == 1 {
		return id
	}
	var raw [16]byte
	a, b := rand.Uint64(), rand.Uint64() // the id must be unique, not secret
	for i := range 8 {
		raw[i], raw[8+i] = byte(a>>(8*i)), byte(b>>(8*i))
	}
	return hex.EncodeToString(raw[:])
}

// trustedAddrs returns the addresses of X-Forwarded-For that trusted proxies have added, the one of the client first.
func trustedAddrs(h message.Header, hops int) []string {
	list := slices.Collect(h.Words("X-Forwarded-For"))
	list = list[max(0, len(list)-hops):]
	trusted := make([]string, 0, len(list))
	for _, addr := range list {
		if net.ParseIP(addr) != nil {
			trusted = append(trusted, addr)
		} else {
			trusted = trusted[:0] // addresses before an invalid one are not trusted
		}
	}
	return trusted
}

// check refuses what is wrong with a request on any route, and fills what depends on that.
func (x *exchange) check() *flow.Failure {
	r := x.in.Request
	if r.Refused != nil {
		return flow.HangUp(r.Refused.Status, "%s", r.Refused.Detail)
	}
	if x.edge.memory.isTight() {
		f := flow.HangUp(http.StatusServiceUnavailable, "the edge has no memory for more requests")
		f.Fault, f.Retry = flow.FaultOverload, time.Second
		return f
	}
	for _, f := range r.Header {
		if fields.Disguised(f.Name) {
			return flow.HangUp(http.StatusBadRequest, "the header %q must be written with dashes", f.Name)
		}
	}
	switch {
	case len(r.Header) > message.MaxFields:
		return flow.HangUp(http.StatusRequestHeaderFieldsTooLarge, "there must be at most %d header fields, there are %d",
			message.MaxFields, len(r.Header))
	case len(r.Target) > message.MaxTarget:
		return flow.HangUp(http.StatusRequestURITooLong, "the URL must be at most %d bytes long", message.MaxTarget)
	case r.Method == http.MethodConnect || r.Method == http.MethodTrace:
		return flow.HangUp(http.StatusMethodNotAllowed, "the method %s is not available here", r.Method)
	case !syntax.IsToken(r.Method):
		return flow.HangUp(http.StatusBadRequest, "the method is not a token")
	case !syntax.IsHost(r.Host) && (r.Host != "" || r.AtLeast(message.HTTP11)):
		return flow.HangUp(http.StatusBadRequest, "the host %q is not valid", r.Host)
	}
	if f := x.checkForwarding(); f != nil {
		return f
	}
	x.to.Path = r.Path
	if err := routes.CheckPath(r.Path); err != nil {
		return flow.HangUp(http.StatusBadRequest, "%v", err)
	}
	if f := x.checkUpgrade(); f != nil {
		return f
	}
	return x.checkClient()
}

// maxEdges is how many edges a request may have come through.
const maxEdges = 8

// checkForwarding answers requests that must not be forwarded: those that are for the edge itself (RFC 9110, 7.6.2 and
// 9.3.7), and those that go round in circles (RFC 9110, 7.6).
func (x *exchange) checkForwarding() *flow.Failure {
	r := x.in.Request
	if fields.Edges(r.Header) >= maxEdges {
		return flow.Fail(flow.FaultClient, http.StatusLoopDetected,
			"the request has come through %d edges; the service of its route leads back to the edge", maxEdges)
	}
	if r.Method != http.MethodOptions {
		return nil
	}
	if r.Target == "*" || r.Path == "" {
		x.to.Path = r.Target
		return &flow.Failure{Status: http.StatusOK}
	}
	if !r.Header.Has("Max-Forwards") {
		return nil
	}
	left, err := strconv.ParseUint(r.Header.Get("Max-Forwards"), 10, 31)
	if r.Header.Count("Max-Forwards") > 1 || err != nil && !errors.Is(err, strconv.ErrRange) {
		return flow.HangUp(http.StatusBadRequest, "there must be one Max-Forwards, of digits")
	}
	if left == 0 {
		x.to.Path = r.Path
		return &flow.Failure{Status: http.StatusOK}
	}
	x.in.MaxForwards = strconv.FormatUint(left-1, 10)
	return nil
}

// checkUpgrade checks a request to switch protocols. An upgrade to h2c is ignored, as RFC 9113 advises, and so is each
// of HTTP/1.0 (RFC 9110, 7.8). HTTP/2 with prior knowledge works. Over HTTP/2 it is a CONNECT with a protocol.
func (x *exchange) checkUpgrade() *flow.Failure {
	r := x.in.Request
	if r.Protocol != "" {
		if r.Protocol != routes.WebSocket {
			return flow.Fail(flow.FaultClient, http.StatusNotImplemented, "the only protocol over HTTP/2 is websocket")
		}
		x.in.Upgrade = routes.WebSocket
		return nil
	}
	if r.Version != message.HTTP11 || !r.Header.HasWord("Connection", "upgrade") || !r.Header.Has("Upgrade") {
		return nil
	}
	n, to := r.Header.Count("Upgrade"), r.Header.Get("Upgrade")
	if n == 1 && strings.EqualFold(to, "h2c") {
		return nil
	}
	isWebSocket := n == 1 && strings.EqualFold(to, routes.WebSocket)
	switch {
	case !isWebSocket && (n > 1 || !x.edge.table.Load().Upgrades):
		return flow.HangUp(http.StatusBadRequest, "the only protocol to upgrade to is websocket")
	case isWebSocket && r.Method != http.MethodGet, r.Length != 0:
		return flow.HangUp(http.StatusBadRequest, "an upgrade must be a GET without a body")
	case isWebSocket:
		to = routes.WebSocket
	}
	x.in.Upgrade = to
	return nil
}

// checkClient refuses clients that are banned, and limits the requests of one address: with HTTP/2, the limit of
// connections does not limit them.
func (x *exchange) checkClient() *flow.Failure {
	if f := x.refuseBanned(); f != nil {
		return f
	}
	x.counted = true
	if x.conn.peer.requests.Add(1) <= x.edge.settings.maxConnsClient.Get() {
		return nil
	}
	f := flow.Fail(flow.FaultClient, http.StatusTooManyRequests, "too many requests of one client are in progress")
	f.Retry = time.Second
	return f
}
