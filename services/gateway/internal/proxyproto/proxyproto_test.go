package proxyproto_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"strings"
	"testing"
	"testing/iotest"

	configv1 "bijou.dev/platform/api/config/v1"
	"bijou.dev/platform/config"
	"bijou.dev/platform/errs"
	"bijou.dev/services/gateway/internal/proxyproto"
)

// v2 returns a header of version 2.
func v2(command, family byte, block string) string {
	head := []byte("\r\n\r\n\x00\r\nQUIT\n")
	head = append(head, command, family)
	head = binary.BigEndian.AppendUint16(head, uint16(len(block)))
	return string(head) + block
}

const (
	block4 = "\xc6\x33\x64\x07\x0a\x00\x00\x01\x10\x00\x00\x50" // 198.51.100.7 to 10.0.0.1
	block6 = "\x20\x01\x0d\xb8\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x07" +
		"\x20\x01\x0d\xb8\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x01\x10\x00\x00\x50"
	mapped6 = "\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\xff\xff\xc6\x33\x64\x07" +
		"\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\xff\xff\x0a\x00\x00\x01\x10\x00\x00\x50"
	tlv = "\x04\x00\x03abc" // NOOP
)

// headers are good headers with the address that they name; empty: none.
var headers = map[string]struct{ text, want string }{
	"1, IPv4":                 {"PROXY TCP4 198.51.100.7 10.0.0.1 4096 80\r\n", "198.51.100.7"},
	"1, the shortest of IPv4": {"PROXY TCP4 1.1.1.1 2.2.2.2 0 0\r\n", "1.1.1.1"},
	"1, the longest of IPv4":  {"PROXY TCP4 255.255.255.255 255.255.255.255 65535 65535\r\n", "255.255.255.255"},
	"1, IPv6":                 {"PROXY TCP6 2001:db8::7 2001:db8::1 4096 80\r\n", "2001:db8::7"},
	"1, the shortest of IPv6": {"PROXY TCP6 :: :: 0 0\r\n", "::"},
	"1, the longest of IPv6": {
		"PROXY TCP6 ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff 65535 65535\r\n",
		"ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff",
	},
	"1, IPv4 as IPv6":       {"PROXY TCP6 ::ffff:198.51.100.7 2001:db8::1 4096 80\r\n", "198.51.100.7"},
	"1, IPv4 in TCP6":       {"PROXY TCP6 198.51.100.7 2001:db8::1 4096 80\r\n", "198.51.100.7"},
	"1, unknown":            {"PROXY UNKNOWN\r\n", ""},
	"1, unknown, more":      {"PROXY UNKNOWN 198.51.100.7 10.0.0.1 4096 80\r\n", ""},
	"1, the longest":        {"PROXY UNKNOWN " + strings.Repeat("x", 91) + "\r\n", ""},
	"2, IPv4":               {v2(0x21, 0x11, block4), "198.51.100.7"},
	"2, IPv4, TLVs":         {v2(0x21, 0x11, block4+tlv+tlv), "198.51.100.7"},
	"2, IPv4, the longest":  {v2(0x21, 0x11, block4+strings.Repeat("x", 16<<10-12)), "198.51.100.7"},
	"2, IPv6":               {v2(0x21, 0x21, block6), "2001:db8::7"},
	"2, IPv6, TLVs":         {v2(0x21, 0x21, block6+tlv), "2001:db8::7"},
	"2, IPv4 as IPv6":       {v2(0x21, 0x21, mapped6), "198.51.100.7"},
	"2, local":              {v2(0x20, 0x00, ""), ""},
	"2, local with a block": {v2(0x20, 0x11, block4), ""},
	"2, local, no family":   {v2(0x20, 0xff, "x"), ""},
	"2, unspecified":        {v2(0x21, 0x00, ""), ""},
	"2, unspecified, TLVs":  {v2(0x21, 0x00, tlv), ""},
	"2, UDP over IPv4":      {v2(0x21, 0x12, block4), ""},
	"2, UDP over IPv6":      {v2(0x21, 0x22, block6), ""},
	"2, Unix":               {v2(0x21, 0x31, strings.Repeat("x", 216)), ""},
}

