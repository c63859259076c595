package gateway

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"strings"

	"bijou.dev/services/gateway/internal/message"
)

// Handler returns a function that handles one GET with these header lines, names and values, without a connection.
func Handler(e *Edge, path string, lines ...string) func() {
	c := &conn{conns: e.conns, peer: &peer{addr: "192.0.2.1"}}
	r := &message.Request{
		Version: message.HTTP11, Method: http.MethodGet, Target: path, Host: "x", Context: context.Background(),
	}
	r.Path = path
	if i := strings.IndexByte(path, '?'); i >= 0 {
		r.Path, r.Query = path[:i], path[i:]
	}
	for i := 0; i < len(lines); i += 2 {
		r.Header.Add(lines[i], lines[i+1])
	}
	return func() { e.serve(c, r, discard{}) }
}

// Upload handles one POST of a body without a connection, and returns the status of the response.
func Upload(e *Edge, body message.Body) int {
	c := &conn{conns: e.conns, peer: &peer{addr: "192.0.2.1"}}
	r := &message.Request{
		Version: message.HTTP11, Method: http.MethodPost, Target: "/", Path: "/", Host: "x", Length: -1, Body: body,
		Context: context.Background(), Leave: &message.Leave{},
	}
	w := &noted{}
	e.serve(c, r, w)
	return w.status
}

// noted is a message.Writer that notes the status.
type noted struct {
	discard
	status int
}

func (w *noted) Begin(status int, _ message.Header, _ int64) error {
	w.status = status
	return nil
}

// discard is a message.Writer that drops what it gets.
type discard struct{}

func (discard) Interim(int, message.Header) error                 { return nil }
func (discard) Last()                                             {}
func (discard) Begin(int, message.Header, int64) error            { return nil }
func (discard) Write(p []byte) (int, error)                       { return len(p), nil }
func (discard) Flush() error                                      { return nil }
func (discard) End(message.Header) error                          { return nil }
func (discard) Abort()                                            {}
func (discard) Tunnel(message.Header) (io.ReadWriteCloser, error) { return nil, errors.ErrUnsupported }

// Accept takes one connection from l, without serving it.
func Accept(e *Edge, l net.Listener) (net.Conn, error) {
	nc, err := l.Accept()
	if err != nil {
		return nil, err
	}
	return e.conns.accept(nc, nil), nil
}

// MarkTimedOut marks a connection as one whose client does not read.
func MarkTimedOut(c net.Conn) { c.(*conn).timedOut.Store(true) }

// OccupyHandshakes takes all places for handshakes that compute.
func OccupyHandshakes(e *Edge) (free func()) {
	places := e.conns.handshakes
	for range cap(places) {
		places <- struct{}{}
	}
	return func() {
		for range cap(places) {
			<-places
		}
	}
}
