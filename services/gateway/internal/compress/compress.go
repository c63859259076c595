// Package compress compresses answers that come without a coding: which, how (gzip, zstd or br), and with how much
// memory.
//
// The levels are those that are cheap. For a JSON document of 50 KB, the best of eight runs of BenchmarkWriters on two
// busy cores:
//
//	coding  level    time    times smaller  memory
//	zstd    fastest  105 us  7.9            0.6 MiB
//	gzip    5        120 us  6.6            1.0 MiB
//	br      2        314 us  7.5            0.9 MiB
//
// So a client that accepts several without a preference gets zstd, then gzip, then br: br makes an answer 12 % smaller
// than gzip does, for 2.6 times the CPU time, which all requests share.
package compress

import (
	"errors"
	"io"
	"net/http"
	"slices"
	"strings"
	"sync"
	"sync/atomic"

	"bijou.dev/services/gateway/internal/accept"
	"bijou.dev/services/gateway/internal/fields"
	"bijou.dev/services/gateway/internal/message"

	"github.com/andybalholm/brotli"
	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
)

// Policy says which answers are compressed.
type Policy struct {
	// Types lists media types in lower case, without parameters.
	Types []string
	// MinBytes is the smallest content that is compressed. Content of unknown length always is.
	MinBytes int64
}

// Choose returns the coding for an answer with a status, a header and a length of content (-1: unknown). Empty: it
// stays as it is. It sets Vary where another client may get another coding.
func (p *Policy) Choose(r *message.Request, status int, h *message.Header, length int64) string {
	switch {
	case status == http.StatusNotModified:
		p.notModified(r, h)
		return ""
	case !p.fits(status, *h, length):
		return ""
	}
	fields.AddVary(h, "Accept-Encoding")
	if r.Header.HasWord("Cache-Control", "no-transform") { // RFC 9111, 5.2.1.6
		return ""
	}
	accepted := slices.Collect(r.Header.Values("Accept-Encoding"))
	if codings := accept.Encodings(accepted, "zstd", "gzip", "br"); len(codings) > 0 {
		return codings[0]
	}
	return ""
}

// fits reports whether an answer is compressed for clients that accept a coding.
func (p *Policy) fits(status int, h message.Header, length int64) bool {
	switch {
	case status < 200, status == http.StatusNoContent, status == http.StatusResetContent,
		status == http.StatusPartialContent, length >= 0 && length < max(p.MinBytes, 1):
		return false
	case h.Has("Content-Encoding"), h.Has("Content-Range"), h.Count("Content-Type") != 1,
		h.HasWord("Cache-Control", "no-transform"): // RFC 9111, 5.2.2.6
		return false
	}
	kind, _, _ := strings.Cut(h.Get("Content-Type"), ";")
	return slices.Contains(p.Types, strings.ToLower(strings.TrimSpace(kind)))
}

// notModified makes the fields of 304 those of the answer that the client has (RFC 9110, 15.4.5): if the client asks by
// the weak form of the ETag, that answer was compressed here.
func (p *Policy) notModified(r *message.Request, h *message.Header) {
	fields.AddVary(h, "Accept-Encoding")
	if tag := h.Get("Etag"); isStrong(tag) && r.Header.HasWord("If-None-Match", "W/"+tag) {
		h.Set("Etag", "W/"+tag)
	}
}

// SetFields changes the header of an answer that is compressed. A strong ETag becomes weak, because the bytes are
// others (RFC 9110, 8.8.1). What was said about the bytes is removed: ranges, and digests, which are those
// of the content with its coding (RFC 9530, 2 and 3).
func SetFields(h *message.Header, coding string) {
	*h = slices.DeleteFunc(*h, func(f message.Field) bool { return f.Name == "Accept-Ranges" || IsDigest(f.Name) })
	h.Set("Content-Encoding", coding)
	if tag := h.Get("Etag"); isStrong(tag) {
		h.Set("Etag", "W/"+tag)
	}
}

