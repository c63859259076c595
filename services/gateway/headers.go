package gateway

import (
	"encoding/hex"
	"math/rand/v2"
	"net"
	"net/http"
	"slices"
	"strings"

	"bijou.dev/services/gateway/internal/fields"
	"bijou.dev/services/gateway/internal/syntax"
	"bijou.dev/services/gateway/routes"

	"golang.org/x/net/http/httpguts"
)

// disguised reports whether a server that reads underscores as dashes, as CGI does, would take a field for one of those
// that the edge handles.
func disguised(name string) bool {
	if strings.IndexByte(name, '_') < 0 {
		return false
	}
	name = syntax.Canonical(strings.ReplaceAll(name, "_", "-"))
	switch name {
	case "Host", "Authorization", "Cookie", "Content-Type", "X-Request-Id":
		return true
	}
	return fields.HopByHop(name) || fields.Stripped(name) || fields.Traced(name)
}

// named returns the fields that Connection lists: they are about this connection, too. Nil in nearly all cases.
func named(connection []string) (names []string) {
	for _, line := range connection {
		for name := range strings.SplitSeq(line, ",") {
			switch name = syntax.Canonical(strings.TrimSpace(name)); name {
			case "", "Close", "Keep-Alive", "Upgrade", "Te":
			default:
				names = append(names, name)
			}
		}
	}
	return names
}

// outgoing returns the header to send to the origin. It shares lines with the request's.
func (x *exchange) outgoing() http.Header {
	in := x.r.Header
	out := make(http.Header, len(in)+8)
	drop := named(in["Connection"])
	for name, lines := range in {
		if fields.HopByHop(name) || fields.Stripped(name) || fields.Traced(name) ||
			drop != nil && slices.Contains(drop, name) {
			continue
		}
		out[name] = lines
	}
	if x.upgrade == "" && fields.HasWord(in["Te"], "trailers") {
		out["Te"] = trailers
	}
	if x.upgrade != "" {
		out["Connection"] = upgrade
		x.set(out, "Upgrade", x.upgrade)
	}
	if c := &x.rule.Request; c.Any() {
		x.change(out, c)
	}
	if _, ok := out["User-Agent"]; !ok {
		out["User-Agent"] = none // else the transport would add its own
	}
	x.forwarded(out)
	x.addVia(out)
	x.set(out, "X-Request-Id", x.id)
	if b := x.rule.Class.Baggage(); b != "" {
		x.set(out, "Baggage", b)
	}
	return out
}

// change applies the changes of a route to a header. A value that is not valid because of what a client sent is left
// out.
func (x *exchange) change(h http.Header, c *routes.Changes) {
	for _, name := range c.Remove {
		delete(h, name)
	}
	if len(c.Set)+len(c.Add) == 0 {
		return
	}
	vars := x.vars()
	for _, f := range c.Set {
		delete(h, f.Name)
		if value := f.Value.Text(vars); httpguts.ValidHeaderFieldValue(value) {
			h[f.Name] = []string{value}
		}
	}
	for _, f := range c.Add {
		if value := f.Value.Text(vars); httpguts.ValidHeaderFieldValue(value) {
			h[f.Name] = append(slices.Clip(h[f.Name]), value) // the lines are shared with the request's
		}
	}
}

// passesInTrailer reports whether a field may be passed on in a trailer (RFC 9110, 6.5.1): not if it is about framing,
// routing, the connection, who somebody is, how a request is to be handled or what an answer is. A server may merge a
// trailer into the header. connection is what Connection names (7.6.1).
func passesInTrailer(name string, connection []string) bool {
	switch name {
	case "Via", "Max-Forwards", "X-Request-Id", "Authorization", "Cookie", "Set-Cookie", "Www-Authenticate",
		"Authentication-Info", "Proxy-Authentication-Info", "Cache-Control", "Pragma", "Range", "Idempotency-Key",
		"Content-Type", "Content-Encoding", "Content-Range", "Age", "Date", "Expires", "Location", "Retry-After", "Vary",
		"Warning":
		return false
	}
	return !strings.HasPrefix(name, "If-") && !fields.HopByHop(name) && !fields.Stripped(name) && !fields.Traced(name) &&
		!disguised(name) && !slices.Contains(connection, name)
}

// copyTrailer copies those fields of a trailer that may be passed on.
func copyTrailer(to, from http.Header, connection []string) {
	for name, lines := range from {
		if passesInTrailer(name, connection) {
			to[name] = lines
		}
	}
}

// Lines that never change, shared by all requests.
var (
	trailers = []string{"trailers"}
	te       = []string{"TE"}
	upgrade  = []string{"Upgrade"}
	none     = []string{""}
	via10    = []string{"1.0 " + pseudonym}
	via11    = []string{"1.1 " + pseudonym}
	via20    = []string{"2.0 " + pseudonym}
)

