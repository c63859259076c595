package gateway_test

import (
	"bufio"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"bijou.dev/platform/trace"
	"bijou.dev/services/gateway"

	"github.com/go-jose/go-jose/v4"
	"github.com/google/go-cmp/cmp"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/wrapperspb"
)

// identityProvider answers the requests of the edge to https://id.example.org, without a network.
type identityProvider struct {
	mu   sync.Mutex
	down bool
	key  *ecdsa.PrivateKey
	kid  string
	// tokens answers requests for tokens, called with mu held. Nil: there are none.
	tokens func(*http.Request) (*http.Response, error)
}

func newIdentityProvider() *identityProvider { return (&identityProvider{}).rotate("first") }

// rotate replaces the key.
func (p *identityProvider) rotate(kid string) *identityProvider {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.key, _ = ecdsa.GenerateKey(elliptic.P256(), rand.Reader) // never fails
	p.kid = kid
	return p
}

func (p *identityProvider) setDown(down bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.down = down
}

// RoundTrip implements http.RoundTripper.
func (p *identityProvider) RoundTrip(r *http.Request) (*http.Response, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.down || r.URL.Host != "id.example.org" {
		return nil, errors.New("connection refused")
	}
	text := `{"issuer":"https://id.example.org","jwks_uri":"https://id.example.org/keys",
		"authorization_endpoint":"https://id.example.org/authorize","token_endpoint":"https://id.example.org/token",
		"end_session_endpoint":"https://id.example.org/logout?a=b"}`
	if r.URL.Path == "/token" && p.tokens != nil {
		return p.tokens(r)
	}
	if r.URL.Path == "/keys" {
		set, err := json.Marshal(jose.JSONWebKeySet{Keys: []jose.JSONWebKey{{Key: p.key.Public(), KeyID: p.kid}}})
		if err != nil {
			return nil, err
		}
		text = string(set)
	}
	res := &http.Response{StatusCode: http.StatusOK, Header: http.Header{}, Request: r}
	res.Body = io.NopCloser(strings.NewReader(text))
	return res, nil
}

// token signs claims, beside those that are always needed. claims is the inside of an object.
func (p *identityProvider) token(t testing.TB, claims string) string {
	t.Helper()
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.sign(t, `"aud":"api",`+claims)
}

// sign is token without an audience, with mu held.
func (p *identityProvider) sign(t testing.TB, claims string) string {
	key := jose.JSONWebKey{Key: p.key, KeyID: p.kid}
	signer, err := jose.NewSigner(jose.SigningKey{Algorithm: jose.ES256, Key: key}, nil)
	if err != nil {
		t.Fatal(err)
	}
	jws, err := signer.Sign(fmt.Appendf(nil, `{"iss":"https://id.example.org","exp":%d,%s}`,
		time.Now().Add(time.Hour).Unix(), claims))
	if err != nil {
		t.Fatal(err)
	}
	text, err := jws.CompactSerialize()
	if err != nil {
		t.Fatal(err)
	}
	return text
}

const jwtMethod = `{"jwt":{"issuer":"https://id.example.org","audiences":["api"]}}`

// protected is a route whose origin answers with the lines that it got.
func protected(auth string) string {
	return `[{"name":"api","to":[{"service":"web"}],"auth":{` + auth + `}}]`
}

// authWorld starts an edge with an identity provider, and an origin that answers with the names and values that it got
// of some fields.
func authWorld(t testing.TB, p *identityProvider, routes string, settings ...string) *world {
	t.Helper()
	w := worldWith(t, gateway.EdgeOptions{AuthClient: &http.Client{Transport: p}}, routes, settings...)
	w.origin("web", "web-1", "", http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body) // for the trailer
		for _, name := range slices.Sorted(maps.Keys(r.Header)) {
			if strings.Contains(strings.ToUpper(name), "USER") && name != "User-Agent" || name == "X-Groups" ||
				name == "Authorization" || name == "X-Api-Key" || name == "Cookie" {
				fmt.Fprintf(rw, "%s=%s\n", name, strings.Join(r.Header[name], "|"))
			}
		}
		for name := range r.Trailer {
			fmt.Fprintf(rw, "trailer %s\n", name)
		}
	}))
	return w
}

