package jwt_test

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"bijou.dev/services/gateway/internal/auth/jwks"
	"bijou.dev/services/gateway/internal/auth/jwt"

	"github.com/go-jose/go-jose/v4"
)

// fixed is a set of keys that never changes.
type fixed struct{ set *jwks.KeySet }

func (f fixed) Keys(context.Context) (*jwks.KeySet, error) { return f.set, nil }

func (fixed) Refetch(context.Context, *jwks.KeySet) *jwks.KeySet { return nil }

// The keys of the tests. Making one of RSA takes long.
var (
	rsaKey, _     = rsa.GenerateKey(rand.Reader, 2048)
	p256, _       = ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	p384, _       = ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	_, ed, _      = ed25519.GenerateKey(rand.Reader)
	strange, _    = ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	everyAlg      = jwt.Options{Issuer: issuer, Audiences: []string{"api", "web"}, Algorithms: jwt.Algorithms}
	publishedKeys = []jose.JSONWebKey{
		{Key: rsaKey.Public(), KeyID: "rsa"},
		{Key: p256.Public(), KeyID: "p256"},
		{Key: p384.Public(), KeyID: "p384"},
		{Key: ed.Public(), KeyID: "ed"},
		{Key: p256.Public(), KeyID: "for-encryption", Use: "enc"},
		{Key: rsaKey.Public(), KeyID: "only-ps", Algorithm: "PS256", Use: "sig"},
		{Key: []byte(secret), KeyID: "secret"},
	}
)

const (
	issuer = "https://id.example.org"
	secret = "a secret of at least 32 bytes .."
)

func published(t testing.TB, keys ...jose.JSONWebKey) fixed {
	t.Helper()
	text, err := json.Marshal(jose.JSONWebKeySet{Keys: keys})
	if err != nil {
		t.Fatal(err)
	}
	set, err := jwks.Parse(text)
	if err != nil {
		t.Fatal(err)
	}
	return fixed{set}
}

// sign makes a token of any payload.
func sign(t testing.TB, alg jose.SignatureAlgorithm, key any, kid, payload string, header ...any) string {
	t.Helper()
	opts := &jose.SignerOptions{}
	if kid != "" {
		opts.WithHeader("kid", kid)
	}
	for i := 0; i < len(header); i += 2 {
		opts.WithHeader(jose.HeaderKey(header[i].(string)), header[i+1])
	}
	signer, err := jose.NewSigner(jose.SigningKey{Algorithm: alg, Key: key}, opts)
	if err != nil {
		t.Fatal(err)
	}
	jws, err := signer.Sign([]byte(payload))
	if err != nil {
		t.Fatal(err)
	}
	text, err := jws.CompactSerialize()
	if err != nil {
		t.Fatal(err)
	}
	return text
}

func encode(text string) string { return base64.RawURLEncoding.EncodeToString([]byte(text)) }

// good has claims that are valid in the year 2000, when time begins in synctest.
const good = `{"iss":"https://id.example.org","aud":"api","exp":946688400,"sub":"ann"}`

func TestTokensThatAreTaken(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		v := jwt.New(everyAlg, published(t, publishedKeys...))
		for name, token := range map[string]string{
			"RS256":            sign(t, jose.RS256, rsaKey, "rsa", good),
			"PS512":            sign(t, jose.PS512, rsaKey, "rsa", good),
			"ES256":            sign(t, jose.ES256, p256, "p256", good),
			"ES384":            sign(t, jose.ES384, p384, "p384", good),
			"EdDSA":            sign(t, jose.EdDSA, ed, "ed", good),
			"no id of the key": sign(t, jose.ES384, p384, "", good),
			"alg of the key":   sign(t, jose.PS256, rsaKey, "only-ps", good),
			"typ":              sign(t, jose.ES256, p256, "p256", good, "typ", "at+jwt"),
			"list of audiences": sign(t, jose.ES256, p256, "p256",
				strings.Replace(good, `"api"`, `["other","web"]`, 1)),
			"fraction of a second": sign(t, jose.ES256, p256, "p256", strings.Replace(good, `946688400`, `946684801.5`, 1)),
			"expired within the leeway": sign(t, jose.ES256, p256, "p256",
				strings.Replace(good, `946688400`, `946684741`, 1)), // 59 s ago
			"begins within the leeway": sign(t, jose.ES256, p256, "p256",
				strings.Replace(good, `"sub"`, `"nbf":946684860,"sub"`, 1)), // in 60 s
		} {
			claims, err := v.Verify(t.Context(), token)
			if err != nil || claims["sub"] != "ann" {
				t.Errorf("%s: claims %v, error %v; want those of ann", name, claims, err)
			}
		}
	})
}

