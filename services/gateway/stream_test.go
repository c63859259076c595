package gateway_test

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"bijou.dev/platform/route"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/wrapperspb"
)

// calls is a gRPC service with one unary and one full-duplex method.
var calls = grpc.ServiceDesc{
	ServiceName: "test.v1.Calls", HandlerType: (*any)(nil),
	Methods: []grpc.MethodDesc{{MethodName: "Echo", Handler: func(_ any, ctx context.Context, dec func(any) error,
		_ grpc.UnaryServerInterceptor,
	) (any, error) {
		in := new(wrapperspb.StringValue)
		if err := dec(in); err != nil {
			return nil, err
		}
		if in.Value == "missing" {
			_ = grpc.SetTrailer(ctx, metadata.Pairs("x-trailer", "t"))
			return nil, status.Error(codes.NotFound, "no such thing: 100 %")
		}
		switch deadline, _ := ctx.Deadline(); in.Value {
		case "sleep":
			time.Sleep(100 * time.Millisecond)
		case "work":
			<-ctx.Done()
			return nil, status.FromContextError(ctx.Err()).Err()
		case "deadline":
			return wrapperspb.String(time.Until(deadline).String()), nil
		}
		return in, nil
	}}},
	Streams: []grpc.StreamDesc{{
		StreamName: "Chat", ServerStreams: true, ClientStreams: true,
		Handler: func(_ any, s grpc.ServerStream) error {
			for {
				in := new(wrapperspb.StringValue)
				if err := s.RecvMsg(in); errors.Is(err, io.EOF) {
					return nil
				} else if err != nil {
					return err
				}
				if in.Value == "leave" { // while the client still sends
					return status.Error(codes.Aborted, "I left")
				}
				if err := s.SendMsg(in); err != nil {
					return err
				}
			}
		},
	}},
}

func (w *world) grpcOrigin(service, id string) *grpc.Server {
	w.t.Helper()
	l, err := w.net.Listen("tcp", id+":80")
	if err != nil {
		w.t.Fatal(err)
	}
	srv := grpc.NewServer()
	srv.RegisterService(&calls, nil)
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = srv.Serve(l) // ends with Stop
	}()
	w.t.Cleanup(func() {
		srv.Stop()
		<-done
	})
	w.register(service, id, "", id+":80")
	return srv
}

func (w *world) grpcClient() *grpc.ClientConn {
	w.t.Helper()
	conn, err := grpc.NewClient("passthrough:///edge:80", grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithContextDialer(func(ctx context.Context, addr string) (net.Conn, error) {
			return w.net.DialContext(ctx,
				"tcp", addr)
		}))
	if err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(func() { conn.Close() })
	return conn
}

const toCalls = `[{"name":"calls","match":{"prefix":"/test.v1.Calls"},"to":[{"service":"calls","endpoint":"grpc"}]},
	{"name":"unregistered","match":{"prefix":"/test.v1.Unregistered"},
		"to":[{"service":"unregistered","endpoint":"grpc"}]}]`

func TestUnaryGRPCCalls(t *testing.T) {
	w := newWorld(t, toCalls)
	w.grpcOrigin("calls", "calls-1")
	c := w.grpcClient()
	out := new(wrapperspb.StringValue)
	if err := c.Invoke(t.Context(), "/test.v1.Calls/Echo", wrapperspb.String("hi"), out); err != nil ||
		out.Value != "hi" {
		t.Fatalf("got %q, %v", out.Value, err)
	}
	var trailer metadata.MD
	err := c.Invoke(t.Context(), "/test.v1.Calls/Echo", wrapperspb.String("missing"), out, grpc.Trailer(&trailer))
	if status.Code(err) != codes.NotFound || status.Convert(err).Message() != "no such thing: 100 %" ||
		len(trailer["x-trailer"]) != 1 {
		t.Errorf("got %v, trailer %v", err, trailer)
	}
	for method, want := range map[string]codes.Code{
		"/test.v1.Unregistered/Echo": codes.Unavailable,
		"/test.v1.Nothing/Echo":      codes.Unimplemented,
	} {
		if err := c.Invoke(t.Context(), method, wrapperspb.String("hi"), out); status.Code(err) != want {
			t.Errorf("%s: %v, want %v", method, err, want)
		}
	}
}

