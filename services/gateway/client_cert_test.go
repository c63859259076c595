package gateway_test

import (
	"crypto/tls"
	"encoding/json"
	"encoding/pem"
	"io"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"bijou.dev/services/gateway"
)

// withClientCert are routes of which some need certificates of an authority.
func withClientCert(t testing.TB, a *authority) string {
	t.Helper()
	ca, err := json.Marshal(string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: a.cert.Raw})))
	if err != nil {
		t.Fatal(err)
	}
	return strings.ReplaceAll(`[{"name": "web", "to": [{"service": "web"}]},
		{"name": "staff", "match": {"host": "www.example.org", "prefix": "/staff"}, "to": [{"service": "web"}],
		 "clientCert": {"ca": CA}},
		{"name": "guests", "match": {"host": "www.example.org", "prefix": "/guests"}, "to": [{"service": "web"}],
		 "clientCert": {"ca": CA, "optional": true}}]`, "CA", string(ca))
}

// newClientCertWorld starts an edge with routes that need certificates of staff, and TLS for two hosts.
func newClientCertWorld(t testing.TB, staff *authority) (*world, *authority) {
	t.Helper()
	w, a, _ := tlsWorldFor(t, withClientCert(t, staff), "www.example.org", "open.example.org")
	w.origin("web", "web-1", "", http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		_, _ = io.WriteString(rw, r.Header.Get("X-Forwarded-Client-Cert")) // the test compares
	}))
	return w, a
}

// clientCert returns a certificate that an authority has signed for a client.
func (a *authority) clientCert(expires time.Time, name string) tls.Certificate {
	a.t.Helper()
	cert, key := a.issue(expires, name)
	c, err := tls.X509KeyPair(cert, key)
	if err != nil {
		a.t.Fatal(err)
	}
	return c
}

func TestClientCertificates(t *testing.T) {
	staff, others := newAuthority(t), newAuthority(t)
	w, a := newClientCertWorld(t, staff)
	valid, strange := staff.clientCert(nextYear(), "ann"), others.clientCert(nextYear(), "eve")
	expired := staff.clientCert(time.Now().Add(-time.Hour), "old")
	const described = `;Subject="CN=ann";DNS=ann`
	for name, test := range map[string]struct {
		cert   *tls.Certificate // nil: none
		path   string
		status int
		want   string // in the body; empty: an empty body
	}{
		"valid":                     {&valid, "/staff", 200, described},
		"valid, optional":           {&valid, "/guests", 200, described},
		"valid, other route":        {&valid, "/", 200, ""},
		"none":                      {nil, "/staff", 403, "the client has sent none"},
		"none, optional":            {nil, "/guests", 200, ""},
		"none, other route":         {nil, "/", 200, ""},
		"other authority":           {&strange, "/staff", 403, "signed by unknown authority"},
		"other authority, optional": {&strange, "/guests", 200, ""},
		"expired":                   {&expired, "/staff", 403, "expired"},
	} {
		for _, protocol := range []string{"http/1.1", "h2"} {
			config := &tls.Config{RootCAs: a.pool}
			config.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
				if test.cert == nil {
					return &tls.Certificate{}, nil
				}
				return test.cert, nil
			}
			c := w.tlsClient(config, protocol)
			for range 2 { // the second on the same connection
				got := w.do(c, http.MethodGet, "https://www.example.org"+test.path, nil,
					"X-Forwarded-Client-Cert", "Hash=forged", "Accept", "application/json")
				if got.StatusCode != test.status || !strings.Contains(got.body, test.want) ||
					test.want == "" && got.body != "" {
					t.Errorf("%s, %s: status %d, body %q; want %d and %q in it", name, protocol, got.StatusCode, got.body,
						test.status, test.want)
				}
			}
		}
	}
}

// A connection for a host without such routes is not asked. The client learns that it must use another one.
func TestClientCertificateOnAConnectionThatWasNotAsked(t *testing.T) {
	staff := newAuthority(t)
	w, a := newClientCertWorld(t, staff)
	asked := false
	config := &tls.Config{
		ServerName: "open.example.org", RootCAs: a.pool,
		GetClientCertificate: func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
			asked = true
			return &tls.Certificate{}, nil
		},
	}
	c := w.tlsClient(config, "h2")
	if got := w.do(c, http.MethodGet, "https://www.example.org/staff", nil); got.StatusCode != 421 || asked {
		t.Errorf("status %d, asked %v; want 421 and not asked", got.StatusCode, asked)
	}
	if got := w.get("http://www.example.org/staff"); got.StatusCode != 403 {
		t.Errorf("without TLS: status %d, want 403", got.StatusCode)
	}
	if got := w.get("http://www.example.org/guests", "X-Forwarded-Client-Cert", "Hash=forged"); got.body != "" {
		t.Errorf("without TLS the origin got %q, want no certificate", got.body)
	}
}

// A session that began without a question is not resumed when there is one, or the client could never answer it.
func TestNewRoutesAskClientsThatComeBack(t *testing.T) {
	staff := newAuthority(t)
	w, a := newClientCertWorld(t, staff)
	routes := withClientCert(t, staff)
	w.put("gateway.routes", toWeb)
	config := &tls.Config{
		RootCAs: a.pool, ClientSessionCache: tls.NewLRUClientSessionCache(8),
		Certificates: []tls.Certificate{staff.clientCert(nextYear(), "ann")},
	}
	for i, want := range []struct {
		routes, path string
		resumed      bool
	}{
		{toWeb, "/", false}, {toWeb, "/", true}, {routes, "/staff", false}, {routes, "/staff", true},
	} {
		if i == 2 {
			w.put("gateway.routes", want.routes)
		}
		c := w.tlsClient(config, "http/1.1")
		got := w.do(c, http.MethodGet, "https://www.example.org"+want.path, nil)
		c.CloseIdleConnections()
		if got.StatusCode != 200 || got.TLS.DidResume != want.resumed {
			t.Errorf("connection %d: status %d, resumed %v; want 200, %v", i+1, got.StatusCode, got.TLS.DidResume,
				want.resumed)
		}
	}
}

// A certificate that expires while its connection is open is refused from then on.
func TestClientCertificateExpiresOnAnOpenConnection(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		staff := newAuthority(t)
		w, a := newClientCertWorld(t, staff)
		config := &tls.Config{
			RootCAs: a.pool, Certificates: []tls.Certificate{staff.clientCert(time.Now().Add(time.Hour), "ann")},
		}
		c := w.tlsClient(config, "h2")
		for _, want := range []int{200, 403} {
			if got := w.do(c, http.MethodGet, "https://www.example.org/staff", nil); got.StatusCode != want {
				t.Errorf("status %d, want %d", got.StatusCode, want)
			}
			for range 65 { // the connection stays in use
				time.Sleep(time.Minute - time.Second)
				w.do(c, http.MethodGet, "https://www.example.org/", nil)
			}
		}
	})
}

// tlsWorldFor is newTLSWorld with a certificate for these hosts.
func tlsWorldFor(t testing.TB, routes string, hosts ...string) (*world, *authority, string) {
	t.Helper()
	a, dir := newAuthority(t), t.TempDir()
	a.write(dir+"/www.crt", dir+"/www.key", nextYear(), hosts...)
	w := worldWith(t, gateway.EdgeOptions{Options: gateway.Options{Certs: dir}}, routes)
	w.serveTLS()
	return w, a, dir
}
