// Package jwt checks JSON Web Tokens that identity providers have signed (RFC 7519, with the advice of RFC 8725).
//
// Signatures are the business of go-jose. Here is which tokens are good for a route: only algorithms with public keys,
// only keys of the provider's set, and the claims iss, aud, exp and nbf.
package jwt

import (
	"context"
	"crypto"
	"crypto/rsa"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"io"
	"slices"
	"strings"
	"time"

	"bijou.dev/services/gateway/internal/auth"
	"bijou.dev/services/gateway/internal/auth/jwks"

	"github.com/go-jose/go-jose/v4"
	josejson "github.com/go-jose/go-jose/v4/json"
)

// Algorithms are those that can be listed: each has a public key. HMAC is not among them, because whoever can check
// such a token can make one, and because a public key could be used as its secret.
var Algorithms = []string{
	"RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA",
}

// Options says which tokens are good.
type Options struct {
	// Issuer must be the claim iss. Required.
	Issuer string
	// Audiences has values of which the claim aud must have one. Empty: any, also none.
	Audiences []string
	// Algorithms are some of [Algorithms]. Empty: RS256 and ES256.
	Algorithms []string
	// Leeway is how much the clocks of the provider and the edge may differ. Zero: a minute.
	Leeway time.Duration
}

// Verifier checks tokens.
type Verifier struct {
	opts       Options
	algorithms []jose.SignatureAlgorithm
	keys       Keys
	memory     memory
}

// Keys has the keys of a provider. It is a *jwks.Source.
type Keys interface {
	// Keys returns the keys that are known. The error is jwks.ErrUnavailable.
	Keys(ctx context.Context) (*jwks.KeySet, error)
	// Refetch returns keys that are newer than those that were seen. Nil: there are none.
	Refetch(ctx context.Context, seen *jwks.KeySet) *jwks.KeySet
}

// New returns a verifier.
func New(opts Options, keys Keys) *Verifier {
	v := &Verifier{opts: opts, keys: keys}
	if len(opts.Algorithms) == 0 {
		opts.Algorithms = []string{"RS256", "ES256"}
	}
	for _, a := range opts.Algorithms {
		if slices.Contains(Algorithms, a) {
			v.algorithms = append(v.algorithms, jose.SignatureAlgorithm(a))
		}
	}
	if v.opts.Leeway == 0 {
		v.opts.Leeway = time.Minute
	}
	return v
}

// Invalid says why a token is not good. The text has nothing of the token.
type Invalid string

// Error returns the text.
func (i Invalid) Error() string { return string(i) }

// What is wrong with tokens.
const (
	ErrMalformed = Invalid("the token is not a signed JWT")
	ErrAlgorithm = Invalid("the token is signed by an algorithm that is not allowed")
	ErrCritical  = Invalid("the token has a critical header that is not known")
	ErrKey       = Invalid("the token is signed by a key that the issuer does not publish")
	ErrSignature = Invalid("the signature of the token is wrong")
	ErrClaims    = Invalid("the claims of the token cannot be read")
	ErrIssuer    = Invalid("the token is of another issuer")
	ErrAudience  = Invalid("the token is for another audience")
	ErrNoExpiry  = Invalid("the token has no expiry")
	ErrExpired   = Invalid("the token has expired")
	ErrNotYet    = Invalid("the token is not valid yet")
)

// MaxToken is how long a token may be, in bytes.
const MaxToken = 16 << 10

// IsToken reports whether text has the form of a signed JWT: three parts in base64url with dots between. The decoder of
// Go ignores line ends.
func IsToken(text string) bool {
	dots := 0
	for i := range len(text) {
		switch c := text[i]; {
		case c == '.':
			dots++
		case c == '-', c == '_', '0' <= c && c <= '9', 'A' <= c && c <= 'Z', 'a' <= c && c <= 'z':
		default:
			return false
		}
	}
	return len(text) <= MaxToken && dots == 2
}

