package http2_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"bijou.dev/platform/memnet"
	"bijou.dev/services/gateway/internal/http1"
	"bijou.dev/services/gateway/internal/http2"
	"bijou.dev/services/gateway/internal/message"

	nethttp2 "golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
)

// newOrigin starts an origin that a test writes frame by frame, and returns its client. Do serves each connection.
func newOrigin(t *testing.T, do func(o *originConn, conn int)) *http2.Client {
	t.Helper()
	n := memnet.New()
	l, err := n.Listen("tcp", "origin:80")
	if err != nil {
		t.Fatal(err)
	}
	var served sync.WaitGroup
	served.Go(func() {
		for i := 1; ; i++ {
			c, err := l.Accept()
			if err != nil {
				return
			}
			served.Go(func() {
				defer c.Close()
				if _, err := io.ReadFull(c, make([]byte, len(nethttp2.ClientPreface))); err != nil {
					return
				}
				k := &originConn{Framer: nethttp2.NewFramer(c, c), conn: c}
				k.ReadMetaHeaders = hpack.NewDecoder(4096, nil)
				k.enc = hpack.NewEncoder(&k.block)
				do(k, i)
			})
		}
	})
	client := &http2.Client{Dial: n.DialContext}
	t.Cleanup(func() {
		client.Close()
		_ = l.Close()
		served.Wait()
	})
	return client
}

type originConn struct {
	*nethttp2.Framer
	conn  net.Conn
	enc   *hpack.Encoder
	block bytes.Buffer
}

func (o *originConn) head(stream uint32, end bool, pairs ...string) {
	o.block.Reset()
	for i := 0; i < len(pairs); i += 2 {
		_ = o.enc.WriteField(hpack.HeaderField{Name: pairs[i], Value: pairs[i+1]}) // a buffer takes everything
	}
	_ = o.WriteHeaders(nethttp2.HeadersFrameParam{
		StreamID: stream, EndHeaders: true, EndStream: end, BlockFragment: o.block.Bytes(),
	})
}

// each reads frames until the connection ends, answers pings, and calls do for each request with its stream.
func (o *originConn) each(do func(id uint32, f *nethttp2.MetaHeadersFrame)) {
	for {
		f, err := o.ReadFrame()
		if err != nil {
			return
		}
		switch f := f.(type) {
		case *nethttp2.MetaHeadersFrame:
			do(f.StreamID, f)
		case *nethttp2.PingFrame:
			if !f.IsAck() {
				_ = o.WritePing(true, f.Data)
			}
		}
	}
}

func newCall(method string) *http1.Call {
	return &http1.Call{
		Method: method, Path: "/", Host: "x", Cancel: &http1.Canceler{}, Interim: func(int, message.Header) {},
		Go: func(f func()) { go f() }, Timeout: 5 * time.Second,
	}
}

// get sends a GET and returns the status and the body, or the error.
func get(t *testing.T, c *http2.Client) string {
	t.Helper()
	return send(t, c, newCall("GET"))
}

func send(t *testing.T, c *http2.Client, call *http1.Call) string {
	t.Helper()
	res, err := c.RoundTrip(t.Context(), "origin:80", call)
	if err != nil {
		return "error: " + err.Error()
	}
	body, err := readAll(res)
	out := strconv.Itoa(res.Status) + " " + string(body)
	for _, f := range res.Trailer {
		out += " " + f.Name + "=" + f.Value
	}
	if err != nil {
		out += " error: " + err.Error()
	}
	return out
}

// readAll reads and closes the body of a response.
func readAll(res *message.Response) ([]byte, error) {
	if res.Body == nil {
		return nil, nil
	}
	defer res.Body.Close()
	return io.ReadAll(res.Body)
}

