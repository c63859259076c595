package gateway_test

import (
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"bijou.dev/services/gateway"
)

const (
	loginMethod = `{"login":{"issuer":"https://id.example.org","clientId":"edge","clientSecret":"oidc","cookieKeys":"keys",
		"scopes":["email","offline_access"],"claims":["email","groups"]}}`
	toLogin = `[{"name":"web","to":[{"service":"web"}],"auth":{"methods":[` + loginMethod + `],
		"claims":{"sub":"X-User","groups":"X-Groups"}}}]`
	cookieKey1 = "MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTIzNDU2Nzg5MDE="
	cookieKey2 = "3031323334353637383930313233343536373839303132333435363738393132"
)

// loginWorld is an edge with a log-in, and its provider.
type loginWorld struct {
	*world
	provider *identityProvider
	secrets  string

	mu      sync.Mutex
	codes   map[string]url.Values // code -> parameters of the request for it
	refuse  int                   // status of all answers for tokens. Zero: they are right
	claims  string                // of the next tokens
	refresh string                // the token that is good now
	asked   int                   // for tokens
}

func newLoginWorld(t testing.TB, routes string, settings ...string) *loginWorld {
	t.Helper()
	w := &loginWorld{
		provider: newIdentityProvider(), secrets: t.TempDir(), codes: map[string]url.Values{},
		claims: `"sub":"ann","groups":["staff"],"email":"ann@example.org"`, refresh: "refresh-1",
	}
	w.secret("oidc", "hush\n")
	w.secret("keys", "# for cookies\n"+cookieKey1+"\n")
	w.provider.tokens = func(r *http.Request) (*http.Response, error) { return w.token(t, r) }
	w.start(t, routes, settings...)
	return w
}

// start starts an edge.
func (w *loginWorld) start(t testing.TB, routes string, settings ...string) {
	w.world = worldWith(t, gateway.EdgeOptions{
		Options: gateway.Options{Secrets: w.secrets}, AuthClient: &http.Client{Transport: w.provider},
	}, routes, settings...)
	w.origin("web", "web-1", "", http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		fmt.Fprintf(rw, "%s %s of %s in %s, cookies %q", r.Method, r.RequestURI, r.Header.Get("X-User"),
			r.Header.Get("X-Groups"), r.Header.Get("Cookie"))
	}))
}

func (w *loginWorld) secret(name, text string) {
	if err := os.WriteFile(filepath.Join(w.secrets, name), []byte(text), 0o600); err != nil {
		w.t.Fatal(err)
	}
}

// set changes what the provider does.
func (w *loginWorld) set(change func(*loginWorld)) {
	w.mu.Lock()
	defer w.mu.Unlock()
	change(w)
}

// token answers a request for tokens as RFC 6749 and RFC 7636 say.
func (w *loginWorld) token(t testing.TB, r *http.Request) (*http.Response, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.asked++
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return nil, err
	}
	form, err := url.ParseQuery(string(body))
	if err != nil {
		return nil, err
	}
	client, secret, _ := r.BasicAuth()
	status, text := http.StatusBadRequest, `{"error":"invalid_grant","error_description":"refresh-1"}`
	claims := w.claims
	switch asked := w.codes[form.Get("code")]; {
	case w.refuse != 0:
		status = w.refuse
	case client != "edge" || secret != "hush":
		text = `{"error":"invalid_client"}`
	case form.Get("grant_type") == "refresh_token" && form.Get("refresh_token") == w.refresh:
		status, w.refresh = http.StatusOK, w.refresh+"+"
	case form.Get("grant_type") == "authorization_code" && asked != nil:
		sum := sha256.Sum256([]byte(form.Get("code_verifier")))
		if asked.Get("code_challenge") == base64.RawURLEncoding.EncodeToString(sum[:]) &&
			asked.Get("code_challenge_method") == "S256" && asked.Get("redirect_uri") == form.Get("redirect_uri") {
			status = http.StatusOK
			claims += `,"nonce":"` + asked.Get("nonce") + `"`
		}
		delete(w.codes, form.Get("code"))
	}
	if status == http.StatusOK {
		answer, err := json.Marshal(map[string]any{
			"access_token": "access", "token_type": "Bearer", "expires_in": 600, "refresh_token": w.refresh,
			"id_token": w.provider.sign(t, `"aud":"edge",`+claims),
		})
		if err != nil {
			return nil, err
		}
		text = string(answer)
	}
	return &http.Response{
		StatusCode: status, Header: http.Header{"Content-Type": {"application/json"}}, Request: r,
		Body: io.NopCloser(strings.NewReader(text)),
	}, nil
}

