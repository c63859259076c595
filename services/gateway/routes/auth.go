package routes

import (
	"cmp"
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"bijou.dev/services/gateway/internal/auth"
	"bijou.dev/services/gateway/internal/auth/hook"
	"bijou.dev/services/gateway/internal/auth/jwks"
	"bijou.dev/services/gateway/internal/auth/jwt"
	"bijou.dev/services/gateway/internal/auth/login"
	"bijou.dev/services/gateway/internal/fields"
	"bijou.dev/services/gateway/internal/message"
	"bijou.dev/services/gateway/internal/syntax"
)

// Auth says who may call. A request is refused with 401 if no method knows its caller, and with 403 if the caller may
// not call.
type Auth struct {
	// Methods lists how callers prove who they are. They are tried in this order, and the first one that knows the caller
	// counts. Required.
	Methods []AuthMethod `json:"methods"`
	// Optional also takes requests without a credential. One with a wrong credential is refused. False: all requests need
	// one.
	Optional bool `json:"optional,omitempty"`
	// Allow lists rules of which one must hold for the caller. Empty: all callers may call. It is not asked for requests
	// without a credential.
	Allow []AuthRule `json:"allow,omitempty"`
	// Claims tells the origin about the caller: claim -> header field. Fields of clients with these names are always
	// removed. Empty: the origin gets nothing.
	Claims map[string]string `json:"claims,omitempty"`
}

// AuthMethod is one way to prove who one is. Exactly one field is set.
type AuthMethod struct {
	JWT        *AuthJWT        `json:"jwt,omitempty"`
	APIKey     *AuthAPIKey     `json:"apiKey,omitempty"`
	ClientCert *AuthClientCert `json:"clientCert,omitempty"`
	Hook       *AuthHook       `json:"hook,omitempty"`
	Login      *AuthLogin      `json:"login,omitempty"`
}

// AuthJWT takes JSON Web Tokens that an identity provider has signed.
type AuthJWT struct {
	// Issuer is the URL of the provider, and what the claim iss must be. Required.
	Issuer string `json:"issuer"`
	// JWKS is the URL of the provider's keys. Empty: OpenID discovery says it.
	JWKS string `json:"jwks,omitempty"`
	// Audiences has values of which the claim aud must have one. Required, unless AnyAudience is set.
	Audiences []string `json:"audiences,omitempty"`
	// AnyAudience takes tokens that are for other services, too. False: it does not.
	AnyAudience bool `json:"anyAudience,omitempty"`
	// Algorithms may sign tokens: RS256 and so on, PS256, ES256, EdDSA. Empty: RS256 and ES256.
	Algorithms []string `json:"algorithms,omitempty"`
	// Leeway is how much the clocks of the provider and the edge may differ, as a Go duration up to "5m". Empty: "1m".
	Leeway string `json:"leeway,omitempty"`
	// Cookie is a cookie that may have the token, if the request has no bearer token. Empty: none.
	Cookie string `json:"cookie,omitempty"`
	// Pass sends the token to the origin, too. False: it is removed.
	Pass bool `json:"pass,omitempty"`
}

// AuthAPIKey takes the keys of the setting gateway.keys.
type AuthAPIKey struct {
	// Header is the field with the key. In Authorization the key is behind "Bearer". Empty: "X-Api-Key".
	Header string `json:"header,omitempty"`
}

// AuthClientCert takes the certificates of Route.ClientCert.
type AuthClientCert struct{}

// AuthHook asks an external service whether the request may pass, and who calls.
type AuthHook struct {
	// URL is http:// or https:// for a GET with the header of the request, as for auth_request of nginx, or grpc:// or
	// grpcs:// with a port for Envoy's ext_authz. Required.
	URL string `json:"url"`
	// Claims says which fields of the hook's response are claims of the caller: claim -> header field. Empty: none.
	Claims map[string]string `json:"claims,omitempty"`
	// Timeout is how long the hook may take, as a Go duration up to "10s". Empty: "2s".
	Timeout string `json:"timeout,omitempty"`
	// FailOpen lets requests pass while the hook does not answer, with an unknown caller. False: they get 503.
	FailOpen bool `json:"failOpen,omitempty"`
}

