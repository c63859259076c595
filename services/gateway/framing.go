package gateway

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"math"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"

	"bijou.dev/services/gateway/internal/syntax"
)

// framing follows the messages of an HTTP/1 connection, byte by byte, before the server parses them. It gives out the
// head of a request only when it is complete and has only one meaning (RFC 9112): net/http by itself reads a request
// that has both a length and a transfer coding as two requests, and accepts folded lines (as of Go 1.26).
//
// It is stricter than the server in everything, so the two never disagree about where a message ends:
//
//   - lines end with CR LF, and there is no other CR, LF, NUL or control character in them;
//   - at most a few empty lines stand before a request; they are not given out;
//   - a name is followed by its colon, and no line is folded;
//   - at most one Content-Length, of digits only; or else "Transfer-Encoding: chunked", and only in HTTP/1.1;
//   - one valid Host, also beside a URL with a host, which replaces it; HTTP/1.0 may have none;
//   - chunks of hexadecimal digits, with little beside them; extensions are not given out.
//
// In place of a head that it refuses it gives out a request with a secret method, which the edge answers with a
// problem. After that, or after a body that is not well formed, nothing more is read from the connection. HTTP/2 is not
// checked here, because its frames have only one meaning; see http2Guard for other attacks.
type framing struct {
	refusal string // method of the request in place of a refused one
	only    protocol

	buf     []byte  // what has come and was not given out
	pool    *[]byte // to give back with buf; nil: buf is not from headBuffers
	off     int     // where it begins
	ready   int     // how much of it may be given out
	state   state
	left    int64       // bytes of body or chunk to come
	extra   int         // bytes spent on chunk extensions and trailers
	empty   int         // empty lines before the head
	any     bool        // an empty line or a head was complete
	ended   atomic.Bool // nothing is read from the connection any more
	cutBody atomic.Bool // it has ended because a body is not well formed
	err     error       // for the reader when all that is ready was given out
	head    head
}

// protocol is what a client may send.
type protocol uint8

const (
	anyProtocol protocol = iota
	onlyHTTP1            // a preface of HTTP/2 is refused
	onlyHTTP2            // anything but a preface of HTTP/2 ends the connection
)

type state uint8

const (
	inHead state = iota
	inBody
	inChunkSize
	inChunk
	inChunkEnd
	inTrailer
	inTunnel
	inHTTP2
	hasEnded
)

// head is a head that may be incomplete, with what its lines so far have set.
type head struct {
	line    int // start of the incomplete line, from the beginning of the head
	fields  int
	http10  bool
	host    string
	hosts   int
	length  int64 // -1: none
	chunked bool
}

var errFraming = errors.New("the message is not well formed")

const preface = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"

// maxExtra bounds what chunks may carry beside data, and a line of it. maxEmpty bounds empty lines before a head.
const (
	maxExtra     = 8 << 10
	maxChunkLine = 256
	maxEmpty     = 4
)

var headBuffers = sync.Pool{New: func() any { b := make([]byte, 0, 4<<10); return &b }}

// take gives out what is ready. When nothing is, want says how many bytes may be read past framing; zero: none, feed
// them.
func (f *framing) take(p []byte) (n, want int, err error) {
	if f.ready == 0 {
		f.parse()
	}
	if f.ready > 0 {
		n = copy(p, f.buf[f.off:f.off+f.ready])
		f.off += n
		f.ready -= n
		f.tidy()
		return n, 0, nil
	}
	if f.state == hasEnded {
		return 0, 0, f.err
	}
	if f.off == len(f.buf) {
		switch f.state {
		case inBody, inChunk:
			return 0, int(min(f.left, math.MaxInt32)), nil
		case inTunnel, inHTTP2:
			return 0, math.MaxInt32, nil
		}
	}
	return 0, 0, nil
}

// tidy returns an empty buffer to the pool: idle connections hold none.
func (f *framing) tidy() {
	if f.off < len(f.buf) || f.buf == nil {
		return
	}
	f.tidyAll()
}

func (f *framing) tidyAll() {
	if f.pool != nil {
		headBuffers.Put(f.pool)
	}
	f.buf, f.pool, f.off = nil, nil, 0
}

// passed records that n bytes were read past framing.
func (f *framing) passed(n int) {
	if f.state == inTunnel || f.state == inHTTP2 {
		return
	}
	if f.left -= int64(n); f.left == 0 {
		f.bodyDone()
	}
}

// space returns memory to read into, for feed.
func (f *framing) space() []byte {
	f.reserve(minRead)
	return f.buf[len(f.buf):cap(f.buf)]
}

