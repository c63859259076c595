package upstream

import (
	"context"
	"crypto/tls"
	"fmt"
	"net"
)

// The protocols that [Set.Dial] negotiates by ALPN.
const (
	HTTP1 = "http/1.1"
	HTTP2 = "h2"
)

// Dial connects to an instance of a target: over TCP, a unix socket, or TLS with the target's name as server name. With
// TLS the origin must agree to protocol, which is HTTP1 or HTTP2; an origin that does not negotiate speaks HTTP1.
// Without TLS there is no negotiation, and protocol does not matter. Errors are *net.OpError with Op "dial", those of
// TLS too: no request was sent.
func (s *Set) Dial(ctx context.Context, t Target, addr, protocol string) (net.Conn, error) {
	network := "tcp"
	if t.scheme == schemeUnix {
		network = "unix"
	}
	raw, err := s.opts.DialContext(ctx, network, addr)
	if err != nil || !t.TLS() {
		return raw, err
	}
	config := s.opts.TLS.Clone()
	config.ServerName = t.Name()
	config.NextProtos = []string{protocol}
	conn := tls.Client(raw, config)
	err = conn.HandshakeContext(ctx)
	if agreed := conn.ConnectionState().NegotiatedProtocol; err == nil && protocol == HTTP2 && agreed != HTTP2 {
		err = fmt.Errorf("the origin does not offer HTTP/2 by ALPN; switch HTTP/2 on there")
	}
	if err != nil {
		_ = raw.Close() // the first error counts
		return nil, &net.OpError{
			Op: "dial", Net: network, Addr: raw.RemoteAddr(),
			Err: fmt.Errorf("TLS handshake with %s: %w", t.Name(), err),
		}
	}
	return conn, nil
}
