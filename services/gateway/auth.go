package gateway

import (
	"errors"
	"net/http"
	"strings"
	"time"

	"bijou.dev/services/gateway/internal/auth"
	"bijou.dev/services/gateway/internal/auth/apikey"
	"bijou.dev/services/gateway/internal/auth/hook"
	"bijou.dev/services/gateway/internal/auth/jwks"
	"bijou.dev/services/gateway/internal/auth/jwt"
	"bijou.dev/services/gateway/internal/flow"
	"bijou.dev/services/gateway/routes"
)

// authMethod is one way of a route to know the caller.
type authMethod interface {
	// find looks for the caller of a request.
	find(x *exchange) found
	// challenge is the item of WWW-Authenticate that asks for the credential. Empty: HTTP has none. wrong says what is
	// wrong with the credential that came; empty: none came.
	challenge(route, wrong string) string
}

// found is what a method has found.
type found struct {
	// caller has proved who it is. Nil: it has not.
	caller *auth.Caller
	// wrong says what is wrong with its credential. Empty: it has none, or it is right.
	wrong string
	// unknown says why the credential cannot be checked now, and open whether the request passes all the same.
	unknown error
	open    bool
	// denied is the response of a hook that does not let the request pass.
	denied *hook.Answer
	// login can send a browser to a log-in.
	login *loginMethod
	// answers: the request is for the log-in itself.
	answers bool
	// elsewhere: the client may have the credential on another connection.
	elsewhere bool
}

// bindAuth makes the methods of a table.
func (e *Edge) bindAuth(t *table) {
	var providers []jwks.Provider
	var hooks []string
	for _, u := range t.rules {
		if u.Auth == nil {
			continue
		}
		for i := range u.Auth.Methods {
			m := &u.Auth.Methods[i]
			if m.JWT != nil {
				providers = append(providers, m.JWT.Provider())
			}
			if m.Hook != nil {
				hooks = append(hooks, m.Hook.URL)
			}
			if m.Login != nil {
				providers = append(providers, m.Login.Provider())
			}
		}
	}
	with := authParts{sources: e.providers.Bind(providers), hooks: e.hooks.Bind(hooks), logins: map[string]*loginMethod{}}
	for _, u := range t.rules {
		if u.Auth == nil {
			continue
		}
		for i := range u.Auth.Methods {
			u.auth = append(u.auth, e.newAuthMethod(&u.Auth.Methods[i], with))
		}
	}
	e.logins = with.logins
}

// authParts is what methods of several routes share.
type authParts struct {
	sources map[jwks.Provider]*jwks.Source
	hooks   map[string]*hook.Hook   // URL -> hook
	logins  map[string]*loginMethod // settings -> log-in
}

func (e *Edge) newAuthMethod(m *routes.AuthMethod, with authParts) authMethod {
	switch {
	case m.JWT != nil:
		return &jwtMethod{
			verifier: jwt.New(m.JWT.Options(), with.sources[m.JWT.Provider()]), cookie: m.JWT.Cookie,
		}
	case m.Hook != nil:
		return newHookMethod(m.Hook, with.hooks[m.Hook.URL])
	case m.APIKey != nil:
		return keyMethod{field: m.APIKey.Field()}
	case m.Login != nil:
		return e.newLoginMethod(m.Login, with)
	}
	return certMethod{}
}

// Results of authenticate, as metrics show them.
const (
	authOK        = "ok"
	authAnonymous = "anonymous"
	authMissing   = "missing"
	authWrong     = "wrong"
	authForbidden = "forbidden"
	authLogin     = "login"
	authUnknown   = "unavailable"
)

// authenticate finds the caller, and refuses requests of callers that may not call.
func (x *exchange) authenticate() *flow.Failure {
	u := x.rule
	if u.Auth == nil || x.to.Preflight { // browsers send no credentials with preflights
		return nil
	}
	result, f := x.identify()
	x.edge.metrics.auth.WithLabelValues(u.Name, result).Inc()
	return f
}

// identify tries the methods of the route.
func (x *exchange) identify() (result string, f *flow.Failure) {
	u := x.rule
	var sum found
	var challenges []string
	for _, m := range u.auth {
		got := m.find(x)
		if got.answers {
			return authLogin, got.login.handle(x)
		}
		if got.caller != nil {
			x.to.Caller = got.caller
			if !u.Callers.Allows(got.caller) {
				return authForbidden, x.forbid(got.caller)
			}
			return authOK, nil
		}
		if sum.wrong == "" {
			sum.wrong = got.wrong
		}
		if sum.unknown == nil && !got.open {
			sum.unknown = got.unknown
		}
		if sum.denied == nil {
			sum.denied = got.denied
		}
		sum.open = sum.open || got.open
		if sum.login == nil {
			sum.login = got.login
		}
		sum.elsewhere = sum.elsewhere || got.elsewhere
		if c := m.challenge(u.Name, got.wrong); c != "" {
			challenges = append(challenges, c)
		}
	}
	switch {
	case sum.unknown != nil:
		f = flow.Fail(flow.FaultAuth, http.StatusServiceUnavailable, "it cannot be checked who calls: %v", sum.unknown)
		f.Retry = time.Second
		return authUnknown, f
	case sum.denied != nil:
		return authWrong, x.deny(sum.denied)
	case sum.wrong == "" && sum.open:
		return authUnknown, nil
	case sum.wrong == "" && u.Callers.Optional:
		return authAnonymous, nil
	case sum.wrong == "" && sum.login != nil && sum.login.suits(x):
		return authLogin, sum.login.begin(x)
	case sum.wrong == "" && sum.elsewhere:
		return authMissing, flow.HangUp(http.StatusMisdirectedRequest,
			"the route %s needs a client certificate, for which this connection was not asked", u.Name)
	}
	if len(challenges) == 0 { // RFC 9110, 15.5.2: 401 has a challenge, and there is none for client certificates
		return authMissing, flow.Fail(flow.FaultClient, http.StatusForbidden, "the route %s needs a client certificate",
			u.Name)
	}
	for _, c := range challenges {
		x.out.Extra.Add("Www-Authenticate", c)
	}
	if sum.wrong != "" {
		return authWrong, flow.Fail(flow.FaultClient, http.StatusUnauthorized, "%s", sum.wrong)
	}
	return authMissing, flow.Fail(flow.FaultClient, http.StatusUnauthorized, "the route %s needs a credential", u.Name)
}

