package routes

import (
	"bytes"
	"cmp"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"regexp"
	"slices"
	"strings"
	"time"

	"bijou.dev/platform/errs"
	"bijou.dev/platform/names"
	"bijou.dev/platform/overload"
	"bijou.dev/services/gateway/internal/compress"
	"bijou.dev/services/gateway/internal/cors"
	"bijou.dev/services/gateway/internal/fields"
	"bijou.dev/services/gateway/internal/grpcweb"
	"bijou.dev/services/gateway/internal/syntax"
	"bijou.dev/services/gateway/internal/upstream"
)

// Bounds of a table.
const (
	maxRoutes   = 1000
	maxTargets  = 16
	maxWeight   = 1_000_000
	maxAttempts = 10
)

// validate checks one route by itself and fills defaults.
func (r *Route) validate() *violation {
	if err := names.ID.Check(r.Name); err != nil {
		return bad("name", "%v", err)
	}
	for _, check := range []func() *violation{
		r.validateMatch, r.validateKind, r.validateTargets, r.validateRewrite, r.validateHeaders, r.validateRetry,
		r.validateCORS, r.validateCompress, r.validateClientCert, r.validateAuth, r.validateLimits,
		r.validateAccessLog, r.validateUpgrade, r.validateMirror, r.validateHash,
		r.validateHedge,
	} {
		if v := check(); v != nil {
			return v
		}
	}
	if _, err := overload.Parse(r.Criticality); err != nil {
		return bad("criticality", "%v", err)
	}
	switch r.Path {
	case "":
		r.Path = PathRefuse
	case PathRefuse, PathNormalize, PathRaw:
	default:
		return bad("path", "must be refuse, normalize or raw, is %q", r.Path)
	}
	if r.Sticky != "" && !syntax.IsToken(r.Sticky) {
		return bad("sticky", "must be the name of a cookie")
	}
	return nil
}

type violation struct{ field, problem string }

func bad(field, format string, args ...any) *violation {
	return &violation{field, fmt.Sprintf(format, args...)}
}

func (r *Route) validateMatch() *violation {
	m := &r.Match
	if m.Host != "" {
		m.Host = strings.ToLower(m.Host)
		if !syntax.IsHostPattern(m.Host) {
			return bad("match.host", `must be a host name without port, or "*." and a host name, is %q`, m.Host)
		}
	}
	if m.Path != "" && m.Prefix != "" {
		return bad("match.prefix", "must be empty when match.path is set")
	}
	if m.Path == "" && m.Prefix == "" {
		m.Prefix = "/"
	}
	if p := m.Path + m.Prefix; checkPath(p) != nil || strings.ContainsAny(p, "%?#") {
		return bad("match", "path %q must begin with / and hold no query, no escapes, no empty and no dot segments", p)
	}
	for i, method := range m.Methods {
		if !syntax.IsToken(method) {
			return bad(fmt.Sprintf("match.methods[%d]", i), "must be a method, is %q", method)
		}
	}
	if v := m.validateConditions(); v != nil {
		return v
	}
	for i, text := range m.Clients {
		if _, err := syntax.ParseNetwork(text); err != nil {
			return bad(fmt.Sprintf("match.clients[%d]", i), "%v", err)
		}
	}
	return checkRegexp("match.regexp", m.Regexp)
}

func (m *Match) validateConditions() *violation {
	for _, list := range []struct {
		name string
		list []Condition
	}{{"headers", m.Headers}, {"query", m.Query}, {"cookies", m.Cookies}} {
		for i, c := range list.list {
			field := fmt.Sprintf("match.%s[%d]", list.name, i)
			if c.Value != "" && c.Regexp != "" {
				return bad(field+".regexp", "must be empty when value is set")
			}
			if v := checkRegexp(field+".regexp", c.Regexp); v != nil {
				return v
			}
			switch name := syntax.Canonical(c.Name); {
			case list.name == "query":
				if c.Name == "" {
					return bad(field+".name", "must not be empty")
				}
			case !syntax.IsToken(c.Name):
				return bad(field+".name", "must be a name of letters, digits and dashes, is %q", c.Name)
			case list.name == "headers" && (name == "Host" || fields.Stripped(name)):
				return bad(field+".name", "%s is taken off requests before they are matched; for the host use match.host", name)
			}
		}
	}
	return nil
}

