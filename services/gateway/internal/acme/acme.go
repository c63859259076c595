// Package acme gets certificates for the edge from a certificate authority that speaks ACME (RFC 8555), such as Let's
// Encrypt, and renews them.
//
// Each domain has a certificate of its own, so that one whose DNS is wrong does not keep the others from being
// renewed. A certificate is renewed when a third of its time is left. The authority checks a domain by HTTP-01 (RFC
// 8555, 8.3) or by TLS-ALPN-01 (RFC 8737).
package acme

import (
	"cmp"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"
	"time"

	"bijou.dev/platform/errs"
	"bijou.dev/platform/pace"
	"bijou.dev/services/gateway/internal/certs"
	"bijou.dev/services/gateway/internal/syntax"

	"github.com/prometheus/client_golang/prometheus"
	xacme "golang.org/x/crypto/acme"
)

// Protocol is what a client of TLS-ALPN-01 offers by ALPN (RFC 8737, 6.2).
const Protocol = xacme.ALPNProto

// Settings say what to get, and from whom.
type Settings struct {
	// Domains are names without wildcards. Empty: none.
	Domains []string `json:"domains,omitempty"`
	// Email is where the authority writes to when something is wrong. Empty: nowhere.
	Email string `json:"email,omitempty"`
	// Directory is the URL of the authority. Empty: Let's Encrypt.
	Directory string `json:"directory,omitempty"`
	// AgreeTerms says that the operator agrees to the terms of the authority. It must be true if there are domains.
	AgreeTerms bool `json:"agreeTerms,omitempty"`
}

// Validate implements the check of the setting.
func (s Settings) Validate() error {
	for i, d := range s.Domains {
		switch {
		case strings.HasPrefix(d, "*."):
			return fmt.Errorf("domains[%d]: %q is a wildcard, which needs a check by DNS; use a certificate from files", i, d)
		case !syntax.IsHost(d) || syntax.HostName(d) != d || !strings.Contains(d, ".") || strings.Contains(d, "["):
			return fmt.Errorf("domains[%d]: must be a name in lower case with a dot, is %q", i, d)
		case slices.Contains(s.Domains[:i], d):
			return fmt.Errorf("domains[%d]: %q is there twice", i, d)
		}
	}
	if len(s.Domains) > 0 && !s.AgreeTerms {
		return errors.New("agreeTerms: must be true; read the terms of the certificate authority")
	}
	if u, err := url.Parse(s.Directory); s.Directory != "" && (err != nil || u.Scheme != "https" || u.Host == "") {
		return fmt.Errorf("directory: must be an https URL, is %q", s.Directory)
	}
	return nil
}

// Options configures an Issuer.
type Options struct {
	// Dir keeps the key of the account, certificates and answers to challenges over restarts. Replicas may share it.
	// Required.
	Dir string
	// Certs gets the certificates. Required.
	Certs *certs.Store
	// Client talks to the authority. Nil: a client with the certificate authorities of the system.
	Client *http.Client
	// Metrics gets bijou_gateway_acme_orders_total. Nil: none.
	Metrics prometheus.Registerer
	// Log gets what is done. Nil: nothing is logged.
	Log *slog.Logger
}

func (o Options) complete() (Options, error) {
	if o.Dir == "" || o.Certs == nil {
		return o, errs.Errorf(errs.Invalid, "options Dir and Certs: must be set")
	}
	if o.Client == nil {
		o.Client = &http.Client{Timeout: time.Minute}
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	return o, nil
}

// Issuer gets certificates and renews them. Close must be called when it is no longer used.
type Issuer struct {
	opts   Options
	store  store
	orders *prometheus.CounterVec
	stop   context.CancelFunc
	done   chan struct{}
	change chan struct{} // has an element when the settings have changed

	mu       sync.Mutex
	settings Settings
	domains  map[string]*domain // of the settings
	cancel   context.CancelFunc // ends the work with the settings
}

// domain is what is known of a domain. Only the goroutine of run uses its fields, but for problem.
type domain struct {
	stored  []byte    // as it was last read
	renewAt time.Time // zero: there is no certificate
	retryAt time.Time // after a failure
	backoff pace.Backoff
	problem string // of the last attempt; empty: none; guarded by Issuer.mu
}

const (
	checkEvery = time.Minute     // how often the folder is read for what other replicas have got
	orderTime  = 5 * time.Minute // for one certificate
	// An authority allows few failures; Let's Encrypt 5 an hour for a name, and an attempt can fail in two ways.
	firstRetry, lastRetry = 40 * time.Minute, 12 * time.Hour
)

// New returns an issuer that does nothing before Apply.
func New(opts Options) (*Issuer, error) {
	opts, err := opts.complete()
	if err != nil {
		return nil, err
	}
	i := &Issuer{
		opts: opts, store: store{opts.Dir}, done: make(chan struct{}), change: make(chan struct{}, 1),
		domains: map[string]*domain{}, cancel: func() {},
		orders: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "bijou_gateway_acme_orders_total", Help: "Attempts to get a certificate by result: ok, failed.",
		}, []string{"result"}),
	}
	if err := i.store.init(); err != nil {
		return nil, fmt.Errorf("opening the folder for ACME: %w", err)
	}
	if opts.Metrics != nil {
		opts.Metrics.MustRegister(i.orders)
	}
	ctx, stop := context.WithCancel(context.Background())
	i.stop = stop
	go i.run(ctx)
	return i, nil
}