// The deadline that the origin gets is shorter by the time that the call has spent at the edge.
func TestGRPCDeadlineIncludesTheTimeAtTheEdge(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, toCalls)
		w.grpcOrigin("calls", "calls-1")
		w.register("calls", "calls-2", "", "calls-2:80")
		w.net.Cut("calls-2") // connecting to it takes a second to fail
		c := w.grpcClient()
		waited := false
		for n := 0; n < 10 || !waited && n < 60; n++ { // the balancer draws each of the two instances with one half
			ctx, cancel := context.WithTimeout(t.Context(), 3*time.Second)
			begin, out := time.Now(), new(wrapperspb.StringValue)
			if err := c.Invoke(ctx, "/test.v1.Calls/Echo", wrapperspb.String("deadline"), out); err != nil {
				t.Fatal(err)
			}
			cancel()
			took := time.Since(begin)
			if left, err := time.ParseDuration(out.Value); err != nil || left+took > 3*time.Second ||
				left < time.Second {
				t.Errorf("after %v the origin has %v left of 3 s, error %v", took, left, err)
			}
			waited = waited || took >= time.Second
		}
		if !waited {
			t.Error("no call had to wait")
		}
	})
}

// Calls whose deadline is too short do not open the circuit and eject no instance.
func TestShortGRPCDeadlinesDoNotCountAsFailures(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, toCalls)
		w.grpcOrigin("calls", "calls-1")
		w.grpcOrigin("calls", "calls-2")
		c, out := w.grpcClient(), new(wrapperspb.StringValue)
		// written by hand: a gRPC client ends such a call before the origin does
		for _, timeout := range []string{"50m", "1n", "0S"} {
			for range 40 {
				req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, "http://x/test.v1.Calls/Echo",
					bytes.NewReader([]byte("\x00\x00\x00\x00\x06\x0a\x04work")))
				if err != nil {
					t.Fatal(err)
				}
				req.Header = http.Header{
					"Content-Type": {"application/grpc"}, "Te": {"trailers"},
					"Grpc-Timeout": {timeout},
				}
				res, err := w.client(true).Do(req)
				if err != nil {
					continue // the origin's server has reset it
				}
				_, _ = io.Copy(io.Discard, res.Body)
				res.Body.Close()
				if got := res.Header.Get("Grpc-Status") + res.Trailer.Get("Grpc-Status"); got != "4" {
					t.Errorf("timeout %s: status %s, want 4 (DEADLINE_EXCEEDED)", timeout, got)
				}
			}
		}
		for range 20 {
			if err := c.Invoke(t.Context(), "/test.v1.Calls/Echo", wrapperspb.String("hi"), out); err != nil {
				t.Fatalf("a call without a deadline: %v", err)
			}
		}
	})
}

// An ejected instance is admitted again when it works, also if all requests are gRPC calls.
func TestEjectedGRPCInstanceIsAdmittedAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, toCalls)
		w.grpcOrigin("calls", "calls-1")
		failing := w.grpcOrigin("calls", "calls-2")
		c := w.grpcClient()
		ask := func(seconds int) {
			for range 20 * seconds {
				if err := c.Invoke(t.Context(), "/test.v1.Calls/Echo", wrapperspb.String("x"),
					new(wrapperspb.StringValue)); err != nil {
					t.Fatal(err)
				}
				time.Sleep(50 * time.Millisecond)
			}
		}
		phase := func() string {
			var shown struct {
				Origins []struct{ Instances []route.EndpointState }
			}
			page := newRecorder()
			w.edge.RoutesHandler().ServeHTTP(page, mustRequest(t))
			if err := json.Unmarshal(page.body.Bytes(), &shown); err != nil {
				t.Fatal(err)
			}
			for _, o := range shown.Origins {
				for _, e := range o.Instances {
					if e.ID == "calls-2" {
						return e.Phase
					}
				}
			}
			return "unknown"
		}
		ask(1)
		failing.Stop()
		ask(40)
		if phase() == "admitted" {
			t.Fatal("the stopped instance was not ejected")
		}
		w.grpcOrigin("calls", "calls-2")
		ask(20)
		if got := phase(); got != "admitted" {
			t.Errorf("20 s after the instance works again it is %s, want admitted", got)
		}
	})
}