func TestTokensOfCallers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newIdentityProvider()
		w := authWorld(t, p, protected(`"methods":[`+jwtMethod+`],"claims":{"sub":"X-User","groups":"X-Groups"},
			"allow":[{"scopes":["read"]},{"claims":{"groups":["staff"]}}]`))
		reader := p.token(t, `"sub":"ann","scope":"read"`)
		since1970 := p.token(t, `"sub":"ann","scope":"read","nbf":1`)
		for _, c := range []struct {
			name, header string // Authorization
			status       int
			body         string // of 200
			challenge    string
		}{
			{"scope", "Bearer " + reader, 200, "X-User=ann\n", ""},
			{"case of the scheme", "bearer  " + reader, 200, "X-User=ann\n", ""},
			{"groups", "Bearer " + p.token(t, `"sub":"bob","groups":["it","staff"]`), 200, "X-Groups=it,staff\nX-User=bob\n", ""},
			{"valid since 1970", "Bearer " + since1970, 200, "X-User=ann\n", ""},
			{"none", "", 401, "", `Bearer realm="api"`},
			{"other scheme", "Basic YTpi", 401, "", `Bearer realm="api"`},
			{
				"no JWT", "Bearer abc", 401, "",
				`Bearer realm="api", error="invalid_token", error_description="the token is not a signed JWT"`,
			},
			{
				"other payload", "Bearer " + strings.Replace(reader, ".", ".e30", 1), 401, "",
				`Bearer realm="api", error="invalid_token", error_description="the signature of the token is wrong"`,
			},
			{
				"no scope", "Bearer " + p.token(t, `"sub":"eve","groups":["st"]`), 403, "",
				`Bearer realm="api", error="insufficient_scope", scope="read"`,
			},
		} {
			header := []string{"Accept", "application/json", "X-User", "root", "X-Groups", "admin"}
			if c.header != "" {
				header = append(header, "Authorization", c.header)
			}
			for _, h2 := range []bool{false, true} {
				res := w.do(w.client(h2), "GET", "http://x/", nil, header...)
				if res.StatusCode != c.status || res.Header.Get("WWW-Authenticate") != c.challenge ||
					c.status == 200 && res.body != c.body {
					t.Errorf("%s: %d %q, WWW-Authenticate %q; want %d %q, %q", c.name, res.StatusCode, res.body,
						res.Header.Get("WWW-Authenticate"), c.status, c.body, c.challenge)
				}
				if c.status != 200 && (res.Header.Get("X-Bijou-Fault") != "client" ||
					res.Header.Get("Content-Type") != "application/problem+json") {
					t.Errorf("%s: %v, want a problem that is the client's fault", c.name, res.Header)
				}
			}
		}
		time.Sleep(2 * time.Hour)
		if res := w.get("http://x/", "Authorization", "Bearer "+reader); res.StatusCode != 401 ||
			!strings.Contains(res.Header.Get("WWW-Authenticate"), "the token has expired") {
			t.Errorf("after two hours: %d, %v; want 401", res.StatusCode, res.Header)
		}
		text := w.log.String()
		if strings.Contains(text, reader) || strings.Contains(text, strings.Split(reader, ".")[2]) ||
			!strings.Contains(text, `"identity":"ann"`) {
			t.Errorf("the log must have the identity and no token:\n%s", text)
		}
	})
}

