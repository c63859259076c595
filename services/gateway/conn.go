package gateway

import (
	"context"
	"errors"
	"io"
	"net"
	"os"
	"sync/atomic"
	"syscall"
	"time"

	"bijou.dev/platform/pace"
	"bijou.dev/services/gateway/internal/http1"
	"bijou.dev/services/gateway/internal/message"
)

// conn is a client's connection. Write fails when the client does not read. It has one reader at a time.
type conn struct {
	// idleSince is when the connection became idle, in Unix nanoseconds; 0: requests are in progress, or it was upgraded.
	idleSince atomic.Int64
	net.Conn           // over TLS if there is TLS
	raw       net.Conn // below TLS
	secure    *secure  // nil: without TLS
	size      int64    // bytes of memory that it is counted with
	conns     *connections
	peer      *peer        // nil: a header of the PROXY protocol is yet to say who the client is
	used      atomic.Bool  // a byte was read
	timedOut  atomic.Bool  // a write took longer than writeTime
	lingers   atomic.Bool  // Close lingers: the client may have sent bytes that were not read
	deadline  atomic.Int64 // of writes, in Unix nanoseconds
	closed    atomic.Bool
	isHTTP2   atomic.Bool
	http1     http1.State

	// Of an HTTP/2 connection: bytes of bodies that were received and not read. Of all: requests in progress.
	unread, requests atomic.Int64
}

// serveProxied reads who the client of a proxy is, and answers its requests.
func (c *conn) serveProxied() {
	defer c.catch()
	switch {
	case !c.readClient():
		_ = c.Close() // without a response: the other end does not know how a connection begins, or is refused
	case c.secure != nil:
		c.serveTLS()
	default:
		c.answer(http1.Any)
	}
}

// serveTLS makes the handshake of TLS, and answers the requests of a client.
func (c *conn) serveTLS() {
	defer c.catch()
	protocol, err := c.secure.handshake()
	if err != nil {
		_ = c.Close() // the client knows by the alert
		return
	}
	go c.answer(protocol) // a handshake needs a larger stack than requests, and stacks stay large
}

// answer answers requests until the connection ends or has been idle for a while.
func (c *conn) answer(protocol http1.Protocol) {
	defer c.catch()
	e := c.conns.edge
	handle := func(r *message.Request, w message.Writer) { e.serve(c, r, w) }
	switch c.http1.Serve(c, http1.Options{Protocol: protocol, Handle: handle, Stopping: e.stopping.Load}) {
	case http1.Closed:
	case http1.Idle:
		go c.wait()
		e.release.becameIdle()
	case http1.HTTP2:
		if !c.conns.grow(c, memoryOfHTTP2) {
			e.metrics.refused.WithLabelValues("memory").Inc()
			_ = c.Close() // it is not served
			return
		}
		c.isHTTP2.Store(true)
		e.http2.Serve(c, c.http1.Received(), handle)
	}
}

// wait waits for the next request of a connection that is idle.
func (c *conn) wait() {
	defer c.catch()
	if c.http1.Wait(c, kernelConn(c.raw)) {
		c.answer(http1.OnlyHTTP1)
	}
}

// catch ends the connection after a panic: a defect must not end the connections of others.
func (c *conn) catch() {
	if v := recover(); v != nil {
		c.conns.edge.defect("a connection", v)
		c.Cut()
		_ = c.Close() // it is not counted any more
	}
}

// scheme is that of URLs which lead to the connection.
func (c *conn) scheme() string {
	if c.secure != nil {
		return "https"
	}
	return "http"
}

// RawConn is for waiting without memory. Nil: there is something between the bytes of the client and those read here.
func (c *conn) RawConn() syscall.RawConn {
	if c.secure != nil {
		return nil
	}
	return kernelConn(c.raw)
}

// kernelConn returns the kernel's connection of c. Nil: it has none.
func kernelConn(c net.Conn) syscall.RawConn {
	k, ok := c.(syscall.Conn)
	if !ok {
		return nil
	}
	raw, err := k.SyscallConn()
	if err != nil {
		return nil
	}
	return raw
}

