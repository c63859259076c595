package gateway

import (
	"net/http"

	"bijou.dev/services/gateway/internal/bans"
	"bijou.dev/services/gateway/internal/flow"
)

// ban puts a list of addresses into use. Connections of addresses that are in it are closed.
func (e *Edge) ban(list bans.List) {
	t, err := bans.Compile(list)
	if err != nil { // cannot happen: the setting was validated
		e.log.Error("keeping the previous list of banned addresses", "error", err)
		return
	}
	e.banned.Store(t)
	if closed := e.conns.closeBanned(); closed > 0 {
		e.log.Info("connections of banned addresses were closed", "count", closed)
	}
}

// isBanned reports whether connections from an address are refused. Behind trusted proxies they come from the proxies,
// and only requests are refused.
func (c *connections) isBanned(addr string) bool {
	return !c.edge.banned.Load().Empty() && c.edge.settings.trustedHops.Get() == 0 && c.edge.banned.Load().Has(addr)
}

// closeBanned closes the connections of banned addresses and returns how many there were.
func (c *connections) closeBanned() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	closed := 0
	for k := range c.open {
		if k.peer != nil && c.isBanned(k.peer.addr) {
			_ = k.raw.Close() // the server notices, and ends its requests
			closed++
		}
	}
	return closed
}

// refuseBanned refuses the request of a banned client.
func (x *exchange) refuseBanned() *flow.Failure {
	if t := x.edge.banned.Load(); t.Empty() || !t.Has(x.in.Client) {
		return nil
	}
	x.edge.metrics.limited.WithLabelValues("", "banned").Inc()
	return flow.Fail(flow.FaultClient, http.StatusForbidden, "requests from this address are not served")
}
