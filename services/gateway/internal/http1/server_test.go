package http1_test

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"sort"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"bijou.dev/services/gateway/internal/http1"
	"bijou.dev/services/gateway/internal/message"
)

// received is a connection with a client that has sent pieces, and then the end. It keeps what the client gets.
type received struct {
	pieces [][]byte
	bytes.Buffer
	lingers bool
}

func (c *received) Read(p []byte) (int, error) {
	if len(c.pieces) == 0 {
		return 0, io.EOF
	}
	n := copy(p, c.pieces[0])
	if c.pieces[0] = c.pieces[0][n:]; len(c.pieces[0]) == 0 {
		c.pieces = c.pieces[1:]
	}
	return n, nil
}

func (*received) Close() error                     { return nil }
func (*received) LocalAddr() net.Addr              { return &net.TCPAddr{} }
func (*received) RemoteAddr() net.Addr             { return &net.TCPAddr{} }
func (*received) SetDeadline(time.Time) error      { return nil }
func (*received) SetReadDeadline(time.Time) error  { return nil }
func (*received) SetWriteDeadline(time.Time) error { return nil }
func (*received) SetIdle(bool)                     {}
func (c *received) Linger()                        { c.lingers = true }

// serve returns what each request of a client says, as text, and what the client got.
func serve(pieces [][]byte) (requests []string, responses string, isHTTP2 bool) {
	c := &received{pieces: pieces}
	end := new(http1.State).Serve(c, http1.Options{
		Stopping: func() bool { return false },
		Handle: func(r *message.Request, w message.Writer) {
			if r.Refused != nil {
				requests = append(requests, fmt.Sprint("refused: ", r.Refused.Status, " ", r.Refused.Detail))
				_ = w.Begin(r.Refused.Status, nil, 0)
				_ = w.End(nil)
				return
			}
			var body, trailer string
			if r.Body != nil {
				all, err := io.ReadAll(r.Body)
				if err != nil {
					requests = append(requests, "cut: "+describe(r.Method, r.Target, r.Host, r.Header, string(all), ""))
					w.Abort()
					return
				}
				body, trailer = string(all), lines(r.Body.Trailer())
			}
			requests = append(requests, describe(r.Method, r.Target, r.Host, r.Header, body, trailer))
			_ = w.Begin(http.StatusOK, nil, 0)
			_ = w.End(nil)
		},
	})
	return requests, c.String(), end == http1.HTTP2
}

func describe(method, target, host string, h message.Header, body, trailer string) string {
	return fmt.Sprintf("%s %s\nHost: %s\n%s\n%q\n%s", method, target, host, lines(h), body, trailer)
}

// lines are the lines of a header, ordered by name.
func lines(h message.Header) string {
	all := slices.Clone(h)
	sort.SliceStable(all, func(i, j int) bool { return all[i].Name < all[j].Name })
	var b strings.Builder
	for _, f := range all {
		fmt.Fprintf(&b, "%s: %s\n", f.Name, f.Value)
	}
	return b.String()
}

const (
	ok      = "GET /a HTTP/1.1\r\nHost: x\r\n\r\n"
	chunked = "POST /a HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
)

// What is loosened leaves no trace: neither empty lines before a request nor chunk extensions.
func TestLooseFormsAreReadAsStrictOnes(t *testing.T) {
	for _, c := range []struct{ loose, strict string }{
		{"\r\n\r\n" + ok + "\r\n" + ok, ok + ok},
		{chunked + "3;a=\"b;c\"\r\nabc\r\n0\r\n\r\n" + ok, chunked + "3\r\nabc\r\n0\r\n\r\n" + ok},
		{
			chunked + "3 \t; a = b\r\nabc\r\n0 ;c\r\nT: 1\r\n\r\n\r\n" + ok,
			chunked + "3\r\nabc\r\n0\r\nT: 1\r\n\r\n" + ok,
		},
		{chunked + "0A\r\n0123456789\r\n00;x\r\n\r\n", chunked + "a\r\n0123456789\r\n0\r\n\r\n"},
	} {
		want, _, _ := serve([][]byte{[]byte(c.strict)})
		for _, size := range []int{1, 2, 3, 7, 4096} {
			got, _, _ := serve(slices.Collect(slices.Chunk([]byte(c.loose), size)))
			if !slices.Equal(got, want) || len(got) == 0 || strings.HasPrefix(got[0], "refused") {
				t.Errorf("in pieces of %d\n%q\nis read as\n%q, want\n%q", size, c.loose, got, want)
			}
		}
	}
}

