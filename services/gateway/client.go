package gateway

import (
	"context"
	"net"
	"net/http"

	"bijou.dev/services/gateway/internal/upstream"
)

// dialFunc connects to an address.
type dialFunc = func(ctx context.Context, network, addr string) (net.Conn, error)

func boundDial(dial dialFunc) dialFunc {
	return func(ctx context.Context, network, addr string) (net.Conn, error) {
		ctx, cancel := context.WithTimeout(ctx, dialTime)
		defer cancel()
		return dial(ctx, network, addr)
	}
}

// client has the connections to origins, by protocol.
type client struct {
	wire   *wire
	h1, h2 *http.Transport
}

// newClient returns a client that connects for HTTP/1.1 and for HTTP/2 by these functions.
func newClient(dial1, dial2 dialFunc) client {
	dial1, dial2 = boundDial(dial1), boundDial(dial2)
	h1 := &http.Transport{
		DialContext:            dial1,
		DisableCompression:     true, // bodies pass as they are
		MaxIdleConnsPerHost:    maxIdle,
		IdleConnTimeout:        keepIdle, // before the origin, whose idle time-out is two minutes
		MaxResponseHeaderBytes: maxAnswerHead,
		WriteBufferSize:        8 << 10,
		ReadBufferSize:         8 << 10,
		Protocols:              new(http.Protocols),
	}
	h1.Protocols.SetHTTP1(true)
	h2 := &http.Transport{
		DialContext:            dial2,
		DisableCompression:     true,
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
	h2.Protocols.SetUnencryptedHTTP2(true)
	return client{&wire{dial: dial1}, h1, h2}
}

// clientOf returns a client with connections of its own for the instances of a URL.
func (e *Edge) clientOf(target upstream.Target) client {
	by := func(protocol string) dialFunc {
		return func(ctx context.Context, _, addr string) (net.Conn, error) {
			return e.upstreams.Dial(ctx, target, target.Instance(addr), protocol)
		}
	}
	return newClient(by(upstream.HTTP1), by(upstream.HTTP2))
}

// close closes idle connections now, and others when their requests end.
func (c *client) close() {
	c.wire.close()
	c.h1.CloseIdleConnections()
	c.h2.CloseIdleConnections()
}
