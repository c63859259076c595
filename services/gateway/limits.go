package gateway

import (
	"hash/maphash"
	"math/bits"
	"net/http"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"

	"bijou.dev/platform/discovery"
	"bijou.dev/services/gateway/internal/flow"
	"bijou.dev/services/gateway/internal/limit"
	"bijou.dev/services/gateway/internal/message"
	"bijou.dev/services/gateway/routes"
)

// Limits by client or header remember maxKeys keys each. With more than keyedLimits of them in the table the number is
// halved, with more than twice as many halved again, and so on: all together take at most 80 MB.
const (
	maxKeys     = 1 << 17
	keyedLimits = 32
)

// limiter is a limit of a route in use.
type limiter struct {
	routes.Limit // with all defaults
	rate         limit.Rate
	rates        *limit.Rates  // nil: it has no rate
	places       *limit.Places // nil: it has no concurrency
	keys         int           // for which rates has memory
}

// bindLimits makes the limiters of a table. What the table in use has counted is kept for limits of the same name and
// key, so that other routes can be changed without giving all clients a new burst.
func (e *Edge) bindLimits(t *table) {
	before := map[string]*rule{}
	if old := e.table.Load(); old != nil {
		for _, u := range old.rules {
			before[u.Name] = u
		}
	}
	keyed := 0
	for _, u := range t.rules {
		for _, l := range u.Limits {
			if l.By != routes.ByRoute && l.Rate > 0 {
				keyed++
			}
		}
	}
	keys := maxKeys >> bits.Len(uint(max(0, keyed-1)/keyedLimits))
	for _, u := range t.rules {
		for _, l := range u.Limits {
			u.limits = append(u.limits, newLimiter(l.Complete(), keys, before[u.Name]))
		}
		u.policies = policiesOf(u.limits)
	}
}

func newLimiter(l routes.Limit, keys int, before *rule) *limiter {
	u := &limiter{Limit: l, keys: keys}
	if l.By == routes.ByRoute {
		u.keys = 1
	}
	old := &limiter{}
	if before != nil {
		if i := slices.IndexFunc(before.limits, func(o *limiter) bool { return o.Name == l.Name && o.By == l.By }); i >= 0 {
			old = before.limits[i]
		}
	}
	if l.Rate > 0 {
		every := (l.Window() + time.Duration(l.Rate) - 1) / time.Duration(l.Rate) // rounded up: never more than the rate
		u.rate = limit.Rate{Every: every, Burst: l.Burst}
		if u.rates = old.rates; u.rates == nil || old.keys != u.keys {
			u.rates = limit.NewRates(u.keys)
		}
	}
	if l.Concurrency > 0 {
		if u.places = old.places; u.places == nil {
			u.places = &limit.Places{}
		}
	}
	return u
}

// policiesOf is the value of RateLimit-Policy (draft-ietf-httpapi-ratelimit-headers-11, section 3).
func policiesOf(limits []*limiter) string {
	var items []string
	for _, l := range limits {
		if l.rates != nil {
			items = append(items, `"`+l.Name+`";q=`+strconv.FormatInt(l.Rate, 10)+";w="+
				strconv.FormatInt(int64(l.Window()/time.Second), 10))
		}
	}
	return strings.Join(items, ", ")
}

// limited is what the limits of its route have said about a request.
type limited struct {
	limits []*limiter
	keys   [routes.MaxLimits]uint64
	held   [routes.MaxLimits]bool // whether the request holds a place of the limit of the same index
	// state is the value of RateLimit (draft-ietf-httpapi-ratelimit-headers-11, section 4): what all limits say, or the
	// one that refuses. By section 6, Retry-After should not be earlier than the end of a window that is shown.
	state []byte
	wait  time.Duration // until the limits that were asked allow one more request
}

// limit asks the limits of the route in their order. Those before the one that refuses have counted the request.
func (x *exchange) limit() *flow.Failure {
	u := x.rule
	if u.MaxHeader > 0 && x.in.Size > u.MaxHeader {
		x.edge.metrics.limited.WithLabelValues(u.Name, "maxHeader").Inc()
		return flow.Fail(flow.FaultClient, http.StatusRequestHeaderFieldsTooLarge,
			"the header must be at most %d bytes long for this route", u.MaxHeader)
	}
	if len(u.limits) == 0 || x.to.Preflight { // a browser sends preflights by itself
		return nil
	}
	x.held = &limited{limits: u.limits}
	return x.askLimits(false)
}

// limitIdentity asks the limits that count by caller, once the caller is known.
func (x *exchange) limitIdentity() *flow.Failure {
	if x.held == nil {
		return nil
	}
	return x.askLimits(true)
}

// askLimits asks the limits of the route that count by the identity of the caller, or all others.
func (x *exchange) askLimits(byIdentity bool) *flow.Failure {
	u := x.rule
	now, gateways, asked := int64(time.Since(x.edge.counting)), x.edge.gateways.Load(), false
	for i, l := range u.limits {
		if (l.By == routes.ByIdentity) != byIdentity {
			continue
		}
		asked = true
		x.held.keys[i] = x.limitKey(l)
		if f := x.held.take(i, now, gateways); f != nil {
			x.held.setHeader(&x.out.Extra, u.policies)
			x.edge.metrics.limited.WithLabelValues(u.Name, l.Name).Inc()
			return f
		}
	}
	if asked {
		x.held.setHeader(&x.out.Extra, u.policies)
	}
	return nil
}