// Requests that end just when their client begins to be watched.
func TestWatchingEndsWithTheRequest(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		here, there := net.Pipe()
		go new(http1.State).Serve(client{there}, http1.Options{
			Stopping: func() bool { return false },
			Handle: func(r *message.Request, w message.Writer) {
				time.Sleep(http1.WatchAfter)
				if r.Context.Err() != nil {
					t.Error("the request was canceled, although its client is there")
				}
				_ = w.Begin(http.StatusOK, nil, 0)
				_ = w.End(nil)
			},
		})
		r := bufio.NewReader(here)
		for i := range 2000 {
			if _, err := io.WriteString(here, ok); err != nil {
				t.Fatalf("request %d: %v", i, err)
			}
			if res, err := http.ReadResponse(r, nil); err != nil || res.StatusCode != http.StatusOK {
				t.Fatalf("request %d: %v, %v; want 200", i, res, err)
			}
		}
		_ = here.Close()
	})
}

// client is a connection as the edge has it.
type client struct{ net.Conn }

func (client) SetIdle(bool) {}
func (client) Linger()      {}

// FuzzServe compares with net/http: both must read the same requests, and the pieces in which the bytes come must not
// matter.
func FuzzServe(f *testing.F) {
	inside := "GET /inside HTTP/1.1\r\nHost: x\r\n\r\n"
	for _, s := range []string{
		ok + ok,
		"POST /a HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\n\r\nabc" + ok,
		chunked + "3;a\r\nabc\r\n0\r\nT: 1\r\n\r\n" + ok,
		chunked + "3 ; a = \"\\\";b\" ;c\r\nabc\r\n0\t;d\r\nT: 1\r\n\r\n\r\n" + ok,
		chunked + "3 \r\nabc\r\n0\r\n\r\n", chunked + "23;a=\"\r\n" + inside + "\r\n0\r\n\r\n",
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
		whole, responses, isHTTP2 := serve([][]byte{slices.Clone(in)})
		pieces, inPieces, again := serve(slices.Collect(slices.Chunk(slices.Clone(in), int(max(size, 1)))))
		if !slices.Equal(whole, pieces) || isHTTP2 != again {
			t.Fatalf("in one piece\n%q, HTTP/2 %v\nin pieces of %d\n%q, HTTP/2 %v", whole, isHTTP2, size, pieces, again)
		}
		if a, b := statuses(t, responses), statuses(t, inPieces); !slices.Equal(a, b) {
			t.Fatalf("in one piece the client gets %v, in pieces of %d %v", a, size, b)
		}
		compare(t, in, whole)
	})
}

// statuses are those of the responses that a client gets.
func statuses(t *testing.T, text string) (all []int) {
	r := bufio.NewReader(strings.NewReader(text))
	for {
		res, err := http.ReadResponse(r, nil)
		if errors.Is(err, io.ErrUnexpectedEOF) {
			return all
		}
		if err != nil {
			t.Fatalf("the client gets %q: %v", text, err)
		}
		all = append(all, res.StatusCode)
	}
}

// compare reads the same bytes with net/http, which must find the same requests.
func compare(t *testing.T, in []byte, requests []string) {
	r := bufio.NewReaderSize(bytes.NewReader(in), 64<<10)
	for i, want := range requests {
		if strings.HasPrefix(want, "refused: ") || strings.HasPrefix(want, "cut: ") {
			return // net/http may take it
		}
		for skip, _ := r.Peek(2); string(skip) == "\r\n"; skip, _ = r.Peek(2) { // RFC 9112, 2.2
			_, _ = r.Discard(2)
		}
		req, err := http.ReadRequest(r)
		if err != nil {
			return // net/http refuses more, and then reads no further request
		}
		body, err := io.ReadAll(req.Body)
		if err != nil {
			return // net/http refuses white space beside chunk extensions
		}
		var h, trailer message.Header
		delete(req.Header, "Cache-Control") // net/http adds it for Pragma
		h.FromHTTP(req.Header)
		for name := range req.Trailer { // those that were announced and did not come have no values
			if req.Trailer[name] != nil {
				for _, v := range req.Trailer[name] {
					trailer.Add(name, v)
				}
			}
		}
		if got := describe(req.Method, req.RequestURI, req.Host, h, string(body), lines(trailer)); got != withoutSome(want) {
			t.Fatalf("request %d is\n%s\nof net/http it is\n%s", i, want, got)
		}
	}
}

// withoutSome leaves out the lines that net/http takes out of a header or adds.
func withoutSome(text string) string {
	var b strings.Builder
	head, body, _ := strings.Cut(text, "\n\"")
	for line := range strings.SplitAfterSeq(head, "\n") {
		if !strings.HasPrefix(line, "Trailer: ") && !strings.HasPrefix(line, "Cache-Control: ") {
			b.WriteString(line)
		}
	}
	return b.String() + "\n\"" + body
}
