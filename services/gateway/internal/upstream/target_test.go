package upstream_test

import (
	"errors"
	"strings"
	"testing"

	"bijou.dev/platform/errs"
	"bijou.dev/services/gateway/internal/upstream"

	"github.com/google/go-cmp/cmp"
)

func TestParseTargets(t *testing.T) {
	type target struct {
		String, Host, Name string
		TLS, H2C           bool
	}
	for url, want := range map[string]target{
		"http://example.org":               {"http://example.org", "example.org", "example.org", false, false},
		"HTTP://Example.ORG:80":            {"http://example.org", "example.org", "example.org", false, false},
		"http://example.org:8080":          {"http://example.org:8080", "example.org:8080", "example.org", false, false},
		"http://example.org:443":           {"http://example.org:443", "example.org:443", "example.org", false, false},
		"https://example.org":              {"https://example.org", "example.org", "example.org", true, false},
		"https://example.org:443":          {"https://example.org", "example.org", "example.org", true, false},
		"https://example.org.:0443":        {"https://example.org.", "example.org", "example.org", true, false},
		"http://localhost:3000":            {"http://localhost:3000", "localhost:3000", "localhost", false, false},
		"http://my_app-1":                  {"http://my_app-1", "my_app-1", "my_app-1", false, false},
		"http://xn--bcher-kva.de":          {"http://xn--bcher-kva.de", "xn--bcher-kva.de", "xn--bcher-kva.de", false, false},
		"http://10.0.0.1":                  {"http://10.0.0.1", "10.0.0.1", "10.0.0.1", false, false},
		"https://[2001:DB8::0:1]:8443":     {"https://[2001:db8::1]:8443", "[2001:db8::1]:8443", "2001:db8::1", true, false},
		"http://[::1]":                     {"http://[::1]", "[::1]", "::1", false, false},
		"http://[::ffff:10.0.0.1]:81":      {"http://10.0.0.1:81", "10.0.0.1:81", "10.0.0.1", false, false},
		"h2c://example.org:50051":          {"h2c://example.org:50051", "example.org:50051", "example.org", false, true},
		"h2c://_grpc._tcp.example.org":     {"h2c://_grpc._tcp.example.org", "example.org", "example.org", false, true},
		"https://_https._tcp.Example.org.": {"https://_https._tcp.example.org.", "example.org", "example.org", true, false},
		"http://_a.example.org":            {"http://_a.example.org", "_a.example.org", "_a.example.org", false, false},
		"unix:///run/app.sock":             {"unix:///run/app.sock", "localhost", "localhost", false, false},
	} {
		parsed, err := upstream.Parse(url)
		if err != nil {
			t.Errorf("Parse(%q): %v", url, err)
			continue
		}
		got := target{parsed.String(), parsed.Host(), parsed.Name(), parsed.TLS(), parsed.H2C()}
		if d := cmp.Diff(want, got); d != "" {
			t.Errorf("Parse(%q) (-want +got):\n%s", url, d)
		}
	}
}

func TestTargetsWithTheSameMeaningAreEqual(t *testing.T) {
	for _, urls := range [][2]string{
		{"http://Example.org", "http://example.org:80"},
		{"https://[2001:db8:0::1]:443", "https://[2001:db8::1]"},
		{"unix:///a.sock", "UNIX:///a.sock"},
	} {
		if a, b := parse(t, urls[0]), parse(t, urls[1]); a != b {
			t.Errorf("%s and %s are not equal as targets", urls[0], urls[1])
		}
	}
	for _, urls := range [][2]string{
		{"http://example.org", "https://example.org"},
		{"http://example.org", "http://example.org."}, // without the search list
		{"http://example.org", "http://example.org:81"},
		{"http://example.org:81", "h2c://example.org:81"},
	} {
		if a, b := parse(t, urls[0]), parse(t, urls[1]); a == b {
			t.Errorf("%s and %s are equal as targets", urls[0], urls[1])
		}
	}
}

