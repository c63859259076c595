// Package certs holds the certificates of the edge. It reads them from a folder, again when they change, and chooses
// one by the name that a client asks for.
package certs

import (
	"cmp"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"bijou.dev/platform/errs"
	"bijou.dev/platform/pace"

	"github.com/prometheus/client_golang/prometheus"
)

// Options configures a Store.
type Options struct {
	// Dir is the folder to read, see [Store]. Empty: there are only the certificates of Put.
	Dir string
	// Every is how often the folder is read, with jitter. Zero: 5 s.
	Every time.Duration
	// Metrics gets bijou_gateway_certificate_expires_seconds. Nil: none.
	Metrics prometheus.Registerer
	// Log gets changes and certificates that cannot be used. Nil: nothing is logged.
	Log *slog.Logger
}

func (o Options) complete() (Options, error) {
	if o.Every < 0 {
		return o, errs.Errorf(errs.Invalid, "option Every: must not be negative, is %v", o.Every)
	}
	o.Every = cmp.Or(o.Every, 5*time.Second)
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	return o, nil
}

// Store is a set of certificates with their keys. Close must be called when it is no longer used.
//
// In the folder and in each folder directly in it, a certificate NAME.crt or NAME.pem with its key NAME.key is a pair,
// and so is fullchain.pem with privkey.pem. Names that begin with a dot are skipped. So these layouts can be used as
// they are: a folder of files, a folder of Kubernetes secrets (tls.crt, tls.key), and the folder "live" of certbot.
//
// A pair that cannot be used is logged once, and what was last read of that pair stays in use.
type Store struct {
	opts    Options
	expires *prometheus.GaugeVec
	stop    context.CancelFunc
	done    chan struct{}

	reading sync.Mutex             // guards what follows
	sources map[string]files       // name of a pair -> what was last tried
	good    map[string]Certificate // name -> last certificate that can be used
	put     map[string]Certificate // name -> certificate of Put

	mu     sync.RWMutex
	all    []Certificate            // of the folder, then of Put, each sorted by name
	byName map[string][]Certificate // host or wildcard -> certificates, the one that expires last first
}

// Certificate is a certificate in use.
type Certificate struct {
	Name    string // of the pair
	TLS     *tls.Certificate
	Expires time.Time
}

// New reads the folder for the first time. It is an error if the folder cannot be read or if none of its pairs can be
// used; an empty folder is an error, too.
func New(opts Options) (*Store, error) {
	opts, err := opts.complete()
	if err != nil {
		return nil, err
	}
	ctx, stop := context.WithCancel(context.Background())
	s := &Store{
		opts: opts, stop: stop, done: make(chan struct{}),
		sources: map[string]files{}, good: map[string]Certificate{}, put: map[string]Certificate{},
		byName: map[string][]Certificate{},
		expires: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Name: "bijou_gateway_certificate_expires_seconds",
			Help: "When a certificate in use expires, in Unix time, by name.",
		}, []string{"name"}),
	}
	if opts.Dir == "" {
		close(s.done)
	} else {
		if err := s.read(); err != nil {
			stop()
			return nil, err
		}
		if len(s.good) == 0 {
			stop()
			return nil, errs.Errorf(errs.Invalid,
				"reading certificates: %s has no pair that can be used; put NAME.crt and NAME.key there", opts.Dir)
		}
		go s.follow(ctx)
	}
	if opts.Metrics != nil {
		opts.Metrics.MustRegister(s.expires)
	}
	return s, nil
}

// Close ends reading.
func (s *Store) Close() {
	s.stop()
	<-s.done
}

func (s *Store) follow(ctx context.Context) {
	defer close(s.done)
	logged := "" // the problem that was logged last
	for pace.Sleep(ctx, pace.Jitter(s.opts.Every, 0.2)) {
		err := s.read()
		text := ""
		if err != nil {
			text = err.Error()
		}
		if text != "" && text != logged {
			s.opts.Log.Error("keeping the previous certificates", "error", text)
		}
		logged = text
	}
}

