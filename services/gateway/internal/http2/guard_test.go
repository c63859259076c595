package http2_test

import (
	"bytes"
	"io"
	"log/slog"
	"net"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"bijou.dev/services/gateway/internal/http2"

	nethttp2 "golang.org/x/net/http2"
)

// client is a connection as the edge has it.
type client struct{ net.Conn }

func (client) SetIdle(bool) {}
func (client) Linger()      {}
func (c client) Cut()       { _ = c.Close() }

// A connection is closed soon after its client was disconnected, although the client keeps its side open and the server
// begins to read during the close. net/http does both at the same time when a write fails.
func TestDisconnectEndsAReadThatBeginsLater(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := http2.NewServer(http2.Options{
			Count: func(string) {}, Receive: func(http2.Conn, int) bool { return true }, Read: func(http2.Conn, int) {},
			Log: slog.New(slog.DiscardHandler),
		})
		defer s.Close()
		here, there := net.Pipe()
		go func() { _, _ = io.Copy(io.Discard, here) }()
		server := http2.NewConn(client{there}, s)
		ping := "\x00\x00\x08\x06\x00\x00\x00\x00\x0012345678"
		buf := make([]byte, 1<<10)
		// in the middle of a frame there is a time limit
		for _, piece := range []string{nethttp2.ClientPreface + ping[:12], ping[12:]} {
			go func() { _, _ = io.WriteString(here, piece) }()
			for got := 0; got < len(piece); {
				n, err := server.Read(buf)
				if err != nil {
					t.Fatal(err)
				}
				got += n
			}
		}
		http2.Disconnect(server)
		var done sync.WaitGroup
		done.Go(func() { _ = server.Close() })
		synctest.Wait()
		done.Go(func() { _, _ = server.Read(buf) })
		time.Sleep(time.Second)
		synctest.Wait()
		if _, err := here.Write([]byte{0}); err == nil {
			t.Error("a second after the disconnect the connection is still open")
		}
		here.Close()
		done.Wait()
	})
}

// FuzzHeads compares the headers of frames with those that x/net finds. They must not depend on the pieces in which
// bytes come.
func FuzzHeads(f *testing.F) {
	f.Add([]byte("\x00\x00\x08\x06\x00\x00\x00\x00\x0012345678\x00\x00\x04\x03\x00\x00\x00\x00\x01\x00\x00\x00\x08"),
		uint8(3))
	f.Add([]byte("\x00\x00\x08\x07\x00\x00\x00\x00\x0012345678\x00\x00\x00\x04\x01\x00\x00\x00\x00"), uint8(1))
	f.Fuzz(func(t *testing.T, in []byte, size uint8) {
		heads, between := http2.Heads([][]byte{in})
		again, betweenAgain := http2.Heads(slices.Collect(slices.Chunk(in, int(max(size, 1)))))
		if !slices.Equal(heads, again) || between != betweenAgain {
			t.Fatalf("whole %v %v, in pieces %v %v", heads, between, again, betweenAgain)
		}
		r := bytes.NewReader(in)
		for i, h := range heads {
			want, err := nethttp2.ReadFrameHeader(r)
			if err != nil || h != [3]int{int(want.Type), int(want.Length), int(want.StreamID)} {
				t.Fatalf("head %d is %v, want %v, %v", i, h, want, err)
			}
			if int(want.Length) > r.Len() {
				return
			}
			_, _ = r.Seek(int64(want.Length), io.SeekCurrent)
		}
	})
}