// forbid refuses a caller who is known and may not call (RFC 6750, 3.1).
func (x *exchange) forbid(c *auth.Caller) *flow.Failure {
	if c.Method == methodJWT {
		text := "Bearer realm=" + auth.Quoted(x.rule.Name) + `, error="insufficient_scope"`
		if scopes := x.rule.Callers.Scopes(); len(scopes) > 0 {
			text += ", scope=" + auth.Quoted(strings.Join(scopes, " "))
		}
		x.out.Extra.Add("Www-Authenticate", text)
	}
	return flow.Fail(flow.FaultClient, http.StatusForbidden, "the caller is known, and may not use the route %s",
		x.rule.Name)
}

// What Caller.Method can be, beside auth.MethodAPIKey.
const (
	methodJWT        = "jwt"
	methodClientCert = "clientCert"
)

// bearerChallenge is what RFC 6750, 3, says for a request without a token, or with one that is wrong.
func bearerChallenge(route, wrong string) string {
	text := "Bearer realm=" + auth.Quoted(route)
	if wrong != "" {
		text += `, error="invalid_token", error_description=` + auth.Quoted(wrong)
	}
	return text
}

// jwtMethod knows callers by tokens.
type jwtMethod struct {
	verifier *jwt.Verifier
	cookie   string // empty: tokens are not in cookies
}

func (m *jwtMethod) find(x *exchange) found {
	token, ok := auth.Bearer(x.in.Header)
	if !ok && m.cookie != "" {
		for value := range x.in.Cookies(m.cookie) {
			token, ok = value, true
			break
		}
	}
	if !ok {
		return found{}
	}
	claims, err := m.verifier.Verify(x.in.Ctx, token)
	if err == nil {
		return found{caller: &auth.Caller{Method: methodJWT, Claims: claims}}
	}
	if invalid, ok := errors.AsType[jwt.Invalid](err); ok {
		return found{wrong: string(invalid)}
	}
	return found{unknown: err}
}

func (*jwtMethod) challenge(route, wrong string) string { return bearerChallenge(route, wrong) }

// keyMethod knows callers by the keys of the setting gateway.keys.
type keyMethod struct{ field string }

func (m keyMethod) find(x *exchange) found {
	key, ok := x.in.Header.Get(m.field), x.in.Header.Count(m.field) == 1
	if m.field == "Authorization" {
		key, ok = auth.Bearer(x.in.Header)
	}
	if !ok {
		if x.in.Header.Has(m.field) && m.field != "Authorization" {
			return found{wrong: "there is more than one API key"}
		}
		return found{}
	}
	name, ok := x.edge.keys.Load().Find(key)
	if !ok {
		return found{wrong: "the API key is not known"}
	}
	return found{caller: &auth.Caller{Method: auth.MethodAPIKey, Claims: auth.Claims{auth.Subject: name}}}
}

// challenge names a scheme that is not registered: RFC 9110, 15.5.2, demands a challenge, and HTTP has none for keys in
// fields of their own.
func (m keyMethod) challenge(route, wrong string) string {
	if m.field == "Authorization" {
		return bearerChallenge(route, wrong)
	}
	return "ApiKey realm=" + auth.Quoted(route) + ", header=" + auth.Quoted(m.field)
}

// useKeys makes a list of API keys the one in use.
func (e *Edge) useKeys(list apikey.List) {
	t, err := apikey.Compile(list)
	if err != nil { // cannot happen: the setting was validated
		e.log.Error("keeping the previous API keys", "error", err)
		return
	}
	e.keys.Store(t)
}

// certMethod knows callers by the certificates of the route, which checkClientCert has checked.
type certMethod struct{}

func (certMethod) find(x *exchange) found {
	switch {
	case x.to.CertName != "":
		return found{caller: &auth.Caller{
			Method: methodClientCert, Claims: auth.Claims{auth.Subject: x.to.CertName},
		}}
	case x.conn.secure != nil && !x.conn.secure.asked:
		return found{elsewhere: true}
	}
	return found{}
}

func (certMethod) challenge(string, string) string { return "" }

// identity is the name of the caller for logs, spans and limits. Empty: it is not known.
func (x *exchange) identity() string { return x.to.Caller.Identity() }

// callerParts tell one caller from all others: the method and the issuer that know it, and its name. An API key may be
// called as somebody's claim is.
func (x *exchange) callerParts() [3]string {
	issuer, _ := x.to.Caller.Claims["iss"].(string)
	return [3]string{x.to.Caller.Method, issuer, x.identity()}
}

// newAuthClient returns the client for identity providers.
func newAuthClient() *http.Client {
	return &http.Client{CheckRedirect: func(r *http.Request, via []*http.Request) error {
		switch {
		case len(via) > 3:
			return errors.New("there are more than 3 redirects")
		case via[0].URL.Scheme == "https" && r.URL.Scheme != "https":
			return errors.New("it redirects from https to a URL without TLS")
		}
		return nil
	}}
}
