package gateway

import (
	"net/http"

	"bijou.dev/services/gateway/internal/compress"
)

// compress decides whether the answer is compressed, and changes its header if it is. length is that of the content;
// -1: unknown. An answer to HEAD gets the header that the answer to GET would have (RFC 9110, 9.3.2).
func (x *exchange) compress(status int, h http.Header, length int64) {
	p := x.rule.Compressed
	if p == nil || x.grpc {
		return
	}
	coding := p.Choose(x.r, status, h, length)
	if coding == "" {
		return
	}
	if x.r.Method != http.MethodHead {
		if x.encoder = x.edge.encoders.Get(coding, plainWriter{x}, length, isEventStream(h)); x.encoder == nil {
			return
		}
	}
	compress.SetFields(h, coding)
}

// plainWriter sends bytes to the client as they are, and counts them.
type plainWriter struct{ x *exchange }

// Write writes.
func (w plainWriter) Write(p []byte) (int, error) {
	n, err := w.x.w.Write(p)
	w.x.bytes += int64(n)
	return n, err
}
