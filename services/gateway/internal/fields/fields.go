// Package fields knows the header fields that the edge treats in a special way.
package fields

import (
	"net/http"
	"slices"
	"strings"
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

// HasWord reports whether one of the comma separated lists holds a word, in any case.
func HasWord(lines []string, word string) bool {
	for _, line := range lines {
		if strings.EqualFold(line, word) {
			return true
		}
		if strings.IndexByte(line, ',') < 0 {
			continue
		}
		for w := range strings.SplitSeq(line, ",") {
			if strings.EqualFold(strings.TrimSpace(w), word) {
				return true
			}
		}
	}
	return false
}

// AddVary adds a name to Vary unless it is there. It does not change the lines that h has, which may be shared.
func AddVary(h http.Header, name string) {
	if lines := h["Vary"]; !HasWord(lines, name) && !HasWord(lines, "*") {
		h["Vary"] = append(slices.Clip(lines), name)
	}
}
