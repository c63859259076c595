package forward

import (
	"slices"
	"strings"

	"bijou.dev/services/gateway/internal/fields"
	"bijou.dev/services/gateway/internal/message"
	"bijou.dev/services/gateway/internal/reply"
	"bijou.dev/services/gateway/routes"
)

// outgoing returns the header to send to the origin.
func (c *call) outgoing() message.Header {
	in := c.Header
	out := slices.Grow(c.header[:0], len(in)+12)
	drop := fields.Named(in)
	for _, f := range in {
		switch {
		case fields.HopByHop(f.Name), fields.Stripped(f.Name), fields.Traced(f.Name), f.Name == "X-Request-Id",
			drop != nil && slices.Contains(drop, f.Name):
			continue
		case f.Name == "Max-Forwards" && c.MaxForwards != "":
			f.Value = c.MaxForwards
		}
		out = append(out, f)
	}
	if c.Upgrade == "" && in.HasWord("Te", "trailers") {
		out.Add("Te", "trailers")
	}
	if c.Upgrade != "" {
		out.Add("Connection", "Upgrade")
		out.Add("Upgrade", c.Upgrade)
	}
	if c.Rule.Callers != nil {
		c.Rule.Callers.Apply(&out, c.Caller)
	}
	if changes := &c.Rule.Request; changes.Any() {
		reply.Change(&out, changes, c.Routed)
	}
	if c.Protocol == routes.WebSocket {
		out.Set(webSocketKey, newWebSocketKey())
	}
	c.forwarded(&out)
	out.Add("Via", via[c.Accepted.Request.Version])
	out.Set("X-Request-Id", c.ID)
	if b := c.Rule.Class.Baggage(); b != "" {
		out.Set("Baggage", b)
	}
	return out
}

// via is the line of the edge in Via (RFC 9110, 7.6.3).
var via = map[message.Version]string{
	message.HTTP10: "1.0 " + fields.Pseudonym,
	message.HTTP11: "1.1 " + fields.Pseudonym,
	message.HTTP2:  "2.0 " + fields.Pseudonym,
}

// forwarded sets the X-Forwarded-* fields. Of the addresses in the request, only as many are kept as there are trusted
// proxies before the edge: each of them has added one.
func (c *call) forwarded(out *message.Header) {
	chain := c.Peer
	if len(c.Proxies) > 0 {
		chain = strings.Join(c.Proxies, ", ") + ", " + c.Peer
	}
	out.Set("X-Forwarded-For", chain)
	if c.SeenHost != "" {
		out.Set("X-Forwarded-Host", c.SeenHost)
	}
	out.Set("X-Forwarded-Proto", c.SeenScheme)
	if c.ClientCert != "" {
		out.Set(ClientCertHeader, c.ClientCert)
	}
}

// ClientCertHeader is where the origin finds what is known of the client's certificate, in the form of Envoy.
const ClientCertHeader = "X-Forwarded-Client-Cert"