// take asks one limit.
func (d *limited) take(i int, now, gateways int64) *flow.Failure {
	l, key := d.limits[i], d.keys[i]
	if !l.Shared {
		gateways = 1
	}
	if l.places != nil {
		if most := max(1, l.Concurrency/gateways); !l.places.Take(key, most) {
			f := flow.Fail(flow.FaultClient, http.StatusTooManyRequests,
				"the limit %s of this route allows %d requests at a time; wait for some of them", l.Name, most)
			d.state, f.Retry = nil, max(time.Second, d.wait)
			return f
		}
		d.held[i] = true
	}
	if l.rates == nil {
		return nil
	}
	rate := l.rate.Divided(gateways)
	res := l.rates.Take(key, now, rate)
	d.wait = max(d.wait, res.Wait)
	if res.Passes {
		d.describe(l.Name, res, rate)
		return nil
	}
	d.state = nil
	d.describe(l.Name, res, rate)
	f := flow.Fail(flow.FaultClient, http.StatusTooManyRequests, "the limit %s of this route allows %d requests in %s",
		l.Name, l.Rate, l.Per)
	f.Retry = d.wait
	return f
}

// describe adds an item to RateLimit: r requests are left for the next t seconds. The draft warns (section 8.5) that
// clients take r/t for the rate, so t is the time in which r requests are within the rate, or the time until one
// passes.
func (d *limited) describe(name string, res limit.Result, rate limit.Rate) {
	seconds := max(1, ceilSeconds(res.Wait), ceilSeconds(time.Duration(res.Left)*rate.Every))
	if d.state == nil {
		d.state = make([]byte, 0, 64)
	} else {
		d.state = append(d.state, ", "...)
	}
	d.state = append(append(append(d.state, '"'), name...), `";r=`...)
	d.state = append(strconv.AppendInt(d.state, res.Left, 10), ";t="...)
	d.state = strconv.AppendInt(d.state, seconds, 10)
}

func ceilSeconds(d time.Duration) int64 { return int64((d + time.Second - 1) / time.Second) }

// setHeader sets the fields that are added to the response, behind those of the origin, which may have limits of its
// own.
func (d *limited) setHeader(h *message.Header, policies string) {
	if policies == "" {
		return
	}
	h.Set("Ratelimit-Policy", policies)
	if len(d.state) > 0 {
		h.Set("Ratelimit", string(d.state))
	}
}

// release gives the places back.
func (d *limited) release() {
	for i, held := range d.held {
		if held {
			d.limits[i].places.Release(d.keys[i])
		}
	}
}

// keySeed differs in each process, so that nobody can choose two keys with the same hash.
var keySeed = maphash.MakeSeed()

// limitKey returns the hash of what a limit counts by.
func (x *exchange) limitKey(l *limiter) uint64 {
	switch l.By {
	case routes.ByRoute:
		return 0
	case routes.ByClient:
		return clientKey(x.in.Client)
	case routes.ByIdentity:
		return x.identityKey()
	}
	if !x.in.Header.Has(l.Header()) {
		return clientKey(x.in.Client)
	}
	var h maphash.Hash
	h.SetSeed(keySeed)
	for line := range x.in.Header.Values(l.Header()) {
		_, _ = h.WriteString(line) // never fails
		_ = h.WriteByte('\n')      // never fails, and is in no value
	}
	return h.Sum64()
}

// identityKey hashes the caller. Requests without a caller are counted by client.
func (x *exchange) identityKey() uint64 {
	if x.identity() == "" {
		return clientKey(x.in.Client)
	}
	var h maphash.Hash
	h.SetSeed(keySeed)
	for _, part := range x.callerParts() {
		_, _ = h.WriteString(part) // never fails
		_ = h.WriteByte('\n')      // never fails
	}
	return h.Sum64()
}

// clientKey hashes a client.
func clientKey(addr string) uint64 {
	if b, ok := clientNetwork(addr); ok {
		return maphash.Bytes(keySeed, b[:])
	}
	return maphash.String(keySeed, addr)
}

// clientNetwork is what counts as one client: an address, or all addresses of an IPv6 network of 64 bits, because a
// client has that many. False: addr is no address.
func clientNetwork(addr string) (b [16]byte, ok bool) {
	a, err := netip.ParseAddr(addr)
	if err != nil {
		return b, false
	}
	b = a.Unmap().As16()
	if a.Is6() && !a.Is4In6() {
		clear(b[8:])
	}
	return b, true
}

// countGateways is called with the instances of the edge's own service: limits that are shared are divided by those
// that are up.
func (e *Edge) countGateways(list []discovery.Instance) {
	up := 0
	for _, i := range list {
		if i.Status == discovery.Up {
			up++
		}
	}
	e.gateways.Store(int64(min(max(1, up), maxGateways)))
}

// maxGateways bounds what a limit is divided by, so that times do not overflow.
const maxGateways = 1000
