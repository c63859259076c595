package gateway_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"io"
	"math/big"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"bijou.dev/platform/service"
	"bijou.dev/services/gateway"

	"github.com/google/go-cmp/cmp"
)

// authority signs certificates for tests.
type authority struct {
	t    testing.TB
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
	pool *x509.CertPool
}

func newAuthority(t testing.TB) *authority {
	t.Helper()
	a := &authority{t: t, key: newKey(t), pool: x509.NewCertPool()}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "authority"}, NotBefore: time.Unix(0, 0),
		NotAfter: time.Now().AddDate(100, 0, 0), IsCA: true, BasicConstraintsValid: true,
		KeyUsage: x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, a.key.Public(), a.key)
	if err != nil {
		t.Fatal(err)
	}
	if a.cert, err = x509.ParseCertificate(der); err != nil {
		t.Fatal(err)
	}
	a.pool.AddCert(a.cert)
	return a
}

func newKey(t testing.TB) *ecdsa.PrivateKey {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

// issue returns a certificate for hosts and its key, in PEM.
func (a *authority) issue(expires time.Time, hosts ...string) (cert, key []byte) {
	a.t.Helper()
	k := newKey(a.t)
	serial, err := rand.Int(rand.Reader, big.NewInt(1<<62))
	if err != nil {
		a.t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: serial, Subject: pkix.Name{CommonName: hosts[0]}, NotBefore: time.Unix(0, 0), NotAfter: expires,
		DNSNames: hosts, KeyUsage: x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, a.cert, k.Public(), a.key)
	if err != nil {
		a.t.Fatal(err)
	}
	raw, err := x509.MarshalPKCS8PrivateKey(k)
	if err != nil {
		a.t.Fatal(err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}),
		pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: raw})
}

// write puts a certificate and its key in files.
func (a *authority) write(certFile, keyFile string, expires time.Time, hosts ...string) {
	a.t.Helper()
	cert, key := a.issue(expires, hosts...)
	for name, data := range map[string][]byte{certFile: cert, keyFile: key} {
		if err := os.MkdirAll(filepath.Dir(name), 0o700); err != nil {
			a.t.Fatal(err)
		}
		if err := os.WriteFile(name, data, 0o600); err != nil {
			a.t.Fatal(err)
		}
	}
}

func nextYear() time.Time { return time.Now().AddDate(1, 0, 0) }

// newTLSWorld starts an edge with a certificate for www.example.org, which also serves TLS at edge:443.
func newTLSWorld(t testing.TB, routes string, settings ...string) (*world, *authority, string) {
	t.Helper()
	a, dir := newAuthority(t), t.TempDir()
	a.write(dir+"/www.crt", dir+"/www.key", nextYear(), "www.example.org")
	w := worldWith(t, gateway.EdgeOptions{Options: gateway.Options{Certs: dir}}, routes, settings...)
	w.serveTLS()
	return w, a, dir
}

func (w *world) serveTLS() {
	w.t.Helper()
	l, err := w.net.Listen("tcp", "edge:443")
	if err != nil {
		w.t.Fatal(err)
	}
	served := make(chan error, 1)
	go func() { served <- w.edge.ServeTLS(l) }()
	w.t.Cleanup(func() {
		if err := w.edge.Close(); err != nil {
			w.t.Error(err)
		}
		if err := <-served; err != nil {
			w.t.Error(err)
		}
	})
}

// dialRaw opens a connection to the listener for TLS, without a handshake.
func (w *world) dialRaw() net.Conn {
	w.t.Helper()
	c, err := w.net.DialContext(w.t.Context(), "tcp", "edge:443")
	if err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(func() { c.Close() })
	return c
}

// handshake opens a connection with TLS.
func (w *world) handshake(config *tls.Config) (*tls.Conn, error) {
	w.t.Helper()
	c := tls.Client(w.dialRaw(), config)
	return c, c.HandshakeContext(w.t.Context())
}