// authorize is what the provider does when a browser comes: it returns the URL to which it sends the browser back.
func (w *loginWorld) authorize(location string) string {
	w.t.Helper()
	u, err := url.Parse(location)
	if err != nil || !strings.HasPrefix(location, "https://id.example.org/authorize?") {
		w.t.Fatalf("the browser was sent to %q, %v; want the provider", location, err)
	}
	query := u.Query()
	w.mu.Lock()
	defer w.mu.Unlock()
	code := fmt.Sprint("code-", len(w.codes), time.Now().UnixNano())
	w.codes[code] = query
	return query.Get("redirect_uri") + "?" + url.Values{"code": {code}, "state": {query.Get("state")}}.Encode()
}

// browser is a browser with cookies for one host.
type browser struct {
	w       *loginWorld
	client  *http.Client
	header  []string
	cookies map[string]string
	set     []string // all lines of Set-Cookie
}

func (w *loginWorld) browser(header ...string) *browser {
	return &browser{
		w: w, client: w.client(false), header: append(header, "Accept", "text/html,*/*;q=0.8"), cookies: map[string]string{},
	}
}

func (b *browser) do(method, url string, header ...string) answer {
	b.w.t.Helper()
	header = append(header, b.header...)
	for name, value := range b.cookies {
		header = append(header, "Cookie", name+"="+value)
	}
	res := b.w.do(b.client, method, strings.Replace(url, "https://", "http://", 1), nil, header...)
	for _, c := range res.Cookies() {
		if c.MaxAge < 0 {
			delete(b.cookies, c.Name)
		} else {
			b.cookies[c.Name] = c.Value
		}
	}
	b.set = append(b.set, res.Header.Values("Set-Cookie")...)
	return res
}

func (b *browser) get(url string, header ...string) answer {
	b.w.t.Helper()
	return b.do(http.MethodGet, url, header...)
}

// login asks for a page and follows the log-in to its end.
func (b *browser) login(url string) answer {
	b.w.t.Helper()
	res := b.get(url)
	if res.StatusCode != http.StatusFound {
		b.w.t.Fatalf("%s: %d %q, want a redirect to the provider", url, res.StatusCode, res.body)
	}
	return b.get(b.w.authorize(res.Header.Get("Location")))
}

func TestLogin(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for scheme, name := range map[string]string{"http": "bijou-session", "https": "__Host-bijou-session"} {
			w := newLoginWorld(t, toLogin, "gateway.trustedHops", "1")
			b := w.browser("X-Forwarded-Proto", scheme)
			res := b.login("http://x/films?a=b")
			if res.StatusCode != 302 || res.Header.Get("Location") != "/films?a=b" ||
				res.Header.Get("Cache-Control") != "no-store" {
				t.Errorf("%s: after the log-in %d, %v; want a redirect to the page", scheme, res.StatusCode, res.Header)
			}
			got := b.get("http://x/films?a=b", "Cookie", "other=1", "X-User", "root")
			if want := `GET /films?a=b of ann in staff, cookies "other=1"`; got.StatusCode != 200 || got.body != want {
				t.Errorf("%s: %d %s, want %s", scheme, got.StatusCode, got.body, want)
			}
			if b.cookies[name] == "" {
				t.Errorf("%s: cookies %v, want %s", scheme, b.cookies, name)
			}
			for _, line := range b.set {
				if !strings.Contains(line, "; HttpOnly; SameSite=Lax") || !strings.Contains(line, "; Path=/;") ||
					strings.Contains(line, "; Secure") != (scheme == "https") || strings.Contains(line, "Domain") ||
					strings.HasPrefix(line, "__Host-") != (scheme == "https") {
					t.Errorf("%s: the cookie %q", scheme, line)
				}
			}
			if text := w.log.String(); strings.Contains(text, b.cookies[name]) || strings.Contains(text, "code-") ||
				strings.Contains(text, "refresh-1") || !strings.Contains(text, `"identity":"ann"`) {
				t.Errorf("%s: the log must have the identity and no secret:\n%s", scheme, text)
			}
		}
	})
}

