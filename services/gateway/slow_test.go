package gateway_test

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"bijou.dev/services/gateway"
)

// A call that the origin ends early with a trailer ends at once, although its client still sends and all windows are
// full (golang/go#80085): by HTTP/2 to the edge, with and without gRPC.
func TestEarlyTrailerEndsACallThatStillSends(t *testing.T) {
	for name, contentType := range map[string]string{"grpc": "application/grpc", "other": "application/octet-stream"} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t, toCalls, "gateway.maxBody", "1000000000")
				w.origin("calls", "calls-1", "", http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
					rw.Header().Set("Content-Type", contentType)
					rw.Header().Set("Trailer", "Grpc-Status")
					_, _ = io.WriteString(rw, "first")
					_ = http.NewResponseController(rw).Flush()
					_, _ = io.ReadFull(r.Body, make([]byte, 100))
					rw.Header().Set("Grpc-Status", "10") // and leaves the rest unread
				}))
				begin := time.Now()
				for range 10 {
					body, send := io.Pipe()
					go func() {
						for {
							if _, err := send.Write(make([]byte, 64<<10)); err != nil {
								return
							}
						}
					}()
					req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, "http://x/test.v1.Calls/Chat",
						body)
					if err != nil {
						t.Fatal(err)
					}
					req.Header.Set("Content-Type", contentType)
					res, err := w.client(true).Do(req)
					if err != nil {
						t.Fatal(err)
					}
					got, err := io.ReadAll(res.Body)
					if string(got) != "first" || err != nil || res.Trailer.Get("Grpc-Status") != "10" {
						t.Errorf("got %q, %v, trailer %v", got, err, res.Trailer)
					}
					res.Body.Close()
					body.Close()
				}
				if took := time.Since(begin); took > time.Second {
					t.Errorf("10 calls took %v of fake time, want at most 1 s", took)
				}
				synctest.Wait()
				if n := w.metric("bijou_gateway_requests_in_flight"); n != 0 {
					t.Errorf("%v requests are in progress, want none", n)
				}
			})
		})
	}
}

// A client cannot set the fields of identity, permission, priority or choice of an instance: by HTTP/1 and HTTP/2, in
// any spelling, also if Connection names fields that the edge sets.
func TestFieldsOfThePlatformAreStripped(t *testing.T) {
	w := newWorld(t, toWeb)
	var got http.Header
	w.origin("web", "web-1", "",
		http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { got = r.Header.Clone() }))
	claims := []string{
		"Forwarded", "X-Forwarded-For", "X-Forwarded-Host", "X-Forwarded-Proto", "X-Forwarded-Port",
		"X-Forwarded-Prefix",
		"X-Forwarded-Client-Cert", "X-Real-Ip", "X-Client-Ip", "True-Client-Ip", "Cf-Connecting-Ip",
		"X-Cluster-Client-Ip",
		"X-Original-Forwarded-For", "X-Original-Url", "X-Original-Host", "X-Rewrite-Url", "X-Http-Method-Override",
		"X-Http-Method", "X-Method-Override", "X-Envoy-Original-Path", "X-Envoy-Internal", "X-Bijou-Pin",
		"X-Bijou-Priority",
		"X-Bijou-Criticality", "X-Bijou-Anything", "Baggage", "Grpc-Trace-Bin", "Grpc-Tags-Bin", "B3", "X-B3-Sampled",
		"X-B3-Flags", "Tracestate", "Traceparent",
	}
	for _, h2 := range []bool{false, true} {
		c := w.client(h2)
		for _, name := range claims {
			for _, spelling := range []string{name, strings.ToUpper(name), strings.ToLower(name)} {
				req := mustRequest(t)
				req.Header[spelling] = []string{"criticality=evil", "evil"}
				if !h2 {
					req.Header["Connection"] = []string{"X-Forwarded-For, Baggage, Traceparent, X-Request-Id"}
				}
				res, err := c.Do(req)
				if err != nil || res.StatusCode != 200 {
					t.Fatalf("%s: %v, %v", spelling, res, err)
				}
				res.Body.Close()
				for field, lines := range got {
					if strings.Contains(strings.Join(lines, ","), "evil") {
						t.Errorf("h2 %v, %s: the origin got %s %q", h2, spelling, field, lines)
					}
				}
				for _, field := range []string{
					"X-Forwarded-For", "X-Forwarded-Host", "X-Forwarded-Proto",
					"X-Request-Id",
				} {
					if len(got[field]) != 1 {
						t.Errorf("h2 %v, %s: the origin got %s %q", h2, spelling, field, got[field])
					}
				}
			}
		}
	}
	for _, name := range claims { // as CGI reads it
		if !strings.Contains(name, "-") {
			continue
		}
		if res := w.get("http://x/", strings.ReplaceAll(name, "-", "_"), "evil"); res.StatusCode != 400 {
			t.Errorf("%s with underscores: %d", name, res.StatusCode)
		}
	}
}

