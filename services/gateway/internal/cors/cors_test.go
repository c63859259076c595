package cors_test

import (
	"net/url"
	"strings"
	"testing"

	"bijou.dev/services/gateway/internal/cors"
)

func TestOriginsThatAPatternAllows(t *testing.T) {
	p, err := cors.New(cors.Options{Origins: []string{
		"https://*.Example.org", "http://*.localhost:3000", "https://a.example:443", "http://b.example:80", "app://c",
		"https://[2001:db8::1]:8443",
	}})
	if err != nil {
		t.Fatal(err)
	}
	for origin, want := range map[string]bool{
		"https://a.example.org": true, "https://b.a.example.org": true, "https://xn--n8j.example.org": true,
		"https://example.org": false, "https://.example.org": false, "https://a..example.org": false,
		"https://.a.example.org": false, "http://a.example.org": false, "https://a.example.org:8443": false,
		"https://a.example.org.": false, "https://a.example.orgs": false, "https://aexample.org": false,
		"https://evil.com/.example.org": false, "https://evil.com:80.example.org": false,
		"https://evil.com?.example.org": false,
		"https://evil.com#.example.org": false, "https://u@a.example.org": false, "https://A.example.org": false,
		"http://app.localhost:3000": true, "http://localhost:3000": false,
		"https://a.example": true, "https://a.example:443": false, "http://b.example": true, "app://c": true,
		"app://d":                    false,
		"https://[2001:db8::1]:8443": true, "": false, "null": false, "*": false,
	} {
		if got := p.Allows(origin); got != want {
			t.Errorf("the origin %q is allowed: %t, want %t", origin, got, want)
		}
	}
}

// FuzzOrigin: what a pattern allows is an origin whose host is below the name of the pattern, with its scheme and port.
func FuzzOrigin(f *testing.F) {
	f.Add("https://*.example.org", "https://a.example.org")
	f.Add("http://*.localhost:3000", "http://a.b.localhost:3000")
	f.Add("app://*.a.b", "app://x@evil/.a.b")
	f.Fuzz(func(t *testing.T, text, origin string) {
		p, err := cors.New(cors.Options{Origins: []string{text}})
		if err != nil || !strings.Contains(text, "://*.") || !p.Allows(origin) {
			return
		}
		pattern, err1 := url.Parse(strings.ToLower(strings.Replace(text, "*.", "", 1)))
		got, err2 := url.Parse(origin)
		if err1 != nil {
			return // a host that Go does not know, such as an escape
		}
		port := pattern.Port()
		if pattern.Scheme == "https" && port == "443" || pattern.Scheme == "http" && port == "80" {
			port = ""
		}
		if err2 != nil || got.Scheme != pattern.Scheme || got.Port() != port || got.User != nil || got.Path != "" ||
			!strings.HasSuffix(got.Hostname(), "."+pattern.Hostname()) {
			t.Errorf("%q allows %q, which is %v, %v", text, origin, got, err2)
		}
	})
}
