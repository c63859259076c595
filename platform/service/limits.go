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

// Limits of every listener that a process serves. They are far beyond any use that is meant, and keep what is not from
// taking all memory. A handler may well have tighter ones.
const (
	maxHTTPConns = 1024 // of one listener; the next are closed at once
	maxGRPCConns = 8192 // more, because every process of the platform holds one to each registry
	maxHeader    = 32 << 10
	maxBody      = 8 << 20
	headerWithin = 10 * time.Second // slow loris
	bodyWithin   = 30 * time.Second
	idleFor      = 2 * time.Minute // longer than a caller's pool, so that callers close first
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

// Close gives the place back.
func (c *limitedConn) Close() error {
	c.closed()
	return c.Conn.Close()
}

// CloseWrite ends the answer before the connection is reset, so that a client that is still sending gets to read it.
func (c *limitedConn) CloseWrite() error {
	if w, ok := c.Conn.(interface{ CloseWrite() error }); ok {
		return w.CloseWrite()
	}
	return nil
}

// limitBodies serves h requests whose body is not too large and comes in time. One that says that it is larger is
// refused; otherwise reading ends with *http.MaxBytesError, or with os.ErrDeadlineExceeded.
func limitBodies(h http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch {
		case r.ContentLength > maxBody:
			w.Header().Set("Connection", "close") // the body is not worth reading
			p := errs.ProblemOf(r.Context(), errs.Errorf(errs.Invalid, "reading the request: a body may have %d MiB, this one has %d bytes", maxBody>>20, r.ContentLength))
			p.Status, p.Title = http.StatusRequestEntityTooLarge, http.StatusText(http.StatusRequestEntityTooLarge)
			errs.WriteProblemBody(w, p, 0)
			return
		case r.ContentLength != 0:
			rc := http.NewResponseController(w)
			_ = rc.SetReadDeadline(time.Now().Add(bodyWithin)) // every server of ours has deadlines
			r.Body = &timedBody{ReadCloser: http.MaxBytesReader(w, r.Body, maxBody), end: func() { _ = rc.SetReadDeadline(time.Time{}) }}
		}
		h.ServeHTTP(w, r)
	})
}

// timedBody is a body that must come within a deadline. When it is there the deadline must go: it would end the request.
type timedBody struct {
	io.ReadCloser
	end func()
}

// Read reads on, and lifts the deadline at the end.
func (b *timedBody) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	if errors.Is(err, io.EOF) {
		b.end()
	}
	return n, err
}
