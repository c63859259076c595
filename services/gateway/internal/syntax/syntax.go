// Package syntax has the sets of characters and the small rules that the parsers of the edge share.
package syntax

import (
	"fmt"
	"net/netip"
	"net/textproto"
	"strings"
)

// TokenChars are the characters of methods and field names (RFC 9110, 5.6.2).
var TokenChars = charset("!#$%&'*+-.^_`|~" + alnum)

// hostChars are those of a host with a port, or of an address in brackets.
var hostChars = charset("-._~!$&'()*+,;=%:[]" + alnum)

// IDChars are those of request ids that the edge passes on.
var IDChars = charset("-_.:/+=" + alnum)

const alnum = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"

func charset(chars string) (set [256]bool) {
	for i := range len(chars) {
		set[chars[i]] = true
	}
	return set
}

// Only reports whether s is not empty and has no byte outside of set.
func Only[S string | []byte](s S, set *[256]bool) bool {
	for i := range len(s) {
		if !set[s[i]] {
			return false
		}
	}
	return len(s) > 0
}

// IsToken reports whether s is a token, as methods and names of fields are (RFC 9110, 5.6.2).
func IsToken(s string) bool { return Only(s, &TokenChars) }

// IsHost reports whether s is host or host:port.
func IsHost(s string) bool {
	if len(s) > 255 || !Only(s, &hostChars) {
		return false
	}
	host, port := splitHost(s)
	if host == "" || strings.Contains(host, "]") != (host[0] == '[') {
		return false
	}
	if host[0] != '[' && strings.ContainsAny(host, "[:") {
		return false
	}
	for i := range len(port) {
		if port[i] < '0' || port[i] > '9' {
			return false
		}
	}
	return len(port) <= 5
}

// splitHost takes the port off.
func splitHost(s string) (host, port string) {
	if i := strings.LastIndexByte(s, ':'); i >= 0 && !strings.HasSuffix(s, "]") {
		return s[:i], s[i+1:]
	}
	return s, ""
}

// WithoutPort is host:port without the port.
func WithoutPort(s string) string {
	host, _ := splitHost(s)
	return host
}

// HostName is the name of a host for matching: lower case, no port, no final dot.
func HostName(s string) string {
	host, _ := splitHost(s)
	return strings.ToLower(strings.TrimSuffix(host, "."))
}

// IsHostPattern reports whether s is a host name without port, or "*." and one.
func IsHostPattern(s string) bool {
	name := strings.TrimPrefix(s, "*.")
	return IsHost(name) && !strings.ContainsAny(name, ":*")
}

// MatchesHost reports whether a pattern takes a host name: it is the same name, "*." and a name above it, or "*". Both
// are in lower case.
func MatchesHost(pattern, host string) bool {
	parent, wild := strings.CutPrefix(pattern, "*")
	return wild && strings.HasSuffix(host, parent) || pattern == host
}

// Canonical is the form of a field's name that http.Header uses.
func Canonical(name string) string { return textproto.CanonicalMIMEHeaderKey(name) }

// Unescape reads the escape ("%2F") that s begins with.
func Unescape(s string) (byte, bool) {
	if len(s) < 3 {
		return 0, false
	}
	hi, ok1 := Unhex(s[1])
	lo, ok2 := Unhex(s[2])
	return hi<<4 | lo, ok1 && ok2
}

// Unhex is the value of a hexadecimal digit.
func Unhex(c byte) (byte, bool) {
	switch {
	case '0' <= c && c <= '9':
		return c - '0', true
	case 'a' <= c|0x20 && c|0x20 <= 'f':
		return c | 0x20 - 'a' + 10, true
	}
	return 0, false
}

// ParseNetwork reads a network or an address. Addresses of IPv4 in the form of IPv6 are as IPv4; networks in that form
// are refused, because no address is in them.
func ParseNetwork(text string) (netip.Prefix, error) {
	if addr, err := netip.ParseAddr(text); err == nil && addr.Zone() == "" {
		return netip.PrefixFrom(addr.Unmap(), addr.Unmap().BitLen()), nil
	}
	network, err := netip.ParsePrefix(text)
	if err != nil || network != network.Masked() || network.Addr().Is4In6() {
		return netip.Prefix{},
			fmt.Errorf(`must be an address or a network like "10.0.0.0/8", with zeros behind it, is %q`, text)
	}
	return network, nil
}
