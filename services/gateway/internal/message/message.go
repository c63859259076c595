// Package message has what the versions of HTTP have in common: requests and responses with their fields, as values.
// Packages http1 and http2 turn bytes into them and back.
package message

import (
	"context"
	"errors"
	"io"
	"iter"
	"net/http"
	"slices"
	"time"

	"bijou.dev/services/gateway/internal/syntax"
)

// Limits of the requests that the edge takes. They are not settings: for other limits put another server before or
// behind the edge.
const (
	MaxHead   = 32 << 10 // bytes of a request line and a header
	MaxFields = 100      // lines of a header and a trailer together
	MaxTarget = 8 << 10  // bytes of a URL
)

// Limits of responses of origins.
const (
	MaxAnswerHead = 64 << 10         // bytes of the heads of a response and those before it
	MaxInterim    = 8                // 1xx responses before the response
	KeepIdle      = 55 * time.Second // of a connection: before the origin, whose idle time-out is two minutes
)

// ErrInterim says that an origin has sent more than MaxInterim.
var ErrInterim = errors.New("the origin sent too many interim answers")

// LongAgo is a deadline that ends what waits.
var LongAgo = time.Unix(1, 0)

// Version is a version of HTTP.
type Version uint8

// The versions.
const (
	HTTP10 Version = 10
	HTTP11 Version = 11
	HTTP2  Version = 20
)

// String is the version without the name: 1.1.
func (v Version) String() string {
	switch v {
	case HTTP10:
		return "1.0"
	case HTTP2:
		return "2.0"
	}
	return "1.1"
}

// Request is a request as a client has sent it. It is not changed after it was read.
type Request struct {
	Version Version
	Method  string
	Target  string // as it came: a path with a query, a URL, or "*"
	Host    string // of the URL if Target is one, else of Host or :authority; empty only in HTTP/1.0
	Path    string // of Target, with its escapes; as Target if that is neither a path nor a URL
	Query   string // with its question mark; empty: there is none
	Header  Header // without Host
	Size    int    // bytes of line and header as HTTP/1.1 writes them
	Length  int64  // of the body; -1: unknown
	Body    Body   // nil: there is none
	// Refused says why the bytes are no request that can be answered: only one field beside it, Version, is set.
	Refused *Refusal
	// Protocol is what a client of HTTP/2 wants to speak on its stream: its method was CONNECT, Method is GET (RFC 8441).
	Protocol string
	// Context ends when the client leaves, and Leave tells so without a goroutine. The connection may have other requests
	// with the same ones, one after the other.
	Context context.Context
	Leave   *Leave
}

// Refusal is why bytes are not a request.
type Refusal struct {
	Status int
	Detail string
}

// Cookies returns the values of the cookies with a name.
func (r *Request) Cookies(name string) iter.Seq[string] {
	return func(yield func(string) bool) {
		h := http.Header{"Cookie": slices.Collect(r.Header.Values("Cookie"))}
		for _, c := range (&http.Request{Header: h}).CookiesNamed(name) {
			if !yield(c.Value) {
				return
			}
		}
	}
}

// AtLeast reports whether the version is v or later.
func (r *Request) AtLeast(v Version) bool { return r.Version >= v }

// Body is the body of a request, while it comes. One goroutine may read it, others may call Interrupt.
type Body interface {
	// Read reads the body. At its end the error is io.EOF, and Trailer has the trailer.
	io.Reader
	// Trailer is what has come behind the body. Before its end it is the names that the client has announced, without
	// values.
	Trailer() Header
	// Received is how many bytes can be read without waiting. Whole: that is the body, and it has no trailer.
	Received() (n int, whole bool)
	// Interrupt makes a Read that waits return an error, and all later ones.
	Interrupt()
	// Malformed reports whether Read failed because what came is no body.
	Malformed() bool
}

// Writer sends the response to one request. It is not safe for concurrent use. The order of calls is Interim, then
// Begin, then Write and Flush, then End; or Tunnel alone. After an error the client cannot be reached any more.
type Writer interface {
	// Interim sends a 1xx response, and does nothing where the client cannot take one.
	Interim(status int, h Header) error
	// Last makes this response the last one of its connection, where a connection has one at a time. It is called before
	// Begin.
	Last()
	// Begin begins the response. Length is that of the body, -1 if it is unknown. What Begin and Write take is kept until
	// Flush or End, unless there is much of it.
	Begin(status int, h Header, length int64) error
	// Write sends a part of the body. What a response cannot have, as one to HEAD, is not sent.
	Write(p []byte) (int, error)
	// Flush sends what was kept.
	Flush() error
	// End ends the response, with a trailer if the client can take one.
	End(trailer Header) error
	// Abort ends the response so that the client notices that it is not complete.
	Abort()
	// Tunnel agrees to switch protocols and returns the connection. The caller must close it.
	Tunnel(h Header) (io.ReadWriteCloser, error)
}

// Response is the response of an origin.
type Response struct {
	Status int
	Header Header
	Length int64 // of the body; -1: unknown
	// Body is read to its end or closed. Nil: there is none.
	Body io.ReadCloser
	// Announced has the names of the trailer that the origin has announced, without values. Trailer is the trailer, after
	// the end of Body.
	Announced, Trailer Header
}

// HasBody reports whether a response to a request has a body (RFC 9112, 6.3).
func HasBody(method string, status int) bool {
	return method != http.MethodHead && status >= 200 && status != http.StatusNoContent &&
		status != http.StatusNotModified
}

// Canonical is the form in which Header has names: Content-Type.
func Canonical(name string) string { return syntax.Canonical(name) }
