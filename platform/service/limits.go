package service

import (
	"errors"
	"io"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"bijou.dev/platform/errs"
)

// Limits of every listener that a process serves. Normal use is far below them. They keep clients from using up the
// memory. A handler may have lower ones.
const (
	maxHTTPConns = 1024 // of one listener; further ones are closed at once
	maxGRPCConns = 8192 // more, because every process of the platform has a connection to each registry
	maxHeader    = 32 << 10
	maxBody      = 8 << 20
	headerWithin = 10 * time.Second // against clients that send a header very slowly
	bodyWithin   = 30 * time.Second
	idleFor      = 2 * time.Minute // longer than callers keep idle connections, so that they close first
)

// limitConns returns l with at most max connections at a time. Further ones are closed and counted.
func limitConns(l net.Listener, limit int64, refused prometheus.Counter) net.Listener {
	return &limitedListener{Listener: l, limit: limit, refused: refused}
}

type limitedListener struct {
	net.Listener
	limit   int64
	refused prometheus.Counter
	open    atomic.Int64
}

// Accept returns the next connection within the limit.
func (l *limitedListener) Accept() (net.Conn, error) {
	for {
		c, err := l.Listener.Accept()
		if err != nil {
			return nil, err
		}
		if l.open.Add(1) > l.limit {
			l.open.Add(-1)
			l.refused.Inc()
			_ = c.Close()
			continue
		}
		return &limitedConn{Conn: c, closed: sync.OnceFunc(func() { l.open.Add(-1) })}, nil
	}
}

type limitedConn struct {
	net.Conn
	closed func()
}

// Close lets the listener accept another connection.
func (c *limitedConn) Close() error {
	c.closed()
	return c.Conn.Close()
}

// CloseWrite ends the response before the connection is reset, so that a client that is still sending can read it.
func (c *limitedConn) CloseWrite() error {
	if w, ok := c.Conn.(interface{ CloseWrite() error }); ok {
		return w.CloseWrite()
	}
	return nil
}

// limitBodies bounds the size and the time of request bodies. A request that announces a larger body is refused;
// otherwise reading a body that is too large ends with *http.MaxBytesError, and a slow one with os.ErrDeadlineExceeded.
func limitBodies(h http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch {
		case r.ContentLength > maxBody:
			w.Header().Set("Connection", "close") // rather than read the body
			p := errs.ProblemOf(r.Context(), errs.Errorf(errs.Invalid,
				"reading the request: a body may have %d MiB, this one has %d bytes", maxBody>>20, r.ContentLength))
			p.Status, p.Title = http.StatusRequestEntityTooLarge, http.StatusText(http.StatusRequestEntityTooLarge)
			errs.WriteProblemBody(w, p)
			return
		case r.ContentLength != 0:
			rc := http.NewResponseController(w)
			_ = rc.SetReadDeadline(time.Now().Add(bodyWithin)) // every server of ours has deadlines
			noDeadline := func() { _ = rc.SetReadDeadline(time.Time{}) }
			r.Body = &timedBody{ReadCloser: http.MaxBytesReader(w, r.Body, maxBody), end: noDeadline}
		}
		h.ServeHTTP(w, r)
	})
}

// timedBody is a body with a read deadline. At the end of the body the deadline is removed: it would end the request.
type timedBody struct {
	io.ReadCloser
	end func()
}

// Read reads the body, and removes the deadline at its end.
func (b *timedBody) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	if errors.Is(err, io.EOF) {
		b.end()
	}
	return n, err
}