// Strangers cannot set what the origin reads as the identity, by any spelling, by Connection or by a trailer, also
// where a route takes requests without a credential.
func TestClientsCannotSetIdentities(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newIdentityProvider()
		w := authWorld(t, p, protected(`"methods":[`+jwtMethod+`],"optional":true,"claims":{"sub":"X-User"}`))
		token := "Authorization: Bearer " + p.token(t, `"sub":"ann"`) + "\r\n"
		for _, forged := range []string{
			"X-User: root\r\n", "x-user: root\r\n", "X_USER: root\r\n", "X_User: root\r\n", "X-User: a\r\nX-User: root\r\n",
			"Connection: X-User\r\nX-User: root\r\n",
		} {
			for credential, want := range map[string]string{"": "", token: "X-User=ann\n"} {
				if got := w.exchangeRaw("GET / HTTP/1.1\r\nHost: x\r\n" + forged + credential + "\r\n"); got != want {
					t.Errorf("%q: the origin got %q, want %q", forged+credential, got, want)
				}
			}
		}
		chunked := "POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\nTrailer: X-User, X-Sum\r\n\r\n" +
			"1\r\na\r\n0\r\nX-User: root\r\nX_User: root\r\nX-Sum: 1\r\n\r\n"
		if got := w.exchangeRaw(chunked); got != "trailer X-Sum\n" {
			t.Errorf("a trailer: the origin got %q, want only X-Sum", got)
		}
		for _, wrong := range []string{"Bearer abc", "Bearer " + p.token(t, `"sub":"ann","aud":"x"`)} {
			if res := w.get("http://x/", "Authorization", wrong); res.StatusCode != 401 {
				t.Errorf("a wrong token on an optional route: %d, want 401", res.StatusCode)
			}
		}
	})
}

// exchangeRaw sends a request and returns the body of the response.
func (w *world) exchangeRaw(text string) string {
	w.t.Helper()
	c := w.dial()
	if _, err := io.WriteString(c, text); err != nil {
		w.t.Fatal(err)
	}
	res, err := http.ReadResponse(bufio.NewReader(c), nil)
	if err != nil {
		w.t.Fatal(err)
	}
	body, err := io.ReadAll(res.Body)
	if err != nil || res.StatusCode != 200 {
		w.t.Errorf("%q: status %d, %v", text, res.StatusCode, err)
	}
	return string(body)
}

// The edge starts while the provider is down: requests are refused, and served as soon as the keys are known. Then the
// provider may be down for days.
func TestIdentityProviderThatIsDown(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newIdentityProvider()
		p.setDown(true)
		w := authWorld(t, p, protected(`"methods":[`+jwtMethod+`],"optional":true`))
		token := []string{"Authorization", "Bearer " + p.token(t, `"sub":"ann"`)}
		res := w.get("http://x/", token...)
		if res.StatusCode != 503 || res.Header.Get("X-Bijou-Fault") != "auth_unavailable" ||
			res.Header.Get("Retry-After") == "" {
			t.Errorf("%d, %v; want 503 with the fault auth_unavailable", res.StatusCode, res.Header)
		}
		if res := w.get("http://x/"); res.StatusCode != 200 {
			t.Errorf("without a token, which is optional: %d, want 200", res.StatusCode)
		}
		p.setDown(false)
		time.Sleep(15 * time.Second)
		if res := w.get("http://x/", token...); res.StatusCode != 200 {
			t.Errorf("after the provider is up: %d, want 200", res.StatusCode)
		}
		p.setDown(true)
		time.Sleep(72 * time.Hour)
		if res := w.get("http://x/", "Authorization", "Bearer "+p.token(t, `"sub":"ann"`)); res.StatusCode != 200 {
			t.Errorf("three days after the provider went down: %d, want 200", res.StatusCode)
		}
	})
}

// A call of gRPC gets the code of its protocol, and the span of a request has the name of the caller.
func TestAuthOfGRPCAndSpans(t *testing.T) {
	key, sum := newAPIKey()
	spans := tracetest.NewInMemoryExporter()
	tracer, err := trace.New(trace.Options{Service: "gateway", Exporter: spans})
	if err != nil {
		t.Fatal(err)
	}
	w := worldWith(t, gateway.EdgeOptions{Trace: tracer}, `[{"name":"a","to":[{"service":"calls","endpoint":"grpc"}],
		"auth":{"methods":[{"apiKey":{}}]}}]`, "gateway.keys", fmt.Sprintf(`[{"name":"ci","sha256":%q}]`, sum))
	w.grpcOrigin("calls", "calls-1")
	for want, header := range map[codes.Code][]string{
		codes.Unauthenticated: {"x-api-key", "wrong"}, codes.OK: {"x-api-key", key},
	} {
		ctx := metadata.AppendToOutgoingContext(t.Context(), header...)
		err := w.grpcClient().Invoke(ctx, "/test.v1.Calls/Echo", wrapperspb.String("hi"), new(wrapperspb.StringValue))
		if status.Code(err) != want {
			t.Errorf("%v, want the code %v", err, want)
		}
	}
	if err := tracer.Flush(t.Context()); err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, s := range spans.GetSpans() {
		for _, a := range s.Attributes {
			if a.Key == "enduser.id" {
				names = append(names, a.Value.AsString())
			}
		}
	}
	if !slices.Equal(names, []string{"ci"}) {
		t.Errorf("spans have the callers %q, want ci once", names)
	}
}

