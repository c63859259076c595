package gateway

import (
	"cmp"
	"hash/fnv"
	"math/rand/v2"
	"net/http"
	"slices"
	"strings"
	"time"

	"bijou.dev/platform/overload"

	"github.com/prometheus/client_golang/prometheus"
)

// table is a compiled routing table. It is never changed once requests can see it.
type table struct {
	rules []*rule            // in the order they are tried
	exact map[string][]*rule // host -> its rules
	below []suffixRules      // "*.host", longest first
	any   []*rule            // for any host

	lenient bool // a rule allows paths with more than one meaning
}

type suffixRules struct {
	suffix string // ".example.org"
	rules  []*rule
}

// rule is a route ready for use.
type rule struct {
	Route
	criticality   overload.Criticality
	header, total time.Duration // -1: those of the settings
	attempts      int
	targets       []*target
	weights       int // their sum

	seconds prometheus.Observer
}

// target is a Target with its origin.
type target struct {
	Target
	origin *origin
}

// compile checks routes and puts them in order: the host first (a name, then the longest suffix, then any), then the
// path (exact, then the longest prefix), then routes with methods before those without, then those with more headers,
// and last the order of the list.
func compile(routes Routes) (*table, error) {
	if len(routes) > maxRoutes {
		return nil, refuse(maxRoutes, routes[maxRoutes].Name, bad("name", "is one more than the limit of %d routes",
			maxRoutes))
	}
	t := &table{exact: map[string][]*rule{}}
	places := map[*rule]int{}
	names := map[string]bool{}
	for i, r := range routes {
		r = clone(r)
		if v := r.validate(); v != nil {
			return nil, refuse(i, r.Name, v)
		}
		if names[r.Name] {
			return nil, refuse(i, r.Name, bad("name", "is used twice"))
		}
		names[r.Name] = true
		u := newRule(r)
		places[u] = i
		t.rules = append(t.rules, u)
		t.lenient = t.lenient || u.Path != PathRefuse
	}
	slices.SortStableFunc(t.rules, compare)
	for i, b := range t.rules {
		for _, a := range t.rules[:i] {
			if !a.covers(b) {
				continue
			}
			if b.covers(a) {
				return nil, refuse(places[b], b.Name, bad("match", "is the same as that of route %q", a.Name))
			}
			return nil, refuse(places[b], b.Name,
				bad("match", "can never be reached: route %q takes all of its requests first", a.Name))
		}
	}
	t.index()
	return t, nil
}

// clone makes a copy, so that validate does not change the routes of the caller.
func clone(r Route) Route {
	r.To = slices.Clone(r.To)
	r.Match.Headers = slices.Clone(r.Match.Headers)
	return r
}

func newRule(r Route) *rule {
	u := &rule{Route: r, header: -1, total: -1, attempts: cmp.Or(r.Retry.Attempts, 3)}
	u.criticality, _ = overload.Parse(r.Criticality) // validate has checked it
	if d, err := time.ParseDuration(r.Timeout.Header); err == nil {
		u.header = d
	}
	if d, err := time.ParseDuration(r.Timeout.Total); err == nil {
		u.total = d
	}
	for i := range u.Match.Headers {
		u.Match.Headers[i].Name = canonical(u.Match.Headers[i].Name)
	}
	if len(r.Retry.Methods) == 0 {
		u.Retry.Methods = []string{
			http.MethodGet, http.MethodHead, http.MethodOptions, http.MethodPut,
			http.MethodDelete,
		}
	}
	for _, to := range r.To {
		u.targets = append(u.targets, &target{Target: to})
		u.weights += to.Weight
	}
	return u
}

// index groups the rules, which are in order, by host.
func (t *table) index() {
	for _, u := range t.rules {
		host := u.Match.Host
		switch {
		case host == "":
			t.any = append(t.any, u)
		case host[0] != '*':
			t.exact[host] = append(t.exact[host], u)
		case len(t.below) > 0 && t.below[len(t.below)-1].suffix == host[1:]:
			last := &t.below[len(t.below)-1]
			last.rules = append(last.rules, u)
		default:
			t.below = append(t.below, suffixRules{host[1:], []*rule{u}})
		}
	}
}

