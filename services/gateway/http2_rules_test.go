package gateway_test

import (
	"bytes"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
)

// framer sends frames to the edge, also such as are not allowed.
type framer struct{ *http2.Framer }

// block encodes pairs of names and values.
func block(pairs ...string) []byte {
	var b bytes.Buffer
	enc := hpack.NewEncoder(&b)
	for i := 0; i < len(pairs); i += 2 {
		_ = enc.WriteField(hpack.HeaderField{Name: pairs[i], Value: pairs[i+1]}) // a buffer takes everything
	}
	return b.Bytes()
}

// fieldsOfGet are the fields of a good request.
var fieldsOfGet = []string{":method", "GET", ":scheme", "http", ":authority", "x", ":path", "/"}

func (f framer) raw(kind http2.FrameType, flags http2.Flags, stream uint32, payload string) {
	_ = f.WriteRawFrame(kind, flags, stream, []byte(payload)) // what the edge does shows in its answer
}

// open opens a stream with a good request.
func (f framer) open(stream uint32, end bool, more ...string) {
	flags := http2.FlagHeadersEndHeaders
	if end {
		flags |= http2.FlagHeadersEndStream
	}
	f.raw(http2.FrameHeaders, flags, stream, string(block(slices.Concat(fieldsOfGet, more)...)))
}

// half sends a header that is not complete.
func (f framer) half() { f.raw(http2.FrameHeaders, endStream, 1, string(block(fieldsOfGet...))) }

func (f framer) header(stream uint32, b []byte) {
	f.raw(http2.FrameHeaders, endHeaders|endStream, stream, string(b))
}

func (f framer) window(stream uint32, payload string) {
	f.raw(http2.FrameWindowUpdate, 0, stream, payload)
}

func (f framer) priority(stream uint32, payload string) {
	f.raw(http2.FramePriority, 0, stream, payload)
}

func (f framer) reset(stream uint32, payload string) { f.raw(http2.FrameRSTStream, 0, stream, payload) }

func (f framer) settings(stream uint32, payload string) {
	f.raw(http2.FrameSettings, 0, stream, payload)
}

// hang opens a stream that is not answered, and whose body is not read.
func (f framer) hang(stream uint32, flags http2.Flags) {
	f.raw(http2.FrameHeaders, endHeaders|flags, stream, string(block(append(slices.Clone(fieldsOfGet[:7]), "/hang")...)))
}

const (
	endHeaders = http2.FlagHeadersEndHeaders
	endStream  = http2.FlagHeadersEndStream
	padded     = http2.FlagDataPadded
)