// AuthLogin logs people in at an identity provider (OpenID Connect) and remembers them by a cookie.
type AuthLogin struct {
	// Issuer is the URL of the provider. Required.
	Issuer string `json:"issuer"`
	// ClientID is what the provider calls the edge. Required.
	ClientID string `json:"clientId"`
	// ClientSecret is the name of the file with the client's secret, in the folder of the flag -secrets. Empty: the
	// provider knows a public client.
	ClientSecret string `json:"clientSecret,omitempty"`
	// CookieKeys is the name of the file with the keys for cookies, in the same folder. Required.
	CookieKeys string `json:"cookieKeys"`
	// Scopes are asked for beside openid: "email", "profile", and for renewals "offline_access". Empty: none.
	Scopes []string `json:"scopes,omitempty"`
	// Claims are those that a session keeps beside sub. Empty: none.
	Claims []string `json:"claims,omitempty"`
	// Algorithms may sign the tokens of the provider. Empty: RS256 and ES256.
	Algorithms []string `json:"algorithms,omitempty"`
	// Session is how long a session lasts, as a Go duration up to "720h". Empty: "8h".
	Session string `json:"session,omitempty"`
	// Path is where the edge answers log-ins itself: below it are /callback, /start and /logout. A route with the same
	// log-in must take requests for it. Empty: "/.login".
	Path string `json:"path,omitempty"`
	// Cookie is the name of the cookie, to which __Host- is added over TLS. Empty: "bijou-session".
	Cookie string `json:"cookie,omitempty"`
	// AfterLogout is the path to which people go after they have logged out. Empty: "/".
	AfterLogout string `json:"afterLogout,omitempty"`
}

// AuthRule is a condition on callers. All parts that are set must hold.
type AuthRule struct {
	// Scopes must all be in the claim scope or scp. Empty: any.
	Scopes []string `json:"scopes,omitempty"`
	// Claims lists values, of which the claim must have one: claim -> values. Empty: any.
	Claims map[string][]string `json:"claims,omitempty"`
	// Keys lists names of API keys. The caller must have one of them. Empty: any caller.
	Keys []string `json:"keys,omitempty"`
}

// Bounds of auth.
const (
	maxMethods   = 8
	maxRules     = 32
	maxListed    = 64 // entries of each list in auth
	maxClaims    = 32
	maxClaimName = 128
	maxLeeway    = 5 * time.Minute
	maxHookTime  = 10 * time.Second
	maxSession   = 720 * time.Hour
)

// DefaultKeyHeader is the field with an API key if the route names no other.
const DefaultKeyHeader = "X-Api-Key"

func (r *Route) validateAuth() *violation {
	a := r.Auth
	if a == nil {
		return nil
	}
	if len(a.Methods) == 0 || len(a.Methods) > maxMethods {
		return bad("auth.methods", "must have 1 to %d methods, has %d", maxMethods, len(a.Methods))
	}
	for i := range a.Methods {
		if v := r.validateMethod(&a.Methods[i]); v != nil {
			return within(fmt.Sprintf("auth.methods[%d]", i), v)
		}
	}
	if len(a.Allow) > maxRules {
		return bad("auth.allow", "must have at most %d rules, has %d", maxRules, len(a.Allow))
	}
	for i := range a.Allow {
		if v := a.Allow[i].validate(); v != nil {
			return within(fmt.Sprintf("auth.allow[%d]", i), v)
		}
	}
	return cmp.Or(r.validateClaims(), a.checkKept())
}

