// Package jwks has the public keys of identity providers. It fetches them in the background, and keeps those that it
// knows while a provider is down.
package jwks

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"bijou.dev/platform/pace"
)

// Times and sizes. They are not settings: what is a good value does not depend on who uses the edge.
const (
	fetchTimeout = 5 * time.Second // for each request to a provider
	maxBody      = 512 << 10       // bytes of a response
	refresh      = 15 * time.Minute
	minRefresh   = time.Minute // a provider may ask for another time by Cache-Control: max-age
	maxRefresh   = 24 * time.Hour
	maxRetry     = 15 * time.Second // between two attempts while a provider is down
	firstWait    = 2 * time.Second  // how long a request waits for the first keys
	refetchWait  = 3 * time.Second  // how long a request with an unknown key waits for newer keys
	minRefetch   = 10 * time.Second // between two fetches for unknown keys; it doubles while they bring nothing new
	maxRefetch   = time.Minute
	maxWaiting   = 256 // requests that wait for newer keys of one provider; others are refused at once
)

// ErrUnavailable says that no keys are known, because the provider was not reached since the edge began to ask.
var ErrUnavailable = errors.New("the keys of the identity provider are not known yet")

// Provider names an identity provider.
type Provider struct {
	// Issuer is the URL of the provider. Its keys are found by OpenID discovery if JWKS is empty.
	Issuer string
	// JWKS is the URL of the keys. Empty: discovery.
	JWKS string
}

// String is the URL that is asked first.
func (p Provider) String() string { return cmp.Or(p.JWKS, p.Issuer) }

// Metadata is what discovery says about a provider (OpenID Connect Discovery 1.0, 3).
type Metadata struct {
	Issuer        string
	JWKS          string // jwks_uri
	Authorization string // authorization_endpoint; empty: there is none, as for the next two
	Token         string // token_endpoint
	EndSession    string // end_session_endpoint
	// SecretInParams: the token endpoint takes the secret of a client as parameter, and not by the scheme Basic.
	SecretInParams bool // token_endpoint_auth_methods_supported
}

// Options are what all sources share.
type Options struct {
	// Client fetches. Its time-outs do not matter. Required.
	Client *http.Client
	// Log gets changes of keys and failures. Required.
	Log *slog.Logger
}

// Set is the providers of the table in use.
type Set struct {
	opts Options

	mu     sync.Mutex
	all    map[Provider]*Source
	closed bool
}

// NewSet returns a set without providers.
func NewSet(opts Options) *Set { return &Set{opts: opts, all: map[Provider]*Source{}} }

// Bind returns the source of each provider, and ends those of all other providers. A source that was there before keeps
// its keys.
func (s *Set) Bind(providers []Provider) map[Provider]*Source {
	s.mu.Lock()
	defer s.mu.Unlock()
	bound := map[Provider]*Source{}
	for _, p := range providers {
		switch {
		case bound[p] != nil:
		case s.all[p] != nil:
			bound[p] = s.all[p]
		default:
			bound[p] = newSource(p, s.opts, !s.closed)
		}
	}
	for p, source := range s.all {
		if bound[p] == nil {
			source.close()
		}
	}
	s.all = bound
	return bound
}

// Close ends all fetches.
func (s *Set) Close() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.closed = true
	for _, source := range s.all {
		source.close()
	}
}

// State is what is known of a provider.
type State struct {
	Provider string     `json:"provider"`
	Keys     int        `json:"keys"`
	Fetched  *time.Time `json:"fetched,omitempty"` // the last time that it was reached. Nil: never
	Problem  string     `json:"problem,omitempty"` // of the last fetch. Empty: it succeeded, or there was none
}

// State returns what is known of all providers, in the order of their names.
func (s *Set) State() []State {
	s.mu.Lock()
	defer s.mu.Unlock()
	list := []State{}
	for _, source := range s.all {
		list = append(list, source.state())
	}
	slices.SortFunc(list, func(a, b State) int { return strings.Compare(a.Provider, b.Provider) })
	return list
}

// Check returns what is wrong: the providers whose last fetch failed.
func (s *Set) Check() error {
	var all []error
	for _, st := range s.State() {
		if st.Problem != "" {
			all = append(all, fmt.Errorf("identity provider %s: %s", st.Provider, st.Problem))
		}
	}
	return errors.Join(all...)
}

// Source has the keys of one provider.
type Source struct {
	provider Provider
	opts     Options
	end      context.CancelFunc
	done     chan struct{} // closed when run has ended
	began    chan struct{} // closed after the first fetch
	wake     chan struct{}

	mu       sync.Mutex
	keys     *KeySet // nil: none yet
	metadata *Metadata
	fetched  time.Time
	problem  string
	asked    chan struct{} // closed after the fetch that requests wait for. Nil: no request waits
	waiting  int
	mayAsk   time.Time // when a request may cause a fetch again
	pause    time.Duration
}

