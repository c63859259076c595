package jwks_test

import (
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"bijou.dev/services/gateway/internal/auth/jwks"

	"github.com/go-jose/go-jose/v4"
)

const issuer = "https://id.example.org"

// provider answers the requests to an identity provider, without a network.
type provider struct {
	mu       sync.Mutex
	down     bool
	hangs    bool
	keys     []string // ids
	discover string   // empty: as it should be
	body     string   // of the keys. Empty: keys
	control  string   // Cache-Control
	asked    int      // for keys
}

func (p *provider) set(change func(*provider)) {
	p.mu.Lock()
	defer p.mu.Unlock()
	change(p)
}

func (p *provider) times() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.asked
}

// RoundTrip implements http.RoundTripper.
func (p *provider) RoundTrip(r *http.Request) (*http.Response, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if strings.HasSuffix(r.URL.Path, "/keys") {
		p.asked++
	}
	if p.hangs {
		p.mu.Unlock()
		<-r.Context().Done()
		p.mu.Lock()
		return nil, r.Context().Err()
	}
	if p.down {
		return nil, errors.New("connection refused")
	}
	h := http.Header{}
	body := p.discover
	switch r.URL.Path {
	case "/.well-known/openid-configuration":
		if body == "" {
			body = `{"issuer":"` + issuer + `","jwks_uri":"` + issuer + `/keys"}`
		}
	case "/keys":
		if h.Set("Cache-Control", p.control); p.body != "" {
			body = p.body
		} else {
			body = keySet(p.keys...)
		}
	default:
		return &http.Response{StatusCode: http.StatusNotFound, Header: h, Body: http.NoBody, Request: r}, nil
	}
	res := &http.Response{StatusCode: http.StatusOK, Header: h, Request: r}
	res.Body = io.NopCloser(strings.NewReader(body))
	return res, nil
}

func keySet(ids ...string) string {
	var set jose.JSONWebKeySet
	for _, id := range ids {
		seed := make([]byte, ed25519.SeedSize)
		copy(seed, id)
		set.Keys = append(set.Keys, jose.JSONWebKey{Key: ed25519.NewKeyFromSeed(seed).Public(), KeyID: id})
	}
	text, err := json.Marshal(set)
	if err != nil {
		panic(err)
	}
	return string(text)
}

func newSet(t testing.TB, p *provider) *jwks.Set {
	t.Helper()
	s := jwks.NewSet(jwks.Options{Client: &http.Client{Transport: p}, Log: slog.New(slog.DiscardHandler)})
	t.Cleanup(s.Close)
	return s
}

var discovered = jwks.Provider{Issuer: issuer}

// bind returns the source of the only provider.
func bind(t testing.TB, p *provider) (*jwks.Set, *jwks.Source) {
	t.Helper()
	s := newSet(t, p)
	return s, s.Bind([]jwks.Provider{discovered})[discovered]
}

func has(set *jwks.KeySet, id string) bool {
	for range set.For(id, "EdDSA") {
		return true
	}
	return false
}

func TestKeysAreFoundByDiscovery(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, source := bind(t, &provider{keys: []string{"a", "b"}})
		set, err := source.Keys(t.Context())
		if err != nil || set.Len() != 2 || !has(set, "a") || has(set, "c") {
			t.Errorf("keys %v, %v; want a and b", set, err)
		}
		if st := s.State(); len(st) != 1 || st[0].Keys != 2 || st[0].Problem != "" || st[0].Fetched == nil {
			t.Errorf("state %+v, want 2 keys and no problem", st)
		}
	})
}

// The edge starts while the provider is down. It says so at once, and has the keys seconds after the provider is up.
func TestProviderThatIsDownAtTheStart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := &provider{keys: []string{"a"}, down: true}
		s, source := bind(t, p)
		begin := time.Now()
		if _, err := source.Keys(t.Context()); !errors.Is(err, jwks.ErrUnavailable) || time.Since(begin) != 0 {
			t.Errorf("error %v after %v, want %v at once", err, time.Since(begin), jwks.ErrUnavailable)
		}
		if err := s.Check(); err == nil || !strings.Contains(err.Error(), "connection refused") {
			t.Errorf("the check says %v, want the reason", err)
		}
		time.Sleep(time.Hour)
		p.set(func(p *provider) { p.down = false })
		time.Sleep(15 * time.Second)
		if set, err := source.Keys(t.Context()); err != nil || !has(set, "a") || s.Check() != nil {
			t.Errorf("15 s after the provider is up: keys %v, %v, check %v", set, err, s.Check())
		}
	})
}