// tlsClient returns a client of the edge over TLS, which offers only the protocol.
func (w *world) tlsClient(config *tls.Config, protocol string) *http.Client {
	config = config.Clone()
	tr := &http.Transport{
		DialContext: func(ctx context.Context, network, _ string) (net.Conn, error) {
			return w.net.DialContext(ctx, network, "edge:443")
		},
		DisableCompression: true, TLSClientConfig: config, Protocols: new(http.Protocols),
	}
	tr.Protocols.SetHTTP1(protocol == "http/1.1")
	tr.Protocols.SetHTTP2(protocol == "h2")
	w.t.Cleanup(tr.CloseIdleConnections)
	return &http.Client{
		Transport:     tr,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
}

// served returns the serial number of the certificate that a client gets.
func (w *world) serial(a *authority, host string) string {
	w.t.Helper()
	c, err := w.handshake(&tls.Config{ServerName: host, RootCAs: a.pool})
	if err != nil {
		w.t.Fatalf("handshake for %s: %v", host, err)
	}
	defer c.Close()
	return c.ConnectionState().PeerCertificates[0].SerialNumber.String()
}

func TestRequestsOverTLS(t *testing.T) {
	w, a, _ := newTLSWorld(t, toWeb)
	w.origin("web", "web-1", "", http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if err != nil {
			t.Errorf("reading the body at the origin: %v", err)
		}
		_, _ = io.WriteString(rw, r.Header.Get("X-Forwarded-Proto")+" "+r.Header.Get("X-Forwarded-Host")+" "+string(body))
	}))
	for _, protocol := range []string{"http/1.1", "h2"} {
		c := w.tlsClient(&tls.Config{RootCAs: a.pool}, protocol)
		for range 2 { // the second on the same connection
			got := w.do(c, http.MethodPost, "https://www.example.org/a", strings.NewReader("text"))
			if got.StatusCode != 200 || got.body != "https www.example.org text" {
				t.Errorf("%s: status %d, body %q; want 200 and the origin's answer", protocol, got.StatusCode, got.body)
			}
			if got.ProtoMajor == 2 != (protocol == "h2") || got.TLS.Version != tls.VersionTLS13 {
				t.Errorf("%s: the protocol is %s and the version %s", protocol, got.Proto,
					tls.VersionName(got.TLS.Version))
			}
		}
	}
}

func TestLargeBodiesOverTLS(t *testing.T) {
	w, a, _ := newTLSWorld(t, toWeb)
	w.origin("web", "web-1", "", http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(rw, r.Body) // the test compares
	}))
	want := strings.Repeat("0123456789abcdef", 1<<16)
	for _, protocol := range []string{"http/1.1", "h2"} {
		c := w.tlsClient(&tls.Config{RootCAs: a.pool}, protocol)
		got := w.do(c, http.MethodPost, "https://www.example.org/", strings.NewReader(want))
		if got.body != want {
			t.Errorf("%s: %d bytes came back, want the %d that were sent", protocol, len(got.body), len(want))
		}
	}
}

func TestTLSVersions(t *testing.T) {
	w, a, _ := newTLSWorld(t, toWeb)
	for version, want := range map[uint16]bool{
		tls.VersionTLS10: false, tls.VersionTLS11: false, tls.VersionTLS12: true, tls.VersionTLS13: true,
	} {
		_, err := w.handshake(&tls.Config{
			ServerName: "www.example.org", RootCAs: a.pool, MinVersion: version, MaxVersion: version,
		})
		if (err == nil) != want {
			t.Errorf("%s: error %v, want a connection: %v", tls.VersionName(version), err, want)
		}
	}
	_, err := w.handshake(&tls.Config{
		ServerName: "www.example.org", RootCAs: a.pool, MaxVersion: tls.VersionTLS12,
		CipherSuites: []uint16{tls.TLS_ECDHE_ECDSA_WITH_AES_128_CBC_SHA, tls.TLS_ECDHE_RSA_WITH_AES_128_CBC_SHA},
	})
	if err == nil {
		t.Error("there is a connection with a cipher suite that HTTP/2 forbids")
	}
}

