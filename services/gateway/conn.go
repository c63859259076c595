package gateway

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"os"
	"sync/atomic"
	"time"

	"bijou.dev/platform/pace"
)

// conn is a client's connection. Read returns only bytes that framing has found to be well formed. Write fails when the
// client does not read. Like the server that uses it, it has one reader at a time.
type conn struct {
	// idleSince is when the connection became idle, in Unix nanoseconds; 0: requests are in progress, or it was upgraded.
	idleSince atomic.Int64
	net.Conn           // over TLS if there is TLS
	raw       net.Conn // below TLS
	secure    *secure  // nil: without TLS
	size      int64    // bytes of memory that it is counted with
	conns     *connections
	peer      *peer
	used      atomic.Bool // a byte was read
	timedOut  atomic.Bool // a write took longer than writeTime
	refused   atomic.Bool // a response was sent before its request was read to the end: Close lingers
	framing   framing
	little    [64]byte     // what is read for the server when it wants a byte
	http2     *http2Guard  // nil: HTTP/1, or nothing has come yet
	deadline  atomic.Int64 // of writes, in Unix nanoseconds
	closed    atomic.Bool

	// Of an HTTP/2 connection: bytes of bodies that were received and not read, and requests in progress.
	unread, requests atomic.Int64
}

// Read reads checked bytes.
func (c *conn) Read(p []byte) (int, error) {
	if c.secure != nil && !c.secure.complete {
		if err := c.secure.handshake(); err != nil {
			return 0, err
		}
	}
	if c.http2 != nil {
		c.http2.beforeRead()
	}
	n, err := c.read(p)
	if n > 0 && c.framing.state == inHTTP2 {
		if c.http2 == nil {
			c.http2 = newHTTP2Guard(c)
		}
		if !c.http2.received(p[:n]) {
			return 0, io.EOF
		}
	}
	return n, err
}

func (c *conn) read(p []byte) (int, error) {
	for len(p) > 0 {
		n, want, err := c.framing.take(p)
		if n > 0 || err != nil {
			return n, err
		}
		if want > 0 && (len(p) >= minRead || c.framing.state != inHTTP2) { // a body or a tunnel: not parsed
			n, err := c.Conn.Read(p[:min(len(p), want)])
			c.framing.passed(n)
			return n, err
		}
		in := p
		switch {
		case len(in) >= minRead:
		case c.framing.state == inHTTP2:
			in = c.framing.space()
		default:
			in = c.little[:]
		}
		n, err = c.Conn.Read(in)
		if n > 0 {
			c.used.Store(true)
			c.framing.feed(in[:n])
		} else if err != nil {
			return 0, err
		}
	}
	return 0, nil
}

// minRead: smaller reads of HTTP/2 frame headers by the server are served from a buffer, to save system calls. During a
// response of HTTP/1 the server reads one byte to notice when the client leaves; that read holds no buffer.
const minRead = 512

// writeEvery is how old a deadline may be before a write sets a new one.
const writeEvery = 2 * time.Second

// Write writes within writeTime.
func (c *conn) Write(p []byte) (int, error) {
	if c.secure == nil { // else tls writes to secure
		if err := c.beforeWrite(); err != nil {
			return 0, err
		}
	}
	write := c.Conn.Write
	if c.http2 != nil {
		write = c.http2.write
	}
	n, err := write(p)
	if errors.Is(err, os.ErrDeadlineExceeded) {
		c.timedOut.Store(true)
	}
	return n, err
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
	refused := c.refused.Load() || c.framing.ended.Load() || c.http2 != nil && c.http2.isCut()
	if refused && !c.conns.edge.stopping.Load() && c.CloseWrite() == nil {
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

// setState follows the server: it says whether requests of the connection are in progress.
func (c *conn) setState(state http.ConnState) {
	switch state {
	case http.StateIdle:
		c.idleSince.Store(time.Now().UnixNano())
	case http.StateActive, http.StateHijacked:
		c.idleSince.Store(0)
	}
}

type connKey struct{}

// withConn adds the connection to the context of its requests.
func withConn(ctx context.Context, c net.Conn) context.Context {
	return context.WithValue(ctx, connKey{}, c)
}

// malformed reports whether the body of a request is not well formed. The error of reading the body does not always say
// so, and it comes late: net/http cancels the request before Read returns the error.
func malformed(ctx context.Context) bool {
	c := connOf(ctx)
	return c != nil && c.framing.cutBody.Load()
}

// connOf returns the connection of a request; nil: it did not come through connections.listener.
func connOf(ctx context.Context) *conn {
	c, _ := ctx.Value(connKey{}).(*conn)
	return c
}