func TestNewKeysOfTheProvider(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newIdentityProvider()
		w := authWorld(t, p, protected(`"methods":[`+jwtMethod+`]`))
		before := p.token(t, `"sub":"ann"`)
		if res := w.get("http://x/", "Authorization", "Bearer "+before); res.StatusCode != 200 {
			t.Fatalf("%d, want 200", res.StatusCode)
		}
		p.rotate("second")
		if res := w.get("http://x/", "Authorization", "Bearer "+p.token(t, `"sub":"ann"`)); res.StatusCode != 200 {
			t.Errorf("a token of the new key: %d, want 200", res.StatusCode)
		}
		if res := w.get("http://x/", "Authorization", "Bearer "+before); res.StatusCode != 401 {
			t.Errorf("a token of the key that was taken back: %d, want 401", res.StatusCode)
		}
	})
}

// A token in a cookie; the origin gets neither it nor the bearer token, unless the route says so.
func TestCredentialsStayAtTheEdge(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newIdentityProvider()
		method := strings.Replace(jwtMethod, `"audiences"`, `"cookie":"token","audiences"`, 1)
		w := authWorld(t, p, protected(`"methods":[`+method+`,{"apiKey":{}}]`))
		token := p.token(t, `"sub":"ann"`)
		for _, header := range [][]string{
			{"Cookie", "a=1; token=" + token + "; b=2", "X-Api-Key", "x"},
			{"Cookie", "a=1; token=" + token, "Cookie", "b=2"},
			{"Authorization", "Bearer " + token, "Cookie", "a=1; token=x; b=2"},
		} {
			res := w.get("http://x/", header...)
			if body := strings.ReplaceAll(res.body, "|", "; "); res.StatusCode != 200 || body != "Cookie=a=1; b=2\n" {
				t.Errorf("%v: %d %q, want only the other cookies", header, res.StatusCode, res.body)
			}
		}
		w.put("gateway.routes", protected(`"methods":[`+strings.Replace(jwtMethod, `"audiences"`, `"pass":true,"audiences"`, 1)+`]`))
		if res := w.get("http://x/", "Authorization", "Bearer "+token); res.body != "Authorization=Bearer "+token+"\n" {
			t.Errorf("with pass the origin got %q, want the token", res.body)
		}
	})
}

// newAPIKey makes a key and its hash.
func newAPIKey() (key, sum string) {
	key = rand.Text() + rand.Text()
	hash := sha256.Sum256([]byte(key))
	return key, hex.EncodeToString(hash[:])
}

