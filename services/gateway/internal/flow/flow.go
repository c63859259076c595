// Package flow has the values through which a request moves on its way through the edge. Each is filled by one step,
// and not changed after it:
//
//	Accepted  what came, and who has sent it
//	Routed    where it goes
//
// A step that cannot fill its value returns a [Failure], which is the response.
package flow

import (
	"context"
	"net/url"
	"slices"
	"time"

	"bijou.dev/services/gateway/internal/auth"
	"bijou.dev/services/gateway/internal/message"
	"bijou.dev/services/gateway/routes"

	"go.opentelemetry.io/otel/trace"
)

// Accepted is a request that has come.
type Accepted struct {
	*message.Request
	Ctx   context.Context // with the span; it ends when the client leaves
	Span  trace.Span
	Start time.Time
	ID    string
	Peer  string // the address of the other end of the connection
	// Proxies are the addresses that trusted proxies have added, the one of the client first.
	Proxies []string
	Client  string // the address of the client: Peer, or the first of Proxies
	// SeenHost and SeenScheme are what the client has in its URL: what has come, or what trusted proxies say.
	SeenHost, SeenScheme string
	GRPC                 bool
	Deadline             time.Time // of a gRPC call, by its client; zero: none
	Upgrade              string    // the protocol that the client wants to switch to; empty: none
	MaxForwards          string    // Max-Forwards for the origin; empty: as it came
}

// Routed is a request whose route is known.
type Routed struct {
	*Accepted
	Rule       *routes.Rule // nil: there is none
	Path       string       // as it came, or normalized as the route says; escaped
	Rewritten  string       // the path for the origin that rewrite.path has made; empty: see Path
	Preflight  bool         // the request asks whether another one would be allowed, and the edge answers it
	ClientCert string       // describes the certificate of the client; empty: there is none, or the route does not ask
	CertName   string       // the name of the client in that certificate
	Caller     *auth.Caller // nil: the caller is not known, or the route does not ask
}

// Vars are the values for the templates of the route.
func (r *Routed) Vars() *routes.Vars {
	v := &routes.Vars{
		Scheme: r.SeenScheme, Host: r.SeenHost, Path: r.Path, Rest: r.Path, Client: r.Client, ID: r.ID, Query: r.Query,
		Groups: r.Rule.Groups(r.Path),
	}
	if m := &r.Rule.Match; m.Path == "" && m.Prefix != "/" {
		v.Rest = routes.ReplacePrefix(r.Path, len(m.Prefix), "/")
	}
	return v
}

// Expired reports whether the deadline of the call is over. Such a call does not count as a failure of the origin: else
// clients with short deadlines could open the circuit or eject instances for all other clients.
func (a *Accepted) Expired() bool { return !a.Deadline.IsZero() && !time.Now().Before(a.Deadline) }

// HasLeft reports whether the client has closed its connection or reset its stream.
func (a *Accepted) HasLeft() bool { return a.Leave.IsSet() }

// PlainPath is the path of a request without escapes, for people.
func PlainPath(r *message.Request) string {
	if plain, err := url.PathUnescape(r.Path); err == nil {
		return plain
	}
	return r.Path
}

// TraceCarrier reads and writes the trace context of a header.
type TraceCarrier struct{ *message.Header }

// Get returns the first value of a key in lower case.
func (c TraceCarrier) Get(key string) string { return c.Header.Get(traceField(key)) }

// Values returns all values of a key in lower case.
func (c TraceCarrier) Values(key string) []string {
	return slices.Collect(c.Header.Values(traceField(key)))
}

// Set sets a field.
func (c TraceCarrier) Set(key, value string) { c.Header.Set(traceField(key), value) }

// Keys is not needed.
func (TraceCarrier) Keys() []string { return nil }

// traceField is the canonical name of a field with a trace context.
func traceField(key string) string {
	switch key {
	case "traceparent":
		return "Traceparent"
	case "tracestate":
		return "Tracestate"
	case "b3":
		return "B3"
	case "x-b3-traceid":
		return "X-B3-Traceid"
	case "x-b3-spanid":
		return "X-B3-Spanid"
	case "x-b3-sampled":
		return "X-B3-Sampled"
	case "x-b3-flags":
		return "X-B3-Flags"
	}
	return message.Canonical(key)
}