// What is sent to the provider.
func TestLoginRequest(t *testing.T) {
	w := newLoginWorld(t, toLogin)
	b := w.browser()
	first, second := b.get("http://x/a"), b.get("http://x/b")
	both := first.Header.Get("Location") + second.Header.Get("Location")
	for _, res := range []answer{first, second} {
		u, err := url.Parse(res.Header.Get("Location"))
		if err != nil {
			t.Fatal(err)
		}
		q := u.Query()
		for name, want := range map[string]string{
			"response_type": "code", "client_id": "edge", "redirect_uri": "http://x/.login/callback",
			"scope": "openid email offline_access", "code_challenge_method": "S256",
		} {
			if q.Get(name) != want {
				t.Errorf("%s is %q, want %q", name, q.Get(name), want)
			}
		}
		for _, name := range []string{"state", "nonce", "code_challenge"} {
			if len(q.Get(name)) < 43 || strings.Count(both, q.Get(name)) != 1 {
				t.Errorf("%s is %q, want one that is random", name, q.Get(name))
			}
		}
	}
	// Both tabs can be finished, in any order.
	for _, res := range []answer{second, first} {
		if res := b.get(w.authorize(res.Header.Get("Location"))); res.StatusCode != 302 {
			t.Errorf("%d %q, want 302", res.StatusCode, res.body)
		}
	}
}

// Programs get 401: they cannot use a page for passwords.
func TestProgramsAreNotRedirected(t *testing.T) {
	w := newLoginWorld(t, toLogin)
	for name, header := range map[string][]string{
		"fetch": {"Accept", "text/html", "Sec-Fetch-Mode", "cors"}, "no Accept": {}, "JSON": {"Accept", "application/json"},
		"any": {"Accept", "*/*"}, "XMLHttpRequest": {"Accept", "text/html", "X-Requested-With", "XMLHttpRequest"},
	} {
		res := w.get("http://x/", header...)
		if res.StatusCode != 401 || res.Header.Get("WWW-Authenticate") != `Session realm="web"` ||
			res.Header.Get("Set-Cookie") != "" {
			t.Errorf("%s: %d, %v; want 401", name, res.StatusCode, res.Header)
		}
	}
	if res := w.do(w.client(false), "POST", "http://x/", nil, "Accept", "text/html"); res.StatusCode != 401 {
		t.Errorf("POST: %d, want 401", res.StatusCode)
	}
	res := w.get("http://x/", "Accept", "text/html", "Sec-Fetch-Mode", "navigate")
	if res.StatusCode != 302 {
		t.Errorf("a navigation: %d, want 302", res.StatusCode)
	}
}

