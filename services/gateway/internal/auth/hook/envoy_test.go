package hook_test

import (
	"strings"
	"testing"

	"bijou.dev/services/gateway/internal/auth/hook"

	"google.golang.org/protobuf/encoding/protowire"
)

func TestURLsOfHooks(t *testing.T) {
	for url, want := range map[string]bool{
		"http://a": true, "https://a.example/x/y": true, "grpc://a:1": true, "grpcs://a.example:50051": true,
		"": false, "a:1": false, "ftp://a": false, "http://": false, "http://a?b": false, "http://a#b": false,
		"http://u:p@a": false, "grpc://a": false, "grpc://a:1/x": false, "http:a": false,
		"http://" + strings.Repeat("a", 512): false,
	} {
		if err := hook.CheckURL(url); (err == nil) != want {
			t.Errorf("%.40s: %v, want it to be good: %v", url, err, want)
		}
	}
}

// field encodes a field with bytes.
func field(n protowire.Number, b ...byte) []byte {
	return protowire.AppendBytes(protowire.AppendTag(nil, n, protowire.BytesType), b)
}

// FuzzParseCheck: an answer that has a response for the client never lets a request pass, and such a response has a
// status from 300 to 499.
func FuzzParseCheck(f *testing.F) {
	code := protowire.AppendVarint(protowire.AppendTag(nil, 1, protowire.VarintType), 7)
	ok, refused := field(3), field(2, field(1, protowire.AppendVarint([]byte{8}, 302)...)...)
	for _, b := range [][]byte{
		nil, ok, field(1, code...), append(field(1, code...), ok...), refused, append(ok, refused...), field(5),
	} {
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		a, err := hook.ParseCheck(b)
		switch {
		case err != nil:
			if a != nil {
				t.Errorf("an answer %+v beside the error %v", a, err)
			}
		case !a.Allowed && (a.Status < 300 || a.Status > 499):
			t.Errorf("%x: a response with the status %d", b, a.Status)
		case a.Allowed && hasField(b, 2):
			t.Errorf("%x lets the request pass, although it has a response for the client", b)
		}
		if err == nil {
			for _, h := range a.Header {
				if strings.ContainsAny(h.Name+h.Value, "\r\n\x00") {
					t.Errorf("%x: the field %q: %q", b, h.Name, h.Value)
				}
			}
		}
	})
}

// hasField reports whether a message that can be read has a field with bytes.
func hasField(b []byte, number protowire.Number) bool {
	for len(b) > 0 {
		n, kind, size := protowire.ConsumeField(b)
		if size < 0 {
			return false
		}
		if n == number && kind == protowire.BytesType {
			return true
		}
		b = b[size:]
	}
	return false
}