func TestResponses(t *testing.T) {
	for name, tt := range map[string]struct {
		method string
		send   func(o *originConn, id uint32)
		want   string
	}{
		"body": {"GET", func(o *originConn, id uint32) {
			o.head(id, false, ":status", "200")
			_ = o.WriteData(id, false, []byte("a"))
			_ = o.WriteData(id, true, []byte("b"))
		}, "200 ab"},
		"no body": {"GET", func(o *originConn, id uint32) { o.head(id, true, ":status", "204") }, "204 "},
		"trailer": {"GET", func(o *originConn, id uint32) {
			o.head(id, false, ":status", "200")
			_ = o.WriteData(id, false, []byte("a"))
			o.head(id, true, "grpc-status", "0")
		}, "200 a Grpc-Status=0"},
		"padding": {"GET", func(o *originConn, id uint32) {
			o.head(id, false, ":status", "200")
			_ = o.WriteDataPadded(id, true, []byte("a"), make([]byte, 200))
		}, "200 a"},
		"interim": {"GET", func(o *originConn, id uint32) {
			o.head(id, false, ":status", "103", "link", "a")
			o.head(id, true, ":status", "200")
		}, "200 "},
		"too many interim": {"GET", func(o *originConn, id uint32) {
			for range 9 {
				o.head(id, false, ":status", "103")
			}
		}, "error: HTTP/2 stream error 1: the origin sent too many interim answers"},
		"HEAD": {"HEAD", func(o *originConn, id uint32) {
			o.head(id, true, ":status", "200", "content-length", "5")
		}, "200 "},
		"shorter than its length": {"GET", func(o *originConn, id uint32) {
			o.head(id, false, ":status", "200", "content-length", "5")
			_ = o.WriteData(id, true, []byte("abc"))
		}, "200 abc error: unexpected EOF"},
		"longer than its length": {"GET", func(o *originConn, id uint32) {
			o.head(id, false, ":status", "200", "content-length", "2")
			_ = o.WriteData(id, true, []byte("abc"))
		}, "200  error: HTTP/2 stream error 1: more DATA than Content-Length says"},
		"no status": {
			"GET", func(o *originConn, id uint32) { o.head(id, true, "a", "b") },
			"error: HTTP/2 stream error 1: a response has a status and no other pseudo field",
		},
		"101": {
			"GET", func(o *originConn, id uint32) { o.head(id, true, ":status", "101") },
			"error: HTTP/2 stream error 1: there is no 101 in HTTP/2",
		},
		"name in capitals": {
			"GET", func(o *originConn, id uint32) { o.head(id, true, ":status", "200", "A", "b") },
			"error: HTTP/2 stream error 1: the name of a field is not valid",
		},
		"reset": {
			"GET", func(o *originConn, id uint32) { _ = o.WriteRSTStream(id, nethttp2.ErrCodeInternal) },
			"error: the stream was reset with HTTP/2 error 2",
		},
		"reset in the body": {"GET", func(o *originConn, id uint32) {
			o.head(id, false, ":status", "200")
			_ = o.WriteData(id, false, []byte("a"))
			_ = o.WriteRSTStream(id, nethttp2.ErrCodeInternal)
		}, "200 a error: the stream was reset with HTTP/2 error 2"},
		"end of the connection": {
			"GET", func(o *originConn, _ uint32) { o.conn.Close() },
			"error: reading from the origin: unexpected EOF",
		},
		"promise": {"GET", func(o *originConn, id uint32) {
			_ = o.WritePushPromise(nethttp2.PushPromiseParam{StreamID: id, PromiseID: 2, EndHeaders: true})
		}, "error: reading from the origin: HTTP/2 error 1: PUSH_PROMISE is not allowed"},
		"more than the window": {"GET", func(o *originConn, id uint32) {
			o.head(id, false, ":status", "200")
			for range 1<<20/16000 + 1 {
				_ = o.WriteData(id, false, make([]byte, 16000))
			}
		}, "HTTP/2 stream error 3: more DATA than the window of the stream"},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				c := newOrigin(t, func(o *originConn, _ int) {
					_ = o.WriteSettings()
					o.each(func(id uint32, _ *nethttp2.MetaHeadersFrame) { tt.send(o, id) })
				})
				call := newCall(tt.method)
				if name == "more than the window" { // what has come is not read
					res, err := c.RoundTrip(t.Context(), "origin:80", call)
					if err != nil {
						t.Fatal(err)
					}
					synctest.Wait()
					_, err = io.Copy(io.Discard, res.Body)
					if err == nil || err.Error() != tt.want {
						t.Errorf("reading the body returned %v, want %s", err, tt.want)
					}
					return
				}
				if got := send(t, c, call); got != tt.want {
					t.Errorf("got %q, want %q", got, tt.want)
				}
			})
		})
	}
}

// What an origin has not looked at is sent again, on another connection.
func TestRequestsThatAreNotTakenAreSentAgain(t *testing.T) {
	for name, refuse := range map[string]func(o *originConn, id uint32){
		"GOAWAY":  func(o *originConn, id uint32) { _ = o.WriteGoAway(id-2, nethttp2.ErrCodeNo, nil) },
		"REFUSED": func(o *originConn, id uint32) { _ = o.WriteRSTStream(id, nethttp2.ErrCodeRefusedStream) },
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				requests := 0
				c := newOrigin(t, func(o *originConn, _ int) {
					_ = o.WriteSettings()
					o.each(func(id uint32, _ *nethttp2.MetaHeadersFrame) {
						if requests++; requests == 2 {
							refuse(o, id)
							return
						}
						o.head(id, true, ":status", "200")
					})
				})
				for range 3 {
					if got := get(t, c); got != "200 " {
						t.Errorf("got %q, want 200", got)
					}
				}
				if requests != 4 {
					t.Errorf("the origin got %d requests, want 4", requests)
				}
			})
		})
	}
}