// A client gets the certificate for the name that it asks for.
func TestCertificateIsChosenByName(t *testing.T) {
	a, dir := newAuthority(t), t.TempDir()
	for files, hosts := range map[string][]string{
		"/a.crt /a.key":                   {"a.example.org", "b.example.org"},
		"/all.pem /all.key":               {"*.example.org"},
		"/secret/tls.crt /secret/tls.key": {"secret.example.net"},
		"/shop.example.com/fullchain.pem /shop.example.com/privkey.pem": {"shop.example.com"},
		"/..data/hidden.crt /..data/hidden.key":                         {"hidden.example.net"},
	} {
		cert, key, _ := strings.Cut(files, " ")
		a.write(dir+cert, dir+key, nextYear(), hosts...)
	}
	w := worldWith(t, gateway.EdgeOptions{Options: gateway.Options{Certs: dir}}, toWeb)
	w.serveTLS()
	for host, want := range map[string]string{
		"a.example.org": "a.example.org", "b.example.org": "a.example.org", "B.Example.Org": "a.example.org",
		"c.example.org": "*.example.org", "secret.example.net": "secret.example.net",
		"shop.example.com": "shop.example.com",
		"":                 "a.example.org", // no name: the first certificate
		"c.d.example.org":  "unrecognized name", "example.org": "unrecognized name",
		"hidden.example.net": "unrecognized name",
	} {
		var got string
		c, err := w.handshake(&tls.Config{ServerName: host, InsecureSkipVerify: true}) //nolint:gosec // compared below
		if err == nil {
			got = c.ConnectionState().PeerCertificates[0].Subject.CommonName
		} else {
			got = strings.TrimPrefix(err.Error(), "remote error: tls: ")
		}
		if got != want {
			t.Errorf("asking for %q: got %q, want %q", host, got, want)
		}
	}
}

func TestChangedCertificatesAreRead(t *testing.T) {
	a, dir := newAuthority(t), t.TempDir()
	crt, key := dir+"/www.crt", dir+"/www.key"
	a.write(crt, key, nextYear(), "www.example.org")
	synctest.Test(t, func(t *testing.T) {
		w := worldWith(t, gateway.EdgeOptions{Options: gateway.Options{Certs: dir}}, toWeb)
		w.serveTLS()
		a := &authority{t: t, cert: a.cert, key: a.key, pool: a.pool}
		first := w.serial(a, "www.example.org")

		a.write(crt, key, nextYear(), "www.example.org", "new.example.org")
		a.write(dir+"/more.crt", dir+"/more.key", nextYear(), "more.example.org")
		time.Sleep(10 * time.Second) // of the fake clock
		second := w.serial(a, "www.example.org")
		if second == first || w.serial(a, "new.example.org") != second || w.serial(a, "more.example.org") == second {
			t.Error("the changed and the new certificate are not in use")
		}

		if err := os.WriteFile(key, []byte("cut"), 0o600); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Minute)
		if w.serial(a, "www.example.org") != second {
			t.Error("with a key that cannot be read, the previous certificate is not in use")
		}
		if n := strings.Count(w.log.String(), "a certificate cannot be used"); n != 1 {
			t.Errorf("the certificate that cannot be used was logged %d times, want once", n)
		}

		if err := errors.Join(os.Remove(dir+"/more.crt"), os.Remove(dir+"/more.key")); err != nil {
			t.Fatal(err)
		}
		time.Sleep(10 * time.Second)
		if _, err := w.handshake(&tls.Config{ServerName: "more.example.org", RootCAs: a.pool}); err == nil {
			t.Error("the removed certificate is still in use")
		}
	})
}