// IsDigest reports whether a field, in a header or a trailer, is a digest of content with its coding (RFC 9530, and RFC
// 3230 and RFC 1864 before it).
func IsDigest(name string) bool {
	switch name {
	case "Content-Digest", "Repr-Digest", "Digest", "Content-Md5":
		return true
	}
	return false
}

func isStrong(tag string) bool { return strings.HasPrefix(tag, `"`) }

// encoder is what the libraries have in common.
type encoder interface {
	io.WriteCloser
	Flush() error
	Reset(w io.Writer)
}

// codings are the encoders, with windows that bound their memory to a MiB.
var codings = map[string]*sync.Pool{
	"gzip": {New: func() any {
		w, err := gzip.NewWriterLevel(io.Discard, 5)
		return newWriter(w, err)
	}},
	"zstd": {New: func() any {
		w, err := zstd.NewWriter(io.Discard, zstd.WithEncoderLevel(zstd.SpeedFastest), zstd.WithWindowSize(64<<10),
			zstd.WithLowerEncoderMem(true), zstd.WithEncoderConcurrency(1), // no goroutines
			zstd.WithZeroFrames(true)) // empty content is a frame, too
		return newWriter(w, err)
	}},
	"br": {New: func() any {
		return newWriter(brotli.NewWriterOptions(io.Discard, brotli.WriterOptions{Quality: 2, LGWin: 16}), nil)
	}},
}

func newWriter(e encoder, err error) *Writer {
	if err != nil {
		panic(err) // cannot happen: the options are those above
	}
	return &Writer{encoder: e}
}

// Limit bounds how many answers are compressed at the same time, and so the memory for it.
type Limit struct {
	all, streams     atomic.Int64
	most, mostStream int64
}

// NewLimit returns a limit for an edge that may use an amount of memory; 0: any amount. An eighth of it is used, a MiB
// for each answer: 27 answers of 216 MiB, and at least 8. Half of them may be event streams, which may never end.
func NewLimit(memory int64) *Limit {
	most := int64(128)
	if memory > 0 {
		most = max(memory/8>>20, 8)
	}
	return &Limit{most: most, mostStream: most / 2}
}

// Get returns a writer that compresses to dst. length is that of the content; -1: unknown. stream: it may never end.
// Nil: too many answers are being compressed, and this one is to be sent as it is. The writer must be released.
func (l *Limit) Get(coding string, dst io.Writer, length int64, stream bool) *Writer {
	if l.all.Add(1) > l.most {
		l.all.Add(-1)
		return nil
	}
	if stream && l.streams.Add(1) > l.mostStream {
		l.streams.Add(-1)
		l.all.Add(-1)
		return nil
	}
	w := codings[coding].Get().(*Writer)
	w.limit, w.coding, w.stream, w.length, w.taken = l, coding, stream, length, 0
	w.encoder.Reset(dst)
	return w
}

// Writer compresses one answer. It is not safe for concurrent use.
type Writer struct {
	encoder
	limit         *Limit
	coding        string
	stream        bool
	length, taken int64
}

// ErrShort is the error of Close if there was less content than announced.
var ErrShort = errors.New("the content is shorter than its length")

// Write compresses a part of the content. It may be sent only by Flush or Close.
func (w *Writer) Write(p []byte) (int, error) {
	n, err := w.encoder.Write(p)
	w.taken += int64(n)
	return n, err //nolint:wrapcheck // it is the error of dst
}

// Close sends the rest. It does not, so that the client does not take a part for the whole, after ErrShort.
func (w *Writer) Close() error {
	if w.taken < w.length {
		return ErrShort
	}
	return w.encoder.Close() //nolint:wrapcheck // it is the error of dst
}

// Release gives the memory back. The writer must not be used after it.
func (w *Writer) Release() {
	w.limit.all.Add(-1)
	if w.stream {
		w.limit.streams.Add(-1)
	}
	w.encoder.Reset(io.Discard)
	codings[w.coding].Put(w)
}