// A stream that the server ends early ends at once for the client, also if the client keeps its side open
// (golang/go#80085).
func TestGRPCStreamEndedByTheServerEndsAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, toCalls)
		w.grpcOrigin("calls", "calls-1")
		begin := time.Now()
		for range 20 {
			s, err := w.grpcClient().NewStream(t.Context(), &calls.Streams[0], "/test.v1.Calls/Chat")
			if err != nil {
				t.Fatal(err)
			}
			for _, text := range []string{"a", "b", "c"} {
				if err := s.SendMsg(wrapperspb.String(text)); err != nil {
					t.Fatal(err)
				}
				out := new(wrapperspb.StringValue)
				if err := s.RecvMsg(out); err != nil || out.Value != text {
					t.Fatalf("got %q, %v", out.Value, err)
				}
			}
			if err := s.SendMsg(wrapperspb.String("leave")); err != nil {
				t.Fatal(err)
			}
			// The client does not close its side.
			if err := s.RecvMsg(new(wrapperspb.StringValue)); status.Code(err) != codes.Aborted {
				t.Errorf("got %v", err)
			}
		}
		if took := time.Since(begin); took > 0 {
			t.Errorf("20 streams took %v of fake time, want none", took)
		}
		synctest.Wait()
		if got := w.metric("bijou_gateway_requests_in_flight"); got != 0 {
			t.Errorf("%v requests are in progress, want none", got)
		}
	})
}

// A gRPC stream may be silent for longer than any timeout.
func TestSilentGRPCStreamStaysOpen(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, toCalls)
		w.grpcOrigin("calls", "calls-1")
		s, err := w.grpcClient().NewStream(t.Context(), &calls.Streams[0], "/test.v1.Calls/Chat")
		if err != nil {
			t.Fatal(err)
		}
		for range 3 {
			time.Sleep(10 * time.Minute)
			out := new(wrapperspb.StringValue)
			if err := errors.Join(s.SendMsg(wrapperspb.String("x")), s.RecvMsg(out)); err != nil || out.Value != "x" {
				t.Fatalf("got %q, %v", out.Value, err)
			}
		}
		if err := s.CloseSend(); err != nil {
			t.Fatal(err)
		}
		if err := s.RecvMsg(new(wrapperspb.StringValue)); !errors.Is(err, io.EOF) {
			t.Errorf("the end is %v", err)
		}
	})
}

// A gRPC stream whose origin stops ends with a status.
func TestBrokenGRPCStreamEndsWithAStatus(t *testing.T) {
	w := newWorld(t, toCalls)
	srv := w.grpcOrigin("calls", "calls-1")
	s, err := w.grpcClient().NewStream(t.Context(), &calls.Streams[0], "/test.v1.Calls/Chat")
	if err != nil {
		t.Fatal(err)
	}
	out := new(wrapperspb.StringValue)
	if err := errors.Join(s.SendMsg(wrapperspb.String("x")), s.RecvMsg(out)); err != nil {
		t.Fatal(err)
	}
	srv.Stop()
	if err := s.RecvMsg(out); status.Code(err) != codes.Unavailable {
		t.Errorf("got %v", err)
	}
}