func (f *framing) reserve(n int) {
	if f.buf == nil {
		f.pool = headBuffers.Get().(*[]byte)
		f.buf = *f.pool
	}
	if cap(f.buf)-len(f.buf) < n {
		next := make([]byte, len(f.buf)-f.off, 2*(len(f.buf)-f.off)+n)
		copy(next, f.buf[f.off:])
		f.tidyAll()
		f.buf = next
	}
}

// feed takes bytes that have come. They may lie in the memory that space returned.
func (f *framing) feed(in []byte) {
	f.reserve(len(in))
	f.buf = append(f.buf, in...)
}

// tunnel makes framing pass all further bytes without checks.
func (f *framing) tunnel() {
	if f.state != hasEnded {
		f.state = inTunnel
	}
}

// parse finds out how much may be given out. It stops after one part of a message, so that what follows stays unread
// until the server reads on.
func (f *framing) parse() {
	for f.ready == 0 {
		data := f.buf[f.off:]
		before := f.state
		switch f.state {
		case inHead:
			f.parseHead(data)
		case inBody, inChunk:
			f.ready = int(min(f.left, int64(len(data))))
			f.passed(f.ready)
		case inChunkSize, inTrailer:
			f.parseLine(data)
		case inChunkEnd:
			f.parseChunkEnd(data)
		case inTunnel, inHTTP2:
			f.ready = len(data)
		}
		if f.state == before {
			return
		}
	}
}

// parseHead reads whole lines up to the empty one.
func (f *framing) parseHead(data []byte) {
	if !f.any && len(data) > 0 && f.only != onlyHTTP1 {
		if n := min(len(data), len(preface)); string(data[:n]) == preface[:n] {
			if n == len(preface) {
				f.state = inHTTP2
			}
			if n == len(preface) || n > 4 { // "PRI " is no method of ours
				return
			}
		} else if f.only == onlyHTTP2 {
			f.tidyAll()
			f.state, f.err = hasEnded, io.EOF
			f.ended.Store(true)
			return
		}
	}
	h := &f.head
	if h.line == 0 {
		*h = head{length: -1}
	}
	for {
		n := bytes.IndexByte(data[h.line:], '\n')
		if n < 0 {
			f.checkUnfinished(data)
			return
		}
		line := data[h.line : h.line+n]
		if n == 0 || line[n-1] != '\r' {
			f.refuse(http.StatusBadRequest, "lines must end with CR LF")
			return
		}
		line = line[:n-1]
		first := h.line == 0
		if first && len(line) == 0 && f.empty < maxEmpty { // RFC 9112, 2.2
			f.empty, f.any = f.empty+1, true
			f.off += n + 1
			if data = data[n+1:]; len(data) == 0 {
				f.tidy()
				return
			}
			continue
		}
		h.line += n + 1
		switch {
		case h.line > maxHeader:
			f.refuse(http.StatusRequestHeaderFieldsTooLarge,
				fmt.Sprintf("the header must be at most %d bytes long", maxHeader))
			return
		case first:
			if status, problem := h.requestLine(line); problem != "" {
				f.refuse(status, problem)
				return
			}
		case len(line) > 0:
			if status, problem := h.field(line); problem != "" {
				f.refuse(status, problem)
				return
			}
		default:
			f.headDone()
			return
		}
	}
}

func (f *framing) checkUnfinished(data []byte) {
	switch {
	case f.head.line == 0 && len(data) > maxURL+256:
		f.refuse(http.StatusRequestURITooLong, fmt.Sprintf("the URL must be at most %d bytes long", maxURL))
	case len(data) > maxHeader:
		f.refuse(http.StatusRequestHeaderFieldsTooLarge,
			fmt.Sprintf("the header must be at most %d bytes long", maxHeader))
	}
}

// headDone checks the complete head and gives it out.
func (f *framing) headDone() {
	h := &f.head
	problem := ""
	switch {
	case h.hosts > 1, h.hosts == 0 && !h.http10:
		problem = "there must be one Host"
	case h.hosts == 1 && !syntax.IsHost(h.host):
		problem = "the Host is not valid"
	case h.chunked && h.length >= 0:
		problem = "there must not be both Content-Length and Transfer-Encoding"
	case h.chunked && h.http10:
		problem = "HTTP/1.0 has no Transfer-Encoding"
	}
	if problem != "" {
		f.refuse(http.StatusBadRequest, problem)
		return
	}
	f.ready, f.any, f.empty = h.line, true, 0
	switch {
	case h.chunked:
		f.state, f.extra = inChunkSize, 0
	case h.length > 0:
		f.state, f.left = inBody, h.length
	}
	h.line = 0
}

func (f *framing) bodyDone() {
	switch f.state {
	case inBody:
		f.state = inHead
	case inChunk:
		f.state = inChunkEnd
	}
}