// Whatever a stranger puts into the answer of the provider, nobody is logged in.
func TestForgedCallbacks(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newLoginWorld(t, toLogin)
		victim, stranger := w.browser(), w.browser()
		session := w.browser()
		session.login("http://x/")
		cookie := session.cookies["bijou-session"]
		own := w.authorize(victim.get("http://x/").Header.Get("Location"))
		others := w.authorize(stranger.get("http://x/").Header.Get("Location"))
		with := func(base string, change func(url.Values)) string {
			u, err := url.Parse(base)
			if err != nil {
				t.Fatal(err)
			}
			q := u.Query()
			change(q)
			u.RawQuery = q.Encode()
			return u.String()
		}
		code := func(from string) string {
			u, _ := url.Parse(from)
			return u.Query().Get("code")
		}
		w.set(func(w *loginWorld) { w.codes["other-nonce"] = w.codes[code(own)] })
		for name, c := range map[string]struct {
			url    string
			status int
		}{
			"log-in of another browser": {others, 400},
			"code of another browser":   {with(own, func(q url.Values) { q.Set("code", code(others)) }), 403},
			"no state":                  {with(own, func(q url.Values) { q.Del("state") }), 400},
			"changed state":             {with(own, func(q url.Values) { q.Set("state", "A"+q.Get("state")[1:]) }), 400},
			"cookie as state":           {with(own, func(q url.Values) { q.Set("state", cookie) }), 400},
			"two states":                {with(own, func(q url.Values) { q.Add("state", q.Get("state")) }), 400},
			"unknown code":              {with(own, func(q url.Values) { q.Set("code", "x") }), 403},
			"no code":                   {with(own, func(q url.Values) { q.Del("code") }), 403},
			"other provider":            {with(own, func(q url.Values) { q.Set("iss", "https://evil.example") }), 400},
			"refused":                   {with(own, func(q url.Values) { q.Set("error", "access_denied") }), 403},
			"broken query":              {own + "&a=%zz", 400},
		} {
			res := victim.get(c.url)
			if res.StatusCode != c.status || victim.cookies["bijou-session"] != "" {
				t.Errorf("%s: %d %q, cookies %v; want %d and no session", name, res.StatusCode, res.body, victim.cookies, c.status)
			}
		}
		if res := victim.do("POST", own); res.StatusCode != 400 {
			t.Errorf("POST: %d, want 400", res.StatusCode)
		}
		for claims, what := range map[string]string{
			`"sub":"ann","nonce":"x"`: "a second nonce", `"email":"a"`: "no subject", `"sub":"ann","azp":"other"`: "another client",
		} {
			w.set(func(w *loginWorld) { w.claims = claims })
			if res := victim.login("http://x/"); res.StatusCode != 403 || victim.cookies["bijou-session"] != "" {
				t.Errorf("%s: %d, want 403", what, res.StatusCode)
			}
		}
		w.set(func(w *loginWorld) { w.claims = `"sub":"ann"` })
		late := w.authorize(victim.get("http://x/").Header.Get("Location"))
		time.Sleep(10 * time.Minute)
		if res := victim.get(late); res.StatusCode != 400 {
			t.Errorf("after ten minutes: %d, want 400", res.StatusCode)
		}
	})
}

// A log-in leads back to a page of the same host only.
func TestLoginLeadsBackToThisHost(t *testing.T) {
	w := newLoginWorld(t, strings.Replace(toLogin, `"to"`, `"path":"raw","to"`, 1))
	for path, want := range map[string]string{
		"/a/b?c=d%2F": "/a/b?c=d%2F", "/.login/start?return=/x%3Fy": "/x?y", "//evil.example/a": "/",
		"/.login/start?return=//evil.example": "/", "/.login/start?return=https://evil.example": "/",
		"/.login/start?return=/%5Cevil.example": "/", "/.login/start?return=%2F%09%2Fevil.example": "/",
		"/.login/start": "/", "/.login/start?return=/.login/logout": "/", "/.login/start?return=a": "/",
		"/.login/start?return=/a%0d%0aX:y": "/", "/" + strings.Repeat("x", 600): "/",
	} {
		if res := w.browser().login("http://x" + path); res.StatusCode != 302 || res.Header.Get("Location") != want {
			t.Errorf("%s: %d to %q, want %q", path, res.StatusCode, res.Header.Get("Location"), want)
		}
	}
}

func TestSessionsEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newLoginWorld(t, strings.Replace(toLogin, `"scopes"`, `"session":"2h","scopes"`, 1))
		b := w.browser()
		b.login("http://x/")
		for _, forged := range []string{
			"", "x", b.cookies["bijou-session-login"], b.cookies["bijou-session"] + "A",
			b.cookies["bijou-session"][1:],
		} {
			if res := w.get("http://x/", "Cookie", "bijou-session="+forged); res.StatusCode != 401 {
				t.Errorf("the session %.20q: %d, want 401", forged, res.StatusCode)
			}
		}
		time.Sleep(time.Hour) // it is renewed on the way, which does not make it longer
		if res := b.get("http://x/"); res.StatusCode != 200 {
			t.Errorf("after an hour: %d, want 200", res.StatusCode)
		}
		time.Sleep(time.Hour)
		if res := b.get("http://x/", "Accept", "application/json"); res.StatusCode != 302 {
			t.Errorf("after two hours: %d, want a new log-in", res.StatusCode)
		}
	})
}

