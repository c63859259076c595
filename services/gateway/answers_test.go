package gateway_test

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"bijou.dev/platform/circuit"
	"bijou.dev/services/gateway"
)

// A stranger who requests one failing URL often must not close the route for everybody.
func TestErrorsOfOneURLDoNotOpenTheCircuit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, toWeb, "circuit.default.minCalls", "10")
		w.origin("web", "web-1", "", http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
			if r.URL.Path == "/fails" {
				rw.WriteHeader(http.StatusInternalServerError)
			}
		}))
		for range 60 {
			if res := w.get("http://x/fails"); res.StatusCode != http.StatusInternalServerError {
				t.Fatalf("the failing URL: status %d %s, want the origin's 500", res.StatusCode, res.body)
			}
			time.Sleep(100 * time.Millisecond)
		}
		if res := w.get("http://x/"); res.StatusCode != http.StatusOK {
			t.Errorf("another URL: status %d %s, want 200", res.StatusCode, res.body)
		}
	})
}

func TestARouteCanCountErrors(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, `[{"name":"web","to":[{"service":"web"}],"circuit":{"countErrors":true}}]`,
			"circuit.default.minCalls", "10")
		w.origin("web", "web-1", "", respondsStatus(http.StatusInternalServerError))
		for range 10 {
			w.get("http://x/")
		}
		res := w.get("http://x/")
		if res.StatusCode != http.StatusServiceUnavailable || res.Header.Get("X-Bijou-Fault") != "circuit" ||
			!strings.Contains(res.body, "circuit.countErrors") {
			t.Errorf("after 10 answers of 500: status %d %s, want 503 of the open circuit that names circuit.countErrors",
				res.StatusCode, res.body)
		}
	})
}

// The circuit still sees what says that nobody is there.
func TestAnUnreachableServiceOpensTheCircuit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, toWeb, "circuit.default.minCalls", "10", "retry.maxAttempts", "1",
			"route.ejection.consecutiveFailures", "0")
		w.register("web", "web-1", "", "web-1:80") // nothing listens there
		var res answer
		for range 11 {
			res = w.get("http://x/")
		}
		if res.Header.Get("X-Bijou-Fault") != "circuit" {
			t.Errorf("after 10 failed connections: status %d %s, want a refusal of the circuit", res.StatusCode, res.body)
		}
	})
}

// The load of the link to the service still shows answers of 500 as errors.
func TestErrorsShowInTheCircuit(t *testing.T) {
	circuits := circuit.New(circuit.Options{})
	w := worldWith(t, gateway.EdgeOptions{Circuits: circuits}, toWeb)
	w.origin("web", "web-1", "", respondsStatus(http.StatusInternalServerError))
	w.get("http://x/")
	for _, s := range circuits.Snapshots() {
		if s.GetGroup() == "web" && s.GetRolling()["ISOLATED_FAILURE"] == 1 && s.GetErrorPercentage() == 0 {
			return
		}
	}
	t.Errorf("the circuits are %v, want one of web with one ISOLATED_FAILURE and no error for the breaker",
		circuits.Snapshots())
}

// HTML that a stranger has written must not become HTML because the edge guesses so.
func TestNoContentTypeIsInvented(t *testing.T) {
	w := newWorld(t, toWeb)
	w.origin("web", "web-1", "", http.HandlerFunc(func(rw http.ResponseWriter, _ *http.Request) {
		rw.Header()["Content-Type"] = nil
		rw.Header().Set("X-Content-Type-Options", "nosniff")
		_, _ = io.WriteString(rw, "<html><script>alert(1)</script>")
	}))
	for _, h2 := range []bool{false, true} {
		res := w.do(w.client(h2), http.MethodGet, "http://x/", nil)
		if got, ok := res.Header["Content-Type"]; ok || !strings.HasPrefix(res.body, "<html>") {
			t.Errorf("http/2 %v: Content-Type %q with body %q, want no Content-Type", h2, got, res.body)
		}
	}
}

// An answer of known length is passed on as it comes, like one of unknown length.
func TestAPieceOfAnAnswerIsSentWhenItComes(t *testing.T) {
	for _, h2 := range []bool{false, true} {
		for _, method := range []string{http.MethodGet, http.MethodPost} { // by both ways to the origin
			for _, length := range []string{"10", ""} {
				t.Run(fmt.Sprintf("http2=%v %s length=%q", h2, method, length), func(t *testing.T) {
					synctest.Test(t, func(t *testing.T) { passesPieces(t, h2, method, length) })
				})
			}
		}
	}
}

func passesPieces(t *testing.T, h2 bool, method, length string) {
	w := newWorld(t, toWeb)
	w.origin("web", "web-1", "", http.HandlerFunc(func(rw http.ResponseWriter, _ *http.Request) {
		if length != "" {
			rw.Header().Set("Content-Length", length)
		}
		out := http.NewResponseController(rw)
		_ = out.Flush()
		for i := range 10 {
			time.Sleep(time.Second)
			_, _ = fmt.Fprint(rw, i)
			_ = out.Flush()
		}
	}))
	req := mustRequest(t)
	req.Method = method
	begin := time.Now()
	res, err := w.client(h2).Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	if took := time.Since(begin); took > 2*time.Millisecond {
		t.Errorf("the header came after %v, want it at once", took)
	}
	var b [1]byte
	for i := range 10 {
		if _, err := io.ReadFull(res.Body, b[:]); err != nil {
			t.Fatalf("piece %d: %v", i, err)
		}
		if took, want := time.Since(begin), time.Duration(i+1)*time.Second; took < want || took > want+2*time.Millisecond {
			t.Errorf("piece %d came after %v, want %v", i, took, want)
		}
	}
}