func TestParseSaysWhatIsWrongAndWhatToDo(t *testing.T) {
	for url, want := range map[string]string{
		"":                                    "must begin with http://",
		"example.org:80":                      "must begin with http://",
		"ftp://example.org":                   "must begin with http://",
		"http:/example.org":                   "must begin with http://",
		"http://example.org/":                 `must have no path, has "/"; remove it, and to send requests to another path`,
		"http://example.org/api":              "use rewrite.prefix",
		"http://example.org/api?x#y":          "must have no path",
		"http://example.org?x=1":              `must have no query, has "?x=1"; remove it`,
		"http://example.org#top":              `must have no fragment, has "#top"; remove it`,
		"http://example.org:0":                "must have a port from 1 to 65535",
		"http://example.org:65536":            "must have a port from 1 to 65535",
		"http://example.org:":                 "must have a port from 1 to 65535",
		"http://example.org:+80":              "must have a port from 1 to 65535",
		"http://example.org:http":             "must have a port from 1 to 65535",
		"http://":                             "parts have 1 to 63 characters",
		"http://.":                            "parts have 1 to 63 characters",
		"http://a..b":                         "parts have 1 to 63 characters",
		"http://a..":                          "parts have 1 to 63 characters",
		"http://-a.example":                   "do not begin or end with -",
		"http://a b":                          "letters, digits, - and _",
		"http://bücher.example":               "xn--",
		"http://a%41.example":                 "letters, digits, - and _",
		"http://a\\b.example":                 "letters, digits, - and _",
		"http://a\n.example":                  "letters, digits, - and _",
		"http://::1":                          "IPv6 address in brackets",
		"http://[::1":                         "between [ and ]",
		"http://[fe80::1%25eth0]":             "without zone",
		"http://[10.0.0.1]":                   "between [ and ]",
		"http://[::1]x":                       "must have nothing or a port behind ]",
		"http://0.0.0.0:3000":                 "for this machine use 127.0.0.1",
		"http://[::]:3000":                    "for this machine use 127.0.0.1",
		"http://224.0.0.1":                    "must have the address of a host",
		"http://127.1":                        "four decimal numbers",
		"http://1.2.3.256":                    "four decimal numbers",
		"http://0x7f.0x1":                     "four decimal numbers",
		"http://010.0.0.1":                    "four decimal numbers",
		"http://_http._tcp.example.org:80":    "must have no port",
		"h2c://example.org":                   "must have a port, like h2c://host:50051",
		"unix://run/app.sock":                 "an absolute path",
		"unix:/run/app.sock":                  "must begin with",
		"unix:///":                            "an absolute path",
		"unix:///run/../app.sock":             "without . and ..",
		"unix:///run/app.sock?x":              "without ?, # and %",
		"unix:///run/a\x00":                   "control characters",
		"unix:///" + strings.Repeat("a", 107): "at most 107 bytes",
		"http://" + strings.Repeat("a", 64) + ".example":      "parts have 1 to 63 characters",
		"http://" + strings.Repeat("a.", 126) + "example.org": "at most 253 characters",
	} {
		got, err := upstream.Parse(url)
		if err == nil {
			t.Errorf("Parse(%q) = %v, want an error", url, got)
			continue
		}
		if !strings.Contains(err.Error(), want) || !errors.Is(err, errs.Invalid) || got != (upstream.Target{}) {
			t.Errorf("Parse(%q) = %q and the error %q of kind %v, want no target and an error of kind Invalid with %q",
				url, got, err, errs.KindOf(err), want)
		}
	}
}

func TestErrorsOfTargetsDoNotHavePasswords(t *testing.T) {
	for _, url := range []string{
		"http://user:secret@example.org", "http://secret@example.org/a", "user:secret@example.org",
		"ftp://user:secret@example.org",
	} {
		if _, err := upstream.Parse(url); err == nil || strings.Contains(err.Error(), "secret") {
			t.Errorf("Parse(%q): %v, want an error that does not repeat the password", url, err)
		}
	}
}

// FuzzTarget checks that what is accepted can be written and read again, and can be used in a Host header.
func FuzzTarget(f *testing.F) {
	for _, url := range []string{
		"http://example.org", "https://EXAMPLE.org.:443", "h2c://[::1]:50051", "unix:///run/app.sock",
		"http://[::ffff:10.0.0.1]", "https://_https._tcp.example.org", "http://_a._b.", "http://1.2.3.4:1", "http://a@b",
	} {
		f.Add(url)
	}
	f.Fuzz(func(t *testing.T, url string) {
		target, err := upstream.Parse(url)
		if err != nil {
			if strings.ContainsAny(err.Error(), "\r\n") {
				t.Errorf("the error has more than one line: %q", err)
			}
			return
		}
		again, err := upstream.Parse(target.String())
		if err != nil || again != target {
			t.Errorf("Parse(%q) is %v, but Parse(%q) is %v, %v", url, target, target.String(), again, err)
		}
		for _, s := range []string{target.Host(), target.Name()} {
			if s == "" || strings.ContainsAny(s, "/?#@%\\ \r\n\t\x00") {
				t.Errorf("Parse(%q) has the host %q and the name %q", url, target.Host(), target.Name())
			}
		}
	})
}

func parse(t testing.TB, url string) upstream.Target {
	t.Helper()
	target, err := upstream.Parse(url)
	if err != nil {
		t.Fatalf("Parse(%q): %v", url, err)
	}
	return target
}