func TestHeadersAreReadToTheLastByte(t *testing.T) {
	for name, h := range headers {
		for way, reader := range map[string]func(io.Reader) io.Reader{
			"whole": func(r io.Reader) io.Reader { return r }, "byte by byte": iotest.OneByteReader,
			"with the end": iotest.DataErrReader,
		} {
			in := strings.NewReader(h.text + "GET")
			addr, err := proxyproto.Read(reader(in))
			got := ""
			if addr.IsValid() {
				got = addr.String()
			}
			rest, _ := io.ReadAll(in) // it cannot fail
			if way == "with the end" {
				rest = []byte("GET") // this reader takes more than it is asked for
			}
			if err != nil || got != h.want || string(rest) != "GET" {
				t.Errorf("%s, %s: got %q, %v, and %q is left; want %q, and GET left", name, way, got, err, rest, h.want)
			}
		}
	}
}

// A header that is cut off anywhere is an error of the reader.
func TestHeadersThatAreCutOff(t *testing.T) {
	for name, h := range headers {
		for n := range len(h.text) {
			_, err := proxyproto.Read(strings.NewReader(h.text[:n]))
			if !errors.Is(err, io.EOF) && !errors.Is(err, io.ErrUnexpectedEOF) {
				t.Fatalf("%s: the first %d of %d bytes: error %v, want the end of the file", name, n, len(h.text), err)
			}
		}
	}
}

func TestBadHeadersAreRefused(t *testing.T) {
	for name, text := range map[string]string{
		"no header":               "GET / HTTP/1.1\r\n\r\n",
		"another word":            "PROXYTCP4 1.1.1.1 2.2.2.2 1 2\r\n",
		"lower case":              "proxy TCP4 1.1.1.1 2.2.2.2 1 2\r\n",
		"no CR":                   "PROXY TCP4 1.1.1.1 2.2.2.2 1 2\n\n",
		"another family":          "PROXY UDP4 1.1.1.1 2.2.2.2 1 2\r\n",
		"two spaces":              "PROXY TCP4  1.1.1.1 2.2.2.2 1 2\r\n",
		"a word more":             "PROXY TCP4 1.1.1.1 2.2.2.2 1 2 3\r\n",
		"a word less":             "PROXY TCP4 1.1.1.1 2.2.2.2 1\r\n\r\n\r\n",
		"IPv6 as TCP4":            "PROXY TCP4 ::1 2.2.2.2 1 2\r\n",
		"a zone":                  "PROXY TCP6 fe80::1%eth0 ::1 1 2\r\n",
		"no address":              "PROXY TCP4 localhost 2.2.2.2 1 2\r\n",
		"zeros before a number":   "PROXY TCP4 01.1.1.1 2.2.2.2 1 2\r\n",
		"zeros before a port":     "PROXY TCP4 1.1.1.1 2.2.2.2 01 2\r\n",
		"a large port":            "PROXY TCP4 1.1.1.1 2.2.2.2 1 65536\r\n",
		"a sign":                  "PROXY TCP4 1.1.1.1 2.2.2.2 +1 2\r\n",
		"a long line":             "PROXY UNKNOWN " + strings.Repeat("x", 92) + "\r\n",
		"no end":                  "PROXY UNKNOWN " + strings.Repeat("x", 1000),
		"version 1 in binary":     v2(0x11, 0x11, block4),
		"version 3":               v2(0x31, 0x11, block4),
		"another command":         v2(0x22, 0x11, block4),
		"another address family":  v2(0x21, 0x41, block4),
		"another protocol":        v2(0x21, 0x13, block4),
		"a short block of IPv4":   v2(0x21, 0x11, block4[:11]) + "xxxx",
		"a short block of IPv6":   v2(0x21, 0x21, block6[:35]) + "xxxx",
		"a block of 16 KiB and 1": v2(0x21, 0x11, block4+strings.Repeat("x", 16<<10-11)),
	} {
		addr, err := proxyproto.Read(strings.NewReader(text))
		if err == nil || errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) || addr.IsValid() {
			t.Errorf("%s: got %v and error %v, want no address and an error that says what is wrong", name, addr, err)
		}
		if plain := name == "no header" || name == "another word" || name == "lower case"; errors.Is(err,
			proxyproto.ErrMissing) != plain {
			t.Errorf("%s: error %v; is it ErrMissing: want %t", name, err, plain)
		}
	}
}

