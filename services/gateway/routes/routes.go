// Package routes has the routing table of the edge: its schema, its checks, and which route takes a request.
package routes

import (
	_ "embed"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"bijou.dev/platform/errs"
	"bijou.dev/platform/names"
	"bijou.dev/platform/overload"
	"bijou.dev/services/gateway/internal/fields"
	"bijou.dev/services/gateway/internal/syntax"
)

// Routes is the whole routing table, as the setting gateway.routes holds it. Their order matters only between routes
// that are equally specific. The zero value routes nothing.
type Routes []Route

// Route is a condition on requests, and where matching ones are sent. Name, and at least one target, are required.
type Route struct {
	// Name is what metrics, logs, spans and circuits call the route: letters, digits, dashes and underscores.
	Name string `json:"name"`
	// Match is the condition. The zero value: all requests.
	Match Match `json:"match,omitzero"`
	// To lists the targets. With several, weights say how requests are split.
	To []Target `json:"to"`
	// Path says what happens with a path that servers read in more than one way: PathRefuse, PathNormalize or PathRaw.
	// Registries, stores of files with any name and GitLab need PathRaw. Empty: PathRefuse.
	Path PathMode `json:"path,omitempty"`
	// Rewrite changes the request on its way. The zero value: nothing.
	Rewrite Rewrite `json:"rewrite,omitzero"`
	// Timeout limits how long a request may take. The zero value: the settings gateway.timeout.*.
	Timeout Timeout `json:"timeout,omitzero"`
	// Retry is when a request is sent again. The zero value: up to 3 attempts where that is safe.
	Retry Retry `json:"retry,omitzero"`
	// Criticality is CRITICAL_PLUS, CRITICAL, SHEDDABLE_PLUS or SHEDDABLE. Under overload, requests of the least
	// critical routes are shed first. It is sent with the request to every service. Empty: CRITICAL.
	Criticality string `json:"criticality,omitempty"`
	// Circuit says which answers open the circuit of the route. The zero value: none, only instances that cannot be
	// reached, that break off or that do not answer in time.
	Circuit Circuit `json:"circuit,omitzero"`
	// Sticky names a cookie: requests with the same value go to the same target while the weights stay as they are.
	// Empty, or a request without the cookie: each request draws its target.
	Sticky string `json:"sticky,omitempty"`
	// MaxBody is the largest body of a request in bytes. Zero: the setting gateway.maxBody. Negative: no limit.
	MaxBody int64 `json:"maxBody,omitempty"`
}

// Match is a condition on requests. All parts that are set must hold; the zero value holds for every request.
type Match struct {
	// Host is a host name, or "*.example.org" for all names below it. Ports are ignored. Empty: any host.
	Host string `json:"host,omitempty"`
	// Path is the whole path. At most one of Path and Prefix may be set.
	Path string `json:"path,omitempty"`
	// Prefix is the beginning of the path, by whole segments: "/api" is "/api" and all below "/api/". Empty: "/".
	Prefix string `json:"prefix,omitempty"`
	// Methods lists the allowed methods. Empty: all.
	Methods []string `json:"methods,omitempty"`
	// Headers must all hold.
	Headers []HeaderMatch `json:"headers,omitempty"`
}

// HeaderMatch is a condition on one header field.
type HeaderMatch struct {
	// Name of the field, in any case. Required.
	Name string `json:"name"`
	// Value is what one of the field's lines must be. Empty: it is enough that the field is there.
	Value string `json:"value,omitempty"`
}

// Target is a service, or one version of it.
type Target struct {
	// Service is the name in the registry. Required.
	Service string `json:"service"`
	// Endpoint is the listener. Empty: "http". "grpc" is spoken to in HTTP/2; "admin" is refused.
	Endpoint string `json:"endpoint,omitempty"`
	// Version limits the target to the instances of this version. Empty: all.
	Version string `json:"version,omitempty"`
	// Weight is the target's part of the requests, relative to the sum over all targets. Zero: it takes over only when
	// the others have no instance. The only target of a route takes everything whatever its weight.
	Weight int `json:"weight,omitempty"`
}

// Rewrite changes a request before it is sent on.
type Rewrite struct {
	// Prefix takes the place of the matched prefix: "/" takes it away. Empty: the path stays. It needs Match.Prefix.
	Prefix string `json:"prefix,omitempty"`
	// Host takes the place of the Host header. Empty: it stays.
	Host string `json:"host,omitempty"`
}

// Timeout bounds how long an origin may keep a client waiting, as Go durations: "1m30s".
type Timeout struct {
	// Header is how long one attempt may take to its answer's header. Empty: the setting gateway.timeout.header.
	Header string `json:"header,omitempty"`
	// Total is how long all attempts together may take until an answer begins, and how long its body may pause. An answer
	// that moves may take longer, and so may an upload, which has a lowest rate instead. Empty: the setting
	// gateway.timeout.total. "0s": no limit. Event streams, gRPC and upgraded connections have none.
	Total string `json:"total,omitempty"`
}

