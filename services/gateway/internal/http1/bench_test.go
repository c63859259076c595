package http1_test

import (
	"bytes"
	"io"
	"net"
	"net/http"
	"syscall"
	"testing"

	"bijou.dev/services/gateway/internal/http1"
	"bijou.dev/services/gateway/internal/message"
)

// BenchmarkServe answers requests with ten header fields over loopback, one after the other on one connection. CPU-us
// is the CPU time of the process for each, client included; the first line is a server that parses nothing.
func BenchmarkServe(b *testing.B) {
	b.Run("floor", func(b *testing.B) {
		benchmark(b, func(c net.Conn) {
			buf, answer := make([]byte, 4<<10), []byte("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello")
			for n := 0; ; {
				m, err := c.Read(buf[n:])
				if err != nil {
					return
				}
				if n += m; bytes.HasSuffix(buf[:n], []byte("\r\n\r\n")) {
					n = 0
					_, _ = c.Write(answer)
				}
			}
		})
	})
	b.Run("this package", func(b *testing.B) {
		benchmark(b, func(c net.Conn) {
			new(http1.State).Serve(kernelClient{client{c}}, http1.Options{
				Stopping: func() bool { return false },
				Handle: func(_ *message.Request, w message.Writer) {
					_ = w.Begin(http.StatusOK, message.Header{{Name: "Content-Type", Value: "text/plain"}}, 5)
					_, _ = w.Write([]byte("hello"))
					_ = w.End(nil)
				},
			})
		})
	})
	b.Run("net-http", func(b *testing.B) {
		conns := make(chan net.Conn)
		s := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			w.Header()["Content-Type"] = []string{"text/plain"}
			_, _ = io.WriteString(w, "hello")
		})}
		go func() { _ = s.Serve(listener(conns)) }()
		defer s.Close()
		benchmark(b, func(c net.Conn) { conns <- c })
	})
}

// kernelClient is a connection of the kernel, as the edge has it.
type kernelClient struct{ client }

func (c kernelClient) RawConn() syscall.RawConn {
	raw, err := c.Conn.(syscall.Conn).SyscallConn()
	if err != nil {
		return nil
	}
	return raw
}

// listener gives out connections that were accepted by somebody else.
type listener chan net.Conn

func (l listener) Accept() (net.Conn, error) {
	if c, ok := <-l; ok {
		return c, nil
	}
	return nil, net.ErrClosed
}

func (l listener) Close() error {
	close(l)
	return nil
}

func (l listener) Addr() net.Addr { return &net.TCPAddr{} }

func benchmark(b *testing.B, serve func(net.Conn)) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		b.Fatal(err)
	}
	defer l.Close()
	go func() {
		if c, err := l.Accept(); err == nil {
			serve(c)
		}
	}()
	c, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		b.Fatal(err)
	}
	defer c.Close()
	request := []byte("GET /films/42?a=b HTTP/1.1\r\nHost: cinema.example\r\nUser-Agent: plain/1.0\r\n" +
		"Accept: text/html\r\nAccept-Language: en\r\nAccept-Encoding: gzip\r\n" +
		"Cookie: session=1\r\nReferer: http://cinema.example/\r\n" +
		"Cache-Control: no-cache\r\nDnt: 1\r\nX-Request-Id: 1\r\n\r\n")
	buf := make([]byte, 4<<10)
	b.ReportAllocs()
	before := cpu(b)
	for b.Loop() {
		if _, err := c.Write(request); err != nil {
			b.Fatal(err)
		}
		for n := 0; !bytes.HasSuffix(buf[:n], []byte("hello")); {
			m, err := c.Read(buf[n:])
			if err != nil {
				b.Fatal(err)
			}
			n += m
		}
	}
	b.ReportMetric((cpu(b)-before)/float64(b.N), "CPU-us/op")
}

// cpu is the CPU time of the process in microseconds.
func cpu(b *testing.B) float64 {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		b.Fatal(err)
	}
	return float64(u.Utime.Nano()+u.Stime.Nano()) / 1e3
}