// A session is renewed at the provider: claims change, and the provider can end it. While the provider is down, the
// session goes on.
func TestSessionsAreRenewed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newLoginWorld(t, toLogin)
		b := w.browser()
		b.login("http://x/")
		check := func(when string, status int, groups string) {
			t.Helper()
			if res := b.get("http://x/"); res.StatusCode != status || !strings.Contains(res.body, groups) {
				t.Errorf("%s: %d %s, want %d with %q", when, res.StatusCode, res.body, status, groups)
			}
		}
		w.set(func(w *loginWorld) { w.claims = `"sub":"ann","groups":["boss"]` })
		time.Sleep(9 * time.Minute)
		check("before the renewal", 200, "in staff")
		time.Sleep(time.Minute)
		old := b.cookies["bijou-session"]
		check("after the renewal", 200, "in boss")
		asked := w.asked
		for range 5 { // requests that the browser has sent with the old cookie, at the same time
			if res := w.get("http://x/", "Cookie", "bijou-session="+old); res.StatusCode != 200 || w.asked != asked {
				t.Errorf("the old cookie: %d, %d requests for tokens; want 200 and none", res.StatusCode, w.asked-asked)
			}
		}
		w.set(func(w *loginWorld) { w.refuse = 500 })
		time.Sleep(20 * time.Minute)
		check("the provider is down", 200, "in boss")
		asked = w.asked
		check("the provider is down, again", 200, "in boss")
		if w.asked != asked {
			t.Error("a provider that is down was asked for each request")
		}
		w.set(func(w *loginWorld) { w.refuse, w.claims = 0, `"sub":"ann","groups":["new"]` })
		time.Sleep(time.Minute)
		check("the provider is up", 200, "in new")
		w.set(func(w *loginWorld) { w.claims = `"sub":"eve"` })
		time.Sleep(20 * time.Minute)
		check("the provider renews somebody else", 302, "")
		b.login("http://x/")
		w.set(func(w *loginWorld) { w.refuse = 400 })
		time.Sleep(20 * time.Minute)
		check("the provider has ended the session", 302, "")
	})
}

// The keys for cookies can be replaced without logging people out, and another replica with the same keys knows them.
func TestKeysOfCookiesAreReplaced(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newLoginWorld(t, toLogin)
		b := w.browser()
		b.login("http://x/")
		for keys, want := range map[string]int{
			cookieKey2 + "\n" + cookieKey1: 200, cookieKey2: 302, "": 503, "short": 503, "AAAA": 503,
		} {
			w.secret("keys", keys)
			time.Sleep(31 * time.Second)
			if res := b.get("http://x/"); res.StatusCode != want {
				t.Errorf("keys %q: %d, want %d", keys, res.StatusCode, want)
			}
		}
		w.secret("keys", cookieKey1)
		session := b.cookies["bijou-session"]
		w.start(t, toLogin)
		if res := w.get("http://x/", "Cookie", "bijou-session="+session); res.StatusCode != 200 {
			t.Errorf("another replica: %d, want 200", res.StatusCode)
		}
		other := strings.Replace(toLogin, `"edge"`, `"other"`, 1)
		w.put("gateway.routes", other)
		if res := w.get("http://x/", "Cookie", "bijou-session="+session); res.StatusCode != 401 {
			t.Errorf("a log-in as another client: %d, want 401", res.StatusCode)
		}
	})
}

func TestLogout(t *testing.T) {
	w := newLoginWorld(t, toLogin)
	b := w.browser()
	b.login("http://x/")
	if res := b.get("http://x/.login/logout", "Sec-Fetch-Site", "cross-site"); res.StatusCode != 403 {
		t.Errorf("another site logs somebody out: %d, want 403", res.StatusCode)
	}
	res := b.do("POST", "http://x/.login/logout")
	want := "https://id.example.org/logout?a=b&client_id=edge&post_logout_redirect_uri=http%3A%2F%2Fx%2F"
	if res.StatusCode != 303 || res.Header.Get("Location") != want || len(b.cookies) != 0 {
		t.Errorf("%d to %s, cookies %v; want %s and no cookies", res.StatusCode, res.Header.Get("Location"), b.cookies, want)
	}
	if res := b.get("http://x/"); res.StatusCode != 302 {
		t.Errorf("after the log-out: %d, want a log-in", res.StatusCode)
	}
}

