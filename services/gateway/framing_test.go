package gateway_test

import (
	"bufio"
	"bytes"
	"errors"
	"io"
	"net/http"
	"slices"
	"strings"
	"testing"

	"bijou.dev/services/gateway"

	"golang.org/x/net/http2"
)

// What framing loosens it gives out in one form: net/http gets no empty line before a request and no chunk extension.
func TestFramingGivesOutOneForm(t *testing.T) {
	head := "POST /a HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
	for _, c := range []struct{ in, want string }{
		{"\r\n\r\n" + ok + "\r\n" + ok, ok + ok},
		{head + "3;a=\"b;c\"\r\nabc\r\n0\r\n\r\n" + ok, head + "3\r\nabc\r\n0\r\n\r\n" + ok},
		{head + "3 \t; a = b\r\nabc\r\n0 ;c\r\nT: 1\r\n\r\n\r\n" + ok, head + "3\r\nabc\r\n0\r\nT: 1\r\n\r\n" + ok},
		{head + "0A\r\n0123456789\r\n00;x\r\n\r\n", head + "0A\r\n0123456789\r\n00\r\n\r\n"},
	} {
		for _, size := range []int{1, 2, 3, 7, 4096} {
			got, _, err := gateway.Frame(slices.Collect(slices.Chunk([]byte(c.in), size)), size)
			if err != nil || string(got) != c.want {
				t.Errorf("in pieces of %d\n%q\ngave out\n%q, %v, want\n%q", size, c.in, got, err, c.want)
			}
		}
	}
}

// FuzzFraming compares framing with net/http: both must agree where each message that is passed on begins, and the
// pieces in which the bytes come must not matter. What is given out is what came, less some bytes, and is in one form:
// framing gives it out again as it is.
func FuzzFraming(f *testing.F) {
	post := "POST /a HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
	for _, s := range []string{
		ok + ok,
		"POST /a HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\n\r\nabc" + ok,
		post + "3;a\r\nabc\r\n0\r\nT: 1\r\n\r\n" + ok,
		post + "3 ; a = \"\\\";b\" ;c\r\nabc\r\n0\t;d\r\nT: 1\r\n\r\n\r\n" + ok,
		post + "3 \r\nabc\r\n0\r\n\r\n", post + "23;a=\"\r\n" + inside + "\r\n0\r\n\r\n",
		"POST /a HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
		"POST /a HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
		"GET http://x/a HTTP/1.1\r\nHost: x\r\nA: b\r\n c\r\n\r\n",
		"GET http://y/a HTTP/1.1\r\nHost: x\r\n\r\n" + ok, "GET http://y HTTP/1.0\r\n\r\n",
		"GET /a HTTP/1.0\r\n\r\n", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\nxx", "\r\nPRI * HTTP/2.0\r\n\r\nSM\r\n\r\nxx",
		"\n", "GET /a HTTP/1.1\nHost: x\n\n", "\r\n\r\n" + ok + "\r\n" + ok, "\r\n\r\n\r\n\r\n\r\n" + ok,
	} {
		f.Add([]byte(s), uint8(3))
	}
	f.Fuzz(func(t *testing.T, in []byte, size uint8) {
		size = max(size, 1)
		whole, heads, err := gateway.Frame([][]byte{in}, 4096)
		if len(in) == 0 {
			return
		}
		pieces, _, pieceErr := gateway.Frame(slices.Collect(slices.Chunk(in, int(size))), int(size))
		if err == nil && pieceErr == nil && !bytes.Equal(whole, pieces) {
			t.Fatalf("in one piece\n%q\nin pieces of %d\n%q", whole, size, pieces)
		}
		if (err == nil) != (pieceErr == nil) {
			t.Fatalf("in one piece %v, in pieces of %d %v", err, size, pieceErr)
		}
		if bytes.HasPrefix(in, []byte("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")) {
			return
		}
		sent, refused := whole, false
		if i := bytes.Index(whole, []byte(gateway.Refusal+" ")); i >= 0 && errors.Is(err, io.EOF) {
			sent, refused = whole[:i], true
		}
		if !isPartOf(sent, in) {
			t.Fatalf("gave out\n%q\nof\n%q", sent, in)
		}
		if again, _, err := gateway.Frame([][]byte{sent}, 4096); len(sent) > 0 && (err != nil || !bytes.Equal(again, sent)) {
			t.Fatalf("gave out\n%q\nand of that, %v\n%q", sent, err, again)
		}
		compare(t, sent, heads, refused)
	})
}

// isPartOf reports whether s is in, less some bytes.
func isPartOf(s, in []byte) bool {
	for _, c := range s {
		i := bytes.IndexByte(in, c)
		if i < 0 {
			return false
		}
		in = in[i+1:]
	}
	return true
}

// compare reads the bytes that were passed on with net/http.
func compare(t *testing.T, sent []byte, heads []int, refused bool) {
	src := bytes.NewReader(sent)
	r := bufio.NewReaderSize(src, 64<<10)
	for i, want := range heads {
		at := len(sent) - src.Len() - r.Buffered()
		if want == len(sent) && (refused || at == want) {
			return
		}
		if at != want {
			t.Fatalf("message %d begins at %d, net/http reads it at %d, in %q", i, want, at, sent)
		}
		req, err := http.ReadRequest(r)
		if err != nil {
			return // net/http refuses more, and then reads no further message
		}
		if strings.ContainsAny(req.Host, "/ \r\n") {
			t.Fatalf("host %q in %q", req.Host, sent)
		}
		if _, err := io.Copy(io.Discard, req.Body); err != nil {
			return // not all has come
		}
	}
}

// FuzzFrames compares the headers of HTTP/2 frames with those that x/net finds. They and the ends of WebSocket frames
// must not depend on the pieces in which bytes come.
func FuzzFrames(f *testing.F) {
	f.Add([]byte("\x00\x00\x08\x06\x00\x00\x00\x00\x0012345678\x00\x00\x04\x03\x00\x00\x00\x00\x01\x00\x00\x00\x08"),
		uint8(3))
	f.Add([]byte("\x00\x00\x08\x07\x00\x00\x00\x00\x0012345678\x00\x00\x00\x04\x01\x00\x00\x00\x00"), uint8(1))
	f.Add([]byte("\x81\x85abcd12345\x88\x02\x03\xe9\x82\x7e\x00\x01x"), uint8(2))
	f.Fuzz(func(t *testing.T, in []byte, size uint8) {
		pieces := slices.Collect(slices.Chunk(in, int(max(size, 1))))
		heads, between := gateway.Heads([][]byte{in})
		again, betweenAgain := gateway.Heads(pieces)
		if !slices.Equal(heads, again) || between != betweenAgain {
			t.Fatalf("whole %v %v, in pieces %v %v", heads, between, again, betweenAgain)
		}
		if a, b := gateway.Frames([][]byte{in}), gateway.Frames(pieces); a != b {
			t.Fatalf("frames end at %d, in pieces at %d", a, b)
		}
		r := bytes.NewReader(in)
		for i, h := range heads {
			want, err := http2.ReadFrameHeader(r)
			if err != nil || h != [3]int{int(want.Type), int(want.Length), int(want.StreamID)} {
				t.Fatalf("head %d is %v, want %v, %v", i, h, want, err)
			}
			if int(want.Length) > r.Len() {
				return
			}
			_, _ = r.Seek(int64(want.Length), io.SeekCurrent)
		}
	})
}
