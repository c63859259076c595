package gateway_test

import (
	"bufio"
	"io"
	"net/http"
	"strings"
	"testing"
)

// A body that was not read to its end is not read as the next request, when an instance breaks off during an upload.
func TestTheRestOfAnUploadIsNotARequest(t *testing.T) {
	for _, endpoint := range []string{"http", "grpc"} {
		for name, body := range map[string]string{
			"length": "Content-Length: 100000\r\n\r\n" + strings.Repeat("x", 40000),
			"chunks": "Transfer-Encoding: chunked\r\n\r\n9c40\r\n" + strings.Repeat("x", 40000) + "\r\n1000\r\n",
		} {
			t.Run(endpoint+" "+name, func(t *testing.T) {
				w := newWorld(t, `[{"name":"web","to":[{"service":"web","endpoint":"`+endpoint+`"}]}]`)
				w.origin("web", "web-1", "", http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
					if r.URL.Path == "/smuggled" {
						t.Error("the origin got a request that is a part of the body of another one")
					}
					_, _ = r.Body.Read(make([]byte, 1))
					if c, _, err := http.NewResponseController(rw).Hijack(); err == nil {
						c.Close()
						return
					}
					panic(http.ErrAbortHandler) // HTTP/2 resets the stream
				}))
				c := w.dial()
				_, _ = io.WriteString(c, postA+body)
				r := bufio.NewReader(c)
				res, err := http.ReadResponse(r, nil)
				if err != nil || res.StatusCode != http.StatusBadGateway {
					t.Fatalf("the upload got %v, %v, want 502", res, err)
				}
				_, _ = io.Copy(io.Discard, res.Body)
				go func() { _, _ = io.WriteString(c, inside) }() // the edge may close first
				if rest, err := io.ReadAll(r); err != nil || len(rest) > 0 || !res.Close {
					t.Errorf("then came %q, %v, want Connection: close and the end; the response's header is %v", rest, err,
						res.Header)
				}
			})
		}
	}
}

// A client of HTTP/1 gets the answer of an instance that speaks HTTP/2 and has not read the whole body.
func TestAnAnswerBeforeTheEndOfAnUploadIsNotCut(t *testing.T) {
	for _, endpoint := range []string{"http", "grpc"} {
		w := newWorld(t, `[{"name":"web","to":[{"service":"web","endpoint":"`+endpoint+`"}]}]`)
		w.origin("web", "web-1", "", http.HandlerFunc(func(rw http.ResponseWriter, _ *http.Request) {
			_ = http.NewResponseController(rw).EnableFullDuplex() // HTTP/2 always is
			rw.WriteHeader(http.StatusForbidden)
			_, _ = io.WriteString(rw, strings.Repeat("y", 100000))
		}))
		for range 10 { // the instance may end the stream before or after the edge has its whole answer
			c := w.dial()
			_, _ = io.WriteString(c, "POST /a HTTP/1.1\r\nHost: x\r\nContent-Length: 100000\r\n\r\n"+strings.Repeat("x", 40000))
			res, err := http.ReadResponse(bufio.NewReader(c), nil)
			if err != nil {
				t.Fatalf("endpoint %s: %v", endpoint, err)
			}
			if body, err := io.ReadAll(res.Body); err != nil || len(body) != 100000 || res.StatusCode != 403 || !res.Close {
				t.Errorf("endpoint %s: got %d, %d bytes, %v, closing %v; want 403, 100000 bytes, Connection: close", endpoint,
					res.StatusCode, len(body), err, res.Close)
			}
			c.Close()
		}
	}
}