// Retry says when a request may be sent again, always to another instance.
type Retry struct {
	// Attempts is how often a request is sent at most, the first time included; never more often than the setting
	// retry.maxAttempts says. Zero: 3. 1: no retries.
	Attempts int `json:"attempts,omitempty"`
	// Methods may be repeated although an instance may have seen the request. Empty: GET, HEAD, OPTIONS, PUT and
	// DELETE. Requests with an Idempotency-Key may always be.
	Methods []string `json:"methods,omitempty"`
}

// Circuit says when the circuit of a route opens.
type Circuit struct {
	// CountErrors makes answers with a status of 500 and above count, except 501, and all gRPC codes that a server is to
	// blame for. Then one URL that fails can close the route for all others. False: the client gets the answer, and the
	// circuit does not count it.
	CountErrors bool `json:"countErrors,omitempty"`
}

// Bounds of a table.
const (
	maxRoutes   = 1000
	maxTargets  = 16
	maxWeight   = 1_000_000
	maxAttempts = 10
)

//go:embed routes.schema.json
var routesSchema string

// JSONSchema is the schema by which the config service checks routes when they are published. It accepts all that
// Validate accepts. It cannot express conditions on two routes, such as two of the same name: those are checked by the
// edge when it gets the routes.
func (Routes) JSONSchema() string { return routesSchema }

// Validate returns an error that names the route and the field. It also refuses a route that no request can reach,
// because another one takes all of its requests.
func (r Routes) Validate() error {
	_, err := Compile(r)
	return err
}

// Set reads routes as JSON. With String it makes Routes a flag.
func (r *Routes) Set(text string) error {
	d := json.NewDecoder(strings.NewReader(text))
	d.DisallowUnknownFields()
	var next Routes
	if err := d.Decode(&next); err != nil {
		return fmt.Errorf("reading routes: %w", err)
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return errors.New("reading routes: there is more after the list")
	}
	if err := next.Validate(); err != nil {
		return err
	}
	*r = next
	return nil
}

// String returns the routes as JSON.
func (r *Routes) String() string {
	if r == nil || *r == nil {
		return "[]"
	}
	text, err := json.Marshal(*r)
	if err != nil {
		return err.Error() // cannot happen: all fields can be encoded
	}
	return string(text)
}

// validate checks one route by itself and fills defaults.
func (r *Route) validate() *violation {
	if err := names.ID.Check(r.Name); err != nil {
		return bad("name", "%v", err)
	}
	for _, check := range []func() *violation{r.validateMatch, r.validateTargets, r.validateRewrite, r.validateRetry} {
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
		if host := strings.TrimPrefix(m.Host, "*."); !syntax.IsHost(host) || strings.ContainsAny(host, ":*") {
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
	for i, h := range m.Headers {
		field := fmt.Sprintf("match.headers[%d].name", i)
		if !syntax.IsToken(h.Name) {
			return bad(field, "must be the name of a header, is %q", h.Name)
		}
		if name := syntax.Canonical(h.Name); name == "Host" || fields.Stripped(name) {
			return bad(field, "%s is taken off requests before they are matched; for the host use match.host", name)
		}
	}
	return nil
}

func (r *Route) validateTargets() *violation {
	if len(r.To) == 0 || len(r.To) > maxTargets {
		return bad("to", "must have 1 to %d targets, has %d", maxTargets, len(r.To))
	}
	sum := 0
	seen := map[Target]bool{}
	for i := range r.To {
		t, field := &r.To[i], fmt.Sprintf("to[%d].", i)
		if t.Endpoint == "" {
			t.Endpoint = "http"
		}
		if err := names.Service.Check(t.Service); err != nil {
			return bad(field+"service", "%v", err)
		}
		if err := names.Service.Check(t.Endpoint); err != nil {
			return bad(field+"endpoint", "%v", err)
		}
		if err := names.ID.Check(t.Version); t.Version != "" && err != nil {
			return bad(field+"version", "%v", err)
		}
		switch {
		case t.Endpoint == "admin":
			return bad(field+"endpoint", "must not be admin: admin pages are not served by the edge")
		case t.Weight < 0 || t.Weight > maxWeight:
			return bad(field+"weight", "must be 0 to %d, is %d", maxWeight, t.Weight)
		}
		key := *t
		key.Weight = 0
		if seen[key] {
			return bad(field+"service", "is in the list twice; add up the weights")
		}
		seen[key] = true
		sum += t.Weight
	}
	if sum == 0 && len(r.To) > 1 {
		return bad("to", "must have weights: with several targets at least one must be above 0")
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

// refuse makes the error for one route of a table.
func refuse(i int, name string, v *violation) error {
	return errs.Errorf(errs.Invalid, "route %d %q", i, name).Field(fmt.Sprintf("routes[%d].%s", i, v.field), v.problem)
}
