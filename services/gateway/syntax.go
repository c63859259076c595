package gateway

import (
	"net/textproto"
	"strings"
)

// tokenChars are the characters of methods and field names (RFC 9110, 5.6.2).
var tokenChars = charset("!#$%&'*+-.^_`|~" + alnum)

// hostChars are those of a host with a port, or of an address in brackets.
var hostChars = charset("-._~!$&'()*+,;=%:[]" + alnum)

// idChars are those of request ids that we pass on.
var idChars = charset("-_.:/+=" + alnum)

const alnum = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"

func charset(chars string) (set [256]bool) {
	for i := range len(chars) {
		set[chars[i]] = true
	}
	return set
}

func only[S string | []byte](s S, set *[256]bool) bool {
	for i := range len(s) {
		if !set[s[i]] {
			return false
		}
	}
	return len(s) > 0
}

func isToken(s string) bool { return only(s, &tokenChars) }

// isHost reports whether s is host or host:port.
func isHost(s string) bool {
	if len(s) > 255 || !only(s, &hostChars) {
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

// hostName is the name of a host for matching: lower case, no port, no final dot.
func hostName(s string) string {
	host, _ := splitHost(s)
	return strings.ToLower(strings.TrimSuffix(host, "."))
}

func canonical(name string) string { return textproto.CanonicalMIMEHeaderKey(name) }