// Close ends all work. An order in progress is given up.
func (i *Issuer) Close() {
	i.stop()
	<-i.done
}

// Apply makes settings those in use. Domains whose last attempt failed are tried again at once.
func (i *Issuer) Apply(s Settings) {
	i.mu.Lock()
	for name := range i.domains {
		if !slices.Contains(s.Domains, name) || s.Directory != i.settings.Directory {
			i.opts.Certs.Remove(certName(name))
		}
	}
	i.cancel()
	i.settings, i.domains = s, map[string]*domain{}
	for _, name := range s.Domains {
		i.domains[name] = &domain{backoff: pace.Backoff{First: firstRetry, Max: lastRetry}}
	}
	i.mu.Unlock()
	select {
	case i.change <- struct{}{}:
	default:
	}
}

// certName is the name of a certificate in the Store, in metrics and logs.
func certName(domain string) string { return "acme/" + domain }

// Check returns an error if the last attempt to get a certificate for a domain has failed.
func (i *Issuer) Check() error {
	i.mu.Lock()
	defer i.mu.Unlock()
	var problems []string
	for _, name := range i.settings.Domains {
		if p := i.domains[name].problem; p != "" {
			problems = append(problems, name+": "+p)
		}
	}
	if len(problems) == 0 {
		return nil
	}
	return errors.New(strings.Join(problems, "; "))
}

func (i *Issuer) run(ctx context.Context) {
	defer close(i.done)
	var a account
	for {
		i.mu.Lock()
		round, cancel := context.WithCancel(ctx)
		s, domains := i.settings, i.domains
		i.cancel = cancel
		i.mu.Unlock()
		for _, name := range s.Domains {
			if round.Err() == nil {
				i.keep(round, &a, s, name, domains[name])
			}
		}
		cancel()
		t := time.NewTimer(pace.Jitter(checkEvery, 0.2))
		select {
		case <-ctx.Done():
		case <-t.C:
		case <-i.change:
		}
		t.Stop()
		if ctx.Err() != nil {
			return
		}
	}
}

// keep gets or renews the certificate of a domain if it is time to.
func (i *Issuer) keep(ctx context.Context, a *account, s Settings, name string, d *domain) {
	err := i.load(s, name, d)
	now := time.Now()
	if err == nil && (now.Before(d.renewAt) || now.Before(d.retryAt)) {
		return
	}
	if err == nil {
		unlock, free := i.store.lock()
		if !free {
			return // another replica is getting a certificate
		}
		defer unlock()
		if err = i.load(s, name, d); err == nil && now.Before(d.renewAt) {
			return // it has just got this one
		}
	}
	if err == nil {
		err = i.order(ctx, a, s, name)
	}
	if err == nil {
		err = i.load(s, name, d)
	}
	if ctx.Err() != nil {
		return
	}
	problem := ""
	if err == nil {
		i.orders.WithLabelValues("ok").Inc()
		d.backoff.Reset()
		d.retryAt = time.Time{}
	} else {
		i.orders.WithLabelValues("failed").Inc()
		wait := d.backoff.Next()
		if limit, ok := xacme.RateLimit(err); ok {
			wait = max(wait, limit)
		}
		d.retryAt = time.Now().Add(wait)
		problem = "no certificate was got: " + err.Error()
		i.opts.Log.Error("no certificate by ACME", "domain", name, "error", err.Error(), "next_attempt", d.retryAt)
	}
	i.mu.Lock()
	d.problem = problem
	i.mu.Unlock()
}

