// Package login logs people in at an identity provider by OpenID Connect, with the authorization code flow and PKCE
// (RFC 6749, 4.1, and RFC 7636), and remembers them by a cookie.
//
// The edge stores nothing: a session is in its cookie, encrypted and authenticated, and what a log-in in progress needs
// is in the parameter state, bound to the browser by a cookie with a random value, from which the nonce and the
// verifier of PKCE are made. So any replica can finish what another one began, and several tabs can log in at the same
// time.
package login

import (
	"bytes"
	"context"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"bijou.dev/services/gateway/internal/auth"
	"bijou.dev/services/gateway/internal/auth/jwks"
	"bijou.dev/services/gateway/internal/auth/jwt"
	"bijou.dev/services/gateway/internal/message"

	"golang.org/x/oauth2"
)

// Options says how people log in.
type Options struct {
	// Issuer is the URL of the identity provider. Required.
	Issuer string
	// ClientID is what the provider calls the edge. Required.
	ClientID string
	// ClientSecret names the secret with which the edge proves that. Empty: the provider knows a public client.
	ClientSecret string
	// CookieKeys names the secret with the keys for cookies. Required.
	CookieKeys string
	// Scopes are asked for beside openid. Empty: none.
	Scopes []string
	// Claims are those that a session keeps beside sub. Empty: none.
	Claims []string
	// Algorithms may sign the tokens of the provider. Empty: RS256 and ES256.
	Algorithms []string
	// Session is how long a session lasts. Required.
	Session time.Duration
	// Path is where the edge answers log-ins itself: below it are /callback, /start and /logout. Required.
	Path string
	// Cookie is the name of the cookie, to which __Host- is added over TLS. Required.
	Cookie string
	// AfterLogout is where people go after they have logged out. Required.
	AfterLogout string
}

// Parts is what methods of several routes share.
type Parts struct {
	Secrets *Secrets
	Source  *jwks.Source // of the issuer
	Client  *http.Client
	Log     *slog.Logger
}

// Login is a way to log in, ready for use.
type Login struct {
	opts      Options
	parts     Parts
	verifier  *jwt.Verifier
	refreshes refreshes

	mu         sync.Mutex
	cookieKeys parsedKeys
}

// parsedKeys are the keys of a text.
type parsedKeys struct {
	text string
	keys *Keys
	err  error
}

// New returns a way to log in.
func New(opts Options, parts Parts) *Login {
	return &Login{opts: opts, parts: parts, verifier: jwt.New(jwt.Options{
		Issuer: opts.Issuer, Audiences: []string{opts.ClientID}, Algorithms: opts.Algorithms,
	}, parts.Source)}
}

// Request is what a log-in needs of a request.
type Request struct {
	Method, Scheme, Host string
	Path                 string
	Query                string // with its question mark; empty: there is none
	Header               message.Header
	Cookies              func(name string) string // empty: there is none
}

// Response is a redirect.
type Response struct {
	Status int
	Header message.Header
}

// Refusal is why a log-in cannot go on.
type Refusal struct {
	Status int // 400, 403 or 503
	Text   string
}

// Error returns the text.
func (r *Refusal) Error() string { return r.Text }

func refuse(status int, text string) error { return &Refusal{status, text} }

// Limits of what browsers keep and send.
const (
	maxReturn   = 512              // bytes of the path to which somebody returns
	maxCookie   = 4000             // bytes of a cookie with its name; browsers keep 4096 with attributes
	loginTime   = 10 * time.Minute // for a log-in
	timeout     = 5 * time.Second  // for each request to the provider
	bindingSize = 32
)

// cookieName is the name of a cookie in a browser. With __Host- a browser takes it only over TLS, for this host alone.
func (l *Login) cookieName(r *Request, suffix string) string {
	if r.Scheme == "https" {
		return "__Host-" + l.opts.Cookie + suffix
	}
	return l.opts.Cookie + suffix
}

// bindingSuffix is behind the name of the cookie that binds log-ins to a browser.
const bindingSuffix = "-login"

// CookieNames are those of all cookies that a log-in uses.
func (o *Options) CookieNames() []string {
	return []string{
		o.Cookie, o.Cookie + bindingSuffix, "__Host-" + o.Cookie, "__Host-" + o.Cookie + bindingSuffix,
	}
}