// An origin that refuses everything is not asked without end.
func TestRefusalsEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		requests := 0
		c := newOrigin(t, func(o *originConn, _ int) {
			_ = o.WriteSettings()
			o.each(func(id uint32, _ *nethttp2.MetaHeadersFrame) {
				requests++
				_ = o.WriteRSTStream(id, nethttp2.ErrCodeRefusedStream)
			})
		})
		if got := get(t, c); !strings.HasPrefix(got, "error: ") || requests > 5 {
			t.Errorf("got %q after %d requests, want an error after at most 5", got, requests)
		}
	})
}

// More requests than an origin takes on one connection get other connections.
func TestStreamsOfAConnectionAreLimitedByTheOrigin(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var open, conns atomic.Int64
		release := make(chan struct{})
		c := newOrigin(t, func(o *originConn, conn int) {
			conns.Store(int64(conn))
			_ = o.WriteSettings(nethttp2.Setting{ID: nethttp2.SettingMaxConcurrentStreams, Val: 2})
			var ids []uint32
			o.each(func(id uint32, _ *nethttp2.MetaHeadersFrame) {
				if ids = append(ids, id); len(ids) > 2 {
					t.Error("the origin got a third request on a connection")
				}
				open.Add(1)
				if len(ids) == 2 {
					<-release
					for _, id := range ids {
						o.head(id, true, ":status", "200")
					}
				}
			})
		})
		// The settings come with the first response; until then 100 streams are assumed.
		var first sync.WaitGroup
		first.Go(func() { _ = get(t, c) })
		first.Go(func() { _ = get(t, c) })
		synctest.Wait()
		var done sync.WaitGroup
		for range 4 {
			done.Go(func() {
				if got := get(t, c); got != "200 " {
					t.Errorf("got %q, want 200", got)
				}
			})
			synctest.Wait()
		}
		if open.Load() != 6 || conns.Load() != 3 {
			t.Errorf("%d requests are at the origin over %d connections, want 6 over 3", open.Load(), conns.Load())
		}
		close(release)
		done.Wait()
		first.Wait()
	})
}

// A connection whose other end is gone without a word is not used again.
func TestSilentConnectionIsReplaced(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		pings := 0
		c := newOrigin(t, func(o *originConn, conn int) {
			_ = o.WriteSettings()
			for {
				f, err := o.ReadFrame()
				if err != nil {
					return
				}
				switch f := f.(type) {
				case *nethttp2.MetaHeadersFrame:
					if conn > 1 {
						o.head(f.StreamID, true, ":status", "200")
					}
				case *nethttp2.PingFrame:
					pings++
				}
			}
		})
		for range 2 { // the second one begins before the first is given up, and ends when the connection does
			go func() {
				call := newCall("GET")
				time.AfterFunc(time.Hour, func() { call.Cancel.Cancel(errors.New("too late")) })
				if got := send(t, c, call); got != "error: reading from the origin: the origin's connection is silent" {
					t.Errorf("got %q, want that the connection is silent", got)
				}
			}()
			time.Sleep(time.Millisecond)
		}
		call := newCall("GET")
		time.AfterFunc(time.Second, func() { call.Cancel.Cancel(errors.New("late")) })
		if got := send(t, c, call); !strings.HasPrefix(got, "error") {
			t.Errorf("got %q, want an error", got)
		}
		if got := get(t, c); got != "200 " {
			t.Errorf("after a request without an answer: %q, want 200 by another connection", got)
		}
		time.Sleep(11 * time.Second)
		synctest.Wait()
		if pings != 1 {
			t.Errorf("the origin got %d pings, want 1", pings)
		}
	})
}

// A connection that is idle is closed before its origin would do so.
func TestIdleConnectionIsClosed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var ended atomic.Bool
		c := newOrigin(t, func(o *originConn, _ int) {
			_ = o.WriteSettings()
			o.each(func(id uint32, _ *nethttp2.MetaHeadersFrame) { o.head(id, true, ":status", "200") })
			ended.Store(true)
		})
		for range 3 {
			_ = get(t, c)
			time.Sleep(50 * time.Second)
		}
		synctest.Wait()
		if ended.Load() {
			t.Error("the connection was closed while it was used")
		}
		time.Sleep(10 * time.Second)
		synctest.Wait()
		if !ended.Load() {
			t.Error("the connection is open after it was idle for a minute")
		}
	})
}

