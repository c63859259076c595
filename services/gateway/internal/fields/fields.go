// Package fields knows the header fields that the edge treats in a special way.
package fields

import (
	"slices"
	"strings"

	"bijou.dev/services/gateway/internal/message"
	"bijou.dev/services/gateway/internal/syntax"
)

// Stripped reports whether only the platform may set a field, so that it is removed from requests of clients: the
// identity and address of the client, the original target, permissions and priorities.
func Stripped(name string) bool {
	switch name {
	case "Forwarded", "Baggage", "X-Real-Ip", "X-Client-Ip", "True-Client-Ip", "Cf-Connecting-Ip",
		"X-Cluster-Client-Ip", "X-Rewrite-Url", "X-Http-Method", "X-Http-Method-Override", "X-Method-Override":
		return true
	}
	if len(name) < len("X-Bijou-") || name[:2] != "X-" {
		return false
	}
	return strings.HasPrefix(name, "X-Forwarded-") || strings.HasPrefix(name, "X-Bijou-") ||
		strings.HasPrefix(name, "X-Original-") || strings.HasPrefix(name, "X-Envoy-")
}

// HopByHop reports whether a field is about one connection only, and so is never passed on (RFC 9110, 7.6.1). Expect,
// Content-Length and Host, which HTTP/2 has beside :authority, are among them because the edge answers the first and
// writes the others anew.
func HopByHop(name string) bool {
	switch name {
	case "Connection", "Proxy-Connection", "Keep-Alive", "Proxy-Authenticate", "Proxy-Authorization", "Te", "Trailer",
		"Transfer-Encoding", "Upgrade", "Http2-Settings", "Expect", "Content-Length", "Host":
		return true
	}
	return false
}

// Traced reports whether a field carries a trace context, which is written anew for each attempt.
func Traced(name string) bool {
	switch name {
	case "Traceparent", "Tracestate", "B3", "Grpc-Trace-Bin", "Grpc-Tags-Bin":
		return true
	}
	return strings.HasPrefix(name, "X-B3-")
}

// Disguised reports whether a server that reads underscores as dashes, as CGI does, would take a field for one of those
// that the edge handles.
func Disguised(name string) bool {
	if strings.IndexByte(name, '_') < 0 {
		return false
	}
	name = syntax.Canonical(strings.ReplaceAll(name, "_", "-"))
	switch name {
	case "Host", "Authorization", "Cookie", "Content-Type", "X-Request-Id":
		return true
	}
	return HopByHop(name) || Stripped(name) || Traced(name)
}

// Named returns the fields that Connection lists: they are about this connection, too. Nil in nearly all cases.
func Named(h message.Header) (names []string) {
	for name := range h.Words("Connection") {
		switch name = message.Canonical(name); name {
		case "", "Close", "Keep-Alive", "Upgrade", "Te":
		default:
			names = append(names, name)
		}
	}
	return names
}

// PassesInTrailer reports whether a field may be passed on in a trailer (RFC 9110, 6.5.1): not if it is about framing,
// routing, the connection, who somebody is, how a request is to be handled or what an answer is. A server may merge a
// trailer into the header. connection is what Connection names (7.6.1).
func PassesInTrailer(name string, connection []string) bool {
	switch name {
	case "Via", "Max-Forwards", "X-Request-Id", "Authorization", "Cookie", "Set-Cookie", "Www-Authenticate",
		"Authentication-Info", "Proxy-Authentication-Info", "Cache-Control", "Pragma", "Range", "Idempotency-Key",
		"Content-Type", "Content-Encoding", "Content-Range", "Age", "Date", "Expires", "Location", "Retry-After", "Vary",
		"Warning":
		return false
	}
	return !strings.HasPrefix(name, "If-") && !HopByHop(name) && !Stripped(name) && !Traced(name) &&
		!Disguised(name) && !slices.Contains(connection, name)
}

// PassedTrailer returns those fields of a trailer that may be passed on.
func PassedTrailer(from message.Header, connection []string) (to message.Header) {
	for _, f := range from {
		if PassesInTrailer(f.Name, connection) {
			to = append(to, f)
		}
	}
	return to
}

// Pseudonym is the name of every edge in Via. It is no name of a host, which would tell about the network inside
// (RFC 9110, 7.6.3).
const Pseudonym = "bijou"

// Edges returns how many edges Via names.
func Edges(h message.Header) (n int) {
	for item := range h.Words("Via") {
		if words := strings.Fields(item); len(words) > 1 && words[1] == Pseudonym {
			n++
		}
	}
	return n
}

// AddVary adds a name to Vary unless it is there.
func AddVary(h *message.Header, name string) {
	if !h.HasWord("Vary", name) && !h.HasWord("Vary", "*") {
		h.Add("Vary", name)
	}
}