func (l *Login) setCookie(r *Request, suffix, value string, age time.Duration) string {
	text := l.cookieName(r, suffix) + "=" + value + "; Path=/; Max-Age=" + strconv.Itoa(int(age/time.Second)) +
		"; HttpOnly; SameSite=Lax"
	if r.Scheme == "https" {
		text += "; Secure"
	}
	return text
}

func redirect(status int, to string, cookies ...string) *Response {
	res := &Response{Status: status, Header: message.Header{{Name: "Location", Value: to}}}
	res.Header.Add("Cache-Control", "no-store")
	for _, line := range cookies {
		res.Header.Add("Set-Cookie", line)
	}
	return res
}

// purpose separates what is sealed for one use and one provider from all others.
func (l *Login) purpose(use string) string {
	return "bijou " + use + "\n" + l.opts.Issuer + "\n" + l.opts.ClientID
}

func (l *Login) keys() (*Keys, error) {
	unreadable := refuse(http.StatusServiceUnavailable, "the keys for cookies cannot be read")
	text, err := l.parts.Secrets.Read(l.opts.CookieKeys)
	if err != nil {
		return nil, unreadable
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if p := &l.cookieKeys; p.text != text {
		p.text = text
		if p.keys, p.err = ParseKeys(text); p.err != nil {
			l.parts.Log.Error("log-ins are not possible", "error",
				fmt.Errorf("reading the secret %q: %w", l.opts.CookieKeys, p.err))
		}
	}
	if l.cookieKeys.err != nil {
		return nil, unreadable
	}
	return l.cookieKeys.keys, nil
}

// state is a log-in in progress.
type state struct {
	ID      string `json:"i"` // random
	Binding string `json:"b"` // hash of the binding
	Return  string `json:"r"`
	Until   int64  `json:"u"` // seconds since 1970
}

func random(size int) []byte {
	b := make([]byte, size)
	_, _ = rand.Read(b) // never fails
	return b
}

func encode(b []byte) string { return base64.RawURLEncoding.EncodeToString(b) }

// derived is a value that only the browser with the binding, and the edge, can make.
func derived(binding, use, id string) string {
	mac := hmac.New(sha256.New, []byte(binding))
	_, _ = mac.Write([]byte(use + "\n" + id)) // never fails
	return encode(mac.Sum(nil))
}

func hashOf(text string) string {
	sum := sha256.Sum256([]byte(text))
	return encode(sum[:])
}

// IsNavigation reports whether a browser opens a page: only then a redirect to a page for passwords makes sense.
func IsNavigation(method string, h message.Header) bool {
	if method != http.MethodGet || h.Has("X-Requested-With") || h.Has("Upgrade") {
		return false
	}
	if mode := h.Get("Sec-Fetch-Mode"); mode != "" && mode != "navigate" {
		return false
	}
	for item := range h.Words("Accept") {
		kind, _, _ := strings.Cut(item, ";")
		if strings.EqualFold(strings.TrimSpace(kind), "text/html") {
			return true
		}
	}
	return false
}

// Begin sends a browser to the provider, and then back to what it asked for.
func (l *Login) Begin(ctx context.Context, r *Request) (*Response, error) {
	return l.begin(ctx, r, r.Path+r.Query)
}

func (l *Login) begin(ctx context.Context, r *Request, back string) (*Response, error) {
	keys, err := l.keys()
	if err != nil {
		return nil, err
	}
	config, err := l.config(ctx, r)
	if err != nil {
		return nil, err
	}
	binding := r.Cookies(l.cookieName(r, bindingSuffix))
	if len(binding) != base64.RawURLEncoding.EncodedLen(bindingSize) {
		binding = encode(random(bindingSize))
	}
	s := state{
		ID: encode(random(16)), Binding: hashOf(binding), Return: l.returnPath(back),
		Until: time.Now().Add(loginTime).Unix(),
	}
	text, err := json.Marshal(s)
	if err != nil {
		return nil, fmt.Errorf("beginning a log-in: %w", err)
	}
	to := config.AuthCodeURL(keys.Seal(l.purpose("login"), text),
		oauth2.S256ChallengeOption(derived(binding, "verifier", s.ID)),
		oauth2.SetAuthURLParam("nonce", derived(binding, "nonce", s.ID)))
	return redirect(http.StatusFound, to, l.setCookie(r, bindingSuffix, binding, loginTime)), nil
}

// returnPath is the path to which somebody returns: one of this host, and none that the edge answers for a log-in.
func (l *Login) returnPath(path string) string {
	if len(path) > maxReturn || !strings.HasPrefix(path, "/") || strings.HasPrefix(path, "//") ||
		strings.ContainsFunc(path, func(c rune) bool { return c <= ' ' || c == '\\' || c >= 0x7f }) ||
		l.Handles(path) {
		return "/"
	}
	return path
}

// Handles reports whether the edge answers requests for a path itself.
func (l *Login) Handles(path string) bool {
	path, _, _ = strings.Cut(path, "?")
	below, ok := strings.CutPrefix(path, l.opts.Path)
	return ok && (below == CallbackPath || below == startPath || below == logoutPath)
}

// What the edge answers below Options.Path.
const (
	CallbackPath = "/callback" // the provider sends browsers back to it
	startPath    = "/start"    // begins a log-in; the parameter return is where it leads to
	logoutPath   = "/logout"
)

// config is for golang.org/x/oauth2.
func (l *Login) config(ctx context.Context, r *Request) (*oauth2.Config, error) {
	meta, err := l.parts.Source.Metadata(ctx)
	if err != nil || meta.Authorization == "" || meta.Token == "" {
		return nil, refuse(http.StatusServiceUnavailable, "the identity provider is not known yet")
	}
	c := &oauth2.Config{
		ClientID: l.opts.ClientID, RedirectURL: r.Scheme + "://" + r.Host + l.opts.Path + CallbackPath,
		Scopes:   append([]string{"openid"}, l.opts.Scopes...),
		Endpoint: oauth2.Endpoint{AuthURL: meta.Authorization, TokenURL: meta.Token, AuthStyle: oauth2.AuthStyleInParams},
	}
	if l.opts.ClientSecret == "" {
		return c, nil
	}
	if !meta.SecretInParams {
		c.Endpoint.AuthStyle = oauth2.AuthStyleInHeader
	}
	if c.ClientSecret, err = l.parts.Secrets.Read(l.opts.ClientSecret); err != nil {
		return nil, refuse(http.StatusServiceUnavailable, "the secret for the identity provider cannot be read")
	}
	return c, nil
}

// Handle answers a request for which Handles is true.
func (l *Login) Handle(ctx context.Context, r *Request) (*Response, error) {
	switch strings.TrimPrefix(r.Path, l.opts.Path) {
	case logoutPath:
		return l.logout(ctx, r)
	case startPath:
		query, _ := url.ParseQuery(strings.TrimPrefix(r.Query, "?")) // what cannot be read is not used
		return l.begin(ctx, r, query.Get("return"))
	}
	return l.callback(ctx, r)
}

// errBegin is what people see who should begin again.
const errBegin = "this log-in was begun too long ago, or by another browser; open the page again"

// callback ends a log-in: the provider has sent the browser back.
func (l *Login) callback(ctx context.Context, r *Request) (*Response, error) {
	keys, err := l.keys()
	if err != nil {
		return nil, err
	}
	query, err := url.ParseQuery(strings.TrimPrefix(r.Query, "?"))
	if err != nil || r.Method != http.MethodGet {
		return nil, refuse(http.StatusBadRequest, errBegin)
	}
	for _, name := range []string{"state", "code", "error", "iss"} {
		if len(query[name]) > 1 {
			return nil, refuse(http.StatusBadRequest, errBegin)
		}
	}
	text, ok := keys.Open(l.purpose("login"), query.Get("state"))
	var s state
	if !ok || json.Unmarshal(text, &s) != nil || time.Now().Unix() >= s.Until {
		return nil, refuse(http.StatusBadRequest, errBegin)
	}
	binding := r.Cookies(l.cookieName(r, bindingSuffix))
	if subtle.ConstantTimeCompare([]byte(hashOf(binding)), []byte(s.Binding)) != 1 {
		return nil, refuse(http.StatusBadRequest, errBegin)
	}
	if iss := query.Get("iss"); iss != "" && iss != l.opts.Issuer { // RFC 9207
		return nil, refuse(http.StatusBadRequest, "the answer is of another identity provider")
	}
	if query.Has("error") {
		return nil, refuse(http.StatusForbidden, "the identity provider did not log you in")
	}
	config, err := l.config(ctx, r)
	if err != nil {
		return nil, err
	}
	ctx, cancel := l.provider(ctx)
	defer cancel()
	token, err := config.Exchange(ctx, query.Get("code"), oauth2.VerifierOption(derived(binding, "verifier", s.ID)))
	if err != nil {
		l.logProvider("exchanging the code of a log-in", err)
		if isRefusal(err) {
			return nil, refuse(http.StatusForbidden, "the identity provider did not log you in")
		}
		return nil, refuse(http.StatusServiceUnavailable, "the identity provider did not answer")
	}
	claims, err := l.identify(ctx, token)
	if errors.Is(err, jwks.ErrUnavailable) {
		return nil, refuse(http.StatusServiceUnavailable, err.Error())
	}
	if err == nil && claims["nonce"] != derived(binding, "nonce", s.ID) {
		err = jwt.Invalid("the token is of another log-in")
	}
	if err != nil {
		l.parts.Log.Warn("a log-in was refused", "issuer", l.opts.Issuer, "error", err)
		return nil, refuse(http.StatusForbidden, "the token of the identity provider is not valid")
	}
	now := time.Now()
	cookie, err := l.seal(keys, r, l.newSession(claims, token, now, now.Add(l.opts.Session)))
	if err != nil {
		return nil, err
	}
	return redirect(http.StatusFound, s.Return, cookie), nil
}

// provider is a context for requests to the provider.
func (l *Login) provider(ctx context.Context) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	return context.WithValue(ctx, oauth2.HTTPClient, l.parts.Client), cancel
}