// An origin that writes single bytes does not make the edge send single bytes.
func TestTinyPiecesShareAWrite(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, toWeb)
		const pieces = 500
		w.origin("web", "web-1", "", http.HandlerFunc(func(rw http.ResponseWriter, _ *http.Request) {
			for range pieces {
				_, _ = io.WriteString(rw, "x")
				_ = http.NewResponseController(rw).Flush()
			}
		}))
		l := &countingListener{accepted: make(chan net.Conn, 1)}
		go func() { _ = w.edge.Serve(l) }()
		here, there := net.Pipe()
		counted := &countingConn{Conn: there}
		l.accepted <- counted
		defer here.Close()
		go func() { _, _ = io.WriteString(here, "GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n") }()
		res, err := http.ReadResponse(bufio.NewReader(here), nil)
		if err != nil {
			t.Fatal(err)
		}
		defer res.Body.Close()
		body, err := io.ReadAll(res.Body)
		if err != nil || len(body) != pieces {
			t.Fatalf("got %d bytes, %v, want %d", len(body), err, pieces)
		}
		if n := counted.writes.Load(); n > 20 {
			t.Errorf("%d pieces that came at the same time took %d writes to the client, want a few", pieces, n)
		}
		_ = l.Close()
	})
}

// An answer that moves is not cut however long it takes: lines of JSON for minutes.
func TestAnAnswerThatMovesIsNotCut(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, toWeb, "gateway.timeout.total", "5s")
		w.origin("web", "web-1", "", http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
			rw.Header().Set("Content-Type", "application/x-ndjson")
			for range 100 {
				_, _ = io.WriteString(rw, "{}\n")
				_ = http.NewResponseController(rw).Flush()
				time.Sleep(4 * time.Second)
			}
			if r.URL.Path == "/stops" {
				<-r.Context().Done()
			}
		}))
		if res := w.get("http://x/"); len(res.body) != 300 {
			t.Errorf("got %d bytes of an answer that takes 400 s, want 300", len(res.body))
		}
		begin := time.Now()
		req := mustRequest(t)
		req.URL.Path = "/stops"
		res, err := w.client(false).Do(req)
		if err != nil {
			t.Fatal(err)
		}
		defer res.Body.Close()
		body, err := io.ReadAll(res.Body)
		if took := time.Since(begin); err == nil || len(body) != 300 || took != 401*time.Second {
			t.Errorf("an answer that stops for ever: %d bytes, %v, after %v; want 300, an error, 5 s after the last piece",
				len(body), err, took)
		}
	})
}

// A slow upload is bounded by its rate, not by a time.
func TestASlowUploadIsNotCut(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, toWeb, "gateway.timeout.total", "5s", "gateway.timeout.header", "3s")
		w.origin("web", "web-1", "", http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
			_ = http.NewResponseController(rw).EnableFullDuplex()
			if r.URL.Path == "/early" {
				rw.WriteHeader(http.StatusOK)
				_ = http.NewResponseController(rw).Flush()
			}
			n, _ := io.Copy(io.Discard, r.Body)
			if r.URL.Path == "/hangs" {
				<-r.Context().Done()
				return
			}
			_, _ = fmt.Fprint(rw, n)
		}))
		for path, want := range map[string]int{"/": 200, "/early": 200, "/hangs": 504} {
			pr, pw := io.Pipe()
			var client sync.WaitGroup
			client.Go(func() {
				for range 60 {
					_, _ = pw.Write(make([]byte, 2000))
					time.Sleep(time.Second)
				}
				_ = pw.Close()
			})
			begin := time.Now()
			res := w.do(w.client(false), http.MethodPost, "http://x"+path, pr)
			took := time.Since(begin)
			if res.StatusCode != want || want == 200 && res.body != "120000" {
				t.Errorf("%s: status %d %s after %v, want %d after a minute", path, res.StatusCode, res.body, took, want)
			}
			if path == "/hangs" && (took < time.Minute || took > 70*time.Second) {
				t.Errorf("an origin that does not answer an upload: status %d after %v, want it soon after the minute of upload",
					res.StatusCode, took)
			}
			client.Wait()
		}
	})
}

// countingListener gives out one connection.
type countingListener struct {
	accepted chan net.Conn
	once     sync.Once
}

func (l *countingListener) Accept() (net.Conn, error) {
	if c, ok := <-l.accepted; ok {
		return c, nil
	}
	return nil, net.ErrClosed
}

func (l *countingListener) Close() error {
	l.once.Do(func() { close(l.accepted) })
	return nil
}

func (l *countingListener) Addr() net.Addr { return &net.TCPAddr{} }

type countingConn struct {
	net.Conn
	writes atomic.Int64
}

func (c *countingConn) Write(p []byte) (int, error) {
	c.writes.Add(1)
	return c.Conn.Write(p)
}