func TestTokensThatAreRefused(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		v := jwt.New(everyAlg, published(t, publishedKeys...))
		ok := sign(t, jose.ES256, p256, "p256", good)
		parts := strings.Split(ok, ".")
		with := func(old, replacement string) string {
			return sign(t, jose.ES256, p256, "p256", strings.Replace(good, old, replacement, 1))
		}
		public, err := x509.MarshalPKIXPublicKey(rsaKey.Public())
		if err != nil {
			t.Fatal(err)
		}
		embedded := jose.JSONWebKey{Key: strange.Public(), KeyID: "p256"}
		for name, c := range map[string]struct {
			token string
			want  jwt.Invalid
		}{
			"empty":           {"", jwt.ErrMalformed},
			"opaque":          {"2YotnFZFEjr1zCsicMWpAA", jwt.ErrMalformed},
			"four parts":      {ok + ".", jwt.ErrMalformed},
			"padding":         {parts[0] + "=." + parts[1] + "." + parts[2], jwt.ErrMalformed},
			"space":           {parts[0] + ". " + parts[1] + "." + parts[2], jwt.ErrMalformed},
			"line end":        {ok + "\n", jwt.ErrMalformed},
			"JSON":            {`{"protected":"..","payload":"."}`, jwt.ErrMalformed},
			"too long":        {sign(t, jose.ES256, p256, "p256", good+strings.Repeat(" ", jwt.MaxToken)), jwt.ErrMalformed},
			"none":            {encode(`{"alg":"none"}`) + "." + encode(good) + ".", jwt.ErrAlgorithm},
			"None":            {encode(`{"alg":"None"}`) + "." + encode(good) + ".", jwt.ErrAlgorithm},
			"no algorithm":    {encode(`{"kid":"p256"}`) + "." + encode(good) + "." + parts[2], jwt.ErrAlgorithm},
			"list of alg":     {encode(`{"alg":["ES256"]}`) + "." + encode(good) + "." + parts[2], jwt.ErrAlgorithm},
			"alg twice":       {encode(`{"alg":"ES256","alg":"none"}`) + "." + encode(good) + ".", jwt.ErrMalformed},
			"public as HMAC":  {sign(t, jose.HS256, public, "rsa", good), jwt.ErrAlgorithm},
			"secret as HMAC":  {sign(t, jose.HS256, []byte(secret), "secret", good), jwt.ErrAlgorithm},
			"no signature":    {parts[0] + "." + parts[1] + ".", jwt.ErrSignature},
			"other payload":   {parts[0] + "." + encode(good+" ") + "." + parts[2], jwt.ErrSignature},
			"other key":       {sign(t, jose.ES256, strange, "p256", good), jwt.ErrSignature},
			"own key":         {sign(t, jose.ES256, strange, "p256", good, "jwk", embedded), jwt.ErrSignature},
			"other kind":      {sign(t, jose.ES384, p384, "p256", good), jwt.ErrKey},
			"unknown key":     {sign(t, jose.ES256, p256, "new", good), jwt.ErrKey},
			"for encryption":  {sign(t, jose.ES256, p256, "for-encryption", good), jwt.ErrKey},
			"alg of the key":  {sign(t, jose.RS256, rsaKey, "only-ps", good), jwt.ErrKey},
			"critical":        {sign(t, jose.ES256, p256, "p256", good, "crit", []string{"exp"}, "exp", 1), jwt.ErrCritical},
			"not encoded":     {sign(t, jose.ES256, p256, "p256", "a", "crit", []string{"b64"}, "b64", false), jwt.ErrCritical},
			"b64":             {sign(t, jose.ES256, p256, "p256", good, "b64", true), jwt.ErrCritical},
			"other issuer":    {with("id.example", "id2.example"), jwt.ErrIssuer},
			"no issuer":       {with(`"iss"`, `"is"`), jwt.ErrIssuer},
			"list of issuers": {with(`"https://id.example.org"`, `["https://id.example.org"]`), jwt.ErrIssuer},
			"other audience":  {with(`"api"`, `"apis"`), jwt.ErrAudience},
			"no audience":     {with(`"aud":"api",`, ``), jwt.ErrAudience},
			"odd audience":    {with(`"api"`, `[{"a":"api"}]`), jwt.ErrAudience},
			"expired":         {with("946688400", "946684740"), jwt.ErrExpired}, // 60 s ago
			"no expiry":       {with(`"exp":946688400,`, ``), jwt.ErrNoExpiry},
			"expiry as text":  {with("946688400", `"946688400"`), jwt.ErrClaims},
			"huge expiry":     {with("946688400", "1e400"), jwt.ErrClaims},
			"far expiry":      {with("946688400", "1e18"), jwt.ErrClaims},
			"negative expiry": {with("946688400", "-1"), jwt.ErrClaims},
			"not yet":         {with(`"sub"`, `"nbf":946684861,"sub"`), jwt.ErrNotYet},
			"nbf as text":     {with(`"sub"`, `"nbf":"0","sub"`), jwt.ErrClaims},
			"claim twice":     {with(`"sub":"ann"`, `"sub":"ann","sub":"eve"`), jwt.ErrClaims},
			"not an object":   {sign(t, jose.ES256, p256, "p256", `["iss"]`), jwt.ErrClaims},
			"null":            {sign(t, jose.ES256, p256, "p256", `null`), jwt.ErrIssuer},
			"more behind":     {sign(t, jose.ES256, p256, "p256", good+"}"), jwt.ErrClaims},
			"not JSON":        {sign(t, jose.ES256, p256, "p256", `iss`), jwt.ErrClaims},
		} {
			claims, err := v.Verify(t.Context(), c.token)
			if !errors.Is(err, c.want) || claims != nil {
				t.Errorf("%s: claims %v, error %v; want none and %v", name, claims, err, c.want)
			}
		}
	})
}