// checkKept refuses claims that no caller of the route can have, because no session keeps them. Tokens and hooks may
// have any claim.
func (a *Auth) checkKept() *violation {
	kept := []string{auth.Subject}
	for i := range a.Methods {
		m := &a.Methods[i]
		if m.JWT != nil || m.Hook != nil {
			return nil
		}
		if m.Login != nil {
			kept = append(kept, m.Login.Claims...)
		}
	}
	check := func(field, name string) *violation {
		first, _, _ := strings.Cut(name, ".")
		if slices.Contains(kept, name) || slices.Contains(kept, first) {
			return nil
		}
		return bad(field, "is a claim that no method of the route knows: with login, list it in claims of login")
	}
	for _, name := range slices.Sorted(maps.Keys(a.Claims)) {
		if v := check(fmt.Sprintf("auth.claims[%q]", name), name); v != nil {
			return v
		}
	}
	for i, rule := range a.Allow {
		for _, name := range slices.Sorted(maps.Keys(rule.Claims)) {
			if v := check(fmt.Sprintf("auth.allow[%d].claims[%q]", i, name), name); v != nil {
				return v
			}
		}
	}
	return nil
}

// within puts a violation of a part of a field behind the field's name.
func within(field string, v *violation) *violation {
	if v.field == "" {
		return bad(field, "%s", v.problem)
	}
	return bad(field+"."+v.field, "%s", v.problem)
}

func (r *Route) validateMethod(m *AuthMethod) *violation {
	kinds := 0
	for _, has := range []bool{m.JWT != nil, m.APIKey != nil, m.ClientCert != nil, m.Hook != nil, m.Login != nil} {
		if has {
			kinds++
		}
	}
	switch {
	case kinds != 1:
		return bad("", "must have one of jwt, apiKey, clientCert, hook and login")
	case m.JWT != nil:
		return nested("jwt", m.JWT.validate())
	case m.APIKey != nil:
		return nested("apiKey", m.APIKey.validate())
	case m.Hook != nil:
		return nested("hook", m.Hook.validate())
	case m.Login != nil:
		return nested("login", m.Login.validate())
	case r.ClientCert == nil:
		return bad("clientCert", "needs clientCert of the route, which has the authorities")
	}
	return nil
}

func nested(field string, v *violation) *violation {
	if v == nil {
		return nil
	}
	return within(field, v)
}

func (j *AuthJWT) validate() *violation {
	if v := checkURL("issuer", j.Issuer); v != nil {
		return v
	}
	if j.JWKS != "" {
		if v := checkURL("jwks", j.JWKS); v != nil {
			return v
		}
	}
	switch {
	case len(j.Audiences) == 0 && !j.AnyAudience:
		return bad("audiences", "must have a value, or set anyAudience: a token may be for another service")
	case len(j.Audiences) > 0 && j.AnyAudience:
		return bad("anyAudience", "must be false when audiences is set")
	}
	if v := checkList("audiences", j.Audiences); v != nil {
		return v
	}
	if v := checkAlgorithms(j.Algorithms); v != nil {
		return v
	}
	if j.Leeway != "" {
		if d, err := time.ParseDuration(j.Leeway); err != nil || d <= 0 || d > maxLeeway {
			return bad("leeway", `must be a duration like "30s" up to %v, is %q`, maxLeeway, j.Leeway)
		}
	}
	if j.Cookie != "" && !syntax.IsToken(j.Cookie) {
		return bad("cookie", "must be the name of a cookie")
	}
	return nil
}

func checkAlgorithms(list []string) *violation {
	for i, a := range list {
		if !slices.Contains(jwt.Algorithms, a) {
			return bad(fmt.Sprintf("algorithms[%d]", i), "must be one of %s, is %q", strings.Join(jwt.Algorithms, ", "), a)
		}
	}
	return nil
}

// Provider is where the keys are.
func (j *AuthJWT) Provider() jwks.Provider { return jwks.Provider{Issuer: j.Issuer, JWKS: j.JWKS} }

// Options are for jwt.New.
func (j *AuthJWT) Options() jwt.Options {
	leeway, _ := time.ParseDuration(cmp.Or(j.Leeway, "0")) // validate has checked it
	return jwt.Options{Issuer: j.Issuer, Audiences: j.Audiences, Algorithms: j.Algorithms, Leeway: leeway}
}