// An origin may respond before it has read the request, in HTTP/1.1 and HTTP/2.
func TestResponseBeforeTheEndOfTheRequest(t *testing.T) {
	for _, h2 := range []bool{false, true} {
		w := newWorld(t, toWeb)
		w.origin("web", "web-1", "", http.HandlerFunc(func(rw http.ResponseWriter, _ *http.Request) {
			_ = http.NewResponseController(rw).EnableFullDuplex() // else Go's server reads the body first
			rw.WriteHeader(http.StatusForbidden)
		}))
		body, never := io.Pipe()
		req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, "http://x/", body)
		if err != nil {
			t.Fatal(err)
		}
		res, err := w.client(h2).Do(req)
		if err != nil || res.StatusCode != http.StatusForbidden {
			t.Fatalf("h2 %v: got %v, %v", h2, res, err)
		}
		res.Body.Close()
		never.Close()
	}
}

// websocket is an origin that answers each byte with a text frame around it, and "long" with a frame in two pieces.
func websocket(pause <-chan struct{}) http.Handler {
	return http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Connection") != "Upgrade" || r.Header.Get("Upgrade") != "websocket" ||
			r.Header.Get("Sec-Websocket-Key") != "k" {
			rw.WriteHeader(http.StatusBadRequest)
			return
		}
		conn, buf, err := http.NewResponseController(rw).Hijack()
		if err != nil {
			return
		}
		defer conn.Close()
		_, _ = io.WriteString(conn,
			"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"+
				"Sec-Websocket-Accept: a\r\n\r\n")
		for {
			c, err := buf.ReadByte()
			if err != nil {
				return
			}
			if c == 'l' {
				_, _ = conn.Write([]byte{0x81, 4, 'l', 'o'})
				<-pause
				_, _ = conn.Write([]byte("ng"))
				continue
			}
			_, _ = conn.Write([]byte{0x81, 1, c})
		}
	})
}

const upgrade = "GET /ws HTTP/1.1\r\nHost: x\r\nConnection: keep-alive, Upgrade\r\nUpgrade: websocket\r\n" +
	"Sec-WebSocket-Key: k\r\n\r\n"

func (w *world) upgrade() (net.Conn, *bufio.Reader) {
	w.t.Helper()
	conn := w.dial()
	if _, err := io.WriteString(conn, upgrade); err != nil {
		w.t.Fatal(err)
	}
	r := bufio.NewReader(conn)
	res, err := http.ReadResponse(r, nil)
	if err != nil || res.StatusCode != 101 || res.Header.Get("Sec-Websocket-Accept") != "a" ||
		res.Header.Get("Upgrade") != "websocket" {
		w.t.Fatalf("upgrading: %v, %v", res, err)
	}
	return conn, r
}

func read(t *testing.T, r io.Reader, want string) {
	t.Helper()
	got := make([]byte, len(want))
	if _, err := io.ReadFull(r, got); err != nil || string(got) != want {
		t.Fatalf("got %q, %v; want %q", got, err, want)
	}
}

func TestWebSocketsPassBytesBothWays(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, toWeb)
		w.origin("web", "web-1", "", websocket(nil))
		conn, r := w.upgrade()
		for _, c := range []string{"a", "b", "\n", "\x00"} {
			time.Sleep(10 * time.Minute) // no timeout ends it
			_, _ = io.WriteString(conn, c)
			read(t, r, "\x81\x01"+c)
		}
		conn.Close()
		synctest.Wait()
		time.Sleep(10 * time.Second)
		synctest.Wait()
		if got := w.metric("bijou_gateway_websockets_open") + w.metric("bijou_gateway_connections_open"); got != 0 {
			t.Errorf("%v connections are open, want none", got)
		}
		for _, bad := range []string{
			"POST /ws HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nContent-Length: 1\r\n\r\na",
			"GET /ws HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: tls\r\n\r\n",
		} {
			if got, _ := w.raw(bad); len(got) != 1 || got[0] != 400 {
				t.Errorf("%q: %v", bad, got)
			}
		}
	})
}

