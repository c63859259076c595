package routes

import (
	"cmp"
	"crypto/x509"
	"hash/fnv"
	"maps"
	"math/rand/v2"
	"net/http"
	"regexp"
	"slices"
	"strings"
	"time"

	"bijou.dev/platform/overload"
	"bijou.dev/services/gateway/internal/auth"
	"bijou.dev/services/gateway/internal/compress"
	"bijou.dev/services/gateway/internal/cors"
	"bijou.dev/services/gateway/internal/message"
	"bijou.dev/services/gateway/internal/syntax"
	"bijou.dev/services/gateway/internal/upstream"
)

// Table is a compiled routing table. It does not change. The zero value routes nothing.
type Table struct {
	// Rules are the routes in the order in which they are tried.
	Rules []*Rule

	exact map[string][]*Rule // host -> its rules
	below []suffixRules      // "*.host", longest first
	any   []*Rule            // for any host

	// Upgrades: a rule lists the protocols to which its clients may switch.
	Upgrades bool

	lenient bool // a rule allows paths with more than one meaning
}

type suffixRules struct {
	suffix string // ".example.org"
	rules  []*Rule
}

// Rule is a route ready for use, with its defaults.
type Rule struct {
	Route
	// Number is its index in Table.Rules.
	Number int
	// Class is Criticality, parsed.
	Class overload.Criticality
	// HeaderTimeout and TotalTimeout are Timeout, parsed. Negative: those of the settings.
	HeaderTimeout, TotalTimeout time.Duration
	// Attempts is how often a request is sent at most.
	Attempts int
	// HedgeAfter is Hedge.After, parsed. Zero: there is none.
	HedgeAfter time.Duration
	// RedirectTo is Redirect.To, RewritePath is Rewrite.Path. Nil: there is none.
	RedirectTo, RewritePath *Template
	// Request and Response are the changes of Headers.
	Request, Response Changes
	// Origins is CORS, ready for use. Nil: there is none.
	Origins *cors.Policy
	// Compressed is Compress, ready for use. Nil: there is none.
	Compressed *compress.Policy
	// ClientCAs are those of ClientCert. Nil: there is none.
	ClientCAs []*x509.Certificate
	// Mirrored is the rule of copies of requests: it has the target of Mirror. Nil: there is none.
	Mirrored *Rule
	// Callers is Auth, ready for use. Nil: there is none.
	Callers *auth.Policy
	// HashBy is Hash.By, ready for use. The zero value: there is none.
	HashBy HashRule

	matcher matcher
	weights int // the sum over all targets
}

// Upstream returns what URL leads to, and its check.
func (t *Target) Upstream() (upstream.Target, upstream.Check, error) {
	url, err := upstream.Parse(t.URL)
	if err != nil {
		return url, upstream.Check{}, err
	}
	h := t.Health
	check := upstream.Check{
		Kind: upstream.CheckKind(h.Kind), Path: h.Path, Host: h.Host, Service: h.Service, Healthy: h.Healthy,
		Unhealthy: h.Unhealthy,
	}
	check.Interval, _ = time.ParseDuration(h.Interval) // validate has checked them
	check.Timeout, _ = time.ParseDuration(h.Timeout)
	check, err = check.Complete()
	return url, check, err
}

// CalledName is what metrics, circuits and spans call the target: the service, or the host and port of the URL with
// dashes, as in "10-0-0-5-3000".
func (t *Target) CalledName() string {
	if t.URL == "" {
		return t.Service
	}
	_, rest, _ := strings.Cut(t.URL, "://")
	name := strings.Map(func(c rune) rune {
		if 'a' <= c && c <= 'z' || '0' <= c && c <= '9' {
			return c
		}
		return '-'
	}, strings.ToLower(rest))
	name = strings.Trim(name, "-")
	return name[:min(len(name), 63)]
}

// Changes are the changes of Fields, ready for use. The zero value changes nothing.
type Changes struct {
	Remove   []string
	Set, Add []Change
}

// Any reports whether there are changes.
func (c *Changes) Any() bool { return len(c.Remove)+len(c.Set)+len(c.Add) > 0 }

// Change is a field with a template for its value.
type Change struct {
	Name  string
	Value *Template
}

