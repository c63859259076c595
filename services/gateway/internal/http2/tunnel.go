package http2

import (
	"io"
	"net/http"
	"slices"
	"sync"

	"bijou.dev/services/gateway/internal/http1"
	"bijou.dev/services/gateway/internal/message"
)

// Tunnel implements message.Writer (RFC 8441): a stream passes bytes as a connection of HTTP/1.1 does after 101.
func (w *writer) Tunnel(h message.Header) (io.ReadWriteCloser, error) {
	if w.s.request.Protocol == "" {
		return nil, http.ErrNotSupported
	}
	h = slices.DeleteFunc(h, func(f message.Field) bool { return f.Name == "Sec-Websocket-Accept" })
	if !h.Has("Date") {
		h.Add("Date", http1.Date())
	}
	w.sent, w.tunneled = true, true
	t := &tunnel{s: w.s}
	if err := w.s.header([]pseudo{{":status", "200"}}, h, -1, false); err != nil {
		return t, err
	}
	w.flush()
	return t, nil
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
	for {
		t.s.await()
		buf := tunnelBuffers.Get().(*[4 << 10]byte)
		k, err := t.s.read(buf[:])
		if k > 0 {
			k, werr := w.Write(buf[:k])
			n += int64(k)
			if err == nil {
				err = werr
			}
		}
		tunnelBuffers.Put(buf)
		if err == io.EOF { //nolint:errorlint // read does not wrap it
			return n, nil
		} else if err != nil {
			return n, err
		}
	}
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