// A stop sends a close frame on each WebSocket, between two frames, spread over half of the time.
func TestStopClosesWebSocketsBetweenFrames(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, toWeb)
		pause := make(chan struct{})
		w.origin("web", "web-1", "", websocket(pause))
		begin := time.Now()
		closed := make(chan time.Duration, 30)
		for range 30 {
			conn, r := w.upgrade()
			go func() {
				b := make([]byte, 4)
				_, err := io.ReadFull(r, b)
				closed <- time.Since(begin)
				if err != nil || !bytes.Equal(b, []byte{0x88, 2, 0x03, 0xe9}) {
					t.Errorf("got %x, %v", b, err)
				}
				conn.Close()
			}()
		}
		busy, r := w.upgrade()
		_, _ = io.WriteString(busy, "l")
		read(t, r, "\x81\x04lo")
		stopped := make(chan error, 1)
		go func() {
			ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
			defer cancel()
			stopped <- w.edge.Shutdown(ctx)
		}()
		first, last := time.Hour, time.Duration(0)
		for range 30 {
			at := <-closed
			first, last = min(first, at), max(last, at)
		}
		if last > 10*time.Second || last-first < 5*time.Second {
			t.Errorf("close frames came from %v to %v, want them spread over 10 s", first, last)
		}
		time.Sleep(10*time.Second - time.Since(begin) + time.Second)
		close(pause)
		read(t, r, "ng\x88\x02\x03\xe9")
		busy.Close()
		if err := <-stopped; err != nil {
			t.Error(err)
		}
	})
}

// A stop does not wait until its end for clients that do not answer the close frame, or that do not read at all.
func TestStopWithWebSocketsThatDoNotAnswer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, toWeb)
		w.origin("web", "web-1", "", websocket(nil))
		for range 500 {
			_, r := w.upgrade()
			go func() { _, _ = io.Copy(io.Discard, r) }() // reads the close frame
		}
		for range 500 {
			w.upgrade() // reads nothing
		}
		begin := time.Now()
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
		defer cancel()
		if err := w.edge.Shutdown(ctx); err != nil {
			t.Error(err)
		}
		if took := time.Since(begin); took > 15*time.Second+time.Second || took < 10*time.Second {
			t.Errorf("the stop took %v of 20s, want 10s for the close frames and at most 5s for the answers", took)
		}
	})
}