// A certificate that has expired is served, because it is the best there is, and can be seen.
func TestExpiredCertificate(t *testing.T) {
	a, dir := newAuthority(t), t.TempDir()
	at := time.Now().Add(-time.Hour).Truncate(time.Second)
	a.write(dir+"/old.crt", dir+"/old.key", at, "www.example.org")
	w := worldWith(t, gateway.EdgeOptions{Options: gateway.Options{Certs: dir}}, toWeb)
	w.serveTLS()
	var expired x509.CertificateInvalidError
	_, err := w.handshake(&tls.Config{ServerName: "www.example.org", RootCAs: a.pool})
	if !errors.As(err, &expired) || expired.Reason != x509.Expired {
		t.Errorf("the client has the error %v, want that the certificate has expired", err)
	}
	got := w.gauge("bijou_gateway_certificate_expires_seconds")
	if diff := cmp.Diff(map[string]float64{"old": float64(at.Unix())}, got); diff != "" {
		t.Errorf("times at which certificates expire (-want +got):\n%s", diff)
	}
}

// gauge returns the values of a metric by its label "name".
func (w *world) gauge(name string) map[string]float64 {
	w.t.Helper()
	all, err := w.metrics.Gather()
	if err != nil {
		w.t.Fatal(err)
	}
	values := map[string]float64{}
	for _, f := range all {
		if f.GetName() != name {
			continue
		}
		for _, m := range f.GetMetric() {
			values[m.GetLabel()[0].GetValue()] = m.GetGauge().GetValue() + m.GetCounter().GetValue()
		}
	}
	return values
}

func TestFoldersOfCertificatesThatAreRefused(t *testing.T) {
	a := newAuthority(t)
	for name, test := range map[string]struct {
		make func(dir string)
		want string
	}{
		"empty":   {func(string) {}, "has no pair that can be used; put NAME.crt and NAME.key there"},
		"missing": {func(dir string) { os.Remove(dir) }, "no such file or directory"},
		"other key": {func(dir string) {
			a.write(dir+"/a.crt", dir+"/a.key", nextYear(), "a.example.org")
			a.write(dir+"/b.crt", dir+"/a.key", nextYear(), "a.example.org")
		}, "has no pair that can be used"},
	} {
		dir := t.TempDir()
		test.make(dir)
		_, err := gateway.NewEdge(gateway.EdgeOptions{
			Options: gateway.Options{Certs: dir}, Discovery: newWorld(t, toWeb).disc.Directory,
		})
		if err == nil || !strings.Contains(err.Error(), test.want) {
			t.Errorf("%s: the error is %v, want one with %q", name, err, test.want)
		}
	}
}

// The protocol of ALPN is the one that is spoken (RFC 9113, 3.2): bytes of another one end the connection.
func TestBytesOfAnotherProtocolThanNegotiatedAreRefused(t *testing.T) {
	const http1, http2 = "GET / HTTP/1.1\r\nHost: www.example.org\r\n\r\n", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
	w, a, _ := newTLSWorld(t, toWeb)
	w.origin("web", "web-1", "", responds("hi"))
	for _, test := range []struct{ protocol, text, want string }{
		{"http/1.1", http1, "HTTP/1.1 200 OK"},
		{"", http1, "HTTP/1.1 200 OK"},
		{"http/1.1", http2, "HTTP/1.1 505 HTTP Version Not Supported"},
		{"", http2, "HTTP/1.1 505 HTTP Version Not Supported"},
		{"h2", http1, ""},
		{"h2", "P", ""},
		{"h2", "PRI * HTTP/2.0\r\n\r\nXX\r\n\r\n", ""},
	} {
		config := &tls.Config{ServerName: "www.example.org", RootCAs: a.pool}
		if test.protocol != "" {
			config.NextProtos = []string{test.protocol}
		}
		c, err := w.handshake(config)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := io.WriteString(c, test.text); err != nil {
			t.Fatal(err)
		}
		if test.text == "P" {
			if err := c.CloseWrite(); err != nil {
				t.Fatal(err)
			}
		}
		got := make([]byte, len(test.want))
		if _, err := io.ReadFull(c, got); err != nil || string(got) != test.want {
			t.Errorf("ALPN %q, sent %q: got %q and error %v, want %q", test.protocol, test.text, got, err, test.want)
		}
		if test.want == "" {
			if rest, err := io.ReadAll(c); err != nil || len(rest) > 0 {
				t.Errorf("ALPN %q, sent %q: got %q and error %v, want the end", test.protocol, test.text, rest, err)
			}
		}
		c.Close()
	}
}

