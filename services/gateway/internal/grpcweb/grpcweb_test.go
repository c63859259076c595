package grpcweb_test

import (
	"encoding/base64"
	"errors"
	"io"
	"strings"
	"testing"
	"testing/iotest"

	"bijou.dev/services/gateway/internal/grpcweb"
	"bijou.dev/services/gateway/internal/message"

	"github.com/google/go-cmp/cmp"
)

// body is a body that has come.
type body struct{ io.Reader }

func (body) Trailer() message.Header       { return nil }
func (body) Received() (n int, whole bool) { return 0, false }
func (body) Interrupt()                    {}
func (body) Malformed() bool               { return false }

func request(kind, accept string, in io.Reader) *message.Request {
	r := &message.Request{Method: "POST", Length: 4, Body: body{in}, Header: message.Header{
		{Name: "Content-Type", Value: kind}, {Name: "X-Grpc-Web", Value: "1"}, {Name: "Authorization", Value: "a"},
	}}
	if accept != "" {
		r.Header.Add("Accept", accept)
	}
	return r
}

func TestCallsAreTurnedIntoGRPC(t *testing.T) {
	for kind, want := range map[string]string{
		"application/grpc-web": "application/grpc", "application/grpc-web+proto": "application/grpc+proto",
		"application/grpc-web-text": "application/grpc", "Application/gRPC-Web-Text+Proto; a=b": "application/grpc+proto",
		"application/grpc": "", "application/grpc+proto": "", "application/grpc-webx": "", "application/json": "", "": "",
	} {
		r := request(kind, "", strings.NewReader("AAAA"))
		c, ok := grpcweb.Parse(r)
		if ok != (want != "") {
			t.Errorf("%q is gRPC-Web: %t, want %t", kind, ok, want != "")
		}
		if !ok {
			continue
		}
		to := c.Request(r)
		header := message.Header{
			{Name: "Content-Type", Value: want}, {Name: "Authorization", Value: "a"}, {Name: "Te", Value: "trailers"},
		}
		if diff := cmp.Diff(header, to.Header); diff != "" {
			t.Errorf("%q: the header (-want +got):\n%s", kind, diff)
		}
		inText := strings.Contains(strings.ToLower(kind), "-text")
		if got, err := io.ReadAll(to.Body); err != nil || inText != (string(got) == "\x00\x00\x00") ||
			inText != (to.Length == -1) {
			t.Errorf("%q: the body is %q of length %d, %v", kind, got, to.Length, err)
		}
		if r.Header.Get("X-Grpc-Web") == "" {
			t.Errorf("%q: the request was changed", kind)
		}
	}
	r := request("application/grpc-web", "", nil)
	if r.Method = "GET"; func() bool { _, ok := grpcweb.Parse(r); return ok }() {
		t.Error("a GET is gRPC-Web")
	}
}

func TestBodiesInBase64(t *testing.T) {
	long := strings.Repeat("0123456789", 2000)
	for in, want := range map[string]string{
		"": "", "YQ==": "a", "YQ==YmM=": "abc", "YWJjZGVm": "abcdef", "YWJjZGU=Zg==": "abcdef",
		base64.StdEncoding.EncodeToString([]byte(long)):                              long,
		base64.StdEncoding.EncodeToString([]byte(long[:1000])) + "YQ==" + "YmNkZWY=": long[:1000] + "abcdef",
	} {
		for way, reader := range map[string]func(io.Reader) io.Reader{
			"whole": func(r io.Reader) io.Reader { return r }, "byte by byte": iotest.OneByteReader,
			"with the end": iotest.DataErrReader, "halves": iotest.HalfReader,
		} {
			r := request("application/grpc-web-text", "", reader(strings.NewReader(in)))
			c, _ := grpcweb.Parse(r)
			b := c.Request(r).Body
			if got, err := io.ReadAll(b); err != nil || string(got) != want || b.Malformed() {
				t.Errorf("%.40q, %s: got %.40q, %v; want %.40q", in, way, got, err, want)
			}
		}
	}
	for _, in := range []string{
		"Y", "YW", "YWJ", "YWJj=", "Y===", "====", "=YWJ", "YQ==Y", "YW-_", "YW\nJj", "YQ=a", "YWJj\r\n\r\n",
	} {
		r := request("application/grpc-web-text", "", strings.NewReader(in))
		c, _ := grpcweb.Parse(r)
		b := c.Request(r).Body
		if got, err := io.ReadAll(b); err == nil || !b.Malformed() {
			t.Errorf("%q: got %q, %v, malformed %t; want an error", in, got, err, b.Malformed())
		}
	}
	failing := request("application/grpc-web-text", "", iotest.ErrReader(io.ErrClosedPipe))
	c, _ := grpcweb.Parse(failing)
	b := c.Request(failing).Body
	if _, err := io.ReadAll(b); !errors.Is(err, io.ErrClosedPipe) || b.Malformed() {
		t.Errorf("the client left: %v, malformed %t; want that error and not malformed", err, b.Malformed())
	}
}