// What is listed counts, not what the keys could do.
func TestOnlyListedAlgorithmsAreTaken(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		token := sign(t, jose.PS256, rsaKey, "rsa", good)
		for _, c := range []struct {
			algorithms []string
			want       error
		}{
			{nil, jwt.ErrAlgorithm},
			{[]string{"RS256"}, jwt.ErrAlgorithm},
			{[]string{"PS256"}, nil},
			{[]string{"HS256", "none"}, jwt.ErrMalformed},
		} {
			v := jwt.New(jwt.Options{Issuer: issuer, Algorithms: c.algorithms}, published(t, publishedKeys...))
			if _, err := v.Verify(t.Context(), token); !errors.Is(err, c.want) {
				t.Errorf("%v: error %v, want %v", c.algorithms, err, c.want)
			}
		}
	})
}

// A token that was verified before is refused when it has expired, and when the provider takes its key back.
func TestRememberedTokens(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		keys := &fixed{published(t, publishedKeys...).set}
		v := jwt.New(everyAlg, keys)
		token := sign(t, jose.ES256, p256, "p256", good)
		check := func(when string, want error) {
			t.Helper()
			for range 2 {
				if claims, err := v.Verify(t.Context(), token); !errors.Is(err, want) || (claims["sub"] == "ann") != (want == nil) {
					t.Errorf("%s: claims %v, error %v; want %v", when, claims, err, want)
				}
			}
		}
		check("at first", nil)
		for i := range 5000 { // more than are remembered
			other := sign(t, jose.EdDSA, ed, "ed", strings.Replace(good, `"ann"`, fmt.Sprint(i), 1))
			if claims, err := v.Verify(t.Context(), other); err != nil || fmt.Sprint(claims["sub"]) != fmt.Sprint(i) {
				t.Fatalf("claims %v, error %v; want those of %d", claims, err, i)
			}
		}
		check("after many others", nil)
		keys.set = published(t, publishedKeys[0]).set
		check("the key was taken back", jwt.ErrKey)
		keys.set = published(t, publishedKeys...).set
		check("the key is there again", nil)
		time.Sleep(time.Hour)
		check("within the leeway", nil)
		time.Sleep(time.Minute)
		check("expired", jwt.ErrExpired)
	})
}