// isRefusal reports whether the provider has said no: else it did not decide.
func isRefusal(err error) bool {
	e, ok := errors.AsType[*oauth2.RetrieveError](err)
	return ok && e.Response != nil && e.Response.StatusCode >= 400 && e.Response.StatusCode < 500 &&
		e.Response.StatusCode != http.StatusTooManyRequests
}

// logProvider logs an error of a request for tokens. The text of x/oauth2 has the response of the provider, which may
// have tokens.
func (l *Login) logProvider(what string, err error) {
	reason := "it did not answer"
	if e, ok := errors.AsType[*oauth2.RetrieveError](err); ok && e.Response != nil {
		reason = fmt.Sprintf("status %d, error %.64q", e.Response.StatusCode, e.ErrorCode)
	}
	l.parts.Log.Warn(what, "issuer", l.opts.Issuer, "reason", reason)
}

// identify returns the claims of the ID token (OpenID Connect Core 1.0, 3.1.3.7).
func (l *Login) identify(ctx context.Context, token *oauth2.Token) (auth.Claims, error) {
	raw, ok := token.Extra("id_token").(string)
	if !ok {
		return nil, jwt.Invalid("there is no ID token")
	}
	claims, err := l.verifier.Verify(ctx, raw)
	if err != nil {
		return nil, err //nolint:wrapcheck // it says what is wrong
	}
	if azp, ok := claims["azp"]; ok && azp != l.opts.ClientID {
		return nil, jwt.Invalid("the token was made for another client")
	}
	if sub, _ := claims[auth.Subject].(string); sub == "" {
		return nil, jwt.Invalid("the token has no subject")
	}
	return claims, nil
}