const maxRegexp = 512 // bytes

// checkRegexp refuses what cannot be compiled or is very long. Expressions of RE2 take time in proportion to the text.
func checkRegexp(field, expression string) *violation {
	if len(expression) > maxRegexp {
		return bad(field, "must have at most %d bytes, has %d", maxRegexp, len(expression))
	}
	if _, err := regexp.Compile(anchored(expression)); err != nil {
		return bad(field, "must be a regular expression of RE2, is %q: %v", expression, err)
	}
	return nil
}

// validateKind checks that there is one answer to requests, and those that the edge gives itself.
func (r *Route) validateKind() *violation {
	kinds := 0
	for _, has := range []bool{len(r.To) > 0, r.Redirect != nil, r.Respond != nil, r.Files != nil} {
		if has {
			kinds++
		}
	}
	if kinds != 1 {
		return bad("to", "must be set, or one of redirect, respond and files instead")
	}
	if r.GRPCWeb && len(r.To) == 0 {
		return bad("grpcWeb", "must be false without targets: only an origin answers calls")
	}
	if r.Path == PathRaw && len(r.To) == 0 {
		return bad("path", "must not be raw without targets: only an origin reads such paths")
	}
	switch {
	case r.Redirect != nil:
		return r.validateRedirect()
	case r.Respond != nil:
		return r.Respond.validate()
	case r.Files != nil:
		return r.Files.validate()
	}
	return nil
}

func (r *Route) validateRedirect() *violation {
	if v := r.checkTemplate("redirect.to", r.Redirect.To); v != nil {
		return v
	}
	if to := r.Redirect.To; !strings.HasPrefix(to, "http://") && !strings.HasPrefix(to, "https://") &&
		!strings.HasPrefix(to, "{scheme}://") && (!strings.HasPrefix(to, "/") || strings.HasPrefix(to, "//")) {
		return bad("redirect.to", "must begin with http://, https://, {scheme}:// or one slash, is %q", to)
	}
	switch r.Redirect.Status {
	case 0, 301, 302, 303, 307, 308:
		return nil
	}
	return bad("redirect.status", "must be 301, 302, 303, 307 or 308, is %d", r.Redirect.Status)
}

const maxRespond = 64 << 10 // bytes

func (f *Respond) validate() *violation {
	switch {
	case f.Status != 0 && (f.Status < 200 || f.Status > 599):
		return bad("respond.status", "must be 200 to 599, is %d", f.Status)
	case !isFieldValue(f.Type):
		return bad("respond.type", "must be a media type without control characters, is %q", f.Type)
	case len(f.Body) > maxRespond:
		return bad("respond.body", "must have at most %d bytes, has %d", maxRespond, len(f.Body))
	case f.Body != "" && (f.Status == 204 || f.Status == 205 || f.Status == 304):
		return bad("respond.body", "must be empty: an answer with status %d has none", f.Status)
	}
	return nil
}

func (f *Files) validate() *violation {
	if f.Dir == "" || strings.Contains(f.Dir, "\x00") {
		return bad("files.dir", "must be a folder")
	}
	for field, name := range map[string]string{"files.index": f.Index, "files.fallback": f.Fallback} {
		if name != "" && !fs.ValidPath(name) {
			return bad(field, "must be a name below the folder, without a slash before it, is %q", name)
		}
	}
	return nil
}

// checkTemplate checks a template that may use the groups of match.regexp.
func (r *Route) checkTemplate(field, text string) *violation {
	groups := regexp.MustCompile(r.Match.Regexp).SubexpNames() // validateMatch has compiled it
	if _, err := parseTemplate(text, groups); err != nil {
		return bad(field, "%v", err)
	}
	if !isFieldValue(text) {
		return bad(field, "must not have control characters, is %q", text)
	}
	return nil
}

func isFieldValue(text string) bool {
	return !strings.ContainsFunc(text, func(c rune) bool { return c < ' ' && c != '\t' || c == 0x7f })
}