func TestAPIKeys(t *testing.T) {
	ci, ciSum := newAPIKey()
	ops, opsSum := newAPIKey()
	keys := fmt.Sprintf(`[{"name":"ci","sha256":%q},{"name":"ops","sha256":%q}]`, ciSum, opsSum)
	w := authWorld(t, newIdentityProvider(), `[{"name":"api","to":[{"service":"web"}],"auth":{"methods":[{"apiKey":{}}],
		"allow":[{"keys":["ci"]}],"claims":{"sub":"X-User"}}},
		{"name":"bearer","match":{"prefix":"/bearer"},"to":[{"service":"web"}],"auth":{"methods":[`+jwtMethod+`,
		{"apiKey":{"header":"authorization"}}],"claims":{"sub":"X-User"}}}]`, "gateway.keys", keys)
	for _, c := range []struct {
		path, name, value string
		status            int
		want              string // in WWW-Authenticate or the body
	}{
		{"/", "X-Api-Key", ci, 200, "X-User=ci\n"},
		{"/", "X-Api-Key", ops, 403, ""},
		{"/", "X-Api-Key", ciSum, 401, `ApiKey realm="api", header="X-Api-Key"`},
		{"/", "X-Api-Key", "", 401, `ApiKey realm="api", header="X-Api-Key"`},
		{"/", "Accept", "*/*", 401, `ApiKey realm="api", header="X-Api-Key"`},
		{"/", "Authorization", "Bearer " + ci, 401, `ApiKey realm="api", header="X-Api-Key"`},
		{"/bearer", "Authorization", "Bearer " + ops, 200, "X-User=ops\n"},
		{"/bearer", "Authorization", "Bearer " + opsSum, 401, `Bearer realm="bearer", error="invalid_token"`},
		{"/bearer", "X-Api-Key", ci, 401, `Bearer realm="bearer"`},
	} {
		res := w.get("http://x"+c.path, c.name, c.value)
		got := res.Header.Get("WWW-Authenticate") + res.body
		if res.StatusCode != c.status || !strings.HasPrefix(got, c.want) {
			t.Errorf("%s %s: %d %q, want %d %q", c.path, c.name, res.StatusCode, got, c.status, c.want)
		}
	}
	if res := w.get("http://x/", "X-Api-Key", ci, "X-Api-Key", ci); res.StatusCode != 401 {
		t.Errorf("two keys: %d, want 401", res.StatusCode)
	}
	w.put("gateway.keys", "[]")
	if res := w.get("http://x/", "X-Api-Key", ci); res.StatusCode != 401 {
		t.Errorf("after the key was taken back: %d, want 401", res.StatusCode)
	}
	if text := w.log.String(); strings.Contains(text, ci) || strings.Contains(text, ciSum) {
		t.Errorf("the log has a key:\n%s", text)
	}
}

// Methods are tried in their order, and a credential that cannot be checked now does not hide one that can.
func TestMethodsAreTriedInOrder(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newIdentityProvider()
		key, sum := newAPIKey()
		w := authWorld(t, p, protected(`"methods":[`+jwtMethod+`,{"apiKey":{}}],"claims":{"sub":"X-User"}`),
			"gateway.keys", fmt.Sprintf(`[{"name":"ci","sha256":%q}]`, sum))
		token := "Bearer " + p.token(t, `"sub":"ann"`)
		ask := func(header ...string) string {
			res := w.get("http://x/", header...)
			return fmt.Sprint(res.StatusCode, " ", res.Header.Values("WWW-Authenticate"), " ", strings.TrimSpace(res.body))
		}
		var got []string
		for _, header := range [][]string{
			{"Authorization", token, "X-Api-Key", key},
			{"X-Api-Key", key},
			{"Authorization", "Bearer wrong", "X-Api-Key", key},
			{"X-Api-Key", "wrong"},
			{},
		} {
			got = append(got, ask(header...))
		}
		want := []string{
			"200 [] X-User=ann", "200 [] X-User=ci", "200 [] X-User=ci", `401 [Bearer realm="api" `, `401 [Bearer realm="api" `,
		}
		for i := range want {
			if !strings.HasPrefix(got[i], strings.TrimSpace(want[i])) {
				t.Errorf("request %d: %s, want %s", i, got[i], want[i])
			}
		}
		if res := w.get("http://x/"); len(res.Header.Values("WWW-Authenticate")) != 2 {
			t.Errorf("challenges %q, want one for each method", res.Header.Values("WWW-Authenticate"))
		}
		p.setDown(true)
		w.put("gateway.routes", `[{"name":"down","to":[{"service":"web"}],"auth":{"methods":[
			{"jwt":{"issuer":"https://id.example.org","jwks":"https://down.example/keys","anyAudience":true}},{"apiKey":{}}]}}]`)
		if res := w.get("http://x/", "Authorization", token, "X-Api-Key", key); res.StatusCode != 200 {
			t.Errorf("a key beside a token that cannot be checked: %d, want 200", res.StatusCode)
		}
		if res := w.get("http://x/", "Authorization", token, "X-Api-Key", "wrong"); res.StatusCode != 503 {
			t.Errorf("a wrong key beside a token that cannot be checked: %d, want 503", res.StatusCode)
		}
	})
}

