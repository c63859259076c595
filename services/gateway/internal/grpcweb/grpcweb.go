// Package grpcweb turns calls of gRPC-Web into calls of gRPC, and the responses back. Programs in browsers speak
// gRPC-Web, because browsers show no trailers: https://github.com/grpc/grpc/blob/master/doc/PROTOCOL-WEB.md.
//
// The messages are the same in both. In gRPC-Web the trailer is the last piece of the body, and the whole body may be
// in base64 ("-text").
package grpcweb

import (
	"bytes"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"io"
	"net/http"
	"slices"
	"strings"
	"sync/atomic"

	"bijou.dev/services/gateway/internal/message"
)

const (
	web  = "application/grpc-web"
	text = "-text"
	grpc = "application/grpc"

	// trailerFlag is the first byte of the piece of a body that is the trailer.
	trailerFlag = 0x80
)

// RequestHeaders are the fields that programs in browsers send with a call, ResponseHeaders those that they read. Other
// origins need permission for them (CORS).
var (
	RequestHeaders  = []string{"Content-Type", "Grpc-Timeout", "X-Grpc-Web", "X-User-Agent"}
	ResponseHeaders = []string{"Grpc-Message", "Grpc-Status", "Grpc-Status-Details-Bin"}
)

// Call is a call of gRPC-Web.
type Call struct {
	codec           string // "+proto", or empty
	textIn, textOut bool   // request and response are in base64
}

// Parse says whether a request is a call of gRPC-Web.
func Parse(r *message.Request) (c Call, ok bool) {
	kind := mediaType(r.Header.Get("Content-Type"))
	if r.Method != http.MethodPost {
		return c, false
	}
	if c.codec, c.textIn, ok = cut(kind); !ok {
		return c, false
	}
	c.textOut = c.textIn
	for word := range r.Header.Words("Accept") {
		if _, inText, ok := cut(mediaType(word)); ok {
			c.textOut = inText
			break
		}
	}
	return c, true
}

// mediaType is a media type in lower case without its parameters.
func mediaType(field string) string {
	kind, _, _ := strings.Cut(field, ";")
	return strings.ToLower(strings.TrimSpace(kind))
}

// cut takes a media type of gRPC-Web apart.
func cut(kind string) (codec string, inText, ok bool) {
	rest, ok := strings.CutPrefix(kind, web)
	if !ok {
		return "", false, false
	}
	rest, inText = strings.CutPrefix(rest, text)
	return rest, inText, rest == "" || rest[0] == '+'
}

// Request returns the call as one of gRPC.
func (c Call) Request(r *message.Request) *message.Request {
	to := *r
	to.Header = slices.DeleteFunc(slices.Clone(r.Header), func(f message.Field) bool {
		return f.Name == "X-Grpc-Web" || f.Name == "Accept" || f.Name == "Te"
	})
	to.Header.Set("Content-Type", grpc+c.codec)
	to.Header.Add("Te", "trailers")
	if c.textIn && r.Body != nil {
		to.Length, to.Body = -1, &textBody{Body: r.Body}
	}
	return &to
}

// textBody is a body in base64, decoded. It may consist of several texts, each with its own padding.
type textBody struct {
	message.Body
	malformed atomic.Bool

	// Used by the reader only.
	in   []byte // what has come and is less than a group of four
	out  []byte // what was decoded and not read
	room [3 << 10]byte
	err  error
}

var errText = errors.New("the body is not base64")

// Read reads what was encoded.
func (b *textBody) Read(p []byte) (int, error) {
	for len(b.out) == 0 && b.err == nil {
		b.fill()
	}
	n := copy(p, b.out)
	if b.out = b.out[n:]; n > 0 || len(p) == 0 {
		return n, nil
	}
	return 0, b.err
}

// fill reads and decodes a piece.
func (b *textBody) fill() {
	if b.in == nil {
		b.in = make([]byte, 0, len(b.room)/3*4)
	}
	n, err := b.Body.Read(b.in[len(b.in):cap(b.in)])
	data := b.in[:len(b.in)+n]
	whole := len(data) / 4 * 4
	b.err = err
	if bytes.ContainsAny(data, "\r\n") || !b.decode(data[:whole]) || errors.Is(err, io.EOF) && whole < len(data) {
		b.malformed.Store(true)
		b.out, b.err = nil, errText
		return
	}
	b.in = b.in[:copy(b.in[:cap(b.in)], data[whole:])]
}

// decode decodes groups of four. Padding ends a text, and another one may follow.
func (b *textBody) decode(data []byte) bool {
	n := 0
	for len(data) > 0 {
		end := len(data)
		if i := bytes.IndexByte(data, '='); i >= 0 {
			end = i/4*4 + 4
		}
		k, err := base64.StdEncoding.Decode(b.room[n:], data[:end])
		if err != nil {
			return false
		}
		n += k
		data = data[end:]
	}
	b.out = b.room[:n]
	return true
}

// Received implements message.Body: how much it is shows when it is decoded.
func (*textBody) Received() (n int, whole bool) { return 0, false }

// Malformed implements message.Body.
func (b *textBody) Malformed() bool { return b.malformed.Load() || b.Body.Malformed() }

// Writer returns a writer for the response to the call. It gets a response of gRPC, and w gets one of gRPC-Web. A
// response that is not gRPC's stays as it is.
func (c Call) Writer(w message.Writer) message.Writer { return &writer{Writer: w, inText: c.textOut} }

type writer struct {
	message.Writer
	inText   bool
	isGRPC   bool // of the response that has begun
	inHeader bool // the status is in the header, and there is no body
	encoded  []byte
}

// Begin begins the response.
func (w *writer) Begin(status int, h message.Header, length int64) error {
	codec, ok := strings.CutPrefix(mediaType(h.Get("Content-Type")), grpc)
	if !ok || codec != "" && codec[0] != '+' {
		return w.Writer.Begin(status, h, length) //nolint:wrapcheck // it says that the client has left
	}
	w.isGRPC, w.inHeader = true, h.Has("Grpc-Status")
	kind := web
	if w.inText {
		kind += text
	}
	h.Set("Content-Type", kind+codec)
	h.Delete("Trailer")
	if !w.inHeader {
		length = -1 // of the trailer is not known
	}
	return w.Writer.Begin(status, h, length) //nolint:wrapcheck // it says that the client has left
}

// Write sends a part of the body.
func (w *writer) Write(p []byte) (int, error) {
	if !w.isGRPC || !w.inText {
		return w.Writer.Write(p) //nolint:wrapcheck // it says that the client has left
	}
	w.encoded = base64.StdEncoding.AppendEncode(w.encoded[:0], p)
	if _, err := w.Writer.Write(w.encoded); err != nil {
		return 0, err //nolint:wrapcheck // it says that the client has left
	}
	return len(p), nil
}

// End sends the trailer as the last piece of the body.
func (w *writer) End(trailer message.Header) error {
	if w.isGRPC && !w.inHeader {
		if _, err := w.Write(trailerPiece(trailer)); err != nil {
			return err
		}
		trailer = nil
	}
	return w.Writer.End(trailer) //nolint:wrapcheck // it says that the client has left
}

// trailerPiece is a trailer as a piece of a body: a flag, four bytes of length, and lines with names in lower case.
func trailerPiece(trailer message.Header) []byte {
	piece := []byte{trailerFlag, 0, 0, 0, 0}
	for _, f := range trailer {
		piece = append(append(append(piece, strings.ToLower(f.Name)...), ": "...), f.Value...)
		piece = append(piece, "\r\n"...)
	}
	binary.BigEndian.PutUint32(piece[1:], uint32(len(piece)-5))
	return piece
}
