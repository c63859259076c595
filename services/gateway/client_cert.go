package gateway

import (
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"errors"
	"net/http"
	"strings"
	"sync"
	"time"

	"bijou.dev/services/gateway/internal/flow"
	"bijou.dev/services/gateway/internal/syntax"

	"golang.org/x/net/http/httpguts"
)

// clientCerts say which clients are asked for a certificate.
type clientCerts struct {
	config *tls.Config
	hosts  []string // of the routes, as in routes.Match.Host
}

// newClientCerts returns what the routes of t need. Nil: no client is asked.
//
// A certificate is verified for each request, with the authorities of its route: a certificate that one route needs, or
// that a browser sends by itself, does not end connections for other routes.
func (e *Edge) newClientCerts(t *table) *clientCerts {
	if e.tls == nil {
		return nil
	}
	c := &clientCerts{}
	pool := x509.NewCertPool()
	for _, r := range t.rules {
		if r.ClientCert == nil {
			continue
		}
		c.hosts = append(c.hosts, r.Match.Host)
		for _, ca := range r.ClientCAs {
			pool.AddCert(ca)
		}
	}
	if len(c.hosts) == 0 {
		return nil
	}
	c.config = e.tlsConfig()
	c.config.GetConfigForClient = nil
	c.config.ClientAuth, c.config.ClientCAs = tls.RequestClientCert, pool // browsers choose by these names
	// Tickets with keys of this Config only: who resumes the session of a connection that was not asked is not asked
	// either.
	c.config.WrapSession, c.config.UnwrapSession = c.config.EncryptTicket, c.config.DecryptTicket
	return c
}

// asks reports whether a client that connects to a host is asked. Others do not get a question that they cannot answer.
func (c *clientCerts) asks(host string) bool {
	host = syntax.HostName(host)
	for _, h := range c.hosts {
		if h == "" || host == "" || syntax.MatchesHost(h, host) {
			return true
		}
	}
	return false
}

// verdicts are what was found about the certificate of a connection.
type verdicts struct {
	mu  sync.Mutex
	all map[*x509.Certificate]verdict // first authority of a route -> what holds for that route
}

type verdict struct {
	text  string // for the origin; empty: the certificate is refused
	name  string // of the client
	why   error
	until time.Time
}

// verdictFor bounds how long a verdict is used: verifying costs CPU time, and certificates expire.
const verdictFor = time.Minute

// checkClientCert refuses clients without the certificate that the route needs.
func (x *exchange) checkClientCert() *flow.Failure {
	if x.rule.ClientCert == nil {
		return nil
	}
	var why error
	switch {
	case x.conn.secure == nil:
		why = errors.New("the connection has no TLS")
	case !x.conn.secure.asked:
		// The connection was made for a host without such routes, or before the route was there. RFC 9110, 15.5.20: the
		// client may send the request again on another connection.
		if !x.rule.ClientCert.Optional {
			return flow.HangUp(http.StatusMisdirectedRequest,
				"the route %s needs a client certificate, for which this connection was not asked", x.rule.Name)
		}
	default:
		v := x.conn.secure.verify(x.rule.ClientCAs)
		x.to.ClientCert, x.to.CertName, why = v.text, v.name, v.why
	}
	if why == nil || x.rule.ClientCert.Optional {
		return nil
	}
	return flow.Fail(flow.FaultClient, http.StatusForbidden, "the route %s needs a client certificate: %v", x.rule.Name,
		why)
}

// verify checks the client's certificate with the authorities of a route.
func (s *secure) verify(authorities []*x509.Certificate) verdict {
	s.verdicts.mu.Lock()
	defer s.verdicts.mu.Unlock()
	now := time.Now()
	if v, ok := s.verdicts.all[authorities[0]]; ok && now.Before(v.until) {
		return v
	}
	v := check(s.tls.ConnectionState().PeerCertificates, authorities, now)
	v.until = now.Add(verdictFor)
	if s.verdicts.all == nil || len(s.verdicts.all) >= maxVerdicts {
		s.verdicts.all = map[*x509.Certificate]verdict{} // also forgets those of tables that are not in use any more
	}
	s.verdicts.all[authorities[0]] = v
	return v
}

const maxVerdicts = 16

func check(chain, authorities []*x509.Certificate, now time.Time) verdict {
	if len(chain) == 0 {
		return verdict{why: errors.New("the client has sent none")}
	}
	roots, between := x509.NewCertPool(), x509.NewCertPool()
	for _, ca := range authorities {
		roots.AddCert(ca)
	}
	for _, cert := range chain[1:] {
		between.AddCert(cert)
	}
	_, err := chain[0].Verify(x509.VerifyOptions{
		Roots: roots, Intermediates: between, CurrentTime: now,
		KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	})
	if err != nil {
		return verdict{why: err}
	}
	return verdict{text: describeCert(chain[0]), name: certName(chain[0])}
}

// certName is what the client is called in logs, limits and rules of auth: the first URI, else the first DNS name, else
// the subject.
func certName(cert *x509.Certificate) string {
	switch {
	case len(cert.URIs) > 0:
		return cert.URIs[0].String()
	case len(cert.DNSNames) > 0:
		return cert.DNSNames[0]
	}
	return cert.Subject.String()
}

// describeCert returns what the origin gets: Hash=...;Subject="...";URI=...;DNS=...
func describeCert(cert *x509.Certificate) string {
	sum := sha256.Sum256(cert.Raw)
	text := "Hash=" + hex.EncodeToString(sum[:])
	// the form of RFC 2253 has a backslash before each quote
	if s := cert.Subject.String(); httpguts.ValidHeaderFieldValue(s) {
		text += `;Subject="` + s + `"`
	}
	for _, u := range cert.URIs {
		if s := u.String(); httpguts.ValidHeaderFieldValue(s) && !strings.ContainsAny(s, `,;="`) {
			text += ";URI=" + s
		}
	}
	for _, name := range cert.DNSNames {
		if syntax.IsHost(name) && !strings.ContainsAny(name, ",;=") {
			text += ";DNS=" + name
		}
	}
	if len(text) > maxClientCert {
		return text[:len("Hash=")+2*len(sum)]
	}
	return text
}

// maxClientCert bounds the field; of a longer one only the hash is sent.
const maxClientCert = 4 << 10
