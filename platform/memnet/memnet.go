// Package memnet is a network in memory for tests.
//
// Its connections are buffered pipes, so they work inside a testing/synctest bubble, where a whole stack runs in fake
// time. Hosts can be cut off and healed. To both ends a cut looks like a network that drops all packets: a dial to the
// host waits until its context ends, and bytes on open connections wait until the host is healed.
package memnet

import (
	"context"
	"fmt"
	"net"
	"strconv"
	"sync"
	"syscall"
)

// Network is an isolated set of listeners. Make it with [New].
type Network struct {
	mu        sync.Mutex
	listeners map[string]*listener
	cut       map[string]chan struct{} // host -> closed when healed
	port      int
}

// New returns an empty network.
func New() *Network {
	return &Network{listeners: map[string]*listener{}, cut: map[string]chan struct{}{}, port: 40000}
}

// Listen listens on address, "host:port". Port 0 gets a free port. An address in use is refused with
// syscall.EADDRINUSE.
func (n *Network) Listen(network, address string) (net.Listener, error) {
	host, port, err := net.SplitHostPort(address)
	if err != nil {
		return nil, fmt.Errorf("listening on %q: %w", address, err)
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	if port == "0" {
		n.port++
		port = strconv.Itoa(n.port)
	}
	if host == "" {
		host = "localhost"
	}
	a := addr(net.JoinHostPort(host, port))
	if n.listeners[string(a)] != nil {
		return nil, &net.OpError{Op: "listen", Net: network, Addr: a, Err: syscall.EADDRINUSE}
	}
	l := &listener{net: n, addr: a, host: host, conns: make(chan net.Conn, 128), closed: make(chan struct{})}
	n.listeners[string(a)] = l
	return l, nil
}

// DialContext connects to a listener's address. No listener means syscall.ECONNREFUSED, a host that is cut off means
// waiting for ctx.
func (n *Network) DialContext(ctx context.Context, network, address string) (net.Conn, error) {
	for {
		n.mu.Lock()
		l := n.listeners[address]
		var healed chan struct{}
		if host, _, err := net.SplitHostPort(address); err == nil {
			healed = n.cut[host]
		}
		n.mu.Unlock()
		if healed != nil {
			select {
			case <-healed:
				continue
			case <-ctx.Done():
				return nil, &net.OpError{Op: "dial", Net: network, Addr: addr(address), Err: ctx.Err()}
			}
		}
		if l == nil {
			return nil, &net.OpError{Op: "dial", Net: network, Addr: addr(address), Err: syscall.ECONNREFUSED}
		}
		return l.connect(ctx, network)
	}
}

// Cut cuts off the listeners of a host until [Network.Heal]: no bytes arrive on connections to them, and neither end
// gets an error. A dial does not say from which host it comes, so connections that the host itself dials still work.
func (n *Network) Cut(host string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.cut[host] == nil {
		n.cut[host] = make(chan struct{})
	}
}

// Heal ends [Network.Cut]. What was written meanwhile is delivered.
func (n *Network) Heal(host string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if c := n.cut[host]; c != nil {
		close(c)
		delete(n.cut, host)
	}
}

func (n *Network) healed(host string) <-chan struct{} {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.cut[host]
}

type listener struct {
	net    *Network
	addr   addr
	host   string
	conns  chan net.Conn
	once   sync.Once
	closed chan struct{}
}

func (l *listener) connect(ctx context.Context, network string) (net.Conn, error) {
	client, server := pipe(l.net, l.host, l.addr)
	select {
	case l.conns <- server:
		select {
		case <-l.closed: // it may have closed just before: then the connection is never accepted
			l.reset()
		default:
		}
		return client, nil
	case <-l.closed:
		return nil, &net.OpError{Op: "dial", Net: network, Addr: l.addr, Err: syscall.ECONNREFUSED}
	case <-ctx.Done():
		return nil, &net.OpError{Op: "dial", Net: network, Addr: l.addr, Err: ctx.Err()}
	}
}

// Accept waits for a connection.
func (l *listener) Accept() (net.Conn, error) {
	select {
	case c := <-l.conns:
		return c, nil
	case <-l.closed:
		return nil, &net.OpError{Op: "accept", Net: "tcp", Addr: l.addr, Err: net.ErrClosed}
	}
}

// Close stops listening and closes connections that were not accepted.
func (l *listener) Close() error {
	l.once.Do(func() {
		l.net.mu.Lock()
		delete(l.net.listeners, string(l.addr))
		l.net.mu.Unlock()
		close(l.closed)
		l.reset()
	})
	return nil
}

// reset closes connections that were not accepted.
func (l *listener) reset() {
	for {
		select {
		case c := <-l.conns:
			_ = c.Close()
		default:
			return
		}
	}
}

// Addr returns the address that was bound.
func (l *listener) Addr() net.Addr { return l.addr }

// addr is a host:port.
type addr string

// Network returns "tcp", which is what code that inspects addresses expects.
func (addr) Network() string { return "tcp" }

// String returns the host:port.
func (a addr) String() string { return string(a) }
