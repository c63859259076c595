// Package routes has the routing table of the edge: its schema, its checks, and which route takes a request.
package routes

import (
	_ "embed"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
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
	// To lists the targets. With several, weights say how requests are split. A route has To, Redirect, Respond or Files,
	// and only one of them.
	To []Target `json:"to,omitempty"`
	// Redirect sends clients to another URL. Nil: it does not.
	Redirect *Redirect `json:"redirect,omitempty"`
	// Respond answers without an origin. Nil: it does not.
	Respond *Respond `json:"respond,omitempty"`
	// Files serves the files of a folder. Nil: it does not.
	Files *Files `json:"files,omitempty"`
	// Path says what happens with a path that servers read in more than one way: PathRefuse, PathNormalize or PathRaw.
	// Registries, stores of files with any name and GitLab need PathRaw. Empty: PathRefuse.
	Path PathMode `json:"path,omitempty"`
	// Rewrite changes the request on its way. The zero value: nothing.
	Rewrite Rewrite `json:"rewrite,omitzero"`
	// Headers changes header fields of requests and responses. The zero value: none.
	Headers Headers `json:"headers,omitzero"`
	// CORS lets programs of other origins in browsers use the answers. Nil: the edge leaves this to the origin server.
	CORS *CORS `json:"cors,omitempty"`
	// GRPCWeb takes calls of gRPC-Web, as programs in browsers make them, and sends them on as calls of gRPC. Programs of
	// other origins also need CORS, which then has the fields of gRPC-Web. False: they pass as any other request.
	GRPCWeb bool `json:"grpcWeb,omitempty"`
	// Compress compresses answers. Nil: they stay as they are.
	Compress *Compress `json:"compress,omitempty"`
	// ClientCert takes only requests of clients that have a certificate. Nil: all clients.
	ClientCert *ClientCert `json:"clientCert,omitempty"`
	// Auth says who may call. Nil: everybody.
	Auth *Auth `json:"auth,omitempty"`
	// Timeout limits how long a request may take. The zero value: the settings gateway.timeout.*.
	Timeout Timeout `json:"timeout,omitzero"`
	// Retry is when a request is sent again. The zero value: up to 3 attempts where that is safe.
	Retry Retry `json:"retry,omitzero"`
	// Hedge sends a request to a second instance when the first one is slow. Nil: it does not.
	Hedge *Hedge `json:"hedge,omitempty"`
	// Criticality is CRITICAL_PLUS, CRITICAL, SHEDDABLE_PLUS or SHEDDABLE. Under overload, requests of the least
	// critical routes are shed first. It is sent with the request to every service. Empty: CRITICAL.
	Criticality string `json:"criticality,omitempty"`
	// Circuit says which answers open the circuit of the route. The zero value: none, only instances that cannot be
	// reached, that break off or that do not answer in time.
	Circuit Circuit `json:"circuit,omitzero"`
	// Sticky names a cookie: requests with the same value go to the same target while the weights stay as they are.
	// Empty, or a request without the cookie: each request draws its target.
	Sticky string `json:"sticky,omitempty"`
	// Hash says which requests go to the same instance of the target. Nil: the instance with the lowest cost gets a
	// request.
	Hash *Hash `json:"hash,omitempty"`
	// MaxBody is the largest body of a request in bytes. Zero: the setting gateway.maxBody. Negative: no limit.
	MaxBody int64 `json:"maxBody,omitempty"`
	// MaxHeader is the largest header of a request in bytes, as HTTP/1.1 writes it, at most MostHeader. Zero: MostHeader.
	MaxHeader int `json:"maxHeader,omitempty"`
	// Mirror sends copies of requests to another target, and drops the responses. Nil: none.
	Mirror *Mirror `json:"mirror,omitempty"`
	// Upgrade lists the protocols to which clients of HTTP/1.1 may switch, as the header field Upgrade names them:
	// "websocket", "SPDY/3.1". Case does not matter. Nil: websocket. Empty: none.
	Upgrade []string `json:"upgrade,omitzero"`
	// AccessLog says which requests get a line in the access log. Nil: as the settings gateway.accessLog.* say.
	AccessLog *AccessLog `json:"accessLog,omitempty"`
	// Limits says how many requests are taken. They are asked in this order, and each of them must allow a request. Nil:
	// any number of requests.
	Limits []Limit `json:"limits,omitempty"`
}

// MostHeader is how many bytes the header of a request may have on any route: a header is read before its route is
// known.
const MostHeader = 32 << 10

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
	// Regexp is an expression in RE2's syntax for the whole path, without escapes. Its groups can be used in templates.
	// Empty: any path.
	Regexp string `json:"regexp,omitempty"`
	// Headers, Query and Cookies must all hold.
	Headers []Condition `json:"headers,omitempty"`
	Query   []Condition `json:"query,omitempty"`
	Cookies []Condition `json:"cookies,omitempty"`
	// Clients lists networks ("10.0.0.0/8") and addresses; one must have the address of the client, which is that of the
	// connection unless the setting gateway.trustedHops says otherwise. Empty: all.
	Clients []string `json:"clients,omitempty"`
}