func TestSlowHandshakeIsEnded(t *testing.T) {
	a, dir := newAuthority(t), t.TempDir()
	a.write(dir+"/www.crt", dir+"/www.key", nextYear(), "www.example.org")
	synctest.Test(t, func(t *testing.T) {
		w := worldWith(t, gateway.EdgeOptions{Options: gateway.Options{Certs: dir}}, toWeb)
		w.serveTLS()
		for _, sent := range []string{"", "\x16\x03\x01\x02\x00\x01\x00"} {
			start := time.Now()
			c := w.dialRaw()
			if _, err := io.WriteString(c, sent); err != nil {
				t.Fatal(err)
			}
			_, _ = io.ReadAll(c) // ends with the connection, also with an error
			if took := time.Since(start); took < 9*time.Second || took > 11*time.Second {
				t.Errorf("after %d bytes the connection was open for %v, want 10 s", len(sent), took)
			}
		}
		if got := w.gauge("bijou_gateway_tls_handshakes_total")["time"]; got != 2 {
			t.Errorf("%v handshakes are counted as too slow, want 2", got)
		}
	})
}

// Handshakes whose clients do not go on do not keep others out.
func TestUnfinishedHandshakesDoNotDelayOthers(t *testing.T) {
	w, a, _ := newTLSWorld(t, toWeb)
	hello := make(chan []byte, 1)
	inner, outer := net.Pipe()
	config := &tls.Config{ServerName: "www.example.org"} //nolint:gosec // no connection is made with it
	go func() { _ = tls.Client(inner, config).Handshake() }()
	go func() {
		b := make([]byte, 4<<10)
		n, _ := outer.Read(b) // one record
		hello <- b[:n]
		outer.Close()
	}()
	first := <-hello
	for range 50 {
		if _, err := w.dialRaw().Write(first); err != nil {
			t.Fatal(err)
		}
	}
	w.serial(a, "www.example.org")
}

func TestHandshakeThatIsTooLargeIsEnded(t *testing.T) {
	w, _, _ := newTLSWorld(t, toWeb)
	c := w.dialRaw()
	go func() { // the edge ends the connection before all is written
		record := append([]byte{22, 3, 1, 0x40, 0}, make([]byte, 0x4000)...)
		record[5], record[6] = 1, 1 // a ClientHello of 64 KiB and more
		for range 100 {
			if _, err := c.Write(record); err != nil {
				return
			}
		}
	}()
	_, _ = io.ReadAll(c) // ends with the connection, also with an error
}

// A client that comes back within a day does not need a whole handshake.
func TestSessionsAreResumed(t *testing.T) {
	w, a, _ := newTLSWorld(t, toWeb)
	w.origin("web", "web-1", "", responds("hi"))
	config := &tls.Config{RootCAs: a.pool, ClientSessionCache: tls.NewLRUClientSessionCache(1)}
	for i, want := range []bool{false, true} {
		c := w.tlsClient(config, "http/1.1")
		got := w.do(c, http.MethodGet, "https://www.example.org/", nil)
		c.CloseIdleConnections()
		if got.TLS.DidResume != want {
			t.Errorf("connection %d: resumed %v, want %v", i+1, got.TLS.DidResume, want)
		}
	}
}