// refuse replaces the bytes so far by a request that has the status and the problem.
func (f *framing) refuse(status int, problem string) {
	f.tidyAll()
	f.buf = fmt.Appendf(nil, "%s / HTTP/1.1\r\nHost: refused\r\nStatus: %d\r\nDetail: %s\r\nConnection: close\r\n\r\n",
		f.refusal, status, problem)
	f.ready, f.state, f.err = len(f.buf), hasEnded, io.EOF
	f.ended.Store(true)
}

// cut ends the connection in the middle of a body.
func (f *framing) cut() {
	f.state, f.err = hasEnded, errFraming
	f.cutBody.Store(true)
	f.ended.Store(true)
}

// requestLine checks "METHOD target HTTP/1.x". The problem is empty if there is none.
func (h *head) requestLine(line []byte) (status int, problem string) {
	method, rest, _ := bytes.Cut(line, []byte(" "))
	target, version, ok := bytes.Cut(rest, []byte(" "))
	switch {
	case !ok || !syntax.Only(method, &syntax.TokenChars):
		return http.StatusBadRequest, "the request line is not well formed"
	case len(method) > 64: // RFC 9112, 3
		return http.StatusNotImplemented, "the method must be at most 64 bytes long"
	case len(target) > maxURL:
		return http.StatusRequestURITooLong, fmt.Sprintf("the URL must be at most %d bytes long", maxURL)
	case len(target) == 0 || !clean(target) || bytes.ContainsAny(target, "#\t") || !wholeEscapes(target):
		return http.StatusBadRequest, "the URL is not valid"
	case string(version) == "HTTP/1.0":
		h.http10 = true
	case string(version) == "HTTP/1.1":
	case len(version) == 8 && string(version[:5]) == "HTTP/":
		return http.StatusHTTPVersionNotSupported, "the version of HTTP must be 1.0, 1.1 or 2"
	default:
		return http.StatusBadRequest, "the request line is not well formed"
	}
	if target[0] == '/' || string(target) == "*" || string(method) == http.MethodConnect {
		return 0, ""
	}
	scheme, after, ok := strings.Cut(string(target), "://")
	if !ok || !strings.EqualFold(scheme, "http") && !strings.EqualFold(scheme, "https") {
		return http.StatusBadRequest, "the URL is not valid"
	}
	// net/http then takes the host of the URL and ignores the Host (RFC 9112, 3.2.2).
	if i := strings.IndexAny(after, "/?"); i >= 0 {
		after = after[:i]
	}
	if !syntax.IsHost(after) {
		return http.StatusBadRequest, "the URL is not valid"
	}
	return 0, ""
}

// field checks "Name: value" and keeps the values that decide where the message ends.
func (h *head) field(line []byte) (status int, problem string) {
	if h.fields++; h.fields > maxFields {
		return http.StatusRequestHeaderFieldsTooLarge, fmt.Sprintf("there must be at most %d header fields", maxFields)
	}
	if line[0] == ' ' || line[0] == '\t' {
		return http.StatusBadRequest, "header lines must not be folded"
	}
	name, value, ok := bytes.Cut(line, []byte(":"))
	if !ok || !syntax.Only(name, &syntax.TokenChars) {
		return http.StatusBadRequest, "a header line must be a name, a colon and a value"
	}
	if !clean(value) {
		return http.StatusBadRequest, "a header value has a control character"
	}
	switch len(name) {
	case len("Host"):
		if bytes.EqualFold(name, []byte("Host")) {
			h.host = string(trim(value))
			h.hosts++
		}
	case len("Expect"):
		if bytes.EqualFold(name, []byte("Expect")) && string(bytes.ToLower(trim(value))) != "100-continue" {
			return http.StatusExpectationFailed, "the only expectation is 100-continue"
		}
	case len("Content-Length"):
		if bytes.EqualFold(name, []byte("Content-Length")) {
			return h.contentLength(string(trim(value)))
		}
	case len("Transfer-Encoding"):
		if bytes.EqualFold(name, []byte("Transfer-Encoding")) {
			return h.transferEncoding(trim(value))
		}
	}
	return 0, ""
}

func (h *head) transferEncoding(value []byte) (status int, problem string) {
	before, last := []byte(nil), value
	if i := bytes.LastIndexByte(value, ','); i > 0 {
		before, last = value[:i], trim(value[i+1:])
	}
	// the Kelvin sign is a k to EqualFold
	isChunked := syntax.Only(last, &syntax.TokenChars) && bytes.EqualFold(last, []byte("chunked"))
	switch {
	case h.chunked, !isChunked, bytes.Contains(bytes.ToLower(before), []byte("chunked")):
		return http.StatusBadRequest, "the only Transfer-Encoding is chunked, once"
	case before != nil: // the end of the message is clear, but not what the coding before means (RFC 9112, 6.1)
		return http.StatusNotImplemented, "the only Transfer-Encoding is chunked"
	}
	h.chunked = true
	return 0, ""
}

