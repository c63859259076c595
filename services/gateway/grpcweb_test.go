package gateway_test

import (
	"bufio"
	"encoding/base64"
	"encoding/binary"
	"fmt"
	"io"
	"net/http"
	"net/textproto"
	"strings"
	"testing"
	"testing/synctest"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/wrapperspb"
)

const toCallsByWeb = `[{"name":"calls","match":{"prefix":"/test.v1.Calls"},"to":[{"service":"calls","endpoint":"grpc"}],
		"grpcWeb":true,"cors":{"origins":["https://app.example"],"headers":["X-Own"]}},
	{"name":"gone","match":{"prefix":"/test.v1.Gone"},"to":[{"service":"gone","endpoint":"grpc"}],"grpcWeb":true},
	{"name":"other","match":{"prefix":"/test.v1.Other"},"to":[{"service":"calls","endpoint":"grpc"}]}]`

// webCall is what a program in a browser gets for a call.
type webCall struct {
	res      *http.Response
	messages []string
	trailer  textproto.MIMEHeader // from the body; nil: there was none
}

// framed is a message as gRPC frames it.
func framed(text string) []byte {
	b, _ := proto.Marshal(wrapperspb.String(text)) // it cannot fail
	return append(binary.BigEndian.AppendUint32([]byte{0}, uint32(len(b))), b...)
}

// callByWeb makes a call with the messages.
func (w *world) callByWeb(h2, inText bool, method string, messages []string, header ...string) webCall {
	w.t.Helper()
	body, kind := "", "application/grpc-web+proto"
	if inText {
		kind = "application/grpc-web-text+proto"
	}
	for _, text := range messages {
		if m := framed(text); inText {
			body += base64.StdEncoding.EncodeToString(m) // each with its padding
		} else {
			body += string(m)
		}
	}
	res := w.do(w.client(h2), http.MethodPost, "http://x/"+method, strings.NewReader(body),
		append([]string{"Content-Type", kind, "X-Grpc-Web", "1", "Accept", kind}, header...)...)
	if got := res.Header.Get("Content-Type"); got != kind && got != strings.TrimSuffix(kind, "+proto") &&
		res.StatusCode == 200 {
		w.t.Errorf("%s: the answer has the type %q, want %q", method, got, kind)
	}
	if len(res.Trailer) > 0 {
		w.t.Errorf("%s: the answer has the trailer %v, which a browser does not show", method, res.Trailer)
	}
	return w.parseByWeb(res, inText)
}

// parseByWeb reads an answer as a browser's program does.
func (w *world) parseByWeb(res answer, inText bool) (c webCall) {
	w.t.Helper()
	c.res = res.Response
	data := []byte(res.body)
	if inText {
		data = nil
		for i := 0; i+4 <= len(res.body); i += 4 {
			group, err := base64.StdEncoding.DecodeString(res.body[i : i+4])
			if err != nil {
				w.t.Fatalf("the answer is no base64 at byte %d: %q", i, res.body)
			}
			data = append(data, group...)
		}
	}
	for len(data) > 0 {
		if len(data) < 5 || len(data) < 5+int(binary.BigEndian.Uint32(data[1:])) || c.trailer != nil {
			w.t.Fatalf("the answer ends with %q, which is no message", data)
		}
		flag, piece := data[0], data[5:5+int(binary.BigEndian.Uint32(data[1:]))]
		data = data[5+len(piece):]
		switch flag {
		case 0:
			m := new(wrapperspb.StringValue)
			if err := proto.Unmarshal(piece, m); err != nil {
				w.t.Fatal(err)
			}
			c.messages = append(c.messages, m.GetValue())
		case 0x80:
			var err error
			c.trailer, err = textproto.NewReader(bufio.NewReader(strings.NewReader(string(piece) + "\r\n"))).ReadMIMEHeader()
			if err != nil {
				w.t.Fatalf("the trailer %q: %v", piece, err)
			}
		default:
			w.t.Fatalf("a piece has the flag %#x", flag)
		}
	}
	return c
}

