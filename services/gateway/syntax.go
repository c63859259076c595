package gateway

import (
	"errors"
	"net/textproto"
	"strings"
)

// Errors of checkPath. They are sent to the client as the detail of the response.
var (
	errPathStart   = errors.New("the path must begin with a slash")
	errPathSegment = errors.New(`the path must have no "." or ".." and no empty segment`)
	errPathEscape  = errors.New("the path must not have a slash, a backslash or a control character in escaped form")
	errPathChar    = errors.New("the path must have no backslash, space or control character, and no broken escape")
)

// checkPath refuses every path that a server behind the edge might read as another path than the one that is matched.
// path is as received, with its escapes and without the query.
//
// Dot segments and empty segments, also escaped, are refused instead of being resolved: clients resolve them
// before they send, and a refused path cannot have two meanings.
func checkPath(path string) error {
	if path == "" || path[0] != '/' {
		return errPathStart
	}
	plain := 0 // decoded bytes in this segment
	dots := 0  // how many of them, from its start, are dots
	params := false
	for i := 1; i <= len(path); i++ {
		if i == len(path) || path[i] == '/' {
			// Servers with path parameters read "..;x" as "..".
			if dots > 0 && dots <= 2 && (plain == dots || params) || plain == 0 && i < len(path) {
				return errPathSegment
			}
			plain, dots, params = 0, 0, false
			continue
		}
		c := path[i]
		if c == '%' {
			var ok bool
			if c, ok = unescape(path[i:]); !ok {
				return errPathChar
			}
			if c == '/' || c == '\\' || c < 0x20 || c == 0x7f {
				return errPathEscape
			}
			i += 2
		} else if c <= ' ' || c == '\\' || c == 0x7f {
			return errPathChar
		}
		switch {
		case c == '.' && dots == plain:
			dots++
		case c == ';' && dots == plain:
			params = true
		}
		plain++
	}
	return nil
}

// unescape reads the escape that s begins with.
func unescape(s string) (byte, bool) {
	if len(s) < 3 {
		return 0, false
	}
	hi, ok1 := unhex(s[1])
	lo, ok2 := unhex(s[2])
	return hi<<4 | lo, ok1 && ok2
}

func unhex(c byte) (byte, bool) {
	switch {
	case '0' <= c && c <= '9':
		return c - '0', true
	case 'a' <= c|0x20 && c|0x20 <= 'f':
		return c | 0x20 - 'a' + 10, true
	}
	return 0, false
}

// replacePrefix puts to in the place of the first n unescaped bytes of a path, which is as it came, with escapes.
func replacePrefix(path string, n int, to string) string {
	i := 0
	for ; n > 0 && i < len(path); n-- {
		if path[i] == '%' {
			i += 2
		}
		i++
	}
	rest := strings.TrimPrefix(path[min(i, len(path)):], "/")
	if rest == "" {
		return to
	}
	return strings.TrimSuffix(to, "/") + "/" + rest
}

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