// A request that comes before the first keys waits for them, but not long for a provider that hangs.
func TestRequestsWaitForTheFirstKeys(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		_, source := bind(t, &provider{hangs: true})
		begin := time.Now()
		if _, err := source.Keys(t.Context()); !errors.Is(err, jwks.ErrUnavailable) || time.Since(begin) != 2*time.Second {
			t.Errorf("error %v after %v, want %v after 2s", err, time.Since(begin), jwks.ErrUnavailable)
		}
	})
}

func TestKnownKeysStayWhileTheProviderIsDown(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := &provider{keys: []string{"a"}}
		s, source := bind(t, p)
		if _, err := source.Keys(t.Context()); err != nil {
			t.Fatal(err)
		}
		for _, broken := range []func(*provider){
			func(p *provider) { p.down = true },
			func(p *provider) { p.down, p.body = false, "no keys" },
			func(p *provider) { p.body = `{"keys":[]}` },
			func(p *provider) { p.body = `{"keys":[` + strings.Repeat(" ", 512<<10) + `]}` },
			func(p *provider) {
				p.discover = `{"issuer":"https://evil.example","jwks_uri":"https://evil.example/keys"}`
			},
			func(p *provider) { p.hangs = true },
		} {
			p.set(broken)
			time.Sleep(20 * time.Minute)
			if set, err := source.Keys(t.Context()); err != nil || !has(set, "a") {
				t.Errorf("keys %v, %v; want those from before", set, err)
			}
			if s.Check() == nil {
				t.Error("the check says nothing")
			}
		}
	})
}

func TestKeysAreRefreshedInTheBackground(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for control, most := range map[string]time.Duration{
			"": 17 * time.Minute, "public, max-age=7200": 133 * time.Minute, "max-age=0": 17 * time.Minute,
			"max-age=1": 67 * time.Second, "max-age=999999999": 27 * time.Hour, "no-store, max-age=x": 17 * time.Minute,
		} {
			p := &provider{keys: []string{"a"}, control: control}
			_, source := bind(t, p)
			synctest.Wait()
			p.set(func(p *provider) { p.keys = []string{"b"} })
			time.Sleep(most * 3 / 4)
			set, _ := source.Keys(t.Context())
			time.Sleep(most / 4)
			after, _ := source.Keys(t.Context())
			if !has(set, "a") || !has(after, "b") {
				t.Errorf("%q: the new keys were not taken between %v and %v", control, most*3/4, most)
			}
		}
	})
}

// A token with an unknown key makes the edge look for newer keys, but not as often as somebody may send such tokens.
func TestUnknownKeysCauseFewFetches(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := &provider{keys: []string{"a"}}
		_, source := bind(t, p)
		set, err := source.Keys(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		p.set(func(p *provider) { p.keys = []string{"a", "b"} })
		newer := source.Refetch(t.Context(), set)
		if newer == nil || !has(newer, "b") {
			t.Fatalf("keys %v, want the new one at once", newer)
		}
		if again := source.Refetch(t.Context(), set); again != newer {
			t.Error("who has seen the old keys does not get the new ones")
		}
		before := p.times()
		for range 600 { // ten minutes of tokens with unknown keys
			source.Refetch(t.Context(), newer)
			time.Sleep(time.Second)
		}
		if n := p.times() - before; n < 8 || n > 15 {
			t.Errorf("%d fetches in 10 minutes, want about one a minute", n)
		}
		p.set(func(p *provider) { p.hangs = true })
		time.Sleep(time.Minute)
		begin := time.Now()
		if source.Refetch(t.Context(), newer) != nil || time.Since(begin) > 3*time.Second {
			t.Errorf("waited %v for a provider that hangs, want at most 3s", time.Since(begin))
		}
	})
}

func TestManyRequestsCauseOneFetch(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := &provider{keys: []string{"a"}}
		_, source := bind(t, p)
		set, err := source.Keys(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		p.set(func(p *provider) { p.hangs = true })
		before := p.times()
		var wg sync.WaitGroup
		for range 1000 {
			wg.Go(func() { source.Refetch(t.Context(), set) })
		}
		wg.Wait()
		if n := p.times() - before; n > 1 {
			t.Errorf("1000 requests caused %d fetches", n)
		}
	})
}

