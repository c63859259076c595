package http2

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptrace"
	"net/textproto"
	"net/url"
	"strings"
	"time"

	"bijou.dev/services/gateway/internal/http1"
	"bijou.dev/services/gateway/internal/message"
)

// Client sends requests to origins, by http.Transport.
type Client struct{ transport *http.Transport }

const (
	keepIdle      = 55 * time.Second // before the origin, whose idle time-out is two minutes
	maxAnswerHead = 64 << 10
	maxInterim    = 8 // 1xx responses before the response
)

var errInterim = errors.New("the origin sent too many interim answers")

// NewClient returns a client that connects by dial.
func NewClient(dial func(ctx context.Context, network, addr string) (net.Conn, error)) *Client {
	t := &http.Transport{
		DialContext:            dial,
		DisableCompression:     true, // bodies pass as they are
		IdleConnTimeout:        keepIdle,
		MaxResponseHeaderBytes: maxAnswerHead,
		Protocols:              new(http.Protocols),
		HTTP2: &http.HTTP2Config{
			MaxReceiveBufferPerConnection: 4<<20 - 1,
			MaxReceiveBufferPerStream:     1 << 20,
			// No pings: by default, gRPC servers close connections that send more than one in five minutes.
			WriteByteTimeout: writeTime,
		},
	}
	t.Protocols.SetUnencryptedHTTP2(true)
	return &Client{t}
}

// Close closes idle connections now, and others when their requests end.
func (c *Client) Close() { c.transport.CloseIdleConnections() }

// RoundTrip sends a request to an address and returns the response, whose body must be closed. It ends with ctx and by
// call.Cancel.
func (c *Client) RoundTrip(ctx context.Context, addr string, call *http1.Call) (*message.Response, error) {
	ctx, free := call.Cancel.Context(ctx)
	req := (&http.Request{
		Method: call.Method, URL: urlOf(addr, call.Path, call.Query), Host: call.Host, Header: call.Header.HTTP(),
		ContentLength: call.Length,
	})
	if req.Header["User-Agent"] == nil {
		req.Header["User-Agent"] = []string{""} // else the transport would add its own
	}
	switch {
	case call.Body != nil:
		b := &outgoingBody{Body: call.Body}
		if names := call.Body.Trailer(); names != nil {
			b.trailer = http.Header{}
			for _, f := range names {
				b.trailer[f.Name] = nil
			}
		}
		req.Body, req.Trailer = b, b.trailer
	case call.Content != nil:
		req.Body = io.NopCloser(bytes.NewReader(call.Content))
		req.GetBody = func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(call.Content)), nil }
	}
	// The hook runs in another goroutine, until the transport has returned. The lock is a channel because writing may
	// take long, and fake time stands still while a goroutine waits for a mutex.
	lock, n, returned := make(chan struct{}, 1), 0, false
	req = req.WithContext(httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{
		Got1xxResponse: func(status int, header textproto.MIMEHeader) error {
			lock <- struct{}{}
			defer func() { <-lock }()
			if n++; n > maxInterim {
				return errInterim // this hook has replaced the limit of the transport
			}
			if !returned {
				var h message.Header
				h.FromHTTP(http.Header(header))
				call.Interim(status, h)
			}
			return nil
		},
	}))
	res, err := c.transport.RoundTrip(req) //nolint:bodyclose // the caller closes it
	lock <- struct{}{}
	returned = true
	<-lock
	if err != nil {
		free()
		return nil, err //nolint:wrapcheck // the caller asks what it is
	}
	return response(res, free), nil
}

func response(res *http.Response, free func()) *message.Response {
	to := &message.Response{
		Status: res.StatusCode, Length: res.ContentLength, Header: make(message.Header, 0, len(res.Header)+6),
	}
	to.Header.FromHTTP(res.Header)
	to.Header.Delete("Content-Length")
	for name := range res.Trailer {
		to.Announced.Add(name, "")
	}
	if res.Body != nil && res.Body != http.NoBody {
		to.Body = &answerBody{res.Body, res, to, free}
	} else {
		free()
	}
	return to
}

// answerBody is the body of a response.
type answerBody struct {
	io.ReadCloser
	from *http.Response
	to   *message.Response
	free func()
}

// Close gives up what was not read.
func (b *answerBody) Close() error {
	defer b.free()
	return b.ReadCloser.Close() //nolint:wrapcheck // nobody asks
}

// Read reads the body.
func (b *answerBody) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	if errors.Is(err, io.EOF) {
		b.to.Trailer = nil
		b.to.Trailer.FromHTTP(b.from.Trailer)
	}
	return n, err //nolint:wrapcheck // the caller asks what it is
}

// outgoingBody is the body of a request for the transport.
type outgoingBody struct {
	http1.Body
	trailer http.Header
}

// Read reads the body, and fills the trailer at its end.
func (b *outgoingBody) Read(p []byte) (int, error) {
	n, err := b.Body.Read(p)
	if errors.Is(err, io.EOF) && b.trailer != nil {
		for name, lines := range b.Trailer().HTTP() {
			b.trailer[name] = lines
		}
	}
	return n, err //nolint:wrapcheck // it is the error of the client's body
}

// Close is called by the transport when it needs no more of the body, also to make a Read return.
func (b *outgoingBody) Close() error {
	if c, ok := b.Body.(io.Closer); ok {
		return c.Close() //nolint:wrapcheck // it is the error of the client's body
	}
	return nil
}

func urlOf(addr, path, query string) *url.URL {
	if strings.HasPrefix(addr, "/") {
		addr = "localhost" // a unix socket, which the dial function knows
	}
	u := &url.URL{Scheme: "http", Host: addr}
	u.RawQuery, u.ForceQuery = strings.TrimPrefix(query, "?"), query == "?"
	u.Path = path
	if strings.IndexByte(path, '%') >= 0 {
		if plain, err := url.PathUnescape(path); err == nil { // it was checked that it can be unescaped
			u.Path, u.RawPath = plain, path
		}
	}
	return u
}
