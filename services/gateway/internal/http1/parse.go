package http1

import (
	"bytes"
	"fmt"
	"net/http"
	"strconv"
	"strings"

	"bijou.dev/services/gateway/internal/message"
	"bijou.dev/services/gateway/internal/syntax"
)

const (
	maxMethod = 64 // bytes (RFC 9112, 3)
	maxEmpty  = 4  // empty lines before a head
)

// place is where a line of a header is in the bytes of its head.
type place struct{ name, nameEnd, value, end int }

// head is the head of a request, of which lines may be missing, with what the lines so far say.
type head struct {
	next     int // where the next line begins, from the beginning of the head
	empty    int // empty lines before the head
	lines    []place
	method   int // where the method ends; it begins the head
	target   int // where the target ends; it begins one byte behind the method
	version  message.Version
	absolute bool // the target is a URL
	hosts    int
	fields   int // lines so far
	host     place
	length   int64 // -1: none
	chunked  bool
}

// reset makes h empty for the next head. It keeps its memory.
func (h *head) reset() { *h = head{lines: h.lines[:0], length: -1} }

// parse reads the lines that have come, from the one that was not complete before. It reports whether the head is
// complete; h.next is its length then. What it refuses is no request that has one meaning (RFC 9112):
//
//   - lines end with CR LF, and there is no other CR, LF, NUL or control character in them;
//   - a name is followed by its colon, and no line is folded;
//   - at most one Content-Length, of digits only; or else "Transfer-Encoding: chunked", and only in HTTP/1.1;
//   - one valid Host, also beside a URL with a host, which replaces it; HTTP/1.0 may have none.
func (h *head) parse(data []byte) (done bool, refused *message.Refusal) {
	for {
		n := bytes.IndexByte(data[h.next:], '\n')
		if n < 0 {
			return false, h.checkUnfinished(data)
		}
		line := data[h.next : h.next+n]
		if n == 0 || line[n-1] != '\r' {
			return false, refuse(http.StatusBadRequest, "lines must end with CR LF")
		}
		line = line[:n-1]
		begin := h.next
		h.next += n + 1
		switch {
		case h.next > message.MaxHead:
			return false, tooLong()
		case begin == 0:
			refused = h.requestLine(line)
		case len(line) > 0:
			refused = h.field(data, begin, begin+len(line))
		default:
			return true, h.check(data)
		}
		if refused != nil {
			return false, refused
		}
	}
}

func refuse(status int, format string, args ...any) *message.Refusal {
	return &message.Refusal{Status: status, Detail: fmt.Sprintf(format, args...)}
}

func tooLong() *message.Refusal {
	return refuse(http.StatusRequestHeaderFieldsTooLarge, "the header must be at most %d bytes long", message.MaxHead)
}

func targetTooLong() *message.Refusal {
	return refuse(http.StatusRequestURITooLong, "the URL must be at most %d bytes long", message.MaxTarget)
}

func (h *head) checkUnfinished(data []byte) *message.Refusal {
	switch {
	case h.next == 0 && len(data) > message.MaxTarget+256:
		return targetTooLong()
	case len(data) > message.MaxHead:
		return tooLong()
	}
	return nil
}

