package http2_test

import (
	"bytes"
	"errors"
	"io"
	"log/slog"
	"net"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"bijou.dev/services/gateway/internal/http2"
	"bijou.dev/services/gateway/internal/message"

	nethttp2 "golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
)

// FuzzServer reads what a client sends. Whatever it is, the server ends all requests with the connection, gives back
// the memory of bodies, and sends frames that another implementation can read.
func FuzzServer(f *testing.F) {
	var b bytes.Buffer
	var block bytes.Buffer
	enc := hpack.NewEncoder(&block)
	open := func(w *nethttp2.Framer, id uint32, end bool, more ...string) {
		block.Reset()
		pairs := append([]string{":method", "POST", ":scheme", "http", ":authority", "x", ":path", "/a?b"}, more...)
		for i := 0; i < len(pairs); i += 2 {
			_ = enc.WriteField(hpack.HeaderField{Name: pairs[i], Value: pairs[i+1]})
		}
		_ = w.WriteHeaders(nethttp2.HeadersFrameParam{
			StreamID: id, EndHeaders: true, EndStream: end, BlockFragment: block.Bytes(),
		})
	}
	w := nethttp2.NewFramer(&b, nil)
	w.AllowIllegalWrites = true
	for _, s := range []func(){
		func() {
			open(w, 1, false, "content-length", "3", "cookie", "a=1", "cookie", "b=2")
			_ = w.WriteDataPadded(1, true, []byte("abc"), make([]byte, 3))
			open(w, 3, false, "trailer", "a")
			_ = w.WriteData(3, false, bytes.Repeat([]byte("x"), 9000))
			_ = w.WriteRSTStream(1, 8)
			_ = w.WriteWindowUpdate(0, 5)
			_ = w.WriteWindowUpdate(3, 5)
		},
		func() { open(w, 1, true, "te", "trailers"); open(w, 1, true); open(w, 5, true); open(w, 3, true) },
		func() {
			_ = w.WriteSettings(nethttp2.Setting{ID: 4, Val: 0}, nethttp2.Setting{ID: 1, Val: 0})
			open(w, 1, true)
			_ = w.WriteSettings(nethttp2.Setting{ID: 4, Val: 1 << 20})
			_ = w.WritePing(false, [8]byte{})
			_ = w.WriteGoAway(0, 0, nil)
			_ = w.WritePriority(1, nethttp2.PriorityParam{StreamDep: 1})
		},
	} {
		b.Reset()
		_ = w.WriteSettings()
		s()
		f.Add(bytes.Clone(b.Bytes()), uint16(7))
	}
	f.Fuzz(func(t *testing.T, in []byte, size uint16) {
		for _, pieces := range [][][]byte{{in}, slices.Collect(slices.Chunk(in, int(max(size, 1))))} {
			synctest.Test(t, func(t *testing.T) { serveScript(t, pieces) })
		}
	})
}

// client is a connection as the edge has it.
type client struct{ net.Conn }

func (client) SetIdle(bool) {}
func (client) Linger()      {}
func (c client) Cut()       { _ = c.Close() }

// A client that floods and does not read what it gets is disconnected all the same, with its requests.
func TestFloodByAClientThatDoesNotReadEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		kinds := map[string]int{}
		s := http2.NewServer(http2.Options{
			Count:   func(kind string) { kinds[kind]++ },
			Receive: func(http2.Conn, int) bool { return true }, Read: func(http2.Conn, int) {},
			Log: slog.New(slog.DiscardHandler),
		})
		here, there := net.Pipe() // a write waits until it is read
		ended := false
		go s.Serve(client{there}, []byte(nethttp2.ClientPreface), func(r *message.Request, _ message.Writer) {
			<-r.Context.Done()
			ended = true
		})
		w := nethttp2.NewFramer(here, nil)
		_ = w.WriteSettings()
		var block bytes.Buffer
		enc := hpack.NewEncoder(&block)
		for name, value := range map[string]string{":method": "GET", ":scheme": "http", ":authority": "x", ":path": "/"} {
			_ = enc.WriteField(hpack.HeaderField{Name: name, Value: value}) // a buffer takes everything
		}
		_ = w.WriteHeaders(nethttp2.HeadersFrameParam{
			StreamID: 1, EndHeaders: true, EndStream: true, BlockFragment: block.Bytes(),
		})
		begin := time.Now()
		for i := 0; w.WritePing(false, [8]byte{}) == nil; i++ {
			if i > 1000 {
				t.Fatal("the client could send a thousand pings")
			}
		}
		synctest.Wait()
		if took := time.Since(begin); took > 2*time.Second || !ended || kinds["frame_flood"] != 1 {
			t.Errorf("after %v the request has ended: %t, counted as %v; want a frame_flood within 2 s", took, ended, kinds)
		}
		s.Close()
	})
}