// FuzzText: however the bytes come, the result is the same, and what encodes to base64 comes out.
func FuzzText(f *testing.F) {
	f.Add("YQ==YmM=", "abc")
	f.Fuzz(func(t *testing.T, in, plain string) {
		read := func(r io.Reader) (string, bool) {
			req := request("application/grpc-web-text", "", r)
			c, _ := grpcweb.Parse(req)
			b := c.Request(req).Body
			got, err := io.ReadAll(b)
			if (err != nil) != b.Malformed() {
				t.Fatalf("%q: error %v, malformed %t", in, err, b.Malformed())
			}
			return string(got), err == nil
		}
		whole, ok := read(strings.NewReader(in))
		if single, ok2 := read(iotest.OneByteReader(strings.NewReader(in))); ok != ok2 || ok && single != whole {
			t.Fatalf("%q: got %q, %t; byte by byte %q, %t", in, whole, ok, single, ok2)
		}
		if got, ok := read(strings.NewReader(base64.StdEncoding.EncodeToString([]byte(plain)))); !ok || got != plain {
			t.Fatalf("%q was encoded and decoded as %q", plain, got)
		}
	})
}

// written is a message.Writer that keeps what it gets.
type written struct {
	message.Writer
	Status  int
	Header  message.Header
	Length  int64
	Body    string
	Trailer message.Header
}

func (w *written) Begin(status int, h message.Header, length int64) error {
	w.Status, w.Header, w.Length = status, h, length
	return nil
}

func (w *written) Write(p []byte) (int, error) {
	w.Body += string(p)
	return len(p), nil
}

func (w *written) End(trailer message.Header) error {
	w.Trailer = trailer
	return nil
}

func TestResponsesAreTurnedIntoGRPCWeb(t *testing.T) {
	trailer := message.Header{{Name: "Grpc-Status", Value: "5"}, {Name: "Grpc-Message", Value: "none"}}
	const piece = "\x80\x00\x00\x00\x24grpc-status: 5\r\ngrpc-message: none\r\n"
	field := func(name, value string) message.Field { return message.Field{Name: name, Value: value} }
	for name, c := range map[string]struct {
		kind, accept string
		header       message.Header
		body         []string
		trailer      message.Header
		want         written
	}{
		"binary": {
			"application/grpc-web+proto", "",
			message.Header{
				field("Content-Type", "application/grpc+proto"),
				field("Trailer", "Grpc-Status"),
			},
			[]string{"ab", "c"},
			trailer,
			written{
				Header: message.Header{field("Content-Type", "application/grpc-web+proto")}, Length: -1, Body: "abc" + piece,
			},
		},
		"text": {
			"application/grpc-web-text", "*/*",
			message.Header{field("Content-Type", "application/grpc")},
			[]string{"ab", "c"},
			trailer,
			written{
				Header: message.Header{field("Content-Type", "application/grpc-web-text")}, Length: -1,
				Body: "YWI=Yw==" + base64.StdEncoding.EncodeToString([]byte(piece)),
			},
		},
		"text for a binary request": {
			"application/grpc-web", "application/grpc-web-text",
			message.Header{field("Content-Type", "application/grpc")},
			[]string{"abc"},
			nil,
			written{
				Header: message.Header{field("Content-Type", "application/grpc-web-text")}, Length: -1,
				Body: "YWJjgAAAAAA=",
			},
		},
		"the status in the header": {
			"application/grpc-web-text", "",
			message.Header{field("Content-Type", "application/grpc"), field("Grpc-Status", "14")},
			nil, nil,
			written{Header: message.Header{
				field("Content-Type", "application/grpc-web-text"), field("Grpc-Status", "14"),
			}},
		},
		"not gRPC": {
			"application/grpc-web-text", "",
			message.Header{field("Content-Type", "text/html")},
			[]string{"<p>"},
			trailer,
			written{Header: message.Header{field("Content-Type", "text/html")}, Body: "<p>", Trailer: trailer},
		},
	} {
		call, _ := grpcweb.Parse(request(c.kind, c.accept, nil))
		got := &written{}
		w := call.Writer(got)
		if err := w.Begin(200, c.header, 0); err != nil {
			t.Fatal(err)
		}
		for _, p := range c.body {
			if n, err := w.Write([]byte(p)); n != len(p) || err != nil {
				t.Fatalf("%s: writing %q: %d, %v", name, p, n, err)
			}
		}
		if err := w.End(c.trailer); err != nil {
			t.Fatal(err)
		}
		c.want.Status = 200
		if diff := cmp.Diff(c.want, *got); diff != "" {
			t.Errorf("%s (-want +got):\n%s", name, diff)
		}
	}
}