// However the bytes come, the same ones are read, and the result is the same.
func FuzzRead(f *testing.F) {
	for _, h := range headers {
		f.Add([]byte(h.text + "GET / HTTP/1.1\r\n\r\n"))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		whole, single := bytes.NewReader(data), bytes.NewReader(data)
		addr, err := proxyproto.Read(whole)
		again, err2 := proxyproto.Read(iotest.OneByteReader(single))
		if addr != again || (err == nil) != (err2 == nil) || err == nil && whole.Len() != single.Len() {
			t.Fatalf("%q: got %v, %v, %d left; byte by byte %v, %v, %d left", data, addr, err, whole.Len(), again, err2,
				single.Len())
		}
		if err != nil {
			return
		}
		used := data[:len(data)-whole.Len()]
		if len(used) < 15 || len(used) > 16+16<<10 || addr.Is4In6() || addr.Zone() != "" {
			t.Fatalf("%q: read %d bytes, address %v", data, len(used), addr)
		}
		if used[0] == 'P' && (len(used) > 107 || !bytes.HasSuffix(used, []byte("\r\n")) ||
			bytes.Count(used, []byte("\n")) > 1) {
			t.Fatalf("%q: read %q, which is not one line", data, used)
		}
	})
}

func TestTrustedNetworks(t *testing.T) {
	l, err := proxyproto.Compile(proxyproto.Trusted{HTTP: []string{"10.0.0.0/8", "2001:db8::/32"}})
	if err != nil {
		t.Fatal(err)
	}
	for addr, want := range map[string]bool{
		"10.1.2.3": true, "::ffff:10.1.2.3": true, "11.0.0.1": false, "2001:db8::1%eth0": true, "client": false, "": false,
	} {
		if got := l.HTTP.Has(addr); got != want {
			t.Errorf("%q is a proxy: %t, want %t", addr, got, want)
		}
	}
	if len(l.HTTPS) > 0 {
		t.Errorf("https has the networks %v, want none", l.HTTPS)
	}
}

func TestSettingsAreRefused(t *testing.T) {
	p, err := config.ParseProperty(&configv1.Property{
		Name: "proxies", Type: configv1.Type_TYPE_JSON, DefaultValue: "{}", JsonSchema: proxyproto.Trusted{}.JSONSchema(),
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := p.Check(`{"http": ["10.0.0.0/8"], "https": ["::1"]}`); err != nil {
		t.Errorf("the schema refuses a good value: %v", err)
	}
	if err := p.Check(`{"smtp": []}`); err == nil {
		t.Error("the schema takes a listener that there is not")
	}
	for field, s := range map[string]proxyproto.Trusted{
		"http[0]": {HTTP: []string{"localhost"}}, "https[1]": {HTTPS: []string{"::1", "10.0.0.1/8"}},
		"http": {HTTP: make([]string, 101)},
	} {
		if err := s.Validate(); !errors.Is(err, errs.Invalid) || !strings.Contains(err.Error(), field) {
			t.Errorf("%v: error %v, want one of kind Invalid that names %s", s, err, field)
		}
	}
}
