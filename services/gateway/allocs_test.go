//go:build !race

package gateway_test

import (
	"bytes"
	"net"
	"path/filepath"
	"testing"

	"bijou.dev/services/gateway"
)

// The edge may need so many allocations for a small request, everything included: client and origin of this test need
// none. A request that is recorded has two spans.
func TestAllocationsOfARequest(t *testing.T) {
	for _, tt := range []struct {
		name    string
		sampled float64
		most    float64
	}{{"not recorded", 0, 15}, {"recorded", 1, 19}} {
		t.Run(tt.name, func(t *testing.T) {
			get := plainClient(t, edge(t, plainOrigin(t), tt.sampled, nil))
			if n := testing.AllocsPerRun(2000, get); n > tt.most {
				t.Errorf("a small request takes %v allocations, want at most %v", n, tt.most)
			} else {
				t.Logf("a small request takes %v allocations", n)
			}
		})
	}
}

// plainOrigin answers each request with the same bytes.
func plainOrigin(t testing.TB) (addr string) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	answer := []byte("HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 12\r\n" +
		"Date: Mon, 30 Nov 2026 00:00:00 GMT\r\nServer: plain\r\n\r\nhello, world")
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				buf := make([]byte, 8<<10)
				for n := 0; ; {
					m, err := c.Read(buf[n:])
					if err != nil {
						return
					}
					if n += m; bytes.HasSuffix(buf[:n], []byte("\r\n\r\n")) {
						n = 0
						if _, err := c.Write(answer); err != nil {
							return
						}
					}
				}
			}()
		}
	}()
	return l.Addr().String()
}

// plainClient returns a function that sends a request as a browser does and reads the response.
func plainClient(t testing.TB, addr string) func() {
	t.Helper()
	c, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	request := []byte("GET /films/42?a=b HTTP/1.1\r\nHost: cinema.example\r\nUser-Agent: plain/1.0\r\n" +
		"Accept: text/html,*/*\r\nAccept-Language: en\r\nAccept-Encoding: gzip\r\nCookie: session=1234567890\r\n\r\n")
	buf, end := make([]byte, 8<<10), []byte("hello, world")
	return func() {
		if _, err := c.Write(request); err != nil {
			t.Fatal(err)
		}
		for n := 0; !bytes.HasSuffix(buf[:n], end); {
			m, err := c.Read(buf[n:])
			if err != nil {
				t.Fatal(err)
			}
			n += m
		}
	}
}

func BenchmarkPlain(b *testing.B) {
	for name, sampled := range map[string]float64{"unsampled": 0, "sampled": 1} {
		b.Run(name, func(b *testing.B) {
			get := plainClient(b, edge(b, plainOrigin(b), sampled, nil))
			b.ReportAllocs()
			for b.Loop() {
				get()
			}
		})
	}
}

// A line of text takes no memory of its own, and a log that is off takes nothing.
func TestAllocationsOfTheAccessLog(t *testing.T) {
	file := filepath.Join(t.TempDir(), "access.log")
	var off float64
	for _, c := range []struct{ mode, form string }{
		{"off", `{}`},
		{"off", `{"template": "combined"}`},
		{"errors", `{"template": "combined"}`},
		{"all", `{"template": "combined"}`},
		{"all", `{"template": "combined", "share": 0.5}`},
	} {
		w := worldWith(t, gateway.EdgeOptions{Options: gateway.Options{AccessLog: file}},
			`[{"name":"a","respond":{"body":"ok"}}]`, "gateway.accessLog", c.mode, "gateway.accessLog.form", c.form)
		n := testing.AllocsPerRun(200, gateway.Handler(w.edge, "/"))
		if off == 0 {
			off = n
		}
		if n != off {
			t.Errorf("%s, %s: %v allocations for a request, want %v as without a log", c.mode, c.form, n, off)
		}
	}
}

// A route without a mirror pays nothing for that of another.
func TestARouteWithoutAMirrorPaysNothing(t *testing.T) {
	var plain float64
	for _, extra := range []string{"", `,{"name":"b","match":{"prefix":"/b"},"to":[{"service":"b"}],"mirror":{"to":{"service":"c"}}}`} {
		w := newWorld(t, `[{"name":"a","match":{"prefix":"/a"},"to":[{"service":"a"}]}`+extra+`]`, "gateway.accessLog", "off")
		n := testing.AllocsPerRun(100, gateway.Handler(w.edge, "/a"))
		if plain == 0 {
			plain = n
		}
		if n > plain {
			t.Errorf("a request takes %v allocations, want %v as without a mirror", n, plain)
		}
	}
}
