// Package acmetest tests the edge with pebble, the certificate authority for tests of the makers of Let's Encrypt.
package acmetest

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"io"
	"log"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"bijou.dev/platform/config"
	"bijou.dev/platform/discovery"
	"bijou.dev/services/gateway"

	"github.com/letsencrypt/pebble/v2/ca"
	"github.com/letsencrypt/pebble/v2/db"
	"github.com/letsencrypt/pebble/v2/va"
	"github.com/letsencrypt/pebble/v2/wfe"
	"github.com/miekg/dns"
)

// authority is a running pebble. All names lead to 127.0.0.1.
type authority struct {
	t      *testing.T
	server *httptest.Server
	log    *buffer
}

// blocked is a domain for which the authority gives no certificates.
const blocked = "blocked.example.org"

// buffer may be used by several goroutines.
type buffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (b *buffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Write(p)
}

func (b *buffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.String()
}

// newAuthority starts a pebble that checks domains at two ports, and whose certificates are valid for so long.
func newAuthority(t *testing.T, httpPort, tlsPort int, valid time.Duration) *authority {
	t.Helper()
	t.Setenv("PEBBLE_VA_NOSLEEP", "1")
	t.Setenv("PEBBLE_AUTHZREUSE", "0") // each order is checked
	a := &authority{t: t, log: &buffer{}}
	logger := log.New(a.log, "", 0)
	store := db.NewMemoryStore()
	if err := store.AddBlockedDomain(blocked); err != nil {
		t.Fatal(err)
	}
	issuer := ca.New(logger, store, "", "ecdsa", 0, 1, map[string]ca.Profile{
		"default": {Description: "default", ValidityPeriod: uint64(valid / time.Second)},
	})
	checks := va.New(logger, httpPort, tlsPort, true, startDNS(t), store)
	front := wfe.New(logger, store, checks, issuer, []string{"pebble.letsencrypt.org"}, true, false, 1, 1)
	a.server = httptest.NewTLSServer(front.Handler())
	t.Cleanup(a.server.Close)
	return a
}

// startDNS starts a DNS server and returns its address.
func startDNS(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := &dns.Server{Listener: l, Handler: dns.HandlerFunc(func(w dns.ResponseWriter, q *dns.Msg) {
		m := new(dns.Msg)
		m.SetReply(q)
		for _, question := range q.Question {
			if question.Qtype == dns.TypeA {
				m.Answer = append(m.Answer, &dns.A{
					Hdr: dns.RR_Header{Name: question.Name, Rrtype: dns.TypeA, Class: dns.ClassINET},
					A:   net.IPv4(127, 0, 0, 1),
				})
			}
		}
		_ = w.WriteMsg(m) // the client may have left
	})}
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = s.ActivateAndServe() // ends with Shutdown
	}()
	t.Cleanup(func() {
		_ = l.Close() // ends the server, also before it has begun
		<-done
	})
	return l.Addr().String()
}

// edge is a running edge.
type edge struct {
	t     *testing.T
	log   *buffer
	set   *config.StaticSet
	https string
	stop  func()
}

// listen returns two listeners on loopback and their ports.
func listen(t *testing.T) (plain, secure net.Listener, httpPort, tlsPort int) {
	t.Helper()
	var err error
	if plain, err = net.Listen("tcp", "127.0.0.1:0"); err == nil {
		secure, err = net.Listen("tcp", "127.0.0.1:0")
	}
	if err != nil {
		t.Fatal(err)
	}
	return plain, secure, plain.Addr().(*net.TCPAddr).Port, secure.Addr().(*net.TCPAddr).Port
}

func (a *authority) edge(dir string, plain, secure net.Listener, domains ...string) *edge {
	a.t.Helper()
	e := &edge{t: a.t, log: &buffer{}, https: secure.Addr().String()}
	e.set = config.Static(map[string]string{
		"gateway.routes":          `[{"name": "hi", "respond": {"body": "hi"}}]`,
		"gateway.redirectToHTTPS": `{"hosts": ["*"]}`,
		"gateway.acme":            a.settings(domains...),
	})
	g, err := gateway.NewEdge(gateway.EdgeOptions{
		Options: gateway.Options{ACMEDir: dir}, Config: e.set, Discovery: discovery.NewStatic(nil).Directory,
		ACMEClient: a.server.Client(), Log: slog.New(slog.NewTextHandler(e.log, nil)),
	})
	if err != nil {
		a.t.Fatal(err)
	}
	ended := make(chan error, 2)
	go func() { ended <- g.Serve(plain) }()
	go func() { ended <- g.ServeTLS(secure) }()
	e.stop = sync.OnceFunc(func() {
		if err := g.Close(); err != nil {
			a.t.Error(err)
		}
		for range 2 {
			if err := <-ended; err != nil {
				a.t.Error(err)
			}
		}
	})
	a.t.Cleanup(e.stop)
	return e
}

// settings returns the value of gateway.acme for domains.
func (a *authority) settings(domains ...string) string {
	a.t.Helper()
	text, err := json.Marshal(map[string]any{
		"domains": domains, "email": "me@example.org", "directory": a.server.URL + wfe.DirectoryPath, "agreeTerms": true,
	})
	if err != nil {
		a.t.Fatal(err)
	}
	return string(text)
}

// leaf waits until clients get a certificate for a host, and returns it.
func (e *edge) leaf(host string) *x509.Certificate {
	e.t.Helper()
	ctx, cancel := context.WithTimeout(e.t.Context(), 30*time.Second)
	defer cancel()
	d := tls.Dialer{Config: &tls.Config{ServerName: host, InsecureSkipVerify: true}} //nolint:gosec // compared by the test
	for {
		c, err := d.DialContext(ctx, "tcp", e.https)
		if err == nil {
			defer c.Close()
			return c.(*tls.Conn).ConnectionState().PeerCertificates[0]
		}
		select {
		case <-ctx.Done():
			e.t.Fatalf("no certificate for %s after 30 s: %v; log of the edge:\n%s", host, err, e.log)
		case <-time.After(50 * time.Millisecond):
		}
	}
}