// load puts the certificate of the folder in use, if it is another one than the last.
func (i *Issuer) load(s Settings, name string, d *domain) error {
	data, err := i.store.read(i.certFile(s, name))
	if err != nil || data == nil || slices.Equal(data, d.stored) {
		return err
	}
	i.mu.Lock()
	defer i.mu.Unlock()
	if i.domains[name] != d {
		return nil // the settings have changed
	}
	pair, err := tls.X509KeyPair(data, data)
	if err == nil {
		err = i.opts.Certs.Put(certName(name), &pair)
	}
	if err != nil {
		return fmt.Errorf("reading the certificate for %s in the folder for ACME: %w; remove it to get a new one", name, err)
	}
	d.stored = data
	leaf := pair.Leaf
	// A third of the time is left; jitter spreads the load of many edges.
	left := pace.Jitter(leaf.NotAfter.Sub(leaf.NotBefore)/3, 0.1)
	d.renewAt = leaf.NotAfter.Add(-left)
	i.opts.Log.Info("certificate by ACME in use", "domain", name, "expires", leaf.NotAfter, "renewed_from", d.renewAt)
	return nil
}

func (i *Issuer) certFile(s Settings, name string) string {
	return folderOf(s.Directory) + "/" + name + ".pem"
}

// folderOf is the folder of an authority: certificates of a test authority are not used when the setting changes.
func folderOf(directory string) string {
	u, err := url.Parse(cmp.Or(directory, xacme.LetsEncryptURL))
	if err != nil {
		return "invalid" // cannot happen: the setting was validated
	}
	return "ca-" + strings.Map(func(r rune) rune {
		if r < 128 && syntax.Only(string(r), &syntax.IDChars) && r != '/' {
			return r
		}
		return '_'
	}, u.Host+u.Path)
}

// account is a client with an account at an authority.
type account struct {
	directory, email string
	client           *xacme.Client // nil: there is none yet
}

// open makes the client, and the account if there is none.
func (i *Issuer) open(ctx context.Context, a *account, s Settings) error {
	if a.client != nil && a.directory == s.Directory && a.email == s.Email {
		return nil
	}
	key, err := i.store.key(folderOf(s.Directory) + "/account.key")
	if err != nil {
		return fmt.Errorf("reading the key of the account: %w", err)
	}
	c := &xacme.Client{
		Key: key, HTTPClient: i.opts.Client, DirectoryURL: s.Directory, UserAgent: "bijou-gateway",
	}
	who := &xacme.Account{}
	if s.Email != "" {
		who.Contact = []string{"mailto:" + s.Email}
	}
	_, err = c.Register(ctx, who, func(string) bool { return s.AgreeTerms })
	if errors.Is(err, xacme.ErrAccountAlreadyExists) {
		_, err = c.UpdateReg(ctx, who)
	}
	if err != nil {
		return fmt.Errorf("opening the account at %s: %w", cmp.Or(s.Directory, xacme.LetsEncryptURL), err)
	}
	*a = account{s.Directory, s.Email, c}
	return nil
}

// order gets a certificate and puts it in the folder.
func (i *Issuer) order(ctx context.Context, a *account, s Settings, name string) error {
	ctx, cancel := context.WithTimeout(ctx, orderTime)
	defer cancel()
	i.opts.Log.Info("getting a certificate by ACME", "domain", name)
	if err := i.open(ctx, a, s); err != nil {
		return err
	}
	var order *xacme.Order
	var err error
	// After a check that failed, an order cannot be used any more.
	for _, kind := range []string{"http-01", "tls-alpn-01"} {
		var e error
		if order, e = i.authorize(ctx, a.client, name, kind); e == nil {
			err = nil
			break
		}
		e = fmt.Errorf("checking the domain by %s: %w", kind, e)
		if err == nil {
			err = e
		} else {
			err = fmt.Errorf("%w; %w", err, e)
		}
		if _, failed := errors.AsType[*xacme.AuthorizationError](e); !failed && !errors.Is(e, errNotOffered) {
			break // another kind would not help
		}
	}
	if err != nil {
		return err
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return err
	}
	csr, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{DNSNames: []string{name}}, key)
	if err != nil {
		return err
	}
	chain, _, err := a.client.CreateCertFromOrder(ctx, order, csr, true)
	if err != nil {
		return fmt.Errorf("getting the certificate: %w", err)
	}
	data, err := encode(key, chain)
	if err != nil {
		return err
	}
	return i.store.write(i.certFile(s, name), data)
}

