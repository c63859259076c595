// Package fields knows the header fields that the edge treats in a special way.
package fields

import "strings"

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
