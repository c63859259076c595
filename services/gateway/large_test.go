package gateway_test

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"strconv"
	"testing"
	"time"
)

// Bodies of all sizes around those of the buffers pass unchanged over real TCP, where the edge reads and writes several
// pieces at once: with a length, in chunks, and until the origin closes.
func TestBodiesOfAllSizesPassUnchanged(t *testing.T) {
	body := make([]byte, 400<<10)
	for i := range body {
		body[i] = byte(rand.Uint32())
	}
	origin := listen(t, http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		got, err := io.ReadAll(r.Body)
		if err != nil || !bytes.Equal(got, body[:len(got)]) {
			http.Error(rw, "the request's body was changed", http.StatusBadRequest)
			return
		}
		size, _ := strconv.Atoi(r.Header.Get("X-Size"))
		switch r.URL.Path {
		case "/length":
			rw.Header().Set("Content-Length", strconv.Itoa(size))
		case "/chunks":
			_ = http.NewResponseController(rw).Flush()
		case "/close":
			conn, _, err := http.NewResponseController(rw).Hijack()
			if err != nil {
				return
			}
			defer conn.Close()
			_, _ = io.WriteString(conn, "HTTP/1.1 200 OK\r\n\r\n")
			_, _ = conn.Write(body[:size])
			return
		}
		_, _ = rw.Write(body[:size])
	}))
	addr := edge(t, origin, 0, nil)
	client := &http.Client{Transport: &http.Transport{DisableCompression: true}}
	defer client.CloseIdleConnections()
	sizes := []int{
		0, 1, 3500, 3800, 4000, 4090, 4096, 4100, 8192, 60_000, 65_520, 65_536, 70_000, 102_400, 131_072, 400 << 10,
	}
	for _, path := range []string{"/length", "/chunks", "/close"} {
		for _, size := range sizes {
			for _, upload := range []int{0, 3000, 70_000} {
				req, err := http.NewRequestWithContext(t.Context(), http.MethodPut, "http://"+addr+path,
					bytes.NewReader(body[:upload]))
				if err != nil {
					t.Fatal(err)
				}
				req.Header.Set("X-Size", strconv.Itoa(size))
				res, err := client.Do(req)
				if err != nil {
					t.Fatalf("%s: %d bytes after %d: %v", path, size, upload, err)
				}
				got, err := io.ReadAll(res.Body)
				res.Body.Close()
				if err != nil || res.StatusCode != http.StatusOK || !bytes.Equal(got, body[:size]) {
					t.Errorf("%s: %d bytes after %d: status %d, %d bytes, %v; want what was sent", path, size, upload,
						res.StatusCode, len(got), err)
				}
			}
		}
	}
}

// A large piece of a response is sent when it has come, also if the next one comes only after the client has read it.
func TestLargePiecesAreNotHeldBack(t *testing.T) {
	const size, pieces = 50_000, 4
	for name, head := range map[string]string{
		"length": fmt.Sprintf("HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n", size*pieces),
		"chunks": "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n",
		"close":  "HTTP/1.1 200 OK\r\n\r\n",
	} {
		t.Run(name, func(t *testing.T) {
			l, err := net.Listen("tcp", "127.0.0.1:0")
			if err != nil {
				t.Fatal(err)
			}
			defer l.Close()
			next := make(chan struct{})
			defer close(next)
			go func() {
				c, err := l.Accept()
				if err != nil {
					return
				}
				defer c.Close()
				if _, err := http.ReadRequest(bufio.NewReader(c)); err != nil {
					return
				}
				_, _ = io.WriteString(c, head)
				for range pieces {
					if name == "chunks" {
						_, _ = fmt.Fprintf(c, "%x\r\n", size)
					}
					_, _ = c.Write(make([]byte, size))
					if name == "chunks" {
						_, _ = io.WriteString(c, "\r\n")
					}
					if _, ok := <-next; !ok {
						return
					}
				}
				if name == "chunks" {
					_, _ = io.WriteString(c, "0\r\n\r\n")
				}
			}()
			c, err := net.Dial("tcp", edge(t, l.Addr().String(), 0, nil))
			if err != nil {
				t.Fatal(err)
			}
			defer c.Close()
			_ = c.SetDeadline(time.Now().Add(20 * time.Second)) // reading tells of errors
			_, _ = io.WriteString(c, "GET / HTTP/1.1\r\nHost: x\r\n\r\n")
			res, err := http.ReadResponse(bufio.NewReader(c), nil)
			if err != nil {
				t.Fatal(err)
			}
			defer res.Body.Close()
			for n := range pieces {
				if _, err := io.CopyN(io.Discard, res.Body, size); err != nil {
					t.Fatalf("piece %d: %v", n, err)
				}
				next <- struct{}{}
			}
			if n, err := io.Copy(io.Discard, res.Body); n != 0 || err != nil {
				t.Errorf("the end: %d bytes, %v", n, err)
			}
		})
	}
}