func TestCertificatesAreGotByHTTPAndKept(t *testing.T) {
	plain, secure, httpPort, _ := listen(t)
	_, other, _, closed := listen(t)
	other.Close()
	a := newAuthority(t, httpPort, closed, 90*24*time.Hour) // nothing answers TLS-ALPN-01
	dir := t.TempDir()
	e := a.edge(dir, plain, secure, "www.example.org", "shop.example.net")
	first := e.leaf("www.example.org")
	e.leaf("shop.example.net")
	if got := first.DNSNames; len(got) != 1 || got[0] != "www.example.org" {
		t.Errorf("the certificate is for %q, want www.example.org", got)
	}
	if left, err := os.ReadDir(filepath.Join(dir, "challenges")); err != nil || len(left) > 0 {
		t.Errorf("after the checks there are %v and error %v, want no answers", left, err)
	}
	e.stop()

	plain, secure, _, _ = listen(t)
	e = a.edge(dir, plain, secure, "www.example.org")
	if got := e.leaf("www.example.org"); !got.Equal(first) {
		t.Error("after a restart there is another certificate")
	}
	if n := strings.Count(e.log.String(), "msg=\"getting a certificate by ACME\""); n != 0 {
		t.Errorf("after a restart %d certificates were ordered, want none", n)
	}
	if e.has("shop.example.net") {
		t.Error("the certificate of a domain that is not in the setting any more is in use")
	}
}

// has reports whether clients get a certificate for a host.
func (e *edge) has(host string) bool {
	c, err := tls.Dial("tcp", e.https, &tls.Config{ServerName: host, InsecureSkipVerify: true}) //nolint:gosec // see leaf
	if err != nil {
		return false
	}
	c.Close()
	return true
}

func TestCertificatesAreGotByTLS(t *testing.T) {
	plain, secure, _, tlsPort := listen(t)
	other, _, closed, _ := listen(t)
	other.Close()
	a := newAuthority(t, closed, tlsPort, 90*24*time.Hour) // nothing answers HTTP-01
	e := a.edge(t.TempDir(), plain, secure, "www.example.org")
	e.leaf("www.example.org")
}

// A domain that the authority refuses does not keep others from their certificates, and is not asked for again at once.
func TestOneDomainIsRefused(t *testing.T) {
	plain, secure, httpPort, tlsPort := listen(t)
	a := newAuthority(t, httpPort, tlsPort, 90*24*time.Hour)
	e := a.edge(t.TempDir(), plain, secure, blocked, "www.example.org", "shop.example.net")
	e.leaf("shop.example.net")
	e.leaf("www.example.org")
	text := e.log.String()
	if n := strings.Count(text, "no certificate by ACME"); n != 1 || !strings.Contains(text, "rejectedIdentifier") {
		t.Errorf("the refusal is %d times in the log, want once, with rejectedIdentifier:\n%s", n, text)
	}
}

// A certificate is renewed when a third of its time is left, which here is at once.
func TestCertificatesAreRenewed(t *testing.T) {
	plain, secure, httpPort, tlsPort := listen(t)
	a := newAuthority(t, httpPort, tlsPort, 3*time.Second)
	dir := t.TempDir()
	e := a.edge(dir, plain, secure, "www.example.org")
	first := e.leaf("www.example.org")
	<-time.After(time.Until(first.NotAfter)) // pebble uses the clock of the machine
	if err := e.set.Put("gateway.acme", a.settings("www.example.org", "b.example.org")); err != nil {
		t.Fatal(err) // a change is also a reason to look
	}
	e.leaf("b.example.org")
	if e.leaf("www.example.org").Equal(first) {
		t.Errorf("the certificate was not renewed; log of the edge:\n%s", e.log)
	}
}

// Replicas that share a folder answer challenges for each other and order each certificate once.
func TestReplicasShareAFolder(t *testing.T) {
	plain, secure, _, _ := listen(t)
	otherPlain, otherSecure, httpPort, tlsPort := listen(t)
	a := newAuthority(t, httpPort, tlsPort, 90*24*time.Hour)
	dir := t.TempDir()
	other := a.edge(dir, otherPlain, otherSecure) // all challenges come here
	e := a.edge(dir, plain, secure, "www.example.org")
	first := e.leaf("www.example.org")
	if err := other.set.Put("gateway.acme", a.settings("www.example.org")); err != nil {
		t.Fatal(err)
	}
	if got := other.leaf("www.example.org"); !got.Equal(first) {
		t.Error("the other replica has another certificate")
	}
}

func TestChallengesOfOthersPassToRoutes(t *testing.T) {
	plain, secure, httpPort, tlsPort := listen(t)
	a := newAuthority(t, httpPort, tlsPort, time.Hour)
	a.edge(t.TempDir(), plain, secure)
	for _, path := range []string{"abc", "..%2flock", "%2e%2e/lock", ""} {
		c := &http.Client{CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
		res, err := c.Get("http://" + plain.Addr().String() + "/.well-known/acme-challenge/" + path)
		if err != nil {
			t.Fatal(err)
		}
		text, err := io.ReadAll(res.Body)
		res.Body.Close()
		if err != nil || res.StatusCode != http.StatusPermanentRedirect && res.StatusCode != http.StatusBadRequest {
			t.Errorf("%q: status %d, body %q, error %v; want 308 or 400 of the routes", path, res.StatusCode, text, err)
		}
	}
}
