// Package auth has what is known of the caller of a request, and what a route does with it: who may call, and what the
// origin gets to know. How a caller proves who it is, is in the packages below this one.
package auth

import (
	"encoding/json"
	"slices"
	"strconv"
	"strings"

	"bijou.dev/services/gateway/internal/message"
	"bijou.dev/services/gateway/internal/syntax"

	"golang.org/x/net/http/httpguts"
)

// Claims are what is known of a caller: name -> value, in the types of encoding/json, with json.Number for numbers.
type Claims map[string]any

// Subject is the claim with the identity of a caller.
const Subject = "sub"

// Bounds of what a caller can be called, in bytes.
const (
	maxIdentity = 256     // in logs, spans and keys of limits
	maxField    = 4 << 10 // in a field for the origin
)

// Value returns a claim. A name with dots that is no claim leads into objects: "realm_access.roles".
func (c Claims) Value(name string) (any, bool) {
	if v, ok := c[name]; ok {
		return v, true
	}
	first, rest, ok := strings.Cut(name, ".")
	if !ok {
		return nil, false
	}
	object, ok := c[first].(map[string]any)
	if !ok {
		return nil, false
	}
	return Claims(object).Value(rest)
}

// Has reports whether a claim is one of these values, or a list with one of them.
func (c Claims) Has(name string, values []string) bool {
	v, ok := c.Value(name)
	if !ok {
		return false
	}
	list, ok := v.([]any)
	if !ok {
		list = []any{v}
	}
	return slices.ContainsFunc(list, func(v any) bool {
		text, ok := scalar(v)
		return ok && slices.Contains(values, text)
	})
}

// Text returns a claim as the value of a header field. Lists are separated by commas. False: there is no such claim, or
// it cannot be in a field.
//
// A list with a text that has a comma is not sent: the origin would take it for two, and the second may be a group that
// the caller does not have.
func (c Claims) Text(name string) (string, bool) {
	v, ok := c.Value(name)
	if !ok {
		return "", false
	}
	text := ""
	if list, isList := v.([]any); isList {
		for i, v := range list {
			item, ok := scalar(v)
			if !ok || item == "" || strings.Contains(item, ",") {
				return "", false
			}
			if i > 0 {
				text += ","
			}
			text += item
		}
	} else if text, ok = scalar(v); !ok {
		return "", false
	}
	if text == "" || len(text) > maxField || strings.TrimSpace(text) != text || !httpguts.ValidHeaderFieldValue(text) {
		return "", false
	}
	return text, true
}

// scalar is a text, a number or a truth value as text.
func scalar(v any) (string, bool) {
	switch v := v.(type) {
	case string:
		return v, true
	case json.Number:
		return v.String(), true
	case float64:
		return strconv.FormatFloat(v, 'f', -1, 64), true
	case bool:
		return strconv.FormatBool(v), true
	}
	return "", false
}

// hasScope reports whether the caller has a scope. RFC 8693 has scope, with spaces between scopes; some identity
// providers have scp, which may be a list.
func (c Claims) hasScope(scope string) bool {
	for _, name := range []string{"scope", "scp"} {
		switch v := c[name].(type) {
		case string:
			if slices.Contains(strings.Fields(v), scope) {
				return true
			}
		case []any:
			if slices.Contains(v, any(scope)) {
				return true
			}
		}
	}
	return false
}

// Caller is who has sent a request, after it has proved that.
type Caller struct {
	// Method is how it was proved, as its method is called in routes: "jwt".
	Method string
	Claims Claims
}

// Identity is the name of the caller for logs, spans and limits, bounded. Empty: the caller has none.
func (c *Caller) Identity() string {
	if c == nil {
		return ""
	}
	text, ok := c.Claims.Text(Subject)
	if !ok || len(text) > maxIdentity {
		return ""
	}
	return text
}

// MethodAPIKey is the method of callers by a key, to which Rule.Keys is limited.
const MethodAPIKey = "apiKey"

// Rule is a condition on callers. All parts that are set must hold; the zero value holds for all callers.
type Rule struct {
	// Scopes must all be there. Empty: any.
	Scopes []string
	// Claims has values for claims: name -> values, of which the claim must have one. Empty: any.
	Claims map[string][]string
	// Keys are names of API keys, of which the caller must have one. Empty: any caller, also without a key.
	Keys []string
}

// allows reports whether the rule holds for a caller.
func (r *Rule) allows(c *Caller) bool {
	for _, scope := range r.Scopes {
		if !c.Claims.hasScope(scope) {
			return false
		}
	}
	for name, values := range r.Claims {
		if !c.Claims.Has(name, values) {
			return false
		}
	}
	return len(r.Keys) == 0 || c.Method == MethodAPIKey && c.Claims.Has(Subject, r.Keys)
}

// Field is a header field for the origin.
type Field struct {
	Claim string
	Name  string // canonical
}