// read reads the folder and puts its pairs in use.
func (s *Store) read() error {
	s.reading.Lock()
	defer s.reading.Unlock()
	pairs, err := find(s.opts.Dir)
	if err != nil {
		return fmt.Errorf("reading certificates: %w", err)
	}
	changed := false
	for _, name := range slices.Sorted(maps.Keys(pairs)) {
		now := pairs[name].read()
		if last, ok := s.sources[name]; ok && last.equal(now) {
			continue
		}
		s.sources[name] = now
		c, err := now.parse(name)
		if err != nil {
			_, kept := s.good[name]
			s.opts.Log.Error("a certificate cannot be used", "name", name, "error", err.Error(), "previous_kept", kept)
			continue
		}
		s.good[name], changed = c, true
		s.opts.Log.Info("certificate in use", "name", name, "for", c.TLS.Leaf.DNSNames, "expires", c.Expires)
	}
	for name := range s.sources {
		if _, ok := pairs[name]; !ok {
			delete(s.sources, name)
			delete(s.good, name)
			changed = true
			s.opts.Log.Info("certificate removed", "name", name)
		}
	}
	if changed {
		s.index()
	}
	return nil
}

// Put adds a certificate that does not come from the folder, or replaces it.
func (s *Store) Put(name string, pair *tls.Certificate) error {
	c, err := checked(name, pair)
	if err != nil {
		return err
	}
	s.reading.Lock()
	defer s.reading.Unlock()
	s.put[name] = c
	s.index()
	return nil
}

// Remove removes a certificate of Put.
func (s *Store) Remove(name string) {
	s.reading.Lock()
	defer s.reading.Unlock()
	delete(s.put, name)
	s.index()
}

// index makes the certificates of the folder and of Put those in use. reading is held.
func (s *Store) index() {
	var all []Certificate
	byName := map[string][]Certificate{}
	for _, set := range []map[string]Certificate{s.good, s.put} {
		for _, name := range slices.Sorted(maps.Keys(set)) {
			c := set[name]
			all = append(all, c)
			for _, host := range c.TLS.Leaf.DNSNames {
				host = strings.ToLower(host)
				byName[host] = append(byName[host], c)
			}
		}
	}
	for _, list := range byName { // the one that expires last is likely the newest
		slices.SortStableFunc(list, func(a, b Certificate) int { return b.Expires.Compare(a.Expires) })
	}
	s.expires.Reset()
	for _, c := range all {
		s.expires.WithLabelValues(c.Name).Set(float64(c.Expires.Unix()))
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.all, s.byName = all, byName
}

// Get returns the certificate for a client: the one that has the name the client asks for, else one with a wildcard
// for it. Of several, the first that the client can use and that expires last. A client that asks for no name, because
// it has only an address, gets the first certificate by name. Nil: there is none; tls then sends unrecognized_name.
func (s *Store) Get(hello *tls.ClientHelloInfo) (*tls.Certificate, error) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	if hello.ServerName == "" {
		if len(s.all) == 0 {
			return nil, nil
		}
		return s.all[0].TLS, nil
	}
	list := s.findLocked(hello.ServerName)
	for _, c := range list {
		if hello.SupportsCertificate(c.TLS) == nil {
			return c.TLS, nil
		}
	}
	if len(list) == 0 {
		return nil, nil
	}
	return list[0].TLS, nil // the handshake fails with the reason
}

// Has reports whether there is a certificate for a host.
func (s *Store) Has(host string) bool {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return len(s.findLocked(host)) > 0
}

func (s *Store) findLocked(host string) []Certificate {
	host = strings.ToLower(strings.TrimSuffix(host, "."))
	if list := s.byName[host]; len(list) > 0 {
		return list
	}
	if _, parent, ok := strings.Cut(host, "."); ok {
		return s.byName["*."+parent]
	}
	return nil
}

// All returns the certificates in use by name, those of the folder first.
func (s *Store) All() []Certificate {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return slices.Clone(s.all)
}

// soon is how long before its end a certificate is reported.
const soon = 7 * 24 * time.Hour

// Check returns an error if a certificate has expired or expires within a week.
func (s *Store) Check() error {
	var problems []string
	now := time.Now()
	for _, c := range s.All() {
		switch left := c.Expires.Sub(now); {
		case left <= 0:
			problems = append(problems, "certificate "+c.Name+" has expired at "+c.Expires.UTC().Format(time.RFC3339))
		case left < soon:
			problems = append(problems, "certificate "+c.Name+" expires at "+c.Expires.UTC().Format(time.RFC3339))
		}
	}
	if len(problems) == 0 {
		return nil
	}
	return errors.New(strings.Join(problems, "; "))
}

// checked returns the certificate if it can be used.
func checked(name string, pair *tls.Certificate) (Certificate, error) {
	if pair.Leaf == nil {
		leaf, err := x509.ParseCertificate(pair.Certificate[0])
		if err != nil {
			return Certificate{}, err
		}
		pair.Leaf = leaf
	}
	return Certificate{Name: name, TLS: pair, Expires: pair.Leaf.NotAfter}, nil
}
