package http2

import (
	"cmp"
	"errors"
	"io"
	"net/http"
	"sync"

	"bijou.dev/services/gateway/internal/message"
)

// Tunnel implements message.Writer (RFC 8441): a stream passes bytes as a connection of HTTP/1.1 does after 101.
func (w *writer) Tunnel(h message.Header) (io.ReadWriteCloser, error) {
	if w.s.request.Protocol == "" {
		return nil, http.ErrNotSupported
	}
	h.Delete("Sec-Websocket-Accept") // it answers the key, which HTTP/2 does not have
	w.status, w.header, w.length, w.tunneled = http.StatusOK, h, -1, true
	return &tunnel{s: w.s}, w.Flush()
}

// tunnel is a stream on which something else than HTTP is spoken.
type tunnel struct {
	s    *serverStream
	once sync.Once // of Close
}

// Read reads what the client has sent.
func (t *tunnel) Read(p []byte) (int, error) { return t.s.read(p) }

var tunnelBuffers = sync.Pool{New: func() any { return new([4 << 10]byte) }}

// WriteTo writes what the client sends to w until the client ends it. While nothing comes it has no buffer.
func (t *tunnel) WriteTo(w io.Writer) (n int64, err error) {
	for err == nil {
		t.s.await()
		var k int
		k, err = t.pass(w)
		n += int64(k)
	}
	if errors.Is(err, io.EOF) {
		err = nil
	}
	return n, err
}

// pass writes what has come to w.
func (t *tunnel) pass(w io.Writer) (int, error) {
	buf := tunnelBuffers.Get().(*[4 << 10]byte)
	defer tunnelBuffers.Put(buf)
	n, err := t.s.read(buf[:])
	if n == 0 {
		return 0, err
	}
	n, writing := w.Write(buf[:n])
	return n, cmp.Or(writing, err)
}

// Write sends p to the client.
func (t *tunnel) Write(p []byte) (int, error) {
	if err := t.s.send(p, false, writeTime); err != nil {
		return 0, err
	}
	t.s.writer.flush()
	return len(p), nil
}

// CloseWrite ends the sending direction.
func (t *tunnel) CloseWrite() error {
	err := t.s.send(nil, true, writeTime)
	t.s.writer.flush()
	return err
}

// Close ends the stream. A client that has not read the end learns that the tunnel was cut.
func (t *tunnel) Close() error {
	t.once.Do(func() {
		how := codeCancel
		if t.s.sentAll() {
			how = codeNo
		}
		t.s.finish(how)
		t.s.news.Broadcast() // a Read may wait
	})
	return nil
}