// Policy is what a route does with callers. Nil: nothing.
type Policy struct {
	// Optional also takes requests without a credential. False: they are refused.
	Optional bool
	// Allow has the rules of which one must hold. Empty: all callers may call.
	Allow []Rule
	// Fields tell the origin about the caller. The fields of clients with these names are always removed.
	Fields []Field
	// Secrets are fields with credentials, which the origin does not get, in canonical form.
	Secrets []string
	// Bearer removes bearer tokens from the field Authorization.
	Bearer bool
	// Cookies are names of cookies with credentials, which the origin does not get.
	Cookies []string
}

// Allows reports whether a caller may call.
func (p *Policy) Allows(c *Caller) bool {
	return len(p.Allow) == 0 || slices.ContainsFunc(p.Allow, func(r Rule) bool { return r.allows(c) })
}

// Scopes are those of the first rule that has some: what a client may ask for that was refused.
func (p *Policy) Scopes() []string {
	for _, r := range p.Allow {
		if len(r.Scopes) > 0 {
			return r.Scopes
		}
	}
	return nil
}

// Removes reports whether a field of a client is removed because it could be taken for what the edge says about the
// caller. Servers that put fields into variables of an environment (CGI, WSGI, Rack, PHP) read X_User, and some of them
// X.User, as X-User.
func (p *Policy) Removes(name string) bool {
	if p == nil {
		return false
	}
	for i := range p.Fields {
		if SameVariable(p.Fields[i].Name, name) {
			return true
		}
	}
	return false
}

// SameVariable reports whether two names of fields are the same one for servers that turn all characters but letters
// and digits into the same one.
func SameVariable(a, b string) bool {
	if len(a) != len(b) {
		return false
	}
	for i := range len(a) {
		if fold(a[i]) != fold(b[i]) {
			return false
		}
	}
	return true
}

func fold(c byte) byte {
	switch {
	case 'A' <= c && c <= 'Z':
		return c | 0x20
	case 'a' <= c && c <= 'z', '0' <= c && c <= '9':
		return c
	}
	return '-'
}

// Apply removes from the header for the origin what it must not get, and adds what it gets to know about the caller.
// Nil: the caller is unknown.
func (p *Policy) Apply(h *message.Header, c *Caller) {
	*h = slices.DeleteFunc(*h, func(f message.Field) bool {
		return p.Removes(f.Name) || slices.Contains(p.Secrets, f.Name) ||
			p.Bearer && f.Name == "Authorization" && isBearer(f.Value)
	})
	if len(p.Cookies) > 0 {
		RemoveCookies(h, func(name string) bool { return slices.Contains(p.Cookies, name) })
	}
	if c == nil {
		return
	}
	for _, f := range p.Fields {
		if text, ok := c.Claims.Text(f.Claim); ok {
			h.Add(f.Name, text)
		}
	}
}

// RemoveCookies takes cookies out of the fields Cookie.
func RemoveCookies(h *message.Header, remove func(name string) bool) {
	empty := false
	for i := range *h {
		f := &(*h)[i]
		if f.Name != "Cookie" {
			continue
		}
		var kept []string
		removed := false
		for pair := range strings.SplitSeq(f.Value, ";") {
			name, _, _ := strings.Cut(pair, "=")
			if remove(strings.Trim(name, " \t")) {
				removed = true
			} else {
				kept = append(kept, strings.Trim(pair, " \t"))
			}
		}
		if removed {
			f.Value = strings.Join(kept, "; ")
			empty = empty || f.Value == ""
		}
	}
	if empty {
		*h = slices.DeleteFunc(*h, func(f message.Field) bool { return f.Name == "Cookie" && f.Value == "" })
	}
}

const bearer = "bearer"

func isBearer(value string) bool {
	return len(value) > len(bearer) && strings.EqualFold(value[:len(bearer)], bearer) && value[len(bearer)] == ' '
}

// Bearer returns the token of the field Authorization (RFC 6750, 2.1). False: there is no bearer token. More than one
// line is no token: two servers could use different ones.
func Bearer(h message.Header) (string, bool) {
	value := h.Get("Authorization")
	if !isBearer(value) || h.Count("Authorization") > 1 {
		return "", false
	}
	return strings.TrimLeft(value[len(bearer):], " "), true
}

// Quoted is text in quotes, as parameters of WWW-Authenticate have it. What cannot be in it becomes a question mark.
func Quoted(text string) string {
	b := make([]byte, 0, len(text)+2)
	b = append(b, '"')
	for i := range len(text) {
		c := text[i]
		if c < ' ' || c > '~' || c == '"' || c == '\\' {
			c = '?'
		}
		b = append(b, c)
	}
	return string(append(b, '"'))
}

// Canonical is the form of a field's name in Policy.
func Canonical(name string) string { return syntax.Canonical(name) }