// pseudonym is the name of every edge in Via. It is no name of a host, which would tell about the network inside
// (RFC 9110, 7.6.3).
const pseudonym = "bijou"

// maxEdges is how many edges a request may have come through.
const maxEdges = 8

// addVia adds the edge to Via (RFC 9110, 7.6.3).
func (x *exchange) addVia(out http.Header) {
	own := via11
	switch {
	case x.r.ProtoMajor == 2:
		own = via20
	case !x.r.ProtoAtLeast(1, 1):
		own = via10
	}
	if before := out["Via"]; len(before) > 0 {
		own = append(slices.Clip(before), own[0])
	}
	out["Via"] = own
}

// passedEdges returns how many edges the lines of Via name.
func passedEdges(via []string) (n int) {
	for _, line := range via {
		for item := range strings.SplitSeq(line, ",") {
			if words := strings.Fields(item); len(words) > 1 && words[1] == pseudonym {
				n++
			}
		}
	}
	return n
}

// set sets a field without allocating for its line.
func (x *exchange) set(h http.Header, name, value string) {
	i := x.used
	if i == len(x.lines) {
		h[name] = []string{value}
		return
	}
	x.used++
	x.lines[i] = value
	h[name] = x.lines[i : i+1 : i+1]
}

// forwarded sets the X-Forwarded-* fields. Of the addresses in the request, only as many are kept as there are trusted
// proxies before the edge: each of them has added one.
func (x *exchange) forwarded(out http.Header) {
	chain := x.peer
	if x.edge.settings.trustedHops.Get() > 0 {
		chain = strings.Join(append(x.trusted, x.peer), ", ")
	}
	host, scheme := x.seenByClient()
	x.set(out, "X-Forwarded-For", chain)
	if host != "" {
		x.set(out, "X-Forwarded-Host", host)
	}
	x.set(out, "X-Forwarded-Proto", scheme)
	if x.clientCert != "" {
		x.set(out, clientCertHeader, x.clientCert)
	}
}

// seenByClient returns the host and the scheme that the client uses: those that trusted proxies give.
func (x *exchange) seenByClient() (host, scheme string) {
	host, scheme = x.r.Host, "http"
	if x.conn != nil && x.conn.secure != nil {
		scheme = "https"
	}
	if x.edge.settings.trustedHops.Get() > 0 {
		if h := x.r.Header.Get("X-Forwarded-Host"); syntax.IsHost(h) {
			host = h
		}
		if p := x.r.Header.Get("X-Forwarded-Proto"); p == "https" || p == "http" {
			scheme = p
		}
	}
	return host, scheme
}

// trustedAddrs returns the addresses of X-Forwarded-For that trusted proxies have added, the one of the client first.
// Nil if no proxy is trusted.
func (x *exchange) trustedAddrs() []string {
	hops := int(x.edge.settings.trustedHops.Get())
	if hops == 0 {
		return nil
	}
	list := strings.Split(strings.Join(x.r.Header["X-Forwarded-For"], ","), ",")
	list = list[max(0, len(list)-hops):]
	trusted := make([]string, 0, len(list)+1)
	for _, addr := range list {
		if addr = strings.TrimSpace(addr); net.ParseIP(addr) != nil {
			trusted = append(trusted, addr)
		} else {
			trusted = trusted[:0] // addresses before an invalid one are not trusted
		}
	}
	return trusted
}

// requestID returns the request's id if it can be passed on, else a new one.
func requestID(h http.Header) string {
	if lines := h["X-Request-Id"]; len(lines) == 1 && len(lines[0]) <= 128 && syntax.Only(lines[0], &syntax.IDChars) {
		return lines[0]
	}
	var raw [16]byte
	a, b := rand.Uint64(), rand.Uint64() // the id must be unique, not secret
	for i := range 8 {
		raw[i], raw[8+i] = byte(a>>(8*i)), byte(b>>(8*i))
	}
	return hex.EncodeToString(raw[:])
}

// copyAnswer copies an origin's header, without what is about its connection. An answer without a Content-Type stays
// so: the server would guess one from the first bytes, and turn text that a stranger wrote into HTML.
func copyAnswer(to, from http.Header) {
	to["Content-Type"] = nil
	drop := named(from["Connection"])
	for name, lines := range from {
		switch name {
		case "Connection", "Proxy-Connection", "Keep-Alive", "Proxy-Authenticate", "Te", "Trailer", "Transfer-Encoding",
			"Upgrade", "X-Request-Id", faultHeader, attemptsHeader:
			continue
		}
		if drop != nil && slices.Contains(drop, name) {
			continue
		}
		to[name] = lines
	}
}

// peerOf is the address of the client of the connection, without the port.
func peerOf(r *http.Request) string {
	if host, _, err := net.SplitHostPort(r.RemoteAddr); err == nil {
		return host
	}
	return r.RemoteAddr
}