// Condition is a condition on a header field, a parameter of the query or a cookie.
type Condition struct {
	// Name of it. That of a header field is in any case. Required.
	Name string `json:"name"`
	// Value is what one of its values must be. Empty: any value.
	Value string `json:"value,omitempty"`
	// Regexp is an expression in RE2's syntax that one of its whole values must match. Empty: any value. At most one of
	// Value and Regexp may be set.
	Regexp string `json:"regexp,omitempty"`
}

// Target is a service, one version of it, or a URL.
type Target struct {
	// Service is the name in the registry. A target has Service or URL.
	Service string `json:"service,omitempty"`
	// URL leads to origins that are not in the registry: http://host:port, https://host, h2c://host:port (HTTP/2
	// without TLS, as gRPC servers speak it) or unix:///path/of/socket. A name is looked up again when its TTL ends; one
	// of the form _service._proto.domain is that of SRV records. The path of the request stays; see Rewrite. With https
	// the origin gets its own name as Host, else that of the request. Empty: Service.
	URL string `json:"url,omitempty"`
	// Health is how the instances of a URL are checked. The zero value: only by the requests themselves, as the instances
	// of services are.
	Health Health `json:"health,omitzero"`
	// Endpoint is the listener. Empty: "http". "grpc" is spoken to in HTTP/2; "admin" is refused.
	Endpoint string `json:"endpoint,omitempty"`
	// Version limits the target to the instances of this version. Empty: all.
	Version string `json:"version,omitempty"`
	// Weight is the target's part of the requests, relative to the sum over all targets. Zero: it takes over only when
	// the others have no instance. The only target of a route takes everything whatever its weight.
	Weight int `json:"weight,omitempty"`
}

// Health is a check of the instances of a URL. Unhealthy ones get no requests, unless all are unhealthy.
type Health struct {
	// Kind is "http" (a status from 200 to 399 is healthy), "grpc" (grpc.health.v1) or "tcp" (a connection). Required.
	Kind string `json:"kind,omitempty"`
	// Path is what kind http asks for. Empty: "/".
	Path string `json:"path,omitempty"`
	// Host is the Host of the check. Empty: that of the URL.
	Host string `json:"host,omitempty"`
	// Service is the name for kind grpc. Empty: the server as a whole.
	Service string `json:"service,omitempty"`
	// Interval is the time between two checks of an instance, as a Go duration. Empty: "5s".
	Interval string `json:"interval,omitempty"`
	// Timeout is how long a check may take. Empty: "2s".
	Timeout string `json:"timeout,omitempty"`
	// Healthy is how many checks in a row must succeed until an unhealthy instance is healthy. Zero: 2.
	Healthy int `json:"healthy,omitempty"`
	// Unhealthy is how many checks in a row must fail until an instance is unhealthy. Zero: 3.
	Unhealthy int `json:"unhealthy,omitempty"`
}

// Rewrite changes a request before it is sent on.
type Rewrite struct {
	// Prefix takes the place of the matched prefix: "/" takes it away. Empty: the path stays. It needs Match.Prefix.
	Prefix string `json:"prefix,omitempty"`
	// Path is a template for the path: "/v2{rest}". Empty: the path stays. At most one of Path and Prefix may be set.
	Path string `json:"path,omitempty"`
	// Host takes the place of the Host header. Empty: it stays.
	Host string `json:"host,omitempty"`
}

// Redirect answers with another URL.
type Redirect struct {
	// To is a template for the URL: "https://{host}{path}{query}", or only a path. Required.
	To string `json:"to"`
	// Status is 301, 302, 303, 307 or 308. Zero: 308, which keeps the method.
	Status int `json:"status,omitempty"`
}

// Respond is a fixed answer.
type Respond struct {
	// Status is from 200 to 599. Zero: 200.
	Status int `json:"status,omitempty"`
	// Type is the Content-Type. Empty: "text/plain; charset=utf-8".
	Type string `json:"type,omitempty"`
	// Body is the content, up to 64 KiB. Empty: none.
	Body string `json:"body,omitempty"`
}

// Files serves a folder, read-only: GET and HEAD, ranges, conditions on ETag and time. Links out of the folder are not
// followed, and names that begin with a dot are not served. With Match.Prefix, the prefix is taken off the path.
type Files struct {
	// Dir is the folder, in the file system of the gateway. Required.
	Dir string `json:"dir"`
	// Index is the file that is served for a folder. Empty: "index.html".
	Index string `json:"index,omitempty"`
	// Fallback is the file that is served for a path that has none, as for programs in the browser that route by
	// themselves. Empty: 404.
	Fallback string `json:"fallback,omitempty"`
	// Precompressed serves FILE.br, FILE.zst or FILE.gz in place of FILE to clients that accept it.
	Precompressed bool `json:"precompressed,omitempty"`
}