// asked is a set of keys that counts how often newer ones are asked for.
type asked struct {
	fixed
	times int
}

func (a *asked) Refetch(context.Context, *jwks.KeySet) *jwks.KeySet {
	a.times++
	return nil
}

// Only a token that may be of the issuer is a reason to look for newer keys.
func TestTokensOfOthersCauseNoFetch(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		keys := &asked{fixed: published(t, publishedKeys...)}
		v := jwt.New(everyAlg, keys)
		for name, c := range map[string]struct {
			token string
			times int
		}{
			"other issuer": {sign(t, jose.ES256, strange, "new", strings.Replace(good, "id.example", "other.example", 1)), 0},
			"no issuer":    {sign(t, jose.ES256, strange, "new", `{}`), 0},
			"object":       {sign(t, jose.ES256, strange, "new", `{"iss":{"a":1}}`), 0},
			"known key":    {sign(t, jose.ES256, strange, "p256", good), 0},
			"new key":      {sign(t, jose.ES256, strange, "new", good), 1},
			"no key id":    {sign(t, jose.ES256, strange, "", good), 1},
		} {
			keys.times = 0
			if _, err := v.Verify(t.Context(), c.token); err == nil || keys.times != c.times {
				t.Errorf("%s: error %v, newer keys were asked for %d times, want %d", name, err, keys.times, c.times)
			}
		}
	})
}

// FuzzVerify: no token that was not signed by a published key is taken, and what is wrong is said without its text.
func FuzzVerify(f *testing.F) {
	v := jwt.New(jwt.Options{Issuer: issuer, Algorithms: jwt.Algorithms}, published(f, publishedKeys...))
	valid := sign(f, jose.ES256, p256, "p256", strings.Replace(good, "946688400", "253402300799", 1))
	f.Add(valid)
	f.Add(encode(`{"alg":"none"}`) + "." + encode(good) + ".")
	f.Add(sign(f, jose.ES256, strange, "p256", good, "jwk", jose.JSONWebKey{Key: strange.Public()}))
	f.Fuzz(func(t *testing.T, token string) {
		claims, err := v.Verify(t.Context(), token)
		if err == nil && (canonical(token) != valid || claims["sub"] != "ann") {
			t.Errorf("%q was taken with claims %v", token, claims)
		}
		if _, ok := errors.AsType[jwt.Invalid](err); err != nil && !ok {
			t.Errorf("%q: error %v, want one of the known texts", token, err)
		}
	})
}

// canonical encodes the parts of a token again: the last character of a part may have bits that do not count.
func canonical(token string) string {
	parts := strings.Split(token, ".")
	for i, part := range parts {
		plain, err := base64.RawURLEncoding.DecodeString(part)
		if err != nil {
			return token
		}
		parts[i] = encode(string(plain))
	}
	return strings.Join(parts, ".")
}

func BenchmarkVerify(b *testing.B) {
	payload := strings.Replace(good, "946688400", "253402300799", 1)
	for _, c := range []struct {
		alg jose.SignatureAlgorithm
		key crypto.Signer
		kid string
	}{{jose.RS256, rsaKey, "rsa"}, {jose.ES256, p256, "p256"}, {jose.EdDSA, ed, "ed"}} {
		b.Run(string(c.alg), func(b *testing.B) {
			keys := published(b, publishedKeys...)
			token := sign(b, c.alg, c.key, c.kid, payload)
			b.ReportAllocs()
			for b.Loop() {
				if _, err := jwt.New(everyAlg, keys).Verify(b.Context(), token); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
	b.Run("again", func(b *testing.B) {
		v := jwt.New(everyAlg, published(b, publishedKeys...))
		token := sign(b, jose.ES256, p256, "p256", payload)
		b.ReportAllocs()
		for b.Loop() {
			if _, err := v.Verify(b.Context(), token); err != nil {
				b.Fatal(err)
			}
		}
	})
}