// validateHeaders checks the changes of header fields.
func (r *Route) validateHeaders() *violation {
	for _, side := range []struct {
		name string
		f    Fields
	}{{"request", r.Headers.Request}, {"response", r.Headers.Response}} {
		for i, name := range side.f.Remove {
			if v := checkField(fmt.Sprintf("headers.%s.remove[%d]", side.name, i), name); v != nil {
				return v
			}
		}
		for kind, list := range map[string]map[string]string{"set": side.f.Set, "add": side.f.Add} {
			seen := map[string]bool{}
			for name, value := range list {
				field := fmt.Sprintf("headers.%s.%s[%q]", side.name, kind, name)
				if v := cmp.Or(checkField(field, name), r.checkTemplate(field, value)); v != nil {
					return v
				}
				if name = syntax.Canonical(name); seen[name] {
					return bad(field, "is there twice: case does not matter")
				}
				seen[name] = true
			}
		}
	}
	return nil
}

// checkField refuses names that are not fields, or that only the platform or the protocol may set.
func checkField(field, name string) *violation {
	if !syntax.IsToken(name) {
		return bad(field, "must be the name of a header field, is %q", name)
	}
	switch name = syntax.Canonical(name); {
	case fields.HopByHop(name) || fields.Stripped(name) || fields.Traced(name) || name == "X-Request-Id" || name == "Via":
		return bad(field, "%s is set by the edge and cannot be changed", name)
	}
	return nil
}

func (r *Route) validateTargets() *violation {
	if len(r.To) > maxTargets {
		return bad("to", "must have 1 to %d targets, has %d", maxTargets, len(r.To))
	}
	sum := 0
	seen := map[Target]bool{}
	for i := range r.To {
		t, field := &r.To[i], fmt.Sprintf("to[%d].", i)
		if v := t.validate(); v != nil {
			return bad(field+v.field, "%s", v.problem)
		}
		switch {
		case t.Weight < 0 || t.Weight > maxWeight:
			return bad(field+"weight", "must be 0 to %d, is %d", maxWeight, t.Weight)
		}
		key := *t
		key.Weight = 0
		if seen[key] {
			return bad(field+"service", "%s is in the list twice; add up the weights", cmp.Or(t.URL, t.Service))
		}
		seen[key] = true
		sum += t.Weight
	}
	if sum == 0 && len(r.To) > 1 {
		return bad("to", "must have weights: with several targets at least one must be above 0")
	}
	return nil
}

func (t *Target) validate() *violation {
	if t.URL != "" {
		return t.validateURL()
	}
	return t.validateService()
}

const (
	minHedge = time.Millisecond
	maxHedge = time.Minute
)

func (r *Route) validateHedge() *violation {
	if r.Hedge == nil {
		return nil
	}
	after, err := time.ParseDuration(r.Hedge.After)
	switch {
	case len(r.To) == 0:
		return bad("hedge", "must be empty without targets")
	case err != nil || after < minHedge || after > maxHedge:
		return bad("hedge.after", `must be a duration like "200ms" from 1ms to 1m, is %q`, r.Hedge.After)
	case r.Retry.Attempts == 1:
		return bad("hedge", "must be empty with retry.attempts 1: a hedge is a second attempt")
	}
	return nil
}

// Bounds of a mirror.
const (
	maxMirrors    = 1000
	maxMirrorBody = 1 << 20
)

func (r *Route) validateMirror() *violation {
	m := r.Mirror
	if m == nil {
		return nil
	}
	if v := m.To.validate(); v != nil {
		return bad("mirror.to."+v.field, "%s", v.problem)
	}
	switch {
	case len(r.To) == 0:
		return bad("mirror", "must be empty without targets")
	case m.To.Weight != 0:
		return bad("mirror.to.weight", "must be 0: a mirror has one target; use share")
	case m.Share < 0 || m.Share > 1:
		return bad("mirror.share", "must be above 0 and at most 1, is %v", m.Share)
	case m.Concurrency < 0 || m.Concurrency > maxMirrors:
		return bad("mirror.concurrency", "must be 1 to %d, is %d", maxMirrors, m.Concurrency)
	case m.MaxBody < 0 || m.MaxBody > maxMirrorBody:
		return bad("mirror.maxBody", "must be 1 to %d, is %d", maxMirrorBody, m.MaxBody)
	}
	return nil
}