func (k *AuthAPIKey) validate() *violation {
	switch name := k.Field(); {
	case !isFieldName(name):
		return bad("header", "must be a name of letters, digits and dashes, is %q", k.Header)
	case name == "Authorization":
		return nil
	case !fields.PassesInTrailer(name, nil):
		return bad("header", "must not be %s, which has another meaning", name)
	}
	return nil
}

// Field is the canonical name of the field with the key.
func (k *AuthAPIKey) Field() string { return auth.Canonical(cmp.Or(k.Header, DefaultKeyHeader)) }

func (l *AuthLogin) validate() *violation {
	if v := checkURL("issuer", l.Issuer); v != nil {
		return v
	}
	if v := checkAlgorithms(l.Algorithms); v != nil {
		return v
	}
	if v := checkScopes(l.Scopes); v != nil {
		return v
	}
	o := l.Options()
	switch {
	case l.ClientID == "" || len(l.ClientID) > 512:
		return bad("clientId", "must have 1 to 512 bytes")
	case l.ClientSecret != "" && !login.IsSecretName(l.ClientSecret):
		return bad("clientSecret", "must be the name of a file in the folder -secrets")
	case !login.IsSecretName(l.CookieKeys):
		return bad("cookieKeys", "must be the name of a file in the folder -secrets")
	case o.Session < time.Minute || o.Session > maxSession:
		return bad("session", `must be a duration like "8h" from 1m to %v, is %q`, maxSession, l.Session)
	case checkPath(o.Path) != nil || strings.ContainsAny(o.Path, "%?#") || strings.HasSuffix(o.Path, "/"):
		return bad("path", "must begin with / and hold no query, no escapes, no empty and no dot segments, is %q", l.Path)
	case checkPath(o.AfterLogout) != nil || strings.ContainsAny(o.AfterLogout, "%?#"):
		return bad("afterLogout", "must begin with / and hold no query, no escapes, no empty and no dot segments, is %q",
			l.AfterLogout)
	case !syntax.IsToken(o.Cookie) || len(o.Cookie) > 64 || strings.HasPrefix(o.Cookie, "__"):
		return bad("cookie", "must be the name of a cookie, of up to 64 letters")
	}
	return cmp.Or(checkList("scopes", l.Scopes), checkList("claims", l.Claims))
}

// Options are for login.New.
func (l *AuthLogin) Options() login.Options {
	o := login.Options{
		Issuer: l.Issuer, ClientID: l.ClientID, ClientSecret: l.ClientSecret, CookieKeys: l.CookieKeys, Scopes: l.Scopes,
		Claims: l.Claims, Algorithms: l.Algorithms, Path: cmp.Or(l.Path, "/.login"),
		Cookie: cmp.Or(l.Cookie, "bijou-session"), AfterLogout: cmp.Or(l.AfterLogout, "/"),
	}
	o.Session, _ = time.ParseDuration(cmp.Or(l.Session, "8h")) // validate refuses zero
	return o
}

// Provider is where the keys are.
func (l *AuthLogin) Provider() jwks.Provider { return jwks.Provider{Issuer: l.Issuer} }

// Key is the same for the same settings.
func (l *AuthLogin) Key() string {
	text, err := json.Marshal(l)
	if err != nil {
		return err.Error() // cannot happen: all fields can be encoded
	}
	return string(text)
}

// checkCallbacks refuses log-ins whose callbacks would not reach the edge. It is asked when all routes are known: the
// route of the callback may be another one with the same log-in.
func (t *Table) checkCallbacks(u *Rule) *violation {
	if u.Auth == nil {
		return nil
	}
	for i := range u.Auth.Methods {
		l := u.Auth.Methods[i].Login
		if l == nil {
			continue
		}
		path := l.Options().Path + login.CallbackPath
		host := strings.Replace(u.Match.Host, "*", "any", 1)
		found := t.find(host, path, &message.Request{Method: http.MethodGet}, "192.0.2.1")
		if found.hasLogin(l) || u.matcher.conditions() > 0 && u.Match.Path == "" && hasPrefix(path, u.Match.Prefix) {
			continue
		}
		return bad(fmt.Sprintf("auth.methods[%d].login.path", i),
			"leads to no route with this log-in: requests for %s must reach this route, or another one with the same log-in",
			path)
	}
	return nil
}