// session is what a cookie has.
type session struct {
	Claims auth.Claims `json:"c"`
	End    int64       `json:"e"`           // seconds since 1970
	Renew  int64       `json:"n,omitempty"` // when it is renewed at the provider, in seconds since 1970. Zero: never
	Token  string      `json:"r,omitempty"` // the refresh token
}

// newSession keeps the claims that are needed.
func (l *Login) newSession(claims auth.Claims, token *oauth2.Token, now, end time.Time) *session {
	s := &session{Claims: auth.Claims{auth.Subject: claims[auth.Subject]}, End: end.Unix(), Token: token.RefreshToken}
	for _, name := range l.opts.Claims {
		if v, ok := claims[name]; ok {
			s.Claims[name] = v
		}
	}
	s.renewAt(token, now)
	return s
}

// Times at which a session is renewed, after the last time.
const (
	minRenew     = time.Minute
	defaultRenew = 5 * time.Minute // if the provider does not say how long its tokens last
)

func (s *session) renewAt(token *oauth2.Token, now time.Time) {
	if s.Renew = 0; s.Token == "" {
		return
	}
	after := defaultRenew
	if !token.Expiry.IsZero() {
		after = max(minRenew, token.Expiry.Sub(now))
	}
	s.Renew = now.Add(after).Unix()
}

