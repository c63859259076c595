package gateway

import (
	"crypto/rand"
	"net/url"
	"slices"
	"strings"

	"bijou.dev/platform/route"
)

// hash is the hash of what the route's requests to one instance have in common; 0: this request goes to any instance.
// given is the value of the cookie that the client gets with the response, because it has none.
func (x *exchange) hash() (hash uint64, given string) {
	by := &x.rule.HashBy
	switch {
	case by.Client:
		if b, ok := clientNetwork(x.in.Client); ok {
			return route.HashOf(string(b[:])), ""
		}
		return route.HashOf(x.in.Client), ""
	case by.Path:
		return route.HashOf(x.to.Path), ""
	case by.Identity:
		return x.identityHash(), ""
	case by.Header != "":
		if x.in.Header.Has(by.Header) {
			hash = route.HashOf(slices.Collect(x.in.Header.Values(by.Header))...)
		}
		return hash, ""
	case by.Query != "":
		query, _ := url.ParseQuery(strings.TrimPrefix(x.in.Query, "?")) // what cannot be parsed is not there
		if query.Has(by.Query) {
			hash = route.HashOf(query[by.Query]...)
		}
		return hash, ""
	}
	if value := x.cookie(by.Cookie); value != "" {
		return route.HashOf(value), ""
	}
	if !x.rule.Hash.Set {
		return 0, ""
	}
	given = rand.Text()
	x.setCookie(by.Cookie, given)
	return route.HashOf(given), given
}

// identityHash is the hash of the caller; 0: there is none.
func (x *exchange) identityHash() uint64 {
	if x.identity() == "" {
		return 0
	}
	who := x.callerParts()
	return route.HashOf(who[:]...)
}

// setCookie adds a cookie for the whole host to the response. It lasts until the browser is closed.
func (x *exchange) setCookie(name, value string) {
	line := name + "=" + value + "; Path=/; HttpOnly; SameSite=Lax"
	if x.in.SeenScheme == "https" {
		line += "; Secure"
	}
	x.out.Extra.Add("Set-Cookie", line)
}
