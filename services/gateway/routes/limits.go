package routes

import (
	"cmp"
	"fmt"
	"strings"
	"time"

	"bijou.dev/platform/names"
	"bijou.dev/services/gateway/internal/fields"
	"bijou.dev/services/gateway/internal/syntax"
)

// Limit says how many requests of one key a route takes: Rate, Concurrency or both.
type Limit struct {
	// By says what the key is. ByRoute: all requests of the route are counted together. ByClient: those of an address, or
	// of an IPv6 network of 64 bits. "header:NAME": those with the same value of a header field; requests without it are
	// counted by client. ByIdentity: those of a caller whom Route.Auth knows; requests without one are counted by client.
	// Required.
	By string `json:"by"`
	// Name is what the header fields RateLimit and RateLimit-Policy and the metrics call the limit. Empty: By.
	Name string `json:"name,omitempty"`
	// Rate is how many requests may begin in Per, spread evenly. Zero: any number.
	Rate int64 `json:"rate,omitempty"`
	// Per is the time for Rate, as a Go duration of whole seconds. Empty: "1s".
	Per string `json:"per,omitempty"`
	// Burst is how many requests may begin at once after a pause. Zero: Rate.
	Burst int64 `json:"burst,omitempty"`
	// Concurrency is how many requests may be in progress. Zero: any number.
	Concurrency int64 `json:"concurrency,omitempty"`
	// Shared divides Rate, Burst and Concurrency by the number of gateways that are up. False: each gateway allows all.
	Shared bool `json:"shared,omitempty"`
}

// What Limit.By can be, besides "header:NAME".
const (
	ByRoute    = "route"
	ByClient   = "client"
	ByIdentity = "identity"
)

// MaxLimits is how many limits a route may have.
const MaxLimits = 4

// Bounds of limits.
const (
	maxRate = 1_000_000
	maxPer  = 24 * time.Hour
)

// Complete returns the limit with all defaults.
func (l Limit) Complete() Limit {
	if name, ok := strings.CutPrefix(l.By, "header:"); ok {
		l.By = "header:" + syntax.Canonical(name)
	}
	l.Name = cmp.Or(l.Name, l.By)
	l.Per = cmp.Or(l.Per, "1s")
	l.Burst = cmp.Or(l.Burst, l.Rate)
	return l
}

// Window is Per, parsed.
func (l Limit) Window() time.Duration {
	d, _ := time.ParseDuration(cmp.Or(l.Per, "1s")) // validate has checked it
	return d
}

// Header is the name of the field that the key is in. Empty: the key is not in a field.
func (l Limit) Header() string {
	name, _ := strings.CutPrefix(l.By, "header:")
	if name == l.By {
		return ""
	}
	return syntax.Canonical(name)
}

// validateLimits checks Limits and MaxHeader.
func (r *Route) validateLimits() *violation {
	if r.MaxHeader < 0 || r.MaxHeader > MostHeader {
		return bad("maxHeader", "must be 1 to %d, or 0 for no limit of the route, is %d", MostHeader, r.MaxHeader)
	}
	if len(r.Limits) > MaxLimits {
		return bad("limits", "must have at most %d limits, has %d", MaxLimits, len(r.Limits))
	}
	seen := map[string]bool{}
	for i, l := range r.Limits {
		field := fmt.Sprintf("limits[%d].", i)
		if v := l.validate(); v != nil {
			return bad(field+v.field, "%s", v.problem)
		}
		if l.By == ByIdentity && r.Auth == nil {
			return bad(field+"by", "must not be identity without auth, which knows the caller")
		}
		name := l.Complete().Name
		if seen[name] {
			return bad(field+"name", "must differ from those of the other limits of the route, is %q", name)
		}
		seen[name] = true
	}
	return nil
}

func (l Limit) validate() *violation {
	switch name := l.Header(); {
	case l.By == ByRoute, l.By == ByClient, l.By == ByIdentity:
	case !syntax.IsToken(name):
		return bad("by", `must be route, client, identity or "header:" and the name of a header field, is %q`, l.By)
	case name == "Host" || fields.Stripped(name) || fields.HopByHop(name):
		return bad("by", "must not be %s, which is taken off requests", name)
	}
	if err := names.ID.Check(l.Name); l.Name != "" && err != nil {
		return bad("name", "%v", err)
	}
	per, err := time.ParseDuration(cmp.Or(l.Per, "1s"))
	switch {
	case l.Rate < 0 || l.Rate > maxRate:
		return bad("rate", "must be 1 to %d, or 0 for none, is %d", maxRate, l.Rate)
	case l.Burst < 0 || l.Burst > maxRate:
		return bad("burst", "must be 1 to %d, or 0 for that of the rate, is %d", maxRate, l.Burst)
	case l.Concurrency < 0 || l.Concurrency > maxRate:
		return bad("concurrency", "must be 1 to %d, or 0 for none, is %d", maxRate, l.Concurrency)
	case l.Rate == 0 && l.Concurrency == 0:
		return bad("rate", "must be set, or concurrency")
	case l.Rate == 0 && l.Per != "":
		return bad("per", "must be empty without a rate")
	case l.Rate == 0 && l.Burst != 0:
		return bad("burst", "must be 0 without a rate")
	case err != nil || per < time.Second || per > maxPer || per%time.Second != 0:
		return bad("per", `must be a duration of whole seconds like "1m" from 1s to 24h, is %q`, l.Per)
	case l.Rate > 0 && l.Burst/l.Rate*int64(per/time.Second) > int64(7*maxPer/time.Second):
		return bad("burst", "must be regained at this rate within 7 days, is %d", l.Burst)
	}
	return nil
}