// Verify returns the claims of a token. The error is Invalid, or jwks.ErrUnavailable if the keys are not known.
func (v *Verifier) Verify(ctx context.Context, token string) (auth.Claims, error) {
	if !IsToken(token) {
		return nil, ErrMalformed
	}
	sum := sha256.Sum256([]byte(token))
	keys, unavailable := v.keys.Keys(ctx)
	if unavailable == nil {
		if claims := v.memory.get(sum, keys); claims != nil {
			return claims, nil
		}
	}
	if !v.isOfIssuer(token) {
		return nil, ErrIssuer
	}
	payload, keys, err := v.signed(ctx, token, keys, unavailable)
	if err != nil {
		return nil, err
	}
	claims, err := parse(payload)
	if err != nil {
		return nil, err
	}
	until, err := v.check(claims, time.Now())
	if err != nil {
		return nil, err
	}
	v.memory.put(sum, remembered{claims, until, keys})
	return claims, nil
}

// isOfIssuer reports whether a token says that it is of the issuer, or what it says cannot be read. It comes before the
// signature: where a route takes tokens of two issuers, a token of the second one is no reason to ask the first one for
// newer keys.
func (v *Verifier) isOfIssuer(token string) bool {
	_, rest, _ := strings.Cut(token, ".")
	text, _, _ := strings.Cut(rest, ".")
	payload, err := base64.RawURLEncoding.DecodeString(text)
	var claims struct {
		Issuer any `json:"iss"`
	}
	if err != nil || josejson.Unmarshal(payload, &claims) != nil {
		return true // what is wrong is said later
	}
	return claims.Issuer == any(v.opts.Issuer)
}

// Signed returns the payload of a token whose signature is right. Its claims are not checked.
func (v *Verifier) Signed(ctx context.Context, token string) ([]byte, error) {
	set, unavailable := v.keys.Keys(ctx)
	payload, _, err := v.signed(ctx, token, set, unavailable)
	return payload, err
}

// signed is Signed with the keys that are known, or why they are not. It also returns the keys of which one has signed
// the token.
func (v *Verifier) signed(ctx context.Context, token string, set *jwks.KeySet, unavailable error) (
	[]byte, *jwks.KeySet, error,
) {
	if !IsToken(token) {
		return nil, nil, ErrMalformed
	}
	jws, err := jose.ParseSignedCompact(token, v.algorithms)
	if err != nil {
		if _, ok := errors.AsType[*jose.ErrUnexpectedSignatureAlgorithm](err); ok {
			return nil, nil, ErrAlgorithm
		}
		return nil, nil, ErrMalformed
	}
	if len(jws.Signatures) != 1 {
		return nil, nil, ErrMalformed
	}
	header := jws.Signatures[0].Protected
	// RFC 7515, 4.1.11: what a header marks as critical must be understood. The only such header that go-jose knows is
	// b64, which a JWT must not have (RFC 7797, 7).
	for _, name := range []jose.HeaderKey{"crit", "b64"} {
		if _, ok := header.ExtraHeaders[name]; ok {
			return nil, nil, ErrCritical
		}
	}
	if unavailable != nil {
		return nil, nil, unavailable
	}
	payload, err := verify(token, jws, header, set)
	if err == nil || errors.Is(err, ErrSignature) && header.KeyID != "" {
		return payload, set, err
	}
	newer := v.keys.Refetch(ctx, set)
	if newer == nil {
		return nil, nil, err
	}
	payload, err = verify(token, jws, header, newer)
	return payload, newer, err
}

func verify(token string, jws *jose.JSONWebSignature, header jose.Header, set *jwks.KeySet) ([]byte, error) {
	err := error(ErrKey)
	for key := range set.For(header.KeyID, header.Algorithm) {
		payload, e := jws.Verify(key)
		if e == nil && saltFits(token, header.Algorithm, jws.Signatures[0].Signature, key) {
			return payload, nil
		}
		err = ErrSignature
	}
	return nil, err
}