// Preflights have no credentials, and an answer 401 can be read by programs of other origins.
func TestAuthWithOtherOrigins(t *testing.T) {
	w := authWorld(t, newIdentityProvider(), `[{"name":"api","to":[{"service":"web"}],"auth":{"methods":[{"apiKey":{}}]},
		"cors":{"origins":["https://a.example"],"headers":["X-Api-Key"]}}]`)
	res := w.do(w.client(false), http.MethodOptions, "http://x/", nil, "Origin", "https://a.example",
		"Access-Control-Request-Method", "GET")
	if res.StatusCode != 204 {
		t.Errorf("a preflight: %d, want 204", res.StatusCode)
	}
	if res := w.get("http://x/", "Origin", "https://a.example"); res.StatusCode != 401 ||
		res.Header.Get("Access-Control-Allow-Origin") != "https://a.example" {
		t.Errorf("%d, %v; want 401 that the origin may read", res.StatusCode, res.Header)
	}
}

// Routes without origins are protected, too.
func TestAuthOfRoutesThatTheEdgeAnswers(t *testing.T) {
	const auth = `,"auth":{"methods":[{"apiKey":{}}]}}`
	w := newWorld(t, `[{"name":"a","match":{"path":"/a"},"respond":{"body":"secret"}`+auth+`,
		{"name":"b","match":{"path":"/b"},"redirect":{"to":"/secret"}`+auth+`,
		{"name":"c","match":{"prefix":"/c"},"files":{"dir":"testdata/site"}`+auth+`]`)
	for _, path := range []string{"/a", "/b", "/c/"} {
		res := w.get("http://x" + path)
		if res.StatusCode != 401 || strings.Contains(res.body+res.Header.Get("Location"), "secret") {
			t.Errorf("%s: %d %q, want 401", path, res.StatusCode, res.body)
		}
	}
}

func TestLimitsByIdentity(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newIdentityProvider()
		w := authWorld(t, p, `[{"name":"api","respond":{"body":"ok"},"auth":{"methods":[`+jwtMethod+`],"optional":true},
			"limits":[{"by":"identity","rate":1,"per":"1h"},{"by":"client","rate":10,"per":"1h"}]}]`)
		token := func(name string) []string {
			return []string{"Authorization", "Bearer " + p.token(t, `"sub":"`+name+`"`)}
		}
		var got []string
		for _, header := range [][]string{token("ann"), token("bob"), token("ann"), nil, nil, {"Authorization", "Bearer x"}} {
			res := w.get("http://x/", header...)
			got = append(got, fmt.Sprint(res.StatusCode, " ", res.Header.Get("RateLimit")))
		}
		want := []string{
			`200 "client";r=9;t=3240, "identity";r=0;t=3600`, `200 "client";r=8;t=2880, "identity";r=0;t=3600`,
			`429 "identity";r=0;t=3600`, `200 "client";r=6;t=2160, "identity";r=0;t=3600`, `429 "identity";r=0;t=3600`,
			`401 "client";r=4;t=1440`, // limits by client are asked before credentials
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Error(diff)
		}
	})
}

// A client certificate is one of the methods.
func TestClientCertificateAsAMethod(t *testing.T) {
	staff := newAuthority(t)
	key, sum := newAPIKey()
	routes := strings.ReplaceAll(withClientCert(t, staff), `"optional": true}}]`, `"optional": true},
		"auth":{"methods":[{"clientCert":{}},{"apiKey":{}}],"allow":[{"claims":{"sub":["ann"]}},{"keys":["ci"]}],
		"claims":{"sub":"X-User"}}}]`)
	w, a, _ := tlsWorldFor(t, routes, "www.example.org", "open.example.org")
	w.put("gateway.keys", fmt.Sprintf(`[{"name":"ci","sha256":%q}]`, sum))
	w.origin("web", "web-1", "", http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		_, _ = io.WriteString(rw, r.Header.Get("X-User")) // the test compares
	}))
	ann, eve := staff.clientCert(nextYear(), "ann"), staff.clientCert(nextYear(), "eve")
	for _, c := range []struct {
		name   string
		client *http.Client
		key    string
		status int
		want   string
	}{
		{"ann", w.certClient(a, "www.example.org", &ann), "", 200, "ann"},
		{"ann with a key", w.certClient(a, "www.example.org", &ann), key, 200, "ann"},
		{"eve", w.certClient(a, "www.example.org", &eve), "", 403, ""},
		{"key", w.certClient(a, "www.example.org", nil), key, 200, "ci"},
		{"nothing", w.certClient(a, "www.example.org", nil), "", 401, ""},
		{"connection that was not asked", w.certClient(a, "open.example.org", &ann), "", 421, ""},
		{"key on a connection that was not asked", w.certClient(a, "open.example.org", &ann), key, 200, "ci"},
	} {
		header := []string{"X-User", "root"}
		if c.key != "" {
			header = append(header, "X-Api-Key", c.key)
		}
		res := w.do(c.client, "GET", "https://www.example.org/guests", nil, header...)
		if res.StatusCode != c.status || c.status == 200 && res.body != c.want {
			t.Errorf("%s: %d %q, want %d %q", c.name, res.StatusCode, res.body, c.status, c.want)
		}
	}
}