// A trace context that is ambiguous or too long begins a new trace, and the origin gets each field once (W3C Trace
// Context, 3.2 and 3.3; the other cases of the parser are in platform/trace).
func TestAmbiguousTraceContextBeginsANewTrace(t *testing.T) {
	w := newWorld(t, toWeb)
	var got http.Header
	w.origin("web", "web-1", "",
		http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { got = r.Header.Clone() }))
	const (
		id     = "463ac35c9f6413ad48485a3953bb6124"
		parent = "00-" + id + "-a2fb4a1d1a96d312-01"
	)
	for name, c := range map[string]struct {
		header []string
		taken  bool
		state  string
	}{
		"good":              {[]string{"Traceparent", parent, "Tracestate", "a=1,b=2"}, true, "a=1,b=2"},
		"two parents":       {[]string{"Traceparent", parent, "Traceparent", parent, "Tracestate", "a=1"}, false, ""},
		"parents in a list": {[]string{"Traceparent", parent + "," + parent}, false, ""},
		"state only":        {[]string{"Tracestate", "a=1"}, false, ""},
		"equal keys":        {[]string{"Traceparent", parent, "Tracestate", "a=1,b=2,a=3"}, true, "a=1,b=2"},
		"two states": {
			[]string{"Traceparent", parent, "Tracestate", "a=1", "Tracestate", "b=2,a=3"},
			true,
			"a=1,b=2",
		},
		"33 members": {
			[]string{"Traceparent", parent, "Tracestate", "a=1" + strings.Repeat(",b=1", 32)},
			true,
			"",
		},
		"bad member":      {[]string{"Traceparent", parent, "Tracestate", "a=1,=2"}, true, ""},
		"keys of level 2": {[]string{"Traceparent", parent, "Tracestate", "7=1,b@=2"}, true, "7=1,b@=2"},
	} {
		for _, h2 := range []bool{false, true} {
			w.do(w.client(h2), "GET", "http://x/", nil, c.header...)
			if len(got["Traceparent"]) != 1 || strings.Contains(got.Get("Traceparent"), id) != c.taken {
				t.Errorf("%s, h2 %v: the origin got %q", name, h2, got["Traceparent"])
			}
			if len(got["Tracestate"]) > 1 || got.Get("Tracestate") != c.state {
				t.Errorf("%s, h2 %v: the origin got state %q, want %q", name, h2, got["Tracestate"], c.state)
			}
		}
	}
}