// A request is canceled before its connection is established. The connection is then closed after the idle time, or at
// once if the client was closed meanwhile.
func TestUnusedConnectionIsClosed(t *testing.T) {
	for name, closes := range map[string]bool{"request given up": false, "client closed": true} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var ended atomic.Bool
				c := newOrigin(t, func(o *originConn, _ int) {
					_ = o.WriteSettings()
					o.each(func(uint32, *nethttp2.MetaHeadersFrame) {})
					ended.Store(true)
				})
				connect := c.Dial
				c.Dial = func(ctx context.Context, network, addr string) (net.Conn, error) {
					time.Sleep(time.Second)
					return connect(ctx, network, addr)
				}
				call := newCall("GET")
				time.AfterFunc(time.Second/2, func() {
					call.Cancel.Cancel(errors.New("late"))
					if closes {
						c.Close()
					}
				})
				if got := send(t, c, call); got != "error: late" {
					t.Errorf("got %q, want that it is late", got)
				}
				within := time.Second
				if !closes {
					within = time.Minute
				}
				time.Sleep(within)
				synctest.Wait()
				if !ended.Load() {
					t.Errorf("the connection is open after %v", within)
				}
			})
		})
	}
}

// bodyOf is the body of a request.
type bodyOf struct {
	io.Reader
	trailer message.Header
}

func (b bodyOf) Trailer() message.Header { return b.trailer }

// Large bodies pass both ways at once, through windows that are smaller.
func TestLargeBodies(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := memnet.New()
		l, err := n.Listen("tcp", "origin:80")
		if err != nil {
			t.Fatal(err)
		}
		srv := &http.Server{Protocols: new(http.Protocols), Handler: http.HandlerFunc(
			func(w http.ResponseWriter, r *http.Request) {
				w.Header().Set("Trailer", "X-Sum")
				size, _ := io.Copy(w, r.Body)
				w.Header().Set("X-Sum", fmt.Sprint(size, " ", r.Trailer.Get("X-Up")))
			})}
		srv.Protocols.SetUnencryptedHTTP2(true)
		go func() { _ = srv.Serve(l) }()
		c := &http2.Client{Dial: n.DialContext}
		want := bytes.Repeat([]byte("0123456789abcdef"), 5<<16)
		var done sync.WaitGroup
		for range 4 {
			done.Go(func() {
				call := newCall("POST")
				call.Length = -1
				call.Body = bodyOf{bytes.NewReader(want), message.Header{{Name: "X-Up", Value: "up"}}}
				res, err := c.RoundTrip(t.Context(), "origin:80", call)
				if err != nil {
					t.Error(err)
					return
				}
				got, err := io.ReadAll(res.Body)
				if sum := res.Trailer.Get("X-Sum"); err != nil || !bytes.Equal(got, want) ||
					sum != fmt.Sprint(len(want), " up") {
					t.Errorf("got %d bytes, %v, trailer %q, want %d bytes", len(got), err, sum, len(want))
				}
			})
		}
		done.Wait()
		c.Close()
		_ = srv.Close()
	})
}

// A request that is given up ends at once, and its stream is reset.
func TestCanceledRequestIsReset(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var resets []uint32
		c := newOrigin(t, func(o *originConn, _ int) {
			_ = o.WriteSettings()
			for {
				f, err := o.ReadFrame()
				if err != nil {
					return
				}
				if f, ok := f.(*nethttp2.RSTStreamFrame); ok {
					resets = append(resets, f.StreamID)
				}
			}
		})
		call := newCall("GET")
		begin := time.Now()
		time.AfterFunc(time.Second, func() { call.Cancel.Cancel(errors.New("late")) })
		if got := send(t, c, call); !strings.HasPrefix(got, "error") || time.Since(begin) != time.Second {
			t.Errorf("got %q after %v, want an error after 1 s", got, time.Since(begin))
		}
		synctest.Wait()
		if !slices.Equal(resets, []uint32{1}) {
			t.Errorf("the origin got resets of %v, want of stream 1", resets)
		}
	})
}

