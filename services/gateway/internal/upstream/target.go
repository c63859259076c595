package upstream

import (
	"net"
	"net/netip"
	"path"
	"strconv"
	"strings"

	"bijou.dev/platform/errs"
	"bijou.dev/platform/text"
)

// The schemes of targets.
const (
	schemeHTTP  = "http"
	schemeHTTPS = "https"
	schemeH2C   = "h2c"
	schemeUnix  = "unix"
)

// Limits of the parts of a target.
const (
	maxName   = 253 // characters of a DNS name without the final dot (RFC 1035 section 3.1)
	maxLabel  = 63
	maxSocket = 107 // bytes of the path of a unix socket: Linux has room for 108 with the final zero, see unix(7)
)

// Target is the URL of origins that are not in the registry. It is comparable: two URLs with the same meaning are equal
// as Targets. Make one with [Parse]; the zero value is no target.
type Target struct {
	scheme string
	host   string     // the DNS name in lower case, the address without brackets, or the path of the socket
	addr   netip.Addr // of the host if that is an address
	port   uint16     // 0: an SRV name or a socket
}

// Parse reads a target:
//
//	http://host[:port]       HTTP/1.1; port 80 if there is none
//	https://host[:port]      HTTP over TLS; port 443 if there is none
//	h2c://host:port          HTTP/2 without TLS, for gRPC
//	unix:///run/app.sock     HTTP/1.1 over a unix socket
//
// The host is an IPv4 address, an IPv6 address in brackets or a DNS name. A name with a final dot is looked up without
// the search list of resolv.conf. A name of the form _service._proto.domain is an SRV name (RFC 2782), which has no
// port in the URL. The error is of kind errs.Invalid, and its text is the end of a sentence that begins with a field's
// name: "must have no path, ...".
func Parse(url string) (Target, error) {
	scheme, rest, ok := strings.Cut(url, "://")
	t := Target{scheme: strings.ToLower(scheme)}
	var err error
	switch {
	case ok && t.scheme == schemeUnix:
		err = t.parseSocket(rest)
	case ok && (t.scheme == schemeHTTP || t.scheme == schemeHTTPS || t.scheme == schemeH2C):
		err = t.parseAuthority(rest)
	case strings.Contains(url, "@"): // the text is not repeated, because it may hold a password
		err = invalid("must begin with http://, https://, h2c:// or unix://")
	default:
		err = invalid("must begin with http://, https://, h2c:// or unix://, is %.80q", url)
	}
	if err != nil {
		return Target{}, err
	}
	return t, nil
}

func invalid(format string, args ...any) error { return errs.Errorf(errs.Invalid, format, args...) }

func (t *Target) parseSocket(file string) error {
	switch {
	case strings.ContainsAny(file, "?#%"):
		return invalid("must be unix:// and a path without ?, # and %%, has %.120q", file)
	case !strings.HasPrefix(file, "/") || path.Clean(file) != file || file == "/":
		return invalid("must be unix:// and an absolute path without . and .., like unix:///run/app.sock, has %.120q", file)
	case len(file) > maxSocket:
		return invalid("must have a path of at most %d bytes, has %d; the system does not allow more for a socket",
			maxSocket, len(file))
	}
	if err := text.CheckLine(file, maxSocket); err != nil {
		return invalid("has a path that %w", err)
	}
	t.host = file
	return nil
}

func (t *Target) parseAuthority(rest string) error {
	authority, after := rest, ""
	if i := strings.IndexAny(rest, "/?#"); i >= 0 {
		authority, after = rest[:i], rest[i:]
	}
	if strings.Contains(authority, "@") { // the text is not repeated, because it may hold a password
		return invalid("must have no user and no password; remove all between :// and @")
	}
	if after != "" {
		return unwanted(after)
	}
	host, port, hasPort := strings.Cut(authority, ":")
	if strings.HasPrefix(authority, "[") {
		var behind string
		host, behind, hasPort = strings.Cut(authority[1:], "]")
		addr, err := netip.ParseAddr(host)
		if !hasPort || err != nil || !addr.Is6() || addr.Zone() != "" {
			return invalid("must have an IPv6 address without zone between [ and ], has %.80q", authority)
		}
		if port, hasPort = strings.CutPrefix(behind, ":"); !hasPort && behind != "" {
			return invalid("must have nothing or a port behind ], has %.80q", authority)
		}
		t.addr = addr.Unmap()
	} else if strings.Contains(port, ":") {
		return invalid("must have one port, and an IPv6 address in brackets like http://[::1]:80, has %.80q", authority)
	} else if addr, err := netip.ParseAddr(host); err == nil {
		t.addr = addr
	}
	if t.addr.IsValid() {
		if !isHost(t.addr) {
			return invalid("must have the address of a host, has %v; for this machine use 127.0.0.1 or [::1]", t.addr)
		}
		t.host = t.addr.String()
	} else {
		t.host = strings.ToLower(host)
		if err := checkName(t.host); err != nil {
			return err
		}
	}
	return t.parsePort(port, hasPort)
}

// unwanted returns the error for what follows host and port.
func unwanted(after string) error {
	switch after[0] {
	case '?':
		return invalid("must have no query, has %.80q; remove it", after)
	case '#':
		return invalid("must have no fragment, has %.80q; remove it", after)
	}
	return invalid("must have no path, has %.80q; remove it, and to send requests to another path use rewrite.prefix",
		after)
}