// compare orders a before b when it is more specific.
func compare(a, b *rule) int {
	return cmp.Or(
		cmp.Compare(b.hostRank(), a.hostRank()),
		cmp.Compare(a.Match.Host, b.Match.Host), // keeps those of one host together
		cmp.Compare(len(b.Match.Path), len(a.Match.Path)),
		cmp.Compare(len(b.Match.Prefix), len(a.Match.Prefix)),
		cmp.Compare(min(1, len(b.Match.Methods)), min(1, len(a.Match.Methods))),
		cmp.Compare(len(b.Match.Headers), len(a.Match.Headers)),
	)
}

// hostRank is above all for names, then grows with the length of a suffix.
func (u *rule) hostRank() int {
	switch host := u.Match.Host; {
	case host == "":
		return 0
	case host[0] == '*':
		return len(host)
	}
	return 1 << 10
}

// covers reports whether u matches everything that v matches.
func (u *rule) covers(v *rule) bool {
	switch m := u.Match.Host; {
	case m == "", m == v.Match.Host:
	case m[0] == '*' && strings.HasSuffix(v.Match.Host, m[1:]):
	default:
		return false
	}
	if u.Match.Path != "" && u.Match.Path != v.Match.Path {
		return false
	}
	if u.Match.Path == "" && !hasPrefix(v.Match.Path+v.Match.Prefix, u.Match.Prefix) {
		return false
	}
	if len(u.Match.Methods) > 0 {
		if len(v.Match.Methods) == 0 || slices.ContainsFunc(v.Match.Methods,
			func(m string) bool { return !slices.Contains(u.Match.Methods, m) }) {
			return false
		}
	}
	for _, h := range u.Match.Headers {
		if !slices.ContainsFunc(v.Match.Headers, func(o HeaderMatch) bool {
			return o.Name == h.Name &&
				(h.Value == "" || h.Value == o.Value)
		}) {
			return false
		}
	}
	return true
}

// find returns the rule for a request, or nil. The host is in lower case without port, the path is clean and without
// escapes.
func (t *table) find(host, path, method string, header http.Header) *rule {
	if u := first(t.exact[host], path, method, header); u != nil {
		return u
	}
	for _, s := range t.below {
		if strings.HasSuffix(host, s.suffix) {
			if u := first(s.rules, path, method, header); u != nil {
				return u
			}
		}
	}
	return first(t.any, path, method, header)
}

func first(rules []*rule, path, method string, header http.Header) *rule {
	for _, u := range rules {
		if u.matches(path, method, header) {
			return u
		}
	}
	return nil
}

func (u *rule) matches(path, method string, header http.Header) bool {
	m := &u.Match
	if m.Path != "" && m.Path != path || m.Path == "" && !hasPrefix(path, m.Prefix) {
		return false
	}
	if len(m.Methods) > 0 && !slices.Contains(m.Methods, method) {
		return false
	}
	for _, h := range m.Headers {
		if lines, ok := header[h.Name]; !ok || h.Value != "" && !slices.Contains(lines, h.Value) {
			return false
		}
	}
	return true
}

// hasPrefix reports whether path begins with the whole segments of prefix.
func hasPrefix(path, prefix string) bool {
	if !strings.HasPrefix(path, prefix) {
		return false
	}
	return len(path) == len(prefix) || prefix[len(prefix)-1] == '/' || path[len(prefix)] == '/'
}

// pick draws a target by weight. A sticky value always draws the same one.
func (u *rule) pick(sticky string) *target {
	if len(u.targets) == 1 {
		return u.targets[0]
	}
	var n int
	if sticky != "" {
		h := fnv.New64a()
		_, _ = h.Write([]byte(u.Name))
		_, _ = h.Write([]byte(sticky))
		n = int(h.Sum64() % uint64(u.weights))
	} else {
		n = rand.IntN(u.weights)
	}
	for _, t := range u.targets {
		if n -= t.Weight; n < 0 {
			return t
		}
	}
	return u.targets[0]
}

// repeats reports whether the route allows to send a request with this method twice.
func (u *rule) repeats(method string) bool { return slices.Contains(u.Retry.Methods, method) }