// saltFits reports whether the salt of a signature by PSS is as long as the hash, as RFC 7518, 3.5, demands. go-jose
// takes any length.
func saltFits(token, algorithm string, signature []byte, key crypto.PublicKey) bool {
	hash, ok := map[string]crypto.Hash{"PS256": crypto.SHA256, "PS384": crypto.SHA384, "PS512": crypto.SHA512}[algorithm]
	if !ok {
		return true
	}
	public, ok := key.(*rsa.PublicKey)
	if !ok {
		return false
	}
	h := hash.New()
	_, _ = io.WriteString(h, token[:strings.LastIndexByte(token, '.')]) // never fails
	opts := &rsa.PSSOptions{SaltLength: rsa.PSSSaltLengthEqualsHash}
	return rsa.VerifyPSS(public, hash, h.Sum(nil), signature, opts) == nil
}

// parse reads claims. go-jose's reader of JSON refuses an object with two members of one name, which two servers could
// read in two ways.
func parse(payload []byte) (auth.Claims, error) {
	d := josejson.NewDecoder(strings.NewReader(string(payload)))
	d.SetNumberType(josejson.UnmarshalJSONNumber)
	var raw map[string]any
	if d.Decode(&raw) != nil || raw == nil {
		return nil, ErrClaims
	}
	var more any
	if err := d.Decode(&more); !errors.Is(err, io.EOF) {
		return nil, ErrClaims
	}
	return auth.Claims(plain(raw).(map[string]any)), nil
}

// plain replaces go-jose's type of numbers by that of encoding/json.
func plain(v any) any {
	switch v := v.(type) {
	case map[string]any:
		for name := range v {
			v[name] = plain(v[name])
		}
	case []any:
		for i := range v {
			v[i] = plain(v[i])
		}
	case josejson.Number:
		return json.Number(v.String())
	}
	return v
}

// check checks the claims of a token, and returns when it expires.
func (v *Verifier) check(c auth.Claims, now time.Time) (time.Time, error) {
	if iss, ok := c["iss"].(string); !ok || iss != v.opts.Issuer {
		return time.Time{}, ErrIssuer
	}
	if len(v.opts.Audiences) > 0 && !hasAudience(c["aud"], v.opts.Audiences) {
		return time.Time{}, ErrAudience
	}
	raw, ok := c["exp"]
	if !ok {
		return time.Time{}, ErrNoExpiry
	}
	until, ok := date(raw)
	until = until.Add(v.opts.Leeway)
	switch {
	case !ok:
		return time.Time{}, ErrClaims
	case !now.Before(until):
		return time.Time{}, ErrExpired
	}
	if raw, ok := c["nbf"]; ok {
		from, ok := date(raw)
		switch {
		case !ok:
			return time.Time{}, ErrClaims
		case now.Before(from.Add(-v.opts.Leeway)):
			return time.Time{}, ErrNotYet
		}
	}
	return until, nil
}

// hasAudience reports whether aud, which is a text or a list of texts, has one of the audiences.
func hasAudience(aud any, audiences []string) bool {
	list, ok := aud.([]any)
	if !ok {
		list = []any{aud}
	}
	return slices.ContainsFunc(list, func(a any) bool {
		text, ok := a.(string)
		return ok && slices.Contains(audiences, text)
	})
}

// maxDate is the last time that a claim may have, in seconds since 1970: the year 9999.
const maxDate = 253402300799

// date reads a NumericDate: seconds since 1970, which may have a fraction.
func date(v any) (time.Time, bool) {
	n, ok := v.(json.Number)
	if !ok {
		return time.Time{}, false
	}
	f, err := n.Float64()
	if err != nil || !(f >= 0 && f <= maxDate) {
		return time.Time{}, false
	}
	return time.UnixMilli(int64(f * 1000)), true
}