// http2Rules are rules of RFC 9113 by section: what a client sends, and what the edge must answer.
var http2Rules = []struct {
	name string
	send func(f framer)
	want string // a part of what frames returns
}{
	{"3.4 settings come first", func(framer) {}, "SETTINGS; "},
	{"4.1 unknown type", func(f framer) { f.raw(0xfa, 0xff, 0, "grease"); f.open(1, true) }, "1 200"},
	{"4.1 unused flags", func(f framer) {
		f.raw(http2.FrameHeaders, endHeaders|endStream|0x80|0x10, 1, string(block(fieldsOfGet...)))
	}, "1 200"},
	{"4.1 reserved bit", func(f framer) {
		f.raw(http2.FrameHeaders, endHeaders|endStream, 1|1<<31, string(block(fieldsOfGet...)))
	}, "1 200"},
	{"4.2 largest frame", func(f framer) {
		f.open(1, false)
		f.raw(http2.FrameData, http2.FlagDataEndStream, 1, strings.Repeat("x", 16<<10))
	}, "1 200"},
	{"4.2 too large frame", func(f framer) {
		f.open(1, false)
		f.raw(http2.FrameData, 0, 1, strings.Repeat("x", 16<<10+1))
	}, "GOAWAY FRAME_SIZE_ERROR"},
	{"4.3 broken compression", func(f framer) {
		f.raw(http2.FrameHeaders, endHeaders|endStream, 1, "\xff\xff\xff\xff\xff\xff")
	}, "GOAWAY COMPRESSION_ERROR"},
	{"4.3 a frame within a header", func(f framer) {
		f.half()
		f.raw(http2.FramePing, 0, 0, "12345678")
	}, "GOAWAY PROTOCOL_ERROR"},
	{"4.3 a header of another stream within a header", func(f framer) {
		f.half()
		f.open(3, true)
	}, "GOAWAY PROTOCOL_ERROR"},
	{"5.1 data of an idle stream", func(f framer) { f.raw(http2.FrameData, 0, 1, "x") }, "GOAWAY PROTOCOL_ERROR"},
	{"5.1 window of an idle stream", func(f framer) { f.window(1, "\x00\x00\x00\x01") }, "GOAWAY PROTOCOL_ERROR"},
	{"5.1 priority of an idle stream", func(f framer) {
		f.priority(1, "\x00\x00\x00\x00\x01")
		f.open(3, true)
	}, "3 200"},
	{"5.1 data after the end", func(f framer) {
		f.hang(1, endStream)
		f.raw(http2.FrameData, 0, 1, "x")
	}, "1 STREAM_CLOSED"},
	{"5.1 header after the end", func(f framer) { f.hang(1, endStream); f.hang(1, endStream) }, "1 STREAM_CLOSED"},
	{"5.1 window after the end", func(f framer) {
		f.open(1, true)
		f.window(1, "\x00\x00\x00\x01")
		f.open(3, true)
	}, "3 200"},
	{"5.1.1 even number", func(f framer) { f.open(2, true) }, "GOAWAY PROTOCOL_ERROR"},
	{"5.1.1 lower number", func(f framer) { f.open(5, true); f.open(3, true) }, "GOAWAY PROTOCOL_ERROR"},
	{"5.1.2 too many streams", func(f framer) {
		for i := range uint32(101) {
			f.hang(1+2*i, 0)
		}
	}, "201 REFUSED_STREAM"},
	{"5.5 extension within a header", func(f framer) {
		f.half()
		f.raw(0xfa, 0, 0, "x")
	}, "GOAWAY PROTOCOL_ERROR"},
	{"6.1 data of stream 0", func(f framer) { f.raw(http2.FrameData, 0, 0, "x") }, "GOAWAY PROTOCOL_ERROR"},
	{"6.1 padding longer than the frame", func(f framer) {
		f.hang(1, 0)
		f.raw(http2.FrameData, padded, 1, "\x05abc")
	}, "GOAWAY PROTOCOL_ERROR"},
	{"6.1 padding", func(f framer) {
		f.open(1, false)
		f.raw(http2.FrameData, padded|http2.FlagDataEndStream, 1, "\x02abc\x00\x00")
	}, "1 200"},
	{"6.2 header of stream 0", func(f framer) { f.open(0, true) }, "GOAWAY PROTOCOL_ERROR"},
	{"6.3 priority of stream 0", func(f framer) { f.priority(0, "\x00\x00\x00\x00\x01") }, "GOAWAY PROTOCOL_ERROR"},
	{"6.3 short priority", func(f framer) { f.hang(1, 0); f.priority(1, "\x00\x00\x00\x01") }, "FRAME_SIZE_ERROR"},
	{"6.4 reset of stream 0", func(f framer) { f.reset(0, "\x00\x00\x00\x08") }, "GOAWAY PROTOCOL_ERROR"},
	{"6.4 reset of an idle stream", func(f framer) { f.reset(1, "\x00\x00\x00\x08") }, "GOAWAY PROTOCOL_ERROR"},
	{"6.4 short reset", func(f framer) { f.hang(1, 0); f.reset(1, "\x00\x00\x08") }, "GOAWAY FRAME_SIZE_ERROR"},
	{"6.4 no reset for a reset", func(f framer) {
		f.hang(1, 0)
		f.reset(1, "\x00\x00\x00\x08")
		f.open(3, true)
	}, "3 200"},
	{"6.5 acknowledgement with content", func(f framer) {
		f.raw(http2.FrameSettings, http2.FlagSettingsAck, 0, "\x00\x03\x00\x00\x00\x01")
	}, "GOAWAY FRAME_SIZE_ERROR"},
	{"6.5 settings of a stream", func(f framer) { f.settings(1, "") }, "GOAWAY PROTOCOL_ERROR"},
	{"6.5 settings cut", func(f framer) { f.settings(0, "\x00\x03\x00\x00\x00") }, "GOAWAY FRAME_SIZE_ERROR"},
	{"6.5.2 push neither on nor off", func(f framer) {
		f.settings(0, "\x00\x02\x00\x00\x00\x02")
	}, "GOAWAY PROTOCOL_ERROR"},
	{"6.5.2 window too large", func(f framer) {
		f.settings(0, "\x00\x04\x80\x00\x00\x00")
	}, "GOAWAY FLOW_CONTROL_ERROR"},
	{"6.5.2 frame size too small", func(f framer) {
		f.settings(0, "\x00\x05\x00\x00\x10\x00")
	}, "GOAWAY PROTOCOL_ERROR"},
	{"6.5.2 frame size too large", func(f framer) {
		f.settings(0, "\x00\x05\x01\x00\x00\x00")
	}, "GOAWAY PROTOCOL_ERROR"},
	{"6.5.2 unknown setting", func(f framer) { f.settings(0, "\xfa\xfa\x00\x00\x00\x01"); f.open(1, true) }, "1 200"},
	{"6.5.3 settings are acknowledged", func(framer) {}, "SETTINGS ack"},
	{"6.6 promise of a client", func(f framer) {
		f.hang(1, 0)
		f.raw(http2.FramePushPromise, endHeaders, 1, "\x00\x00\x00\x02"+string(block(fieldsOfGet...)))
	}, "GOAWAY PROTOCOL_ERROR"},
	{"6.7 ping", func(f framer) { f.raw(http2.FramePing, 0, 0, "abcdefgh") }, "PING ack abcdefgh"},
	{"6.7 no answer to an answer", func(f framer) {
		f.raw(http2.FramePing, http2.FlagPingAck, 0, "abcdefgh")
		f.open(1, true)
	}, "1 200"},
	{"6.7 ping of a stream", func(f framer) { f.raw(http2.FramePing, 0, 1, "abcdefgh") }, "GOAWAY PROTOCOL_ERROR"},
	{"6.7 short ping", func(f framer) { f.raw(http2.FramePing, 0, 0, "abcdefg") }, "GOAWAY FRAME_SIZE_ERROR"},
	{"6.8 farewell of a stream", func(f framer) {
		f.raw(http2.FrameGoAway, 0, 1, "\x00\x00\x00\x00\x00\x00\x00\x00")
	}, "GOAWAY PROTOCOL_ERROR"},
	{"6.9 no increment for a stream", func(f framer) {
		f.hang(1, 0)
		f.window(1, "\x00\x00\x00\x00")
	}, "1 PROTOCOL_ERROR"},
	{"6.9 no increment for the connection", func(f framer) {
		f.window(0, "\x00\x00\x00\x00")
	}, "GOAWAY PROTOCOL_ERROR"},
	{"6.9 short increment", func(f framer) { f.window(0, "\x00\x00\x01") }, "GOAWAY FRAME_SIZE_ERROR"},
	{"6.9.1 window of a stream too large", func(f framer) {
		f.hang(1, 0)
		f.window(1, "\x7f\xff\xff\xff")
	}, "1 FLOW_CONTROL_ERROR"},
	{"6.9.1 window of the connection too large", func(f framer) {
		f.window(0, "\x7f\xff\xff\xff")
	}, "GOAWAY FLOW_CONTROL_ERROR"},
	{"6.10 continuation of nothing", func(f framer) {
		f.raw(http2.FrameContinuation, http2.FlagContinuationEndHeaders, 1, "")
	}, "GOAWAY PROTOCOL_ERROR"},
	{"6.10 continuation of stream 0", func(f framer) {
		f.half()
		f.raw(http2.FrameContinuation, http2.FlagContinuationEndHeaders, 0, "")
	}, "GOAWAY PROTOCOL_ERROR"},
	{"6.10 continuation", func(f framer) {
		b := string(block(fieldsOfGet...))
		f.raw(http2.FrameHeaders, endStream, 1, b[:5])
		f.raw(http2.FrameContinuation, 0, 1, "")
		f.raw(http2.FrameContinuation, http2.FlagContinuationEndHeaders, 1, b[5:])
	}, "1 200"},
	{"7 unknown error", func(f framer) {
		f.hang(1, 0)
		f.reset(1, "\xff\xff\xff\xff")
		f.open(3, true)
	}, "3 200"},
	{"8.1 pseudo field in the trailer", func(f framer) {
		f.hang(1, 0)
		f.header(1, block(":path", "/b"))
	}, "1 PROTOCOL_ERROR"},
	{"8.1 trailer that does not end", func(f framer) {
		f.hang(1, 0)
		f.raw(http2.FrameHeaders, endHeaders, 1, string(block("a", "b")))
	}, "1 PROTOCOL_ERROR"},
	{"8.1.1 length that differs", func(f framer) {
		f.open(1, false, "content-length", "5")
		f.raw(http2.FrameData, http2.FlagDataEndStream, 1, "abc")
	}, "1 400"},
	{"8.3 no method", func(f framer) { f.header(1, block(fieldsOfGet[2:]...)) }, "1 PROTOCOL_ERROR"},
	{"8.3 no scheme", func(f framer) {
		f.header(1, block(slices.Concat(fieldsOfGet[:2], fieldsOfGet[4:])...))
	}, "1 PROTOCOL_ERROR"},
	{"8.3 no path", func(f framer) { f.header(1, block(fieldsOfGet[:6]...)) }, "1 PROTOCOL_ERROR"},
}