// The provider is down, or the secrets are missing: nothing passes, and the answer says nothing about them.
func TestLoginThatIsNotPossible(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newLoginWorld(t, toLogin)
		b := w.browser()
		b.login("http://x/")
		for name, spoil := range map[string]func(){
			"no secret": func() { _ = os.Remove(filepath.Join(w.secrets, "oidc")) },
			"no folder": func() { _ = os.RemoveAll(w.secrets) },
		} {
			spoil()
			time.Sleep(31 * time.Second)
			w.get("http://x/", "Accept", "text/html")
			res := w.get("http://x/", "Accept", "text/html")
			if res.StatusCode != 503 || res.Header.Get("X-Bijou-Fault") != "auth_unavailable" ||
				strings.Contains(res.body, w.secrets) {
				t.Errorf("%s: %d %s, want 503", name, res.StatusCode, res.body)
			}
		}
		if n := strings.Count(w.log.String(), "log-ins are not possible"); n < 1 || n > 2 {
			t.Errorf("the log says %d times why, want once for each secret", n)
		}
		down := newLoginWorld(t, toWeb)
		down.provider.setDown(true)
		down.put("gateway.routes", toLogin)
		if res := down.get("http://x/", "Accept", "text/html"); res.StatusCode != 503 {
			t.Errorf("the provider is down: %d, want 503", res.StatusCode)
		}
	})
}

// A session that is too large for a cookie is kept without its refresh token.
func TestLargeSessions(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newLoginWorld(t, toLogin)
		w.set(func(w *loginWorld) { w.refresh = strings.Repeat("r", 4000) })
		b := w.browser()
		b.login("http://x/")
		time.Sleep(time.Hour)
		if res := b.get("http://x/"); res.StatusCode != 200 || w.asked != 1 {
			t.Errorf("%d, %d requests for tokens; want 200 and one", res.StatusCode, w.asked)
		}
		w.set(func(w *loginWorld) { w.claims = `"sub":"ann","groups":["` + strings.Repeat("g", 4000) + `"]` })
		if res := w.browser().login("http://x/"); res.StatusCode != 503 {
			t.Errorf("claims that are too large: %d, want 503", res.StatusCode)
		}
	})
}

// A route without a way to log in beside one with it shares the session, and a person is asked only where it is needed.
func TestRoutesShareASession(t *testing.T) {
	w := newLoginWorld(t, `[{"name":"web","to":[{"service":"web"}],"auth":{"methods":[`+loginMethod+`],"optional":true,
		"claims":{"sub":"X-User"}}},
		{"name":"admin","match":{"prefix":"/admin"},"to":[{"service":"web"}],"auth":{"methods":[{"apiKey":{}},`+loginMethod+`],
		"allow":[{"claims":{"groups":["boss"]}}]}}]`)
	b := w.browser()
	if res := b.get("http://x/"); res.StatusCode != 200 || !strings.Contains(res.body, "of  in") {
		t.Errorf("an optional log-in: %d %s, want 200 of nobody", res.StatusCode, res.body)
	}
	if res := b.login("http://x/.login/start?return=/admin"); res.Header.Get("Location") != "/admin" {
		t.Errorf("the log-in leads to %q, want /admin", res.Header.Get("Location"))
	}
	if res := b.get("http://x/"); !strings.Contains(res.body, "of ann") {
		t.Errorf("after the log-in: %s, want that of ann", res.body)
	}
	if res := b.get("http://x/admin"); res.StatusCode != 403 {
		t.Errorf("who may not call: %d, want 403", res.StatusCode)
	}
}

func BenchmarkSession(b *testing.B) {
	w := newLoginWorld(b, strings.Replace(toLogin, `"to":[{"service":"web"}]`, `"respond":{}`, 1), "gateway.accessLog", "off")
	p := w.browser()
	p.login("http://x/")
	handle := gateway.Handler(w.edge, "/", "Cookie", "bijou-session="+p.cookies["bijou-session"])
	b.ReportAllocs()
	for b.Loop() {
		handle()
	}
}