// HTTP has no challenge for certificates, so a route that takes nothing else refuses with 403.
func TestOnlyClientCertificates(t *testing.T) {
	staff := newAuthority(t)
	routes := strings.ReplaceAll(withClientCert(t, staff), `"optional": true}}]`, `"optional": true},
		"auth":{"methods":[{"clientCert":{}}],"claims":{"sub":"X-User"}}}]`)
	w, a, _ := tlsWorldFor(t, routes, "www.example.org")
	w.origin("web", "web-1", "", responds("ok"))
	ann := staff.clientCert(nextYear(), "ann")
	for want, cert := range map[int]*tls.Certificate{200: &ann, 403: nil} {
		res := w.do(w.certClient(a, "www.example.org", cert), "GET", "https://www.example.org/guests", nil)
		if res.StatusCode != want {
			t.Errorf("%d %s, want %d", res.StatusCode, res.body, want)
		}
	}
}

// certClient returns a client with a certificate, or none, whose connections are for a host.
func (w *world) certClient(a *authority, host string, cert *tls.Certificate) *http.Client {
	return w.tlsClient(&tls.Config{
		ServerName: host, RootCAs: a.pool,
		GetClientCertificate: func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
			if cert == nil {
				return &tls.Certificate{}, nil
			}
			return cert, nil
		},
	}, "h2")
}

// authCost is a request whose costs are measured: to a route without auth, or with it.
type authCost struct {
	name   string
	handle func() // handles the request
}

func authCosts(t testing.TB) (list []authCost) {
	t.Helper()
	p := newIdentityProvider()
	key, sum := newAPIKey()
	for _, c := range []struct {
		name, path, method string
		header             []string
	}{
		{"plain", "/", "", nil},
		{"plain-beside-auth", "/", `{"apiKey":{}}`, nil},
		{"key", "/api", `{"apiKey":{}}`, []string{"X-Api-Key", key}},
		{"jwt", "/api", jwtMethod, []string{"Authorization", "Bearer " + p.token(t, `"sub":"ann"`)}},
	} {
		routes := `[{"name":"plain","respond":{}}`
		if c.method != "" {
			routes += `,{"name":"api","match":{"prefix":"/api"},"respond":{},"auth":{"methods":[` + c.method + `]}}`
		}
		w := authWorld(t, p, routes+"]", "gateway.accessLog", "off", "gateway.keys",
			fmt.Sprintf(`[{"name":"ci","sha256":%q}]`, sum))
		if res := w.get("http://x"+c.path, c.header...); res.StatusCode != 200 {
			t.Fatalf("%s: %d", c.name, res.StatusCode)
		}
		list = append(list, authCost{c.name, gateway.Handler(w.edge, c.path, c.header...)})
	}
	return list
}

func TestARouteWithoutAuthPaysNothingForIt(t *testing.T) {
	list := authCosts(t)
	plain, beside := testing.AllocsPerRun(200, list[0].handle), testing.AllocsPerRun(200, list[1].handle)
	if plain != beside {
		t.Errorf("%v allocations beside a route with auth, %v without", beside, plain)
	}
}

// BenchmarkAuth handles requests that a route answers itself, without a connection: what auth costs.
func BenchmarkAuth(b *testing.B) {
	for _, c := range authCosts(b) {
		b.Run(c.name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				c.handle()
			}
		})
	}
}