// TestHTTP2Rules is about HTTP/2 itself. What is in the fields is in TestDowngrade.
func TestHTTP2Rules(t *testing.T) {
	for _, c := range http2Rules {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t, toWeb)
				w.origin("web", "web-1", "", http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
					if r.URL.Path == "/hang" {
						select { // a body that is not read hides from the server that its client leaves
						case <-r.Context().Done():
						case <-time.After(3 * time.Second):
						}
					}
				}))
				if got := w.frames(c.send); !strings.Contains(got, c.want) {
					t.Errorf("the edge answered %q, want %q in it", got, c.want)
				}
				time.Sleep(5 * time.Second) // the origin hangs for three
			})
		})
	}
}

// frames opens a connection of HTTP/2, lets send write to it and returns what the edge sends within a second.
func (w *world) frames(send func(f framer)) string {
	w.t.Helper()
	c := w.dial()
	defer c.Close()
	out := http2.NewFramer(c, nil)
	out.AllowIllegalWrites = true
	go func() {
		_, _ = io.WriteString(c, http2.ClientPreface) // what does not arrive shows in what comes back
		_ = out.WriteSettings()
		send(framer{out})
	}()
	var got []string
	in := http2.NewFramer(nil, c)
	in.ReadMetaHeaders = hpack.NewDecoder(4096, nil)
	_ = c.SetReadDeadline(time.Now().Add(time.Second))
	for {
		f, err := in.ReadFrame()
		if err != nil {
			return strings.Join(got, "; ")
		}
		switch f := f.(type) {
		case *http2.MetaHeadersFrame:
			got = append(got, fmt.Sprint(f.StreamID, " ", f.PseudoValue("status")))
		case *http2.RSTStreamFrame:
			got = append(got, fmt.Sprint(f.StreamID, " ", f.ErrCode))
		case *http2.GoAwayFrame:
			got = append(got, fmt.Sprint("GOAWAY ", f.ErrCode))
		case *http2.PingFrame:
			got = append(got, fmt.Sprintf("PING ack %s", f.Data[:]))
		case *http2.SettingsFrame:
			if f.IsAck() {
				got = append(got, "SETTINGS ack")
			} else {
				got = append(got, "SETTINGS")
			}
		}
	}
}

// RFC 9113, 4.3.1: a client that keeps no table can read all responses.
func TestHTTP2ClientsWithoutATable(t *testing.T) {
	w := newWorld(t, toWeb)
	w.origin("web", "web-1", "", http.HandlerFunc(func(rw http.ResponseWriter, _ *http.Request) {
		rw.Header().Set("X-Same", "in each response")
	}))
	c := w.dial()
	defer c.Close()
	f := http2.NewFramer(c, c)
	f.ReadMetaHeaders = hpack.NewDecoder(0, nil)
	_, _ = io.WriteString(c, http2.ClientPreface) // what does not arrive shows in what comes back
	_ = f.WriteSettings(http2.Setting{ID: http2.SettingHeaderTableSize, Val: 0})
	for got := range 3 {
		framer{f}.open(uint32(1+2*got), true)
		for {
			in, err := f.ReadFrame()
			if err != nil {
				t.Fatalf("reading response %d: %v", got+1, err)
			}
			if in, ok := in.(*http2.MetaHeadersFrame); ok {
				if in.PseudoValue("status") != "200" {
					t.Fatalf("response %d has status %s, want 200", got+1, in.PseudoValue("status"))
				}
				break
			}
		}
	}
}