// A stop ends gRPC streams with a status and event streams with the end of the body, between two messages, spread over
// half of the time. Unary calls in progress finish.
func TestStopEndsStreamsBetweenMessages(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, `[{"name":"half","match":{"path":"/test.v1.Calls/Half"},
			"to":[{"service":"web","endpoint":"grpc"}]},
			{"name":"calls","match":{"prefix":"/test.v1.Calls"},"to":[{"service":"calls","endpoint":"grpc"}]},
			{"name":"web","to":[{"service":"web"}]}]`)
		w.grpcOrigin("calls", "calls-1")
		half, rest := make(chan struct{}), make(chan struct{})
		w.origin("web", "web-1", "", http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
			rc := http.NewResponseController(rw)
			if r.URL.Path == "/test.v1.Calls/Half" { // a gRPC server in the middle of a message of 4 bytes
				rw.Header().Set("Content-Type", "application/grpc")
				_, _ = io.WriteString(rw, "\x00\x00\x00\x00\x04ab")
				_ = rc.Flush()
				close(half)
				<-rest
				_, _ = io.WriteString(rw, "cd\x00\x00\x00\x00\x01")
				_ = rc.Flush()
				<-r.Context().Done()
				return
			}
			rw.Header().Set("Content-Type", "text/event-stream")
			_, _ = io.WriteString(rw, "data: a\n\n")
			_ = rc.Flush()
			<-r.Context().Done()
		}))
		var left sync.WaitGroup
		var mu sync.Mutex
		var moments []time.Duration
		var begin time.Time
		ended := func() {
			mu.Lock()
			defer mu.Unlock()
			moments = append(moments, time.Since(begin))
		}
		for range 50 {
			s, err := w.grpcClient().NewStream(t.Context(), &calls.Streams[0], "/test.v1.Calls/Chat")
			if err != nil {
				t.Fatal(err)
			}
			out := new(wrapperspb.StringValue)
			if err := errors.Join(s.SendMsg(wrapperspb.String("a")), s.RecvMsg(out)); err != nil {
				t.Fatal(err)
			}
			left.Go(func() {
				if err := s.RecvMsg(out); status.Code(err) != codes.Unavailable ||
					!strings.Contains(err.Error(), "the edge is stopping") {
					t.Errorf("a gRPC stream ended with %v", err)
				}
				ended()
			})
		}
		for i := range 50 {
			req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://x/", nil)
			if err != nil {
				t.Fatal(err)
			}
			res, err := w.client(i%2 == 0).Do(req)
			if err != nil {
				t.Fatal(err)
			}
			left.Go(func() {
				defer res.Body.Close()
				if text, err := io.ReadAll(res.Body); err != nil || string(text) != "data: a\n\n" {
					t.Errorf("an event stream ended with %q, %v", text, err)
				}
				ended()
			})
		}
		req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, "http://x/test.v1.Calls/Half", http.NoBody)
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Content-Type", "application/grpc")
		req.Header.Set("Te", "trailers")
		res, err := w.client(true).Do(req)
		if err != nil {
			t.Fatal(err)
		}
		<-half
		unary := make(chan error, 1)
		go func() {
			unary <- w.grpcClient().Invoke(t.Context(), "/test.v1.Calls/Echo", wrapperspb.String("sleep"),
				new(wrapperspb.StringValue))
		}()
		synctest.Wait()
		begin = time.Now()
		stopped := make(chan error, 1)
		go func() {
			ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
			defer cancel()
			stopped <- w.edge.Shutdown(ctx)
		}()
		if err := <-unary; err != nil {
			t.Errorf("a unary call in progress: %v", err)
		}
		left.Wait()
		if first, last := slices.Min(moments), slices.Max(moments); last > 10*time.Second ||
			last-first < 8*time.Second {
			t.Errorf("streams ended from %v to %v, want them spread over 10 s", first, last)
		}
		time.Sleep(11*time.Second - time.Since(begin))
		close(rest)
		text, err := io.ReadAll(res.Body)
		res.Body.Close()
		if err != nil || string(text) != "\x00\x00\x00\x00\x04abcd" || res.Trailer.Get("Grpc-Status") != "14" {
			t.Errorf("the stream in the middle of a message ended with %q, %v, %v", text, res.Trailer, err)
		}
		if err := <-stopped; err != nil {
			t.Error(err)
		}
		if took := time.Since(begin); took > 12*time.Second {
			t.Errorf("the stop took %v", took)
		}
	})
}

// metric sums the values of a metric.
func (w *world) metric(name string, labels ...string) (sum float64) {
	w.t.Helper()
	families, err := w.metrics.Gather()
	if err != nil {
		w.t.Fatal(err)
	}
	for _, f := range families {
		if f.GetName() != name {
			continue
		}
		for _, m := range f.GetMetric() {
			var have []string
			for _, l := range m.GetLabel() {
				have = append(have, l.GetName()+"="+l.GetValue())
			}
			all := true
			for _, l := range labels {
				all = all && strings.Contains(" "+strings.Join(have, " ")+" ", " "+l+" ")
			}
			if all {
				sum += m.GetCounter().GetValue() + m.GetGauge().GetValue() + float64(m.GetHistogram().GetSampleCount())
			}
		}
	}
	return sum
}

func TestRequestsAreCountedByLabels(t *testing.T) {
	w := newWorld(t, toWeb)
	w.origin("web", "web-1", "", http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		var code int
		_, _ = fmt.Sscanf(r.URL.Path, "/%d", &code)
		rw.WriteHeader(code)
	}))
	for _, path := range []string{"/200", "/201", "/404", "/500"} {
		w.get("http://x" + path)
	}
	for labels, want := range map[string]float64{
		"class=2xx route=web service=web fault=": 2, "class=4xx fault=": 1, "class=5xx fault=origin_error": 1,
	} {
		if got := w.metric("bijou_gateway_requests_total", strings.Fields(labels)...); got != want {
			t.Errorf("%s: %v, want %v", labels, got, want)
		}
	}
	if got := w.metric("bijou_gateway_request_seconds", "route=web"); got != 4 {
		t.Errorf("the histogram has %v requests", got)
	}
}