// Compile checks routes and puts them in order: the host first (a name, then the longest suffix, then any), then the
// path (exact, then the longest prefix), then routes with a regular expression before those without, those with methods
// before those without, those with more conditions, and last the order of the list.
func Compile(routes Routes) (*Table, error) {
	if len(routes) > maxRoutes {
		return nil, refuse(maxRoutes, routes[maxRoutes].Name, bad("name", "is one more than the limit of %d routes",
			maxRoutes))
	}
	t := &Table{exact: map[string][]*Rule{}}
	places := map[*Rule]int{}
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
		t.Rules = append(t.Rules, u)
		t.lenient = t.lenient || u.Path != PathRefuse
		t.Upgrades = t.Upgrades || len(u.Upgrade) > 0
	}
	slices.SortStableFunc(t.Rules, compare)
	for i, b := range t.Rules {
		for _, a := range t.Rules[:i] {
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
	for i, u := range t.Rules {
		u.Number = i
	}
	t.index()
	for _, u := range t.Rules {
		if v := t.checkCallbacks(u); v != nil {
			return nil, refuse(places[u], u.Name, v)
		}
	}
	return t, nil
}

// clone makes a copy, so that validate does not change the routes of the caller.
func clone(r Route) Route {
	r.To = slices.Clone(r.To)
	if r.Mirror != nil {
		m := *r.Mirror
		r.Mirror = &m
	}
	return r
}

func newRule(r Route) *Rule {
	u := &Rule{Route: r, HeaderTimeout: -1, TotalTimeout: -1, Attempts: cmp.Or(r.Retry.Attempts, 3)}
	u.Class, _ = overload.Parse(r.Criticality) // validate has checked it
	if d, err := time.ParseDuration(r.Timeout.Header); err == nil {
		u.HeaderTimeout = d
	}
	if d, err := time.ParseDuration(r.Timeout.Total); err == nil {
		u.TotalTimeout = d
	}
	u.matcher = newMatcher(&r.Match)
	var groups []string
	if u.matcher.path != nil {
		groups = u.matcher.path.SubexpNames()
	}
	if r.Redirect != nil {
		u.RedirectTo = mustTemplate(r.Redirect.To, groups)
	}
	if r.Rewrite.Path != "" {
		u.RewritePath = mustTemplate(r.Rewrite.Path, groups)
	}
	u.Request, u.Response = newChanges(r.Headers.Request, groups), newChanges(r.Headers.Response, groups)
	u.Origins, _ = r.CORS.policy(r.GRPCWeb) // validate has checked it
	u.Compressed = r.Compress.policy()
	u.Callers = r.Auth.policy()
	u.HashBy = r.Hash.rule()
	if r.Hedge != nil {
		u.HedgeAfter, _ = time.ParseDuration(r.Hedge.After) // validate has checked it
	}
	if r.ClientCert != nil {
		u.ClientCAs, _ = r.ClientCert.authorities() // validate has checked them
	}
	if len(r.Retry.Methods) == 0 {
		u.Retry.Methods = []string{
			http.MethodGet, http.MethodHead, http.MethodOptions, http.MethodPut,
			http.MethodDelete,
		}
	}
	for _, to := range r.To {
		u.weights += to.Weight
	}
	if r.Mirror != nil {
		u.Mirrored = newRule(r.mirrored())
		u.Mirrored.Request.Set = append(u.Mirrored.Request.Set, Change{MirrorHeader, mustTemplate(r.Name, nil)})
	}
	return u
}

// MirrorHeader says to the target of a mirror that a request is a copy, and of which route.
const MirrorHeader = "X-Bijou-Mirror"

// mirrored returns the route of copies of requests. Their circuit is another one, and they are the first to be shed.
func (r *Route) mirrored() Route {
	const suffix = ":mirror"
	return Route{
		Name: r.Name[:min(len(r.Name), 128-len(suffix))] + suffix, Match: r.Match, To: []Target{r.Mirror.To},
		Path: r.Path, Rewrite: r.Rewrite, Headers: Headers{Request: r.Headers.Request}, Retry: Retry{Attempts: 1},
		Criticality: "SHEDDABLE",
	}
}

func newMatcher(m *Match) matcher {
	out := matcher{path: wholly(m.Regexp)}
	for _, list := range []struct {
		from []Condition
		to   *[]condition
	}{{m.Headers, &out.headers}, {m.Query, &out.query}, {m.Cookies, &out.cookies}} {
		for _, c := range list.from {
			*list.to = append(*list.to, condition{c, wholly(c.Regexp)})
		}
	}
	for i := range out.headers {
		out.headers[i].Name = syntax.Canonical(out.headers[i].Name)
	}
	for _, text := range m.Clients {
		network, _ := syntax.ParseNetwork(text) // validate has checked it
		out.clients = append(out.clients, network)
	}
	return out
}

// anchored is an expression that matches only a whole text.
func anchored(expression string) string { return "^(?:" + expression + ")$" }

// wholly compiles an expression that must match a whole text. Nil: it is empty.
func wholly(expression string) *regexp.Regexp {
	if expression == "" {
		return nil
	}
	return regexp.MustCompile(anchored(expression)) // validate has compiled it
}

// mustTemplate is parseTemplate for a text that validate has checked.
func mustTemplate(text string, groups []string) *Template {
	t, err := parseTemplate(text, groups)
	if err != nil {
		panic(err)
	}
	return t
}

func newChanges(f Fields, groups []string) (c Changes) {
	for _, name := range f.Remove {
		c.Remove = append(c.Remove, syntax.Canonical(name))
	}
	for _, list := range []struct {
		from map[string]string
		to   *[]Change
	}{{f.Set, &c.Set}, {f.Add, &c.Add}} {
		for _, name := range slices.Sorted(maps.Keys(list.from)) {
			*list.to = append(*list.to, Change{syntax.Canonical(name), mustTemplate(list.from[name], groups)})
		}
	}
	return c
}

// index groups the rules, which are in order, by host.
func (t *Table) index() {
	for _, u := range t.Rules {
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
			t.below = append(t.below, suffixRules{host[1:], []*Rule{u}})
		}
	}
}