// Headers changes header fields.
type Headers struct {
	// Request changes the request for the origin.
	Request Fields `json:"request,omitzero"`
	// Response changes the response of the origin, or that of Redirect, Respond and Files. Responses that the edge makes
	// for failures are not changed.
	Response Fields `json:"response,omitzero"`
}

// Fields says which fields are removed, set and added, in this order. Values are templates. Fields that frame messages
// or that the platform sets cannot be changed.
type Fields struct {
	// Remove lists names.
	Remove []string `json:"remove,omitempty"`
	// Set replaces all lines of a name by one.
	Set map[string]string `json:"set,omitempty"`
	// Add adds a line.
	Add map[string]string `json:"add,omitempty"`
}

// CORS says to browsers which other origins may use the answers of a route. The edge answers preflights; an origin
// server gets none. Its own fields of this kind are replaced.
type CORS struct {
	// Origins lists who may use the answers: "https://app.example.org", "https://*.example.org" for all names below it,
	// or "*" for everybody. Required.
	Origins []string `json:"origins"`
	// Methods may be used beside GET, HEAD and POST. "*": all. Empty: none.
	Methods []string `json:"methods,omitempty"`
	// Headers may be in requests. "*": all. Empty: those that browsers always allow.
	Headers []string `json:"headers,omitempty"`
	// Expose lists header fields of answers that programs may read. "*": all. Empty: those that browsers always allow.
	Expose []string `json:"expose,omitempty"`
	// Credentials allows requests with cookies. It cannot be used with the origin "*". False: it does not.
	Credentials bool `json:"credentials,omitempty"`
	// MaxAge is how long a browser may keep the answer to a preflight, as a Go duration up to "24h". Empty: the browser
	// decides, which is 5 s.
	MaxAge string `json:"maxAge,omitempty"`
}

// Compress says which answers are compressed, by zstd, gzip or br as the client wishes. An answer that has both a
// secret and text of a stranger must not be: its size tells about the secret (BREACH).
type Compress struct {
	// Types lists media types without parameters: "text/html", "application/json". Required.
	Types []string `json:"types"`
	// MinBytes is the smallest content that is compressed. Content of unknown length always is. Zero: 1024.
	MinBytes int64 `json:"minBytes,omitempty"`
}

// ClientCert says which certificates clients must have. The origin gets what is known of the certificate in the header
// X-Forwarded-Client-Cert. It needs TLS that ends at the edge.
type ClientCert struct {
	// CA has the certificates of the authorities that sign those of clients, in PEM, one behind the other. Required.
	CA string `json:"ca"`
	// Optional also takes requests without a certificate, or with one of another authority. False: they get 403.
	Optional bool `json:"optional,omitempty"`
}

// Mirror says which copies of requests are sent, and where. A copy never delays its request, and is dropped rather than
// waited for.
type Mirror struct {
	// To is the target, without a weight. Required.
	To Target `json:"to"`
	// Share is the part of the requests that is copied, above 0 up to 1. Zero: all.
	Share float64 `json:"share,omitempty"`
	// Concurrency is how many copies may be in progress, at most 1000. Zero: 100.
	Concurrency int64 `json:"concurrency,omitempty"`
	// MaxBody is the largest body that is copied, in bytes, at most 1 MiB. Zero: 64 KiB.
	MaxBody int64 `json:"maxBody,omitempty"`
}

// AccessLog says which requests of a route get a line in the access log.
type AccessLog struct {
	// Mode is all, errors (only requests that failed) or off. Empty: the setting gateway.accessLog.
	Mode string `json:"mode,omitempty"`
	// Share is the part of the requests that did not fail which get a line, above 0 up to 1. Zero: that of the setting
	// gateway.accessLog.form.
	Share float64 `json:"share,omitempty"`
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

// Hedge says when a second attempt is made beside the first one. The first response counts that is worth no retry. It
// is for GET, HEAD and OPTIONS, where Retry allows to send the request again, and takes from the budget of retries.
type Hedge struct {
	// After is how long the first attempt may take to the header of its response, as a Go duration from "1ms" to "1m".
	// Required.
	After string `json:"after"`
}

// Circuit says when the circuit of a route opens.
type Circuit struct {
	// CountErrors makes answers with a status of 500 and above count, except 501, and all gRPC codes that a server is to
	// blame for. Then one URL that fails can close the route for all others. False: the client gets the answer, and the
	// circuit does not count it.
	CountErrors bool `json:"countErrors,omitempty"`
}

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