func (t *Target) validateService() *violation {
	if t.Endpoint == "" {
		t.Endpoint = "http"
	}
	if err := names.Service.Check(t.Service); err != nil {
		return bad("service", "%v; or set url", err)
	}
	if err := names.Service.Check(t.Endpoint); err != nil {
		return bad("endpoint", "%v", err)
	}
	if err := names.ID.Check(t.Version); t.Version != "" && err != nil {
		return bad("version", "%v", err)
	}
	switch {
	case t.Endpoint == "admin":
		return bad("endpoint", "must not be admin: admin pages are not served by the edge")
	case t.Health != Health{}:
		return bad("health", "must be empty: services report their health to the registry")
	}
	return nil
}

func (t *Target) validateURL() *violation {
	if t.Service+t.Endpoint+t.Version != "" {
		return bad("url", "must be empty when service, endpoint or version is set")
	}
	url, err := upstream.Parse(t.URL)
	if err != nil {
		return bad("url", "%v", err)
	}
	t.URL = url.String()
	for _, d := range []struct{ field, text string }{
		{"health.interval", t.Health.Interval}, {"health.timeout", t.Health.Timeout},
	} {
		if _, err := time.ParseDuration(cmp.Or(d.text, "1s")); err != nil {
			return bad(d.field, `must be a duration like "5s", is %q`, d.text)
		}
	}
	if _, _, err := t.Upstream(); err != nil {
		return bad("health", "%v", err)
	}
	return nil
}

func (r *Route) validateRewrite() *violation {
	if p := r.Rewrite.Prefix; p != "" {
		if r.Match.Path != "" {
			return bad("rewrite.prefix", "needs match.prefix")
		}
		if checkPath(p) != nil || strings.ContainsAny(p, "%?#") {
			return bad("rewrite.prefix",
				"must begin with / and hold no query, no escapes, no empty and no dot segments, is %q", p)
		}
	}
	if p := r.Rewrite.Path; p != "" {
		switch {
		case r.Rewrite.Prefix != "":
			return bad("rewrite.path", "must be empty when rewrite.prefix is set")
		case r.Path == PathRaw:
			return bad("rewrite.path", "must be empty when path is raw; use rewrite.prefix")
		case p[0] != '/' || strings.ContainsAny(p, "?#"):
			return bad("rewrite.path", "must begin with a slash and have no query, is %q", p)
		}
		if v := r.checkTemplate("rewrite.path", p); v != nil {
			return v
		}
	}
	if h := r.Rewrite.Host; h != "" && !syntax.IsHost(h) {
		return bad("rewrite.host", "must be a host name, with or without a port, is %q", h)
	}
	return nil
}

func (r *Route) validateRetry() *violation {
	if n := r.Retry.Attempts; n < 0 || n > maxAttempts {
		return bad("retry.attempts", "must be 1 to %d, is %d", maxAttempts, n)
	}
	for i, method := range r.Retry.Methods {
		if !syntax.IsToken(method) {
			return bad(fmt.Sprintf("retry.methods[%d]", i), "must be a method, is %q", method)
		}
	}
	for _, t := range []struct {
		field, text string
		least       time.Duration
	}{{"timeout.header", r.Timeout.Header, time.Millisecond}, {"timeout.total", r.Timeout.Total, 0}} {
		if t.text == "" {
			continue
		}
		if d, err := time.ParseDuration(t.text); err != nil || d < t.least || d > 24*time.Hour {
			return bad(t.field, `must be a duration like "1m30s" from %v to 24h, is %q`, t.least, t.text)
		}
	}
	return nil
}

func (r *Route) validateCORS() *violation {
	_, err := r.CORS.policy(r.GRPCWeb)
	if p, ok := errors.AsType[*cors.Problem](err); ok {
		return bad("cors."+p.Field, "%s", p.Text)
	}
	return nil
}

func (r *Route) validateCompress() *violation {
	c := r.Compress
	switch {
	case c == nil:
		return nil
	case len(c.Types) == 0:
		return bad("compress.types", "must have at least one media type")
	case c.MinBytes < 0:
		return bad("compress.minBytes", "must not be negative, is %d", c.MinBytes)
	}
	for i, text := range c.Types {
		kind, sub, _ := strings.Cut(text, "/")
		if !syntax.IsToken(kind) || !syntax.IsToken(sub) || strings.Contains(text, "*") {
			return bad(fmt.Sprintf("compress.types[%d]", i), `must be a media type like "text/html", is %q`, text)
		}
	}
	return nil
}