// compare orders a before b when it is more specific.
func compare(a, b *Rule) int {
	return cmp.Or(
		cmp.Compare(b.hostRank(), a.hostRank()),
		cmp.Compare(a.Match.Host, b.Match.Host), // keeps those of one host together
		cmp.Compare(len(b.Match.Path), len(a.Match.Path)),
		cmp.Compare(len(b.Match.Prefix), len(a.Match.Prefix)),
		cmp.Compare(min(1, len(b.Match.Regexp)), min(1, len(a.Match.Regexp))),
		cmp.Compare(min(1, len(b.Match.Methods)), min(1, len(a.Match.Methods))),
		cmp.Compare(b.matcher.conditions(), a.matcher.conditions()),
	)
}

// hostRank is above all for names, then grows with the length of a suffix.
func (u *Rule) hostRank() int {
	switch host := u.Match.Host; {
	case host == "":
		return 0
	case host[0] == '*':
		return len(host)
	}
	return 1 << 10
}

// covers reports whether u matches everything that v matches.
func (u *Rule) covers(v *Rule) bool {
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
	if m := u.matcher.path; m != nil && u.Match.Regexp != v.Match.Regexp &&
		(v.Match.Path == "" || !m.MatchString(v.Match.Path)) {
		return false
	}
	return u.matcher.covers(&v.matcher)
}

// find returns the rule for a request, or nil. The host is in lower case without port, the path is without escapes.
func (t *Table) find(host, path string, r *message.Request, client string) *Rule {
	if u := first(t.exact[host], path, r, client); u != nil {
		return u
	}
	for _, s := range t.below {
		if strings.HasSuffix(host, s.suffix) {
			if u := first(s.rules, path, r, client); u != nil {
				return u
			}
		}
	}
	return first(t.any, path, r, client)
}

func first(rules []*Rule, path string, r *message.Request, client string) *Rule {
	for _, u := range rules {
		if u.matches(path, r, client) {
			return u
		}
	}
	return nil
}

func (u *Rule) matches(path string, r *message.Request, client string) bool {
	m := &u.Match
	if m.Path != "" && m.Path != path || m.Path == "" && !hasPrefix(path, m.Prefix) {
		return false
	}
	if len(m.Methods) > 0 && !slices.Contains(m.Methods, r.Method) {
		return false
	}
	if p := u.matcher.path; p != nil && !p.MatchString(path) {
		return false
	}
	return u.matcher.holds(r, client)
}

// Groups returns the groups of Match.Regexp for a path as it came. Nil: there is no expression.
func (u *Rule) Groups(path string) []string {
	if u.matcher.path == nil {
		return nil
	}
	return u.matcher.path.FindStringSubmatch(unescapeBut(path, ""))
}

// hasPrefix reports whether path begins with the whole segments of prefix.
func hasPrefix(path, prefix string) bool {
	if !strings.HasPrefix(path, prefix) {
		return false
	}
	return len(path) == len(prefix) || prefix[len(prefix)-1] == '/' || path[len(prefix)] == '/'
}

// Pick draws a target by weight and returns its index in To. A sticky value always draws the same one.
func (u *Rule) Pick(sticky string) int {
	if len(u.To) == 1 {
		return 0
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
	for i := range u.To {
		if n -= u.To[i].Weight; n < 0 {
			return i
		}
	}
	return 0
}

// WebSocket is the name of the protocol in Upgrade.
const WebSocket = "websocket"

// UpgradesTo reports whether clients of the route may switch to a protocol.
func (u *Rule) UpgradesTo(protocol string) bool {
	if u.Upgrade == nil {
		return protocol == WebSocket
	}
	return slices.ContainsFunc(u.Upgrade, func(p string) bool { return strings.EqualFold(p, protocol) })
}

// Repeats reports whether the route allows to send a request with this method twice.
func (u *Rule) Repeats(method string) bool { return slices.Contains(u.Retry.Methods, method) }