// An origin that takes no more of a body is given up after the time of the call.
func TestUploadThatStallsIsGivenUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newOrigin(t, func(o *originConn, _ int) {
			_ = o.WriteSettings()
			o.each(func(uint32, *nethttp2.MetaHeadersFrame) {})
		})
		late := errors.New("late")
		call := newCall("POST")
		call.Late, call.Length = late, 1<<20
		call.Body = bodyOf{Reader: bytes.NewReader(make([]byte, 1<<20))}
		begin := time.Now()
		got := send(t, c, call)
		if !errors.Is(call.Cancel.Cause(), late) || time.Since(begin) != call.Timeout {
			t.Errorf("got %q with cause %v after %v, want that it is late after %v", got, call.Cancel.Cause(),
				time.Since(begin), call.Timeout)
		}
	})
}

// beforeRequest is how many bytes a client sends before its first request: preface, settings and a window update.
const beforeRequest = len(nethttp2.ClientPreface) + 9 + 3*6 + 9 + 4

// script is a connection whose other end has sent everything in advance.
type script struct {
	net.Conn
	pieces [][]byte

	after chan struct{} // closed when the request was written; nil: nothing is waited for

	mu  sync.Mutex
	out bytes.Buffer
}

func (s *script) Read(p []byte) (int, error) {
	if s.after != nil {
		<-s.after
	}
	if len(s.pieces) == 0 {
		return 0, io.EOF
	}
	n := copy(p, s.pieces[0])
	if s.pieces[0] = s.pieces[0][n:]; len(s.pieces[0]) == 0 {
		s.pieces = s.pieces[1:]
	}
	return n, nil
}

func (s *script) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	n, err := s.out.Write(p)
	if s.after != nil && s.out.Len() > beforeRequest {
		select {
		case <-s.after:
		default:
			close(s.after)
		}
	}
	return n, err
}

func (*script) Close() error                     { return nil }
func (*script) SetDeadline(time.Time) error      { return nil }
func (*script) SetReadDeadline(time.Time) error  { return nil }
func (*script) SetWriteDeadline(time.Time) error { return nil }
func (*script) SetIdle(bool)                     {}
func (*script) Linger()                          {}
func (*script) Cut()                             {}

// FuzzClient reads what an origin sends: the pieces in which bytes come must not matter.
func FuzzClient(f *testing.F) {
	frames := func(write func(o *originConn)) []byte {
		var b bytes.Buffer
		o := &originConn{Framer: nethttp2.NewFramer(&b, nil)}
		o.AllowIllegalWrites = true
		o.enc = hpack.NewEncoder(&o.block)
		_ = o.WriteSettings()
		write(o)
		return b.Bytes()
	}
	for _, s := range []func(o *originConn){
		func(o *originConn) {
			o.head(1, false, ":status", "200", "content-length", "2")
			_ = o.WriteDataPadded(1, false, []byte("ok"), make([]byte, 9))
			o.head(1, true, "a", "b")
		},
		func(o *originConn) {
			o.head(1, false, ":status", "103", "link", "a")
			o.head(1, true, ":status", "204")
			_ = o.WriteGoAway(1, 0, []byte("bye"))
		},
		func(o *originConn) { _ = o.WriteGoAway(0, 0, nil) },
		func(o *originConn) { _ = o.WriteRSTStream(1, nethttp2.ErrCodeRefusedStream) },
		func(o *originConn) {
			_ = o.WriteWindowUpdate(0, 1)
			_ = o.WritePing(false, [8]byte{})
			_ = o.WriteHeaders(nethttp2.HeadersFrameParam{StreamID: 1, BlockFragment: []byte{0x88}})
			_ = o.WriteContinuation(1, true, nil)
			_ = o.WriteData(1, true, bytes.Repeat([]byte("x"), 9000))
		},
	} {
		f.Add(frames(s), uint16(3))
	}
	ask := func(pieces [][]byte) string {
		c := &http2.Client{Dial: func(context.Context, string, string) (net.Conn, error) {
			return &script{pieces: slices.Clone(pieces), after: make(chan struct{})}, nil
		}}
		defer c.Close()
		res, err := c.RoundTrip(context.Background(), "origin:80", newCall("GET"))
		if err != nil {
			return "error"
		}
		body, err := readAll(res)
		return fmt.Sprintf("%d %v %d %x %v %v", res.Status, res.Header, len(body), sha256.Sum256(body), res.Trailer, err)
	}
	f.Fuzz(func(t *testing.T, in []byte, size uint16) {
		whole, pieces := ask([][]byte{in}), ask(slices.Collect(slices.Chunk(in, int(max(size, 1)))))
		if whole != pieces {
			t.Fatalf("in one piece %s\nin pieces of %d %s", whole, size, pieces)
		}
	})
}

var _ http1.Body = bodyOf{}