func (r *Route) validateClientCert() *violation {
	if r.ClientCert == nil {
		return nil
	}
	if _, err := r.ClientCert.authorities(); err != nil {
		return bad("clientCert.ca", "must be certificates of authorities in PEM: %v", err)
	}
	return nil
}

// maxUpgrades is how many protocols a route may have.
const maxUpgrades = 8

// validateUpgrade refuses also what is HTTP: behind an upgrade to it, requests would pass the edge unseen.
func (r *Route) validateUpgrade() *violation {
	if len(r.Upgrade) > maxUpgrades {
		return bad("upgrade", "must have at most %d protocols, has %d", maxUpgrades, len(r.Upgrade))
	}
	for i, protocol := range r.Upgrade {
		name, version, versioned := strings.Cut(protocol, "/")
		field := fmt.Sprintf("upgrade[%d]", i)
		switch {
		case len(protocol) > 64 || !syntax.IsToken(name) || versioned && !syntax.IsToken(version):
			return bad(field, `must be a protocol like "websocket" or "SPDY/3.1", is %.100q`, protocol)
		case slices.Contains([]string{"http", "h2", "h2c", "tls"}, strings.ToLower(name)):
			return bad(field, "must not be %s: the edge could not see the requests in it", protocol)
		}
	}
	return nil
}

func (r *Route) validateAccessLog() *violation {
	l := r.AccessLog
	if l == nil {
		return nil
	}
	switch l.Mode {
	case "", "all", "errors", "off":
	default:
		return bad("accessLog.mode", "must be all, errors or off, is %q", l.Mode)
	}
	if l.Share < 0 || l.Share > 1 {
		return bad("accessLog.share", "must be above 0 and at most 1, is %v", l.Share)
	}
	return nil
}

// policy returns what Compress says, with its defaults. Nil: it is nil.
func (c *Compress) policy() *compress.Policy {
	if c == nil {
		return nil
	}
	p := &compress.Policy{MinBytes: cmp.Or(c.MinBytes, 1024)}
	for _, text := range c.Types {
		p.Types = append(p.Types, strings.ToLower(text))
	}
	return p
}

// authorities parses CA.
func (c *ClientCert) authorities() ([]*x509.Certificate, error) {
	var list []*x509.Certificate
	rest := []byte(c.CA)
	for len(bytes.TrimSpace(rest)) > 0 {
		var block *pem.Block
		if block, rest = pem.Decode(rest); block == nil {
			return nil, errors.New("there is text that is no PEM")
		}
		if block.Type != "CERTIFICATE" {
			return nil, fmt.Errorf("there is a block %.64q", block.Type)
		}
		cert, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil, err
		}
		list = append(list, cert)
	}
	if len(list) == 0 {
		return nil, errors.New("there is none")
	}
	return list, nil
}

// policy returns the policy of a route. Nil: it has none. With gRPC-Web it allows what every call needs. The error is a
// *cors.Problem.
func (c *CORS) policy(grpcWeb bool) (*cors.Policy, error) {
	if c == nil {
		return nil, nil //nolint:nilnil // as the comment says
	}
	o := cors.Options{
		Origins: c.Origins, Methods: c.Methods, Headers: c.Headers, Expose: c.Expose, Credentials: c.Credentials,
	}
	if c.MaxAge != "" {
		var err error
		if o.MaxAge, err = time.ParseDuration(c.MaxAge); err != nil {
			return nil, &cors.Problem{Field: "maxAge", Text: fmt.Sprintf(`must be a duration like "10m", is %q`, c.MaxAge)}
		}
	}
	if grpcWeb {
		o.Headers, o.Expose = with(o.Headers, grpcweb.RequestHeaders), with(o.Expose, grpcweb.ResponseHeaders)
	}
	return cors.New(o)
}

// with adds those names to a list that it does not have.
func with(list, names []string) []string {
	list = slices.Clone(list)
	for _, name := range names {
		if !slices.ContainsFunc(list, func(have string) bool { return have == "*" || strings.EqualFold(have, name) }) {
			list = append(list, name)
		}
	}
	return list
}

// refuse makes the error for one route of a table.
func refuse(i int, name string, v *violation) error {
	return errs.Errorf(errs.Invalid, "route %d %q", i, name).Field(fmt.Sprintf("routes[%d].%s", i, v.field), v.problem)
}
