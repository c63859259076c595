package gateway_test

import (
	"crypto/tls"
	"strings"
	"testing"
)

func TestRedirectToHTTPS(t *testing.T) {
	for name, test := range map[string]struct {
		setting, url string
		header       []string
		want         string // Location; empty: the request is not redirected
	}{
		"off":             {`{}`, "http://example.org/", nil, ""},
		"all hosts":       {`{"hosts": ["*"]}`, "http://example.org/a%2Db?c=d", nil, "https://example.org/a%2Db?c=d"},
		"port":            {`{"hosts": ["*"], "port": 8443}`, "http://example.org:8080/", nil, "https://example.org:8443/"},
		"address":         {`{"hosts": ["*"]}`, "http://[::1]:8080/", nil, "https://[::1]/"},
		"name":            {`{"hosts": ["example.org"]}`, "http://Example.Org:80/", nil, "https://Example.Org/"},
		"other name":      {`{"hosts": ["example.org"]}`, "http://www.example.org/", nil, ""},
		"wildcard":        {`{"hosts": ["*.example.org"]}`, "http://www.example.org/", nil, "https://www.example.org/"},
		"not of wildcard": {`{"hosts": ["*.example.org"]}`, "http://example.org/", nil, ""},
		"a stranger says that it used HTTPS": {
			`{"hosts": ["*"]}`, "http://example.org/", []string{"X-Forwarded-Proto", "https"}, "https://example.org/",
		},
	} {
		w := newWorld(t, toWeb, "gateway.redirectToHTTPS", test.setting)
		w.origin("web", "web-1", "", responds("hi"))
		got := w.get(test.url, test.header...)
		wantStatus := 308
		if test.want == "" {
			wantStatus = 200
		}
		if got.StatusCode != wantStatus || got.Header.Get("Location") != test.want {
			t.Errorf("%s: status %d, Location %q; want %d, %q", name, got.StatusCode, got.Header.Get("Location"),
				wantStatus, test.want)
		}
	}
}

func TestRequestsOverTLSAreNotRedirected(t *testing.T) {
	w, a, _ := newTLSWorld(t, toWeb, "gateway.redirectToHTTPS", `{"hosts": ["*"]}`)
	w.origin("web", "web-1", "", responds("hi"))
	got := w.do(w.tlsClient(&tls.Config{RootCAs: a.pool}, "h2"), "GET", "https://www.example.org/", nil)
	if got.StatusCode != 200 || got.body != "hi" {
		t.Errorf("over TLS: status %d, want 200", got.StatusCode)
	}
}

// A proxy before the edge ends TLS, and says so.
func TestRequestsOverTLSOfATrustedProxyAreNotRedirected(t *testing.T) {
	w := newWorld(t, toWeb, "gateway.redirectToHTTPS", `{"hosts": ["*"]}`, "gateway.trustedHops", "1")
	w.origin("web", "web-1", "", responds("hi"))
	if got := w.get("http://example.org/", "X-Forwarded-Proto", "https"); got.StatusCode != 200 {
		t.Errorf("https by a trusted proxy: status %d, want 200", got.StatusCode)
	}
	if got := w.get("http://example.org/", "X-Forwarded-Proto", "http"); got.StatusCode != 308 {
		t.Errorf("http by a trusted proxy: status %d, want 308", got.StatusCode)
	}
}

func TestRedirectToHTTPSRefusesWrongSettings(t *testing.T) {
	w := newWorld(t, toWeb)
	for value, want := range map[string]string{
		`{"hosts": ["a.*.org"]}`:             "hosts[0]: must be a name in lower case",
		`{"hosts": ["*", "Example.org"]}`:    "hosts[1]: must be a name in lower case",
		`{"hosts": ["https://example.org"]}`: "hosts[0]: must be a name in lower case",
		`{"hosts": ["*"], "port": 70000}`:    "port: must be 1 to 65535",
	} {
		if err := w.set.Put("gateway.redirectToHTTPS", value); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: the error is %v, want one with %q", value, err, want)
		}
	}
}

func TestACMERefusesWrongSettings(t *testing.T) {
	w := newWorld(t, toWeb)
	for value, want := range map[string]string{
		`{"domains": ["*.example.org"], "agreeTerms": true}`:              "domains[0]: \"*.example.org\" is a wildcard",
		`{"domains": ["Example.org"], "agreeTerms": true}`:                "domains[0]: must be a name in lower case",
		`{"domains": ["localhost"], "agreeTerms": true}`:                  "domains[0]: must be a name in lower case with a dot",
		`{"domains": ["a.example.org", "../x.org"], "agreeTerms": true}`:  "domains[1]: must be a name",
		`{"domains": ["example.org", "example.org"], "agreeTerms": true}`: "domains[1]: \"example.org\" is there twice",
		`{"domains": ["example.org"]}`:                                    "agreeTerms: must be true",
		`{"directory": "http://example.org/"}`:                            "directory: must be an https URL",
	} {
		if err := w.set.Put("gateway.acme", value); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: the error is %v, want one with %q", value, err, want)
		}
	}
}
