package http1_test

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"regexp"
	"slices"
	"strings"
	"testing"

	"bijou.dev/services/gateway/internal/http1"
	"bijou.dev/services/gateway/internal/message"
)

// ask returns what the client makes of an origin that sends pieces: the response as text, and the error.
func ask(method string, pieces [][]byte) (string, error) {
	c := &http1.Client{Dial: func(context.Context, string, string) (net.Conn, error) {
		return &received{pieces: pieces}, nil
	}}
	defer c.Close()
	res, err := c.RoundTrip(context.Background(), "origin:80", &http1.Call{
		Method: method, Path: "/", Host: "origin", Cancel: &http1.Canceler{}, Interim: func(int, message.Header) {},
	})
	if err != nil {
		return "", err
	}
	var body []byte
	if res.Body != nil {
		switch body, err = io.ReadAll(res.Body); {
		case errors.Is(err, io.ErrUnexpectedEOF):
			return describeResponse(res.Status, res.Header, "cut", nil), nil
		case err != nil:
			return "", err
		}
	}
	return describeResponse(res.Status, res.Header, string(body), res.Trailer), nil
}

func describeResponse(status int, h message.Header, body string, trailer message.Header) string {
	h = slices.DeleteFunc(slices.Clone(h), func(f message.Field) bool {
		// net/http takes Trailer out of the header, and keeps a name with white space behind it
		return f.Name == "Trailer" || f.Name == "Content-Length" || strings.TrimRight(f.Name, " \t") != f.Name
	})
	return http.StatusText(status) + "\n" + lines(h) + "\n" + body + "\n" + lines(trailer)
}

// FuzzAnswer compares with net/http: a response that the client takes must be the one that net/http reads, and the
// pieces in which the bytes come must not matter.
func FuzzAnswer(f *testing.F) {
	for _, s := range []string{
		"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok", "HTTP/1.0 200 OK\r\n\r\nok", "HTTP/1.1 200\r\n\r\nok",
		"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: T\r\n\r\n2;a=b\r\nok\r\n0\r\nT: 1\r\n\r\n",
		"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: a\r\n\r\nHTTP/1.1 204 No Content\r\n\r\n",
		"HTTP/1.1 200 OK\nA: b\n\tc\nContent-Length: 2\n\nok", "HTTP/1.1 200 OK\r\nA : b\r\nB: c\r\n\r\n",
		"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 2\r\n\r\nok",
		"HTTP/1.1 200 OK\r\nContent-Length: 9\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
		"HTTP/1.0 200 OK\r\nContent-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\nok",
		"HTTP/1.1 304 Not Modified\r\nContent-Length: 2\r\n\r\n", "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nok",
		"HTTP/1.1 200 OK\r\nContent-Length: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
		"HTTP/1.1 200 OK\r\nA\t: b\r\n\r\nok",
		"HTTP/1.1 200 OK\nA: b\n \n c\n\nok", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2 ;a\r\nok\r\n0;\r\n\r\n",
	} {
		f.Add([]byte(s), uint8(3), false)
	}
	f.Fuzz(func(t *testing.T, in []byte, size uint8, head bool) {
		method := http.MethodGet
		if head {
			method = http.MethodHead
		}
		got, err := ask(method, [][]byte{slices.Clone(in)})
		again, againErr := ask(method, slices.Collect(slices.Chunk(slices.Clone(in), int(max(size, 1)))))
		if got != again || (err == nil) != (againErr == nil) {
			t.Fatalf("in one piece\n%s, %v\nin pieces of %d\n%s, %v", got, err, size, again, againErr)
		}
		if err != nil {
			return // net/http may take it
		}
		want, err := byNetHTTP(method, in)
		if errors.Is(err, errRefusedBody) {
			return // net/http refuses white space before chunk extensions
		}
		if folded.Match(in) { // net/http writes a space also for an empty folded line
			got, want = spaces.ReplaceAllString(got, " "), spaces.ReplaceAllString(want, " ")
		}
		if err != nil || got != want {
			t.Fatalf("the client takes\n%s\nof %q, net/http takes, %v,\n%s", got, in, err, want)
		}
	})
}

var (
	errRefusedBody = errors.New("net/http refuses the body")
	folded         = regexp.MustCompile(`\n[ \t]+\r?\n`) // an empty folded line
	spaces         = regexp.MustCompile(` *\n| +`)
)

func byNetHTTP(method string, in []byte) (string, error) {
	r := bufio.NewReaderSize(bytes.NewReader(in), 64<<10)
	for {
		res, err := http.ReadResponse(r, &http.Request{Method: method})
		if err != nil {
			return "", err
		}
		if res.StatusCode < 200 {
			continue
		}
		var h, trailer message.Header
		h.FromHTTP(res.Header)
		body, err := io.ReadAll(res.Body)
		switch {
		case errors.Is(err, io.ErrUnexpectedEOF):
			return describeResponse(res.StatusCode, h, "cut", nil), nil
		case err != nil:
			return "", errRefusedBody
		}
		trailer.FromHTTP(res.Trailer)
		return describeResponse(res.StatusCode, h, string(body), trailer), nil
	}
}

// Some servers write the size of a chunk with spaces behind it, so that it has a fixed width.
func TestSpacesBehindTheSizeOfAChunk(t *testing.T) {
	in := "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2  \r\nok\r\n0 \t\r\n\r\n"
	want, err := byNetHTTP(http.MethodGet, []byte(in))
	if err != nil {
		t.Fatal(err)
	}
	if got, err := ask(http.MethodGet, [][]byte{[]byte(in)}); err != nil || got != want {
		t.Errorf("the client takes, %v,\n%s\nwant\n%s", err, got, want)
	}
}

// An answer of an origin cannot make the client read without an end.
func TestAnswersAreBounded(t *testing.T) {
	for name, in := range map[string]string{
		"a long line":   "HTTP/1.1 200 OK\r\nA: " + strings.Repeat("a", 70<<10),
		"many lines":    "HTTP/1.1 200 OK\r\n" + strings.Repeat("A: b\r\n", 20<<10),
		"many interims": strings.Repeat("HTTP/1.1 103 Early Hints\r\n\r\n", 20) + "HTTP/1.1 200 OK\r\n\r\n",
		"large interims": strings.Repeat("HTTP/1.1 103 Early Hints\r\nA: "+strings.Repeat("a", 10<<10)+"\r\n\r\n", 8) +
			"HTTP/1.1 200 OK\r\n\r\n",
	} {
		if got, err := ask(http.MethodGet, slices.Collect(slices.Chunk([]byte(in), 4096))); err == nil {
			t.Errorf("%s: the client takes\n%.100s\nwant an error", name, got)
		}
	}
}