// seal makes the cookie of a session. One that is too long is kept without its refresh token.
func (l *Login) seal(keys *Keys, r *Request, from *session) (string, error) {
	copied := *from // requests that wait for one renewal share it
	s := &copied
	for {
		text, err := json.Marshal(s)
		if err != nil {
			return "", fmt.Errorf("making a session: %w", err)
		}
		value := keys.Seal(l.purpose("session"), text)
		switch {
		case len(l.cookieName(r, ""))+len(value) <= maxCookie:
			return l.setCookie(r, "", value, time.Until(time.Unix(s.End, 0))), nil
		case s.Token != "":
			l.parts.Log.Warn("a session is too large for a cookie with its refresh token, and is not renewed", "issuer",
				l.opts.Issuer, "bytes", len(value))
			s.Token, s.Renew = "", 0
		default:
			l.parts.Log.Error("a session is too large for a cookie; list fewer claims in the route", "issuer", l.opts.Issuer,
				"bytes", len(value))
			return "", refuse(http.StatusServiceUnavailable, "what the identity provider says about you is too large")
		}
	}
}

// open reads the cookie of a session. Nil: there is none, or it is over.
func (l *Login) open(keys *Keys, r *Request) *session {
	text, ok := keys.Open(l.purpose("session"), r.Cookies(l.cookieName(r, "")))
	if !ok {
		return nil
	}
	s := &session{}
	d := json.NewDecoder(bytes.NewReader(text))
	d.UseNumber()
	if d.Decode(s) != nil || time.Now().Unix() >= s.End {
		return nil
	}
	return s
}

// Session returns the claims of somebody who is logged in, and a line of Set-Cookie if the session was renewed. Nil:
// nobody is.
func (l *Login) Session(ctx context.Context, r *Request) (claims auth.Claims, cookie string, err error) {
	if r.Cookies(l.cookieName(r, "")) == "" {
		return nil, "", nil
	}
	keys, err := l.keys()
	if err != nil {
		return nil, "", err
	}
	s := l.open(keys, r)
	if s == nil {
		return nil, "", nil
	}
	if s.Renew == 0 || time.Now().Unix() < s.Renew {
		return s.Claims, "", nil
	}
	renewed, err := l.renew(ctx, r, s)
	switch {
	case err != nil: // the provider is down: the session ends by itself
		return s.Claims, "", nil //nolint:nilerr // renew has logged it
	case renewed == nil:
		return nil, "", nil
	}
	if cookie, err = l.seal(keys, r, renewed); err != nil { // it has become too large: the old one stays
		return s.Claims, "", nil //nolint:nilerr // seal has logged it
	}
	return renewed.Claims, cookie, nil
}

// logout ends a session in the browser, and at the provider if that has a page for it (OpenID Connect RP-Initiated
// Logout 1.0). Other sites may not log people out.
func (l *Login) logout(ctx context.Context, r *Request) (*Response, error) {
	switch {
	case r.Method != http.MethodGet && r.Method != http.MethodPost:
		return nil, refuse(http.StatusBadRequest, "log out by GET or POST")
	case !slices.Contains([]string{"", "none", "same-origin", "same-site"}, r.Header.Get("Sec-Fetch-Site")):
		return nil, refuse(http.StatusForbidden, "another site wants to log you out")
	}
	cleared := []string{l.setCookie(r, "", "", 0), l.setCookie(r, bindingSuffix, "", 0)}
	meta, err := l.parts.Source.Metadata(ctx)
	if err != nil || meta.EndSession == "" {
		//nolint:nilerr // the session here ends in any case, and Metadata has logged the error
		return redirect(http.StatusSeeOther, l.opts.AfterLogout, cleared...), nil
	}
	to, err := url.Parse(meta.EndSession)
	if err != nil {
		//nolint:nilerr // as if the provider had no such page
		return redirect(http.StatusSeeOther, l.opts.AfterLogout, cleared...), nil
	}
	query := to.Query()
	query.Set("client_id", l.opts.ClientID)
	query.Set("post_logout_redirect_uri", r.Scheme+"://"+r.Host+l.opts.AfterLogout)
	to.RawQuery = query.Encode()
	return redirect(http.StatusSeeOther, to.String(), cleared...), nil
}