// A connection is idle after its response also over TLS, and the end of it is told to the client.
func TestShutdownEndsIdleConnectionsOverTLS(t *testing.T) {
	w, a, _ := newTLSWorld(t, toWeb)
	w.origin("web", "web-1", "", responds("hi"))
	c, err := w.handshake(&tls.Config{ServerName: "www.example.org", RootCAs: a.pool})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := io.WriteString(c, "GET / HTTP/1.1\r\nHost: www.example.org\r\n\r\n"); err != nil {
		t.Fatal(err)
	}
	got := make([]byte, len("HTTP/1.1 200 OK"))
	if _, err := io.ReadFull(c, got); err != nil || string(got) != "HTTP/1.1 200 OK" {
		t.Fatalf("got %q and error %v", got, err)
	}
	if err := w.edge.Shutdown(t.Context()); err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadAll(c); err != nil { // without an alert it would be an unexpected end
		t.Errorf("reading to the end: %v, want no error", err)
	}
}

// A process serves TLS on the listener "https" beside "http".
func TestListenerHTTPS(t *testing.T) {
	a, dir := newAuthority(t), t.TempDir()
	a.write(dir+"/www.crt", dir+"/www.key", nextYear(), "www.example.org")
	o := service.Options{
		Name: "gateway", Instance: "gateway-1", Drain: time.Second,
		Listen: map[string]string{"http": "127.0.0.1:0", "https": "127.0.0.1:0", "admin": "127.0.0.1:0"},
	}
	opts := gateway.Options{}
	if err := opts.Routes.Set(`[{"name": "hi", "respond": {"body": "hi"}}]`); err != nil {
		t.Fatal(err)
	}
	setup := func(ctx context.Context, s *service.Setup) error { return gateway.New(ctx, s, opts) }
	if _, err := service.New(t.Context(), o, setup); err == nil || !strings.Contains(err.Error(), "set -certs") {
		t.Errorf("without certificates the error is %v, want one with %q", err, "set -certs")
	}
	opts.Certs = dir
	without := o
	without.Listen = map[string]string{"http": "127.0.0.1:0", "admin": "127.0.0.1:0"}
	_, err := service.New(t.Context(), without, setup)
	if err == nil || !strings.Contains(err.Error(), "add https=:8443") {
		t.Errorf("without a listener the error is %v, want one with %q", err, "add https=:8443")
	}
	p, err := service.New(t.Context(), o, setup)
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- p.Run(ctx) }()
	tr := &http.Transport{
		DialContext: func(ctx context.Context, network, _ string) (net.Conn, error) {
			return (&net.Dialer{}).DialContext(ctx, network, p.Addr("https"))
		},
		TLSClientConfig: &tls.Config{RootCAs: a.pool}, ForceAttemptHTTP2: true,
	}
	res, err := (&http.Client{Transport: tr}).Get("https://www.example.org/")
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	body, err := io.ReadAll(res.Body)
	if err != nil || string(body) != "hi" || res.Proto != "HTTP/2.0" {
		t.Errorf("got %q by %s and error %v, want hi by HTTP/2.0", body, res.Proto, err)
	}
	stop()
	if err := <-done; err != nil {
		t.Errorf("stopping: %v", err)
	}
}

// A connection over TLS is counted with more memory than one without.
func TestMemoryLimitsConnectionsOverTLS(t *testing.T) {
	a, dir := newAuthority(t), t.TempDir()
	a.write(dir+"/www.crt", dir+"/www.key", nextYear(), "www.example.org")
	const limit, room = 96 << 20, (96<<20*7/10 - 24<<20) / (38 << 10)
	synctest.Test(t, func(t *testing.T) { // no connection is idle for long
		runtime.GC() // the memory of other tests must not count
		w := worldWith(t, gateway.EdgeOptions{Options: gateway.Options{Certs: dir}, MemoryLimit: limit}, toWeb)
		w.serveTLS()
		for range room + 10 {
			w.dialRaw()
		}
		synctest.Wait()
		values := w.gauge("bijou_gateway_connections_refused_total")
		if values["memory"] != 10 {
			t.Errorf("of %d connections %v were closed, want 10", room+10, values["memory"])
		}
	})
}