// requestLine reads "METHOD target HTTP/1.x".
func (h *head) requestLine(line []byte) *message.Refusal {
	method, rest, _ := bytes.Cut(line, []byte(" "))
	target, version, ok := bytes.Cut(rest, []byte(" "))
	switch {
	case !ok || !syntax.Only(method, &syntax.TokenChars):
		return refuse(http.StatusBadRequest, "the request line is not well formed")
	case len(method) > maxMethod:
		return refuse(http.StatusNotImplemented, "the method must be at most %d bytes long", maxMethod)
	case len(target) > message.MaxTarget:
		return targetTooLong()
	case len(target) == 0 || !clean(target) || bytes.ContainsAny(target, "#\t") || !wholeEscapes(target):
		return refuse(http.StatusBadRequest, "the URL is not valid")
	}
	switch string(version) {
	case "HTTP/1.1":
		h.version = message.HTTP11
	case "HTTP/1.0":
		h.version = message.HTTP10
	default:
		if len(version) == 8 && string(version[:5]) == "HTTP/" {
			return refuse(http.StatusHTTPVersionNotSupported, "the version of HTTP must be 1.0, 1.1 or 2")
		}
		return refuse(http.StatusBadRequest, "the request line is not well formed")
	}
	h.method, h.target = len(method), len(method)+1+len(target)
	if target[0] == '/' || string(target) == "*" || string(method) == http.MethodConnect {
		return nil
	}
	if host, _ := cutURL(string(target)); !syntax.IsHost(host) {
		return refuse(http.StatusBadRequest, "the URL is not valid")
	}
	h.absolute = true
	return nil
}

// cutURL cuts the URL of a request in absolute form. Empty host: it is none.
func cutURL(target string) (host, rest string) {
	scheme, after, ok := strings.Cut(target, "://")
	if !ok || !strings.EqualFold(scheme, "http") && !strings.EqualFold(scheme, "https") {
		return "", ""
	}
	i := strings.IndexAny(after, "/?")
	if i < 0 {
		i = len(after)
	}
	return after[:i], after[i:]
}

// field reads the line "Name: value" and keeps the values that decide where the message ends. It writes the name in
// canonical form.
func (h *head) field(data []byte, begin, end int) *message.Refusal {
	if h.fields++; h.fields > message.MaxFields {
		return refuse(http.StatusRequestHeaderFieldsTooLarge, "there must be at most %d header fields", message.MaxFields)
	}
	p, problem := readField(data, begin, end)
	if problem != "" {
		return refuse(http.StatusBadRequest, "%s", problem)
	}
	name, value := data[p.name:p.nameEnd], data[p.value:p.end]
	switch string(name) {
	case "Host":
		h.host = p
		h.hosts++
	case "Expect":
		if string(bytes.ToLower(value)) != "100-continue" {
			return refuse(http.StatusExpectationFailed, "the only expectation is 100-continue")
		}
	case "Content-Length":
		var ok bool
		switch {
		case h.length >= 0:
			return refuse(http.StatusBadRequest, "there must be one Content-Length")
		default:
			if h.length, ok = readLength(value); !ok {
				return refuse(http.StatusBadRequest, "the Content-Length must be digits")
			}
		}
	case "Transfer-Encoding":
		return h.transferEncoding(value)
	}
	h.lines = append(h.lines, p)
	return nil
}

// readField finds name and value of the line "Name: value" from begin to end, and writes the name in canonical form.
func readField(data []byte, begin, end int) (p place, problem string) {
	line := data[begin:end]
	if line[0] == ' ' || line[0] == '\t' {
		return p, "header lines must not be folded"
	}
	n := bytes.IndexByte(line, ':')
	if n < 0 || !syntax.Only(line[:n], &syntax.TokenChars) {
		return p, "a header line must be a name, a colon and a value"
	}
	if !clean(line[n+1:]) {
		return p, "a header value has a control character"
	}
	canonicalize(line[:n])
	p = place{name: begin, nameEnd: begin + n, value: begin + n + 1, end: end}
	for p.value < p.end && isSpace(data[p.value]) {
		p.value++
	}
	for p.end > p.value && isSpace(data[p.end-1]) {
		p.end--
	}
	return p, ""
}

// canonicalize writes a name in the form Content-Type.
func canonicalize(name []byte) {
	upper := true
	for i, c := range name {
		switch {
		case upper && 'a' <= c && c <= 'z':
			name[i] = c - 'a' + 'A'
		case !upper && 'A' <= c && c <= 'Z':
			name[i] = c - 'A' + 'a'
		}
		upper = c == '-'
	}
}

