package routes

import (
	"net/netip"
	"net/url"
	"regexp"
	"slices"
	"strings"

	"bijou.dev/services/gateway/internal/message"
)

// condition is a Condition that was compiled.
type condition struct {
	Condition
	pattern *regexp.Regexp // nil: none
}

// holds reports whether the name is there, with a value that satisfies the condition.
func (c *condition) holds(values []string) bool {
	switch {
	case c.pattern != nil:
		return slices.ContainsFunc(values, c.pattern.MatchString)
	case c.Value != "":
		return slices.Contains(values, c.Value)
	}
	return len(values) > 0
}

// implies reports whether whatever satisfies c satisfies other.
func (c *condition) implies(other *condition) bool {
	if c.Name != other.Name {
		return false
	}
	return other.Value == "" && other.Regexp == "" || other.Value == c.Value && other.Regexp == c.Regexp ||
		other.pattern != nil && c.Value != "" && other.pattern.MatchString(c.Value)
}

// implyAll reports whether each condition of other is implied by one of list.
func implyAll(list, other []condition) bool {
	return !slices.ContainsFunc(other, func(o condition) bool {
		return !slices.ContainsFunc(list, func(c condition) bool { return c.implies(&o) })
	})
}

// matcher is a Match that was compiled.
type matcher struct {
	path                    *regexp.Regexp // nil: any
	headers, query, cookies []condition
	clients                 []netip.Prefix
}

// conditions is how many conditions there are beside host, path and methods.
func (m *matcher) conditions() int {
	return len(m.headers) + len(m.query) + len(m.cookies) + min(1, len(m.clients))
}

// covers reports whether m holds for all requests for which other holds.
func (m *matcher) covers(other *matcher) bool {
	if !implyAll(other.headers, m.headers) || !implyAll(other.query, m.query) || !implyAll(other.cookies, m.cookies) {
		return false
	}
	if len(m.clients) == 0 {
		return true
	}
	return len(other.clients) > 0 && !slices.ContainsFunc(other.clients, func(o netip.Prefix) bool {
		return !slices.ContainsFunc(m.clients, func(c netip.Prefix) bool {
			return c.Bits() <= o.Bits() && c.Contains(o.Addr())
		})
	})
}

// holds reports whether all conditions hold for a request of a client, which is an address as text.
func (m *matcher) holds(r *message.Request, client string) bool {
	for i := range m.headers {
		c := &m.headers[i]
		if !c.holds(slices.Collect(r.Header.Values(c.Name))) {
			return false
		}
	}
	for i := range m.cookies {
		c := &m.cookies[i]
		var values []string
		for value := range r.Cookies(c.Name) {
			values = append(values, value)
		}
		if !c.holds(values) {
			return false
		}
	}
	if len(m.query) > 0 {
		query, _ := url.ParseQuery(strings.TrimPrefix(r.Query, "?")) // what cannot be parsed is not there
		for i := range m.query {
			c := &m.query[i]
			if !c.holds(query[c.Name]) {
				return false
			}
		}
	}
	if len(m.clients) == 0 {
		return true
	}
	addr, err := netip.ParseAddr(client)
	return err == nil && slices.ContainsFunc(m.clients, func(p netip.Prefix) bool { return p.Contains(addr.Unmap()) })
}