// The time of a slow client does not count as the time of the instance: the instance has a limit for each piece of the
// body, and for the response after the last piece. So slow clients do not open the circuit for others.
func TestSlowUploads(t *testing.T) {
	const start = "POST %s HTTP/1.1\r\nHost: x\r\nContent-Length: 100000\r\n\r\n"
	for name, c := range map[string]struct {
		path   string
		want   int
		within time.Duration // exactly
	}{
		"read and answered":  {"/", 200, 49 * time.Second},
		"never answered":     {"/hang", 504, 52 * time.Second},
		"never read":         {"/unread", 504, 3 * time.Second},
		"answered early":     {"/early", 403, 0},
		"answered at length": {"/long", 200, 6 * time.Second},
		"beyond total":       {"/quick", 200, 49 * time.Second}, // the rate bounds it
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t, `[{"name":"web","to":[{"service":"web"}]},
					{"name":"quick","match":{"path":"/quick"},"to":[{"service":"web"}],"timeout":{"total":"20500ms"}}]`,
					"gateway.timeout.header", "3s")
				over := make(chan struct{})
				defer close(over)
				w.origin("web", "web-1", "", http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
					switch r.URL.Path {
					case "/unread":
						<-over
						return
					case "/early":
						_ = http.NewResponseController(rw).EnableFullDuplex() // or Go's server reads the body first
						rw.WriteHeader(http.StatusForbidden)
						return
					case "/long":
						_ = http.NewResponseController(rw).EnableFullDuplex()
						for _, digit := range "100000" {
							_, _ = rw.Write([]byte(string(digit)))
							_ = http.NewResponseController(rw).Flush()
							time.Sleep(time.Second)
						}
						return
					}
					n, _ := io.Copy(io.Discard, r.Body)
					if r.URL.Path == "/hang" {
						<-r.Context().Done()
					}
					_, _ = io.WriteString(rw, strconv.FormatInt(n, 10))
				}))
				var clients sync.WaitGroup
				for range 30 { // enough to open a circuit
					conn := w.dial()
					begin := time.Now()
					clients.Go(func() {
						_, err := fmt.Fprintf(conn, start, c.path)
						piece := make([]byte, 2000) // each second: 49 s for all
						for sent := 0; sent < 100000 && err == nil; sent += len(piece) {
							if sent > 0 {
								time.Sleep(time.Second)
							}
							if c.path == "/unread" || c.path == "/long" {
								piece = make([]byte, 100000) // more than the buffers of the network
							}
							_, err = conn.Write(piece)
						}
					})
					clients.Go(func() {
						res, err := http.ReadResponse(bufio.NewReader(conn), nil)
						if err != nil {
							t.Errorf("after %v: %v", time.Since(begin), err)
							return
						}
						defer res.Body.Close()
						body, _ := io.ReadAll(res.Body)
						if took := time.Since(begin); res.StatusCode != c.want || took != c.within || c.want == 200 &&
							string(body) != "100000" {
							t.Errorf("got %d %s after %v, want %d after %v", res.StatusCode, body, took, c.want,
								c.within)
						}
						conn.Close()
					})
				}
				clients.Wait()
				if c.want == 504 {
					return // failures of the instance have opened the circuit
				}
				if res := w.get("http://x/"); res.StatusCode != 200 {
					t.Errorf("another client got %d %s", res.StatusCode, res.body)
				}
			})
		})
	}
}

// The connection of a client that does not read is reset: after a normal close the kernel would keep the unsent data
// for minutes.
func TestConnectionOfAClientThatDoesNotReadIsReset(t *testing.T) {
	w := newWorld(t, toWeb)
	for timedOut, want := range map[bool]error{false: io.EOF, true: syscall.ECONNRESET} {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
		client, err := net.Dial("tcp", l.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		defer client.Close()
		server, err := gateway.Accept(w.edge, l)
		if err != nil {
			t.Fatal(err)
		}
		if timedOut {
			gateway.MarkTimedOut(server)
		}
		if err := server.Close(); err != nil {
			t.Error(err)
		}
		if _, err := client.Read(make([]byte, 1)); !errors.Is(err, want) {
			t.Errorf("write timed out: %v: the client got %v, want %v", timedOut, err, want)
		}
	}
}