func (t *Target) parsePort(port string, hasPort bool) error {
	switch {
	case t.isSRV() && hasPort:
		return invalid("must have no port, has %.80q: DNS has the ports of %.80q; remove it", port, t.host)
	case t.isSRV():
		return nil
	case hasPort:
		n, err := strconv.ParseUint(port, 10, 16)
		if err != nil || n == 0 {
			return invalid("must have a port from 1 to 65535, has %.80q", port)
		}
		t.port = uint16(n)
		return nil
	case t.scheme == schemeH2C:
		return invalid("must have a port, like h2c://host:50051: there is no usual one for h2c")
	}
	t.port = defaultPorts[t.scheme]
	return nil
}

var defaultPorts = map[string]uint16{schemeHTTP: 80, schemeHTTPS: 443}

// isHost reports whether an address can be that of one host. A connection to the unspecified address would go to this
// process's own machine.
func isHost(a netip.Addr) bool {
	return !a.IsUnspecified() && !a.IsMulticast() && a != netip.AddrFrom4([4]byte{255, 255, 255, 255})
}

// checkName checks a DNS name in lower case. Underscores are allowed: names of SRV records and of containers have them.
func checkName(name string) error {
	labels := strings.Split(strings.TrimSuffix(name, "."), ".")
	if len(name) > maxName+1 || len(strings.TrimSuffix(name, ".")) > maxName {
		return invalid("must have a host name of at most %d characters, has %d", maxName, len(name))
	}
	for _, label := range labels {
		switch {
		case label == "" || len(label) > maxLabel:
			return invalid("must have a host name whose parts have 1 to %d characters, has %.80q", maxLabel, name)
		case label[0] == '-' || label[len(label)-1] == '-':
			return invalid("must have a host name whose parts do not begin or end with -, has %.80q", name)
		}
		for i := range len(label) {
			c := label[i]
			if (c < 'a' || c > 'z') && (c < '0' || c > '9') && c != '-' && c != '_' {
				return invalid("must have a host name of letters, digits, - and _ (other letters in their xn-- form), has %.80q",
					name)
			}
		}
	}
	// Some programs read 127.1 and 0x7f.1 as IPv4 addresses (https://url.spec.whatwg.org/#ends-in-a-number-checker).
	last := labels[len(labels)-1]
	if _, err := strconv.ParseUint(strings.TrimPrefix(last, "0x"), 16, 64); strings.Trim(last, "0123456789") == "" ||
		strings.HasPrefix(last, "0x") && (err == nil || last == "0x") {
		return invalid("must have an IPv4 address of four decimal numbers, or a host name that does not end with a number, "+
			"has %.80q", name)
	}
	return nil
}

// isSRV reports whether the host is the name of SRV records.
func (t Target) isSRV() bool {
	service, rest, _ := strings.Cut(t.host, ".")
	return t.scheme != schemeUnix && strings.HasPrefix(service, "_") && strings.HasPrefix(rest, "_") &&
		strings.Contains(strings.TrimSuffix(rest, "."), ".")
}

// String is the target in its canonical form: lower case, without the usual port. [Parse] reads it.
func (t Target) String() string {
	if t.scheme == schemeUnix || t.isSRV() {
		return t.scheme + "://" + t.host
	}
	if t.port == defaultPorts[t.scheme] {
		return t.scheme + "://" + bracketed(t.host)
	}
	return t.scheme + "://" + net.JoinHostPort(t.host, strconv.Itoa(int(t.port)))
}

// TLS reports whether requests go over TLS.
func (t Target) TLS() bool { return t.scheme == schemeHTTPS }

// H2C reports whether all requests go over HTTP/2 without TLS.
func (t Target) H2C() bool { return t.scheme == schemeH2C }

// Name is the host without port, brackets and final dot: the name that the certificate of the origin must have. For an
// SRV name it is the domain behind _service._proto, because DNS, which names the hosts, is not trusted to say which
// certificate is right (RFC 9525 section 6.1). For a socket it is "localhost".
func (t Target) Name() string {
	switch {
	case t.scheme == schemeUnix:
		return "localhost"
	case t.isSRV():
		_, rest, _ := strings.Cut(t.host, ".")
		_, domain, _ := strings.Cut(rest, ".")
		return strings.TrimSuffix(domain, ".")
	}
	return strings.TrimSuffix(t.host, ".")
}

// Host is the host and port as in a Host header: without the usual port.
func (t Target) Host() string {
	if t.port == 0 || t.port == defaultPorts[t.scheme] {
		return bracketed(t.Name())
	}
	return net.JoinHostPort(t.Name(), strconv.Itoa(int(t.port)))
}

func bracketed(host string) string {
	if strings.Contains(host, ":") {
		return "[" + host + "]"
	}
	return host
}

// fixed returns the address of the only instance of a target that needs no look-up.
func (t Target) fixed() (addr string, ok bool) {
	switch {
	case t.scheme == schemeUnix:
		return t.host, true
	case t.addr.IsValid():
		return netip.AddrPortFrom(t.addr, t.port).String(), true
	}
	return "", false
}

// Instance returns the address for [Set.Dial] of one that came through a URL, which cannot hold the path of a socket.
func (t Target) Instance(addr string) string {
	if t.scheme == schemeUnix {
		return t.host
	}
	return addr
}