func serveScript(t *testing.T, pieces [][]byte) {
	var unread, running atomic.Int64
	s := http2.NewServer(http2.Options{
		Count:   func(string) {},
		Receive: func(_ http2.Conn, n int) bool { unread.Add(int64(n)); return true },
		Read:    func(_ http2.Conn, n int) { unread.Add(-int64(n)) },
		Log:     slog.New(slog.DiscardHandler),
	})
	c := &script{pieces: slices.Clone(pieces)}
	s.Serve(c, []byte(nethttp2.ClientPreface), func(r *message.Request, w message.Writer) {
		running.Add(1)
		defer running.Add(-1)
		if r.Body != nil {
			_, _ = io.Copy(io.Discard, r.Body)
		}
		if w.Begin(200, nil, -1) == nil {
			_, _ = w.Write([]byte("ok"))
			_ = w.End(message.Header{{Name: "A", Value: "b"}})
		}
	})
	synctest.Wait()
	if running.Load() != 0 || unread.Load() != 0 {
		t.Errorf("after the connection, %d requests are in progress and %d bytes are held, want none", running.Load(),
			unread.Load())
	}
	s.Close()
	c.mu.Lock()
	defer c.mu.Unlock()
	in := nethttp2.NewFramer(nil, &c.out)
	in.ReadMetaHeaders = hpack.NewDecoder(4096, nil)
	for {
		if _, err := in.ReadFrame(); errors.Is(err, io.EOF) {
			return
		} else if err != nil {
			t.Fatalf("what the server has sent cannot be read: %v", err)
		}
	}
}

// Fields that are not put into the table of HPACK are encoded here, and with all lengths.
func TestFieldsOfAllLengths(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var values []string
		for _, n := range []int{0, 1, 126, 127, 128, 254, 255, 256, 16509, 16510, 16511, 40000} {
			values = append(values, strings.Repeat("x", n))
		}
		var h message.Header
		for _, v := range values {
			h.Add("Etag", v)
		}
		s := http2.NewServer(http2.Options{
			Count: func(string) {}, Receive: func(http2.Conn, int) bool { return true }, Read: func(http2.Conn, int) {},
			Log: slog.New(slog.DiscardHandler),
		})
		here, there := net.Pipe()
		go s.Serve(client{there}, []byte(nethttp2.ClientPreface), func(_ *message.Request, w message.Writer) {
			_ = w.Begin(200, h, 0)
			_ = w.End(nil)
		})
		f := nethttp2.NewFramer(here, here)
		var block bytes.Buffer
		enc := hpack.NewEncoder(&block)
		for _, p := range [][2]string{{":method", "GET"}, {":scheme", "http"}, {":authority", "x"}, {":path", "/"}} {
			_ = enc.WriteField(hpack.HeaderField{Name: p[0], Value: p[1]}) // a buffer takes everything
		}
		go func() {
			_ = f.WriteSettings()
			_ = f.WriteHeaders(nethttp2.HeadersFrameParam{
				StreamID: 1, EndHeaders: true, EndStream: true, BlockFragment: block.Bytes(),
			})
		}()
		f.ReadMetaHeaders = hpack.NewDecoder(4096, nil)
		f.MaxHeaderListSize = 1 << 20
		for {
			in, err := f.ReadFrame()
			if err != nil {
				t.Fatal(err)
			}
			m, ok := in.(*nethttp2.MetaHeadersFrame)
			if !ok {
				continue
			}
			var got []string
			for _, field := range m.RegularFields() {
				if field.Name == "etag" {
					got = append(got, field.Value)
				}
			}
			if !slices.Equal(got, values) {
				t.Errorf("the client got %d fields, want the %d that were sent", len(got), len(values))
			}
			break
		}
		_ = here.Close()
		s.Close()
	})
}
