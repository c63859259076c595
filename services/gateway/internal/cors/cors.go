// Package cors says to browsers which other origins may use the answers of a route (the CORS protocol of the Fetch
// standard, https://fetch.spec.whatwg.org/#http-cors-protocol).
//
// The library rs/cors is a handler around another handler: it sets its fields before the other handler runs, and a
// proxy then adds those of the origin server. So this package has the rules, and the edge says when they apply.
package cors

import (
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"bijou.dev/services/gateway/internal/fields"
	"bijou.dev/services/gateway/internal/message"
	"bijou.dev/services/gateway/internal/syntax"
)

// Options is what browsers may do.
type Options struct {
	// Origins lists who may use the answers: "https://app.example.org", "https://*.example.org" for all names below it,
	// or "*" for everybody. Required.
	Origins []string
	// Methods lists methods that may be used beside GET, HEAD and POST. "*": all. Empty: none.
	Methods []string
	// Headers lists header fields that requests may have. "*": all. Empty: only those that browsers always allow.
	Headers []string
	// Expose lists header fields of answers that programs may read. "*": all. Empty: only those that browsers always
	// allow.
	Expose []string
	// Credentials allows requests with cookies. False: browsers do not show the answers to such requests.
	Credentials bool
	// MaxAge is how long a browser may keep the answer to a preflight, up to 24 h. Zero: the browser decides.
	MaxAge time.Duration
}

// Problem is an error of Options.
type Problem struct {
	// Field is the name as in JSON: "origins[0]".
	Field string
	// Text says what is wrong.
	Text string
}

// Error returns both.
func (p *Problem) Error() string { return p.Field + " " + p.Text }

func problem(field, format string, args ...any) error {
	return &Problem{field, fmt.Sprintf(format, args...)}
}

// Policy is Options, ready for use.
type Policy struct {
	any         bool
	exact       []string
	below       []pattern
	anyMethod   bool
	anyHeader   bool
	credentials bool

	// Lines of the answers. Nil: the field is not sent.
	methods, headers, expose, maxAge []string
}

// pattern is an origin with a wildcard: all that begin with prefix, end with suffix, and have labels between.
type pattern struct{ prefix, suffix string }

// answerFields are the fields by which a server answers.
var answerFields = []string{
	"Access-Control-Allow-Origin", "Access-Control-Allow-Credentials", "Access-Control-Expose-Headers",
	"Access-Control-Allow-Methods", "Access-Control-Allow-Headers", "Access-Control-Max-Age",
}

// maxAge is the longest time that any browser uses (Firefox; Chromium uses two hours).
const maxAge = 24 * time.Hour

// New checks options and makes a policy. Its error is a *Problem.
func New(o Options) (*Policy, error) {
	p := &Policy{credentials: o.Credentials}
	if len(o.Origins) == 0 {
		return nil, problem("origins", "must have at least one origin")
	}
	for i, text := range o.Origins {
		if err := p.addOrigin(text); err != nil {
			return nil, problem(fmt.Sprintf("origins[%d]", i), "%v", err)
		}
	}
	if p.any && p.credentials {
		return nil, problem("credentials",
			"must be false when origins has *, because every site could act as the user; list the origins")
	}
	var err error
	if p.methods, p.anyMethod, err = list("methods", o.Methods); err != nil {
		return nil, err
	}
	if p.headers, p.anyHeader, err = list("headers", o.Headers); err != nil {
		return nil, err
	}
	var exposesAll bool
	if p.expose, exposesAll, err = list("expose", o.Expose); err != nil {
		return nil, err
	}
	if exposesAll && p.credentials {
		return nil, problem("expose", "must list names: with credentials, browsers take * for the name of a field")
	}
	if o.MaxAge != 0 && o.MaxAge < time.Second || o.MaxAge > maxAge {
		return nil, problem("maxAge", "must be from 1s to %v, is %v", maxAge, o.MaxAge)
	}
	if o.MaxAge > 0 {
		p.maxAge = []string{strconv.Itoa(int(o.MaxAge / time.Second))}
	}
	return p, nil
}

// list checks names and joins them to one line. Nil: there are none.
func list(field string, names []string) (line []string, hasAny bool, err error) {
	for i, name := range names {
		if !syntax.IsToken(name) {
			return nil, false, problem(fmt.Sprintf("%s[%d]", field, i), "must be a name or *, is %q", name)
		}
		hasAny = hasAny || name == "*"
	}
	switch {
	case hasAny:
		return []string{"*"}, true, nil
	case len(names) == 0:
		return nil, false, nil
	}
	return []string{strings.Join(names, ", ")}, false, nil
}