// readLength reads a Content-Length.
func readLength(value []byte) (n int64, ok bool) {
	for _, c := range value {
		if c < '0' || c > '9' {
			return -1, false
		}
	}
	n, err := strconv.ParseInt(string(value), 10, 64)
	return n, err == nil
}

func (h *head) transferEncoding(value []byte) *message.Refusal {
	before, last := []byte(nil), value
	if i := bytes.LastIndexByte(value, ','); i > 0 {
		before, last = value[:i], bytes.Trim(value[i+1:], " \t")
	}
	switch {
	case h.chunked, !isChunked(last), bytes.Contains(bytes.ToLower(before), []byte("chunked")):
		return refuse(http.StatusBadRequest, "the only Transfer-Encoding is chunked, once")
	case before != nil: // the end of the message is clear, but not what the coding before means (RFC 9112, 6.1)
		return refuse(http.StatusNotImplemented, "the only Transfer-Encoding is chunked")
	}
	h.chunked = true
	return nil
}

// isChunked reports whether a coding is chunked. The Kelvin sign is a k to EqualFold.
func isChunked(coding []byte) bool {
	return syntax.Only(coding, &syntax.TokenChars) && bytes.EqualFold(coding, []byte("chunked"))
}

// check checks the complete head.
func (h *head) check(data []byte) *message.Refusal {
	problem := ""
	switch {
	case h.hosts > 1, h.hosts == 0 && h.version != message.HTTP10:
		problem = "there must be one Host"
	case h.hosts == 1 && !syntax.IsHost(string(data[h.host.value:h.host.end])):
		problem = "the Host is not valid"
	case h.chunked && h.length >= 0:
		problem = "there must not be both Content-Length and Transfer-Encoding"
	case h.chunked && h.version == message.HTTP10:
		problem = "HTTP/1.0 has no Transfer-Encoding"
	}
	if problem != "" {
		return refuse(http.StatusBadRequest, "%s", problem)
	}
	return nil
}

// fill writes what a complete head says into r, whose header may have memory. Text is the head, whose names are
// canonical.
func (h *head) fill(r *message.Request, text string) {
	r.Version, r.Method, r.Target, r.Size = h.version, text[:h.method], text[h.method+1:h.target], len(text)
	if cap(r.Header) < len(h.lines) {
		r.Header = make(message.Header, 0, len(h.lines))
	}
	for _, p := range h.lines {
		if name := text[p.name:p.nameEnd]; name != "Host" {
			r.Header = append(r.Header, message.Field{Name: name, Value: text[p.value:p.end]})
		}
	}
	r.Host = text[h.host.value:h.host.end]
	rest := r.Target
	if h.absolute {
		r.Host, rest = cutURL(r.Target) // and the Host is ignored (RFC 9112, 3.2.2)
	}
	r.Path = rest
	if i := strings.IndexByte(rest, '?'); i >= 0 {
		r.Path, r.Query = rest[:i], rest[i:]
	}
	if h.absolute && r.Path == "" && (r.Method != http.MethodOptions || r.Query != "") {
		r.Path = "/"
	}
	switch {
	case h.chunked:
		r.Length = -1
	default:
		r.Length = max(0, h.length)
	}
}

// clean reports whether s has no control character but the tab.
func clean(s []byte) bool {
	for _, c := range s {
		if c < ' ' && c != '\t' || c == 0x7f {
			return false
		}
	}
	return true
}

// wholeEscapes reports whether each percent sign in the path of a target has its two digits.
func wholeEscapes(target []byte) bool {
	path, _, _ := bytes.Cut(target, []byte("?"))
	for i := bytes.IndexByte(path, '%'); i >= 0; i = bytes.IndexByte(path, '%') {
		if path = path[i:]; len(path) < 3 {
			return false
		}
		_, hi := syntax.Unhex(path[1])
		_, lo := syntax.Unhex(path[2])
		if !hi || !lo {
			return false
		}
		path = path[3:]
	}
	return true
}

func isSpace(c byte) bool { return c == ' ' || c == '\t' }
