package routes

import (
	"slices"
	"strings"

	"bijou.dev/services/gateway/internal/fields"
	"bijou.dev/services/gateway/internal/syntax"
)

// Hash says which requests of a route go to the same instance of its target.
type Hash struct {
	// By says what those requests have in common. ByClient: the address, or the IPv6 network of 64 bits. ByPath: the path
	// without the query. ByIdentity: the caller whom Route.Auth knows. "header:NAME", "cookie:NAME" and "query:NAME": the
	// value of a header field, a cookie or a parameter. A request without it goes to any instance. Required.
	By string `json:"by"`
	// Set gives a client without the cookie of By a random one, so that its later requests go to the instance of this
	// one. It needs "cookie:NAME". False: only the origin sets the cookie.
	Set bool `json:"set,omitempty"`
}

// ByPath is what Hash.By can be, besides ByClient, ByIdentity and those with a name.
const ByPath = "path"

// HashRule is Hash, ready for use. One of its fields is set; the zero value is no hash.
type HashRule struct {
	Client, Path, Identity bool
	Header, Cookie, Query  string // the name
}

func (h *Hash) rule() (u HashRule) {
	if h == nil {
		return u
	}
	switch kind, name, named := strings.Cut(h.By, ":"); {
	case !named:
		u.Client, u.Path, u.Identity = kind == ByClient, kind == ByPath, kind == ByIdentity
	case kind == "header":
		u.Header = syntax.Canonical(name)
	case kind == "cookie":
		u.Cookie = name
	case kind == "query":
		u.Query = name
	}
	return u
}

// validateHash checks Hash.
func (r *Route) validateHash() *violation {
	h := r.Hash
	if h == nil {
		return nil
	}
	u := h.rule()
	switch header := u.Header; {
	case len(r.To) == 0:
		return bad("hash", "must be empty without targets")
	case u == HashRule{}, header != "" && !syntax.IsToken(header), u.Cookie != "" && !syntax.IsToken(u.Cookie):
		return bad("hash.by", `must be client, path, identity or "header:", "cookie:" or "query:" and a name, is %q`, h.By)
	case header == "Host" || fields.Stripped(header) || fields.HopByHop(header):
		return bad("hash.by", "must not be %s, which is taken off requests", header)
	case u.Identity && r.Auth == nil:
		return bad("hash.by", "must not be identity without auth, which knows the caller")
	case h.Set && u.Cookie == "":
		return bad("hash.set", `must be false: only a cookie can be set, with by "cookie:" and its name`)
	case h.Set && r.Auth != nil && slices.Contains(r.Auth.policy().Cookies, u.Cookie):
		return bad("hash.set", "must be false: %s is a cookie of auth; choose another name", u.Cookie)
	}
	return nil
}