// addOrigin adds an origin in the form in which browsers send it: lower case, without the port that the scheme implies
// (RFC 6454, 6.1).
func (p *Policy) addOrigin(text string) error {
	if text == "*" {
		p.any = true
		return nil
	}
	if text == "null" {
		return errors.New("must not be null: every site can send a request with it; use * if everybody may use the answers")
	}
	text = strings.ToLower(text)
	scheme, host, ok := strings.Cut(text, "://")
	name, wildcard := strings.CutPrefix(host, "*.")
	if !ok || !isScheme(scheme) || !syntax.IsHost(name) || strings.Contains(name, "*") ||
		wildcard && !strings.Contains(syntax.HostName(name), ".") && syntax.HostName(name) != "localhost" {
		return fmt.Errorf(`must be *, an origin like "https://app.example.org", without a path, or "https://*.example.org", `+
			`is %q`, text)
	}
	switch scheme {
	case "http":
		name = strings.TrimSuffix(name, ":80")
	case "https":
		name = strings.TrimSuffix(name, ":443")
	}
	if wildcard {
		p.below = append(p.below, pattern{scheme + "://", "." + name})
	} else {
		p.exact = append(p.exact, scheme+"://"+name)
	}
	return nil
}

// isScheme reports whether s is a scheme of URLs in lower case (RFC 3986, 3.1).
func isScheme(s string) bool {
	for i := range len(s) {
		switch c := s[i]; {
		case 'a' <= c && c <= 'z':
		case i > 0 && ('0' <= c && c <= '9' || c == '+' || c == '-' || c == '.'):
		default:
			return false
		}
	}
	return s != ""
}

// Allows reports whether an origin, as a request has it, may use the answers.
func (p *Policy) Allows(origin string) bool {
	if p.any || slices.Contains(p.exact, origin) {
		return true
	}
	for _, b := range p.below {
		rest, ok1 := strings.CutPrefix(origin, b.prefix)
		labels, ok2 := strings.CutSuffix(rest, b.suffix)
		if ok1 && ok2 && areLabels(labels) {
			return true
		}
	}
	return false
}

// areLabels reports whether s is one or more labels of a host name, so that nothing else can stand before a suffix.
func areLabels(s string) bool {
	before := byte('.')
	for i := range len(s) {
		switch c := s[i]; {
		case 'a' <= c && c <= 'z', '0' <= c && c <= '9', c == '-', c == '_':
		case c == '.' && before != '.':
		default:
			return false
		}
		before = s[i]
	}
	return before != '.'
}

// IsPreflight reports whether a request asks whether another one would be allowed, and returns the method of that one.
func IsPreflight(r *message.Request) (method string, ok bool) {
	if r.Method != http.MethodOptions || r.Header.Count("Origin") != 1 ||
		r.Header.Count("Access-Control-Request-Method") != 1 {
		return "", false
	}
	method = r.Header.Get("Access-Control-Request-Method")
	return method, syntax.IsToken(method)
}

// Preflight sets the fields of the answer to a preflight. For an origin that is not allowed only Vary is set, and the
// browser refuses the request. Methods and header fields are listed, and the browser compares.
func (p *Policy) Preflight(h *message.Header, request message.Header) {
	fields.AddVary(h, "Origin")
	if p.anyMethod {
		fields.AddVary(h, "Access-Control-Request-Method")
	}
	if p.anyHeader {
		fields.AddVary(h, "Access-Control-Request-Headers")
	}
	if !p.allowOrigin(h, request) {
		return
	}
	// With credentials, browsers take * for the name of a method or a field, and * never covers Authorization. So what is
	// asked for is named.
	methods, headers := p.methods, p.headers
	if p.anyMethod {
		methods = lines(request, "Access-Control-Request-Method")
	}
	if p.anyHeader {
		headers = lines(request, "Access-Control-Request-Headers")
	}
	set(h, "Access-Control-Allow-Methods", methods)
	set(h, "Access-Control-Allow-Headers", headers)
	set(h, "Access-Control-Max-Age", p.maxAge)
}

// Answer sets the fields of the answer to any other request, in place of those that an origin server has set.
func (p *Policy) Answer(h *message.Header, request message.Header) {
	for _, name := range answerFields {
		h.Delete(name)
	}
	if !p.any {
		// also on answers to requests without Origin: a cache must not give them to another origin
		fields.AddVary(h, "Origin")
	}
	if p.allowOrigin(h, request) {
		set(h, "Access-Control-Expose-Headers", p.expose)
	}
}

// allowOrigin names the origin of the request if it is allowed, and reports whether it is. With "*" the field is the
// same on all answers, so that caches can use them for every origin.
func (p *Policy) allowOrigin(h *message.Header, request message.Header) bool {
	origin := request.Get("Origin")
	switch {
	case p.any:
		h.Set("Access-Control-Allow-Origin", "*")
		return true
	case request.Count("Origin") != 1 || !p.Allows(origin):
		return false
	}
	h.Set("Access-Control-Allow-Origin", origin)
	if p.credentials {
		h.Set("Access-Control-Allow-Credentials", "true")
	}
	return true
}

func lines(h message.Header, name string) []string { return slices.Collect(h.Values(name)) }

// set sets a field that has lines.
func set(h *message.Header, name string, lines []string) {
	for _, line := range lines {
		h.Add(name, line)
	}
}