var errNotOffered = errors.New("the authority does not offer it")

// authorize makes an order and shows the authority by one kind of challenge that the domain leads here.
func (i *Issuer) authorize(ctx context.Context, c *xacme.Client, name, kind string) (*xacme.Order, error) {
	order, err := c.AuthorizeOrder(ctx, xacme.DomainIDs(name))
	if err != nil {
		return nil, err
	}
	for _, u := range order.AuthzURLs {
		authz, err := c.GetAuthorization(ctx, u)
		if err != nil {
			return nil, err
		}
		if authz.Status == xacme.StatusValid {
			continue // from an earlier order
		}
		at := slices.IndexFunc(authz.Challenges, func(ch *xacme.Challenge) bool { return ch.Type == kind })
		if at < 0 {
			return nil, errNotOffered
		}
		ch := authz.Challenges[at]
		file, err := i.answer(c, name, ch)
		if err != nil {
			return nil, err
		}
		defer i.store.remove(file)
		if _, err := c.Accept(ctx, ch); err != nil {
			return nil, err
		}
		if _, err := c.WaitAuthorization(ctx, authz.URI); err != nil {
			return nil, err
		}
	}
	return c.WaitOrder(ctx, order.URI)
}

// answer puts the answer to a challenge in the folder, from where all replicas give it.
func (i *Issuer) answer(c *xacme.Client, name string, ch *xacme.Challenge) (file string, err error) {
	if ch.Type == "http-01" {
		if !isToken(ch.Token) {
			return "", errors.New("the token of the challenge is not valid")
		}
		text, err := c.HTTP01ChallengeResponse(ch.Token)
		if err != nil {
			return "", err
		}
		file = httpFile(ch.Token)
		return file, i.store.write(file, []byte(text))
	}
	pair, err := c.TLSALPN01ChallengeCert(ch.Token, name)
	if err != nil {
		return "", err
	}
	data, err := encode(pair.PrivateKey, pair.Certificate)
	if err != nil {
		return "", err
	}
	file = alpnFile(name)
	return file, i.store.write(file, data)
}

func httpFile(token string) string { return challenges + "/http-" + token }
func alpnFile(name string) string  { return challenges + "/alpn-" + name }

// isToken reports whether s is made of the characters of base64url, as tokens are (RFC 8555, 8.3). It becomes the name
// of a file.
func isToken(s string) bool {
	return s != "" && len(s) <= 200 && !strings.ContainsFunc(s, func(r rune) bool {
		return (r < 'a' || r > 'z') && (r < 'A' || r > 'Z') && (r < '0' || r > '9') && r != '-' && r != '_'
	})
}

// Path is where HTTP-01 asks for the answer to a challenge; the token follows (RFC 8555, 8.3).
const Path = "/.well-known/acme-challenge/"

// HTTP returns the answer of HTTP-01 for a path. False: there is no such challenge.
func (i *Issuer) HTTP(path string) (text []byte, ok bool) {
	token, ok := strings.CutPrefix(path, Path)
	if !ok || !isToken(token) {
		return nil, false
	}
	text, err := i.store.read(httpFile(token))
	return text, err == nil && text != nil
}

// TLS returns what to do TLS with for a client of TLS-ALPN-01; nil: it is another client, or there is no such
// challenge.
func (i *Issuer) TLS(hello *tls.ClientHelloInfo) *tls.Config {
	name := strings.ToLower(hello.ServerName)
	if len(hello.SupportedProtos) != 1 || hello.SupportedProtos[0] != Protocol || !syntax.IsHost(name) {
		return nil // RFC 8737, 3: it offers this protocol only
	}
	data, err := i.store.read(alpnFile(name))
	if err != nil || data == nil {
		return nil
	}
	pair, err := tls.X509KeyPair(data, data)
	if err != nil {
		return nil
	}
	return &tls.Config{
		MinVersion: tls.VersionTLS12, NextProtos: []string{Protocol}, Certificates: []tls.Certificate{pair},
		SessionTicketsDisabled: true,
	}
}