func newSource(p Provider, opts Options, runs bool) *Source {
	ctx, end := context.WithCancel(context.Background())
	s := &Source{
		provider: p, opts: opts, end: end, done: make(chan struct{}), began: make(chan struct{}),
		wake: make(chan struct{}, 1), pause: minRefetch,
	}
	if !runs {
		end()
	}
	go s.run(ctx)
	return s
}

func (s *Source) close() {
	s.end()
	<-s.done
}

// run fetches until the source is closed.
func (s *Source) run(ctx context.Context) {
	defer close(s.done)
	backoff := pace.Backoff{First: time.Second, Max: maxRetry}
	for first := true; ctx.Err() == nil; first = false {
		wait, err := s.update(ctx)
		if first {
			close(s.began)
		}
		if err != nil {
			wait = backoff.Next()
		} else {
			backoff.Reset()
		}
		timer := time.NewTimer(wait)
		select {
		case <-ctx.Done():
		case <-timer.C:
		case <-s.wake:
		}
		timer.Stop()
	}
}

// update fetches once, and returns when to fetch again.
func (s *Source) update(ctx context.Context) (time.Duration, error) {
	keys, metadata, age, err := s.fetch(ctx)
	if ctx.Err() != nil {
		return 0, ctx.Err() //nolint:wrapcheck // nobody reads it
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	changed := false
	if err == nil {
		changed = s.keys == nil || s.keys.sum != keys.sum
		if changed { // else those who have seen the old ones would try them again
			s.keys = keys
			s.opts.Log.Info("keys of an identity provider in use", "provider", s.provider.String(), "count", keys.Len())
		}
		s.metadata, s.fetched, s.problem = metadata, time.Now(), ""
	} else {
		if s.problem == "" {
			s.opts.Log.Warn("fetching the keys of an identity provider", "provider", s.provider.String(), "error", err)
		}
		s.problem = err.Error()
	}
	if s.asked != nil {
		close(s.asked)
		s.asked = nil
		if s.pause = min(2*s.pause, maxRefetch); changed {
			s.pause = minRefetch
		}
		s.mayAsk = time.Now().Add(s.pause)
	}
	if age == 0 {
		age = refresh
	}
	return pace.Jitter(min(max(age, minRefresh), maxRefresh), .1), err
}

// Keys returns the keys that are known. While the first fetch is in progress it waits for it. The error is
// ErrUnavailable, or that of ctx.
func (s *Source) Keys(ctx context.Context) (*KeySet, error) {
	if keys := s.known(); keys != nil {
		return keys, nil
	}
	timer := time.NewTimer(firstWait)
	defer timer.Stop()
	select {
	case <-s.began:
	case <-timer.C:
	case <-ctx.Done():
	}
	if keys := s.known(); keys != nil {
		return keys, nil
	}
	return nil, ErrUnavailable
}

func (s *Source) known() *KeySet {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.keys
}

// Metadata returns what discovery said. The error is ErrUnavailable.
func (s *Source) Metadata(ctx context.Context) (*Metadata, error) {
	if _, err := s.Keys(ctx); err != nil {
		return nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.metadata, nil
}

// Refetch returns keys that are newer than those that were seen, for a token that none of them has signed. Nil: there
// are none. Anybody can send such tokens, so a fetch for them happens at most every 10 s, and less often while such
// fetches bring nothing new.
func (s *Source) Refetch(ctx context.Context, seen *KeySet) *KeySet {
	s.mu.Lock()
	if s.keys != seen {
		defer s.mu.Unlock()
		return s.keys
	}
	if s.asked == nil {
		if time.Now().Before(s.mayAsk) {
			s.mu.Unlock()
			return nil
		}
		s.asked = make(chan struct{})
		select {
		case s.wake <- struct{}{}:
		default: // it is awake
		}
	}
	if s.waiting >= maxWaiting {
		s.mu.Unlock()
		return nil
	}
	s.waiting++
	asked := s.asked
	s.mu.Unlock()

	timer := time.NewTimer(refetchWait)
	defer timer.Stop()
	select {
	case <-asked:
	case <-timer.C:
	case <-ctx.Done():
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.waiting--
	if s.keys == seen {
		return nil
	}
	return s.keys
}

func (s *Source) state() State {
	s.mu.Lock()
	defer s.mu.Unlock()
	st := State{Provider: s.provider.String(), Problem: s.problem}
	if s.keys != nil {
		st.Keys = s.keys.Len()
	}
	if !s.fetched.IsZero() {
		at := s.fetched
		st.Fetched = &at
	}
	return st
}

// fetch returns the keys of the provider, what discovery says, and how long the keys may be kept. Zero: it does not
// say.
func (s *Source) fetch(ctx context.Context) (*KeySet, *Metadata, time.Duration, error) {
	metadata := &Metadata{Issuer: s.provider.Issuer, JWKS: s.provider.JWKS}
	if s.provider.JWKS == "" {
		var err error
		if metadata, err = s.discover(ctx); err != nil {
			return nil, nil, 0, err
		}
	}
	text, age, err := s.get(ctx, metadata.JWKS)
	if err != nil {
		return nil, nil, 0, err
	}
	keys, err := Parse(text)
	if err != nil {
		return nil, nil, 0, fmt.Errorf("reading %s: %w", metadata.JWKS, err)
	}
	keys.sum = sha256.Sum256(text)
	return keys, metadata, age, nil
}

// wellKnown is where discovery is, below the issuer (OpenID Connect Discovery 1.0, 4).
const wellKnown = "/.well-known/openid-configuration"

func (s *Source) discover(ctx context.Context) (*Metadata, error) {
	at := strings.TrimSuffix(s.provider.Issuer, "/") + wellKnown
	text, _, err := s.get(ctx, at)
	if err != nil {
		return nil, err
	}
	var raw map[string]any
	if err := json.Unmarshal(text, &raw); err != nil {
		return nil, fmt.Errorf("reading %s: it is not the JSON of OpenID discovery", at)
	}
	m := &Metadata{}
	for name, to := range map[string]*string{
		"issuer": &m.Issuer, "jwks_uri": &m.JWKS, "authorization_endpoint": &m.Authorization, "token_endpoint": &m.Token,
		"end_session_endpoint": &m.EndSession,
	} {
		*to, _ = raw[name].(string)
	}
	if list, ok := raw["token_endpoint_auth_methods_supported"].([]any); ok { // missing: client_secret_basic
		m.SecretInParams = !slices.Contains(list, any("client_secret_basic"))
	}
	if m.Issuer != s.provider.Issuer {
		return nil, fmt.Errorf("reading %s: it says that the issuer is %.200q; use that in the route", at, m.Issuer)
	}
	// An issuer with https must not lead to endpoints without it, where somebody could put other keys.
	for name, to := range map[string]string{
		"jwks_uri": m.JWKS, "authorization_endpoint": m.Authorization, "token_endpoint": m.Token,
		"end_session_endpoint": m.EndSession,
	} {
		u, err := url.Parse(to)
		switch {
		case to == "" && name != "jwks_uri":
		case err != nil, u.Host == "", u.Scheme != "https" && (u.Scheme != "http" || strings.HasPrefix(m.Issuer, "https:")):
			return nil, fmt.Errorf("reading %s: %s must be a URL with the scheme of the issuer, is %.200q", at, name, to)
		}
	}
	return m, nil
}

// get fetches a document, and returns how long it may be kept. Zero: it does not say.
func (s *Source) get(ctx context.Context, at string) ([]byte, time.Duration, error) {
	ctx, cancel := context.WithTimeout(ctx, fetchTimeout)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, at, nil)
	if err != nil {
		return nil, 0, fmt.Errorf("fetching %s: %w", at, err)
	}
	req.Header.Set("Accept", "application/json")
	res, err := s.opts.Client.Do(req)
	if err != nil {
		return nil, 0, fmt.Errorf("fetching %s: %w", at, err)
	}
	defer res.Body.Close()
	if res.StatusCode != http.StatusOK {
		return nil, 0, fmt.Errorf("fetching %s: the status is %d, not 200", at, res.StatusCode)
	}
	text, err := io.ReadAll(io.LimitReader(res.Body, maxBody+1))
	switch {
	case err != nil:
		return nil, 0, fmt.Errorf("fetching %s: %w", at, err)
	case len(text) > maxBody:
		return nil, 0, fmt.Errorf("fetching %s: it has more than %d bytes", at, maxBody)
	}
	return text, maxAge(res.Header), nil
}

// maxAge reads Cache-Control. Zero: there is no max-age.
func maxAge(h http.Header) time.Duration {
	for _, line := range h.Values("Cache-Control") {
		for item := range strings.SplitSeq(line, ",") {
			text, ok := strings.CutPrefix(strings.ToLower(strings.TrimSpace(item)), "max-age=")
			if !ok {
				continue
			}
			if n, err := strconv.ParseUint(strings.Trim(text, `"`), 10, 31); err == nil {
				return time.Duration(n) * time.Second
			}
		}
	}
	return 0
}