// writeTime is how long a client may take to read a piece of a response.
const writeTime = 10 * time.Second

// writeEvery is how old a deadline may be before a write sets a new one.
const writeEvery = 2 * time.Second

// Write writes within writeTime.
func (c *conn) Write(p []byte) (int, error) {
	if c.secure == nil { // else tls writes to secure
		if err := c.beforeWrite(); err != nil {
			return 0, err
		}
	}
	n, err := c.Conn.Write(p)
	if errors.Is(err, os.ErrDeadlineExceeded) {
		c.timedOut.Store(true)
	}
	return n, err
}

// WriteVector writes several pieces as Write does: with one system call if there is no TLS.
func (c *conn) WriteVector(v *net.Buffers) error {
	if c.secure == nil {
		if err := c.beforeWrite(); err != nil {
			return err
		}
	}
	_, err := v.WriteTo(c.Conn)
	if errors.Is(err, os.ErrDeadlineExceeded) {
		c.timedOut.Store(true)
	}
	return err
}

// beforeWrite sets a new deadline for writing.
func (c *conn) beforeWrite() error {
	now := time.Now()
	if c.deadline.Load()-now.UnixNano() >= int64(writeTime-writeEvery) {
		return nil
	}
	until := now.Add(writeTime)
	if err := c.raw.SetWriteDeadline(until); err != nil {
		return err
	}
	c.deadline.Store(until.UnixNano())
	return nil
}

// CloseWrite ends the sending direction: the client reads the end of the stream.
func (c *conn) CloseWrite() error {
	if c.secure != nil {
		if err := c.secure.closeWrite(); err != nil {
			return err
		}
	}
	if half, ok := c.raw.(interface{ CloseWrite() error }); ok {
		return half.CloseWrite()
	}
	return c.raw.Close()
}

// After a refusal the connection stays open for lingerTime, unless the client closes it before. At most lingerBytes of
// what the client still sends are read in that time.
const (
	lingerTime  = 500 * time.Millisecond
	lingerBytes = 256 << 10
)

// Close closes the connection. After a refusal it lingers first: closing a socket that has unread bytes makes TCP send
// a reset, and a client that gets a reset may lose the response that it has not read yet.
func (c *conn) Close() error {
	if c.closed.Swap(true) {
		return nil
	}
	c.conns.remove(c)
	c.conns.edge.memory.forget(c)
	if c.lingers.Load() && !c.conns.edge.stopping.Load() && c.CloseWrite() == nil {
		c.linger()
	}
	if l, ok := c.raw.(interface{ SetLinger(sec int) error }); ok && c.timedOut.Load() {
		_ = l.SetLinger(0) // else the kernel would keep megabytes of unsent data for minutes
	}
	if c.secure != nil {
		return c.secure.close()
	}
	return c.Conn.Close()
}

// linger waits until the client closes its side, but not longer than lingerTime. It reads what the client sends, at
// most lingerBytes. What comes after these stays unread, and TCP's flow control then stops the client.
func (c *conn) linger() {
	until := time.Now().Add(lingerTime)
	_ = c.raw.SetReadDeadline(until) // it fails only for a closed connection, and then reading fails, too
	if _, err := io.CopyN(io.Discard, c.raw, lingerBytes); err == nil {
		pace.Sleep(context.Background(), time.Until(until))
	}
}

// SetIdle takes note of whether requests of the connection are in progress.
func (c *conn) SetIdle(idle bool) {
	since := int64(0)
	if idle {
		since = time.Now().UnixNano()
	} else {
		c.used.Store(true)
	}
	c.idleSince.Store(since)
}

// Linger makes Close linger.
func (c *conn) Linger() { c.lingers.Store(true) }

// Cut closes the connection at once.
func (c *conn) Cut() { _ = c.raw.Close() } // it is not needed any more
