package gateway_test

import (
	"bufio"
	"crypto/tls"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
)

// TestRefusalIsReadToItsEnd sends requests that are refused before the edge has read all of them, over real TCP, where
// closing a socket with unread bytes resets the connection. The client must get the refusal and then the end of the
// stream, not a reset, which can make it lose the refusal.
func TestRefusalIsReadToItsEnd(t *testing.T) {
	w, a, _ := newTLSWorld(t, toWeb, "gateway.maxBody", "100000")
	w.origin("web", "web-1", "", http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/early" {
			_ = http.NewResponseController(rw).EnableFullDuplex() // HTTP/1 supports it
			rw.WriteHeader(http.StatusUnauthorized)
			return
		}
		_, _ = io.Copy(io.Discard, r.Body) // the edge may end it
	}))
	listen := func(serve func(net.Listener) error) string {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		served := make(chan error, 1)
		go func() { served <- serve(l) }()
		t.Cleanup(func() {
			_ = l.Close()
			<-served
		})
		return l.Addr().String()
	}
	dials := map[string]func(addr string) (net.Conn, error){
		listen(w.edge.Serve): func(addr string) (net.Conn, error) { return net.Dial("tcp", addr) },
		listen(w.edge.ServeTLS): func(addr string) (net.Conn, error) {
			return tls.Dial("tcp", addr, &tls.Config{ServerName: "www.example.org", RootCAs: a.pool})
		},
	}

	rest := strings.Repeat("x", 200<<10) // more than the edge has read when it refuses
	for _, tt := range []struct {
		name, request string
		status        int
	}{
		{"head", getA + "A\r\n\r\n" + rest, 400},
		{"long head", getA + "A: " + rest, 431},
		{"chunk size", chunked + "xyz\r\n" + rest, 400},
		{
			"flood of chunk extensions",
			chunked + strings.Repeat("1;"+strings.Repeat("a", 200)+"\r\nx\r\n", 100) + rest, 400,
		},
		{"trailer line", chunked + "0\r\nHost: y\r\n" + rest, 400},
		{"long trailer", chunked + "0\r\n" + strings.Repeat("A: "+strings.Repeat("b", 200)+"\r\n", 60) + rest, 400},
		{"body too large", postA + "Content-Length: 200000\r\n\r\n" + rest, 413},
		{"chunks too large", chunked + "30d40\r\n" + rest, 413},
		{"method", "TRACE /a HTTP/1.1\r\nHost: x\r\nContent-Length: 200000\r\n\r\n" + rest, 405},
		{
			"response before the body",
			"POST /early HTTP/1.1\r\nHost: x\r\nContent-Length: 90000\r\n\r\n" + rest[:80000], 401,
		},
	} {
		for addr, dial := range dials {
			t.Run(tt.name, func(t *testing.T) {
				c, err := dial(addr)
				if err != nil {
					t.Fatal(err)
				}
				defer c.Close()
				go func() { _, _ = io.WriteString(c, tt.request) }() // the edge need not read all of it
				r := bufio.NewReader(c)
				res, err := http.ReadResponse(r, nil)
				if err != nil {
					t.Fatalf("reading the refusal over a %T: %v, want status %d", c, err, tt.status)
				}
				defer res.Body.Close()
				if res.StatusCode != tt.status {
					t.Errorf("over a %T: status %d, want %d", c, res.StatusCode, tt.status)
				}
				if _, err := io.Copy(io.Discard, r); err != nil {
					t.Errorf("after the refusal over a %T: %v, want the end of the stream", c, err)
				}
			})
		}
	}
}