// status is the status of the call, from the trailer or the header.
func (c webCall) status() string {
	if c.trailer != nil {
		return c.trailer.Get("Grpc-Status")
	}
	return c.res.Header.Get("Grpc-Status")
}

// eachWeb calls f for each way to make a call.
func eachWeb(f func(name string, h2, inText bool)) {
	for _, h2 := range []bool{false, true} {
		for _, inText := range []bool{false, true} {
			f(fmt.Sprintf("HTTP/2 %t, text %t", h2, inText), h2, inText)
		}
	}
}

func TestCallsByGRPCWeb(t *testing.T) {
	w := newWorld(t, toCallsByWeb)
	w.grpcOrigin("calls", "calls-1")
	long := strings.Repeat("x", 200_000)
	eachWeb(func(name string, h2, inText bool) {
		for _, text := range []string{"", "hi", long} {
			c := w.callByWeb(h2, inText, "test.v1.Calls/Echo", []string{text})
			if len(c.messages) != 1 || c.messages[0] != text || c.status() != "0" {
				t.Errorf("%s: got %.50q and status %q, want %.50q and 0", name, c.messages, c.status(), text)
			}
		}
		c := w.callByWeb(h2, inText, "test.v1.Calls/Echo", []string{"missing"})
		if c.status() != "5" || c.res.StatusCode != 200 || len(c.messages) > 0 {
			t.Errorf("%s: an error: got %d, status %q and %q; want 200 and NOT_FOUND", name, c.res.StatusCode, c.status(),
				c.messages)
		}
		c = w.callByWeb(h2, inText, "test.v1.Calls/Chat", []string{"a", "b", long})
		if len(c.messages) != 3 || c.messages[2] != long || c.status() != "0" {
			t.Errorf("%s: a stream: got %.50q and status %q, want three messages and 0", name, c.messages, c.status())
		}
		c = w.callByWeb(h2, inText, "test.v1.Calls/Chat", []string{"a", "leave"})
		if len(c.messages) != 1 || c.trailer.Get("Grpc-Status") != "10" || c.trailer.Get("Grpc-Message") != "I left" {
			t.Errorf("%s: an error behind a message: got %q and %v, want a and ABORTED", name, c.messages, c.trailer)
		}
	})
}

// A deadline of the client holds, and a message without an origin gets a status.
func TestGRPCWebFailures(t *testing.T) {
	w := newWorld(t, toCallsByWeb)
	w.grpcOrigin("calls", "calls-1")
	eachWeb(func(name string, h2, inText bool) {
		if c := w.callByWeb(h2, inText, "test.v1.Calls/Echo", []string{"work"}, "Grpc-Timeout", "20m"); c.status() != "4" {
			t.Errorf("%s: a deadline: status %q, want DEADLINE_EXCEEDED", name, c.status())
		}
		c := w.callByWeb(h2, inText, "test.v1.Gone/Echo", []string{"hi"})
		if c.status() != "14" || c.res.StatusCode != 200 || c.res.Header.Get("X-Bijou-Fault") != "origin_unreachable" {
			t.Errorf("%s: without an instance: got %d, status %q, %v; want UNAVAILABLE", name, c.res.StatusCode, c.status(),
				c.res.Header)
		}
	})
	res := w.do(w.client(false), http.MethodPost, "http://x/test.v1.Calls/Echo", strings.NewReader("AA-_"), "Content-Type",
		"application/grpc-web-text")
	if res.Header.Get("Grpc-Status") != "3" || res.Header.Get("Content-Type") != "application/grpc-web-text" {
		t.Errorf("a body that is not base64: got %v, want INVALID_ARGUMENT", res.Header)
	}
}

