package gateway

import (
	"errors"
	"io"
	"net"
	"sync/atomic"
	"time"

	"bijou.dev/services/gateway/internal/proxyproto"
)

// proxyHeaderTime is how long a proxy may take to send the header of the PROXY protocol.
const proxyHeaderTime = 10 * time.Second

// proxies is the setting gateway.proxyProtocol in use.
type proxies struct {
	*proxyproto.Listeners
	warned atomic.Bool // a refused connection was logged
}

// trustProxies puts the setting gateway.proxyProtocol into use. Connections that are open stay as they are.
func (e *Edge) trustProxies(t proxyproto.Trusted) {
	l, err := proxyproto.Compile(t)
	if err != nil { // cannot happen: the setting was validated
		e.log.Error("keeping the previous proxies of the PROXY protocol", "error", err)
		return
	}
	e.proxies.Store(&proxies{Listeners: l})
}

// proxiesOf returns the networks whose connections begin with a header of the PROXY protocol on a listener. Empty: no
// connection does.
func (c *connections) proxiesOf(overTLS bool) proxyproto.Networks {
	if overTLS {
		return c.edge.proxies.Load().HTTPS
	}
	return c.edge.proxies.Load().HTTP
}

// readClient reads the header of the PROXY protocol from a connection of a proxy, and counts the connection for the
// client that it names. False: there is no good header, or the client has too many connections or is banned.
func (c *conn) readClient() bool {
	edge := c.conns.edge
	_ = c.raw.SetReadDeadline(time.Now().Add(proxyHeaderTime)) // fails only for a closed connection, as reading does
	client, err := proxyproto.Read(c.raw)
	proxy := hostOf(c.raw.RemoteAddr())
	if err != nil {
		reason := "invalid"
		switch {
		case isTimeout(err):
			reason = "time"
		case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF), errors.Is(err, net.ErrClosed):
			reason = "closed"
		case errors.Is(err, proxyproto.ErrMissing):
			reason = "missing"
		}
		edge.metrics.proxyHeaders.WithLabelValues(reason).Inc()
		edge.log.Debug("a connection has no good header of the PROXY protocol", "proxy", proxy, "reason", reason,
			"error", err.Error())
		return false
	}
	_ = c.raw.SetReadDeadline(time.Time{})
	addr, result := proxy, "local"
	if client.IsValid() {
		addr, result = client.String(), "ok"
	}
	edge.metrics.proxyHeaders.WithLabelValues(result).Inc()
	if limit := c.conns.identify(c, addr); limit != "" {
		edge.metrics.refused.WithLabelValues(limit).Inc()
		return false
	}
	return true
}

// identify counts a connection for its client, who was not known when the connection was accepted. limit is why it is
// not served; empty: it is.
func (c *connections) identify(k *conn, addr string) (limit string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if _, ok := c.open[k]; !ok {
		return "all" // closeIdleLocked has closed it
	}
	if c.isBanned(addr) {
		return "banned"
	}
	return c.joinLocked(k, addr)
}

// joinLocked counts a connection for an address. limit is why it is not served; empty: it is.
func (c *connections) joinLocked(k *conn, addr string) (limit string) {
	p := c.byPeer[addr]
	if p == nil {
		p = &peer{addr: addr}
		c.byPeer[addr] = p
	}
	if int64(p.conns) >= c.edge.settings.maxConnsClient.Get() {
		return "client"
	}
	p.conns++
	k.peer = p
	return ""
}

// hostOf is the host of an address.
func hostOf(addr net.Addr) string {
	text := addr.String()
	if host, _, err := net.SplitHostPort(text); err == nil {
		return host
	}
	return text
}