func (u *Rule) hasLogin(l *AuthLogin) bool {
	return u != nil && u.Auth != nil && slices.ContainsFunc(u.Auth.Methods, func(m AuthMethod) bool {
		return m.Login != nil && m.Login.Key() == l.Key()
	})
}

func (h *AuthHook) validate() *violation {
	if err := hook.CheckURL(h.URL); err != nil {
		return bad("url", "%v, is %.200q", err, h.URL)
	}
	if h.Timeout != "" {
		if d, err := time.ParseDuration(h.Timeout); err != nil || d < time.Millisecond || d > maxHookTime {
			return bad("timeout", `must be a duration like "2s" from 1ms to %v, is %q`, maxHookTime, h.Timeout)
		}
	}
	if len(h.Claims) > maxClaims {
		return bad("claims", "must have at most %d claims, has %d", maxClaims, len(h.Claims))
	}
	for _, claim := range slices.Sorted(maps.Keys(h.Claims)) {
		field := fmt.Sprintf("claims[%q]", claim)
		if v := checkClaim(field, claim); v != nil {
			return v
		}
		if !isFieldName(h.Claims[claim]) {
			return bad(field, "must be a header field with a name of letters, digits and dashes, is %q", h.Claims[claim])
		}
	}
	return nil
}

// Time is Timeout, parsed.
func (h *AuthHook) Time() time.Duration {
	d, _ := time.ParseDuration(cmp.Or(h.Timeout, "2s")) // validate has checked it
	return d
}

// Fields are Claims in the order of their names.
func (h *AuthHook) Fields() (list []auth.Field) {
	for _, claim := range slices.Sorted(maps.Keys(h.Claims)) {
		list = append(list, auth.Field{Claim: claim, Name: auth.Canonical(h.Claims[claim])})
	}
	return list
}

func (u *AuthRule) validate() *violation {
	if len(u.Scopes)+len(u.Claims)+len(u.Keys) == 0 {
		return bad("", "must have scopes, claims or keys")
	}
	if v := checkScopes(u.Scopes); v != nil {
		return v
	}
	if len(u.Claims) > maxClaims {
		return bad("claims", "must have at most %d claims, has %d", maxClaims, len(u.Claims))
	}
	for _, name := range slices.Sorted(maps.Keys(u.Claims)) {
		field := fmt.Sprintf("claims[%q]", name)
		if v := checkClaim(field, name); v != nil {
			return v
		}
		if len(u.Claims[name]) == 0 {
			return bad(field, "must have at least one value")
		}
		if v := checkList(field, u.Claims[name]); v != nil {
			return v
		}
	}
	return cmp.Or(checkList("scopes", u.Scopes), checkList("keys", u.Keys))
}

// checkScopes refuses what is no scope-token (RFC 6749, 3.3).
func checkScopes(list []string) *violation {
	for i, scope := range list {
		if scope == "" || strings.ContainsFunc(scope, func(c rune) bool {
			return c <= ' ' || c > '~' || c == '"' || c == '\\'
		}) {
			return bad(fmt.Sprintf("scopes[%d]", i), "must be a scope without spaces, is %q", scope)
		}
	}
	return nil
}

func checkClaim(field, name string) *violation {
	if name == "" || len(name) > maxClaimName {
		return bad(field, "must be the name of a claim, of 1 to %d bytes", maxClaimName)
	}
	return nil
}