func TestGRPCWebOfOtherOrigins(t *testing.T) {
	w := newWorld(t, toCallsByWeb)
	w.grpcOrigin("calls", "calls-1")
	res := w.do(w.client(false), http.MethodOptions, "http://x/test.v1.Calls/Echo", nil, "Origin", "https://app.example",
		"Access-Control-Request-Method", "POST", "Access-Control-Request-Headers", "content-type,x-grpc-web,x-own")
	allowed := res.Header.Get("Access-Control-Allow-Headers")
	for _, name := range []string{"X-Own", "Content-Type", "X-Grpc-Web", "X-User-Agent", "Grpc-Timeout"} {
		if !strings.Contains(allowed, name) {
			t.Errorf("the preflight allows %q, want %s among them", allowed, name)
		}
	}
	c := w.callByWeb(false, true, "test.v1.Calls/Echo", []string{"hi"}, "Origin", "https://app.example")
	if got := c.res.Header.Get("Access-Control-Expose-Headers"); c.res.Header.Get("Access-Control-Allow-Origin") !=
		"https://app.example" || !strings.Contains(got, "Grpc-Status") || !strings.Contains(got, "Grpc-Message") {
		t.Errorf("the answer is for %q and exposes %q, want https://app.example and the status",
			c.res.Header.Get("Access-Control-Allow-Origin"), got)
	}
}

// A route that does not have gRPC-Web passes it as any other request, and gRPC stays as it is on one that does.
func TestGRPCWebIsForItsRoutesOnly(t *testing.T) {
	w := newWorld(t, toCallsByWeb)
	w.grpcOrigin("calls", "calls-1")
	for _, h2 := range []bool{false, true} {
		res := w.do(w.client(h2), http.MethodPost, "http://x/test.v1.Other/Echo", strings.NewReader("AAAA"), "Content-Type",
			"application/grpc-web-text")
		if res.StatusCode != http.StatusUnsupportedMediaType {
			t.Errorf("HTTP/2 %t: got %d, want 415 of the server, which does not know gRPC-Web", h2, res.StatusCode)
		}
		res = w.do(w.client(h2), http.MethodPost, "http://x/nowhere", nil, "Content-Type", "application/grpc-web")
		if res.StatusCode != http.StatusNotFound {
			t.Errorf("HTTP/2 %t: without a route: got %d, want 404", h2, res.StatusCode)
		}
	}
	out := new(wrapperspb.StringValue)
	if err := w.grpcClient().Invoke(t.Context(), "/test.v1.Calls/Echo", wrapperspb.String("hi"), out); err != nil ||
		out.GetValue() != "hi" {
		t.Errorf("gRPC: got %q, %v; want hi", out.GetValue(), err)
	}
}

// Messages of a stream come at once, and a stop ends a stream with a status.
func TestGRPCWebStreams(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, toCallsByWeb)
		w.grpcOrigin("calls", "calls-1")
		r, send := io.Pipe()
		req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, "http://x/test.v1.Calls/Chat", r)
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Content-Type", "application/grpc-web")
		sent := make(chan error, 1)
		go func() {
			_, err := send.Write(framed("one"))
			sent <- err
		}()
		res, err := w.client(true).Do(req)
		if err != nil {
			t.Fatal(err)
		}
		defer res.Body.Close()
		first := make([]byte, len(framed("one")))
		if _, err := io.ReadFull(res.Body, first); err != nil || <-sent != nil || string(first) != string(framed("one")) {
			t.Fatalf("got %q, %v; want the first message while the client still sends", first, err)
		}
		stopped := make(chan error, 1)
		go func() { stopped <- w.edge.Shutdown(t.Context()) }()
		rest, err := io.ReadAll(res.Body)
		c := w.parseByWeb(answer{res, string(rest)}, false)
		if err != nil || c.status() != "14" {
			t.Errorf("a stop ends the stream with %q, %v; want UNAVAILABLE", rest, err)
		}
		send.Close()
		if err := <-stopped; err != nil {
			t.Error(err)
		}
	})
}