func (h *head) contentLength(value string) (status int, problem string) {
	if h.length >= 0 {
		return http.StatusBadRequest, "there must be one Content-Length"
	}
	for i := range len(value) {
		if value[i] < '0' || value[i] > '9' {
			return http.StatusBadRequest, "the Content-Length must be digits"
		}
	}
	n, err := strconv.ParseInt(value, 10, 64)
	if err != nil {
		return http.StatusBadRequest, "the Content-Length must be digits"
	}
	h.length = n
	return 0, ""
}

// parseLine reads a line between chunks: the size of the next, or one of the trailer.
func (f *framing) parseLine(data []byte) {
	n := bytes.IndexByte(data, '\n')
	limit := maxChunkLine
	if f.state == inTrailer {
		limit = maxExtra
	}
	if n < 0 {
		if len(data) > limit {
			f.cut()
		}
		return
	}
	if n == 0 || n > limit || data[n-1] != '\r' {
		f.cut()
		return
	}
	line, size := data[:n-1], []byte(nil)
	isTrailer := f.state == inTrailer
	if isTrailer {
		f.trailerLine(line)
	} else {
		size = f.chunkSize(line)
	}
	if f.extra > maxExtra {
		f.cut()
	}
	switch {
	case f.state == hasEnded:
	case isTrailer:
		f.ready = n + 1
	default:
		beside := len(line) - len(size) // it is not given out
		copy(line[beside:], size)
		f.off += beside
		f.ready = len(size) + len("\r\n")
	}
}

func (f *framing) trailerLine(line []byte) {
	f.extra += len(line)
	if len(line) == 0 {
		f.state = inHead
		return
	}
	h := head{length: -1, fields: f.head.fields} // the limit is for header and trailer together
	_, problem := h.field(line)
	f.head.fields = h.fields
	if problem != "" || h.chunked || h.hosts > 0 || h.length >= 0 {
		f.cut()
	}
}

// chunkSize reads the line before a chunk and returns the digits.
func (f *framing) chunkSize(line []byte) (size []byte) {
	size, extensions := line, []byte(nil)
	if i := bytes.IndexAny(line, "; \t"); i >= 0 {
		size, extensions = line[:i], line[i:]
	}
	f.extra += len(extensions)
	if len(size) == 0 || len(size) > 15 || !isChunkExtensions(extensions) {
		f.cut()
		return nil
	}
	f.left = 0
	for _, c := range size {
		digit, ok := syntax.Unhex(c)
		if !ok {
			f.cut()
			return nil
		}
		f.left = f.left<<4 | int64(digit)
	}
	if f.left > math.MaxInt32 { // no client needs such a chunk, and some servers count them in 32 bits
		f.cut()
		return nil
	}
	f.state = inChunk
	if f.left == 0 {
		f.state = inTrailer
	}
	return size
}

// isChunkExtensions reports whether s is what may stand behind the size of a chunk (RFC 9112, 7.1.1): names, or names
// with values, each after a semicolon. White space around semicolons and equals signs is bad, but must be parsed
// (RFC 9110, 5.6.3).
func isChunkExtensions(s []byte) bool {
	for len(s) > 0 {
		after, ok := bytes.CutPrefix(trimLeft(s), []byte(";"))
		if !ok {
			return false
		}
		if s, ok = cutToken(trimLeft(after)); !ok {
			return false
		}
		value, hasValue := bytes.CutPrefix(trimLeft(s), []byte("="))
		if !hasValue {
			continue
		}
		if value = trimLeft(value); len(value) > 0 && value[0] == '"' {
			s, ok = cutQuoted(value)
		} else {
			s, ok = cutToken(value)
		}
		if !ok {
			return false
		}
	}
	return true
}

// cutToken cuts the token that s begins with off (RFC 9110, 5.6.2).
func cutToken(s []byte) (rest []byte, ok bool) {
	n := 0
	for n < len(s) && syntax.TokenChars[s[n]] {
		n++
	}
	return s[n:], n > 0
}

// cutQuoted cuts the quoted string that s begins with off (RFC 9110, 5.6.4).
func cutQuoted(s []byte) (rest []byte, ok bool) {
	for i := 1; i < len(s); i++ {
		switch s[i] {
		case '"':
			return s[i+1:], clean(s[:i])
		case '\\':
			i++
		}
	}
	return nil, false
}

func (f *framing) parseChunkEnd(data []byte) {
	switch {
	case len(data) >= 2 && data[0] == '\r' && data[1] == '\n':
		f.ready, f.state = 2, inChunkSize
	case len(data) >= 2 || len(data) == 1 && data[0] != '\r':
		f.cut()
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

func trim(s []byte) []byte { return bytes.Trim(s, " \t") }

func trimLeft(s []byte) []byte { return bytes.TrimLeft(s, " \t") }