func checkList(field string, list []string) *violation {
	if len(list) > maxListed {
		return bad(field, "must have at most %d entries, has %d", maxListed, len(list))
	}
	for i, text := range list {
		if text == "" || len(text) > 512 {
			return bad(fmt.Sprintf("%s[%d]", field, i), "must have 1 to 512 bytes")
		}
	}
	return nil
}

// checkURL refuses what is no absolute URL for a request of the edge.
func checkURL(field, text string) *violation {
	u, err := url.Parse(text)
	switch {
	case err != nil, u.Scheme != "http" && u.Scheme != "https", !syntax.IsHost(u.Host), u.User != nil, u.Fragment != "",
		len(text) > 512, u.String() != text:
		return bad(field, "must be a URL with http:// or https://, is %.200q", text)
	}
	return nil
}

func isFieldName(name string) bool {
	return syntax.IsToken(name) && !strings.ContainsFunc(name, func(c rune) bool {
		return c != '-' && (c < '0' || c > '9') && (c < 'A' || c > 'Z') && (c < 'a' || c > 'z')
	})
}

// validateClaims checks that the fields for the origin cannot be mixed up with others.
func (r *Route) validateClaims() *violation {
	list := r.Auth.Claims
	if len(list) > maxClaims {
		return bad("auth.claims", "must have at most %d claims, has %d", maxClaims, len(list))
	}
	seen := map[string]bool{}
	for _, claim := range slices.Sorted(maps.Keys(list)) {
		field := fmt.Sprintf("auth.claims[%q]", claim)
		if v := checkClaim(field, claim); v != nil {
			return v
		}
		name := auth.Canonical(list[claim])
		switch {
		case !isFieldName(list[claim]):
			return bad(field, "must be a header field with a name of letters, digits and dashes, is %q", list[claim])
		case !mayTell(name):
			return bad(field, "must not be %s, which has another meaning", name)
		case seen[name]:
			return bad(field, "must differ from the fields of other claims, is %s", name)
		}
		seen[name] = true
		for _, c := range r.Match.Headers {
			if auth.SameVariable(c.Name, name) {
				return bad(field, "must not be %s, by which match.headers finds the route: clients can set it there", name)
			}
		}
		for _, side := range []map[string]string{r.Headers.Request.Set, r.Headers.Request.Add} {
			for other := range side {
				if auth.SameVariable(other, name) {
					return bad(field, "must not be %s, which headers.request changes", name)
				}
			}
		}
	}
	return nil
}

// mayTell reports whether a field may tell the origin about the caller.
func mayTell(name string) bool {
	switch name {
	case "X-Forwarded-User", "X-Forwarded-Email", "X-Forwarded-Groups", "X-Forwarded-Preferred-Username":
		return true // as oauth2-proxy calls them; those of clients are always removed
	}
	return fields.PassesInTrailer(name, nil) // what is not about the request itself
}

// policy returns what Auth says. Nil: it is nil.
func (a *Auth) policy() *auth.Policy {
	if a == nil {
		return nil
	}
	p := &auth.Policy{Optional: a.Optional}
	for _, rule := range a.Allow {
		p.Allow = append(p.Allow, auth.Rule{Scopes: rule.Scopes, Claims: rule.Claims, Keys: rule.Keys})
	}
	for _, claim := range slices.Sorted(maps.Keys(a.Claims)) {
		p.Fields = append(p.Fields, auth.Field{Claim: claim, Name: auth.Canonical(a.Claims[claim])})
	}
	for _, m := range a.Methods {
		switch {
		case m.JWT != nil && !m.JWT.Pass:
			p.Bearer = true
			if m.JWT.Cookie != "" {
				p.Cookies = append(p.Cookies, m.JWT.Cookie)
			}
		case m.APIKey != nil && m.APIKey.Field() == "Authorization":
			p.Bearer = true
		case m.Login != nil:
			o := m.Login.Options()
			p.Cookies = append(p.Cookies, o.CookieNames()...)
		case m.APIKey != nil:
			p.Secrets = append(p.Secrets, m.APIKey.Field())
		}
	}
	return p
}
