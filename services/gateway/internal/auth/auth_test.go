package auth_test

import (
	"encoding/json"
	"net/http"
	"net/textproto"
	"strings"
	"testing"

	"bijou.dev/services/gateway/internal/auth"
	"bijou.dev/services/gateway/internal/message"

	"github.com/google/go-cmp/cmp"
)

// claims reads claims as package jwt does.
func claims(t testing.TB, text string) auth.Claims {
	t.Helper()
	d := json.NewDecoder(strings.NewReader(text))
	d.UseNumber()
	var c auth.Claims
	if err := d.Decode(&c); err != nil {
		t.Fatal(err)
	}
	return c
}

func TestClaimsAsFields(t *testing.T) {
	c := claims(t, `{"sub":"ann","n":12345678901234567890,"b":true,"list":["a","b",3],"realm":{"roles":["x","y"],"a.b":"z"},
		"dots.in.name":"d","comma":["a,admin","b"],"empty":"","none":[],"null":null,"object":{"a":1},"nested":[["a"]],
		"lines":"a\r\nX-Admin: 1","nul":"a\u0000","space":" a","long":"`+strings.Repeat("x", 4097)+`","utf":"Zoë"}`)
	for name, want := range map[string]string{
		"sub": "ann", "n": "12345678901234567890", "b": "true", "list": "a,b,3", "realm.roles": "x,y", "realm.a.b": "z",
		"dots.in.name": "d", "utf": "Zoë",
		"comma": "", "empty": "", "none": "", "null": "", "object": "", "nested": "", "lines": "", "nul": "", "space": "",
		"long": "", "missing": "", "sub.x": "", "realm.": "", "": "",
	} {
		if got, ok := c.Text(name); got != want || ok != (want != "") {
			t.Errorf("%s: %q, %v; want %q", name, got, ok, want)
		}
	}
}

func TestRules(t *testing.T) {
	ann := &auth.Caller{Method: "jwt", Claims: claims(t, `{"sub":"ann","scope":"read write","groups":["staff","it"],
		"level":3,"admin":false,"realm":{"roles":["dev"]}}`)}
	okta := &auth.Caller{Method: "jwt", Claims: claims(t, `{"sub":"ci","scp":["read"]}`)}
	key := &auth.Caller{Method: auth.MethodAPIKey, Claims: auth.Claims{"sub": "ci"}}
	has := func(name string, values ...string) map[string][]string { return map[string][]string{name: values} }
	for _, c := range []struct {
		rule           auth.Rule
		ann, okta, key bool
	}{
		{auth.Rule{Scopes: []string{"read"}}, true, true, false},
		{auth.Rule{Scopes: []string{"read", "write"}}, true, false, false},
		{auth.Rule{Scopes: []string{"rea"}}, false, false, false},
		{auth.Rule{Claims: has("groups", "it", "hr")}, true, false, false},
		{auth.Rule{Claims: has("groups", "i")}, false, false, false},
		{auth.Rule{Claims: has("level", "3")}, true, false, false},
		{auth.Rule{Claims: has("admin", "true")}, false, false, false},
		{auth.Rule{Claims: has("realm.roles", "dev")}, true, false, false},
		{auth.Rule{Claims: has("sub", "ci")}, false, true, true},
		{auth.Rule{Keys: []string{"ci"}}, false, false, true},
		{auth.Rule{Scopes: []string{"read"}, Claims: has("groups", "hr")}, false, false, false},
	} {
		p := auth.Policy{Allow: []auth.Rule{{Keys: []string{"nobody"}}, c.rule}}
		if p.Allows(ann) != c.ann || p.Allows(okta) != c.okta || p.Allows(key) != c.key {
			t.Errorf("%+v: ann %v, okta %v, key %v; want %v, %v, %v", c.rule, p.Allows(ann), p.Allows(okta), p.Allows(key),
				c.ann, c.okta, c.key)
		}
	}
}

func TestIdentityIsBounded(t *testing.T) {
	for text, want := range map[string]string{
		"ann": "ann", strings.Repeat("x", 256): strings.Repeat("x", 256), strings.Repeat("x", 257): "", "a\nb": "",
	} {
		c := &auth.Caller{Claims: auth.Claims{"sub": text}}
		if got := c.Identity(); got != want {
			t.Errorf("%.20q: identity %q, want %q", text, got, want)
		}
	}
	if got := (*auth.Caller)(nil).Identity(); got != "" {
		t.Errorf("the identity of nobody is %q", got)
	}
}

func header(lines ...string) (h message.Header) {
	for i := 0; i < len(lines); i += 2 {
		h.Add(textproto.CanonicalMIMEHeaderKey(lines[i]), lines[i+1])
	}
	return h
}

func TestHeaderForTheOrigin(t *testing.T) {
	p := &auth.Policy{
		Fields: []auth.Field{{Claim: "sub", Name: "X-User"}, {Claim: "groups", Name: "X-Groups"}},
		Bearer: true, Secrets: []string{"X-Api-Key"}, Cookies: []string{"token"},
	}
	forged := header("X-User", "eve", "x-USER", "eve", "X_User", "eve", "x.user", "eve", "X-User_", "kept",
		"X-Groups", "admin", "Authorization", "Bearer abc", "X-Api-Key", "secret", "Cookie", "a=1; token=x; b=2",
		"Cookie", "token=y", "Accept", "*/*")
	for name, c := range map[string]struct {
		caller *auth.Caller
		want   message.Header
	}{
		"unknown": {nil, header("X-User_", "kept", "Cookie", "a=1; b=2", "Accept", "*/*")},
		"known": {
			&auth.Caller{Claims: auth.Claims{"sub": "ann"}},
			header("X-User_", "kept", "Cookie", "a=1; b=2", "Accept", "*/*", "X-User", "ann"),
		},
	} {
		h := append(message.Header{}, forged...)
		p.Apply(&h, c.caller)
		if diff := cmp.Diff(c.want, h); diff != "" {
			t.Errorf("%s: %s", name, diff)
		}
	}
	other := header("Authorization", "Basic YTpi")
	p.Apply(&other, nil)
	if !other.Has("Authorization") {
		t.Error("a credential of another scheme was removed")
	}
}

// FuzzApply: no field that a server could read as one of the edge's comes through, and no cookie with a token.
func FuzzApply(f *testing.F) {
	f.Add("X_User", "a=1; token=2;token =3; x")
	p := &auth.Policy{Fields: []auth.Field{{Claim: "sub", Name: "X-User"}}, Cookies: []string{"token"}}
	f.Fuzz(func(t *testing.T, name, cookies string) {
		h := message.Header{{Name: textproto.CanonicalMIMEHeaderKey(name), Value: "forged"}, {Name: "Cookie", Value: cookies}}
		p.Apply(&h, nil)
		for _, field := range h {
			variable := strings.Map(func(c rune) rune {
				if 'a' <= c && c <= 'z' || '0' <= c && c <= '9' {
					return c
				}
				return '_'
			}, strings.ToLower(field.Name))
			if variable == "x_user" {
				t.Errorf("%q came through", field.Name)
			}
			if field.Name == "Cookie" {
				for _, c := range (&http.Request{Header: http.Header{"Cookie": {field.Value}}}).CookiesNamed("token") {
					t.Errorf("%q became %q, which has the cookie %v", cookies, field.Value, c)
				}
			}
		}
	})
}
