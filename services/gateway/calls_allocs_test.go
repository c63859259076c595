//go:build !race

package gateway_test

import (
	"bytes"
	"encoding/binary"
	"io"
	"net"
	"slices"
	"testing"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
)

// mostCallAllocs is how many allocations the edge may need for a unary call of gRPC that is not recorded.
const mostCallAllocs = 30

func TestAllocationsOfACall(t *testing.T) {
	call := plainCaller(t, edgeTo(t, "grpc", plainGRPC(t), 0, nil), 1)
	if n := testing.AllocsPerRun(2000, call); n > mostCallAllocs {
		t.Errorf("a call takes %v allocations, want at most %d", n, mostCallAllocs)
	} else {
		t.Logf("a call takes %v allocations", n)
	}
}

// BenchmarkPlainCalls makes 16 calls at once, over one connection.
func BenchmarkPlainCalls(b *testing.B) {
	calls := plainCaller(b, edgeTo(b, "grpc", plainGRPC(b), 0, nil), 16)
	b.ReportAllocs()
	for b.Loop() {
		calls()
	}
}

// static encodes fields so that the same bytes have the same meaning each time.
func static(pairs ...string) []byte {
	var b bytes.Buffer
	enc := hpack.NewEncoder(&b)
	enc.SetMaxDynamicTableSize(0)
	_ = enc.WriteField(hpack.HeaderField{Name: "a", Value: "b"}) // a buffer takes everything
	b.Reset()                                                    // without the change of the table size
	for i := 0; i < len(pairs); i += 2 {
		_ = enc.WriteField(hpack.HeaderField{Name: pairs[i], Value: pairs[i+1], Sensitive: true})
	}
	return b.Bytes()
}

// frames returns the bytes of frames.
func framesOf(write func(f *http2.Framer)) []byte {
	var b bytes.Buffer
	f := http2.NewFramer(&b, nil)
	f.AllowIllegalWrites = true
	write(f)
	return b.Bytes()
}

// setStreams sets the stream of all frames.
func setStreams(frames []byte, id uint32) {
	for len(frames) > 0 {
		binary.BigEndian.PutUint32(frames[5:], id)
		frames = frames[9+(int(frames[0])<<16|int(frames[1])<<8|int(frames[2])):]
	}
}

// eachFrame reads frames without allocations until do returns false.
func eachFrame(c net.Conn, do func(kind http2.FrameType, flags http2.Flags, id uint32, n int) bool) func() error {
	buf, from, to := make([]byte, 64<<10), 0, 0
	return func() error {
		for {
			for to-from >= 9 {
				head := buf[from:to]
				n := int(head[0])<<16 | int(head[1])<<8 | int(head[2])
				if len(head) < 9+n {
					break
				}
				from += 9 + n
				if !do(http2.FrameType(head[3]), http2.Flags(head[4]), binary.BigEndian.Uint32(head[5:]), n) {
					return nil
				}
			}
			to, from = copy(buf, buf[from:to]), 0
			n, err := c.Read(buf[to:])
			if to += n; err != nil {
				return err
			}
		}
	}
}

// plainGRPC answers each call with the same bytes.
func plainGRPC(t testing.TB) (addr string) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go answerCalls(c)
		}
	}()
	return l.Addr().String()
}

func answerCalls(c net.Conn) {
	defer c.Close()
	if _, err := io.ReadFull(c, make([]byte, len(http2.ClientPreface))); err != nil {
		return
	}
	answer := framesOf(func(f *http2.Framer) {
		_ = f.WriteHeaders(http2.HeadersFrameParam{
			StreamID: 1, EndHeaders: true, BlockFragment: static(":status", "200", "content-type", "application/grpc"),
		})
		_ = f.WriteData(1, false, []byte("\x00\x00\x00\x00\x02\x08\x01"))
		_ = f.WriteHeaders(http2.HeadersFrameParam{
			StreamID: 1, EndHeaders: true, EndStream: true, BlockFragment: static("grpc-status", "0"),
		})
	})
	window := framesOf(func(f *http2.Framer) { _ = f.WriteWindowUpdate(0, 1<<20) })
	if _, err := c.Write(append(framesOf(func(f *http2.Framer) { _ = f.WriteSettings() }), window...)); err != nil {
		return
	}
	got := 0
	_ = eachFrame(c, func(kind http2.FrameType, flags http2.Flags, id uint32, n int) bool {
		if kind == http2.FrameData {
			if got += n; got > 1<<20 {
				got -= 1 << 20
				_, _ = c.Write(window)
			}
		}
		if kind <= http2.FrameHeaders && flags&http2.FlagDataEndStream != 0 {
			setStreams(answer, id)
			_, err := c.Write(answer)
			return err == nil
		}
		return true
	})()
}

// plainCaller returns a function that makes some calls at once and waits for their ends.
func plainCaller(t testing.TB, addr string, at int) func() {
	t.Helper()
	c, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	one := framesOf(func(f *http2.Framer) {
		_ = f.WriteHeaders(http2.HeadersFrameParam{
			StreamID: 1, EndHeaders: true, BlockFragment: static(":method", "POST", ":scheme", "http", ":path",
				"/grpc.health.v1.Health/Check", ":authority", "x", "content-type", "application/grpc", "user-agent",
				"grpc-go/1.85.0", "te", "trailers", "grpc-timeout", "1S"),
		})
		_ = f.WriteData(1, true, []byte("\x00\x00\x00\x00\x02\x08\x01"))
	})
	calls := bytes.Repeat(one, at)
	begin := framesOf(func(f *http2.Framer) { _ = f.WriteSettings() })
	window := framesOf(func(f *http2.Framer) { _ = f.WriteWindowUpdate(0, 1<<20) })
	if _, err := c.Write(slices.Concat([]byte(http2.ClientPreface), begin, window)); err != nil {
		t.Fatal(err)
	}
	id, left, got := uint32(1), 0, 0
	read := eachFrame(c, func(kind http2.FrameType, flags http2.Flags, _ uint32, n int) bool {
		if kind == http2.FrameRSTStream || kind == http2.FrameGoAway {
			t.Fatal("the edge ended a call")
		}
		if got += n; got > 1<<20 {
			got -= 1 << 20
			_, _ = c.Write(window)
		}
		if kind == http2.FrameHeaders && flags&http2.FlagHeadersEndStream != 0 {
			left--
		}
		return left > 0
	})
	return func() {
		for i := range at {
			setStreams(calls[i*len(one):(i+1)*len(one)], id)
			id += 2
		}
		left = at
		if _, err := c.Write(calls); err != nil {
			t.Fatal(err)
		}
		if err := read(); err != nil {
			t.Fatal(err)
		}
	}
}