// Other routes can be changed without losing keys, and a provider that no route needs is not asked any more.
func TestSourcesFollowTheTable(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := &provider{keys: []string{"a"}}
		s, source := bind(t, p)
		other := jwks.Provider{Issuer: "https://other.example", JWKS: "https://other.example/keys"}
		if s.Bind([]jwks.Provider{discovered, other, discovered})[discovered] != source {
			t.Error("the source was replaced")
		}
		s.Bind(nil)
		before := p.times()
		time.Sleep(time.Hour)
		if p.times() != before || len(s.State()) != 0 {
			t.Error("a provider is asked although no route needs it")
		}
	})
}

func TestDiscoveryIsChecked(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for text, want := range map[string]string{
			`{"issuer":"https://id.example.org/","jwks_uri":"https://id.example.org/keys"}`:                            "the issuer is",
			`{"issuer":"https://id.example.org"}`:                                                                      "jwks_uri must be a URL",
			`{"issuer":"https://id.example.org","jwks_uri":"http://id.example.org/keys"}`:                              "jwks_uri must be a URL",
			`{"issuer":"https://id.example.org","jwks_uri":"file:///etc/keys"}`:                                        "jwks_uri must be a URL",
			`{"issuer":"https://id.example.org","jwks_uri":"https://id.example.org/keys","token_endpoint":"http://a"}`: "token_endpoint must be",
			`[]`: "not the JSON of OpenID discovery",
		} {
			s, source := bind(t, &provider{keys: []string{"a"}, discover: text})
			if _, err := source.Keys(t.Context()); err == nil {
				t.Errorf("%s was taken", text)
			}
			if err := s.Check(); err == nil || !strings.Contains(err.Error(), want) {
				t.Errorf("%s: the check says %v, want %q", text, err, want)
			}
		}
	})
}

func TestKeysThatCannotCheckSignatures(t *testing.T) {
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	text, err := json.Marshal(jose.JSONWebKeySet{Keys: []jose.JSONWebKey{
		{Key: private, KeyID: "private"},
		{Key: []byte("secret"), KeyID: "oct"},
		{Key: private.Public(), KeyID: "enc", Use: "enc"},
	}})
	if err != nil {
		t.Fatal(err)
	}
	short := `{"keys":[{"kty":"RSA","kid":"short","e":"AQAB","n":"` + strings.Repeat("q", 171) + `"}]}`
	many := `{"keys":[` + strings.Repeat(`{},`, 100) + `{}]}`
	for _, text := range []string{string(text), short, many, `{}`, `{"keys":[{}]}`, `{"keys":[{"kty":"OKP","crv":"X448"}]}`, ``} {
		if set, err := jwks.Parse([]byte(text)); err == nil {
			t.Errorf("%.80s: %d keys, want an error", text, set.Len())
		}
	}
	set, err := jwks.Parse([]byte(strings.Replace(keySet("a"), `{"keys":[`, `{"keys":[{"kty":"new"},{"kty":7},`, 1)))
	if err != nil || set.Len() != 1 {
		t.Errorf("a set with keys of unknown kinds: %v, %v; want the one that is known", set, err)
	}
}

// FuzzParse: whatever a provider sends, only public keys are tried, each for algorithms of its kind.
func FuzzParse(f *testing.F) {
	f.Add([]byte(keySet("a", "b")))
	f.Add([]byte(`{"keys":[{"kty":"RSA","e":"AQAB","n":"AA"},{"kty":"oct","k":"AA"},{"kty":"EC","crv":"P-256","x":"AA","y":"AA"}]}`))
	f.Fuzz(func(t *testing.T, text []byte) {
		set, err := jwks.Parse(text)
		if err != nil {
			return
		}
		for _, algorithm := range []string{"HS256", "none", ""} {
			for key := range set.For("", algorithm) {
				t.Errorf("key %v is tried for %q", key, algorithm)
			}
		}
		for key := range set.For("", "EdDSA") {
			if _, ok := key.(ed25519.PublicKey); !ok {
				t.Errorf("key %T is tried for EdDSA", key)
			}
		}
	})
}
